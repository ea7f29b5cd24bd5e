"""The curves of runs as plotly figures.

`workbench.series` turns one run's metrics and events into named arrays; here `empty_figure` makes the
styled figure with one trace per name and `fill` puts the arrays in. The static figure and the panel's live
FigureWidget are both made of these, so they can't drift apart. No torch, no widgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.series import (
    ASKS,
    HARD_KINDS,
    KEPT,
    KS,
    LEVELS,
    NOTHING,
    POST,
    REWARD_SLOTS,
    SOFT_KINDS,
    STEP_SUBPLOTS,
    SUBPLOTS,
    RunCurves,
    Subplot,
    TraceData,
    extras,
    rows_of,
    trace_data,
)

HEIGHT = 740  # of three rows
ROW = 176  # more, for each further one
TALLER = {6: 40}  # row -> pixels above ROW, so that a legend of eight kinds fits beside it
# Row -> pixels that it is lower: a title stands there above a legend, below the steps of another row.
HEADROOM = {4: 16, 5: 16}
MARGIN = {"l": 44, "r": 12, "t": 8, "b": 34}
SHARES = (0, 5, 6)  # rows whose numbers are shares, drawn from 0 to 1
TICK_KS = tuple(4**i for i in range(7))

# Okabe and Ito's palette, told apart with any colour vision; amber for its yellow, unseen on white.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, AMBER, GREY = "#D55E00", "#CC79A7", "#F5C710", "#7F7F7F"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, AMBER, GREY)
K_COLOURS = dict(zip(KS, (BLUE, AMBER, SKY, GREEN, ORANGE, PURPLE, VERMILLION), strict=True))
RUN_COLOURS = (GREEN, PURPLE, BLUE, ORANGE)
REWARD_COLOURS = (GREY, BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, AMBER)
# From light to dark, and both seen on white and on black.
LEVEL_COLOURS = dict(
    zip(
        LEVELS,
        ("#E69F00", "#E27D3A", "#D4615C", "#BA4F7E", "#9A4C9B", "#7355AE", "#4A5FB8"),
        strict=True,
    )
)
KEPT_COLOURS = {"hard": SKY, "soft": ORANGE, "hard_true": BLUE, "soft_true": VERMILLION}
CLEAR = "rgba(0,0,0,0)"
LEGENDS = {
    "pass": "legend",
    "k": "legend2",
    "reward": "legend3",
    "post": "legend5",
    "kept": "legend6",
    "hard": "legend7",
    "soft": "legend8",
}  # subplot -> its legend
BESIDE = ("hard", "soft")  # their legends stand to the right
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def axis_ids(subplot: Subplot) -> tuple[str, str, str]:
    """The x axis, the y axis and the marks' own y axis (0 to 1, hidden) of a subplot."""
    number = SUBPLOTS.index(subplot) + 1
    suffix = "" if number == 1 else str(number)
    return f"x{suffix}", f"y{suffix}", f"y{number + len(SUBPLOTS)}"


def height_of(below: Sequence[int] = ()) -> int:
    """Height in pixels of a figure of three rows and those `below` them."""
    return HEIGHT + sum(ROW + TALLER.get(row, 0) for row in below)


def cell(subplot: Subplot, below: Sequence[int] = ()) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a subplot's axes, as shares of a figure with the rows `below` too."""
    width, gap = 0.27, 0.095
    left = subplot.column * (width + gap)
    places = ((0.595, 0.93), (0.32, 0.495), (0.055, 0.235))
    frame = MARGIN["t"] + MARGIN["b"]
    of_three, whole = HEIGHT - frame, height_of(below) - frame
    # Each further row takes the third one's place and lifts those above it.
    up = height_of([row for row in below if row > subplot.row]) - HEIGHT
    bottom, top = (share * of_three + up for share in places[min(subplot.row, 2)])
    top += TALLER.get(subplot.row, 0) - HEADROOM.get(subplot.row, 0)
    right = left + width * subplot.span + gap * (subplot.span - 1)
    return left, right, bottom / whole, top / whole


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
    styles |= post_styles(slot) | constraint_styles(slot)
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


def post_styles(slot: int) -> dict[str, dict[str, Any]]:
    """The looks of T_post + A_pre and its companions: the dash tells what, the marker which run.

    The colour is the run's where the initial policy answers, and grey where the policy itself does.
    """
    colour, symbol = RUN_COLOURS[slot % len(RUN_COLOURS)], SYMBOLS[slot % len(SYMBOLS)]
    fill = f"rgba{(*bytes.fromhex(colour[1:]), 0.13)}"
    band = {
        "subplot": "post", "mode": "lines", "line": {"width": 0}, "fill": "toself",
        "fillcolor": fill, "hoverinfo": "skip", "showlegend": False, "legendgroup": "post_pre",
    }  # fmt: skip
    widths = (2.4, 1.6, 1.2, 1.2)
    return {"post/band": band} | {
        f"post/{key}": {
            "subplot": "post", "mode": "lines+markers", "legend": "legend5", "legendgroup": key,
            "showlegend": slot == 0, "marker": {"symbol": symbol, "size": 2.5 * width + 1},
            "line": {"color": hue, "dash": dash, "width": width},
        }
        for key, hue, dash, width in zip(POST, (colour, GREY) * 2, DASHES, widths, strict=True)
    }  # fmt: skip


def constraint_styles(slot: int) -> dict[str, dict[str, Any]]:
    """The looks of the lines of instruction following: the colour tells what, dash and marker which run."""
    dash, symbol = DASHES[slot % len(DASHES)], SYMBOLS[slot % len(SYMBOLS)]
    styles: dict[str, dict[str, Any]] = {}
    for key in KEPT:
        true = key.endswith("_true")
        styles[f"kept/{key}"] = {
            "subplot": "kept", "mode": "lines+markers" if true else "lines", "legend": LEGENDS["kept"],
            "showlegend": slot == 0, "marker": {"symbol": symbol, "size": 6},
            "line": {"color": KEPT_COLOURS[key], "dash": dash, "width": 2.4 if true else 1.4},
        }  # fmt: skip
    for level in LEVELS:
        styles[f"level/{level}"] = {
            "subplot": "level", "mode": "lines", "showlegend": False,  # the title names the colours
            "line": {"color": LEVEL_COLOURS[level], "dash": dash, "width": 1.5},
        }  # fmt: skip
    for side, kinds in (("hard", HARD_KINDS), ("soft", SOFT_KINDS)):
        for at in range(len(kinds)):
            styles[f"{side}/{at}"] = {
                "subplot": side, "mode": "lines", "legend": LEGENDS[side], "showlegend": slot == 0,
                "line": {"color": PALETTE[at], "dash": dash, "width": 1.5},
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
        if subplot.row in SHARES:
            result[y_name] |= {"range": [-0.02, 1.03], "dtick": 0.25}
        if subplot.metric:
            result[y_name]["rangemode"] = "tozero"
        if subplot.key == "k":
            labels = [str(k) for k in TICK_KS]
            result[x_name] |= {"type": "log", "tickvals": TICK_KS, "ticktext": labels}
            # The range before there is anything to show: up to 64, whose labels fit.
            result[x_name] |= {"autorange": True, "range": [-0.1, 1.9]}
        result["annotations"].append({
            "text": title_of(subplot), "font": {"size": 12}, "showarrow": False,
            "x": 0, "xref": f"{x_axis} domain", "xanchor": "left",
            "y": 1, "yref": f"{y_axis} domain", "yanchor": "bottom",
            "yshift": 20 if subplot.key in LEGENDS and subplot.key not in BESIDE else 4,
        })  # fmt: skip
    return result | legends(runs)


def title_of(subplot: Subplot) -> str:
    """A subplot's title; that of the levels names each in its colour, in place of a legend wider than it."""
    if subplot.key != "level":
        return f"<b>{subplot.title}</b>"
    coloured = "\u2009".join(
        f'<span style="color:{c}">{k}</span>' for k, c in LEVEL_COLOURS.items()
    )
    return f"<b>{subplot.title} {coloured}</b>"


def axis_names(subplot: Subplot) -> tuple[str, str, str]:
    """The names in the layout of `axis_ids`."""
    return tuple(axis[0] + "axis" + axis[1:] for axis in axis_ids(subplot))


def arrange(figure: go.Figure, extra: Collection[str] = ()) -> None:
    """Show three rows and the subplots `extra` of those below. On a live figure, within ``batch_update``."""
    layout = figure.layout
    below = rows_of(extra)
    layout.height = height_of(below)
    for subplot, title in zip(SUBPLOTS, layout.annotations, strict=True):
        title.visible = shown = subplot.row not in ASKS or subplot.key in extra
        alone = subplot.key == "beta" and "alpha" not in extra  # then the row begins with it
        placed = dataclasses.replace(subplot, column=0) if alone else subplot
        left, right, bottom, top = cell(placed, below) if shown else (0, 0.01, 0, 0.01)
        x_name, y_name, _ = axis_names(subplot)
        layout[x_name].update(domain=[left, right], visible=shown)
        layout[y_name].update(domain=[bottom, top], visible=shown)
        if subplot.key in LEGENDS:
            layout[LEGENDS[subplot.key]].update(x=right if subplot.key in BESIDE else left, y=top)


def legends(runs: int) -> dict[str, Any]:
    """A legend for each subplot of LEGENDS, above it or beside it, and one for the names of the runs."""
    above = {"font": {"size": 10}, "bgcolor": CLEAR, "orientation": "h", "yanchor": "bottom"}
    beside = above | {"orientation": "v", "yanchor": "top"}
    result: dict[str, Any] = {
        name: dict(beside if key in BESIDE else above) for key, name in LEGENDS.items()
    }
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
        for name, value in news(trace.visible, trace.name, values).items():
            trace[name] = value


def news(visible: bool, name: str | None, values: TraceData) -> dict[str, Any]:
    """The properties to set of a trace of that visibility and name so that it shows `values`."""
    found: dict[str, Any] = {"x": values.x, "y": values.y}
    if visible != values.visible:
        found["visible"] = values.visible
    if values.name not in (None, name):
        found["name"] = values.name
    if values.text:
        found["text"] = values.text
    return found


def curves_figure(runs: Sequence[RunCurves], theme: str = "light") -> go.Figure:
    """The curves of one or several runs as a plain plotly figure, to show or to save."""
    data = [trace_data(*run) for run in runs]
    figure = empty_figure(len(runs), theme, extras(data))
    for slot, traces in enumerate(data):
        fill(figure, slot, traces)
    return figure
