"""A run in its own thread: steered, failing, forked, kept. Equality is bit for bit, but for clocks."""

import shutil
import time

import pytest
import torch

from workbench import folder, worker
from workbench import run as run_module
from workbench.runs import attach, train
from workbench.variants import WorkbenchError
from workbench.worker import RunFailed


def numbers(run):
    """Every metric that the weights and the seed decide: all but clocks.

    And but for the KL, which steps that are done by hand measure as well.
    """
    others = ("time", "memory", "train/kl")
    return run.metrics[[column for column in sorted(run.metrics) if not column.startswith(others)]]


def assert_same_numbers(run, other):
    mine, theirs = numbers(run), numbers(other)
    assert list(mine.index) == list(theirs.index)
    assert mine.equals(theirs), mine.compare(theirs).to_string()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def close_runs():
    yield
    for run in list(run_module.HERE.values()):
        run.close()
    run_module.HERE.clear()


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


def test_an_update_lands_at_the_next_step_and_is_marked(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=50), folder=tmp_path / "a")
    run.step()
    until(lambda: run.status == "paused" and run.progress["step"] == 1)
    run.update(beta=0.1)
    run.update(rewards={"length": 1.0})
    assert run.recipe.beta == 0.1
    run.step()
    until(lambda: run.progress["step"] == 2)
    event = run.events[run.events["kind"] == "update"].iloc[0]
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
    assert other.events["text"][other.events["kind"] == "fork"].tolist() == [
        "forked from a at step 3"
    ]
    with pytest.raises(WorkbenchError, match="keeps its parent's weights, so lora_rank can't"):
        run.fork(lora_rank=2)


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


def test_successes_are_a_row_a_step_and_a_column_a_prompt(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    groups, held_out = run.successes(), run.successes("eval")
    assert groups.shape == (6, 3) and list(groups.index) == [1, 2, 3, 4, 5, 6]
    assert held_out.shape == (3, 2) and list(held_out.index) == [0, 3, 6]
    assert {str(kind) for kind in groups.dtypes} == {"int64"}
    record = {"step": 7, "groups/successes": [1, 2]}  # a fork may draw fewer prompts
    run._worker.records.append(record)
    ragged = run.successes()
    assert ragged.isna().sum().tolist() == [0, 0, 1] and ragged[1][7] == 2


def test_tags_stay_with_the_folder(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    assert run.tags == ()
    run.tag("good", " for the talk ", "good")
    run.tag("seed 1")
    assert run.tags == ("good", "for the talk", "seed 1")
    run.untag("for the talk")
    assert attach(run.path).tags == ("good", "seed 1")
    with pytest.raises(WorkbenchError, match="Unknown tag of a 'god'.*Did you mean 'good'"):
        run.untag("seed 1", "god")
    for wrong in ("", "  ", "a,b", "a\nb", 3):
        with pytest.raises(WorkbenchError, match="is no tag; give a word"):
            run.tag(wrong)
    assert run.tags == ("good", "seed 1")


def test_a_renamed_run_is_the_same_run_and_goes_on(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    train(toy_recipe.replace(steps=1), folder=tmp_path / "b", blocking=True)
    for wrong in ("../a", "a/b", "", ".a", "a\n", " a"):
        with pytest.raises(WorkbenchError, match="can't name a run's folder"):
            run.rename(wrong)
    with pytest.raises(WorkbenchError, match="b is taken in .*; choose another name"):
        run.rename("b")
    run.rename("a")
    run.rename("best of all")
    assert run.name == "best of all" and not (tmp_path / "a").exists()
    assert attach(tmp_path / "best of all") is run
    assert run.rollouts()["step"].iloc[0] == 6
    run.update(steps=7)
    run.resume()
    run.wait()
    assert run.folder.read_metrics()[-1]["step"] == 7


def test_a_run_that_is_going_keeps_its_folder(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=500), folder=tmp_path / "a")
    for action, verb in ((lambda: run.rename("b"), "renamed"), (run.delete, "deleted")):
        with pytest.raises(
            WorkbenchError, match=f"a is going; it can be {verb} once it is stopped"
        ):
            action()
    run.tag("in work")  # this does no harm
    run.close()
    assert (tmp_path / "a" / "metrics.jsonl").is_file() and run.tags == ("in work",)


def test_a_deleted_run_says_so_in_one_sentence_whatever_is_asked(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    (run.path / "notes.md").write_text("mine")
    with pytest.raises(WorkbenchError, match=r"a holds what is not a run's own \(notes.md\)"):
        run.delete()
    (run.path / "notes.md").unlink()
    run.tag("bad")
    run.report(run.path / "report.html")
    run.delete()
    assert list(tmp_path.iterdir()) == []
    assert repr(run) == "<Run a: deleted>"
    asked = [
        *(lambda name=name: getattr(run, name) for name in ("status", "error", "live", "metrics")),
        *(lambda name=name: getattr(run, name) for name in ("events", "progress", "tags", "path")),
        *(lambda name=name: getattr(run, name) for name in ("rollout_steps", "checkpoint_steps")),
        *(run.pause, run.step, run.stop, run.resume, run.wait, run.fork, run.delete, run.rollouts),
        *(run.successes, run.probes, run.figure, lambda: run.update(beta=0.1)),
        *(lambda: run.tag("x"), lambda: run.untag("x"), lambda: run.rename("b")),
    ]
    for ask in asked:
        with pytest.raises(WorkbenchError, match="^a was deleted; start another run with wb.train"):
            ask()
    run.close()  # nothing to free
    with pytest.raises(WorkbenchError, match="is not the folder of a run"):
        attach(tmp_path / "a")


def test_steps_of_checkpoints_are_looked_up_again_only_when_one_came_or_went(
    toy_recipe, tmp_path, monkeypatch
):
    run = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    looked = []
    complete = folder._complete
    monkeypatch.setattr(folder, "_complete", lambda p: looked.append(p.name) or complete(p))
    time.sleep(0.15)  # a folder that has just changed is not trusted
    assert run.checkpoint_steps == [2, 4, 6] and looked == ["000002", "000004", "000006"]
    assert run.checkpoint_steps == [2, 4, 6] and len(looked) == 3
    places = run.path / "checkpoints"
    shutil.copytree(places / "000004", places / "000005")
    (places / "000006" / "state.json").unlink()
    assert run.checkpoint_steps == [2, 4, 5, 6] and looked[3:] == ["000005"]
    assert [path.name for path in run.folder.checkpoints()] == ["000002", "000004", "000005"]
    shutil.rmtree(places / "000004")
    assert run.checkpoint_steps == [2, 5, 6]
    assert run.rollout_steps == [1, 2, 3, 4, 6]
    (run.path / "rollouts" / "000002.parquet").unlink()
    assert run.rollout_steps == [1, 3, 4, 6]
    run.rename("b")
    shutil.rmtree(run.path / "checkpoints")
    assert run.checkpoint_steps == []
