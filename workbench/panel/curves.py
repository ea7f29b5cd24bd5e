"""The live curves: one FigureWidget whose traces exist from the start, and the thread that draws.

The drawer is the only thread that touches the figure. It draws at most five times a second and uses
at most a small share of one core, however long the run gets, so that training does not feel it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
from plotly.basedatatypes import Undefined

from workbench import plots, series
from workbench.following import Followed
from workbench.series import RunCurves, TraceData

MAX_RUNS = 4  # a live figure's traces are made up front; the oldest run makes room for a fifth
PERIOD = 0.2  # seconds between two drawings, at least
SHARE = 0.015  # of one core that drawing may use
LONGEST = 2.0  # seconds between two drawings, at most; the first ones load libraries


def same(one: TraceData | None, two: TraceData) -> bool:
    """True when drawing `two` over `one` would change nothing."""
    if one is None or (one.visible, one.name, one.text) != (two.visible, two.name, two.text):
        return False
    return all(
        a is b or np.array_equal(a, b, equal_nan=True) for a, b in ((one.x, two.x), (one.y, two.y))
    )


def stamp(run: RunCurves) -> tuple[Any, ...]:
    """What differs whenever there may be something new to draw of a run."""
    name, metrics, events = run
    return name, len(metrics), len(events), metrics.tail(1).to_numpy().tobytes()


class QuietFigure(go.FigureWidget):
    """A FigureWidget that comes back whole after a reload and takes nothing in from the page.

    plotly's own keeps in its state, which a reloaded page asks for, the traces as they were when it
    was first shown; here they are the present ones.
    """

    def __init__(self, figure: go.Figure) -> None:
        # plotly opens the channel to the page first and sends the traces after; a page that is slow
        # (seen on a busy machine) then shows an empty plot for good. Here it opens with the traces.
        self._built = False
        super().__init__(figure)
        self._built = True
        self.open()

    def open(self) -> None:
        """Open the channel to the page, once everything that it is to hold is there."""
        if self._built:
            super().open()

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Drop what the page sends: the defaults it computed, and what was zoomed or hidden there.

        While ipywidgets takes a message in, it merges what other threads set meanwhile, and of plotly's
        update, a message followed by None, only the None was sent: a mark on the curves was lost for good.
        Besides, plotly 7.1 raises ValueError on the defaults where a trace holds numpy arrays, and a curve
        hidden by its legend was shown again with its next point.
        """

    def _dispatch_trace_change_callbacks(self, *_: Any) -> None:
        """Nothing here listens to what it sets itself."""

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state as ipywidgets sends it, with the present traces when all of it is asked for."""
        state = super().get_state(key, drop_defaults)
        if key is None and "_data" in vars(self):
            present = {"_widget_data": self._data, "_widget_layout": self._layout_obj._props}
            for name, value in present.items():
                state[name] = self.trait_metadata(name, "to_json")(value, self)
        return state


def fitted(figure: QuietFigure) -> widgets.VBox:
    """`figure` in a column whose width it follows, without plotly's tool bar."""
    from workbench.panel.fit import Fit  # here, since it needs anywidget

    figure._config = {**figure._config, "displayModeBar": False, "responsive": True}
    column = widgets.VBox([figure, Fit()])
    column.add_class("wb-curves")
    return column


class LiveCurves:
    """The curves of up to MAX_RUNS runs, updated in place."""

    def __init__(self, theme: str = "light") -> None:
        self.figure = QuietFigure(plots.empty_figure(MAX_RUNS, theme))
        self.figure.layout.legend4.visible = False
        self.root = fitted(self.figure)
        self._seen: list[tuple[Any, ...]] = [()] * MAX_RUNS
        self._followed: list[Followed | None] = [None] * MAX_RUNS
        self._arranged: tuple[frozenset[str], int] = (frozenset(), 0)  # further subplots, runs
        self._index = [plots.trace_index(slot) for slot in range(MAX_RUNS)]
        self._drawn: list[dict[str, TraceData]] = [{} for _ in range(MAX_RUNS)]

    def draw(self, runs: Sequence[RunCurves]) -> int:
        """Show `runs` in this order; returns the number of traces that had to change."""
        seen = [stamp(run) for run in runs] + [()] * (MAX_RUNS - len(runs))
        if seen == self._seen:
            return 0
        # Of a run without news nothing is looked at.
        changes = [
            self._changes(slot, runs) if seen[slot] != self._seen[slot] else {}
            for slot in range(MAX_RUNS)
        ]
        self._seen = seen
        count = sum(map(len, changes))
        extra = series.extras(self._drawn)
        if count and (extra, len(runs)) == self._arranged:
            self._send(changes)
        elif count:
            with self.figure.batch_update():
                for slot, data in enumerate(changes):
                    plots.fill(self.figure, slot, data)
                if extra != self._arranged[0]:
                    plots.arrange(self.figure, extra)
                self.figure.layout.legend4.visible = len(runs) > 1
            self._arranged = (extra, len(runs))
        return count

    def _send(self, changes: Sequence[Mapping[str, TraceData]]) -> None:
        """What `fill` does, in one message and a third of the time: the arrays are not checked again."""
        found: dict[int, dict[str, Any]] = {}
        for slot, data in enumerate(changes):
            for key, values in data.items():
                at = self._index[slot][key]
                known = self.figure._data[at]
                found[at] = plots.news(known["visible"], known.get("name"), values)
        names = {name for news in found.values() for name in news}
        styles = {name: [news.get(name, Undefined) for news in found.values()] for name in names}
        self.figure.plotly_update(restyle_data=styles, trace_indexes=list(found))

    def _changes(self, slot: int, runs: Sequence[RunCurves]) -> Mapping[str, TraceData]:
        if slot < len(runs):
            name, metrics, events = runs[slot]
            followed = Followed(metrics, self._followed[slot])
            data, self._followed[slot] = series.trace_data(name, followed, events), followed
        else:
            self._followed[slot] = None
            data = dict.fromkeys(self._drawn[slot], series.NOTHING)
        drawn = self._drawn[slot]
        changed = {key: value for key, value in data.items() if not same(drawn.get(key), value)}
        self._drawn[slot] = drawn | changed
        return changed


class Drawer:
    """A thread that calls `draw` until it returns False; `wake` starts it again.

    It waits at least PERIOD after each drawing, and longer when drawing would use more than SHARE
    of one core, measured in its own processor time: waiting for the interpreter does not count.
    """

    def __init__(self, draw: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        self._draw = draw
        self._failed = failed
        self._lock = threading.Lock()
        self._going = False
        self._asked = False
        self.count = 0

    def wake(self) -> None:
        """Draw again soon, also when the thread has ended."""
        with self._lock:
            self._asked = True
            if self._going:
                return
            self._going = True
        threading.Thread(target=self._work, name="workbench panel", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._asked = False
            spent = time.thread_time()
            try:
                more = self._draw()
            except Exception as error:  # noqa: BLE001 - shown in the panel; no cell would show it
                self._failed(error)
                more = False
            self.count += 1
            cost = time.thread_time() - spent
            time.sleep(min(max(PERIOD, cost / SHARE), LONGEST))
            with self._lock:
                if not more and not self._asked:
                    self._going = False
                    return
