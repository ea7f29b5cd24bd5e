"""Early warnings of a run that goes astray, and how good they are on runs held out.

Two fences warn: the envelope of `geometry`, and the trivial predictor `Ranges`, mean entropy or mean
length out of the reference's range. `compare` fits both on reference runs and judges them on others; it
refuses an overlap. Without a lead over the trivial predictor the geometry claims nothing.

In P1 the envelope's shadow on entropy and length lies within the trivial predictor's box, so at equal
patience and margin 0 the envelope warns first or at the same step by construction, and pays with false
alarms: read leads only beside these.

Source: method note on "manifold envelopment" (arXiv 2603.16578), section 5.1, its test for circularity. The
paper's text was not accessible: all of this is a reconstruction, patience and smoothing our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.geometry import BURN, Envelope, burn_step
from workbench.phase import Path
from workbench.variants import WorkbenchError

Array = NDArray[np.float64]

PATIENCE = 3  # checkpoints in a row outside before a warning (ours)
MARGIN = 0.5  # deviations of the reference outside that still count as inside, in runs (ours)
DROP = 0.05  # accuracy under its best that counts as lost (the note's 5 points)
SMOOTH = 3  # checkpoints averaged before accuracies are compared, against picking noise (ours)


class Fence(Protocol):
    """What can warn: fitted on `runs`, it says how far outside each checkpoint of a path lies."""

    @property
    def runs(self) -> tuple[Path, ...]:
        """The runs that it was fitted on."""

    @property
    def burn_step(self) -> int:
        """The first step that is judged."""

    @property
    def sees_labels(self) -> bool:
        """Whether it looks at accuracy."""

    def beyond(self, one: Path) -> Array:
        """Distance (N) outside, in standard deviations of the reference; 0 inside."""


@dataclass(frozen=True, eq=False)
class Ranges:
    """The trivial predictor: mean entropy and log mean length between their least and greatest."""

    runs: tuple[Path, ...]
    low: Array  # (2) entropy in nats, log of tokens
    high: Array
    std: Array
    burn_step: int
    sees_labels: bool = False

    @classmethod
    def fit(cls, paths: Sequence[Path], burn: float = BURN) -> Ranges:
        """The ranges of the reference runs after burn-in."""
        first = burn_step(paths, burn)
        values = np.concatenate([_plain(one)[one.steps_N >= first] for one in paths])
        std = values.std(0)
        return cls(
            tuple(paths), values.min(0), values.max(0), np.where(std > 1e-12, std, 1.0), first
        )

    def beyond(self, one: Path) -> Array:
        """The larger of the two distances (N) out of range, in standard deviations; 0 within."""
        values = _plain(one)
        out = np.maximum(values - self.high, self.low - values) / self.std
        return np.where(out > 1e-9, out, 0.0).max(1)


def _plain(one: Path) -> Array:
    return np.stack([one.entropy_N, np.log(one.length_N)], 1)


def leaves_at(
    one: Path, fence: Fence, *, patience: int = PATIENCE, margin: float = 0.0
) -> int | None:
    """The step at which the warning is due, None if never.

    It is the last of the first `patience` checkpoints in a row that lie more than `margin` outside, so
    it uses nothing that is not known by then. Checkpoints before the fence's burn_step do not count; a run
    that has not come inside by then is warned of as well.
    """
    if patience < 1 or margin < 0:
        raise WorkbenchError("Give leaves_at a patience of 1 or more and a margin of 0 or more.")
    at = left_index(fence.beyond(one), one.steps_N, fence.burn_step, patience, margin)
    return None if at is None else int(one.steps_N[at + patience - 1])


def left_index(
    beyond_N: Array, steps_N: NDArray[np.int64], first: int, patience: int, margin: float
) -> int | None:
    """The index of the first of `patience` checkpoints in a row outside."""
    outside_N = (beyond_N > margin) & (steps_N >= first)
    row = np.convolve(outside_N, np.ones(patience), "valid") if len(outside_N) >= patience else []
    hits = np.flatnonzero(np.asarray(row) > patience - 0.5)
    return int(hits[0]) if len(hits) else None


def smoothed(values_N: ArrayLike, width: int = SMOOTH) -> Array:
    """Mean of each value and the up to width - 1 before it."""
    values_N = np.asarray(values_N, dtype=np.float64)
    total = np.append(0.0, np.cumsum(values_N))
    end = np.arange(1, len(values_N) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def drop_step(
    steps: ArrayLike, accuracy: ArrayLike, *, drop: float = DROP, smooth: int = SMOOTH
) -> int | None:
    """The first step from which smoothed accuracy stays more than `drop` under its best so far."""
    level_N = smoothed(accuracy, smooth)
    fallen_N = np.maximum.accumulate(level_N) - level_N > drop + 1e-12
    if not fallen_N[-1]:
        return None
    kept = np.flatnonzero(~fallen_N)  # never empty: the first value is its own best
    return int(np.asarray(steps)[kept[-1] + 1])


@dataclass(frozen=True)
class Lead:
    """A warning beside the drop in accuracy that it should foretell."""

    run: str
    warning: int | None
    drop: int | None

    @property
    def lead(self) -> int | None:
        """Steps from warning to drop, negative if late; None unless there are both."""
        return None if self.warning is None or self.drop is None else self.drop - self.warning

    @property
    def false_alarm(self) -> bool:
        """A warning, and no drop ever."""
        return self.warning is not None and self.drop is None

    @property
    def missed(self) -> bool:
        """A drop, and no warning before it."""
        return self.drop is not None and (self.lead is None or self.lead <= 0)


def lead(
    warning_step: int | None,
    accuracy: ArrayLike,
    steps: ArrayLike,
    *,
    run: str = "",
    drop: float = DROP,
    smooth: int = SMOOTH,
) -> Lead:
    """How many steps before the accuracy drop of a run a warning came; see `drop_step`."""
    return Lead(run, warning_step, drop_step(steps, accuracy, drop=drop, smooth=smooth))


@dataclass(frozen=True)
class WarningScore:
    """What a fence's warnings were worth on runs that it was not fitted on."""

    leads: tuple[Lead, ...]
    sees_labels: bool  # True: accuracy was among the axes, so the lead is not a prediction

    @property
    def drops(self) -> int:
        """Runs whose accuracy dropped."""
        return sum(one.drop is not None for one in self.leads)

    @property
    def missed(self) -> int:
        """Of these, runs without a warning before the drop."""
        return sum(one.missed for one in self.leads)

    @property
    def false_alarms(self) -> int:
        """Runs warned of whose accuracy never dropped."""
        return sum(one.false_alarm for one in self.leads)

    @property
    def median_lead(self) -> float:
        """Steps, over runs with both a warning and a drop; NaN where there are none."""
        known = [one.lead for one in self.leads if one.lead is not None]
        return float(np.median(known)) if known else float("nan")


def score_warnings(
    fence: Fence,
    judged: Sequence[Path],
    *,
    patience: int = PATIENCE,
    margin: float = 0.0,
    drop: float = DROP,
    smooth: int = SMOOTH,
) -> WarningScore:
    """Leads, misses and false alarms on runs held out; refuses runs that the fence was fitted on."""
    check_disjoint(fence.runs, judged)
    found = []
    for one in judged:
        if one.accuracy_N is None:
            raise WorkbenchError(
                f"Run {one.run!r} has no accuracy to hold warnings against; trace it with labels."
            )
        step = leaves_at(one, fence, patience=patience, margin=margin)
        found.append(lead(step, one.accuracy_N, one.steps_N, run=one.run, drop=drop, smooth=smooth))
    return WarningScore(tuple(found), fence.sees_labels)


def check_disjoint(reference: Sequence[Path], judged: Sequence[Path]) -> None:
    """Raise WorkbenchError if a judged run is among the reference, by name or by its numbers."""
    for one in judged:
        if any(same_run(one, other) for other in reference):
            raise WorkbenchError(
                f"Run {one.run!r} is among the runs that the fence was fitted on; judge it on others."
            )


def same_run(one: Path, other: Path) -> bool:
    """Whether two paths are of one run: the same name, or the same numbers under another."""
    return one.run == other.run or all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("steps_N", "entropy_N", "length_N", "truncated_N")
    )


def compare(
    reference: Sequence[Path],
    judged: Sequence[Path],
    *,
    patience: int = PATIENCE,
    margin: float = 0.0,
    drop: float = DROP,
    smooth: int = SMOOTH,
) -> dict[str, WarningScore]:
    """Envelope and trivial predictor, both fitted on `reference` and scored on `judged` alike."""
    check_disjoint(reference, judged)
    fences: dict[str, Fence] = {
        "envelope": Envelope.fit(reference),
        "trivial": Ranges.fit(reference),
    }
    return {
        name: score_warnings(
            fence, judged, patience=patience, margin=margin, drop=drop, smooth=smooth
        )
        for name, fence in fences.items()
    }
