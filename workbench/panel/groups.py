"""The tab Groups: how many completions of each group are right, and which held-out problems were won or lost.

The numbers are in the run's metrics, a list for each step; they are read again only when there are more.
"""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from workbench.panel.histogram import bars_html, counts_of, histogram, map_html, percent
from workbench.panel.preview import small_plot
from workbench.panel.rollout_table import text_html
from workbench.support import Support, unseen
from workbench.variants import WorkbenchError

NO_RUN = "No run yet; press Start."
NO_STEP = "The groups appear with the first step."
NO_COUNTS = (
    "This run doesn't count right completions of a group: its rewards leave out correct, its task knows "
    "no right answers, or it was made before they were counted."
)
NO_EVAL = "No evaluation of this run has counted right answers, so there is nothing to say of its support."
ONE_EVAL = "Which problems are won and lost is told after the second evaluation."
RATIOS = {
    "SRR": ("srr", "of what the base solves, the share that is still solved (retention)"),
    "NDR": ("ndr", "of what is solved now, the share that the base does not solve (discovery)"),
    "SDS": ("sds", "the harmonic mean of the two"),
    "NSCR": ("nscr", "expanded less shrunk, as a share of what either solves"),
}
SHOWN_MOVERS = 8  # that gained, and as many that lost
PLOT_SCALE = 1.24
POINTS = 120  # of a small line, at most


def doc(text: str) -> str:
    """A sentence as the panel shows it."""
    return f'<div class="wb-doc">{html.escape(text)}</div>'


# ------------------------------------------------------------------ groups


def groups_html(successes: pd.DataFrame, recipe: Any, events: pd.DataFrame) -> str:
    """The map over the steps, the newest step's bars and what they say."""
    size, note = recipe.group_size, ""
    larger = (counts_of(successes) > size).any(axis=1)
    if larger.any():  # a fork that draws smaller groups than its parent did
        last = successes.index[larger][-1]
        successes = successes[successes.index > last]
        note = doc(f"Steps up to {last} had groups of another size and are left out.")
        if successes.empty:
            return note
    labels = end_labels(recipe)
    marks = [
        (int(step), str(text)) for step, text in zip(events["step"], events["text"], strict=True)
    ]
    over = map_html(histogram(successes, size), labels, marks)
    newest = counts_of(successes.iloc[[-1]])[0]
    newest = newest[newest >= 0]
    step = int(successes.index[-1])
    return (
        f'<div class="wb-title">Right completions of a group, over the steps</div>{over}{note}'
        f'<div class="wb-title">Newest step</div><div class="wb-g-side">{bars_html(newest, size)}'
        f'<div role="status">{newest_html(newest, size, step, recipe)}</div></div>'
    )


def end_labels(recipe: Any) -> tuple[str, str]:
    """What the groups with K = 0 and with K = G are; without signal where being right is all that pays."""
    paid = [name for name, weight in recipe.reward_weights().items() if weight]
    dead = ": no signal" if paid == ["correct"] else ""
    return f"none right{dead}", f"all right{dead}"


def newest_html(right_P: np.ndarray, size: int, step: int, recipe: Any) -> str:
    """A step's groups in words."""
    none, every = int((right_P == 0).sum()), int((right_P >= size).sum())
    mixed = len(right_P) - none - every
    share = percent(mixed / max(len(right_P), 1))
    only = end_labels(recipe)[0].endswith("no signal")
    sense = (
        "Only these teach an objective that compares the completions of a group."
        if only
        else "Other rewards than correct are paid here, which may tell the rest apart as well."
    )
    return (
        f"<b>Step {step}</b>: {len(right_P)} groups of {size}<br>{every} all right, {none} none right<br>"
        f"<b>{mixed} mixed</b> ({share})<div class='wb-doc'>{sense}</div>"
    )


# ------------------------------------------------------------------ support


def comparable(successes: pd.DataFrame, samples: int) -> np.ndarray:
    """Which evaluations have the newest one's prompts and samples; a fork may have others."""
    right_EP = counts_of(successes)
    same_EP = (right_EP >= 0) == (right_EP[-1:] >= 0)
    return same_EP.all(axis=1) & (right_EP <= samples).all(axis=1)


def supports(right_EP: np.ndarray) -> list[Support]:
    """The support counts of every evaluation against the first one."""
    solved_EP = right_EP > 0
    base_P = solved_EP[0]
    counts_E4 = np.stack(
        [
            (solved_EP & base_P).sum(1), (solved_EP & ~base_P).sum(1),
            (~solved_EP & base_P).sum(1), (~solved_EP & ~base_P).sum(1),
        ], 1,
    )  # fmt: skip
    return [Support(*row) for row in counts_E4.tolist()]


def support_html(successes: pd.DataFrame, samples: int) -> str:
    """The two-by-two table, the ratios and their lines over the evaluations."""
    # A picture of so many evaluations at most, with the first and the last of them.
    chosen = np.unique(np.linspace(0, len(successes) - 1, POINTS).round().astype(int))
    steps_E = successes.index.to_numpy()[chosen]
    found = supports(counts_of(successes)[chosen])
    title = f"Held-out problems, step {steps_E[0]} (base) against step {steps_E[-1]}"
    if steps_E[0]:  # evaluations of another number of prompts came first
        title = title.replace("(base)", "(the first one comparable)")
    return (
        f'<div class="wb-title">{title}</div><div class="wb-g-side">{square_html(found[-1])}'
        f"{ratios_html(found[-1])}</div>{lines_html(steps_E, found)}{doc(caution(samples))}"
    )


def caution(samples: int) -> str:
    """What these counts can't tell."""
    return (
        f"Solved means at least 1 of {samples} right. 0 of {samples} right rules out, at 95 %, only a chance "
        f"of success above {percent(unseen(samples), 1)} (-ln 0.05 / {samples}): two evaluations of one "
        "model differ as well, so a few problems won or lost are no news."
    )


def square_html(found: Support) -> str:
    """Solved by the base or not, by solved now or not."""
    total = found.preserved + found.expanded + found.shrunk + found.out

    def cell(name: str, count: int) -> str:
        return (
            f'<td><b>{count}</b> <span class="wb-doc">{percent(count / total)} {name}</span></td>'
        )

    return (
        '<table class="wb-table wb-g-square"><thead><tr><td></td><th scope="col">solved now</th>'
        '<th scope="col">not solved now</th></tr></thead><tbody>'
        f'<tr><th scope="row">solved by the base</th>{cell("preserved", found.preserved)}'
        f"{cell('shrunk', found.shrunk)}</tr>"
        f'<tr><th scope="row">not solved by it</th>{cell("expanded", found.expanded)}'
        f"{cell('out', found.out)}</tr></tbody></table>"
    )


def ratios_html(found: Support) -> str:
    """The four ratios with what they mean."""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{share(getattr(found, key))}</td>'
        f'<td class="wb-long wb-doc">{meaning}</td></tr>'
        for name, (key, meaning) in RATIOS.items()
    )
    return f'<table class="wb-table wb-g-ratios"><tbody>{rows}</tbody></table>'


def share(value: float) -> str:
    """A ratio in percent; a dash without a denominator."""
    return "–" if math.isnan(value) else percent(value, 1)


def lines_html(steps_E: np.ndarray, found: Sequence[Support]) -> str:
    """Each ratio over the evaluations."""
    plots = []
    for name, (key, _) in RATIOS.items():
        y = 100 * np.array([getattr(each, key) for each in found], float)
        if np.isfinite(y).any():
            lines = [(steps_E, y, "wb-one")]
            plots.append(
                small_plot(
                    f"{name} (%)", "step", (steps_E[0], steps_E[-1]), lines, PLOT_SCALE, dots=True
                )
            )
    return f'<div class="wb-small-plots">{"".join(plots)}</div>'


# ------------------------------------------------------------------ problems


def movers(before_P: np.ndarray, now_P: np.ndarray, most: int = SHOWN_MOVERS) -> list[int]:
    """The prompts with more right answers than before: those solved for the first time, then the others.

    Turned around, those with fewer: those solved no more come first.
    """
    change_P = now_P - before_P
    crossed_P = (before_P == 0) | (now_P == 0)
    order = np.lexsort((np.arange(len(change_P)), -change_P, ~crossed_P))
    return order[change_P[order] > 0][:most].tolist()


def movers_html(before_P: np.ndarray, now_P: np.ndarray, samples: int, texts: Sequence[str]) -> str:
    """The problems that changed most, with their text where it is known."""
    gained, lost = movers(before_P, now_P), movers(now_P, before_P)
    if not gained and not lost:
        return doc("Not one held-out problem has changed yet.")
    tables = [
        side_html(title, chosen, before_P, now_P, samples, texts)
        for title, chosen in (("Gained", gained), ("Lost", lost))
    ]
    return (
        '<div class="wb-title">Held-out problems that changed most</div>'
        f'<div class="wb-g-side wb-g-movers">{"".join(tables)}</div>'
    )


def side_html(
    title: str, chosen: Sequence[int], before_P: np.ndarray, now_P: np.ndarray, samples: int,
    texts: Sequence[str],
) -> str:  # fmt: skip
    """The problems that gained, or those that lost, as a table."""
    rows = []
    for at, p in enumerate(chosen):
        before, now = int(before_P[p]), int(now_P[p])
        word = "expanded" if not before else "shrunk" if not now else ""
        look = "wb-right" if now > before else "wb-wrong"
        body = f'<td>#{p}</td><td class="{look}">{before} → {now}</td><td>{word}</td>'
        if texts:
            body += f'<td class="wb-long">{text_html(texts[p])}</td>'
        rows.append(f'<tr class="wb-row{at % 2}">{body}</tr>')
    names = (title, f"right of {samples}", "", *(("text",) if texts else ()))
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = rows or [f'<tr><td colspan="{len(names)}">none</td></tr>']
    return f'<table class="wb-table"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def problem_texts(recipe: Any) -> list[str]:
    """The texts of the held-out problems, in the order of the evaluation."""
    task = recipe.make_task()
    rows = task.dataset("eval")
    count = min(recipe.eval_prompts, len(rows))
    return [str(task.messages(rows[i])[-1]["content"]) for i in range(count)]


# ------------------------------------------------------------------ the tab


class GroupsView:
    """The histogram of the groups and the support of the evaluations of one run."""

    def __init__(self, guard: Callable[[Callable[[], None]], Callable[..., None]]) -> None:
        self._guard = guard
        self._run: Any = None
        self._drawn: dict[str, Any] = {}  # part -> what it was drawn from
        self._texts: dict[Any, list[str]] = {}  # run -> its held-out problems
        self._lock = threading.RLock()  # the drawer's thread and callbacks both come here
        self.groups, self.support, self.problems = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.button = widgets.Button(
            description="Show their texts", icon="file-text-o", layout={"width": "auto"},
            tooltip="Read the held-out problems of the run's task",
        )  # fmt: skip
        self.button.on_click(guard(self.read))
        self.root = widgets.VBox([self.groups, self.support, self.problems, self.button])
        self.root.add_class("wb-rollouts")
        self.refresh()

    def show(self, run: Any) -> None:
        """Take `run` as the current one."""
        with self._lock:
            self._run, self._drawn = run, {}
            self.refresh()

    def refresh(self) -> None:
        """Draw what has come since."""
        with self._lock:
            if self._run is None:
                self._put(doc(NO_RUN), "", "")
                return
            run, metrics = self._run, self._run.metrics
            newest = metrics["time"].iloc[-1] if len(metrics) and "time" in metrics else None
            events = run.events
            if self._differs("groups", (len(metrics), newest, len(events))):
                self.groups.value = self._groups(len(metrics), events)
            known = metrics["eval/pass@1"].dropna() if "eval/pass@1" in metrics else metrics[:0]
            texts = self._texts.get(run, [])
            if self._differs(
                "support", (len(metrics) > 1, len(known), *known.index[-1:], len(texts))
            ):
                self._draw_support(texts)

    def read(self) -> None:
        """Read the texts of the problems, in a thread: a task may have to load its file first."""
        with self._lock:
            run = self._run
            if run is None:
                raise WorkbenchError(NO_RUN)
            self.button.disabled = True
        work = self._guard(lambda: self._read(run))
        threading.Thread(target=work, name="workbench problems", daemon=True).start()

    def _read(self, run: Any) -> None:
        try:
            self._texts[run] = problem_texts(run.recipe)
        finally:
            self.button.disabled = False
        self.refresh()

    def _differs(self, part: str, state: Any) -> bool:
        before, self._drawn[part] = self._drawn.get(part), state
        return before != state

    def _put(self, groups: str, support: str, problems: str) -> None:
        self.groups.value, self.support.value, self.problems.value = groups, support, problems
        self._offer(False)

    def _offer(self, offered: bool) -> None:
        self.button.layout.display = "" if offered else "none"

    def _groups(self, records: int, events: pd.DataFrame) -> str:
        successes = self._run.successes("groups")
        if successes.empty:
            return doc(NO_STEP if records < 2 else NO_COUNTS)
        return groups_html(successes, self._run.recipe, events)

    def _draw_support(self, texts: list[str]) -> None:
        successes, samples = self._run.successes("eval"), self._run.recipe.eval_samples
        found = successes
        if not successes.empty:
            found = successes[comparable(successes, samples)].dropna(axis=1)
        if len(found) < 2:
            self.support.value = doc(NO_EVAL if found.empty else ONE_EVAL)
            self.problems.value = ""
            self._offer(False)
            return
        self.support.value = support_html(found, samples)
        first, last = counts_of(found.iloc[[0, -1]])
        self.problems.value = movers_html(
            first, last, samples, texts if len(texts) == len(last) else []
        )
        self._offer(not texts and (first != last).any())
