r"""Find the final answer in a completion and judge it against a reference.

The judge is ``math-verify``. Its time limits use ``signal.alarm``, which works in the main thread
only, and rewards run in a worker thread: so they are switched off. Without them an answer such as
``9**9**9**9`` never returns: so an answer that is long, deeply nested, full of powers or outside
the notation of its reference is compared as text only, and the algebra of the others is given a
fixed number of function calls.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from types import FrameType
from typing import Any

from workbench.tasks.base import after_thinking

MAX_CHARS = 200  # no final answer is longer; the bound also follows the reference's own length
MAX_DIGITS = 30  # in one number
MAX_DEPTH = 8  # of brackets
MAX_POWER = 3_000  # product of all exponents
MAX_SYMBOL_POWER = 24  # the same, shared by the symbols and roots of the answer
MAX_CALLS = 300_000  # function calls of one comparison; a fair one makes at most 160,000

_NUMBER = re.compile(
    r"(?:(?<![\w)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?"
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
# fmt: off
_COMMANDS = frozenset((
    r"\frac", r"\dfrac", r"\tfrac", r"\sqrt", r"\pi", r"\cdot", r"\times", r"\div", r"\pm",
    r"\infty", r"\cup", r"\cap", r"\in", r"\circ", r"\degree", r"\le", r"\ge", r"\leq", r"\geq",
    r"\ne", r"\neq", r"\begin", r"\end",
))
# fmt: on
_LOGARITHMS = {r"\log", r"\ln"}  # 10**9*log(3) is "simplified" to log(3**10**9): text only
_lock = threading.Lock()  # sympy's caches and the ANTLR parser are shared by every thread


def final_answer(completion: str) -> str:
    r"""The final answer in a completion, as text; "" when there is none.

    Looked for in the text after the last ``</think>``, in this order: the last ``\boxed{...}``,
    what follows the last ``####``, the last line. Of a line of prose, its last formula or number.
    """
    text = after_thinking(completion)
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    if "####" in text:
        text = text.rsplit("####", 1)[1].strip().split("\n")[0]
    line = text.strip().rsplit("\n", 1)[-1].strip().strip("*").strip()
    if len(line) <= MAX_CHARS and not _WORD.search(_TEXT.sub("", line)):
        return line.rstrip(".")
    formula = re.findall(r"\$([^$]{1,200})\$", line)
    if formula:
        return formula[-1].strip()
    numbers = _NUMBER.findall(line)
    return numbers[-1] if numbers else line.rstrip(".")[-MAX_CHARS:]


def last_boxed(text: str) -> str | None:
    r"""The contents of the last ``\boxed{...}`` whose braces close, or None."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for position in range(begin, min(len(text), begin + 4 * MAX_CHARS)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return None


def last_number(text: str) -> Fraction | None:
    """The last number in `text` as an exact fraction; None without one or with an absurd one."""
    numbers = _NUMBER.findall(text)
    if not numbers or len(numbers[-1]) > MAX_CHARS:
        return None
    above, _, below = numbers[-1].replace(",", "").partition("/")
    below_value = int(below) if below else 1
    return Fraction(Decimal(above.strip())) / below_value if below_value else None


@lru_cache(maxsize=10_000)
def same_value(reference: str, answer: str) -> bool:
    r"""Whether `answer` is mathematically equal to `reference`; both as inside ``\boxed{}``."""
    reference, answer = _plain(reference), _plain(answer)
    if not answer:
        return False
    if reference == answer:
        return True
    if not _affordable(reference, answer):
        return False
    with _lock:
        _load_judge()
        return bool(_limited(_verify, reference, answer))


def same_answer(one: str, two: str) -> bool:
    """Whether two written answers are mathematically equal, whichever comes first; neither is trusted.

    `same_value` takes its reference for harmless. Here each must be an answer that it would compute against
    the other, without any command that it knows from references only; other texts must be equal.
    """
    first, second = sorted((_plain(one), _plain(two)))
    if first == second:
        return bool(first)
    known = all(s in _COMMANDS for s in _symbols(first) | _symbols(second) if s.startswith("\\"))
    affordable = known and _affordable(first, second) and _affordable(second, first)
    return affordable and same_value(first, second)


def _plain(text: str) -> str:
    """`text` without what only sets the type: spaces, dollar signs, sizes of brackets, units."""
    text = re.sub(r"\\text\s*\{\s*(?:and|or)\s*\}", ",", text.strip().rstrip("."))
    without_boxes = _TEXT.sub("", text)
    # "18\text{ cm}" is 18; "\text{Evelyn}" is Evelyn.
    text = without_boxes if re.search(r"\w", without_boxes) else _TEXT.sub(r"\1", text)
    text = re.sub(r"(?<!\\)\\[,;:!> ]|\\left|\\right|\\?\$", "", text)
    text = re.sub(r"(\d)(?:,|\{,\})(?=\d{3}(?!\d))", r"\1", text)
    return re.sub(r"\s+", "", text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))


def _affordable(reference: str, answer: str) -> bool:
    """Whether `answer` is short, flat, in the reference's own letters and free of large powers."""
    return (
        len(answer) <= min(MAX_CHARS, 40 + 3 * len(reference))
        and "!" not in answer
        and re.search(rf"\d{{{MAX_DIGITS + 1}}}", answer) is None
        and _symbols(answer) <= _symbols(reference) | _COMMANDS
        and not _symbols(reference) & _LOGARITHMS
        and _depth(answer) <= MAX_DEPTH
        and _powers_are_small(answer)
    )


def _symbols(text: str) -> set[str]:
    r"""Letters and LaTeX commands; not a leading ``x=``, nor e and i."""
    text = re.sub(r"^[A-Za-z]=|\\(begin|end)\{[a-z]+\}", "", text)
    return set(re.findall(r"\\[A-Za-z]+|[A-Za-z]", text)) - {"e", "i"}


def _powers_are_small(text: str) -> bool:
    """Whether the product of all exponents is small; each must be plainly written."""
    total = 1.0
    for after in re.split(r"\^|\*\*", re.sub(r"\^\{?\\circ\}?", "", text) + " ")[1:]:
        exponent = re.match(r"\{[^{}]*\}|\([^()]*\)|-?\d+|[A-Za-z]", after)
        if exponent is None or after == exponent[0]:  # a tower
            return False
        # Each number counts as at least 2, so that even chains of small ones reach the bound.
        total *= math.prod(max(2.0, float(n)) for n in re.findall(r"\d+", exponent[0]))
    # A power of a sum of symbols or roots is expanded term by term.
    symbols = len(set(re.findall(r"(?<![\\A-Za-z])[A-Za-z]|\\pi", text))) + text.count("\\sqrt")
    return total <= (MAX_SYMBOL_POWER / symbols if symbols else MAX_POWER)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _verify(reference: str, answer: str) -> bool:
    from math_verify import verify

    return verify(_parse(reference), _parse(answer), timeout_seconds=None)


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    return parse(f"${text}$", parsing_timeout=None)


@lru_cache(maxsize=1)
def _load_judge() -> None:
    """Import the judge and let it build its tables, which is no part of any one comparison."""
    # It warns that it has no time limit; `_limited` is the limit.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for reference, answer in (
        ("x^2-1", "(x+1)(x-1)"),
        (r"\frac{\sqrt{3}}{2}", "(1,2]"),
        ("1", "2.5"),
    ):
        _verify(reference, answer)


class _TooLong(BaseException):
    """Not an Exception, so that no handler inside the algebra takes it for its own."""


def _limited(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, or None once it has made MAX_CALLS function calls.

    Counting calls needs neither a signal nor a process and works in every thread. A limit in
    seconds would make a reward depend on how busy the machine is.
    """
    left = MAX_CALLS

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= event == "call"
        if left < 0:
            left = MAX_CALLS  # lets the generators on the way out close in peace
            raise _TooLong

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return function(*args)
    except _TooLong:
        return None
    finally:
        sys.setprofile(before)
