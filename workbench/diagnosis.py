"""What became of a run, read off its path: success, one of three ways to fail, or undecided.

The rules look at the windowed hull volume, the share inside the envelope, |dx|, entropy, length, answers
and, where there are labels, accuracy. They are rules of thumb on noisy numbers; `holds` names every one
that applies and `numbers` keeps what decided.

Source: method note on "manifold envelopment" (arXiv 2603.16578), section 5.1, step 4. The paper's text was
not accessible: the rules are a reconstruction, the thresholds those of the note or, as `Thresholds` says,
our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workbench.alarms import DROP, PATIENCE, SMOOTH, left_index, same_run, smoothed
from workbench.geometry import VOLUME_WINDOW, Course, Envelope, course
from workbench.phase import Path

Array = NDArray[np.float64]

SUCCESS, STAGNATION = "success", "exploration stagnation"
RELAXATION, HALF_COLLAPSE, UNDECIDED = "constraint relaxation", "half-collapse", "undecided"


@dataclass(frozen=True)
class Thresholds:
    """The numbers of the verdict; the first seven are the note's, itself guessing, the rest ours."""

    inside: float = 0.9  # share inside over the last half, at least: success
    still: float = 0.05  # of the reference's windowed volume: less is standing still
    drop: float = DROP  # accuracy under its best
    entropy: float = 0.02  # nats a token: less is exploring nothing
    truncated: float = 0.2  # share of responses without an end
    lost: float = 0.5  # of the gain in accuracy: half-collapse loses more
    under: float = 0.02  # accuracy below the base that a half-collapse still reaches
    distinct: float = 1.1  # answers per prompt; the note says about 1
    gain: float = 0.05  # accuracy that must have been won before half of it can be lost
    plateau: float = 2.0  # factor between the last two quarters of the volumes
    growth: float = 1.5  # factor of volume or |dx| after leaving against before
    capped: float = 0.9  # mean length as a share of the limit: at the cap
    short: float = 0.1  # mean length as a share of the first: down to nothing
    entropy_up: float = 1.5  # factor on the first mean entropy


THRESHOLDS = Thresholds()


# What to show beside a name: the numbers that its rule reads.
DECIDERS = {
    RELAXATION: ("inside share", "volume before", "volume after", "|dx| before", "|dx| after"),
    HALF_COLLAPSE: ("accuracy base", "accuracy best", "accuracy"),
    STAGNATION: (
        "inside share", "volume last", "volume reference", "accuracy best", "accuracy", "entropy",
        "distinct answers", "reference entropy", "reference answers",
    ),
    SUCCESS: (
        "inside share", "volume first", "volume third", "volume last", "volume reference",
        "reference end", "accuracy base", "accuracy",
    ),
    UNDECIDED: ("inside share", "volume last", "volume reference", "accuracy best", "accuracy"),
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What became of a run: the name, everything that holds, and the numbers that decided it.

    Without accuracy (`labelled` False) a half-collapse can't be seen and success says nothing about
    right answers. `held_out` is False for a run that the envelope was fitted on.
    """

    run: str
    name: str
    holds: tuple[str, ...]
    signs: tuple[str, ...]  # of a loosened constraint, at the end
    left_at: int | None  # step of the warning
    labelled: bool
    held_out: bool
    window: int  # checkpoints of the windowed volume
    numbers: dict[str, float]

    @property
    def decided_by(self) -> dict[str, float]:
        """The numbers that the named rule reads."""
        return {key: self.numbers[key] for key in DECIDERS[self.name] if key in self.numbers}

    def __str__(self) -> str:
        parts = [f"{name} {value:.3g}" for name, value in self.decided_by.items()]
        parts += self.signs if self.name == RELAXATION else ()
        return f"{self.run}: {self.name} ({', '.join(parts)})"


def verdict(
    one: Path,
    envelope: Envelope,
    *,
    base: float | None = None,
    cap: int | None = None,
    window: int = VOLUME_WINDOW,
    thresholds: Thresholds = THRESHOLDS,
    patience: int = PATIENCE,
    margin: float = 0.0,
) -> Verdict:
    """Success, exploration stagnation, constraint relaxation, half-collapse or undecided.

    base: accuracy to compare with, by default the path's first. cap: the limit on new tokens, without
    which a length at the cap is not seen. margin: distance outside, in deviations of the reference, that
    still counts as inside; 0 is the note's, and strict with few reference runs. Runs, judged or reference,
    too short for two windows get shorter ones, as `Verdict.window` says.

    More than one rule can hold; the name is the first of: constraint relaxation (a run that left and then
    stopped also stands still), half-collapse, stagnation by a fall, success, stagnation by silence (a
    run that learned to give one right answer is silent too).

    Standing still and silence are no signs of failure within an envelope whose own runs end like that [ours]:
    a small model that has learned its task gives one answer, and its points fall together.
    """
    shortest = min(len(each.steps_N) for each in (one, *envelope.runs))
    window = min(window, max(one.points_ND.shape[1] + 1, shortest // 2))
    route = course(one, envelope, window)
    left = left_index(route.distances_N, one.steps_N, envelope.burn_step, patience, margin)
    labelled = one.accuracy_N is not None
    numbers = {"inside share": route.share_inside(margin=margin)}
    numbers |= _room(route, envelope, window)
    if left is not None:
        numbers |= _leaving(route, envelope, window, left)
    numbers |= _behaviour(one, cap)
    if one.accuracy_N is not None:
        numbers |= _accuracy(one.accuracy_N, base)
    signs = _signs(numbers, thresholds)
    rules = _rules(numbers, thresholds, left is not None, bool(signs), labelled)
    holds = tuple(dict.fromkeys(name for name, true in rules if true))
    return Verdict(
        one.run,
        holds[0] if holds else UNDECIDED,
        holds,
        signs,
        None if left is None else int(one.steps_N[left + patience - 1]),
        labelled,
        not any(same_run(one, other) for other in envelope.runs),
        window,
        numbers,
    )


def _room(route: Course, envelope: Envelope, window: int) -> dict[str, float]:
    """Windowed volume after burn-in: means of the first, third and last quarter; the reference's median."""
    counted_N = np.isfinite(route.volumes_N) & (route.steps_N >= envelope.burn_step)
    quarters = np.array_split(route.volumes_N[counted_N], 4)
    return {
        "volume first": _mean(quarters[0]),
        "volume third": _mean(quarters[2]),
        "volume last": _mean(quarters[3]),
        "volume reference": envelope.typical(window),
        **_reference_end(envelope, window),
    }


def _reference_end(envelope: Envelope, window: int) -> dict[str, float]:
    """How the reference runs end: medians of the last windowed volume, of entropy and of distinct answers."""
    last = slice(-SMOOTH, None)
    volumes = [course(run, envelope, window).volumes_N[-1] for run in envelope.runs]
    return {
        "reference end": float(np.median(volumes)),
        "reference entropy": float(np.median([r.entropy_N[last].mean() for r in envelope.runs])),
        "reference answers": float(np.median([r.distinct_N[last].mean() for r in envelope.runs])),
    }


def _leaving(route: Course, envelope: Envelope, window: int, left: int) -> dict[str, float]:
    """Volume and |dx| before and after checkpoint `left`.

    A run that is outside from the first judged checkpoint has no before: then all of it is compared with the
    beginning of the reference runs, burn-in included on both sides.
    """
    judged_N = route.steps_N >= envelope.burn_step
    if not judged_N[:left].any():
        left, (volume, length) = 0, envelope.initial(window)
    else:
        known = route.volumes_N[:left][judged_N[:left] & np.isfinite(route.volumes_N[:left])]
        volume = float(known[-1]) if len(known) else envelope.initial(window)[0]
        length = _mean(route.lengths_N[1:left][judged_N[1:left]])
    after = route.volumes_N[left:]
    return {
        "volume before": volume,
        "volume after": float(after[np.isfinite(after)].max(initial=0.0)),
        "|dx| before": length,
        "|dx| after": _mean(route.lengths_N[max(left, 1) : left + window]),
    }


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _behaviour(one: Path, cap: int | None) -> dict[str, float]:
    """Entropy, length, distinct answers and truncation, at the start and the end."""
    last = slice(-SMOOTH, None)
    found = {
        "entropy first": float(one.entropy_N[0]),
        "entropy": float(one.entropy_N[last].mean()),
        "length first": float(one.length_N[0]),
        "length": float(one.length_N[last].mean()),
        "distinct answers": float(one.distinct_N[last].mean()),
        "truncated": float(one.truncated_N[last].mean()),
    }
    return found if cap is None else found | {"cap": float(cap)}


def _accuracy(accuracy_N: Array, base: float | None) -> dict[str, float]:
    level_N = smoothed(accuracy_N)
    first = float(accuracy_N[0]) if base is None else base
    return {
        "accuracy base": first,
        "accuracy best": float(level_N.max()),
        "accuracy": float(level_N[-1]),
    }


def _signs(n: dict[str, float], t: Thresholds) -> tuple[str, ...]:
    """Signs of a loosened constraint at the end of the run."""
    found = {
        "length at the cap": "cap" in n and n["length"] >= t.capped * n["cap"],
        "length near zero": n["length"] <= t.short * n["length first"],
        "entropy up": n["entropy"] > t.entropy_up * n["entropy first"],
        "truncated": n["truncated"] > t.truncated,
    }
    return tuple(name for name, true in found.items() if true)


def _rules(
    n: dict[str, float], t: Thresholds, left: bool, signs: bool, labelled: bool
) -> list[tuple[str, bool]]:
    """Every rule of the verdict, in order of precedence."""
    grows = left and (
        n["volume after"] > t.growth * n["volume before"]
        or n["|dx| after"] > t.growth * n["|dx| before"]
    )
    relaxed = left and n["inside share"] < t.inside and grows and signs
    inside = n["inside share"] >= t.inside
    still = n["volume last"] < t.still * n["volume reference"]
    rests = (
        n["reference end"] < t.still * n["volume reference"]
    )  # the reference itself stands still
    silent = n["entropy"] < t.entropy or n["distinct answers"] <= t.distinct
    silence = n["reference entropy"] < t.entropy or n["reference answers"] <= t.distinct
    fallen = half = below = False
    if labelled:
        base, best, now = n["accuracy base"], n["accuracy best"], n["accuracy"]
        fallen = best - now > t.drop
        half = (
            best - base >= t.gain - 1e-12
            and best - now > t.lost * (best - base)
            and now > base - t.under
        )
        below = now < base
    falls = n["volume last"] < n["volume first"]
    level = n["volume third"] / t.plateau <= n["volume last"] <= n["volume third"] * t.plateau
    settled = falls and (level if not still and n["volume last"] > 0 else rests)
    return [
        (RELAXATION, relaxed),
        (HALF_COLLAPSE, half),
        (STAGNATION, still and fallen),
        (SUCCESS, inside and settled and not below),
        (STAGNATION, silent and not (inside and silence)),
    ]
