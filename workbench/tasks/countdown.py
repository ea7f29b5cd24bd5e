"""Countdown: reach a target from given numbers, each used exactly once. Many answers are right."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from workbench.tasks._drawn import check_prompt, check_whole, drawn_rows, unwrapped
from workbench.tasks._expression import ExpressionError, Term, evaluate
from workbench.tasks.base import (
    NO_ANSWER,
    QUOTED,
    RIGHT,
    UNREAD,
    Message,
    Row,
    check_split,
    quoted,
)

if TYPE_CHECKING:
    from datasets import Dataset

TIMES = ("not at all", "once", "twice", "three times", "four times")
MOST_NAMED = 4  # numbers that one part of an explanation names


@dataclass(frozen=True)
class Countdown:
    """Make the target from all the numbers with + - * /; any right expression counts."""

    name: ClassVar[str] = "countdown"

    numbers: int = 3
    """How many numbers a problem has."""
    largest: int = 9
    """Numbers are drawn from 1 to this."""
    largest_target: int = 99
    """No target, and no intermediate result of the solution it was drawn from, is above this."""
    rows: int = 1536
    """Problems in the train split."""
    eval_rows: int = 224
    """Problems in the eval split."""
    seed: int = 0
    """Which problems are drawn; a problem's split does not depend on it."""
    prompt: str = "Make {target} from {numbers}"
    """The words of the prompt. The tiny models know only the default ones."""

    def __post_init__(self) -> None:
        check_whole(self.name, 2, numbers=self.numbers)
        check_whole(
            self.name, 1, largest=self.largest, largest_target=self.largest_target,
            rows=self.rows, eval_rows=self.eval_rows,
        )  # fmt: skip
        check_whole(self.name, 0, seed=self.seed)
        check_prompt(self.name, self.prompt, ("target", "numbers"))

    def dataset(self, split: str) -> Dataset:
        """Different problems, each solvable; the splits share no (numbers, target)."""
        check_split(split)
        count = self.rows if split == "train" else self.eval_rows
        return drawn_rows(self, split, count)

    def draw(self, rng: random.Random) -> tuple[str, Row, Term]:
        """A problem's canonical key, its row, and the solution it was drawn from."""
        while True:
            numbers = [rng.randint(1, self.largest) for _ in range(self.numbers)]
            solution = self.attempt(numbers, rng)
            if solution is not None and solution.value > 0:
                row = {"numbers": numbers, "target": solution.value}
                return f"{sorted(numbers)}->{solution.value}", row, solution

    def attempt(self, numbers: list[int], rng: random.Random) -> Term | None:
        """A calculation with all of `numbers`, joined at random; None where it leaves the range."""
        terms = [Term(number) for number in numbers]
        while len(terms) > 1:
            rng.shuffle(terms)
            # The larger first: one way to write a sum, and no negative differences.
            right, left = sorted((terms.pop(), terms.pop()), key=lambda term: term.value)
            joins = (Term.join(left, operator, right) for operator in rng.sample("+-*/", 4))
            inside = (term for term in joins if term and term.value <= self.largest_target)
            joined = next(inside, None)
            if joined is None:
                return None
            terms.append(joined)
        return terms[0]

    def messages(self, row: Row) -> list[Message]:
        """One user message with the target and the numbers."""
        numbers = " ".join(map(str, row["numbers"]))
        content = self.prompt.format(target=row["target"], numbers=numbers)
        return [{"role": "user", "content": content}]

    def answer(self, completion: str) -> str:
        """The expression: what follows the thinking, without answer tags and a closing `= 24`."""
        return _expression_and_claim(completion)[0]

    def same(self, one: str, two: str) -> bool:
        """The same value from the same numbers: what the checker looks at, so 2*3+1 is 1+3*2."""
        try:
            left, right = evaluate(one), evaluate(two)
        except ExpressionError:
            return False
        return left.value == right.value and sorted(left.numbers) == sorted(right.numbers)

    def score(self, row: Row, completion: str) -> float:
        """1.0 for an expression that uses each number exactly once and makes the target."""
        expression, claim = _expression_and_claim(completion)
        if claim and claim != str(row["target"]):
            return 0.0
        try:
            parsed = evaluate(expression)
        except ExpressionError:
            return 0.0
        right = parsed.value == row["target"]
        return float(right and sorted(parsed.numbers) == sorted(row["numbers"]))

    def explain(self, row: Row, completion: str) -> str:
        """What the expression makes and which numbers it uses, where that is not what was asked."""
        expression, claim = _expression_and_claim(completion)
        if not expression:
            return NO_ANSWER
        try:
            parsed = evaluate(expression)
        except ExpressionError as error:
            return f"{UNREAD}expression can be read: {error}"
        wanted, made = str(row["target"]), _quantity(parsed.value)
        faults = _misused(parsed.numbers, row["numbers"])
        if claim not in ("", made):
            faults.insert(0, f"claims {quoted(claim)} but makes {made}")
        elif made != wanted:
            faults.insert(0, f"makes {made}, wanted {wanted}")
        return "; ".join(faults) or f"{RIGHT}: makes {wanted}"


def _quantity(value: Fraction) -> str:
    """A number for a sentence; of one with many digits only how many."""
    text = str(value)
    return text if len(text) <= QUOTED else f"a number of {len(text)} digits"


def _times(count: int) -> str:
    return TIMES[count] if count < len(TIMES) else "many times"


def _misused(used: Sequence[int], given: Sequence[int]) -> list[str]:
    """Which numbers are not used as often as they are given, as parts of a sentence."""
    counts, wanted = Counter(used), Counter(given)
    wrong = [
        f"{number} {_times(counts[number])}"
        + (f" instead of {_times(often)}" if often > 1 and counts[number] else "")
        for number, often in wanted.items()
        if counts[number] != often
    ]
    foreign = [str(number) for number in counts if number not in wanted]
    found = [f"uses {_listed(wrong)}"] if wrong else []
    return [*found, f"uses {_listed(foreign)}, not given"] if foreign else found


def _listed(parts: Sequence[str]) -> str:
    return ", ".join([*parts[:MOST_NAMED], *(["…"] if len(parts) > MOST_NAMED else [])])


def _expression_and_claim(completion: str) -> tuple[str, str]:
    """`3*7-2` and `19` from an answer `3*7-2 = 19.`; the claim is empty where none is made."""
    text = unwrapped(completion).removesuffix(".")
    expression, equals, claim = text.rpartition("=")
    return (expression.strip(), claim.strip()) if equals else (text, "")
