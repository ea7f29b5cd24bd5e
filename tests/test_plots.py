"""The curves are read from the figure's data; nothing is compared by its pixels."""

import numpy as np
import pandas as pd

from workbench import plots


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


def test_pass_at_k_is_drawn_at_the_evaluated_steps_only():
    data = plots.trace_data("a", make_metrics(), make_events())
    assert data["pass@4"].x.tolist() == [0, 10, 20]
    np.testing.assert_allclose(data["pass@4"].y, [0.254, 0.354, 0.454], rtol=1e-6)
    assert data["pass@4"].y.dtype == np.float32
    assert data["pass@2"].visible is False and len(data["pass@2"].x) == 0


def test_entropy_starts_at_the_first_trained_step():
    data = plots.trace_data("a", make_metrics(), make_events())
    assert data["entropy"].x[0] == 1 and data["entropy"].y[1] == 0.5


def test_the_band_goes_out_along_the_top_and_back_along_the_bottom():
    data = plots.trace_data("a", make_metrics(steps=10), make_events())["band@1"]
    assert data.x.tolist() == [0, 10, 10, 0]
    np.testing.assert_allclose(data.y, [0.351, 0.451, 0.251, 0.151], rtol=1e-6)


def test_pass_at_k_against_k_compares_the_base_with_the_latest_evaluation():
    data = plots.trace_data("a", make_metrics(), make_events())
    assert data["k/base"].x.tolist() == [1, 4, 64] and data["k/base"].name == "base"
    assert data["k/now"].name == "step 20"
    np.testing.assert_allclose(data["k/now"].y - data["k/base"].y, 0.2, rtol=1e-5)


def test_with_one_evaluation_there_is_no_now():
    data = plots.trace_data("a", make_metrics(steps=5), make_events())
    assert data["k/now"].visible is False and data["k/base"].visible is True


def test_over_steps_every_second_power_of_two_is_drawn_and_the_greatest_k():
    data = plots.trace_data("a", make_metrics(ks=(1, 2, 4, 8)), make_events())
    visible = {key: data[f"pass@{key}"].visible for key in (1, 2, 4, 8, 16)}
    assert visible == {1: True, 2: False, 4: True, 8: True, 16: False}


def test_the_intervals_are_those_of_the_least_and_the_greatest_k():
    data = plots.trace_data("a", make_metrics(ks=(1, 2, 4, 8)), make_events())
    assert [key for key in data if "band" in key and data[key].visible] == ["band@1", "band@8"]


def test_rewards_put_the_total_first_and_keep_their_names():
    data = plots.trace_data("a", make_metrics(), make_events())
    assert [data[f"reward/{i}"].name for i in range(3)] == ["total", "correct", None]
    assert data["reward/1"].y[0] == 0.5


def test_events_of_one_step_share_a_mark_and_every_subplot_over_steps_has_it():
    events = make_events((3, "objective: rloo to maxrl"), (3, "beta: 0 to 0.1"), (7, "paused"))
    data = plots.trace_data("a", make_metrics(), events)
    mark = data["mark/pass"]
    assert mark.x.tolist() == [3, 3, 3, 7, 7, 7]
    assert np.isnan(mark.y[2]) and mark.y[1] == mark.y[4] > 0.9
    assert mark.text[1] == "step 3: objective: rloo to maxrl<br>beta: 0 to 0.1"
    assert {key for key in data if key.startswith("mark/") and data[key].visible} == {
        f"mark/{key}" for key in ("pass", "reward", "entropy", "kl", "length", "zero")
    }


def test_hostile_names_and_event_texts_are_escaped():
    data = plots.trace_data("<b>a</b>", make_metrics(), make_events((1, "<a href='x'>y</a>")))
    assert data["entropy"].name == "&lt;b&gt;a&lt;/b&gt;"
    assert "<a" not in data["mark/pass"].text[0]


def test_thinning_keeps_both_ends_and_the_spikes():
    x = np.arange(10_000)
    y = np.sin(x / 500).astype(np.float32)
    y[1234], y[8765] = 50, -50
    thin_x, thin_y = plots.thin(x, y)
    assert len(thin_x) <= plots.MAX_POINTS
    assert thin_x[0] == 0 and thin_x[-1] == 9_999
    assert thin_y[thin_x == 1234] == 50 and thin_y[thin_x == 8765] == -50
    assert (np.diff(thin_x) > 0).all()


def test_two_thousand_points_are_left_alone():
    x = np.arange(plots.MAX_POINTS)
    assert plots.thin(x, x)[0] is x


def test_the_figure_holds_the_same_arrays_as_trace_data():
    runs = [("a", make_metrics(), make_events((3, "x"))), ("b", make_metrics(10), make_events())]
    figure = plots.curves_figure(runs)
    for slot, run in enumerate(runs):
        index = plots.trace_index(slot)
        for key, values in plots.trace_data(*run).items():
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
    for rows in (3, 4):
        cells = [plots.cell(subplot, rows) for subplot in plots.SUBPLOTS if subplot.row < rows]
        for i, (left, right, bottom, top) in enumerate(cells):
            assert 0 <= left < right <= 1.001 and 0 <= bottom < top <= 1
            for other in cells[:i]:
                apart = left > other[1] or other[0] > right or bottom > other[3] or other[2] > top
                assert apart
    axes = [axis for subplot in plots.SUBPLOTS for axis in plots.axis_ids(subplot)[1:]]
    assert len(axes) == len(set(axes))


def test_dark_and_light_templates_and_an_explicit_height():
    for theme, name in (("light", "plotly_white"), ("dark", "plotly_dark")):
        assert plots.layout(theme, 1)["template"] == name
        assert plots.empty_figure(1, theme).layout.height == plots.HEIGHT


def test_the_fourth_row_is_there_when_the_run_chose_alpha_or_moved_beta():
    metrics = make_metrics(steps=5).assign(**{"groups/update_scale": 0.8, "train/beta": 0.1})
    plain = plots.curves_figure([("a", metrics, make_events())])
    assert plain.layout.height == plots.HEIGHT and plain.layout.annotations[-1].visible is False
    for column in ("train/alpha", "train/beta"):
        chosen = metrics.assign(**{column: np.linspace(0.5, 1.0, 6)})
        figure = plots.curves_figure([("a", metrics, make_events()), ("b", chosen, make_events())])
        key = column.removeprefix("train/")
        assert figure.layout.height == plots.HEIGHT + plots.ROW
        titles = [title.visible for title in figure.layout.annotations[-3:]]
        assert titles == [True, key == "alpha", key == "beta"]
        trace = figure.data[plots.trace_index(1)[key]]
        assert trace.visible and trace.y[-1] == 1.0 and trace.x[0] == 0
        assert not figure.data[plots.trace_index(0)[key]].visible
        assert figure.data[plots.trace_index(1)["scale"]].visible
    assert not plain.data[plots.trace_index(0)["scale"]].visible  # nothing in a hidden row


def test_a_beta_that_stays_is_not_drawn_but_a_chosen_alpha_that_stays_is():
    metrics = make_metrics(steps=5).assign(**{"train/beta": 0.1, "train/alpha": 1.0})
    data = plots.trace_data("a", metrics, make_events())
    assert data["alpha"].visible and not data["beta"].visible
    assert plots.extras([data]) == {"alpha"} and not data["mark/beta"].visible


def test_the_upper_rows_keep_their_size_in_pixels_when_the_fourth_comes():
    frame = plots.MARGIN["t"] + plots.MARGIN["b"]
    for subplot in plots.SUBPLOTS[:-3]:
        sizes = []
        for rows in (3, 4):
            _, _, bottom, top = plots.cell(subplot, rows)
            sizes.append((top - bottom) * (plots.height_of(rows) - frame))
        np.testing.assert_allclose(*sizes)


def test_a_run_without_any_metric_gives_an_empty_figure():
    figure = plots.curves_figure([("a", pd.DataFrame(), pd.DataFrame())])
    assert not any(trace.visible for trace in figure.data)


def test_text_and_missing_values_in_a_metric_are_left_out():
    metrics = pd.DataFrame(
        {"train/entropy": [0.5, None, "bad", float("inf"), 0.25]}, index=[1, 2, 3, 4, 5]
    )
    x, y = plots.series(metrics, "train/entropy")
    assert x.tolist() == [1, 5] and y.tolist() == [0.5, 0.25]
