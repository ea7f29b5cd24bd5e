"""Errors and changes in words."""

from pathlib import Path

import pytest
import torch

from workbench.telling import describe, sentence
from workbench.variants import WorkbenchError


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


def test_on_a_gpu_the_allocator_is_advised_until_it_is_set(monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory.")
    assert "expandable_segments" not in sentence(error, Path("a"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert "Also set PYTORCH_ALLOC_CONF=expandable_segments:True" in sentence(error, Path("a"))
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert "expandable_segments" not in sentence(error, Path("a"))


def test_a_disk_error_says_how_to_go_on():
    assert sentence(OSError("full"), Path("/runs/a")).endswith(
        "then wb.attach('/runs/a').resume()."
    )


def test_changes_are_told_field_by_field():
    changes = {"beta": (0.0, 0.1), "rewards": ({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 2.0})}
    assert describe(changes) == "beta 0.0 → 0.1, rewards.b 0.0 → –, rewards.c – → 2.0"
