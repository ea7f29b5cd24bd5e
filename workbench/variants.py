"""The row type of every table, and the errors a user can mend.

A kind of variant (objective, surrogate, anchor, reward, task) is one table ``name -> Variant`` written
by hand at the bottom of its module. A Variant is the plain function plus what the panel, the recipe and
the documentation need to show it: a formula, a source and its parameters.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class WorkbenchError(Exception):
    """Something the user can mend; its message is one sentence that says how."""


@dataclass(frozen=True)
class Param:
    """One parameter of a variant: default, range (inclusive) or choices, and one line of help.

    A default that is a text, without choices or words, stands for any text, such as a model's name.
    """

    name: str
    default: float | int | str | bool | tuple[float, ...]
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()  # texts that may stand for the number, such as "auto"

    def check(self, owner: str, value: Any) -> None:
        """Raise WorkbenchError if `value` is not allowed for this parameter."""
        if self.choices:
            if value not in self.choices:
                raise WorkbenchError(unknown(f"{owner}.{self.name}", value, self.choices))
            return
        if isinstance(value, str) and value in self.words:
            return
        if isinstance(self.default, tuple):
            if not isinstance(value, (list, tuple)) or not value:
                raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give a list of numbers.")
            for item in value:
                self._check_number(owner, item, 0.0)
            return
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give true or false.")
            return
        if isinstance(self.default, str) and not self.words:
            if not isinstance(value, str) or not value.strip():
                raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give a text.")
            return
        self._check_number(owner, value, self.default)

    def _check_number(self, owner: str, value: Any, default: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            words = "".join(f" or {word!r}" for word in self.words)
            raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give a number{words}.")
        if isinstance(default, int) and not isinstance(value, int):
            raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give a whole number.")
        if not math.isfinite(value):
            raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give a finite number.")
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= value <= high:
            raise WorkbenchError(f"{owner}.{self.name} is {value!r}; give {low:g} to {high:g}.")


@dataclass(frozen=True)
class Variant:
    """A function of one kind with what is needed to show it. Calling it calls the function.

    `min_group` is the number of completions per prompt that the function needs, or a function from its
    arguments to that number. `bounds` is the range of a reward's values, or a function from its arguments
    to that range, or the range of the total reward that an objective accepts. `needs` names keyword tensors
    that the trainer passes besides the usual ones. `pressure` is which way a reward pushes length and
    certainty, as far as its formula tells.
    """

    function: Callable[..., Any]
    formula: str
    source: str
    params: tuple[Param, ...] = ()
    min_group: int | Callable[[dict[str, Any]], int] = 1
    bounds: tuple[float, float] | Callable[[dict[str, Any]], tuple[float, float]] | None = None
    needs: tuple[str, ...] = ()
    pressure: tuple[str, str] | None = None  # (length, certainty), each up, down or none

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def doc(self) -> str:
        """The first line of the function's docstring: the tooltip."""
        return (self.function.__doc__ or "").strip().split("\n")[0]

    @property
    def defaults(self) -> dict[str, Any]:
        """Parameter name -> default value."""
        return {param.name: param.default for param in self.params}

    def group_needed(self, arguments: dict[str, Any]) -> int:
        """Completions per prompt that the function needs with these arguments."""
        if callable(self.min_group):
            return self.min_group(self.defaults | arguments)
        return self.min_group

    def range_with(self, arguments: dict[str, Any]) -> tuple[float, float] | None:
        """The bounds with these arguments."""
        if callable(self.bounds):
            return self.bounds(self.defaults | arguments)
        return self.bounds

    def check(self, owner: str, arguments: dict[str, Any]) -> None:
        """Raise WorkbenchError for an unknown parameter or a value out of its range."""
        by_name = {param.name: param for param in self.params}
        for name, value in arguments.items():
            if name not in by_name:
                raise WorkbenchError(unknown(f"parameter of {owner}", name, by_name))
            by_name[name].check(owner, value)


def unknown(what: str, given: Any, allowed: Iterable[str]) -> str:
    """The one message form for a wrong name: which, what was given, what is allowed, nearest match."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(names) if names else "nothing (it takes no parameters)"
    return f"Unknown {what} {given!r}; allowed: {listing}.{hint}"


def lookup(table: dict[str, Any], what: str, name: str) -> Any:
    """`table[name]`, or a WorkbenchError that lists the allowed names."""
    if name not in table:
        raise WorkbenchError(unknown(what, name, table))
    return table[name]


def name_of(value: Any) -> str:
    """A name of a table as it is; a function of the user's own by its name."""
    return getattr(value, "__name__", type(value).__name__) if callable(value) else str(value)
