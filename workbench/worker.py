"""The thread that trains a run: one step after another, taking up requests in between.

A request (pause, stop, change a field, save) only notes what is wanted and returns; the thread looks at the
notes between two steps. Each step's numbers reach the disk before memory, and memory before the listeners.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import torch

from workbench.choosing import settled
from workbench.crossing import crossed
from workbench.evaluation import evaluate
from workbench.folder import (
    EVAL_SUCCESSES,
    GROUP_SUCCESSES,
    RunFolder,
    read_checkpoint_recipe,
    restore,
)
from workbench.growing import Growing
from workbench.memory import note_post_pre
from workbench.recipe import Recipe, own_functions
from workbench.remarks import RECENT, Watch
from workbench.rewinding import set_aside
from workbench.scoring import check_judge
from workbench.telling import describe, sentence
from workbench.tracing import trace
from workbench.trackers import Feed, check_tracker
from workbench.trainer import NonFiniteError, State, prepare, train_step
from workbench.variants import WorkbenchError

TINY = 20_000_000  # parameters under which one CPU thread is best
KEPT = (8, 16)  # held-out prompts, and completions of each, that every evaluation saves


class RunFailed(RuntimeError):
    """A run ended by an error that is not the user's to mend by another value; see its error.txt."""


class Worker:
    """Trains `recipe` in `folder` from its last checkpoint, or from the start, until told otherwise.

    `inherit`, if given, is called first in the thread of a run without checkpoints: it fills the folder with
    what a fork takes over. `changes` are live fields to set at the first step.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        *,
        functions: Iterable[Callable[..., Any]] = (),
        changes: dict[str, Any] | None = None,
        inherit: Callable[[], None] | None = None,
        on_record: Callable[[dict[str, Any]], None] = lambda record: None,
    ) -> None:
        check_tracker(recipe.tracker)
        self.folder = folder
        self.recipe = recipe
        self.records = Growing()
        self.status = "starting"
        self.doing = ""  # a line on what is done beside the steps
        self.error: str | None = None
        self.exception: Exception | None = None
        self.done = threading.Event()
        self._functions = tuple(functions)
        self._inherit = inherit
        self._on_record = on_record
        self._watch = Watch()
        self._feed = Feed(lambda step, text: folder.append_event(step, "warning", text, {}))
        self._lock = threading.Condition()  # guards the notes below
        self._wanted = "run"  # run, pause or stop
        self._extra_steps = 0  # single steps asked for
        self._changes = dict(changes or {})
        self._save_requests: list[threading.Event] = []
        self._back_to: int | None = None  # the step of the checkpoint to rewind to
        self._looking = False  # the step at hand was asked for alone, to be looked into
        self._replay: dict[int, dict[str, Any]] = {}  # changes of a killed run, by their step
        try:
            folder.write_status("starting")
        except OSError as error:
            raise WorkbenchError(sentence(error, folder.path)) from error
        threading.Thread(target=self._work, name=f"run {folder.path.name}", daemon=True).start()

    # --- requests, from any thread ------------------------------------------------------------

    def want(self, what: str, extra_steps: int = 0) -> None:
        """Ask to "run", "pause" or "stop"; `extra_steps` are still done while pausing, to be looked into."""
        with self._lock:
            self._wanted = what
            self._extra_steps += extra_steps
            self._lock.notify_all()

    def rewind(self, step: int) -> None:
        """Ask to go back to the checkpoint of `step` after the step at hand, and to pause there."""
        with self._lock:
            self._back_to, self._wanted, self._extra_steps = step, "pause", 0
            self._lock.notify_all()

    def change(self, fields: dict[str, Any]) -> None:
        """Ask for live fields to change at the next step; raises at once on a wrong value."""
        with self._lock:
            changes = self.recipe.stack(self._changes, fields)
            check_judge(self.recipe.replace(**changes))
            self._changes = changes
            self._lock.notify_all()

    def wanted_recipe(self) -> Recipe:
        """The recipe of the next step."""
        with self._lock:
            return self.recipe.replace(**self._changes) if self._changes else self.recipe

    def changes_left(self) -> dict[str, Any]:
        """Changes that were asked for and not taken up, for the thread that goes on from here."""
        with self._lock:
            return dict(self._changes)

    def checkpoint_now(self) -> None:
        """Write a checkpoint of the present state; waits until the step at hand is done."""
        request = threading.Event()
        with self._lock:
            self._save_requests.append(request)
            self._lock.notify_all()
        while not request.wait(0.1) and not self.done.is_set():
            pass

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        state: State | None = None
        ended = "failed"
        try:
            state = self._begin()
            while (what := self._gate(state)) != "end":
                if what == "step":
                    self._one_step(state)
                else:
                    state = None  # let go of it before the model is loaded again
                    state = self._begin_again()
            self.folder.write_checkpoint(state, self.recipe)
            ended = "finished" if state.step >= self.recipe.steps else "stopped"
            self.folder.write_status(ended)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- kept as text, raised by Run.wait
            self._fail(error, state)
            ended = "failed"
        finally:
            self._feed.close()
            del state
            gc.collect()
            torch.cuda.empty_cache()  # nothing where CUDA was not used
            self.doing = ""
            self.status = ended  # only now: who sees the end may start the next thread at once
            self.done.set()

    def _begin(self) -> State:
        """Load everything; go back to the last checkpoint if there is one, else measure the base."""
        checkpoints = self.folder.checkpoints()
        if self._inherit is not None and not checkpoints:
            self._inherit()
            checkpoints = self.folder.checkpoints()
        functions = self._known_functions()
        if checkpoints:
            self.recipe = read_checkpoint_recipe(checkpoints[-1], functions)
        elif self.folder.read_metrics():
            self.recipe = Recipe.from_yaml(self.folder.read_recipe_text(), functions)
        if not checkpoints:
            self._settle()
        state = prepare(self.recipe)
        state.tell = self._say
        torch.set_num_threads(self.recipe.threads or fitting_threads(state))
        if checkpoints:
            restore(state, checkpoints[-1])
        # What is asked for now wins over what a killed run had changed later on.
        self._replay = self.folder.rewind(state.step, replaced=self._changes)
        self.records = Growing(self.folder.read_metrics())
        following = self.records.last.get("step", -1) + 1
        self._watch = Watch(self.folder.read_metrics()[-RECENT:])
        self._feed.open(self.recipe.tracker, self.folder.path, self.recipe.to_dict(), following)
        self._set_status("running")
        if not self.records:
            probed = self._probe(state) if self.recipe.probe_every else {}
            self._record({"step": 0, **self._evaluate(state), **probed})
        elif not checkpoints and "eval/post_pre" in self.records.first:  # measured by a killed run
            note_post_pre(state.memory, self.recipe, 0, self.records.first["eval/post_pre"])
        return state

    def _known_functions(self) -> tuple[Callable[..., Any], ...]:
        """The user's own functions: those given, and those in the recipe at hand."""
        return (*self._functions, *own_functions(vars(self.recipe)))

    def _settle(self) -> None:
        """Choose what the recipe leaves to this machine; note it, so that a repetition chooses alike."""
        found, choice = settled(self.recipe)
        if choice is not None:
            chosen = self.recipe.diff(found)
            self.recipe = found
            self.folder.write_recipe(found)
            self.folder.append_event(0, "choice", f"chosen: {choice}", chosen)

    def _begin_again(self) -> State:
        """Set aside what came after the checkpoint to rewind to, and load that."""
        with self._lock:
            step, self._back_to = self._back_to, None
        assert step is not None
        self._set_status("starting")
        set_aside(self.folder, step)
        return self._begin()

    def _gate(self, state: State) -> str:
        """Hold here while paused; then what to do: a "step", a "rewind", or the "end", reached or wanted."""
        while True:
            with self._lock:
                requests, self._save_requests = self._save_requests, []
                go = self._wanted == "run" or self._extra_steps > 0
                end = self._wanted == "stop" or state.step >= self._changes.get(
                    "steps", self.recipe.steps
                )
                back = self._back_to is not None
                if not (requests or go or end or back) and self.status == "paused":
                    self._lock.wait()
                    continue
                if go and not end and not back:
                    self._looking = self._wanted != "run"
                    self._extra_steps = max(self._extra_steps - 1, 0)
            holding = not (go or end or back)
            if requests or back or (holding and self.status != "paused"):
                self.folder.write_checkpoint(state, self.recipe)
            for request in requests:
                request.set()
            if back:
                return "rewind"
            if not holding:
                self._set_status("running")
                return "end" if end else "step"
            self._set_status("paused")

    def _one_step(self, state: State) -> None:
        self._take_up_changes(state.step + 1)
        recipe, step = self.recipe, state.step + 1
        evaluating = step % recipe.eval_every == 0 or step >= recipe.steps
        retries = state.memory.retries
        report = train_step(state, recipe, measure_kl=evaluating or self._looking)
        self._keep_constraint_model(state, step)
        if state.memory.retries > retries:
            text = f"out of memory: at most {state.memory.token_limit} tokens at once from here on"
            self.folder.append_event(step, "memory", text, {})
        measured = self._evaluate(state) if evaluating else {}
        if recipe.probe_every and (step % recipe.probe_every == 0 or step >= recipe.steps):
            measured |= self._probe(state)
        counted = {GROUP_SUCCESSES: report.successes_P} if report.successes_P else {}
        self._record({"step": step, **report.metrics, **counted, **measured})
        if evaluating or self._looking or step == 1 or step % recipe.rollouts_every == 0:
            self.folder.write_rollouts(report, state)
        if step % recipe.checkpoint_every == 0:
            self.folder.write_checkpoint(state, recipe)

    def _keep_constraint_model(self, state: State, step: int) -> None:
        """Save a constraint reward model that was trained before this step."""
        model = state.constraint_model
        if model is not None and model.step == step and "given" not in model.settings:
            self.folder.write_constraint_model(model)

    def _say(self, line: str) -> None:
        self.doing = line

    def _take_up_changes(self, step: int) -> None:
        """Replay what a killed run had changed at this step, then take up what is asked for now."""
        if step in self._replay:
            changed = self.recipe.to_dict() | self._replay.pop(step)
            self.recipe = Recipe.from_dict(changed, self._known_functions())
        with self._lock:
            changes, self._changes = self._changes, {}
            before, self.recipe = self.recipe, self.recipe.replace(**changes)
        differences = before.diff(self.recipe)
        if differences:
            self.folder.append_event(step, "update", describe(differences), differences)
            self._feed.note(step, describe(differences))

    def _evaluate(self, state: State) -> dict[str, Any]:
        started = time.perf_counter()
        found = evaluate(
            state.policy,
            state.task,
            rows=state.eval_rows,
            prompts=self.recipe.eval_prompts,
            samples=self.recipe.eval_samples,
            max_new_tokens=self.recipe.max_new_tokens,
            keep=KEPT,
        )
        self.folder.write_held_out(found.kept, state)
        measured: dict[str, Any] = found.metrics()
        if len(found.successes_P):
            measured[EVAL_SUCCESSES] = found.successes_P.tolist()
        if self.recipe.cross_samples:
            measured |= crossed(state, self.recipe)
        return measured | {"time/eval": time.perf_counter() - started}

    def _probe(self, state: State) -> dict[str, float]:
        """Take a probe and save it; its numbers as probe/ metrics."""
        started = time.perf_counter()
        found = trace(
            state.policy,
            state.task,
            state.probe_rows,
            step=state.step,
            samples=self.recipe.probe_samples,
            max_new_tokens=self.recipe.max_new_tokens,
        )
        self.folder.write_probe(found)
        numbers = {f"probe/{name}": value for name, value in found.numbers().items()}
        numbers.pop("probe/step")
        return numbers | {"time/probe": time.perf_counter() - started}

    def _record(self, record: dict[str, Any]) -> None:
        """Disk, then memory, tracker and listeners."""
        record |= memory_use() | {"time": time.time()}
        self.folder.append_metrics(record)
        self.records.append(record)
        self._feed.record(record)
        for text in self._watch.note(record, self.recipe):
            self.folder.append_event(record["step"], "warning", text, {})
        self._on_record(record)

    def _set_status(self, status: str) -> None:
        if status != self.status:
            self.folder.write_status(status)
            self.status = status

    def _fail(self, error: BaseException, state: State | None) -> None:
        """Keep the error as text, save the batch of a non-finite loss, let go of what the error holds."""
        self.error = sentence(error, self.folder.path)
        step = state.step if state is not None else 0
        try:
            if isinstance(error, NonFiniteError) and state is not None:
                self.folder.write_rollouts(error.report, state, name="non-finite-batch")
            self.folder.write_error("".join(traceback.format_exception(error)))
            self.folder.append_event(step, "error", self.error, {})
            self.folder.write_status("failed", self.error)
        except OSError as disk_error:  # the disk itself may be what failed; memory still tells
            self.error += f" This could not be written to the run's folder: {disk_error}."
        kind = WorkbenchError if isinstance(error, WorkbenchError) else RunFailed
        self.exception = kind(self.error)  # made anew: the error's own frames hold on to the model


def memory_use() -> dict[str, float]:
    """memory/process now, and memory/gpu_peak where there is a GPU, in MiB, of this whole process."""
    found = {"memory/process": psutil.Process().memory_info().rss / 2**20}
    if torch.cuda.is_available():
        found["memory/gpu_peak"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def fitting_threads(state: State) -> int:
    """CPU threads that suit the model, for this thread alone.

    A tiny model's matrices are too small to share out: a second thread gains a fifth on an idle machine, and
    on a busy one its waiting costs fifty times the step.
    """
    parameters = sum(parameter.numel() for parameter in state.policy.model.parameters())
    return 1 if parameters < TINY else os.cpu_count() or 1
