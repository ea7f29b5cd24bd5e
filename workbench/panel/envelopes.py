"""What the panel's runs can be held against: shipped references, or its own runs that finished.

Also the guards that watch them, and the distances of P2, which take a thread of their own: finding entropy
centres takes seconds, and each probe some milliseconds after that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench import phase
from workbench.phase import CENTRES, Path
from workbench.references import Reference, comparable, from_traces, shipped
from workbench.remarks import left_at
from workbench.variants import WorkbenchError

SHIPPED, FINISHED = "shipped", "this panel's finished runs"
FEWEST = 2  # probes that make a path


@dataclass(frozen=True, eq=False)
class Offer:
    """A reference to choose; `runs` are the panel's that it is made of, none for a shipped one."""

    reference: Reference
    runs: tuple[Any, ...] = ()


class Envelopes:
    """References, guards and distances of one panel's runs."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.found = 0  # counts what the thread has finished
        self.trouble = ""  # why it could not
        self.astray: set[Any] = set()  # runs that the tab has warned of, with a guard or without
        self._wake = wake
        self._columns: dict[Any, tuple[int, dict[str, Any]]] = {}
        self._offers: dict[tuple[Any, ...], Offer] = {}
        self._full: dict[Offer, Reference] = {}
        self._near: dict[tuple[Reference, Any, int], np.ndarray] = {}
        self._busy = threading.Lock()
        self._sought: tuple[Any, ...] = ()
        self._guards: dict[Any, bool] = {}  # guard -> whether it is the panel's own

    def columns(self, run: Any) -> dict[str, Any]:
        """A run's probes as columns; read anew only after further steps."""
        count = len(run.metrics)
        if self._columns.get(run, (-1, {}))[0] != count:
            self._columns[run] = (count, run.probe_columns())
        return self._columns[run][1]

    # --- references -------------------------------------------------------------------------------

    def offers(self, run: Any, runs: Sequence[Any]) -> dict[str, Offer]:
        """The references for `run`, by their label; `why_none` says why there is none."""
        found, settings = {}, comparable(run.recipe.to_dict())
        reference = shipped(settings)
        if reference is not None:
            found[SHIPPED] = self._offer((id(reference),), lambda: Offer(reference))
        good = tuple(other for other in runs if other is not run and not self._unfit(run, other))
        if good:
            columns = {other.name: self.columns(other) for other in good}
            key = (repr(settings), *good, *(len(each["step"]) for each in columns.values()))
            about = f"finished runs of this panel: {', '.join(columns)}"
            found[FINISHED] = self._offer(
                key, lambda: Offer(Reference(about, settings, columns), good)
            )
        return found

    def _offer(self, key: tuple[Any, ...], make: Callable[[], Offer]) -> Offer:
        """The same object for the same runs, since it keeps its envelopes."""
        if key not in self._offers:
            self._offers[key] = make()
        return self._offers[key]

    def _unfit(self, run: Any, other: Any) -> str:
        """Why another run can't be part of the reference; empty where it can."""
        if other.status != "finished":
            return "has not finished"
        if len(self.columns(other)["step"]) < FEWEST:
            return "has too few probes"
        if other in self.astray or left_at(other.events) is not None:
            return "left an envelope itself"
        differs = Reference("", other.recipe.to_dict(), {}).misfit(run.recipe.to_dict())
        return f"differs in {differs}" if differs else ""

    def why_none(self, run: Any, runs: Sequence[Any]) -> str:
        """Why `run` has no reference, and how it gets one."""
        recipe = run.recipe.to_dict()
        others = [f"{each.name} {self._unfit(run, each)}" for each in runs if each is not run]
        text = f"No reference is shipped for {recipe['model']} on {recipe['task']} with this probe"
        if others:
            return f"{text}, and none of the panel's other runs can serve: {'; '.join(others)}."
        return (
            f"{text}. Runs that have finished on this panel serve instead: first let one learn from right "
            "answers to its end, then start the one to be judged."
        )

    # --- guards -----------------------------------------------------------------------------------

    def guard(self, run: Any, offer: Offer, then: str) -> str:
        """Have a guard watch `run`, if the reference fits it; what it does then, "warn" or "pause".

        A guard that the run was started with stays as it is.
        """
        from workbench.watch import Guard, reference_of  # here, since it brings torch

        try:
            reference_of(run, offer.reference).envelope()  # a guard's error would end the run
        except WorkbenchError:
            return then
        known = next((each for each in run.listeners if isinstance(each, Guard)), None)
        if known is None:
            known = Guard(offer.reference, then=then)
            self._guards[known] = True
            run.listeners.append(known)
        elif self._guards.setdefault(known, False):
            known.reference = offer.reference
        return known.then

    def set_then(self, then: str) -> None:
        """What every guard does when its run leaves."""
        for guard in self._guards:
            guard.then = then

    # --- paths ------------------------------------------------------------------------------------

    def path(self, run: Any, offer: Offer | None, space: str) -> Path | None:
        """A run's path; None before its first probe, and in P2 while the distances are being found."""
        columns = self.columns(run)
        if not columns["step"]:
            return None
        if space != CENTRES:
            return phase.path(run.name, columns, space)
        reference = self.full(offer)
        if reference is None:
            return None
        rows = [self._near.get((reference, run, step)) for step in columns["step"]]
        if any(row is None for row in rows):
            return None
        return reference.path(run.name, columns, space, np.array(rows))

    def full(self, offer: Offer | None) -> Reference | None:
        """The reference with entropy centres, None as long as there are none."""
        if offer is None or offer.reference.centres is not None:
            return None if offer is None else offer.reference
        return self._full.get(offer)

    def seek(self, offer: Offer, runs: Sequence[Any]) -> bool:
        """Find the distances that are missing, in a thread that wakes the drawer when it has them.

        Returns whether it goes on, the same probes having been looked for in vain if not.
        """
        sought = (offer, *((run, len(self.columns(run)["step"])) for run in runs))
        if sought == self._sought or not self._busy.acquire(blocking=False):
            return self._busy.locked()
        self._sought = sought
        threading.Thread(
            target=self._seek, args=(offer, runs), name="workbench distances", daemon=True
        ).start()
        return True

    def _seek(self, offer: Offer, runs: Sequence[Any]) -> None:
        try:
            self.trouble = ""
            reference = self.full(offer)
            if reference is None:
                known = offer.reference
                traces = {run.name: run.probes() for run in offer.runs}
                reference = from_traces(known.about, known.settings, traces)
                self._full[offer] = reference
            for run in runs:
                for trace in run.probes():
                    key = (reference, run, trace.step)
                    if key not in self._near:
                        self._near[key] = phase.distances([trace], reference.centres)[0]
        except WorkbenchError as error:
            self.trouble = str(error)
        except Exception as error:  # noqa: BLE001 - shown in the tab; no cell would show it
            self.trouble = f"The distances could not be found ({type(error).__name__}: {error})."
        finally:
            self.found += 1
            self._busy.release()
            self._wake()
