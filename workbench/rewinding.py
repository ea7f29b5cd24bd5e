"""Going back to an earlier checkpoint of a run without losing what came after it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from workbench.folder import RunFolder

DATED = ("checkpoints", "rollouts", "held_out", "probes", "constraint_models")


def set_aside(folder: RunFolder, step: int) -> Path:
    """Move what came after `step` to a folder below ``rewound/`` and mark the step; returns that folder.

    It holds the whole metrics and events as they were, and the checkpoints, rollouts, probes and reward
    models after `step`. Updates after `step` are not taken up again. A kill on the way loses nothing: the run
    then goes on from its newest whole checkpoint, as after any kill.
    """
    metrics, events = folder.read_metrics(), folder.read_events()
    reached = max((record["step"] for record in metrics), default=step)
    target = _unused(folder.path / "rewound" / f"{reached:06d}-to-{step:06d}")
    target.mkdir(parents=True)
    for file in (folder.metrics_path, folder.events_path):
        if file.exists():
            shutil.copy2(file, target / file.name)
    for name in DATED:
        later = [p for p in (folder.path / name).glob("[0-9]*") if int(p.stem) > step]
        for path in sorted(
            later, reverse=True
        ):  # newest first: what is left is always a whole past
            (target / name).mkdir(exist_ok=True)
            os.replace(path, target / name / path.name)
    folder.replace_history(
        [record for record in metrics if record["step"] <= step],
        [event for event in events if event["step"] <= step],
    )
    text = f"rewound from step {reached} to {step}; the rest is in rewound/{target.name}"
    folder.append_event(step, "rewind", text, {})
    return target


def _unused(path: Path) -> Path:
    """`path`, or with a number behind it where that is taken."""
    names = (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, 1000)))
    return next(name for name in names if not name.exists())
