"""The results of a claim as plotly figures: arms side by side, and pass@k against alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.claims.results import Result, cells_of
from workbench.plots import BLUE, GREY, ORANGE, VERMILLION


def claims_figure(
    result: Result, metrics: Sequence[str] | None = None, theme: str = "light"
) -> go.Figure:
    """A dot plot: each arm's mean and 95 % interval, its seeds as faint dots, the base as a grey band."""
    ks = result["evaluation"]["ks"]
    metrics = list(metrics or (f"pass@{ks[0]}", f"pass@{ks[-1]}"))
    arms = list(result["arms"])
    figure = make_subplots(
        cols=len(metrics), shared_yaxes=True, subplot_titles=metrics, horizontal_spacing=0.04
    )
    for column, metric in enumerate(metrics, 1):
        seeds = [(value, arm) for arm in arms for value in _values(result, arm, metric)]
        figure.add_scatter(
            x=[value for value, _ in seeds], y=[arm for _, arm in seeds], mode="markers",
            marker={"color": ORANGE, "opacity": 0.45, "size": 6}, name="one seed",
            showlegend=column == 1, hovertemplate="%{y}: %{x:.4f}", row=1, col=column,
        )  # fmt: skip
        found = [result["arms"][arm]["summary"].get(metric) for arm in arms]
        figure.add_scatter(
            x=[f["mean"] if f else None for f in found], y=arms, mode="markers",
            error_x={"type": "data", "array": [_half(f) for f in found]},
            marker={"color": BLUE, "size": 9}, name="mean and 95 % interval",
            showlegend=column == 1, hovertemplate="%{y}: %{x:.4f}", row=1, col=column,
        )  # fmt: skip
        _base_band(figure, result["base"]["summary"].get(metric), row=1, col=column)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(**look(theme), height=140 + 26 * len(arms))
    return figure


def alpha_of(arm: Mapping[str, Any]) -> float | None:
    """The alpha of an arm of the RL2ML family: RLOO is alpha 0, MaxRL is alpha 1."""
    recipe = arm["recipe"]
    if recipe.get("objective") in ("rloo", "maxrl"):
        return 0.0 if recipe["objective"] == "rloo" else 1.0
    alpha = recipe.get("objective_args", {}).get("alpha")
    return alpha if recipe.get("objective") == "rl2ml" and isinstance(alpha, (int, float)) else None


def alpha_figure(
    result: Result, metrics: Sequence[str] | None = None, theme: str = "light"
) -> go.Figure:
    """pass@1 and pass@64 against alpha; diamonds: what alpha="auto" reached, at the alpha it ended with."""
    ks = result["evaluation"]["ks"]
    metrics = list(metrics or (f"pass@{ks[0]}", f"pass@{ks[-1]}"))
    alphas = {name: alpha_of(arm) for name, arm in result["arms"].items()}
    fixed = sorted((alpha, name) for name, alpha in alphas.items() if alpha is not None)
    chosen = [
        (arm["summary"]["alpha"]["mean"], name)
        for name, arm in result["arms"].items()
        if arm["recipe"].get("objective_args", {}).get("alpha") == "auto" and "alpha" in arm["summary"]
    ]  # fmt: skip
    figure = make_subplots(cols=len(metrics), subplot_titles=metrics, horizontal_spacing=0.08)
    for column, metric in enumerate(metrics, 1):
        styles = ((fixed, "fixed alpha", "lines+markers", BLUE, "circle"),
                  (chosen, "auto", "markers+text", VERMILLION, "diamond"))  # fmt: skip
        for points, name, mode, colour, symbol in styles:
            found = [result["arms"][arm]["summary"].get(metric) for _, arm in points]
            figure.add_scatter(
                x=[alpha for alpha, _ in points], y=[f["mean"] if f else None for f in found],
                error_y={"type": "data", "array": [_half(f) for f in found]},
                text=[arm for _, arm in points], textposition="bottom center", mode=mode, name=name,
                marker={"color": colour, "symbol": symbol, "size": 9}, line={"color": colour},
                showlegend=column == 1, hovertemplate="%{text}, alpha %{x:.2f}: %{y:.4f}",
                row=1, col=column,
            )  # fmt: skip
        _base_band(figure, result["base"]["summary"].get(metric), across=True, row=1, col=column)
    figure.update_xaxes(title_text="alpha")
    figure.update_layout(**look(theme), height=380)
    return figure


def _values(result: Result, arm: str, metric: str) -> list[float]:
    found = (metrics.get(metric) for metrics in cells_of(result, arm).values())
    return [value for value in found if value is not None]


def _half(found: Mapping[str, float | None] | None) -> float:
    """Half the interval's width, 0 where there is none."""
    if not found or found["high"] is None or found["mean"] is None:
        return 0.0
    return found["high"] - found["mean"]


def _base_band(
    figure: go.Figure,
    found: Mapping[str, float | None] | None,
    *,
    across: bool = False,
    **place: int,
) -> None:
    """The base's mean as a dotted line, and its interval as a grey band."""
    if not found or found["mean"] is None:
        return
    line, band = ("hline", "hrect") if across else ("vline", "vrect")
    axis = "y" if across else "x"
    getattr(figure, f"add_{line}")(
        **{axis: found["mean"]}, line={"color": GREY, "dash": "dot"}, **place
    )
    if found["low"] is not None:
        edges = {f"{axis}0": found["low"], f"{axis}1": found["high"]}
        getattr(figure, f"add_{band}")(
            **edges, fillcolor=GREY, opacity=0.2, line_width=0, layer="below", **place
        )


def look(theme: str) -> dict[str, Any]:
    """The layout that all figures of claims share; theme is "light" or "dark"."""
    return {
        "template": "plotly_dark" if theme == "dark" else "plotly_white",
        "margin": {"l": 44, "r": 12, "t": 40, "b": 34},
        "legend": {"orientation": "h", "y": -0.18},
        "font": {"size": 11},
    }
