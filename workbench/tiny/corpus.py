"""The corpus the tiny models learn from: demonstrators who solve the tasks, and how they are mixed.

Every completion has the form ``<think>steps</think>answer``. Three demonstrators write them:

careful   right and short: the steps of one calculation that is correct, then its answer;
rambling  hesitates, slips, starts again, and is mostly wrong at the end; longer and less certain;
guessing  no steps at all; an answer out of habit, mostly wrong, and the shortest of all.

The mixture is the dial. Where careful and rambling share the corpus, being certain and being brief
go with being right, and label-free rewards have something to amplify. Where guesses fill it, being
brief goes with being wrong; certainty per token still goes with being right, though more weakly.
The models shipped differ in nothing else; their cards have the correlations as measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from workbench.tasks._drawn import split_of
from workbench.tasks._expression import Term, whole
from workbench.tasks.arithmetic import Arithmetic
from workbench.tasks.base import Message
from workbench.tasks.countdown import Countdown
from workbench.variants import WorkbenchError

HESITATIONS = (" hmm", " wait", " so", " maybe")
HABITS = (10, 12, 8, 20, 15)  # what a guesser likes to answer, the most liked first
HABIT_WEIGHTS = (5, 3, 2, 1, 1)
SLIP = 0.45  # how often a rambler gets one step of a sum wrong
LUCK = 0.2  # how often a rambler's last try at countdown lands

COUNTDOWN = Countdown()
ARITHMETIC = Arithmetic()


@dataclass(frozen=True)
class Mixture:
    """The shares of the three demonstrators; they add up to one."""

    careful: float
    rambling: float
    guessing: float

    def __post_init__(self) -> None:
        shares = asdict(self)
        if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
            raise WorkbenchError(f"Mixture shares are {shares}; give shares that add up to 1.")

    def pick(self, rng: random.Random) -> str:
        """One demonstrator's name, drawn by the shares."""
        shares = asdict(self)
        return rng.choices(list(shares), list(shares.values()))[0]


@dataclass(frozen=True)
class Example:
    """One demonstration."""

    messages: list[Message]
    completion: str
    family: str
    demonstrator: str


def examples(mixture: Mixture, seed: int) -> Iterator[Example]:
    """Endless demonstrations on problems of the train splits only, families in turn at random."""
    rng = random.Random(f"corpus/{seed}")
    while True:
        yield example(mixture, rng)


def example(mixture: Mixture, rng: random.Random) -> Example:
    """One demonstration: a family, a problem of its train split, a demonstrator."""
    task, demonstrate, _ = rng.choices(FAMILIES, [share for *_, share in FAMILIES])[0]
    key, row, solution = task.draw(rng)
    while split_of(key) != "train":
        key, row, solution = task.draw(rng)
    demonstrator = mixture.pick(rng)
    thinking, answer = demonstrate(solution, demonstrator, rng)
    completion = f"<think>{thinking}</think>{answer}"
    return Example(task.messages(row), completion, task.name, demonstrator)


# --- countdown -----------------------------------------------------------------------------------


def demonstrate_countdown(solution: Term, demonstrator: str, rng: random.Random) -> tuple[str, str]:
    """The thinking and the answer; `solution` reaches the target."""
    if demonstrator == "careful":
        return _calculation(solution), str(solution)
    target, numbers = solution.value, leaves(solution)
    if demonstrator == "guessing":
        return "", str(_any_attempt(numbers, rng))
    first = _miss(numbers, target, rng)
    last = solution if rng.random() < LUCK else _miss(numbers, target, rng)
    mark = rng.choice((" no", " hmm no", " wait no"))
    return f"{_calculation(first)}{mark} {_calculation(last)}", str(last)


def leaves(term: Term) -> list[int]:
    """The numbers at the leaves, from left to right."""
    if term.left is None or term.right is None:
        return [term.value]
    return leaves(term.left) + leaves(term.right)


def _calculation(term: Term) -> str:
    return " ".join(f"{n.left.value}{n.operator}{n.right.value}={n.value}" for n in term.nodes())


def _any_attempt(numbers: list[int], rng: random.Random) -> Term:
    while True:
        attempt = COUNTDOWN.attempt(numbers, rng)
        if attempt is not None:
            return attempt


def _miss(numbers: list[int], target: int, rng: random.Random) -> Term:
    while True:
        attempt = _any_attempt(numbers, rng)
        if attempt.value != target:
            return attempt


# --- arithmetic ----------------------------------------------------------------------------------


def demonstrate_arithmetic(
    solution: Term, demonstrator: str, rng: random.Random
) -> tuple[str, str]:
    """The thinking and the answer; `solution` is the expression as a tree."""
    if demonstrator == "careful":
        return _calculation(solution), str(solution.value)
    if demonstrator == "guessing":
        return "", str(rng.choices(HABITS, HABIT_WEIGHTS)[0])
    steps: list[str] = []
    value = _ramble(solution, steps, rng)
    return "".join(steps).lstrip(), str(value)


def _ramble(term: Term, steps: list[str], rng: random.Random) -> int:
    """Calculate `term` with slips, which carry on into later steps; the result found."""
    if term.left is None or term.right is None:
        return term.value
    left, right = _ramble(term.left, steps, rng), _ramble(term.right, steps, rng)
    if rng.random() < 0.6:
        steps.append(rng.choice(HESITATIONS))
    value = _slippery(left, term.operator, right, rng)
    steps.append(f" {left}{term.operator}{right}={value}")
    if rng.random() < 0.15:
        value = _slippery(left, term.operator, right, rng)
        steps.append(f" no {left}{term.operator}{right}={value}")
    return value


def _slippery(left: int, operator: str, right: int, rng: random.Random) -> int:
    value = whole(left, operator, right) or 0  # never None: expressions have no division
    if rng.random() < SLIP:
        value += rng.choice((-10, -2, -1, 1, 2, 10))
    return min(max(value, 0), ARITHMETIC.largest_result)


Demonstrate = Callable[[Term, str, random.Random], tuple[str, str]]
FAMILIES: tuple[tuple[Countdown | Arithmetic, Demonstrate, float], ...] = (
    (COUNTDOWN, demonstrate_countdown, 0.6),  # the harder one: it takes a search in the head
    (ARITHMETIC, demonstrate_arithmetic, 0.4),
)
