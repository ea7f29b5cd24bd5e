"""One batch from prompts to advantages: sample, reward, compare."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workbench.continuation import answer, think
from workbench.devices import exact_device
from workbench.models import Policy
from workbench.recipe import Recipe
from workbench.rewards import REWARDS, compute_detailed
from workbench.rewards.constraints import OWN
from workbench.rollout import Rollouts, sample
from workbench.separating import malformed_rows
from workbench.sources import CONSTRAINT_MODEL, JUDGE, find_model
from workbench.thought_advantages import split_advantages
from workbench.variants import WorkbenchError

ROUNDING = 1e-6  # a spread this small beside the rewards themselves is rounding


@dataclass(frozen=True)
class Scored:
    """Rollouts with their rewards and advantages, and the seconds that they took."""

    rollouts: Rollouts
    rewards: dict[str, Tensor]  # name -> values_PG
    total_PG: Tensor
    advantages_PG: Tensor
    thought_advantages_PG: Tensor  # of the thinking tokens; advantages_PG with one answer a thought
    sample_seconds: float
    reward_seconds: float
    numbers: dict[str, float] = field(default_factory=dict)  # what rewards add: <reward>/<name>
    notes: dict[str, list[str]] = field(default_factory=dict)  # reward -> a line on each completion

    def dead(self) -> list[int]:
        """The groups whose advantages are all 0."""
        live_PG = (self.advantages_PG != 0) | (self.thought_advantages_PG != 0)
        return (~live_PG.any(-1)).nonzero().flatten().tolist()


def score(
    policy: Policy,
    task: Any,
    rows: list[dict[str, Any]],
    recipe: Recipe,
    arguments: dict[str, Any],
    seed: int,
    extras: Mapping[str, Any] | None = None,
) -> Scored:
    """Sample completions of the task's rows, reward them and compare them within their groups.

    `arguments` are the objective's parameters, all of them numbers or names; `extras` go to the rewards
    that need them. Extra votes are sampled and rewarded with the group, then dropped; numbers that rewards
    tell count them too. Thoughts and answers are sampled apart where the recipe asks for several answers to
    a thought, or for the initial model's. Where they are trained apart, a malformed completion gets the
    lowest total of its group.
    """
    started = time.perf_counter()
    rollouts = draw(policy, task, rows, recipe, seed)
    sampled = time.perf_counter()
    computed = compute_detailed(recipe.reward_functions(extras), rollouts, task)
    rewards, notes = computed.values, computed.notes
    if recipe.extra_votes:
        kept = [b for b in range(rollouts.B) if b % rollouts.G < recipe.group_size]
        rollouts = rollouts.first(recipe.group_size)
        rewards = {name: values[:, : recipe.group_size] for name, values in rewards.items()}
        notes = {name: [lines[b] for b in kept] for name, lines in notes.items()}
    total_PG = total_reward(recipe, rewards, rollouts.truncated_B)
    if recipe.separation != "joint":
        total_PG = lowest_where(malformed_rows(rollouts), total_PG)
    advantages_PG, thought_advantages_PG = advantages(recipe, arguments, rollouts, total_PG)
    ended = time.perf_counter()
    return Scored(
        rollouts,
        rewards,
        total_PG,
        advantages_PG,
        thought_advantages_PG,
        sampled - started,
        ended - sampled,
        computed.numbers,
        notes,
    )


def draw(
    policy: Policy, task: Any, rows: list[dict[str, Any]], recipe: Recipe, seed: int
) -> Rollouts:
    """Completions of the task's rows, extra votes included, by whom the recipe lets answer."""
    answers = recipe.answers_per_thought
    settings = {name: getattr(recipe, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    apart = answers > 1 or recipe.answerer == "initial"
    found = (think if apart else sample)(
        policy,
        [task.messages(row) for row in rows],
        rows=rows,
        group_size=(recipe.group_size + recipe.extra_votes) // answers,
        max_new_tokens=recipe.max_new_tokens,
        seed=seed,
        **settings,
    )
    if not apart:
        return found
    initial = recipe.answerer == "initial"
    return answer(policy, found, per_thought=answers, initial=initial, seed=seed, **settings)


def check_judge(recipe: Recipe) -> None:
    """Refuse the name of a reward model that is not there, before a step asks it."""
    for reward, kind in (("learned", JUDGE), ("constraints", CONSTRAINT_MODEL)):
        if reward in recipe.rewards:
            arguments = REWARDS[reward].defaults | recipe.reward_args.get(reward, {})
            if arguments["reward_model"] != OWN:
                find_model(arguments["reward_model"], kind)


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
) -> tuple[Tensor, Tensor]:
    """The objective's advantages of completions and of their thoughts, both (P, G), checked for shape.

    They are 0 in groups under the recipe's floor, and the same with one answer to each thought.
    """
    row = recipe.variant("objective")
    device, exact = total_PG.device, exact_device(total_PG.device)  # objectives count in fp64
    total_PG = total_PG.to(exact)
    wanted = {}
    if "mean_logprobs_PG" in getattr(row, "needs", ()):
        own_BT = rollouts.sampled_BT  # not what the initial model answered
        mean_B = (rollouts.logprobs_BT * own_BT).sum(1) / own_BT.sum(1)
        wanted["mean_logprobs_PG"] = mean_B.view(total_PG.shape).to(exact)

    def objective(rewards_PG: Tensor, **further: Tensor) -> Tensor:
        values_PG = row(rewards_PG, **further, **arguments)
        if tuple(values_PG.shape) != tuple(rewards_PG.shape):
            raise WorkbenchError(
                f"The objective returned shape {tuple(values_PG.shape)}; "
                f"return one advantage per reward, shape {tuple(rewards_PG.shape)}."
            )
        return values_PG

    both = split_advantages(objective, total_PG, recipe.answers_per_thought, **wanted)
    if recipe.reward_floor and recipe.standardise == "never":  # else the floor was on each reward
        live_P1 = spread(total_PG)[:, None] >= recipe.reward_floor
        both = tuple(values.where(live_P1, torch.zeros_like(values)) for values in both)
    return both[0].detach().to(device), both[1].detach().to(device)
