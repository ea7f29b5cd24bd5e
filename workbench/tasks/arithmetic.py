"""Arithmetic: a nested expression with one right answer, a whole number."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.tasks._drawn import check_prompt, check_whole, drawn_rows, unwrapped
from workbench.tasks._expression import Term
from workbench.tasks.base import NO_ANSWER, RIGHT, UNREAD, Message, Row, check_split, quoted
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from datasets import Dataset

_INTEGER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True)
class Arithmetic:
    """Compute an expression such as (3+4)*2-5; one whole number is right."""

    name: ClassVar[str] = "arithmetic"

    fewest: int = 3
    """The least number of operands."""
    most: int = 4
    """The largest number of operands."""
    largest: int = 9
    """Operands are drawn from 1 to this."""
    largest_result: int = 99
    """Every intermediate result lies between 0 and this."""
    rows: int = 2048
    """Problems in the train split."""
    eval_rows: int = 256
    """Problems in the eval split."""
    seed: int = 0
    """Which problems are drawn; a problem's split does not depend on it."""
    prompt: str = "Compute {expression}"
    """The words of the prompt. The tiny models know only the default ones."""

    def __post_init__(self) -> None:
        check_whole(self.name, 2, fewest=self.fewest, most=self.most)
        check_whole(
            self.name, 1, largest=self.largest, largest_result=self.largest_result,
            rows=self.rows, eval_rows=self.eval_rows,
        )  # fmt: skip
        check_whole(self.name, 0, seed=self.seed)
        check_prompt(self.name, self.prompt, ("expression",))
        if self.fewest > self.most:
            raise WorkbenchError(
                f"arithmetic.fewest is {self.fewest}; give at most arithmetic.most, {self.most}."
            )

    def dataset(self, split: str) -> Dataset:
        """Different expressions; the splits share none."""
        check_split(split)
        count = self.rows if split == "train" else self.eval_rows
        return drawn_rows(self, split, count)

    def draw(self, rng: random.Random) -> tuple[str, Row, Term]:
        """A problem's canonical key (the expression), its row, and the expression as a tree."""
        while True:
            term = self._grow(rng.randint(self.fewest, self.most), rng)
            if term is not None:
                row = {"expression": str(term), "answer": term.value}
                return row["expression"], row, term

    def _grow(self, operands: int, rng: random.Random) -> Term | None:
        """A random tree with `operands` leaves; None where a result leaves the range."""
        if operands == 1:
            return Term(rng.randint(1, self.largest))
        left_size = rng.randint(1, operands - 1)
        left, right = self._grow(left_size, rng), self._grow(operands - left_size, rng)
        if left is None or right is None:
            return None
        joined = Term.join(left, rng.choice("+-*"), right)
        inside = joined is not None and 0 <= joined.value <= self.largest_result
        return joined if inside else None

    def messages(self, row: Row) -> list[Message]:
        """One user message with the expression."""
        return [{"role": "user", "content": self.prompt.format(expression=row["expression"])}]

    def answer(self, completion: str) -> str:
        """The number: what follows the thinking, the answer tag and the last `=`, if any."""
        return unwrapped(completion).removesuffix(".").rsplit("=", 1)[-1].strip()

    def same(self, one: str, two: str) -> bool:
        """The same whole number."""
        readable = _INTEGER.fullmatch(one) and _INTEGER.fullmatch(two)
        return bool(readable) and int(one) == int(two)

    def score(self, row: Row, completion: str) -> float:
        """1.0 where the answer is the expression's value."""
        answer = self.answer(completion)
        return float(bool(_INTEGER.fullmatch(answer)) and int(answer) == row["answer"])

    def explain(self, row: Row, completion: str) -> str:
        """What the answer says and what it is."""
        answer = self.answer(completion)
        if not answer:
            return NO_ANSWER
        if not _INTEGER.fullmatch(answer):
            return f"{UNREAD}whole number can be read in {quoted(answer)}"
        if int(answer) == row["answer"]:
            return f"{RIGHT}: it is {row['answer']}"
        return f"says {answer}, it is {row['answer']}"
