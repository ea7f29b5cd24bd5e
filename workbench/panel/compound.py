"""Inputs of more than one widget: a number or a word, and a list of numbers with handles.

Each behaves like a single ipywidget where the controls need it: `value`, `disabled`, `tooltip`. The tooltip
is handed on to the parts and kept from the page: there, a box with one fails to show at all (seen with
ipywidgets 8.1.9).
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import traitlets

from workbench.panel.fallback import missing
from workbench.variants import WorkbenchError

EXAMPLE = "Give numbers separated by commas, such as 3, 1, 0.5."


class NumberOrWord(widgets.HBox):
    """A number's input with a toggle for each word that may stand for the number."""

    value = traitlets.Any()
    disabled = traitlets.Bool(False)
    tooltip = traitlets.Unicode("")

    def __init__(self, number: widgets.DOMWidget, words: Sequence[str], value: Any) -> None:
        doc = number.tooltip
        self.number = number
        narrow = {"width": "auto", "flex": "0 0 auto"}
        self.words = {word: widgets.ToggleButton(description=word, layout=narrow) for word in words}
        for toggle in self.words.values():
            toggle.add_class("wb-word")
        self._quiet = False
        number.layout.width, number.layout.flex = "auto", "1 1 0"
        looks = {"width": "100%", "align_items": "center"}
        super().__init__([number, *self.words.values()], layout=looks)
        self.tooltip = doc
        self.value = value
        number.observe(self._on_number, "value")
        for word, toggle in self.words.items():
            toggle.observe(lambda change, word=word: self._on_word(word, change["new"]), "value")

    @traitlets.observe("value")
    def _show(self, _: Any) -> None:
        """Put the value into the widgets; a word dims the number."""
        self._quiet = True
        for word, toggle in self.words.items():
            toggle.value = self.value == word
        if not isinstance(self.value, str):
            self.number.value = self.value
        self._quiet = False
        self._shade()

    @traitlets.observe("disabled")
    def _shade(self, _: Any = None) -> None:
        for toggle in self.words.values():
            toggle.disabled = self.disabled
        self.number.disabled = self.disabled
        worded = isinstance(self.value, str)
        (self.number.add_class if worded else self.number.remove_class)("wb-off")

    @traitlets.observe("tooltip")
    def _tell(self, _: Any) -> None:
        self.number.tooltip = self.tooltip
        for word, toggle in self.words.items():
            toggle.tooltip = f"{self.number.description}: {word}. {self.tooltip}"

    def _on_number(self, change: Any) -> None:
        if not self._quiet:
            self.value = change["new"]  # moving the number takes it up again

    def _on_word(self, word: str, pressed: bool) -> None:
        if not self._quiet:
            self.value = word if pressed else self.number.value


class NumberList(widgets.VBox):
    """A list of numbers as a text and, where anywidget is there, as the handles of a curve."""

    value = traitlets.List()
    live = traitlets.List()
    disabled = traitlets.Bool(False)
    tooltip = traitlets.Unicode("")

    def __init__(self, name: str, value: Sequence[float], doc: str, **looks: Any) -> None:
        self.text = widgets.Text(description=name, continuous_update=False, **looks)
        self.error = widgets.HTML(layout={"display": "none"})
        self.handles = None if missing() else _handles(name)
        drawn = [] if self.handles is None else [self.handles]
        super().__init__([*drawn, self.text, self.error], layout={"width": "100%"})
        self.tooltip = doc
        self.value = list(value)
        self.text.observe(self._on_text, "value")
        if self.handles is not None:
            self.handles.observe(self._on_handles, ["value", "live"])

    @traitlets.observe("value")
    def _show(self, _: Any) -> None:
        self.text.value = ", ".join(f"{item:g}" for item in self.value)
        self.error.layout.display = "none"
        if self.handles is not None:
            with self.handles.hold_sync():
                self.handles.live = self.handles.value = [float(item) for item in self.value]
        self.live = self.value

    @traitlets.observe("disabled")
    def _shade(self, _: Any) -> None:
        self.text.disabled = self.disabled
        if self.handles is not None:
            self.handles.disabled = self.disabled

    @traitlets.observe("tooltip")
    def _tell(self, _: Any) -> None:
        self.text.tooltip = f"{self.tooltip} {EXAMPLE}"

    def _on_handles(self, change: Any) -> None:
        if change["name"] == "live":
            self.live = list(change["new"])
        else:
            self.value = list(change["new"])

    def _on_text(self, change: Any) -> None:
        if change["new"] == ", ".join(f"{item:g}" for item in self.value):
            return
        try:
            self.value = numbers(change["new"])
        except WorkbenchError as error:
            self.error.value = (
                f'<span class="wb-error" role="alert">{html.escape(str(error))}</span>'
            )
            self.error.layout.display = ""


def numbers(text: str) -> list[float]:
    """The numbers in a text, separated by commas, semicolons or spaces."""
    try:
        found = [float(part) for part in text.replace(";", ",").replace(",", " ").split()]
    except ValueError as error:
        raise WorkbenchError(f"{text!r} is not a list of numbers. {EXAMPLE}") from error
    if not found or not all(map(math.isfinite, found)):
        raise WorkbenchError(f"{text!r} is not a list of finite numbers. {EXAMPLE}")
    return found


def _handles(name: str) -> Any:
    from workbench.panel.handles import Handles  # here, since it needs anywidget

    return Handles(label=name, layout={"width": "100%"})
