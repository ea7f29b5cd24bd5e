"""The picture of an objective: drawn from its numbers, told in words where there are none."""

import re
import sys
import threading

import numpy as np
import pytest
import torch  # noqa: F401 - without it nothing is drawn

from workbench.objectives import OBJECTIVES
from workbench.panel import preview
from workbench.panel.preview import Preview, picture, small_plot


def points(svg, look):
    text = re.search(rf'polyline class="wb-p-line {look}" points="([^"]*)"', svg).group(1)
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_a_line_fills_its_box_from_end_to_end():
    x, y = np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 2.0])
    svg = small_plot("t", "p", (0, 1), [(x, y, "wb-one")])
    left, _, right = points(svg, "wb-one")
    assert left == (preview.LEFT, preview.HEIGHT - preview.BOTTOM)
    assert right == (preview.WIDTH - preview.RIGHT, preview.TOP)
    assert 'aria-label="t: from 0 to 2"' in svg


def test_a_constant_zero_is_drawn_without_a_division_by_zero():
    svg = small_plot("t", "p", (0, 1), [(np.array([0.0, 1.0]), np.zeros(2), "wb-one")])
    assert "nan" not in svg and "inf" not in svg


def test_successes_lie_above_and_failures_below_the_zero_line():
    html = picture(OBJECTIVES["rloo"], 8, {})
    zero = float(re.search(r'wb-p-axis"[^>]* y1="([\d.]+)"', html).group(1))
    assert all(y <= zero + 0.1 for _, y in points(html, "wb-good"))
    assert all(y >= zero - 0.1 for _, y in points(html, "wb-bad"))
    assert html.count("<svg") == 4 and "subcritical: rises" in html


@pytest.mark.parametrize("name", [name for name, row in OBJECTIVES.items() if not row.needs])
def test_every_row_that_counts_has_a_picture(name):
    row = OBJECTIVES[name]
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in row.defaults.items()}
    assert picture(row, 16, arguments).count("<svg") == 4


def test_without_a_picture_there_is_a_sentence():
    assert "more than the number" in picture(OBJECTIVES["differential_smoothing"], 16, {})
    assert re.search("pkpo.* needs .*8.*N is 4", picture(OBJECTIVES["pkpo"], 4, {"k": 8}))

    def own(rewards_PG):
        raise KeyError("<b>x</b>")

    assert "KeyError" in picture(own, 4, {}) and "<b>x" not in picture(own, 4, {})


def test_an_own_function_is_drawn():
    assert "critical: flat" in picture(OBJECTIVES["maxrl"].function, 4, {})


def test_without_torch_it_waits_until_it_is_shown(monkeypatch, wait):
    shown = Preview()
    monkeypatch.delitem(sys.modules, "torch")
    shown.show(OBJECTIVES["rloo"], 8, {})
    assert shown.root.value == preview.LOADING
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    shown.load()
    assert len(started) == 1
    monkeypatch.undo()
    started[0].start()
    wait(lambda: "<svg" in shown.root.value)


def test_short_numbers():
    assert [preview.short(v) for v in (0.0, 15.0, -0.2199, 1234.0)] == ["0", "15", "−0.22", "1234"]
