"""Runs from outside: start one, kill it, find it again, list them. Bit for bit, but for clocks."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from workbench import run as run_module
from workbench.runs import RunList, attach, runs, train
from workbench.variants import WorkbenchError


def numbers(run):
    """Every metric that the weights and the seed decide: all but clocks."""
    table = run.metrics
    return table[[column for column in sorted(table) if not column.startswith(("time", "memory"))]]


def assert_same_numbers(run, other):
    mine, theirs = numbers(run), numbers(other)
    assert list(mine.index) == list(theirs.index)
    assert mine.equals(theirs), mine.compare(theirs).to_string()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def own(recipe):
    """The functions that a recipe's file can only name."""
    return recipe.reward_functions().values()


def forget(run):
    """As if this process had never held the run."""
    run.close()
    run_module.HERE.pop(run.path)
    return run.path


@pytest.fixture(autouse=True)
def close_runs():
    yield
    for run in list(run_module.HERE.values()):
        run.close()
    run_module.HERE.clear()


def test_a_run_goes_to_its_end_and_leaves_its_folder(toy_recipe, tmp_path):
    heard = []
    run = train(
        toy_recipe,
        folder=tmp_path / "a",
        listeners=[lambda r, record: heard.append((record["step"], len(r.folder.read_metrics())))],
    )
    assert run.wait() is run
    assert (run.status, run.live, run.error) == ("finished", False, None)
    assert list(run.metrics.index) == list(range(7))
    assert heard == [(step, step + 1) for step in range(7)]  # on disk before it is told
    assert run.metrics["eval/pass@1"].dropna().index.tolist() == [0, 3, 6]
    assert run.rollout_steps == [1, 2, 3, 4, 6]
    assert sorted(p.name for p in run.path.iterdir()) == [
        *("checkpoints", "events.jsonl", "held_out", "metrics.jsonl", "recipe.yaml"),
        *("rollouts", "status.json"),
    ]
    saved = run.rollouts()
    assert len(saved) == 12
    assert saved["reward/total"].tolist() == saved["reward/digits"].tolist()
    assert [len(tokens) for tokens in saved["tokens"]] == saved["length"].tolist()
    assert repr(run) == "<Run a: finished, step 6 of 6>"


def test_train_returns_at_once_and_blocking_waits(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a")
    assert run.live
    assert not train(toy_recipe, folder=tmp_path / "b", blocking=True).live
    run.wait()
    assert_same_numbers(run, attach(tmp_path / "b"))


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from conftest import digits
from workbench.recipe import Recipe
from workbench.runs import train
recipe = Recipe.from_yaml({text!r}, [digits])
def change(run, record):
    if record["step"] == 4:
        run.update(objective="grpo", beta=0.2)
run = train(recipe, folder={folder!r}, listeners=[change], blocking=True)
"""


@pytest.mark.slow
def test_killed_and_attached_it_goes_on_bit_for_bit(toy_recipe, tmp_path):
    """SIGKILL after an update that no checkpoint has seen: the update is replayed at its step."""
    recipe = toy_recipe.replace(steps=9, checkpoint_every=4)

    def change(run, record):
        if record["step"] == 4:
            run.update(objective="grpo", beta=0.2)

    whole = train(recipe, folder=tmp_path / "whole", listeners=[change], blocking=True)
    folder = tmp_path / "killed"
    code = KILLED.format(tests=os.path.dirname(__file__), text=recipe.to_yaml(), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 7, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()

    run = attach(folder, own(toy_recipe))
    assert (run.status, run.live) == ("interrupted", False)
    assert run.folder.checkpoints()[-1].name == "000004"
    run.resume()
    run.wait()
    assert run.recipe.objective == "grpo"
    assert_same_numbers(run, whole)
    assert [e["text"] for e in run.folder.read_events() if e["kind"] == "update"] == [
        "objective rloo → grpo, beta 0.0 → 0.2"
    ]


def test_attach_gives_the_very_run_here_and_a_reader_later(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a")
    assert attach(tmp_path / "a") is run
    run.wait()
    before = numbers(run)
    again = attach(forget(run), own(toy_recipe))
    assert again is not run
    assert again.status == "finished"
    assert numbers(again).equals(before[numbers(again).columns])
    for verb in ("pause", "step", "wait"):
        with pytest.raises(WorkbenchError, match="it is not going; resume it first"):
            getattr(again, verb)()


def test_a_run_alive_in_another_process_is_read_only(toy_recipe, tmp_path):
    path = forget(train(toy_recipe, folder=tmp_path / "a", blocking=True))
    record = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps(record | {"status": "running"}))
    run = attach(path, own(toy_recipe))
    assert (run.live, run.status) == (True, "running")
    for verb in ("pause", "resume", "stop"):
        with pytest.raises(WorkbenchError, match="belongs to another process"):
            getattr(run, verb)()
    (path / "status.json").write_text(json.dumps(record | {"status": "running", "pid": 2**22 + 1}))
    assert (run.live, run.status) == (False, "interrupted")


def test_own_functions_are_asked_for_by_name(toy_recipe, tmp_path):
    path = forget(train(toy_recipe, folder=tmp_path / "a", blocking=True))
    with pytest.raises(WorkbenchError, match="Unknown reward 'digits'.*functions="):
        attach(path)


def test_damaged_files_lose_nothing_else(toy_recipe, tmp_path):
    whole = train(toy_recipe, folder=tmp_path / "whole", blocking=True)
    path = forget(train(toy_recipe.replace(steps=5), folder=tmp_path / "a", blocking=True))
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "reward/to')  # cut short by a kill
    last = path / "checkpoints" / "000005" / "optimizer.safetensors"
    last.write_bytes(last.read_bytes()[:-10])  # cut short by a full disk
    run = attach(path, own(toy_recipe))
    assert list(run.metrics.index) == list(range(6))
    assert run.folder.checkpoints()[-1].name == "000004"
    run.update(steps=6)
    run.resume()
    run.wait()
    columns = ["reward/digits", "train/loss", "train/entropy"]
    assert run.metrics[columns].equals(whole.metrics[columns])


def test_a_folder_that_is_no_run_taken_or_impossible_is_refused(toy_recipe, tmp_path):
    with pytest.raises(WorkbenchError, match="is not the folder of a run: it has no recipe.yaml"):
        attach(tmp_path)
    train(toy_recipe, folder=tmp_path / "a", blocking=True)
    with pytest.raises(WorkbenchError, match="holds a run already; choose another folder"):
        train(toy_recipe, folder=tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="Can't make the run's folder.*Not a directory"):
        train(toy_recipe, folder=tmp_path / "file" / "run")


@pytest.fixture
def shelf(toy_recipe, tmp_path):
    """Three runs, the second of them within a folder of two levels, and folders that are none."""
    root = tmp_path / "shelf"
    recipe = toy_recipe.replace(rewards={"length": 1.0, "correct": 0.0}, steps=2, eval_every=1)
    for age, place in enumerate(("new", "demo/arms/rloo", "old")):
        path = train(recipe, folder=root / place, blocking=True).path
        forget(run_module.HERE[path])
        os.utime(path / "recipe.yaml", (1e9 - 1e6 * age,) * 2)
    (root / ".hidden").mkdir()
    (root / "page.html").write_text("")
    return root


def spoil(root):
    """Folders that can't be read, each for another reason; name -> what the reason says."""
    good = (root / "new" / "recipe.yaml").read_text()
    status = (root / "new" / "status.json").read_text()
    texts = {
        "broken": "beta: [0.1",
        "future": "no_such_field: 1\n",
        "mine": good.replace("length: 1.0", "my_own_reward: 1.0"),
        "odd": "- a\n- b\n",
        "bytes": b"\xff\xfe",
    }
    for name, text in texts.items():
        (root / name).mkdir()
        raw = text if isinstance(text, bytes) else text.encode()
        (root / name / "recipe.yaml").write_bytes(raw)
    for name, damaged in (("status", "{}"), ("about", status)):
        (root / name).mkdir()
        (root / name / "recipe.yaml").write_text(good)
        (root / name / f"{name}.json").write_text(damaged)
    (root / "notes").mkdir()
    (root / "headless").mkdir()
    (root / "headless" / "metrics.jsonl").write_text("")
    return {
        "broken": "not valid YAML at line", "future": "Unknown recipe field 'no_such_field'",
        "mine": "pass it: functions=[my_own_reward]", "odd": "something else",
        "bytes": "A file of this run is damaged (UnicodeDecodeError",
        "status": "A file of this run is damaged (KeyError: 'status')",
        "about": "about.json of about is damaged; mend it or delete it.",
        "notes": "it has no recipe.yaml", "headless": "it has no recipe.yaml",
    }  # fmt: skip


def test_the_runs_of_a_folder_newest_first(shelf, monkeypatch):
    found = runs(shelf)
    assert [run.name for run in found] == ["new", "rloo", "old"]
    found[1].tag("good", "slow")
    table = found.table
    assert table["name"].tolist() == ["new", "demo/arms/rloo", "old"]
    assert table["tags"].tolist() == ["", "good, slow", ""]
    assert set(table["status"]) == {"finished"} and table["started"].is_monotonic_decreasing
    assert (table["step"].tolist(), table["steps"].tolist()) == ([2, 2, 2], [2, 2, 2])
    assert table["pass@1 now"].tolist() == [run.metrics["eval/pass@1"][2] for run in found]
    assert table["pass@1 first"].tolist() == [run.metrics["eval/pass@1"][0] for run in found]
    lines = repr(found).splitlines()
    assert lines[0].split()[:3] == ["name", "status", "step"]
    assert "2 of 2" in lines[2] and "good, slow" in lines[2] and "2001-" in lines[2]
    monkeypatch.setenv("WORKBENCH_RUNS", str(shelf))
    assert [run.path for run in runs()] == [run.path for run in found]
    assert [run.name for run in runs(shelf / "old")] == ["old"]
    assert repr(runs(shelf / "old")).splitlines()[1].startswith("old ")


def test_what_can_t_be_read_is_named_with_its_reason_and_hides_nothing(shelf):
    reasons = spoil(shelf)
    found = runs(shelf)
    assert sorted(run.name for run in found) == ["new", "old", "rloo"]
    table = found.table.set_index("name")
    assert set(table.index[table["status"] == "unreadable"]) == set(reasons)
    for name, reason in reasons.items():
        assert reason in table["note"][name]
        assert reason in repr(found)
    assert set(found.unreadable) == {shelf / name for name in reasons}
    with pytest.raises(WorkbenchError, match="not valid YAML"):
        attach(shelf / "broken")  # which stays strict

    def my_own_reward(rollouts, task):
        return rollouts.logprobs_BT.new_zeros(rollouts.P, rollouts.G)

    assert "mine" in [run.name for run in runs(shelf, [my_own_reward])]


def test_the_list_shows_itself_escaped_and_follows_what_happens(shelf):
    found = runs(shelf)
    found[2].rename("<b>bold<b>".replace("<", "(").replace(">", ")"))
    found[1].tag("<script>")
    found[0].delete()
    text = found._repr_html_()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert found.table["name"].tolist() == ["demo/arms/rloo", "(b)bold(b)"]
    (found[1].path / "status.json").write_text("[]")
    row = found.table.iloc[0]
    assert row["status"] == "unreadable" and "damaged" in row["note"]


def test_a_run_of_this_process_is_the_very_one(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a")
    found = runs(tmp_path)
    assert found == [run] and isinstance(found, RunList)
    run.wait()
    assert found.table["step"].tolist() == [6]


def test_no_runs_is_a_sentence_and_no_folder_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "none"))
    found = runs()
    assert found == [] and found.table.empty
    assert repr(found).startswith("No runs below") and "wb.train" in found._repr_html_()
    with pytest.raises(WorkbenchError, match="There is no folder .*none; give one that holds runs"):
        runs(tmp_path / "none")
