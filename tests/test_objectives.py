"""Each objective by hand-worked numbers, and its expected gradient by enumerating every group."""

import itertools
import math

import pytest
import torch

from workbench.objectives import OBJECTIVES
from workbench.variants import WorkbenchError

GROUP = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("name", "params", "first", "second"),
    [
        ("reinforce", {}, [1, 0, 0, 0], [1, 1, 1, 0]),
        # mean of the other three: 0 for the success, 1/3 for the failures; 2/3 and 1 in group two
        ("rloo", {}, [1, -1 / 3, -1 / 3, -1 / 3], [1 / 3, 1 / 3, 1 / 3, -1]),
        # mean 1/4; sample variance (9 + 3) / 16 / 3 = 1/4, so std 1/2
        ("grpo", {}, [1.5, -0.5, -0.5, -0.5], [0.5, 0.5, 0.5, -1.5]),
        # population variance 3/16: std sqrt(3)/4
        ("grpo", {"std": "population"}, [3**0.5] + [-(3**-0.5)] * 3, [3**-0.5] * 3 + [-(3**0.5)]),
        ("dr_grpo", {}, [0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75]),
        # (r - mean) / mean with means 1/4 and 3/4
        ("maxrl", {}, [3, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1]),
    ],
)
def test_advantages_by_hand(name, params, first, second):
    advantages_PG = OBJECTIVES[name](GROUP, **params)
    expected_PG = torch.tensor([first, second, [0.0] * 4], dtype=torch.float32)
    torch.testing.assert_close(advantages_PG, expected_PG, atol=1e-5, rtol=0)


def expected_gradient(name: str, group: int, params: dict) -> tuple[float, float]:
    """(E[estimator . direction], dp/dx) of a Bernoulli policy p = sigmoid(x), by summing all groups.

    The score of a success is 1 - p, of a failure -p; dp/dx = p (1 - p).
    """
    p = 0.3
    total = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=group):
        rewards_PG = torch.tensor([outcome], dtype=torch.float64)
        scores_PG = rewards_PG - p
        probability = (rewards_PG * p + (1 - rewards_PG) * (1 - p)).prod().item()
        estimate = (OBJECTIVES[name](rewards_PG, **params) * scores_PG).sum().item() / group
        total += probability * estimate
    return total, p * (1 - p)


@pytest.mark.parametrize("group", [2, 3, 6])
def test_expected_gradient_is_the_stated_weight_times_the_gradient_of_p(group):
    q = 0.7
    weights = {
        "reinforce": 1.0,
        "rloo": 1.0,
        "dr_grpo": (group - 1) / group,
        "maxrl": (1 - q ** (group - 1)) / 0.3,
    }
    for name, weight in weights.items():
        mean, slope = expected_gradient(name, group, {})
        assert mean == pytest.approx(weight * slope, abs=1e-10), name


@pytest.mark.parametrize("group", [2, 3, 6])
def test_expected_gradient_of_grpo_is_the_bernstein_sum_of_its_factor(group):
    """grpo is rloo times (G-1)/sqrt(K(G-K)): w(p) = sum_m psi(m+1) Binomial(m; G-2, p)."""
    p, n = 0.3, group - 2
    weight = sum(
        (group - 1)
        / ((m + 1) * (group - m - 1)) ** 0.5
        * math.comb(n, m)
        * p**m
        * (1 - p) ** (n - m)
        for m in range(n + 1)
    )
    mean, slope = expected_gradient("grpo", group, {"std": "population"})
    assert mean == pytest.approx(weight * slope, rel=1e-5)
    mean, _ = expected_gradient("grpo", group, {"std": "sample"})
    assert mean == pytest.approx(((group - 1) / group) ** 0.5 * weight * slope, rel=1e-5)


def test_advantages_of_group_relative_rows_sum_to_zero_and_vanish_without_spread():
    rewards_PG = torch.tensor([[0.2, 0.9, 0.4], [0.1, 0.1, 0.1]])  # 0.1 * 3 / 3 is not 0.1 in fp32
    for name in ("rloo", "grpo", "dr_grpo", "maxrl"):
        advantages_PG = OBJECTIVES[name](rewards_PG)
        assert advantages_PG[0].sum().abs() < 1e-5, name
        assert torch.equal(advantages_PG[1], torch.zeros(3)), name


def test_maxrl_refuses_negative_rewards_with_a_way_out():
    with pytest.raises(WorkbenchError, match="needs rewards of at least 0.*choose 'rloo'"):
        OBJECTIVES["maxrl"](torch.tensor([[1.0, -0.5]]))


def group_of(wins, size):
    return torch.tensor([[1.0] * wins + [0.0] * (size - wins)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("alpha", "success", "failure"),
    [  # G = 8, K = 1..7: 8/7 (r - K/8) psi(K), worked out with 5 digits
        (
            0.5,
            [2.93262, 1.67578, 1.11719, 0.76607, 0.51071, 0.30952, 0.14286],
            [-0.41895, -0.55859, -0.67031, -0.76607, -0.85119, -0.92857, -1],
        ),
        (1.0, [7, 3, 1.66667, 1, 0.6, 0.33333, 0.14286], [-1] * 7),
        (
            1.5,
            [14.66309, 5.02734, 2.39397, 1.27679, 0.69643, 0.35714, 0.14286],
            [-2.09473, -1.67578, -1.43638, -1.27679, -1.16071, -1.07143, -1],
        ),
        (
            2.0,
            [28, 8, 3.33333, 1.6, 0.8, 0.38095, 0.14286],
            [-4, -2.66667, -2, -1.6, -1.33333, -1.14286, -1],
        ),
    ],
)
def test_zero_sum_advantages_of_rl2ml_by_hand(alpha, success, failure):
    for wins in range(1, 8):
        found_PG = OBJECTIVES["rl2ml"](group_of(wins, 8), alpha=alpha)
        assert found_PG[0, 0].item() == pytest.approx(success[wins - 1], abs=6e-6)
        assert found_PG[0, -1].item() == pytest.approx(failure[wins - 1], abs=6e-6)


def test_rl2ml_meets_its_special_cases():
    groups = torch.cat([group_of(wins, 8) for wins in range(9)])
    rl2ml = OBJECTIVES["rl2ml"]
    pairs = [
        (rl2ml(groups, alpha=0.0), OBJECTIVES["rloo"](groups)),
        (rl2ml(groups, alpha=1.0), OBJECTIVES["maxrl"](groups)),
        (rl2ml(groups, alpha=0.0, estimator="direct"), OBJECTIVES["reinforce"](groups)),
        (
            rl2ml(groups, alpha=1.0, estimator="score_baseline", baseline=1.0),
            OBJECTIVES["maxrl"](groups, form="full"),
        ),
        (OBJECTIVES["power"](groups, alpha=1.0), OBJECTIVES["maxrl"](groups)),
        (OBJECTIVES["geometric"](groups, ratio=1.0), OBJECTIVES["maxrl"](groups)),
        (OBJECTIVES["bernstein"](groups, beta=[1.0]), OBJECTIVES["rloo"](groups)),
        (OBJECTIVES["pkpo"](groups, k=1), OBJECTIVES["reinforce"](groups)),
    ]
    for mine, known in pairs:
        torch.testing.assert_close(mine, known, atol=2e-5, rtol=0)


def test_full_maxrl_keeps_its_baseline_where_nothing_succeeds():
    assert OBJECTIVES["maxrl"](group_of(0, 3), form="full").tolist() == [[-1.0, -1.0, -1.0]]
    assert OBJECTIVES["maxrl"](group_of(0, 3)).tolist() == [[0.0, 0.0, 0.0]]
    assert OBJECTIVES["maxrl"](group_of(1, 4), form="full").tolist() == [[3.0, -1.0, -1.0, -1.0]]


def test_the_trainers_words_are_refused_as_numbers():
    for words in ({"alpha": "auto"}, {"estimator": "score_baseline", "baseline": "optimal"}):
        with pytest.raises(WorkbenchError, match="chosen by the trainer"):
            OBJECTIVES["rl2ml"](group_of(1, 4), **words)


def test_pkpo_is_what_a_rollout_adds_to_the_best_of_k():
    """Against every subset, with rewards that repeat and are negative."""
    rewards = torch.tensor([[0.3, 0.9, 0.9, -1.0, 0.2]], dtype=torch.float64)
    for k in (2, 3, 5):
        found = OBJECTIVES["pkpo"](rewards, k=k)[0]
        for i in range(5):
            gain = 0.0
            for subset in itertools.combinations(range(5), k):
                if i in subset:
                    rest = [j for j in subset if j != i]
                    gain += rewards[0, list(subset)].max() - rewards[0, rest].max()
            assert found[i].item() == pytest.approx(float(gain) * 5 / math.comb(5, k), abs=1e-12)


def pass_at(k, p):
    return 1 - (1 - p) ** k


def mean_update(advantages_of, group, p):
    """E[estimator . direction] and dp/dx of a Bernoulli policy p = sigmoid(x), summed over all groups."""
    total = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=group):
        rewards_PG = torch.tensor([outcome], dtype=torch.float64)
        chance = (rewards_PG * p + (1 - rewards_PG) * (1 - p)).prod().item()
        total += chance * (advantages_of(rewards_PG) * (rewards_PG - p)).sum().item() / group
    return total, p * (1 - p)


def one_more_leave_one_out(rewards_PG, k):
    """A step of published code: each weighted reward less the mean of the others'."""
    group = rewards_PG.shape[1]
    failures = int(group - rewards_PG.sum())
    weighted = k * rewards_PG * math.comb(failures, k - 1) / math.comb(group - 1, k - 1)
    return (group * weighted - weighted.sum()) / (group - 1)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.6])
def test_pkpo_is_unbiased_for_pass_at_k_and_one_more_leave_one_out_step_is_not(p):
    group, k = 8, 4
    mean, slope = mean_update(lambda r: OBJECTIVES["pkpo"](r, k=k), group, p)
    exact = k * (1 - p) ** (k - 1)
    assert mean == pytest.approx(exact * slope, abs=1e-12)
    wrong, _ = mean_update(lambda r: one_more_leave_one_out(r, k), group, p)
    bias = {0.1: 1.05, 0.3: 1.18, 0.6: 1.64}[p]
    assert wrong / (exact * slope) == pytest.approx(bias, abs=0.01)


def test_passk_training_by_hand_and_without_its_division_by_the_spread():
    # G = 4, k = 2, K = 1: missed = C(3,2)/C(4,2) = 1/2, sigma = 1/2; success 1/2 / 1/2 = 1;
    # failure (1/2 - C(2,1)/C(3,1)) / (1/2) = (1/2 - 2/3) * 2 = -1/3
    found = OBJECTIVES["passk_training"](group_of(1, 4), k=2)[0]
    torch.testing.assert_close(
        found, torch.tensor([1, -1 / 3, -1 / 3, -1 / 3], dtype=torch.float64), atol=1e-5, rtol=0
    )
    group, k, p = 6, 3, 0.3

    def undivided(rewards_PG):
        missed = math.comb(int(group - rewards_PG.sum()), k) / math.comb(group, k)
        spread = math.sqrt(missed * (1 - missed)) + 1e-6
        return OBJECTIVES["passk_training"](rewards_PG, k=k) * spread

    mean, slope = mean_update(undivided, group, p)
    gradient = k * (1 - p) ** (k - 1) * slope
    assert mean == pytest.approx((1 - k / group) / k * gradient, abs=1e-12)


def test_passk_training_has_no_signal_where_every_subset_holds_a_success():
    for wins in (0, 3, 4):
        found = OBJECTIVES["passk_training"](group_of(wins, 4), k=2)
        assert torch.equal(found, torch.zeros(1, 4, dtype=torch.float64)), wins


def test_differential_smoothing_lifts_unlikely_successes_and_presses_unlikely_failures():
    rewards_PG = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    logprobs_PG = torch.tensor([[-2.0, -2.0, -0.1, -0.1]])
    found = OBJECTIVES["differential_smoothing"](
        rewards_PG, mean_logprobs_PG=logprobs_PG, strength=0.05
    )
    # GRPO with the population spread 1/2 gives +-1; less 0.05 * logprob for a success, plus it for a failure
    expected = torch.tensor([[1 + 0.1, -1 - 0.1, 1 + 0.005, -1 - 0.005]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def arguments_of(name):
    """Parameters that fit groups of four, and the further tensors that a row wants."""
    fitting = {"pkpo": {"k": 2}, "passk_training": {"k": 2}, "bernstein": {"beta": (2.0, 1.0, 0.5)}}
    wanted = {"mean_logprobs_PG": torch.full((3, 4), -0.5)}
    return fitting.get(name, {}) | {key: wanted[key] for key in OBJECTIVES[name].needs}


def test_inputs_are_left_alone():
    for name, row in OBJECTIVES.items():
        before = GROUP.clone()
        row(before, **arguments_of(name)).add_(1.0)
        assert torch.equal(before, GROUP), name


def test_rows_take_what_their_bounds_say():
    """Rewards between 0 and 1 for all; outside, every row either works or says what to do."""
    soft_PG = torch.tensor([[0.2, 0.9, 0.5, 0.5]])
    wild_PG = torch.tensor([[-1.0, 2.0, 0.5, 0.0]])
    for name, row in OBJECTIVES.items():
        extra = arguments_of(name)
        extra |= {key: value[:1] for key, value in extra.items() if key.endswith("_PG")}
        assert row(soft_PG, **extra).isfinite().all(), name
        if row.bounds is None:
            assert row(wild_PG, **extra).isfinite().all(), name
        else:
            with pytest.raises(WorkbenchError, match="choose 'rloo'"):
                row(wild_PG, **extra)


def test_group_sizes_that_rows_need():
    needed = {
        ("rl2ml", "zero_sum"): 2,
        ("rl2ml", "direct"): 1,
        ("bernstein", "zero_sum"): 5,
        ("bernstein", "direct"): 4,
    }
    for (name, estimator), size in needed.items():
        assert OBJECTIVES[name].group_needed({"estimator": estimator}) == size
    assert OBJECTIVES["pkpo"].group_needed({"k": 5}) == 5
    assert OBJECTIVES["passk_training"].group_needed({}) == 5
    assert OBJECTIVES["rloo"].group_needed({}) == 2
