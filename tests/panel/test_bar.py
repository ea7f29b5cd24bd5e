"""The run bar by itself: which buttons make sense when, and the line of figures."""

import ipywidgets
import pytest

from workbench.panel import bar
from workbench.panel.bar import BUTTONS, RunBar
from workbench.recipe import Recipe


@pytest.fixture
def pressed():
    return []


@pytest.fixture
def made(pressed):
    actions = {name: (lambda *_, name=name: pressed.append(name)) for name in BUTTONS}
    return RunBar(actions, lambda *_: None, ipywidgets.HTML())


def enabled(made):
    return {name for name, button in made.buttons.items() if not button.disabled}


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_clock(seconds, text):
    assert bar.clock(seconds) == text


@pytest.mark.parametrize(("mebibytes", "text"), [(612.3, "612 MB"), (2048, "2.0 GB")])
def test_size(mebibytes, text):
    assert bar.size(mebibytes) == text


def test_every_button_is_described_and_calls_its_action(made, pressed):
    for name, button in made.buttons.items():
        assert button.description and len(button.tooltip) > 10
        button.click()
        assert pressed[-1] == name


def test_rewind_needs_a_checkpoint_and_offers_the_newest(made, fake_run):
    run = fake_run(Recipe(), started=False)
    run.status = "paused"
    made.show(run, "paused", mine=True)
    assert enabled(made) == {"resume", "step", "stop", "fork"}
    run.checkpoint_steps = [10, 20]
    made.show(run, "paused", mine=True)
    assert "rewind" in enabled(made) and made.back_to.value == 20
    run.checkpoint_steps = [10, 20, 30]
    made.show(run, "paused", mine=True)
    assert made.back_to.value == 30  # the newest was chosen, and stays so
    made.back_to.value = 10
    run.checkpoint_steps = [10, 20, 30, 40]
    made.show(run, "paused", mine=True)
    assert made.back_to.value == 10  # what a person chose stays
    run.checkpoint_steps = [20]
    made.show(run, "paused", mine=True)
    assert made.back_to.value == 20
    run.checkpoint_steps = []  # as a fork begins
    made.show(run, "starting", mine=True)
    assert made.back_to.value is None and made.buttons["rewind"].disabled


def test_a_run_of_another_process_can_only_be_looked_at(made, fake_run):
    run = fake_run(Recipe(), started=False)
    run.checkpoint_steps = [10]
    made.show(run, "running", mine=False)
    assert enabled(made) == {"start"} and "read-only" in made.state.value


def test_the_line_of_figures_tells_speed_memory_and_what_came_of_it(made, fake_run):
    run = fake_run(Recipe(steps=100), started=False)
    run._rows = [run._row(step) for step in range(11)]
    made.show(run, "running", mine=True)
    for part in ("step 10 of 100", "0.02 s/step", "1,234 tokens/s", "memory 612 MB"):
        assert part in made.state.value
    assert "pass@1 0.250 → <b>0.350</b>" in made.state.value


def test_messages_are_escaped_and_errors_are_alerts(made):
    made.say("<b>no</b>", error=True)
    assert "&lt;b&gt;" in made.message.value and 'role="alert"' in made.message.value
    made.say("")
    assert made.message.value == ""


def test_warnings_have_lines_of_their_own_until_they_are_mended(made, fake_run):
    run = fake_run(Recipe(max_new_tokens=48), started=False)
    run._rows = [{"step": 0}, {"step": 1, "rollout/truncated": 0.31}]
    made.show(run, "running", mine=True)
    assert "31 % of completions were cut at 48 tokens; " in made.warnings.value
    assert made.warnings.layout.display == "" and 'role="alert"' in made.warnings.value
    run._rows += [{"step": n, "rollout/truncated": 0.0} for n in range(2, 7)]
    made.show(run, "running", mine=True)
    assert made.warnings.value == "" and made.warnings.layout.display == "none"
    made.show(None, "", mine=True)
    assert made.warnings.value == ""
