"""Questions: what to take to a made-up place, answered in free words; or any questions of your own.

In the tiny world (see `places`) two items suit each place, and `score` knows how well an answer fits. That
is there to measure: what to train on is a reward model's judgement, the reward `learned`. Questions from a
source have no truth here, so they can be trained on with a judge, and not be scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from workbench.tasks.base import (
    NO_ANSWER,
    RIGHT,
    Message,
    Row,
    after_thinking,
    before_answer,
    check_split,
)
from workbench.tasks.places import (
    ITEMS,
    facts_stated,
    fit,
    is_generic,
    items_named,
    places,
    questions,
)
from workbench.tasks.source import check_share, read_source, split_rows
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from datasets import Dataset

COLUMN = "question"


@dataclass(frozen=True)
class Questions:
    """Open questions, with answers in free words that a reward model judges."""

    name: ClassVar[str] = "questions"

    source: str = ""
    """A JSONL or Parquet file with a column "question", or a hub name; empty for the tiny world."""
    subset: str = ""
    """The hub dataset's configuration, where it has several."""
    instruction: str = ""
    """Text put under every question. The tiny models know none."""
    train_split: str = "train"
    """The source's split to train on."""
    eval_split: str = "test"
    """The source's split to evaluate on; a source without it is divided by `eval_share`."""
    eval_share: float = 0.25
    """The share of a source's questions held out, chosen by a hash of the question."""

    def __post_init__(self) -> None:
        check_share(self.name, self.eval_share)

    @property
    def knows_truth(self) -> bool:
        """Whether `score` can tell how good an answer is: in the tiny world only."""
        return not self.source

    def dataset(self, split: str) -> Dataset:
        """The rows of `split`; no question is in both, and in the tiny world every place is in both."""
        from datasets import Dataset

        check_split(split)
        if self.source:
            tables = read_source(self.source, self.subset, (COLUMN,))
            wanted = (self.train_split, self.eval_split, self.eval_share)
            return Dataset.from_list(split_rows(tables, COLUMN, split, wanted, self.source))
        return Dataset.from_list(
            [{COLUMN: question, **places()[name]._asdict()} for name, question in questions(split)]
        ).rename_column("name", "place")

    def messages(self, row: Row) -> list[Message]:
        """One user message: the question, and the instruction under it."""
        text = str(row[COLUMN]).strip()
        if self.instruction:
            text = f"{text}\n\n{self.instruction}"
        return [{"role": "user", "content": text}]

    def score(self, row: Row, completion: str) -> float:
        """The answer's true quality: called-for items named / max(2, items named).

        Raises:
            WorkbenchError: for questions from a source, which have no truth.
        """
        if not self.knows_truth:
            raise WorkbenchError(
                f"The questions of {self.source} have no right answers to score against; train on the reward "
                "'learned' alone."
            )
        return fit(places()[row["place"]], self.answer(completion))

    def measures(self, row: Row, completion: str) -> dict[str, float]:
        """In the tiny world, the share of the place's two facts that the thought states, and "generic": 1 for
        a list of things that no place calls for, else 0.
        """
        if not self.knows_truth:
            return {}
        thought, answer = before_answer(completion), self.answer(completion)
        return {
            "facts": facts_stated(places()[row["place"]], thought),
            "generic": float(is_generic(answer)),
        }

    def explain(self, row: Row, completion: str) -> str:
        """In the tiny world, which of the called-for items the answer names, and what the thought states."""
        if not self.knows_truth:
            return ""
        answer, place = self.answer(completion), places()[row["place"]]
        if not answer:
            return NO_ANSWER
        named = items_named(answer)
        found = [item for item in place.items if item in named]
        missed = [item for item in place.items if item not in named]
        more = [item for item in ITEMS if item in named - set(place.items)]
        parts = [
            f"names {' and '.join(found)}" if found else f"names neither {' nor '.join(missed)}"
        ]
        parts += [f"not {missed[0]}"] if found and missed else []
        parts += [f"and without need {' and '.join(more)}"] if more else []
        if is_generic(answer):
            parts.append("a list of things that no place calls for")
        said = ("" if missed or more else f"{RIGHT}: ") + ", ".join(parts)
        stated = 2 * facts_stated(place, before_answer(completion))
        return f"{said}; the thought states {stated:.0f} of 2 facts"

    def answer(self, completion: str) -> str:
        """The text after the thinking."""
        return after_thinking(completion)

    def same(self, one: str, two: str) -> bool:
        """In the tiny world the same items named, one at least; else the same words."""
        if not self.knows_truth:
            return bool(one.split()) and one.split() == two.split()
        return bool(items_named(one)) and items_named(one) == items_named(two)
