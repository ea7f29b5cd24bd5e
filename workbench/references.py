"""Reference: runs that are taken to have gone well, and the envelopes that are fitted on them.

An envelope is true for one model, task and probe: another probe has other prompts and other lengths. Those
of the shipped models are in data/references, made by `workbench claims intrinsic` from runs trained with
right answers as the reward; runs of your own make one with `watch.from_runs`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from workbench.alarms import Ranges
from workbench.geometry import Envelope
from workbench.packaged import data_path
from workbench.phase import CENTRES, SPACES, VOTE, Path, centre_path, distances, path, table
from workbench.probe import ProbeTrace
from workbench.tasks import TASKS
from workbench.variants import WorkbenchError, lookup
from workbench.warping import EntropyCentres, entropy_centres, resample

# Recipe fields that must agree before a run can be compared with a reference.
SETTINGS = (
    "model", "quantize", "task", "task_args", "max_new_tokens", "probe_prompts", "probe_samples",
)  # fmt: skip
DIGITS = 6  # significant ones, of the numbers in a file

Columns = Mapping[str, Any]  # see `phase.table`


def comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """SETTINGS of a recipe's values; parameters of the task that are at their defaults are left out.

    A panel writes all of them into its recipes, code only some.
    """
    row = TASKS.get(values["task"])
    args = {k: v for k, v in values["task_args"].items() if v != getattr(row, k, None)}
    return {name: values[name] for name in SETTINGS} | {"task_args": args}


@dataclass(frozen=True, eq=False)
class Reference:
    """The probes of the reference runs, as columns, and what is fitted on them.

    `near` holds each run's distances (N, K) to the centres, for P2; both are missing where only a run's
    metrics are known.
    """

    about: str
    settings: Mapping[str, Any]
    runs: Mapping[str, Columns]
    near: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    centres: EntropyCentres | None = None

    def path(self, run: str, columns: Columns, space: str = VOTE, near: Any = None) -> Path:
        """A run's path in one of SPACES; P2 needs its distances to this reference's centres."""
        lookup(dict.fromkeys(SPACES), "space", space)
        if space != CENTRES:
            return path(run, columns, space)
        if self.centres is None or near is None:
            raise WorkbenchError(
                f"Run {run!r} has no distances to entropy centres; this space needs the saved probes."
            )
        return centre_path(run, columns, near, self.centres.levels_K)

    def paths(self, space: str = VOTE) -> list[Path]:
        """The paths of the reference runs."""
        return [self.path(run, c, space, self.near.get(run)) for run, c in self.runs.items()]

    @functools.cache  # noqa: B019 - a reference lives as long as its envelopes are wanted
    def envelope(self, space: str = VOTE) -> Envelope:
        """The envelope in one of SPACES."""
        return Envelope.fit(self.paths(space))

    @functools.cache  # noqa: B019
    def ranges(self) -> Ranges:
        """The trivial predictor: the ranges of mean entropy and mean length."""
        return Ranges.fit(self.paths())

    def misfit(self, settings: Mapping[str, Any]) -> str:
        """In which settings other runs differ, as text; empty where they can be compared."""
        theirs, ours = comparable(settings), comparable(self.settings)
        return ", ".join(
            f"{name} {theirs[name]!r} (reference: {ours[name]!r})"
            for name in SETTINGS
            if theirs[name] != ours[name]
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, rounded."""
        centres = self.centres
        found = {
            "about": self.about,
            "settings": dict(self.settings),
            "runs": {run: {k: list(v) for k, v in c.items()} for run, c in self.runs.items()},
            "near": {run: np.asarray(rows).tolist() for run, rows in self.near.items()},
            "centres": None if centres is None else {
                "series": centres.series_KL.tolist(),
                "shares": centres.shares_K.tolist(),
                "silhouettes": {str(k): v for k, v in centres.silhouettes.items()},
                "band": centres.band,
            },
        }  # fmt: skip
        return _rounded(found)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reference:
        """The inverse of `to_dict`."""
        kept = data["centres"]
        centres = None
        if kept is not None:
            series_KL = np.array(kept["series"])
            centres = EntropyCentres(
                series_KL,
                series_KL.mean(1),
                np.array(kept["shares"]),
                {int(k): v for k, v in kept["silhouettes"].items()},
                kept["band"],
            )
        return cls(data["about"], data["settings"], data["runs"], data["near"], centres)


def from_traces(
    about: str, settings: Mapping[str, Any], traces: Mapping[str, Sequence[ProbeTrace]]
) -> Reference:
    """The reference of runs whose traces are at hand; the centres are of their responses, pooled."""
    if not traces:
        raise WorkbenchError("A reference needs one run or more that took probes.")
    pooled = [series for run in traces.values() for one in run for series in one.entropies]
    centres = entropy_centres(resample(pooled))
    return Reference(
        about,
        comparable(settings),
        {run: table(found) for run, found in traces.items()},
        {run: distances(found, centres).tolist() for run, found in traces.items()},
        centres,
    )


def save(reference: Reference, file: FilePath) -> None:
    """Write a reference as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in reference.to_dict().items()
    ]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load(file: FilePath) -> Reference:
    """The reference in a file."""
    try:
        return Reference.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(
            f"The reference {file} can't be read ({type(error).__name__}: {error}); make it again "
            "with workbench claims."
        ) from error


@functools.cache
def _shipped() -> tuple[Reference, ...]:
    return tuple(load(file) for file in sorted((data_path() / "references").glob("*.json")))


def shipped(settings: Mapping[str, Any]) -> Reference | None:
    """The shipped reference for a recipe's values, None where there is none."""
    return next((one for one in _shipped() if not one.misfit(settings)), None)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value
