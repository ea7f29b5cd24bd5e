"""Every formula of the analysis against a softmax policy whose groups are all enumerated."""

import functools
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from workbench import analysis
from workbench.objectives import OBJECTIVES
from workbench.variants import Variant, WorkbenchError, name_of

LOGITS = (0.3, -0.7, 0.9, 0.1)
CORRECT = np.array(
    [1.0, 1.0, 0.0, 0.0]
)  # two right and two wrong answers: scores differ within both


def squared_successes(rewards_PG):
    """A user's own objective: RLOO times the squared number of successes."""
    group = rewards_PG.shape[-1]
    wins_P1 = rewards_PG.sum(-1, keepdim=True)
    return group / (group - 1) * (rewards_PG - wins_P1 / group) * wins_P1**2


ESTIMATORS = (
    {"estimator": "zero_sum"},
    {"estimator": "direct"},
    {"estimator": "score_baseline", "baseline": 0.7},
)
ROWS = [
    ("reinforce", {}),
    ("rloo", {}),
    ("dr_grpo", {}),
    ("grpo", {"std": "sample"}),
    ("grpo", {"std": "population"}),
    ("maxrl", {"form": "deployed"}),
    ("maxrl", {"form": "full"}),
    *[
        ("rl2ml", {"alpha": alpha, **how})
        for alpha in (-0.5, 0, 0.5, 1.0, 2.7)
        for how in ESTIMATORS
    ],
    *[("power", {"alpha": alpha, **how}) for alpha in (0.5, 2.0) for how in ESTIMATORS],
    *[("geometric", {"ratio": ratio, **how}) for ratio in (0.4, 1.5) for how in ESTIMATORS],
    *[("bernstein", {"beta": [2.0, -1.0, 3.0], **how}) for how in ESTIMATORS],
    ("pkpo", {"k": 1}),
    ("pkpo", {"k": 2}),
    ("pkpo", {"k": 4}),
    ("passk_training", {"k": 1}),
    ("passk_training", {"k": 3}),
    (squared_successes, {}),
]
# squared_successes: psi(K) = K^2, so w = E[(1 + m)^2] with m ~ Binomial(N - 2, p).


def every_row(test):
    names = [f"{name_of(row)}-{'-'.join(map(str, params.values()))}" for row, params in ROWS]
    return pytest.mark.parametrize(("objective", "params"), ROWS, ids=names)(test)


@functools.lru_cache
def groups(N, logits=LOGITS):
    """(rewards (V^N, N), scores (V^N, N, V), probabilities (V^N), p, grad p (V), policy (V))."""
    policy = np.exp(logits) / np.exp(logits).sum()
    scores = np.eye(4) - policy
    picks = np.array(list(itertools.product(range(4), repeat=N)))
    slope = ((policy * CORRECT)[:, None] * scores).sum(0)
    chances = policy[picks].prod(1)
    return CORRECT[picks], scores[picks], chances, policy @ CORRECT, slope, policy


def advantages(objective, rewards, params):
    row = OBJECTIVES[objective] if isinstance(objective, str) else objective
    return row(torch.from_numpy(rewards), **params).numpy()


def enumerated(objective, N, params, logits=LOGITS):
    """(mean (V), trace of the covariance) of one group's estimate, by summing all V^N groups."""
    rewards, scores, chances, *_ = groups(N, logits)
    found = np.einsum("gi,giv->gv", advantages(objective, rewards, params), scores) / N
    mean = chances @ found
    return mean, chances @ ((found - mean) ** 2).sum(1)


def noise(success, logits=LOGITS):
    """Trace of Cov(S | reward = success) of the policy."""
    policy = groups(1, logits)[-1]
    share = policy * (success == CORRECT)
    share = share / share.sum()
    scores = np.eye(4) - policy
    return share @ ((scores - share @ scores) ** 2).sum(1)


def bernoulli(N, p):
    """P(K = 0..N), from all 2^N outcomes."""
    outcomes = np.array(list(itertools.product([0, 1], repeat=N)))
    chances = np.where(outcomes == 1, p, 1 - p).prod(1)
    return np.bincount(outcomes.sum(1), weights=chances, minlength=N + 1)


def test_every_row_that_counts_successes_is_in_the_list():
    counting = {name for name, row in OBJECTIVES.items() if not row.needs}
    assert counting == {name for name, _ in ROWS if isinstance(name, str)}


@every_row
def test_expected_gradient_is_the_population_weight_times_the_gradient_of_p(objective, params):
    for N in (4, 5, 6):
        *_, p, slope, _ = groups(N)
        mean, _ = enumerated(objective, N, params)
        weight = analysis.population_weight(objective, N, p, **params)
        np.testing.assert_allclose(mean, weight * slope, atol=1e-10, rtol=1e-12)


@every_row
def test_variance_is_that_of_all_groups(objective, params):
    *_, p, slope, _ = groups(5)
    _, spread = enumerated(objective, 5, params)
    found = analysis.variance(
        objective,
        5,
        p,
        slope2=slope @ slope,
        noise_success=noise(1),
        noise_failure=noise(0),
        **params,
    )
    assert found == pytest.approx(spread, rel=1e-10)


@every_row
def test_mean_update_scale_is_p_times_the_weight(objective, params):
    for p in (0.05, 0.4, 0.9):
        scale = analysis.update_scale(objective, 6, **params)
        weight = analysis.population_weight(objective, 6, p, **params)
        assert scale[0] == 0
        assert bernoulli(6, p) @ scale == pytest.approx(p * weight, rel=1e-10, abs=1e-12)


@every_row
def test_slope_of_the_surrogate_is_the_weight(objective, params):
    """J is a polynomial of degree 6, so six-point quadrature of w gives its differences exactly."""
    nodes, shares = np.polynomial.legendre.leggauss(6)
    for low, high in ((0.0, 0.3), (0.3, 1.0)):
        middle, half = (low + high) / 2, (high - low) / 2
        weight = analysis.population_weight(objective, 6, middle + half * nodes, **params)
        ends = analysis.surrogate(objective, 6, np.array([low, high]), **params)
        assert ends[1] - ends[0] == pytest.approx(half * shares @ weight, rel=1e-10)
    assert analysis.surrogate(objective, 6, 1.0, **params) == 0
    step = 1e-5
    ends = analysis.surrogate(objective, 6, np.array([0.3 - step, 0.3 + step]), **params)
    weight = analysis.population_weight(objective, 6, 0.3, **params)
    assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(weight, rel=1e-7, abs=1e-7)


@every_row
def test_surrogate_is_the_mean_utility_of_a_group(objective, params):
    rho = analysis.utility(objective, 6, **params)
    found = analysis.surrogate(objective, 6, 0.35, **params)
    assert rho[0] == 0
    assert bernoulli(6, 0.35) @ rho - rho[6] == pytest.approx(found, rel=1e-10)


@every_row
def test_coefficients_are_those_that_the_row_uses_in_any_order(objective, params):
    a, b = analysis.coefficients(objective, 5, **params)
    rewards = np.array([[0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0]])
    found = advantages(objective, rewards, params)
    expected = [[b[3], a[3], b[3], a[3], a[3]], [b[1], a[1], b[1], b[1], b[1]]]
    np.testing.assert_allclose(found / 5, expected, rtol=1e-12, atol=1e-15)
    assert a.shape == b.shape == (6,)
    assert a[0] == 0
    assert b[5] == 0


@every_row
def test_group_relative_rows_sum_to_zero_and_are_silent_without_spread(objective, params):
    silent = ("rloo", "dr_grpo", "grpo", "passk_training", squared_successes)
    if not (
        objective in silent
        or params.get("estimator") == "zero_sum"
        or (objective == "maxrl" and params["form"] == "deployed")
    ):
        return
    a, b = analysis.coefficients(objective, 6, **params)
    K = np.arange(7)
    np.testing.assert_allclose(K * a + (6 - K) * b, 0, atol=1e-12 * (1 + np.abs(a).max()))
    assert b[0] == 0
    assert a[6] == 0


def test_weights_have_the_closed_forms_of_their_sources():
    p = np.linspace(0.05, 1, 7)
    q, weight = 1 - p, functools.partial(analysis.population_weight, N=8, p=p)
    np.testing.assert_allclose(weight("reinforce"), np.ones(7), rtol=1e-12)
    np.testing.assert_allclose(weight("rloo"), np.ones(7), rtol=1e-12)
    np.testing.assert_allclose(weight("dr_grpo"), np.full(7, 7 / 8), rtol=1e-12)
    np.testing.assert_allclose(weight("maxrl"), (1 - q**7) / p, rtol=1e-12)
    np.testing.assert_allclose(weight("maxrl", form="full"), (1 - q**8) / p, rtol=1e-12)
    # (1.5)_k / k! for k = 0..7 by hand: multiply by (k + 0.5) / k
    terms = np.cumprod([1.0] + [(k + 0.5) / k for k in range(1, 8)])
    powers = q[:, None] ** np.arange(8)
    direct = weight("rl2ml", alpha=1.5, estimator="direct")
    np.testing.assert_allclose(direct, powers @ terms, rtol=1e-12)
    np.testing.assert_allclose(weight("rl2ml", alpha=1.5), powers[:, :7] @ terms[:7], rtol=1e-12)
    direct = weight("geometric", ratio=1.5, estimator="direct")
    np.testing.assert_allclose(direct, ((1.5 * q[:, None]) ** np.arange(8)).sum(1), rtol=1e-12)
    np.testing.assert_allclose(weight("pkpo", k=3), 3 * q**2, rtol=1e-12, atol=1e-15)
    # psi(K) = K^2 with m ~ Binomial(6, p): E[(1 + m)^2] = (1 + 6p)^2 + 6pq
    expected = (1 + 6 * p) ** 2 + 6 * p * q
    np.testing.assert_allclose(weight(squared_successes), expected, rtol=1e-12)


def test_surrogates_of_known_objectives():
    p = np.array([0.0, 0.2, 0.7, 1.0])
    q = 1 - p
    np.testing.assert_allclose(analysis.surrogate("reinforce", 6, p), p - 1, atol=1e-14)
    maxrl = -sum(q**k / k for k in range(1, 7))
    np.testing.assert_allclose(analysis.surrogate("maxrl", 6, p, form="full"), maxrl, atol=1e-14)
    np.testing.assert_allclose(analysis.surrogate("pkpo", 6, p, k=4), -(q**4), atol=1e-14)
    harmonic = np.cumsum([0, 1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(analysis.utility("maxrl", 4, form="full"), harmonic, atol=1e-14)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]),
        (0.5, [0.39276, 0.52368, 0.62842, 0.71819, 0.79799, 0.87054, 0.9375, 1]),
        (1.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (1.5, [2.22565, 1.78052, 1.52616, 1.35658, 1.23326, 1.13839, 1.0625, 1]),
        (2.0, [4.5, 3, 2.25, 1.8, 1.5, 1.28571, 1.125, 1]),
    ],
)
def test_update_scale_of_the_gamma_family_by_hand(alpha, expected):
    """omega(8) = 1 and omega(K+1) / omega(K) = (K+1) / (K+alpha), for every estimator at its order."""
    for how in ESTIMATORS[1:]:
        scale = analysis.update_scale("rl2ml", 8, alpha=alpha, **how)
        np.testing.assert_allclose(scale[1:], expected, atol=6e-6)


def test_alpha_one_is_where_the_update_scale_turns_from_rising_to_falling():
    for objective in ("rl2ml", "power"):
        for alpha, sign in ((-0.5, 1), (0.0, 1), (0.9, 1), (1.0, 0), (1.1, -1), (3.0, -1)):
            scale = analysis.update_scale(objective, 16, alpha=alpha, estimator="direct")[1:]
            steps = np.diff(scale)
            assert (np.sign(np.where(np.abs(steps) < 1e-12, 0, steps)) == sign).all()


def test_variance_of_maximum_likelihood_is_that_of_the_silent_group():
    """Direct MaxRL moves by grad log p unless K = 0: variance q^N (1 - q^N) / p^2 of slope2."""
    p = np.array([0.1, 0.5])
    dead = (1 - p) ** 8
    found = analysis.variance("rl2ml", 8, p, slope2=3.0, alpha=1.0, estimator="direct")
    np.testing.assert_allclose(found, 3 * dead * (1 - dead) / p**2, rtol=1e-10)
    # the default slope2 is (p q)^2, and both noises are the same unless told
    np.testing.assert_allclose(
        analysis.variance("rloo", 8, p, noise_success=0.3),
        analysis.variance(
            "rloo", 8, p, slope2=(p - p**2) ** 2, noise_success=0.3, noise_failure=0.3
        ),
    )


def prompts(size=40):
    """Prompts with p ~ Beta(0.4, 0.8): Gauss nodes and weights, exact for polynomials to 2 size - 1."""
    from scipy.special import roots_jacobi

    nodes, weights = roots_jacobi(size, -0.2, -0.6)
    return (1 + nodes) / 2, weights


@pytest.mark.parametrize(
    ("N", "score_noise", "metric", "alpha", "ratios"),
    [
        (16, 0.0, "pass@1", 0.0, (1.00, 0.90, 0.64, 0.39, 0.25)),
        (16, 0.0, "pass@8", 1.4, (0.34, 0.68, 0.95, 0.995, 0.93)),
        (16, 0.0, "pass@64", 3.0, (0.04, 0.19, 0.48, 0.73, 0.88)),
        (16, 0.0, "log p", 1.0, (0.64, 0.90, 1.00, 0.92, 0.80)),
        (16, 0.25, "pass@1", 0.0, (1.00, 0.88, 0.60, 0.36, 0.22)),
        (16, 0.25, "pass@8", 1.3, (0.37, 0.73, 0.97, 0.98, 0.90)),
        (16, 0.25, "log p", 0.9, (0.68, 0.93, 0.99, 0.88, 0.75)),
        (8, 0.0, "pass@8", 1.7, ()),
        (8, 0.25, "pass@8", 1.6, ()),
        (8, 0.0, "log p", 0.9, ()),
        (8, 0.25, "log p", 0.8, ()),
    ],
)
def test_best_alpha_and_gains_of_the_worked_table(N, score_noise, metric, alpha, ratios):
    p, weights = prompts(60)
    given = {"weights": weights, "score_noise": score_noise}
    best = analysis.best_alpha(metric, p, N, **given)
    assert best == pytest.approx(alpha, abs=0.0501)
    top = analysis.metric_gain("rl2ml", metric, p, N, alpha=best, **given)
    for at, ratio in zip((0.0, 0.5, 1.0, 1.5, 2.0), ratios, strict=False):
        gain = analysis.metric_gain("rl2ml", metric, p, N, alpha=at, **given)
        assert gain / top == pytest.approx(ratio, abs=0.00501)


def test_a_lone_prompt_asks_only_for_the_quietest_member():
    for p in (0.02, 0.1, 0.3, 0.5, 0.8):
        find = functools.partial(analysis.best_alpha, "pass@8", [p], 16, estimator="direct")
        assert find(score_noise=0.0) == pytest.approx(1.0, abs=1e-3)
        low, high = (0.25, 0.35) if p == 0.8 else (0.45, 0.65)
        assert low < find(score_noise=1.0) < high


@pytest.mark.parametrize("estimator", ["zero_sum", "direct", "score_baseline"])
def test_best_alpha_beats_every_other_alpha_of_a_sweep(estimator):
    p, weights = np.array([0.0, 0.05, 0.3, 0.6, 1.0]), [4, 2, 1, 1, 3]
    given = {"weights": weights, "score_noise": 0.1}

    def gain(alpha):
        how = {"estimator": estimator, "alpha": alpha}
        if estimator == "score_baseline":
            how["baseline"] = analysis.optimal_baseline(p, 8, alpha, **given)
        return analysis.metric_gain("rl2ml", "pass@4", p, 8, **given, **how)

    best = analysis.best_alpha("pass@4", p, 8, estimator=estimator, **given)
    assert 0.2 < best < 2.9
    top = gain(best)
    assert all(
        top >= gain(alpha) for alpha in (*np.arange(-0.5, 3.01, 0.25), best - 0.01, best + 0.01)
    )
    edge = analysis.best_alpha("pass@4", p, 8, estimator=estimator, low=-0.3, high=0.1, **given)
    assert edge == pytest.approx(0.1)


def test_metric_gain_is_built_from_weight_and_variance():
    p, weights = np.array([0.1, 0.4, 0.8]), np.array([1.0, 2.0, 5.0])
    share, slope = weights / 8, (p * (1 - p)) ** 2
    for objective in ("grpo", "pkpo", squared_successes):
        weight = analysis.population_weight(objective, 8, p)
        first = share @ (4 * (1 - p) ** 3 * weight * slope)
        spread = analysis.variance(objective, 8, p, noise_success=0.3)
        cost = share @ (weight**2 * slope + spread)
        gain = analysis.metric_gain(objective, "pass@4", p, 8, weights=weights * 3, score_noise=0.3)
        assert gain == pytest.approx(first**2 / cost, rel=1e-10)


def test_prompts_never_or_always_solved_cost_their_score_noise_only():
    """REINFORCE at p = 1: N successes of weight 1/N, noise tau / N each way; at p = 0 nothing."""
    alone = analysis.metric_gain("reinforce", "log p", [0.5], 4, score_noise=0.2)
    slope = 1 / 16
    cost = slope + analysis.variance("reinforce", 4, 0.5, noise_success=0.2)
    assert alone == pytest.approx((2 * slope) ** 2 / cost)
    for extra, noise_there in ((0.0, 0.0), (1.0, 0.2 / 4)):
        found = analysis.metric_gain("reinforce", "log p", [0.5, extra], 4, score_noise=0.2)
        assert found == pytest.approx(slope**2 / ((cost + noise_there) / 2))


@pytest.mark.parametrize("gap", [0.0, 1.0, 3.0])
def test_optimal_baseline_makes_the_enumerated_variance_least(gap):
    """Right answers differ among themselves as wrong ones do (by gap), so both noises are the same."""
    logits = (gap, 0.0, gap + 1.0, 1.0)
    *_, p, slope, _ = groups(4, logits)
    assert noise(1, logits) == pytest.approx(noise(0, logits))
    unit = slope @ slope / (p * (1 - p)) ** 2  # the analysis takes slope2 as (p q)^2
    for row, family in (("bernstein", {"beta": [3.0, 1.0, 2.0, 0.5]}), ("rl2ml", {"alpha": 1.5})):
        given = next(iter(family.values()))
        found = analysis.optimal_baseline([p], 4, given, score_noise=noise(1, logits) / unit)
        spreads = [
            enumerated(
                row, 4, {**family, "estimator": "score_baseline", "baseline": found + step}, logits
            )[1]
            for step in (-0.01, 0.0, 0.01)
        ]
        assert spreads[0] > spreads[1] < spreads[2]
        # the variance is a parabola in c, so its least lies in the middle of equal values
        assert spreads[0] == pytest.approx(spreads[2], rel=1e-12)


def test_optimal_baseline_of_many_prompts_is_a_ratio_of_means():
    """c = E[p w noise + (w / p + w') s] / E[noise + s / (p q)], w' by a difference here."""
    ps, total = np.array([0.2, 0.7]), np.zeros(2)
    for p, share in zip(ps, (0.75, 0.25), strict=True):
        w, above, below = analysis.population_weight(
            "rl2ml", 4, np.array([p, p + 1e-6, p - 1e-6]), alpha=1.5, estimator="direct"
        )
        s = (p * (1 - p)) ** 2
        over = p * w * 0.4 + (w / p + (above - below) / 2e-6) * s
        total += share * np.array([over, 0.4 + s / (p * (1 - p))])
    found = analysis.optimal_baseline(ps, 4, 1.5, weights=[3, 1], score_noise=0.4)
    assert found == pytest.approx(total[0] / total[1], rel=1e-7)
    # with much score noise: E[omega] = p w, which for REINFORCE is p
    assert analysis.optimal_baseline([0.3], 8, 0.0, score_noise=1e6) == pytest.approx(0.3, rel=1e-5)


def test_metric_slopes():
    p = np.array([0.0, 0.25, 1.0])
    np.testing.assert_allclose(analysis.metric_slope("pass@1", p), [1, 1, 1])
    np.testing.assert_allclose(analysis.metric_slope("pass@3", p), [3, 3 * 0.75**2, 0])
    np.testing.assert_allclose(analysis.metric_slope("log p", p), [np.inf, 4, 1])
    for metric in ("pass@0", "pass@", "best@4", "pass@2.5", None):
        with pytest.raises(WorkbenchError, match="Unknown metric.*'log p'"):
            analysis.metric_slope(metric, p)


def test_objectives_that_see_more_than_the_count_are_refused():
    def first_counts_double(rewards_PG):
        advantages_PG = rewards_PG.clone()
        advantages_PG[:, 0] *= 2
        return advantages_PG

    def by_position(rewards_PG):
        return rewards_PG * torch.arange(rewards_PG.shape[1])

    def of_the_batch(rewards_PG):
        return rewards_PG - rewards_PG.mean()

    for objective in (first_counts_double, by_position, of_the_batch):
        with pytest.raises(WorkbenchError, match="not a function of the number of successes"):
            analysis.population_weight(objective, 4, 0.5)
    needy = Variant(lambda r, lengths_PG: r, formula="", source="", needs=("lengths_PG",))
    for objective in ("differential_smoothing", needy):
        with pytest.raises(WorkbenchError, match="also looks at .*_PG.*choose one"):
            analysis.coefficients(objective, 4)


def test_mistakes_are_told():
    def refuses(match, function, *given, **named):
        with pytest.raises(WorkbenchError, match=match):
            function(*given, **named)

    refuses("Unknown objective 'rlo'.*Did you mean 'rloo'", analysis.coefficients, "rlo", 4)
    refuses("Unknown parameter of grpo 'std_'", analysis.coefficients, "grpo", 4, std_=1)
    refuses("needs 2 rollouts or more; N is 1", analysis.coefficients, "rloo", 1)
    refuses("needs 8 rollouts or more; N is 4", analysis.coefficients, "pkpo", 4)
    refuses("N is 0; give a whole", analysis.coefficients, "rloo", 0)
    refuses("N is 2.5; give a whole", analysis.coefficients, "rloo", 2.5)
    refuses("chosen by the trainer", analysis.coefficients, "rl2ml", 4, alpha="auto")
    refuses("shape", analysis.coefficients, lambda r: r.sum(1), 4)
    refuses("finite", analysis.coefficients, lambda r: r / r.sum(1, keepdim=True), 4)
    refuses("from 0 to 1", analysis.population_weight, "rloo", 4, [0.5, 1.2])
    refuses("from 0 to 1", analysis.surrogate, "rloo", 4, float("nan"))
    refuses("strictly between", analysis.variance, "rloo", 4, [0.0, 0.5])
    refuses("no slope", analysis.best_alpha, "pass@1", [0.0, 1.0], 4)
    refuses("one weight", analysis.best_alpha, "pass@1", [0.5], 4, weights=[1, 2])
    refuses("one weight", analysis.metric_gain, "rloo", "pass@1", [0.5, 0.6], 4, weights=[-1, 2])
    refuses("score_noise is -1", analysis.best_alpha, "pass@1", [0.5], 4, score_noise=-1)
    refuses("estimator", analysis.best_alpha, "pass@1", [0.5], 4, estimator="zero")
    refuses("-1 < low < high", analysis.best_alpha, "pass@1", [0.5], 4, low=-1.5)
    refuses("N of at least 2", analysis.best_alpha, "pass@1", [0.5], 1)
    refuses("N = 4 numbers", analysis.optimal_baseline, [0.5], 4, [1.0, 2.0])
    refuses("alpha above -1", analysis.optimal_baseline, [0.5], 4, -1.0)
    refuses("Nothing varies", analysis.optimal_baseline, [0.0], 4, 1.0, score_noise=0.0)


def test_shapes_follow_p_and_one_rollout_is_allowed():
    p = np.full((2, 3), 0.5)
    for function in (analysis.population_weight, analysis.surrogate, analysis.variance):
        assert function("rloo", 4, p).shape == (2, 3)
        assert np.shape(function("rloo", 4, 0.5)) == ()
    assert analysis.population_weight("reinforce", 1, 0.3) == 1
    assert (
        analysis.best_alpha("pass@1", [0.3], 1, estimator="direct") <= 3
    )  # every alpha is the same


def test_large_groups_stay_exact():
    p = np.array([0.0, 1e-4, 0.5, 1.0])
    weight = analysis.population_weight("maxrl", 256, p)
    exact = [255, (1 - 0.9999**255) / 1e-4, 2 * (1 - 0.5**255), 1]
    np.testing.assert_allclose(weight, exact, rtol=1e-9)


def test_the_module_loads_without_torch():
    code = "import sys, workbench.analysis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
