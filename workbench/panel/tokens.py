"""Completions with their tokens coloured: by what got gradient, by log-probability or by entropy.

Tokens of equal colour in a row are one span, so that a batch's table stays small. Model text is data: it is
escaped, kept in its own direction, and its control characters are shown as signs.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

NONE, GRADIENT = "none", "gradient"
SCALES = {"log-prob": "logprobs", "entropy": "entropies"}  # choice -> column
CHOICES = (NONE, GRADIENT, *SCALES)
NEEDS = {GRADIENT: ("trained", "thinking")} | {name: (column,) for name, column in SCALES.items()}
SHADES = 8
MASKED, THINKING, ANSWER = "wb-t-off", "wb-t-thinking", "wb-t-answer"
MEANINGS = {THINKING: "thinking, trained", ANSWER: "answer, trained", MASKED: "masked: no gradient"}
UNDIVIDED = {ANSWER: "trained (this model has no </think>)", MASKED: MEANINGS[MASKED]}
ENDS = {"log-prob": ("unlikely", "certain"), "entropy": ("certain", "undecided")}
# Direction marks would turn the text after them around, so they are named instead of obeyed.
_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
_SIGNS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_SIGNS |= {0x7F: "\u2421"} | {code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *_TURNING)}


@dataclass(frozen=True)
class Colouring:
    """One of CHOICES for a group of completions: which columns it reads and the range of its shades."""

    choice: str = NONE
    low: float = 0.0
    high: float = 0.0

    def kinds(self, row: Any) -> Iterable[str]:
        """The class of every token of one completion."""
        if self.choice == GRADIENT:
            pairs = zip(row["trained"], row["thinking"], strict=True)
            return ((THINKING if inside else ANSWER) if on else MASKED for on, inside in pairs)
        values = np.asarray(row[SCALES[self.choice]], dtype=float)
        span = (self.high - self.low) or 1.0
        shares = (values - self.low) / span
        if self.choice == "log-prob":
            shares = 1 - shares  # the darker the less likely
        shades = np.clip(np.nan_to_num(shares) * SHADES, 0, SHADES - 1).astype(int)
        return (f"wb-t{shade}" for shade in shades)


PLAIN = Colouring()


def colouring(choice: str, group: pd.DataFrame) -> Colouring:
    """How to colour a group's completions; a scale reaches over all of its tokens.

    A log-probability's scale ends at 0 and an entropy's begins there, whatever the group holds.
    """
    if missing(choice, group):
        return PLAIN
    if choice not in SCALES:
        return Colouring(choice)
    values = np.concatenate([np.asarray(v, dtype=float) for v in group[SCALES[choice]]])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    return Colouring(choice, *((low, 0.0) if choice == "log-prob" else (0.0, high)))


def missing(choice: str, group: pd.DataFrame) -> str:
    """What the files lack for `choice`, as a sentence; "" where they have it."""
    lacking = [] if choice == NONE else [c for c in ("tokens", *NEEDS[choice]) if c not in group]
    if not lacking:
        return ""
    names = " and ".join(lacking)
    return f"No colours: these rollouts were saved without {names} per token; newer runs save them."


def shown(piece: str) -> str:
    """The text of a token as inert HTML, with a sign for every control character."""
    return html.escape(piece.translate(_SIGNS))


def completion_html(row: Any, how: Colouring) -> str:
    """One completion; tokens that follow each other in one colour share a span."""
    pairs = zip(how.kinds(row), row["tokens"], strict=True)
    spans = (
        f'<span class="{kind}">{shown("".join(piece for _, piece in run))}</span>'
        for kind, run in itertools.groupby(pairs, key=lambda pair: pair[0])
    )
    return f'<bdi class="wb-text" dir="auto">{"".join(spans)}</bdi>'


def legend_html(how: Colouring, choice: str, group: pd.DataFrame) -> str:
    """What the colours mean, for a scale with its two ends in nats; or why there are none."""
    if how.choice == NONE:
        lack = missing(choice, group)
        return f'<div class="wb-doc" role="status">{html.escape(lack)}</div>' if lack else ""
    if how.choice == GRADIENT:
        names = MEANINGS if any(map(any, group["thinking"])) else UNDIVIDED
        return _keys((f'<span class="wb-text {c}">abc</span> {m}' for c, m in names.items()), "")
    order: Sequence[int] = range(SHADES)
    ends = (f"{how.low:.2f}", f"{how.high:.2f}")
    words = ENDS[how.choice]
    if how.choice == "log-prob":
        order = order[::-1]
    bar = "".join(f'<span class="wb-shade wb-t{shade}"></span>' for shade in order)
    scale = f"{ends[0]} ({words[0]}) <span class='wb-shades'>{bar}</span> {ends[1]} ({words[1]})"
    return _keys([scale], f"{how.choice} of each token, nats: ")


def _keys(items: Iterable[str], title: str) -> str:
    shown_items = "".join(f'<span class="wb-key">{item}</span>' for item in items)
    return f'<div class="wb-keys">{html.escape(title)}{shown_items}</div>'
