"""A run that trains nothing: the panel needs only Run's public face."""

import threading
import time

import pandas as pd
import pytest

from workbench import panel as panel_package
from workbench.panel import bench
from workbench.recipe import LIVE, Recipe
from workbench.variants import WorkbenchError

HOSTILE = "<script>window.hit=1</script><img src=x onerror=window.hit=1></think> \u202eabc $x$"


def make_rollouts(step, prompts=2, group=3):
    rows = [
        {
            "step": step,
            "prompt_index": p,
            "prompt": f"Make {p} {HOSTILE}",
            "completion": f"<think>try {p}.{g}</think>{HOSTILE}",
            "answer": f"{p}.{g}",
            "reward/correct": float(g == 0),
            "reward/total": float(g == 0) + 0.1 * g,
            "advantage": 1.0 - g,
            "length": 5 + g,
            "truncated": g == 2,
        }
        for p in range(prompts)
        for g in range(group)
    ]
    return pd.DataFrame(rows)


class FakeRun:
    """The API of `workbench.runs.Run`: a thread that appends rows until it has done its steps."""

    def __init__(self, recipe, name="fake", seconds=0.02, fail_at=None, started=True):
        self.name, self.recipe = name, recipe
        self.status, self.error, self.calls = "starting", None, []
        self.rollout_steps = []
        self._rows, self._events, self._pending = [], [], {}
        self._seconds, self._fail_at = seconds, fail_at
        self._go, self._stop, self._one = threading.Event(), threading.Event(), threading.Event()
        self._go.set()
        self.path = f"runs/{name}"
        if started:
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def metrics(self):
        rows = list(self._rows)
        columns = list(dict.fromkeys(key for row in rows for key in row)) or ["step"]
        return pd.DataFrame(rows, columns=columns).set_index("step")

    @property
    def events(self):
        return pd.DataFrame(self._events, columns=["step", "time", "kind", "text", "changes"])

    @property
    def progress(self):
        step = self._rows[-1]["step"] if self._rows else 0
        return {
            "step": step, "steps": self.recipe.steps, "seconds_per_step": self._seconds,
            "seconds_left": self._seconds * (self.recipe.steps - step), "tokens_per_second": 1234.0,
        }  # fmt: skip

    def rollouts(self, step=None):
        return make_rollouts(self.rollout_steps[-1] if step is None else step)

    def pause(self):
        self.calls.append("pause")
        self._go.clear()

    def resume(self):
        self.calls.append("resume")
        self._go.set()

    def step(self):
        self.calls.append("step")
        self._one.set()

    def stop(self):
        self.calls.append("stop")
        self._stop.set()

    def update(self, **fields):
        for field in fields:
            if field not in LIVE:
                raise WorkbenchError(f"{field} can't change during a run.")
        self.recipe.replace(**fields)
        self.calls.append(("update", fields))
        self._pending |= fields

    def fork(self, **changes):
        self.calls.append("fork")
        return FakeRun(self.recipe.replace(**changes), self.name + "-fork", self._seconds)

    def _row(self, step):
        row = {"step": step}
        if step:
            row |= {"train/entropy": 1 / step, "train/kl": 0.01 * step, "reward/correct": 0.3}
            row |= {"reward/total": 0.3, "rollout/length": 9.0, "groups/zero_signal": 0.1}
        if step % 5 == 0:
            for k in (1, 4):
                value = 0.2 + 0.01 * step + 0.05 * k
                row |= {f"eval/pass@{k}": value}
                row |= {f"eval/pass@{k}/low": value - 0.1, f"eval/pass@{k}/high": value + 0.1}
        return row

    def _work(self):
        self.status = "running"
        self._rows.append(self._row(0))
        while len(self._rows) <= self.recipe.steps and not self._stop.is_set():
            if not self._go.is_set() and not self._one.is_set():
                self.status = "paused"
                time.sleep(0.005)
                continue
            self.status = "running"
            self._one.clear()
            time.sleep(self._seconds)
            step = len(self._rows)
            if self._pending:
                pending, self._pending = self._pending, {}
                changed = self.recipe.replace(**pending)
                text = "; ".join(
                    f"{k}: {a} to {b}" for k, (a, b) in self.recipe.diff(changed).items()
                )
                self._events.append(
                    {"step": step, "time": 0.0, "kind": "update", "text": text, "changes": {}}
                )
                self.recipe = changed
            if step == self._fail_at:
                self.error, self.status = "Reward 'x' raised <ValueError>; mend it.", "failed"
                return
            self._rows.append(self._row(step))
            if step % 5 == 0:
                self.rollout_steps.append(step)
        self.status = "stopped" if self._stop.is_set() else "finished"


def wait_for(condition, seconds=5.0):
    """Wait until `condition()` holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.fixture
def wait():
    return wait_for


@pytest.fixture
def fake_run():
    made = []

    def make(*args, **options):
        made.append(FakeRun(*args, **options))
        return made[-1]

    yield make
    for run in made:
        run._stop.set()


@pytest.fixture
def ui(monkeypatch, fake_run):
    """A panel whose Start launches a FakeRun of 40 quick steps."""
    monkeypatch.setattr(bench, "launch", lambda recipe: fake_run(recipe))
    made = panel_package.panel(Recipe(steps=40))
    yield made
    for run in made.runs:
        run._stop.set()


@pytest.fixture
def hostile():
    return HOSTILE
