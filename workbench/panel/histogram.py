"""How many completions of a group are right, over the steps: as a map of shades, and as bars.

K right of G is all that an objective that counts successes sees of a group. Plain SVG, so that the picture
follows JupyterLab's theme.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

COLUMNS, ROWS = 120, 33  # of the map, at most
SHADES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)  # upper ends of the shares that have the same shade
OPACITY = (0.14, 0.26, 0.4, 0.55, 0.7, 0.85, 1.0)
WIDTH, HEIGHT = 600, 218  # of the map, with its axes
LEFT, RIGHT, TOP, BOTTOM = 48, 70, 8, 34
WIDEST = 16.0  # a column of a run with few steps
GAP = 4  # between the mixed groups and those that are all right or all wrong
BARS_WIDTH, BARS_HEIGHT = 430, 132


@dataclass(frozen=True)
class Histogram:
    """Shares of groups by their number of right completions, for columns of steps."""

    size: int  # G
    rows: tuple[tuple[int, int], ...]  # least and greatest K of each row, from the bottom
    steps: tuple[tuple[int, int], ...]  # first and last step of each column
    shares_RC: np.ndarray  # NaN where a column has no groups
    groups_C: np.ndarray  # groups in a column
    means_C: np.ndarray  # mean K

    @property
    def per_column(self) -> int:
        """Steps of a column."""
        first, last = self.steps[0]
        return last - first + 1


def rows_of(size: int) -> tuple[tuple[int, int], ...]:
    """The rows for groups of `size`: each K its own, or several between 0 and all where there are many."""
    if size < ROWS:
        return tuple((k, k) for k in range(size + 1))
    each = -(-(size - 1) // (ROWS - 2))
    middle = [(k, min(k + each - 1, size - 1)) for k in range(1, size, each)]
    return ((0, 0), *middle, (size, size))


def rounded(least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is not below `least`."""
    power = 10 ** max(len(str(least)) - 1, 0)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def histogram(successes: pd.DataFrame, size: int) -> Histogram:
    """The histogram of a table with a row for each step, a column for each prompt: K of `size`."""
    steps_S, right_SP = successes.index.to_numpy(), counts_of(successes)
    first, last = int(steps_S[0]), int(steps_S[-1])
    # A round number, so that columns stay where they are while a run grows.
    width = rounded(-(-(last - first + 1) // COLUMNS))
    column_S = (steps_S - first) // width
    columns = int(column_S[-1]) + 1
    known_SP = right_SP >= 0
    place_SP = column_S[:, None] * (size + 1) + right_SP
    counted = np.bincount(place_SP[known_SP], minlength=columns * (size + 1))
    counts_CK = counted.reshape(columns, size + 1)
    groups_C = counts_CK.sum(1)
    rows = rows_of(size)
    counts_CR = np.add.reduceat(counts_CK, [low for low, _ in rows], axis=1)
    with np.errstate(invalid="ignore"):  # a column without groups
        shares_CR = counts_CR / groups_C[:, None]
        means_C = counts_CK @ np.arange(size + 1) / groups_C
    starts = first + width * np.arange(columns)
    ends = np.minimum(starts + width - 1, steps_S[-1])
    steps = tuple(zip(starts.tolist(), ends.tolist(), strict=True))
    return Histogram(size, rows, steps, shares_CR.T, groups_C, means_C)


def counts_of(successes: pd.DataFrame) -> np.ndarray:
    """The numbers of a table of successes, with -1 where a step had fewer prompts."""
    return successes.to_numpy(dtype=np.int64, na_value=-1)


# ------------------------------------------------------------------ as a map


def map_html(found: Histogram, ends: tuple[str, str], marks: Sequence[tuple[int, str]] = ()) -> str:
    """The map with its axes and its legend.

    `ends` says what is true of the groups with K = 0 and K = G; `marks` are steps and what changed there.
    """
    columns = len(found.steps)
    # Hundredths, so that cells meet exactly, without seams.
    cell = min(int(100 * (WIDTH - LEFT - RIGHT) / columns) / 100, WIDEST)
    tops, height = row_places(len(found.rows))
    xs = [f"{LEFT + cell * c:.2f}" for c in range(columns)]
    ys = [f"{y:.2f}" for y in tops]
    box = f"h{cell:.2f}v{height:.2f}h-{cell:.2f}z"
    shade_RC = np.searchsorted(SHADES, found.shares_RC)
    shade_RC[~(found.shares_RC > 0)] = -1  # nothing to draw
    mixed_R = np.zeros((len(found.rows), 1), bool)
    mixed_R[1:-1] = True
    parts = []
    for look, rows in (("wb-g-mixed", mixed_R), ("wb-g-dead", ~mixed_R)):
        for shade, opacity in enumerate(OPACITY):
            cells = zip(*np.nonzero((shade_RC == shade) & rows), strict=True)
            path = "".join([f"M{xs[c]} {ys[r]}{box}" for r, c in cells])
            if path:
                parts.append(f'<path class="{look}" fill-opacity="{opacity}" d="{path}"/>')
    right = LEFT + cell * columns
    parts += [frames(right, tops, height), *y_axis(found, tops, height), *x_axis(found, cell)]
    parts += end_labels(right, tops, height, ends)
    parts += [mark(found, cell, step) for step, _ in marks]
    changed = {column_of(found, step): f"\n{text}" for step, text in marks}
    tall = HEIGHT - TOP - BOTTOM
    parts += [
        f'<rect class="wb-g-over" x="{xs[c]}" y="{TOP}" width="{cell:.2f}" height="{tall}">'
        f"{hover(found, c, changed.get(c, ''))}</rect>"
        for c in range(columns)
    ]
    spoken = (
        f"Groups by their number of right completions over the steps. {said(found, columns - 1)}"
    )
    return (
        f'<div class="wb-scroll"><svg class="wb-g-map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(spoken)}">{"".join(parts)}</svg></div>{legend_html()}'
    )


def row_places(rows: int) -> tuple[list[float], float]:
    """The top of each row, from K = 0 up, and their common height."""
    gaps = GAP if rows > 2 else 0
    height = int(100 * (HEIGHT - TOP - BOTTOM - 2 * gaps) / rows) / 100
    tops = [HEIGHT - BOTTOM - height * (r + 1) - gaps * (r > 0) for r in range(rows)]
    tops[-1] -= gaps
    return tops, height


def frames(right: float, tops: Sequence[float], height: float) -> str:
    """The outlines of the three blocks: none right, mixed, all right."""
    blocks = [(tops[0], tops[0]), (tops[-2], tops[1]), (tops[-1], tops[-1])]
    if len(tops) < 3:
        del blocks[1]
    return "".join(
        f'<rect class="wb-g-frame" x="{LEFT}" y="{top:.2f}" width="{right - LEFT:.2f}" '
        f'height="{bottom - top + height:.2f}"/>'
        for top, bottom in blocks
    )


def y_axis(found: Histogram, tops: Sequence[float], height: float) -> list[str]:
    """K at some rows, and what it counts."""
    last = len(tops) - 1
    chosen = sorted({round(last * part / 4) for part in range(5)})
    parts = [
        f'<text class="wb-p-tick" x="{LEFT - 5}" y="{tops[r] + height / 2 + 3:.1f}" '
        f'text-anchor="end">{found.rows[r][1]}</text>'
        for r in chosen
    ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    title = f"K right of {found.size}"
    return [
        *parts,
        f'<text class="wb-p-tick" transform="translate(13 {middle}) rotate(-90)" '
        f'text-anchor="middle">{title}</text>',
    ]


def x_axis(found: Histogram, cell: float) -> list[str]:
    """Round steps below the columns that hold them."""
    (first, _), (_, last) = found.steps[0], found.steps[-1]
    fit = max(1, int(cell * len(found.steps) // 56))
    every = rounded(-(-(last - first + 1) // fit))
    y = HEIGHT - BOTTOM + 13
    parts = [
        f'<text class="wb-p-tick" x="{LEFT + cell * (column_of(found, step) + 0.5):.1f}" y="{y}" '
        f'text-anchor="middle">{step}</text>'
        for step in range(-(-first // every) * every, last + 1, every)
    ]
    each = found.per_column
    title = "step" if each == 1 else f"step ({each} in a column)"
    return [*parts, f'<text class="wb-p-tick" x="{LEFT}" y="{y + 14}">{title}</text>']


def end_labels(
    right: float, tops: Sequence[float], height: float, ends: tuple[str, str]
) -> list[str]:
    """What is true of the lowest and of the highest row, beside them, a line for each part."""
    parts = []
    for at, text in zip((-1, 0), reversed(ends), strict=True):
        lines = text.split(": ")
        first = tops[at] + height / 2 + 4 - (12 * (len(lines) - 1) if at == 0 else 0)
        parts += [
            f'<text class="wb-p-tick" x="{right + 6:.1f}" y="{first + 12 * i:.1f}">{line}</text>'
            for i, line in enumerate(lines)
        ]
    return parts


def hover(found: Histogram, column: int, changed: str) -> str:
    """What is told of a column that is pointed at."""
    return f"<title>{html.escape(said(found, column) + changed)}</title>"


def column_of(found: Histogram, step: int) -> int:
    """The column that holds a step, or would."""
    return (step - found.steps[0][0]) // found.per_column


def mark(found: Histogram, cell: float, step: int) -> str:
    """A line where something changed; nothing where the map does not reach."""
    column = column_of(found, step)
    if not 0 <= column < len(found.steps):
        return ""
    x = f"{LEFT + cell * column:.1f}"
    return (
        f'<line class="wb-g-change" x1="{x}" x2="{x}" y1="{TOP - 4}" y2="{HEIGHT - BOTTOM + 3}"/>'
    )


def said(found: Histogram, column: int) -> str:
    """A column in words."""
    first, last = found.steps[column]
    when = f"Step {first}" if first == last else f"Steps {first} to {last}"
    if not found.groups_C[column]:
        return f"{when}: no groups"
    none, *_, every = found.shares_RC[:, column]
    return (
        f"{when}: {found.groups_C[column]} groups of {found.size}\n"
        f"all right {percent(every)}, mixed {percent(1 - none - every)}, none right {percent(none)}\n"
        f"mean K {found.means_C[column]:.2f}"
    )


def percent(value: float, digits: int = 0) -> str:
    """A share as 12 %."""
    return f"{round(100 * value, digits) + 0.0:.{digits}f} %".replace("-", "−")


def legend_html() -> str:
    """The shades with the shares they stand for."""
    keys = "".join(
        f'<span class="wb-key">{swatch("wb-g-mixed", o)}{swatch("wb-g-dead", o)} to {percent(end)}</span>'
        for end, o in zip(SHADES, OPACITY, strict=True)
    )
    return f'<div class="wb-keys"><span>share of the groups:</span>{keys}</div>'


def swatch(look: str, opacity: float) -> str:
    """A little square of one shade."""
    return (
        '<svg width="11" height="11" aria-hidden="true"><rect class="wb-g-frame" width="11" height="11"/>'
        f'<rect class="{look}" width="11" height="11" fill-opacity="{opacity}"/></svg>'
    )


# ------------------------------------------------------------------ as bars


def bars_html(right_P: np.ndarray, size: int) -> str:
    """The groups of one step by K, with their numbers written above the bars."""
    rows = rows_of(size)
    counts_K = np.bincount(right_P, minlength=size + 1)
    counts_R = np.add.reduceat(counts_K, [low for low, _ in rows])
    wide = min((BARS_WIDTH - 8) / len(rows), 36.0)
    floor, most = BARS_HEIGHT - 30, max(int(counts_R.max()), 1)
    parts = []
    for r, count in enumerate(counts_R.tolist()):
        x, high = 4 + wide * r, (floor - 14) * count / most
        look = "wb-g-dead" if r in (0, len(rows) - 1) else "wb-g-mixed"
        if count:
            parts.append(
                f'<rect class="{look}" x="{x + 1:.1f}" y="{floor - high:.1f}" width="{wide - 2:.1f}" '
                f'height="{high:.1f}"/><text class="wb-p-tick" x="{x + wide / 2:.1f}" '
                f'y="{floor - high - 3:.1f}" text-anchor="middle">{count}</text>'
            )
    shown = range(0, len(rows), max(1, -(-len(rows) // 17)))
    parts += [
        f'<text class="wb-p-tick" x="{4 + wide * (r + 0.5):.1f}" y="{floor + 12}" '
        f'text-anchor="middle">{rows[r][1]}</text>'
        for r in shown
    ]
    right = 4 + wide * len(rows)
    parts.append(f'<line class="wb-p-axis" x1="4" x2="{right:.1f}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text class="wb-p-tick" x="4" y="{floor + 25}">K right of {size}</text>')
    spoken = ", ".join(f"{c} with {low}" for (low, _), c in zip(rows, counts_R, strict=True) if c)
    return (
        f'<svg width="{right + 4:.0f}" height="{BARS_HEIGHT}" role="img" '
        f'aria-label="Groups by right completions: {spoken}">{"".join(parts)}</svg>'
    )
