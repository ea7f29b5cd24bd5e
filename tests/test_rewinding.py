"""Going back to a checkpoint: what is set aside, and that the run goes on as if nothing had come after."""

import json
import time

import pytest

from workbench.folder import RunFolder
from workbench.rewinding import set_aside
from workbench.runs import attach, train
from workbench.variants import WorkbenchError

COLUMNS = ["reward/digits", "train/loss", "train/grad_norm", "train/entropy"]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path):
    """Metrics of steps 0 to 4, a checkpoint and rollouts of 2 and 4, an update at 2 and one at 3."""
    kept = RunFolder(tmp_path)
    for step in range(5):
        kept.append_metrics({"step": step, "x": step / 2})
    for step in (2, 3):
        kept.append_event(step, "update", f"beta at {step}", {"beta": [0.0, 0.1]})
    for step in (2, 4):
        (tmp_path / "checkpoints" / f"{step:06d}").mkdir(parents=True)
        (tmp_path / "rollouts").mkdir(exist_ok=True)
        (tmp_path / "rollouts" / f"{step:06d}.parquet").write_bytes(b"rows")
    return kept


def names(path):
    return sorted(
        str(p.relative_to(path)) for p in path.rglob("*") if p.is_file() or "00000" in p.name
    )


def test_what_came_after_is_moved_and_the_whole_history_copied(folder):
    target = set_aside(folder, 2)
    assert target.name == "000004-to-000002"
    assert [r["step"] for r in folder.read_metrics()] == [0, 1, 2]
    assert [e["kind"] for e in folder.read_events()] == ["update", "rewind"]
    assert names(target) == [
        "checkpoints/000004", "events.jsonl", "metrics.jsonl", "rollouts/000004.parquet",
    ]  # fmt: skip
    aside = [json.loads(line)["step"] for line in (target / "metrics.jsonl").open()]
    assert aside == [0, 1, 2, 3, 4]
    assert (folder.path / "rollouts" / "000002.parquet").exists()


def test_a_second_rewind_to_the_same_step_gets_its_own_folder(folder):
    set_aside(folder, 2)
    for step in (3, 4):
        folder.append_metrics({"step": step})
    assert set_aside(folder, 2).name == "000004-to-000002-2"


def test_a_live_run_pauses_at_the_step_and_repeats_it_bit_for_bit(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=1_000), folder=tmp_path / "run")
    until(lambda: run.progress["step"] >= 4)
    run.update(beta=0.5, anchor="reverse_kl")
    until(lambda: run.metrics["train/beta"].iloc[-1] == 0.5)
    before = run.metrics
    run.rewind(2)
    until(lambda: run.status == "paused" and run.progress["step"] == 2)
    assert run.recipe.beta == 0.0 and run.checkpoint_steps == [2]
    run.update(steps=4)
    run.resume()
    run.wait()
    again = run.metrics
    assert again.loc[:4, COLUMNS].equals(before.loc[:4, COLUMNS])
    assert list(run.events["kind"]).count("rewind") == 1 and "beta" not in str(
        run.events["changes"]
    )


def test_an_ended_run_is_stopped_at_the_step_and_goes_on_from_there(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "run", blocking=True)
    before = run.metrics
    run.rewind(4)
    assert (run.status, run.error, run.progress["step"], len(run.metrics)) == (
        "stopped",
        None,
        4,
        5,
    )
    assert attach(run.path) is run
    run.resume()
    run.wait()
    assert run.status == "finished" and run.metrics[COLUMNS].equals(before[COLUMNS])


def test_a_failed_run_forgets_its_error(toy_recipe, tmp_path):
    def breaks(rollouts, task):
        raise ValueError("no")

    run = train(toy_recipe, folder=tmp_path / "run")
    until(lambda: run.progress["step"] >= 3)
    run.update(rewards={breaks: 1.0})
    until(lambda: run.status == "failed")
    run.rewind(2)
    assert run.status == "stopped" and run.error is None
    assert "breaks" not in run.recipe.to_yaml()


def test_a_step_without_a_checkpoint_is_refused(toy_recipe, tmp_path):
    run = train(toy_recipe, folder=tmp_path / "run", blocking=True)
    with pytest.raises(WorkbenchError, match=r"has no checkpoint of step 3; it has \[2, 4, 6\]"):
        run.rewind(3)


def test_a_single_step_is_kept_to_be_looked_into(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=1_000, rollouts_every=1_000), folder=tmp_path / "run")
    until(lambda: run.progress["step"] >= 1)
    run.pause()
    until(lambda: run.status == "paused")
    at = run.progress["step"]
    assert at not in run.rollout_steps or at == 1 or at % 3 == 0
    run.step()
    until(lambda: run.progress["step"] == at + 1 and run.status == "paused")
    assert run.rollout_steps[-1] == at + 1
    table = run.rollouts()
    assert {"advantages", "log_ratios"} <= set(table) and run.metrics["train/kl"].notna().iloc[-1]
    run.close()
