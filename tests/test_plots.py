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
    for below in ((), (3,), (3, 4), (5, 6), (6,), (3, 4, 5, 6)):
        there = [p for p in series.SUBPLOTS if p.row < 3 or p.row in below]
        cells = [plots.cell(subplot, below) for subplot in there]
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
    assert plain.data[plots.trace_index(0)["scale"]].visible  # beside the KL, in every figure


def test_the_upper_rows_keep_their_size_in_pixels_when_further_ones_come():
    frame = plots.MARGIN["t"] + plots.MARGIN["b"]
    for subplot in (p for p in series.SUBPLOTS if p.row < 3):
        sizes = []
        for below in ((), (3, 5, 6)):
            _, _, bottom, top = plots.cell(subplot, below)
            sizes.append((top - bottom) * (plots.height_of(below) - frame))
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
    assert plots.cell(post, (3, 4))[3] < plots.cell(alpha, (3, 4))[2]
    frame = plots.MARGIN["t"] + plots.MARGIN["b"]
    for below, drawn in (((4,), figure), ((3, 4), both)):
        _, _, bottom, top = plots.cell(post, below)
        assert drawn.layout[plots.axis_names(post)[1]].domain == (bottom, top)
        size = (top - bottom) * (plots.height_of(below) - frame)
        np.testing.assert_allclose(size, 0.18 * (plots.HEIGHT - frame) - plots.HEADROOM[4])


def test_lines_of_post_pre_differ_by_dash_and_runs_by_marker():
    one, two = plots.post_styles(0), plots.post_styles(1)
    lines = [one[f"post/{key}"]["line"] for key in series.POST]
    assert [line["dash"] for line in lines] == list(plots.DASHES)
    assert lines[2]["width"] < lines[1]["width"] < lines[0]["width"]
    assert one["post/post_pre"]["marker"]["symbol"] != two["post/post_pre"]["marker"]["symbol"]
    assert one["post/post_pre"]["showlegend"] and not two["post/post_pre"]["showlegend"]


def make_instructed(steps=20):
    """Metrics of a run under constraints; each has a level of its own, so that none is taken for another."""
    return make_metrics(steps).assign(
        **{
            "constraints/hard": 0.61,
            "constraints/soft": 0.52,
            "eval/hard": 0.43,
            "eval/soft": 0.34,
        },
        **{"constraints/kind/last": 0.71, "constraints/kind/topic": 0.82},
        **{"constraints/level/1": 0.91, "constraints/level/4": 0.14},
    )


def test_the_rows_of_constraints_come_by_themselves_and_hold_what_their_names_say():
    plain = plots.curves_figure([("a", make_metrics(), make_events())])
    figure = plots.curves_figure([("a", make_instructed(), make_events((3, "x")))])
    assert plain.layout.height == plots.HEIGHT
    assert figure.layout.height == plots.HEIGHT + 2 * plots.ROW + plots.TALLER[6]
    for key in ("kept", "level", "hard", "soft"):
        assert title(figure, key).visible and not title(plain, key).visible
        assert figure.data[plots.trace_index(0)[f"mark/{key}"]].visible
        assert not plain.data[plots.trace_index(0)[f"mark/{key}"]].visible
    drawn = {
        t.meta["key"]: (t.name, float(np.float64(t.y[-1]).round(2)))
        for t in figure.data
        if t.visible
    }
    assert {
        key: drawn[key] for key in drawn if key.split("/")[0] in ("kept", "level", "hard", "soft")
    } == {
        "kept/hard": ("hard", 0.61),
        "kept/soft": ("soft", 0.52),
        "kept/hard_true": ("hard, true", 0.43),
        "kept/soft_true": ("soft, true", 0.34),
        "level/1": ("1 constraint", 0.91),
        "level/4": ("4 constraints", 0.14),
        "hard/2": ("last", 0.71),
        "soft/2": ("topic", 0.82),
    }


def test_each_line_of_constraints_is_in_its_subplot_and_told_apart_there():
    figure = plots.curves_figure([("a", make_instructed(), make_events())])
    for subplot in (p for p in series.SUBPLOTS if p.key in ("kept", "level", "hard", "soft")):
        axis = plots.axis_ids(subplot)[1]
        lines = [t for t in figure.data if t.yaxis == axis]
        assert lines and {t.meta["key"].split("/")[0] for t in lines} == {subplot.key}
        assert len({t.line.color for t in lines}) == len(lines)
        assert figure.layout[plots.axis_names(subplot)[1]].range == (-0.02, 1.03)


def test_verdicts_are_lines_and_truths_have_markers():
    styles = plots.constraint_styles(0)
    modes = {key: styles[f"kept/{key}"]["mode"] for key in series.KEPT}
    assert modes == {
        "hard": "lines", "soft": "lines", "hard_true": "lines+markers", "soft_true": "lines+markers",
    }  # fmt: skip


def test_lines_of_constraints_differ_by_dash_between_runs_and_are_named_once():
    runs = [("a", make_instructed(), make_events()), ("b", make_instructed(), make_events())]
    figure = plots.curves_figure(runs)
    for key in ("kept/soft", "level/4", "hard/2", "soft/2"):
        one, two = (figure.data[plots.trace_index(slot)[key]] for slot in (0, 1))
        assert one.line.color == two.line.color and one.line.dash != two.line.dash
    named = [t for t in figure.data if t.visible and t.showlegend is not False]
    labels = [(t.legend, t.name) for t in named]
    assert len(labels) == len(set(labels))
    assert {("legend6", "soft, true"), ("legend7", "last"), ("legend8", "topic")} <= set(labels)


def test_legends_of_kinds_stand_right_of_their_subplot_and_the_title_of_levels_is_its_legend():
    figure = plots.curves_figure([("a", make_instructed(), make_events())])
    hard, soft = (next(p for p in series.SUBPLOTS if p.key == key) for key in ("hard", "soft"))
    assert plots.cell(hard, (5, 6))[1] == figure.layout.legend7.x < plots.cell(soft, (5, 6))[0]
    assert plots.cell(soft, (5, 6))[1] == figure.layout.legend8.x < 0.85
    text = title(figure, "level").text
    assert all(f'{colour}">{k}<' in text for k, colour in plots.LEVEL_COLOURS.items())


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    parts = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_colours_of_levels_darken_in_order_and_are_seen_on_white_and_on_black():
    found = [luminance(colour) for colour in plots.LEVEL_COLOURS.values()]
    assert found == sorted(found, reverse=True)
    dark = luminance("#212121")  # of JupyterLab
    assert all(1.05 / (one + 0.05) > 2 and (one + 0.05) / (dark + 0.05) > 2 for one in found)


def test_beta_alone_begins_its_row():
    figure = plots.empty_figure(1, extra=["beta"])
    both = plots.empty_figure(1, extra=["alpha", "beta"])
    beta = next(p for p in series.SUBPLOTS if p.key == "beta")
    x_name, _, _ = plots.axis_names(beta)
    assert figure.layout[x_name].domain[0] == 0
    assert both.layout[x_name].domain[0] > 0.3
