"""Guides of the SAGE anchors: a factor q per token that multiplies the reference's probability.

Each guide gives q_BT without gradient, within [low, high], and 1 where masked. They see what training has
at hand: the policy's next-token entropy (`branch`), the surprisal of the sampled token (`token`), or nothing
(`random`). Formulas and constants are those of the released code (github tally0818/SAGE, c9b3b69), except
that the divisor of `zscore` and the order of equal surprisals in `rank` are chosen here, the noise is drawn
once a step instead of at each loss, the schedule advances once a step over the recipe's `steps`, and
entropies are at temperature 1; the text of the paper (Lee et al. 2026, arXiv 2605.18864) was not available
beyond its abstract.

Tensors are used through their methods only, so that the table of anchors can be read without loading torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench.variants import Param

if TYPE_CHECKING:
    from torch import Tensor

CYCLES, DECAY = 8, 0.9  # of the schedule; each later cycle starts at 0.9 times the height before
TOKEN_MEAN, TOKEN_NOISE = (0.3, 0.1), (0.25, 0.1)  # upper and lower end of alpha and of sigma
RANDOM_SHARE, RANDOM_NOISE = (0.1, 0.0), (0.15, 0.05)  # of epsilon and of sigma
GUIDES = ("branch", "token", "random")

GUIDE_PARAMS = (
    Param(
        "guide",
        "branch",
        "What q looks at: the policy's entropy, the token's surprisal, or chance.",
        choices=GUIDES,
    ),
    Param(
        "threshold", 1.2, "Guide 'branch': entropy in nats above which q rises.", low=0.0, high=10.0
    ),
    Param(
        "ratio", 0.3, "Guide 'branch': rise of q per nat above the threshold.", low=0.0, high=5.0
    ),
    Param(
        "normalise",
        "minmax",
        "Guide 'token': how surprisals of one completion become weights from 0 to 1.",
        choices=("minmax", "rank", "zscore"),
    ),
    Param("q_min", 0.6, "q is never below this.", low=0.05, high=1.0),
    Param("q_max", 1.4, "q is never above this.", low=1.0, high=5.0),
)


def branch(
    entropies_BT: Tensor,
    mask_BT: Tensor,
    *,
    threshold: float = 1.2,
    ratio: float = 0.3,
    low: float = 0.6,
    high: float = 1.4,
) -> Tensor:
    """Above 1 where the policy is undecided: 1 + ratio * (entropy - threshold), entropies in nats.

    It depends on the state only, not on the token drawn there, and is never below 1.
    """
    return _bounded(1 + ratio * (entropies_BT - threshold).clamp_min(0), mask_BT, low, high)


def token(
    logprobs_BT: Tensor,
    mask_BT: Tensor,
    normal_BT: Tensor,
    step: int,
    steps: int,
    *,
    normalise: str = "minmax",
    low: float = 0.6,
    high: float = 1.4,
) -> Tensor:
    """Above 1 on tokens that surprised the policy: 1 + alpha w + sigma w z, w the normalised surprisal.

    z is standard normal; alpha and sigma follow `schedule`.
    """
    weight_BT = NORMALISERS[normalise](-logprobs_BT.detach(), mask_BT)
    alpha, sigma = schedule(*TOKEN_MEAN, step, steps), schedule(*TOKEN_NOISE, step, steps)
    return _bounded(1 + alpha * weight_BT + sigma * weight_BT * normal_BT, mask_BT, low, high)


def random(
    uniform_BT: Tensor,
    mask_BT: Tensor,
    normal_BT: Tensor,
    step: int,
    steps: int,
    *,
    low: float = 0.6,
    high: float = 1.4,
) -> Tensor:
    """Noise on a small share of tokens, 1 on the others; share and noise follow `schedule`."""
    share, sigma = schedule(*RANDOM_SHARE, step, steps), schedule(*RANDOM_NOISE, step, steps)
    noisy_BT = (1 + sigma * normal_BT).masked_fill(uniform_BT >= share, 1.0)
    return _bounded(noisy_BT, mask_BT, low, high)


def schedule(upper: float, lower: float, step: int, steps: int) -> float:
    """Eight falling half cosines from `upper` to `lower`, each starting lower; `step` counts from 1.

    The released code moves on at every evaluation of the loss; here it moves once per step of the run, so
    that cutting a batch into parts changes nothing.
    """
    length = max(steps // CYCLES, 1)
    cycle, place = divmod(step - 1, length)
    top = upper * DECAY ** min(cycle, CYCLES - 1)
    return lower + (top - lower) * 0.5 * (1 + math.cos(math.pi * place / length))


def minmax(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Each completion's values, cut at their 5 % and 95 % quantiles, scaled to 0..1."""
    known_BT = values_BT.masked_fill(~mask_BT, math.nan)
    least_B1 = known_BT.nanquantile(0.05, dim=-1, keepdim=True)
    most_B1 = known_BT.nanquantile(0.95, dim=-1, keepdim=True)
    cut_BT = values_BT.maximum(least_B1).minimum(most_B1)
    return (cut_BT - least_B1) / (most_B1 - least_B1).clamp_min(1e-6)


def rank(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Each value's rank in its completion, from 0 to 1; the earlier of two equal ones ranks lower."""
    order_BT = values_BT.masked_fill(~mask_BT, math.inf).argsort(dim=-1, stable=True)
    return order_BT.argsort(-1) / (mask_BT.sum(-1, keepdim=True) - 1).clamp_min(1)


def zscore(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sigmoid of the distance from the completion's mean, in population standard deviations."""
    count_B1 = mask_BT.sum(-1, keepdim=True).clamp_min(1)
    centred_BT = values_BT - (values_BT * mask_BT).sum(-1, keepdim=True) / count_B1
    variance_B1 = (centred_BT.square() * mask_BT).sum(-1, keepdim=True) / count_B1
    return (centred_BT / variance_B1.sqrt().clamp_min(1e-6)).sigmoid()


NORMALISERS = {"minmax": minmax, "rank": rank, "zscore": zscore}


def _bounded(q_BT: Tensor, mask_BT: Tensor, low: float, high: float) -> Tensor:
    return q_BT.detach().clamp(low, high).masked_fill(~mask_BT, 1.0)
