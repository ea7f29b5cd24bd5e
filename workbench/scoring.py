"""One batch from prompts to advantages: sample, reward, compare."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.models import Policy
from workbench.recipe import Recipe
from workbench.rewards import compute
from workbench.rollout import Rollouts, sample
from workbench.variants import WorkbenchError


@dataclass(frozen=True)
class Scored:
    """Rollouts with their rewards and advantages, and the seconds that they took."""

    rollouts: Rollouts
    rewards: dict[str, Tensor]  # name -> values_PG
    total_PG: Tensor
    advantages_PG: Tensor
    sample_seconds: float
    reward_seconds: float

    def dead(self) -> list[int]:
        """The groups whose advantages are all 0."""
        return (self.advantages_PG == 0).all(-1).nonzero().flatten().tolist()


def score(
    policy: Policy,
    task: Any,
    rows: list[dict[str, Any]],
    recipe: Recipe,
    arguments: dict[str, Any],
    seed: int,
) -> Scored:
    """Sample completions of the task's rows, reward them and compare them within their groups.

    `arguments` are the objective's parameters, all of them numbers or names.
    """
    started = time.perf_counter()
    rollouts = sample(
        policy,
        [task.messages(row) for row in rows],
        rows=rows,
        group_size=recipe.group_size,
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        top_k=recipe.top_k,
        min_p=recipe.min_p,
        seed=seed,
    )
    sampled = time.perf_counter()
    rewards = compute(recipe.reward_functions(), rollouts, task)
    total_PG = weighted_sum(rewards, recipe.reward_weights())
    advantages_PG = advantages(recipe, arguments, rollouts, total_PG)
    ended = time.perf_counter()
    return Scored(rollouts, rewards, total_PG, advantages_PG, sampled - started, ended - sampled)


def weighted_sum(rewards: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The reward that counts, (P, G); weight 0 leaves a reward out."""
    parts = [weights[name] * values for name, values in rewards.items() if weights[name]]
    return torch.stack(parts).sum(0)


def advantages(
    recipe: Recipe, arguments: dict[str, Any], rollouts: Rollouts, total_PG: Tensor
) -> Tensor:
    """The objective's advantages, (P, G), checked for shape."""
    row = recipe.variant("objective")
    wanted = {}
    if "mean_logprobs_PG" in getattr(row, "needs", ()):
        mean_B = rollouts.logprobs_BT.sum(1) / rollouts.lengths_B
        wanted["mean_logprobs_PG"] = mean_B.view(total_PG.shape)
    values_PG = row(total_PG, **wanted, **arguments)
    if tuple(values_PG.shape) != tuple(total_PG.shape):
        raise WorkbenchError(
            f"The objective returned shape {tuple(values_PG.shape)}; "
            f"return one advantage per reward, shape {tuple(total_PG.shape)}."
        )
    return values_PG.detach()
