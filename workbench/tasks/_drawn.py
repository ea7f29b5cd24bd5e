"""What the drawn tasks share: splits that never overlap, checked fields, the answer's wrapping."""

from __future__ import annotations

import functools
import hashlib
import random
from typing import TYPE_CHECKING, Any, Protocol

from workbench.tasks.base import after_thinking
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from datasets import Dataset

    from workbench.tasks._expression import Term

EVAL_SHARE = 8  # one problem in eight is kept for eval
_PATIENCE = 1000  # draws without a new row before a small world counts as exhausted


class Drawn(Protocol):
    """A task whose problems are drawn at random."""

    name: str
    seed: int

    def draw(self, rng: random.Random) -> tuple[str, dict[str, Any], Term]:
        """One problem: its canonical key, its row and the calculation it was made from."""


def split_of(key: str) -> str:
    """The split a problem belongs to: a stable hash of its canonical key, the same everywhere."""
    digest = hashlib.sha256(key.encode()).digest()
    return "eval" if int.from_bytes(digest[:4], "big") % EVAL_SHARE == 0 else "train"


@functools.lru_cache(maxsize=16)  # an evaluation asks for the same rows again and again
def drawn_rows(task: Drawn, split: str, count: int) -> Dataset:
    """Up to `count` different problems of `split`; fewer where the world holds no more of them."""
    from datasets import Dataset  # heavy, and only needed once rows are asked for

    rng = random.Random(f"{task.name}/{split}/{task.seed}")
    rows: dict[str, dict[str, Any]] = {}
    misses = 0
    while len(rows) < count and misses < _PATIENCE:
        key, row, _ = task.draw(rng)
        if key in rows or split_of(key) != split:
            misses += 1
        else:
            rows[key], misses = row, 0
    if not rows:
        raise WorkbenchError(
            f"{task.name} finds no problem for the split {split!r} with these settings; "
            "give more or larger numbers."
        )
    return Dataset.from_list(list(rows.values()))


def check_whole(owner: str, low: int = 1, **fields: Any) -> None:
    """Raise WorkbenchError unless every field is a whole number of at least `low`."""
    for name, value in fields.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise WorkbenchError(f"{owner}.{name} is {value!r}; give a whole number from {low} up.")


def check_prompt(owner: str, prompt: str, fields: tuple[str, ...]) -> None:
    """Raise WorkbenchError unless `prompt` is a template with exactly `fields` in braces."""
    wanted = " and ".join(f"{{{field}}}" for field in fields)
    try:
        prompt.format(**dict.fromkeys(fields, ""))
        complete = all(f"{{{field}}}" in prompt for field in fields)
    except (KeyError, IndexError, ValueError, AttributeError):
        complete = False
    if not complete:
        raise WorkbenchError(f"{owner}.prompt is {prompt!r}; give a text with {wanted} in it.")


def unwrapped(completion: str) -> str:
    """The text after the thinking, and inside the last ``<answer>`` tag where there is one."""
    text = after_thinking(completion)
    return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
