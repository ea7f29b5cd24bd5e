"""The live 3-D figure of the geometry tab; `workbench.scenes` makes what is in it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import ipywidgets as widgets

from workbench import scenes
from workbench.geometry import Envelope
from workbench.panel.curves import QuietFigure, fitted
from workbench.panel.fallback import missing
from workbench.phase import Path

CONFIG = {"displayModeBar": False, "responsive": True}


class KeptFigure(QuietFigure):
    """A QuietFigure whose views start from the present traces, however late the page makes them.

    The page's own copy of the traces, from which a view starts, does not take part in updates (plotly 7.1):
    what is drawn between the first message and the first view would never be seen.
    """

    def open(self) -> None:
        """Open the channel with the configuration that the view is to have."""
        if self._built:
            self._config = {**self._config, **CONFIG}
        super().open()

    def keep(self) -> None:
        """Send the present traces and layout for views to come."""
        self._widget_data = deepcopy(self._data)
        self._widget_layout = deepcopy(self._layout_obj._props)


class LiveScene:
    """Paths and an envelope, updated in place; `root` is empty until there is something to draw."""

    def __init__(self) -> None:
        self.figure: KeptFigure | None = None
        self.root = widgets.VBox([], layout={"display": "none"})

    def draw(
        self,
        paths: Sequence[Path | None],
        envelope: Envelope | None,
        current: int,
        up_to: int | None,
    ) -> None:
        """Show them, or nothing where there is neither; see `scenes.scene_data`."""
        shown = envelope is not None or any(one is not None for one in paths)
        self.root.layout.display = "" if shown else "none"
        reason = missing()
        if shown and reason is not None:
            self._excuse(reason)
        elif shown:
            data = scenes.scene_data(paths, envelope, current=current, up_to=up_to)
            self._fill(*data)

    def _fill(self, traces: dict[str, dict[str, Any]], layout: dict[str, Any]) -> None:
        if self.figure is None:
            # Only now: each figure costs the page 5 MB, and a 3-D one a WebGL context.
            figure = scenes.empty_scene()
            scenes.fill(figure, traces, layout)
            self.figure = KeptFigure(figure)
            self.root.children = (fitted(self.figure),)
            return
        with self.figure.batch_update():
            scenes.fill(self.figure, traces, layout)
        self.figure.keep()

    def _excuse(self, reason: str) -> None:
        if not self.root.children:
            text = html.escape(f"{reason} workbench.scenes.scene_figure draws a plain figure.")
            self.root.children = (widgets.HTML(f'<div class="wb-warn">{text}</div>'),)
