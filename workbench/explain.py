"""What objectives do to a group and to a prompt, side by side, as one plotly figure.

`explain` gathers the numbers of one objective (all from `analysis`); `empty_figure` has the styled traces
of every name, hidden, and `fill` puts the numbers in. The static figure and the explorer's live one are
made of the same parts. No widgets here, and torch only when numbers are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench import analysis
from workbench.plots import CLEAR, DASHES, GREY, PALETTE, SYMBOLS

METRICS = ("pass@1", "pass@8", "pass@64", "log p")
ALPHAS = np.linspace(-0.5, 3.0, 29)
POINTS = 121  # of the axis of p
MARGIN = 0.01  # noise is drawn from here to 1 - MARGIN: at the ends the update itself vanishes
HEIGHT = 860


@dataclass(frozen=True)
class Subplot:
    """One subplot of the grid: its place, the titles of its axes and what it shows."""

    key: str
    title: str
    row: int
    column: int
    x_title: str
    log: bool = False


SUBPLOTS = (
    Subplot("advantage", "advantage of a success (filled) and of a failure (open)", 0, 0, "K"),
    Subplot("scale", "update scale ω(K)", 0, 1, "K"),
    Subplot("weight", "weight of a prompt w(p); grey: the prompts", 1, 0, "p", log=True),
    Subplot("surrogate", "what training climbs, J(p)", 1, 1, "p"),
    Subplot("noise", "noise / signal of one group's update", 2, 0, "p", log=True),
    Subplot("gain", "gain per step of rl2ml against α; star: best", 2, 1, "α"),
)
TICKS = {  # of a logarithmic axis; plotly's own leave out the power of ten
    "tickmode": "array", "tickvals": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000)
}  # fmt: skip
LINES = ("success", "failure", "scale", "weight", "surrogate", "noise")  # of one objective
HOME = {"success": "advantage", "failure": "advantage"}  # line -> subplot, where they differ
MARKED = ("advantage", "scale")  # these show the chosen K


@dataclass(frozen=True)
class Explained:
    """The numbers of one objective at one group size N.

    `K` is 0..N; `success` and `failure` are the advantages of one rollout (NaN where there is none),
    `scale` is omega(K); `weight` and `surrogate` are w and J at `p`; `noise` is the standard deviation of
    one group's update over the length of its mean, at `p_inside`.
    """

    N: int
    K: np.ndarray
    success: np.ndarray
    failure: np.ndarray
    scale: np.ndarray
    p: np.ndarray
    weight: np.ndarray
    surrogate: np.ndarray
    p_inside: np.ndarray
    noise: np.ndarray

    def line(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """x and y of one of LINES."""
        x = {"weight": self.p, "surrogate": self.p, "noise": self.p_inside}.get(name, self.K)
        first = int(name == "scale")  # omega(0) is 0 for every objective
        return x[first:], getattr(self, name)[first:]


def explain(objective: Any, N: int, *, score_noise: float = 0.25, **params: Any) -> Explained:
    """The numbers of `objective` (a name, a row or your own function) for groups of N.

    Raises WorkbenchError for an objective that is not a function of the success count alone.
    """
    a, b = analysis.coefficients(objective, N, **params)
    K, p = np.arange(N + 1), np.linspace(0, 1, POINTS)
    inside = np.linspace(MARGIN, 1 - MARGIN, POINTS)
    variance = analysis.variance(objective, N, inside, noise_success=score_noise, **params)
    mean = analysis.population_weight(objective, N, inside, **params) * inside * (1 - inside)
    with np.errstate(divide="ignore"):
        noise = np.sqrt(np.maximum(variance, 0)) / np.abs(mean)
    return Explained(
        N, K, np.where(K > 0, N * a, np.nan), np.where(K < N, N * b, np.nan),
        analysis.update_scale(objective, N, **params), p,
        analysis.population_weight(objective, N, p, **params),
        analysis.surrogate(objective, N, p, **params), inside, noise,
    )  # fmt: skip


def transition(success: np.ndarray, failure: np.ndarray) -> str:
    """Whether omega rises, is flat or falls with K, from the advantages of `Explained`.

    Judged on K = 1..N, or for advantages that sum to zero on K = 1..N-1 and the factor that multiplies
    RLOO's: those are one order lower, and there MaxRL is flat to the last digit.
    """
    N = len(success) - 1
    K = np.arange(1, N)
    if N > 1 and np.allclose(K * success[1:N], (K - N) * failure[1:N]) and abs(success[N]) < 1e-9:
        scale = K * success[1:N] / (N - K)
    else:
        scale = np.arange(1, N + 1) * (success[1:] - failure[:-1]) / N
    if len(scale) < 2:
        return "one point"
    steps = np.diff(scale)
    tolerance = 1e-5 * max(1.0, float(np.abs(scale).max()))  # of the row's own small constants
    if (np.abs(steps) <= tolerance).all():
        return "critical: flat"
    if (steps >= -tolerance).all():
        return "subcritical: rises"
    if (steps <= tolerance).all():
        return "supercritical: falls"
    return "rises, then falls" if steps[0] > 0 else "falls, then rises"


def success_rates(mean: float, spread: float, count: int = 200) -> np.ndarray:
    """`count` success probabilities spread evenly over a Beta distribution.

    Args:
        mean: their mean, between 0 and 1.
        spread: 0 to 1: near 0 all prompts are alike, near 1 each is solved always or never.
    """
    from scipy.special import betaincinv

    size = 1 / spread - 1
    even = (np.arange(count) + 0.5) / count
    found = betaincinv(mean * size, (1 - mean) * size, even)
    return np.clip(found, 1e-6, 1 - 1e-6)


def gains(
    p_samples: np.ndarray, N: int, score_noise: float = 0.25
) -> dict[str, tuple[np.ndarray, float, float]]:
    """Metric -> (gain of rl2ml at each of ALPHAS over its maximum, best alpha, maximum)."""
    found = {}
    for metric in METRICS:
        best = analysis.best_alpha(
            metric, p_samples, N, score_noise=score_noise, low=ALPHAS[0], high=ALPHAS[-1]
        )
        options = {"p_samples": p_samples, "N": N, "score_noise": score_noise}
        top = analysis.metric_gain("rl2ml", metric, alpha=best, **options)
        gain = [analysis.metric_gain("rl2ml", metric, alpha=float(a), **options) for a in ALPHAS]
        found[metric] = (np.array(gain) / top, best, top)
    return found


# ------------------------------------------------------------------ the figure


def axis_ids(subplot: Subplot) -> tuple[str, str, str]:
    """The x axis, the y axis and the hidden overlay axis (0 to 1) of a subplot."""
    number = SUBPLOTS.index(subplot) + 1
    suffix = "" if number == 1 else str(number)
    return f"x{suffix}", f"y{suffix}", f"y{number + len(SUBPLOTS)}"


def cell(subplot: Subplot) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a subplot's axes, as shares of the figure."""
    width, height = 0.455, 0.24
    left = subplot.column * (1 - width)
    bottom = (0.735, 0.395, 0.045)[subplot.row]
    return left, left + width, bottom, bottom + height


def look(position: int) -> dict[str, Any]:
    """Colour, dash and marker of the objective at `position` of the table."""
    turn = position + position // len(PALETTE)
    return {
        "color": PALETTE[position % len(PALETTE)],
        "dash": DASHES[turn % len(DASHES)],
        "symbol": SYMBOLS[turn % len(SYMBOLS)],
    }


def trace_keys(names: Sequence[str]) -> list[tuple[str, str]]:
    """(group, line) of every trace, in the figure's order."""
    keys = [("prompts", "weight"), *(("chosen", key) for key in MARKED)]
    keys += [(name, line) for name in names for line in LINES]
    return keys + [(metric, part) for metric in METRICS for part in ("gain", "best")]


def _trace(group: str, line: str, names: Sequence[str]) -> go.Scatter:
    home = "gain" if line == "best" else HOME.get(line, line)
    subplot = next(p for p in SUBPLOTS if p.key == home)
    x_axis, y_axis, overlay = axis_ids(subplot)
    common = {"xaxis": x_axis, "yaxis": y_axis, "meta": {"group": group, "line": line}}
    common |= {"x": [], "y": [], "visible": False, "showlegend": False, "name": group}
    if group == "prompts":
        return go.Scatter(
            **common | {"yaxis": overlay}, mode="lines", line={"width": 0}, fill="tozeroy",
            fillcolor="rgba(127,127,127,0.22)", hoverinfo="skip",
        )  # fmt: skip
    if group == "chosen":
        return go.Scatter(
            **common | {"yaxis": overlay}, mode="lines", hoverinfo="skip",
            line={"color": GREY, "width": 1.2, "dash": "dot"},
        )  # fmt: skip
    if group in METRICS:
        style = look(METRICS.index(group))
        if line == "best":
            marker = {"symbol": "star", "size": 11, "color": style["color"]}
            return go.Scatter(**common, mode="markers", marker=marker,
                              hovertemplate="best α for " + group + ": %{x:.2f}<extra></extra>")  # fmt: skip
        return go.Scatter(**common | {"showlegend": True}, mode="lines", legend="legend2",
                          line={"color": style["color"], "dash": style["dash"], "width": 1.8},
                          hovertemplate=f"α %{{x:.2f}}: %{{y:.3f}}<extra>{group}</extra>")  # fmt: skip
    style = look(names.index(group))
    counted = subplot.x_title == "K"
    marker = {"symbol": style["symbol"] + ("-open" if line == "failure" else ""), "size": 5}
    return go.Scatter(
        **common | {"showlegend": line == "weight"}, legend="legend", legendgroup=group,
        mode="lines+markers" if counted else "lines", marker=marker,
        line={"color": style["color"], "dash": style["dash"], "width": 1 if line == "failure" else 1.8},
        hovertemplate=f"{subplot.x_title} %{{x:.3g}}: %{{y:.4g}}<extra>{group}</extra>",
    )  # fmt: skip


def layout(theme: str = "light") -> dict[str, Any]:
    """The grid of axes, the titles and the two legends."""
    result: dict[str, Any] = {
        "template": "plotly_dark" if theme == "dark" else "plotly_white", "height": HEIGHT,
        "autosize": True, "margin": {"l": 46, "r": 12, "t": 34, "b": 30}, "font": {"size": 11},
        "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "hovermode": "closest", "annotations": [],
    }  # fmt: skip
    for subplot in SUBPLOTS:
        left, right, bottom, top = cell(subplot)
        x_axis, y_axis, overlay = axis_ids(subplot)
        x_name, y_name, overlay_name = (a[0] + "axis" + a[1:] for a in (x_axis, y_axis, overlay))
        common = {"gridcolor": "rgba(127,127,127,0.22)", "zerolinecolor": "rgba(127,127,127,0.55)"}
        title = {"text": subplot.x_title, "standoff": 2}
        result[x_name] = {**common, "domain": [left, right], "anchor": y_axis, "title": title,
                          "nticks": 9, "zeroline": False}  # fmt: skip
        result[y_name] = {**common, "domain": [bottom, top], "anchor": x_axis, "nticks": 6}
        if subplot.log:
            result[y_name] |= {"type": "log", **TICKS, "autorangeoptions": {"clipmin": 0.01}}
        result[overlay_name] = {"overlaying": y_axis, "anchor": x_axis, "range": [0, 1],
                                "visible": False, "fixedrange": True}  # fmt: skip
        result["annotations"].append({
            "text": f"<b>{subplot.title}</b>", "font": {"size": 12}, "showarrow": False,
            "x": left, "xref": "paper", "xanchor": "left",
            "y": top, "yref": "paper", "yanchor": "bottom",
            "yshift": 20 if subplot.key == "gain" else 4,
        })  # fmt: skip
    legend = {"font": {"size": 11}, "bgcolor": CLEAR, "orientation": "h"}
    result["legend"] = {**legend, "x": 0, "y": 1.0, "yanchor": "top", "yref": "container"}
    left, _, _, top = cell(SUBPLOTS[-1])
    result["legend2"] = {**legend, "x": left, "y": top, "yanchor": "bottom"}
    return result


def empty_figure(names: Sequence[str], theme: str = "light") -> go.Figure:
    """The styled figure with the traces of every objective in `names`, all empty and hidden."""
    return go.Figure([_trace(*key, names) for key in trace_keys(names)], layout(theme))


def fill(
    figure: go.Figure,
    names: Sequence[str],
    found: Mapping[str, Explained],
    *,
    changed: Collection[str] | None = None,
    K: int | None = None,
    p_samples: np.ndarray | None = None,
    gain: Mapping[str, tuple[np.ndarray, float, float]] | None = None,
) -> None:
    """Show these objectives and hide the others. On a live figure, call within ``batch_update``.

    `changed` names those whose numbers are new (default: all); the others' arrays are left as they are.
    """
    index = {key: position for position, key in enumerate(trace_keys(names))}
    for name in names:
        for line in LINES:
            trace = figure.data[index[name, line]]
            if name in found and (changed is None or name in changed):
                x, y = found[name].line(line)
                trace.x, trace.y = x.astype(np.float32), y.astype(np.float32)
            if trace.visible != (name in found):
                trace.visible = name in found
    if K is not None:
        for key in MARKED:
            show(figure.data[index["chosen", key]], [K, K], [0, 1])
    if p_samples is not None:
        heights, edges = np.histogram(p_samples, bins=40, range=(0, 1))
        x = np.repeat(edges, 2)[1:-1]
        show(
            figure.data[index["prompts", "weight"]], x, np.repeat(heights / heights.max(), 2) * 0.6
        )
    for metric, (gained, best, _) in (gain or {}).items():
        show(figure.data[index[metric, "gain"]], ALPHAS, gained)
        show(figure.data[index[metric, "best"]], [best], [1.0])


def show(trace: go.Scatter, x: Any, y: Any) -> None:
    """Put a line into a trace and show it."""
    trace.x, trace.y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    if not trace.visible:
        trace.visible = True


def objectives_figure(
    objectives: Mapping[str, Mapping[str, Any]] | Sequence[str],
    N: int = 16,
    *,
    p_samples: np.ndarray | None = None,
    score_noise: float = 0.25,
    theme: str = "light",
) -> go.Figure:
    """Objectives side by side as a plain figure: their names, or name -> parameters."""
    chosen = (
        dict(objectives) if isinstance(objectives, Mapping) else {name: {} for name in objectives}
    )
    p_samples = success_rates(0.33, 0.45) if p_samples is None else p_samples
    found = {
        name: explain(name, N, score_noise=score_noise, **_row_only(name, params))
        for name, params in chosen.items()
    }
    figure = empty_figure(list(chosen), theme)
    fill(figure, list(chosen), found, p_samples=p_samples, gain=gains(p_samples, N, score_noise))
    return figure


def _row_only(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the score noise, which the analysis takes itself."""
    return {key: value for key, value in params.items() if key != "score_noise"}
