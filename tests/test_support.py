"""Support counts by hand, and what no success at all still allows."""

import math

import numpy as np
import pytest

from workbench import evaluation
from workbench.support import Support, support_counts, unseen
from workbench.variants import WorkbenchError


def test_support_by_hand():
    base_P, trained_P = np.array([4, 1, 2, 0, 0, 0, 3]), np.array([8, 1, 0, 5, 1, 0, 1])
    found = support_counts(base_P, trained_P)
    assert (found.preserved, found.expanded, found.shrunk, found.out) == (3, 2, 1, 1)
    assert found.srr == pytest.approx(3 / 4)
    assert found.ndr == pytest.approx(2 / 5)
    assert found.sds == pytest.approx(2 * 0.75 * 0.4 / 1.15)
    assert found.nscr == pytest.approx(1 / 6)
    swapped = support_counts(trained_P, base_P)
    assert (swapped.expanded, swapped.shrunk) == (1, 2)


def test_a_threshold_asks_for_more_successes():
    found = support_counts(np.array([1, 2, 2]), np.array([2, 2, 1]), threshold=1)
    assert (found.preserved, found.expanded, found.shrunk, found.out) == (1, 1, 1, 0)


def test_ratios_without_a_denominator_are_nan():
    nothing = support_counts(np.array([0, 0]), np.array([0, 0]))
    for ratio in (nothing.srr, nothing.ndr, nothing.sds, nothing.nscr):
        assert math.isnan(ratio)
    lost = support_counts(np.array([1]), np.array([0]))
    assert (lost.srr, lost.nscr) == (0.0, -1.0)
    assert math.isnan(lost.ndr) and math.isnan(lost.sds)


def test_support_needs_the_same_prompts():
    with pytest.raises(WorkbenchError, match="got 2 and 3 of them"):
        support_counts(np.array([0, 1]), np.array([0, 1, 2]))


def test_no_success_rules_out_a_chance_at_95_percent():
    """At the chance of `unseen`, all of n samples fail with a probability of about 5 %, never more."""
    assert unseen(64) == pytest.approx(0.0468, abs=1e-4)
    assert 0.04 < (1 - unseen(64)) ** 64 <= 0.05
    assert unseen(1) == 1.0


def test_evaluation_still_names_them():
    assert (evaluation.Support, evaluation.support_counts) == (Support, support_counts)
