"""The report of runs: one self-contained page of curves, recipes, a table and rollouts.

All text of models, users and files is escaped; the page loads nothing from elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.plots import curves_figure
from workbench.series import RunCurves, pass_ks

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .25em .9em .25em 0 }
tr { border-bottom: 1px solid #ddd }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; white-space: pre-wrap; font-size: 13px }
td pre { margin: 0; padding: .3em .5em; unicode-bidi: isolate; overflow-wrap: anywhere }
summary { cursor: pointer }
"""


def before_after(runs: Sequence[RunCurves]) -> pd.DataFrame:
    """pass@k and entropy of each run: the first figure, the latest one and their ratio."""
    rows = []
    for name, metrics, _ in runs:
        for column in [*(f"eval/pass@{k}" for k in pass_ks(metrics)), "train/entropy"]:
            known = metrics[column].dropna() if column in metrics else []
            if len(known) < 2:
                continue
            before, after = float(known.iloc[0]), float(known.iloc[-1])
            rows.append(
                {
                    "run": name,
                    "metric": column.split("/", 1)[1],
                    "before": before,
                    "after": after,
                    "ratio": after / before if before else float("nan"),
                    "steps": f"{known.index[0]} to {known.index[-1]}",
                }
            )
    return pd.DataFrame(rows, columns=["run", "metric", "before", "after", "ratio", "steps"])


def table_html(table: pd.DataFrame) -> str:
    """A DataFrame as an escaped HTML table; floats with three decimals."""
    if table.empty:
        return "<p>Nothing was measured twice yet.</p>"
    return table.to_html(index=False, border=0, na_rep="", float_format="{:.3f}".format)


def rollouts_html(rollouts: pd.DataFrame, prompts: int = 4, each: int = 3) -> str:
    """A few completions of a few prompts, what the checker says of them, and their rewards.

    Texts are escaped and kept in their own direction.
    """
    shown = rollouts[rollouts["prompt_index"] < prompts].groupby("prompt_index").head(each)
    rewards = [column for column in rollouts if column.startswith("reward/")]
    columns = [name for name in ("prompt", "completion", "check") if name in rollouts]
    head = "".join(f"<th>{html.escape(c)}</th>" for c in (*columns, *rewards))
    rows = []
    for row in shown.to_dict("records"):
        texts = (html.escape(str(row[column])) for column in columns)
        texts = (f"<td><pre dir=auto>{text}</pre></td>" for text in texts)
        numbers = (f"<td>{float(row[column]):.2f}</td>" for column in rewards)
        rows.append(f"<tr>{''.join(texts)}{''.join(numbers)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def write_report(runs: Sequence[Any], path: Path) -> Path:
    """Write the page of `runs` (Run objects) to `path`."""
    text = report_html(
        [(run.name, run.metrics, run.events) for run in runs],
        {run.name: run.recipe.to_yaml() for run in runs},
        {run.name: run.rollouts() for run in runs if run.rollout_steps},
        title=" and ".join(run.name for run in runs),
    )
    path.write_text(text, encoding="utf-8")
    return path


def report_html(
    runs: Sequence[RunCurves],
    recipes: Mapping[str, str] | None = None,
    rollouts: Mapping[str, pd.DataFrame] | None = None,
    *,
    title: str = "workbench report",
    notes: str = "",
) -> str:
    """The page as text. `recipes`: name of the run -> YAML; `rollouts`: -> some completions."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(notes)}</p>" if notes else ""]
    parts += ["<h2>Before and after</h2>", table_html(before_after(runs)), "<h2>Curves</h2>"]
    parts.append(curves_figure(runs).to_html(full_html=False, include_plotlyjs=True))
    for name, text in (recipes or {}).items():
        parts.append(
            f"<h2>Recipe of {html.escape(name)}</h2><details><summary>YAML</summary>"
            f"<pre>{html.escape(text)}</pre></details>"
        )
    for name, table in (rollouts or {}).items():
        parts.append(f"<h2>Rollouts of {html.escape(name)}</h2>")
        parts.append(rollouts_html(table))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
