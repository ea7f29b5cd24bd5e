"""Probe traces: their numbers by hand, what they refuse, and the way to plain data and back."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from workbench.probe import ProbeTrace, columns_of
from workbench.variants import WorkbenchError


def small(**changes):
    """Two prompts with two and three responses."""
    given = {
        "step": 10,
        "prompts": [4, 4, 7, 7, 7],
        "entropies": [[1.0], [0.0, 0.0, 0.0], [2.0, 0.0], [0.5, 0.5], [0.0, 1.0]],
        "ended": [True, True, True, True, False],
        "answers": ["12", "12", "3", None, "3"],
        "correct": [1, 1, 0, 0, 0],
    }
    return ProbeTrace.of(**given | changes)


def test_means_by_hand():
    trace = small()
    assert trace.lengths_B.tolist() == [1, 3, 2, 2, 2]
    assert trace.mean_length == pytest.approx(2.0)
    assert trace.mean_entropy == pytest.approx(5 / 10)  # 5 nats over 10 tokens, not a mean of means
    assert trace.truncated == pytest.approx(0.2)
    assert trace.accuracy == pytest.approx(0.4)


def test_votes_count_missing_answers_as_responses_only():
    trace = small()
    assert trace.vote_share == pytest.approx((1 + 2 / 3) / 2)
    assert trace.distinct_answers == pytest.approx((1 + 2) / 2)  # None is one of the two
    silent = small(answers=[None] * 5)
    assert silent.vote_share == 0.0
    assert silent.distinct_answers == 1.0


def test_a_prompt_with_one_response_has_no_vote():
    alone = small(prompts=[0, 1, 2, 3, 4])
    assert math.isnan(alone.vote_share)
    assert math.isnan(alone.distinct_answers)
    assert small(prompts=[0, 0, 2, 3, 4]).vote_share == 1.0  # that prompt alone counts


def test_resampled_series_keep_their_lengths():
    trace = small(
        entropies=[[1.0] * 4, [0.0] * 4, [1.0] * 4, [0.5] * 4, [0.5] * 4], lengths=[1, 3, 2, 2, 2]
    )
    assert trace.mean_entropy == pytest.approx((1 + 0 + 2 + 1 + 1) / 10)
    assert trace.mean_length == pytest.approx(2.0)


def test_everything_but_accuracy_works_without_labels():
    trace = small(correct=None)
    assert trace.accuracy is None
    assert trace.vote_share == small().vote_share
    assert trace.mean_entropy == small().mean_entropy


def test_the_numbers_of_a_trace_by_hand():
    found = small().numbers()
    assert list(found) == [
        *("step", "entropy", "length", "truncated", "vote_share", "distinct", "accuracy")
    ]
    assert list(found.values()) == pytest.approx([10, 0.5, 2.0, 0.2, 5 / 6, 1.5, 0.4])
    assert isinstance(found["step"], int)
    blind = small(correct=None).numbers()
    assert "accuracy" not in blind
    assert blind == {name: value for name, value in found.items() if name != "accuracy"}


@pytest.mark.parametrize("correct", [None, [1, 1, 0, 0, 0]])
def test_plain_data_and_back(correct):
    trace = small(correct=correct)
    again = ProbeTrace.from_dict(json.loads(json.dumps(trace.to_dict())))
    assert again.to_dict() == trace.to_dict()
    assert all(np.array_equal(a, b) for a, b in zip(again.entropies, trace.entropies, strict=True))
    assert again.answers[3] is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"answers": ["12"]}, r"\[1, 5\] entries"),
        ({"correct": [1]}, r"\[1, 5\] entries"),
        ({"entropies": [[1.0], [], [2.0], [0.5], [0.0]]}, "empty or not finite"),
        ({"entropies": [[1.0], [float("nan")], [2.0], [0.5], [0.0]]}, "empty or not finite"),
        ({"lengths": [0, 1, 1, 1, 1]}, "no token"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    with pytest.raises(WorkbenchError, match=match):
        small(**changes)


def test_the_probes_of_a_run_as_columns():
    """A step without a probe is left out; a number that no probe has, too."""
    metrics = pd.DataFrame(
        {
            "train/kl": [0.1, 0.2, 0.3],
            "probe/entropy": [1.0, None, 2.0],
            "probe/length": [5, None, 7],
        },
        index=[0, 1, 2],
    )
    assert columns_of(metrics) == {"step": [0, 2], "entropy": [1.0, 2.0], "length": [5.0, 7.0]}
    assert columns_of(metrics[["train/kl"]]) == {"step": []}
