"""Numbers that describe a scored batch: the reward/, rollout/ and groups/ metrics of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from workbench.recipe import Recipe
from workbench.scoring import Scored, spread
from workbench.separating import Separated
from workbench.separation import stage


def group_measures(first: Scored) -> dict[str, float]:
    """The groups/ metrics of the prompts that were drawn, whatever replaced them."""
    metrics: dict[str, float] = {"groups/zero_signal": len(first.dead()) / first.rollouts.P}
    solved_P = np.array(successes(first))
    if len(solved_P):
        metrics["groups/solved_all"] = float((solved_P == first.rollouts.G).mean())
        metrics["groups/solved_none"] = float((solved_P == 0).mean())
    return metrics


def successes(first: Scored) -> list[int]:
    """K of each prompt: how many of its completions are right; [] where `correct` is not measured."""
    if "correct" not in first.rewards:
        return []
    return (first.rewards["correct"] >= 1).sum(-1).tolist()


def rollout_measures(batch: Scored) -> dict[str, float]:
    """The reward/ and rollout/ metrics of the batch that is trained on, and what its advantages weigh."""
    rollouts, advantages_PG = batch.rollouts, batch.advantages_PG
    metrics = {f"reward/{name}": float(values.mean()) for name, values in batch.rewards.items()}
    metrics |= {f"reward_std/{name}": mean_spread(values) for name, values in batch.rewards.items()}
    return metrics | {
        "reward_std/total": mean_spread(batch.total_PG),
        "reward/total": float(batch.total_PG.mean()),
        "groups/update_scale": float((batch.total_PG * advantages_PG).mean()),
        "groups/advantage": float(advantages_PG.abs().mean()),
        "rollout/length": float(rollouts.lengths_B.float().mean()),
        "rollout/tokens": float(rollouts.mask_BT.sum()),
        "rollout/truncated": float(rollouts.truncated_B.float().mean()),
        "train/entropy": masked_mean(rollouts.entropies_BT, rollouts.mask_BT & rollouts.sampled_BT),
        **batch.numbers,
    }


def separation_measures(
    recipe: Recipe, late: bool, parts: Separated, mask_BT: Tensor
) -> dict[str, float]:
    """What the stage trains, the share of tokens that it lets through, and how many are malformed."""
    trains_thinking, trains_answer = stage(recipe.separation, late)
    trains_answer = trains_answer and recipe.answerer == "policy"
    metrics = {
        "train/trains_thinking": float(trains_thinking),
        "train/trains_answer": float(trains_answer),
        "train/trained_share": float(parts.trained_BT.sum() / mask_BT.sum()),
    }
    if parts.malformed_B is not None:
        metrics["rollout/malformed"] = float(parts.malformed_B.float().mean())
    return metrics


def mean_spread(values_PG: Tensor) -> float:
    """Mean over the groups of the standard deviation within them."""
    return float(spread(values_PG).mean())


def objective_measures(arguments: Mapping[str, Any]) -> dict[str, float]:
    """train/alpha of an objective that has one, and train/baseline where it is used."""
    used = ["alpha"] + ["baseline"] * (arguments.get("estimator") == "score_baseline")
    return {f"train/{name}": float(arguments[name]) for name in used if name in arguments}


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> float:
    """Mean over the marked tokens."""
    return float(values_BT[mask_BT].mean()) if bool(mask_BT.any()) else 0.0
