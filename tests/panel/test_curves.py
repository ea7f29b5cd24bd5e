"""The live figure, its fallback and the thread that draws, without a browser."""

import threading
import time

import numpy as np
import pandas as pd
import pytest
from ipywidgets.widgets import widget

from workbench import following, plots
from workbench.panel import curves

EVENTS = pd.DataFrame(columns=["step", "time", "kind", "text"])


def make_metrics(steps, shift=0.0):
    index = pd.RangeIndex(1, steps + 1, name="step")
    return pd.DataFrame({"train/entropy": np.arange(steps) + shift, "reward/total": 1.0}, index)


def trace(live, key, slot=0):
    return live.figure.data[plots.trace_index(slot)[key]]


def test_all_traces_exist_from_the_start_and_stay_the_same():
    live = curves.LiveCurves()
    before = [t.uid for t in live.figure.data]
    assert len(before) == curves.MAX_RUNS * len(plots.trace_index(0))
    live.draw([("a", make_metrics(5), EVENTS), ("b", make_metrics(3), EVENTS)])
    assert [t.uid for t in live.figure.data] == before


def test_the_live_figure_holds_what_the_static_one_holds():
    run = ("a", make_metrics(5), EVENTS)
    live = curves.LiveCurves()
    live.draw([run])
    static = plots.curves_figure([run])
    for key, position in plots.trace_index(0).items():
        np.testing.assert_array_equal(trace(live, key).y, static.data[position].y)
        assert trace(live, key).visible == static.data[position].visible
        assert trace(live, key).y.dtype == np.float32


def test_one_drawing_is_one_message(monkeypatch):
    live = curves.LiveCurves()
    sent = []
    monkeypatch.setattr(
        live.figure, "_send_update_msg", lambda *a, **k: sent.append(a), raising=True
    )
    live.draw([("a", make_metrics(5), EVENTS)])
    assert len(sent) == 1


def test_the_page_gets_all_traces_with_the_very_first_message(monkeypatch):
    opened = []
    create = widget.comm.create_comm
    monkeypatch.setattr(
        widget.comm, "create_comm", lambda **options: opened.append(options) or create(**options)
    )
    live = curves.LiveCurves()
    states = [options["data"]["state"] for options in opened]
    figures = [state for state in states if "_widget_data" in state]
    assert [len(state["_widget_data"]) for state in figures] == [len(live.figure.data)]
    assert figures[0]["_widget_layout"]["height"] == plots.HEIGHT


def test_a_reloaded_page_gets_the_present_curves():
    """What a page asks for after a reload is get_state(); plotly's own would be the empty traces."""
    live = curves.LiveCurves()
    live.draw([("a", make_metrics(5), EVENTS)])
    position = plots.trace_index(0)["entropy"]
    sent = live.figure.get_state()["_widget_data"][position]
    assert sent["visible"] is True and sent["name"] == "a"
    np.testing.assert_array_equal(np.frombuffer(sent["y"]["buffer"], np.float32), np.arange(5))


def answer_of_the_page(figure, **state):
    """Give the kernel a message as the page sends it."""
    figure._handle_msg({"content": {"data": {"method": "update", "state": state}}, "buffers": []})


def test_answers_of_the_page_are_dropped():
    """plotly 7.1 raises on these where traces hold arrays; see QuietFigure."""
    live = curves.LiveCurves()
    live.draw([("a", make_metrics(5), EVENTS)])
    position = plots.trace_index(0)["entropy"]
    answer = {"uid": trace(live, "entropy").uid, "x": {"dtype": "i4", "bdata": "AAAA"}}
    answer_of_the_page(
        live.figure, _js2py_traceDeltas={"trace_deltas": [answer], "trace_edit_id": 1}
    )
    np.testing.assert_array_equal(trace(live, "entropy").x, np.arange(1, 6))
    hidden = {"style_data": {"visible": "legendonly"}, "style_traces": [position]}
    answer_of_the_page(live.figure, _js2py_restyle={**hidden, "source_view_id": "v"})
    assert trace(live, "entropy").visible is True  # so that no drawing sends it as news


def test_an_update_is_sent_whole_while_an_answer_of_the_page_comes_in(monkeypatch):
    """ipywidgets merges what is set meanwhile: of the update and the None after it, the None was left."""
    live = curves.LiveCurves()
    live.draw([("a", make_metrics(5), EVENTS)])
    sent, drawn = [], threading.Event()
    monkeypatch.setattr(
        live.figure, "_send", lambda message, buffers=None: sent.append(message.get("state", {}))
    )

    def draw():
        live.draw([("a", make_metrics(6), EVENTS)])
        drawn.set()

    def draw_meanwhile(value, _):
        threading.Thread(target=draw).start()
        assert drawn.wait(30)
        return value

    reader = type(live.figure)._js2py_traceDeltas.metadata  # of what the page sends
    with monkeypatch.context() as patch:
        patch.setitem(reader, "from_json", draw_meanwhile)
        answer_of_the_page(live.figure, _js2py_traceDeltas={"trace_deltas": []})
    if not drawn.is_set():  # the answer was not read at all
        draw()
    assert any(state.get("_py2js_update") for state in sent)


def test_only_what_changed_is_sent():
    live = curves.LiveCurves()
    metrics = make_metrics(5)
    metrics["eval/pass@1"] = [0.1, None, 0.2, None, None]
    assert live.draw([("a", metrics, EVENTS)]) > 3
    assert live.draw([("a", metrics, EVENTS)]) == 0
    longer = make_metrics(6)
    longer["eval/pass@1"] = [0.1, None, 0.2, None, None, None]
    assert live.draw([("a", longer, EVENTS)]) == 2  # entropy and the total reward


def test_a_run_that_leaves_is_wiped_and_the_legend_of_runs_goes_with_it():
    live = curves.LiveCurves()
    live.draw([("a", make_metrics(5), EVENTS), ("b", make_metrics(4), EVENTS)])
    assert live.figure.layout.legend4.visible is True
    live.draw([("b", make_metrics(4), EVENTS)])
    assert len(trace(live, "entropy", 0).x) == 4 and trace(live, "entropy", 0).name == "b"
    assert trace(live, "entropy", 1).visible is False
    assert live.figure.layout.legend4.visible is False


def test_the_fourth_row_comes_with_the_first_chosen_alpha_and_goes_with_its_run():
    live = curves.LiveCurves()
    plain, chosen = make_metrics(5), make_metrics(5).assign(**{"train/alpha": 1.25})
    live.draw([("a", plain, EVENTS)])
    assert live.figure.layout.height == plots.HEIGHT
    live.draw([("a", plain, EVENTS), ("b", chosen, EVENTS)])
    assert live.figure.layout.height == plots.HEIGHT + plots.ROW
    assert trace(live, "alpha", 1).visible and trace(live, "alpha", 1).y[0] == 1.25
    live.draw([("a", plain, EVENTS)])
    assert live.figure.layout.height == plots.HEIGHT


def test_the_rows_of_constraints_come_with_the_first_verdict_and_slots_take_another_run():
    live = curves.LiveCurves()
    live.draw([("a", make_metrics(5), EVENTS)])
    verdicts = {"constraints/soft": 0.75, "constraints/kind/mood": 0.25, "eval/soft": 0.5}
    judged = make_metrics(6).assign(**verdicts)
    assert live.draw([("a", judged, EVENTS)]) == 5  # entropy, total reward, and the three
    assert live.figure.layout.height == plots.height_of((5, 6))
    shown = {key: trace(live, key).y[-1] for key in ("kept/soft", "kept/soft_true", "soft/0")}
    assert shown == {"kept/soft": 0.75, "kept/soft_true": 0.5, "soft/0": 0.25}
    real = make_metrics(7).assign(**{"constraints/kind/tone": 0.125, "constraints/soft": 1.0})
    live.draw([("b", real, EVENTS)])
    assert trace(live, "soft/0").name == "tone" and trace(live, "soft/0").y[-1] == 0.125
    assert not trace(live, "kept/soft_true").visible and len(trace(live, "kept/soft_true").y) == 0


def test_a_long_run_is_thinned():
    live = curves.LiveCurves()
    live.draw([("a", make_metrics(9_000), EVENTS)])
    assert 1_000 < len(trace(live, "entropy").x) <= following.MAX_POINTS


class Busy:
    """A `draw` that can be told how long to compute and when to end."""

    def __init__(self, seconds=0.0):
        self.times, self.more, self.seconds = [], True, seconds
        self.threads = set()

    def __call__(self):
        self.times.append(time.monotonic())
        self.threads.add(threading.current_thread())
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return self.more


def test_the_drawer_draws_five_times_a_second_at_most_from_one_thread(wait):
    draw = Busy()
    drawer = curves.Drawer(draw, failed=pytest.fail)
    for _ in range(20):
        drawer.wake()
    wait(lambda: len(draw.times) >= 4)
    draw.more = False
    assert len(draw.threads) == 1
    assert min(np.diff(draw.times)) >= curves.PERIOD


def test_a_costly_drawing_is_drawn_less_often(wait):
    draw = Busy(seconds=0.012)
    curves.Drawer(draw, failed=pytest.fail).wake()
    wait(lambda: len(draw.times) >= 2)
    draw.more = False
    assert np.diff(draw.times)[0] >= 0.012 / curves.SHARE


def test_the_drawer_ends_by_itself_and_wakes_again(wait):
    draw = Busy()
    draw.more = False
    drawer = curves.Drawer(draw, failed=pytest.fail)
    drawer.wake()
    wait(lambda: len(draw.times) == 1 and not drawer._going)
    drawer.wake()
    wait(lambda: len(draw.times) == 2)


def test_a_wake_during_the_last_drawing_is_not_lost(wait):
    draw = Busy()
    draw.more = False
    drawer = curves.Drawer(draw, failed=pytest.fail)
    drawer.wake()
    wait(lambda: len(draw.times) == 1)
    drawer.wake()  # it has drawn, and sleeps before it ends
    wait(lambda: len(draw.times) == 2)


def test_an_error_while_drawing_is_handed_on(wait):
    errors = []

    def broken():
        raise ValueError("x")

    drawer = curves.Drawer(broken, failed=errors.append)
    drawer.wake()
    wait(lambda: errors and not drawer._going)
    assert isinstance(errors[0], ValueError)
