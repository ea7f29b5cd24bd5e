"""The geometry's figure: known paths and hulls, read back from the arrays that plotly gets."""

import numpy as np
import pytest

from workbench import scenes
from workbench.geometry import Envelope
from workbench.phase import ACCURACY, VOTE, centre_path, path

TETRAHEDRON = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]


def make_path(points, name="a", height=VOTE, accuracy=None, every=2):
    """A path through points (entropy, log length, height), one every so many steps."""
    points = np.array(points, float)
    columns = {
        "step": list(range(0, every * len(points), every)),
        "entropy": points[:, 0],
        "length": np.exp(points[:, 1]),
        "vote_share": points[:, 2],
        "accuracy": points[:, 2] if height == ACCURACY else accuracy,
        "truncated": np.zeros(len(points)),
        "distinct": np.full(len(points), 2.0),
    }
    if columns["accuracy"] is None:
        del columns["accuracy"]
    return path(name, columns, height)


def make_envelope(points):
    """The envelope around the points; burn-in leaves out the first, hence one more."""
    return Envelope.fit([make_path([points[0], *points], "reference")])


def trace(figure, key):
    return figure.data[scenes.KEYS.index(key)]


def words(figure):
    """The words in the scene, with where they stand on the first axis."""
    return [(note.text, note.x) for note in figure.layout.scene.annotations]


def points_of(trace):
    return np.stack([trace.x, trace.y, trace.z], 1)


def test_the_keys_are_those_of_the_styles_and_every_trace_starts_hidden():
    assert list(scenes.trace_styles()) == list(scenes.KEYS)
    assert [t.meta["key"] for t in scenes.empty_scene().data] == list(scenes.KEYS)
    assert not any(t.visible for t in scenes.empty_scene().data)


def test_a_path_is_drawn_through_its_probes_with_start_newest_and_accuracy():
    one = make_path([(1, 2, 0.3), (0.8, 2.1, 0.4), (0.5, 1.9, 0.7)], accuracy=[0.25, 0.31, 0.38])
    figure = scenes.scene_figure([one])
    np.testing.assert_allclose(points_of(trace(figure, "path/0")), one.points_ND)
    np.testing.assert_allclose(trace(figure, "accuracy").marker.color, [0.25, 0.31, 0.38])
    assert trace(figure, "accuracy").marker.coloraxis == "coloraxis"
    assert figure.layout.coloraxis.colorbar.title.text == "accuracy"
    assert figure.layout.coloraxis.showscale is True
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == pytest.approx((0.2, 0.4))
    np.testing.assert_allclose(points_of(trace(figure, "start")), [one.points_ND[0]])
    np.testing.assert_allclose(points_of(trace(figure, "now")), [one.points_ND[2]])
    assert words(figure) == [("start", 1.0), ("step 4", 0.5)]
    assert not trace(figure, "path/1").visible and not trace(figure, "body").visible


def test_the_slider_cuts_the_paths_and_moves_no_axis():
    one = make_path([(n, n, n / 10) for n in range(5)], accuracy=np.arange(5) / 10)
    whole, cut = scenes.scene_figure([one]), scenes.scene_figure([one], up_to=4)
    assert len(trace(cut, "path/0").x) == len(trace(cut, "accuracy").x) == 3
    assert len(trace(cut, "accuracy").marker.color) == len(trace(cut, "path/0").text) == 3
    assert words(cut) == [("start", 0.0), ("step 4", 2.0)] and list(trace(cut, "now").x) == [2]
    assert cut.layout.scene.xaxis.range == whole.layout.scene.xaxis.range
    assert cut.layout.coloraxis.cmax == whole.layout.coloraxis.cmax == 0.4
    before = scenes.scene_figure([one, make_path([(1, 1, 1)], "late", every=2)], up_to=-1)
    assert not trace(before, "path/0").visible and not trace(before, "now").visible
    assert words(before) == [] and words(scenes.scene_figure([one], up_to=0)) == [("start", 0.0)]


def test_the_current_run_is_thick_and_others_differ_in_dash_symbol_and_name():
    runs = [
        make_path([(n, 1, 0.5), (n, 2, 0.6)], f"run {n}", accuracy=[0.1, 0.2]) for n in range(4)
    ]
    figure = scenes.scene_figure(runs, current=2)
    widths = [trace(figure, f"path/{slot}").line.width for slot in range(4)]
    assert widths[2] > max(widths[:2] + widths[3:])
    assert list(trace(figure, "accuracy").x) == [2, 2]
    for look in ("line.dash", "marker.symbol", "line.color", "name"):
        assert len({trace(figure, f"path/{slot}")[look] for slot in range(4)}) == 4
    assert [trace(figure, "now").x[slot] for slot in range(4)] == [0, 1, 2, 3]


def test_a_run_without_probes_keeps_its_colour_for_later():
    figure = scenes.scene_figure([None, make_path([(1, 1, 0.5)], "b")], current=0)
    assert not trace(figure, "path/0").visible and trace(figure, "path/1").name == "b"
    assert not trace(figure, "accuracy").visible and figure.layout.coloraxis.showscale is False


def test_a_path_without_labels_has_no_colour_bar():
    figure = scenes.scene_figure([make_path([(1, 1, 0.5), (2, 2, 0.5)])])
    assert not trace(figure, "accuracy").visible and figure.layout.coloraxis.showscale is False


def test_the_envelope_is_drawn_in_raw_units():
    shift = np.array([5.0, 2.0, 0.25])
    solid = np.array(TETRAHEDRON) * [10, 1, 0.5] + shift
    figure = scenes.scene_figure([], make_envelope(solid))
    mesh = trace(figure, "body")
    np.testing.assert_allclose(sorted(points_of(mesh).tolist()), sorted(solid.tolist()))
    faces = {tuple(sorted(face)) for face in zip(mesh.i, mesh.j, mesh.k, strict=True)}
    assert faces == {(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)}
    assert 0 < mesh.opacity < 0.5 and mesh.visible
    assert len(trace(figure, "edges").x) == 6 * 3 and np.isnan(trace(figure, "edges").x[2::3]).all()


def test_every_corner_pair_of_an_edge_belongs_to_a_face():
    rng = np.random.default_rng(0)
    found = scenes.body(make_envelope(rng.normal(size=(30, 3))))
    corners, faces, edges = len(found.corners_M3), len(found.triangles_F3), len(found.edges_E2)
    assert corners - edges + faces == 2  # Euler, for a closed body of triangles
    pairs = {
        tuple(sorted((f[i], f[j]))) for f in found.triangles_F3 for i, j in ((0, 1), (1, 2), (0, 2))
    }
    assert pairs == set(map(tuple, found.edges_E2.tolist()))


@pytest.mark.parametrize(
    ("points", "faces", "edges"),
    [
        ([(0, 0, 0.5), (1, 0, 0.5), (1, 1, 0.5), (0, 1, 0.5)], 2, 4),  # a square
        ([(0, 0, 0.5), (1, 1, 0.5), (0.5, 0.5, 0.5)], 0, 1),  # a line
        ([(0.3, 1, 0.5), (0.3, 1, 0.5)], 0, 0),  # a point
    ],
)
def test_a_flat_envelope_is_drawn_flat(points, faces, edges):
    envelope = make_envelope(points)
    found = scenes.body(envelope)
    assert (len(found.triangles_F3), len(found.edges_E2)) == (faces, edges)
    figure = scenes.scene_figure([make_path(points, "b")], envelope)
    assert trace(figure, "body").visible is (faces > 0) and trace(figure, "corners").visible
    if faces:  # the ring goes round the square, never across it
        corners = found.corners_M3[found.edges_E2]
        np.testing.assert_allclose(np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1), 1)


def test_axes_have_units_and_lengths_are_read_in_tokens():
    figure = scenes.scene_figure([make_path([(1, np.log(5), 0.3), (0.5, np.log(80), 0.4)])])
    titles = [figure.layout.scene[f"{a}axis"].title.text for a in "xyz"]
    assert titles[0] == "mean token entropy (nats)"
    assert titles[1] == "mean length (tokens, log scale)"
    assert titles[2] == "majority-vote share"
    axis = figure.layout.scene.yaxis
    assert list(axis.ticktext) == ["5", "10", "20", "50"]
    np.testing.assert_allclose(axis.tickvals, np.log([5, 10, 20, 50]))
    assert figure.layout.scene.xaxis.tickmode == "auto"


def test_ticks_of_a_narrow_range_of_lengths_are_round_and_within_it():
    found = scenes.length_ticks(np.log(8.1), np.log(9.4))
    assert found["ticktext"] == ["8.5", "9"]
    found = scenes.length_ticks(np.log(9.9), np.log(20.1))
    assert found["ticktext"] == ["10", "15", "20"]


def test_distances_to_centres_name_the_centre():
    columns = {"step": [0], "entropy": [1.0], "length": [5.0]}
    one = centre_path("a", columns, [[0.1, 0.2, 0.3]], [0.01, 0.2, 1.5])
    figure = scenes.scene_figure([one])
    assert figure.layout.scene.zaxis.title.text == "distance to centre 1.500 (nats)"
    assert figure.layout.scene.yaxis.tickvals is None


def test_names_of_runs_are_escaped_and_probes_are_told_in_words():
    one = make_path([(1, np.log(8), 0.25)], "<b>x</b>", accuracy=[0.5])
    figure = scenes.scene_figure([one])
    assert trace(figure, "path/0").name == "&lt;b&gt;x&lt;/b&gt;"
    text = trace(figure, "path/0").text[0]
    assert "<b>x" not in text and "step 0<br>entropy 1.000 nats<br>length 8.0 tokens" in text
    assert "majority-vote share 0.250<br>accuracy 0.500" in text


def test_where_accuracy_is_an_axis_it_is_told_once():
    one = make_path([(1, 2, 0.25)], height=ACCURACY)
    assert scenes.told(one)[0].count("accuracy") == 1


def test_the_camera_is_kept_when_the_paths_change():
    figure = scenes.empty_scene("dark")
    scenes.fill(figure, *scenes.scene_data([make_path([(1, 1, 0.5)])]))
    camera = figure.layout.scene.camera.to_plotly_json()
    scenes.fill(figure, *scenes.scene_data([make_path([(3, 3, 0.5), (4, 4, 0.6)])]))
    assert figure.layout.scene.uirevision == "kept"
    assert figure.layout.scene.camera.to_plotly_json() == camera
    assert list(trace(figure, "path/0").x) == [3, 4]


def test_nothing_at_all_is_drawn_without_a_crash():
    figure = scenes.scene_figure([])
    assert not any(t.visible for t in figure.data)
