"""Figures about anchors: the small categorical world, the estimators of a KL, and coloured tokens.

Plain plotly and HTML made from `categorical`'s numbers; no torch, no widgets. Text of a model is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench import categorical as cat
from workbench.plots import BLUE, CLEAR, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION

SHOWN = ("none", "k2", "k3", "forward_kl", "sage", "faithful")
COLOURS = {
    "none": GREY, "k1": GREY, "k2": BLUE, "exact": BLUE, "k3": ORANGE, "forward_kl": VERMILLION,
    "sage": GREEN, "faithful": PURPLE,
}  # fmt: skip
TITLES = {
    "none": "none",
    "k2": "reverse_kl, k2",
    "k3": "reverse_kl, k3",
    "forward_kl": "forward_kl, exact",
    "sage": "sage, released",
    "faithful": "sage, faithful",
}
FLOOR = 1e-4  # the probability axis ends here
FIRST = 1  # which of the betas is shown at first
ESTIMATOR_COLOURS = dict(zip(cat.ESTIMATORS, (BLUE, ORANGE, GREEN), strict=True))
SHADES = {"high": "213,94,0", "low": "0,114,178"}  # vermillion and blue


def worlds_figure(
    world: cat.World, betas: Sequence[float], *, rows: Sequence[str] = SHOWN, steps: int = 2_000
) -> go.Figure:
    """Each row's optimum (diamonds) beside what exact training reaches (bars); a slider for beta.

    It opens at the second of `betas`.
    """
    columns = 3
    lines = -(-len(rows) // columns)
    figure = make_subplots(
        lines, columns, subplot_titles=[TITLES.get(row, row) for row in rows], shared_xaxes=True,
        shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.14,
    )  # fmt: skip
    answers = np.arange(1, len(world.reference_A) + 1)
    colours = np.where(world.right_A, GREEN, GREY)
    for number, row in enumerate(rows):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        for index, beta in enumerate(betas):
            reached_A = cat.train(row, world, beta, steps=steps)[-1]
            best_A = cat.optimum(row, world, beta)
            common = {"x": answers, "visible": index == FIRST, "showlegend": number == 0, **place}
            figure.add_bar(
                y=reached_A.clip(FLOOR), marker={"color": colours}, name="reached (green: right)",
                customdata=reached_A, hovertemplate="answer %{x}: reached %{customdata:.2g}<extra></extra>",
                legendgroup="reached", **common,
            )  # fmt: skip
            figure.add_scatter(
                y=np.where(best_A < FLOOR, np.nan, best_A), mode="markers", name="optimum",
                marker={"symbol": "diamond-open", "color": VERMILLION, "size": 7, "line": {"width": 2}},
                hovertemplate="answer %{x}: optimum %{y:.2g}<extra></extra>",
                legendgroup="optimum", **common,
            )  # fmt: skip
        figure.add_scatter(
            x=answers, y=world.reference_A, mode="lines", line={"color": SKY, "shape": "hvh"},
            name="reference", legendgroup="reference", showlegend=number == 0, hoverinfo="skip",
            **place,
        )  # fmt: skip
    figure.update_yaxes(
        type="log", range=[np.log10(FLOOR), 0.05], tickvals=[1e-4, 1e-3, 1e-2, 0.1, 1],
        ticktext=["0.0001", "0.001", "0.01", "0.1", "1"],
    )  # fmt: skip
    figure.update_yaxes(title_text="probability", col=1)
    figure.update_xaxes(title_text="answer", row=lines)
    figure.update_layout(
        **_look(540), bargap=0.15, sliders=[_beta_slider(figure, betas, len(rows))]
    )
    return figure


def _beta_slider(figure: go.Figure, betas: Sequence[float], rows: int) -> dict[str, Any]:
    """Shows the traces of one beta; every row has two for each beta and one that always shows."""
    steps = []
    for index, beta in enumerate(betas):
        one_row = [shown for i in range(len(betas)) for shown in [i == index] * 2] + [True]
        steps.append(
            {"method": "restyle", "label": f"{beta:g}", "args": [{"visible": one_row * rows}]}
        )
    return {
        "active": FIRST, "steps": steps, "currentvalue": {"prefix": "beta "},
        "x": 0.2, "y": -0.14, "len": 0.6, "pad": {"t": 20},
    }  # fmt: skip


def plane_figure(
    world: cat.World,
    beta: float,
    *,
    rows: Sequence[str] = SHOWN,
    k: int = 64,
    draws: int = 16,
    steps: int = 2_000,
    seeds: int = 3,
) -> go.Figure:
    """Accuracy against coverage along training, with exact gradients and with `draws` answers a step."""
    titles = ("exact gradients", f"{draws} drawn answers a step, {seeds} seeds")
    figure = make_subplots(
        cols=2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04
    )
    for row in rows:
        paths = [(1, cat.train(row, world, beta, steps=steps))]
        for seed in range(seeds):
            path = cat.train(row, world, beta, steps=steps, rate=0.5, draws=draws, seed=seed)
            paths.append((2, path))
        for number, (column, path) in enumerate(paths):
            _walk(figure, world, row, path, k, column, legend=number == 0)
        best_A = cat.optimum(row, world, beta)
        for column in (1, 2):
            figure.add_scatter(
                x=[cat.accuracy(best_A, world)], y=[cat.coverage(best_A, world, k)], mode="markers",
                marker={"symbol": "diamond-open", "size": 11, "color": COLOURS[row]},
                showlegend=False, hovertemplate=f"optimum of {TITLES.get(row, row)}<extra></extra>",
                row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title_text="probability of a right answer (pass@1)")
    figure.update_yaxes(title_text=f"right answers found in {k} draws", col=1)
    figure.update_layout(**_look(420))
    return figure


def _walk(
    figure: go.Figure, world: cat.World, row: str, path: np.ndarray, k: int, column: int, *, legend: bool
) -> None:  # fmt: skip
    """One path through the plane, thinned, with a dot at its end."""
    kept = np.unique(np.geomspace(1, len(path), 80).astype(int)) - 1
    x = [cat.accuracy(path[i], world) for i in kept]
    y = [cat.coverage(path[i], world, k) for i in kept]
    title = TITLES.get(row, row)
    figure.add_scatter(
        x=x, y=y, mode="lines+markers", name=title, legendgroup=row,
        line={"color": COLOURS[row], "dash": "dot" if row == "forward_kl" else "solid"},
        marker={"size": [0] * (len(x) - 1) + [8]}, showlegend=legend, customdata=kept,
        hovertemplate=f"{title}, step %{{customdata}}: %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
        row=1, col=column,
    )  # fmt: skip


def zoo_figure(policy_A: np.ndarray, reference_A: np.ndarray, *, draws: int = 64) -> go.Figure:
    """The estimators' values by token, their scatter over batches, and how wrong their gradients are."""
    titles = (
        "value of one draw",
        f"mean of {draws} draws, less the KL",
        "gradient error / |gradient of the KL|",
    )
    figure = make_subplots(cols=3, subplot_titles=titles, horizontal_spacing=0.09)
    ratio = np.linspace(-3, 3, 121)  # log reference - log policy
    found = cat.zoo(policy_A, reference_A)
    for one in found:
        style = {"name": one.name, "legendgroup": one.name}
        colour = ESTIMATOR_COLOURS[one.name]
        at = cat.estimate(one.name, np.ones_like(ratio), np.exp(ratio))
        figure.add_scatter(x=ratio, y=at, line={"color": colour}, **style, row=1, col=1)
        means = cat.batch_estimates(one.name, policy_A, reference_A, draws)
        figure.add_violin(
            x=[one.name] * len(means), y=means - cat.reverse_kl(policy_A, reference_A), points=False,
            line={"color": colour}, meanline={"visible": True}, showlegend=False, **style,
            row=1, col=2,
        )  # fmt: skip
    for place, colour in (("loss", SKY), ("reward", PURPLE)):
        slips = [getattr(one, f"{place}_slip") for one in found]
        figure.add_bar(
            x=[one.name for one in found], y=slips, text=[f"{slip:.2f}" for slip in slips],
            textposition="outside", cliponaxis=False, name=f"in the {place}",
            marker={"color": colour}, row=1, col=3,
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": GREY, "dash": "dot"}, row=1, col=2)
    figure.update_xaxes(title_text="log reference − log policy", row=1, col=1)
    figure.update_yaxes(title_text="nats", row=1, col=1)
    figure.update_layout(**_look(380))
    return figure


def _look(height: int) -> dict[str, Any]:
    return {
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 70, "b": 44},
        "legend": {"orientation": "h", "y": 1.08, "yanchor": "bottom", "x": 0},
        "font": {"size": 12},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
    }


def tokens_html(
    tokens: Sequence[str],
    lines: Mapping[str, Sequence[float]],
    *,
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """The same tokens once for every named line of values, each shaded by its value; hover for the numbers.

    `scales` gives a line its centre and reach: orange is above the centre, blue below, and the shade is full
    at that distance. Other lines are centred at 0 and reach to their greatest value.
    """
    parts = []
    for name, values in lines.items():
        greatest = max(map(abs, values), default=0.0)
        middle, reach = (scales or {}).get(name, (0.0, greatest or 1.0))
        spans = "".join(
            _token_html(token, name, value, float(np.clip((value - middle) / reach, -1, 1)))
            for token, value in zip(tokens, values, strict=True)
        )
        ends = f"{min(values, default=0):.3f} to {max(values, default=0):.3f}"
        parts.append(
            f'<tr><th style="text-align:left;padding-right:1em">{html.escape(name)}</th>'
            f'<td style="text-align:left"><bdi dir="auto">{spans}</bdi></td>'
            f'<td style="white-space:nowrap;padding-left:1em">{ends}</td></tr>'
        )
    return f'<table style="font-family:monospace">{"".join(parts)}</table>'


def _token_html(token: str, name: str, value: float, strength: float) -> str:
    """One token: `strength` from -1 (blue) to 1 (orange)."""
    shade = SHADES["high" if strength >= 0 else "low"]
    shown = html.escape(token).replace("\n", "↵").replace(" ", "␣")
    title = html.escape(f"{token!r}: {name} {value:.3g}", quote=True)
    style = (
        f"background:rgba({shade},{0.75 * abs(strength):.2f});padding:1px 2px;"
        "outline:1px solid rgba(127,127,127,0.25);white-space:pre"
    )
    return f'<span style="{style}" title="{title}">{shown}</span>'
