"""Runs side by side as tables: in what their recipes differ, and what came of them. No torch, no widgets.

Intervals are those of the runs' evaluations: 95 % bootstrap intervals over the prompts of one evaluation.
They know nothing of other seeds.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.series import pass_ks

INTERVALS = (
    "Intervals are 95 % bootstrap intervals over the prompts of one evaluation, not over seeds. "
    "“Best” is chosen by looking at every evaluation, so it flatters."
)
# Column -> the metric of which it is the last known value.
LAST = {"entropy": "train/entropy", "length": "rollout/length", "KL": "train/kl"}


def table(runs: Sequence[Any]) -> pd.DataFrame:
    """A row for each run; its columns, with NaN for what is not known:

    run; the fields in which the recipes differ; status, step, steps, tags; for k = 1 and the greatest k that
    all have measured ``pass@k``, ``pass@k/low``, ``pass@k/high`` of the last evaluation, ``best pass@k``,
    its ``/low``, ``/high`` and ``/step``; entropy, length and KL as last measured.
    """
    metrics = [run.metrics for run in runs]
    ks = shared_ks(metrics)
    chosen = dict.fromkeys((*ks[:1], *ks[-1:]))
    differing = differences([run.recipe.to_dict() for run in runs])
    rows = []
    for run, measured, fields in zip(runs, metrics, differing, strict=True):
        row = {"run": run.name, **fields, "status": run.status}
        row |= {name: int(run.progress[name]) for name in ("step", "steps")}
        row["tags"] = ", ".join(run.tags)
        for k in chosen:
            row |= at_k(measured, k)
        row |= {name: last(measured, column) for name, column in LAST.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each recipe the values in which they are not all the same; those of a dict as ``field.key``."""
    flat = [flattened(recipe) for recipe in recipes]
    names = dict.fromkeys(name for values in flat for name in values)
    shown = [name for name in names if any(v.get(name) != flat[0].get(name) for v in flat)]
    return [{name: values.get(name) for name in shown} for values in flat]


def flattened(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values, with the entries of a dict beside the other fields."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        for key, part in inner.items():
            if isinstance(part, Mapping):
                found |= {f"{name}.{key}.{k}": v for k, v in part.items()}
            else:
                found[f"{name}.{key}" if key else name] = part
    return found


def shared_ks(metrics: Sequence[pd.DataFrame]) -> list[int]:
    """The k at which every run that was evaluated knows pass@k, ascending."""
    known = [set(ks) for ks in map(pass_ks, metrics) if ks]
    return sorted(set.intersection(*known)) if known else []


def at_k(metrics: pd.DataFrame, k: int) -> dict[str, float]:
    """pass@k of the last and of the best evaluation, with their intervals and the step of the best."""
    name = f"pass@{k}"
    column = f"eval/{name}"
    known = metrics[column].dropna() if column in metrics else pd.Series(dtype=float)
    if known.empty:
        return {}
    best = known.idxmax()  # the earliest of equals
    found = {}
    for label, step in ((name, known.index[-1]), (f"best {name}", best)):
        found[label] = float(known[step])
        for end in ("low", "high"):
            given = f"{column}/{end}" in metrics
            found[f"{label}/{end}"] = float(metrics[f"{column}/{end}"][step]) if given else np.nan
    return found | {f"best {name}/step": int(best)}


def last(metrics: pd.DataFrame, column: str) -> float:
    """The last known value of a metric; NaN where there is none."""
    known = metrics[column].dropna() if column in metrics else ()
    return float(known.iloc[-1]) if len(known) else np.nan


# ------------------------------------------------------------------ for reading


def between(value: float, low: float, high: float) -> str:
    """A share with its interval: 0.423 [0.371, 0.480]; a dash where it is not known."""
    if not np.isfinite(value):
        return "–"
    ends = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) and np.isfinite(high) else ""
    return f"{value:.3f}{ends}"


def plain(value: Any) -> str:
    """A value of a recipe as text; a dash where the recipe has none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as an escaped HTML table; the last cell of a row that is short takes the rest of it."""
    style = "text-align: left; vertical-align: top; white-space:"
    parts = []
    for row in rows:
        short = len(row) < len(head)
        cells = [f'<td style="{style} nowrap"><bdi>{html.escape(text)}</bdi></td>' for text in row]
        if short:
            span = f'colspan="{len(head) - len(row) + 1}" style="{style} normal"'
            cells[-1] = f"<td {span}><bdi>{html.escape(row[-1])}</bdi></td>"
        parts.append(f"<tr>{''.join(cells)}</tr>")
    top = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(parts)}</tbody></table>"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as lines, each column as wide as its longest text; as in `html_table`."""
    lines = [head, *rows]
    # The last cell of a short row stands in the way of nothing.
    fixed = [line if len(line) == len(head) else line[:-1] for line in lines]
    widths = [max(len(line[i]) for line in fixed if len(line) > i) for i in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=False)).rstrip()
        for line in lines
    )
