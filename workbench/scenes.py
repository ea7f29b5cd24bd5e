"""Runs as paths through three numbers, with the envelope of the reference around them: plotly in 3-D.

`empty_scene` makes the styled figure with every trace that it can hold and `fill` puts paths into it, so
the static figure and the panel's live one are the same. No torch, no widgets.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from workbench.geometry import Envelope
from workbench.phase import Path
from workbench.plots import CLEAR, DASHES, GREY, RUN_COLOURS

Array = NDArray[np.float64]
Index = NDArray[np.int64]

RUNS = 4  # paths that a scene holds
HEIGHT = 520
SYMBOLS = ("circle", "square", "diamond", "cross")  # scatter3d has fewer than scatter
LOG_LENGTH = "log mean length"  # an axis of P1, shown in tokens
TITLES = {LOG_LENGTH: "mean length (tokens, log scale)"}
INK = "#7a7a7a"  # of axes: drawn by WebGL, they can't follow the theme, so readable on both
AXES = ("x", "y", "z")
NO_POINTS: Array = np.empty((0, 3))

# ------------------------------------------------------------------ the envelope as a body


@dataclass(frozen=True, eq=False)
class Body:
    """A convex hull in raw units: corners (M, 3), triangles (F, 3) and edges (E, 2) between them."""

    corners_M3: Array
    triangles_F3: Index
    edges_E2: Index


def body(envelope: Envelope) -> Body:
    """The envelope's hull; a flat one is a polygon, a line or a point, without triangles or edges."""
    hull = envelope.hull
    corners_M3 = envelope.scale.undo(hull.corners_MD)
    count, faces = len(corners_M3), []
    ring = list(itertools.pairwise([*range(count), 0])) if hull.rank == 2 else []
    if hull.rank == 2:  # Qhull gives the corners of a polygon in order
        faces = [(0, at, at + 1) for at in range(1, count - 1)]
    elif hull.rank == 1:
        ring = [(0, 1)]
    elif hull.rank == 3:
        try:
            faces = ConvexHull(hull.corners_MD).simplices.tolist()
        except QhullError:  # flat to a rounding: its corners are still shown
            faces = []
        pairs = (sorted(pair) for face in faces for pair in itertools.combinations(face, 2))
        ring = sorted(set(map(tuple, pairs)))
    triangles_F3 = np.array(faces, np.int64).reshape(-1, 3)
    return Body(corners_M3, triangles_F3, np.array(ring, np.int64).reshape(-1, 2))


def strokes(points_M3: Array, edges_E2: Index) -> Array:
    """Edges as one line (3E, 3) that NaN interrupts."""
    gaps_E13 = np.full((len(edges_E2), 1, 3), np.nan)
    return np.concatenate([points_M3[edges_E2], gaps_E13], 1).reshape(-1, 3)


# ------------------------------------------------------------------ from paths to arrays


def told(one: Path) -> list[str]:
    """Each probe in words, for the pointer."""
    extra = [
        at for at, axis in enumerate(one.axes) if "entropy (" not in axis and axis != LOG_LENGTH
    ]
    texts = []
    for n, step in enumerate(one.steps_N):
        lines = [f"<b>{html.escape(one.run)}</b>", f"step {step}"]
        lines += [f"entropy {one.entropy_N[n]:.3f} nats", f"length {one.length_N[n]:.1f} tokens"]
        lines += [f"{html.escape(one.axes[at])} {one.points_ND[n, at]:.3f}" for at in extra]
        if one.accuracy_N is not None and not one.sees_labels:
            lines.append(f"accuracy {one.accuracy_N[n]:.3f}")
        texts.append("<br>".join(lines))
    return texts


def at(points_N3: Array, text: Sequence[str] = ()) -> dict[str, Any]:
    """What a trace needs to stand at these points; hidden where there are none."""
    found: dict[str, Any] = {axis: points_N3[:, n] for n, axis in enumerate(AXES)}
    return found | {"text": list(text), "visible": bool(len(points_N3))}


def scene_data(
    paths: Sequence[Path | None],
    envelope: Envelope | None = None,
    *,
    current: int = 0,
    up_to: int | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What to put into the traces, by key, and into the layout.

    Args:
        paths: of one space, at most RUNS; None keeps the place of a run without probes.
        envelope: drawn as a translucent body.
        current: the path that stands out, its probes coloured by accuracy.
        up_to: the step after which nothing is drawn.
    """
    known = [one for one in paths if one is not None]
    traces = {"start": at(NO_POINTS), "now": at(NO_POINTS), "accuracy": at(NO_POINTS)}
    starts, ends = [], []
    for slot in range(RUNS):
        one = paths[slot] if slot < len(paths) else None
        shown = slice(0, _count(one, up_to))
        points_N3 = NO_POINTS if one is None else one.points_ND[shown]
        traces[f"path/{slot}"] = at(points_N3) | _look(slot, slot == current)
        if one is None or not len(points_N3):
            continue
        texts = told(one)[shown]
        traces[f"path/{slot}"] |= {"name": html.escape(one.run), "text": texts}
        starts.append((points_N3[0], texts[0]))
        ends.append((points_N3[-1], texts[-1]))
        if slot == current and one.accuracy_N is not None:
            colours = {"marker": {"color": one.accuracy_N[shown]}}
            traces["accuracy"] = at(points_N3, texts) | colours
    for key, points in (("start", starts), ("now", ends)):
        if points:
            traces[key] = at(np.array([point for point, _ in points]), [text for _, text in points])
    traces |= _envelope_data(envelope)
    one = paths[current] if current < len(paths) else None
    layout = _layout_data(known, envelope, None if one is None else one.accuracy_N)
    layout["scene"]["annotations"] = _labels(one, _count(one, up_to))
    return traces, layout


def _count(one: Path | None, up_to: int | None) -> int:
    if one is None:
        return 0
    return len(one.steps_N) if up_to is None else int((one.steps_N <= up_to).sum())


def _labels(one: Path | None, count: int) -> list[dict[str, Any]]:
    """The words at both ends of the current path."""
    if one is None or not count:
        return []
    ends = [(0, "start", -16), (count - 1, f"step {one.steps_N[count - 1]}", 18)]
    return [
        dict(zip(AXES, one.points_ND[n].tolist(), strict=True))
        | {"text": text, "showarrow": False, "yshift": shift, "font": {"size": 12}}
        for n, text, shift in ends[:count]
    ]


def _look(slot: int, stands_out: bool) -> dict[str, Any]:
    """The current path is a thick line; the accuracy's markers lie on it."""
    return {"line": {"width": 6 if stands_out else 2.5}, "marker": {"size": 2 if stands_out else 3}}


def _envelope_data(envelope: Envelope | None) -> dict[str, dict[str, Any]]:
    found = Body(NO_POINTS, np.empty((0, 3), int), np.empty((0, 2), int))
    if envelope is not None:
        found = body(envelope)
    filled = at(found.corners_M3) | {"visible": bool(len(found.triangles_F3))}
    filled |= {name: found.triangles_F3[:, n] for n, name in enumerate("ijk")}
    del filled["text"]
    # A point has no edge: its marker is all there is to see.
    edges = strokes(found.corners_M3, found.edges_E2)
    return {"body": filled, "edges": at(edges), "corners": at(found.corners_M3)}


def _layout_data(
    paths: Sequence[Path], envelope: Envelope | None, accuracy_N: Array | None
) -> dict[str, Any]:
    """Titles and ranges of the axes, which the slider must not move, and the ends of the colours."""
    axes = envelope.axes if envelope is not None else paths[0].axes if paths else AXES
    points = [one.points_ND for one in paths]
    if envelope is not None:
        points.append(envelope.scale.undo(envelope.hull.corners_MD))
    pooled_N3 = np.concatenate(points) if points else np.array([[0.0] * 3, [1.0] * 3])
    scene = {}
    for n, letter in enumerate(AXES):
        low, high = pooled_N3[:, n].min(), pooled_N3[:, n].max()
        pad = 0.06 * (high - low) or 0.05 * max(abs(high), 1.0)
        ends = (float(low - pad), float(high + pad))
        ticks: dict[str, Any] = {
            "tickmode": "auto",
            "nticks": 6,
            "tickvals": None,
            "ticktext": None,
        }
        if axes[n] == LOG_LENGTH:
            ticks = {"tickmode": "array"} | length_ticks(*ends)
        scene[f"{letter}axis"] = {"title": {"text": axis_title(axes[n])}, "range": ends, **ticks}
    colours: dict[str, Any] = {"showscale": accuracy_N is not None}
    if accuracy_N is not None:
        low, high = np.floor(10 * accuracy_N.min()) / 10, np.ceil(10 * accuracy_N.max()) / 10
        colours |= {"cmin": float(low), "cmax": float(max(high, low + 0.1))}
    return {"scene": scene, "coloraxis": colours}


def axis_title(axis: str) -> str:
    """An axis of `phase` with its unit, short enough for the side of a cube."""
    if axis.startswith("distance to the centre of "):
        level = axis.removeprefix("distance to the centre of ").removesuffix(" nats")
        return f"distance to centre {level} (nats)"
    return TITLES.get(axis, axis)


def length_ticks(low: float, high: float) -> dict[str, list[Any]]:
    """Four or so round lengths in tokens for an axis of their logarithms from `low` to `high`."""
    least, most = np.exp([low, high])
    if most / least > 4:
        rounds = [m * 10.0**n for n in range(-1, 7) for m in (1, 2, 5)]
    else:
        rough = (most - least) / 5
        unit = 10.0 ** np.floor(np.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
        rounds = (np.arange(np.floor(least / step), np.ceil(most / step) + 1) * step).tolist()
    kept = [value for value in rounds if least <= value <= most]
    return {"tickvals": np.log(kept).tolist(), "ticktext": [f"{value:.4g}" for value in kept]}


# ------------------------------------------------------------------ the figure


def trace_styles() -> dict[str, go.Mesh3d | go.Scatter3d]:
    """Key -> the empty trace with its fixed look."""
    hover = "%{text}<extra></extra>"
    traces: dict[str, Any] = {
        "body": go.Mesh3d(
            color=GREY, opacity=0.16, flatshading=True, hoverinfo="skip", visible=False,
            name="envelope of the reference", showlegend=True,
        ),
        "edges": go.Scatter3d(
            mode="lines", line={"color": GREY, "width": 1.5}, opacity=0.45, hoverinfo="skip",
            showlegend=False, visible=False,
        ),
        "corners": go.Scatter3d(
            mode="markers", marker={"color": GREY, "size": 2}, opacity=0.6, hoverinfo="skip",
            showlegend=False, visible=False,
        ),
    }  # fmt: skip
    for slot in range(RUNS):
        colour = RUN_COLOURS[slot % len(RUN_COLOURS)]
        traces[f"path/{slot}"] = go.Scatter3d(
            mode="lines+markers", visible=False, hovertemplate=hover, showlegend=True,
            line={"color": colour, "dash": DASHES[slot], "width": 2.5},
            marker={"color": colour, "symbol": SYMBOLS[slot], "size": 3},
        )  # fmt: skip
    ends = {"mode": "markers", "hovertemplate": hover, "showlegend": False, "visible": False}
    traces["accuracy"] = go.Scatter3d(
        mode="markers", visible=False, hovertemplate=hover, showlegend=False,
        marker={"size": 5, "coloraxis": "coloraxis", "line": {"width": 0}},
    )  # fmt: skip
    traces["start"] = go.Scatter3d(
        **ends, marker={"symbol": "diamond-open", "size": 7, "color": INK},
    )  # fmt: skip
    traces["now"] = go.Scatter3d(
        **ends, marker={"symbol": "circle-open", "size": 10, "color": INK, "line": {"width": 2}},
    )  # fmt: skip
    for key, trace in traces.items():
        trace.meta = {"key": key}
    return traces


KEYS = ("body", "edges", "corners", *(f"path/{slot}" for slot in range(RUNS)),
        "accuracy", "start", "now")  # fmt: skip


def empty_scene(theme: str = "light") -> go.Figure:
    """The styled figure with every trace, all empty and hidden."""
    styles = trace_styles()
    axis = {
        "color": INK, "gridcolor": "#c4c4c4", "gridwidth": 1, "zeroline": False,
        "showbackground": False, "title": {"font": {"size": 12}}, "tickfont": {"size": 10},
        "showspikes": False, "showline": True, "linecolor": INK,
    }  # fmt: skip
    return go.Figure([styles[key] for key in KEYS], {
        "template": "plotly_dark" if theme == "dark" else "plotly_white",
        "autosize": True, "height": HEIGHT, "margin": {"l": 0, "r": 0, "t": 4, "b": 4},
        "font": {"size": 11}, "paper_bgcolor": CLEAR, "uirevision": "kept",
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "top", "bgcolor": CLEAR,
                   "itemsizing": "constant"},
        "coloraxis": {
            "colorscale": "Viridis", "showscale": False, "cmin": 0.0, "cmax": 1.0,
            "colorbar": {"title": {"text": "accuracy"}, "len": 0.6, "thickness": 12, "x": 0.98},
        },
        "scene": {
            "aspectmode": "cube", "uirevision": "kept", "domain": {"x": [0, 0.93]},
            **{f"{a}axis": dict(axis) for a in AXES},
            "camera": {"eye": {"x": 1.85, "y": -1.95, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.12}},
        },
    })  # fmt: skip


def fill(figure: go.Figure, traces: dict[str, dict[str, Any]], layout: dict[str, Any]) -> None:
    """Put `scene_data` into a scene. On a live figure, call within ``batch_update``."""
    for key, values in traces.items():
        figure.data[KEYS.index(key)].update(values)
    figure.layout.update(layout)


def scene_figure(
    paths: Sequence[Path | None],
    envelope: Envelope | None = None,
    *,
    current: int = 0,
    up_to: int | None = None,
    theme: str = "light",
) -> go.Figure:
    """Paths of one space and the envelope as a plain plotly figure; see `scene_data`."""
    figure = empty_scene(theme)
    fill(figure, *scene_data(paths, envelope, current=current, up_to=up_to))
    return figure
