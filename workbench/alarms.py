"""Early warnings of a run that goes astray, and how good they are on runs held out.

Two fences warn: the envelope of `geometry`, and the trivial predictor `Ranges`, mean entropy or mean
length out of the reference's range. `compare` fits both on reference runs and judges them on others; it
refuses an overlap. Without a lead over the trivial predictor the geometry claims nothing.

In P1 the envelope's shadow on entropy and length lies within the trivial predictor's box, so at equal
patience and margin the envelope warns first or at the same step by construction, and pays with false
alarms: read leads only beside these. `sweep` compares fences at equal false alarms instead.

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
from workbench.phase import VOTE, Path
from workbench.variants import WorkbenchError, unknown

Array = NDArray[np.float64]

PATIENCE = 3  # checkpoints in a row outside before a warning (ours)
MARGIN = 0.5  # deviations of the reference outside that still count as inside, in runs (ours)
DROP = 0.05  # accuracy under its best that counts as lost (the note's 5 points)
SMOOTH = 3  # checkpoints averaged before accuracies are compared, against picking noise (ours)
ENTROPY, LENGTH = "entropy", "length"
TRIVIAL = (ENTROPY, LENGTH)
SIGNALS = (ENTROPY, LENGTH, VOTE)  # what Ranges can look at, all without labels


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
    """Signals of a run, each between its least and greatest; entropy and length: the trivial predictor."""

    runs: tuple[Path, ...]
    low: Array  # (S) in the units of the signals: see `_signal`
    high: Array
    std: Array
    burn_step: int
    signals: tuple[str, ...] = TRIVIAL
    sees_labels: bool = False

    @classmethod
    def fit(
        cls, paths: Sequence[Path], burn: float = BURN, signals: Sequence[str] = TRIVIAL
    ) -> Ranges:
        """The ranges of some of SIGNALS in the reference runs after burn-in."""
        first = burn_step(paths, burn)
        values = np.concatenate([_signals(one, signals)[one.steps_N >= first] for one in paths])
        std = values.std(0)
        std = np.where(std > 1e-12, std, 1.0)
        return cls(tuple(paths), values.min(0), values.max(0), std, first, tuple(signals))

    def beyond(self, one: Path) -> Array:
        """The largest of the distances (N) out of range, in standard deviations; 0 within."""
        values = _signals(one, self.signals)
        out = np.maximum(values - self.high, self.low - values) / self.std
        return np.where(out > 1e-9, out, 0.0).max(1)


def _signals(one: Path, names: Sequence[str]) -> Array:
    return np.stack([_signal(one, name) for name in names], 1)


def _signal(one: Path, name: str) -> Array:
    """Mean entropy in nats, the log of the mean length in tokens, or the vote share: an axis of P1."""
    if name == ENTROPY:
        return one.entropy_N
    if name == LENGTH:
        return np.log(one.length_N)
    if name != VOTE:
        raise WorkbenchError(unknown("signal", name, SIGNALS))
    if VOTE not in one.axes:
        raise WorkbenchError(
            f"Run {one.run!r} has no {VOTE} among its axes; make its path with it."
        )
    return one.points_ND[:, one.axes.index(VOTE)]


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


# ------------------------------------------------------------------ fences compared without a margin


@dataclass(frozen=True)
class Trade:
    """What a fence gives at one margin: so many false alarms for so many drops foretold."""

    margin: float
    false_alarms: int
    detected: int
    lead: (
        float  # steps, median over all runs that drop; a run without a warning in time counts as 0
    )


@dataclass(frozen=True)
class Sweep:
    """A fence at every margin that changes its false alarms, fewest first.

    `area` is that under the ROC: the chance that of two runs, one that drops and one that does not, the
    first reaches further (see `reach`), a tie counting half. NaN where there are not both kinds. A drop
    before any warning is possible reaches 0 whatever the fence; `area_late` leaves such runs out.
    """

    trades: tuple[Trade, ...]
    drops: int
    calm: int
    area: float
    area_late: float
    sees_labels: bool

    def at(self, share: float) -> Trade:
        """The trade with the most false alarms that are no more than `share` of the calm runs."""
        return [one for one in self.trades if one.false_alarms <= share * self.calm + 1e-9][-1]


def reach(one: Path, fence: Fence, *, patience: int = PATIENCE, before: int | None = None) -> float:
    """The largest margin below which a run is warned of, in deviations; 0 if at none.

    With `before`, warnings at that step or later are too late and don't count.
    """
    return _reach(fence.beyond(one), one, fence.burn_step, patience, before)


def _reach(beyond_N: Array, one: Path, first: int, patience: int, before: int | None) -> float:
    beyond_N = np.where(one.steps_N >= first, beyond_N, 0.0)
    if before is not None:
        beyond_N = beyond_N[one.steps_N < before]
    if len(beyond_N) < patience:
        return 0.0
    rows = np.lib.stride_tricks.sliding_window_view(beyond_N, patience)
    return float(rows.min(1).max())


def sweep(
    fence: Fence,
    judged: Sequence[Path],
    *,
    patience: int = PATIENCE,
    drop: float = DROP,
    smooth: int = SMOOTH,
) -> Sweep:
    """Lead and detection against false alarms, margin by margin: margins of two fences don't compare.

    A run that drops is watched up to its drop, one that does not to its end. The margins are picked with
    the judged runs in view, for every fence alike: a comparison, not a forecast of what a margin fixed
    beforehand would have given.
    """
    found = score_warnings(fence, judged, patience=patience, drop=drop, smooth=smooth)
    drops = [each.drop for each in found.leads]
    beyond = [fence.beyond(one) for one in judged]
    reaches = np.array([
        _reach(far_N, one, fence.burn_step, patience, end)
        for far_N, one, end in zip(beyond, judged, drops, strict=True)
    ])  # fmt: skip
    falls = np.array([end is not None for end in drops], dtype=bool)
    late = np.array([
        end is not None and _counted(one, fence.burn_step, end) >= patience
        for one, end in zip(judged, drops, strict=True)
    ], dtype=bool)  # fmt: skip
    trades = []
    for margin in sorted({0.0, *reaches[~falls].tolist()}, reverse=True):
        leads = [
            _lead_in_time(left_index(far_N, one.steps_N, fence.burn_step, patience, margin),
                          one, patience, end)
            for far_N, one, end in zip(beyond, judged, drops, strict=True) if end is not None
        ]  # fmt: skip
        trades.append(
            Trade(
                margin,
                int((reaches[~falls] > margin).sum()),
                int((reaches[falls] > margin).sum()),
                float(np.median(leads)) if leads else float("nan"),
            )
        )
    return Sweep(
        tuple(trades), int(falls.sum()), int((~falls).sum()),
        area(reaches[falls], reaches[~falls]), area(reaches[late], reaches[~falls]),
        fence.sees_labels,
    )  # fmt: skip


def _counted(one: Path, first: int, end: int) -> int:
    """Judged probes before step `end`."""
    return int(((one.steps_N >= first) & (one.steps_N < end)).sum())


def _lead_in_time(at: int | None, one: Path, patience: int, end: int) -> int:
    return 0 if at is None else max(0, end - int(one.steps_N[at + patience - 1]))


def area(above: ArrayLike, below: ArrayLike) -> float:
    """The share of pairs in which the first of the two is larger, ties as half; NaN without pairs."""
    above, below = np.asarray(above, float)[:, None], np.asarray(below, float)[None]
    wins = (above > below) + 0.5 * (above == below)
    return float(wins.mean()) if wins.size else float("nan")
