"""A small picture of the chosen objective: advantages, update scale, weight and surrogate.

Plain SVG in one HTML widget, so that it follows every move of a slider or handle at once. The numbers
need torch, whose loading takes seconds: the first picture is drawn by a thread after the panel is shown.
"""

from __future__ import annotations

import html
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench.variants import WorkbenchError

WIDTH, HEIGHT = 148, 106  # of one picture
LEFT, RIGHT, TOP, BOTTOM = 28, 4, 18, 16
FULL = 1e-12  # a span below this is a flat line
MORE = "No picture: this objective looks at more than the number of successes."
LOADING = (
    '<div class="wb-doc">The picture of the objective comes once the libraries are loaded.</div>'
)


class Preview:
    """The picture of an objective for a group size; `show` replaces it."""

    def __init__(self, scale: float = 1.0) -> None:
        self.root = widgets.HTML(LOADING)
        self.root.add_class("wb-preview")
        self._scale = scale
        self._wanted: tuple[Any, int, dict[str, Any], str] | None = None
        self._lock = threading.Lock()

    def show(self, row: Any, group: int, arguments: Mapping[str, Any], note: str = "") -> None:
        """Draw `row` (of the table, or the user's own) for groups of `group`; later without torch."""
        self._wanted = (row, group, dict(arguments), note)
        if "torch" in sys.modules:
            self._draw()

    def load(self) -> None:
        """Load torch in a thread, then draw what is wanted by then."""
        if "torch" not in sys.modules:
            threading.Thread(target=self._load, name="workbench preview", daemon=True).start()

    def _load(self) -> None:
        import torch  # noqa: F401

        self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self._wanted is None:
                return
            wanted = self._wanted
            shown = picture(*wanted, scale=self._scale)
            if wanted is self._wanted and shown != self.root.value:
                self.root.value = shown


def picture(
    row: Any, group: int, arguments: Mapping[str, Any], note: str = "", scale: float = 1.0
) -> str:
    """The four pictures as HTML, or a sentence why there are none."""
    from workbench.explain import explain, transition

    if getattr(row, "needs", ()):
        return f'<div class="wb-doc">{MORE}</div>'
    known = {k: v for k, v in arguments.items() if k != "score_noise"}
    try:
        found = explain(row, group, **known)
    except WorkbenchError as error:
        return f'<div class="wb-doc">No picture: {html.escape(str(error))}</div>'
    except Exception as error:  # noqa: BLE001 - the user's own function may raise anything
        return f'<div class="wb-doc">No picture: {type(error).__name__}: {html.escape(str(error))}</div>'
    K, p = (f"K of {group}", (0, group)), ("p", (0, 1))
    pairs = (("success", "wb-good"), ("failure", "wb-bad"))
    both = [(*found.line(name), look) for name, look in pairs]
    one = {name: [(*found.line(name), "wb-one")] for name in ("weight", "surrogate")}
    scale_line = [(found.K[1:], found.scale[1:], "wb-one")]  # omega(0) is 0 for every objective
    pictures = [
        small_plot("A(K): right, wrong", *K, both, scale, dots=True),
        small_plot("scale ω(K)", *K, scale_line, scale, dots=True),
        small_plot("weight w(p)", *p, one["weight"], scale),
        small_plot("climbs J(p)", *p, one["surrogate"], scale),
    ]
    side = transition(found.success, found.failure)
    line = f'<div class="wb-doc">ω(K): <b>{side}</b>. {html.escape(note)}</div>'
    return f'<div class="wb-small-plots">{"".join(pictures)}</div>{line}'


Line = tuple[np.ndarray, np.ndarray, str]  # x, y and the class that colours it


def small_plot(
    title: str,
    x_title: str,
    x_range: tuple[float, float],
    lines: Sequence[Line],
    scale: float = 1.0,
    dots: bool = False,
) -> str:
    """Lines over one axis as an inline SVG with both ends of each axis written down."""
    values = np.concatenate([y[np.isfinite(y)] for _, y, _ in lines])
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high - low < FULL:
        high = low + 1.0
    width, height = WIDTH * scale, HEIGHT * scale

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - low) / (high - low)
        return (
            LEFT + across * (width - LEFT - RIGHT),
            height - BOTTOM - up * (height - TOP - BOTTOM),
        )

    zero = place(np.array(x_range), np.zeros(2))[1][0]
    parts = [
        f'<line class="wb-p-axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{zero:.1f}" y2="{zero:.1f}"/>'
    ]
    for x, y, look in lines:
        known = np.isfinite(y)
        xs, ys = place(x[known], y[known])
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
        parts.append(f'<polyline class="wb-p-line {look}" points="{points}"/>')
        if dots and len(xs) <= 33:
            parts += [
                f'<circle class="wb-p-dot {look}" cx="{a:.1f}" cy="{b:.1f}" r="1.8"/>'
                for a, b in zip(xs, ys, strict=True)
            ]
    parts += _labels(title, x_title, x_range, (low, high), width, height, zero)
    spoken = f"{title}: from {low:.3g} to {high:.3g}"
    return (
        f'<svg width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(spoken)}"><title>{html.escape(spoken)}</title>{"".join(parts)}</svg>'
    )


def _labels(
    title: str,
    x_title: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    width: float,
    height: float,
    zero: float,
) -> list[str]:
    """The title, both ends of each axis, and zero where it is neither."""
    low, high = y_range
    parts = [f'<text class="wb-p-title" x="2" y="11">{html.escape(title)}</text>']
    marks = [(TOP + 6.0, high), (height - BOTTOM, low)]
    if min(abs(zero - TOP), abs(zero - height + BOTTOM)) > 14:
        marks.append((zero + 3, 0.0))
    parts += [
        f'<text class="wb-p-tick" x="{LEFT - 3}" y="{y:.1f}" text-anchor="end">{short(value)}</text>'
        for y, value in marks
    ]
    middle = LEFT + (width - LEFT - RIGHT) / 2
    ends = ((LEFT, "start", f"{x_range[0]:g}"), (width - RIGHT, "end", f"{x_range[1]:g}"))
    for x, anchor, text in (*ends, (middle, "middle", x_title)):
        parts.append(
            f'<text class="wb-p-tick" x="{x:.1f}" y="{height - 4:.1f}" text-anchor="{anchor}">'
            f"{html.escape(text)}</text>"
        )
    return parts


def short(value: float) -> str:
    """A number in at most four characters or so, with a real minus sign."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"
    return text.replace("-", "−").replace("e+0", "e")
