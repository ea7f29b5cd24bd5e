"""The errors and the changes of a run as sentences for a person."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from workbench.devices import segments_advice
from workbench.microbatches import is_out_of_memory
from workbench.variants import WorkbenchError


def sentence(error: BaseException, path: Path) -> str:
    """What happened and what to do about it, for a person."""
    again, text = f"wb.attach({str(path)!r}).resume()", str(error)
    if isinstance(error, WorkbenchError):
        return text
    if is_out_of_memory(error):
        advice = segments_advice("cuda" if torch.cuda.is_available() else "cpu", os.environ)
        return (
            "Out of memory: lower microbatch first, as in run.update(microbatch=32), then run.resume(); "
            "or start a new run with a smaller prompts_per_step, group_size, max_new_tokens or "
            "eval_samples." + (f" Also {advice}." if advice else "")
        )
    if isinstance(error, OSError):
        gone = "it is gone or was emptied; what was measured is still in run.metrics"
        lost = isinstance(error, FileNotFoundError) and not (path / "recipe.yaml").exists()
        todo = gone if lost else f"free or unlock the disk, then {again}"
        return f"Can't write the run's folder ({text}); {todo}."
    return f"{type(error).__name__}: {text} (the traceback is in error.txt of {path.name})"


def describe(differences: dict[str, tuple[Any, Any]]) -> str:
    """Changed fields as one line: `beta 0 → 0.1, objective rloo → maxrl`."""
    parts = []
    for name, (old, new) in differences.items():
        if isinstance(old, dict) and isinstance(new, dict):
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            parts += [f"{name}.{key} {old.get(key, '–')} → {new.get(key, '–')}" for key in keys]
        else:
            parts.append(f"{name} {old} → {new}")
    return ", ".join(parts)
