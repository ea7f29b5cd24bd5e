"""The commands: what they do, and one sentence with status 2 for what a user can mend."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from workbench import cli
from workbench.recipe import Recipe


@pytest.fixture
def quick(toy_world, tmp_path):
    """A recipe file of three tiny steps."""
    recipe = Recipe(
        model=toy_world,
        steps=3,
        prompts_per_step=2,
        group_size=2,
        max_new_tokens=4,
        eval_every=3,
        eval_prompts=2,
        eval_samples=2,
        checkpoint_every=1,
        lora_rank=2,
    )
    path = tmp_path / "quick.yaml"
    path.write_text(recipe.to_yaml())
    return path


def test_train_resume_and_report(quick, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", str(quick), "--out", str(out), "--set", "steps=2"]) == 0
    assert f"workbench report {out}" in capsys.readouterr().out
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3  # the base and two steps

    assert cli.main(["train", "--resume", str(out)]) == 2
    assert "has finished its 2 steps; to go on, add --set steps=4." in capsys.readouterr().err

    assert cli.main(["train", "--resume", str(out), "--set", "steps=3", "--set", "beta=0.1"]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert records[-1]["train/beta"] == 0.1
    capsys.readouterr()

    assert cli.main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "Plotly.newPlot" in page
    assert "<script src" not in page
    assert cli.main(["report", str(out), "-o", str(tmp_path / "no" / "a.html")]) == 2
    assert "can't be written" in capsys.readouterr().err

    for options, load in ([], "peft.AutoPeft"), (["--merged", "--step", "2"], "transformers.Auto"):
        target = tmp_path / f"exported{len(options)}"
        assert cli.main(["export", str(out), "-o", str(target), *options]) == 0
        said = (
            f"Wrote {target}\nTo load it: {load}ModelForCausalLM.from_pretrained({str(target)!r})\n"
        )
        assert capsys.readouterr().out == said
        assert (target / "adapter_config.json").exists() == (not options)
        assert (target / "model.safetensors").exists() == bool(options)
    assert cli.main(["export", str(out), "-o", str(target)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Give a recipe file, or --resume FOLDER."),
        (["train", "gone.yaml"], "The recipe gone.yaml can't be read"),
        (["train", "QUICK", "--set", "betta=0.1"], "Unknown recipe field 'betta'"),
        (["train", "QUICK", "--set", "beta"], "--set 'beta' is not FIELD=VALUE"),
        (["train", "QUICK", "--set", "beta=-1"], "beta is -1"),
        (["train", "QUICK", "--set", "beta={"], "is not a YAML value"),
        (["train", "QUICK", "--set", "beta.x=1"], "'beta' has no parts"),
        (["train", "QUICK", "--set", "objective=rlo"], "Did you mean 'rloo'?"),
        (["train", "QUICK", "--set", "rewards.correct=0"], "All reward weights are 0"),
        (["train", "--resume", "gone"], "gone is not the folder of a run"),
        (["train", "QUICK", "--resume", "gone"], "--resume takes recipe and folder from the run"),
        (["report", "gone"], "gone is not the folder of a run"),
        (["export", "gone", "-o", "out"], "gone is not the folder of a run"),
        (["runs", "gone"], "There is no folder gone"),
        (["claims", "objectivs"], "Unknown claim 'objectivs'"),
        (["pretrain", "tiny-huge"], "Unknown tiny model 'tiny-huge'"),
        (["lab", "--ip=0.0.0.0"], "listens on this machine only"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(arguments, message, quick, capsys):
    arguments = [str(quick) if argument == "QUICK" else argument for argument in arguments]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.startswith("workbench: ")
    assert error.count("\n") == 1


def test_runs_are_listed_with_those_that_can_t_be_read(quick, tmp_path, capsys, monkeypatch):
    kept = tmp_path / "kept"
    assert cli.main(["train", str(quick), "--out", str(kept / "first"), "--set", "steps=1"]) == 0
    (kept / "broken").mkdir()
    (kept / "broken" / "recipe.yaml").write_text("beta: [")
    capsys.readouterr()
    assert cli.main(["runs", str(kept)]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines()}
    assert "finished" in lines["first"] and "1 of 1" in lines["first"]
    assert "unreadable" in lines["broken"] and "not valid YAML" in lines["broken"]
    monkeypatch.setenv("WORKBENCH_RUNS", str(kept))
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr().out == printed
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "none"))
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr().out.startswith("No runs below")


def test_broken_yaml_names_the_line(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text("beta: 0.1\nrewards: [\n")
    assert cli.main(["train", str(path)]) == 2
    assert "not valid YAML at line" in capsys.readouterr().err


def test_an_interrupt_is_a_sentence_and_the_run_goes_on_later(quick, tmp_path, capsys, monkeypatch):
    from workbench import runs

    wait = runs.Run.wait
    monkeypatch.setattr(runs.Run, "wait", lambda run, *_: (run.stop(), wait(run), interrupt()))
    out = tmp_path / "run"
    assert cli.main(["train", str(quick), "--out", str(out)]) == 130
    captured = capsys.readouterr()
    assert f"go on with: workbench train --resume {out}" in captured.err
    assert "Traceback" not in captured.err
    monkeypatch.undo()
    assert cli.main(["train", "--resume", str(out)]) == 0
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("beta=1e-3", (["beta"], 0.001)),
        ("steps=5", (["steps"], 5)),
        ("rewards.length=0.2", (["rewards", "length"], 0.2)),
        ("rewards={correct: 1}", (["rewards"], {"correct": 1})),
        ("task_args.source=a=b.jsonl", (["task_args", "source"], "a=b.jsonl")),
        ("name=", (["name"], None)),
    ],
)
def test_parse_change(text, parsed):
    assert cli.parse_change(text) == parsed


def test_changes_of_set_land_together():
    changes = [cli.parse_change(t) for t in ("rewards.format=0.5", "rewards.correct=0", "seed=3")]
    recipe = cli.changed(Recipe(), changes)
    assert recipe.rewards == {"correct": 0, "format": 0.5, "length": 0.0}
    assert recipe.seed == 3


def test_lab_starts_jupyterlab_on_the_notebooks_with_the_extra_options(monkeypatch):
    started = []

    class Server:
        def __init__(self, command):
            started.append(command)
            self.calls = 0

        def wait(self):
            self.calls += 1
            if self.calls == 1:
                raise KeyboardInterrupt  # JupyterLab asks whether it is meant
            return 0

    monkeypatch.setattr(cli.subprocess, "Popen", Server)
    assert cli.main(["lab", "--no-browser", "--port=9999"]) == 0
    (command,) = started
    assert command[1:3] == ["-m", "jupyterlab"]
    assert command[3].endswith("notebooks")
    assert command[4:] == ["--no-browser", "--port=9999", "--ServerApp.ip=127.0.0.1"]


def test_lab_copies_packaged_notebooks_but_never_over_the_user_s(tmp_path, monkeypatch):
    from workbench import packaged

    package = tmp_path / "site" / "workbench"
    (package / "_notebooks").mkdir(parents=True)
    for name in ("a.ipynb", "b.ipynb"):
        (package / "_notebooks" / name).write_text("shipped")
    monkeypatch.setattr(packaged, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "a.ipynb").write_text("mine")
    assert cli.notebook_folder().resolve() == tmp_path / "notebooks"
    assert (tmp_path / "notebooks" / "a.ipynb").read_text() == "mine"
    assert (tmp_path / "notebooks" / "b.ipynb").read_text() == "shipped"


def test_an_unknown_option_is_refused_with_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--stpes", "3"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --stpes" in capsys.readouterr().err


def test_pretrain_puts_each_model_in_a_folder_of_its_name(tmp_path, monkeypatch, capsys):
    from workbench.tiny import pretrain

    calls = []
    monkeypatch.setattr(pretrain, "pretrain", lambda *a, **kw: calls.append((a, kw)) or "made")
    arguments = ["pretrain", "tiny-weak", "--out", str(tmp_path), "--steps", "5", "--smoke"]
    assert cli.main(arguments) == 0
    assert calls == [
        (("tiny-weak", tmp_path / "tiny-weak"), {"seed": 0, "smoke": True, "steps": 5})
    ]
    assert "tiny-weak: made" in capsys.readouterr().out


def test_claims_are_measured_and_judged_one_after_the_other(tmp_path, monkeypatch, capsys):
    from workbench.claims import judging, measure, results

    calls = []
    monkeypatch.setattr(judging, "judge", lambda claim, path: calls.append(("judge", claim.name)))

    def measured(claim, **settings):
        calls.append(("measure", claim.name, settings["arms"], settings["seeds"]))
        assert claim.shared["model"] == "tiny-weak"
        path = tmp_path / f"{claim.name}.json"
        found = {
            "name": claim.name, "title": claim.title, "evaluation": claim.evaluation, "arms": {},
            "base": {"cells": []},
        }  # fmt: skip
        results.summarise(found)
        results.write(path, found)
        return path

    monkeypatch.setattr(measure, "measure", measured)
    names = ["claims", "intrinsic", "intrinsic_countdown", "--base", "tiny-weak"]
    assert cli.main([*names, "--arms", "ent,length", "--seeds", "0-1"]) == 0
    assert calls == [
        ("measure", "intrinsic", ["ent", "length"], (0, 1)),
        ("judge", "intrinsic"),
        ("measure", "intrinsic_countdown", ["ent", "length"], (0, 1)),
        ("judge", "intrinsic_countdown"),
    ]
    printed = capsys.readouterr().out
    assert f"Written to {tmp_path / 'intrinsic.json'}" in printed
    assert f"Written to {tmp_path / 'intrinsic_countdown.json'}" in printed
    calls.clear()
    assert cli.main([*names, "--arms", "cre"]) == 2  # countdown has no such arm
    assert calls == []
    assert "'cre'" in capsys.readouterr().err


def test_the_command_is_installed():
    assert shutil.which("workbench", path=str(Path(sys.executable).parent))


def test_doctor_foretells_a_recipe(tmp_path, capsys):
    from workbench.cli import main

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_new_tokens: 16\nprompts_per_step: 2\ngroup_size: 4\n")
    assert main(["doctor", "--recipe", str(recipe), "--memory", "T4"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny-strong: 796 k parameters")
    assert "free on T4: 15.00 GiB" in printed
    assert main(["doctor", "--recipe", str(recipe), "--memory", "0.4"]) == 1
    assert "It does not fit" in capsys.readouterr().out
    assert main(["doctor", "--memory", "16"]) == 2
    assert "give --recipe too" in capsys.readouterr().err
    assert main(["doctor", "--recipe", str(recipe), "--memory", "T5"]) == 2
    assert "T4" in capsys.readouterr().err
