"""The files of a run: whole or absent, readable by others, and mended after a kill."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from workbench import folder as folder_module
from workbench.folder import (
    RunFolder,
    read_checkpoint_recipe,
    restore,
)
from workbench.labelling import ConstraintModel
from workbench.probe import ProbeTrace
from workbench.trainer import prepare, train_step
from workbench.variants import WorkbenchError


@pytest.fixture
def kept(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def trained(toy_recipe):
    """A state after two steps, and the report of the second."""
    state = prepare(toy_recipe)
    train_step(state, toy_recipe)
    return state, train_step(state, toy_recipe)


def test_lines_are_on_disk_at_once_and_a_cut_last_line_is_left_out(kept):
    kept.append_metrics({"step": 0, "a": 0.5})
    kept.append_metrics({"step": 1, "a": 0.25})
    assert pd.read_json(kept.metrics_path, lines=True)["a"].tolist() == [0.5, 0.25]
    with kept.metrics_path.open("a") as file:
        file.write('{"step": 2, "a"')
    assert [record["step"] for record in kept.read_metrics()] == [0, 1]


def test_a_damaged_line_with_whole_ones_after_it_is_not_passed_over(kept):
    kept.metrics_path.write_text('{"step": 0}\n{"step":\n{"step": 2}\n')
    with pytest.raises(WorkbenchError, match=r"Line 2 of metrics.jsonl is damaged"):
        kept.read_metrics()


def test_no_files_mean_no_lines_and_an_interrupted_run(kept):
    assert kept.read_metrics() == kept.read_events() == kept.checkpoints() == []
    assert kept.read_status() == {"status": "interrupted", "error": None, "live": False}


def test_rewinding_drops_what_will_be_done_again_and_returns_its_updates(kept):
    for step in range(5):
        kept.append_metrics({"step": step})
    kept.append_event(2, "update", "beta 0 → 1", {"beta": [0, 1]})
    kept.append_event(4, "update", "two", {"beta": [1, 2], "objective": ["rloo", "grpo"]})
    kept.append_event(4, "error", "oh", {})
    for name in ("rollouts", "held_out", "probes"):
        (kept.path / name).mkdir()
        for step in (2, 3, 4):
            (kept.path / name / f"{step:06d}.parquet").touch()
    assert kept.rewind(3, replaced=["objective"]) == {4: {"beta": 2}}
    assert [record["step"] for record in kept.read_metrics()] == [0, 1, 2, 3]
    for files in (kept.rollout_files(), kept.held_out_files(), kept.probe_files()):
        assert [file.stem for file in files] == ["000002", "000003"]
    events = kept.read_events()
    assert [event["kind"] for event in events] == ["update", "update", "error"]
    assert events[1]["text"] == "two (objective taken back)"
    assert kept.rewind(3) == {4: {"beta": 2}}  # taking it back lasts


def test_history_is_copied_up_to_a_step(kept, tmp_path):
    for step in range(3):
        kept.append_metrics({"step": step})
        kept.append_event(step, "update", "x", {})
    (tmp_path / "child").mkdir()
    child = RunFolder(tmp_path / "child")
    child.copy_history(kept, 1)
    assert [x["step"] for x in child.read_metrics()] == [0, 1]
    assert [x["step"] for x in child.read_events()] == [0, 1]
    assert not (child.path / "probes").exists()  # the parent took none


def test_probes_are_copied_up_to_a_step(kept, tmp_path):
    files = [
        kept.write_probe(ProbeTrace.of(n, [0], [[0.5]], [True], ["1"], [1])) for n in (0, 5, 10)
    ]
    (tmp_path / "child").mkdir()
    child = RunFolder(tmp_path / "child")
    child.copy_history(kept, 5)
    assert [file.name for file in child.probe_files()] == ["000000.parquet", "000005.parquet"]
    for mine, theirs in zip(child.probe_files(), files, strict=False):
        assert mine.read_bytes() == theirs.read_bytes()
    assert kept.probe_files() == files  # the parent keeps its own


def test_held_out_completions_are_copied_up_to_a_step(kept, tmp_path):
    (kept.path / "held_out").mkdir()
    for step in (0, 5, 10):
        (kept.path / "held_out" / f"{step:06d}.parquet").write_text(str(step))
    (tmp_path / "child").mkdir()
    child = RunFolder(tmp_path / "child")
    child.copy_history(kept, 5)
    assert [file.read_text() for file in child.held_out_files()] == ["0", "5"]
    assert len(kept.held_out_files()) == 3 and not (child.path / "probes").exists()


class Saving:
    """Stands for a classifier: one file that says which it is."""

    def __init__(self, name, breaks=False):
        self.name, self.breaks = name, breaks

    def save(self, folder):
        (folder / "model.safetensors").write_text(self.name)
        if self.breaks:
            raise OSError("full")


def test_constraint_models_are_kept_by_their_step_whole_or_not_at_all(kept):
    assert kept.constraint_models() == []
    for step in (1, 12):
        path = kept.write_constraint_model(
            ConstraintModel(Saving(f"at {step}"), step, {"loss": "binary"})
        )
        assert path == kept.constraint_model_path(step)
    assert [path.name for path in kept.constraint_models()] == ["000001", "000012"]
    assert [path.name for path in kept.constraint_models(11)] == ["000001"]
    assert kept.constraint_models(0) == []
    with pytest.raises(OSError, match="full"):
        kept.write_constraint_model(ConstraintModel(Saving("half", breaks=True), 12))
    with pytest.raises(OSError, match="full"):
        kept.write_constraint_model(ConstraintModel(Saving("half", breaks=True), 20))
    assert [path.name for path in kept.constraint_models()] == ["000001", "000012"]
    assert (path / "model.safetensors").read_text() == "at 12"
    kept.write_constraint_model(ConstraintModel(Saving("again"), 12))  # the later one stands
    assert (path / "model.safetensors").read_text() == "again"
    assert json.loads((path / "measured.json").read_text())["step"] == 12


def test_constraint_models_are_dropped_and_copied_with_the_steps(kept, tmp_path):
    for step in (1, 4, 9):
        kept.write_constraint_model(ConstraintModel(Saving(f"at {step}"), step))
    (tmp_path / "child").mkdir()
    child = RunFolder(tmp_path / "child")
    for _ in range(2):  # a second try after one that was cut short
        child.copy_history(kept, 4)
        assert [path.name for path in child.constraint_models()] == ["000001", "000004"]
    kept.rewind(4)
    assert [path.name for path in kept.constraint_models()] == ["000001", "000004"]
    kept.rewind(0)
    assert kept.constraint_models() == []
    assert (child.constraint_model_path(4) / "model.safetensors").read_text() == "at 4"


def test_the_status_tells_this_process_from_a_dead_one(kept):
    kept.write_status("running")
    assert kept.read_status()["live"] is True
    record = json.loads((kept.path / "status.json").read_text())
    for change in ({"process_started": 1.0}, {"pid": 2**22 + 1}):
        (kept.path / "status.json").write_text(json.dumps(record | change))
        assert kept.read_status()["status"] == "interrupted"
    (kept.path / "status.json").write_text(json.dumps(record | {"host": "elsewhere"}))
    assert kept.read_status()["live"] is True
    kept.write_status("failed", "why")
    assert (kept.read_status()["live"], kept.read_status()["error"]) == (False, "why")


def adapter(state):
    return torch.cat([parameter.detach().flatten() for _, parameter in state.policy.trainable()])


def test_a_restored_checkpoint_goes_on_bit_for_bit(kept, toy_recipe, trained):
    state, _ = trained
    path = kept.write_checkpoint(state, toy_recipe)
    assert read_checkpoint_recipe(path, toy_recipe.reward_functions().values()) == toy_recipe
    other = prepare(toy_recipe)
    restore(other, path)
    assert other.step == 2
    assert torch.equal(adapter(other), adapter(state))
    mine, theirs = train_step(state, toy_recipe), train_step(other, toy_recipe)
    assert torch.equal(adapter(other), adapter(state))
    assert mine.metrics["train/loss"] == theirs.metrics["train/loss"]
    assert mine.rollouts.completions == theirs.rollouts.completions


def test_a_checkpoint_names_the_own_constraint_model_in_force(kept, toy_recipe, trained):
    state, _ = trained
    for model, wanted in (
        (None, None),
        (ConstraintModel(Saving("own"), 2, {"loss": "binary"}), 2),
        (ConstraintModel(Saving("given"), 2, {"given": "folder"}), None),
    ):
        state.constraint_model = model
        path = kept.write_checkpoint(state, toy_recipe)
        assert json.loads((path / "state.json").read_text())["constraint_model"] == wanted
    state.constraint_model = ConstraintModel(Saving("own"), 1)
    other = RunFolder(kept.path / "other")
    copied = other.adopt_checkpoint(kept.write_checkpoint(state, toy_recipe), toy_recipe)
    assert json.loads((copied / "state.json").read_text())["constraint_model"] == 1


def moving(toy_recipe):
    """A recipe with everything that a run remembers: a record, a beta that adapts, a reference that moves."""
    return toy_recipe.replace(
        rewards={"length": 1.0},
        objective="rl2ml",
        objective_args={"alpha": "auto", "metric": "pass@4"},
        beta=0.2,
        kl_target=0.001,
        reference="moving_average",
        reference_rate=0.3,
        refill_rounds=1,
    )


def test_what_a_run_remembers_is_restored_bit_for_bit(kept, toy_recipe):
    recipe = moving(toy_recipe)
    state = prepare(recipe)
    for _ in range(2):
        train_step(state, recipe)
    checkpoint = kept.write_checkpoint(state, recipe)
    fresh = prepare(recipe)
    restore(fresh, checkpoint)
    first, second = (train_step(each, recipe).metrics for each in (state, fresh))
    clocks = {key for key in first if key.startswith("time/")}
    assert {k: v for k, v in first.items() if k not in clocks} == {
        k: v for k, v in second.items() if k not in clocks
    }
    assert first["train/beta"] != recipe.beta and state.memory.beta_factor != 1.0
    for name, tensor in state.memory.reference.items():
        assert torch.equal(tensor, fresh.memory.reference[name])


def test_a_fork_takes_the_memory_along(kept, tmp_path, toy_recipe):
    recipe = moving(toy_recipe)
    state = prepare(recipe)
    train_step(state, recipe)
    source = kept.write_checkpoint(state, recipe)
    (tmp_path / "fork").mkdir()
    adopted = RunFolder(tmp_path / "fork").adopt_checkpoint(source, recipe)
    fresh = prepare(recipe)
    restore(fresh, adopted)
    assert fresh.memory.to_dict() == state.memory.to_dict()
    assert set(fresh.memory.reference) == set(state.memory.reference)
    assert RunFolder(tmp_path / "fork").checkpoints() == [adopted]


def test_a_checkpoint_is_an_adapter_that_plain_peft_loads(kept, toy_recipe, trained):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    state, _ = trained
    path = kept.write_checkpoint(state, toy_recipe)
    base = AutoModelForCausalLM.from_pretrained(toy_recipe.model)
    loaded = PeftModel.from_pretrained(base, path)
    tensors = load_file(path / "adapter_model.safetensors")
    name, tensor = next(iter(tensors.items()))
    own = dict(loaded.named_parameters())[name.replace(".weight", ".default.weight")]
    assert torch.equal(own, tensor)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "adapter_config.json", "state.json"])
def test_a_checkpoint_cut_short_is_passed_over(kept, toy_recipe, trained, name):
    state, _ = trained
    first = kept.write_checkpoint(state, toy_recipe)
    train_step(state, toy_recipe)
    second = kept.write_checkpoint(state, toy_recipe)
    assert kept.checkpoints() == [first, second]
    (second / name).write_bytes((second / name).read_bytes()[:-5])
    assert kept.checkpoints() == [first]


def test_a_kill_while_writing_leaves_no_checkpoint(kept, toy_recipe, trained, monkeypatch):
    state, _ = trained

    def killed(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", killed)
    with pytest.raises(OSError, match="No space left"):
        kept.write_checkpoint(state, toy_recipe)
    assert kept.checkpoints() == []
    monkeypatch.undo()
    assert kept.checkpoints() == []
    assert kept.write_checkpoint(state, toy_recipe).name == "000002"


def test_a_checkpoint_damaged_in_place_says_what_to_do(kept, toy_recipe, trained):
    state, _ = trained
    path = kept.write_checkpoint(state, toy_recipe)
    file = path / "optimizer.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)  # right size, wrong content
    with pytest.raises(WorkbenchError, match="Checkpoint 000002 can't be read.*delete its folder"):
        restore(prepare(toy_recipe), path)
