"""Columns of a run's metrics as thinned curves, of which only what has come since is worked out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

MAX_POINTS = 2_000


def thin(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points of a curve: the least and the greatest of each bucket, and both ends.

    Keeping extremes keeps the spikes, which an even pick would lose. Buckets are of a power of two points
    and stay what they are while a curve grows, until they are joined in pairs.
    """
    size = bucket_size(len(x), limit)
    if size == 1:
        return x, y
    index, _ = extremes(y, size)
    index = index if index[0] == 0 else np.append(0, index)
    return x[index], y[index]


def bucket_size(count: int, limit: int = MAX_POINTS) -> int:
    """Points in a bucket, so that at most `limit` of `count` are kept."""
    size = 1
    while size < count > limit and 2 * -(-count // size) + 2 > limit:
        size *= 2
    return size


def extremes(y: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Where each bucket of `y` is least and greatest, and the last point; how many before the last bucket."""
    last = (len(y) - 1) // size * size
    if size == 1:
        return np.arange(len(y)), last
    buckets = y[:last].reshape(-1, size)
    pairs = np.stack([buckets.argmin(1), buckets.argmax(1)], axis=1)
    pairs += np.arange(0, last, size)[:, None]
    end = sorted({last + int(y[last:].argmin()), last + int(y[last:].argmax()), len(y) - 1})
    index = np.sort(pairs, axis=1).ravel()
    index = index[np.append(True, index[1:] != index[:-1])[: len(index)]]
    return np.append(index, end), len(index)


@dataclass(frozen=True)
class Curve:
    """The finite values of a column and their steps, thinned, and what it takes to go on from there."""

    values: np.ndarray  # the whole column
    x: np.ndarray
    y: np.ndarray
    count: int = 0  # finite values
    size: int = 1  # of a bucket
    row: int = 0  # where the last bucket begins in the column,
    begins: int = 0  # in its finite values,
    kept: int = 0  # and in x and y


def curve(steps: np.ndarray, values: np.ndarray, before: Curve | None = None) -> Curve:
    """The curve of a column; with `before`, of a shorter one, only from its last bucket on."""
    if before is None or not begins_with(values, before.values):
        before = Curve(values, np.empty(0, np.int32), np.empty(0, np.float32))
    y = values[before.row :].astype(np.float32)
    rows = np.flatnonzero(np.isfinite(y))
    count = before.begins + len(rows)
    if count == before.count:
        return replace(before, values=values)
    size = bucket_size(count)
    if size != before.size and before.begins:
        return curve(steps, values)
    y = y[rows]
    rows += before.row
    index, kept = extremes(y, size)
    if not before.begins and index[0]:
        index, kept = np.append(0, index), kept + 1
    last = (len(rows) - 1) // size * size
    return Curve(
        values,
        np.append(before.x[: before.kept], steps[rows[index]].astype(np.int32)),
        np.append(before.y[: before.kept], y[index]),
        count,
        size,
        int(rows[last]),
        before.begins + last,
        before.kept + kept,
    )


def begins_with(values: np.ndarray, first: np.ndarray) -> bool:
    """Whether `values` are `first`, bit for bit, with something more or nothing behind them."""
    values = values[: len(first)]
    places = [(x.shape, x.strides, x.__array_interface__["data"]) for x in (values, first)]
    if places[0] == places[1]:  # a column that grew in its place
        return True
    return np.array_equal(values.view(np.int64), first.view(np.int64))


class Followed:
    """A run's metrics to draw that know those drawn before.

    Args:
        metrics: of the run as they are now.
        before: the same run's a while ago, or any other's: what differs is found out from the numbers.
    """

    def __init__(self, metrics: pd.DataFrame, before: Followed | None = None) -> None:
        self._metrics = metrics
        self.index = metrics.index.to_numpy()
        self._curves: dict[str, Curve] = {}
        follows = before is not None and np.array_equal(
            before.index, self.index[: len(before.index)]
        )
        self._before = before._curves if follows and before is not None else {}
        table = metrics.to_numpy()  # a view, where all of it is floats
        self._table = table if table.dtype == np.float64 else None
        self._places = {name: place for place, name in enumerate(metrics)}

    def __contains__(self, column: str) -> bool:
        return column in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def numbers(self, column: str) -> np.ndarray:
        """A column as floats; NaN for what is missing or no number."""
        if self._table is not None:
            return self._table[:, self._places[column]]
        return numbers(self._metrics, column)

    def series(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps and finite values of a column, thinned; the very arrays of before if nothing has come."""
        found = self._curves.get(column)
        if found is None:
            found = curve(self.index, self.numbers(column), self._before.get(column))
            self._curves[column] = found
        return found.x, found.y


Metrics = pd.DataFrame | Followed


def numbers(metrics: Metrics, column: str) -> np.ndarray:
    """A column as floats; NaN for what is missing or no number."""
    if isinstance(metrics, Followed):
        return metrics.numbers(column)
    values = metrics[column]
    if values.dtype != np.float64:
        values = pd.to_numeric(values, errors="coerce")
    return values.to_numpy(np.float64)


def series(metrics: Metrics, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and finite values of `column`, thinned; empty where the run doesn't measure it."""
    if column not in metrics:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    if isinstance(metrics, Followed):
        return metrics.series(column)
    found = curve(metrics.index.to_numpy(), numbers(metrics, column))
    return found.x, found.y
