"""The tab that lets the initial and the current policy answer from each other's thoughts.

It measures an own copy of the policy, loaded from the run's last checkpoint, in a thread of its own: the
run goes on undisturbed, but for sharing the machine.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from workbench.panel.curves import fitted
from workbench.panel.fallback import missing
from workbench.panel.scene import KeptFigure
from workbench.variants import WorkbenchError

PRE, POST = "initial", "current"
NO_RUN = "No run yet; press Start, and measure once it has a checkpoint."
IDLE = "Who writes the thoughts, and who answers from them? Not measured yet for {name}."
CONTROLS = (
    "The rows (none) and (other question) are controls: an empty thought, and a thought about another "
    "question. An answerer that scores as well with these does not use the thought."
)
STYLE = {"description_width": "initial"}
SMALL = {"width": "140px"}


@dataclass(frozen=True, eq=False)
class Measured:
    """A Cross-Generation of one run at one step."""

    step: int
    found: Any  # crossing.CrossGeneration
    seconds: float


def weaker_of(model: str) -> str | None:
    """The shipped weaker model of the same world, or None."""
    from workbench.packaged import data_path

    name = f"{model.removesuffix('-strong')}-weak"
    known = model.endswith("-strong") and (data_path("models") / name / "config.json").is_file()
    return name if known else None


def measure(run: Any, prompts: int, thoughts: int, tell: Callable[[str], None]) -> Measured:
    """S(a, b) of the run's initial and current policy, and of a weaker answerer where one is shipped."""
    tell(f"Loading libraries and an own copy of the policy of {run.name} …")
    import torch

    from workbench.crossing import cross_generation, initial_of, judge_of

    torch.set_num_threads(1)  # of this thread; the others are the run's
    started, recipe, step = time.monotonic(), run.recipe, run.checkpoint_steps[-1]
    policy = run.policy(step)
    thinkers = {PRE: initial_of(policy), POST: policy}
    weaker = weaker_of(recipe.model)
    answerers = thinkers | ({} if weaker is None else {weaker: weaker})
    pairs = f"{len(thinkers)} thinkers and 2 controls with {len(answerers)} answerers"
    size = f"{thoughts} thoughts to each of {prompts} questions"
    tell(f"Measuring step {step} of {run.name}: {pairs}, {size} …")
    task = recipe.make_task()
    found = cross_generation(
        thinkers, answerers, task, prompts=prompts, thoughts=thoughts,
        max_new_tokens=recipe.max_new_tokens, judge=judge_of(recipe, task),
    )  # fmt: skip
    return Measured(step, found, time.monotonic() - started)


# ------------------------------------------------------------------ in words


def sentence(name: str, estimate: Any, meaning: str) -> str:
    """A gain with its interval and what it says."""
    low, value, high = (signed(x) for x in (estimate.low, estimate.value, estimate.high))
    verdict = ", not told apart from 0" if estimate.low <= 0 <= estimate.high else ""
    return (
        f"<li><b>{html.escape(name)} {value}</b> [{low}, {high}]{verdict} – "
        f"{html.escape(meaning)}.</li>"
    )


def signed(value: float) -> str:
    """Three decimals with a sign, which 0 has none of."""
    return f"{value:+.3f}" if round(value, 3) else "0.000"


def words_html(found: Any) -> str:
    """The gains as sentences, what the controls are, and the scores as a table."""
    parts = found.decomposition(PRE, POST)
    lines = [
        sentence("thinking gain", parts.thinking, "current thoughts, answered by the initial policy"),
        sentence("answer gain", parts.answering, "initial thoughts, answered by the current policy"),
        sentence("interaction", parts.interaction, "what the two are worth together beyond both alone"),
        sentence("total", parts.total, "current less initial policy, the sum of the three"),
    ]  # fmt: skip
    lines += [
        sentence(f"thinking gain for {other}", found.thinking_gain(PRE, POST, other),
                 f"current less initial thoughts, answered by {other}")
        for other in found.answerers if other not in (PRE, POST)
    ]  # fmt: skip
    note = "Mean scores and their differences, with 95 % bootstrap intervals over questions."
    table = found.matrix().to_html(border=0, float_format="{:.3f}".format, classes="wb-table")
    return (
        f'<ul class="wb-list" role="status">{"".join(lines)}</ul>'
        f'<div class="wb-doc">{CONTROLS} {note} {html.escape(unclosed(found))}</div>'
        f'<details class="wb-details"><summary>Scores as a table: rows think, columns answer</summary>'
        f"{table}</details>"
    )


def unclosed(found: Any) -> str:
    """Whose thoughts never ended by themselves."""
    cut = [f"{count} of {name}" for name, count in found.unclosed.items() if count]
    return f"Thoughts that never closed, used as they were: {', '.join(cut)}." if cut else ""


# ------------------------------------------------------------------ the tab


class CrossView:
    """The button, the progress, the heat map and the sentences; each run keeps its last measurement."""

    def __init__(self, guard: Callable[[Callable[[], None]], Callable[..., None]]) -> None:
        self._guard = guard
        self._run: Any = None
        self._kept: dict[Any, Measured] = {}
        self._busy: Any = None  # the run that is being measured
        self._lock = threading.RLock()
        self.button = widgets.Button(
            description="Measure now", icon="exchange", button_style="primary",
            tooltip="Score every thinker with every answerer, from the run's last checkpoint",
            layout={"width": "auto"},
        )  # fmt: skip
        self.prompts = widgets.BoundedIntText(
            32, min=2, max=4096, description="questions", style=STYLE, layout=SMALL,
            tooltip="Held-out questions; intervals are over these",
        )  # fmt: skip
        self.thoughts = widgets.BoundedIntText(
            4, min=1, max=256, description="thoughts", style=STYLE, layout=SMALL,
            tooltip="Thoughts of each thinker to each question",
        )  # fmt: skip
        self.progress, self.words = widgets.HTML(), widgets.HTML()
        self.place = widgets.VBox([])
        bar = widgets.HBox([self.button, self.prompts, self.thoughts])
        bar.add_class("wb-wrap")
        self.root = widgets.VBox([bar, self.progress, self.place, self.words])
        self.root.add_class("wb-rollouts")
        self.button.on_click(guard(self.measure))
        self._tell(NO_RUN)

    def show(self, run: Any) -> None:
        """Take `run` as the current one and show what was last measured of it."""
        with self._lock:
            if run is not self._run:
                self._run = run
                self._draw()

    def measure(self) -> None:
        """Start measuring the current run, in a thread."""
        with self._lock:
            run = self._run
            if run is None:
                raise WorkbenchError("There is no run yet; press Start.")
            if self._busy is not None:
                raise WorkbenchError(
                    f"{self._busy.name} is being measured; wait until that is done."
                )
            if not run.checkpoint_steps:
                raise WorkbenchError(
                    f"{run.name} has no checkpoint yet, from which its policy is copied; press Pause, "
                    "which writes one, and measure then."
                )
            self._busy, self.button.disabled = run, True
        work = self._guard(lambda: self._work(run))
        threading.Thread(target=work, name="workbench cross", daemon=True).start()

    def _work(self, run: Any) -> None:
        try:
            self._kept[run] = measure(run, self.prompts.value, self.thoughts.value, self._tell)
        finally:
            with self._lock:
                self._busy = None
                try:
                    self._draw()
                finally:
                    self.button.disabled = False  # last: who sees it free sees what was found

    def _tell(self, text: str) -> None:
        self.progress.value = f'<div class="wb-doc" role="status">{html.escape(text)}</div>'

    def _draw(self) -> None:
        run, measured = self._run, self._kept.get(self._run)
        if measured is None:
            self.place.children, self.words.value = (), ""
            self._tell(NO_RUN if run is None else IDLE.format(name=run.name))
            return
        _, _, questions, samples = measured.found.scores_ABPS.shape
        self._tell(
            f"Step {measured.step} of {run.name}: {questions} questions, {samples} samples of each, "
            f"measured in {measured.seconds:.0f} s."
        )
        # A new one each time: matrices differ in shape, and measuring is rare.
        for child in self.place.children:
            child.close()
        figure = measured.found.figure()
        self.place.children = () if missing() else (fitted(KeptFigure(figure)),)
        self.words.value = words_html(measured.found)
