"""What was expected and what was measured, side by side, computed from the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.analysis import best_alpha
from workbench.claims.figures import alpha_of
from workbench.claims.plan import Expectation, read_claim
from workbench.claims.results import Result, difference
from workbench.recipe import Recipe

PSEUDO = 0.5  # success and failure added to each prompt's counts, so that no rate is exactly 0 or 1


def verdicts(result: Result, expect: Sequence[Expectation] | None = None) -> pd.DataFrame:
    """One line for each expectation whose two arms were measured; by default those of the claim's file.

    A difference is paired by seed. It *agrees* or *contradicts* where its 95 % interval lies wholly on one
    side of 0; an interval that holds 0 shows nothing, except where no difference was expected.
    """
    lines = []
    for item in read_claim(result["name"]).expect if expect is None else expect:
        pair = difference(result, item.arm, item.control)
        found = pair["metrics"].get(item.metric) if pair else None
        if pair is None or found is None:
            continue
        lines.append(
            {
                "who": item.who,
                "says": item.says,
                "difference": f"{item.arm} - {item.control}, {item.metric}",
                "measured": _span(found, "+.3f"),
                "seeds": len(pair["seeds"]),
                "verdict": verdict(found["low"], found["high"], item.sign),
            }
        )
    return pd.DataFrame(
        lines, columns=["who", "says", "difference", "measured", "seeds", "verdict"]
    )


def verdict(low: float | None, high: float | None, sign: int) -> str:
    """What an interval says of a difference that was expected above (1), below (-1) or at (0) zero."""
    if low is None or high is None:
        return "one seed only: undecided"
    if low <= 0 <= high:
        return "agrees, within the interval" if sign == 0 else "not seen: the interval holds 0"
    return "agrees" if sign * low > 0 else "CONTRADICTS"


def alpha_choices(result: Result) -> pd.DataFrame:
    """For each metric: the alpha predicted from the base, the best fixed one, and auto's choice.

    Predicted: `analysis.best_alpha` of the base's success rates before training. Auto is *within* where its
    mean lies in the interval of the best fixed alpha, *above* or *below* where it lies outside.
    """
    arms = result["arms"]
    group = _group_size(result)
    samples = result["evaluation"]["samples"]
    rates = (np.array(result["base"]["successes"]) + PSEUDO) / (samples + 2 * PSEUDO)
    fixed = {name: alpha_of(arm) for name, arm in arms.items()}
    lines = []
    for k in result["evaluation"]["ks"]:
        metric = f"pass@{k}"
        sweep = [
            (arms[name]["summary"][metric]["mean"], alpha, name)
            for name, alpha in fixed.items()
            if alpha is not None and metric in arms[name]["summary"]
        ]
        if not sweep:
            continue
        _, alpha, name = max(sweep)
        best = arms[name]["summary"][metric]
        line = {
            "metric": metric,
            "predicted alpha": round(best_alpha(metric, rates, group), 2),
            "best fixed alpha": alpha,
            "it reached": _span(best, ".3f"),
        }
        lines.append(line | _auto(arms, metric, best))
    return pd.DataFrame(lines)


def _auto(arms: Mapping[str, Any], metric: str, best: Mapping[str, float | None]) -> dict[str, Any]:
    """The alpha that auto ended with for this metric, what it reached, and whether that is within."""
    for arm in arms.values():
        given = arm["recipe"].get("objective_args", {})
        if given.get("alpha") == "auto" and given.get("metric", "pass@8") == metric:
            found = arm["summary"].get(metric)
            if not found or best["low"] is None:
                break
            place = "within" if best["low"] <= found["mean"] <= best["high"] else "above"
            place = "below" if found["mean"] < best["low"] else place
            chosen = arm["summary"].get("alpha", {}).get("mean")
            return {
                "auto's alpha": None if chosen is None else round(chosen, 2),
                "auto reached": _span(found, ".3f"),
                "auto is": place,
            }
    return {"auto's alpha": None, "auto reached": "", "auto is": ""}


def _group_size(result: Result) -> int:
    arm = next(iter(result["arms"].values()))
    return Recipe.from_link(arm["link"]).group_size


def _span(found: Mapping[str, float | None], style: str) -> str:
    if found["low"] is None:
        return format(found["mean"], style)
    low, high = (format(found[end], style) for end in ("low", "high"))
    return f"{format(found['mean'], style)} [{low}, {high}]"
