"""sample(): prompts -> Rollouts.

    1. Every distinct prompt is run once. On the CPU every distinct prefix is: completions that have begun
       alike share its keys and values and part where their tokens do, while sampling (`cache`) and, with
       gradient, while training (`packing`).
    2. Tokens are drawn by inverting the cumulative distribution at uniforms from the call's own
       generator, one for each completion and step: nothing else that draws or runs changes the result.
    3. Log-prob, entropy, log collision, self-certainty and log peak are recorded while sampling.
    4. Finished completions leave the batch.

Shapes: P prompts, G completions each, B = P*G rows (row b answers prompt b // G), L prompt tokens
(padded left), T completion tokens (padded right).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.decoding import LOOK, SERIES, Recorded, Request
from workbench.engines import check_engine, decode_by
from workbench.native import decode_native
from workbench.tokens import completing
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.models import Policy

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Rollouts:
    """Completions of P prompts, G each, with what was recorded while sampling (0 where masked)."""

    rows: list[dict[str, Any]]  # P task rows
    prompts: list[str]  # P rendered prompts
    prompt_ids_PL: Tensor
    prompt_mask_PL: Tensor  # bool, left padded
    completion_ids_BT: Tensor
    mask_BT: Tensor  # bool, includes the end token; right padded
    sampled_BT: Tensor  # bool: tokens that the policy itself drew; all of mask_BT from sample()
    logprobs_BT: Tensor
    entropies_BT: Tensor
    log_collisions_BT: Tensor
    self_certainties_BT: Tensor
    log_peaks_BT: Tensor
    closing_BT: Tensor  # bool: tokens with which a closing tag is complete; see `closing`
    truncated_B: Tensor  # bool: reached max_new_tokens without an end token
    completions: list[str]  # B texts, thoughts in <think> and </think>; no other special tokens
    group_size: int
    max_new_tokens: int  # the limit they were sampled under
    seed: int  # of the generator that drew them

    @property
    def P(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    @property
    def G(self) -> int:
        """Completions of each prompt."""
        return self.group_size

    @property
    def B(self) -> int:
        """Number of completions, P * G."""
        return len(self.completions)

    @property
    def T(self) -> int:
        """Tokens of the longest completion."""
        return self.completion_ids_BT.shape[1]

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each completion, its end token included."""
        return self.mask_BT.sum(1)

    def texts_of(self, prompt: int) -> list[str]:
        """The completions of prompt number `prompt`."""
        return self.completions[prompt * self.G : (prompt + 1) * self.G]

    def first(self, count: int, prompts: int | None = None) -> Rollouts:
        """The first `count` completions of each prompt, or of each of the first `prompts` ones."""
        few = slice(prompts)
        chosen = [p * self.G + g for p in range(self.P)[few] for g in range(count)]
        changes = self._rows_of(torch.tensor(chosen, device=self.mask_BT.device))
        return dataclasses.replace(
            self,
            **changes,
            rows=self.rows[few],
            prompts=self.prompts[few],
            prompt_ids_PL=self.prompt_ids_PL[few],
            prompt_mask_PL=self.prompt_mask_PL[few],
            completions=[self.completions[b] for b in chosen],
            group_size=count,
        )

    def select(self, indices_B: Tensor | Sequence[int]) -> Rollouts:
        """The chosen completions, each as a group of its own (group size 1)."""
        chosen = torch.as_tensor(indices_B, device=self.mask_BT.device)
        numbers = chosen.tolist()
        owners = [number // self.G for number in numbers]
        return dataclasses.replace(
            self,
            **self._rows_of(chosen),
            rows=[self.rows[p] for p in owners],
            prompts=[self.prompts[p] for p in owners],
            prompt_ids_PL=self.prompt_ids_PL[owners],
            prompt_mask_PL=self.prompt_mask_PL[owners],
            completions=[self.completions[b] for b in numbers],
            group_size=1,
        )

    def _rows_of(self, chosen: Tensor) -> dict[str, Any]:
        """The chosen rows of every tensor that has one row per completion."""
        return {
            field.name: getattr(self, field.name)[chosen]
            for field in dataclasses.fields(self)
            if field.name.endswith(("_BT", "_B"))
        }


@torch.no_grad()
def sample(
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
    use_sampler: bool = True,
    further_stops: Sequence[int] = (),
    further_texts: Sequence[str] = (),
    engine: str | None = None,
) -> Rollouts:
    """Draw `group_size` completions of each prompt; temperature 0 takes the likeliest token.

    `seed` is a number or a CPU generator. `stats=False` leaves the five recorded series at 0.
    `use_sampler=False` decodes through the trainable model itself. `further_stops` are tokens that end a
    completion beside the policy's own end tokens, `further_texts` texts beside its own stop texts. `engine`
    is what decodes (`engines`), else the policy's.
    """
    if group_size < 1 or max_new_tokens < 1:
        raise WorkbenchError(
            f"group_size is {group_size} and max_new_tokens {max_new_tokens}; give 1 or more of each."
        )
    if engine is not None:
        check_engine(engine, policy.quantize)
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    texts = policy.render(prompts)
    ids_PL, mask_PL = policy.encode(texts)
    owners_B = torch.arange(len(texts) * group_size, device=ids_PL.device) // group_size
    limits_B = torch.full_like(owners_B, max_new_tokens)
    stop_ids = torch.tensor([*policy.stop_ids(), *further_stops], device=ids_PL.device)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    asked = Request(ids_PL, mask_PL, owners_B, limits_B, stop_ids, settings, stats)

    def draw(asked: Request) -> Recorded:
        if use_sampler:
            return decode_by(engine or policy.engine, policy, asked, generator)
        return decode_native(policy.model, asked, generator)

    recorded, stopped_B = drawn_until(policy, asked, (*policy.stop, *further_texts), draw)
    length = int(recorded.mask_BT.sum(1).max())
    mask_BT = recorded.mask_BT[:, :length]
    tokens_BT = recorded.tokens_BT[:, :length].masked_fill(~mask_BT, policy.tokenizer.pad_token_id)
    series = [part[:, :length].masked_fill(~mask_BT, 0.0) for part in recorded.statistics_5BT]
    return Rollouts(
        rows=[dict(row) for row in rows] if rows is not None else [{} for _ in texts],
        prompts=texts,
        prompt_ids_PL=ids_PL,
        prompt_mask_PL=mask_PL,
        completion_ids_BT=tokens_BT,
        mask_BT=mask_BT,
        sampled_BT=mask_BT,
        **dict(zip(SERIES, series, strict=True)),
        closing_BT=closing(policy, tokens_BT, mask_BT),
        truncated_B=~(torch.isin(last_tokens(tokens_BT, mask_BT), stop_ids) | stopped_B),
        completions=whole_texts(policy, texts, tokens_BT, mask_BT),
        group_size=group_size,
        max_new_tokens=max_new_tokens,
        seed=generator.initial_seed(),
    )


def last_tokens(tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The last token of each completion, (B,)."""
    return tokens_BT.gather(1, mask_BT.sum(1, keepdim=True) - 1).squeeze(1)


def closing(policy: Policy, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The tokens with which a closing tag is complete, bool (B, T).

    Where the tag is one token of the model these are that token, and the tag spelled in others is none.
    Where it is not, they are found in the text: its split depends on what stands beside it, and the last
    token may carry more (`>\\n`). That is thinking all the same, since a token can't be divided.
    """
    end_id = policy.thought_end_id()
    if end_id is not None:
        return (tokens_BT == end_id) & mask_BT
    closing_BT = torch.zeros_like(mask_BT)
    places = completing(policy.tokenizer, _rows_of(tokens_BT, mask_BT), policy.tags.close)
    marks = [(b, place) for b, row in enumerate(places) for place in row]
    if marks:
        closing_BT[tuple(torch.tensor(marks, device=mask_BT.device).T)] = True
    return closing_BT


def drawn_until(
    policy: Policy, asked: Request, ends: Sequence[str], draw: Callable[[Request], Recorded]
) -> tuple[Recorded, Tensor]:
    """What `draw` makes of `asked`, up to the first of the texts `ends`; and which rows one ended, (B,)."""
    if ends:
        asked = dataclasses.replace(asked, ended=functools.partial(says_stop, policy, ends=ends))
    recorded = draw(asked)
    mask_BT, stopped_B = until_stop(policy, recorded.tokens_BT, recorded.mask_BT, ends)
    return dataclasses.replace(recorded, mask_BT=mask_BT), stopped_B


def says_stop(policy: Policy, tokens_AT: Tensor, ends: Sequence[str]) -> Tensor:
    """Which rows have come to one of `ends`, bool (A,); one that came long ago may be missed.

    Only the rows whose last tokens seem to hold one are read whole, as `until_stop` does.
    """
    recent = LOOK + max(len(text.encode()) for text in ends)  # a token has a byte at least
    tails = policy.tokenizer.batch_decode(
        tokens_AT[:, -recent:].tolist(),
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    rows = [a for a, tail in enumerate(tails) if any(text in tail for text in ends)]
    found_A = torch.zeros(len(tokens_AT), dtype=torch.bool)
    whole = tokens_AT[rows].tolist()
    for text in ends if rows else ():
        for a, places in zip(rows, completing(policy.tokenizer, whole, text), strict=True):
            found_A[a] |= bool(places)
    return found_A.to(tokens_AT.device)


def until_stop(
    policy: Policy, tokens_BT: Tensor, mask_BT: Tensor, ends: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The mask of each completion up to the token that completes one of `ends`, and which ones that ended.

    They are cut after they were drawn, whatever drew them: not every engine looks for such texts, and none
    at every token.
    """
    stopped_B = torch.zeros_like(mask_BT[:, 0])
    if not ends:
        return mask_BT, stopped_B
    rows, lengths_B = _rows_of(tokens_BT, mask_BT), mask_BT.sum(1)
    for text in ends:
        for b, places in enumerate(completing(policy.tokenizer, rows, text)):
            if places:
                lengths_B[b] = min(int(lengths_B[b]), places[0] + 1)
                stopped_B[b] = True
    places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return places_T < lengths_B[:, None], stopped_B


def whole_texts(
    policy: Policy, prompts: Sequence[str], tokens_BT: Tensor, mask_BT: Tensor
) -> list[str]:
    """The text of each completion, with the tag in front that its prompt has opened already."""
    texts = texts_of(policy, tokens_BT, mask_BT)
    opened, group = [policy.opened(prompt) for prompt in prompts], len(texts) // len(prompts)
    return [f"{opened[b // group]}{text}" for b, text in enumerate(texts)]


def texts_of(policy: Policy, tokens_BT: Tensor, mask_BT: Tensor) -> list[str]:
    """The text of each completion."""
    return policy.decode(_rows_of(tokens_BT, mask_BT))


def _rows_of(tokens_BT: Tensor, mask_BT: Tensor) -> list[list[int]]:
    """The tokens of each completion, without padding."""
    kept = zip(tokens_BT.tolist(), mask_BT.sum(1).tolist(), strict=True)
    return [tokens[:count] for tokens, count in kept]
