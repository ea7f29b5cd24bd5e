"""Thoughts and answers sampled apart: several answers to a thought, or another model's answer to it.

    1. `think` samples like `rollout.sample`, but a completion also ends at `</think>`, or with the token
       that completes it where it is no single token of the model (`rollout.closing`). Such a thought is
       drawn on to the next look for texts that end it, and cut.
    2. `answer` goes on from there: prompt and thought are one left-padded prompt, and what several of
       them begin with is run through the model once (`packing`).
    3. Thought and answer are put together to whole completions, each with what was recorded when it was
       drawn. With one answer to each thought and the policy as the answerer, they are distributed as
       those of `sample`, limit and truncation included.

The frozen answerer and Cross-Generation follow START (arXiv 2603.20799), several answers to a thought
GRPO-MA (arXiv 2509.24494) [A]; how they are sampled is ours [D].

P prompts, K thoughts of each, M answers to each thought, B = P*K*M completions of T tokens, C distinct
contexts (prompt and thought), S answer tokens.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.attention import can_replace
from workbench.cache import prefill
from workbench.decoding import SERIES, Recorded, Request
from workbench.engines import decode_by
from workbench.models import Policy
from workbench.packing import shared_prefill
from workbench.rollout import (
    Messages,
    Rollouts,
    closing,
    drawn_until,
    last_tokens,
    sample,
    texts_of,
    whole_texts,
)
from workbench.tokens import THINK_TAGS, Tags, opens_thought
from workbench.variants import WorkbenchError

OPEN, CLOSE = THINK_TAGS
_ANSWERS = 1  # the stream of an answer's seed: the same seed as the thought's draws other numbers


def think(
    policy: Policy,
    prompts: Sequence[Messages],
    *,
    rows: Sequence[dict[str, Any]] | None = None,
    group_size: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | torch.Generator = 0,
    stats: bool = True,
) -> Rollouts:
    """Draw `group_size` thoughts of each prompt: each ends at `</think>`, an end token or the limit.

    A thought that ends at `</think>`, which it includes, is not truncated.
    """
    end_id = policy.thought_end_id()
    return sample(
        policy,
        prompts,
        rows=rows,
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stats=stats,
        further_stops=() if end_id is None else (end_id,),
        further_texts=(policy.tags.close,) if end_id is None else (),
    )


@torch.no_grad()
def answer(
    policy: Policy,
    thoughts: Rollouts,
    *,
    per_thought: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | torch.Generator = 0,
    initial: bool = False,
    stats: bool = True,
) -> Rollouts:
    """Whole completions: each of the `thoughts` (of `think`) with `per_thought` answers to it.

    Rows are in the order prompt, thought, answer, so the group size is K * per_thought. Thought and answer
    together have at most `thoughts.max_new_tokens` tokens; a completion that reaches them without an end
    token or stop text is truncated. A thought that never closes stays as it is, repeated like the others.

    With `initial` the answerer is the model with its adapter off; those tokens are not in `sampled_BT`,
    and what is recorded for them is the initial model's.
    """
    _check_count("per_thought", per_thought)
    repeated = _repeated(thoughts, per_thought)
    closed_B = last_tokens(repeated.closing_BT, repeated.mask_BT)
    limits_B = (thoughts.max_new_tokens - repeated.lengths_B).masked_fill(~closed_B, 0)
    prompts = _token_lists(thoughts.prompt_ids_PL, thoughts.prompt_mask_PL)
    written = _token_lists(thoughts.completion_ids_BT, thoughts.mask_BT)
    contexts = [
        prompts[number // thoughts.G] + tokens
        for number, tokens in enumerate(written)
        for _ in range(per_thought)
    ]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    recorded, stopped_B = _continue(policy, contexts, limits_B, settings, seed, initial, stats)
    stop_ids = torch.tensor(policy.stop_ids(), device=stopped_B.device)
    whole = _stitched(policy, repeated, recorded, initial)
    stopped_B |= torch.isin(last_tokens(whole.completion_ids_BT, whole.mask_BT), stop_ids)
    truncated_B = torch.where(closed_B, ~stopped_B, repeated.truncated_B)
    return dataclasses.replace(whole, truncated_B=truncated_B)


def think_texts(
    policy: Policy,
    prompts: Sequence[Messages],
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int | torch.Generator = 0,
) -> list[list[str]]:
    """The texts of `group_size` thoughts of each prompt, without tags; an unclosed one as far as it went."""
    thoughts = think(
        policy,
        prompts,
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stats=False,
    )
    return [[_without_tags(text) for text in thoughts.texts_of(p)] for p in range(thoughts.P)]


def answer_texts(
    policy: Policy,
    prompts: Sequence[Messages],
    thoughts: Sequence[str],
    *,
    per_thought: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int | torch.Generator = 0,
) -> list[list[str]]:
    """`per_thought` whole completions `<think>thought</think>answer` for each prompt and its given thought.

    The thought may be anyone's: it is written, with its tags, behind the prompt in the policy's own chat
    template; one that already opens `<think>` is not opened twice. `max_new_tokens` is the limit of the
    answer alone, since a thought has another length for every tokenizer.
    """
    _check_count("per_thought", per_thought)
    _check_count("max_new_tokens", max_new_tokens)
    if len(prompts) != len(thoughts):
        raise WorkbenchError(
            f"There are {len(prompts)} prompts and {len(thoughts)} thoughts; give one thought per prompt."
        )
    begun = [
        _begun(text, thought, policy.tags)
        for text, thought in zip(policy.render(prompts), thoughts, strict=True)
    ]
    encoded = [policy.tokenizer.encode(text, add_special_tokens=False) for text in begun]
    contexts = [context for context in encoded for _ in range(per_thought)]
    limits_B = torch.full((len(contexts),), max_new_tokens, device=policy.device)
    settings = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    recorded, _ = _continue(policy, contexts, limits_B, settings, seed, initial=False, stats=False)
    answers = iter(texts_of(policy, recorded.tokens_BT, recorded.mask_BT))
    return [
        [f"{OPEN}{thought}{CLOSE}{next(answers)}" for _ in range(per_thought)]
        for thought in thoughts
    ]


def _continue(
    policy: Policy,
    contexts: Sequence[Sequence[int]],
    limits_B: Tensor,
    settings: dict[str, Any],
    seed: int | torch.Generator,
    initial: bool,
    stats: bool,
) -> tuple[Recorded, Tensor]:
    """Sample on after each of B contexts, by at most `limits_B` tokens; equal contexts are run once.

    Beside it which of them a stop text ended, bool (B,).
    """
    limits = limits_B.tolist()
    if not any(limits):
        return Recorded.empty(len(limits), 0, limits_B.device), torch.zeros_like(limits_B).bool()
    numbers: dict[tuple[int, ...], int] = {}
    owners = [
        numbers.setdefault(tuple(context), len(numbers)) if limit else 0
        for context, limit in zip(contexts, limits, strict=True)
    ]
    ids_CL, mask_CL = policy.left_padded(list(numbers))
    owners_B = torch.tensor(owners, device=ids_CL.device)
    stop_ids = torch.tensor(policy.stop_ids(), device=ids_CL.device)
    begin = shared_prefill if can_replace(policy.model) else prefill
    asked = Request(ids_CL, mask_CL, owners_B, limits_B, stop_ids, settings, stats, begin)

    def draw(asked: Request) -> Recorded:
        return decode_by(policy.engine, policy, asked, _generator(seed))

    answerer = policy.holding(policy.base_adapter()) if initial else contextlib.nullcontext()
    with answerer:
        return drawn_until(policy, asked, policy.stop, draw)


def _stitched(policy: Policy, thoughts: Rollouts, answers: Recorded, initial: bool) -> Rollouts:
    """The thoughts with the answer of each behind it."""
    starts_B1 = thoughts.lengths_B[:, None]
    ends_B1 = starts_B1 + answers.mask_BT.sum(1, keepdim=True)
    places_T = torch.arange(int(ends_B1.max()), device=ends_B1.device)
    thinking_BT, mask_BT = places_T < starts_B1, places_T < ends_B1
    answering_BT = mask_BT & ~thinking_BT

    def joined(thought_BT: Tensor, answer_BS: Tensor, empty: float) -> Tensor:
        whole_BT = torch.full_like(mask_BT, empty, dtype=thought_BT.dtype)
        whole_BT[thinking_BT] = thought_BT[thoughts.mask_BT]
        whole_BT[answering_BT] = answer_BS[answers.mask_BT]
        return whole_BT

    tokens_BT = joined(thoughts.completion_ids_BT, answers.tokens_BT, policy.tokenizer.pad_token_id)
    series = {
        name: joined(getattr(thoughts, name), answer_BS, 0.0)
        for name, answer_BS in zip(SERIES, answers.statistics_5BT, strict=True)
    }
    return dataclasses.replace(
        thoughts,
        completion_ids_BT=tokens_BT,
        mask_BT=mask_BT,
        sampled_BT=joined(thoughts.sampled_BT, answers.mask_BT & (not initial), False),
        **series,
        closing_BT=closing(policy, tokens_BT, mask_BT),
        completions=whole_texts(policy, thoughts.prompts, tokens_BT, mask_BT),
    )


def _repeated(thoughts: Rollouts, times: int) -> Rollouts:
    """Each completion `times` times in a row."""
    changes = {
        field.name: getattr(thoughts, field.name).repeat_interleave(times, 0)
        for field in dataclasses.fields(thoughts)
        if field.name.endswith(("_BT", "_B"))
    }
    texts = [text for text in thoughts.completions for _ in range(times)]
    return dataclasses.replace(
        thoughts, **changes, completions=texts, group_size=thoughts.G * times
    )


def _token_lists(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The tokens of each row, without padding."""
    return [part.tolist() for part in ids[mask].cpu().split(mask.sum(1).tolist())]


def _begun(prompt: str, thought: str, tags: Tags) -> str:
    """The prompt's text and the closed thought behind it, in the model's own tags."""
    if CLOSE in thought or tags.close in thought:
        raise WorkbenchError(f"A thought contains {CLOSE}; give what stands between the tags.")
    if not opens_thought(prompt, tags):
        return f"{prompt}{tags.open}{thought}{tags.close}"
    # The template's white space after the tag is the thought's own where it begins with some.
    return f"{prompt.rstrip() if thought[:1].isspace() else prompt}{thought}{tags.close}"


def _without_tags(text: str) -> str:
    return text.split(CLOSE)[0].removeprefix(OPEN)


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise WorkbenchError(f"{name} is {count}; give 1 or more.")


def _generator(seed: int | torch.Generator) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    state = np.random.SeedSequence([seed, _ANSWERS]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))
