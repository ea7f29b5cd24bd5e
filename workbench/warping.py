"""Entropy series compared by dynamic time warping, and the centres that their clusters have.

The distance of two series of equal length is the root of the summed squared differences along their
cheapest alignment within a Sakoe-Chiba band (dtaidistance, C); clusters are k-medoids on the matrix of
distances (Bio.Cluster, C), started from seeds of ours, so that a result repeats.

Source: method note on "manifold envelopment" (arXiv 2603.16578), section 5.1, step 1. The paper's text
was not accessible: 64 points, the window of 5, the band of 10 % and three centres are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from Bio.Cluster import kmedoids
from dtaidistance import dtw
from numpy.typing import ArrayLike, NDArray

from workbench.variants import WorkbenchError

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

LENGTH = 64  # points of a resampled series
WINDOW = 5  # points of the moving mean
BAND = 0.1  # of the length: how far apart two aligned points may lie
KS = (2, 3, 4, 5)  # numbers of clusters that are compared by silhouette
CENTRES = 3  # as many as the phase space has axes
RESTARTS = 10
LIMIT = 2_000  # series in one matrix: 4 million distances, 32 MB, some 5 s


def resample_series(series: ArrayLike, length: int = LENGTH, window: int = WINDOW) -> Array:
    """A series of any length (T,) as `length` points, linear in between, then a centred moving mean.

    The mean takes fewer points towards either end, always as many on both sides: a straight line stays
    one. A series of one token becomes a constant.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise WorkbenchError("A series is empty or not finite; give one number per token.")
    if length < 2 or window < 1 or window % 2 == 0:
        raise WorkbenchError("Give resample_series a length of 2 or more and an odd window.")
    places = np.linspace(0, len(values) - 1, length)
    found = np.interp(places, np.arange(len(values)), values)
    total = np.append(0.0, np.cumsum(found))
    at = np.arange(length)
    half = np.minimum(window // 2, np.minimum(at, length - 1 - at))
    return (total[at + half + 1] - total[at - half]) / (2 * half + 1)


def resample(series: Iterable[ArrayLike], length: int = LENGTH, window: int = WINDOW) -> Array:
    """Many series as one array (N, length); see `resample_series`."""
    return np.stack([resample_series(row, length, window) for row in series])


def dtw_matrix(series_NL: ArrayLike, band: float = BAND) -> Array:
    """The distances (N, N) of all pairs, symmetric, zero on the diagonal, in the unit of the series.

    band: share of the length, rounded down, by which aligned points may differ; 0 is the Euclidean
    distance, 1 no limit.
    """
    series_NL = _checked(series_NL)
    return dtw.distance_matrix_fast(
        series_NL, window=_width(series_NL, band), parallel=False, only_triu=False
    )


def dtw_to(series_NL: ArrayLike, centres_KL: ArrayLike, band: float = BAND) -> Array:
    """The distances (N, K) of each series to each centre; see `dtw_matrix`."""
    series_NL, centres_KL = _checked(series_NL), _checked(centres_KL)
    if series_NL.shape[1] != centres_KL.shape[1]:
        raise WorkbenchError(
            f"Series have {series_NL.shape[1]} points and centres {centres_KL.shape[1]}; resample alike."
        )
    width, count = _width(series_NL, band), len(centres_KL)
    parts = []
    for start in range(
        0, len(series_NL), LIMIT // 8
    ):  # the library fills a square around its block
        part = series_NL[start : start + LIMIT // 8]
        block = ((0, len(part)), (len(part), len(part) + count))
        together = np.concatenate([part, centres_KL])
        found = dtw.distance_matrix_fast(
            together, window=width, block=block, parallel=False, only_triu=True
        )
        parts.append(found[: len(part), len(part) :])
    return np.concatenate(parts)


def _checked(series_NL: ArrayLike) -> Array:
    found = np.ascontiguousarray(series_NL, dtype=np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise WorkbenchError("Give series as one finite array (N, length); resample them first.")
    return found


def _width(series_NL: Array, band: float) -> int:
    if not 0 <= band <= 1:
        raise WorkbenchError(f"The band is {band!r}; give a share of the length, 0 to 1.")
    # The library's window is one more than the largest distance that it allows.
    return int(band * series_NL.shape[1] + 1e-9) + 1


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition around medoids: `labels_N` counts from 0, `medoids_K` are rows of the matrix."""

    labels_N: Labels
    medoids_K: Labels
    cost: float  # summed distance of each row to its medoid
    silhouettes: dict[int, float]  # number of clusters tried -> mean silhouette

    @property
    def k(self) -> int:
        """The number of clusters."""
        return len(self.medoids_K)


def cluster(
    distances_NN: ArrayLike, k: int | None = None, seed: int = 0, restarts: int = RESTARTS
) -> Clusters:
    """k-medoids on a matrix of distances; without k, the number from 2 to 5 with the best silhouette.

    The best of `restarts` descents, each from medoids drawn by their squared distance to those already
    drawn (k-means++). Raises WorkbenchError where fewer than k rows differ.
    """
    distances_NN = np.asarray(distances_NN, dtype=np.float64)
    count = len(distances_NN)
    if distances_NN.shape != (count, count) or not np.isfinite(distances_NN).all():
        raise WorkbenchError("Give cluster a finite square matrix of distances.")
    # Rows at distance 0 of each other are one point; more medoids than points have no meaning.
    different = int(((distances_NN == 0).argmax(1) == np.arange(count)).sum())
    ks = [n for n in KS if n <= different] if k is None else [k]
    if not ks or not 1 <= ks[-1] <= different:
        raise WorkbenchError(
            f"{k or 'Two or more'} clusters need as many series; {different} differ."
        )
    rng = np.random.default_rng(seed)
    found = [_partition(distances_NN, n, rng, restarts) for n in ks]
    silhouettes = {n: silhouette(distances_NN, part[0]) for n, part in zip(ks, found, strict=True)}
    best = found[int(np.argmax([silhouettes[n] for n in ks]))]
    return Clusters(*best, silhouettes)


def _partition(
    distances_NN: Array, k: int, rng: np.random.Generator, restarts: int
) -> tuple[Labels, Labels, float]:
    best: tuple[float, Labels] | None = None
    for _ in range(restarts):
        start = distances_NN[:, _drawn(distances_NN, k, rng)].argmin(1)
        own_N, cost, _ = kmedoids(distances_NN, nclusters=k, initialid=start)
        if best is None or cost < best[0]:
            best = float(cost), own_N
    assert best is not None
    medoids_K, labels_N = np.unique(best[1], return_inverse=True)
    return labels_N.astype(np.int64), medoids_K.astype(np.int64), best[0]


def _drawn(distances_NN: Array, k: int, rng: np.random.Generator) -> list[int]:
    medoids = [int(rng.integers(len(distances_NN)))]
    while len(medoids) < k:
        weight = distances_NN[:, medoids].min(1) ** 2
        if not weight.any():  # distance 0 is not transitive, so the count of points may be too high
            raise WorkbenchError(f"Fewer than {k} series differ; ask for fewer clusters.")
        medoids.append(int(rng.choice(len(weight), p=weight / weight.sum())))
    return medoids


def silhouette(distances_NN: ArrayLike, labels_N: ArrayLike) -> float:
    """Mean silhouette (Rousseeuw 1987), -1 to 1; 0 for a row alone in its cluster, or one cluster."""
    distances_NN, labels_N = np.asarray(distances_NN, float), np.asarray(labels_N)
    own_NK = labels_N[:, None] == np.unique(labels_N)
    sizes_K = own_NK.sum(0)
    if len(sizes_K) < 2:
        return 0.0
    sums_NK = distances_NN @ own_NK
    size_N = sizes_K[own_NK.argmax(1)]
    inner_N = sums_NK[own_NK] / np.maximum(size_N - 1, 1)  # the row's own distance is 0
    outer_N = np.where(own_NK, np.inf, sums_NK / sizes_K).min(1)
    largest_N = np.maximum(inner_N, outer_N)
    told = (size_N > 1) & (largest_N > 0)
    value_N = np.divide(outer_N - inner_N, largest_N, out=np.zeros_like(inner_N), where=told)
    return float(value_N.mean())


@dataclass(frozen=True, eq=False)
class EntropyCentres:
    """Typical entropy series, the medoids of their clusters, lowest mean entropy first."""

    series_KL: Array
    levels_K: Array  # nats: the mean of each medoid, the "entropy centre" as one number
    shares_K: Array  # of the clustered series
    silhouettes: dict[int, float]
    band: float

    def distances(self, series_NL: ArrayLike) -> Array:
        """DTW distances (N, K) to the centres."""
        return dtw_to(series_NL, self.series_KL, self.band)


def entropy_centres(
    series_NL: ArrayLike,
    k: int | None = CENTRES,
    *,
    band: float = BAND,
    seed: int = 0,
    limit: int = LIMIT,
) -> EntropyCentres:
    """The centres of resampled series, pooled over checkpoints and runs so that labels compare.

    Of more than `limit` series a sample is clustered, drawn by the seed. For a test on runs held out,
    pool the reference runs only.
    """
    series_NL = _checked(series_NL)
    if len(series_NL) > limit:
        chosen = np.random.default_rng(seed).choice(len(series_NL), limit, replace=False)
        series_NL = series_NL[np.sort(chosen)]
    found = cluster(dtw_matrix(series_NL, band), k, seed)
    medoids_KL = series_NL[found.medoids_K]
    order = np.argsort(medoids_KL.mean(1), kind="stable")
    shares_K = np.bincount(found.labels_N, minlength=found.k) / len(series_NL)
    return EntropyCentres(
        medoids_KL[order], medoids_KL.mean(1)[order], shares_K[order], found.silhouettes, band
    )
