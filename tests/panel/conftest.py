"""A run that trains nothing: the panel needs only Run's public face."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from workbench import panel as panel_package
from workbench import references
from workbench.panel import bench
from workbench.probe import ProbeTrace
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
        self.doing, self.read_only, self.tags = "", False, ()
        self.rollout_steps, self.checkpoint_steps, self.listeners = [], [], []
        self.held_out_steps = []
        self.counts = {"groups": {}, "eval": {}}  # step -> right completions of each prompt
        self._rows, self._events, self._pending = [], [], {}
        self._seconds, self._fail_at = seconds, fail_at
        self._go, self._stop, self._one = threading.Event(), threading.Event(), threading.Event()
        self._go.set()
        self.path = Path("runs") / name
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

    def probe_columns(self):
        return {"step": []}

    def successes(self, of="groups"):
        found = self.counts[of]
        return pd.DataFrame(list(found.values()), index=pd.Index(list(found), name="step"))

    @property
    def progress(self):
        step = self._rows[-1]["step"] if self._rows else 0
        return {
            "step": step, "steps": self.recipe.steps, "seconds_per_step": self._seconds,
            "seconds_left": self._seconds * (self.recipe.steps - step), "tokens_per_second": 1234.0,
            "memory": 612.0,
        }  # fmt: skip

    def rollouts(self, step=None, *, held_out=False, columns=None):
        steps = self.held_out_steps if held_out else self.rollout_steps
        table = make_rollouts(steps[-1] if step is None else step)
        return table.drop(columns=["reward/total", "advantage"]) if held_out else table

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

    def rewind(self, step):
        self.calls.append(("rewind", step))

    def report(self, path):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<p>report of {self.name}</p>")
        return path

    @property
    def live(self):
        return self.status in ("starting", "running", "paused")

    def tag(self, *tags):
        self.tags = (*self.tags, *tags)

    def untag(self, *tags):
        self.tags = tuple(tag for tag in self.tags if tag not in tags)

    def rename(self, name):
        self.name, self.path = name, self.path.with_name(name)

    def delete(self):
        if self.live:
            raise WorkbenchError(f"{self.name} is going; it can be deleted once it is stopped.")
        self.calls.append("delete")
        self.path = None

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


CORNERS = [(e, t, v) for e in (0.2, 0.4) for t in (10.0, 20.0) for v in (0.5, 0.7)]
BOX = [
    (2.0, 90.0, 0.1),
    *CORNERS,
]  # burn-in leaves out the first, so the envelope is the corners' hull


class ProbedRun(FakeRun):
    """A run whose probes are written by hand, (entropy, length, majority share), one every two steps."""

    def __init__(self, points=(), name="probed", status="running", accuracy=0.5, **fields):
        recipe = Recipe(**{"probe_every": 2, "steps": 100, "max_new_tokens": 64} | fields)
        super().__init__(recipe, name, started=False)
        self.status, self.accuracy, self.asked, self.points = status, accuracy, {}, []
        self.folder = SimpleNamespace(append_event=self._append_event)
        self._rows = [self._row(0)]
        for point in points:
            self.probe(point)

    def probe(self, point):
        """Take one more probe and tell the listeners."""
        row = dict(zip(("entropy", "length", "vote_share"), point, strict=True))
        row |= {"truncated": 0.0, "distinct": 2.0, "accuracy": self.accuracy}
        step = 2 * len(self.points)
        record = {f"probe/{name}": value for name, value in row.items()}
        self._rows = [r for r in self._rows if r["step"] != step]
        self._rows.append({**self._row(step), **record})
        self.points.append({"step": step, **row})
        for listener in self.listeners:
            listener(self, record)

    def probe_columns(self):
        if not self.points:
            return {"step": []}
        return {name: [point[name] for point in self.points] for name in self.points[0]}

    def probes(self):
        """Two prompts with two responses each, whose entropies scatter around the probe's."""
        rng = np.random.default_rng(0)
        spread = np.abs(rng.normal(1, 0.3, (4, 6)))
        return [
            ProbeTrace.of(
                p["step"], [0, 0, 1, 1], list(p["entropy"] * spread), [True] * 4, ["1"] * 4, [1] * 4
            )
            for p in self.points
        ]

    def fork(self, **asked):
        self.calls.append("fork")
        self.asked = asked
        child = ProbedRun(name=f"{self.name}-fork")
        child.recipe = self.recipe.replace(**{k: v for k, v in asked.items() if k != "at"})
        return child

    def stop(self):
        super().stop()
        self.status = "stopped"

    def pause(self):
        super().pause()
        self.status = "paused"

    def _append_event(self, step, kind, text, changes):
        event = {"step": step, "time": 0.0, "kind": kind, "text": text, "changes": changes}
        self._events.append(event)


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
def probed():
    """Makes a ProbedRun; `probed.box` is a finished one whose probes span a box, `CORNERS`."""

    def make(*args, **options):
        return ProbedRun(*args, **options)

    make.box = lambda name="good", **options: ProbedRun(BOX, name, "finished", **options)
    return make


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


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch):
    """No reference but those that a test makes."""
    monkeypatch.setattr(references, "_shipped", lambda: ())
