"""The live scene: what it sends, and when."""

import numpy as np
import pytest

from workbench import scenes
from workbench.panel import scene
from workbench.panel.scene import LiveScene
from workbench.phase import path


def make_path(entropies, name="a"):
    count = len(entropies)
    columns = {"step": range(count), "entropy": entropies, "length": [5.0] * count}
    return path(name, columns | {"vote_share": [0.5] * count})


def index(key):
    return scenes.KEYS.index(key)


def test_the_figure_is_made_with_what_it_first_shows_and_then_updated_in_place():
    live = LiveScene()
    live.draw([None], None, 0, None)
    assert live.figure is None and live.root.layout.display == "none"
    live.draw([make_path([0.1, 0.2])], None, 0, None)
    first = live.figure
    assert live.root.layout.display == ""
    np.testing.assert_allclose(first.data[index("path/0")].x, [0.1, 0.2])
    live.draw([make_path([0.1, 0.2, 0.4])], None, 0, None)
    assert live.figure is first and len(live.root.children) == 1
    np.testing.assert_allclose(first.data[index("path/0")].x, [0.1, 0.2, 0.4])


def test_a_view_made_late_starts_from_the_present_traces():
    live = LiveScene()
    live.draw([make_path([0.1])], None, 0, None)
    first = live.figure._widget_data[index("path/0")]
    assert first["visible"] is True and list(first["x"]) == [0.1]
    live.draw([make_path([0.1, 0.7])], None, 0, None)
    kept = live.figure._widget_data[index("path/0")]
    np.testing.assert_allclose(kept["x"], [0.1, 0.7])
    assert live.figure._widget_layout["scene"]["xaxis"]["range"][1] > 0.7
    assert live.figure._config["displayModeBar"] is False


@pytest.mark.parametrize("shown", [True, False])
def test_where_figures_cannot_be_shown_it_says_so(monkeypatch, shown):
    monkeypatch.setattr(scene, "missing", lambda: "Live curves need <anywidget>.")
    live = LiveScene()
    live.draw([make_path([0.1])] if shown else [], None, 0, None)
    assert live.figure is None and len(live.root.children) == shown
    if shown:
        assert "&lt;anywidget&gt;" in live.root.children[0].value
