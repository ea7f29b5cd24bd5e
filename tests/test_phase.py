"""Points and paths in phase space by hand, from traces and from the columns that a run keeps."""

import json
import math

import numpy as np
import pytest

from workbench.phase import ACCURACY, VOTE, centre_path, distances, path, table
from workbench.probe import ProbeTrace
from workbench.variants import WorkbenchError
from workbench.warping import EntropyCentres, dtw_to, resample


def trace(step=0, correct=(1, 0, 0, 0), prompts=(0, 0, 1, 1)):
    return ProbeTrace.of(
        step,
        prompts,
        [[1.0, 0.0], [0.5] * 4, [0.25] * 4, [0.0] * 6],
        [True, True, True, False],
        ["7", "7", "8", "9"],
        correct,
    )


def centres():
    series_KL = np.stack([np.full(64, 0.0), np.full(64, 0.5), np.linspace(1, 0, 64)])
    return EntropyCentres(series_KL, series_KL.mean(1), np.full(3, 1 / 3), {}, band=0.1)


# ------------------------------------------------------------------ columns


def test_a_table_has_a_column_for_each_number_in_order_of_step():
    found = table([trace(20), trace(0, correct=(1, 1, 1, 1)), trace(10)])
    assert found == {
        "step": [0, 10, 20],
        "entropy": [0.25] * 3,
        "length": [4.0] * 3,
        "truncated": [0.25] * 3,
        "vote_share": [0.75] * 3,
        "distinct": [1.5] * 3,
        "accuracy": [1.0, 0.25, 0.25],
    }


def test_what_a_trace_does_not_know_is_nan_in_its_column():
    found = table([trace(0, correct=None), trace(1)])
    assert math.isnan(found["accuracy"][0]) and found["accuracy"][1] == 0.25
    assert "accuracy" not in table([trace(0, correct=None)])


# ------------------------------------------------------------------ P1


def test_p1_by_hand():
    """4 nats over 16 tokens, lengths 2, 4, 4, 6, one of four right, votes 1 and 1/2."""
    columns = table([trace()])
    found = path("a", columns, ACCURACY)
    assert found.points_ND == pytest.approx(np.array([[4 / 16, np.log(4), 0.25]]))
    assert path("a", columns).points_ND == pytest.approx(np.array([[4 / 16, np.log(4), 0.75]]))
    assert found.axes == ("mean token entropy (nats)", "log mean length", "accuracy")


def test_p1_without_labels_needs_none_and_accuracy_does():
    columns = table([trace(correct=None)])
    assert path("a", columns, VOTE).points_ND[0, 2] == pytest.approx(0.75)
    with pytest.raises(WorkbenchError, match="'a' has no accuracy at every probe: it needs labels"):
        path("a", columns, ACCURACY)
    with pytest.raises(WorkbenchError, match="needs labels"):  # nor is one of two enough
        path("a", table([trace(0), trace(1, correct=None)]), ACCURACY)
    with pytest.raises(WorkbenchError, match="no majority-vote share.*two responses or more"):
        path("a", table([trace(prompts=(0, 1, 2, 3))]))
    with pytest.raises(WorkbenchError, match="Unknown height 'reward'; give 'majority-vote share'"):
        path("a", columns, "reward")


def test_a_path_is_in_order_of_step_and_knows_what_it_sees():
    columns = table([trace(20), trace(0, correct=(1, 1, 1, 1)), trace(10)])
    found = path("a", columns, ACCURACY)
    assert found.steps_N.tolist() == [0, 10, 20]
    assert found.points_ND[:, 2].tolist() == found.accuracy_N.tolist() == [1.0, 0.25, 0.25]
    assert found.entropy_N.tolist() == [0.25] * 3
    assert found.length_N.tolist() == [4.0] * 3
    assert found.distinct_N.tolist() == [1.5] * 3
    assert found.truncated_N.tolist() == [0.25] * 3
    assert found.sees_labels
    blind = path("a", columns)
    assert not blind.sees_labels
    assert blind.accuracy_N.tolist() == [1.0, 0.25, 0.25]  # kept beside it, for evaluation only
    assert path("a", table([trace(0), trace(1, correct=None)])).accuracy_N is None
    assert path("a", table([trace(0, correct=None)])).accuracy_N is None


def test_columns_that_went_through_a_file_give_the_same_path():
    """JSON has no NaN: what is not known comes back as None."""
    columns = table([trace(0, correct=None), trace(3)])
    text = json.dumps({k: [None if x != x else x for x in v] for k, v in columns.items()})
    found, kept = path("a", columns), path("a", json.loads(text))
    assert kept.steps_N.tolist() == found.steps_N.tolist() == [0, 3]
    assert kept.points_ND.tolist() == found.points_ND.tolist()
    assert kept.accuracy_N is found.accuracy_N is None


def test_columns_that_are_missing_are_nan():
    found = path("a", {"step": [0, 5], "entropy": [1, 2], "length": [3, 4], "vote_share": [0, 1]})
    assert np.isnan(found.distinct_N).all() and np.isnan(found.truncated_N).all()
    assert len(found.distinct_N) == 2 and found.accuracy_N is None


@pytest.mark.parametrize("traces", [[trace(0), trace(0)], []], ids=["repeated", "none"])
def test_a_repeated_step_and_no_step_are_refused(traces):
    with pytest.raises(WorkbenchError, match="Run 'a' needs probes, one for each step"):
        path("a", table(traces))


def test_steps_out_of_order_are_refused():
    columns = {"step": [5, 0], "entropy": [1, 2], "length": [3, 4], "vote_share": [0, 1]}
    with pytest.raises(WorkbenchError, match="in their order"):
        path("a", columns)


# ------------------------------------------------------------------ P2


def test_p2_is_the_mean_distance_to_each_centre():
    found = distances([trace()], centres())
    assert found.shape == (1, 3)
    # The constants .5, .25 and 0 lie 8 times their level from 0 (64 points); the line is the third centre.
    line = dtw_to(resample([[1.0, 0.0]]), centres().series_KL)[0]
    assert line[2] == pytest.approx(0.0, abs=1e-12)
    assert found[0, 0] == pytest.approx((line[0] + 8 * (0.5 + 0.25 + 0)) / 4)
    assert found[0, 1] == pytest.approx((line[1] + 8 * (0 + 0.25 + 0.5)) / 4)


def test_distances_are_in_order_of_step():
    still = ProbeTrace.of(3, [0], [[0.0, 0.0]], [True], ["7"])
    found = distances([trace(7), still], centres())
    assert found[0, 0] == 0.0 and found[1, 0] > 0.0
    assert found[0, 1] == pytest.approx(8 * 0.5)


def test_a_path_in_p2_names_the_centres():
    traces = [trace(0, correct=None), trace(4, correct=None)]
    near = distances(traces, centres())
    found = centre_path("a", table(traces), near, centres().levels_K)
    assert found.points_ND.tolist() == near.tolist()
    assert found.steps_N.tolist() == [0, 4]
    assert found.axes[1] == "distance to the centre of 0.500 nats"
    assert not found.sees_labels
    assert found.distinct_N.tolist() == [1.5] * 2


def test_distances_of_other_probes_are_refused():
    with pytest.raises(WorkbenchError, match=r"has 1 probes on 3 axes, but points of shape \(2, 3"):
        centre_path("a", table([trace()]), np.ones((2, 3)), [0.0, 0.5, 1.0])
    with pytest.raises(WorkbenchError, match=r"on 2 axes, but points of shape \(1, 3"):
        centre_path("a", table([trace()]), np.ones((1, 3)), [0.0, 0.5])
