"""decode(): the sampling loop over distinct prefixes, and what every such loop shares.

Rows continue prompts; a row's uniforms depend on its number and the step alone, whatever else is decoded
with it and by which loop.

P prompts, L prompt tokens (padded left), B rows, T steps, A rows still being sampled (alive), R distinct
prefixes, K those of the next step, V vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.cache import PrefixCache, prefill
from workbench.devices import exact_device
from workbench.sampling import draw, filter_logits, statistics

if TYPE_CHECKING:
    from transformers import DynamicCache

DRAWS = 64  # steps whose uniforms are drawn at once
LOOK = 16  # steps after which it is seen what has ended by more than a token; divides DRAWS
SERIES = ("logprobs_BT", "entropies_BT", "log_collisions_BT", "self_certainties_BT", "log_peaks_BT")
Begin = Callable[[nn.Module, Tensor, Tensor], "tuple[Tensor, DynamicCache]"]
Ended = Callable[[Tensor], Tensor]  # (A, T) tokens so far -> (A,) bool, on the same device


@dataclass(frozen=True)
class Recorded:
    """What the sampling loop fills in, column by column; its statistics are the `SERIES`, in order."""

    tokens_BT: Tensor
    mask_BT: Tensor
    statistics_5BT: Tensor

    @classmethod
    def empty(cls, rows: int, steps: int, device: torch.device) -> Recorded:
        return cls(
            torch.zeros(rows, steps, dtype=torch.long, device=device),
            torch.zeros(rows, steps, dtype=torch.bool, device=device),
            torch.zeros(5, rows, steps, dtype=torch.float32, device=device),
        )


@dataclass(frozen=True)
class Request:
    """What is to be drawn: row b continues prompt `owners_B[b]` by at most `limits_B[b]` tokens (0: none).

    There are at least as many rows as prompts.
    """

    ids_PL: Tensor
    mask_PL: Tensor
    owners_B: Tensor
    limits_B: Tensor
    stop_ids: Tensor
    settings: dict[str, Any]  # of the draw: temperature, top_k, top_p, min_p
    stats: bool = True  # whether the statistics are recorded
    begin: Begin = prefill  # runs the prompts
    # Which rows have ended by what they say, asked every `LOOK` steps; the caller cuts what was drawn beyond.
    ended: Ended | None = None

    @property
    def rows(self) -> int:
        """How many rows there are, those with no token to draw included."""
        return len(self.owners_B)

    @property
    def steps(self) -> int:
        """Tokens of the longest row, at most."""
        return int(self.limits_B.max())

    def part(self, rows: slice) -> Request:
        """Some of the rows, and their prompts alone."""
        prompts, owners = torch.unique(self.owners_B[rows], return_inverse=True)
        return dataclasses.replace(
            self,
            ids_PL=self.ids_PL[prompts],
            mask_PL=self.mask_PL[prompts],
            owners_B=owners,
            limits_B=self.limits_B[rows],
        )


class Uniforms:
    """A number in [0, 1) for B rows and each step, in blocks of `DRAWS` steps, drawn when asked for."""

    def __init__(self, generator: torch.Generator, rows: int) -> None:
        self.generator, self.rows = generator, rows
        self.blocks: list[Tensor] = []

    def __call__(self, block: int) -> Tensor:
        """Block number `block`, fp64 (DRAWS, B) on the CPU."""
        while len(self.blocks) <= block:
            size = (DRAWS, self.rows)
            self.blocks.append(torch.rand(size, generator=self.generator, dtype=torch.float64))
        return self.blocks[block]


@torch.no_grad()
def decode(model: nn.Module, asked: Request, uniforms: Callable[[int], Tensor]) -> Recorded:
    """What is asked for; a row's uniforms do not depend on the limits. `uniforms` is as `Uniforms`."""
    limits_B, steps, device = asked.limits_B, asked.steps, asked.ids_PL.device
    recorded = Recorded.empty(asked.rows, steps, device)
    with evaluating(model):
        logits_RV, prompt_cache = asked.begin(model, asked.ids_PL, asked.mask_PL)
        cache = PrefixCache(model, prompt_cache, asked.mask_PL, asked.rows)
        alive_A = (limits_B > 0).nonzero().squeeze(1)
        prefix_A = asked.owners_B[alive_A]  # at first a completion's prefix is its prompt
        for step in range(steps):
            if step % DRAWS == 0:
                block = uniforms(step // DRAWS).to(exact_device(device))
            uniforms_A = block[step % DRAWS, alive_A.to(block.device)]
            tokens_A = choose(logits_RV, prefix_A, uniforms_A, **asked.settings)
            recorded.tokens_BT[alive_A, step] = tokens_A
            recorded.mask_BT[alive_A, step] = True
            if asked.stats:
                found_5A = statistics(logits_RV, prefix_A, tokens_A)
                recorded.statistics_5BT[:, alive_A, step] = found_5A
            going_A = ~torch.isin(tokens_A, asked.stop_ids) & (limits_B[alive_A] > step + 1)
            if asked.ended is not None and (step + 1) % LOOK == 0:
                going_A &= ~asked.ended(recorded.tokens_BT[alive_A, : step + 1])
            alive_A, prefix_A, tokens_A = alive_A[going_A], prefix_A[going_A], tokens_A[going_A]
            if len(alive_A) == 0:
                break
            size = logits_RV.shape[1]
            pairs_K, number_A = torch.unique(prefix_A * size + tokens_A, return_inverse=True)
            place_K, logits_RV = cache.step(pairs_K // size, pairs_K % size)
            prefix_A = place_K[number_A]
    return recorded


def choose(logits_RV: Tensor, prefix_A: Tensor, uniforms_A: Tensor, **settings: Any) -> Tensor:
    """The next token of each completion, (A,); at temperature 0 the likeliest."""
    if settings["temperature"] == 0:
        return logits_RV.argmax(-1)[prefix_A]
    return draw(filter_logits(logits_RV, **settings), prefix_A, uniforms_A)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside; each as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
