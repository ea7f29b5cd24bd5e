"""GSM8K: school word problems; the reference's number stands after ``####``.

The default is a sample of our own problems in the same form, so that it works without a network.
For the published data set: ``make_task("gsm8k", source="openai/gsm8k", subset="main")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from workbench.tasks.base import Row
from workbench.tasks.source import SourceTask
from workbench.variants import WorkbenchError


@dataclass(frozen=True)
class Gsm8k(SourceTask):
    """Word problems with one number as the answer; source="openai/gsm8k" for the published ones."""

    name: ClassVar[str] = "gsm8k"
    sample: ClassVar[str] = "gsm8k.sample.jsonl"

    prompt_column: str = "question"
    instruction: str = "Reason step by step. End with #### and the number."

    def reference(self, row: Row) -> str:
        """The number after the last ``####``."""
        _, mark, number = str(row[self.answer_column]).rpartition("####")
        if not mark or not number.strip():
            raise WorkbenchError(
                f"{self.answer_column!r} has no '#### number' at its end; "
                "use the task jsonl for another form of answer."
            )
        return number.strip()
