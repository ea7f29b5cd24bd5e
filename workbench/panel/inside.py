"""One step from inside: its batch, each advantage, the terms of its loss, its gradient.

Shown for any step whose batch was saved; the button Step saves the batch of its step. Prompts are data:
escaped, and never typeset.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from workbench.panel.rollouts import text_html
from workbench.remarks import Remark, loss_remarks

EMPTY = (
    '<div class="wb-doc">No batch is saved yet. Pause a run and press Step: one step is done, and shown '
    "here from inside.</div>"
)
BAR, GAP, HIGH = 6, 1, 26  # pixels of an advantage's bar: width, gap, height of its half
MOST_BARS = 64  # of one prompt
TRAINED = 5  # of `numbers`, what is trained on: the loss, its gradient, the step size


def strip_html(group: pd.DataFrame, longest: float) -> str:
    """The advantages of one prompt's completions as bars up and down, to a common scale."""
    shown = group.head(MOST_BARS)
    right = shown["reward/correct"] >= 1 if "reward/correct" in shown else [None] * len(shown)
    parts = []
    for place, (value, total, good) in enumerate(
        zip(shown["advantage"], shown["reward/total"], right, strict=True)
    ):
        size = HIGH * min(abs(value) / longest, 1.0) if longest else 0.0
        top = HIGH - size if value > 0 else HIGH
        mark = "" if good is None else (", right" if good else ", wrong")
        look = "wb-i-up" if value > 0 else "wb-i-down"
        parts.append(
            f'<rect class="{look}" x="{place * (BAR + GAP)}" y="{top:.1f}" width="{BAR}" '
            f'height="{max(size, 1):.1f}"><title>completion {place + 1}: reward {total:.3g}{mark}, '
            f"advantage {value:+.3f}</title></rect>"
        )
    width = len(shown) * (BAR + GAP)
    values = shown["advantage"]
    spoken = f"advantages from {values.min():+.3f} to {values.max():+.3f}"
    return (
        f'<svg width="{width}" height="{2 * HIGH + 1}" role="img" aria-label="{spoken}">{"".join(parts)}'
        f'<line class="wb-p-axis" x1="0" x2="{width}" y1="{HIGH}" y2="{HIGH}"/></svg>'
    )


def batch_html(table: pd.DataFrame) -> str:
    """The prompts of the step with their successes, rewards and advantages."""
    longest = float(table["advantage"].abs().max())
    rows = []
    for index, group in table.groupby("prompt_index", sort=True):
        values = group["advantage"].to_numpy(float)
        known = "reward/correct" in group
        K = f"{int((group['reward/correct'] >= 1).sum())} of {len(group)}" if known else "–"
        ends = "no signal" if not values.any() else f"{values.min():+.2f} … {values.max():+.2f}"
        prompt = " ".join(str(group["prompt"].iloc[0]).split())[:160]
        rows.append(
            f'<tr class="wb-row{int(index) % 2}"><td>{int(index)}</td>'
            f'<td class="wb-long">{text_html(prompt)}</td>'
            f"<td>{K}</td><td>{group['reward/total'].mean():.3f}</td><td>{ends}</td>"
            f"<td>{strip_html(group, longest)}</td></tr>"
        )
    names = ("", "prompt", "right", "mean reward", "advantage", "each completion's advantage")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        '<div class="wb-scroll"><table class="wb-table wb-inside"><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def numbers(known: Mapping[str, float], max_grad_norm: float) -> list[tuple[str, str, str]]:
    """What the step came to: name, value and what it means; only what was measured."""

    def at(name: str) -> float | None:
        value = known.get(name)
        return None if value is None or not np.isfinite(value) else float(value)

    loss, anchor, norm = at("train/loss"), at("train/anchor_loss"), at("train/grad_norm")
    rows: list[tuple[str, str, str]] = []
    if loss is not None:
        part = anchor or 0.0
        rows.append(("surrogate loss", f"{loss - part:+.5f}", "pulls towards high advantages"))
        beta = at("train/beta") or 0.0
        words = f"beta {beta:g} times the anchor" if beta else "no anchor: beta is 0"
        rows += [("anchor loss", f"{part:+.5f}", words), ("loss", f"{loss:+.5f}", "their sum")]
    if norm is not None:
        cut = (
            f"cut to {max_grad_norm:g}"
            if norm > max_grad_norm
            else f"under {max_grad_norm:g}: not cut"
        )
        rows.append(("gradient norm", f"{norm:.4f}", cut))
    plain = (
        ("train/learning_rate", "learning rate", "AdamW's step size", ".3g"),
        ("train/ratio_gap", "ratio gap", "mean |ratio - 1| of the tokens; 0 before the first update", ".3g"),
        ("train/mismatch", "mismatch", "mean |trainer - sampler| log-prob, nats a token", ".3g"),
        ("train/kl", "KL to reference", "nats a token, before this update", ".4f"),
        ("train/entropy", "entropy", "nats a token, while sampling", ".4f"),
        ("train/alpha", "alpha", "of the objective", ".3g"),
        ("train/guide", "guide q", "mean over the trained tokens", ".4f"),
        ("groups/update_scale", "update scale", "mean of reward times advantage", ".4f"),
        ("groups/zero_signal", "groups without signal", "share of the prompts drawn", ".2f"),
    )  # fmt: skip
    for metric, name, words, form in plain:
        value = at(metric)
        if value is not None:
            rows.append((name, format(value, form), words))
    return rows


def numbers_html(rows: list[tuple[str, str, str]]) -> str:
    """`numbers` as two tables side by side: what is trained on, and what was measured beside it."""
    lines = [
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td>'
        f'<td class="wb-doc wb-note">{html.escape(words)}</td></tr>'
        for name, value, words in rows
    ]
    parts = (lines[:TRAINED], lines[TRAINED:])
    tables = (f'<table class="wb-table wb-inside">{"".join(part)}</table>' for part in parts)
    return f'<div class="wb-halves">{"".join(tables)}</div>'


def remarks_html(remarks: Sequence[Remark]) -> str:
    """Why the loss is what it is; what is to be mended is marked."""
    lines = [
        f'<div class="{"wb-warn" if remark.wrong else "wb-doc"}">{html.escape(remark.text)}</div>'
        for remark in remarks
    ]
    return f'<div class="wb-remarks">{"".join(lines)}</div>' if lines else ""


def title_html(step: int, table: pd.DataFrame, known: Mapping[str, float]) -> str:
    """What the step drew, and how long each part of it took."""
    P, B = table["prompt_index"].nunique(), len(table)
    times = [(name, known.get(f"time/{name}")) for name in ("sample", "reward", "update")]
    spent = ", ".join(f"{name} {value:.2f} s" for name, value in times if value is not None)
    return (
        f'<div class="wb-title">Step {step}: {P} prompts × {B // P} completions, '
        f"{int(table['length'].sum()):,} tokens{' · ' + spent if spent else ''}</div>"
    )


class InsideView:
    """A choice among the saved steps, and below it the step from inside."""

    def __init__(self, guard: Callable[[Callable[[], None]], Callable[..., None]]) -> None:
        style = {"description_width": "initial"}
        self.step = widgets.Dropdown(
            description="step", tooltip="A step whose batch was saved", style=style,
            layout={"width": "150px"},
        )  # fmt: skip
        self.follow = widgets.Checkbox(
            True, description="newest", indent=False, tooltip="Follow the newest saved step",
            layout={"width": "80px"},
        )  # fmt: skip
        self.numbers, self.batch = widgets.HTML(), widgets.HTML(EMPTY)
        bar = widgets.HBox([self.step, self.follow])
        bar.add_class("wb-wrap")
        self.root = widgets.VBox([bar, self.numbers, self.batch])
        self.root.add_class("wb-rollouts")
        self._run: Any = None
        self._drawn: tuple[Any, int] | None = None
        self._quiet = False
        self._lock = threading.RLock()  # the drawer's thread and callbacks both come here
        self.step.observe(guard(self._on_step), "value")
        self.follow.observe(guard(self.refresh), "value")

    def show(self, run: Any) -> None:
        """Look into the steps of `run`, the newest first."""
        with self._lock:
            self._run, self._drawn = run, None
            self.refresh()

    def refresh(self) -> None:
        """Take up the steps that have been saved since."""
        with self._lock:
            steps = list(self._run.rollout_steps) if self._run is not None else []
            keep = self.step.value in steps and not self.follow.value
            chosen = self.step.value if keep else (steps or [None])[-1]
            self._quiet = True
            if list(self.step.options) != steps:
                self.step.options = steps
            self.step.value = chosen
            self._quiet = False
            self._draw()

    def _on_step(self) -> None:
        with self._lock:
            if not self._quiet and self.step.value is not None:
                newest = self.step.value == self.step.options[-1]
                self.follow.value = self.follow.value and newest
                self._draw()

    def _draw(self) -> None:
        step = self.step.value
        if step is None:
            self.numbers.value, self.batch.value = "", EMPTY
            self._drawn = None
            return
        if self._drawn == (self._run, step):
            return
        table, metrics = self._run.rollouts(step), self._run.metrics
        if step not in metrics.index:  # its line is written first, but may not be read yet
            return
        known = metrics.loc[step].to_dict()
        rows = numbers(known, self._run.recipe.max_grad_norm)
        why = remarks_html(loss_remarks(known, self._run.recipe))
        self.numbers.value = title_html(step, table, known) + numbers_html(rows) + why
        self.batch.value = batch_html(table)
        self._drawn = (self._run, step)
