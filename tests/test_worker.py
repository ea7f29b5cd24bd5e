"""The thread of a run: what it loads, counts and probes. What else it does is in test_runs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from workbench import labelling, worker
from workbench.folder import RunFolder
from workbench.recipe import Recipe, own_functions
from workbench.runs import attach, train
from workbench.tables import read_probes
from workbench.variants import WorkbenchError
from workbench.worker import Worker


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
    kept = [c for c in sorted(run.metrics) if not c.startswith(("time", "memory"))]
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
    changes = run.events["text"][run.events["kind"] == "update"]
    assert changes.tolist() == ["probe_every 0 → 2", "probe_every 2 → 0"]
    plain = train(probing.replace(probe_every=0), folder=tmp_path / "b", blocking=True)
    assert numbers(run, probes=False).equals(numbers(plain))


def test_a_fork_takes_its_parents_probes_along_and_goes_on(probing, tmp_path):
    run = train(probing.replace(steps=4), folder=tmp_path / "a", blocking=True)
    fork = run.fork(folder=tmp_path / "fork", steps=7).wait()
    whole = train(probing, folder=tmp_path / "whole", blocking=True)
    found, wanted = saved(fork), saved(whole)
    assert list(found) == [0, 3, 4, 6, 7]  # 4 was the end of the parent
    assert {step: found[step] for step in wanted} == wanted


# ------------------------------------------------------------------ held-out completions


def test_every_evaluation_keeps_completions_of_the_same_prompts(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(eval_samples=20), folder=tmp_path / "a", blocking=True)
    assert run.held_out_steps == [0, 3, 6]
    tables = [run.rollouts(step, held_out=True) for step in run.held_out_steps]
    for step, table in zip((0, 3, 6), tables, strict=True):
        assert (
            table["step"].tolist() == [step] * 2 * 16
        )  # two prompts are evaluated, of each 16 kept
        assert table["prompt"].equals(tables[0]["prompt"])
        right = table.groupby("prompt_index")["reward/correct"].sum().tolist()
        found = run.successes("eval").loc[step].tolist()
        assert all(some <= every for some, every in zip(right, found, strict=True))
    assert not tables[0]["completion"].equals(tables[2]["completion"])  # the policy has moved
    assert run.rollouts(held_out=True).equals(tables[2])
    assert list(run.rollouts(columns=["prompt"])) == ["prompt"]


def test_keeping_changes_no_number(toy_recipe, tmp_path, monkeypatch):
    kept = train(toy_recipe, folder=tmp_path / "a", blocking=True)
    monkeypatch.setattr(worker, "KEPT", (1, 1))
    fewer = train(toy_recipe, folder=tmp_path / "b", blocking=True)
    assert len(fewer.rollouts(held_out=True)) == 1
    mine, theirs = numbers(kept), numbers(fewer)
    assert mine.equals(theirs), mine.compare(theirs).to_string()


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


# ------------------------------------------------------------------ constraint reward models


@pytest.fixture
def judged(toy_scribe):
    """Six steps on the reward of constraints; its model is trained at step 1 and again at step 4."""
    return Recipe(
        model=toy_scribe,
        quantize="none",
        lora_rank=4,
        task="instructions",
        task_args={"chains": 10, "constraints": 3},
        rewards={"constraints": 1.0},
        reward_args={"constraints": {"refresh_every": 3}},
        prompts_per_step=3,
        group_size=4,
        max_new_tokens=12,
        steps=6,
        learning_rate=2e-3,
        eval_every=3,
        eval_prompts=2,
        eval_samples=2,
        checkpoint_every=2,
        rollouts_every=1,
    )


@pytest.fixture
def fits(monkeypatch):
    """The steps before which a constraint reward model was trained."""
    steps = []
    fit = labelling.fit

    def noted(policy, task, **settings):
        steps.append(settings["step"])
        return fit(policy, task, **settings)

    monkeypatch.setattr(labelling, "fit", noted)
    return steps


def decided(run):
    """Every metric that the weights and the seed decide."""
    return numbers(run).drop(columns="constraint_model/seconds")


def assert_same_run(run, other):
    mine, theirs = decided(run), decided(other)
    assert mine.equals(theirs), mine.compare(theirs).to_string()
    ours = weights(other)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in weights(run).items())
    pairs = zip(run.folder.constraint_models(), other.folder.constraint_models(), strict=True)
    for one, two in pairs:
        assert one.name == two.name
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def killed(source, target):
    """A copy of a run's folder as a kill leaves it."""
    shutil.copytree(source, target)
    status = target / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"pid": 2**22 + 1}))
    return target


def test_a_run_trains_its_constraint_model_when_due_and_keeps_it(judged, tmp_path, fits):
    said = set()
    listener = [lambda run, record: said.add(run.doing)]
    run = train(judged, folder=tmp_path / "a", listeners=listener, blocking=True)
    assert fits == [1, 4] and run.doing == "" and said == {""}  # between the steps nothing is said
    folders = run.folder.constraint_models()
    assert [path.name for path in folders] == ["000001", "000004"]
    assert [path.name for path in run.folder.constraint_models(3)] == ["000001"]
    for path, step in zip(folders, (1, 4), strict=True):
        known = json.loads((path / "measured.json").read_text())
        assert known["step"] == step and known["settings"]["pairs"] == "adjacent"
        for name, value in known["quality"].items():
            assert run.metrics[f"constraint_model/{name}"].dropna().to_dict()[step] == value
    assert run.metrics["constraint_model/pairs"].dropna().index.tolist() == [1, 4]
    assert run.metrics["constraints/soft"].dropna().index.tolist() == list(range(1, 7))
    shown = run.rollouts(2)
    assert shown["note/constraints"].str.contains("[0-9]").all()
    assert shown["reward/constraints"].between(0, 1).all()
    assert (folders[0] / "model.safetensors").read_bytes() != (
        folders[1] / "model.safetensors"
    ).read_bytes()
    again = train(judged, folder=tmp_path / "b", blocking=True)
    assert_same_run(again, run)


def test_killed_in_a_refresh_and_resumed_the_run_is_the_same_bit_for_bit(
    judged, tmp_path, monkeypatch, fits
):
    """Killed where the second model is on the disk and its step is not; it goes on from step 2."""
    write = RunFolder.write_constraint_model

    def write_then_copy(folder, model):
        path = write(folder, model)
        if model.step == 4:
            killed(folder.path, tmp_path / "killed")
        return path

    judged = judged.replace(checkpoint_every=2, steps=6)
    monkeypatch.setattr(RunFolder, "write_constraint_model", write_then_copy)
    whole = train(judged, folder=tmp_path / "whole", blocking=True)
    monkeypatch.setattr(RunFolder, "write_constraint_model", write)
    run = attach(tmp_path / "killed")
    assert (run.status, run.metrics.index[-1]) == ("interrupted", 3)
    late = run.folder.constraint_model_path(4) / "model.safetensors"
    late.write_bytes(b"must not be taken up")
    fits.clear()
    run.resume()
    run.wait()
    assert fits == [4]  # the first was loaded
    assert_same_run(run, whole)


def test_killed_after_a_refresh_the_newer_model_is_taken_up(judged, tmp_path, fits):
    def kill(run, record):
        if record["step"] == 5:
            killed(run.path, tmp_path / "killed")

    whole = train(judged, folder=tmp_path / "whole", listeners=[kill], blocking=True)
    run = attach(tmp_path / "killed")
    assert run.folder.checkpoints()[-1].name == "000004"
    fits.clear()
    run.resume()
    run.wait()
    assert fits == []
    assert_same_run(run, whole)


def test_a_fork_takes_its_parents_constraint_models_along(judged, tmp_path, fits):
    whole = train(judged, folder=tmp_path / "whole", blocking=True)
    fits.clear()
    early = whole.fork(at=2, folder=tmp_path / "early").wait()
    assert fits == [4]
    assert_same_run(early, whole)
    late = whole.fork(at=4, folder=tmp_path / "late").wait()
    assert fits == [4]
    assert_same_run(late, whole)
    other = whole.fork(
        at=4, folder=tmp_path / "other",
        reward_args={"constraints": {"refresh_every": 3, "loss": "bradley_terry"}},
    ).wait()  # fmt: skip
    assert fits == [4, 5]
    assert [path.name for path in other.folder.constraint_models()] == [
        "000001",
        "000004",
        "000005",
    ]


def test_a_given_model_is_used_and_not_kept_and_the_own_one_comes_after_it(judged, tmp_path, fits):
    """Killed while the given one was in force, the run goes on as it would have: it trains its own anew."""
    judged = judged.replace(reward_args={})
    first = train(judged.replace(steps=1), folder=tmp_path / "first", blocking=True)
    given = str(first.folder.constraint_model_path(1))

    def change(run, record):
        if record["step"] in (1, 3):
            name = given if record["step"] == 1 else "own"
            run.update(reward_args={"constraints": {"reward_model": name}})
        if record["step"] == 3:
            killed(run.path, tmp_path / "killed")

    fits.clear()
    whole = train(judged, folder=tmp_path / "whole", listeners=[change], blocking=True)
    assert fits == [1, 4]
    assert [path.name for path in whole.folder.constraint_models()] == ["000001", "000004"]
    run = attach(tmp_path / "killed")
    assert run.folder.checkpoints()[-1].name == "000002"
    fits.clear()
    run.update(reward_args={"constraints": {"reward_model": "own"}})
    run.resume()
    run.wait()
    assert fits == [3]  # though a model of step 1 with the same settings lies in the folder
    plain = attach(first.path).fork(at=1, folder=tmp_path / "plain", steps=3)
    plain.wait()
    assert fits == [3]  # and the fork of a run that holds it trains none


def test_a_constraint_model_that_is_not_there_is_refused_at_once(judged, tmp_path):
    missing = {"constraints": {"reward_model": str(tmp_path / "none")}}
    with pytest.raises(WorkbenchError, match="There is no model folder"):
        train(judged.replace(reward_args=missing), folder=tmp_path / "a", blocking=True)
    run = train(judged.replace(steps=2, reward_args={}), folder=tmp_path / "b")
    with pytest.raises(WorkbenchError, match="There is no model folder"):
        run.update(reward_args=missing)
    run.wait()


def test_a_run_says_what_it_does_beside_its_steps(judged, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Worker, "_say", lambda self, line: said.append(line))
    train(judged.replace(steps=1), folder=tmp_path / "a", blocking=True)
    assert said[0].startswith("constraint reward model: answering") and "training" in said[-2]
    assert said[-1] == ""  # once it is done


def test_a_curriculum_by_stages_goes_from_one_constraint_to_all(judged, tmp_path):
    recipe = judged.replace(
        curriculum="staged", reward_args={"constraints": {"scorer": "rules"}}, eval_every=6
    )
    run = train(recipe, folder=tmp_path / "a", blocking=True)
    for step in range(1, 7):
        found = {c for c in run.metrics if "/level/" in c and run.metrics[c].notna()[step]}
        assert found == {f"constraints/level/{(step + 1) // 2}"}
    assert not (run.path / "constraint_models").exists()


def test_completions_cut_at_the_limit_are_told_once_in_the_runs_log(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(max_new_tokens=2), folder=tmp_path / "a", blocking=True)
    shares = run.metrics["rollout/truncated"].dropna()
    assert shares.min() > 0.1  # the random model seldom ends by itself
    (event,) = run.events[run.events["text"].str.contains("were cut")].to_dict("records")
    assert (event["step"], event["kind"]) == (1, "warning")
    assert event["text"].startswith(f"{100 * shares[1]:.0f} % of completions were cut at 2 tokens")
