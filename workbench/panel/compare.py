"""The tab Compare: in what runs differ and what came of them; runs of the shelf beside the panel's own.

What is on the shelf is looked up in a thread, since reading it brings torch. Nothing here holds the tab's
lock while it calls the panel, which has a lock of its own.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from workbench.comparing import INTERVALS, plain, table
from workbench.variants import WorkbenchError

NO_RUN = "No run to compare yet: press Start, or choose runs above."
LOOKING = "Looking for runs …"
NOTHING = "No runs are kept in {root} yet."
ALL_HERE = "All runs that are kept in {root} are this panel's already."
CHOOSE = "Choose one run or several (with Ctrl or Shift) from {root}; they join the table below."
LAST_COLUMNS = ("entropy", "length", "KL")
STYLE = {"description_width": "initial"}


@dataclass(frozen=True, eq=False)
class Shelf:
    """What was found in the folder of runs: runs with a line on each, and why others can't be read."""

    root: str = ""
    runs: Sequence[tuple[str, Any]] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)


def look() -> Shelf:
    """What `wb.runs()` finds."""
    from workbench.runs import runs, summary

    found = runs()
    lines = [(line(run.name, summary(run)), run) for run in found]
    return Shelf(str(found.root), lines, {path.name: why for path, why in found.unreadable.items()})


def line(name: str, known: Mapping[str, Any]) -> str:
    """A run in one line."""
    first, now = known["pass@1 first"], known["pass@1 now"]
    passes = "" if now is None else f"pass@1 {first:.3f} → {now:.3f}"
    parts = (name, known["tags"], passes, known["status"], known["objective"], known["task"])
    return " · ".join(part for part in parts if part)


def place_of(run: Any) -> Path:
    """The run's folder, by which two objects are one run."""
    return Path(run.path).resolve()


def there(run: Any) -> bool:
    """False for a run that was deleted."""
    try:
        return run.path is not None
    except WorkbenchError:
        return False


# ------------------------------------------------------------------ the table


def table_html(found: pd.DataFrame) -> str:
    """The table of `comparing.table` for a narrow column: name and status share a cell, and last and best."""
    columns = list(found.columns)
    # A recipe's name is in its folder's.
    fields = [name for name in columns[1 : columns.index("status")] if name != "name"]
    passes = [c for c in columns if c.startswith("pass@") and "/" not in c]
    heads = ["run", *map(label, fields), *passes, *LAST_COLUMNS]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    rows = []
    for at, row in enumerate(found.to_dict("records")):
        cells = [f'<td class="wb-c-name">{name_html(row)}</td>']
        cells += [f'<td class="wb-c-field">{html.escape(plain(row[name]))}</td>' for name in fields]
        cells += [f"<td>{passes_html(row, name)}</td>" for name in passes]
        cells += [f"<td>{three(row[name])}</td>" for name in LAST_COLUMNS]
        rows.append(f'<tr class="wb-row{at % 2}">{"".join(cells)}</tr>')
    return (
        f'<div class="wb-scroll"><table class="wb-table wb-c-runs"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><div class="wb-doc">{INTERVALS}</div>'
    )


def label(field: str) -> str:
    """A field of a recipe as words; a parameter goes by its own name."""
    kind, _, rest = field.partition(".")
    if kind == "rewards":
        return f"reward {rest}".replace("_", " ")
    return (rest or kind).replace(".", " ").replace("_", " ")


def name_html(row: Mapping[str, Any]) -> str:
    """The name of a run, and below it how far it is and its tags."""
    name, status = html.escape(row["run"]), html.escape(row["status"])
    tags = f"<br>{html.escape(row['tags'])}" if row["tags"] else ""
    far = f"{status}, {row['step']} of {row['steps']}"
    return f'<bdi>{name}</bdi><div class="wb-doc">{far}{tags}</div>'


def passes_html(row: Mapping[str, Any], name: str) -> str:
    """The last and the best pass@k, each with its interval."""
    if not np.isfinite(row[name]):
        return "–"
    best = f"best {name}"
    last = f"<b>{row[name]:.3f}</b> {interval(row, name)}"
    if row[best] == row[name]:
        return f'{last}<div class="wb-doc">the best of all</div>'
    at = f"best {row[best]:.3f} at step {row[f'{best}/step']:.0f}"
    return f'{last}<div class="wb-doc">{at}<br>{interval(row, best)}</div>'


def interval(row: Mapping[str, Any], name: str) -> str:
    """An interval in short; nothing where it is not known."""
    low, high = row[f"{name}/low"], row[f"{name}/high"]
    known = np.isfinite(low) and np.isfinite(high)
    return f'<span class="wb-doc">[{low:.3f}, {high:.3f}]</span>' if known else ""


def three(value: float) -> str:
    """A number with three digits, or a dash."""
    return f"{value:.3g}".replace("-", "−") if np.isfinite(value) else "–"


def unreadable_html(unreadable: Mapping[str, str]) -> str:
    """The folders that can't be read, folded away."""
    if not unreadable:
        return ""
    items = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(why)}</li>"
        for name, why in unreadable.items()
    )
    many = "1 folder" if len(unreadable) == 1 else f"{len(unreadable)} folders"
    return (
        f'<details class="wb-details"><summary>{many} beside them can\'t be read as a run</summary>'
        f'<ul class="wb-list">{items}</ul></details>'
    )


# ------------------------------------------------------------------ the tab


class CompareView:
    """The shelf to choose from, the table, and what can be done with one of its runs."""

    def __init__(
        self,
        guard: Callable[[Callable[[], None]], Callable[..., None]],
        add: Callable[[Any], None],
        forget: Callable[[Any], None] | None = None,
    ) -> None:
        """`add` puts a run on the panel's curves; `forget` takes one of the panel's own off, to delete it."""
        self._guard, self._add, self._forget = guard, add, forget
        self._own: list[Any] = []
        self._shelf: Shelf | None = None
        self._looking = False
        self._drawn: dict[str, Any] = {}  # part -> what it was drawn from
        self._filling = False  # a list gets its options, which selects and deselects by itself
        self._sure: Any = None  # the run whose deletion was asked for once
        self._lock = threading.RLock()  # the drawer's thread and callbacks both come here
        self._build()

    def _build(self) -> None:
        def button(
            text: str, icon: str, tooltip: str, action: Callable[[], None]
        ) -> widgets.Button:
            made = widgets.Button(
                description=text, icon=icon, tooltip=tooltip, layout={"width": "auto"}
            )
            made.on_click(self._guard(action))
            return made

        self.choice = widgets.SelectMultiple(
            rows=5, description="shelf", tooltip="Runs of the shelf, newest first", style=STYLE,
            layout={"width": "100%"},
        )  # fmt: skip
        self.choice.observe(self._guard(self.refresh), "value")
        self.find = button("Refresh", "refresh", "Look for runs again", self.look)
        self.add = button(
            "Add to curves",
            "line-chart",
            "Put the chosen runs on the panel's curves",
            self.add_chosen,
        )
        self.one = widgets.Dropdown(
            description="run", tooltip="The run to tag, rename or delete", style=STYLE,
            layout={"flex": "1 1 240px", "width": "auto"},
        )  # fmt: skip
        self.word = widgets.Text(
            description="tag or name", tooltip="A tag to give or take, or the new name", style=STYLE,
            layout={"flex": "1 1 200px", "width": "auto"},
        )  # fmt: skip
        self.buttons = {
            "tag": button("Tag", "tag", "Give the run this tag", self.tag),
            "untag": button("Untag", "times", "Take this tag from the run", self.untag),
            "rename": button("Rename", "pencil", "Give the run's folder this name", self.rename),
            "delete": button(
                "Delete", "trash", "Delete the run's folder, asked twice", self.delete
            ),
        }
        self.one.observe(self._guard(self._doubt), "value")
        self.found, self.table, self.note = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.shelf = widgets.VBox([self.found, self.choice])
        bar, house = (
            widgets.HBox([self.find, self.add]),
            [self.one, self.word, *self.buttons.values()],
        )
        self.house = widgets.HBox(house)
        for box in (bar, self.house):
            box.add_class("wb-wrap")
        self.root = widgets.VBox([self.shelf, bar, self.table, self.house, self.note])
        self.root.add_class("wb-rollouts")
        self._draw()

    # --- from the panel ---------------------------------------------------------------------------

    def show(self, runs: Sequence[Any]) -> None:
        """Take `runs` as the panel's own."""
        with self._lock:
            self._own = list(runs)
            self._draw()

    def refresh(self) -> None:
        """Draw what has changed; the first time look for runs as well."""
        with self._lock:
            if self._shelf is None and not self._looking:
                self.look()
            self._draw()

    # --- what a person does -----------------------------------------------------------------------

    def look(self) -> None:
        """Look for runs, in a thread."""
        with self._lock:
            if self._looking:
                return
            self._looking = self.find.disabled = True
            self.found.value = doc(LOOKING)
        work = self._guard(self._look)
        threading.Thread(target=work, name="workbench shelf", daemon=True).start()

    def _look(self) -> None:
        shelf = Shelf()
        try:
            shelf = look()
        finally:
            with self._lock:
                self._shelf, self._looking = shelf, False
                self._draw()
                self.find.disabled = False  # last: who sees it free sees what was found

    def add_chosen(self) -> None:
        """Put the chosen runs on the panel's curves."""
        chosen = list(self.choice.value)
        if not chosen:
            raise WorkbenchError("Choose one run or several in the list first.")
        for run in reversed(chosen):  # so that the first one is the current one
            self._add(run)
        self.refresh()

    def tag(self) -> None:
        """Tag the run."""
        run, word = self._current(), self._word("a tag")
        run.tag(word)
        self._done(f"{run.name} is tagged {word}.")

    def untag(self) -> None:
        """Take a tag away."""
        run, word = self._current(), self._word("the tag to take away")
        run.untag(word)
        self._done(f"{run.name} is no longer tagged {word}.")

    def rename(self) -> None:
        """Rename the run's folder."""
        run, word = self._current(), self._word("the new name")
        before = run.name
        run.rename(word)
        self._done(f"{before} is now {run.name}.")

    def delete(self) -> None:
        """Delete the run, when asked a second time."""
        run = self._current()
        own = place_of(run) in {place_of(each) for each in self._own}
        if own and self._forget is None:
            raise WorkbenchError(
                f"{run.name} is one of this panel's runs; delete it from another panel, or with run.delete()."
            )
        if self._sure is not run:
            self._sure = run
            self.buttons["delete"].description = "Really delete"
            self.buttons["delete"].button_style = "danger"
            self._tell(
                f"Press again to delete {run.name} with its checkpoints; it can't be undone."
            )
            return
        self._doubt()
        name, live = run.name, run.live
        if own and not live:
            self._forget(run)
        run.delete()
        with self._lock:
            self._own = [each for each in self._own if there(each)]
        self._done(f"{name} was deleted.")

    def _current(self) -> Any:
        if self.one.value is None:
            raise WorkbenchError("There is no run in the table yet; choose one above.")
        return self.one.value

    def _word(self, what: str) -> str:
        if not self.word.value.strip():
            raise WorkbenchError(f"Write {what} beside the buttons first.")
        return self.word.value.strip()

    def _done(self, text: str) -> None:
        self.word.value = ""
        self._tell(text)
        self.look()
        self.refresh()

    def _doubt(self) -> None:
        """Another run, or something else was done: deletion has to be asked for again."""
        if self._filling:
            return
        self._sure = None
        self.buttons["delete"].description, self.buttons["delete"].button_style = "Delete", ""
        self._tell("")

    def _tell(self, text: str) -> None:
        self.note.value = doc(text) if text else ""

    # --- what it shows ----------------------------------------------------------------------------

    def _draw(self) -> None:
        own = [run for run in self._own if there(run)]
        if self._shelf is not None and self._differs(
            "shelf", (self._shelf, self._looking, [(run, run.name) for run in own])
        ):
            self._draw_shelf({place_of(run) for run in own})
        runs = own + [run for run in self.choice.value if there(run)]
        state = [(id(r), r.name, r.status, r.tags, len(r.metrics), r.recipe) for r in runs]
        if self._differs("table", state):
            self.table.value = table_html(table(runs)) if runs else doc(NO_RUN)
            self.house.layout.display = "" if runs else "none"
            self._fill(self.one, [(run.name, run) for run in runs])

    def _differs(self, part: str, state: Any) -> bool:
        before, self._drawn[part] = self._drawn.get(part), state
        return before != state

    def _draw_shelf(self, own: set[Path]) -> None:
        """The list to choose from: what was found, but for the panel's own."""
        free = [(text, run) for text, run in self._shelf.runs if there(run)]
        free = [(text, run) for text, run in free if place_of(run) not in own]
        if not self._looking:
            sentence = CHOOSE if free else ALL_HERE if self._shelf.runs else NOTHING
            text = sentence.format(root=self._shelf.root or "runs")
            self.found.value = doc(text) + unreadable_html(self._shelf.unreadable)
        self.choice.layout.display = "" if free else "none"
        self._fill(self.choice, free)

    def _fill(self, widget: Any, options: list[tuple[str, Any]]) -> None:
        """Give a list its options; what is chosen stays chosen where it is still there."""
        several = isinstance(widget, widgets.SelectMultiple)
        chosen = widget.value if several else (widget.value,)
        before = {place_of(run) for run in chosen if run is not None and there(run)}
        still = [run for _, run in options if place_of(run) in before]
        self._filling = True
        widget.options = options
        if several:
            widget.value = tuple(still)
        elif options:
            widget.value = still[0] if still else options[0][1]
        self._filling = False


def doc(text: str) -> str:
    """A sentence as the panel shows it."""
    return f'<div class="wb-doc" role="status">{html.escape(text)}</div>'
