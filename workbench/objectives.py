"""Objectives: from the rewards of a group to one advantage per rollout.

Signature of every row: ``f(rewards_PG, **params) -> advantages_PG`` for the loss

    L = -(1 / (P G)) sum_i advantage_i * sum_t log pi(token_it | prompt, earlier tokens),

P prompts, G rollouts of each, a *sum* over tokens (other aggregations are chosen separately).

One idea runs through them. With 0/1 rewards let K be a group's number of successes and p the prompt's
success probability. An advantage that depends on the group through K alone follows w(p) times the gradient
of p in expectation, exactly, at finite G; w(p) is the *population weight* (`bernstein`). Such an advantage is
REINFORCE's or RLOO's times a factor of K (in some rows less a constant), and the factor decides which prompts
count. `analysis` reads weight, update scale and variance off any such row by calling it; the comments give
the weights.

Such rows take rewards between 0 and 1 as well: a reward is read as the chance of a success, and the
advantage is its mean over independent coins with these chances (`counting`). This keeps the statement above
true with p the mean reward (derived here: a coin is part of the rollout, and its mean only takes noise
away). The other rows apply their formula to any reward.

Tensors are used through their methods only, so that the table can be read without loading torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import bernstein as weights
from workbench.counting import check_unit, counted, weighted
from workbench.variants import Param, Variant, WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  # keeps a group without spread at advantage 0 instead of 0/0

# ------------------------------------------------------------------ rows for any reward


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


def maxrl(rewards_PG: Tensor, *, form: str = "deployed") -> Tensor:
    """Reward divided by the group's mean reward, minus 1: a step towards maximum likelihood.

    w(p) is near 1/p: rare successes count most. `deployed` (the authors' algorithm 1) gives a group whose
    rewards are all 0 no update: w(p) = (1 - (1-p)^(G-1)) / p. `full` (their equation 10) keeps the
    baseline there: w(p) = (1 - (1-p)^G) / p, with more noise on the hardest prompts where the scores are
    noisy. For other rewards >= 0 the same formula follows the gradient of the log of the mean reward, with
    a bias that shrinks as G grows.
    """
    if bool((rewards_PG < 0).any()):
        raise WorkbenchError(
            "Objective 'maxrl' divides by the mean reward and needs rewards of at least 0; "
            "set the weight of negative rewards to 0 or choose 'rloo'."
        )
    mean_P1 = rewards_PG.mean(-1, keepdim=True)
    scaled_PG = dr_grpo(rewards_PG) / mean_P1.clamp_min(EPSILON)
    if form == "deployed":
        return scaled_PG
    return scaled_PG.where(mean_P1 > 0, scaled_PG.new_tensor(-1.0))


def pkpo(rewards_PG: Tensor, *, k: int = 8) -> Tensor:
    """The gradient of pass@k: what a rollout adds to the best of k, averaged over all subsets.

    A_i = G / C(G, k) * sum over subsets I of size k with i in I of max(I) - max(I without i), and r_i for
    k = 1. Exactly unbiased for the expected best reward of k, for any rewards; with 0/1 rewards that is
    pass@k and w(p) = k (1-p)^(k-1). A further leave-one-out step, found in some code, is not taken: it
    biases the estimate (a test shows it).
    """
    if k == 1:
        return rewards_PG.clone()
    group = rewards_PG.shape[-1]
    # With the others in ascending order, C(j, k - 2) subsets have the j-th (from 0) as their best.
    counts = [math.comb(j, k - 2) * group / math.comb(group, k) for j in range(group)]
    counts_G = rewards_PG.new_tensor(counts, dtype=rewards_PG.double().dtype)
    shifted_PG = (rewards_PG - rewards_PG[..., :1]).double()
    sorted_PG, order_PG = shifted_PG.sort(-1)
    below_PG = counts_G.cumsum(-1) - counts_G
    sums_PG = (counts_G * sorted_PG).cumsum(-1) - counts_G * sorted_PG
    found_PG = sorted_PG * below_PG - sums_PG
    return found_PG.gather(-1, order_PG.argsort(-1)).to(rewards_PG.dtype)


# ------------------------------------------------------------------ rows that count successes


def rl2ml(
    rewards_PG: Tensor,
    *,
    alpha: float | str = 1.0,
    estimator: str = "zero_sum",
    baseline: float | str = 1.0,
    metric: str = "pass@8",
    score_noise: float = 0.25,
) -> Tensor:
    """One slider from RL (alpha 0: RLOO) over maximum likelihood (1: MaxRL) to rarer successes (> 1).

    w(p) = sum_{k<T} (alpha)_k / k! (1-p)^k, the first T terms of p^-alpha; T = G, or G - 1 for zero_sum.
    With alpha "auto" the trainer chooses it before each step for `metric`, given `score_noise`
    (`analysis.best_alpha`), and with baseline "optimal" the constant with the least noise.
    """
    if isinstance(alpha, str) or isinstance(baseline, str):
        raise WorkbenchError(
            "alpha 'auto' and baseline 'optimal' are chosen by the trainer while a run goes on; here give "
            "numbers, such as those of analysis.best_alpha and analysis.optimal_baseline."
        )
    return weighted(rewards_PG, lambda n: weights.gamma_ratio(n, alpha), estimator, baseline)


def power(
    rewards_PG: Tensor,
    *,
    alpha: float = 1.0,
    estimator: str = "zero_sum",
    baseline: float = 1.0,
) -> Tensor:
    """The weight of a success is (n / K)^alpha: rl2ml with a plain power for its product.

    n = G, or G - 1 for zero_sum. For alpha > 1 the rarest successes count more than in rl2ml, between 0
    and 1 less.
    """
    return weighted(rewards_PG, lambda n: weights.power_ratio(n, alpha), estimator, baseline)


def geometric(
    rewards_PG: Tensor,
    *,
    ratio: float = 1.0,
    estimator: str = "zero_sum",
    baseline: float = 1.0,
) -> Tensor:
    """w(p) = sum_k (ratio (1-p))^k: ratio 0 is RLOO, 1 is MaxRL, above 1 goes beyond."""
    return weighted(rewards_PG, lambda n: weights.geometric_sum(n, ratio), estimator, baseline)


def bernstein(
    rewards_PG: Tensor,
    *,
    beta: tuple[float, ...] = (3.0, 1.5, 1.0, 0.5),
    estimator: str = "zero_sum",
    baseline: float = 1.0,
) -> Tensor:
    """Your own objective: draw w(p) by its handles, from the hardest prompts (left) to the easiest.

    w(p) = sum_m beta_m B_{m,n-1}(p) for n handles, exactly, at every G of at least n (n + 1 for zero_sum).
    """
    handles = tuple(float(value) for value in beta)
    return weighted(rewards_PG, lambda n: weights.elevate(handles, n), estimator, baseline)


def passk_training(rewards_PG: Tensor, *, k: int = 4) -> Tensor:
    """Pass@k as the reward of a random subset of k, divided by its standard deviation.

    Successes and failures share the advantages of the subsets they fall into, in closed form. Without the
    division this would be pass@k's gradient times (1 - k/G) / k; with it, another function of K.
    """
    group = rewards_PG.shape[-1]
    success_K, failure_K = np.zeros(group + 1), np.zeros(group + 1)
    for wins in range(group + 1):
        missed = math.comb(group - wins, k) / math.comb(group, k)  # a subset without a success
        spread = math.sqrt(missed * (1 - missed)) + EPSILON
        success_K[wins] = missed / spread
        if wins < group:
            others = math.comb(group - wins - 1, k - 1) / math.comb(group - 1, k - 1)
            failure_K[wins] = (missed - others) / spread
    return counted(rewards_PG, success_K, failure_K)


def differential_smoothing(
    rewards_PG: Tensor, *, mean_logprobs_PG: Tensor, strength: float = 0.05
) -> Tensor:
    """GRPO that lifts unlikely successes and presses unlikely failures: spread what is right only.

    A_i = GRPO_i - strength (2 r_i - 1) * mean log-prob of rollout i, as recorded while sampling: minus it
    for a success, plus it for a failure; rewards between are our straight line between the two.
    """
    check_unit(rewards_PG)
    smoothing_PG = strength * (2 * rewards_PG - 1) * mean_logprobs_PG
    return grpo(rewards_PG, std="population") - smoothing_PG


# ------------------------------------------------------------------ the table


def _estimator_group(arguments: dict[str, Any]) -> int:
    """One more where alpha is to be chosen: in the smallest group it has no effect."""
    return 1 + (arguments["estimator"] == "zero_sum") + (arguments.get("alpha") == "auto")


ESTIMATOR = Param(
    "estimator",
    "zero_sum",
    "zero_sum: RLOO times a factor, quietest, one order lower. direct: successes only. "
    "score_baseline: direct minus a constant.",
    choices=("zero_sum", "direct", "score_baseline"),
)
BASELINE = Param("baseline", 1.0, "The constant of score_baseline.", low=-10.0, high=10.0)
METRICS = ("pass@1", "pass@4", "pass@8", "pass@16", "pass@64", "log p")
DERIVED = "derived here, after RL2ML (Zheng 2026, arXiv 2605.30154)"

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
        formula=r"A_i = \frac{r_i - \bar r}{\bar r}",
        source="Tajwar et al. 2026, MaxRL (arXiv 2602.02710), algorithm 1 and eq. 10",
        params=(
            Param(
                "form",
                "deployed",
                "A group without success: no update (deployed), or -1 for each of its rollouts (full).",
                choices=("deployed", "full"),
            ),
        ),
        min_group=2,
        bounds=(0.0, math.inf),
    ),
    "rl2ml": Variant(
        rl2ml,
        formula=(
            r"\begin{gathered}A_i = \tfrac{G}{G-1}(r_i-\bar r)\,\psi(K)"
            r"\\ \psi(K)=\prod_{j=K}^{G-2}\tfrac{j+\alpha}{j}\end{gathered}"
        ),
        source="Zheng 2026, RL2ML (arXiv 2605.30154): a reconstruction, its text was not accessible",
        params=(
            Param(
                "alpha", 1.0, "0: RLOO, 1: MaxRL; higher: rare successes count more; auto: chosen.",
                low=-0.9, high=4.0, words=("auto",),
            ),
            ESTIMATOR,
            Param(
                "baseline", 1.0, "The constant of score_baseline; optimal: the one with least noise.",
                low=-10.0, high=10.0, words=("optimal",),
            ),
            Param("metric", "pass@8", "What alpha auto is chosen for.", choices=METRICS),
            Param(
                "score_noise", 0.25,
                "For auto and optimal: trace of a score's variance, in units where |grad p|^2 is (p(1-p))^2.",
                low=0.0, high=10.0,
            ),
        ),
        min_group=_estimator_group,
        bounds=(0.0, 1.0),
    ),
    "power": Variant(
        power,
        formula=r"w(p)=\mathbb{E}\big[(n/(1+m))^{\alpha}\big],\quad m\sim\mathrm{Bin}(n-1,p)",
        source=DERIVED,
        params=(
            Param("alpha", 1.0, "0: RLOO, 1: MaxRL.", low=-0.9, high=4.0), ESTIMATOR, BASELINE,
        ),
        min_group=_estimator_group,
        bounds=(0.0, 1.0),
    ),
    "geometric": Variant(
        geometric,
        formula=r"w(p)=\textstyle\sum_{k<n}(\lambda(1-p))^k",
        source=DERIVED,
        params=(
            Param("ratio", 1.0, "Lambda; 0: RLOO, 1: MaxRL.", low=0.0, high=2.0),
            ESTIMATOR,
            BASELINE,
        ),
        min_group=_estimator_group,
        bounds=(0.0, 1.0),
    ),
    "bernstein": Variant(
        bernstein,
        formula=r"w(p)=\textstyle\sum_m \beta_m \binom{n-1}{m}p^m(1-p)^{n-1-m}",
        source="theorem 2.1 of RL2ML (Zheng 2026, arXiv 2605.30154), as cited by others",
        params=(
            Param("beta", (3.0, 1.5, 1.0, 0.5), "Handles of w(p), from p = 0 to p = 1."),
            ESTIMATOR,
            BASELINE,
        ),
        min_group=lambda arguments: len(arguments["beta"]) + _estimator_group(arguments) - 1,
        bounds=(0.0, 1.0),
    ),
    "pkpo": Variant(
        pkpo,
        formula=(
            r"A_i=\tfrac{G}{\binom{G}{k}}\textstyle\sum_{I\ni i,|I|=k}"
            r"\big(\max_I r-\max_{I\setminus i}r\big)"
        ),
        source="Walder and Karkhanis 2025, PKPO (arXiv 2505.15201); formula derived again here",
        params=(Param("k", 8, "The k of pass@k; at most group_size.", low=1, high=64),),
        min_group=lambda arguments: arguments["k"],
    ),
    "passk_training": Variant(
        passk_training,
        formula=(
            r"\begin{gathered}A_+=\tfrac{1-R}{\sigma},\quad "
            r"A_-=\tfrac{1}{\sigma}\Big(1-R-\tfrac{\binom{G-K-1}{k-1}}{\binom{G-1}{k-1}}\Big)"
            r"\\ R=1-\tbinom{G-K}{k}/\tbinom{G}{k},\ \sigma=\sqrt{R(1-R)}\end{gathered}"
        ),
        source="Chen et al. 2025, Pass@k training (arXiv 2508.10751) and its released code",
        params=(Param("k", 4, "The k of pass@k; below group_size.", low=1, high=64),),
        min_group=lambda arguments: arguments["k"] + 1,
        bounds=(0.0, 1.0),
    ),
    "differential_smoothing": Variant(
        differential_smoothing,
        formula=r"A_i = \mathrm{GRPO}_i - \tau(2r_i-1)\,\tfrac{1}{T_i}\textstyle\sum_t\log\pi(y_{it})",
        source="Gai et al. 2025, Differential smoothing, as in the released code of MaxRL",
        params=(Param("strength", 0.05, "Tau.", low=0.0, high=1.0),),
        min_group=2,
        bounds=(0.0, 1.0),
        needs=("mean_logprobs_PG",),
    ),
}  # fmt: skip
