"""Every thinker with every answerer as a heat map: S(a, b) with its interval, as a plotly figure.

The colours are one hue over the page's own background, fainter where the score is lower, so the figure needs
no colour vision and its text is the page's, in the light theme and in the dark one. No torch, no widgets.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench.plots import CLEAR

Array = NDArray[np.float64]

NONE, OTHER = "(none)", "(other question)"  # the control rows: no thought, another question's
FAINT, STRONG = "rgba(0,114,178,0.05)", "rgba(0,114,178,0.6)"  # BLUE of the palette
INK = {"light": "#111111", "dark": "#f2f5fa"}
LINE = "rgba(127,127,127,0.9)"
CELL = (112, 46)  # pixels
LETTER = 6.2  # pixels of an axis letter, about
NAME, PART = 30, 15  # letters of a row's name, and of a line of a column's
MARGIN = {"r": 16, "b": 12}


def heat_map(
    thinkers: Sequence[str],
    answerers: Sequence[str],
    mean_AB: Array,
    low_AB: Array,
    high_AB: Array,
    *,
    score: str = "mean score",
    theme: str = "light",
) -> go.Figure:
    """Rows are thinkers, the controls below a line; columns are answerers.

    Args:
        thinkers: A names, those of the controls being NONE and OTHER, last.
        answerers: B names.
        mean_AB, low_AB, high_AB: S(a, b) and its 95 % interval.
        score: what is measured; the title of the colours.
        theme: "light" or "dark": the colour of all text.
    """
    rows, columns = len(thinkers), len(answerers)
    numbers = np.stack([mean_AB, low_AB, high_AB], -1)
    digits = _digits(numbers)
    figure = go.Figure(
        go.Heatmap(
            z=mean_AB, x=list(range(columns)), y=list(range(rows)), xgap=2, ygap=2,
            text=[[_cell(*cell, digits) for cell in row] for row in numbers], texttemplate="%{text}",
            textfont={"size": 13, "color": INK[theme]},
            customdata=[
                [told(a, b, *numbers[i, j], digits) for j, b in enumerate(answerers)]
                for i, a in enumerate(thinkers)
            ],
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=[[0, FAINT], [1, STRONG]], **_range(mean_AB),
            colorbar={
                "title": {"text": html.escape(score), "side": "right"}, "thickness": 12,
                "outlinewidth": 0, "nticks": 5, "tickformat": ".3~f",
            },
        ),
        _layout(thinkers, answerers, theme),
    )  # fmt: skip
    controls = sum(name in (NONE, OTHER) for name in thinkers)
    if 0 < controls < rows:
        figure.add_hline(y=rows - controls - 0.5, line={"color": LINE, "width": 2})
    return figure


def told(thinker: str, answerer: str, mean: float, low: float, high: float, digits: int = 2) -> str:
    """One cell in words, for the pointer."""
    by = {
        NONE: "<b>no thought</b>",
        OTHER: "<b>a thought of another question</b>",
    }.get(thinker, f"<b>{html.escape(thinker)}</b> thinks")
    value, lowest, highest = (_number(x, digits) for x in (mean, low, high))
    return (
        f"{by}, <b>{html.escape(answerer)}</b> answers<br>"
        f"{value} on average; 95 % interval {lowest} to {highest}"
    )


def _cell(mean: float, low: float, high: float, digits: int) -> str:
    value, lowest, highest = (_number(x, digits) for x in (mean, low, high))
    return f'<b>{value}</b><br><span style="font-size:10px">[{lowest}, {highest}]</span>'


def _digits(numbers: Array) -> int:
    """Decimals for all cells alike: two for scores about 1, else three digits of the largest."""
    top = float(np.abs(numbers).max())
    if 0.1 <= top < 10 or top == 0:
        return 2
    return int(np.clip(2 - np.floor(np.log10(top)), 0, 6))


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.00


def _range(mean_AB: Array) -> dict[str, float]:
    """The ends of the colours; equal scores still get a scale with two ends."""
    low, high = float(mean_AB.min()), float(mean_AB.max())
    return {"zmin": low, "zmax": high if high > low else low + max(abs(low), 1.0) * 0.1}


def _layout(thinkers: Sequence[str], answerers: Sequence[str], theme: str) -> dict[str, Any]:
    names = [html.escape(_short(name, NAME)) for name in thinkers]
    heads = [_wrapped(name) for name in answerers]
    left = 40 + int(LETTER * max(len(_short(name, NAME)) for name in thinkers))
    top = 66 + 14 * max(head.count("<br>") for head in heads)
    axis = {
        "showgrid": False,
        "zeroline": False,
        "tickmode": "array",
        "ticks": "",
        "fixedrange": True,
        "ticklabelstandoff": 3,
    }
    colour = {"color": INK[theme]}
    return {
        "template": "plotly_dark" if theme == "dark" else "plotly_white",
        "width": left + CELL[0] * len(answerers) + 100,
        "height": top + max(CELL[1] * len(thinkers), 140) + MARGIN["b"],
        "margin": MARGIN | {"l": left, "t": top}, "font": {"size": 11} | colour,
        "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR,
        "title": {
            "text": "<b>score by who thinks and who answers</b>", "font": {"size": 13} | colour,
            "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8, "t": 8},
            "y": 1, "yref": "container", "yanchor": "top",
        },
        "xaxis": axis | {
            "side": "top", "tickvals": list(range(len(heads))), "ticktext": heads, "tickangle": 0,
            "title": {"text": "answers", "standoff": 6},
        },
        "yaxis": axis | {
            "autorange": "reversed", "tickvals": list(range(len(names))), "ticktext": names,
            "title": {"text": "thinks", "standoff": 8},
        },
    }  # fmt: skip


def _short(name: str, letters: int) -> str:
    """A long name with its middle left out; the pointer tells it whole."""
    if len(name) <= letters:
        return name
    head = (letters - 1) // 2
    return f"{name[:head]}…{name[head + 1 - letters :]}"


def _wrapped(name: str) -> str:
    """A name as at most two lines of escaped text, broken after a sign where there is one."""
    name = _short(name, 2 * PART)
    if len(name) <= PART:
        return html.escape(name)
    breaks = [at for at in range(len(name) - PART, PART + 1) if name[at - 1] in "/-_ …"]
    at = min(breaks, key=lambda at: abs(at - len(name) / 2)) if breaks else PART
    return f"{html.escape(name[:at])}<br>{html.escape(name[at:])}"
