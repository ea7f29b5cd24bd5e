"""Where a run's randomness comes from: every draw is a function of the recipe's seed and the step.

So a resumed run needs no generator state, two runs of one seed see the same prompts and the same noise, and
nothing here touches torch's global generator for longer than a step with dropout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.recipe import Recipe
from workbench.rollout import Rollouts

# Independent streams of one step.
SAMPLING, ORDER, DROPOUT, ANCHOR, REFERENCE, REFILL = range(6)  # REFILL + n is round n
LABELS = 100  # beyond the last refill


def step_seed(seed: int, step: int, stream: int) -> int:
    """The seed of one stream of one step, as a non-negative 63-bit number."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> 1)


def open_rows(recipe: Recipe, step: int, rows: Any) -> Sequence[int]:
    """The rows of a split that step `step` draws from, by the recipe's curriculum.

    shuffled: all. staged: those of one level; the run's steps are shared out evenly among the levels, the
    lowest first. full: the last rung of each chain alone. one: one rung of each chain, all levels equally
    often.
    """
    if recipe.curriculum == "shuffled":
        return range(len(rows))
    levels, chains = np.array(rows["level"]), np.array(rows["chain"])
    if recipe.curriculum == "staged":
        stages = np.unique(levels)
        stage = min((step - 1) * len(stages) // recipe.steps, len(stages) - 1)
        return np.flatnonzero(levels == stages[stage]).tolist()
    found = []
    for number in np.unique(chains):
        own = np.flatnonzero(chains == number)
        own = own[levels[own].argsort(kind="stable")]
        found.append(int(own[-1 if recipe.curriculum == "full" else number % len(own)]))
    return found


def prompt_indices(recipe: Recipe, step: int, rows: int) -> list[int]:
    """Rows of step `step` (from 1): the split is walked in a new seeded order each time round."""
    first = (step - 1) * recipe.prompts_per_step
    orders: dict[int, np.ndarray] = {}
    chosen = []
    for position in range(first, first + recipe.prompts_per_step):
        turn, place = divmod(position, rows)
        if turn not in orders:
            orders[turn] = np.random.default_rng([recipe.seed, turn]).permutation(rows)
        chosen.append(int(orders[turn][place]))
    return chosen


def refill_indices(recipe: Recipe, step: int, number: int, count: int, rows: int) -> list[int]:
    """Rows of refill round `number` (from 1) of a step: drawn anew, apart from the walk through the split."""
    random = np.random.default_rng([recipe.seed, step, REFILL, number])
    return [int(i) for i in random.choice(rows, size=count, replace=count > rows)]


def minibatches(recipe: Recipe, step: int, rollouts: Rollouts) -> Iterator[Tensor]:
    """Row indices of every update of the batch: whole groups, in a new order in each later epoch."""
    generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, ORDER))
    rows_PG = torch.arange(rollouts.B).view(rollouts.P, rollouts.G)
    for epoch in range(recipe.epochs):
        order_P = torch.randperm(rollouts.P, generator=generator) if epoch else slice(None)
        for part_PG in rows_PG[order_P].tensor_split(recipe.minibatches):
            yield part_PG.reshape(-1).to(rollouts.mask_BT.device)


@contextlib.contextmanager
def seeded_dropout(recipe: Recipe, step: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generator: seed it for the step, and put it back afterwards."""
    if recipe.lora_dropout == 0:
        yield
        return
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(step_seed(recipe.seed, step, DROPOUT))
        yield
