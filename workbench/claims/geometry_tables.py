"""What was judged of a claim, as aligned text: verdicts by arm, warnings, and fences side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.claims.fences import PLAIN, SHARES
from workbench.claims.results import Result, aligned, load
from workbench.diagnosis import HALF_COLLAPSE, RELAXATION, STAGNATION, SUCCESS, UNDECIDED
from workbench.variants import WorkbenchError

NAMES = (SUCCESS, STAGNATION, RELAXATION, HALF_COLLAPSE, UNDECIDED)
Row = Mapping[str, Any]

WARNINGS = """\
Warnings at the margins fixed beforehand, due after {patience} probes in a row outside
In time: before the drop. At once: of these, runs outside from the first judged probe on, which says that
they are unlike the reference, not that they left it. Lead: steps from warning to drop, median over runs
with both; lead or 0: over all that drop, with 0 for none or too late. Against: runs that drop and are warned
of earlier/later/at the same step than by "{plain}"/in time by neither. A margin means another
thing to each fence, so compare them in the next table."""
SWEEPS = """\
Fences at equal false alarms: each at the margin that gives the most of them, up to a share of the runs
without a drop. These margins are picked in hindsight, for all fences alike. Lead: "lead or 0" from above.
Area: under the ROC, the chance that a run that drops goes further outside before it drops than a run
without a drop goes at all; late: without the drops that come before any warning is possible."""


def geometry_of(claim: str | os.PathLike[str] | Result) -> Result:
    """The part of a result that `judging.judge` wrote."""
    result = claim if isinstance(claim, dict) else load(claim)
    if "geometry" not in result:
        raise WorkbenchError(
            f"Claim {result['name']} is not judged yet; run: workbench claims {result['name']}"
        )
    return result["geometry"]


def geometry_table(claim: str | os.PathLike[str] | Result) -> str:
    """Verdicts by arm, warnings at the claim's margins, and fences at equal false alarms."""
    geometry = geometry_of(claim)
    return "\n\n".join(
        [_about(geometry), *_verdicts(geometry), _warnings(geometry), _sweeps(geometry)]
    )


def _about(geometry: Result) -> str:
    settings, first = geometry["settings"], geometry["first_warning"]
    runs, drops = geometry["runs"], geometry["drops"]
    lines = [
        f"Geometry: {runs} runs beside the reference ({', '.join(geometry['reference']['runs'])})",
        f"{drops} of them drop: their accuracy ends more than {settings['drop']} under its best. "
        f"{geometry['too_early']} drop before any warning is possible"
        + ("." if first is None else f", which is at step {first}."),
        "All figures are counts of runs. Runs of one seed share their prompts.",
    ]
    if not drops:
        lines.append("No run drops: leads and detection can't be judged.")
    if drops == runs:
        lines.append("Every run drops: false alarms can't be judged.")
    return "\n".join(lines)


def _verdicts(geometry: Result) -> Iterator[str]:
    drops = {row["arm"]: 0 for row in geometry["verdicts"]}
    for row in geometry["verdicts"]:
        drops[row["arm"]] += row["drop"] is not None
    for space, arms in geometry["counts"].items():
        lines = [["arm", "n", "drop", *NAMES]]
        for arm, found in arms.items():
            counts = [str(found.get(name, "-")) for name in NAMES]
            lines.append([arm, str(sum(found.values())), str(drops[arm]), *counts])
        yield (
            f"Verdicts with {space} as the third axis, at margin {geometry['settings']['margin']}\n"
            + aligned(lines)
        )


def _warnings(geometry: Result) -> str:
    lines = [["fence", "margin", "in time (at once)", "false (at once)", "warned",
              "lead [quartiles]", "lead or 0", "against"]]  # fmt: skip
    for row in geometry["warnings"]:
        lines.append([
            _name(row["fence"], row), f"{row['margin']:g}",
            f"{row['detected']}/{row['drops']} ({row['detected_at_once']})",
            f"{row['false_alarms']}/{row['calm']} ({row['false_at_once']})",
            f"{row['share_warned']:.0%}", _quartiles(row["leads"]),
            _steps(row["lead"]), _paired(row["paired"]),
        ])  # fmt: skip
    text = WARNINGS.format(patience=geometry["settings"]["patience"], plain=PLAIN)
    return f"{text}\n{aligned(lines)}"


def _sweeps(geometry: Result) -> str:
    head = [part for share in SHARES for part in
            (f"<= {share:.0%}: false", "in time", "lead", "against")]  # fmt: skip
    lines = [["fence", "area", "late", *head]]
    for name, row in geometry["sweeps"].items():
        parts = []
        for share in SHARES:
            one = row["at"][str(share)]
            parts += [f"{one['false_alarms']}/{row['calm']}", f"{one['detected']}/{row['drops']}",
                      _steps(one["lead"]), _paired(one["paired"])]  # fmt: skip
        areas = [_share(row.get(key)) for key in ("area", "area_late")]
        lines.append([_name(name, row), *areas, *parts])
    return f"{SWEEPS}\n{aligned(lines)}"


def _name(fence: str, row: Row) -> str:
    return f"{fence} (sees labels)" if row["sees_labels"] else fence


def _quartiles(leads: list[float] | None) -> str:
    return "-" if leads is None else f"{leads[1]:g} [{leads[0]:g}, {leads[2]:g}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _steps(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _paired(found: Mapping[str, int]) -> str:
    return "/".join(str(found[key]) for key in ("earlier", "later", "same", "neither"))
