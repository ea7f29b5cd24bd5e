"""Gains and win rates against numbers worked by hand; the interval against its nominal coverage."""

import numpy as np
import pytest

from workbench.gains import (
    Estimate,
    decomposition,
    draws,
    estimate,
    gain,
    mean_score,
    preferred,
    win_rate,
)
from workbench.variants import WorkbenchError

# Two questions, two samples each. Question means: 0.5, 0.5 / 1, 0.5 / 1, 1 / 1, 0.
PRE_PRE = np.array([[0.0, 1.0], [1.0, 0.0]])
PRE_POST = np.array([[1.0, 1.0], [1.0, 0.0]])
POST_PRE = np.array([[1.0, 1.0], [1.0, 1.0]])
POST_POST = np.array([[1.0, 1.0], [0.0, 0.0]])


def test_a_mean_is_over_questions_and_their_samples():
    assert mean_score(PRE_POST).value == 0.75
    assert mean_score(POST_PRE) == Estimate(1.0, 1.0, 1.0)


def test_gains_by_hand():
    assert gain(POST_PRE, PRE_PRE).value == 0.5  # thinking, with the initial answerer
    assert gain(POST_POST, PRE_POST).value == pytest.approx(-0.25)  # with the trained one
    assert gain(PRE_POST, PRE_PRE).value == 0.25  # answering, after initial thoughts
    assert gain(POST_POST, POST_PRE).value == -0.5


def test_the_parts_add_up_to_the_whole():
    found = decomposition(PRE_PRE, PRE_POST, POST_PRE, POST_POST)
    assert (found.thinking.value, found.answering.value) == (0.5, 0.25)
    assert (found.total.value, found.interaction.value) == (0.0, -0.75)
    assert "interaction  -0.750" in str(found)
    scores = np.random.default_rng(1).normal(size=(4, 30, 6))
    found = decomposition(*scores)
    parts = found.thinking.value + found.answering.value + found.interaction.value
    assert parts == pytest.approx(found.total.value, abs=1e-14)
    assert found.total == gain(scores[3], scores[0])


def test_a_shift_of_every_question_leaves_no_doubt():
    """Questions differ widely, but the difference is the same for all: pairing sees it exactly."""
    before_PS = np.random.default_rng(0).normal(scale=5, size=(20, 3))
    found = gain(before_PS + 0.25, before_PS)
    assert [found.value, found.low, found.high] == pytest.approx([0.25] * 3)
    alone = mean_score(before_PS)
    assert alone.high - alone.low > 1


def test_samples_of_a_question_stay_together():
    """400 questions, half always right: the error is 0.5 / sqrt(400), however many samples each has."""
    scores_PS = np.repeat(np.array([0.0, 1.0] * 200)[:, None], 16, axis=1)
    found = mean_score(scores_PS)
    half_width = 1.96 * 0.5 / 20
    assert found.low == pytest.approx(0.5 - half_width, abs=0.006)
    assert found.high == pytest.approx(0.5 + half_width, abs=0.006)


def test_the_interval_covers_about_as_often_as_it_says():
    """200 worlds of 50 questions with 4 samples each; question and sample noise both present."""
    random, covered = np.random.default_rng(3), 0
    for _ in range(200):
        question_P1 = random.normal(scale=1.0, size=(50, 1))
        before_PS = question_P1 + random.normal(size=(50, 4))
        effect_P1 = random.normal(loc=0.3, scale=0.7, size=(50, 1))
        found = gain(question_P1 + effect_P1 + random.normal(size=(50, 4)), before_PS)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 198


def test_resamples_are_the_same_at_every_call():
    assert draws(7) is draws(7)
    assert (draws(7).sum(1) == 7).all()
    values_P = np.random.default_rng(0).normal(size=7)
    assert estimate(values_P) == estimate(values_P.copy())


def test_win_rate_by_hand_with_ties_half():
    """Question 1: of 0, 1 against 0, 1: two ties, one win, one loss. Question 2: 3 beats 1, ties with 3."""
    found = win_rate(np.array([[0.0, 1.0], [3.0, 3.0]]), np.array([[0.0, 1.0], [1.0, 3.0]]))
    assert found.value == pytest.approx((0.5 + 0.75) / 2)
    assert win_rate(POST_PRE, np.zeros((2, 5))).value == 1.0


def test_against_itself_the_win_rate_is_a_half_exactly():
    scores_PS = np.random.default_rng(0).normal(size=(33, 7)).round(1)
    assert win_rate(scores_PS, scores_PS) == Estimate(0.5, 0.5, 0.5)
    one, two = scores_PS, np.random.default_rng(1).normal(size=(33, 7)).round(1)
    assert win_rate(one, two).value + win_rate(two, one).value == pytest.approx(1)


def test_a_judge_of_pairs_is_asked_in_both_orders():
    """A judge that favours what stands first by 0.2 is put right by the swap."""
    asked = []

    def longer(row, first, second):
        asked.append((row["q"], first, second))
        return 0.8 if len(first) > len(second) else 0.4 if len(first) == len(second) else 0.0

    rows = [{"q": 1}, {"q": 2}]
    found = preferred(longer, rows, [["aaa"], ["b"]], [["a"], ["c"]])
    assert asked == [(1, "aaa", "a"), (1, "a", "aaa"), (2, "b", "c"), (2, "c", "b")]
    assert found.value == pytest.approx((0.5 * (0.8 + 1.0) + 0.5) / 2)


def test_a_judge_of_pairs_finds_a_model_equal_to_itself():
    chances = np.random.default_rng(0).random(400)
    texts = [[str(n)] for n in range(400)]
    found = preferred(lambda row, a, b: chances[int(a)], [{}] * 400, texts, texts)
    assert found == Estimate(0.5, 0.5, 0.5)


def test_bad_input_is_told():
    with pytest.raises(WorkbenchError, match="got 2 and 3 of them"):
        gain(PRE_PRE, np.zeros((3, 2)))
    with pytest.raises(WorkbenchError, match="got 2 and 1 of them"):
        win_rate(PRE_PRE, np.zeros((1, 2)))
    with pytest.raises(WorkbenchError, match="finite"):
        mean_score(np.array([[np.nan, 1.0]]))
    with pytest.raises(WorkbenchError, match="finite"):
        mean_score(np.empty((0, 2)))
    with pytest.raises(WorkbenchError, match="judge of pairs gave 3"):
        preferred(lambda *texts: 3, [{}], [["a"]], [["b"]])
    with pytest.raises(WorkbenchError, match="got 2 and 1"):
        preferred(lambda *texts: 1, [{}], [["a", "b"]], [["b"]])
    with pytest.raises(WorkbenchError, match="got 1 questions, 1 and 2"):
        preferred(lambda *texts: 1, [{}], [["a"]], [["b"], ["c"]])


def test_an_estimate_reads_as_text():
    assert str(Estimate(-0.0001, -0.1, 0.25)) == "0.000 [-0.100, 0.250]"
