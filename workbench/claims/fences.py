"""What the fences around the reference runs are worth on the other runs of a claim. No torch.

Fences: three envelopes, the trivial predictor (entropy or length out of the reference's range), each
label-free signal by itself, and all of these together as one box. The box tells what an envelope owes to
its hull from what it owes to the vote share as an axis.

Each is scored at the margins that the claim fixed before any result. A margin means another thing to each
fence, so they are also compared at equal false alarms, over all margins (`alarms.sweep`).

All figures are counts of runs. Runs of one seed share their prompts, so they are no independent sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from workbench.alarms import (
    ENTROPY,
    LENGTH,
    SIGNALS,
    TRIVIAL,
    Fence,
    Ranges,
    Sweep,
    WarningScore,
    score_warnings,
    sweep,
)
from workbench.phase import ACCURACY, CENTRES, VOTE, Path
from workbench.references import Reference

ENVELOPES = {
    VOTE: "envelope: votes",
    CENTRES: "envelope: centres",
    ACCURACY: "envelope: accuracy",
}
PLAIN, ALL = "entropy or length", "entropy, length or votes"
RANGES = {PLAIN: TRIVIAL, ENTROPY: (ENTROPY,), LENGTH: (LENGTH,), "votes": (VOTE,), ALL: SIGNALS}
SHARES = (0.05, 0.2)  # of runs without a drop: false alarms at which fences are compared

Fences = Mapping[
    str, tuple[Fence, str]
]  # name -> the fence, and the space of the paths it looks at
Paths = Mapping[str, Sequence[Path]]  # space -> the paths of the same runs, in the same order
Row = dict[str, Any]


def fences_of(reference: Reference) -> dict[str, tuple[Fence, str]]:
    """Every fence, fitted on the reference."""
    paths = reference.paths(VOTE)
    found: dict[str, tuple[Fence, str]] = {
        name: (reference.envelope(space), space) for space, name in ENVELOPES.items()
    }
    return found | {name: (Ranges.fit(paths, signals=s), VOTE) for name, s in RANGES.items()}


def first_warning(fences: Fences, judged: Paths, patience: int) -> int | None:
    """The first step at which any run can be warned of: after burn-in and patience; None if at none."""
    first = fences[PLAIN][0].burn_step
    counted = [one.steps_N[one.steps_N >= first] for one in judged[VOTE]]
    return min((int(s[patience - 1]) for s in counted if len(s) >= patience), default=None)


def at_margins(fences: Fences, judged: Paths, patience: int, margins: Sequence[float]) -> list[Row]:
    """One row for each fence and margin; `paired` is the fence against the trivial predictor."""
    rows = []
    for margin in margins:
        scores = {
            name: score_warnings(fence, judged[space], patience=patience, margin=margin)
            for name, (fence, space) in fences.items()
        }
        for name, score in scores.items():
            row = {"fence": name, "margin": margin, "sees_labels": score.sees_labels}
            row |= counts(score, first_warning(fences, judged, patience))
            rows.append(row | {"paired": paired(score, scores[PLAIN])})
    return rows


def counts(score: WarningScore, first: int | None) -> Row:
    """Runs, drops, warnings and leads of a score as plain numbers.

    Counts named at once are of warnings at the step `first`, the first possible: such a run was outside
    from the first judged probe on, so the warning says that it is unlike the reference, not that it left.
    `leads` are the quartiles over runs with both a warning and a drop, late warnings negative; `lead` is
    the median over all runs that drop, where a late warning or none counts as 0.
    """
    known = [one.lead for one in score.leads if one.lead is not None]
    in_time = [max(0, one.lead or 0) for one in score.leads if one.drop is not None]
    at_once = [one for one in score.leads if first is not None and one.warning == first]
    warned = sum(one.warning is not None for one in score.leads)
    return {
        "runs": len(score.leads),
        "warned": warned,
        "at_once": len(at_once),
        "share_warned": warned / len(score.leads),
        "drops": score.drops,
        "detected": score.drops - score.missed,
        "detected_at_once": sum(one.drop is not None and not one.missed for one in at_once),
        "missed": score.missed,
        "calm": len(score.leads) - score.drops,
        "false_alarms": score.false_alarms,
        "false_at_once": sum(one.false_alarm for one in at_once),
        "leads": np.percentile(known, [25, 50, 75]).tolist() if known else None,
        "lead": float(np.median(in_time)) if in_time else None,
    }


def paired(ours: WarningScore, theirs: WarningScore) -> dict[str, int]:
    """Of the runs that drop: where ours warns earlier, later, at the same step, or neither in time."""
    found = {"earlier": 0, "later": 0, "same": 0, "neither": 0}
    for one, other in zip(ours.leads, theirs.leads, strict=True):
        if one.drop is None:
            continue
        first, second = (0 if each.missed else each.lead or 0 for each in (one, other))
        word = "earlier" if first > second else "later" if first < second else "same"
        found[word if first or second else "neither"] += 1
    return found


def over_margins(fences: Fences, judged: Paths, patience: int) -> dict[str, Row]:
    """Fence -> areas under its ROC, its trades, and those at SHARES, paired with the trivial predictor's.

    A trade is [margin, false alarms, detected, lead], fewest false alarms first; see `alarms.Sweep`.
    """
    sweeps = {
        name: sweep(fence, judged[space], patience=patience)
        for name, (fence, space) in fences.items()
    }
    found: dict[str, Row] = {}
    for name, one in sweeps.items():
        found[name] = {
            "area": one.area,
            "area_late": one.area_late,
            "drops": one.drops,
            "calm": one.calm,
            "sees_labels": one.sees_labels,
            "trades": [list(asdict(trade).values()) for trade in one.trades],
            "at": {},
        }
    for share in SHARES:
        scores = _scores_at(fences, judged, patience, sweeps, share)
        for name, score in scores.items():
            trade = asdict(sweeps[name].at(share))
            found[name]["at"][str(share)] = trade | {"paired": paired(score, scores[PLAIN])}
    return found


def _scores_at(
    fences: Fences, judged: Paths, patience: int, sweeps: Mapping[str, Sweep], share: float
) -> dict[str, WarningScore]:
    return {
        name: score_warnings(
            fence, judged[space], patience=patience, margin=sweeps[name].at(share).margin
        )
        for name, (fence, space) in fences.items()
    }
