"""What a task is: data with a train and an eval split, prompt messages, and a checker."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from workbench.variants import WorkbenchError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
Message = dict[str, str]
SPLITS = ("train", "eval")
RIGHT, UNREAD = "right", "no "  # how explanations begin; no other one begins so
NO_ANSWER = "no answer is given"
QUOTED = 40  # characters of an answer that an explanation quotes
_PLAIN = re.compile(r"-?[0-9][0-9.,/]*")


class Task(Protocol):
    """The interface of every task; the tasks themselves are frozen dataclasses.

    A task that can't score, having questions but no right answers, says so with `knows_truth = False`. One
    that can tell more of a completion than its score has `measures(row, completion) -> dict[str, float]`; an
    evaluation shows their means.

    One that can say why an answer is right or wrong has `explain(row, completion) -> str`: a plain sentence
    without capital and full stop. It begins with RIGHT exactly where the score is 1 or more, and with UNREAD
    where no answer can be read; "" says nothing. What it quotes of the answer is cut short (`quoted`).
    """

    name: str

    def dataset(self, split: str) -> Dataset:
        """The rows of `split`; "train" and "eval" share no row."""

    def messages(self, row: Row) -> list[Message]:
        """The chat messages that pose `row`'s problem."""

    def score(self, row: Row, completion: str) -> float:
        """1.0 where `completion` answers `row` rightly, else 0.0 (or a share in between)."""

    def answer(self, completion: str) -> str:
        """The checker's view of the answer in `completion`; for measuring, showing and voting."""

    def same(self, one: str, two: str) -> bool:
        """Whether two answers are one in the checker's eyes; never for a text it can't read as an answer."""


def thinks(text: str) -> bool:
    """Whether a tag of thinking stands in it."""
    return "<think>" in text or "</think>" in text


def after_thinking(completion: str) -> str:
    """The text after the last ``</think>``, stripped; all of it when there is no thinking.

    An unclosed ``<think>`` leaves no answer: the result is empty.
    """
    if "</think>" in completion:
        return completion.rsplit("</think>", 1)[1].strip()
    return "" if "<think>" in completion else completion.strip()


def knows_truth(task: Any) -> bool:
    """Whether the task can score an answer; a file of open questions can't."""
    return bool(getattr(task, "knows_truth", True))


def before_answer(completion: str) -> str:
    """The thinking: the text before the last ``</think>``, without its tags; empty where there is none."""
    if not thinks(completion):
        return ""
    return completion.rsplit("</think>", 1)[0].replace("<think>", "").strip()


def quoted(text: str) -> str:
    """Text of a model or a data set for a sentence: on one line, cut short, in quotes unless a number."""
    if len(text) <= QUOTED and _PLAIN.fullmatch(text):
        return text
    line = " ".join(text[: 4 * QUOTED].split())
    short = line if len(line) <= QUOTED and len(text) <= 4 * QUOTED else f"{line[:QUOTED]}…"
    return f"“{short}”"


def known_means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over those parts that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: fmean(part[name] for part in parts if name in part) for name in names}


def check_split(split: str) -> None:
    """Raise WorkbenchError unless `split` is "train" or "eval"."""
    if split not in SPLITS:
        raise WorkbenchError(unknown("split", split, SPLITS))
