"""The workbench in a notebook: controls, live curves and rollouts around a run.

`ui = wb.panel(recipe); ui` shows it: making it does not. It needs ipywidgets, and anywidget for the
live curves; without anywidget it says so and shows a table instead.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from workbench.panel.bench import Panel
from workbench.recipe import Recipe
from workbench.sharing import LINK
from workbench.variants import WorkbenchError

__all__ = ["Panel", "panel"]


def panel(recipe_or_run: Any = None, *more_runs: Any) -> Panel:
    """A panel for a new run of a recipe (default: the default recipe), or around runs.

    Args:
        recipe_or_run: a Recipe, or the link of one ("workbench:…"), or a Run: one that is going, or a
            finished, stopped or killed one from ``wb.attach(folder)``.
        more_runs: further runs for the same curves, four in all; buttons and controls act on the last.
    """
    if recipe_or_run is None:
        return Panel(Recipe())
    if isinstance(recipe_or_run, str) and recipe_or_run.strip().startswith(LINK):
        recipe_or_run = Recipe.from_link(recipe_or_run)
    if isinstance(recipe_or_run, Recipe) and not more_runs:
        return Panel(recipe_or_run)
    runs = (recipe_or_run, *more_runs)
    for run in runs:
        if not hasattr(run, "metrics"):
            raise WorkbenchError(
                f"panel() was given {type(run).__name__}; give a Recipe, a Run or several, or nothing "
                "(for a run's folder: wb.panel(wb.attach(folder)))."
            )
    return Panel(runs[0].recipe, *runs)


class _Callable(ModuleType):
    """Once this package is imported, its name in ``workbench`` is the package, not the function."""

    def __call__(self, recipe_or_run: Any = None, *more_runs: Any) -> Panel:
        return panel(recipe_or_run, *more_runs)


sys.modules[__name__].__class__ = _Callable
