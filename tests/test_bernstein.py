"""Coefficient vectors of population weights, against the sums they stand for."""

import math

import numpy as np
import pytest

from workbench.bernstein import elevate, gamma_ratio, geometric_sum, power_ratio, weight
from workbench.variants import WorkbenchError

P = np.array([0.0, 0.03, 0.3, 0.77, 1.0])


def rising(alpha, k):
    """alpha (alpha + 1) … (alpha + k - 1)."""
    return math.prod(alpha + j for j in range(k))


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [  # n = 8: Gamma(8 + a) Gamma(K) / (Gamma(8) Gamma(K + a)), worked out with 5 digits
        (0.0, [1.0] * 8),
        (0.5, [3.14209, 2.09473, 1.67578, 1.43638, 1.27679, 1.16071, 1.07143, 1]),
        (1.0, [8, 4, 2.66667, 2, 1.6, 1.33333, 1.14286, 1]),
        (1.5, [17.80518, 7.12207, 4.06975, 2.71317, 1.97321, 1.51786, 1.21429, 1]),
        (2.0, [36, 12, 6, 3.6, 2.4, 1.71429, 1.28571, 1]),
    ],
)
def test_the_gamma_ratio_by_hand(alpha, expected):
    np.testing.assert_allclose(gamma_ratio(8, alpha), expected, atol=6e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("alpha", [-0.9, -0.5, 0.0, 0.5, 1.0, 2.5, 4.0])
def test_the_gamma_ratio_is_the_truncated_power_of_p(n, alpha):
    series = sum(rising(alpha, k) / math.factorial(k) * (1 - P) ** k for k in range(n))
    np.testing.assert_allclose(weight(gamma_ratio(n, alpha), P), series, rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0, 1.7])
def test_the_geometric_sum_is_one(n, ratio):
    series = sum((ratio * (1 - P)) ** k for k in range(n))
    np.testing.assert_allclose(weight(geometric_sum(n, ratio), P), series, rtol=1e-12)


def test_the_power_ratio_is_a_mean_over_the_other_rollouts():
    p, n, alpha = 0.3, 5, 1.7
    mean = sum(
        math.comb(n - 1, m) * p**m * (1 - p) ** (n - 1 - m) * (n / (1 + m)) ** alpha
        for m in range(n)
    )
    assert weight(power_ratio(n, alpha), p) == pytest.approx(mean, rel=1e-12)


def test_power_and_gamma_ratio_differ_except_at_the_ends_that_they_share():
    assert weight(power_ratio(16, 2.0), 0.05) == pytest.approx(146.4, abs=0.05)
    assert weight(gamma_ratio(16, 2.0), 0.05) == pytest.approx(83.1, abs=0.05)
    for alpha in (0.0, 1.0):
        np.testing.assert_allclose(power_ratio(16, alpha), gamma_ratio(16, alpha), rtol=1e-12)


def test_more_handles_draw_the_same_curve():
    beta = (4.0, -1.0, 0.5)
    for n in (3, 4, 12):
        np.testing.assert_allclose(weight(elevate(beta, n), P), weight(np.array(beta), P))
    # by hand: (1, 3) is 1 + 2 p; with three handles 1, 2, 3
    np.testing.assert_allclose(elevate((1.0, 3.0), 3), [1, 2, 3])


def test_a_curve_of_too_many_handles_is_refused():
    with pytest.raises(WorkbenchError, match="drawn with 4 handles.*has 3.*Raise group_size"):
        elevate((1.0, 1.0, 1.0, 1.0), 3)


def test_the_ends_of_the_curve_are_the_first_and_last_handle():
    beta = np.array([5.0, 0.0, -2.0, 1.5])
    assert weight(beta, 0.0) == 5.0 and weight(beta, 1.0) == 1.5
    assert weight(beta, P).shape == P.shape


def test_remembered_coefficients_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        gamma_ratio(4, 1.0)[0] = 7.0
