"""What an objective does to training, worked out from the row itself: exact, and without training.

An objective that sees of a group of N rollouts only how many succeeded, K, is two lists of numbers:

    ghat = a(K) * (sum of S_i over successes) + b(K) * (sum of S_i over failures)

is its estimate of the gradient from one group, S_i the gradient of rollout i's log-probability.
`coefficients` finds a and b by calling the row on the N + 1 possible groups; all else follows, so that a
new row gets its analysis for free. p is a prompt's success probability, q = 1 - p, g = grad p, s = |g|^2;
the default s = (p q)^2 belongs to a policy whose only parameter is the logit of p. Score noise is the
trace of Cov(S) among successes or among failures, in the unit of s (squared gradients).

RL2ML (arXiv 2605.30154) announces such an analysis, but its body was not accessible: "derived" means
derived for this package, "reconstruction" our reading of a quantity that the paper names.
tests/test_analysis.py checks it all by enumerating every group of a small policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench import bernstein
from workbench.objectives import ESTIMATOR, OBJECTIVES
from workbench.variants import Variant, WorkbenchError, lookup

Array = NDArray[np.float64]
Objective = str | Callable[..., Any]  # a name of the table, a Variant or the user's own function
TOLERANCE = 1e-9  # relative difference below which two advantages are the same number


def coefficients(objective: Objective, N: int, **params: Any) -> tuple[Array, Array]:
    """a(K) and b(K), K = 0..N: two arrays (N + 1), advantages divided by N; a[0] and b[N] are 0.

    Calls the objective in float64. Raises WorkbenchError for one that is not a function of K alone, for
    unknown parameters and for an N too small. Source: derived.
    """
    import torch

    name, function = _resolve(objective, N, params)
    rewards_PG = torch.ones(N + 1, N, dtype=torch.float64).tril(
        -1
    )  # row K: K successes, then failures
    first_PG = _call(name, function, rewards_PG, params)
    # Again in another order and beside one more group: neither may matter.
    others_PG = torch.cat([rewards_PG, rewards_PG[:1]]).flip(-1)
    second_PG = np.flip(_call(name, function, others_PG, params), -1)[: N + 1]
    success_PG = rewards_PG.numpy() == 1
    a, b = first_PG[:, 0] * success_PG[:, 0], first_PG[:, -1] * ~success_PG[:, -1]
    expected_PG = np.where(success_PG, a[:, None], b[:, None])
    for found_PG in (first_PG, second_PG):
        if (np.abs(found_PG - expected_PG) > TOLERANCE * (1 + np.abs(expected_PG))).any():
            raise WorkbenchError(
                f"Objective {name!r} is not a function of the number of successes in a group, so it has "
                "no population weight; choose one that gives equal rewards equal advantages."
            )
    return a / N, b / N


def _resolve(
    objective: Objective, N: int, params: dict[str, Any]
) -> tuple[str, Callable[..., Any]]:
    if not 1 <= N == int(N):
        raise WorkbenchError(f"N is {N!r}; give a whole number of rollouts per group, 1 or more.")
    row = lookup(OBJECTIVES, "objective", objective) if isinstance(objective, str) else objective
    if not isinstance(row, Variant):
        return getattr(row, "__name__", "given"), row
    name = objective if isinstance(objective, str) else row.function.__name__
    row.check(name, params)
    if row.needs:
        raise WorkbenchError(
            f"Objective {name!r} also looks at {', '.join(row.needs)}, not only at the number of "
            "successes, so it has no population weight; choose one that sees rewards alone."
        )
    needed = row.group_needed(params)
    if needed > N:
        raise WorkbenchError(f"Objective {name!r} needs {needed} rollouts or more; N is {N}.")
    return name, row


def _call(
    name: str, function: Callable[..., Any], rewards_PG: Any, params: dict[str, Any]
) -> Array:
    found_PG = function(rewards_PG.clone(), **params)
    if getattr(found_PG, "shape", None) != rewards_PG.shape or not bool(found_PG.isfinite().all()):
        raise WorkbenchError(
            f"Objective {name!r} must return one finite advantage per reward, a tensor of shape (P, G); "
            "check it at groups without a success and without a failure."
        )
    return found_PG.detach().double().numpy()


def _beta(a: Array, b: Array) -> Array:
    """Bernstein coefficients of w: beta_m = N (a(m+1) - b(m)), m = 0..N-1, along the last axis."""
    return (a.shape[-1] - 1) * (a[..., 1:] - b[..., :-1])


def _binomial(n: int, p: Array) -> Array:
    """P(K = m) of n rollouts, shape (n + 1, *p.shape): a rollout at a time, stable for any n."""
    found = np.zeros((n + 1, *p.shape))
    found[0] = 1.0
    for size in range(1, n + 1):
        found[1 : size + 1] = found[1 : size + 1] * (1 - p) + found[:size] * p
        found[0] *= 1 - p
    return found


def _probabilities(p: ArrayLike) -> Array:
    found = np.asarray(p, dtype=np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise WorkbenchError("A success probability lies outside 0 to 1; give p from 0 to 1.")
    return found


def population_weight(objective: Objective, N: int, p: ArrayLike, **params: Any) -> Array:
    """w(p), array like p: the expected update is w(p) grad p, exactly, at this N.

    w(p) = sum_m beta_m B_{m,N-1}(p), beta_m = N (a(m+1) - b(m)). Errors as `coefficients`; p from 0 to 1.
    Source: derived, E[r_1 S_1 a(K)] = g E[a(1 + successes of the others)] and likewise for b.
    """
    return bernstein.weight(_beta(*coefficients(objective, N, **params)), _probabilities(p))


def utility(objective: Objective, N: int, **params: Any) -> Array:
    """rho(K), K = 0..N: what a group of K successes is worth; E[rho(K)] is climbed, rho(0) = 0.

    rho(K) = (beta_0 + ... + beta_{K-1}) / N, so the mean of rho(K) - rho(N) over groups estimates
    `surrogate` without bias. Errors as `coefficients`. Source: derived.
    """
    return np.append(0.0, np.cumsum(_beta(*coefficients(objective, N, **params))) / N)


def surrogate(objective: Objective, N: int, p: ArrayLike, **params: Any) -> Array:
    """J(p), array like p: the function of p that training climbs; J' = w and J(1) = 0.

    The integral of a Bernstein polynomial is again one: J(p) = E[rho(K)] - rho(N). Errors as
    `population_weight`. Source: derived.
    """
    rho = utility(objective, N, **params)
    return bernstein.weight(rho - rho[-1], _probabilities(p))


def update_scale(objective: Objective, N: int, **params: Any) -> Array:
    """omega(K), K = 0..N: how far a group with K successes moves along its mean success score.

    Of the form of the same objective that uses successes only: omega(K) = K beta_{K-1} / N, and
    E[omega(K)] = p w(p). Increasing: groups already solved move most. Flat from K = 1: maximum
    likelihood. Decreasing: rare successes move most. Errors as `coefficients`. Source: reconstruction.
    """
    return np.arange(N + 1) * np.append(0.0, _beta(*coefficients(objective, N, **params)) / N)


def variance(
    objective: Objective,
    N: int,
    p: ArrayLike,
    *,
    slope2: ArrayLike | None = None,
    noise_success: ArrayLike = 0.0,
    noise_failure: ArrayLike | None = None,
    **params: Any,
) -> Array:
    """Trace of the covariance of ghat, array like p, in the unit of slope2 = |grad p|^2.

    E[A^2/K] noise_success + E[B^2/(N-K)] noise_failure + Var(A/p - B/q) slope2, with A = K a(K) and
    B = (N-K) b(K). Defaults: slope2 (p q)^2, noise_failure as noise_success. p strictly between 0 and 1,
    other errors as `coefficients`. Source: derived (law of total covariance over K).
    """
    a, b = coefficients(objective, N, **params)
    p = _probabilities(p)
    if ((p == 0) | (p == 1)).any():
        raise WorkbenchError(
            "A success probability is 0 or 1; give p strictly between for a variance."
        )
    scale = 1.0 if slope2 is None else np.asarray(slope2) / (p * (1 - p)) ** 2
    K, chances = np.arange(N + 1), _binomial(N, p)
    found = np.tensordot(K * a**2, chances, axes=1) * noise_success
    noise_failure = noise_success if noise_failure is None else noise_failure
    found = found + np.tensordot((N - K) * b**2, chances, axes=1) * noise_failure
    moves = np.multiply.outer(K * a, 1 - p) - np.multiply.outer((N - K) * b, p)
    moves = moves - (chances * moves).sum(0)
    return found + (chances * moves**2).sum(0) * scale


def metric_slope(metric: str, p: ArrayLike) -> Array:
    """M'(p), array like p, of the metric "pass@k", k (1-p)^(k-1), any k >= 1, or "log p", 1/p.

    "log p" at 0 is infinite. Raises WorkbenchError for another metric.
    """
    p = _probabilities(p)
    found = re.fullmatch(r"pass@([1-9][0-9]*)", str(metric))
    if found:
        return int(found[1]) * (1 - p) ** (int(found[1]) - 1)
    if metric != "log p":
        raise WorkbenchError(
            f"Unknown metric {metric!r}; give 'pass@1', 'pass@8' (any k) or 'log p'."
        )
    with np.errstate(divide="ignore"):
        return 1 / p


class _Prompts:
    """Means over prompts that the gain needs, one per K: a whole family then costs one product.

    With s = (p q)^2, E|ghat|^2 = E[A^2/K + B^2/(N-K)] noise + E[(A q - B p)^2]: fine at p = 0 and 1 too.
    """

    def __init__(self, p: ArrayLike, N: int, weights: ArrayLike | None, noise: float) -> None:
        p = self.p = _probabilities(p).ravel()
        share = np.ones_like(p) if weights is None else np.asarray(weights, dtype=float).ravel()
        if share.shape != p.shape or not (share >= 0).all() or not 0 < share.sum() < np.inf:
            raise WorkbenchError("Give one weight of at least 0 per p, with a positive sum.")
        if not 0 <= noise < np.inf:
            raise WorkbenchError(f"score_noise is {noise!r}; give a number of 0 or more.")
        share = self.share = share / share.sum()
        self.others = _binomial(N - 1, p)
        K, chances = np.arange(N + 1), _binomial(N, p)
        self.aa = K * noise * (chances @ share) + K**2 * (chances @ (share * (1 - p) ** 2))
        self.bb = (N - K) * noise * (chances @ share) + (N - K) ** 2 * (chances @ (share * p**2))
        self.ab = -K * (N - K) * (chances @ (share * p * (1 - p)))

    def slope(self, metric: str) -> Array:
        """E_x[M'(p) s B_{m,N-1}(p)], m = 0..N-1; p of 0 or 1 has s = 0 and adds nothing."""
        inside = (self.p > 0) & (self.p < 1)
        p, share = self.p[inside], self.share[inside]
        return self.others[:, inside] @ (share * metric_slope(metric, p) * (p * (1 - p)) ** 2)

    def product(self, a: Array, b: Array, c: Array, d: Array) -> Array:
        """E[ghat(a, b) . ghat(c, d)], over the last axis."""
        return (self.aa * a * c + self.bb * b * d + self.ab * (a * d + b * c)).sum(-1)

    def gain(self, a: Array, b: Array, slope: Array) -> Array:
        cost = self.product(a, b, a, b)
        return np.divide((_beta(a, b) @ slope) ** 2, cost, out=np.zeros_like(cost), where=cost > 0)

    def quietest(self, a: Array, b: Array) -> Array:
        """The constant that, taken from a and b, makes E|ghat|^2 least; the mean of ghat stays."""
        one = np.ones(a.shape[-1])
        return self.product(a, b, one, one) / self.product(one, one, one, one)


def metric_gain(
    objective: Objective,
    metric: str,
    /,
    p_samples: ArrayLike,
    N: int,
    *,
    weights: ArrayLike | None = None,
    score_noise: float = 0.25,
    **params: Any,
) -> float:
    """R = G1^2 / C: how much of the metric a step can win, at the step length best for the objective.

    G1 = E_x[M'(p) w(p) s], C = E_x[w(p)^2 s + tr Cov(ghat)], s = (p q)^2, one prompt per step, prompts that
    do not interfere. Only ratios of R mean something; a factor on the objective does not change it.
    p_samples: success probabilities of prompts, 0 and 1 allowed (no slope, but score noise costs);
    weights: how much each counts, any sum. Errors as `coefficients` and `metric_slope`. Source: derived;
    RL2ML names a calibrated metric gain (reconstruction).
    """
    a, b = coefficients(objective, N, **params)
    prompts = _Prompts(p_samples, N, weights, score_noise)
    return float(prompts.gain(a, b, prompts.slope(metric)))


def best_alpha(
    metric: str,
    p_samples: ArrayLike,
    N: int,
    *,
    weights: ArrayLike | None = None,
    estimator: str = "zero_sum",
    score_noise: float = 0.25,
    low: float = -0.5,
    high: float = 3.0,
) -> float:
    """The alpha of objective rl2ml, from low to high, with the largest `metric_gain`, to 1e-3.

    estimator score_baseline gives each alpha its own `optimal_baseline`. Raises WorkbenchError where the
    metric has no slope at any p. Source: derived; RL2ML chooses so, our formula is a reconstruction.
    """
    ESTIMATOR.check("best_alpha", estimator)
    if not (-1 < low < high and N + (estimator != "zero_sum") >= 2):
        raise WorkbenchError("Give -1 < low < high, and N of at least 2 for zero_sum (else 1).")
    prompts = _Prompts(p_samples, N, weights, score_noise)
    slope = prompts.slope(metric)
    if not slope.any():
        raise WorkbenchError(f"{metric} has no slope at any of these p; give some between 0 and 1.")
    slope = slope / slope.max()  # R is only compared; the square of a tiny slope would be 0
    left, right = low, high
    for size in (36, 12, 12, 12, 12):  # each round looks closer around the best of the last
        alphas = np.linspace(left, right, size)
        best = int(prompts.gain(*_family(alphas, N, estimator, prompts), slope).argmax())
        left, right = alphas[max(best - 1, 0)], alphas[min(best + 1, size - 1)]
    return float(alphas[best])


def _family(alphas: Array, N: int, estimator: str, prompts: _Prompts) -> tuple[Array, Array]:
    """a and b of the rl2ml rows, shape (alphas, N + 1)."""
    n = N - 1 if estimator == "zero_sum" else N
    factor = np.stack([bernstein.gamma_ratio(n, float(alpha)) for alpha in alphas])
    a, b = np.zeros((2, len(alphas), N + 1))
    if estimator == "zero_sum":
        K = np.arange(1, N)
        a[:, 1:N], b[:, 1:N] = factor * (N - K) / (N * n), -factor * K / (N * n)
        return a, b
    a[:, 1:] = factor / N
    if estimator == "score_baseline":
        shift = prompts.quietest(a, b)[:, None]
        return a - shift, b - shift
    return a, b


def optimal_baseline(
    p_samples: ArrayLike,
    N: int,
    alpha_or_beta: float | ArrayLike,
    *,
    weights: ArrayLike | None = None,
    score_noise: float = 0.25,
) -> float:
    """The constant c to take from every advantage of a direct estimator: least expected tr Cov.

    The expected update stays, as long as c is not computed from the same group. One number is the alpha
    of rl2ml, N numbers are the Bernstein coefficients of any w. With s = (p q)^2,
    c = E_x[p w noise + (w/p + w') s] / E_x[noise + s / (p q)]. Arguments and errors as `metric_gain`.
    Source: derived; MaxRL (arXiv 2602.02710), equation 10, is alpha = 1 with c = 1.
    """
    prompts = _Prompts(p_samples, N, weights, score_noise)
    beta = np.asarray(alpha_or_beta, dtype=float)
    if beta.ndim == 0 and beta > -1:
        beta = bernstein.gamma_ratio(N, float(beta))
    if beta.shape != (N,):
        raise WorkbenchError(
            f"Give optimal_baseline an alpha above -1 or the N = {N} numbers of beta."
        )
    if score_noise == 0 and not ((prompts.p > 0) & (prompts.p < 1)).any():
        raise WorkbenchError("Nothing varies at these success rates; give some p between 0 and 1.")
    return float(N * prompts.quietest(np.append(0.0, beta) / N, np.zeros(N + 1)))
