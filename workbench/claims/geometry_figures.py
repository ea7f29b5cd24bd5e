"""The geometry of a claim as plotly figures: accuracy beside the reward, and what warnings are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.claims.fences import ENVELOPES, PLAIN
from workbench.claims.figures import look
from workbench.claims.geometry_tables import geometry_of
from workbench.claims.results import Result
from workbench.plots import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from workbench.variants import WorkbenchError, lookup

COLUMNS = 4  # of small multiples
ROW = 150  # pixels
FENCE_COLOURS = (BLUE, GREEN, GREY, VERMILLION, ORANGE, AMBER, PURPLE, SKY)


def curves_figure(
    result: Result, arms: Sequence[str] | None = None, theme: str = "light"
) -> go.Figure:
    """Small multiples over steps: the probe's accuracy, each seed faint, and the reward dashed beside it.

    The reward is the mean over seeds. Where it does not lie between 0 and 1 by itself, it is scaled so that
    its least value in the arm is 0 and its greatest 1: then only its direction compares with accuracy.
    Rewards standardised within the group have a mean of 0 at every step and are not drawn.
    """
    chosen = list(result["arms"] if arms is None else arms)
    found = {arm: _columns(lookup(result["arms"], "arm", arm)) for arm in chosen}
    found = {arm: columns for arm, columns in found.items() if columns}
    if not found:
        raise WorkbenchError("No run of these arms took probes; measure a claim with probe_every.")
    rows = -(-len(found) // COLUMNS)
    figure = make_subplots(
        rows=rows, cols=min(COLUMNS, len(found)), shared_yaxes=True, subplot_titles=list(found),
        horizontal_spacing=0.03, vertical_spacing=0.28 / rows,
    )  # fmt: skip
    for place, (arm, columns) in enumerate(found.items()):
        at = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        _arm_lines(figure, columns, place == 0, at)
        if not _standardised(result["arms"][arm]):
            _reward_line(figure, columns, at)
    figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_layout(**look(theme), height=90 + ROW * rows)
    figure.update_layout(legend={"y": -0.2 / rows})
    return figure


def _columns(arm: Result) -> list[dict[str, Any]]:
    return [cell["probes"] for cell in arm["cells"] if "probes" in cell]


def _standardised(arm: Result) -> bool:
    return arm.get("recipe", {}).get("standardise") == "group"


def _arm_lines(
    figure: go.Figure, columns: list[dict[str, Any]], first: bool, at: dict[str, int]
) -> None:
    for each in columns:
        figure.add_scatter(
            x=each["step"], y=each["accuracy"], mode="lines", hoverinfo="skip",
            line={"color": BLUE, "width": 1}, opacity=0.3, showlegend=False, **at,
        )  # fmt: skip
    mean = _mean(columns, "accuracy")
    figure.add_scatter(
        x=mean.index, y=mean, mode="lines", line={"color": BLUE, "width": 2.5},
        name="accuracy, mean over seeds", legendgroup="accuracy", showlegend=first,
        hovertemplate="step %{x}: accuracy %{y:.3f}<extra></extra>", **at,
    )  # fmt: skip


def _reward_line(figure: go.Figure, columns: list[dict[str, Any]], at: dict[str, int]) -> None:
    reward = _mean(columns, "reward")
    shown = {trace.legendgroup for trace in figure.data}
    figure.add_scatter(
        x=reward.index, y=_scaled(reward), customdata=reward, mode="lines",
        line={"color": VERMILLION, "dash": "dash"}, name="reward, scaled unless within 0 to 1",
        legendgroup="reward", showlegend="reward" not in shown,
        hovertemplate="step %{x}: reward %{customdata:.3f}<extra></extra>", **at,
    )  # fmt: skip


def _mean(columns: list[dict[str, Any]], name: str) -> pd.Series:
    """Mean over the seeds at each step."""
    each = [pd.Series(one[name], index=one["step"], dtype=float) for one in columns]
    return pd.concat(each, axis=1).mean(axis=1)


def _scaled(values: pd.Series) -> pd.Series:
    """Least 0, greatest 1, unless all lie between; a constant outside them lies in the middle."""
    span = values.max() - values.min()
    if values.min() >= 0 and values.max() <= 1:
        return values
    return (values - values.min()) / span if span > 0 else values * 0 + 0.5


def warnings_figure(result: Result, theme: str = "light") -> go.Figure:
    """Drops foretold and median lead against false alarms, one line for each fence over all its margins.

    Full lines are envelopes, dotted ones ranges. Dots: the margin that the claim fixed for verdicts. A
    line further up warns of more, or earlier, for the same false alarms.
    """
    geometry = geometry_of(result)
    figure = make_subplots(
        cols=2, horizontal_spacing=0.09,
        subplot_titles=("drops foretold, share", "lead in steps, median; 0 where too late"),
    )  # fmt: skip
    at_margin = {
        row["fence"]: row
        for row in geometry["warnings"]
        if row["margin"] == geometry["settings"]["margin"]
    }
    for (name, row), colour in zip(geometry["sweeps"].items(), FENCE_COLOURS, strict=True):
        margins, false, detected, lead = np.array(row["trades"], dtype=float).T
        shares = (_share(detected, row["drops"]), lead)
        label = f"{name} (sees labels)" if row["sees_labels"] else name
        line = {"color": colour, "shape": "hv", "width": 2.5 if name in _bold() else 1.5}
        line["dash"] = "solid" if name in ENVELOPES.values() else "dot"
        dot = at_margin.get(name)
        for column, values in enumerate(shares, 1):
            figure.add_scatter(
                x=_share(false, row["calm"]), y=values, customdata=margins, mode="lines", line=line,
                name=label, legendgroup=name, showlegend=column == 1,
                hovertemplate="%{x:.0%} false alarms: %{y:.2f}, margin %{customdata:.2f}", row=1, col=column,
            )  # fmt: skip
            if dot:
                point = dot["detected"] / max(1, dot["drops"]) if column == 1 else dot["lead"]
                figure.add_scatter(
                    x=[dot["false_alarms"] / max(1, dot["calm"])], y=[point], mode="markers",
                    marker={"color": colour, "size": 9}, name=label, legendgroup=name,
                    showlegend=False, hovertemplate=f"margin {dot['margin']:g}", cliponaxis=False,
                    row=1, col=column,
                )  # fmt: skip
    figure.update_xaxes(title_text="false alarms, share of runs without a drop", tickformat=".0%")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(**look(theme), height=440)
    return figure


def _bold() -> tuple[str, ...]:
    return (*ENVELOPES.values(), PLAIN)


def _share(counts: np.ndarray, of: int) -> np.ndarray:
    return counts / max(1, of)
