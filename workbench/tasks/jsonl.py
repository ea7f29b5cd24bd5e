"""Any file or hub dataset with a column of prompts and a column of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from workbench.tasks.base import Row, after_thinking
from workbench.tasks.grading import last_number
from workbench.tasks.source import SourceTask
from workbench.variants import WorkbenchError, unknown

MATCHES = ("exact", "number", "math")


@dataclass(frozen=True)
class Jsonl(SourceTask):
    """Your own problems: a JSONL or Parquet file, or a hub name, with prompt and answer columns."""

    name: ClassVar[str] = "jsonl"
    sample: ClassVar[str] = "jsonl.sample.jsonl"

    match: str = "exact"
    """exact: the same text; number: the same last number; math: the same value as a formula."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.match not in MATCHES:
            raise WorkbenchError(unknown(f"{self.name}.match", self.match, MATCHES))

    def reference(self, row: Row) -> str:
        """The answer column's text."""
        text = super().reference(row)
        if self.match == "number" and last_number(text) is None:
            raise WorkbenchError(
                f"{self.answer_column!r} has no number; use match='exact' or 'math'."
            )
        return text

    def score(self, row: Row, completion: str) -> float:
        """1.0 where the answer matches the reference in the way `match` says."""
        if self.match == "math":
            return super().score(row, completion)
        reference, answer = self.reference(row), self.answer(completion)
        if self.match == "number":
            return float(last_number(reference) == last_number(answer))
        return float(_squeezed(reference) == _squeezed(answer))

    def same(self, one: str, two: str) -> bool:
        """Whether two answers match each other in the way `match` says."""
        if self.match == "math":
            return super().same(one, two)
        if self.match == "number":
            number = last_number(one)
            return number is not None and number == last_number(two)
        return bool(_squeezed(one)) and _squeezed(one) == _squeezed(two)

    def answer(self, completion: str) -> str:
        """The text after the thinking; for match='math' its final answer."""
        return super().answer(completion) if self.match == "math" else after_thinking(completion)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
