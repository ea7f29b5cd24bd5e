"""Where live figures can't be shown: why, and figures and small curves in HTML instead, updated in place."""

from __future__ import annotations

import html
import importlib.util
import sys
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd

from workbench import plots, series
from workbench.following import thin
from workbench.series import RunCurves

NO_ANYWIDGET = (
    "Live curves need the package anywidget, which this kernel lacks: run 'pip install anywidget', "
    "restart the Jupyter server and reload this page. Until then the figures are in this table."
)
OTHER_FRONTEND = (
    "Live curves are tested in JupyterLab and Notebook 7 only; this looks like {name}, so the "
    "figures are in this table. run.figure() draws the curves as a plain figure."
)
NEWEST_EVENTS = 12


def frontend() -> str:
    """The frontend, where it is known to have trouble with live figures; else ""."""
    if "google.colab" in sys.modules:
        return "Colab"
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # VS Code puts the notebook's path into the user's names under this one.
    return "VS Code" if shell is not None and "__vsc_ipynb_file__" in shell.user_ns else ""


def missing() -> str | None:
    """Why live curves can't be shown here, in one sentence; None where they can."""
    if importlib.util.find_spec("anywidget") is None:
        return NO_ANYWIDGET
    name = frontend()
    return OTHER_FRONTEND.format(name=name) if name else None


class TableCurves:
    """The fallback without plotly's widget: figures, sparklines and events in HTML, updated in place."""

    def __init__(self, reason: str) -> None:
        self._reason = f'<p class="wb-warn">{html.escape(reason)}</p>'
        self.root = widgets.HTML(self._reason)
        self.root.add_class("wb-curves")

    def draw(self, runs: Sequence[RunCurves]) -> int:
        """Show `runs` in this order; returns the number of lines."""
        rows = [row for name, metrics, _ in runs for row in rows_of(name, metrics)]
        head = "<tr><th>run</th><th>metric</th><th>first</th><th>now</th><th>course</th></tr>"
        table = f'<table class="wb-table">{head}{"".join(rows)}</table>' if rows else ""
        events = "".join(events_html(name, events) for name, _, events in runs)
        text = self._reason + table + events
        if self.root.value != text:
            self.root.value = text
        return len(rows)


def rows_of(name: str, metrics: pd.DataFrame) -> list[str]:
    """A line for each metric that the live figure would draw."""
    columns = [f"eval/pass@{k}" for k in series.pass_ks(metrics)]
    columns += series.reward_columns(metrics)
    columns += [f"eval/{key}" for key in series.POST]
    columns += [metric for metric, _ in series.KEPT.values()]
    found = [(column, series.series(metrics, column)[1]) for column in columns]
    single = [plot for plot in series.SUBPLOTS if plot.metric]
    found += [(plot.metric, series.single(metrics, plot, "").y) for plot in single]
    return [
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(column.removeprefix('eval/'))}</td>"
        f"<td>{y[0]:.3f}</td><td>{y[-1]:.3f}</td><td>{sparkline(y)}</td></tr>"
        for column, y in found
        if len(y)
    ]


def events_html(name: str, events: pd.DataFrame) -> str:
    """The newest events, which the live figure has as marks."""
    lines = [
        f"<li>step {int(step)}: {html.escape(str(text))}</li>"
        for step, text in zip(events["step"], events["text"], strict=True)
    ] if len(events) else []  # fmt: skip
    if not lines:
        return ""
    shown = "".join(lines[-NEWEST_EVENTS:])
    return f'<div class="wb-doc">What changed in {html.escape(name)}</div><ul class="wb-list">{shown}</ul>'


def sparkline(y: np.ndarray) -> str:
    """A curve as a small inline SVG."""
    _, y = thin(np.arange(len(y)), y, limit=120)
    span = float(np.ptp(y)) or 1.0
    xs = np.linspace(1, 179, len(y))
    ys = 23 - 22 * (y - y.min()) / span
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
    return (
        f'<svg width="180" height="24" role="img" aria-label="from {y[0]:.3f} to {y[-1]:.3f}">'
        f'<polyline points="{points}" fill="none" stroke="{plots.BLUE}" stroke-width="1.5"/></svg>'
    )
