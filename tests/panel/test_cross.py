"""The Cross tab with a measurement written by hand; what measures is tested with `crossing`."""

import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.panel import cross
from workbench.panel.cross import CrossView, Measured, weaker_of
from workbench.variants import WorkbenchError


def estimate(value, half=0.05):
    return SimpleNamespace(value=value, low=value - half, high=value + half)


class Found:
    """What `crossing.CrossGeneration` gives, with chosen numbers."""

    thinkers = ("initial", "current", "(none)", "(other question)")
    answerers = ("initial", "current", "tiny-weak <b>")
    scores_ABPS = np.zeros((4, 3, 32, 4))
    unclosed: dict = {"initial": 3, "current": 0}  # noqa: RUF012

    def decomposition(self, pre, post):
        assert (pre, post) == ("initial", "current")
        parts = {"total": 0.3, "thinking": 0.2, "answering": 0.01, "interaction": 0.09}
        return SimpleNamespace(**{name: estimate(value) for name, value in parts.items()})

    def thinking_gain(self, pre, post, answerer):
        return estimate(-0.125)

    def matrix(self):
        return pd.DataFrame(np.full((4, 3), 0.5), index=self.thinkers, columns=self.answerers)

    def figure(self):
        return go.Figure(go.Heatmap(z=[[0.5, 0.25]]))


@pytest.fixture
def tab(monkeypatch):
    """A tab whose measuring waits for `tab.go`, and whose errors land in `tab.errors`."""
    errors = []

    def guard(action):
        def call(*_):
            try:
                action()
            except (WorkbenchError, ValueError) as error:
                errors.append(str(error))

        return call

    made = CrossView(guard)
    made.errors, made.go, made.asked = errors, threading.Event(), []

    def measure(run, prompts, thoughts, tell):
        made.asked.append((run, prompts, thoughts))
        tell("Measuring …")
        assert made.go.wait(5)
        if made.errors == ["fail"]:
            raise ValueError("no such luck")
        return Measured(run.checkpoint_steps[-1], Found(), 2.4)

    monkeypatch.setattr(cross, "measure", measure)
    yield made
    made.go.set()


class a_run:
    def __init__(self, name="one", steps=(20, 40)):
        self.name, self.checkpoint_steps = name, list(steps)


def test_before_the_first_run_and_before_a_checkpoint_it_says_what_to_do(tab):
    assert "press Start" in tab.progress.value
    tab.button.click()
    tab.show(a_run(steps=()))
    assert "Not measured yet for one" in tab.progress.value
    tab.button.click()
    assert tab.errors[0] == "There is no run yet; press Start."
    assert "press Pause, which writes one" in tab.errors[1] and not tab.asked


def test_measuring_goes_on_beside_everything_else_and_then_shows_all_of_it(tab, wait):
    run = a_run()
    tab.show(run)
    tab.prompts.value, tab.thoughts.value = 32, 4
    tab.button.click()
    wait(lambda: "Measuring" in tab.progress.value)
    assert tab.button.disabled and tab.asked == [(run, 32, 4)] and tab.place.children == ()
    tab.button.click()  # a disabled button can't be clicked, but code can
    assert "one is being measured" in tab.errors[0]
    tab.go.set()
    wait(lambda: not tab.button.disabled)
    assert "Step 40 of one: 32 questions, 4 samples of each, measured in 2 s" in tab.progress.value
    (column,) = tab.place.children
    assert column.children[0].data[0].z == ([0.5, 0.25],)


def test_the_gains_are_said_with_interval_and_meaning_and_names_are_escaped(tab, wait):
    tab.show(a_run())
    tab.go.set()
    tab.button.click()
    wait(lambda: tab.words.value)
    text = tab.words.value
    assert "<b>thinking gain +0.200</b> [+0.150, +0.250] – current thoughts" in text
    assert "<b>answer gain +0.010</b> [-0.040, +0.060], not told apart from 0 –" in text
    assert "<b>interaction +0.090</b>" in text and "<b>total +0.300</b>" in text
    assert "thinking gain for tiny-weak &lt;b&gt; -0.125" in text and "weak <b>" not in text
    assert cross.signed(-0.0001) == "0.000"
    assert "(other question)" in text and "does not use the thought" in text
    assert "never closed, used as they were: 3 of initial." in text


def test_each_run_keeps_its_own_measurement(tab, wait):
    one, two = a_run(), a_run("two")
    tab.show(one)
    tab.go.set()
    tab.button.click()
    wait(lambda: tab.words.value)
    tab.show(two)
    assert tab.words.value == "" and tab.place.children == ()
    assert "Not measured yet for two" in tab.progress.value
    tab.show(one)
    assert "thinking gain" in tab.words.value and len(tab.place.children) == 1


def test_an_error_lands_with_the_guard_and_the_button_comes_back(tab, wait):
    tab.show(a_run())
    tab.errors.append("fail")
    tab.go.set()
    tab.button.click()
    wait(lambda: "no such luck" in tab.errors)
    assert not tab.button.disabled and "Not measured yet" in tab.progress.value


def test_without_live_figures_the_words_and_the_table_are_there(tab, wait, monkeypatch):
    monkeypatch.setattr(cross, "missing", lambda: "no anywidget")
    tab.show(a_run())
    tab.go.set()
    tab.button.click()
    wait(lambda: tab.words.value)
    assert tab.place.children == () and "<table" in tab.words.value


def test_the_weaker_model_is_the_shipped_one_of_the_same_world():
    assert weaker_of("tiny-strong") == "tiny-weak"
    assert weaker_of("tiny-weak") is None and weaker_of("some/model-strong") is None


def test_the_panel_has_the_tab_and_shows_it_the_chosen_run(ui, wait):
    at = ui.tabs.titles.index("Cross")
    assert ui.tabs.children[at] is ui.cross.root
    ui.cross.button.click()
    assert "There is no run yet" in ui.message.value
    ui.buttons["start"].click()
    assert f"Not measured yet for {ui.run.name}" in ui.cross.progress.value


def test_a_measurement_leaves_the_run_as_it_is(toy_recipe, tmp_path):
    from workbench.runs import train

    with train(toy_recipe.replace(steps=2), folder=tmp_path / "run", blocking=True) as run:
        before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
        told = []
        measured = cross.measure(run, 2, 2, told.append)
        assert before == {f: f.stat().st_mtime_ns for f in run.path.rglob("*") if f.is_file()}
    assert measured.step == 2 and len(told) == 2 and run.name in told[1]
    found = measured.found
    assert found.thinkers[:2] == found.answerers == ("initial", "current")
    assert found.scores_ABPS.shape == (4, 2, 2, 2)
    assert "thinking gain" in cross.words_html(found) and found.figure().data


def test_training_comes_out_the_same_with_a_measurement_in_between(toy_recipe, tmp_path):
    from workbench.runs import train

    measured = []

    def measure_at_three(run, record):
        if record["step"] == 3:  # the checkpoint of step 2 is there
            work = threading.Thread(
                target=lambda: measured.append(cross.measure(run, 2, 1, lambda text: None))
            )
            work.start()
            work.join(60)

    recipe = toy_recipe.replace(steps=5)
    plain = train(recipe, folder=tmp_path / "plain", blocking=True)
    beside = train(recipe, folder=tmp_path / "beside", blocking=True, listeners=[measure_at_three])
    assert measured[0].step == 2
    kept = [name for name in plain.metrics if not name.startswith(("time", "memory"))]
    pd.testing.assert_frame_equal(plain.metrics[kept], beside.metrics[kept], check_exact=True)
