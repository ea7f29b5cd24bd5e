"""Scaling, hulls and envelopes against shapes whose numbers are known."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial import Delaunay

from workbench.geometry import (
    Envelope,
    Hull,
    Scale,
    burn_step,
    course,
    step_lengths,
    volume,
    windowed_volume,
)
from workbench.phase import ACCURACY, Path
from workbench.variants import WorkbenchError

CUBE = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], dtype=float)
AXES = ("x", "y", "z")


def route(points, run="run", axes=AXES, steps=None):
    """A path through given points; what a verdict looks at besides is constant."""
    points = np.asarray(points, dtype=float)
    ones = np.ones(len(points))
    steps = np.arange(len(points)) * 10 if steps is None else np.asarray(steps)
    return Path(run, steps, points, axes, ones, 10 * ones, 3 * ones, 0 * ones, 0.5 * ones)


# ------------------------------------------------------------------ hulls


def test_volumes_of_known_bodies():
    assert volume(CUBE) == pytest.approx(1.0)
    assert volume(2 * CUBE - 7) == pytest.approx(8.0)
    assert volume(TETRAHEDRON) == pytest.approx(1 * 2 * 3 / 6)
    assert volume(np.vstack([CUBE, [[0.5, 0.5, 0.5]]])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("points", "rank"),
    [
        ([[1.0, 2.0, 3.0]], 0),
        ([[1e6, 0.1, 0.3]] * 4, 0),
        ([[0, 0, 0], [1, 1, 1]], 1),
        ([[0, 0, 0], [1, 2, 3], [2, 4, 6], [3, 6, 9], [5, 10, 15]], 1),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], 2),
        ([[x, y, 0.1 * x - 3 * y + 5] for x in range(4) for y in range(3)], 2),
    ],
)
def test_flat_sets_have_volume_0_and_hold_their_own_points(points, rank):
    hull = Hull.of(points)
    assert (hull.volume, hull.rank) == (0.0, rank)
    assert hull.inside(points).all()
    assert hull.inside([np.mean(points, axis=0)]).all()
    assert not hull.inside(np.asarray(points) + 0.01 * np.array([-3.1, 2.2, 1.3])).all()


def test_points_flatter_than_qhull_s_precision_are_flat():
    points = CUBE * [1, 1, 1e-13]
    assert volume(points) == 0.0
    assert Hull.of(points).rank == 2


def test_distances_outside_a_cube_by_hand():
    found = Hull.of(CUBE).distance(
        [[0.5, 0.5, 0.5], [1, 1, 1], [3, 0.5, 0.5], [4, 5, 0.5], [-1, -2, 3], [0.5, 0.5, 1.001]]
    )
    assert found == pytest.approx(
        [0, 0, 2, 5, 3, 0.001], abs=1e-9
    )  # face, edge (3-4-5), corner (1-2-2)
    assert (found[:2] == 0).all()


def test_distances_outside_flat_sets_by_hand():
    square = Hull.of([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert square.distance([[0.5, 0.5, 2], [4, 0.5, 4], [0.5, 0.5, 0]]) == pytest.approx([2, 5, 0])
    segment = Hull.of([[0, 0, 0], [2, 0, 0]])
    assert segment.distance([[1, 3, 4], [5, 0, 4], [1, 0, 0]]) == pytest.approx([5, 5, 0])
    assert Hull.of([[1, 1, 1]]).distance([[2, 3, 3], [1, 1, 1]]) == pytest.approx([3, 0])


def test_inside_is_delaunay_s_answer():
    rng = np.random.default_rng(0)
    points, others = rng.standard_normal((30, 3)), 1.5 * rng.standard_normal((200, 3))
    hull = Hull.of(points)
    inside = Delaunay(points).find_simplex(others) >= 0
    assert 20 < inside.sum() < 180
    assert (hull.inside(others) == inside).all()
    assert ((hull.distance(others) == 0) == inside).all()


def test_distances_are_those_that_a_general_optimiser_finds():
    """The nearest mixture of the points, by weights on a simplex: it never sees a half-space."""
    rng = np.random.default_rng(1)
    points = rng.standard_normal((10, 3))
    others = 3 * rng.standard_normal((12, 3))
    for other, found in zip(others, Hull.of(points).distance(others), strict=True):
        best = minimize(
            lambda w, other=other: ((w @ points - other) ** 2).sum(),
            np.full(10, 0.1),
            bounds=[(0, 1)] * 10,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert found == pytest.approx(np.sqrt(best.fun), abs=1e-4)


def test_a_hull_in_one_and_two_dimensions():
    assert volume([[1.0], [4.0], [2.0]]) == pytest.approx(3.0)
    assert volume([[0, 0], [2, 0], [0, 2]]) == pytest.approx(2.0)
    assert Hull.of([[1.0], [4.0]]).distance([[6.0], [0.0], [2.0]]) == pytest.approx([2, 1, 0])


def test_a_hull_of_nothing_is_refused():
    for points in ([], [[np.nan, 0, 0]], np.empty((0, 3))):
        with pytest.raises(WorkbenchError, match="finite array of points"):
            Hull.of(points)


def test_windowed_volumes_look_back_only():
    points = np.vstack([CUBE, np.tile(CUBE[-1], (8, 1))])
    found = windowed_volume(points, window=8)
    assert np.isnan(found[:7]).all()
    assert found[7] == pytest.approx(1.0)
    assert (np.diff(found[7:]) <= 1e-12).all()
    assert found[-1] == 0.0
    assert np.isnan(windowed_volume(CUBE, window=9)).all()


def test_step_lengths_by_hand():
    found = step_lengths([[0, 0, 0], [3, 4, 0], [3, 4, 0], [3, 4, 2]])
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([5, 0, 2])


# ------------------------------------------------------------------ scale and envelope


def test_the_scale_is_the_reference_s_and_can_be_undone():
    scale = Scale.fit([[1.0, 10.0, 0.1], [3.0, 30.0, 0.1]])
    assert scale.mean_D == pytest.approx([2, 20, 0.1])
    assert scale.std_D == pytest.approx([1, 10, 1])  # the third has no spread
    assert scale([[4.0, 0.0, 0.6]]) == pytest.approx(np.array([[2, -2, 0.5]]))
    assert scale.undo(scale([[4.0, 0.0, 0.6]])) == pytest.approx(np.array([[4, 0, 0.6]]))


def test_burn_in_is_the_first_tenth_rounded_up_of_the_slowest_run():
    assert burn_step([route(np.zeros((10, 3)))]) == 10  # one of ten checkpoints, ten steps apart
    assert burn_step([route(np.zeros((11, 3)))]) == 20
    assert burn_step([route(np.zeros((10, 3))), route(np.zeros((30, 3)))]) == 30
    with pytest.raises(WorkbenchError, match="too short for a burn-in"):
        burn_step([route(np.zeros((1, 3)))])
    with pytest.raises(WorkbenchError, match="no reference run"):
        burn_step([])


def cube_run(run="reference", side=2.0):
    """A far start that the burn-in drops, then the corners of a cube around 0."""
    return route(np.vstack([[[50, 50, 50]], (CUBE - 0.5) * side]), run)


def test_the_envelope_is_scaled_by_the_points_it_encloses():
    """Corners at -1 and 1: mean 0, deviation 1; the start counts neither there nor in the hull."""
    envelope = Envelope.fit([cube_run()])
    assert envelope.scale.mean_D == pytest.approx([0, 0, 0])
    assert envelope.scale.std_D == pytest.approx([1, 1, 1])
    assert envelope.volume == pytest.approx(8.0)
    assert envelope.burn_step == 10
    stretched = Envelope.fit([cube_run(side=20.0)])
    assert stretched.scale.std_D == pytest.approx([10, 10, 10])
    assert stretched.volume == pytest.approx(8.0)  # in its own units


def test_judged_runs_are_measured_in_the_reference_s_units():
    envelope = Envelope.fit([cube_run(side=20.0)])
    judged = route([[0, 0, 0], [30, 0, 0], [10, 40, 50]])
    assert envelope.beyond(judged) == pytest.approx([0, 2, 5])
    # A run on its own scale would look the same ten times smaller; here it does not.
    assert envelope.beyond(route(judged.points_ND / 10)) == pytest.approx([0, 0, 0])


def test_the_envelope_pools_runs():
    low, high = cube_run("low"), route(np.add(cube_run().points_ND, [10, 0, 0]), "high")
    both = Envelope.fit([low, high])
    assert both.hull.inside(both.scale([[5.0, 0, 0]])).all()
    assert both.scaled(low)[1:, 0].mean() == pytest.approx(-both.scaled(high)[1:, 0].mean())


def test_the_hull_of_few_runs_leaves_healthy_points_outside():
    """The figures in Envelope.fit: runs of one distribution, fitted on some and held against others."""
    rng = np.random.default_rng(0)
    for runs, share in ((2, 0.76), (5, 0.85), (10, 0.93)):
        found = []
        for _ in range(5):
            reference = [route(rng.standard_normal((40, 3))) for _ in range(runs)]
            judged = route(rng.standard_normal((400, 3)))
            found.append((Envelope.fit(reference).beyond(judged) == 0).mean())
        assert np.mean(found) == pytest.approx(share, abs=0.03)


def test_an_envelope_knows_whether_it_sees_labels():
    assert not Envelope.fit([cube_run()]).sees_labels
    labelled = route(cube_run().points_ND, axes=("x", "y", ACCURACY))
    assert Envelope.fit([labelled]).sees_labels


def test_other_axes_are_refused():
    envelope = Envelope.fit([cube_run()])
    with pytest.raises(WorkbenchError, match="Run 'b' has the axes p, q, r"):
        envelope.beyond(route(CUBE, "b", axes=("p", "q", "r")))
    with pytest.raises(WorkbenchError, match="different axes"):
        Envelope.fit([cube_run(), route(CUBE, axes=("p", "q", "r"))])


def test_a_reference_without_volume_still_fences():
    flat = route([[9, 9, 9], [0, 0, 0.5], [1, 0, 0.5], [0, 1, 0.5], [1, 1, 0.5]])
    envelope = Envelope.fit([flat])
    assert envelope.volume == 0.0
    assert envelope.hull.rank == 2
    assert (envelope.beyond(flat) == 0).tolist() == [False, True, True, True, True]
    assert envelope.beyond(route([[0.5, 0.5, 0.75]])) == pytest.approx(
        [0.25]
    )  # that axis has unit 1


def test_typical_and_initial_sizes_by_hand():
    """Nine times the corners of a cube of side 2; the first window holds the far start too."""
    points = np.vstack([[[50, 50, 50]], np.tile(2 * CUBE - 1, (9, 1))])
    envelope = Envelope.fit([route(points), route(points + 0, "again")])
    assert envelope.burn_step == 80  # the eighth checkpoint: 73 are left, one corner short of even
    unit = envelope.scale.std_D.prod()
    assert envelope.typical(window=8) == pytest.approx(8 / unit)
    volume_, length = envelope.initial(window=8)
    assert volume_ == pytest.approx(volume(points[:8]) / unit) and volume_ > 10
    scaled = points[:8] / envelope.scale.std_D
    assert length == pytest.approx(np.linalg.norm(np.diff(scaled, axis=0), axis=1).mean())
    assert np.isnan(envelope.typical(window=70))
    assert np.isnan(envelope.initial(window=74)[0])


def test_a_course_by_hand():
    found = course(
        route([[0, 0, 0], [1, 1, 1], [4, 0, 0], [0, 0, 0.5]]), Envelope.fit([cube_run()]), 4
    )
    assert found.distances_N == pytest.approx([0, 0, 3, 0])
    assert found.inside_N.tolist() == [True, True, False, True]
    assert (found.share_inside(), found.share_inside(last=1.0)) == (0.5, 0.75)
    assert (found.share_inside(margin=2.9), found.share_inside(margin=3.1)) == (0.5, 1.0)
    assert found.lengths_N[1:] == pytest.approx([np.sqrt(3), np.sqrt(11), np.sqrt(16.25)])
    assert np.isnan(found.volumes_N[:3]).all()
    edges = np.array([[1, 1, 1], [4, 0, 0], [0, 0, 0.5]])
    assert found.volumes_N[3] == pytest.approx(abs(np.linalg.det(edges)) / 6)
