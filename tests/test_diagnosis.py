"""Each verdict from a path built to earn it, and what happens where two of them apply."""

from dataclasses import replace

import numpy as np
import pytest

from workbench.diagnosis import (
    HALF_COLLAPSE,
    RELAXATION,
    STAGNATION,
    SUCCESS,
    THRESHOLDS,
    UNDECIDED,
    Thresholds,
    verdict,
)
from workbench.geometry import Envelope
from workbench.phase import Path

N = 80
T = np.linspace(0, 1, N)
CAP = 64


def corners(width, count=N):
    """Small moves from corner to corner of a cube: a windowed hull of width**3, the same for every seed."""
    signs = np.array([[(i >> b) & 1 for b in range(3)] for i in range(8)]) - 0.5
    return np.asarray(width).reshape(-1, 1) * signs[np.arange(count) % 8]


def made(run, move, accuracy=None, distinct=3.0, truncated=0.0):
    """A path in P1 whose points are `move`, in hundredths around entropy 0.4, log length 3, vote 0.5."""
    points = np.array([0.4, 3.0, 0.5]) + move / 100
    ones = np.ones(len(points))
    return Path(
        run,
        np.arange(len(points)) * 5,
        points,
        ("mean token entropy (nats)", "log mean length", "majority-vote share"),
        points[:, 0].copy(),
        np.exp(points[:, 1]),
        distinct * ones,
        truncated * ones,
        None if accuracy is None else accuracy * ones,
    )


RISE = 0.3 + 0.3 * np.minimum(2 * T, 1)
SHRINK = np.interp(T, [0, 0.5, 1], [10, 5, 5])  # the width of the moves: falls, then a plateau


@pytest.fixture(scope="module")
def envelope():
    """Three runs of accuracy .3 to .6 whose moves shrink from 10 to 5 hundredths, none of them judged."""
    return Envelope.fit(
        [made(f"reference {i}", corners(SHRINK) * (1 + i / 50), RISE) for i in range(3)]
    )


def good(run="judged", accuracy=RISE):
    return made(run, 0.97 * corners(SHRINK), accuracy)


def test_success_is_inside_and_settles_at_a_positive_volume(envelope):
    found = verdict(good(), envelope)
    assert (found.name, found.holds, found.left_at) == (SUCCESS, (SUCCESS,), None)
    assert found.numbers["inside share"] == 1.0
    assert found.numbers["volume first"] > 2 * found.numbers["volume last"] > 0
    assert found.numbers["volume last"] == pytest.approx(found.numbers["volume third"], rel=0.2)
    assert found.numbers["accuracy"] == pytest.approx(0.6)
    assert found.held_out and found.labelled


def test_the_numbers_are_those_of_the_path(envelope):
    """Moves of 5 x .97 hundredths: a cube, in units of the reference's three deviations."""
    found = verdict(good(), envelope)
    expected = (0.97 * 0.05) ** 3 / envelope.scale.std_D.prod()
    assert found.numbers["volume last"] == pytest.approx(expected)
    assert found.window == 20


def test_success_needs_accuracy_at_the_base_where_there_are_labels(envelope):
    assert verdict(good(accuracy=0.5 - 0.04 * T), envelope).name == UNDECIDED
    assert verdict(good(accuracy=None), envelope).name == SUCCESS
    assert not verdict(good(accuracy=None), envelope).labelled
    assert verdict(good(), envelope, base=0.65).name == UNDECIDED


def test_a_volume_that_does_not_fall_is_no_success(envelope):
    assert verdict(made("judged", corners(5.0), RISE), envelope).name == UNDECIDED


@pytest.mark.parametrize(
    "widths", [[10, 10, 2, 2], [10, 3, 3, 8]], ids=["still falls", "rises again"]
)
def test_without_a_plateau_there_is_no_success(envelope, widths):
    found = verdict(
        made("judged", corners(np.interp(T, [0, 0.45, 0.75, 0.95], widths)), RISE), envelope
    )
    first, third, last = (found.numbers[f"volume {name}"] for name in ("first", "third", "last"))
    assert last < first and not third / 2 <= last <= 2 * third
    assert last > 0.05 * found.numbers["volume reference"]
    assert (found.numbers["inside share"], found.name) == (1.0, UNDECIDED)


def falls(low):
    return np.interp(T, [0, 0.5, 0.6, 1], [0.3, 0.6, low, low])


def stuck(accuracy):
    """Healthy until halfway, then it hardly moves."""
    return made("judged", corners(np.where(T < 0.5, SHRINK, 0.5)), accuracy)


def test_stagnation_stands_still_while_accuracy_has_fallen(envelope):
    found = verdict(stuck(falls(0.2)), envelope)
    assert (found.name, found.holds) == (STAGNATION, (STAGNATION,))
    assert found.numbers["volume last"] < 0.05 * found.numbers["volume reference"]
    assert found.numbers["accuracy best"] - found.numbers["accuracy"] > 0.05
    assert verdict(stuck(RISE), envelope).name == UNDECIDED  # still, but at its best


def test_stagnation_by_silence_needs_no_labels(envelope):
    quiet = (
        corners(SHRINK) - np.array([[39.5, 0, 0]]) * (T > 0.5)[:, None]
    )  # entropy 0.005 on average
    found = verdict(made("judged", quiet), envelope)
    assert (found.name, found.labelled, found.signs) == (STAGNATION, False, ())
    assert verdict(made("judged", corners(SHRINK), distinct=1.0), envelope).holds == (
        SUCCESS,
        STAGNATION,
    )
    assert verdict(stuck(None), envelope).name == UNDECIDED
    assert verdict(replace(stuck(None), distinct_N=np.ones(N)), envelope).name == STAGNATION


def test_one_response_per_prompt_tells_nothing_about_answers(envelope):
    alone = replace(stuck(None), distinct_N=np.full(N, np.nan))
    assert verdict(alone, envelope).name == UNDECIDED


def loosened(accuracy=None, **changes):
    """From halfway on long strides towards more entropy and length."""
    away = np.interp(T, [0, 0.5, 1], [0, 0, 100])[:, None] * np.array([[1.0, 1.1, 0]])
    return made("judged", 0.97 * corners(SHRINK) + away, accuracy, **changes)


def test_relaxation_leaves_and_grows_with_a_sign_of_it(envelope):
    found = verdict(loosened(), envelope, cap=CAP)
    assert found.name == RELAXATION
    assert found.signs == ("length at the cap", "entropy up")
    assert found.numbers["volume after"] > 1.5 * found.numbers["volume before"]
    assert found.numbers["inside share"] < 0.2
    assert 0.5 * N * 5 < found.left_at < 0.65 * N * 5
    assert verdict(loosened(truncated=0.5), envelope).signs == ("entropy up", "truncated")


def test_leaving_without_a_sign_or_without_growth_is_undecided(envelope):
    better = np.interp(T, [0, 0.5, 1], [0, 0, 60])[:, None] * np.array(
        [[0, 0, 1.0]]
    )  # the vote alone
    upward = verdict(made("judged", 0.97 * corners(SHRINK) + better, RISE), envelope)
    assert (upward.name, upward.signs) == (UNDECIDED, ())
    assert upward.left_at is not None
    far = verdict(made("judged", corners(SHRINK) + 30, RISE, truncated=0.5), envelope)
    assert far.left_at is not None and far.signs == ("truncated",)
    assert far.name == UNDECIDED  # outside from the start, but it moves like the reference


def test_length_down_to_nothing_is_a_sign(envelope):
    away = np.interp(T, [0, 0.5, 1], [0, 0, -300])[:, None] * np.array([[0, 1.0, 0]])
    found = verdict(made("judged", 0.97 * corners(SHRINK) + away), envelope)
    assert (found.name, found.signs) == (RELAXATION, ("length near zero",))


def test_a_collapse_from_the_first_steps_is_measured_against_the_reference(envelope):
    away = np.interp(T, [0, 0.1, 1], [0, 400, 400])[:, None] * np.array([[1.0, 0.5, 0]])
    found = verdict(made("judged", corners(0.5) + away, 0.3 - 0.3 * T), envelope)
    assert found.name == RELAXATION
    assert found.holds == (RELAXATION, STAGNATION)  # it left, and then it stands still
    assert found.numbers["volume before"] == pytest.approx(envelope.initial(20)[0])


def test_half_collapse_loses_most_of_its_gain_but_not_the_base(envelope):
    found = verdict(good(accuracy=falls(0.4)), envelope)
    assert (found.name, found.holds) == (HALF_COLLAPSE, (HALF_COLLAPSE, SUCCESS))
    assert found.decided_by == pytest.approx(
        {"accuracy base": 0.3, "accuracy best": 0.6, "accuracy": 0.4}, abs=0.01
    )
    for low, name in ((0.5, SUCCESS), (0.29, HALF_COLLAPSE), (0.27, UNDECIDED)):
        assert verdict(good(accuracy=falls(low)), envelope).name == name
    assert verdict(good(accuracy=None), envelope).name == SUCCESS  # unseen without labels


def test_a_gain_within_noise_can_not_be_half_lost(envelope):
    wobble = np.interp(T, [0, 0.5, 1], [0.3, 0.34, 0.3])
    assert verdict(good(accuracy=wobble), envelope).name == SUCCESS


def test_thresholds_are_arguments(envelope):
    assert (THRESHOLDS.inside, THRESHOLDS.still, THRESHOLDS.drop) == (0.9, 0.05, 0.05)
    assert (THRESHOLDS.entropy, THRESHOLDS.truncated) == (0.02, 0.2)
    assert (THRESHOLDS.lost, THRESHOLDS.under) == (0.5, 0.02)
    patient = Thresholds(lost=0.9)
    assert verdict(good(accuracy=falls(0.4)), envelope, thresholds=patient).name == SUCCESS
    assert verdict(loosened(), envelope, thresholds=Thresholds(entropy_up=9.0)).name == UNDECIDED


def test_a_margin_widens_the_envelope(envelope):
    wide = made("judged", 1.3 * corners(SHRINK), RISE)
    assert (
        verdict(wide, envelope).numbers["inside share"] == 1.0
    )  # its last half is as wide as early moves
    shifted = made("judged", 0.97 * corners(SHRINK) + [0, 0, 9], RISE)
    strict, lenient = verdict(shifted, envelope), verdict(shifted, envelope, margin=5.0)
    assert strict.numbers["inside share"] < 0.9 and strict.left_at is not None
    assert lenient.numbers["inside share"] == 1.0 and lenient.left_at is None
    assert (strict.name, lenient.name) == (UNDECIDED, SUCCESS)


def test_a_reference_run_is_not_held_out(envelope):
    known = made("reference 0", corners(SHRINK), RISE)
    assert not verdict(known, envelope).held_out
    assert not verdict(replace(known, run="another"), envelope).held_out


def test_short_runs_get_shorter_windows(envelope):
    short = made("judged", corners(np.interp(np.linspace(0, 1, 16), [0, 1], [9, 6]), 16), 0.5)
    assert verdict(short, envelope).window == 8
    young = verdict(made("judged", corners(5.0, 3), 0.5), envelope)
    assert (young.name, young.window) == (UNDECIDED, 4)


def test_a_verdict_reads_as_one_line(envelope):
    assert str(verdict(good(accuracy=falls(0.4)), envelope)).startswith(
        "judged: half-collapse (accuracy base 0.3, accuracy best 0.59"
    )
    assert "entropy up)" in str(verdict(loosened(), envelope, cap=CAP))


# ------------------------------------------------------------------ a reference that ends in silence


def quiet(run, level=0.6, top=0.4, distinct=1.0, accuracy=RISE):
    """Moves that fade to none, at an entropy that falls from `top` to .005."""
    fade = np.maximum(1 - 2 * T, 0)
    points = np.stack([0.005 + (top - 0.005) * fade, 3 + 0 * T, level + 0 * T], 1)
    points += 0.02 * fade[:, None] * corners(np.ones(N))
    one = made(run, np.zeros((N, 3)), accuracy, distinct)
    return replace(one, points_ND=points, entropy_N=points[:, 0], length_N=np.exp(points[:, 1]))


@pytest.fixture(scope="module")
def still():
    """References that learn, then repeat one answer from a fixed point."""
    return Envelope.fit([quiet(f"quiet {i}", 0.6 + i / 50, 0.4 + i / 50) for i in range(3)])


def test_a_run_that_ends_as_still_as_its_reference_is_a_success(still):
    found = verdict(quiet("judged", 0.62, 0.415), still, margin=0.5)
    assert found.numbers["volume last"] == 0 and found.numbers["reference end"] == 0
    assert found.numbers["reference entropy"] == pytest.approx(0.005)
    assert found.holds == (SUCCESS,)


def test_the_same_silence_outside_the_envelope_is_stagnation(still):
    found = verdict(quiet("judged", 0.2, 0.415, accuracy=None), still, margin=0.5)
    assert found.numbers["inside share"] == 0
    assert found.name == STAGNATION


def test_a_still_run_that_fell_is_stagnation_whatever_the_reference(still):
    found = verdict(quiet("judged", 0.62, 0.415, accuracy=RISE[::-1]), still, margin=0.5)
    assert found.name == STAGNATION and SUCCESS not in found.holds


def test_silence_beside_a_reference_that_goes_on_talking_is_stagnation(envelope):
    found = verdict(quiet("judged", 0.5), envelope)
    assert found.numbers["reference answers"] == 3.0 and found.name == STAGNATION
