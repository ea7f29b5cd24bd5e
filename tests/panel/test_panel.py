"""The panel outside a kernel: ipywidgets' dummy comm still fires every handler."""

import subprocess
import sys

import ipywidgets
import pytest

from workbench import plots
from workbench.panel import bench, panel
from workbench.panel.takeaway import lean
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def enabled(ui):
    return {name for name, button in ui.buttons.items() if not button.disabled}


def curve(ui, key, slot=0):
    return ui.curves.figure.data[plots.trace_index(slot)[key]]


def test_before_the_first_run_only_start_makes_sense(ui):
    assert enabled(ui) == {"start"}
    assert "press Start" in ui.state.value and ui.run is None


def test_start_trains_and_the_curves_grow(ui, wait):
    ui.controls.by_field["steps"].widget.value = 1_000
    ui.buttons["start"].click()
    wait(lambda: enabled(ui) == {"pause", "stop", "fork"})
    wait(lambda: len(curve(ui, "entropy").x) >= 3)
    early = len(curve(ui, "entropy").x)
    wait(lambda: len(curve(ui, "entropy").x) > early)
    assert curve(ui, "entropy").y[1] == 0.5 and curve(ui, "pass@1").y[0] == pytest.approx(0.25)


def test_the_last_step_is_drawn_and_start_is_offered_again(ui, wait):
    ui.buttons["start"].click()
    wait(lambda: ui.run.status == "finished")
    wait(lambda: "Finished" in ui.message.value)  # said last
    assert enabled(ui) == {"start", "resume", "fork"}
    assert curve(ui, "entropy").x[-1] == 40
    assert ui.progress.value == ui.progress.max == 40
    assert "runs/fake" in ui.message.value


def test_a_second_start_is_refused_with_a_sentence_and_the_run_goes_on(ui, wait):
    ui.buttons["start"].click()
    first = ui.run
    ui.buttons["start"].click()  # a disabled button can't be clicked, but code can
    assert "press Stop before starting another run" in ui.message.value
    assert "wb-error" in ui.message.value and ui.run is first


def test_pause_step_and_resume(ui, wait):
    ui.buttons["start"].click()
    wait(lambda: not ui.buttons["pause"].disabled)
    ui.buttons["pause"].click()
    assert ui.message.value.count("Pausing") == 1
    wait(lambda: enabled(ui) == {"resume", "step", "stop", "fork"})
    at = ui.run.progress["step"]
    ui.buttons["step"].click()
    wait(lambda: ui.run.progress["step"] == at + 1 and ui.run.status == "paused")
    wait(lambda: ui.progress.value == at + 1)
    ui.buttons["resume"].click()
    wait(lambda: ui.run.progress["step"] > at + 2)


def test_stop(ui, wait):
    ui.buttons["start"].click()
    wait(lambda: not ui.buttons["stop"].disabled)
    ui.buttons["stop"].click()
    wait(lambda: "Stopped" in ui.message.value)
    assert enabled(ui) == {"start", "resume", "fork"}


def test_a_toggle_lands_in_the_run_and_leaves_a_mark(ui, wait):
    ui.buttons["start"].click()
    wait(lambda: ui.run.progress["step"] >= 2)
    ui.controls.by_field["beta"].widget.value = 0.25
    assert ui.run.calls == [("update", {"beta": 0.25})]
    assert "beta: 0.25" in ui.message.value
    wait(lambda: len(curve(ui, "mark/pass").x) == 3)
    assert "beta: 0.0 to 0.25" in curve(ui, "mark/pass").text[1]


def test_a_toggle_before_start_goes_into_the_recipe_of_the_run(ui):
    ui.controls.by_field["objective"].choice.value = "maxrl"
    ui.buttons["start"].click()
    assert ui.run.recipe.objective == "maxrl" and ui.run.calls == []


def test_what_start_would_refuse_is_said_at_once(ui):
    for _, weight in ui.controls.by_field["rewards"].rows.values():
        weight.value = 0.0
    assert "All reward weights are 0" in ui.message.value
    ui.buttons["start"].click()
    assert ui.run is None and "wb-error" in ui.message.value


def test_fork_pauses_the_parent_and_draws_both(ui, wait):
    ui.buttons["start"].click()
    parent = ui.run
    wait(lambda: parent.progress["step"] >= 3)
    ui.buttons["fork"].click()
    assert ui.run.name == "fake-fork" and parent.calls == ["fork", "pause"]
    wait(lambda: len(curve(ui, "entropy", slot=1).x) >= 2)
    assert curve(ui, "entropy", slot=1).name == "fake-fork"
    assert ui.curves.figure.layout.legend4.visible is True
    assert [run for _, run in ui.choice.options] == [parent, ui.run]
    ui.choice.value = parent
    assert ui.run is parent


def test_resume_after_a_stop_takes_up_what_was_changed_since(ui, wait):
    ui.buttons["start"].click()
    wait(lambda: not ui.buttons["stop"].disabled)
    ui.buttons["stop"].click()
    wait(lambda: not ui.buttons["start"].disabled)
    ui.controls.by_field["beta"].widget.value = 0.5
    ui.controls.by_field["lora_rank"].widget.value = 3
    assert ui.run.calls == ["stop"]  # nothing is sent to a run that has ended
    ui.buttons["resume"].click()
    assert ui.run.calls == ["stop", ("update", {"beta": 0.5}), "resume"]
    assert ui.controls.by_field["beta"].widget.value == 0.5
    assert ui.controls.by_field["lora_rank"].widget.value == Recipe().lora_rank


def test_fork_of_a_finished_run_takes_the_controls_and_needs_more_steps(ui, wait):
    ui.controls.by_field["steps"].widget.value = 5
    ui.buttons["start"].click()
    wait(lambda: ui.run.status == "finished")
    parent = ui.run
    ui.buttons["fork"].click()
    assert ui.run is parent and "raise steps (under Optimiser)" in ui.message.value
    ui.controls.by_field["steps"].widget.value = 9
    ui.controls.by_field["objective"].choice.value = "maxrl"
    ui.buttons["fork"].click()
    assert ui.run is not parent and (ui.run.recipe.steps, ui.run.recipe.objective) == (9, "maxrl")
    assert parent.calls == ["fork"]  # a finished run can't be paused


def test_start_is_refused_while_another_run_of_the_panel_is_paused(ui, wait):
    ui.buttons["start"].click()
    parent = ui.run
    ui.buttons["fork"].click()
    wait(lambda: parent.status == "paused")
    ui.run.stop()
    wait(lambda: not ui.buttons["start"].disabled)
    ui.buttons["start"].click()
    assert f"{parent.name} is paused: press Stop" in ui.message.value


def test_a_failed_run_says_so_in_red_with_what_to_do(monkeypatch, ui, fake_run, wait):
    monkeypatch.setattr(bench, "launch", lambda recipe: fake_run(recipe, fail_at=3))
    ui.buttons["start"].click()
    wait(lambda: "wb-error" in ui.message.value)
    assert "mend it." in ui.message.value and "error.txt" in ui.message.value
    assert "&lt;ValueError&gt;" in ui.message.value and "<ValueError>" not in ui.message.value
    assert enabled(ui) == {"start", "resume"} and ui.progress.bar_style == "danger"


def test_an_unforeseen_error_in_a_callback_is_shown(monkeypatch, ui):
    def broken(recipe):
        raise RuntimeError("<b>disk</b>")

    monkeypatch.setattr(bench, "launch", broken)
    ui.buttons["start"].click()
    assert "RuntimeError: &lt;b&gt;disk&lt;/b&gt;" in ui.message.value


def test_an_error_while_drawing_is_shown_and_ends_the_drawer(ui, fake_run, wait):
    run = fake_run(Recipe(), started=False)
    run.status, run.recipe = "running", None  # so that its progress can't be read
    ui.run, ui.runs = run, [run]
    ui.drawer.wake()
    wait(lambda: "AttributeError" in ui.message.value)
    wait(lambda: not ui.drawer._going)


def test_a_panel_of_a_run_shows_it_at_once(fake_run, wait):
    run = fake_run(Recipe(steps=10, beta=0.5), seconds=0)
    wait(lambda: run.status == "finished")
    ui = panel(run)
    assert curve(ui, "entropy").x[-1] == 10
    assert ui.controls.by_field["beta"].widget.value == 0.5
    assert "finished" in ui.state.value and "pass@4" in ui.state.value


def test_a_panel_of_several_runs_draws_them_all_and_steers_the_last(fake_run, wait):
    runs = [fake_run(Recipe(steps=5, objective=n), name=n, seconds=0) for n in ("rloo", "maxrl")]
    wait(lambda: all(run.status == "finished" for run in runs))
    ui = panel(*runs)
    assert [curve(ui, "entropy", slot).name for slot in (0, 1)] == ["rloo", "maxrl"]
    assert ui.run is runs[1] and ui.controls.recipe().objective == "maxrl"
    assert [run for _, run in ui.choice.options] == runs and ui.choice.layout.display == ""
    with pytest.raises(WorkbenchError, match="given Recipe"):
        panel(runs[0], Recipe())


def test_torch_is_loaded_when_the_panel_is_shown_not_when_it_is_made(monkeypatch, ui):
    asked = []
    monkeypatch.setattr(ui.controls.preview, "load", lambda: asked.append(True))
    assert asked == []
    ui._repr_mimebundle_()
    assert asked == [True]


def test_making_a_panel_loads_no_torch():
    code = "import workbench as wb, sys; wb.panel(wb.Recipe()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_anywidget_it_says_so_and_shows_a_table(monkeypatch, fake_run, wait):
    monkeypatch.setattr(bench, "missing", lambda: "Live curves need the package anywidget.")
    run = fake_run(Recipe(steps=10), seconds=0)
    wait(lambda: run.status == "finished")
    ui = panel(run)
    assert "anywidget" in ui.curves.root.value and "pass@1" in ui.curves.root.value
    assert "<svg" in ui.curves.root.value


def test_making_a_panel_displays_nothing_and_showing_it_gives_a_widget(ui, capsys):
    assert capsys.readouterr().out == ""
    assert "application/vnd.jupyter.widget-view+json" in ui._repr_mimebundle_()


def test_every_control_has_a_label_and_a_tooltip(ui):
    inputs = [
        widget
        for widget in walk(ui.root)
        if isinstance(
            widget, (ipywidgets.widgets.widget_description.DescriptionWidget, ipywidgets.Button)
        )
        and not isinstance(widget, (ipywidgets.HTML, ipywidgets.HTMLMath, ipywidgets.IntProgress))
    ]
    assert len(inputs) > 40
    assert not [widget for widget in inputs if not widget.description or not widget.tooltip]


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def test_something_else_than_a_recipe_or_run_is_refused():
    with pytest.raises(
        WorkbenchError, match="given str; give a Recipe, a Run or several, or nothing"
    ):
        panel("runs/x")


def test_the_strip_shows_the_selected_run_and_the_state_line_its_post_pre(ui, wait, fake_run):
    first = fake_run(Recipe(steps=5), "first", seconds=0)
    second = fake_run(Recipe(steps=30, separation="thinking_only"), "second", started=False)
    wait(lambda: first.status == "finished")
    for row in first._rows:
        row |= {"eval/post_pre": 0.5 + 0.01 * row["step"]}
        row |= {"train/trains_thinking": 1.0, "train/trains_answer": 1.0} if row["step"] else {}
    second._rows.append({"step": 0})
    for run in (first, second):
        ui._adopt(run)
    ui.draw()
    strip = ui.controls.timeline.root
    assert "Planned: steps 1 to 30 thinking." in strip.value and "Trained" not in strip.value
    assert "T_post+A_pre" not in ui.state.value
    ui.choice.value = first
    ui.draw()
    assert "Trained: steps 1 to 5 thinking and answer." in strip.value
    assert "T_post+A_pre 0.500 → <b>0.550</b>" in ui.state.value


def test_a_single_step_opens_its_inside(ui, wait):
    ui.buttons["start"].click()
    wait(lambda: ui.run.progress["step"] >= 2)
    ui.buttons["pause"].click()
    wait(lambda: not ui.buttons["step"].disabled)
    assert bench.TABS[ui.tabs.selected_index or 0] == "Curves"
    ui.buttons["step"].click()
    wait(lambda: bench.TABS[ui.tabs.selected_index] == "Inside")
    assert "Step" in ui.inside.numbers.value or "press Step" in ui.inside.batch.value


def test_rewind_goes_to_the_chosen_checkpoint(ui, wait):
    ui.buttons["start"].click()
    ui.run.checkpoint_steps = [2, 4]
    wait(lambda: not ui.buttons["rewind"].disabled)
    ui.bar.back_to.value = 2
    ui.buttons["rewind"].click()
    assert ("rewind", 2) in ui.run.calls and "rewound" in ui.message.value


def test_another_process_s_run_is_shown_and_not_steered(fake_run):
    run = fake_run(Recipe(), started=False)
    run.status, run.read_only = "running", True
    made = panel(run)
    assert enabled(made) == {"start"} and "read-only" in made.state.value
    beta = made.controls.by_field["beta"].widget
    assert beta.disabled and "Another process holds this run" in beta.tooltip


def test_a_link_opens_as_a_panel_of_its_recipe():
    link = Recipe(objective="maxrl", beta=0.25).to_link()
    made = panel(link)
    assert lean(made.controls.recipe()) == Recipe(objective="maxrl", beta=0.25)


def test_a_forgotten_run_leaves_the_curves_and_the_newest_left_is_steered(fake_run):
    runs = [fake_run(Recipe(), name, started=False) for name in ("a", "b")]
    for run in runs:
        run._rows, run.status = [run._row(step) for step in range(11)], "finished"
    made = panel(*runs)
    made._forget(runs[1])
    assert made.run is runs[0] and made.runs == runs[:1]
    made.draw()
    assert not len(curve(made, "entropy", slot=1).x)
    made._forget(runs[0])
    assert made.run is None and made.runs == [] and made.choice.layout.display == "none"
    made.draw()
    assert "press Start" in made.state.value and enabled(made) == {"start"}
