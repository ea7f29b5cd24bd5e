r"""MATH: competition problems; the reference is the ``\boxed{}`` part of a solution.

The default is a sample of our own problems in the same form, so that it works without a network.
For a published one: ``make_task("math", source="HuggingFaceH4/MATH-500")``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from workbench.tasks.base import Row
from workbench.tasks.grading import last_boxed
from workbench.tasks.source import SourceTask
from workbench.variants import WorkbenchError

# Some published solutions write \fbox{7} or, without braces, \boxed 7.
_BARE = re.compile(r"\\boxed\s+([^\s${}\\]+)")


@dataclass(frozen=True)
class Maths(SourceTask):
    r"""Problems with a formula in \boxed{} as the answer, such as "HuggingFaceH4/MATH-500"."""

    name: ClassVar[str] = "math"
    sample: ClassVar[str] = "math.sample.jsonl"

    prompt_column: str = "problem"
    answer_column: str = "solution"
    instruction: str = r"Reason step by step. Put the final answer in \boxed{}."

    def reference(self, row: Row) -> str:
        r"""What is in the solution's last ``\boxed{}``, ``\fbox{}`` or ``\boxed 7``."""
        solution = str(row[self.answer_column])
        boxed = last_boxed(solution.replace(r"\fbox{", r"\boxed{"))
        boxed = boxed or next(reversed(_BARE.findall(solution)), "")
        if not boxed:
            raise WorkbenchError(
                f"{self.answer_column!r} has no \\boxed{{answer}}; "
                "use the task jsonl with match='math' for bare answers."
            )
        return boxed
