"""Runs: start one, find it again by its folder, list them all."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from workbench import comparing
from workbench.folder import RunFolder, read_checkpoint_recipe
from workbench.library import Deleted, glance, new_folder, run_folders, runs_root, started
from workbench.recipe import Recipe
from workbench.run import HERE, Listener, Run
from workbench.trackers import check_tracker
from workbench.variants import WorkbenchError, name_of

COLUMNS = (
    *("name", "status", "task", "objective", "step", "steps", "pass@1 first", "pass@1 now"),
    *("tags", "started", "note"),
)
TEXTS = ("status", "task", "objective", "tags", "note")
COUNTS, SHARES = ("step", "steps"), ("pass@1 first", "pass@1 now")
UNREADABLE = "unreadable"
# What a damaged file of a run may raise, besides what says itself how to mend it.
DAMAGED = (OSError, ValueError, TypeError, KeyError, AttributeError)


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
        WorkbenchError: the folder can't be made, or holds a run already; the tracker's package is missing.
    """
    check_tracker(recipe.tracker)
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


def runs(
    folder: str | os.PathLike[str] | None = None, functions: Iterable[Callable[..., Any]] = ()
) -> RunList:
    """The runs in and below `folder`, by default ``runs/`` (or $WORKBENCH_RUNS), newest first.

    Folders that can't be read as a run are left out of the list and named in its table, with the reason.
    `functions` are your own rewards or variants that the recipes name.
    """
    root = runs_root() if folder is None else Path(folder)
    if folder is not None and not root.is_dir():
        raise WorkbenchError(f"There is no folder {folder}; give one that holds runs.")
    functions = tuple(functions)
    found, unreadable = [], {}
    for path in run_folders(root):
        run, why = told(lambda path=path: attach(path, functions))
        if not why:
            _, why = told(lambda run=run: summary(run))  # the table has to be able to read it too
        if why:
            unreadable[path] = why
        else:
            found.append(run)
    return RunList(found, root, unreadable)


def told(read: Callable[[], Any]) -> tuple[Any, str]:
    """What `read` gives, and "", or None and why it can't be read."""
    try:
        return read(), ""
    except WorkbenchError as error:
        return None, str(error)
    except DAMAGED as error:
        return None, f"A file of this run is damaged ({type(error).__name__}: {error})."


def summary(run: Run) -> dict[str, Any]:
    """What the list of runs tells of one, read from its folder in a moment."""
    recipe, seen = run.recipe, glance(run.path)
    return {
        "status": run.status,
        "task": recipe.task,
        "objective": name_of(recipe.objective),
        "step": seen["step"],
        "steps": recipe.steps,
        "pass@1 first": seen["first"],
        "pass@1 now": seen["now"],
        "tags": ", ".join(run.tags),
    }


class RunList(list):
    """A list of Runs, newest first, that shows itself as a table; made by `runs`.

    Attributes:
        root: the folder they are in or below.
        unreadable: folder -> why it can't be read as a run.
    """

    def __init__(self, found: Iterable[Run], root: Path, unreadable: dict[Path, str]) -> None:
        super().__init__(found)
        self.root, self.unreadable = root, unreadable

    @property
    def table(self) -> pd.DataFrame:
        """A row for each run and each unreadable folder, as they are now, newest first.

        Columns: name, status, task, objective, step, steps, pass@1 first, pass@1 now, tags, started, note.
        """
        rows = []
        for run in self:
            if not isinstance(run.folder, Deleted):
                found, why = told(lambda run=run: summary(run))
                rows.append((run.path, found or {"status": UNREADABLE, "note": why}))
        for path, why in self.unreadable.items():
            rows.append((path, {"status": UNREADABLE, "note": why}))
        known = [
            {"name": self._place(path), "started": pd.Timestamp.fromtimestamp(started(path))}
            | dict.fromkeys(TEXTS, "")
            | row
            for path, row in rows
            if path.exists()
        ]
        table = pd.DataFrame(known, columns=list(COLUMNS))
        table = table.sort_values("started", ascending=False, kind="stable", ignore_index=True)
        numbers = dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(SHARES, float)
        return table.astype(numbers | {"started": "datetime64[ns]"})

    def _place(self, path: Path) -> str:
        root = self.root.resolve()
        inside = path.resolve() != root and path.resolve().is_relative_to(root)
        return path.resolve().relative_to(root).as_posix() if inside else path.name

    def __repr__(self) -> str:
        table = self.table
        return comparing.aligned(*listing(table)) if len(table) else self._nothing()

    __str__ = __repr__

    def _repr_html_(self) -> str:
        table = self.table
        if len(table):
            return comparing.html_table(*listing(table))
        return f"<p>{html.escape(self._nothing())}</p>"

    def _nothing(self) -> str:
        return f"No runs below {self.root} yet; wb.train(wb.Recipe()) starts one."


def listing(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The table of `RunList` to read: a head and rows of texts, short where a run can't be read."""
    head = ["name", "status", "step", "pass@1", "task", "objective", "tags", "started"]
    rows = []
    for row in table.to_dict("records"):
        if row["note"]:
            rows.append([row["name"], row["status"], row["note"]])
            continue
        first, now = row["pass@1 first"], row["pass@1 now"]
        shown = row | {
            "step": f"{row['step']} of {row['steps']}",
            "pass@1": f"{first:.3f} → {now:.3f}" if now == now else "",  # NaN is no share
            "started": f"{row['started']:%Y-%m-%d %H:%M}",
        }
        rows.append([shown[name] for name in head])
    return head, rows


class _Callable(ModuleType):
    """Once this module is imported, its name in ``workbench`` is the module, not the function."""

    def __call__(
        self, folder: str | os.PathLike[str] | None = None, functions: Iterable[Any] = ()
    ) -> RunList:
        return runs(folder, functions)


sys.modules[__name__].__class__ = _Callable
