"""Settings: dataclass fields that carry their help, range and liveness, and the check of a value."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from workbench.variants import WorkbenchError, unknown


def setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    above: float | None = None,
) -> Any:
    """A field with its help, range (`low` and `high` inclusive, `above` exclusive) and liveness."""
    metadata = {
        "doc": doc,
        "low": low,
        "high": high,
        "choices": choices,
        "live": live,
        "above": above,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_setting(field: dataclasses.Field[Any], value: Any, *, open: bool = False) -> None:
    """Raise WorkbenchError unless `value` has the field's type and lies in its range.

    A text field that is `open` takes a function too.
    """
    name, default = field.name, field.default
    if field.default_factory is not dataclasses.MISSING:
        if not isinstance(value, dict):
            raise WorkbenchError(f"{name} is {value!r}; give a dictionary of name: value.")
        return
    if isinstance(default, str):
        if field.metadata["choices"] and value not in field.metadata["choices"]:
            raise WorkbenchError(unknown(name, value, field.metadata["choices"]))
        if not isinstance(value, str) and not (callable(value) and open):
            raise WorkbenchError(f"{name} is {value!r}; give a text.")
        return
    _check_number(field, value)


def _check_number(field: dataclasses.Field[Any], value: Any) -> None:
    name, limits = field.name, field.metadata
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = " (in YAML write 0.001 or 1.0e-3)" if isinstance(value, str) else ""
        raise WorkbenchError(f"{name} is {value!r}; give a number{hint}.")
    if isinstance(field.default, int) and not isinstance(value, int):
        raise WorkbenchError(f"{name} is {value!r}; give a whole number.")
    if not math.isfinite(value):
        raise WorkbenchError(f"{name} is {value!r}; give a finite number.")
    low, high, above = limits["low"], limits["high"], limits["above"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise WorkbenchError(f"{name} is {value!r}; give {_range(low, high)}.")
    if above is not None and value <= above:
        upper = "" if high is None else f" and at most {high:g}"
        raise WorkbenchError(f"{name} is {value!r}; give more than {above:g}{upper}.")


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:g}"
    return f"{low:g} to {high:g}"


def texts_of(name: str, value: str) -> tuple[str, ...]:
    """The texts in a field: a JSON list of them, or the one text that it is; none where it is empty."""
    if not value.startswith("["):
        return (value,) if value else ()
    try:
        found = json.loads(value)
    except json.JSONDecodeError as error:
        raise WorkbenchError(
            f'{name} is {value!r}; give one text, or a JSON list of texts such as ["Question:"].'
        ) from error
    if not all(isinstance(text, str) and text for text in found):
        raise WorkbenchError(f"{name} is {value!r}; give texts that are not empty.")
    return tuple(found)
