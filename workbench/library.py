"""The folders of runs on the disk: making a new one."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from workbench.folder import RunFolder
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def new_folder(recipe: Recipe, folder: str | os.PathLike[str] | None) -> RunFolder:
    """Make the folder of a new run, with its recipe in it."""
    if folder is None:
        root = Path(os.environ.get("WORKBENCH_RUNS", "runs"))
        short = re.sub(r"[^a-z0-9]+", "-", recipe.title().lower()).strip("-")[:40]
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{short or 'run'}"
        names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
        path = next(root / name for name in names if not (root / name).exists())
    else:
        path = Path(folder)
        if (path / "recipe.yaml").exists():
            raise WorkbenchError(
                f"{folder} holds a run already; choose another folder, or go on with "
                f"wb.attach({str(folder)!r}).resume()."
            )
    kept = RunFolder(path.resolve())
    try:
        kept.path.mkdir(parents=True, exist_ok=True)
        kept.write_recipe(recipe)
    except OSError as error:
        raise WorkbenchError(
            f"Can't make the run's folder {path} ({error.strerror}); give folder=… on a disk with room "
            "that you may write to."
        ) from error
    return kept
