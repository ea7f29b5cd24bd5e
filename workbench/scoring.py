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
from workbench.separating import malformed_rows, thought_end
from workbench.variants import WorkbenchError

ROUNDING = 1e-6  # a spread this small beside the rewards themselves is rounding


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

    `arguments` are the objective's parameters, all of them numbers or names. Extra votes are sampled and
    rewarded with the group, then dropped. Where thinking and answer are trained apart, a malformed completion
    gets the lowest total of its group.
    """
    started = time.perf_counter()
    end_id = thought_end(policy, recipe)
    rollouts = sample(
        policy,
        [task.messages(row) for row in rows],
        rows=rows,
        group_size=recipe.group_size + recipe.extra_votes,
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        top_k=recipe.top_k,
        min_p=recipe.min_p,
        seed=seed,
    )
    sampled = time.perf_counter()
    rewards = compute(recipe.reward_functions(), rollouts, task)
    if recipe.extra_votes:
        rollouts = rollouts.first(recipe.group_size)
        rewards = {name: values[:, : recipe.group_size] for name, values in rewards.items()}
    total_PG = total_reward(recipe, rewards, rollouts.truncated_B)
    if recipe.separation != "joint" and end_id is not None:
        total_PG = lowest_where(malformed_rows(rollouts, end_id), total_PG)
    advantages_PG = advantages(recipe, arguments, rollouts, total_PG)
    ended = time.perf_counter()
    return Scored(rollouts, rewards, total_PG, advantages_PG, sampled - started, ended - sampled)


def total_reward(recipe: Recipe, rewards: dict[str, Tensor], truncated_B: Tensor) -> Tensor:
    """The reward that counts, (P, G), by the recipe's weights and options."""
    if recipe.standardise == "group":
        rewards = {name: standardised(r, recipe.reward_floor) for name, r in rewards.items()}
    total_PG = weighted_sum(rewards, recipe.reward_weights())
    return lowest_where(truncated_B, total_PG) if recipe.truncated == "lowest" else total_PG


def lowest_where(bad_B: Tensor, total_PG: Tensor) -> Tensor:
    """`total_PG` with the lowest total of the group for the completions marked in `bad_B`."""
    return total_PG.amin(-1, keepdim=True).where(bad_B.view(total_PG.shape), total_PG)


def weighted_sum(rewards: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum of weight times reward, (P, G); weight 0 leaves a reward out."""
    parts = [weights[name] * values for name, values in rewards.items() if weights[name]]
    return torch.stack(parts).sum(0)


def standardised(values_PG: Tensor, floor: float) -> Tensor:
    """Less the group's mean, over its standard deviation; 0 in groups whose deviation is below `floor`."""
    centred_PG = values_PG - values_PG.mean(-1, keepdim=True)
    spread_P1 = spread(values_PG)[:, None]
    rounding_P1 = ROUNDING * values_PG.abs().amax(-1, keepdim=True)
    live_P1 = (spread_P1 >= floor) & (spread_P1 > rounding_P1)
    return (centred_PG / spread_P1).where(live_P1, torch.zeros_like(centred_PG))


def spread(values_PG: Tensor) -> Tensor:
    """Standard deviation within each group, (P,), over its G completions."""
    return values_PG.std(-1, correction=0)


def advantages(
    recipe: Recipe, arguments: dict[str, Any], rollouts: Rollouts, total_PG: Tensor
) -> Tensor:
    """The objective's advantages, (P, G), checked for shape; 0 in groups under the recipe's floor."""
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
    if recipe.reward_floor and recipe.standardise == "never":  # else the floor was on each reward
        live_P1 = spread(total_PG)[:, None] >= recipe.reward_floor
        values_PG = values_PG.where(live_P1, torch.zeros_like(values_PG))
    return values_PG.detach()
