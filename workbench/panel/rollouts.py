"""The rollout view: what the model wrote at a step, prompt by prompt, with rewards and advantages.

Model text is data: it is escaped, kept in its own writing direction and never typeset or run.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from workbench.panel import tokens
from workbench.panel.tokens import Colouring

SORTS = {
    "as sampled": None,
    "advantage, highest first": "advantage",
    "reward, highest first": "reward/total",
    "length, longest first": "length",
}
MARKS = {
    True: '<span class="wb-right" title="right">✓</span> ',
    False: '<span class="wb-wrong" title="wrong">✗</span> ',
}
FILTERS = ("all", "right", "wrong", "truncated")
EMPTY = '<div class="wb-doc">No rollouts are saved yet; they appear while the run goes on.</div>'


def text_html(text: str) -> str:
    """Text of a model or a data set as inert HTML, kept from turning its surroundings around."""
    return f'<bdi class="wb-text" dir="auto">{html.escape(text)}</bdi>'


def right(table: pd.DataFrame) -> pd.Series | None:
    """Which completions the checker accepts; None where the run does not measure it."""
    return table["reward/correct"] >= 1 if "reward/correct" in table else None


def keep(table: pd.DataFrame, which: str) -> pd.DataFrame:
    """The rows of one of FILTERS."""
    accepted = right(table)
    if which == "truncated":
        return table[table["truncated"].astype(bool)]
    if which == "all" or accepted is None:
        return table
    return table[accepted if which == "right" else ~accepted]


def number(value: Any, signed: bool = False) -> str:
    """A number for a cell, or a dash where there is none."""
    return "–" if pd.isna(value) else f"{float(value):{'+' if signed else ''}.3g}"


def note_html(note: Any) -> str:
    """What a reward says of a completion, below its value; each of its parts is kept on one line."""
    if not isinstance(note, str) or not note:
        return ""
    *firsts, last = note.split(", ")
    parts = [*(f"{part}," for part in firsts), last]
    inner = " ".join(f'<span class="wb-part">{html.escape(part)}</span>' for part in parts)
    return f'<br><bdi class="wb-text" dir="auto">{inner}</bdi>'


def table_html(table: pd.DataFrame, how: Colouring = tokens.PLAIN) -> str:
    """The completions of one prompt as a table, their tokens coloured as asked."""
    if table.empty:
        return '<div class="wb-doc">No completion passes this filter.</div>'
    others = [column for column in table if column.startswith("reward/")]
    rewards = sorted(others, key=lambda column: column != "reward/correct")
    notes = [column.replace("reward/", "note/", 1) for column in rewards]
    titles = [column.split("/", 1)[1] for column in rewards]
    names = ("completion", "answer", *titles, "advantage", "tokens")
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    accepted = right(table)
    rows = []
    for position, (index, row) in enumerate(table.iterrows()):
        marks = {} if accepted is None else {"reward/correct": MARKS[bool(accepted.loc[index])]}
        coloured = how.choice != tokens.NONE
        text = str(row["completion"])
        cells = [tokens.completion_html(row, how) if coloured else text_html(text)]
        cells.append(text_html(str(row["answer"])))
        cells += [
            marks.get(reward, "") + number(row[reward]) + note_html(row.get(note, ""))
            for reward, note in zip(rewards, notes, strict=True)
        ]
        length = f"{row['length']:.0f}{' cut off' if row['truncated'] else ''}"
        cells += [number(row["advantage"], signed=True), length]
        kinds = ["wb-long", "wb-answer"]
        kinds += ["wb-note" if note in table else "wb-number" for note in notes]
        kinds += ["wb-number"] * (len(cells) - len(kinds))
        pairs = zip(kinds, cells, strict=True)
        body = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in pairs)
        rows.append(f'<tr class="wb-row{position % 2}">{body}</tr>')
    body = "".join(rows)
    head = f"<thead><tr>{head}</tr></thead>"
    return (
        f'<div class="wb-scroll"><table class="wb-table">{head}<tbody>{body}</tbody></table></div>'
    )


def summary_html(table: pd.DataFrame) -> str:
    """One line on a prompt's group."""
    accepted = right(table)
    solved = "" if accepted is None else f"{int(accepted.sum())} of {len(table)} right · "
    total = f"mean reward {table['reward/total'].mean():.3f} · "
    return (
        f'<div class="wb-doc">{solved}{total}mean length {table["length"].mean():.1f} tokens</div>'
    )


class RolloutView:
    """Selectors of step, prompt, order and filter, and the table below them."""

    def __init__(self, guard: Callable[[Callable[[], None]], Callable[..., None]]) -> None:
        style = {"description_width": "initial"}
        self.step = widgets.Dropdown(
            description="step",
            tooltip="A step whose batch was saved",
            style=style,
            layout={"width": "130px"},
        )
        self.prompt = widgets.Dropdown(
            description="prompt", tooltip="One prompt of the step's batch", style=style,
            layout={"flex": "1 1 220px", "width": "auto"},
        )  # fmt: skip
        self.sort = widgets.Dropdown(
            options=list(SORTS), description="order", tooltip="Order of the completions",
            style=style, layout={"width": "230px"},
        )  # fmt: skip
        self.filter = widgets.Dropdown(
            options=FILTERS, description="show", tooltip="Which completions", style=style,
            layout={"width": "140px"},
        )  # fmt: skip
        self.colour = widgets.Dropdown(
            options=tokens.CHOICES, description="colour", style=style,
            tooltip="Colour each token: by what got gradient, by its log-probability, or by the entropy "
            "of the choice it came from", layout={"width": "160px"},
        )  # fmt: skip
        self.follow = widgets.Checkbox(
            True, description="newest", indent=False, tooltip="Follow the newest saved step",
            layout={"width": "80px"},
        )  # fmt: skip
        self.text = widgets.HTML(EMPTY)
        bar = widgets.HBox(
            [self.step, self.follow, self.prompt, self.filter, self.sort, self.colour]
        )
        bar.add_class("wb-wrap")
        self.root = widgets.VBox([bar, self.text])
        self.root.add_class("wb-rollouts")
        self._run: Any = None
        self._table = pd.DataFrame()
        self._quiet = False
        self._lock = threading.RLock()  # the drawer's thread and callbacks both come here
        self.step.observe(guard(self._on_step), "value")
        for widget in (self.prompt, self.filter, self.sort, self.colour):
            widget.observe(guard(self._on_choice), "value")
        self.follow.observe(guard(self.refresh), "value")

    def show(self, run: Any) -> None:
        """Show the rollouts of `run`, the newest first."""
        with self._lock:
            self._run, self._table = run, pd.DataFrame()
            self.refresh()

    def refresh(self) -> None:
        """Take up the steps that have been saved since; go to the newest one while following."""
        with self._lock:
            steps = self._run.rollout_steps if self._run is not None else []
            current = self.step.value
            chosen = (
                current if current in steps and not self.follow.value else (steps or [None])[-1]
            )
            self._quiet = True
            if list(self.step.options) != steps:
                self.step.options = steps
            self.step.value = chosen
            self._quiet = False
            if chosen is not None:
                self._load()
                return
            self._quiet = True  # a run without rollouts yet, after one that had some
            self.prompt.options, self.text.value = (), EMPTY
            self._quiet = False

    def _on_step(self) -> None:
        with self._lock:
            if not self._quiet and self.step.value is not None:
                newest = self.step.value == self.step.options[-1]
                self.follow.value = self.follow.value and newest  # looking back stops following
                self._load()

    def _on_choice(self) -> None:
        with self._lock:
            if not self._quiet:
                self._draw()

    def _load(self) -> None:
        if not self._table.empty and int(self._table["step"].iloc[0]) == self.step.value:
            return
        self._table = self._run.rollouts(self.step.value)
        prompts = self._table.groupby("prompt_index", sort=True)["prompt"].first()
        before = self.prompt.value
        self._quiet = True
        self.prompt.options = [
            (f"{index}: {' '.join(text.split())[:90]}", index) for index, text in prompts.items()
        ]
        self.prompt.value = before if before in list(prompts.index) else prompts.index[0]
        self._quiet = False
        self._draw()

    def _draw(self) -> None:
        group = self._table[self._table["prompt_index"] == self.prompt.value]
        if group.empty:
            return
        column = SORTS[self.sort.value]
        ordered = (
            group if column is None else group.sort_values(column, ascending=False, kind="stable")
        )
        prompt = text_html(str(group["prompt"].iloc[0]))
        how = tokens.colouring(self.colour.value, group)
        self.text.value = (
            f'<div class="wb-prompt">{prompt}</div>{summary_html(group)}'
            + tokens.legend_html(how, self.colour.value, group)
            + table_html(keep(ordered, self.filter.value), how)
        )
