"""The thread's own words: sentences for errors, lines for changes. What it does is in test_runs."""

from pathlib import Path

import pytest
import torch

from workbench.runs import train
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
