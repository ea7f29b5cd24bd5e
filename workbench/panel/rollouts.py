"""The rollout view: what the model wrote at a step, prompt by prompt; two steps of a prompt side by side.

Two batches are saved: the one that was trained on, and the same held-out prompts at every evaluation.
"""

from __future__ import annotations

import functools
import html
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd

from workbench.panel import tokens
from workbench.panel.rollout_table import (
    ALL,
    SAMPLED,
    filters_of,
    group_html,
    orders_of,
    pair_html,
    text_html,
)
from workbench.variants import WorkbenchError

TRAINING, HELD_OUT = "training", "held-out"
FOLDERS = {TRAINING: "rollouts", HELD_OUT: "held_out"}  # in the run's folder
EMPTY = {
    TRAINING: "No rollouts are saved yet; they appear while the run goes on.",
    HELD_OUT: "No held-out completions are saved; each evaluation saves some, in newer runs.",
}
ALONE = {TRAINING: "no other step has it", HELD_OUT: "no other evaluation yet"}
NOTHING = "none"  # beside the step
BASE = "base"  # beside the step: the base model, as long as nobody has chosen
SEARCHED = 100  # newest saved batches that are looked through for a prompt; each takes 2 ms, once


class RolloutView:
    """Selectors of batch, step, prompt, filter, order and colour, and the completions below them."""

    def __init__(self, guard: Callable[[Callable[[], None]], Callable[..., None]]) -> None:
        self._build()
        self._run: Any = None
        self._tables: dict[tuple[str, int], tuple[int, pd.DataFrame]] = {}  # those on show
        self._prompts: dict[int, tuple[int, frozenset[str]]] = {}  # of the saved training batches
        self._beside: dict[str, Any] = {}  # the step that is wished for beside it, for each batch
        self._wish = {self.filter: ALL, self.order: SAMPLED}  # kept where a table can't have it
        self._seen: Any = None  # what the page shows; see _state
        self._quiet = False
        self._lock = threading.RLock()  # the drawer's thread and callbacks both come here
        self.step.observe(guard(self._on_step), "value")
        self.beside.observe(guard(self._on_beside), "value")
        for widget in (self.batch, self.follow, self.prompt, self.colour):
            widget.observe(guard(self._on_choice), "value")
        for widget in (self.filter, self.order):
            widget.observe(guard(functools.partial(self._on_wish, widget)), "value")
        self._forget()

    def _build(self) -> None:
        def choice(name: str, tooltip: str, width: str, **more: Any) -> widgets.Dropdown:
            return widgets.Dropdown(
                description=name, tooltip=tooltip, style={"description_width": "initial"},
                layout={"width": width}, **more,
            )  # fmt: skip

        self.batch = choice(
            "batch",
            "training: the batch of a step; held-out: the same prompts at every evaluation, the same random "
            "numbers behind the completions in the same place",
            "150px",
            options=(TRAINING, HELD_OUT),
        )
        self.step = choice("step", "A step whose completions were saved", "120px")
        self.follow = widgets.Checkbox(
            True, description="newest", indent=False, tooltip="Follow the newest saved step",
            layout={"width": "76px"},
        )  # fmt: skip
        self.beside = choice(
            "beside", "Another step that has the same prompt, to be shown beside this one", "230px"
        )
        self.prompt = choice("prompt", "One prompt of the batch", "auto")
        self.prompt.layout.flex = "1 1 220px"
        self.filter = choice("show", "Which completions, and how many there are", "200px")
        self.order = choice("order", "Order of the completions", "220px")
        self.colour = choice(
            "colour",
            "Colour each token: by what got gradient, or by a number that the legend explains",
            "160px",
            options=tokens.CHOICES,
        )
        self.text = widgets.HTML()
        where = widgets.HBox([self.batch, self.step, self.follow, self.beside, self.prompt])
        how = widgets.HBox([self.filter, self.order, self.colour])
        for bar in (where, how):
            bar.add_class("wb-wrap")
        self.root = widgets.VBox([where, how, self.text])
        self.root.add_class("wb-rollouts")

    # --- what a person and the drawer do ----------------------------------------------------------

    def show(self, run: Any) -> None:
        """Show the rollouts of `run`, the newest first."""
        with self._lock:
            self._run = run
            self._forget()
            self.refresh()

    def refresh(self) -> None:
        """Take up the steps that have been saved since; go to the newest one while following."""
        with self._lock:
            if self._quiet or (self._seen is not None and self._state() == self._seen):
                return
            self._quiet = True
            try:
                self._draw()
                self._seen = self._state()
            except (
                WorkbenchError
            ) as error:  # rewound or deleted just now: another try at the next time
                self._say(str(error))
                self._seen = None
            finally:
                self._quiet = False

    def _forget(self) -> None:
        self._tables, self._prompts, self._seen = {}, {}, None
        self._beside = {TRAINING: NOTHING, HELD_OUT: BASE}

    def _on_step(self) -> None:
        with self._lock:
            if not self._quiet and self.step.value is not None:
                self._quiet = True
                newest = self.step.value == self.step.options[-1]
                self.follow.value = self.follow.value and newest  # looking back stops following
                self._quiet = False
                self.refresh()

    def _on_beside(self) -> None:
        with self._lock:
            if not self._quiet:
                self._beside[self.batch.value] = self.beside.value
                self.refresh()

    def _on_wish(self, widget: widgets.Dropdown) -> None:
        with self._lock:
            if not self._quiet:
                self._wish[widget] = widget.value
                self.refresh()

    def _on_choice(self) -> None:
        self.refresh()

    # --- what is saved ----------------------------------------------------------------------------

    def _steps(self) -> list[int]:
        if self._run is None:
            return []
        held_out = self.batch.value == HELD_OUT
        return list(self._run.held_out_steps if held_out else self._run.rollout_steps)

    def _written(self, step: Any) -> int:
        """When the batch of `step` was written: after a rewind there may be another of the same step."""
        if not isinstance(step, int):
            return 0
        file = Path(self._run.path) / FOLDERS[self.batch.value] / f"{step:06d}.parquet"
        try:
            return file.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _state(self) -> Any:
        """All that decides what the page shows; cheap to ask for."""
        steps = self._steps()
        shown = (self.step.value, self.beside.value)
        written = [self._written(step) for step in shown]
        kept = (self.batch, self.follow, self.prompt, self.filter, self.order, self.colour)
        return (steps, shown, written, [widget.value for widget in kept])

    def _load(self, step: int) -> pd.DataFrame:
        key, written = (self.batch.value, step), self._written(step)
        if self._tables.get(key, (None,))[0] != written:
            held_out = self.batch.value == HELD_OUT
            self._tables[key] = (written, self._run.rollouts(step, held_out=held_out))
        return self._tables[key][1]

    def _holding(self, prompt: str, step: int) -> list[int]:
        """The other steps of the batch that hold `prompt` too; of training the newest are looked through."""
        others = [other for other in self._steps() if other != step]
        if self.batch.value == HELD_OUT:
            return others
        return [other for other in others[-SEARCHED:] if prompt in self._prompts_of(other)]

    def _prompts_of(self, step: int) -> frozenset[str]:
        written = self._written(step)
        if self._prompts.get(step, (None,))[0] != written:
            table = self._run.rollouts(step, columns=["prompt"])
            self._prompts[step] = (written, frozenset(table["prompt"]))
        return self._prompts[step][1]

    # --- what it shows ----------------------------------------------------------------------------

    def _draw(self) -> None:
        """Bring the choices in line with what is saved, then show what is chosen; callbacks are quiet."""
        steps = self._steps()
        if not steps:
            for widget in (self.step, self.beside, self.prompt):
                _offer(widget, [], None)
            self._say(EMPTY[self.batch.value])
            return
        kept = self.step.value if self.step.value in steps and not self.follow.value else steps[-1]
        _offer(self.step, steps, kept)
        table = self._load(kept)
        prompts = table.groupby("prompt_index", sort=True)["prompt"].first()
        names = [(f"{i}: {' '.join(text.split())[:90]}", i) for i, text in prompts.items()]
        _offer(self.prompt, names, self.prompt.value)
        groups = self._groups(table, str(prompts[self.prompt.value]), steps)
        _offer(self.filter, filters_of(*groups.values()), self._wish[self.filter])
        _offer(self.order, orders_of(*groups.values()), self._wish[self.order])
        how = (self.filter.value, self.order.value, self.colour.value)
        (first, *_) = groups.values()
        body = group_html(first, *how) if len(groups) == 1 else pair_html(groups, *how)
        prompt = text_html(str(prompts[self.prompt.value]))
        self.text.value = f'<div class="wb-prompt">{prompt}</div>{body}'

    def _groups(
        self, table: pd.DataFrame, prompt: str, steps: Sequence[int]
    ) -> dict[str, pd.DataFrame]:
        """The completions of the prompt by their title: of the chosen step, and of the one beside it."""
        step, own = self.step.value, table[table["prompt_index"] == self.prompt.value]
        others = self._holding(prompt, step)
        names = [(NOTHING if others else ALONE[self.batch.value], NOTHING)]
        wanted = self._beside[self.batch.value]
        _offer(
            self.beside,
            [*names, *((str(other), other) for other in others)],
            steps[0] if wanted == BASE else wanted,
        )
        self.beside.disabled = not others
        beside = self.beside.value
        used = {(self.batch.value, one) for one in (step, beside)}
        self._tables = {key: kept for key, kept in self._tables.items() if key in used}
        if beside == NOTHING:
            return {_title(step): own}
        other = self._load(beside)
        pairs = [(step, own), (beside, other[other["prompt"] == prompt])]
        return {_title(one): group for one, group in sorted(pairs, key=lambda pair: pair[0])}

    def _say(self, text: str) -> None:
        self.text.value = f'<div class="wb-doc" role="status">{html.escape(text)}</div>'


def _title(step: int) -> str:
    return f"step {step}" if step else "step 0, before training"


def _offer(widget: widgets.Dropdown, options: Sequence[Any], value: Any) -> None:
    """Set a selector's options only where they are others; `value` if it is among them, else the first."""
    if list(widget.options) != list(options):
        widget.options = options
    values = [each[1] if isinstance(each, tuple) else each for each in options]
    widget.value = value if value in values else next(iter(values), None)
