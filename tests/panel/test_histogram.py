"""The histogram of the groups by hand: counts, columns and rows; the map and the bars as parsed SVG."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from workbench.panel import histogram as module
from workbench.panel.histogram import bars_html, histogram, map_html, percent, rounded, rows_of

ENDS = ("none right: no signal", "all right: no signal")


class Svg(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag, look=None):
        return [a for t, a in self.tags if t == tag and look in (None, a.get("class"))]


def counts(steps, *rows):
    return pd.DataFrame(rows, index=pd.Index(steps, name="step"))


def test_shares_of_each_step_by_hand():
    found = histogram(counts([1, 2], [0, 4, 4, 2], [1, 1, 4, 4]), 4)
    assert found.steps == ((1, 1), (2, 2)) and found.rows == tuple((k, k) for k in range(5))
    assert found.shares_RC.T.tolist() == [[0.25, 0, 0.25, 0, 0.5], [0, 0.5, 0, 0, 0.5]]
    assert found.groups_C.tolist() == [4, 4] and found.means_C.tolist() == [2.5, 2.5]


def test_fewer_prompts_at_a_step_and_steps_without_groups():
    table = pd.DataFrame({0: [4, 2], 1: [0, None]}, index=[1, 3]).astype("Int64")
    found = histogram(table, 4)
    assert found.groups_C.tolist() == [2, 0, 1] and np.isnan(found.shares_RC[:, 1]).all()
    assert found.shares_RC[:, 2].tolist() == [0, 0, 1, 0, 0]
    assert module.said(found, 1) == "Step 2: no groups"


def test_many_steps_share_columns_of_round_width_that_stay_where_they_are():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 17, (10_000, 8))
    found = histogram(pd.DataFrame(values, index=range(1, 10_001)), 16)
    assert (len(found.steps), found.per_column) == (100, 100)
    assert found.steps[1] == (101, 200) and found.groups_C.tolist() == [800] * 100
    expected = np.bincount(values[100:200].ravel(), minlength=17) / 800
    assert found.shares_RC[:, 1] == pytest.approx(expected)
    before = histogram(pd.DataFrame(values[:9_950], index=range(1, 9_951)), 16)
    assert before.steps[:99] == found.steps[:99] and before.steps[99] == (9_901, 9_950)
    assert (before.shares_RC[:, :99] == found.shares_RC[:, :99]).all()


@pytest.mark.parametrize("size", [1, 2, 16, 32, 33, 64, 100, 512])
def test_rows_hold_each_k_once_and_none_and_all_alone(size):
    rows = rows_of(size)
    assert len(rows) <= module.ROWS
    assert [k for low, high in rows for k in range(low, high + 1)] == list(range(size + 1))
    assert rows[0] == (0, 0) and rows[-1] == (size, size)
    found = histogram(counts([1], list(range(size + 1))), size)
    assert found.shares_RC.sum() == pytest.approx(1)


def test_round_numbers():
    wanted = {1: 1, 2: 2, 3: 5, 6: 10, 10: 10, 11: 20, 51: 100, 84: 100, 101: 200, 999: 1000}
    assert {least: rounded(least) for least in wanted} == wanted
    assert [percent(v, d) for v, d in ((0.25, 0), (0.0468, 1), (-0.018, 1), (-0.0001, 0))] == [
        "25 %", "4.7 %", "−1.8 %", "0 %",
    ]  # fmt: skip


def cells(svg, look):
    """How many cells have each opacity."""
    paths = svg.of("path", look)
    return {float(p["fill-opacity"]): len(re.findall("M", p["d"])) for p in paths}


def test_the_map_draws_each_share_in_its_shade_and_signal_apart():
    found = histogram(counts([1, 2], [0, 4, 4, 2], [1, 1, 4, 4]), 4)
    svg = Svg(map_html(found, ENDS))
    assert cells(svg, "wb-g-dead") == {0.7: 1, 0.85: 2}  # 25 %, and twice 50 %
    assert cells(svg, "wb-g-mixed") == {0.7: 1, 0.85: 1}
    titles = [text for text in svg.texts if text.startswith("Step ")]
    assert (
        titles[0]
        == "Step 1: 4 groups of 4\nall right 50 %, mixed 25 %, none right 25 %\nmean K 2.50"
    )
    assert {"none right", "all right", "no signal", "K right of 4"} <= set(svg.texts)
    assert {"0", "4", "1", "2", "step"} <= set(svg.texts)
    assert " to 100 %" in svg.texts  # the legend
    (picture,) = svg.of("svg", "wb-g-map")
    assert "all right 50 %, mixed 50 %" in picture["aria-label"]


def test_axes_have_round_steps_and_say_how_many_share_a_column():
    table = pd.DataFrame(np.ones((700, 2), int), index=range(1, 701))
    texts = Svg(map_html(histogram(table, 8), ENDS)).texts
    assert [t for t in texts if re.fullmatch(r"\d00", t)] == [f"{n}00" for n in range(1, 8)]
    assert "step (10 in a column)" in texts


def test_changes_are_marked_in_their_column_and_hostile_text_is_inert():
    found = histogram(pd.DataFrame(np.ones((300, 2), int), index=range(1, 301)), 8)
    marks = [(41, "beta <script>0 → 1"), (0, "before"), (999, "after")]
    svg = Svg(map_html(found, ENDS, marks))
    (drawn,) = svg.of("line", "wb-g-change")
    assert not svg.of("script")
    (told,) = [text for text in svg.texts if "beta <script>0 → 1" in text]
    assert told.startswith("Steps 41 to 45")
    column = svg.of("rect", "wb-g-over")[8]
    assert float(column["x"]) == pytest.approx(float(drawn["x1"]), abs=0.06)


def test_cells_meet_without_seams_and_stay_in_the_frame():
    found = histogram(pd.DataFrame(np.arange(65)[None].repeat(119, 0), index=range(119)), 64)
    svg = Svg(map_html(found, ENDS))
    path = "".join(p["d"] for p in svg.of("path"))
    places = re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v([\d.]+)", path)
    xs, ys = sorted({float(p[0]) for p in places}), sorted({float(p[1]) for p in places})
    (wide, high) = (float(n) for n in places[0][2:])
    assert np.diff(xs) == pytest.approx(wide, abs=1e-9)
    assert np.diff(ys)[1:-1] == pytest.approx(high, abs=1e-9)  # the ends stand apart
    assert xs[-1] + wide <= module.WIDTH - module.RIGHT
    assert ys[-1] + high <= module.HEIGHT - module.BOTTOM


def test_a_group_of_one_is_right_or_not():
    svg = Svg(map_html(histogram(counts([1], [0, 1, 1]), 1), ENDS))
    assert cells(svg, "wb-g-dead") == {0.7: 1, 1.0: 1} and not svg.of("path", "wb-g-mixed")


def test_the_bars_tell_their_numbers():
    svg = Svg(bars_html(np.array([0, 4, 4, 2, 4]), 4))
    assert len(svg.of("rect", "wb-g-dead")) == 2 and len(svg.of("rect", "wb-g-mixed")) == 1
    heights = [float(a["height"]) for a in svg.of("rect")]
    assert heights == pytest.approx([heights[2] / 3, heights[2] / 3, heights[2]], abs=0.05)
    assert svg.texts[:3] == ["1", "1", "3"]
    (picture,) = svg.of("svg")
    assert picture["aria-label"] == "Groups by right completions: 1 with 0, 1 with 2, 3 with 4"
    assert Svg(bars_html(np.array([], int), 4)).of("rect") == []
