"""Measuring with a toy model: a cell is a run, a stopped claim goes on, smoke goes through main()."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml

from workbench import cli, runs
from workbench.claims import load, measure, results
from workbench.claims.crossed import cross_cell, post_pre_metrics
from workbench.claims.plan import Geometry, claim_from
from workbench.phase import table
from workbench.tables import read_probes
from workbench.trainer import NonFiniteError
from workbench.variants import WorkbenchError

ARMS = {"plain": None, "sharp": {"note": "divides", "objective": "grpo"}}


@pytest.fixture
def values(toy_world):
    recipe = {
        "model": toy_world, "quantize": "none", "lora_rank": 2, "steps": 3, "prompts_per_step": 2,
        "group_size": 4, "max_new_tokens": 6, "learning_rate": 0.02, "task_args": {"eval_rows": 8},
        "rewards": {"length": 1.0, "correct": 0.0},
    }  # fmt: skip
    return {
        "recipe": recipe,
        "evaluation": {"prompts": 3, "samples": 4, "ks": [1, 4], "thresholds": [0, 2]},
        "seeds": [0, 1],
        "arms": ARMS,
        "compare": [["sharp", "plain"]],
    }


@pytest.fixture
def claim(values):
    return claim_from("toy", values)


def quiet(text):
    pass


def test_every_cell_is_measured_and_written(claim, tmp_path):
    said = []
    path = measure.measure(claim, out=tmp_path, say=said.append)
    found = load(path)
    assert list(found["arms"]) == ["plain", "sharp"]
    for arm in found["arms"].values():
        assert [type(cell["seed"]) for cell in arm["cells"]] == [int, int]
        for cell in arm["cells"]:
            metrics = cell["metrics"]
            assert {"pass@1", "pass@4", "entropy", "length", "truncated", "kl", "nscr"} <= set(
                metrics
            )
            assert sum(metrics[name] for name in results.SUPPORT) == 3
            assert sum(metrics[f"{name}>2"] for name in results.SUPPORT) == 3
            assert cell["seconds"] > cell["seconds_per_step"] > 0
            assert set(cell) == {"seed", "metrics", "seconds_per_step", "seconds", "commit"}
            assert not [name for name in metrics if name.startswith("best/")]
    assert [file.name for file in tmp_path.iterdir()] == ["toy.json"]  # no traces without probes
    base = found["base"]
    assert len(base["successes"]) == 3
    assert [cell["seed"] for cell in base["cells"]] == [0, 1]
    one, two = (cell["metrics"]["entropy"] for cell in base["cells"])
    assert len({one, two, base["metrics"]["entropy"]}) == 3  # each seed samples anew
    assert found["differences"][0]["seeds"] == [0, 1]
    assert said[-1].startswith("[4/4] sharp seed 1: pass@1 ")
    assert said[-1].endswith("0 s left")


def test_a_cell_is_a_run_with_the_arm_s_link_and_seed(claim, tmp_path):
    steps = []
    real = measure.train_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            measure, "train_step", lambda *a, **kw: steps.append(real(*a, **kw)) or steps[-1]
        )
        measure.measure_cell(claim, "sharp", 1, [0, 0, 0])
    recipe = claim.recipe_of("sharp").replace(seed=1)
    run = runs.train(recipe, folder=tmp_path / "run").wait()
    metrics = run.metrics
    for step, report in enumerate(steps, 1):
        for name in ("reward/total", "train/loss", "train/grad_norm", "train/entropy"):
            assert metrics.loc[step, name] == report.metrics[name], (step, name)
    assert metrics.loc[3, "train/kl"] == steps[-1].metrics["train/kl"]
    assert metrics["train/grad_norm"].max() > 0


def test_a_stopped_claim_goes_on_with_the_missing_cells(claim, tmp_path, monkeypatch):
    done = []
    real = measure.measure_cell

    def stops_at_the_third(claim, arm, seed, base, shelf):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((arm, seed))
        return real(claim, arm, seed, base, shelf)

    monkeypatch.setattr(measure, "measure_cell", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(claim, out=tmp_path, say=quiet)
    before = load(tmp_path / "toy.json")
    assert done == [("plain", 0), ("sharp", 0)]  # seeds outside: early on, all arms compare

    again = []
    monkeypatch.setattr(measure, "measure_cell", lambda *a: again.append(a[1:3]) or real(*a))
    monkeypatch.setattr(measure, "evaluate_cell", counted := Counted(measure.evaluate_cell))
    measure.measure(claim, out=tmp_path, say=quiet)
    assert again == [("plain", 1), ("sharp", 1)]
    assert counted.calls == 2  # the base is not measured again
    after = load(tmp_path / "toy.json")
    assert after["arms"]["plain"]["cells"][0] == before["arms"]["plain"]["cells"][0]

    again.clear()
    measure.measure(claim, arms=["plain"], seeds=[1, 9], out=tmp_path, say=quiet)
    assert again == [("plain", 9)]
    again.clear()
    measure.measure(claim, arms=["sharp"], seeds=[0], fresh=True, out=tmp_path, say=quiet)
    assert again == [("sharp", 0)]
    kept = load(tmp_path / "toy.json")["arms"]
    assert [cell["seed"] for cell in kept["plain"]["cells"]] == [0, 1, 9]
    # The same seed gives the same numbers.
    assert kept["sharp"]["cells"][0]["metrics"] == after["arms"]["sharp"]["cells"][0]["metrics"]


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_a_cell_that_another_process_has_measured_is_skipped(claim, tmp_path, monkeypatch):
    real, done = measure.measure_cell, []

    def other_is_faster(claim, arm, seed, base, shelf):
        done.append((arm, seed))
        if len(done) == 1:
            measure.measure(claim, arms=["sharp"], seeds=[0], out=tmp_path, say=quiet)
        return real(claim, arm, seed, base, shelf)

    monkeypatch.setattr(measure, "measure_cell", other_is_faster)
    measure.measure(claim, seeds=[0], out=tmp_path, say=quiet)
    assert done == [("plain", 0), ("sharp", 0)]


def test_a_failed_cell_is_told_and_the_others_go_on(claim, tmp_path, monkeypatch):
    real = measure.train_step

    def fails(state, recipe, **settings):
        if recipe.objective == "grpo":
            raise NonFiniteError("Step 1 has loss nan; its batch was saved", None)
        return real(state, recipe, **settings)

    monkeypatch.setattr(measure, "train_step", fails)
    said = []
    found = load(measure.measure(claim, seeds=[0], out=tmp_path, say=said.append))
    assert found["arms"]["sharp"]["cells"][0]["failed"] == "Step 1 has loss nan"
    assert "metrics" in found["arms"]["plain"]["cells"][0]
    assert any("sharp seed 0: Step 1 has loss nan" in line for line in said)


def test_a_curve_is_kept_on_request(values, tmp_path):
    claim = claim_from("toy", values | {"curve_every": 2})
    found = load(measure.measure(claim, arms=["plain"], seeds=[0], out=tmp_path, say=quiet))
    (cell,) = found["arms"]["plain"]["cells"]
    assert [point["step"] for point in cell["curve"]] == [2]
    assert {"pass@1", "pass@4", "entropy"} <= set(cell["curve"][0])


# ------------------------------------------------------------------ probes


@pytest.fixture
def probing(values):
    """Probes at 0, 2, 4 and the end, which is 5; a reward that moves the weights at each step."""
    probes = {"probe_every": 2, "probe_prompts": 2, "probe_samples": 4, "steps": 5}
    rewards = {"rewards": {"ent": 1.0, "correct": 0.0}}
    return claim_from("toy", values | {"recipe": values["recipe"] | probes | rewards})


def sized(claim, **fields):
    return dataclasses.replace(claim, shared=claim.shared | fields)


def cell_of(claim, arm="plain", seed=1):
    return measure.measure_cell(claim, arm, seed, [0, 0, 0])


def known(metrics, start=""):
    """The metrics of an evaluation at the end, or of that at the best probe."""
    names = ("pass@1", "pass@4", "entropy", "length", "truncated")
    return {name: metrics[start + name] for name in names}


@pytest.fixture
def judged(monkeypatch):
    """Step -> accuracy that its probe is given, since a toy model is never right."""

    def judge(accuracies):
        real = measure.trace

        def judged_trace(*args, step, **settings):
            found = real(*args, step=step, **settings)
            correct_B = np.full(len(found.answers), accuracies[step])
            return dataclasses.replace(found, correct_B=correct_B)

        monkeypatch.setattr(measure, "trace", judged_trace)

    return judge


def test_probes_of_a_cell_are_those_of_the_run(probing, tmp_path):
    cell, traces = cell_of(probing, "sharp")
    run = runs.train(probing.recipe_of("sharp", 1), folder=tmp_path / "run").wait()
    found = [read_probes(file)[0].to_dict() for file in run.folder.probe_files()]
    assert [trace.to_dict() for trace in traces] == found
    assert cell["probes"]["step"] == [trace["step"] for trace in found] == [0, 2, 4, 5]
    for name in ("entropy", "length", "truncated", "vote_share", "distinct", "accuracy"):
        assert cell["probes"][name] == run.metrics[f"probe/{name}"].dropna().tolist(), name
    assert len({str(trace["entropies"]) for trace in found}) == 4  # each of other weights


def test_the_rewards_of_a_cell_s_probes_are_means_of_the_steps_before(probing, monkeypatch):
    real, totals = measure.train_step, []

    def noted(*args, **settings):
        report = real(*args, **settings)
        totals.append(report.metrics["reward/total"])
        return report

    monkeypatch.setattr(measure, "train_step", noted)
    cell, _ = cell_of(probing)
    one, two, three, four, five = totals
    assert len(set(totals)) == 5
    assert cell["probes"]["reward"] == pytest.approx(
        [one, (one + two) / 2, (three + four) / 2, five]
    )


def test_a_cell_s_other_numbers_are_those_without_probes(probing):
    with_them, _ = cell_of(probing)
    without, traces = cell_of(sized(probing, probe_every=0))
    assert traces == [] and "probes" not in without
    assert without["metrics"].keys() < with_them["metrics"].keys()
    for name, value in without["metrics"].items():
        assert with_them["metrics"][name] == pytest.approx(value, abs=0, nan_ok=True), name
    added = with_them["metrics"].keys() - without["metrics"].keys()
    assert added == {f"best/{name}" for name in (*known(without["metrics"]), "step")}


def test_the_best_weights_are_those_of_the_best_step(probing, judged):
    """The first of two equally good probes; two steps of training give the same weights and numbers."""
    judged({0: 0.1, 2: 0.6, 4: 0.2, 5: 0.6})
    metrics = cell_of(probing)[0]["metrics"]
    assert metrics["best/step"] == 2
    short, _ = cell_of(sized(probing, steps=2, probe_every=0))
    assert known(metrics, "best/") == known(short["metrics"])
    assert known(metrics, "best/") != known(metrics)


def test_a_best_end_is_the_end(probing, judged):
    judged({0: 0.1, 2: 0.3, 4: 0.2, 5: 0.6})
    metrics = cell_of(probing)[0]["metrics"]
    assert metrics["best/step"] == 5
    assert known(metrics, "best/") == known(metrics)


def test_a_run_that_only_loses_is_best_at_the_base(probing, judged, tmp_path):
    """Evaluated as the base is with this seed, so that their difference is exactly 0."""
    judged({0: 0.6, 2: 0.6, 4: 0.2, 5: 0.1})
    found = load(measure.measure(probing, arms=["plain"], out=tmp_path, say=quiet))
    for cell, base in zip(found["arms"]["plain"]["cells"], found["base"]["cells"], strict=True):
        assert cell["metrics"]["best/step"] == 0
        assert known(cell["metrics"], "best/") == known(base["metrics"])
        assert known(cell["metrics"]) != known(base["metrics"])


def test_probes_of_prompts_that_are_evaluated_too_are_refused(probing):
    with pytest.raises(WorkbenchError, match="lower evaluation.prompts or probe_prompts"):
        cell_of(dataclasses.replace(probing, shared=probing.shared | {"probe_prompts": 10_000}))


def test_traces_are_kept_beside_the_claim_s_file(probing, tmp_path):
    found = load(measure.measure(probing, seeds=[0], out=tmp_path, say=quiet))
    folder = tmp_path / "traces" / "toy"
    assert sorted(file.name for file in folder.iterdir()) == ["plain-0.parquet", "sharp-0.parquet"]
    for arm in ("plain", "sharp"):
        (cell,) = found["arms"][arm]["cells"]
        traces = read_probes(measure.trace_file(tmp_path / "toy.json", arm, 0))
        wanted = results.rounded(table(traces))
        assert {name: cell["probes"][name] for name in wanted} == wanted
        assert set(cell["probes"]) - set(wanted) == {"reward"}
        assert {len(column) for column in cell["probes"].values()} == {4}


def test_a_failed_cell_keeps_the_probes_up_to_there(probing, tmp_path, monkeypatch):
    real = measure.train_step

    def fails_at_four(state, recipe, **settings):
        if state.step == 3:
            raise NonFiniteError("Step 4 has loss nan; its batch was saved", None)
        return real(state, recipe, **settings)

    monkeypatch.setattr(measure, "train_step", fails_at_four)
    path = measure.measure(probing, arms=["plain"], seeds=[0], out=tmp_path, say=quiet)
    (cell,) = load(path)["arms"]["plain"]["cells"]
    assert cell["failed"] == "Step 4 has loss nan"
    assert not {"probes", "metrics"} & set(cell)
    assert [trace.step for trace in read_probes(measure.trace_file(path, "plain", 0))] == [0, 2]


def test_the_reference_s_own_seeds_are_measured_for_its_arm_only(probing, tmp_path, monkeypatch):
    done = []

    def noted(claim, arm, seed, base, shelf):
        done.append((arm, seed))
        return {"seed": seed, "metrics": {"pass@1": 0.0, "pass@4": 0.0}, "seconds": 0.0}, []

    monkeypatch.setattr(measure, "measure_cell", noted)
    claim = dataclasses.replace(probing, geometry=Geometry("sharp", (7, 8)))
    found = load(measure.measure(claim, out=tmp_path, say=quiet))
    both = [(arm, seed) for seed in (0, 1) for arm in ("plain", "sharp")]
    assert done == [*both, ("sharp", 7), ("sharp", 8)]
    assert [cell["seed"] for cell in found["base"]["cells"]] == [0, 1]  # compared with nothing
    done.clear()
    measure.measure(claim, seeds=[7], out=tmp_path, say=quiet)
    assert done == [("plain", 7)]  # any seeds, for all arms; one of the two is there


def test_support_is_counted_at_every_threshold(claim):
    class Evaluated:
        pass_at: ClassVar = {1: 0.5, 4: 1.0}
        entropy = length = truncated = 0.0
        measures: ClassVar = {"facts": 0.25}
        successes_P = np.array([3, 1, 0])

    found = measure.evaluation_metrics(Evaluated, claim, np.array([2, 3, 0]))
    assert [found[name] for name in results.SUPPORT] == [2, 0, 0, 1]
    assert [found[f"{name}>2"] for name in results.SUPPORT] == [0, 1, 1, 1]
    assert found["nscr>2"] == 0.0 and found["facts"] == 0.25


def test_training_metrics_are_means_of_the_right_steps():
    history = [
        {"train/kl": 9.0, "reward/total": 0.0, "groups/zero_signal": 1.0, "train/alpha": 5.0},
        *[{"reward/total": 1.0, "groups/zero_signal": 0.0, "train/alpha": 2.0} for _ in range(9)],
        {"train/kl": 0.5, "reward/total": 2.0, "groups/zero_signal": 0.1, "train/alpha": 3.0},
    ]
    found = measure.training_metrics(history)
    assert found["kl"] == 0.5
    assert found["zero_signal"] == pytest.approx(0.1)
    assert found["alpha"] == pytest.approx(2.1)
    assert found["reward"] == pytest.approx(1.1)
    del history[-1]["train/alpha"], history[-1]["groups/zero_signal"]
    history[-1]["groups/zero_signal"] = math.nan
    plain = [{"train/kl": 0.5, "reward/total": 2.0, "groups/zero_signal": 0.1}]
    assert "alpha" not in measure.training_metrics(plain)


def test_threads_are_given_back(claim):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with measure.loaded(claim.base_recipe()):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_smoke_goes_through_main_with_another_base(values, toy_world, tmp_path, capsys):
    shared = values["recipe"] | {"model": "tiny-strong", "steps": 50}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values | {"recipe": shared, "title": "What is it?"}))
    assert cli.main(["claims", str(path), "--smoke", "--base", toy_world]) == 0
    printed = capsys.readouterr().out
    assert "What is it?" in printed
    written = printed.rsplit("Written to ", 1)[1].strip()
    found = load(written)
    assert found["base"]["model"] == toy_world
    assert [len(arm["cells"]) for arm in found["arms"].values()] == [1, 1]
    for line in ("base", "plain", "sharp", "sharp - plain"):
        assert f"\n{line} " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["claims", "objectivs"], "Unknown claim 'objectivs'"),
        (["claims", "objectives", "--arms", "rloo,maxlr"], "Did you mean 'maxrl'?"),
        (["claims", "objectives", "--seeds", "four"], "--seeds is 'four'"),
        (["claims", "anchors", "--smoke", "--base", "tiny-huge"], "tiny-huge"),
    ],
)
def test_what_is_unknown_is_one_sentence(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("workbench: ") and error.count("\n") == 1


def test_an_out_folder_that_can_t_be_is_one_sentence(claim, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="give another --out"):
        measure.measure(claim, out=tmp_path / "file" / "x", say=quiet)


def test_an_interrupt_says_how_to_go_on(claim, monkeypatch, capsys, tmp_path):
    def interrupt(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", interrupt)
    assert cli.main(["claims", "objectives", "--out", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err


# ------------------------------------------------------------------ thinkers and answerers crossed


@pytest.fixture
def crossed(values):
    """The digits of an answer stand in for its truth: a random model earns some at once."""
    return claim_from("crossed", values | {"recipe": values["recipe"] | {"cross_samples": 3}})


def test_a_claim_with_cross_samples_measures_base_and_cells(crossed, tmp_path, monkeypatch):
    count = lambda self, row, text: float(sum(c.isdigit() for c in text))  # noqa: E731
    monkeypatch.setattr("workbench.tasks.countdown.Countdown.score", count)
    path = measure.measure(crossed, out=tmp_path, say=quiet)
    found = load(path)
    for cell in (found["base"], *found["base"]["cells"]):
        assert cell["metrics"]["post_post"] == cell["metrics"]["post_pre"] > 0
    for arm in found["arms"].values():
        for cell in arm["cells"]:
            assert {"post_post", "post_pre"} <= set(cell["metrics"])
            assert not [
                name for name in cell["metrics"] if name.endswith(("/low", "/high", "_true"))
            ]
    text = results.table(found)
    assert "post_post" in text.split("Paired differences")[0]
    assert "post_pre" in text.split("Paired differences")[1]
    assert found["base"]["settings"]["cross_samples"] == 3


def test_claims_without_cross_samples_are_as_they_were(claim, crossed, tmp_path):
    assert "cross_samples" not in claim.base_settings()
    assert not post_pre_metrics(None, claim, 0) and not cross_cell(None, claim, 0)
    assert crossed.smoke().base_recipe().cross_samples == 2
    with pytest.raises(WorkbenchError, match="which all arms share"):
        claim_from("toy", {"arms": {"a": {"cross_samples": 1}}})


def test_a_claim_on_a_task_without_right_answers_is_refused_before_any_work(values, tmp_path):
    source = tmp_path / "asked.jsonl"
    source.write_text("".join(f'{{"question": "{n}?"}}\n' for n in range(9)))
    values["recipe"] |= {
        "task": "questions", "task_args": {"source": str(source)}, "rewards": {"length": 1.0},
    }  # fmt: skip
    with pytest.raises(WorkbenchError, match="Claim toy can't be measured.*'questions' knows no"):
        measure.measure(claim_from("toy", values), out=tmp_path / "out", say=quiet)
