"""Objectives: from the rewards of a group to one advantage per rollout.

Signature of every row: ``f(rewards_PG, **params) -> advantages_PG`` for the loss

    L = -(1 / (P G)) sum_i advantage_i * sum_t log pi(token_it | prompt, earlier tokens),

P prompts, G rollouts of each, a *sum* over tokens (other aggregations are chosen separately). With 0/1
rewards let K be a group's number of successes and p the prompt's success probability. The comments give
the population weight w(p): the expected update is w(p) times the gradient of p, exactly, at finite G.

Tensors are used through their methods only, so that the table can be read without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.variants import Param, Variant, WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  # keeps a group without spread at advantage 0 instead of 0/0


def reinforce(rewards_PG: Tensor) -> Tensor:
    """The reward itself, with no baseline: unbiased and noisy."""
    return rewards_PG.clone()  # w(p) = 1


def rloo(rewards_PG: Tensor) -> Tensor:
    """Reward minus the mean of the other rollouts: unbiased, with less noise."""
    group = rewards_PG.shape[-1]
    return dr_grpo(rewards_PG) * (group / (group - 1))  # w(p) = 1


def grpo(rewards_PG: Tensor, *, std: str = "sample") -> Tensor:
    """Reward minus the group mean, divided by the group's standard deviation.

    Dividing by the spread lifts prompts that are nearly always or nearly never solved; as G grows,
    w(p) tends to 1 / sqrt(p (1 - p)).
    """
    spread_P1 = rewards_PG.std(-1, keepdim=True, correction=1 if std == "sample" else 0)
    return dr_grpo(rewards_PG) / (spread_P1 + EPSILON)


def dr_grpo(rewards_PG: Tensor) -> Tensor:
    """Reward minus the group mean, without dividing by the spread."""
    # Counted from the first rollout's reward, equal rewards give exactly 0 whatever their rounding.
    shifted_PG = rewards_PG - rewards_PG[..., :1]
    return shifted_PG - shifted_PG.mean(-1, keepdim=True)  # w(p) = (G - 1) / G


def maxrl(rewards_PG: Tensor) -> Tensor:
    """Reward minus the group mean, divided by the mean: a step towards maximum likelihood.

    With 0/1 rewards w(p) = (1 - (1 - p)^(G-1)) / p, near 1/p: rare successes count most. For other
    rewards >= 0 the same formula follows the gradient of the log of the mean reward. A group whose
    rewards are all 0 gets advantage 0, as in the authors' released algorithm.
    """
    if bool((rewards_PG < 0).any()):
        raise WorkbenchError(
            "Objective 'maxrl' divides by the mean reward and needs rewards of at least 0; "
            "set the weight of negative rewards to 0 or choose 'rloo'."
        )
    mean_P1 = rewards_PG.mean(-1, keepdim=True)
    return dr_grpo(rewards_PG) / mean_P1.clamp_min(EPSILON)


OBJECTIVES: dict[str, Variant] = {
    "reinforce": Variant(
        reinforce,
        formula=r"A_i = r_i",
        source="Williams 1992, Simple statistical gradient-following algorithms",
    ),
    "rloo": Variant(
        rloo,
        formula=r"A_i = r_i - \frac{1}{G-1}\sum_{j\ne i} r_j = \frac{G}{G-1}(r_i - \bar r)",
        source="Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740)",
        min_group=2,
    ),
    "grpo": Variant(
        grpo,
        formula=r"A_i = \frac{r_i - \bar r}{\mathrm{std}(r) + 10^{-6}}",
        source="Shao et al. 2024, DeepSeekMath (arXiv 2402.03300)",
        params=(
            Param(
                "std",
                "sample",
                "Divide by the sample (G - 1) or the population (G) standard deviation.",
                choices=("sample", "population"),
            ),
        ),
        min_group=2,
    ),
    "dr_grpo": Variant(
        dr_grpo,
        formula=r"A_i = r_i - \bar r",
        source="Liu et al. 2025, Understanding R1-Zero-like training (arXiv 2503.20783)",
        min_group=2,
    ),
    "maxrl": Variant(
        maxrl,
        formula=r"A_i = \frac{r_i - \bar r}{\bar r},\quad A_i = 0 \text{ if } \bar r = 0",
        source="Tajwar et al. 2026, MaxRL (arXiv 2602.02710), algorithm 1",
        min_group=2,
    ),
}
