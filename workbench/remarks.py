"""What a run's numbers say in words: that completions are cut, that nothing is learned, why a loss is near 0.

`Watch` speaks up once when something goes wrong in a run, and again only after it was well in between;
`standing` is what is wrong now; `loss_remarks` explains the loss of one step. All of them read the metrics of
`trainer.train_step` and the recipe. The thresholds are rules of thumb of our own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from workbench.recipe import Recipe

Record = Mapping[str, Any]  # the metrics of a step

LEAVING = "leaving the envelope at step"  # how the warning of a guard (`watch`) begins

RECENT = 5  # steps that are looked at together
CUT = 0.10  # share of completions cut at the limit, in their mean, from which it is said
MENDED = 0.05  # share under which it may be said again later
MANY = 0.5  # share of groups without signal, or of completions cut, that explains a small loss
NEAR = 0.01  # size under which a loss is near 0
LOW_RATE = 1e-5  # learning rate under which a low-rank update hardly moves
READ = ("rollout/truncated", "rollout/malformed", "groups/zero_signal", "groups/solved_all",
        "groups/solved_none", "reward_std/total", "train/trained_share", "train/beta", "train/loss",
        "train/grad_norm")  # fmt: skip


@dataclass(frozen=True)
class Remark:
    """A sentence or two on a step; `wrong` where there is something to mend."""

    text: str
    wrong: bool = False


class Watch:
    """Takes the records of a run, one after another, and says what has newly gone wrong."""

    def __init__(self, before: Iterable[Record] = ()) -> None:
        self._recent: deque[Record] = deque(before, RECENT)
        self._said = {"cut": cut_share(self._recent) >= CUT, "still": _still(self._recent)}

    def note(self, record: Record, recipe: Recipe) -> list[str]:
        """Take the next record; the warnings that are due with it."""
        self._recent.append(record)
        share, still = cut_share(self._recent), _still(self._recent)
        found = []
        if share >= CUT and not self._said["cut"]:
            found.append(cut_sentence(share, recipe))
        if still and not self._said["still"]:
            found.append(still_sentence(self._recent, recipe))
        self._said = {
            "cut": share >= CUT or (self._said["cut"] and share >= MENDED),
            "still": still,
        }
        return found


def standing(metrics: pd.DataFrame, recipe: Recipe) -> list[str]:
    """What is wrong in the last steps of a run's metrics."""
    recent = metrics[[name for name in READ if name in metrics]].tail(RECENT).to_dict("records")
    share = cut_share(recent)
    found = [cut_sentence(share, recipe)] if share >= CUT else []
    return found + ([still_sentence(recent, recipe)] if _still(recent) else [])


def left_at(events: pd.DataFrame) -> int | None:
    """The step of a guard's warning among the events of a run."""
    steps = events["step"][events["text"].astype(str).str.startswith(LEAVING)]
    return int(steps.iloc[0]) if len(steps) else None


# ------------------------------------------------------------------ completions that are cut


def cut_share(records: Iterable[Record]) -> float:
    """The mean share of completions cut at the limit; 0 where no record knows it."""
    known = [value for r in records if (value := _at(r, "rollout/truncated")) is not None]
    return float(np.mean(known)) if known else 0.0


def cut_sentence(share: float, recipe: Recipe) -> str:
    """That many completions are cut, what becomes of them, and what to do."""
    if recipe.truncated == "lowest":
        fate = "they get the lowest reward of their group"
    elif "correct" in recipe.rewards or "constraints" in recipe.rewards:
        fate = "cut before an answer, they count as wrong"
    else:
        fate = "their rewards are those of unfinished text"
    shorter = "" if recipe.rewards.get("overlong") else ", or give the reward 'overlong' a weight"
    return (
        f"{percent(share)} of completions were cut at {recipe.max_new_tokens} tokens; {fate}. "
        f"Raise max_new_tokens (in a fork or a new run){shorter}."
    )


# ------------------------------------------------------------------ steps that change nothing


def _still(records: Sequence[Record] | deque[Record]) -> bool:
    """Whether the last RECENT records are all of steps whose gradient was exactly 0."""
    norms = [_at(record, "train/grad_norm") for record in records]
    return len(norms) == RECENT and all(norm == 0 for norm in norms)


def still_sentence(records: Sequence[Record] | deque[Record], recipe: Recipe) -> str:
    """That nothing is learned, with the reason of the last step."""
    reasons = [remark.text for remark in loss_remarks(records[-1], recipe) if remark.wrong]
    return f"The last {RECENT} steps changed nothing. {' '.join(reasons)}".rstrip()


def loss_remarks(known: Record, recipe: Recipe) -> list[Remark]:
    """Why the loss of a step is what it is, where that calls for a word; reasons for a 0 come first."""
    loss, norm = _at(known, "train/loss"), _at(known, "train/grad_norm")
    if loss is None or norm is None:
        return []
    found = [_nothing_trained(known, recipe), _no_signal(known, recipe)]
    if norm == 0 and not any(found):
        found.append(Remark("The gradient is 0, so this step changed nothing.", wrong=True))
    if norm > 0:
        found += [_value_and_gradient(loss, norm), _clipped(norm, recipe), _slow(known, recipe)]
    share = _at(known, "rollout/truncated") or 0.0
    if share >= MANY:
        found.append(Remark(cut_sentence(share, recipe), wrong=True))
    return [remark for remark in found if remark is not None]


def _nothing_trained(known: Record, recipe: Recipe) -> Remark | None:
    if _at(known, "train/trained_share") != 0:
        return None
    text = f"No token was trained: separation {recipe.separation!r}"
    text += " with answerer 'initial'" if recipe.answerer == "initial" else ""
    return Remark(
        f"{text} leaves none of these completions. Where the model writes no </think>, train 'joint'.",
        wrong=True,
    )


def _no_signal(known: Record, recipe: Recipe) -> Remark | None:
    """Groups whose completions all weigh the same: how many, why, and what to do."""
    dead = _at(known, "groups/zero_signal")
    if dead is None or dead < MANY:
        return None
    if dead < 1:
        text = f"{percent(dead)} of the groups had no signal{_split(known)} and add nothing to the loss;"
        return Remark(f"{text} the others carry it.")
    rest = (
        f"Only the anchor acts (beta {_at(known, 'train/beta'):g})."
        if _at(known, "train/beta")
        else "Loss and gradient are 0."
    )
    return Remark(f"No group had signal: {_cause(known, recipe)} {rest}", wrong=True)


def _cause(known: Record, recipe: Recipe) -> str:
    if recipe.separation != "joint" and _at(known, "rollout/malformed") == 1:
        return (
            f"no completion closed a thought once and then answered, and separation {recipe.separation!r} "
            "gives such the lowest reward of their group. Ask for <think> and </think> in the task's prompt, "
            "take a model that thinks, or train 'joint'."
        )
    solved, failed = _at(known, "groups/solved_all"), _at(known, "groups/solved_none")
    if failed == 1:
        return (
            f"not one of the {recipe.group_size} completions of any prompt was right. Take easier problems, "
            "a larger group_size, or a reward that also pays for parts, such as 'format'."
        )
    if solved == 1:
        return (
            "all completions of every prompt were right, so there is nothing to prefer. Take harder "
            "problems, or stop here."
        )
    if recipe.reward_floor:
        return (
            f"in each, the rewards' standard deviation is under reward_floor {recipe.reward_floor:g}, or 0. "
            "Lower it."
        )
    return (
        f"within each, all completions have the same total reward{_split(known)}. Take a larger group_size, "
        "problems of middling difficulty, or a reward that tells completions apart."
    )


def _split(known: Record) -> str:
    solved, failed = _at(known, "groups/solved_all"), _at(known, "groups/solved_none")
    if solved is None or failed is None:
        return ""
    return f" ({percent(solved)} all right, {percent(failed)} none right)"


def _value_and_gradient(loss: float, norm: float) -> Remark | None:
    if abs(loss) >= NEAR:
        return None
    return Remark(
        f"A loss near 0 ({loss:+.2g}) is as it should be: advantages of a group add up to about 0, so the "
        "loss, their sum weighted by ratios or log-probabilities that hardly differ, does too, before and "
        f"after any learning. What trains is its gradient, and its norm is {norm:.3g}. Watch rewards and "
        "pass@k instead."
    )


def _clipped(norm: float, recipe: Recipe) -> Remark | None:
    if norm <= 10 * recipe.max_grad_norm:
        return None
    return Remark(
        f"The gradient's norm {norm:.3g} is cut to {recipe.max_grad_norm:g}. AdamW divides by the gradient's "
        "usual size, so cutting every step alike slows nothing; where few steps are this long, they count "
        "less. Raise max_grad_norm if it is always so."
    )


def _slow(known: Record, recipe: Recipe) -> Remark | None:
    rate = _at(known, "train/learning_rate")
    if rate is None or rate >= LOW_RATE:
        return None
    if rate == 0:
        return Remark("The learning rate is 0: nothing moves. Raise learning_rate.", wrong=True)
    return Remark(
        f"The learning rate {rate:.2g} is low for a low-rank update, which usually takes {LOW_RATE:g} to "
        "1e-3: expect little to move for many steps. KL to the reference shows whether anything does.",
        wrong=True,
    )


def percent(share: float) -> str:
    """A share as "31 %"; never 100 % or 0 % unless it is."""
    whole = round(100 * share)
    whole = min(whole, 99) if share < 1 else whole
    return f"{max(whole, 1) if share > 0 else whole} %"


def _at(record: Record, name: str) -> float | None:
    """A metric; None where it was not measured."""
    value = record.get(name)
    return None if value is None or not np.isfinite(value) else float(value)
