"""The curves are read from the figure's data; nothing is compared by its pixels."""

import numpy as np
import pandas as pd

from workbench import plots, series


def make_metrics(steps=20, ks=(1, 4, 64), every=10):
    rows = []
    for step in range(steps + 1):
        row = {"step": step}
        if step:
            row |= {"train/entropy": 1 / step, "train/kl": 0.01 * step, "reward/correct": 0.5}
            row |= {"reward/total": 0.25, "rollout/length": 9.0, "groups/zero_signal": 0.125}
        if step % every == 0:
            for k in ks:
                value = 0.25 + 0.01 * step + 0.001 * k
                row |= {f"eval/pass@{k}": value}
                row |= {f"eval/pass@{k}/low": value - 0.1, f"eval/pass@{k}/high": value + 0.1}
        rows.append(row)
    return pd.DataFrame(rows).set_index("step")


def make_events(*rows):
    return pd.DataFrame(
        [{"step": step, "time": 0.0, "kind": "update", "text": text} for step, text in rows],
        columns=["step", "time", "kind", "text"],
    )


def title(figure, key):
    """The title of a subplot."""
    keys = [subplot.key for subplot in series.SUBPLOTS]
    return figure.layout.annotations[keys.index(key)]


def test_the_figure_holds_the_same_arrays_as_trace_data():
    runs = [("a", make_metrics(), make_events((3, "x"))), ("b", make_metrics(10), make_events())]
    figure = plots.curves_figure(runs)
    for slot, run in enumerate(runs):
        index = plots.trace_index(slot)
        for key, values in series.trace_data(*run).items():
            trace = figure.data[index[key]]
            assert trace.meta == {"run": slot, "key": key}
            np.testing.assert_array_equal(trace.y, values.y)
            assert trace.visible == values.visible


def test_runs_differ_in_dash_and_marker_not_in_colour_alone():
    figure = plots.curves_figure([("a", make_metrics(), make_events())] * 2)
    first, second = (figure.data[plots.trace_index(slot)["pass@1"]] for slot in (0, 1))
    assert first.line.dash != second.line.dash and first.marker.symbol != second.marker.symbol


def test_the_legends_name_each_visible_line_once():
    runs = [("a", make_metrics(), make_events()), ("b", make_metrics(), make_events())]
    named = [t for t in plots.curves_figure(runs).data if t.visible and t.showlegend is not False]
    labels = [(trace.legend, trace.name) for trace in named]
    assert len(labels) == len(set(labels))
    assert {("legend", "@1"), ("legend3", "correct"), ("legend4", "a"), ("legend4", "b")} <= set(
        labels
    )


def test_subplots_do_not_overlap_and_marks_have_their_own_axis():
    for rows in (3, 4, 5):
        cells = [plots.cell(subplot, rows) for subplot in series.SUBPLOTS if subplot.row < rows]
        for i, (left, right, bottom, top) in enumerate(cells):
            assert 0 <= left < right <= 1.001 and 0 <= bottom < top <= 1
            for other in cells[:i]:
                apart = left > other[1] or other[0] > right or bottom > other[3] or other[2] > top
                assert apart
    axes = [axis for subplot in series.SUBPLOTS for axis in plots.axis_ids(subplot)[1:]]
    assert len(axes) == len(set(axes))


def test_dark_and_light_templates_and_an_explicit_height():
    for theme, name in (("light", "plotly_white"), ("dark", "plotly_dark")):
        assert plots.layout(theme, 1)["template"] == name
        assert plots.empty_figure(1, theme).layout.height == plots.HEIGHT


def test_the_fourth_row_is_there_when_the_run_chose_alpha_or_moved_beta():
    metrics = make_metrics(steps=5).assign(**{"groups/update_scale": 0.8, "train/beta": 0.1})
    plain = plots.curves_figure([("a", metrics, make_events())])
    assert plain.layout.height == plots.HEIGHT and title(plain, "beta").visible is False
    for column in ("train/alpha", "train/beta"):
        chosen = metrics.assign(**{column: np.linspace(0.5, 1.0, 6)})
        figure = plots.curves_figure([("a", metrics, make_events()), ("b", chosen, make_events())])
        key = column.removeprefix("train/")
        assert figure.layout.height == plots.HEIGHT + plots.ROW
        titles = [title(figure, name).visible for name in ("scale", "alpha", "beta")]
        assert titles == [True, key == "alpha", key == "beta"]
        trace = figure.data[plots.trace_index(1)[key]]
        assert trace.visible and trace.y[-1] == 1.0 and trace.x[0] == 0
        assert not figure.data[plots.trace_index(0)[key]].visible
        assert figure.data[plots.trace_index(1)["scale"]].visible
    assert not plain.data[plots.trace_index(0)["scale"]].visible  # nothing in a hidden row


def test_the_upper_rows_keep_their_size_in_pixels_when_further_ones_come():
    frame = plots.MARGIN["t"] + plots.MARGIN["b"]
    for subplot in (p for p in series.SUBPLOTS if p.row < 3):
        sizes = []
        for rows in (3, 5):
            _, _, bottom, top = plots.cell(subplot, rows)
            sizes.append((top - bottom) * (plots.height_of(rows) - frame))
        np.testing.assert_allclose(*sizes)


def test_a_run_without_any_metric_gives_an_empty_figure():
    figure = plots.curves_figure([("a", pd.DataFrame(), pd.DataFrame())])
    assert not any(trace.visible for trace in figure.data)


def test_the_row_of_post_pre_comes_by_itself_and_below_that_of_alpha():
    metrics = make_metrics(steps=5).assign(**{"eval/post_pre": 0.5, "rollout/malformed": 0.1})
    figure = plots.curves_figure([("a", metrics, make_events())])
    assert figure.layout.height == plots.HEIGHT + plots.ROW
    assert title(figure, "post").visible and not title(figure, "alpha").visible
    assert "T_post + A_pre: initial policy answers" in title(figure, "post").text
    both = plots.curves_figure([("a", metrics.assign(**{"train/alpha": 0.5}), make_events())])
    assert both.layout.height == plots.HEIGHT + 2 * plots.ROW
    post, alpha = (next(p for p in series.SUBPLOTS if p.key == key) for key in ("post", "alpha"))
    assert plots.cell(post, 5)[3] < plots.cell(alpha, 5)[2]
    frame = plots.MARGIN["t"] + plots.MARGIN["b"]
    for rows, drawn in ((4, figure), (5, both)):
        assert drawn.layout[plots.axis_names(post)[1]].domain == plots.cell(post, rows)[2:]
        size = (plots.cell(post, rows)[3] - plots.cell(post, rows)[2]) * (
            plots.height_of(rows) - frame
        )
        np.testing.assert_allclose(size, 0.18 * (plots.HEIGHT - frame) - plots.HEADROOM)


def test_lines_of_post_pre_differ_by_dash_and_runs_by_marker():
    one, two = plots.post_styles(0), plots.post_styles(1)
    lines = [one[f"post/{key}"]["line"] for key in series.POST]
    assert [line["dash"] for line in lines] == list(plots.DASHES)
    assert lines[2]["width"] < lines[1]["width"] < lines[0]["width"]
    assert one["post/post_pre"]["marker"]["symbol"] != two["post/post_pre"]["marker"]["symbol"]
    assert one["post/post_pre"]["showlegend"] and not two["post/post_pre"]["showlegend"]
