"""The thread's own words, and its probes. What else it does is in test_runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.folder import RunFolder, read_probes
from workbench.recipe import own_functions
from workbench.runs import attach, train
from workbench.variants import WorkbenchError
from workbench.worker import describe, sentence


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WorkbenchError("Do this."), "Do this."),
        (torch.OutOfMemoryError("x"), "Out of memory: lower microbatch first"),
        (MemoryError(), "Out of memory: lower microbatch first"),
        (
            RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
            "Out of memory",
        ),
        (PermissionError(13, "Permission denied"), "Can't write the run's folder ([Errno 13] Perm"),
        (ValueError("odd"), "ValueError: odd (the traceback is in error.txt of a)"),
    ],
)
def test_errors_become_sentences(error, said):
    assert sentence(error, Path("/runs/a")).startswith(said)


def test_a_disk_error_says_how_to_go_on():
    assert sentence(OSError("full"), Path("/runs/a")).endswith(
        "then wb.attach('/runs/a').resume()."
    )


def test_changes_are_told_field_by_field():
    changes = {"beta": (0.0, 0.1), "rewards": ({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 2.0})}
    assert describe(changes) == "beta 0.0 → 0.1, rewards.b 0.0 → –, rewards.c – → 2.0"


@pytest.mark.parametrize(("threads", "used"), [(0, 1), (2, 2)])
def test_a_tiny_model_gets_one_thread_unless_the_recipe_says_otherwise(
    toy_recipe, tmp_path, threads, used
):
    seen = []
    recipe = toy_recipe.replace(threads=threads, steps=1)
    before = torch.get_num_threads()
    train(
        recipe,
        folder=tmp_path / "a",
        blocking=True,
        listeners=[lambda run, record: seen.append(torch.get_num_threads())],
    )
    assert seen == [used, used]
    assert torch.get_num_threads() == before  # the caller's own thread is left alone


# ------------------------------------------------------------------ probes


@pytest.fixture
def probing(toy_recipe):
    """Steps 0 to 7, probes at 0, 3, 6 and the end."""
    return toy_recipe.replace(
        steps=7, checkpoint_every=4, probe_every=3, probe_prompts=2, probe_samples=4
    )


def numbers(run, probes=True):
    """Every metric that the weights and the seed decide, with those of probes or without."""
    kept = [c for c in sorted(run.metrics) if not c.startswith("time")]
    return run.metrics[[c for c in kept if probes or not c.startswith("probe/")]]


def saved(run):
    return {int(file.stem): read_probes(file)[0].to_dict() for file in run.folder.probe_files()}


def weights(run):
    return load_file(run.folder.checkpoints()[-1] / "adapter_model.safetensors")


PROBE = ("entropy", "length", "truncated", "vote_share", "distinct", "accuracy")


def test_a_run_takes_probes_at_its_start_every_few_steps_and_at_its_end(probing, tmp_path):
    run = train(probing, folder=tmp_path / "a", blocking=True)
    metrics = run.metrics
    assert {c for c in metrics if c.startswith("probe/")} == {f"probe/{name}" for name in PROBE}
    probes = saved(run)
    assert list(probes) == [0, 3, 6, 7]
    for name in (*(f"probe/{name}" for name in PROBE), "time/probe"):
        assert metrics[name].dropna().index.tolist() == [0, 3, 6, 7]
    for file in run.folder.probe_files():
        (trace,) = read_probes(file)
        assert trace.prompts_B.tolist() == [0] * 4 + [1] * 4
        found = {name: metrics.loc[trace.step, f"probe/{name}"] for name in PROBE}
        assert found | {"step": trace.step} == pytest.approx(trace.numbers())
    assert probes[0]["entropies"] != probes[7]["entropies"]  # the policy has moved
    assert probes[6]["entropies"] != probes[7]["entropies"]


def test_without_probes_the_run_is_the_same_bit_for_bit(probing, tmp_path):
    """With dropout, which draws from torch's own generator."""
    recipe = probing.replace(lora_dropout=0.2)
    probed = train(recipe, folder=tmp_path / "a", blocking=True)
    plain = train(recipe.replace(probe_every=0), folder=tmp_path / "b", blocking=True)
    assert not (plain.path / "probes").exists()
    assert not [c for c in plain.metrics if "probe" in c]
    mine, theirs = numbers(probed, probes=False), numbers(plain)
    assert mine.equals(theirs), mine.compare(theirs).to_string()
    ours = weights(plain)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in weights(probed).items())
    assert any(tensor.any() for name, tensor in ours.items() if "lora_B" in name)


def test_killed_after_a_probe_and_resumed_the_probes_are_the_same(probing, tmp_path, monkeypatch):
    """The folder as a kill leaves it between the probe of step 6 and its line; it goes on from step 4."""
    write = RunFolder.write_probe

    def write_then_copy(folder, trace):
        file = write(folder, trace)
        if trace.step == 6:
            shutil.copytree(folder.path, tmp_path / "killed")
        return file

    monkeypatch.setattr(RunFolder, "write_probe", write_then_copy)
    whole = train(probing, folder=tmp_path / "whole", blocking=True)
    monkeypatch.undo()
    status = tmp_path / "killed" / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"pid": 2**22 + 1}))
    run = attach(tmp_path / "killed", probing.reward_functions().values())
    assert (run.status, list(saved(run)), run.metrics.index[-1]) == ("interrupted", [0, 3, 6], 5)
    other = run.folder.probe_files()[-1]
    other.write_bytes(run.folder.probe_files()[0].read_bytes())  # must not outlive the rewind
    run.resume()
    run.wait()
    assert saved(run) == saved(whole)
    mine, theirs = numbers(run), numbers(whole)
    assert mine.equals(theirs), mine.compare(theirs).to_string()


def test_probes_can_be_turned_on_and_off_in_the_middle(probing, tmp_path):
    def change(run, record):
        if record["step"] in (1, 5):
            run.update(probe_every=2 if record["step"] == 1 else 0)

    run = train(
        probing.replace(probe_every=0), folder=tmp_path / "a", listeners=[change], blocking=True
    )
    assert list(saved(run)) == [2, 4]
    assert run.metrics["probe/entropy"].dropna().index.tolist() == [2, 4]
    assert run.events["text"].tolist() == ["probe_every 0 → 2", "probe_every 2 → 0"]
    plain = train(probing.replace(probe_every=0), folder=tmp_path / "b", blocking=True)
    assert numbers(run, probes=False).equals(numbers(plain))


def test_a_fork_takes_its_parents_probes_along_and_goes_on(probing, tmp_path):
    run = train(probing.replace(steps=4), folder=tmp_path / "a", blocking=True)
    fork = run.fork(folder=tmp_path / "fork", steps=7).wait()
    whole = train(probing, folder=tmp_path / "whole", blocking=True)
    found, wanted = saved(fork), saved(whole)
    assert list(found) == [0, 3, 4, 6, 7]  # 4 was the end of the parent
    assert {step: found[step] for step in wanted} == wanted


# ------------------------------------------------------------------ T_post + A_pre


def test_evaluations_cross_the_policy_with_the_initial_one_and_change_nothing(toy_recipe, tmp_path):
    recipe = toy_recipe.replace(steps=4, cross_samples=3, lora_dropout=0.2)
    crossed = train(recipe, folder=tmp_path / "a", blocking=True)
    plain = train(recipe.replace(cross_samples=0), folder=tmp_path / "b", blocking=True)
    added = {c for c in crossed.metrics if c not in plain.metrics}
    ends = ("", "/low", "/high")
    assert added == {f"eval/post_{who}{end}" for who in ("post", "pre") for end in ends}
    for name in added:
        assert crossed.metrics[name].dropna().index.tolist() == [0, 3, 4]
    assert crossed.metrics.loc[0, "eval/post_pre"] == crossed.metrics.loc[0, "eval/post_post"]
    assert numbers(crossed)[list(numbers(plain))].equals(numbers(plain))
    ours = weights(plain)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in weights(crossed).items())


def test_crossing_can_be_turned_on_in_the_middle(toy_recipe, tmp_path):
    def change(run, record):
        if record["step"] == 1:
            run.update(cross_samples=2)

    run = train(toy_recipe, folder=tmp_path / "a", listeners=[change], blocking=True)
    assert run.metrics["eval/post_pre"].dropna().index.tolist() == [3, 6]


def test_a_run_killed_before_its_first_checkpoint_remembers_the_bases_score(toy_recipe, tmp_path):
    flat = {"separation": "start", "separation_args": {"switch": "flat", "tolerance": 1.0}}
    recipe = toy_recipe.replace(**flat, cross_samples=1, eval_every=1, steps=3)
    whole = train(recipe, folder=tmp_path / "a", blocking=True)
    late = whole.metrics["train/trains_answer"].dropna().tolist()
    assert late == [0.0, 0.0, 1.0]  # flat after steps 1 and 2: above the base by less than 1
    killed = tmp_path / "b"
    shutil.copytree(tmp_path / "a", killed)
    shutil.rmtree(killed / "checkpoints")
    records = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text(records[0])
    again = attach(killed, functions=own_functions(vars(recipe)))
    again.resume()
    again.wait()
    assert again.metrics["train/trains_answer"].dropna().tolist() == late
