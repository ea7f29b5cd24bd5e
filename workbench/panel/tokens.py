"""Completions with their tokens coloured: by what got gradient, or by a number that each token has.

Tokens of equal colour in a row are one span, so that a batch's table stays small. Model text is data: it is
escaped, kept in its own direction, and its control characters are shown as signs.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Scale:
    """A row of SCALES: a number of each token, and how it is shown.

    With `middle` its sign is shown too: blue and underlined above, orange and dashed below, the darker the
    further away. Without, it is darker towards `dark`, "low" or "high", and the pale end is 0.
    """

    column: str  # of the saved rollouts, a list per completion
    title: str
    low: str  # what the two ends mean
    high: str
    lack: str  # why a file may be without the column
    middle: float | None = None
    dark: str = "high"


NONE, GRADIENT = "none", "gradient"
OLD = "older runs did not save it"
SCALES = {
    "advantage": Scale(
        "advantages", "advantage of each token", "made rarer", "made likelier",
        "it is saved with training batches, by newer runs", middle=0.0,
    ),
    "log-ratio": Scale(
        "log_ratios", "log policy − log reference of each token, nats", "rarer than in the reference",
        "likelier than in the reference",
        "it is known where the reference was run: with an anchor, at evaluations and after the button "
        "Step, in training batches of newer runs", middle=0.0,
    ),
    "guide": Scale(
        "guides", "guide q of each token", "reference lowered", "reference raised",
        "only an anchor with a guide, such as sage, has a q for each token, in training batches of newer "
        "runs", middle=1.0,
    ),
    "log-prob": Scale(
        "logprobs", "log-prob of each token, nats", "unlikely", "certain", OLD, dark="low"
    ),
    "entropy": Scale("entropies", "entropy at each token, nats", "certain", "undecided", OLD),
}  # fmt: skip
CHOICES = (NONE, GRADIENT, *SCALES)
SHADES = 8  # the palest of them is no colour
MASKED, THINKING, ANSWER = "wb-t-off", "wb-t-thinking", "wb-t-answer"
MEANINGS = {THINKING: "thinking, trained", ANSWER: "answer, trained", MASKED: "masked: no gradient"}
UNDIVIDED = {ANSWER: "trained (no </think> here)", MASKED: MEANINGS[MASKED]}
EVEN = "wb-t0"
NOISE = 1e-3  # of the scale's length; what is nearer to its middle counts as on it
# Direction marks would turn the text after them around, so they are named instead of obeyed.
_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
_SIGNS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_SIGNS |= {0x7F: "\u2421"} | {code: f"\\u{code:04x}" for code in (*range(0x80, 0xA0), *_TURNING)}


@dataclass(frozen=True)
class Colouring:
    """One of CHOICES for some completions: which column it reads, and the range of its shades."""

    choice: str = NONE
    low: float = 0.0
    high: float = 0.0

    def kinds(self, row: Any) -> Iterable[str]:
        """The class of every token of one completion."""
        if self.choice == GRADIENT:
            pairs = zip(row["trained"], row["thinking"], strict=True)
            return ((THINKING if inside else ANSWER) if on else MASKED for on, inside in pairs)
        scale = SCALES[self.choice]
        pale = scale.middle or 0.0
        length = max(self.high - pale, pale - self.low) or 1.0
        offsets = np.nan_to_num(np.asarray(row[scale.column], dtype=float) - pale)
        shares = offsets.clip(-length, length) / length
        if scale.middle is None:
            shades = (np.abs(shares) * SHADES).clip(0, SHADES - 1).astype(int)
            return (f"wb-t{shade}" for shade in shades)
        shades = np.ceil((np.abs(shares) - NOISE) * (SHADES - 1)).clip(0, SHADES - 1).astype(int)
        return (signed(shade, share > 0) for shade, share in zip(shades, shares, strict=True))


PLAIN = Colouring()


def signed(shade: int, above: bool) -> str:
    """The class of a token that lies `shade` above or below the middle of its scale."""
    return f"wb-{'up' if above else 'down'} wb-k{shade}" if shade else EVEN


def colouring(choice: str, *groups: pd.DataFrame) -> Colouring:
    """How to colour completions; a scale reaches over all tokens of all groups that have its column.

    It begins or ends where its number does, at 0, and a signed one reaches as far below as above.
    """
    known = [group for group in groups if not missing(choice, group)]
    if not known:
        return PLAIN
    if choice not in SCALES:
        return Colouring(choice)
    scale = SCALES[choice]
    rows = [np.asarray(row, dtype=float) for group in known for row in group[scale.column]]
    values = np.concatenate(rows) if rows else np.zeros(0)
    values = values[np.isfinite(values)]
    if scale.middle is not None:
        reach = float(np.abs(values - scale.middle).max(initial=0.0))
        return Colouring(choice, scale.middle - reach, scale.middle + reach)
    if scale.dark == "low":
        return Colouring(choice, float(values.min(initial=0.0)), 0.0)
    return Colouring(choice, 0.0, float(values.max(initial=0.0)))


def missing(choice: str, group: pd.DataFrame) -> str:
    """Why `choice` can't be shown on these completions, as a sentence; "" where it can."""
    if choice == NONE:
        return ""
    if "tokens" not in group:
        return f"No colours: these completions were saved without their tokens; {OLD}."
    if choice == GRADIENT:
        if {"trained", "thinking"} <= set(group):
            return ""
        return "No colours: what got gradient is saved with training batches, by newer runs."
    scale = SCALES[choice]
    return "" if scale.column in group else f"No {choice} here: {scale.lack}."


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


def legend_html(how: Colouring, choice: str, *groups: pd.DataFrame) -> str:
    """What the colours mean, for a scale with its two ends; or why there are none."""
    if how.choice == NONE:
        lack = missing(choice, groups[0]) if groups else ""
        return f'<div class="wb-doc" role="status">{html.escape(lack)}</div>' if lack else ""
    if how.choice == GRADIENT:
        split = any(any(map(any, g["thinking"])) for g in groups if "thinking" in g)
        names = MEANINGS if split else UNDIVIDED
        keys = (
            f'<span class="wb-text {kind}">abc</span> {html.escape(meaning)}'
            for kind, meaning in names.items()
        )
        return _keys(keys, "")
    return _scale_html(how, SCALES[how.choice])


def _scale_html(how: Colouring, scale: Scale) -> str:
    plus = "+" if scale.middle == 0 else ""
    ends = (f"{how.low:.2f} ({scale.low})", f"{how.high:{plus}.2f} ({scale.high})")
    if scale.middle is None:
        kinds = [f"wb-t{shade}" for shade in range(SHADES)]
        bar = _bar(kinds[::-1] if scale.dark == "low" else kinds)
        return _keys([f"{ends[0]} {bar} {ends[1]}"], f"{scale.title}: ")
    middle = f"{scale.middle:.0f}"
    if how.low == how.high:
        return _keys([f"{middle} everywhere"], f"{scale.title}: ")
    below = _bar(signed(shade, False) for shade in range(SHADES - 1, 0, -1))
    above = _bar(signed(shade, True) for shade in range(1, SHADES))
    line = f"{ends[0]} {below} {middle} {above} {ends[1]}"
    return _keys([line, f"dashed below {middle}, solid above"], f"{scale.title}: ")


def _bar(kinds: Iterable[str]) -> str:
    shades = "".join(f'<span class="wb-shade {kind}"></span>' for kind in kinds)
    return f'<span class="wb-shades">{shades}</span>'


def _keys(items: Iterable[str], title: str) -> str:
    keys = "".join(f'<span class="wb-key">{item}</span>' for item in items)
    return f'<div class="wb-keys">{html.escape(title)}{keys}</div>'
