"""The geometry tab: where the runs go beside a reference, what became of the run, and a way back.

It looks at the probes only. Nothing is drawn, nor is there a figure, before the tab has been opened.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench.alarms import MARGIN, leaves_at
from workbench.diagnosis import RELAXATION, Verdict, verdict
from workbench.geometry import Envelope
from workbench.panel.envelopes import FEWEST, Envelopes, Offer
from workbench.panel.scene import LiveScene
from workbench.phase import ACCURACY, CENTRES, VOTE, Path
from workbench.remarks import left_at
from workbench.variants import WorkbenchError

SPACE_LABELS = {
    "P1: entropy, length, majority share": VOTE,
    "P1 with accuracy (sees labels)": ACCURACY,
    "P2: distance to entropy centres": CENTRES,
}
NONE = "none"  # of the references
FEW = 3  # reference runs; of fewer than that the envelope is a needle
STYLE = {"description_width": "initial"}
SET_PROBES = (
    "Set probe every (under {place}) to 3 and start: each probe becomes a point of the run's path."
)
SET_LIVE = "Set probe every (under {place}) to 3; it lands at the next step."
CAUTION = "The thresholds are rules of thumb from a reconstruction of the method: read the numbers."


@dataclass(frozen=True, eq=False)
class Look:
    """What the tab has to say and to draw about the current run."""

    paths: tuple[Path | None, ...] = ()
    current: int = 0
    envelope: Envelope | None = None
    about: str = ""  # the reference
    found: Verdict | None = None
    why: str = ""  # instead of a verdict
    left: int | None = None  # step of the warning, in P1 without labels
    back: int | None = None  # step of the last checkpoint before the run left

    @property
    def path(self) -> Path | None:
        """That of the current run."""
        return self.paths[self.current] if self.paths else None


# ------------------------------------------------------------------ in words


def status(text: str, kind: str = "wb-doc", role: str = "status") -> str:
    """A sentence, escaped, that screen readers speak when it changes."""
    return f'<div class="{kind}" role="{role}">{html.escape(text)}</div>'


def no_probes(run: Any, place: str) -> str:
    """What to do about a run without probes."""
    if run is None:
        return f"No run yet. {SET_PROBES.format(place=place)}"
    if not run.recipe.probe_every:
        going = run.status in ("starting", "running", "paused")
        return f"No probes yet. {(SET_LIVE if going else SET_PROBES).format(place=place)}"
    return f"No probes yet: {run.name} takes one every {run.recipe.probe_every} steps."


def verdict_html(found: Verdict, one: Path, envelope: Envelope, about: str) -> str:
    """The verdict with the numbers that decided it, and what they have seen."""
    known = {name: value for name, value in found.decided_by.items() if np.isfinite(value)}
    numbers = [f"{name} {value:.3g}" for name, value in known.items()]
    numbers += found.signs if found.name == RELAXATION else ()
    seen = [f"Reference: {about}."]
    seen.append("The axes see labels." if one.sees_labels else "The axes are label-free.")
    if found.labelled and not one.sees_labels:
        seen.append("The verdict also reads the accuracy of the probe.")
    shared = shared_probes(one, envelope)
    if shared > 1:
        seen.append(f"The first {shared} probes are those of a reference run too.")
    if len(envelope.runs) < FEW:
        seen.append("So few reference runs make a narrow envelope: runs that go well leave it too.")
    return (
        f'<div role="status">At step {one.steps_N[-1]}: <b>{html.escape(found.name)}</b> '
        f"({html.escape(', '.join(numbers))})</div>" + status(f"{' '.join(seen)} {CAUTION}")
    )


def shared_probes(one: Path, envelope: Envelope) -> int:
    """How many of a path's first probes some reference run has had as well; the base's don't count."""
    most = 0
    for other in envelope.runs:
        n = min(len(one.steps_N), len(other.steps_N))
        same_N = (one.steps_N[:n] == other.steps_N[:n]) & (one.entropy_N[:n] == other.entropy_N[:n])
        most = max(most, n if same_N.all() else int(same_N.argmin()))
    return most


def point_text(one: Path, envelope: Envelope | None, n: int) -> str:
    """The n-th probe in numbers, for those who can't point at it."""
    parts = [f"entropy {one.entropy_N[n]:.3f} nats", f"length {one.length_N[n]:.1f} tokens"]
    if VOTE in one.axes:
        parts.append(f"majority share {one.points_ND[n, one.axes.index(VOTE)]:.2f}")
    if one.accuracy_N is not None:
        parts.append(f"accuracy {one.accuracy_N[n]:.2f}")
    if envelope is not None:
        far = float(envelope.hull.distance(envelope.scaled(one)[n : n + 1])[0])
        parts.append(f"{far:.1f} deviations outside" if far else "inside the envelope")
    return f"Step {one.steps_N[n]}: {', '.join(parts)}."


def alarm_html(look: Look, space: str) -> str:
    """The early warning, and what there is to go back to."""
    text = f"<b>Leaving the envelope at step {look.left}.</b>"
    if space != VOTE:
        text += " (In P1 without labels, where the guard looks.)"
    if look.back is None:
        text += " No checkpoint from before is kept, so there is nothing to return to."
    else:
        text += (
            " Change what drove it out, then return: the run stops, and a fork goes on from step "
            f"{look.back} with the controls as they stand."
        )
    return f'<div class="wb-warn" role="alert">{text}</div>'


def notice(run: Any) -> list[str]:
    """The early warning of a guard for the panel's state line."""
    step = None if run is None else left_at(run.events)
    text = f'<b class="wb-wrong">leaving the envelope at step {step}</b> (see Geometry)'
    return [] if step is None else [text]


# ------------------------------------------------------------------ the tab


class GeometryView:
    """Controls, the sentence, the warning with its button, and the figure.

    Args:
        guard: makes a callback of an action, with its errors in the message line.
        return_to: forks the current run from the checkpoint of a step.
        wake: asks the drawing thread to draw.
        place: the section of the controls that has probe_every.
    """

    def __init__(
        self,
        guard: Callable[[Callable[[], None]], Callable[..., None]],
        return_to: Callable[[int], None],
        wake: Callable[[], None],
        place: str,
    ) -> None:
        self.envelopes = Envelopes(wake)
        self.scene = LiveScene()
        self._return_to, self._place = return_to, place
        self._runs: tuple[Any, ...] = ()
        self._run: Any = None
        self._look = Look()
        self._seen: tuple[Any, ...] = ()
        self._offers: dict[str, Offer] = {}
        self._quiet = False
        self._follow = True  # the newest probe, until the slider is moved
        self._lock = threading.RLock()  # the drawer's thread and callbacks both come here
        self._build(guard)

    def _build(self, guard: Callable[[Callable[[], None]], Callable[..., None]]) -> None:
        self.space = widgets.Dropdown(
            options=list(SPACE_LABELS.items()), description="space", style=STYLE,
            tooltip="The three numbers that place a probe; P2 compares whole series of token entropies",
            layout={"width": "310px"},
        )  # fmt: skip
        self.step = widgets.IntSlider(
            0, min=0, max=1, description="up to step 0", disabled=True, readout=False, style=STYLE,
            continuous_update=False,  # else the page answers a new end with an old value
            tooltip="Draw the paths up to this probe; at the right end the newest is followed",
            layout={"flex": "1 1 200px", "width": "auto"},
        )  # fmt: skip
        self.reference = widgets.Dropdown(
            options=[NONE], description="reference", disabled=True, style=STYLE,
            tooltip="The runs taken to have gone well, whose probes make the envelope",
            layout={"width": "250px"},
        )  # fmt: skip
        self.pause = widgets.Checkbox(
            False, description="pause when it leaves", indent=False,
            tooltip="Pause a run as soon as it is warned of, not only say so",
            layout={"width": "auto"},
        )  # fmt: skip
        self.back = widgets.Button(
            description="Return", icon="undo", button_style="warning",
            tooltip="Stop this run and go on in a copy from its last checkpoint inside",
            layout={"width": "auto", "flex": "0 0 auto"},
        )  # fmt: skip
        self.words, self.alarm, self.point = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.warned = widgets.HBox([self.alarm, self.back], layout={"display": "none"})
        bar = widgets.HBox([self.space, self.reference, self.step, self.pause])
        bar.add_class("wb-wrap")
        self.warned.add_class("wb-alarm")
        self.root = widgets.VBox([bar, self.warned, self.words, self.scene.root, self.point])
        self.root.add_class("wb-rollouts")
        self.space.observe(guard(self._on_choice), "value")
        self.reference.observe(guard(self._on_choice), "value")
        self.step.observe(guard(self._on_step), "value")
        self.pause.observe(guard(self._on_pause), "value")
        self.back.on_click(guard(self._on_back))

    # --- what a person does -----------------------------------------------------------------------

    def _on_choice(self) -> None:
        with self._lock:
            if not self._quiet:
                self._take_references()
                self._bring_up()

    def _on_step(self) -> None:
        with self._lock:
            if not self._quiet:
                self._follow = self.step.value == self.step.max
                self._draw()

    def _on_pause(self) -> None:
        self.envelopes.set_then("pause" if self.pause.value else "warn")

    def _on_back(self) -> None:
        if self._look.back is None:
            return
        self.back.disabled = True  # a second click would fork a second time
        try:
            self._return_to(self._look.back)
            self.warned.layout.display = "none"
        finally:
            self.back.disabled = False

    # --- what it shows ----------------------------------------------------------------------------

    def adopt(self, run: Any, runs: Sequence[Any]) -> None:
        """Take `run` as the current one; a guard watches it from now on if there is a reference."""
        with self._lock:
            self._runs, self._run, self._follow = tuple(runs), run, True
            self._take_references()

    def refresh(self, runs: Sequence[Any], run: Any) -> None:
        """Bring the tab up to date; the drawing thread calls it while the tab is open."""
        with self._lock:
            self._runs, self._run = tuple(runs), run
            seen = (self.envelopes.found, run, *(
                (each, each.status, len(self.envelopes.columns(each)["step"])) for each in runs
            ), None if run is None else run.recipe.probe_every)  # fmt: skip
            if seen != self._seen:
                self._seen = seen
                self._take_references()
                self._bring_up()

    def _take_references(self) -> None:
        """Offer the references that the current run can be held against, and guard it by the chosen."""
        run = self._run
        self._offers = {} if run is None else self.envelopes.offers(run, self._runs)
        labels = list(self._offers) or [NONE]
        if list(self.reference.options) != labels:
            chosen = self.reference.value if self.reference.value in labels else labels[0]
            self._quiet = True
            with self.reference.hold_sync():
                self.reference.options, self.reference.value = labels, chosen
            self._quiet = False
            self.reference.disabled = len(labels) < 2
        if self._offers:
            then = "pause" if self.pause.value else "warn"
            if self.envelopes.guard(run, self._offers[self.reference.value], then) == "pause":
                self.pause.value = True  # as the guard that the run was started with

    def _bring_up(self) -> None:
        """Judge the current run and draw."""
        look = self._look = self._judge()
        self._place_slider(0 if look.path is None else len(look.path.steps_N))
        if look.found is not None and look.path is not None and look.envelope is not None:
            text = verdict_html(look.found, look.path, look.envelope, look.about)
        else:
            text = status(look.why)
        self.words.value = text
        self.warned.layout.display = "none" if look.left is None else ""
        if look.left is not None:
            self.alarm.value = alarm_html(look, self.space.value)
            self.back.layout.display = "none" if look.back is None else ""
            self.back.description = f"Return to step {look.back}"
        self._draw()

    def _place_slider(self, count: int) -> None:
        """Let the slider reach over so many probes; at its end it follows the newest."""
        self.step.disabled = count < FEWEST
        if count:
            self._quiet = True
            with self.step.hold_sync():
                self.step.max = max(count - 1, 1)
                self.step.value = count - 1 if self._follow else min(self.step.value, count - 1)
            self._quiet = False

    def _judge(self) -> Look:
        run, space, at = self._run, self.space.value, self._at()
        if run is None or not self.envelopes.columns(run)["step"]:
            return Look(why=no_probes(run, self._place))
        offer = self._offers.get(self.reference.value)
        left, back = self._warning(offer)
        paths = tuple(self._path(each, offer) for each in self._runs)
        kept: dict[str, Any] = {"paths": paths, "current": at, "left": left, "back": back}
        if offer is None:
            return Look(**kept, why=self.envelopes.why_none(run, self._runs))
        if None in paths and space == CENTRES and self.envelopes.seek(offer, self._runs):
            return Look(
                **kept, why="Finding entropy centres and distances; this takes some seconds."
            )
        reference = self.envelopes.full(offer) if space == CENTRES else offer.reference
        one = paths[at]
        if one is None or reference is None:
            missing_text = (
                "This space needs the probes saved in the runs' folders; some are missing."
            )
            return Look(**kept, why=self.envelopes.trouble or missing_text)
        try:
            envelope = reference.envelope(space)
            if len(one.steps_N) < FEWEST:
                why = "One probe so far: a path needs two, a verdict more than that."
                return Look(**kept, envelope=envelope, why=why)
            found = verdict(one, envelope, cap=run.recipe.max_new_tokens, margin=MARGIN)
        except WorkbenchError as error:
            return Look(**kept, why=str(error))
        return Look(**kept, envelope=envelope, about=reference.about, found=found)

    def _at(self) -> int:
        """The current run's place among those of the panel."""
        return self._runs.index(self._run) if self._run in self._runs else 0

    def _path(self, run: Any, offer: Offer | None) -> Path | None:
        try:
            return self.envelopes.path(run, offer, self.space.value)
        except WorkbenchError:  # a run without labels has no place beside accuracy
            return None

    def _warning(self, offer: Offer | None) -> tuple[int | None, int | None]:
        """The step of the early warning, and that of the last checkpoint before the run left."""
        if offer is None:
            return None, None
        try:
            one = self.envelopes.path(self._run, offer, VOTE)
            left = (
                None if one is None else leaves_at(one, offer.reference.envelope(), margin=MARGIN)
            )
        except WorkbenchError:  # the verdict says it
            left = None
        if left is None:
            return None, None
        self.envelopes.astray.add(self._run)
        from workbench.watch import last_inside  # here, since it brings torch

        return left, last_inside(self._run, offer.reference)

    def _draw(self) -> None:
        """Show the paths as far as the slider says, and the probe there in numbers."""
        look, step = self._look, None
        if look.path is not None:
            step = int(look.path.steps_N[self.step.value])
            self.point.value = status(point_text(look.path, look.envelope, self.step.value))
        else:
            self.point.value = ""
        self.step.description = f"up to step {step or 0}"
        self.scene.draw(look.paths, look.envelope, look.current, None if self._follow else step)
