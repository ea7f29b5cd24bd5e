"""Advantages that see a group only through its number of successes K.

`weighted` turns the coefficients of a population weight (`bernstein`) into advantages by one of three
estimators; `counted` looks up any two tables over K. Rewards between 0 and 1 are chances of success.

P prompts, G rollouts of each. Tensors are used through their methods only: no torch is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-5  # by which a weighted sum of rewards may leave 0 to 1


def weighted(
    rewards_PG: Tensor,
    coefficients: Callable[[int], np.ndarray],
    estimator: str,
    baseline: float | str,
) -> Tensor:
    """The advantages that estimate a population weight; `coefficients(n)` are its n coefficients.

    direct: beta_{K-1} for a success, 0 for a failure. score_baseline: the same minus a constant for every
    rollout, also where K = 0. zero_sum: RLOO times beta_{K-1} of the family's n = G - 1.
    """
    group = rewards_PG.shape[-1]
    success_K, failure_K = np.zeros(group + 1), np.zeros(group + 1)
    if estimator == "zero_sum":
        wins = np.arange(1, group)
        factor = coefficients(group - 1)[wins - 1] / (group - 1)
        success_K[1:group], failure_K[1:group] = (group - wins) * factor, -wins * factor
        differing_P1 = (rewards_PG != rewards_PG[..., :1]).any(-1, keepdim=True)
        # Equal rewards give exactly 0, whatever their rounding.
        return counted(rewards_PG, success_K, failure_K) * differing_P1
    success_K[1:] = coefficients(group)
    if estimator == "score_baseline":
        success_K, failure_K = success_K - float(baseline), failure_K - float(baseline)
    return counted(rewards_PG, success_K, failure_K)


def counted(rewards_PG: Tensor, success_K: np.ndarray, failure_K: np.ndarray) -> Tensor:
    """Advantages (P, G) from the advantage of a success and of a failure in a group of K successes.

    Both tables have G + 1 entries, K = 0 to G. Rewards between 0 and 1 are chances of success: rollout i
    gets r_i E[success_K(1 + K')] + (1 - r_i) E[failure_K(K')], K' the successes among the others.
    """
    check_unit(rewards_PG)
    chances_PG = rewards_PG.double().clamp(0.0, 1.0)
    success_K, failure_K = (chances_PG.new_tensor(table) for table in (success_K, failure_K))
    if bool((chances_PG == chances_PG.round()).all()):
        wins_PG = chances_PG.sum(-1, keepdim=True).long().expand(chances_PG.shape)
        found_PG = success_K[wins_PG].where(chances_PG > 0, failure_K[wins_PG])
        return found_PG.to(rewards_PG.dtype)
    others_PGK = _others(chances_PG)
    of_success_PG, of_failure_PG = others_PGK @ success_K[1:], others_PGK @ failure_K[:-1]
    found_PG = chances_PG * of_success_PG + (1 - chances_PG) * of_failure_PG
    return found_PG.to(rewards_PG.dtype)


def _others(chances_PG: Tensor) -> Tensor:
    """P(K' = k) for k = 0..G-1 among the other rollouts of each, as (P, G, G): coin after coin."""
    groups, size = chances_PG.shape
    found_PGK = chances_PG.new_zeros(groups, size, size)
    found_PGK[..., 0] = 1.0
    for j in range(size):
        chance_PG1 = chances_PG[:, j].view(-1, 1, 1).repeat(1, size, 1)
        chance_PG1[:, j] = 0.0  # a rollout is not among its others
        missed_PGK = found_PGK * (1 - chance_PG1)
        missed_PGK[..., 1:] += found_PGK[..., :-1] * chance_PG1
        found_PGK = missed_PGK
    return found_PGK


def check_unit(rewards_PG: Tensor) -> None:
    low, high = float(rewards_PG.min()), float(rewards_PG.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise WorkbenchError(
            f"This objective counts successes and needs total rewards between 0 and 1; here they go from "
            f"{low:g} to {high:g}. Lower the weights so that they sum to 1, or choose 'rloo'."
        )
