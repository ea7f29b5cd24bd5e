"""Trackers: what they are told, that nothing leaves the machine, and that a broken one ends no run."""

import contextlib
import importlib.metadata
import json
import os
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from workbench import trackers
from workbench.recipe import FIELDS, LIVE, Recipe
from workbench.runs import attach, train
from workbench.trackers import TRACKERS, Feed, Tracker, check_tracker, numbers
from workbench.variants import WorkbenchError

CONFIG = {"beta": 0.1, "rewards": {"correct": 1.0}}


class Told:
    """A tracker that keeps what it is told; it fails at the step `breaks_at`."""

    def __init__(self, breaks_at=None):
        self.opened, self.logged, self.notes, self.finished = [], [], [], 0
        self.breaks_at = breaks_at

    def open(self, folder, config, step):
        self.opened.append((folder, config, step))
        return Tracker(self.log, lambda step, text: self.notes.append((step, text)), self.finish)

    def log(self, step, found):
        if step == self.breaks_at:
            raise ConnectionError("no\nserver")
        self.logged.append((step, found))

    def finish(self):
        self.finished += 1


@pytest.fixture
def told(monkeypatch):
    """Put a tracker of our own in tensorboard's place."""

    def build(**settings):
        found = Told(**settings)
        monkeypatch.setitem(TRACKERS, "tensorboard", found.open)
        return found

    return build


# --- what is told -------------------------------------------------------------------------------


def test_only_finite_numbers_are_told_under_their_own_names():
    record = {
        "step": 3, "time": 1e9, "eval/pass@1": 0.5, "rollout/tokens": 7, "train/kl": float("nan"),
        "train/ratio": float("inf"), "groups/successes": [1, 2], "note": "x", "none": None,
    }  # fmt: skip
    assert numbers(record) == {"eval/pass@1": 0.5, "rollout/tokens": 7}


def test_a_recipe_takes_a_tracker_by_name_and_keeps_it():
    assert Recipe().tracker == "none"
    assert FIELDS["tracker"].metadata["choices"] == tuple(TRACKERS)
    assert "tracker" not in LIVE
    with pytest.raises(WorkbenchError, match="Did you mean 'wandb'"):
        Recipe(tracker="wandbb")


def test_nothing_of_a_tracker_is_loaded_before_it_is_used():
    code = (
        "import sys, workbench.trackers, workbench.recipe as r; r.Recipe(tracker='wandb');"
        "print({'torch', 'trackio', 'tensorboard', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- a run and its tracker ----------------------------------------------------------------------


def test_a_run_tells_each_step_after_it_is_on_the_disk(told, toy_recipe, tmp_path):
    tracker = told()
    steps_on_disk = []
    folder = tmp_path / "run"
    log = tracker.log

    def watching(step, found):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        steps_on_disk.append(json.loads(lines[-1])["step"])
        log(step, found)

    tracker.log = watching
    recipe = toy_recipe.replace(tracker="tensorboard", steps=3)
    run = train(recipe, folder=folder)
    run.update(beta=0.1)
    run.wait()
    assert steps_on_disk == [0, 1, 2, 3]
    assert tracker.opened == [(folder, recipe.to_dict(), 0)]
    assert [step for step, _ in tracker.logged] == [0, 1, 2, 3]
    last = run.metrics.iloc[-1].dropna()
    assert tracker.logged[-1][1] == pytest.approx(last.drop("time").to_dict())
    assert [text for _, text in tracker.notes] == ["beta 0.0 → 0.1"]
    assert tracker.finished == 1

    run.update(steps=4)
    run.resume()
    run.wait()
    assert [step for _, _, step in tracker.opened] == [0, 4]  # the step after those on the disk
    assert [step for step, _ in tracker.logged] == [0, 1, 2, 3, 4]
    assert tracker.finished == 2


def test_a_rewound_run_opens_its_tracker_again_at_that_step(told, toy_recipe, tmp_path):
    tracker = told()
    run = train(toy_recipe.replace(tracker="tensorboard", steps=4), folder=tmp_path / "run").wait()
    run.rewind(2)
    run.resume()
    run.wait()
    assert [step for _, _, step in tracker.opened] == [0, 3]
    assert [step for step, _ in tracker.logged] == [0, 1, 2, 3, 4, 3, 4]


def test_a_tracker_that_breaks_is_let_go_with_one_warning(told, toy_recipe, tmp_path):
    tracker = told(breaks_at=1)
    run = train(toy_recipe.replace(tracker="tensorboard", steps=3), folder=tmp_path / "run").wait()
    assert run.status == "finished"
    assert list(run.metrics.index) == [0, 1, 2, 3]
    assert [step for step, _ in tracker.logged] == [0]
    warnings = run.events[run.events["text"].str.contains("tracker")]
    assert warnings[["step", "text"]].to_numpy().tolist() == [
        [1, "the tracker tensorboard failed and is left out from here: ConnectionError: no server"]
    ]
    assert tracker.finished == 1


@pytest.mark.parametrize("broken", ["open", "note", "finish"])
def test_whatever_breaks_is_told_once(told, tmp_path, broken):
    def fail(*_):
        raise SystemExit  # some packages leave like this

    tracker = told()
    if broken == "open":
        TRACKERS["tensorboard"] = fail
    elif broken == "note":
        tracker.notes = SimpleNamespace(append=fail)
    else:
        tracker.finish = fail
    warned = []
    feed = Feed(lambda step, text: warned.append((step, text)))
    feed.open("tensorboard", tmp_path, CONFIG, 0)
    feed.record({"step": 0, "x": 1.0})
    feed.note(1, "beta 0 → 0.1")
    feed.record({"step": 1, "x": 2.0})
    feed.close()
    feed.close()
    step = {"open": 0, "note": 1, "finish": 1}[broken]
    text = "the tracker tensorboard failed and is left out from here: SystemExit"
    assert warned == [(step, text)]
    assert len(tracker.logged) == {"open": 0, "note": 1, "finish": 2}[broken]


def test_a_disk_that_takes_no_warning_does_not_end_the_run(told, tmp_path):
    def full(step, text):
        raise OSError("disk full")

    told(breaks_at=0)
    feed = Feed(full)
    feed.open("tensorboard", tmp_path, CONFIG, 0)
    feed.record({"step": 0, "x": 1.0})
    feed.close()


def test_a_failed_run_finishes_its_tracker(told, toy_recipe, tmp_path):
    tracker = told()

    def broken(rollouts, task):
        raise ValueError("odd")

    recipe = toy_recipe.replace(tracker="tensorboard", rewards={broken: 1.0})
    run = train(recipe, folder=tmp_path / "run")
    run._worker.done.wait()
    assert (run.status, tracker.finished) == ("failed", 1)


# --- what is refused ----------------------------------------------------------------------------


def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_a_missing_package_is_told_before_anything_is_made(monkeypatch, toy_recipe, tmp_path):
    monkeypatch.setattr(trackers.importlib.metadata, "version", missing)
    recipe = toy_recipe.replace(tracker="wandb")  # the name is known, so the recipe is fine
    with pytest.raises(WorkbenchError) as caught:
        train(recipe, folder=tmp_path / "run")
    assert str(caught.value) == (
        "The tracker 'wandb' needs the package wandb, which is not installed here; run: "
        'pip install "rlvr-workbench[trackers]"'
    )
    assert not (tmp_path / "run").exists()
    check_tracker("none")


def test_forks_and_resumed_runs_are_refused_as_well(monkeypatch, told, toy_recipe, tmp_path):
    told()
    recipe = toy_recipe.replace(steps=1)
    run = train(recipe, folder=tmp_path / "plain").wait()
    tracked = train(recipe.replace(tracker="tensorboard"), folder=tmp_path / "tracked").wait()
    monkeypatch.setattr(trackers.importlib.metadata, "version", missing)
    with pytest.raises(WorkbenchError, match="rlvr-workbench"):
        run.fork(tracker="trackio", folder=tmp_path / "fork")
    assert not (tmp_path / "fork").exists()
    tracked.update(steps=2)
    with pytest.raises(WorkbenchError, match="rlvr-workbench"):
        tracked.resume()
    assert tracked.status == "finished"


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_trackio_is_refused_where_it_would_send_the_run_away(monkeypatch, variable):
    monkeypatch.setattr(trackers.importlib.metadata, "version", lambda name: "1")
    for each in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(each, raising=False)
    check_tracker("trackio")
    monkeypatch.setenv(variable, "somewhere")
    with pytest.raises(WorkbenchError, match=f"{variable} is set.*unset it"):
        check_tracker("trackio")
    check_tracker("wandb")


# --- each package, as it is called --------------------------------------------------------------


class Calls(SimpleNamespace):
    """A package's run: it keeps the calls made."""

    def __init__(self):
        super().__init__(made=[], settings=None)

    def init(self, **settings):
        self.settings = settings
        return self

    def log(self, *args, **settings):
        self.made.append((*args, settings))

    def finish(self):
        self.made.append("finish")


def told_through(name, folder, step=0):
    """Open the tracker, tell it two steps and a change, and finish it."""
    tracker = TRACKERS[name](folder, CONFIG, step)
    tracker.log(step, {"eval/pass@1": 0.5})
    tracker.note(step + 1, "beta 0 → 0.1")
    tracker.log(step + 1, {"eval/pass@1": 0.75})
    tracker.finish()


@pytest.mark.parametrize(("step", "resume"), [(0, "never"), (4, "allow")])
def test_calls_of_trackio(monkeypatch, tmp_path, step, resume):
    calls = Calls()
    fake = SimpleNamespace(init=calls.init, Markdown=lambda text: f"md {text}")
    monkeypatch.setitem(sys.modules, "trackio", fake)
    told_through("trackio", tmp_path, step)
    assert calls.settings == {
        "project": "workbench", "name": tmp_path.name, "config": CONFIG, "resume": resume,
        "embed": False, "auto_log_cpu": False, "auto_log_gpu": False,
    }  # fmt: skip
    assert calls.made == [
        ({"eval/pass@1": 0.5}, {"step": step}),
        ({"event": "md beta 0 → 0.1"}, {"step": step + 1}),
        ({"eval/pass@1": 0.75}, {"step": step + 1}),
        "finish",
    ]


def test_calls_of_wandb(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    calls = Calls()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=calls.init))
    told_through("wandb", tmp_path)
    settings = dict(calls.settings)
    assert settings.pop("id").isalnum()
    assert settings == {
        "project": "workbench", "name": tmp_path.name, "config": CONFIG, "dir": str(tmp_path),
        "mode": "offline",
        "settings": {"reinit": "create_new", "console": "off", "silent": True},
    }  # fmt: skip
    assert calls.made == [
        ({"eval/pass@1": 0.5}, {"step": 0, "commit": True}),
        ({"event": "beta 0 → 0.1"}, {"step": 1}),
        ({"eval/pass@1": 0.75}, {"step": 1, "commit": True}),
        "finish",
    ]
    first = calls.settings["id"]
    told_through("wandb", tmp_path, 2)
    assert calls.settings["id"] == first  # a resumed run is the same run


# --- the packages themselves --------------------------------------------------------------------


def test_tensorboard_itself(toy_recipe, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(toy_recipe.replace(tracker="tensorboard", steps=3), folder=tmp_path / "run")
    run.update(beta=0.1)
    run.wait()
    assert not run.events["text"].str.contains("tracker").any()
    run.rewind(2)
    run.resume()
    run.wait()
    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    entropy = run.metrics["train/entropy"].dropna()
    found = read.Scalars("train/entropy")
    assert [event.step for event in found] == list(entropy.index) == [1, 2, 3]
    assert [event.value for event in found] == pytest.approx(entropy.tolist())
    named = [c for c in run.metrics if c != "time" and run.metrics[c].notna().any()]
    assert sorted(read.Tags()["scalars"]) == sorted(named)
    (event,) = read.Tensors("events/text_summary")
    assert event.tensor_proto.string_val == ["beta 0.0 → 0.1".encode()]
    assert b'"beta": 0.0' in read.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


def test_trackio_itself(tmp_path):
    """In a process of its own: trackio takes its folder from the environment when it is loaded."""
    pytest.importorskip("trackio")
    code = (
        "from pathlib import Path; from workbench.trackers import TRACKERS\n"
        "for step in (0, 1):\n"
        "    tracker = TRACKERS['trackio'](Path('there/run'), {'beta': 0.1}, step)\n"
        "    tracker.log(step, {'eval/pass@1': 0.5 + step}); tracker.note(step, 'changed')\n"
        "    tracker.finish()\n"
    )
    home = {"TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | home
    )
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "workbench.db")) as database:
        rows = database.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY id"
        ).fetchall()
        configs = database.execute("SELECT run_name, config FROM configs").fetchall()
    logged = [(name, step, json.loads(text)) for name, step, text in rows]
    numbered = [(*row, found) for *row, found in logged if "event" not in found]
    assert numbered == [("run", 0, {"eval/pass@1": 0.5}), ("run", 1, {"eval/pass@1": 1.5})]
    assert [found["event"]["_value"] for *_, found in logged if "event" in found] == ["changed"] * 2
    assert {(name, json.loads(text)["beta"]) for name, text in configs} == {("run", 0.1)}


def test_wandb_itself(toy_recipe, tmp_path):
    """Two runs at once, in their threads, off the main one."""
    pytest.importorskip("wandb")
    recipe = toy_recipe.replace(tracker="wandb", steps=2)
    runs = [train(recipe, folder=tmp_path / name) for name in ("one", "two")]
    for run in runs:
        run.wait()
        assert not run.events["text"].str.contains("tracker").any()
        (file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
        assert file.name == f"run-{id_of(run)}.wandb"
        written = file.read_bytes()
        assert b"train/entropy" in written
        assert run.name.encode() in written
    again = attach(runs[0].path)
    again.update(steps=3)
    again.resume()
    again.wait()
    assert len(list(again.path.glob(f"wandb/offline-run-*-{id_of(again)}"))) == 2


def id_of(run):
    return (run.path / "wandb" / "run-id.txt").read_text()
