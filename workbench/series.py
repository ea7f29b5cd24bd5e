"""From a run's metrics to the arrays that are drawn, and which subplot each belongs to.

`trace_data` turns one run's metrics and events into named arrays; `workbench.plots` draws them. No torch,
no plotly, no widgets.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from workbench.following import Metrics, numbers, series

# What every function here calls a run: its name, its metrics (index step) and its events.
RunCurves = tuple[str, pd.DataFrame, pd.DataFrame]

REWARD_SLOTS = 8  # reward/total and seven parts; a live figure can't grow traces
KS = (1, 2, 4, 8, 16, 32, 64)
SHOWN_KS = (1, 4, 16, 64)  # over steps, beside the greatest; pass@k against k has them all
LEVELS = (1, 2, 3, 4, 5, 6, 7)  # constraints of a prompt
# The tiny world's kinds of constraints have slots of their own; of other kinds as many are drawn.
HARD_KINDS = ("count", "first", "last", "contains", "avoids", "mark", "repeats", "order")
SOFT_KINDS = ("mood", "register", "topic", "style", "rhythm")
OTHER_HARD = ("light", "light_choice")  # and IFEval's, whose names have a colon
KIND = "constraints/kind/"
KIND_LENGTH = 12  # letters of a kind in a legend: as many as fit beside a narrow subplot


@dataclass(frozen=True)
class Subplot:
    """One subplot: its row, first column and columns spanned, and the metric of its single line."""

    key: str
    title: str
    row: int
    column: float
    span: float = 1
    metric: str = ""  # "" where the lines are many, as of pass@k and of the rewards
    varies: bool = False  # drawn only where the metric is not the same at every step


QUARTER, NEXT = 0.8, 0.7329  # columns that one of four in a row spans, and from one to the next

SUBPLOTS = (
    Subplot("pass", "pass@k over steps", 0, 0, 2),
    Subplot("k", "pass@k against k", 0, 2),
    Subplot("reward", "rewards", 1, 0, 2),
    Subplot("entropy", "entropy (nats)", 1, 2, metric="train/entropy"),
    Subplot("kl", "KL (nats)", 2, 0, QUARTER, metric="train/kl"),
    Subplot("length", "length", 2, NEXT, QUARTER, metric="rollout/length"),
    Subplot("zero", "zero-signal", 2, 2 * NEXT, QUARTER, metric="groups/zero_signal"),
    Subplot("scale", "update scale", 2, 3 * NEXT, QUARTER, metric="groups/update_scale"),
    Subplot("alpha", "alpha of the objective", 3, 0, metric="train/alpha"),
    Subplot("beta", "beta, while it moves", 3, 1, metric="train/beta", varies=True),
    Subplot("post", "T_post + A_pre: initial policy answers", 4, 0, 2),
    Subplot("malformed", "malformed (share)", 4, 2, metric="rollout/malformed"),
    Subplot("kept", "constraints kept: as judged, and true", 5, 0, 2),
    Subplot("level", "by level", 5, 2),
    Subplot("hard", "hard constraints by kind", 6, 0),
    Subplot("soft", "soft constraints by kind", 6, 1.5),
)
# Row -> the subplots for which it comes; its others are shown with these.
ASKS = {3: ("alpha", "beta"), 4: ("post",), 5: ("kept", "level"), 6: ("hard", "soft")}
EXTRA = tuple(subplot for subplot in SUBPLOTS if subplot.row in ASKS)
# Trace -> its name: the score of the policy's thoughts with the answers of either, as the reward judges it
# and as the task knows it.
POST = {
    "post_pre": "A_pre",
    "post_post": "A_post",
    "post_pre_true": "A_pre, true",
    "post_post_true": "A_post, true",
}
# Trace -> its metric and name: the share of constraints kept, by the reward's verdicts and by the truth.
KEPT = {
    "hard": ("constraints/hard", "hard"),
    "soft": ("constraints/soft", "soft"),
    "hard_true": ("eval/hard", "hard, true"),
    "soft_true": ("eval/soft", "soft, true"),
}
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


def line(metrics: Metrics, column: str, name: str) -> TraceData:
    """The trace of one metric."""
    x, y = series(metrics, column)
    return TraceData(x, y, len(x) > 0, name)


def single(metrics: Metrics, subplot: Subplot, name: str) -> TraceData:
    """The trace of a subplot with one line."""
    found = line(metrics, subplot.metric, name)
    return NOTHING if subplot.varies and (found.y == found.y[:1]).all() else found


def rows_of(keys: Iterable[str]) -> tuple[int, ...]:
    """The rows below the third that the subplots `keys` are in, from the top."""
    shown = set(keys)
    return tuple(sorted({subplot.row for subplot in EXTRA if subplot.key in shown}))


def extras(runs: Iterable[Mapping[str, TraceData]]) -> frozenset[str]:
    """The subplots below the third row that a run's traces have something for, of rows that are asked for."""
    found = {key.split("/")[0] for data in runs for key, trace in data.items() if trace.visible}
    rows = {row for row, keys in ASKS.items() if found & set(keys)}
    return frozenset(p.key for p in EXTRA if p.key in found and p.row in rows)


def band(metrics: Metrics, column: str) -> TraceData:
    """The 95 % interval of a metric as one outline: out along the top, back along the bottom."""
    x_low, low = series(metrics, f"{column}/low")
    x_high, high = series(metrics, f"{column}/high")
    if len(x_low) < 2 or len(x_high) < 2:
        return NOTHING
    return TraceData(np.concatenate([x_high, x_low[::-1]]), np.concatenate([high, low[::-1]]))


def pass_ks(metrics: Metrics) -> list[int]:
    """Every k for which the run has measured pass@k, ascending."""
    names = [column.removeprefix("eval/pass@") for column in metrics]
    return sorted(int(name) for name in names if name.isdigit())


def against_k(metrics: Metrics, row: int) -> TraceData:
    """pass@k of one evaluation (row 0: the base; -1: the latest) over k."""
    ks = pass_ks(metrics)
    if not ks:
        return NOTHING
    measured = [numbers(metrics, f"eval/pass@{k}") for k in ks]
    whole = np.flatnonzero(~np.isnan(sum(measured)))
    if len(whole) < (2 if row == -1 else 1):
        return NOTHING
    at = whole[row]
    step, y = metrics.index[at], np.array([values[at] for values in measured], np.float32)
    return TraceData(np.array(ks, np.int32), y, name=f"step {step}" if step else "base")


def reward_columns(metrics: Metrics) -> list[str]:
    """The reward columns, the weighted total first, as many as a figure holds."""
    parts = [column for column in metrics if column.startswith("reward/")]
    return sorted(parts, key=lambda column: column != "reward/total")[:REWARD_SLOTS]


def is_hard(kind: str) -> bool:
    """Whether a rule judges constraints of this kind, told by its name alone."""
    return kind in HARD_KINDS or kind in OTHER_HARD or ":" in kind


def kinds_drawn(metrics: Metrics, *, hard: bool) -> list[str]:
    """The hard or the soft kinds to draw, one for each slot.

    Those of the tiny world always have the same slots, and so the same colours; of others the kinds that
    the most steps have measured are drawn, in the order of their names.
    """
    own = HARD_KINDS if hard else SOFT_KINDS
    names = [column.removeprefix(KIND) for column in metrics if column.startswith(KIND)]
    found = [kind for kind in names if is_hard(kind) == hard]
    if set(found) & set(own):
        return list(own)
    often = sorted(found, key=lambda kind: -np.isfinite(numbers(metrics, KIND + kind)).sum())
    return sorted(often[: len(own)])


def kind_label(kind: str) -> str:
    """A kind as a legend names it: without its family, cut to size, inert."""
    words = kind.rsplit(":", 1)[-1].replace("_", " ")
    cut = words if len(words) <= KIND_LENGTH else words[: KIND_LENGTH - 1].rstrip() + "…"
    return html.escape(cut)


def kind_lines(metrics: Metrics, *, hard: bool) -> dict[str, TraceData]:
    """The traces of the hard or of the soft kinds, all slots."""
    side, slots = ("hard", len(HARD_KINDS)) if hard else ("soft", len(SOFT_KINDS))
    lines = {f"{side}/{slot}": NOTHING for slot in range(slots)}
    for slot, kind in enumerate(kinds_drawn(metrics, hard=hard)):
        if KIND + kind in metrics:
            lines[f"{side}/{slot}"] = line(metrics, KIND + kind, kind_label(kind))
    return lines


def constraint_lines(metrics: Metrics) -> dict[str, TraceData]:
    """The traces of instruction following: kept, by level, by kind."""
    data = {f"kept/{key}": line(metrics, *KEPT[key]) for key in KEPT}
    for level in LEVELS:
        name = f"{level} constraint{'s' * (level > 1)}"
        data[f"level/{level}"] = line(metrics, f"constraints/level/{level}", name)
    return data | kind_lines(metrics, hard=True) | kind_lines(metrics, hard=False)


def marks(events: pd.DataFrame) -> TraceData:
    """Each event as a full-height line with its text at the top; those of one step share a line."""
    if events.empty:
        return NOTHING
    return _marks(*(tuple(events[name].tolist()) for name in ("step", "kind", "text")))


@functools.lru_cache(maxsize=8)  # while a run goes on they are mostly those of the drawing before
def _marks(steps: tuple[Any, ...], kinds: tuple[Any, ...], said: tuple[Any, ...]) -> TraceData:
    texts: dict[int, list[str]] = {}
    for step, kind, text in zip(steps, kinds, said, strict=True):
        line = f"warning: {text}" if kind == "warning" else str(text)
        texts.setdefault(int(step), []).append(html.escape(line))
    at = sorted(texts)
    x = np.repeat(np.array(at, np.float32), 3)
    # From below the axis, where the marker is cut off, to just under the top; NaN lifts the pen.
    y = np.tile(np.array([-0.1, 0.98, np.nan], np.float32), len(at))
    hover = [f"step {step}: " + "<br>".join(texts[step]) for step in at]
    return TraceData(x, y, text=[part for text in hover for part in (text, text, "")])


def trace_data(name: str, metrics: Metrics, events: pd.DataFrame) -> dict[str, TraceData]:
    """Every trace of one run, by key; the keys are the same for every run and every moment.

    Keys: ``pass@K``, ``band@K``, ``k/base``, ``k/now``, ``reward/0`` ..., ``post/band`` and those of POST,
    ``kept/...`` as in KEPT, ``level/1`` ..., ``hard/0`` ..., ``soft/0`` ..., the key of each single-line
    subplot, and ``mark/SUBPLOT`` for each subplot over steps.
    """
    name = html.escape(name)
    last_k = max(pass_ks(metrics), default=64)
    shown = {*SHOWN_KS, last_k}
    data = {
        f"pass@{k}": line(metrics, f"eval/pass@{k}", f"@{k}") if k in shown else NOTHING for k in KS
    }
    data |= {f"post/{key}": line(metrics, f"eval/{key}", POST[key]) for key in POST}
    data["post/band"] = band(metrics, "eval/post_pre")
    data |= {
        f"band@{k}": band(metrics, f"eval/pass@{k}") if k in (1, last_k) else NOTHING for k in KS
    }
    data["k/base"] = against_k(metrics, 0)
    data["k/now"] = against_k(metrics, -1)
    columns = reward_columns(metrics)
    for slot in range(REWARD_SLOTS):
        data[f"reward/{slot}"] = NOTHING
        if slot < len(columns):
            label = html.escape(columns[slot].removeprefix("reward/"))
            data[f"reward/{slot}"] = line(metrics, columns[slot], label)
    data |= constraint_lines(metrics)
    data |= {p.key: single(metrics, p, name) for p in SUBPLOTS if p.metric}
    shown, mark = extras([data]), marks(events)
    hidden = {p.key for p in EXTRA if p.metric} - shown
    data |= dict.fromkeys(hidden, NOTHING)  # what is hidden must hold nothing
    drawn = {p.key: p.row not in ASKS or p.key in shown for p in STEP_SUBPLOTS}
    return data | {f"mark/{key}": mark if there else NOTHING for key, there in drawn.items()}
