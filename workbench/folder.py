"""The folder of a run: the truth about it, readable with pandas and a text editor.

recipe.yaml          the recipe it started with
metrics.jsonl        one line a step, flushed at once; step 0 is the base model
events.jsonl         what changed and when: updates, forks, resumes, failures
rollouts/000010.parquet
held_out/000010.parquet  the first completions of the first held-out prompts, at each evaluation
probes/000010.parquet  what the geometry looks at: one row per response to the probe's prompts
constraint_models/000001/  a constraint reward model that was trained before that step, and measured.json
checkpoints/000010/  adapter_model.safetensors + adapter_config.json (plain peft), optimizer.safetensors,
                     reference.safetensors (only of a moving reference), state.json (step, recipe,
                     memory, constraint model, file sizes); complete or absent, never half
status.json          what the run is doing, and which process does it
error.txt            the traceback of a failed run
about.json           the tags that a person gave it; absent without any
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workbench.growing import GrowingFile
from workbench.labelling import ConstraintModel, load
from workbench.optimizing import load_optimizer, optimizer_tensors
from workbench.probe import ProbeTrace
from workbench.recipe import Recipe
from workbench.rollout import Rollouts
from workbench.tables import held_out_table, probe_table, rollout_table, write_parquet
from workbench.trainer import Report, State
from workbench.variants import WorkbenchError

# The two entries of a step's line that are lists: how many completions of each prompt are right.
GROUP_SUCCESSES, EVAL_SUCCESSES = "groups/successes", "eval/successes"
FORMAT = 1  # raised when the layout of a run's folder changes
OWN_FILES = ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors")
REFERENCE_FILE = "reference.safetensors"  # only where the reference moves


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the files of one run."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    # --- metrics and events -------------------------------------------------------------------

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Write one step's line and flush it, before anybody sees its numbers."""
        if record["step"] and not self.metrics_path.exists():
            raise FileNotFoundError(f"{self.metrics_path} is no longer there")  # not begun anew
        _append(self.metrics_path, record)

    def append_event(self, step: int, kind: str, text: str, changes: dict[str, Any]) -> None:
        """Write one event's line and flush it; `step` is the first step that it concerns."""
        event = {"step": step, "time": time.time(), "kind": kind, "text": text, "changes": changes}
        _append(self.events_path, event)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines; a last line cut short by a kill or a full disk is left out."""
        return _read_lines(self.metrics_path)

    def read_events(self) -> list[dict[str, Any]]:
        """All whole lines of the events."""
        return _read_lines(self.events_path)

    def rewind(self, step: int, replaced: Iterable[str] = ()) -> dict[int, dict[str, Any]]:
        """Drop what came after `step` (metrics, completions, probes, reward models): it will be made again.

        Returns the updates after `step` to take up again: step -> new values. Fields in `replaced` are
        left out of them, and struck from the events, since they are being set anew.
        """
        replay: dict[int, dict[str, Any]] = {}
        events = self.read_events()
        for event in events:
            if event["kind"] == "update" and event["step"] > step:
                for name in set(replaced) & set(event["changes"]):
                    event["text"] += f" ({name} taken back)"
                    del event["changes"][name]
                replay[event["step"]] = {name: new for name, (_, new) in event["changes"].items()}
        kept = [record for record in self.read_metrics() if record["step"] <= step]
        self.replace_history(kept, events)
        for file in (*self.rollout_files(), *self.held_out_files(), *self.probe_files()):
            if int(file.stem) > step:
                file.unlink()
        for model in set(self.constraint_models()) - set(self.constraint_models(step)):
            shutil.rmtree(model)
        return replay

    def replace_history(self, metrics: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        """Write metrics and events anew, each file whole or not at all."""
        _write_lines(self.events_path, events)
        _write_lines(self.metrics_path, metrics)

    def copy_history(self, parent: RunFolder, step: int) -> None:
        """Take over the parent's metrics, events, probes, held-out completions, reward models to `step`."""
        for name in ("metrics", "events"):
            lines = getattr(parent, f"read_{name}")()
            _write_lines(self.path / f"{name}.jsonl", [x for x in lines if x["step"] <= step])
        for file in (*parent.probe_files(), *parent.held_out_files()):
            if int(file.stem) <= step:
                target = self.path / file.parent.name / file.name
                target.parent.mkdir(exist_ok=True)
                shutil.copy2(file, target)
        for model in parent.constraint_models(step):
            target = self.path / "constraint_models" / model.name
            shutil.copytree(model, target, dirs_exist_ok=True)

    # --- recipe and status --------------------------------------------------------------------

    def write_recipe(self, recipe: Recipe) -> None:
        replace_text(self.path / "recipe.yaml", recipe.to_yaml())

    def read_recipe_text(self) -> str:
        return (self.path / "recipe.yaml").read_text(encoding="utf-8")

    def write_status(self, status: str, error: str | None = None) -> None:
        """Say what the run is doing, and which process does it."""
        record = {
            "status": status,
            "error": error,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "time": time.time(),
        }
        replace_text(self.path / "status.json", json.dumps(record) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The last status; "interrupted" when the process that held the run is gone."""
        try:
            record = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {"status": "interrupted", "error": None, "live": False}
        active = record["status"] in ("starting", "running", "paused")
        here = record.get("host") == socket.gethostname()
        # A process on another host can't be asked; the run is taken to be alive there.
        same = here and _process_started(record["pid"]) == record["process_started"]
        record["live"] = active and (same or not here)
        if active and not record["live"]:
            record["status"] = "interrupted"
        return record

    def write_error(self, text: str) -> None:
        replace_text(self.path / "error.txt", text)

    # --- rollouts -----------------------------------------------------------------------------

    def rollout_files(self) -> list[Path]:
        """Saved batches in the order of their steps."""
        return _numbered(self.path / "rollouts", ".parquet")

    def write_rollouts(self, report: Report, state: State, name: str = "") -> Path:
        """Save one step's batch as Parquet, under its step number or `name`."""
        target = self.path / "rollouts" / f"{name or f'{report.step:06d}'}.parquet"
        return write_parquet(rollout_table(report, state), target)

    def held_out_files(self) -> list[Path]:
        """Saved completions of held-out prompts, in the order of their evaluations."""
        return _numbered(self.path / "held_out", ".parquet")

    def write_held_out(self, kept: Sequence[Rollouts], state: State) -> Path:
        """Save the completions that an evaluation kept as Parquet, under the step it was done at."""
        target = self.path / "held_out" / f"{state.step:06d}.parquet"
        return write_parquet(held_out_table(kept, state), target)

    # --- probes -------------------------------------------------------------------------------

    def probe_files(self) -> list[Path]:
        """Saved probes in the order of their steps."""
        return _numbered(self.path / "probes", ".parquet")

    def write_probe(self, trace: ProbeTrace) -> Path:
        """Save one probe as Parquet, under its step number."""
        return write_parquet(probe_table(trace), self.path / "probes" / f"{trace.step:06d}.parquet")

    # --- constraint reward models --------------------------------------------------------------

    def constraint_models(self, step: int | None = None) -> list[Path]:
        """Saved constraint reward models, oldest first, by the step before which each was trained.

        With `step` only those that a run which has done `step` steps has used.
        """
        found = sorted((self.path / "constraint_models").glob("[0-9]*"))
        return [path for path in found if step is None or int(path.name) <= step]

    def constraint_model_path(self, step: int) -> Path:
        """Where the constraint reward model that was trained before `step` is kept."""
        return self.path / "constraint_models" / f"{step:06d}"

    def write_constraint_model(self, model: ConstraintModel) -> Path:
        """Save a constraint reward model that was trained in the run; whole or not at all."""
        target = self.constraint_model_path(model.step)
        partial = target.with_name(f".part-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        model.save(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        return target

    # --- checkpoints --------------------------------------------------------------------------

    def checkpoints(self, known: Collection[int] = ()) -> list[Path]:
        """Complete checkpoints, oldest first; one that was cut short is passed over.

        Those of the steps `known` are taken to be complete.
        """
        found = _numbered(self.path / "checkpoints")
        return [path for path in found if int(path.name) in known or _complete(path)]

    def write_checkpoint(self, state: State, recipe: Recipe) -> Path:
        """Save adapter, optimiser, step and recipe; the folder appears whole or not at all."""
        target = self.path / "checkpoints" / f"{state.step:06d}"
        partial = target.with_name(f".part-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state.policy.save(partial)
        save_file(
            optimizer_tensors(state.optimizer, state.policy.trainable()),
            partial / "optimizer.safetensors",
        )
        if state.memory.reference is not None:
            tensors = {name: t.cpu().contiguous() for name, t in state.memory.reference.items()}
            save_file(tensors, partial / REFERENCE_FILE)
        model = state.constraint_model
        own = None if model is None or "given" in model.settings else model.step
        self._seal(partial, state.step, recipe, state.memory.to_dict(), own)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        return target

    def adopt_checkpoint(self, source: Path, recipe: Recipe) -> Path:
        """Copy another run's checkpoint here, to go on from it with `recipe`."""
        target = self.path / "checkpoints" / source.name
        partial = target.with_name(f".part-{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        known = _state_record(source)
        model = known.get("constraint_model")
        self._seal(partial, int(source.name), recipe, known.get("memory", {}), model)
        os.replace(partial, target)
        return target

    @staticmethod
    def _seal(
        folder: Path, step: int, recipe: Recipe, memory: dict[str, Any], model: int | None
    ) -> None:
        """Write state.json last, with the sizes of the other files, and push all of it to the disk.

        `model` is the step of the run's own constraint reward model that is in force, if one is.
        """
        names = [name for name in (*OWN_FILES, REFERENCE_FILE) if (folder / name).exists()]
        record = {
            "format": FORMAT,
            "step": step,
            "recipe": recipe.to_dict(),
            "memory": memory,
            "constraint_model": model,
            "sizes": {name: (folder / name).stat().st_size for name in names},
        }
        (folder / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        for name in (*names, "state.json"):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())


def read_checkpoint_recipe(checkpoint: Path, functions: Iterable[Any] = ()) -> Recipe:
    """The recipe that was in force when `checkpoint` was written."""
    return Recipe.from_dict(_state_record(checkpoint)["recipe"], functions)


def restore(state: State, checkpoint: Path) -> None:
    """Put a checkpoint's adapter, optimiser, step and constraint reward model into `state`."""
    try:
        state.policy.load_state(load_file(checkpoint / "adapter_model.safetensors"))
        tensors = load_file(checkpoint / "optimizer.safetensors")
        kept = checkpoint / REFERENCE_FILE
        device = str(state.policy.device)
        reference = load_file(kept, device=device) if kept.exists() else None
    except (SafetensorError, OSError) as error:
        raise WorkbenchError(
            f"Checkpoint {checkpoint.name} can't be read ({error}); delete its folder "
            "and resume again to go on from the one before."
        ) from error
    load_optimizer(state.optimizer, state.policy.trainable(), tensors)
    record = _state_record(checkpoint)
    state.memory.load(record.get("memory", {}), reference)
    state.step = record["step"]
    trained = record.get("constraint_model")
    if trained is not None:  # else none, or one that was given, which the next step loads again
        kept = RunFolder(checkpoint.parents[1]).constraint_model_path(trained)
        state.constraint_model = load(kept, state.policy.device)
    state.policy.refresh_sampler()


def _state_record(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def _complete(checkpoint: Path) -> bool:
    """True when state.json can be read and every file has the size it says."""
    try:
        record = _state_record(checkpoint)
        return record["format"] == FORMAT and all(
            (checkpoint / name).stat().st_size == size for name, size in record["sizes"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _numbered(folder: Path, ending: str = "") -> list[Path]:
    """What is named by a step, in that order; sorted as names, which is much sooner than as paths."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if name[0].isdigit() and name.endswith(ending)]


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return GrowingFile(path, list).now()


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))


def replace_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".part-{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _process_started(pid: int) -> float | None:
    """When process `pid` began, or None if there is none; tells a process from a later one of its number."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
