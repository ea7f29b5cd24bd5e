"""Warnings of every fence on runs made by hand; see conftest for when each leaves and drops."""

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.alarms import Lead, WarningScore
from workbench.claims.fences import ALL, PLAIN, counts, first_warning, paired
from workbench.phase import VOTE


def row(judged, fence, margin=0.5):
    (found,) = (
        row
        for row in judged["geometry"]["warnings"]
        if (row["fence"], row["margin"]) == (fence, margin)
    )
    return found


LEADS = (
    Lead("early", 20, 50),
    Lead("late", 60, 50),
    Lead("silent", None, 50),
    Lead("alarm", 20, None),
    Lead("calm", None, None),
    Lead("soon", 30, 50),
)


def test_counts_by_hand():
    found = counts(WarningScore(LEADS, False), first=20)
    assert (found["runs"], found["warned"], found["at_once"]) == (6, 4, 2)
    assert found["share_warned"] == pytest.approx(4 / 6)
    assert (found["detected_at_once"], found["false_at_once"]) == (1, 1)
    assert (found["drops"], found["detected"], found["missed"]) == (4, 2, 2)
    assert (found["calm"], found["false_alarms"]) == (2, 1)
    assert found["leads"] == [5, 20, 25]  # of -10, 20, 30
    assert found["lead"] == 10  # of 0, 0, 20, 30


def test_without_drops_there_are_no_leads():
    found = counts(WarningScore(LEADS[3:5], False), first=None)
    assert (found["leads"], found["lead"], found["at_once"]) == (None, None, 0)


def test_pairs_count_runs_that_drop_and_warnings_in_time():
    theirs = (
        Lead("early", 30, 50), Lead("late", None, 50), Lead("silent", 40, 50),
        Lead("alarm", None, None), Lead("calm", 20, None), Lead("soon", 30, 50),
    )  # fmt: skip
    ours, theirs = WarningScore(LEADS, False), WarningScore(theirs, False)
    assert paired(ours, theirs) == {"earlier": 1, "later": 1, "same": 1, "neither": 1}
    assert paired(theirs, ours) == {"earlier": 1, "later": 1, "same": 1, "neither": 1}
    assert paired(ours, ours) == {"earlier": 0, "later": 0, "same": 2, "neither": 2}


@pytest.mark.parametrize(
    ("fence", "detected", "false_alarms", "lead"),
    [
        ("envelope: votes", 2, 1, 12),  # leads 9 and 15
        ("envelope: centres", 1, 0, 4.5),  # entropy alone moves the distances: 9, and none
        (PLAIN, 1, 1, 4.5),
        ("entropy", 1, 0, 4.5),
        ("length", 0, 1, 0),
        ("votes", 1, 0, 7.5),
        (ALL, 2, 1, 12),
    ],
)
def test_each_fence_warns_of_what_it_looks_at(judged, fence, detected, false_alarms, lead):
    found = row(judged, fence)
    assert (found["runs"], found["drops"], found["calm"]) == (5, 2, 3)
    assert (found["detected"], found["missed"]) == (detected, 2 - detected)
    assert found["false_alarms"] == false_alarms
    assert found["lead"] == lead
    assert not found["sees_labels"]


def test_the_envelope_that_sees_labels_says_so(judged):
    assert [row["fence"] for row in judged["geometry"]["warnings"] if row["sees_labels"]] == [
        "envelope: accuracy"
    ] * 3


def test_the_vote_share_is_worth_the_same_in_a_box(judged):
    """What the envelope has over the trivial predictor here it has from its axis, not from its hull."""
    assert row(judged, "envelope: votes")["paired"] == {
        "earlier": 1, "later": 0, "same": 1, "neither": 0,
    }  # fmt: skip
    assert row(judged, ALL)["paired"] == row(judged, "envelope: votes")["paired"]
    assert row(judged, PLAIN)["paired"] == {"earlier": 0, "later": 0, "same": 1, "neither": 1}


def test_a_wide_margin_hears_only_what_goes_far(judged):
    found = row(judged, "envelope: votes", 2.5)
    assert (found["detected"], found["false_alarms"], found["leads"]) == (1, 0, [9, 9, 9])


def test_at_equal_false_alarms_the_votes_alone_are_the_earliest(judged):
    """The short run is the only false alarm: at 5 and 20 % of three calm runs none is allowed."""
    sweeps = judged["geometry"]["sweeps"]
    leads = {name: one["at"]["0.05"]["lead"] for name, one in sweeps.items()}
    assert max(leads, key=leads.get) == "votes"
    assert leads["votes"] == 7.5
    assert sweeps["votes"]["at"]["0.05"]["paired"] == {
        "earlier": 1, "later": 1, "same": 0, "neither": 0,
    }  # fmt: skip
    for one in sweeps.values():
        assert (one["drops"], one["calm"]) == (2, 3)
        assert one["at"]["0.05"]["false_alarms"] == one["at"]["0.2"]["false_alarms"] == 0
        assert [trade[1] for trade in one["trades"]] == sorted(t[1] for t in one["trades"])


def test_areas_by_hand(judged):
    """Two drops against three calm runs. Votes: reaches 2 and 0 against none; length: 0, 0 against one."""
    areas = {name: one["area"] for name, one in judged["geometry"]["sweeps"].items()}
    assert areas["votes"] == areas["entropy"] == 0.75  # 3 pairs won, 3 tied
    assert areas["length"] == pytest.approx(1 / 3, abs=1e-5)  # 2 lost, 4 tied
    assert areas[PLAIN] == pytest.approx(2 / 3, abs=1e-5)  # 3 won, 1 lost, 2 tied
    assert areas[ALL] == pytest.approx(5 / 6, abs=1e-5)  # 5 won: the votes leave less far


def test_the_first_warning_needs_burn_in_and_patience():
    fences = {PLAIN: (SimpleNamespace(burn_step=6), VOTE)}
    grids = ([0, 5, 10, 15, 20], [0, 4, 8, 12, 16])
    runs = {VOTE: [SimpleNamespace(steps_N=np.array(steps)) for steps in grids]}
    assert first_warning(fences, runs, 3) == 16
    assert first_warning(fences, runs, 1) == 8
    assert first_warning(fences, runs, 4) is None
