"""The tasks: data with a train and an eval split, prompts, and a checker each."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from workbench.tasks.arithmetic import Arithmetic
from workbench.tasks.base import SPLITS, Task
from workbench.tasks.countdown import Countdown
from workbench.tasks.gsm8k import Gsm8k
from workbench.tasks.instructions import Instructions
from workbench.tasks.jsonl import Jsonl
from workbench.tasks.maths import Maths
from workbench.tasks.questions import Questions
from workbench.variants import WorkbenchError, lookup, unknown

TASKS: dict[str, Task] = {
    "countdown": Countdown(),
    "arithmetic": Arithmetic(),
    "gsm8k": Gsm8k(),
    "math": Maths(),
    "jsonl": Jsonl(),
    "questions": Questions(),
    "instructions": Instructions(),
}


def make_task(name: str, **arguments: Any) -> Task:
    """The task `name` with some of its fields changed: `make_task("countdown", numbers=4)`."""
    task = lookup(TASKS, "task", name)
    known = [field.name for field in fields(task)]
    for argument in arguments:
        if argument not in known:
            raise WorkbenchError(unknown(f"parameter of {name}", argument, known))
    return replace(task, **arguments)


__all__ = ["SPLITS", "TASKS", "Arithmetic", "Countdown", "Questions", "Task", "make_task"]
