"""The bar counts steps of several runs; waiting turns an interrupt into a sentence."""

import types

import pandas as pd
import pytest

from workbench.progress import Bar, wait_for
from workbench.variants import WorkbenchError


def named(name, *events):
    """A run with this name and these events: step, kind, text."""
    return types.SimpleNamespace(
        name=name, events=pd.DataFrame(events, columns=["step", "kind", "text"])
    )


def test_the_bar_adds_up_runs_and_shows_the_last_pass_at_1(capsys):
    with Bar(4) as bar:
        for name in ("one", "two"):
            bar(named(name), {"step": 0, "eval/pass@1": 0.25})
            bar(named(name), {"step": 1})
            bar(named(name), {"step": 2, "eval/pass@1": 0.5})
    printed = capsys.readouterr().out.splitlines()  # no terminal here: a line per evaluation
    assert printed == [
        "one step 0 pass@1 0.250",
        "one step 2 pass@1 0.500",
        "two step 0 pass@1 0.250",
        "two step 2 pass@1 0.500",
    ]


def test_an_evaluation_without_pass_at_1_has_its_line_too(capsys):
    with Bar(2) as bar:
        bar(named("run"), {"step": 0, "eval/entropy": 0.5})
        bar(named("run"), {"step": 1})
    assert capsys.readouterr().out.splitlines() == ["run step 0"]


def test_a_resumed_run_starts_where_it_was(capsys):
    with Bar(10, done=6, show=True) as bar:
        bar(named("run"), {"step": 7})
        bar(named("run"), {"step": 8, "eval/pass@1": 0.5})
    assert "8/10" in capsys.readouterr().err


def test_a_warning_is_printed_once_with_its_step(capsys):
    warned = (1, "warning", "31 % of completions were cut at 8 tokens.")
    with Bar(3, show=True) as bar:
        bar(named("run"), {"step": 0})
        bar(named("run", (1, "update", "beta 0 → 1"), warned), {"step": 1})
        bar(named("run", (1, "update", "beta 0 → 1"), warned), {"step": 2})
    assert capsys.readouterr().out.splitlines() == [
        "run step 1: 31 % of completions were cut at 8 tokens."
    ]


class Going:
    """A run that ends with the third look at it, and says what it does meanwhile."""

    def __init__(self):
        self.looks = 0

    @property
    def live(self):
        return self.looks < 3

    @property
    def doing(self):
        return "training, 50 %" if self.live else ""

    def wait(self, timeout=None):
        self.looks += 1
        return self


def test_what_is_done_beside_the_steps_is_shown_behind_the_bar(capsys):
    run, shown = Going(), []
    with Bar(4, show=True) as bar:
        set_postfix = bar._bar.set_postfix_str
        bar._bar.set_postfix_str = lambda text: shown.append(text) or set_postfix(text)
        assert wait_for(run, bar) is run
    assert shown == ["training, 50 %", ""]  # each once
    assert "training, 50 %" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on():
    def interrupted():
        raise KeyboardInterrupt

    run = types.SimpleNamespace(wait=interrupted, progress={"step": 7}, path="runs/x")
    with pytest.raises(KeyboardInterrupt, match="Stopped at step 7.*train --resume runs/x"):
        wait_for(run)


def test_a_failed_run_is_an_error_with_its_folder():
    from workbench.worker import RunFailed

    def failed():
        raise RunFailed("It broke.")

    run = types.SimpleNamespace(wait=failed, path="runs/x")
    with pytest.raises(WorkbenchError, match=r"It broke\. \(run folder: runs/x\)"):
        wait_for(run)
