"""Rewards that a rule can check.

Signature of every reward: ``f(rollouts, task) -> values_PG``, or a `Detailed` that has further numbers beside
the values. `rollouts` holds what `sample` recorded, `task` the checker. A reward of weight 0 is measured
and shown but not trained on. Each row of the table states the range of its values (`bounds`), from which a
recipe knows the range of the total reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.rollout import Rollouts
    from workbench.tasks.base import Task


class Detailed(NamedTuple):
    """What a reward may return in place of its values alone."""

    values_PG: Tensor
    numbers: Mapping[str, float] = MappingProxyType({})  # logged as metrics <reward>/<name>
    notes: list[str] | None = None  # one for each completion, shown with the rollouts


def correct(rollouts: Rollouts, task: Task) -> Tensor:
    """1 where the task's checker accepts the completion, else 0."""
    scores: list[float] = []
    for index, completion in enumerate(rollouts.completions):
        try:
            scores.append(float(task.score(rollouts.rows[index // rollouts.G], completion)))
        except Exception as error:
            raise WorkbenchError(
                f"Task {task.name!r} failed to score the completion {completion[:200]!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return rollouts.logprobs_BT.new_tensor(scores).view(rollouts.P, rollouts.G)


def format_(rollouts: Rollouts, task: Task) -> Tensor:
    """1 where the completion is one `<think>…</think>` followed by an answer, and ended by itself."""
    truncated = rollouts.truncated_B.tolist()
    good = [
        0.0 if cut else float(well_formed(text))
        for text, cut in zip(rollouts.completions, truncated, strict=True)
    ]
    return rollouts.logprobs_BT.new_tensor(good).view(rollouts.P, rollouts.G)


def length(rollouts: Rollouts, task: Task) -> Tensor:
    """The share of the token limit left unused, from 1 (empty) to 0 (cut off): shorter is more.

    In a group this is minus the length up to a constant; it is kept at or above 0 for objectives that need
    rewards of at least 0.
    """
    return (1 - rollouts.lengths_B / rollouts.max_new_tokens).view(rollouts.P, rollouts.G)


def overlong(rollouts: Rollouts, task: Task) -> Tensor:
    """0 up to four fifths of the token limit, then falling linearly to -1 at the limit.

    The paper's buffer is a fifth of its limit too (4096 of 20480 tokens). A completion cut off at the
    limit gets -1, and so does one that ended by itself on the last token, by the formula.
    """
    limit = rollouts.max_new_tokens
    buffer = limit / 5
    falling_B = ((limit - buffer - rollouts.lengths_B) / buffer).clamp(-1, 0)
    return falling_B.masked_fill(rollouts.truncated_B, -1.0).view(rollouts.P, rollouts.G)


def well_formed(completion: str) -> bool:
    """True for exactly one thinking block at the start and a non-empty answer after it."""
    text = completion.strip()
    if text.count("<think>") != 1 or text.count("</think>") != 1 or not text.startswith("<think>"):
        return False
    return bool(text.split("</think>", 1)[1].strip())
