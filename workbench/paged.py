"""Completions from transformers' continuous batching, whose cache lies in pages that prompts share.

It draws from torch's global generators, seeded here and put back afterwards: a draw repeats itself as long
as no other thread draws from them meanwhile. It attends by sdpa, or by flash attention where that package is
installed; no kernels are fetched.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from workbench.decoding import evaluating
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.models import Policy

PAGE = 64  # tokens of a page
AT_ONCE = 256  # requests that are decoded together
BATCH_TOKENS = 2048  # tokens of one forward pass: prompts are run in pieces of it


def run_paged(
    policy: Policy,
    prompts: Sequence[list[int]],
    most: int,
    stop_ids: Sequence[int],
    settings: dict[str, Any],
    seed: int,
) -> tuple[list[list[int]], list[list[float]] | None]:
    """At most `most` tokens after each prompt, and their log-probs at temperature 1 (nats).

    The log-probs are None where `settings` change the distribution: the engine only knows the changed one.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model: Any = policy.sampler()
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    greedy = settings["temperature"] == 0
    changed = {name: settings[name] for name in ("min_p",) if settings[name]}
    drawing = {name: settings[name] for name in ("temperature", "top_k", "top_p")} | changed
    generation = GenerationConfig(
        max_new_tokens=most,
        eos_token_id=list(stop_ids),
        pad_token_id=policy.tokenizer.pad_token_id,
        do_sample=not greedy,
        **({} if greedy else drawing),
    )
    longest = max(map(len, prompts)) + most
    batching = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=AT_ONCE * math.ceil(longest / PAGE),
        max_batch_tokens=BATCH_TOKENS,
        max_requests_per_batch=AT_ONCE,
        return_logprobs=True,
        seed=seed,
        drop_unsupported_processors=False,
        auto_switch_to_flash=has_flash(),
    )
    devices = [policy.device] if policy.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices):
        found = list(model.generate_batch(list(prompts), generation, batching).values())
    failed = [result.error for result in found if result.error is not None]
    if failed or len(found) < len(prompts):
        reason = failed[0] if failed else f"{len(prompts) - len(found)} requests got no answer"
        raise WorkbenchError(f'The paged engine failed ({reason}); use engine="native".')
    tokens = [list(result.generated_tokens) for result in found]
    return tokens, [list(result.logprobs) for result in found] if plain(settings) else None


def plain(settings: dict[str, Any]) -> bool:
    """Whether tokens are drawn from the model's own distribution."""
    return settings == {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def has_flash() -> bool:
    """Whether flash attention is installed; with `kernels` beside it transformers might download instead."""
    found = importlib.util.find_spec
    return found("flash_attn") is not None and found("kernels") is None
