"""Runs from outside: start, steer, kill, find again, fork. Equality is bit for bit, but for clocks."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from workbench import run as run_module
from workbench import worker
from workbench.runs import attach, train
from workbench.variants import WorkbenchError
from workbench.worker import RunFailed


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


def test_stopped_and_resumed_it_gives_the_same_numbers(toy_recipe, tmp_path):
    whole = train(toy_recipe, folder=tmp_path / "whole", blocking=True)
    run = train(toy_recipe, folder=tmp_path / "parts")
    run.step()  # one step, then pause
    until(lambda: run.status == "paused")
    assert list(run.metrics.index) == [0, 1]
    run.step()
    until(lambda: list(run.metrics.index) == [0, 1, 2] and run.status == "paused")
    run.stop()
    run.wait()
    assert run.status == "stopped"
    run.stop()  # twice is harmless
    run.resume()
    run.wait()
    assert run.status == "finished"
    assert_same_numbers(run, whole)


def test_pause_holds_and_resume_goes_on(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=500), folder=tmp_path / "a")
    until(lambda: run.progress["step"] >= 2)
    run.pause()
    until(lambda: run.status == "paused")
    held = run.progress["step"]
    time.sleep(0.3)
    assert run.progress["step"] == held
    assert run.folder.checkpoints()[-1].name == f"{held:06d}"
    run.resume()
    until(lambda: run.progress["step"] > held)
    run.close()
    assert run.status == "stopped"


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
    assert [e["text"] for e in run.folder.read_events()] == [
        "objective rloo → grpo, beta 0.0 → 0.2"
    ]


def test_an_update_lands_at_the_next_step_and_is_marked(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=50), folder=tmp_path / "a")
    run.step()
    until(lambda: run.status == "paused" and run.progress["step"] == 1)
    run.update(beta=0.1)
    run.update(rewards={"length": 1.0})
    assert run.recipe.beta == 0.1
    run.step()
    until(lambda: run.progress["step"] == 2)
    event = run.events.iloc[0]
    assert (event["step"], event["kind"]) == (2, "update")
    assert "beta 0.0 → 0.1" in event["text"]
    assert "rewards.length 0.0 → 1.0" in event["text"]
    assert run.metrics["train/beta"].tolist()[1:] == [0.0, 0.1]
    assert run.metrics["reward/total"][2] == pytest.approx(run.metrics["reward/length"][2])


def test_wrong_updates_raise_at_once_and_change_nothing(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=50), folder=tmp_path / "a")
    with pytest.raises(WorkbenchError, match="quantize can't change during a run"):
        run.update(quantize="none")
    with pytest.raises(WorkbenchError, match="Unknown recipe field 'betta'.*Did you mean 'beta'"):
        run.update(betta=1.0)
    with pytest.raises(WorkbenchError, match="beta is -1; give at least 0"):
        run.update(beta=-1)
    assert run.recipe == toy_recipe.replace(steps=50)


def test_waiting_updates_of_an_ended_run_stack(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=1), folder=tmp_path / "a", blocking=True)
    run.update(anchor_args={"estimator": "k3"})
    run.update(anchor="sage", beta=0.1)  # sage knows no estimator
    run.update(steps=2)
    assert (run.recipe.anchor, run.recipe.anchor_args) == ("sage", {})
    run.resume()
    run.wait()
    assert run.metrics["train/guide"].iloc[-1] >= 1.0


def test_a_finished_run_goes_on_when_given_more_steps(toy_recipe, tmp_path):
    longer = train(toy_recipe.replace(steps=8), folder=tmp_path / "long", blocking=True)
    run = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    with pytest.raises(WorkbenchError, match=r"finished its 6 steps.*run.update\(steps=12\)"):
        run.resume()
    run.update(steps=8)
    run.resume()
    run.wait()
    assert run.progress["step"] == 8
    columns = ["reward/digits", "train/loss", "train/grad_norm"]
    assert run.metrics[columns].equals(longer.metrics[columns])


def test_a_fork_goes_on_from_the_weights_of_now(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=50), folder=tmp_path / "a")
    for wanted in (1, 2, 3):
        run.step()
        until(lambda wanted=wanted: run.status == "paused" and run.progress["step"] == wanted)
    same = run.fork(folder=tmp_path / "same", steps=5).wait()
    other = run.fork(folder=tmp_path / "other", steps=5, objective="grpo").wait()
    run.update(steps=5)
    run.resume()
    run.wait()
    assert list(same.metrics.index) == list(range(6))
    columns = ["reward/digits", "train/loss", "train/grad_norm", "train/entropy"]
    assert same.metrics[columns].equals(run.metrics[columns])
    assert other.metrics["train/loss"][:4].equals(run.metrics["train/loss"][:4])
    assert other.metrics["train/loss"][4] != run.metrics["train/loss"][4]
    assert other.events["text"].tolist() == ["forked from a at step 3"]
    with pytest.raises(WorkbenchError, match="keeps its parent's weights, so lora_rank can't"):
        run.fork(lora_rank=2)


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


def raise_at_two(rollouts, task, seen=[]):  # noqa: B006 -- counts its calls
    seen.append(1)
    if len(seen) == 2:
        raise ZeroDivisionError("no luck")
    return rollouts.logprobs_BT.new_zeros(rollouts.P, rollouts.G)


def test_a_reward_that_raises_ends_the_run_by_name_and_it_can_go_on(toy_recipe, tmp_path):
    recipe = toy_recipe.replace(rewards={**toy_recipe.rewards, raise_at_two: 0.0})
    run = train(recipe, folder=tmp_path / "a")
    with pytest.raises(WorkbenchError, match="Reward 'raise_at_two' raised ZeroDivisionError: no"):
        run.wait()
    assert (run.status, run.live) == ("failed", False)
    assert list(run.metrics.index) == [0, 1]
    assert "ZeroDivisionError" in (run.path / "error.txt").read_text()
    assert "raise_at_two" in run.error
    run.resume()
    run.wait()
    assert run.status == "finished"


def leaves(rollouts, task):
    raise SystemExit("enough")


def test_a_reward_that_leaves_the_program_only_ends_its_run(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(rewards={leaves: 1.0}), folder=tmp_path / "a")
    with pytest.raises(RunFailed, match="SystemExit: enough"):
        run.wait()
    assert (run.status, run.live) == ("failed", False)


def bad_objective(rewards_PG):
    return rewards_PG / 0.0 * 0.0


def test_a_non_finite_loss_saves_its_batch_and_a_new_objective_mends_it(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a", listeners=[spoil])
    with pytest.raises(WorkbenchError, match="its batch was saved in the run's folder"):
        run.wait()
    assert (run.path / "rollouts" / "non-finite-batch.parquet").is_file()
    assert run.rollout_steps == [1, 2]
    run.update(objective="rloo")  # wins over the replay of the bad one
    run.resume()
    run.wait()
    assert run.status == "finished"


def spoil(run, record):
    if record["step"] == 2:
        run.listeners.clear()
        run.update(objective=bad_objective)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "Out of memory: lower microbatch first"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Out of memory: lower"),
        (
            OSError(28, "No space left on device"),
            "No space left on device.*free or unlock the disk",
        ),
        (KeyError("x"), "KeyError: 'x' .the traceback is in error.txt"),
    ],
)
def test_other_failures_say_what_to_do_and_stay_resumable(
    toy_recipe, tmp_path, monkeypatch, error, message
):
    step = worker.train_step

    def fail_at_three(state, recipe, **kwargs):
        if state.step == 2:
            raise error
        return step(state, recipe, **kwargs)

    monkeypatch.setattr(worker, "train_step", fail_at_three)
    run = train(toy_recipe, folder=tmp_path / "a")
    with pytest.raises(RunFailed, match=message):
        run.wait()
    assert run.status == "failed"
    monkeypatch.setattr(worker, "train_step", step)
    run.update(microbatch=4)
    run.resume()
    run.wait()
    assert run.status == "finished"


def test_a_disk_that_fills_up_is_told_from_memory(toy_recipe, tmp_path, monkeypatch):
    run = train(toy_recipe.replace(steps=50), folder=tmp_path / "a")
    until(lambda: run.progress["step"] >= 1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for method in ("append_metrics", "write_error", "write_status", "write_rollouts"):
        monkeypatch.setattr(type(run.folder), method, full)
    with pytest.raises(RunFailed, match="Can't write the run's folder.*This could not be written"):
        run.wait()
    assert run.status == "failed"


def test_an_interrupt_while_waiting_stops_the_run(toy_recipe, tmp_path, monkeypatch):
    run = train(toy_recipe.replace(steps=10_000), folder=tmp_path / "a")
    until(lambda: run.progress["step"] >= 1)
    wait = run._worker.done.wait
    calls = []

    def interrupted(timeout=None):
        calls.append(timeout)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(timeout)

    monkeypatch.setattr(run._worker.done, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.wait()
    assert run.status == "stopped"


def test_the_default_folder_is_named_by_time_and_title(toy_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "kept"))
    run = train(toy_recipe.replace(name="My Run!"), blocking=True)
    assert run.path.parent == tmp_path / "kept"
    assert run.name.endswith("-my-run")
