"""The convex hull of the runs that went well, and where another run lies beside it.

Axes are scaled by the reference runs; the envelope is the hull of their points (`phase`) after burn-in.

Source: method note on "manifold envelopment" (arXiv 2603.16578), section 5.1, step 3. The paper's text was
not accessible: scaling, burn-in and window are a reconstruction. A digest of the paper itself calls the
geometry a metaphor without a strict definition; read it as a picture with numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.spatial import ConvexHull, QhullError

from workbench.phase import ACCURACY, Path
from workbench.variants import WorkbenchError

Array = NDArray[np.float64]

BURN = 0.1  # of a reference run's checkpoints, rounded up, that the envelope leaves out
VOLUME_WINDOW = 20  # checkpoints of a windowed hull
FLAT = 1e-9  # of the largest extent: a direction with less is none
NEAR = 1e-9  # scaled units: a point this close to the hull is inside


def burn_step(paths: Sequence[Path], burn: float = BURN) -> int:
    """The first step after the burn-in of every one of the runs."""
    if not paths:
        raise WorkbenchError("There is no reference run; give the paths of one or more.")
    starts = []
    for one in paths:
        dropped = int(np.ceil(burn * len(one.steps_N) - 1e-9))
        if dropped >= len(one.steps_N):
            raise WorkbenchError(
                f"Run {one.run!r} is too short for a burn-in; trace it more often."
            )
        starts.append(int(one.steps_N[dropped]))
    return max(starts)


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and standard deviation of each axis over the reference; an axis without spread has unit 1."""

    mean_D: Array
    std_D: Array

    @classmethod
    def fit(cls, points_ND: ArrayLike) -> Scale:
        """The scale of pooled points."""
        points_ND = np.asarray(points_ND, dtype=np.float64)
        std_D = points_ND.std(0)
        # A constant column has a tiny spread of rounding, which must not become a unit.
        spread = std_D > FLAT * np.maximum(1.0, np.abs(points_ND).max(0))
        return cls(points_ND.mean(0), np.where(spread, std_D, 1.0))

    def __call__(self, points_ND: ArrayLike) -> Array:
        """Raw points in units of the reference."""
        return (np.asarray(points_ND, dtype=np.float64) - self.mean_D) / self.std_D

    def undo(self, points_ND: ArrayLike) -> Array:
        """Scaled points as they were."""
        return np.asarray(points_ND, dtype=np.float64) * self.std_D + self.mean_D


# ------------------------------------------------------------------ hulls


@dataclass(frozen=True, eq=False)
class Hull:
    """A convex hull as half-spaces, normals_FD @ x <= offsets_F, with its corners.

    Points that lie in a plane, a line or one place have volume 0 and still enclose: the hull is taken
    within the subspace that they span, and leaving that subspace is leaving the hull. Qhull's joggle is
    not used, since it would make the answer random in the last digits and the volume falsely positive.
    """

    normals_FD: Array
    offsets_F: Array
    corners_MD: Array
    volume: float
    rank: int  # dimensions spanned

    @classmethod
    def of(cls, points_ND: ArrayLike) -> Hull:
        """The hull of one point or more."""
        points_ND = np.asarray(points_ND, dtype=np.float64)
        if points_ND.ndim != 2 or not points_ND.size or not np.isfinite(points_ND).all():
            raise WorkbenchError(
                "A hull needs a finite array of points (N, D) with one row or more."
            )
        centre_D = points_ND.mean(0)
        few = len(points_ND) < points_ND.shape[1]
        _, extents, axes_DD = np.linalg.svd(points_ND - centre_D, full_matrices=few)
        # The second bound is the rounding of the subtraction: far from 0, equal points differ by it.
        size = max(FLAT * extents.max(), 1e-13 * np.abs(points_ND).max())
        rank = int((extents > size).sum())
        while True:
            try:
                return cls._within(points_ND, centre_D, axes_DD, rank)
            except QhullError:  # flatter than Qhull's precision
                rank -= 1

    @classmethod
    def _within(cls, points_ND: Array, centre_D: Array, axes_DD: Array, rank: int) -> Hull:
        dimensions = points_ND.shape[1]
        if rank == dimensions > 1:
            hull = ConvexHull(points_ND)
            normals_FD, offsets_F = hull.equations[:, :-1], -hull.equations[:, -1]
            return cls(normals_FD, offsets_F, points_ND[hull.vertices], float(hull.volume), rank)
        inside_NR = (points_ND - centre_D) @ axes_DD[:rank].T
        if rank > 1:
            hull = ConvexHull(inside_NR)
            normals_FR, offsets_F, corners = (
                hull.equations[:, :-1],
                -hull.equations[:, -1],
                hull.vertices,
            )
        elif rank == 1:
            normals_FR = np.array([[1.0], [-1.0]])
            offsets_F = np.array([inside_NR.max(), -inside_NR.min()])
            corners = np.array([inside_NR.argmin(), inside_NR.argmax()])
        else:
            normals_FR, offsets_F, corners = np.empty((0, 0)), np.empty(0), np.array([0])
        across = axes_DD[rank:]  # the directions without extent, closed from both sides
        normals_FD = np.concatenate([normals_FR @ axes_DD[:rank], across, -across])
        offsets_F = np.concatenate([offsets_F, np.zeros(2 * len(across))]) + normals_FD @ centre_D
        volume = float(offsets_F[0] + offsets_F[1]) if rank == dimensions else 0.0
        return cls(normals_FD, offsets_F, points_ND[corners], volume, rank)

    def inside(self, points_ND: ArrayLike) -> NDArray[np.bool_]:
        """Which points (N) lie inside or on the border; agrees with Delaunay.find_simplex >= 0."""
        beyond_NF = np.asarray(points_ND, dtype=np.float64) @ self.normals_FD.T - self.offsets_F
        return (beyond_NF <= NEAR).all(1)

    def distance(self, points_ND: ArrayLike) -> Array:
        """Euclidean distance (N) to the hull, 0 inside."""
        points_ND = np.asarray(points_ND, dtype=np.float64)
        found = np.zeros(len(points_ND))
        for row in np.flatnonzero(~self.inside(points_ND)):
            found[row] = self._least_move(points_ND[row])
        return found

    def _least_move(self, point_D: Array) -> float:
        """The shortest z with normals (point + z) <= offsets.

        Least distance programming by non-negative least squares: Lawson and Hanson 1974, chapter 23.
        """
        needed_F = self.normals_FD @ point_D - self.offsets_F
        unit = np.abs(needed_F).max()  # so that neither row of the system drowns the other
        system = np.concatenate([-self.normals_FD.T, needed_F[None] / unit])
        target = np.zeros(len(system))
        target[-1] = 1.0
        weights_F, _ = nnls(system, target)
        residual = system @ weights_F - target
        return float(np.linalg.norm(residual[:-1] / residual[-1]) * unit)


def volume(points_ND: ArrayLike) -> float:
    """Volume of the convex hull; 0 for fewer than D + 1 points and for points in a plane."""
    return Hull.of(points_ND).volume


def windowed_volume(points_ND: ArrayLike, window: int = VOLUME_WINDOW) -> Array:
    """Volume (N) of the hull of the last `window` points at each point; NaN before there are as many."""
    points_ND = np.asarray(points_ND, dtype=np.float64)
    if window < 1:
        raise WorkbenchError(f"The window is {window!r}; give a number of checkpoints.")
    found = np.full(len(points_ND), np.nan)
    for end in range(window, len(points_ND) + 1):
        found[end - 1] = volume(points_ND[end - window : end])
    return found


def step_lengths(points_ND: ArrayLike) -> Array:
    """|dx| (N) from the checkpoint before; NaN at the first."""
    points_ND = np.asarray(points_ND, dtype=np.float64)
    return np.append(np.nan, np.linalg.norm(np.diff(points_ND, axis=0), axis=1))


# ------------------------------------------------------------------ the envelope


@dataclass(frozen=True, eq=False)
class Envelope:
    """The hull of the reference runs' scaled points after burn-in."""

    runs: tuple[Path, ...]
    axes: tuple[str, ...]
    scale: Scale
    hull: Hull
    burn_step: int  # steps before it are judged neither here nor in another run

    @classmethod
    def fit(cls, paths: Sequence[Path], burn: float = BURN) -> Envelope:
        """The envelope of runs that are taken to have gone well; which ones is the caller's claim.

        Few runs make a narrow hull: points drawn like those of 2, 5 and 10 runs of 40 checkpoints lie
        inside to 76, 85 and 93 % (Gaussian, measured). A margin in verdicts and warnings makes up for it.
        """
        first = burn_step(paths, burn)
        axes = paths[0].axes
        if any(one.axes != axes for one in paths):
            raise WorkbenchError("The reference runs have different axes; make their paths alike.")
        points_ND = np.concatenate([one.points_ND[one.steps_N >= first] for one in paths])
        scale = Scale.fit(points_ND)
        return cls(tuple(paths), axes, scale, Hull.of(scale(points_ND)), first)

    @property
    def volume(self) -> float:
        """In reference units cubed; 0 where the points lie in a plane."""
        return self.hull.volume

    @property
    def sees_labels(self) -> bool:
        """Whether accuracy is one of the axes."""
        return ACCURACY in self.axes

    def scaled(self, one: Path) -> Array:
        """A path's points in reference units."""
        if one.axes != self.axes:
            raise WorkbenchError(
                f"Run {one.run!r} has the axes {', '.join(one.axes)}, the envelope "
                f"{', '.join(self.axes)}; make the path as those of the reference."
            )
        return self.scale(one.points_ND)

    def beyond(self, one: Path) -> Array:
        """Distance (N) outside, in reference units, 0 inside."""
        return self.hull.distance(self.scaled(one))

    def typical(self, window: int) -> float:
        """Median windowed volume of the reference after burn-in; NaN if no run is as long as a window."""
        return _median(
            windowed_volume(self.scaled(one)[one.steps_N >= self.burn_step], window)
            for one in self.runs
        )

    def initial(self, window: int) -> tuple[float, float]:
        """Volume of the reference's first window, burn-in included, and mean |dx| in it: medians."""
        starts = [self.scaled(one)[:window] for one in self.runs]
        volumes = [windowed_volume(points_ND, window)[-1:] for points_ND in starts]
        return _median(volumes), _median(
            step_lengths(one)[1:].mean(keepdims=True) for one in starts
        )


def _median(parts: Iterable[Array]) -> float:
    values = np.concatenate(list(parts))
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


@dataclass(frozen=True, eq=False)
class Course:
    """A path beside an envelope, checkpoint by checkpoint, in reference units."""

    steps_N: NDArray[np.int64]
    points_ND: Array
    volumes_N: Array
    lengths_N: Array
    distances_N: Array

    @property
    def inside_N(self) -> NDArray[np.bool_]:
        """Which checkpoints lie inside."""
        return self.distances_N == 0

    def share_inside(self, last: float = 0.5, margin: float = 0.0) -> float:
        """Share of the last part of the checkpoints that lies inside, or no more than `margin` outside."""
        part = self.distances_N[-max(1, round(last * len(self.steps_N))) :]
        return float((part <= margin).mean())


def course(one: Path, envelope: Envelope, window: int = VOLUME_WINDOW) -> Course:
    """Where a run is, how fast it moves and how much room it takes."""
    points_ND = envelope.scaled(one)
    return Course(
        one.steps_N,
        points_ND,
        windowed_volume(points_ND, window),
        step_lengths(points_ND),
        envelope.hull.distance(points_ND),
    )
