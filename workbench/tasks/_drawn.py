"""What the drawn tasks share: splits that never overlap, checked fields, the answer's wrapping."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.tasks.base import after_thinking
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from datasets import Dataset

EVAL_SHARE = 8  # one problem in eight is kept for eval
_PATIENCE = 1000  # draws without a new row before a small world counts as exhausted


def split_of(key: str) -> str:
    """The split a problem belongs to: a stable hash of its canonical key, the same everywhere."""
    digest = hashlib.sha256(key.encode()).digest()
    return "eval" if int.from_bytes(digest[:4], "big") % EVAL_SHARE == 0 else "train"


def draw_rows(
    draw: Callable[[random.Random], tuple[str, dict[str, Any]]],
    split: str,
    count: int,
    seed: int,
    name: str,
) -> Dataset:
    """Up to `count` different problems of `split`; fewer where the world holds no more of them.

    `draw(rng)` gives one problem: its canonical key and its row.
    """
    from datasets import Dataset  # heavy, and only needed once rows are asked for

    rng = random.Random(f"{name}/{split}/{seed}")
    rows: dict[str, dict[str, Any]] = {}
    misses = 0
    while len(rows) < count and misses < _PATIENCE:
        key, row = draw(rng)
        if key in rows or split_of(key) != split:
            misses += 1
        else:
            rows[key], misses = row, 0
    if not rows:
        raise WorkbenchError(
            f"{name} finds no problem for the split {split!r} with these settings; "
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
