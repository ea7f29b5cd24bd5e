"""Records that grow, as columns in memory and as lines in a file, without going through all of them again.

A run of 10,000 steps has 700,000 numbers. As a list of dictionaries they take 100 MB and a second to turn
into a table; here they are columns to which each record is added once.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from workbench.variants import WorkbenchError

RECENT = 20  # trained steps that are kept as they were recorded
MORE_ROWS, MORE_COLUMNS = 1.25, 16  # room made at a time: times as many rows, so many columns more
EXACT = 2**53  # up to here a float holds every whole number
ENDING = (
    256  # bytes before the place that a file was read to, compared to see whether it was rewritten
)
# With pandas 3 a shallow copy is the user's own: writing to it copies first.
DEEP = int(pd.__version__.split(".")[0]) < 3

Held = TypeVar("Held")


class Growing:
    """Records (a step's entries by name), the numbers among them as columns.

    Attributes:
        first: the first record.
        last: the last record.
    """

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._rows = 0
        self._places: dict[str, int] = {}  # column -> its row in _values, in order of appearance
        self._values = np.full(
            (MORE_COLUMNS, 64), np.nan
        )  # a row for each column, so that it is whole
        self._counts: list[int] = []  # whole numbers in a column; -1 once it has had another number
        self._others: dict[
            str, dict[int, Any]
        ] = {}  # column with other things than numbers -> its cells
        self._lists: dict[str, dict[int, list[Any]]] = {}  # name -> step -> list
        self._counted: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # name -> what `counts` gave
        self._frame: pd.DataFrame | None = None
        self._lock = threading.Lock()  # the run's thread appends while others read
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return self._rows

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; its names may be new."""
        with self._lock:
            row, self._frame = self._rows, None
            if row == self._values.shape[1]:
                self._make_room(rows=int(row * MORE_ROWS))
            for name, value in record.items():
                if isinstance(value, list):
                    self._lists.setdefault(name, {})[record["step"]] = value
                else:
                    self._put(name, row, value)
            self.first = self.first or record
            self.last = record
            if record["step"] > 0:
                self._recent.append(record)
            self._rows = row + 1

    def recent(self) -> list[dict[str, Any]]:
        """The last RECENT records of trained steps, oldest first."""
        with self._lock:
            return list(self._recent)

    def lists(self, name: str) -> dict[int, list[Any]]:
        """Step -> the list that its record has under `name`."""
        with self._lock:
            return dict(self._lists.get(name, {}))

    def counts(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps with a list of whole numbers under `name`, and the lists as rows, filled up by -1."""
        with self._lock:
            nothing = np.empty(0, np.int64), np.empty((0, 0), np.int64)
            steps, rows = self._counted.get(name, nothing)
            new = list(itertools.islice(self._lists.get(name, {}).items(), len(steps), None))
            if new:
                width = max(rows.shape[1], *(len(numbers) for _, numbers in new))
                added = [[*numbers, *[-1] * (width - len(numbers))] for _, numbers in new]
                wide = np.full((len(rows), width), -1, np.int64)
                wide[:, : rows.shape[1]] = rows
                steps = np.append(steps, [step for step, _ in new])
                rows = np.concatenate([wide, np.array(added, np.int64)])
                self._counted[name] = steps, rows
            return steps, rows

    def frame(self) -> pd.DataFrame:
        """What pandas makes of the list of records, without their lists; the index is the step."""
        with self._lock:
            if self._frame is None:
                self._frame = self._make_frame()
            return self._frame.copy(deep=DEEP)

    def _put(self, name: str, row: int, value: Any) -> None:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self._places)
            self._counts.append(0)
            if place == self._values.shape[0]:
                self._make_room(columns=place + MORE_COLUMNS)
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= EXACT
        if name not in self._others and (whole or isinstance(value, float)):
            self._values[place, row] = value
            counted = whole and self._counts[place] >= 0
            self._counts[place] = self._counts[place] + 1 if counted else -1
        else:
            if name not in self._others:
                known, kind = self._values[place, :row], float if self._counts[place] < 0 else int
                self._others[name] = {
                    int(at): kind(known[at]) for at in np.flatnonzero(~np.isnan(known))
                }
            self._others[name][row] = value

    def _make_room(self, rows: int = 0, columns: int = 0) -> None:
        before = self._values
        shape = (max(columns, before.shape[0]), max(rows, before.shape[1]))
        self._values = np.full(shape, np.nan)  # tables that were handed out keep the old one
        self._values[: before.shape[0], : before.shape[1]] = before

    def _make_frame(self) -> pd.DataFrame:
        if not self._rows:
            return pd.DataFrame({"step": []}, dtype=int).set_index("step")
        values = self._values[: len(self._places), : self._rows]
        first, *names = self._places
        if first != "step":
            whole = pd.DataFrame({name: self._column(name) for name in self._places})
            return whole.set_index("step")
        # A view: rows that are there never change, and what is handed out copies before it writes.
        index = pd.Index(self._column("step"), name="step")
        frame = pd.DataFrame(values[1:].T, index, names, copy=False)
        for place, name in enumerate(names):
            if name in self._others or self._counts[place + 1] == self._rows:
                frame.isetitem(place, self._column(name))
        return frame

    def _column(self, name: str) -> np.ndarray | pd.Series:
        """One column as pandas makes it: of whole numbers if all are there and are."""
        place, rows = self._places[name], self._rows
        if name in self._others:
            cells = self._others[name]
            alone = [{name: cells[at]} if at in cells else {} for at in range(rows)]
            return pd.DataFrame(alone, columns=[name])[name]
        values = self._values[place, :rows]
        return values.astype(np.int64) if self._counts[place] == rows else values


class GrowingFile(Generic[Held]):
    """A file with one JSON object a line, read on from where it was read to before.

    A last line cut short is left out until it is whole. A file that was replaced or rewritten, as when a
    run is resumed, is read anew.

    Args:
        make: makes what holds the records, with a method `append`.
    """

    def __init__(self, path: Path, make: Callable[[], Held]) -> None:
        self._path = path
        self._make = make
        self._lock = threading.Lock()
        self._forget()

    def now(self) -> Held:
        """All records in the file; the same object as before with more in it, or one made anew."""
        with self._lock:
            try:
                found = self._path.stat()
            except (FileNotFoundError, NotADirectoryError):
                if self._state is not None:
                    self._forget()
                return self._held
            if (found.st_ino, found.st_size, found.st_mtime_ns) != self._state:
                with self._path.open("rb") as file:
                    self._read_on(file, os.fstat(file.fileno()))
            return self._held

    def _forget(self) -> None:
        self._state: tuple[int, int, int] | None = (
            None  # the file as it was read: inode, size, time
        )
        self._read_to, self._lines, self._ending = 0, 0, b""
        self._held = self._make()

    def _read_on(self, file: Any, found: os.stat_result) -> None:
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._state is not None and not self._goes_on(file, state):
            self._forget()
        file.seek(self._read_to)
        records, done, lines = self._whole_lines(file.read())
        for record in records:
            self._held.append(record)  # type: ignore[attr-defined]
        self._state = state
        self._read_to += len(done)
        self._lines += lines
        self._ending = (self._ending + done)[-ENDING:]

    def _goes_on(self, file: Any, state: tuple[int, int, int]) -> bool:
        """Whether the file is the one that was read, with something added."""
        assert self._state is not None
        if state[0] != self._state[0] or state[1] <= self._state[1]:
            return False
        file.seek(self._read_to - len(self._ending))
        return file.read(len(self._ending)) == self._ending

    def _whole_lines(self, text: bytes) -> tuple[list[dict[str, Any]], bytes, int]:
        """The records in `text`, the part of it that they are in, and how many lines that is."""
        records, at, lines = [], 0, text.split(b"\n")
        for number, line in enumerate(lines):
            if line.strip():
                try:
                    records.append(json.loads(line.decode("utf-8", errors="replace")))
                except json.JSONDecodeError as error:
                    if any(later.strip() for later in lines[number + 1 :]):
                        raise WorkbenchError(
                            f"Line {self._lines + number + 1} of {self._path.name} is damaged, with whole "
                            "lines after it; delete or mend that line."
                        ) from error
                    return records, text[:at], number
            at += len(line) + 1
        # The last piece has no line end yet: nothing, or a whole record whose line end is still to come.
        return records, text, len(lines) - 1
