"""The panel itself: run bar, controls, curves and rollouts around one or several runs.

Callbacks only call Run's own thread-safe methods, which return at once; whatever goes wrong in one
is shown in the message line, since no cell would show it. What follows from the state of the runs
(curves, progress, which buttons make sense) is drawn by one thread, the Drawer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.panel.bar import ALIVE, BUTTONS, RunBar, described, place
from workbench.panel.compare import CompareView
from workbench.panel.controls import Controls
from workbench.panel.cross import CrossView
from workbench.panel.curves import MAX_RUNS, Drawer, LiveCurves
from workbench.panel.fallback import TableCurves, missing
from workbench.panel.geometry import GeometryView
from workbench.panel.groups import GroupsView
from workbench.panel.inside import InsideView
from workbench.panel.rollouts import RolloutView
from workbench.panel.style import CSS
from workbench.panel.takeaway import Takeaway
from workbench.recipe import LIVE, Recipe
from workbench.variants import WorkbenchError

TABS = ("Curves", "Rollouts", "Inside", "Groups", "Geometry", "Cross", "Compare")
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


class Panel:
    """The workbench in a notebook; show it as the last expression of a cell.

    Attributes:
        run: the run that the buttons and controls act on; None before the first Start.
        runs: the runs on the curves, oldest first.
    """

    def __init__(self, recipe: Recipe, *runs: Any) -> None:
        self.run: Any = None
        self.runs: list[Any] = []
        self._state_drawn = ("?", True)
        self._choosing = False
        self._known: Recipe | None = None  # the run's recipe as it was last looked at
        self._looking = False  # Step was pressed: show its step from inside
        self._lock = threading.RLock()  # one drawing at a time
        self.controls = Controls(recipe, self._changed)
        reason = missing()
        self.curves = LiveCurves() if reason is None else TableCurves(reason)
        self.rollouts, self.inside = RolloutView(self._guard), InsideView(self._guard)
        self.groups, self.cross = GroupsView(self._guard), CrossView(self._guard)
        self.compare = CompareView(self._guard, self._add, self._forget)
        self.drawer = Drawer(self.draw, self._failed)
        sections = self.controls.sections
        probing = next(title for title, names in sections.items() if "probe_every" in names)
        self.geometry = GeometryView(self._guard, self.fork, self.drawer.wake, probing)
        self.takeaway = Takeaway(self._guard, self.controls.recipe, self._write_report, self.say)
        self._build()
        for run in runs:
            self._adopt(run)
        self.draw()

    # --- what a person does -----------------------------------------------------------------------

    def start(self) -> None:
        """Start a new run with the controls' recipe; refused while one of the panel's runs is going."""
        with self._lock:  # some kernels run callbacks in several threads
            going = (run for run in self.runs if run.status in ALIVE and not run.read_only)
            busy = next(going, None)
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
            self.say(f"Started; kept in {place(run)}.")
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
        self._looking = True
        self.say("Doing one step; the tab Inside then shows it.")
        self.drawer.wake()

    def rewind(self) -> None:
        """Go back to the checkpoint chosen beside the button."""
        run, step = self._current(), self.bar.back_to.value
        if step is None:
            raise WorkbenchError(f"{run.name} has no checkpoint yet; pause it, which writes one.")
        run.rewind(step)
        self.controls.show(run.recipe)
        self._state_drawn = ("?", True)
        self.say(
            f"Going back to step {step}. What came after is kept in {place(run)}/rewound; "
            "Resume goes on from there."
        )
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

    def _adopt(self, run: Any) -> None:
        """Make `run` the one that buttons and controls act on, and put it on the curves."""
        with self._lock:
            if run not in self.runs:
                self.runs = [*self.runs, run][-MAX_RUNS:]
            self.run, self._known = run, run.recipe
            self.controls.show(run.recipe)
            self._offer_runs()
            for view in (self.rollouts, self.inside, self.groups, self.cross):
                view.show(run)
            self.geometry.adopt(run, self.runs)
            self.compare.show(self.runs)
        self.drawer.wake()

    def _add(self, *runs: Any) -> None:
        """Put further runs on the curves; buttons and controls then act on the last of them."""
        for run in runs:
            self._adopt(run)

    def _forget(self, run: Any) -> None:
        """Take a run off the panel; buttons and controls then act on the newest that is left."""
        with self._lock:
            self.runs = [each for each in self.runs if each is not run]
            if self.run is run and self.runs:
                self._adopt(self.runs[-1])
                return
            if self.run is run:
                self.run = self._known = None
                for view in (self.rollouts, self.inside, self.groups, self.cross):
                    view.show(None)
            self._offer_runs()
            self.compare.show(self.runs)
        self.drawer.wake()

    def _offer_runs(self) -> None:
        """The panel's runs as a choice, where there is one."""
        self._choosing = True  # new options select their first one for a moment
        self.choice.options = [(each.name, each) for each in self.runs]
        self.choice.value = self.run
        self._choosing = False
        self.choice.layout.display = "" if len(self.runs) > 1 else "none"

    def _write_report(self) -> Path:
        run = self._current()
        return run.report(run.path / "report.html")

    def _changed(self, **changes: Any) -> None:
        self._guard(functools.partial(self._apply, changes))()

    def _apply(self, changes: dict[str, Any]) -> None:
        if self.run is not None and self.run.status in ALIVE:
            self.run.update(**changes)
            self.say(f"Lands at the next step: {described(changes)}.")
        else:
            self.controls.recipe()  # says at once what Start would refuse
            self.say("")
        self.takeaway.refresh(self.run is not None)

    def _chosen(self) -> None:
        if not self._choosing and self.choice.value is not self.run:
            self._adopt(self.choice.value)

    # --- what it shows ----------------------------------------------------------------------------

    def say(self, text: str, error: bool = False) -> None:
        """Put a sentence in the message line; errors in red."""
        self.bar.say(text, error)

    def draw(self) -> bool:
        """Bring curves, progress and buttons up to date; False when nothing goes on any more."""
        with self._lock:
            alive = any(run.status in ALIVE for run in self.runs)
            self.curves.draw([(run.name, run.metrics, run.events) for run in self.runs])
            self.controls.timeline.follow(self.run)
            self._draw_state()
            self._take_over()
            self._look()
            self._draw_tab(TABS[self.tabs.selected_index or 0])
            return alive

    def _draw_tab(self, shown: str) -> None:
        """Bring the tab that is shown up to date; the others are when they are opened."""
        if shown == "Geometry":
            self.geometry.refresh(self.runs, self.run)
            return
        views = {"Rollouts": self.rollouts, "Inside": self.inside, "Groups": self.groups}
        view = (views | {"Compare": self.compare}).get(shown)
        if view is not None:
            view.refresh()

    def _take_over(self) -> None:
        """Show what another panel, a cell or a rewind has changed in the run."""
        if self.run is None or self.run.status not in ALIVE or self.run.recipe == self._known:
            return
        self._known = recipe = self.run.recipe
        try:
            changes = {n: getattr(recipe, n) for n in self.controls.recipe().diff(recipe)}
        except WorkbenchError:  # they stand at what was refused: the run's own are shown again
            self.controls.show(recipe)
            return
        if changes:  # else it is what these controls have asked for
            self.controls.show(recipe)
            self.say(f"Changed elsewhere: {described(changes)}.")

    def _look(self) -> None:
        """Open the step from inside once the single step that was asked for is done."""
        if self._looking and self.run is not None and self.run.status == "paused":
            self._looking = False
            self.inside.follow.value = True
            self.tabs.selected_index = TABS.index("Inside")

    def _draw_state(self) -> None:
        run = self.run
        status = run.status if run is not None else ""
        mine = run is None or not run.read_only
        self.bar.show(run, status, mine)
        if (status, mine) == self._state_drawn:
            return
        self._state_drawn = (status, mine)
        self.controls.lock(status in ALIVE, read_only=not mine)
        self.takeaway.refresh(run is not None)
        if status == "failed":
            self.say(f"{run.error} The traceback is in {place(run)}/error.txt.", error=True)
        elif status in ENDED_WORDS and mine:
            self.say(f"{ENDED_WORDS[status]} The run is kept in {place(run)}.")

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
        actions = {name: self._guard(getattr(self, name)) for name in BUTTONS}
        self.bar = RunBar(actions, self._guard(self._chosen), self.takeaway.buttons)
        self.buttons, self.choice = self.bar.buttons, self.bar.choice
        self.state, self.message = self.bar.state, self.bar.message
        self.progress = self.bar.progress
        views = (
            self.curves, self.rollouts, self.inside, self.groups,
            self.geometry, self.cross, self.compare,
        )  # fmt: skip
        self.tabs = widgets.Tab([view.root for view in views], titles=TABS)
        self.tabs.add_class("wb-right-side")
        self.tabs.observe(lambda _: self.drawer.wake(), "selected_index")
        body = widgets.HBox([self.controls.root, self.tabs])
        body.add_class("wb-body2")
        style = widgets.HTML(f"<style>{CSS}</style>")
        self.root = widgets.VBox([style, self.bar.root, self.takeaway.text, body])
        self.root.add_class("wb-panel")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.controls.preview.load()  # now that it is shown, and not before: it takes seconds
        return self.root._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"<workbench panel: {self.run!r}>" if self.run is not None else "<workbench panel>"
