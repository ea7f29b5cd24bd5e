"""The curves of runs as plotly figures.

`trace_data` turns one run's metrics and events into named arrays; `empty_figure` makes the styled
figure with one trace per name and `fill` puts the arrays in. The static figure and the panel's live
FigureWidget are both made of these three, so they can't drift apart. No torch, no widgets.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

# What every function here calls a run: its name, its metrics (index step) and its events.
RunCurves = tuple[str, pd.DataFrame, pd.DataFrame]

HEIGHT = 740  # of three rows
ROW = 176  # more, for the fourth
MARGIN = {"l": 44, "r": 12, "t": 8, "b": 34}
MAX_POINTS = 2_000
REWARD_SLOTS = 8  # reward/total and seven parts; a live figure can't grow traces
KS = (1, 2, 4, 8, 16, 32, 64)
TICK_KS = tuple(4**i for i in range(7))
SHOWN_KS = (1, 4, 16, 64)  # over steps, beside the greatest; pass@k against k has them all

# Okabe and Ito's palette, told apart with any colour vision; amber for its yellow, unseen on white.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, AMBER, GREY = "#D55E00", "#CC79A7", "#F5C710", "#7F7F7F"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, AMBER, GREY)
K_COLOURS = dict(zip(KS, (BLUE, AMBER, SKY, GREEN, ORANGE, PURPLE, VERMILLION), strict=True))
RUN_COLOURS = (GREEN, PURPLE, BLUE, ORANGE)
REWARD_COLOURS = (GREY, BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, AMBER)
CLEAR = "rgba(0,0,0,0)"
LEGENDS = {"pass": "legend", "k": "legend2", "reward": "legend3"}  # subplot -> its legend
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")


@dataclass(frozen=True)
class Subplot:
    """One subplot: its row, first column and columns spanned, and the metric of its single line."""

    key: str
    title: str
    row: int
    column: int
    span: int = 1
    metric: str = ""  # "" where the lines are many: pass@k and the rewards
    varies: bool = False  # drawn only where the metric is not the same at every step


SUBPLOTS = (
    Subplot("pass", "pass@k over steps", 0, 0, 2),
    Subplot("k", "pass@k against k", 0, 2),
    Subplot("reward", "rewards", 1, 0, 2),
    Subplot("entropy", "entropy (nats)", 1, 2, metric="train/entropy"),
    Subplot("kl", "KL to reference (nats)", 2, 0, metric="train/kl"),
    Subplot("length", "length (tokens)", 2, 1, metric="rollout/length"),
    Subplot("zero", "groups without signal", 2, 2, metric="groups/zero_signal"),
    Subplot("scale", "update scale", 3, 0, metric="groups/update_scale"),
    Subplot("alpha", "alpha of the objective", 3, 1, metric="train/alpha"),
    Subplot("beta", "beta, while it moves", 3, 2, metric="train/beta", varies=True),
)
ASKS = ("alpha", "beta")  # the fourth row is there when one of these has something to show
STEP_SUBPLOTS = tuple(subplot for subplot in SUBPLOTS if subplot.key != "k")


@dataclass(frozen=True)
class TraceData:
    """What changes about a trace while a run goes on; its style is fixed in `empty_figure`."""

    x: np.ndarray
    y: np.ndarray
    visible: bool = True
    name: str | None = None
    text: list[str] = field(default_factory=list)


NOTHING = TraceData(np.empty(0, np.int32), np.empty(0, np.float32), visible=False)


# ------------------------------------------------------------------ from metrics to arrays


def thin(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points of a curve: the least and the greatest of each bucket, and both ends.

    Keeping extremes keeps the spikes, which an even pick would lose.
    """
    if len(x) <= limit:
        return x, y
    edges = np.linspace(0, len(x), limit // 2, dtype=int)  # limit // 2 - 1 buckets, two points each
    kept = {0, len(x) - 1}
    for start, stop in itertools.pairwise(edges):
        bucket = y[start:stop]
        kept |= {int(start + bucket.argmin()), int(start + bucket.argmax())}
    index = np.array(sorted(kept))
    return x[index], y[index]


def series(metrics: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and finite values of `column`, thinned; empty where the run doesn't measure it."""
    if column not in metrics:
        return NOTHING.x, NOTHING.y
    values = pd.to_numeric(metrics[column], errors="coerce")
    y = values.to_numpy(np.float32)
    known = np.isfinite(y)
    return thin(metrics.index.to_numpy(np.int32)[known], y[known])


def line(metrics: pd.DataFrame, column: str, name: str) -> TraceData:
    """The trace of one metric."""
    x, y = series(metrics, column)
    return TraceData(x, y, len(x) > 0, name)


def single(metrics: pd.DataFrame, subplot: Subplot, name: str) -> TraceData:
    """The trace of a subplot with one line."""
    found = line(metrics, subplot.metric, name)
    return NOTHING if subplot.varies and (found.y == found.y[:1]).all() else found


def extras(runs: Iterable[Mapping[str, TraceData]]) -> frozenset[str]:
    """The subplots of the fourth row that a run's traces have something for; empty: no such row."""
    shown = {p.key for data in runs for p in SUBPLOTS[-3:] if p.key in data and data[p.key].visible}
    return frozenset(shown if shown & set(ASKS) else ())


def band(metrics: pd.DataFrame, k: int) -> TraceData:
    """The 95 % interval of pass@k as one outline: out along the top, back along the bottom."""
    x_low, low = series(metrics, f"eval/pass@{k}/low")
    x_high, high = series(metrics, f"eval/pass@{k}/high")
    if len(x_low) < 2 or len(x_high) < 2:
        return NOTHING
    return TraceData(np.concatenate([x_high, x_low[::-1]]), np.concatenate([high, low[::-1]]))


def pass_ks(metrics: pd.DataFrame) -> list[int]:
    """Every k for which the run has measured pass@k, ascending."""
    names = [column.removeprefix("eval/pass@") for column in metrics]
    return sorted(int(name) for name in names if name.isdigit())


def against_k(metrics: pd.DataFrame, row: int) -> TraceData:
    """pass@k of one evaluation (row 0: the base; -1: the latest) over k."""
    ks = pass_ks(metrics)
    measured = metrics[[f"eval/pass@{k}" for k in ks]].dropna()
    if not ks or len(measured) < (2 if row == -1 else 1):
        return NOTHING
    step = measured.index[row]
    y = measured.iloc[row].to_numpy(np.float32)
    return TraceData(np.array(ks, np.int32), y, name=f"step {step}" if step else "base")


def reward_columns(metrics: pd.DataFrame) -> list[str]:
    """The reward columns, the weighted total first, as many as a figure holds."""
    parts = [column for column in metrics if column.startswith("reward/")]
    return sorted(parts, key=lambda column: column != "reward/total")[:REWARD_SLOTS]


def marks(events: pd.DataFrame) -> TraceData:
    """Each event as a full-height line with its text at the top; those of one step share a line."""
    if events.empty:
        return NOTHING
    texts: dict[int, list[str]] = {}
    for step, kind, text in zip(events["step"], events["kind"], events["text"], strict=True):
        said = f"warning: {text}" if kind == "warning" else str(text)
        texts.setdefault(int(step), []).append(html.escape(said))
    steps = sorted(texts)
    x = np.repeat(np.array(steps, np.float32), 3)
    # From below the axis, where the marker is cut off, to just under the top; NaN lifts the pen.
    y = np.tile(np.array([-0.1, 0.98, np.nan], np.float32), len(steps))
    hover = [f"step {step}: " + "<br>".join(texts[step]) for step in steps]
    return TraceData(x, y, text=[part for text in hover for part in (text, text, "")])


def trace_data(name: str, metrics: pd.DataFrame, events: pd.DataFrame) -> dict[str, TraceData]:
    """Every trace of one run, by key; the keys are the same for every run and every moment.

    Keys: ``pass@K``, ``band@K``, ``k/base``, ``k/now``, ``reward/0`` ..., the key of each
    single-line subplot, and ``mark/SUBPLOT`` for each subplot over steps.
    """
    name = html.escape(name)
    last_k = max(pass_ks(metrics), default=64)
    shown = {*SHOWN_KS, last_k}
    data = {
        f"pass@{k}": line(metrics, f"eval/pass@{k}", f"@{k}") if k in shown else NOTHING for k in KS
    }
    data |= {f"band@{k}": band(metrics, k) if k in (1, last_k) else NOTHING for k in KS}
    data["k/base"] = against_k(metrics, 0)
    data["k/now"] = against_k(metrics, -1)
    columns = reward_columns(metrics)
    for slot in range(REWARD_SLOTS):
        data[f"reward/{slot}"] = NOTHING
        if slot < len(columns):
            label = html.escape(columns[slot].removeprefix("reward/"))
            data[f"reward/{slot}"] = line(metrics, columns[slot], label)
    data |= {p.key: single(metrics, p, name) for p in SUBPLOTS if p.metric}
    shown, mark = extras([data]), marks(events)
    data |= {} if shown else {"scale": NOTHING}  # what is hidden must hold nothing
    drawn = {p.key: p.row < 3 or p.key in shown for p in STEP_SUBPLOTS}
    return data | {f"mark/{key}": mark if there else NOTHING for key, there in drawn.items()}


# ------------------------------------------------------------------ the figure


def axis_ids(subplot: Subplot) -> tuple[str, str, str]:
    """The x axis, the y axis and the marks' own y axis (0 to 1, hidden) of a subplot."""
    number = SUBPLOTS.index(subplot) + 1
    suffix = "" if number == 1 else str(number)
    return f"x{suffix}", f"y{suffix}", f"y{number + len(SUBPLOTS)}"


def height_of(rows: int) -> int:
    """Height in pixels of a figure of three or four rows."""
    return HEIGHT + ROW * (rows - 3)


def cell(subplot: Subplot, rows: int = 3) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a subplot's axes, as shares of a figure of `rows` rows."""
    width, gap = 0.27, 0.095
    left = subplot.column * (width + gap)
    places = ((0.595, 0.93), (0.32, 0.495), (0.055, 0.235))
    frame = MARGIN["t"] + MARGIN["b"]
    of_three, whole = HEIGHT - frame, height_of(rows) - frame
    up = ROW * (rows - 3) if subplot.row < 3 else 0  # the fourth takes the third one's place
    bottom, top = ((share * of_three + up) / whole for share in places[min(subplot.row, 2)])
    return left, left + width * subplot.span + gap * (subplot.span - 1), bottom, top


def trace_styles(slot: int) -> dict[str, dict[str, Any]]:
    """Key -> the fixed look of a trace of the run in `slot`; dash and marker tell runs apart."""
    dash, symbol = DASHES[slot % len(DASHES)], SYMBOLS[slot % len(SYMBOLS)]
    run_colour = RUN_COLOURS[slot % len(RUN_COLOURS)]
    first = slot == 0  # a legend names each kind of line once; the runs' legend names each run once
    marker = {"symbol": symbol, "size": 6}
    styles: dict[str, dict[str, Any]] = {}
    for k in KS:
        fill = f"rgba{(*bytes.fromhex(K_COLOURS[k][1:]), 0.13)}"
        styles[f"band@{k}"] = {
            "subplot": "pass", "mode": "lines", "line": {"width": 0}, "fill": "toself",
            "fillcolor": fill, "hoverinfo": "skip", "showlegend": False, "legendgroup": f"pass@{k}",
        }  # fmt: skip
    for k in KS:
        styles[f"pass@{k}"] = {
            "subplot": "pass", "mode": "lines+markers", "legend": "legend",
            "legendgroup": f"pass@{k}", "showlegend": first, "marker": marker,
            "line": {"color": K_COLOURS[k], "dash": dash, "width": 2.4 if k in (1, 64) else 1.5},
        }  # fmt: skip
    for key, colour in (("k/base", GREY), ("k/now", run_colour)):
        styles[key] = {
            "subplot": "k", "mode": "lines+markers", "legend": "legend2", "showlegend": first,
            "marker": marker, "line": {"color": colour, "dash": dash, "width": 2},
        }  # fmt: skip
    for index in range(REWARD_SLOTS):
        styles[f"reward/{index}"] = {
            "subplot": "reward", "mode": "lines", "legend": "legend3", "showlegend": first,
            "line": {"color": REWARD_COLOURS[index], "dash": dash, "width": 2.4 - (index > 0)},
        }  # fmt: skip
    for subplot in SUBPLOTS:
        if subplot.metric:
            styles[subplot.key] = {
                "subplot": subplot.key, "mode": "lines", "legend": "legend4",
                "legendgroup": f"run{slot}", "showlegend": subplot.key == "entropy",
                "line": {"color": run_colour, "dash": dash, "width": 1.8},
            }  # fmt: skip
    for subplot in STEP_SUBPLOTS:
        styles[f"mark/{subplot.key}"] = {
            "subplot": subplot.key, "mode": "lines+markers", "showlegend": False,
            "line": {"color": GREY, "width": 1, "dash": "dot"},
            "marker": {"symbol": "triangle-down", "size": 8, "color": GREY},
            "hovertemplate": "%{text}<extra></extra>",
        }  # fmt: skip
    return styles


def trace_index(slot: int) -> dict[str, int]:
    """Key -> position in the figure of the traces of the run in `slot`."""
    keys = list(trace_styles(slot))
    return {key: at for at, key in enumerate(keys, slot * len(keys))}


def empty_trace(slot: int, key: str, style: Mapping[str, Any]) -> go.Scatter:
    """A trace with its place and look, and nothing in it yet."""
    style = dict(style)
    where = style.pop("subplot")
    subplot = next(p for p in SUBPLOTS if p.key == where)
    x_axis, y_axis, mark_axis = axis_ids(subplot)
    mark = key.startswith("mark/")
    hover = "k %{x}: %{y:.3f}" if subplot.key == "k" else "step %{x}: %{y:.4g}"
    prefix = "pass" if key.startswith("pass@") else ""
    style.setdefault("hovertemplate", f"{hover}<extra>{prefix}%{{fullData.name}}</extra>")
    if style.get("hoverinfo") == "skip":
        style.pop("hovertemplate")
    return go.Scatter(
        x=NOTHING.x, y=NOTHING.y, xaxis=x_axis, yaxis=mark_axis if mark else y_axis, visible=False,
        meta={"run": slot, "key": key}, **style,
    )  # fmt: skip


def layout(theme: str, runs: int) -> dict[str, Any]:
    """The axes, the titles and the legends; `arrange` puts them in their places."""
    result: dict[str, Any] = {
        "template": "plotly_dark" if theme == "dark" else "plotly_white",
        "autosize": True, "colorway": PALETTE, "hovermode": "closest",
        "margin": MARGIN, "font": {"size": 11},
        "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "annotations": [],
    }  # fmt: skip
    for subplot in SUBPLOTS:
        x_axis, y_axis, _ = axis_ids(subplot)
        x_name, y_name, mark_name = axis_names(subplot)
        common = {"gridcolor": "rgba(127,127,127,0.22)", "zeroline": False}
        result[x_name] = {**common, "anchor": y_axis, "nticks": 6}
        result[y_name] = {**common, "anchor": x_axis, "nticks": 5}
        overlay = {"overlaying": y_axis, "anchor": x_axis, "range": [0, 1]}
        result[mark_name] = {**overlay, "visible": False, "fixedrange": True}
        if subplot.row == 0:
            result[y_name] |= {"range": [-0.02, 1.03], "dtick": 0.25}
        if subplot.metric:
            result[y_name]["rangemode"] = "tozero"
        if subplot.key == "k":
            labels = [str(k) for k in TICK_KS]
            result[x_name] |= {"type": "log", "tickvals": TICK_KS, "ticktext": labels}
        result["annotations"].append({
            "text": f"<b>{subplot.title}</b>", "font": {"size": 12}, "showarrow": False,
            "x": 0, "xref": f"{x_axis} domain", "xanchor": "left",
            "y": 1, "yref": f"{y_axis} domain", "yanchor": "bottom",
            "yshift": 4 if subplot.metric else 20,
        })  # fmt: skip
    return result | legends(runs)


def axis_names(subplot: Subplot) -> tuple[str, str, str]:
    """The names in the layout of `axis_ids`."""
    return tuple(axis[0] + "axis" + axis[1:] for axis in axis_ids(subplot))


def arrange(figure: go.Figure, extra: Collection[str] = ()) -> None:
    """Show three rows and `extra` ones of the fourth. On a live figure, call within ``batch_update``."""
    layout, rows = figure.layout, 4 if extra else 3
    layout.height = height_of(rows)
    for subplot, title in zip(SUBPLOTS, layout.annotations, strict=True):
        title.visible = shown = subplot.row < 3 or subplot.key in extra
        left, right, bottom, top = cell(subplot, rows) if shown else (0, 0.01, 0, 0.01)
        x_name, y_name, _ = axis_names(subplot)
        layout[x_name].update(domain=[left, right], visible=shown)
        layout[y_name].update(domain=[bottom, top], visible=shown)
        if subplot.key in LEGENDS:
            layout[LEGENDS[subplot.key]].update(x=left, y=top)


def legends(runs: int) -> dict[str, Any]:
    """A legend each for pass@k, for base and now, for the rewards and for the names of the runs."""
    above = {"font": {"size": 10}, "bgcolor": CLEAR, "orientation": "h", "yanchor": "bottom"}
    result: dict[str, Any] = {name: dict(above) for name in LEGENDS.values()}
    result["legend4"] = {
        **above, "x": 0, "y": 0, "yanchor": "top", "visible": runs > 1,
        "title": {"text": "runs ", "font": {"size": 10}},
    }  # fmt: skip
    return result


def empty_figure(runs: int, theme: str = "light", extra: Collection[str] = ()) -> go.Figure:
    """The styled figure with the traces of `runs` runs, all empty and hidden."""
    styles = [(slot, *item) for slot in range(runs) for item in trace_styles(slot).items()]
    traces = [empty_trace(slot, key, style) for slot, key, style in styles]
    figure = go.Figure(traces, layout(theme, runs))
    arrange(figure, extra)
    return figure


def fill(figure: go.Figure, slot: int, data: Mapping[str, TraceData]) -> None:
    """Put one run's arrays into its traces. On a live figure, call within ``batch_update``."""
    index = trace_index(slot)
    for key, values in data.items():
        trace = figure.data[index[key]]
        trace.x, trace.y = values.x, values.y
        if trace.visible != values.visible:
            trace.visible = values.visible
        if values.name not in (None, trace.name):
            trace.name = values.name
        if values.text:
            trace.text = values.text


def curves_figure(runs: Sequence[RunCurves], theme: str = "light") -> go.Figure:
    """The curves of one or several runs as a plain plotly figure, to show or to save."""
    data = [trace_data(*run) for run in runs]
    figure = empty_figure(len(runs), theme, extras(data))
    for slot, traces in enumerate(data):
        fill(figure, slot, traces)
    return figure
