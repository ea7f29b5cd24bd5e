"""Verdicts of runs and the guard, on toy runs and on a stand-in whose probes are written by hand."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.phase import CENTRES, VOTE
from workbench.references import SETTINGS, Reference
from workbench.variants import WorkbenchError
from workbench.watch import Guard, from_runs, last_inside, path_of, reference_of, verdict

CORNERS = [(e, t, v) for e in (0.2, 0.4) for t in (10.0, 20.0) for v in (0.5, 0.7)]
INSIDE, OUTSIDE = (0.3, 15.0, 0.6), (0.9, 15.0, 0.6)


def columns(points, accuracy=0.5):
    entropy, length, votes = (list(column) for column in zip(*points, strict=True))
    count = len(points)
    return {
        "step": [10 * n for n in range(count)],
        "entropy": entropy,
        "length": length,
        "truncated": [0.0] * count,
        "vote_share": votes,
        "distinct": [2.0] * count,
        "accuracy": [accuracy] * count,
    }


class Recipe(SimpleNamespace):
    max_new_tokens = 64

    def to_dict(self):
        return dict.fromkeys(SETTINGS, 1) | {"model": "m", "task": "t", "task_args": {}}


class Stub:
    """A run whose probes grow by hand; `events` is a list, as its folder keeps them."""

    name = "stub"
    recipe = Recipe()

    def __init__(self, *points, checkpoints=()):
        self.points, self.kept, self.pauses = list(points), [], 0
        self.checkpoint_steps = list(checkpoints)
        self.folder = SimpleNamespace(append_event=self._append)

    def _append(self, step, kind, text, changes):
        self.kept.append({"step": step, "kind": kind, "text": text})

    @property
    def events(self):
        return pd.DataFrame(self.kept, columns=["step", "kind", "text"])

    def probe_columns(self):
        return columns(self.points) if self.points else {"step": []}

    def pause(self):
        self.pauses += 1

    def probe(self, point, guard):
        self.points.append(point)
        guard(self, {"step": 0, "probe/entropy": point[0]})


@pytest.fixture
def box():
    """A reference that fills the box of CORNERS after its first probe."""
    return Reference("box", Recipe().to_dict(), {"r": columns([(2.0, 90.0, 0.1), *CORNERS])})


def test_the_guard_speaks_once_at_the_last_of_three_probes_outside(box):
    run, guard = Stub(INSIDE, INSIDE), Guard(box)
    for point in (OUTSIDE, INSIDE, OUTSIDE, OUTSIDE):
        run.probe(point, guard)
    assert run.kept == [] and guard.left_at(run) is None
    for _ in range(3):
        run.probe(OUTSIDE, guard)
    assert [event["text"] for event in run.kept] == ["leaving the envelope at step 60"]
    assert run.kept[0]["kind"] == "warning" and guard.left_at(run) == 60
    assert run.pauses == 0


def test_pausing_is_asked_for_once_and_margin_and_patience_count(box):
    run = Stub(INSIDE)
    guard = Guard(box, then="pause", patience=1, margin=5.0)  # 0.9 lies 5 deviations of 0.1 outside
    run.probe((0.85, 15.0, 0.6), guard)
    assert run.pauses == 0
    run.probe((0.95, 15.0, 0.6), guard)
    run.probe((0.95, 15.0, 0.6), guard)
    assert run.pauses == 1 and guard.left_at(run) == 20


def test_records_without_a_probe_are_passed_over(box):
    run = Stub()
    Guard(box)(run, {"step": 1})
    assert run.kept == []


def test_return_is_to_the_last_checkpoint_before_the_first_probe_outside(box):
    run = Stub(
        INSIDE, INSIDE, OUTSIDE, INSIDE, OUTSIDE, OUTSIDE, OUTSIDE, checkpoints=(10, 35, 40, 50)
    )
    assert last_inside(run, box) == 35  # probes 40, 50, 60 are the three in a row
    run.checkpoint_steps = [40]
    assert last_inside(run, box) is None
    run.points[-1] = INSIDE
    assert last_inside(run, box) is None


def test_the_verdict_reads_the_run_against_the_reference(box):
    inside = Stub(*[INSIDE] * 9)
    assert verdict(inside, box).numbers["inside share"] == 1.0
    away = Stub(INSIDE, INSIDE, *[(0.5 + n, 30.0, 0.6) for n in range(9)])
    found = verdict(away, box)
    assert found.left_at == 40 and found.numbers["inside share"] == 0.0
    assert found.numbers["cap"] == 64


def test_runs_that_can_not_be_compared_are_told_why(box):
    other = Reference("other", Recipe().to_dict() | {"task": "u"}, box.runs)
    with pytest.raises(WorkbenchError, match="Run stub .* differs in task 't' .reference: 'u'."):
        reference_of(Stub(), other)
    with pytest.raises(WorkbenchError, match="No reference is shipped for m on t .*from_runs"):
        reference_of(Stub())
    with pytest.raises(WorkbenchError, match="taken no probe; set probe_every"):
        path_of(Stub(), box)
    with pytest.raises(WorkbenchError, match="action of a guard"):
        Guard(box, then="stop")


def test_a_real_run_is_traced_judged_paused_and_forked_from_within(toy_recipe, tmp_path):
    traced = toy_recipe.replace(probe_every=1, probe_prompts=2, probe_samples=4, checkpoint_every=1)
    first = wb.train(traced, folder=tmp_path / "first", blocking=True)
    reference = from_runs(first)
    assert list(reference.runs["first"]["step"]) == list(range(7))
    near = reference.path("first", first.probe_columns(), CENTRES, reference.near["first"])
    assert np.allclose(path_of(first, reference, CENTRES).points_ND, near.points_ND)
    assert verdict(first, reference).held_out is False
    assert verdict(first, reference, space=VOTE).left_at is None

    guard = Guard(reference, then="pause", patience=1, margin=0.0)
    second = wb.train(
        traced.replace(seed=1, learning_rate=0.5, steps=50),
        folder=tmp_path / "second",
        listeners=[guard],
    )
    deadline = time.monotonic() + 60
    while second.status != "paused" and time.monotonic() < deadline:
        time.sleep(0.05)
    left = guard.left_at(second)
    assert second.status == "paused" and left >= 1
    lines = (second.path / "events.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert {event["kind"] for event in told} == {"warning"}
    assert sum(event["text"].startswith("leaving") for event in told) == 1

    at = second.checkpoint_steps[0]
    third = second.fork(at=at, folder=tmp_path / "third", steps=at + 1, learning_rate=1e-2).wait()
    assert third.metrics.index.tolist() == list(range(at + 2))
    assert third.probe_columns()["step"] == list(range(at + 2))
    assert third.metrics["probe/entropy"][at] == second.metrics["probe/entropy"][at]
    with pytest.raises(WorkbenchError, match="no checkpoint of step 49"):
        second.fork(at=49)
    second.close()
