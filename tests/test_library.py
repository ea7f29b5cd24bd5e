"""Folders of runs by hand: where they are, what a glance tells, what is a run's own."""

import json
import os

import pytest

from workbench import library
from workbench.folder import RunFolder
from workbench.library import foreign_files, glance, new_folder, run_folders
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def make(path, *lines):
    """The folder of a run whose metrics have these lines."""
    kept = new_folder(Recipe(), path)
    (path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return kept


def test_the_default_folder_is_named_by_time_and_title_and_never_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "kept"))
    monkeypatch.setattr(library.time, "strftime", lambda form: "20260102-030405")
    recipe = Recipe(name="My Run!")
    assert new_folder(recipe, None).path == tmp_path / "kept" / "20260102-030405-my-run"
    assert new_folder(recipe, None).path == tmp_path / "kept" / "20260102-030405-my-run-2"
    with pytest.raises(WorkbenchError, match="holds a run already"):
        new_folder(recipe, tmp_path / "kept" / "20260102-030405-my-run")


def test_runs_are_found_on_every_level_but_not_within_runs(tmp_path):
    for age, place in enumerate(("c", "deep/er/b", "a")):
        make(tmp_path / place)
        os.utime(tmp_path / place / "recipe.yaml", (1e9 - age,) * 2)
    make(tmp_path / "a" / "rewound" / "x")  # a run's own affair
    make(tmp_path / ".trash" / "x")
    (tmp_path / "link").symlink_to(tmp_path / "c")
    assert run_folders(tmp_path) == [tmp_path / place for place in ("c", "deep/er/b", "a")]
    assert run_folders(tmp_path / "a") == [tmp_path / "a"]
    assert run_folders(tmp_path / "nowhere") == []
    (tmp_path / "empty").mkdir()
    assert tmp_path / "empty" in run_folders(tmp_path)  # to be named as no run


def test_a_glance_reads_the_first_and_the_last_evaluation(tmp_path):
    lines = [
        json.dumps({"step": s, "eval/pass@1": 0.1 * s} if s % 2 == 0 else {"step": s})
        for s in range(6)
    ]
    make(tmp_path / "a", *lines, '{"step": 6, "eval/pa')  # cut short by a kill
    assert glance(tmp_path / "a") == {"step": 5, "first": 0.0, "now": 0.4}
    make(tmp_path / "b")
    assert glance(tmp_path / "b") == {"step": 0, "first": None, "now": None}
    assert glance(tmp_path / "gone")["step"] == 0
    make(tmp_path / "c", '{"step": 0, "eval/entropy": 1.0}', "[3]")
    assert glance(tmp_path / "c") == {"step": 0, "first": None, "now": None}


def test_a_run_s_own_files_and_no_others(tmp_path):
    own = [
        *("recipe.yaml", "metrics.jsonl", "events.jsonl", "status.json", "error.txt", "about.json"),
        *("report.html", ".part-status.json", "rollouts/000001.parquet", "held_out/000001.parquet"),
        *("rollouts/non-finite-batch.parquet", "probes/000002.parquet", "wandb/x/y.log"),
        *("checkpoints/000010/state.json", "checkpoints/.part-000020/adapter_model.safetensors"),
        *("checkpoints/000010/README.md", "constraint_models/000001/tokenizer.json"),
        *("rewound/000020-to-000010/metrics.jsonl", "tensorboard/events.out.1"),
        *("rewound/000020-to-000010/checkpoints/000020/state.json",),
        *("rewound/000020-to-000010/rollouts/000020.parquet",),
    ]
    others = [
        *("notes.md", "rollouts/notes.txt", "rollouts/deep/000001.parquet", "plots/a.png"),
        *("checkpoints/notes.txt", "checkpoints/best/state.json", "checkpoints/000010/notes.txt"),
        *("checkpoints/000010/deep/state.json", "other/recipe.yaml", "rewound/notes.txt"),
        *("rewound/000020-to-000010/notes.txt",),
    ]
    for place in (*own, *others):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("")
    (tmp_path / "linked").symlink_to(tmp_path / "plots")
    (tmp_path / "probes" / "000003.parquet").symlink_to(tmp_path / "notes.md")
    assert foreign_files(tmp_path) == sorted([*others, "linked", "probes/000003.parquet"])
    with pytest.raises(WorkbenchError, match="holds what is not a run's own .* and 8 more"):
        library.delete_folder(RunFolder(tmp_path))
    assert (tmp_path / "recipe.yaml").exists()


def test_every_file_of_a_real_run_is_its_own(toy_recipe, tmp_path):
    """So that delete works: with probes, a failed batch and a report beside the usual files."""
    from workbench.runs import train

    run = train(toy_recipe.replace(probe_every=2, steps=2), folder=tmp_path / "a", blocking=True)
    run.report(run.path / "report.html")
    run.tag("x")
    assert foreign_files(run.path) == []
    run.delete()


def test_tags_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    kept = make(tmp_path / "a")
    library.write_tags(kept, ["one", "two", "one"])
    assert json.loads((kept.path / "about.json").read_text()) == {"tags": ["one", "two"]}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WorkbenchError, match=r"Can't write the tags of a \(No space left"):
        library.write_tags(kept, ["three"])
    assert library.read_tags(kept) == ("one", "two")


def test_a_folder_that_can_t_be_moved_or_deleted_is_a_sentence(tmp_path, monkeypatch):
    kept = make(tmp_path / "a")

    def refuse(*args, **_):
        raise PermissionError(13, "Permission denied", str(args[0]))

    monkeypatch.setattr(library.Path, "rename", refuse)
    with pytest.raises(WorkbenchError, match=r"a can't be renamed \(Permission denied\)"):
        library.rename_folder(kept, "b")
    monkeypatch.setattr(library.shutil, "rmtree", refuse)
    with pytest.raises(WorkbenchError, match="a can't be deleted .Permission denied: .*a.; unlock"):
        library.delete_folder(kept)
