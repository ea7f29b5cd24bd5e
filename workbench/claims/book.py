"""Book: the JSON file of a claim, into which this process and others write their cells."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from workbench.claims import results
from workbench.claims.plan import Claim
from workbench.claims.results import BASE
from workbench.packaged import PACKAGE, in_checkout
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError

try:
    import fcntl
except ImportError:  # Windows: there, let one process at a time write into a folder
    fcntl = None  # type: ignore[assignment]


CONTENTS = ("base", "arms", "threads", "geometry")  # of the file; the rest is its header


@dataclass(frozen=True)
class Near:
    """A cell's distances (N, K) to the entropy centres that `centres` is the fingerprint of."""

    centres: str
    rows_NK: list[list[float]]


class Book:
    """The file at `path`.

    Every change reads it again under a lock, so that no process loses another's cells.
    """

    def __init__(self, path: Path, claim: Claim, commit: str, fresh: bool = False) -> None:
        self.path = path
        self.claim = claim
        self.commit = commit
        self.fresh = fresh
        self._added: set[tuple[str, int]] = set()  # by this process
        self._settings = results.rounded(claim.base_settings())
        found = results.read(path)
        if found is not None and not fresh:
            self._check(found)

    def _check(self, found: results.Result) -> None:
        if found.get("base", {}).get("settings") != self._settings:
            raise WorkbenchError(
                f"{self.path} was measured with another base, task or evaluation; give another --out, "
                "or --fresh to replace it."
            )

    def base(self) -> tuple[np.ndarray | None, set[int]]:
        """The base's successes per prompt, and the seeds it was sampled anew for."""
        found = None if self.fresh else results.read(self.path)
        if found is None:
            return None, set()
        self._check(found)
        return np.array(found["base"]["successes"]), set(results.cells_of(found, BASE))

    def has(self, recipe: Recipe, arm: str, seed: int) -> bool:
        """True when the file holds this cell, measured with this recipe."""
        found = results.read(self.path)
        if (
            found is None
            or arm not in found["arms"]
            or (self.fresh and (arm, seed) not in self._added)
        ):
            return False
        kept = found["arms"][arm]
        return kept["link"] == recipe.to_link() and any(c["seed"] == seed for c in kept["cells"])

    def set_base(self, metrics: dict[str, float], successes_P: np.ndarray) -> None:
        """Write the base's measures; cells that were compared with another base are dropped."""

        def change(result: results.Result) -> None:
            kept = result.get("base")
            if (
                kept
                and kept["settings"] == self._settings
                and np.array_equal(kept["successes"], successes_P)
            ):
                return  # another process was first
            result["base"] = {
                "model": self._settings["model"],
                "settings": self._settings,
                "metrics": metrics,
                "successes": successes_P.tolist(),
                "cells": [],
            }
            result["arms"] = {}
            result.pop("geometry", None)

        self._amend(change)

    def add_base_cell(self, seed: int, metrics: dict[str, float]) -> None:
        """Write the base's measures with one seed's noise."""
        self._amend(lambda result: _put(result["base"], {"seed": seed, "metrics": metrics}))

    def add_cell(self, recipe: Recipe, arm: str, cell: dict[str, Any]) -> None:
        """Write one cell; an arm's cells of another recipe are dropped, and what was judged without it."""
        self._added.add((arm, cell["seed"]))
        threads = cell.pop("threads", 1)

        def change(result: results.Result) -> None:
            self._check(result)
            fresh_arm = {
                "note": self.claim.notes.get(arm, ""),
                "recipe": self.claim.arms[arm],
                "link": recipe.to_link(),
                "cells": [],
            }
            kept = result["arms"].get(arm)
            if kept is None or kept["link"] != fresh_arm["link"]:
                result["arms"][arm] = kept = fresh_arm
            kept["note"] = fresh_arm["note"]
            _put(kept, cell | {"commit": self.commit})
            result["threads"] = threads
            result.pop("geometry", None)

        self._amend(change)

    def set_geometry(
        self, seen: results.Result, near: Mapping[tuple[str, int], Near], geometry: results.Result
    ) -> bool:
        """Write what was judged of the result `seen`, and its cells' distances to the centres.

        False, and nothing but the distances written, where another process has changed cells meanwhile.
        """
        before = _plain_cells(seen)

        def change(result: results.Result) -> None:
            now = _plain_cells(result)
            for arm, holder in result["arms"].items():
                for cell in holder["cells"]:
                    key = (arm, cell["seed"])
                    if key in near and now[key] == before.get(key):
                        cell["probes"]["near"] = near[key].rows_NK
                        cell["centres"] = near[key].centres
            if now == before:
                result["geometry"] = geometry

        return "geometry" in self._amend(change, measured=False)

    def _amend(
        self, change: Callable[[results.Result], None], measured: bool = True
    ) -> results.Result:
        """Read, change and write under the lock; with `measured` the header tells of this process."""
        with _lock(self.path.parent):
            old = results.read(self.path) or {}
            result = {key: old[key] for key in CONTENTS if key in old}
            change(result)
            arms = result["arms"]
            order = [arm for arm in self.claim.arms if arm in arms]
            result["arms"] = {arm: arms[arm] for arm in dict.fromkeys((*order, *arms))}
            result = (self._header() if measured else _without(old, CONTENTS)) | result
            results.summarise(result)
            results.write(self.path, result)
        return result

    def _header(self) -> results.Result:
        return {
            "name": self.claim.name,
            "title": self.claim.title,
            "questions": list(self.claim.questions),
            "commit": self.commit,
            "date": time.strftime("%Y-%m-%d"),
            "versions": {
                "workbench": version("rlvr-workbench"),
                "python": platform.python_version(),
                "torch": version("torch"),
                "transformers": version("transformers"),
            },
            "threads": 1,
            "evaluation": self.claim.evaluation,
            "compare": [list(pair) for pair in self.claim.compare],
        }


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def _plain_cells(result: results.Result) -> dict[tuple[str, int], dict[str, Any]]:
    """The cells by arm and seed, without what judging adds to them."""
    return {
        (arm, cell["seed"]): _without(cell, ("centres", "probes"))
        | {"probes": _without(cell.get("probes", {}), ("near",)), "link": holder["link"]}
        for arm, holder in result["arms"].items()
        for cell in holder["cells"]
    }


def _put(holder: dict[str, Any], cell: dict[str, Any]) -> None:
    """Add a cell in the place of the one with its seed, in the order of seeds."""
    others = [kept for kept in holder["cells"] if kept["seed"] != cell["seed"]]
    holder["cells"] = sorted([*others, cell], key=lambda kept: kept["seed"])


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder alone; the lock is on the folder itself and leaves no file behind."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def commit() -> str:
    """The commit of the checkout, "+changes" where files differ from it; else the package's version."""
    if in_checkout():
        try:
            head = _git("describe", "--always", "--abbrev=12")
            changed = _git(
                "status", "--porcelain", "--untracked-files=no", "--", ".", ":!data/results"
            )
            return head + ("+changes" if changed else "")
        except (OSError, subprocess.CalledProcessError):
            pass
    return version("rlvr-workbench")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]  # a fixed program, found on the path
    done = subprocess.run(  # noqa: S603
        command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
