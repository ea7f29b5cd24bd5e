"""One run: look at it, steer it, fork it, all by its folder.

Every method returns at once, but for `wait` and `close`; the work is done by a thread (`worker`), and what
it found is read from memory while it lives here, from the folder otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.folder import (
    EVAL_SUCCESSES,
    GROUP_SUCCESSES,
    RunFolder,
    read_checkpoint_recipe,
)
from workbench.growing import DEEP, Growing, GrowingFile
from workbench.library import HERE, Deleted, Kept, new_folder
from workbench.probe import ProbeTrace, columns_of
from workbench.recipe import LIVE, Recipe, own_functions
from workbench.rewinding import set_aside
from workbench.tables import read_probes, read_rollouts
from workbench.trackers import check_tracker
from workbench.trained import checkpoint_of, trained_policy
from workbench.variants import WorkbenchError, lookup
from workbench.worker import Worker

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.models import Policy

Listener = Callable[["Run", dict[str, Any]], None]

SETTLED = 100_000_000  # nanoseconds, more than a tick of any file system's clock
MODEL_FIELDS = ("model", "quantize", "lora_rank", "lora_alpha", "lora_targets")  # the weights' own


class Run(Kept):
    """One training run: its numbers, its controls, its folder. Made by `train`, `attach` and `fork`."""

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        *,
        functions: Iterable[Callable[..., Any]] = (),
        listeners: Iterable[Listener] = (),
        parent: tuple[Run, int | None] | None = None,
    ) -> None:
        self.folder = folder
        self.listeners = list(listeners)
        self._recipe = recipe
        self._functions = (*functions, *own_functions(vars(recipe)))
        self._parent = parent
        self._worker: Worker | None = None
        self._changes: dict[str, Any] = {}  # live fields to change when the run goes on
        self._read: dict[Path, GrowingFile[Any]] = {}  # metrics.jsonl and events.jsonl
        self._events: tuple[list[dict[str, Any]], pd.DataFrame] | None = None
        self._steps: dict[Path, tuple[int, frozenset[int]]] = {}  # folder -> when it changed
        self._probes: dict[Path, tuple[int, ProbeTrace]] = {}  # file -> when it was written

    # --- what is known ------------------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        """The recipe with every change that was asked for so far."""
        kept = self._kept_recipe()
        return kept.replace(**self._changes) if self._changes else kept

    def _kept_recipe(self) -> Recipe:
        """The recipe without the changes that wait for `resume`."""
        return self._worker.wanted_recipe() if self._worker else self._recipe

    @property
    def status(self) -> str:
        """starting, running, paused, finished, stopped, failed, or interrupted (its process is gone)."""
        return self._worker.status if self._worker else str(self.folder.read_status()["status"])

    @property
    def error(self) -> str | None:
        """What ended a failed run, in a sentence; the traceback is in its error.txt."""
        return self._worker.error if self._worker else self.folder.read_status()["error"]

    @property
    def doing(self) -> str:
        """A line on what is done beside the steps, such as the training of a constraint reward model."""
        return self._worker.doing if self._worker and self.live else ""

    @property
    def live(self) -> bool:
        """True while a thread, here or in another process, holds the run."""
        if self._worker:
            return not self._worker.done.is_set()
        return bool(self.folder.read_status()["live"])

    @property
    def read_only(self) -> bool:
        """True while another process holds the run: it can be looked at, not steered."""
        return self._worker is None and self.live

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per step with every metric; the index is the step. Step 0 is the base model."""
        return self._records().frame()

    def successes(self, of: str = "groups") -> pd.DataFrame:
        """How many completions of each prompt were right: a row for each step, a column for each prompt.

        Args:
            of: "groups", the prompts drawn at each step, of `group_size` completions; or "eval", the
                held-out ones, always the same, of `eval_samples`.
        """
        names = {"groups": GROUP_SUCCESSES, "eval": EVAL_SUCCESSES}
        column = lookup(names, "kind of successes", of)
        steps, counts = self._records().counts(column)
        table = pd.DataFrame(counts, index=pd.Index(steps, name="step"), copy=True)
        missing = counts < 0  # a fork may draw another number of prompts than its parent did
        return table.astype("Int64").mask(missing) if missing.any() else table

    @property
    def events(self) -> pd.DataFrame:
        """What changed and when: step, time, kind, text, changes."""
        records = list(self._kept("events", list))
        if self._events is None or self._events[0] != records:
            columns = ["step", "time", "kind", "text", "changes"]
            self._events = (records, pd.DataFrame(records, columns=columns))
        return self._events[1].copy(deep=DEEP)

    @property
    def progress(self) -> dict[str, float]:
        """step, steps, seconds_per_step (evaluation spread over it), seconds_left, tokens_per_second,
        memory of the process and gpu_memory at its highest (MiB)."""
        records = self._records()
        recent, last = records.recent(), records.last
        training = sum(record["time/step"] for record in recent)
        evaluating = sum(record.get("time/eval", 0.0) for record in recent)
        step, steps = last.get("step", 0), self.recipe.steps
        each = (training + evaluating) / max(len(recent), 1)
        tokens = sum(record["rollout/tokens"] for record in recent)
        return {
            "step": step,
            "steps": steps,
            "seconds_per_step": each,
            "seconds_left": each * max(steps - step, 0),
            "tokens_per_second": tokens / training if training else 0.0,
            "memory": last.get("memory/process", 0.0),
            "gpu_memory": last.get("memory/gpu_peak", 0.0),
        }

    @property
    def rollout_steps(self) -> list[int]:
        """The steps whose rollouts were saved."""
        return self._listed("rollouts", lambda known: self.folder.rollout_files())

    @property
    def held_out_steps(self) -> list[int]:
        """The steps whose evaluation saved some of its completions, always of the same prompts."""
        return [int(file.stem) for file in self.folder.held_out_files()]

    def rollouts(
        self, step: int | None = None, *, held_out: bool = False, columns: list[str] | None = None
    ) -> pd.DataFrame:
        """What was saved at `step` (default: the latest), one row per completion; of it only `columns`."""
        files = self.folder.held_out_files() if held_out else self.folder.rollout_files()
        return read_rollouts(files, step, columns)

    @property
    def checkpoint_steps(self) -> list[int]:
        """The steps of the whole checkpoints."""
        return self._listed("checkpoints", self.folder.checkpoints)

    def policy(self, step: int | None = None) -> Policy:
        """A copy of the policy as the checkpoint of `step` holds it, by default the last one."""
        return trained_policy(self.recipe, checkpoint_of(self.folder, step))

    def probes(self) -> list[ProbeTrace]:
        """The saved probes, oldest first: what the model wrote each time on the same prompts."""
        found = {file: file.stat().st_mtime_ns for file in self.folder.probe_files()}
        for file, written in found.items():
            if self._probes.get(file, (0, None))[0] != written:
                self._probes[file] = (written, read_probes(file)[0])
        return [self._probes[file][1] for file in found]

    def probe_columns(self) -> dict[str, list[float]]:
        """The numbers of every probe as columns, from the metrics; see `phase.table`."""
        return columns_of(self.metrics)

    def figure(self) -> go.Figure:
        """The curves as a plain plotly figure."""
        from workbench.plots import curves_figure

        return curves_figure([(self.name, self.metrics, self.events)])

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a self-contained HTML page with the curves, the recipe and some rollouts."""
        from workbench.report import write_report

        return write_report([self], Path(path))

    def export(
        self, folder: str | os.PathLike[str], *, merged: bool = False, step: int | None = None
    ) -> Path:
        """Write the adapter, or with `merged` a whole plain model, for use elsewhere; see `exporting`."""
        from workbench.exporting import export_run

        return export_run(self, Path(folder), merged=merged, step=step)

    def __repr__(self) -> str:
        if isinstance(self.folder, Deleted):
            return f"<Run {self.name}: deleted>"
        done = self.progress
        return f"<Run {self.name}: {self.status}, step {done['step']} of {done['steps']}>"

    # --- controls -----------------------------------------------------------------------------

    def pause(self) -> None:
        """Pause before the next step; a checkpoint is written."""
        self._own("pause").want("pause")

    def step(self) -> None:
        """Do one step, then pause."""
        self._own("step").want("pause", extra_steps=1)

    def stop(self) -> None:
        """Stop after the step at hand, with a checkpoint; the run can be resumed. Twice is harmless."""
        if self.live:
            self._own("stop").want("stop")

    def resume(self) -> None:
        """Go on: at once after a pause, from the last checkpoint when the run has ended."""
        if self.live:
            self._own("resume").want("run")
            return
        steps = self.recipe.steps
        if self.status == "finished" and self.progress["step"] >= steps:
            raise WorkbenchError(
                f"The run has finished its {steps} steps; to go on, call "
                f"run.update(steps={steps * 2}) before run.resume()."
            )
        self._launch()

    def update(self, **fields: Any) -> None:
        """Change live fields; lands at the next step and is marked there. Wrong values raise at once.

        On a run that has ended, the change waits for `resume`.
        """
        for name in fields:
            if name not in LIVE:
                self.recipe.replace(**{name: fields[name]})  # an unknown field is named by this
                raise WorkbenchError(
                    f"{name} can't change during a run; use run.fork({name}=…) or start a new run. "
                    f"Live fields: {', '.join(LIVE)}."
                )
        self._functions += own_functions(fields)
        if self.live:
            self._own("update").change(fields)
        else:
            self._changes = self._kept_recipe().stack(self._changes, fields)

    def rewind(self, step: int) -> None:
        """Go back to the checkpoint of `step`, with its recipe: a run that is going pauses there, any other
        is stopped there. What came after is kept in the folder's ``rewound/``, out of the curves."""
        if step not in self.checkpoint_steps:
            raise WorkbenchError(
                f"{self.name} has no checkpoint of step {step}; it has {self.checkpoint_steps}."
            )
        if self.live:
            self._own("rewind").rewind(step)
            return
        set_aside(self.folder, step)
        self.folder.write_status("stopped")
        self._recipe = read_checkpoint_recipe(self.folder.checkpoints()[-1], self._functions)
        self._worker, self._changes, self._read = None, {}, {}

    def fork(
        self,
        *,
        at: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        listeners: Iterable[Listener] = (),
        **changes: Any,
    ) -> Run:
        """A new run that goes on from this one's weights, optimiser and seed, with `changes`.

        Args:
            at: the step of a checkpoint to go on from; by default where the run is now.
        """
        if at not in (None, *self.checkpoint_steps):
            raise WorkbenchError(
                f"{self.name} has no checkpoint of step {at}; it has {self.checkpoint_steps}."
            )
        recipe = self.recipe.replace(**changes)
        fixed = [name for name in self.recipe.diff(recipe) if name in MODEL_FIELDS]
        if fixed:
            raise WorkbenchError(
                f"A fork keeps its parent's weights, so {', '.join(fixed)} can't change; "
                "start a new run with wb.train instead."
            )
        check_tracker(recipe.tracker)
        child = Run(
            new_folder(recipe, folder),
            recipe,
            functions=self._functions,
            listeners=listeners,
            parent=(self, at),
        )
        child._launch()
        return child

    def wait(self, timeout: float | None = None) -> Run:
        """Wait for the end; raises what the run raised. An interrupt stops the run first."""
        worker = self._own("wait for")
        try:
            worker.done.wait(timeout)
        except KeyboardInterrupt:
            worker.want("stop")
            worker.done.wait()
            raise
        if worker.exception is not None:
            raise worker.exception
        return self

    def close(self) -> None:
        """Stop and wait for the end, which frees the model; an error stays readable in `error`."""
        if self._worker:
            self._worker.want("stop")
            self._worker.done.wait()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------

    def _records(self) -> Growing:
        return self._worker.records if self._worker else self._kept("metrics", Growing)

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The records of metrics.jsonl or events.jsonl, of which only what is new is read."""
        file = self.path / f"{name}.jsonl"
        return self._read.setdefault(file, GrowingFile(file, make)).now()

    def _listed(self, name: str, find: Callable[[frozenset[int]], list[Path]]) -> list[int]:
        """The steps that `find` finds in a folder, looked up again only once something came or went there."""
        folder = self.path / name
        changed = folder.stat().st_mtime_ns if folder.is_dir() else 0
        before, steps = self._steps.get(folder, (-1, frozenset()))
        if changed != before:
            steps = frozenset(int(path.stem) for path in find(steps))
            settled = time.time_ns() - changed > SETTLED  # else more may come in the same tick
            self._steps[folder] = (changed if settled else -1, steps)
        return sorted(steps)

    def _own(self, verb: str) -> Worker:
        """The thread of this run, or a sentence why there is none to talk to."""
        if self._worker is None:
            why = (
                "it belongs to another process" if self.live else "it is not going; resume it first"
            )
            raise WorkbenchError(f"Can't {verb} this run: {why}.")
        return self._worker

    def _launch(self) -> None:
        left = self._worker.changes_left() if self._worker else {}
        self._worker = Worker(
            self.folder,
            self._recipe,
            functions=self._functions,
            changes=left | self._changes,
            inherit=self._inherit if self._parent else None,
            on_record=self._tell_listeners,
        )
        self._changes = {}
        HERE[self.path] = self

    def _tell_listeners(self, record: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener(self, record)

    def _inherit(self) -> None:
        """Copy the parent's weights, optimiser and curves up to now into this folder."""
        assert self._parent is not None
        parent, at = self._parent
        if parent._worker and at is None:
            parent._worker.checkpoint_now()
        source = checkpoint_of(parent.folder, at)
        step = int(source.name)
        self.folder.copy_history(parent.folder, step)
        self.folder.append_event(step, "fork", f"forked from {parent.name} at step {step}", {})
        self.folder.adopt_checkpoint(source, self._recipe)
