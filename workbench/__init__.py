"""The workbench: reinforcement learning with verifiable rewards on small models, seen as it happens.

import workbench as wb

The names below are loaded on first use: ``import workbench`` needs neither torch nor widgets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.anchors import ANCHORS
    from workbench.crossing import cross_generation
    from workbench.evaluation import evaluate, pass_at_k
    from workbench.models import load_policy
    from workbench.objectives import OBJECTIVES
    from workbench.panel import panel
    from workbench.recipe import Recipe
    from workbench.rewards import REWARDS
    from workbench.runs import attach, runs, train
    from workbench.surrogates import SURROGATES
    from workbench.tasks import TASKS
    from workbench.variants import WorkbenchError
    from workbench.watch import Guard, verdict

# Public name -> the module it lives in.
_HOMES = {
    "ANCHORS": "anchors",
    "Guard": "watch",
    "OBJECTIVES": "objectives",
    "REWARDS": "rewards",
    "SURROGATES": "surrogates",
    "TASKS": "tasks",
    "Recipe": "recipe",
    "WorkbenchError": "variants",
    "attach": "runs",
    "cross_generation": "crossing",
    "evaluate": "evaluation",
    "load_policy": "models",
    "panel": "panel",
    "pass_at_k": "evaluation",
    "runs": "runs",
    "train": "runs",
    "verdict": "watch",
}

__all__ = [
    "ANCHORS",
    "OBJECTIVES",
    "REWARDS",
    "SURROGATES",
    "TASKS",
    "Guard",
    "Recipe",
    "WorkbenchError",
    "attach",
    "cross_generation",
    "evaluate",
    "load_policy",
    "panel",
    "pass_at_k",
    "runs",
    "train",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rlvr-workbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(importlib.import_module(f"workbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
