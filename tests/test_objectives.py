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


def test_inputs_are_left_alone():
    for row in OBJECTIVES.values():
        before = GROUP.clone()
        row(before).add_(1.0)
        assert torch.equal(before, GROUP)
