"""The panel itself: run bar, controls, curves and rollouts around one or several runs.

Callbacks only call Run's own thread-safe methods, which return at once; whatever goes wrong in one
is shown in the message line, since no cell would show it. What follows from the state of the runs
(curves, progress, which buttons make sense) is drawn by one thread, the Drawer.
"""

from __future__ import annotations

import functools
import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.panel.controls import Controls
from workbench.panel.cross import CrossView
from workbench.panel.curves import MAX_RUNS, Drawer, LiveCurves, TableCurves, missing
from workbench.panel.geometry import GeometryView, notice
from workbench.panel.rollouts import RolloutView
from workbench.panel.style import CSS
from workbench.recipe import LIVE, Recipe
from workbench.variants import WorkbenchError

ALIVE = ("starting", "running", "paused")
TABS = ("Curves", "Rollouts", "Geometry", "Cross")
# Which buttons make sense in which state; "" is before the first run.
BUTTONS_IN = {
    "": ("start",),
    "starting": ("stop",),
    "running": ("pause", "stop", "fork"),
    "paused": ("resume", "step", "stop", "fork"),
    "finished": ("start", "resume", "fork"),
    "stopped": ("start", "resume", "fork"),
    "failed": ("start", "resume"),
    "interrupted": ("start", "resume", "fork"),
}
BUTTONS = {
    "start": ("Start", "play", "Start a new run with these controls"),
    "pause": ("Pause", "pause", "Pause before the next step"),
    "resume": ("Resume", "forward", "Go on where the run was paused or stopped"),
    "step": ("Step", "step-forward", "Do one step, then pause again"),
    "stop": ("Stop", "stop", "Stop after this step; the run is kept and can be resumed"),
    "fork": ("Fork", "code-fork", "Pause this run and go on in a copy with its weights"),
}
NO_RUN = "No run yet. Choose, then press Start."
ENDED_WORDS = {
    "paused": "Paused. Step does one step, Resume goes on.",
    "finished": "Finished. To go on, raise steps (under Optimiser) and press Resume or Fork.",
    "stopped": "Stopped. Resume goes on from here.",
    "interrupted": "This run's process ended before the run did. Resume goes on from its checkpoint.",
}


def launch(recipe: Recipe) -> Any:
    """`workbench.runs.train`, loaded when the first run starts: it brings torch."""
    from workbench.runs import train

    return train(recipe)


def clock(seconds: float) -> str:
    """Seconds as 12 s, 3 min 20 s or 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def described(changes: dict[str, Any]) -> str:
    """Changed fields as text; a function goes by its name."""
    parts = []
    for field, value in changes.items():
        if isinstance(value, dict):
            items = (f"{getattr(k, '__name__', k)} {v}" for k, v in value.items())
            value = ", ".join(items)
        if value != "":
            parts.append(f"{field.replace('_', ' ')}: {getattr(value, '__name__', value)}")
    return "; ".join(parts)


class Panel:
    """The workbench in a notebook; show it as the last expression of a cell.

    Attributes:
        run: the run that the buttons and controls act on; None before the first Start.
        runs: the runs on the curves, oldest first.
    """

    def __init__(self, recipe: Recipe, *runs: Any) -> None:
        self.run: Any = None
        self.runs: list[Any] = []
        self._state_drawn = "?"
        self._choosing = False
        self._lock = threading.RLock()  # one drawing at a time
        self.controls = Controls(recipe, self._changed)
        reason = missing()
        self.curves = LiveCurves() if reason is None else TableCurves(reason)
        self.rollouts = RolloutView(self._guard)
        self.cross = CrossView(self._guard)
        self.drawer = Drawer(self.draw, self._failed)
        sections = self.controls.sections
        place = next(title for title, names in sections.items() if "probe_every" in names)
        self.geometry = GeometryView(self._guard, self.fork, self.drawer.wake, place)
        self._build()
        for run in runs:
            self._adopt(run)
        self.draw()

    # --- what a person does -----------------------------------------------------------------------

    def start(self) -> None:
        """Start a new run with the controls' recipe; refused while one of the panel's runs is going."""
        with self._lock:  # some kernels run callbacks in several threads
            busy = next((run for run in self.runs if run.status in ALIVE), None)
            if busy is not None:
                raise WorkbenchError(
                    f"{busy.name} is {busy.status}: press Stop before starting another run, "
                    "or Fork to go on in a copy."
                )
            recipe = self.controls.recipe()
            self.say(
                "Starting. The first run of a session loads the libraries; that takes a while."
            )
            run = launch(recipe)
            # Said before the first drawing, which may already have more to say.
            self.say(f"Started; kept in {self._place(run)}.")
            self._adopt(run)

    def pause(self) -> None:
        """Pause the run before its next step."""
        self._current().pause()
        self.say("Pausing after this step.")

    def resume(self) -> None:
        """Go on after a pause, or after a stop: then with what was changed since, where it is live."""
        run = self._current()
        if run.status not in ALIVE:
            changes = {k: v for k, v in self._differences().items() if k in LIVE}
            run.update(**changes)
            self.controls.show(run.recipe.replace(**changes))
        run.resume()
        self.say("Going on.")
        self.drawer.wake()

    def step(self) -> None:
        """Do one step of a paused run."""
        self._current().step()
        self.say("Doing one step.")
        self.drawer.wake()

    def stop(self) -> None:
        """Stop the run after this step."""
        self._current().stop()
        self.say("Stopping after this step.")
        self.drawer.wake()

    def fork(self, at: int | None = None) -> None:
        """Go on in a copy of the run, with the controls' recipe; both are drawn.

        From where it is, the run being paused, or from the checkpoint of step `at`, the run being stopped.
        """
        parent, changes = self._current(), self._differences()
        steps = self.controls.recipe().steps
        if (parent.progress["step"] if at is None else at) >= steps:
            raise WorkbenchError(
                f"{parent.name} has done its {steps} steps; raise steps (under Optimiser) before Fork."
            )
        child = parent.fork(**changes, **({} if at is None else {"at": at}))
        if parent.status in ALIVE:
            parent.pause() if at is None else parent.stop()
        self._adopt(child)
        where = "" if at is None else f" at step {at}"
        self.say(f"Forked from {parent.name}{where}; the controls now act on {child.name}.")

    def close(self) -> None:
        """Take the panel away; the runs go on."""
        self.runs, self.run = [], None
        self.root.close()

    def _current(self) -> Any:
        if self.run is None:
            raise WorkbenchError("There is no run yet; press Start.")
        return self.run

    def _differences(self) -> dict[str, Any]:
        """The fields in which the controls differ from the run's recipe."""
        wanted, recipe = self.controls.recipe(), self.run.recipe
        return {name: getattr(wanted, name) for name in recipe.diff(wanted)}

    @staticmethod
    def _place(run: Any) -> str:
        path = Path(getattr(run, "path", run.name))
        here = Path.cwd()
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    def _adopt(self, run: Any) -> None:
        """Make `run` the one that buttons and controls act on, and put it on the curves."""
        with self._lock:
            if run not in self.runs:
                self.runs = [*self.runs, run][-MAX_RUNS:]
            self.run = run
            self.controls.show(run.recipe)
            self._choosing = True  # new options select their first one for a moment
            self.choice.options = [(each.name, each) for each in self.runs]
            self.choice.value = run
            self._choosing = False
            self.choice.layout.display = "" if len(self.runs) > 1 else "none"
            self.rollouts.show(run)
            self.geometry.adopt(run, self.runs)
            self.cross.show(run)
        self.drawer.wake()

    def _changed(self, **changes: Any) -> None:
        self._guard(functools.partial(self._apply, changes))()

    def _apply(self, changes: dict[str, Any]) -> None:
        if self.run is not None and self.run.status in ALIVE:
            self.run.update(**changes)
            self.say(f"Lands at the next step: {described(changes)}.")
        else:
            self.controls.recipe()  # says at once what Start would refuse
            self.say("")

    def _chosen(self) -> None:
        if not self._choosing and self.choice.value is not self.run:
            self._adopt(self.choice.value)

    # --- what it shows ----------------------------------------------------------------------------

    def say(self, text: str, error: bool = False) -> None:
        """Put a sentence in the message line; errors in red."""
        kind = "wb-error" if error else "wb-note"
        role = "alert" if error else "status"
        shown = f'<span class="{kind}" role="{role}">{html.escape(text)}</span>' if text else ""
        if self.message.value != shown:
            self.message.value = shown

    def draw(self) -> bool:
        """Bring curves, progress and buttons up to date; False when nothing goes on any more."""
        with self._lock:
            alive = any(run.status in ALIVE for run in self.runs)
            self.curves.draw([(run.name, run.metrics, run.events) for run in self.runs])
            self.controls.timeline.follow(self.run)
            self._draw_state()
            shown = TABS[self.tabs.selected_index or 0]
            if shown == "Rollouts":
                self.rollouts.refresh()
            elif shown == "Geometry":
                self.geometry.refresh(self.runs, self.run)
            return alive

    def _draw_state(self) -> None:
        status = self.run.status if self.run is not None else ""
        progress = self.run.progress if self.run is not None else {"step": 0, "steps": 1}
        self.progress.max, self.progress.value = progress["steps"], progress["step"]
        self.state.value = self._state_html(status, progress)
        if status == self._state_drawn:
            return
        self._state_drawn = status
        for name, button in self.buttons.items():
            button.disabled = name not in BUTTONS_IN.get(status, ())
        self.controls.lock(status in ALIVE)
        self.progress.bar_style = {"failed": "danger", "finished": "success"}.get(status, "")
        if status == "failed":
            self.say(
                f"{self.run.error} The traceback is in {self._place(self.run)}/error.txt.",
                error=True,
            )
        elif status in ENDED_WORDS:
            self.say(f"{ENDED_WORDS[status]} The run is kept in {self._place(self.run)}.")

    def _state_html(self, status: str, progress: dict[str, float]) -> str:
        if not status:
            return NO_RUN
        parts = [f"<b>{status}</b>", f"step {progress['step']:.0f} of {progress['steps']:.0f}"]
        if self.run.doing:
            parts.insert(1, html.escape(self.run.doing))
        if progress["step"] and status in ALIVE:
            parts += [
                f"{progress['seconds_per_step']:.2f} s/step",
                f"{clock(progress['seconds_left'])} left",
                f"{progress['tokens_per_second']:,.0f} tokens/s",
            ]
        return " · ".join(parts + self._figures() + notice(self.run))

    def _figures(self) -> list[str]:
        """pass@1, the greatest pass@k and T_post + A_pre, from the base to now, as text beside the curves."""
        from workbench.series import pass_ks

        metrics = self.run.metrics
        ks = pass_ks(metrics)
        found = []
        for k in dict.fromkeys((*ks[:1], *ks[-1:])):
            known = metrics[f"eval/pass@{k}"].dropna()
            if len(known):
                found.append(f"pass@{k} {known.iloc[0]:.3f} → <b>{known.iloc[-1]:.3f}</b>")
        if "eval/post_pre" in metrics and len(known := metrics["eval/post_pre"].dropna()):
            found.append(f"T_post+A_pre {known.iloc[0]:.3f} → <b>{known.iloc[-1]:.3f}</b>")
        return found

    # --- how it is built --------------------------------------------------------------------------

    def _guard(self, action: Callable[[], None]) -> Callable[..., None]:
        """`action` as a callback whose errors land in the message line."""

        @functools.wraps(action)
        def call(*_: Any) -> None:
            try:
                action()
            except WorkbenchError as error:
                self.say(str(error), error=True)
            except Exception as error:  # noqa: BLE001 - no cell would show it
                self._failed(error)

        return call

    def _failed(self, error: Exception) -> None:
        self.say(f"The panel met {type(error).__name__}: {error}", error=True)

    def _build(self) -> None:
        self.buttons = {
            name: widgets.Button(description=text, icon=icon, tooltip=tooltip)
            for name, (text, icon, tooltip) in BUTTONS.items()
        }
        for name, button in self.buttons.items():
            button.on_click(self._guard(getattr(self, name)))
        self.buttons["start"].button_style = "primary"
        self.progress = widgets.IntProgress(
            0, min=0, max=1, tooltip="Steps done", layout={"flex": "1 1 120px", "width": "auto"}
        )
        self.choice = widgets.Dropdown(
            options=[], description="run", tooltip="The run that buttons and controls act on",
            style={"description_width": "initial"}, layout={"display": "none", "width": "260px"},
        )  # fmt: skip
        self.choice.observe(self._guard(self._chosen), "value")
        self.state, self.message = widgets.HTML(NO_RUN), widgets.HTML()
        self.state.add_class("wb-state")
        self.message.add_class("wb-message")
        line = widgets.HBox([*self.buttons.values(), self.progress, self.choice])
        line.add_class("wb-buttons")
        bar = widgets.VBox([line, self.state, self.message])
        bar.add_class("wb-bar")
        views = (self.curves, self.rollouts, self.geometry, self.cross)
        self.tabs = widgets.Tab([view.root for view in views], titles=TABS)
        self.tabs.add_class("wb-right-side")
        self.tabs.observe(lambda _: self.drawer.wake(), "selected_index")
        body = widgets.HBox([self.controls.root, self.tabs])
        body.add_class("wb-body2")
        self.root = widgets.VBox([widgets.HTML(f"<style>{CSS}</style>"), bar, body])
        self.root.add_class("wb-panel")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.controls.preview.load()  # now that it is shown, and not before: it takes seconds
        return self.root._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"<workbench panel: {self.run!r}>" if self.run is not None else "<workbench panel>"
