"""The geometry tab, on runs whose probes are written by hand."""

import numpy as np
import pytest

from workbench import scenes
from workbench.panel import bench, geometry, panel, scene
from workbench.panel.envelopes import FINISHED
from workbench.panel.geometry import NONE, GeometryView
from workbench.phase import ACCURACY, CENTRES, VOTE
from workbench.recipe import Recipe
from workbench.watch import Guard, verdict

INSIDE, OUTSIDE = (0.3, 15.0, 0.6), (0.9, 15.0, 0.6)
GEOMETRY = bench.TABS.index("Geometry")


def errors_shown(action):
    return lambda *_: action()


@pytest.fixture
def view():
    """The tab by itself; `view.returned` is what Return was asked for."""
    returned = []
    made = GeometryView(errors_shown, returned.append, lambda: None, "Evaluation")
    made.returned = returned
    return made


def show(view, runs, run=None):
    run = runs[-1] if run is None else run
    view.adopt(run, runs)
    view.refresh(runs, run)


def trace(view, key):
    return view.scene.figure.data[scenes.KEYS.index(key)]


# ------------------------------------------------------------------ what is drawn


def test_the_path_and_the_envelope_of_the_panels_finished_run_are_drawn(view, probed):
    good, run = probed.box(), probed([INSIDE, INSIDE, OUTSIDE], accuracy=0.25)
    show(view, [good, run])
    path = trace(view, "path/1")
    np.testing.assert_allclose(path.x, [0.3, 0.3, 0.9])
    np.testing.assert_allclose(path.y, np.log([15.0] * 3))
    np.testing.assert_allclose(path.z, [0.6] * 3)
    np.testing.assert_allclose(trace(view, "accuracy").marker.color, [0.25] * 3)
    assert path.line.width > trace(view, "path/0").line.width
    body = trace(view, "body")
    assert body.visible and sorted(set(np.round(body.x, 6))) == [0.2, 0.4]
    assert "this panel's finished runs" in view.reference.options
    assert "Step 4: entropy 0.900 nats, length 15.0 tokens, majority share 0.60" in view.point.value
    assert "deviations outside" in view.point.value


def test_a_reference_that_lies_in_a_plane_does_not_crash_the_tab(view, probed):
    flat = [(2.0, 90.0, 0.6), *[(e, t, 0.6) for e in (0.2, 0.4) for t in (10.0, 20.0)]]
    show(view, [probed(flat, "flat", "finished"), probed([INSIDE, INSIDE])])
    assert len(trace(view, "body").i) == 2 and len(trace(view, "edges").x) == 4 * 3
    assert "<b>" in view.words.value


def test_nothing_is_made_before_the_tab_is_opened(ui, monkeypatch, probed, wait):
    asked = []
    monkeypatch.setattr(scenes, "scene_data", lambda *a, **k: asked.append(a))
    run = probed([INSIDE, INSIDE])
    ui._adopt(run)
    count = ui.drawer.count
    wait(lambda: ui.drawer.count > count)
    run.probe(INSIDE)
    ui.draw()
    assert (
        asked == [] and ui.geometry.scene.figure is None and ui.geometry.scene.root.children == ()
    )


def test_the_same_probes_are_drawn_once(view, monkeypatch, probed):
    good, run = probed.box(), probed([INSIDE, INSIDE])
    show(view, [good, run])
    drawn = []
    real = scenes.scene_data
    monkeypatch.setattr(scenes, "scene_data", lambda *a, **k: drawn.append(1) or real(*a, **k))
    view.refresh([good, run], run)
    run._rows.append(run._row(3))  # a step without a probe
    view.refresh([good, run], run)
    assert drawn == []
    run.probe(INSIDE)
    view.refresh([good, run], run)
    assert drawn == [1] and len(trace(view, "path/1").x) == 3


def test_the_slider_follows_the_newest_probe_until_it_is_moved(view, probed):
    good, run = probed.box(), probed([INSIDE, INSIDE, INSIDE])
    show(view, [good, run])
    assert view.step.value == view.step.max == 2 and view.step.description == "up to step 4"
    run.probe(INSIDE)
    view.refresh([good, run], run)
    assert view.step.value == 3 and len(trace(view, "path/1").x) == 4
    view.step.value = 1
    assert len(trace(view, "path/1").x) == 2 and list(trace(view, "now").x) == [0.2, 0.3]
    assert "Step 2:" in view.point.value and view.step.description == "up to step 2"
    run.probe(INSIDE)
    view.refresh([good, run], run)
    assert (view.step.value, view.step.max) == (1, 4) and len(trace(view, "path/1").x) == 2
    view.step.value = 4
    run.probe(INSIDE)
    view.refresh([good, run], run)
    assert view.step.value == 5 and view.step.description == "up to step 10"
    view.adopt(good, [good, run])
    view.refresh([good, run], good)
    assert view.step.value == 8  # another run: at its newest


def test_each_space_has_its_axes_and_labels_are_named(view, probed, wait):
    good, run = probed.box(), probed([INSIDE, INSIDE, OUTSIDE])
    show(view, [good, run])
    assert list(geometry.SPACE_LABELS.values()) == [VOTE, ACCURACY, CENTRES]
    assert "The axes are label-free." in view.words.value
    view.space.value = ACCURACY
    assert view.scene.figure.layout.scene.zaxis.title.text == "accuracy"
    assert "The axes see labels." in view.words.value
    view.space.value = CENTRES
    assert "some seconds" in view.words.value
    wait(lambda: view.envelopes.found == 1, 20)
    view.refresh([good, run], run)
    assert "distance to centre" in view.scene.figure.layout.scene.xaxis.title.text
    assert len(trace(view, "path/1").x) == 3 and "<b>" in view.words.value


# ------------------------------------------------------------------ what is said


def test_the_verdict_is_that_of_watch_with_its_numbers_and_a_caution(view, probed):
    good, run = probed.box(), probed([INSIDE] * 8)
    show(view, [good, run])
    reference = view._offers[FINISHED].reference
    found = verdict(run, reference)
    assert f"<b>{found.name}</b>" in view.words.value and "At step 14" in view.words.value
    for name, value in found.decided_by.items():
        if np.isfinite(value):
            assert f"{name} {value:.3g}" in view.words.value
    assert "nan" not in view.words.value
    assert "rules of thumb from a reconstruction" in view.words.value
    assert "also reads the accuracy of the probe" in view.words.value
    assert 'role="status"' in view.words.value


def test_without_a_run_or_probes_it_says_what_to_set(view, probed):
    view.refresh([], None)
    text = "Set probe every (under Evaluation) to 3 and start"
    assert f"No run yet. {text}" in view.words.value
    assert view.scene.root.layout.display == "none" and view.scene.figure is None
    for run, said in [
        (probed(status="finished", probe_every=0), f"No probes yet. {text}"),
        (probed(probe_every=0), "to 3; it lands at the next step."),
        (probed(name="<i>"), "No probes yet: &lt;i&gt; takes one every 2 steps."),
    ]:
        show(view, [run])
        assert said in view.words.value


def test_without_a_reference_the_path_is_drawn_and_the_reason_given(view, probed):
    run = probed([INSIDE, OUTSIDE])
    show(view, [run])
    assert "No reference is shipped for tiny-strong on countdown" in view.words.value
    assert trace(view, "path/0").visible and not trace(view, "body").visible
    assert list(view.reference.options) == [NONE] and view.reference.disabled
    assert run.listeners == []


def test_runs_of_other_settings_are_no_reference_and_named_escaped(view, probed):
    show(view, [probed.box("<b>good</b>", max_new_tokens=32), probed([INSIDE, INSIDE])])
    said = "&lt;b&gt;good&lt;/b&gt; differs in max_new_tokens 64 (reference: 32)"
    assert said in view.words.value and "<b>good" not in view.words.value


def test_one_probe_is_too_few(view, probed):
    show(view, [probed.box(), probed([INSIDE])])
    assert "One probe so far" in view.words.value and trace(view, "body").visible
    assert view.step.disabled


def test_a_reference_run_of_one_probe_is_none(view, probed):
    show(view, [probed([INSIDE], "short", "finished"), probed([INSIDE, INSIDE])])
    assert "short has too few probes" in view.words.value


def test_probes_shared_with_the_reference_are_said(view, probed):
    show(view, [probed.box(), probed.box("again", accuracy=0.4)])
    assert "The first 9 probes are those of a reference run too." in view.words.value
    show(view, [probed.box(), probed([INSIDE, INSIDE])])
    assert "those of a reference run" not in view.words.value


def test_few_reference_runs_are_said_to_make_a_narrow_envelope(view, probed):
    runs = [probed.box(f"good {n}") for n in range(3)] + [probed([INSIDE, INSIDE])]
    show(view, runs)
    assert "narrow envelope" not in view.words.value
    show(view, runs[1:])
    assert "So few reference runs make a narrow envelope" in view.words.value


def test_the_slider_stays_while_distances_are_being_found(view, probed, wait):
    good, run = probed.box(), probed([INSIDE, INSIDE, OUTSIDE])
    show(view, [good, run])
    view.step.value = 1
    view.space.value = CENTRES
    assert view.step.value == 1 and view.step.disabled
    wait(lambda: view.envelopes.found == 1, 20)
    view.refresh([good, run], run)
    assert view.step.value == 1 and not view.step.disabled
    assert len(trace(view, "path/1").x) == 2


def test_without_anywidget_the_words_remain(view, monkeypatch, probed):
    monkeypatch.setattr(scene, "missing", lambda: "Live curves need the package anywidget.")
    show(view, [probed.box(), probed([INSIDE, INSIDE])])
    assert view.scene.figure is None and "anywidget" in view.scene.root.children[0].value
    assert "<b>" in view.words.value


# ------------------------------------------------------------------ the warning and the way back


def leave(view, probed, checkpoints=(2, 4, 6, 8)):
    good, run = probed.box(), probed([INSIDE, INSIDE, INSIDE, OUTSIDE, OUTSIDE])
    run.checkpoint_steps = list(checkpoints)
    show(view, [good, run])
    assert view.warned.layout.display == "none"
    run.probe(OUTSIDE)
    view.refresh([good, run], run)
    return good, run


def test_leaving_is_warned_of_and_return_goes_to_the_last_checkpoint_inside(view, probed):
    leave(view, probed)
    assert view.warned.layout.display == "" and 'role="alert"' in view.alarm.value
    assert "Leaving the envelope at step 10." in view.alarm.value and "wb-warn" in view.alarm.value
    assert view.back.description == "Return to step 4"  # step 6 is the first outside
    view.back.click()
    assert view.returned == [4] and view.warned.layout.display == "none"
    assert not view.back.disabled


def test_a_run_that_was_warned_of_is_no_reference_for_the_next(view, probed):
    good, run = leave(view, probed)
    assert "Reference: finished runs of this panel: good." in view.words.value
    run.status = "finished"  # and no guard has written an event
    run._events.clear()
    third = probed([INSIDE, INSIDE], "third")
    show(view, [good, run, third])
    assert view._offers[FINISHED].runs == (good,)


def test_without_a_checkpoint_from_before_there_is_no_button(view, probed):
    leave(view, probed, checkpoints=(8, 10))
    assert "nothing to return to" in view.alarm.value and view.back.layout.display == "none"
    view.back.click()
    assert view.returned == []


def test_the_warning_is_that_of_p1_in_every_space(view, probed):
    leave(view, probed)
    view.space.value = ACCURACY
    assert "Leaving the envelope at step 10." in view.alarm.value
    assert "In P1 without labels" in view.alarm.value


def test_return_stops_the_run_and_forks_with_the_controls(monkeypatch, probed):
    good, run = probed.box(), probed([INSIDE] * 3 + [OUTSIDE] * 3)
    run.checkpoint_steps = [2, 4, 6]
    ui = panel(good, run)
    ui.tabs.selected_index = GEOMETRY
    ui.draw()
    ui.controls.by_field["learning_rate"].widget.value = 1e-5
    ui.geometry.back.click()
    assert run.asked["at"] == 4 and run.asked["learning_rate"] == 1e-5
    assert run.calls[-2:] == ["fork", "stop"]
    assert ui.run.name == "probed-fork" and ui.runs == [good, run, ui.run]
    assert ui.controls.recipe().learning_rate == 1e-5
    assert "Forked from probed at step 4" in ui.message.value
    assert len(ui.run.listeners) == 1 and isinstance(ui.run.listeners[0], Guard)


def test_return_needs_steps_to_go(probed):
    ui = panel(probed.box(), probed([INSIDE] * 3 + [OUTSIDE] * 3))
    ui.controls.by_field["steps"].widget.value = 4
    ui._guard(lambda: ui.fork(at=4))()
    assert "raise steps" in ui.message.value and len(ui.runs) == 2


# ------------------------------------------------------------------ the guard


def test_a_run_that_the_panel_takes_on_is_guarded_and_the_tick_is_followed_live(probed):
    good, run = probed.box(), probed([INSIDE, INSIDE])
    ui = panel(good, run)
    (guard,) = run.listeners
    assert isinstance(guard, Guard) and guard.then == "warn" and good.listeners == []
    ui.geometry.pause.value = True
    assert guard.then == "pause"
    for _ in range(3):
        run.probe(OUTSIDE)
    assert run.calls == ["pause"]
    ui.draw()
    assert "leaving the envelope at step 8" in ui.state.value
    ui.tabs.selected_index = GEOMETRY
    ui.draw()
    assert "Leaving the envelope at step 8." in ui.geometry.alarm.value


def test_a_started_run_is_guarded_where_there_is_a_reference_only(monkeypatch, probed):
    run = probed()
    monkeypatch.setattr(bench, "launch", lambda recipe: run)
    ui = panel(Recipe())
    ui.start()
    assert ui.run is run and run.listeners == []
    run.status = "finished"
    for point in [(2.0, 90.0, 0.1), INSIDE, OUTSIDE]:
        run.probe(point)
    second = probed(name="second")
    monkeypatch.setattr(bench, "launch", lambda recipe: second)
    ui.start()
    assert isinstance(second.listeners[0], Guard)


def test_a_guard_that_pauses_already_ticks_the_box(probed):
    run = probed([INSIDE, INSIDE])
    run.listeners.append(Guard(then="pause"))
    ui = panel(probed.box(), run)
    assert ui.geometry.pause.value is True and len(run.listeners) == 1
    ui.geometry.pause.value = False
    assert run.listeners[0].then == "warn"


def test_the_warning_is_a_mark_on_the_curves(probed):
    run = probed([INSIDE, INSIDE])
    ui = panel(probed.box(), run)
    for _ in range(3):
        run.probe(OUTSIDE)
    ui.draw()
    from workbench import plots

    mark = ui.curves.figure.data[plots.trace_index(1)["mark/entropy"]]
    assert mark.text[0] == "step 8: warning: leaving the envelope at step 8"
