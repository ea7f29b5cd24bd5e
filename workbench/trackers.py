"""Trackers: where a run's numbers also go, for those who keep their experiments in such a tool.

All of them stay on this machine. A tracker gets every finite number of a step's line under its name in
metrics.jsonl, the recipe as the run's configuration, and what was changed as text. It is fed after the line
is on the disk, and one that breaks is let go with a warning among the events: the run goes on without it.

- trackio writes where trackio always does ($TRACKIO_DIR, or its folder in the Hugging Face cache), so that
  `trackio show --project workbench` finds every run beside the others. It knows a run by its folder's name.
- tensorboard writes event files into the run's tensorboard/.
- wandb writes an offline run into the run's wandb/; `wandb sync` sends it if you want that.

A run that is resumed goes on in the same tracker's run, as far as the package can: tensorboard hides what
came after the step gone back to, trackio shows both, wandb writes a further offline folder with the same id.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.variants import WorkbenchError, lookup

PROJECT = "workbench"
NOT_NUMBERS = ("step", "time")  # every tracker keeps these two by itself
# With one of these set, trackio sends what it gets to another machine.
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


@dataclass(frozen=True)
class Tracker:
    """An open tracker of one run."""

    log: Callable[[int, dict[str, float]], object]  # the numbers of a step
    note: Callable[[int, str], object]  # what was changed at a step
    finish: Callable[[], object]


def none(folder: Path, config: dict[str, Any], step: int) -> Tracker:
    """No tracker; the run's folder holds everything anyway."""
    return Tracker(lambda step, numbers: None, lambda step, text: None, lambda: None)


def trackio(folder: Path, config: dict[str, Any], step: int) -> Tracker:
    """A trackio run in its local database, project "workbench", named after the run's folder."""
    import trackio

    run = trackio.init(
        project=PROJECT,
        name=folder.name,
        config=config,
        resume="allow" if step else "never",
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return Tracker(
        log=lambda step, numbers: run.log(numbers, step=step),
        note=lambda step, text: run.log({"event": trackio.Markdown(text)}, step=step),
        finish=run.finish,
    )


def tensorboard(folder: Path, config: dict[str, Any], step: int) -> Tracker:
    """Event files in the run's tensorboard/; what was there from `step` on is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
    recipe = json.dumps(config, indent=1, default=str)
    writer.add_text("recipe", f"```\n{recipe}\n```", step)

    def log(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # else a live page lags two minutes behind

    return Tracker(
        log=log,
        note=lambda step, text: writer.add_text("events", text, step),
        finish=writer.close,
    )


def wandb(folder: Path, config: dict[str, Any], step: int) -> Tracker:
    """A W&B run in the run's wandb/, offline, project "workbench"."""
    os.environ.setdefault(
        "WANDB_ERROR_REPORTING", "false"
    )  # its own errors are sent home otherwise
    import wandb

    (folder / "wandb").mkdir(exist_ok=True)  # without it wandb writes to a temporary folder
    run = wandb.init(
        project=PROJECT,
        name=folder.name,
        id=_kept_id(folder / "wandb" / "run-id.txt"),
        config=config,
        dir=str(folder),
        mode="offline",
        # Several runs may live in one process, and none of them owns its output or is "the" run.
        settings={"reinit": "create_new", "console": "off", "silent": True},
    )
    return Tracker(
        log=lambda step, numbers: run.log(numbers, step=step, commit=True),
        note=lambda step, text: run.log({"event": text}, step=step),
        finish=run.finish,
    )


TRACKERS: dict[str, Callable[[Path, dict[str, Any], int], Tracker]] = {
    "none": none,
    "trackio": trackio,
    "tensorboard": tensorboard,
    "wandb": wandb,
}


class Feed:
    """What a run gives its tracker. One that breaks is let go, which `warn` is told with the step."""

    def __init__(self, warn: Callable[[int, str], object]) -> None:
        self._warn = warn
        self._name = "none"
        self._step = 0
        self._tracker: Tracker | None = None

    def open(self, name: str, folder: Path, config: dict[str, Any], step: int) -> None:
        """Open the tracker `name`, after closing the one before; `step` is the first that will come."""
        self.close()
        self._name, self._step = name, step
        self._try(lambda: TRACKERS[name](folder, config, step))

    def record(self, record: Mapping[str, Any]) -> None:
        """Give it the numbers of a step's record."""
        self._step, tracker = record["step"], self._tracker
        if tracker is not None:
            self._try(lambda: tracker.log(record["step"], numbers(record)))

    def note(self, step: int, text: str) -> None:
        """Give it a line on what was changed at `step`."""
        self._step, tracker = step, self._tracker
        if tracker is not None:
            self._try(lambda: tracker.note(step, text))

    def close(self) -> None:
        """Finish it; twice is harmless."""
        if self._tracker is not None:
            self._try(self._tracker.finish)
        self._tracker = None

    def _try(self, act: Callable[[], object]) -> None:
        """Do it; keep a tracker that comes of it, let go of the one at hand if it fails."""
        try:
            found = act()
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever it raises, the run goes on
            tracker, self._tracker = self._tracker, None
            reason = " ".join(str(error).split())[:300]
            text = (
                f"the tracker {self._name} failed and is left out from here: {type(error).__name__}"
            )
            with contextlib.suppress(OSError):  # a full disk is told by the run's own next line
                self._warn(self._step, f"{text}: {reason}" if reason else text)
            if tracker is not None:
                with contextlib.suppress(Exception, SystemExit):
                    tracker.finish()
        else:
            if isinstance(found, Tracker):
                self._tracker = found


def check_tracker(name: str) -> None:
    """Raise WorkbenchError unless the tracker `name` can be opened here and stays on this machine."""
    lookup(TRACKERS, "tracker", name)
    if name == "none":
        return
    try:
        importlib.metadata.version(name)  # the packages are named as the trackers are
    except importlib.metadata.PackageNotFoundError as error:
        raise WorkbenchError(
            f"The tracker {name!r} needs the package {name}, which is not installed here; run: "
            'pip install "rlvr-workbench[trackers]"'
        ) from error
    for variable in ELSEWHERE if name == "trackio" else ():
        if os.environ.get(variable):
            raise WorkbenchError(
                f"{variable} is set, so trackio would send the run away from this machine; unset it, and "
                "use trackio's own sync afterwards."
            )


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a step's record by name, but for its step and time."""
    return {
        name: value
        for name, value in record.items()
        if name not in NOT_NUMBERS and isinstance(value, (int, float)) and math.isfinite(value)
    }


def _kept_id(file: Path) -> str:
    """The id in `file`; a new one is drawn and kept where there is none."""
    if not file.exists():
        file.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
