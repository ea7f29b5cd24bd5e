"""Runs: start one, or find it again by its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workbench.folder import RunFolder, read_checkpoint_recipe
from workbench.library import new_folder
from workbench.recipe import Recipe
from workbench.run import HERE, Listener, Run
from workbench.variants import WorkbenchError


def train(
    recipe: Recipe,
    *,
    folder: str | os.PathLike[str] | None = None,
    blocking: bool = False,
    listeners: Iterable[Listener] = (),
) -> Run:
    """Start training `recipe` in the background and return its Run at once.

    Args:
        folder: where the run is kept; by default a new folder under ``runs/`` (or $WORKBENCH_RUNS).
        blocking: wait until it has finished, for scripts and tests; raises what the run raised.
        listeners: called with (run, record) after each step's record is on the disk.

    Raises:
        WorkbenchError: the folder can't be made, or holds a run already.
    """
    run = Run(new_folder(recipe, folder), recipe, listeners=listeners)
    run._launch()
    return run.wait() if blocking else run


def attach(folder: str | os.PathLike[str], functions: Iterable[Callable[..., Any]] = ()) -> Run:
    """The run kept in `folder`: the very Run if it was started here, read-only if alive elsewhere.

    A finished, stopped, failed or killed run can be looked at, and `resume` goes on from its last whole
    checkpoint. `functions` are your own rewards or variants that its recipe names.
    """
    path = Path(folder).resolve()
    if path in HERE:
        return HERE[path]
    if not (path / "recipe.yaml").is_file():
        raise WorkbenchError(f"{folder} is not the folder of a run: it has no recipe.yaml.")
    kept = RunFolder(path)
    checkpoints = kept.checkpoints()
    if checkpoints:
        recipe = read_checkpoint_recipe(checkpoints[-1], functions)
    else:
        recipe = Recipe.from_yaml(kept.read_recipe_text(), functions)
    return Run(kept, recipe, functions=functions)
