"""One input for one value: which widget fits a field or a parameter, and what it says of itself."""

from __future__ import annotations

import ast
import dataclasses
import functools
import html
import inspect
import itertools
import math
import textwrap
from typing import Any

import ipywidgets as widgets

from workbench.packaged import SHIPPED_POLICIES
from workbench.panel.compound import NumberList, NumberOrWord
from workbench.recipe import FIELDS
from workbench.variants import Param, Variant

# Ends of sliders for numbers that have no upper end of their own.
SLIDER_HIGH = {"beta": 1.0}
SLIDERS = ("beta", "temperature", "top_p", "min_p", "lora_dropout")
WEIGHTS = (-2.0, 2.0)
MANY = 2**31 - 1
MOST_PLACES = 1_000  # of a slider for whole numbers; with more, one place is less than a pixel

STYLE = {"description_width": "118px"}
WIDE = {"width": "100%"}


SHORT = {"answers_per_thought": "answers / thought"}


def label(name: str) -> str:
    """A field's name as words, short enough for its column."""
    return SHORT.get(name, name.replace("_", " "))


def step_of(low: float, high: float) -> float:
    """A round step that cuts the range into 100 to 500 parts."""
    return 10.0 ** math.floor(math.log10((high - low) / 100))


def number(
    name: str, value: float, doc: str, low: float | None, high: float | None, slider: bool
) -> widgets.DOMWidget:
    """A slider where it is asked for, both ends are known and not too far apart; else a box between them."""
    common = {"description": label(name), "tooltip": doc, "style": STYLE, "layout": WIDE}
    whole = isinstance(value, int)
    far = whole and low is not None and high is not None and high - low > MOST_PLACES
    if slider and low is not None and high is not None and not far:
        low, high = min(low, value), max(high, value)
        if whole:
            return widgets.IntSlider(value, min=low, max=high, continuous_update=False, **common)
        step = step_of(low, high)
        if abs(value / step - round(value / step)) > 1e-6:
            step /= 10  # so that the value itself is among the slider's
        digits = max(0, -math.floor(math.log10(step)))
        return widgets.FloatSlider(
            value, min=low, max=high, step=step, readout_format=f".{digits}f",
            continuous_update=False, **common,
        )  # fmt: skip
    low = -MANY if low is None else low
    high = MANY if high is None else high
    if whole:
        return widgets.BoundedIntText(value, min=low, max=high, **common)
    return widgets.BoundedFloatText(value, min=low, max=high, step=None, **common)


def parameter(param: Param, value: Any) -> widgets.DOMWidget:
    """The control of one parameter of a variant."""
    common = {
        "description": label(param.name),
        "tooltip": param.doc,
        "style": STYLE,
        "layout": WIDE,
    }
    if param.choices:
        return widgets.Dropdown(options=param.choices, value=value, **common)
    if isinstance(param.default, tuple):
        return NumberList(label(param.name), value, param.doc, style=STYLE, layout=WIDE)
    if param.words:
        start = number_of(param, value)
        plain = number(param.name, start, param.doc, param.low, param.high, slider=True)
        plain.style = {"description_width": "62px"}  # the words need the room
        return NumberOrWord(plain, param.words, value)
    if isinstance(param.default, bool):
        return widgets.Checkbox(value, indent=False, **common)
    if isinstance(param.default, str):
        return widgets.Text(value, continuous_update=False, **common)
    typed = type(param.default)(value)  # an int given for a float parameter stays a float
    return number(param.name, typed, param.doc, param.low, param.high, slider=True)


def number_of(param: Param, value: Any) -> float:
    """The number to stand in the input of a parameter whose value, or default, may be a word."""
    known = next((v for v in (value, param.default) if not isinstance(v, str)), None)
    if known is not None:
        return known if isinstance(param.default, int) else float(known)
    return float(min(max(1.0, param.low or 0.0), 1.0 if param.high is None else param.high))


def parameters_of(row: Any) -> tuple[Param, ...]:
    """A variant's parameters; those of a task are its dataclass fields."""
    if isinstance(row, Variant):
        return row.params
    if not dataclasses.is_dataclass(row):
        return ()
    docs = field_docs(type(row))
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return tuple(
        Param(name, value, docs.get(name, f"{label(name)} of the task."))
        for name, value in values.items()
        if isinstance(value, (bool, int, float, str))
    )


@functools.cache
def field_docs(owner: type) -> dict[str, str]:
    """Field -> the text written below it in the source of a dataclass; empty without a source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
    except (OSError, TypeError):  # a class typed into a session has no file
        return {}
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def first_line(row: Any) -> str:
    """The first line of a row's docstring: what it does."""
    return row.doc if isinstance(row, Variant) else (row.__doc__ or "").strip().split("\n")[0]


def about(row: Any) -> str:
    """What a variant does, its formula (typeset by the page) and its source, as escaped HTML."""
    doc = f'<div class="wb-doc">{html.escape(first_line(row))}</div>'
    if not isinstance(row, Variant):
        return doc
    formula = f'<div class="wb-formula">${html.escape(row.formula)}$</div>'
    return f'{doc}{formula}{pressure(row)}<div class="wb-source">{html.escape(row.source)}</div>'


def pressure(row: Variant) -> str:
    """Which way a reward pushes, as HTML; empty for a row that does not say."""
    if row.pressure is None:
        return ""
    length, certainty = row.pressure
    return f'<div class="wb-doc">Pushes length: {length}; certainty: {certainty}.</div>'


def field_widget(name: str, value: Any) -> widgets.DOMWidget:
    """The control of a plain field, by its type and metadata."""
    meta = FIELDS[name].metadata
    common = {"description": label(name), "tooltip": meta["doc"], "style": STYLE, "layout": WIDE}
    if meta["choices"]:
        return widgets.Dropdown(options=meta["choices"], value=value, **common)
    if name == "model":
        return widgets.Combobox(
            value=value,
            options=SHIPPED_POLICIES,
            ensure_option=False,
            continuous_update=False,
            **common,
        )
    if isinstance(value, str):
        return widgets.Text(value, continuous_update=False, **common)
    low = meta["low"] if meta["low"] is not None else meta["above"]
    high = SLIDER_HIGH.get(name, meta["high"])
    if isinstance(FIELDS[name].default, float):
        value = float(value)
    return number(name, value, meta["doc"], low, high, slider=name in SLIDERS)


def read(widget: widgets.DOMWidget) -> Any:
    """A control's value; floats without the noise that a slider's steps leave behind."""
    return tidy(widget.value)


def read_live(widget: widgets.DOMWidget) -> Any:
    """The value to draw while it is still being moved; in place of a word, the number beside it."""
    if isinstance(widget, NumberOrWord):
        return tidy(widget.number.value)
    return tidy(widget.live if isinstance(widget, NumberList) else widget.value)


def tidy(value: Any) -> Any:
    """`value` with floats rounded, lists of them too."""
    if isinstance(value, (list, tuple)):
        return [tidy(item) for item in value]
    return round(value, 10) if isinstance(value, float) else value
