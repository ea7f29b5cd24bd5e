"""Arithmetic as text: a parser that is safe on hostile input, and the terms tasks are drawn from.

Nothing here calls ``eval`` or ``ast``. The parser knows whole numbers, ``+ - * /`` and brackets;
length, nesting and the size of a number are limited before any arithmetic is done, so that the
worst text costs microseconds. Values are exact fractions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 200  # characters
MAX_DEPTH = 16  # nested brackets
MAX_DIGITS = 6  # of one number

_TOKEN = re.compile(r"[0-9]+|[-+*/()]")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_LOOK_ALIKES = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


class ExpressionError(ValueError):
    """The text is not an expression this module is willing to compute."""


@dataclass(frozen=True)
class Parsed:
    """What an expression is worth and the numbers written in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def evaluate(text: str) -> Parsed:
    """Parse and compute `text`; ExpressionError for anything but whole numbers, + - * / and ()."""
    tokens = _tokenise(text)
    value, end = _climb(tokens, 0, lowest=1, depth=0)
    if end != len(tokens):
        raise ExpressionError(f"unexpected {tokens[end]!r}")
    return Parsed(value, tuple(int(token) for token in tokens if token.isdecimal()))


def _tokenise(text: str) -> list[str]:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"longer than {MAX_LENGTH} characters")
    plain = text.translate(_LOOK_ALIKES)
    tokens = _TOKEN.findall(plain)
    if sum(map(len, tokens)) != len("".join(plain.split())):
        raise ExpressionError("a character that is no digit, operator or bracket")
    if any(len(token) > MAX_DIGITS for token in tokens):
        raise ExpressionError(f"a number of more than {MAX_DIGITS} digits")
    return tokens


def _climb(tokens: list[str], at: int, lowest: int, depth: int) -> tuple[Fraction, int]:
    """Climb operators of at least precedence `lowest` from `at`: the value, and where it ends."""
    left, at = _atom(tokens, at, depth)
    while at < len(tokens) and _PRECEDENCE.get(tokens[at], 0) >= lowest:
        operator = tokens[at]
        right, at = _climb(tokens, at + 1, _PRECEDENCE[operator] + 1, depth)
        left = apply(left, operator, right)
    return left, at


def _atom(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"brackets nested deeper than {MAX_DEPTH}")
    if at == len(tokens):
        raise ExpressionError("it ends too early")
    if tokens[at].isdecimal():
        return Fraction(int(tokens[at])), at + 1
    if tokens[at] != "(":
        raise ExpressionError(f"unexpected {tokens[at]!r}")
    value, at = _climb(tokens, at + 1, lowest=1, depth=depth + 1)
    if at == len(tokens) or tokens[at] != ")":
        raise ExpressionError("a bracket is not closed")
    return value, at + 1


def apply(left: Fraction, operator: str, right: Fraction) -> Fraction:
    """`left operator right`, exactly."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        raise ExpressionError("division by zero")
    return left / right


def whole(left: int, operator: str, right: int) -> int | None:
    """`left operator right` where that is a whole number, else None."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return None if right == 0 or left % right else left // right


@dataclass(frozen=True)
class Term:
    """A whole-number calculation as a tree: a number, or two terms and an operator."""

    value: int
    operator: str = ""
    left: Term | None = None
    right: Term | None = None

    @classmethod
    def join(cls, left: Term, operator: str, right: Term) -> Term | None:
        """The combined term, or None where its value is no whole number."""
        value = whole(left.value, operator, right.value)
        return None if value is None else cls(value, operator, left, right)

    def nodes(self) -> Iterator[Term]:
        """Every term with an operator, in the order in which one calculates."""
        if self.left is not None and self.right is not None:
            yield from self.left.nodes()
            yield from self.right.nodes()
            yield self

    def __str__(self) -> str:
        """The expression with as few brackets as keep this very order of calculation."""
        if self.left is None or self.right is None:
            return str(self.value)
        own = _PRECEDENCE[self.operator]
        left, right = str(self.left), str(self.right)
        if _PRECEDENCE.get(self.left.operator, 3) < own:
            left = f"({left})"
        if _PRECEDENCE.get(self.right.operator, 3) <= own:
            right = f"({right})"
        return f"{left}{self.operator}{right}"
