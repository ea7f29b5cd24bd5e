"""Warnings and leads by hand, the trivial predictor, and the guard against judging what was fitted."""

import math
from dataclasses import replace

import numpy as np
import pytest

from workbench.alarms import (
    ENTROPY,
    LENGTH,
    SIGNALS,
    Lead,
    Ranges,
    area,
    check_disjoint,
    compare,
    drop_step,
    lead,
    leaves_at,
    reach,
    score_warnings,
    smoothed,
    sweep,
)
from workbench.geometry import Envelope
from workbench.phase import ACCURACY, VOTE, Path
from workbench.variants import WorkbenchError


def made(run, entropy, length, vote=None, accuracy=0.5):
    """A path in P1, ten steps from checkpoint to checkpoint."""
    entropy, length = np.broadcast_arrays(np.asarray(entropy, float), np.asarray(length, float))
    vote = np.full(len(entropy), 0.6) if vote is None else np.asarray(vote, dtype=float)
    ones = np.ones(len(entropy))
    return Path(
        run,
        np.arange(len(entropy)) * 10,
        np.stack([entropy, np.log(length), vote], 1),
        ("mean token entropy (nats)", "log mean length", "majority-vote share"),
        entropy.copy(),
        length.copy(),
        2 * ones,
        0 * ones,
        None if accuracy is None else accuracy * ones,
    )


def reference(run="reference"):
    """After a first checkpoint: the corners of a box, entropy 0.2 to 0.4, length 10 to 20, vote .5 to .7."""
    low = np.array([0.2, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4])
    short = np.array([10, 10, 20, 20, 10, 10, 20, 20])
    vote = np.array([0.5, 0.7] * 4)
    return made(run, np.append(2.0, low), np.append(90, short), np.append(0.1, vote))


def fences():
    return Envelope.fit([reference()]), Ranges.fit([reference()])


INSIDE, OUTSIDE = 0.3, 0.7  # entropies; the box ends at 0.4


# ------------------------------------------------------------------ fences and warnings


def test_the_trivial_predictor_by_hand():
    """Entropy 0.2 to 0.4 has a deviation of 0.1; log length one of half log 2."""
    ranges = Ranges.fit([reference()])
    assert ranges.low == pytest.approx([0.2, np.log(10)])
    assert ranges.high == pytest.approx([0.4, np.log(20)])
    found = ranges.beyond(made("a", [0.3, 0.2, 0.7, 0.1, 0.3, 0.5], [15, 10, 15, 20, 40, 5]))
    assert found == pytest.approx([0, 0, 3, 1, 2, 2])


def test_the_trivial_predictor_does_not_look_at_the_vote():
    envelope, ranges = fences()
    odd = made("a", [INSIDE] * 4, 15, vote=[0.6, 0.6, 1.0, 0.0])
    assert ranges.beyond(odd).tolist() == [0, 0, 0, 0]
    assert envelope.beyond(odd) == pytest.approx([0, 0, 3, 5])  # deviation 0.1, range 0.5 to 0.7


def test_each_signal_can_be_looked_at_by_itself():
    """Deviations: 0.1 nats, half log 2, and 0.1 of the vote share."""
    runs = [reference()]
    odd = made("a", [0.3, 0.7, 0.3, 0.3], [15, 15, 40, 15], vote=[0.6, 0.6, 0.6, 1.0])
    expected = {ENTROPY: [0, 3, 0, 0], LENGTH: [0, 0, 2, 0], VOTE: [0, 0, 0, 3]}
    for signal, values in expected.items():
        assert Ranges.fit(runs, signals=[signal]).beyond(odd) == pytest.approx(values)
    assert Ranges.fit(runs, signals=SIGNALS).beyond(odd) == pytest.approx([0, 3, 2, 3])


def test_a_signal_that_a_path_lacks_is_told():
    axes = ("mean token entropy (nats)", "log mean length", ACCURACY)
    with pytest.raises(WorkbenchError, match="'reference' has no majority-vote share"):
        Ranges.fit([replace(reference(), axes=axes)], signals=[VOTE])
    with pytest.raises(WorkbenchError, match="Did you mean 'entropy'"):
        Ranges.fit([reference()], signals=["entropi"])


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_a_warning_is_due_at_the_last_of_three_checkpoints_outside(fence):
    leaving = made("a", [INSIDE] * 4 + [OUTSIDE] * 4, 15)
    assert leaves_at(leaving, fence) == 60  # outside at 40, 50 and 60
    assert leaves_at(leaving, fence, patience=1) == 40
    assert leaves_at(leaving, fence, patience=5) is None
    assert leaves_at(made("a", [INSIDE] * 8, 15), fence) is None


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_a_warning_uses_nothing_from_later(fence):
    whole = made("a", [INSIDE] * 4 + [OUTSIDE] * 4, 15)
    for kept, expected in ((6, None), (7, 60), (8, 60)):
        part = made("a", ([INSIDE] * 4 + [OUTSIDE] * 4)[:kept], 15)
        assert leaves_at(part, fence) == expected
    assert leaves_at(whole, fence) == 60


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_a_visit_outside_is_no_warning(fence):
    assert leaves_at(made("a", [INSIDE, OUTSIDE, OUTSIDE] * 4, 15), fence) is None


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_the_margin_is_in_deviations_of_the_reference(fence):
    leaving = made("a", [INSIDE] * 2 + [0.55] * 3 + [OUTSIDE] * 3, 15)  # 1.5, then 3 deviations
    assert leaves_at(leaving, fence) == 40
    assert leaves_at(leaving, fence, margin=2.0) == 70
    assert leaves_at(leaving, fence, margin=3.5) is None


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_the_burn_in_is_not_judged_but_never_coming_inside_is(fence):
    assert fence.burn_step == 10
    assert leaves_at(made("a", [OUTSIDE] + [INSIDE] * 5, 15), fence, patience=1) is None
    assert leaves_at(made("a", [OUTSIDE] * 6, 15), fence) == 30  # 10, 20 and 30


def test_impossible_demands_are_refused():
    envelope, _ = fences()
    for bad in ({"patience": 0}, {"margin": -1.0}):
        with pytest.raises(WorkbenchError, match="patience of 1 or more"):
            leaves_at(reference(), envelope, **bad)


def test_in_p1_the_envelope_never_warns_after_the_trivial_predictor():
    rng = np.random.default_rng(0)
    walks = [
        made(f"walk {i}", 0.3 + 0.02 * np.abs(rng.standard_normal(60).cumsum()), 15, accuracy=None)
        for i in range(20)
    ]
    envelope, ranges = Envelope.fit(walks[:5]), Ranges.fit(walks[:5])
    warned = 0
    for walk in walks[5:]:
        ours, trivial = leaves_at(walk, envelope), leaves_at(walk, ranges)
        assert trivial is None or (ours is not None and ours <= trivial)
        warned += trivial is not None
    assert warned > 3


# ------------------------------------------------------------------ drops and leads


def test_smoothing_looks_back_only():
    assert smoothed([3.0, 0.0, 0.0, 6.0, 0.0]) == pytest.approx([3, 1.5, 1, 2, 2])
    assert smoothed([3.0, 1.0], width=1).tolist() == [3.0, 1.0]


def test_the_drop_is_where_accuracy_goes_down_for_good():
    steps = [0, 10, 20, 30, 40, 50]
    assert (
        drop_step(steps, [0.3, 0.6, 0.5, 0.6, 0.5, 0.4], smooth=1) == 40
    )  # the one at 20 recovers
    assert drop_step(steps, [0.3, 0.6, 0.5, 0.6, 0.5, 0.56], smooth=1) is None
    assert drop_step(steps, [0.6, 0.5, 0.5, 0.5, 0.5, 0.5], smooth=1) == 10
    assert (
        drop_step(steps, [0.6, 0.55, 0.55, 0.55, 0.55, 0.55], smooth=1) is None
    )  # not more than 0.05
    assert drop_step(steps, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8], smooth=1) is None


def test_one_noisy_checkpoint_is_no_drop():
    assert drop_step([0, 10, 20, 30], [0.6, 0.6, 0.6, 0.5], smooth=3) is None
    assert drop_step([0, 10, 20, 30], [0.6, 0.6, 0.6, 0.5], smooth=1) == 30


def test_leads_by_hand():
    steps, falls, holds = [0, 10, 20, 30, 40], [0.6, 0.6, 0.6, 0.2, 0.1], [0.6] * 5
    early = lead(10, falls, steps, smooth=1)
    assert (early.lead, early.false_alarm, early.missed) == (20, False, False)
    late = lead(40, falls, steps, smooth=1)
    assert (late.lead, late.false_alarm, late.missed) == (-10, False, True)
    assert lead(30, falls, steps, smooth=1).missed  # at the drop itself is not before it
    silent = lead(None, falls, steps, smooth=1)
    assert (silent.lead, silent.false_alarm, silent.missed) == (None, False, True)
    wrong = lead(10, holds, steps, smooth=1)
    assert (wrong.lead, wrong.false_alarm, wrong.missed) == (None, True, False)
    assert lead(None, holds, steps) == Lead("", None, None)


def judged_runs():
    falls = np.array([0.6] * 7 + [0.1] * 5)  # at step 70
    calm = made("calm", [INSIDE] * 12, 15, accuracy=0.6)
    warned = made("warned", [INSIDE] * 2 + [OUTSIDE] * 10, 15, accuracy=falls)  # warned at 40
    missed = made("missed", [INSIDE] * 12, 16, accuracy=falls)
    alarm = made("alarm", [OUTSIDE] * 12, 15, accuracy=0.6)
    voted = made("voted", [INSIDE] * 12, 17, vote=[0.6] * 3 + [1.0] * 9, accuracy=falls)  # at 50
    return [calm, warned, missed, alarm, voted]


def test_both_fences_are_scored_alike_on_runs_held_out():
    """The vote leaves its range at 30: the envelope warns at 50, the trivial predictor never."""
    found = compare([reference()], judged_runs(), smooth=1)
    envelope, trivial = found["envelope"], found["trivial"]
    assert [one.warning for one in envelope.leads] == [None, 40, None, 30, 50]
    assert [one.warning for one in trivial.leads] == [None, 40, None, 30, None]
    assert [one.drop for one in trivial.leads] == [None, 70, 70, None, 70]
    assert (envelope.drops, envelope.missed, envelope.false_alarms) == (3, 1, 1)
    assert (trivial.drops, trivial.missed, trivial.false_alarms) == (3, 2, 1)
    assert (envelope.median_lead, trivial.median_lead) == (25, 30)
    assert not envelope.sees_labels and not trivial.sees_labels


def test_no_leads_have_no_median():
    found = score_warnings(Ranges.fit([reference()]), judged_runs()[:1])
    assert math.isnan(found.median_lead)


def test_an_envelope_with_accuracy_says_that_it_saw_it():
    axes = ("mean token entropy (nats)", "log mean length", ACCURACY)
    fence = Envelope.fit([replace(reference(), axes=axes)])
    assert score_warnings(fence, [replace(judged_runs()[0], axes=axes)]).sees_labels


# ------------------------------------------------------------------ the guard


def test_a_run_is_not_judged_by_a_fence_that_was_fitted_on_it():
    for fence in fences():
        with pytest.raises(WorkbenchError, match="'reference' is among the runs"):
            score_warnings(fence, [*judged_runs(), reference()])
    with pytest.raises(WorkbenchError, match="judge it on others"):
        compare([reference()], [reference()])


def test_another_name_does_not_hide_a_run():
    with pytest.raises(WorkbenchError, match="'disguised' is among"):
        check_disjoint([reference()], [reference("disguised")])
    check_disjoint([reference()], judged_runs())


def test_leads_need_labels_and_warnings_do_not():
    envelope, ranges = fences()
    unlabelled = made("a", [INSIDE] * 4 + [OUTSIDE] * 4, 15, accuracy=None)
    assert leaves_at(unlabelled, envelope) == leaves_at(unlabelled, ranges) == 60
    with pytest.raises(WorkbenchError, match="'a' has no accuracy"):
        score_warnings(envelope, [unlabelled])


# ------------------------------------------------------------------ without a margin


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_the_reach_is_the_margin_up_to_which_a_run_is_warned_of(fence):
    """Outside by 1, 3, 2 and 4 deviations from step 20 on: 1 in the first three, 2 in the last three."""
    run = made("a", [INSIDE] * 2 + [0.5, 0.7, 0.6, 0.8], 15)
    assert reach(run, fence) == pytest.approx(2)
    for margin in (1.99, 2.01):
        assert (leaves_at(run, fence, margin=margin) is not None) == (margin < 2)
    assert reach(run, fence, before=50) == pytest.approx(1)  # the last probe comes too late
    assert reach(run, fence, before=40) == 0
    assert reach(run, fence, patience=1) == pytest.approx(4)
    assert reach(run, fence, patience=7) == 0


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_the_burn_in_reaches_nowhere(fence):
    assert reach(made("a", [2.0] + [INSIDE] * 5, 15), fence, patience=1) == 0


def test_the_area_is_the_share_of_pairs_in_order():
    assert area([3.0, 1.0], [2.0, 0.0]) == 0.75
    assert area([1.0, 1.0], [1.0]) == 0.5
    assert area([0.0], [1.0, 2.0]) == 0
    assert math.isnan(area([1.0], [])) and math.isnan(area([], [1.0]))


def swept():
    """Calm runs reach 0 and 1; drops at 70 reach 2 (at 60), 0.5 (at 40), and 3 only from step 80 on."""
    falls = np.array([0.6] * 7 + [0.1] * 5)
    return [
        made("calm", [INSIDE] * 12, 15, accuracy=0.6),
        made("odd", [INSIDE] * 6 + [0.5] * 6, 16, accuracy=0.6),
        made("far", [INSIDE] * 4 + [0.6] * 8, 17, accuracy=falls),
        made("near", [INSIDE] * 2 + [0.45] * 10, 18, accuracy=falls),
        made("late", [INSIDE] * 6 + [0.7] * 6, 19, accuracy=falls),
    ]


@pytest.mark.parametrize("fence", fences(), ids=["envelope", "trivial"])
def test_a_sweep_trades_false_alarms_for_drops_foretold(fence):
    found = sweep(fence, swept(), smooth=1)
    assert (found.drops, found.calm) == (3, 2)
    margins = [one.margin for one in found.trades]
    assert margins == pytest.approx([1, 0])
    # At margin 1 only "far" is warned of, at 60; at margin 0 "near" too, at 40: leads 10, 30 and none.
    assert [(t.false_alarms, t.detected, t.lead) for t in found.trades] == [(0, 1, 0), (1, 2, 10)]
    # Reaches 2, 0.5 and 0 against 0 and 1: 2 + 1 + 0.5 of 6 pairs.
    assert found.area == pytest.approx(3.5 / 6)
    assert found.at(0.05) == found.trades[0] == found.at(0.49)
    assert found.at(0.5) == found.trades[1]


def test_drops_before_any_warning_are_left_out_of_the_second_area():
    """Burn-in ends at 10, so 30 is the first warning: a drop at 30 is too early, one at 40 is not."""
    runs = swept()[:3]
    for end in (3, 4):
        accuracy = np.array([0.6] * end + [0.1] * (12 - end))
        runs.append(made(f"drop {end}", [OUTSIDE] * 12, 20 - end, accuracy=accuracy))
    found = sweep(fences()[1], runs, smooth=1)
    assert found.drops == 3
    # Reaches 2, 0 and 3 against 0 and 1; without the early one 2 and 3.
    assert found.area == pytest.approx((2 + 0.5 + 2) / 6)
    assert found.area_late == 1


def test_a_sweep_agrees_with_the_warnings_at_its_margins():
    rng = np.random.default_rng(3)
    runs = []
    for i in range(12):
        walk = np.abs(0.3 + 0.03 * rng.standard_normal(40).cumsum())
        runs.append(made(f"walk {i}", walk, 15 + i, accuracy=np.where(walk < 0.45, 0.6, 0.2)))
    for fence in fences():
        found = sweep(fence, runs)
        assert len(found.trades) > 2
        for trade in found.trades:
            score = score_warnings(fence, runs, margin=trade.margin)
            assert trade.false_alarms == score.false_alarms
            assert trade.detected == score.drops - score.missed


def test_a_sweep_without_a_drop_has_no_area():
    found = sweep(fences()[1], swept()[:2], smooth=1)
    assert math.isnan(found.area) and math.isnan(found.trades[0].lead)
    assert found.at(0.05).detected == 0


def test_a_sweep_is_for_runs_held_out_as_well():
    with pytest.raises(WorkbenchError, match="judge it on others"):
        sweep(fences()[0], [reference()])
