"""A run as a path through three numbers, one point for each probe.

P1: mean token entropy, log mean length, and the majority-vote share or the accuracy. P2: mean DTW distance
of the responses to each of three entropy centres. P1 is made of the few numbers that a probe leaves in a
run's metrics; P2 needs the traces themselves.

Source: method note on "manifold envelopment" (arXiv 2603.16578), section 5.1, step 2. The paper's text was
not accessible and its three axes are not known: both spaces are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.probe import ProbeTrace
from workbench.variants import WorkbenchError
from workbench.warping import EntropyCentres, resample

Array = NDArray[np.float64]

ACCURACY, VOTE, CENTRES = "accuracy", "majority-vote share", "entropy centres"
SPACES = (VOTE, ACCURACY, CENTRES)  # P1 without labels, P1 with them, P2


@dataclass(frozen=True, eq=False)
class Path:
    """One run in phase space: a raw point per probe, and what a verdict looks at besides.

    Everything but `accuracy_N` is label-free, the points too unless accuracy is an axis.
    """

    run: str
    steps_N: NDArray[np.int64]
    points_ND: Array
    axes: tuple[str, ...]
    entropy_N: Array  # nats, mean over tokens
    length_N: Array  # tokens, mean over responses
    distinct_N: Array  # different answers per prompt; NaN where prompts have one response
    truncated_N: Array  # share of responses without an end
    accuracy_N: Array | None = None

    @property
    def sees_labels(self) -> bool:
        """Whether accuracy is one of the axes: then the geometry knows what it should foretell."""
        return ACCURACY in self.axes


def table(traces: Sequence[ProbeTrace]) -> dict[str, list[float]]:
    """The numbers of every trace as columns, in order of step: see `ProbeTrace.numbers`."""
    rows = [trace.numbers() for trace in sorted(traces, key=lambda trace: trace.step)]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, float("nan")) for row in rows] for name in names}


def distances(traces: Sequence[ProbeTrace], centres: EntropyCentres) -> Array:
    """Mean DTW distance (N, K), in nats, of each trace's responses to each centre, in order of step."""
    length = centres.series_KL.shape[1]
    ordered = sorted(traces, key=lambda trace: trace.step)
    return np.stack([centres.distances(resample(t.entropies, length)).mean(0) for t in ordered])


def path(run: str, columns: Mapping[str, Any], height: str = VOTE) -> Path:
    """P1: the path of a run from the columns of its probes (`table`, or a run's metrics)."""
    if height not in (VOTE, ACCURACY):
        raise WorkbenchError(f"Unknown height {height!r}; give {VOTE!r} or {ACCURACY!r}.")
    entropy_N, length_N = _column(columns, "entropy"), _column(columns, "length")
    z_N = _column(columns, "accuracy" if height == ACCURACY else "vote_share")
    if np.isnan(z_N).any():
        wanted = "labels" if height == ACCURACY else "two responses or more to a prompt"
        raise WorkbenchError(f"Run {run!r} has no {height} at every probe: it needs {wanted}.")
    points_ND = np.stack([entropy_N, np.log(length_N), z_N], 1)
    axes = ("mean token entropy (nats)", "log mean length", height)
    return _path(run, columns, points_ND, axes)


def centre_path(
    run: str, columns: Mapping[str, Any], distances_NK: ArrayLike, levels_K: ArrayLike
) -> Path:
    """P2: the path through the distances (N, K) to entropy centres of the levels (K), in nats."""
    axes = tuple(f"distance to the centre of {x:.3f} nats" for x in np.asarray(levels_K).tolist())
    return _path(run, columns, np.asarray(distances_NK, dtype=np.float64), axes)


def _path(run: str, columns: Mapping[str, Any], points_ND: Array, axes: tuple[str, ...]) -> Path:
    steps_N = _column(columns, "step").astype(np.int64)
    if not len(steps_N) or (np.diff(steps_N) <= 0).any():
        raise WorkbenchError(
            f"Run {run!r} needs probes, one for each step and in their order; drop the repeated ones."
        )
    if points_ND.shape != (len(steps_N), len(axes)):
        raise WorkbenchError(
            f"Run {run!r} has {len(steps_N)} probes on {len(axes)} axes, but points of shape "
            f"{points_ND.shape}; make both from the same traces."
        )
    accuracy_N = _column(columns, "accuracy")
    return Path(
        run, steps_N, points_ND, axes,
        entropy_N=_column(columns, "entropy"),
        length_N=_column(columns, "length"),
        distinct_N=_column(columns, "distinct"),
        truncated_N=_column(columns, "truncated"),
        accuracy_N=None if np.isnan(accuracy_N).any() else accuracy_N,
    )  # fmt: skip


def _column(columns: Mapping[str, Any], name: str) -> Array:
    """A column as floats; NaN throughout where there is none, and for what was kept as None."""
    if name not in columns:
        return np.full(len(columns.get("step", ())), np.nan)
    return np.array([np.nan if value is None else value for value in columns[name]], np.float64)
