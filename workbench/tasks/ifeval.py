r"""Hard constraints on a text, such as a number of words, judged by the IFEval checkers of ``lm-eval``.

The checkers are theirs, unchanged. Here they are asked definite questions only: a checker that is not given
its number, or is given one out of its range, would draw one at random.

Two of them, ``length_constraints:number_sentences`` and ``change_case:capital_word_frequency``, need nltk's
data ``punkt_tab``, which is never downloaded from here.

Published data has two more ids, ``light`` and ``light_choice``: the gold answer of a problem in mathematics,
and the gold letter of a multiple choice; `same_light` judges them without ``lm-eval``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.tasks.base import after_thinking
from workbench.tasks.grading import final_answer, last_boxed, same_value
from workbench.variants import WorkbenchError, lookup, unknown

# fmt: off
IDS = (
    "keywords:existence", "keywords:frequency", "keywords:forbidden_words", "keywords:letter_frequency",
    "language:response_language", "length_constraints:number_sentences",
    "length_constraints:number_paragraphs", "length_constraints:number_words",
    "length_constraints:nth_paragraph_first_word", "detectable_content:number_placeholders",
    "detectable_content:postscript", "detectable_format:number_bullet_lists",
    "detectable_format:constrained_response", "detectable_format:number_highlighted_sections",
    "detectable_format:multiple_sections", "detectable_format:json_format", "detectable_format:title",
    "combination:two_responses", "combination:repeat_prompt", "startend:end_checker", "startend:quotation",
    "change_case:capital_word_frequency", "change_case:english_capital", "change_case:english_lowercase",
    "punctuation:no_comma",
)
LIGHT = ("light", "light_choice")

_COUNTS = frozenset((
    "frequency", "let_frequency", "capital_frequency", "nth_paragraph", "num_bullets",
    "num_highlights", "num_paragraphs", "num_placeholders", "num_sections", "num_sentences", "num_words",
))
_LISTS = frozenset(("keywords", "forbidden_words"))
_PATTERNS = _LISTS | {"keyword", "postscript_marker", "section_spliter"}  # regular expressions
_DETECTING = frozenset((
    "language:response_language", "change_case:english_capital", "change_case:english_lowercase",
))
# fmt: on
_CHOICE = re.compile(r"[(\[]*([A-Ja-j])(?:[)\].:].*)?", re.DOTALL)  # "B", "(B)", "B. a rope"
# Not the pronoun in "I think", nor the article in "A rope": a lower-case word follows those.
_LONE_LETTER = re.compile(
    r"(?<![A-Za-z0-9'’])(?:[B-HJ]|[AI](?!\s+(?!is\b|because\b)[a-z]))(?![A-Za-z0-9'’])"
)
_lock = threading.Lock()  # held while anything of another package is swapped


def is_known(kind: str) -> bool:
    """Whether `kind` is one of the 25 ids of IFEval; ``lm-eval`` is not imported for it."""
    return kind in IDS


@functools.lru_cache(maxsize=1)
def checkers() -> Mapping[str, Any]:
    """The checker classes of ``lm-eval`` by id; the first call takes seconds. WorkbenchError without it."""
    with _lock:
        try:
            import nltk

            importlib.import_module("lm_eval.tasks")  # the slow part
            # Their import would download nltk's data, and announce it even where that failed. Told that the
            # data is there, it does neither, online or off; `follows` says what to run where it is missing.
            with _swapped("find", lambda *_, **__: "", nltk.data):
                from lm_eval.tasks.ifeval import instructions_registry
        except ImportError as error:
            raise WorkbenchError(
                f'IFEval needs lm-eval ({error}); run pip install "rlvr-workbench[ifeval]".'
            ) from error
    # It logs every answer whose language it can't tell as an error, in full.
    logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)
    return instructions_registry.INSTRUCTION_DICT


def conflicts() -> dict[str, frozenset[str]]:
    """For every id those that can't be asked for with it, both ways; each conflicts with itself."""
    checkers()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_CONFLICTS

    found: dict[str, set[str]] = {kind: {kind} for kind in IDS}
    for one, others in INSTRUCTION_CONFLICTS.items():
        for other in others:
            found.setdefault(one, {one}).add(other)
            found.setdefault(other, {other}).add(one)
    return {kind: frozenset(others) for kind, others in found.items()}


def cleaned(kind: str, arguments: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The arguments of one constraint as its checker takes them; it is built with them once, as a test.

    None and NaN count as absent, whole floats become integers, arrays and tuples become lists.
    WorkbenchError, beginning with `where`, for an unknown id or parameter, for an absent, blank or negative
    one, for one of the wrong type, and for all that the checker refuses or would replace by a draw.
    """
    try:
        taken = _taken(kind, arguments or {})
        _checker(kind, taken)
    except WorkbenchError as error:
        raise WorkbenchError(f"{where}: {error}") from error
    return taken


def follows(kind: str, arguments: Mapping[str, Any] | None, answer: str) -> bool:
    """Whether `answer`, without any thinking, follows the constraint by the strict rule; a blank one doesn't.

    The same verdict every time and in every thread; Python's `random` is neither read nor changed. The
    checker of the language lets a text pass whose language can't be told, such as one of digits only.
    WorkbenchError as of `cleaned`, and where nltk's data is missing.
    """
    checker = _checker(kind, _taken(kind, arguments or {}))
    if not answer.strip():
        return False
    try:
        if kind not in _DETECTING:
            return bool(checker.check_following(answer))
        from langdetect import DetectorFactory

        # It samples, and its first call in a process fills a table that other threads would read half full.
        with _lock, _swapped("seed", 0, DetectorFactory):
            return bool(checker.check_following(answer))
    except RecursionError:  # JSON nested too deeply to be read
        return False
    except LookupError as error:
        if type(error) is not LookupError:  # as nltk raises it
            raise
        raise WorkbenchError(
            f"{kind} lacks data of nltk; run python -m nltk.downloader punkt_tab."
        ) from error


def same_light(kind: str, gold: str, answer: str) -> bool:
    r"""Whether `answer` has the value of `gold` (``light``) or chooses its letter (``light_choice``).

    The letter is that in the last ``\boxed{}``; without a box, the last capital A to J that stands alone.
    WorkbenchError for another id, a blank gold answer, and a gold letter that isn't one of A to J.
    """
    if kind not in LIGHT:
        raise WorkbenchError(unknown("constraint", kind, LIGHT))
    gold = last_boxed(gold) or gold
    if kind == "light":
        if not gold.strip():
            raise WorkbenchError("The gold answer of light is blank; give the right answer.")
        return same_value(gold, final_answer(answer))
    right = _letter(gold)
    if right is None:
        raise WorkbenchError(f"The gold answer of light_choice is {gold!r}; give a letter A to J.")
    text = after_thinking(answer)
    boxed = last_boxed(text)
    if boxed is not None:
        return _letter(boxed) == right
    return _LONE_LETTER.findall(text)[-1:] == [right]


def _letter(text: str) -> str | None:
    """The letter that `text` consists of or begins with, as in ``\text{(B)}``; None for two of them."""
    match = _CHOICE.fullmatch(re.sub(r"\\[A-Za-z]+|[{}$\s]", "", text))
    return match[1].upper() if match else None


def _taken(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the checker names, each in its type and none missing."""
    names = _parameters(kind)
    given = {name: _plain(value) for name, value in arguments.items()}
    for name in sorted(given.keys() - set(names)):
        if given[name] is not None:
            raise WorkbenchError(unknown(f"parameter of {kind}", name, names))
    return {name: _typed(f"{kind}.{name}", name, given.get(name)) for name in names}


def _plain(value: Any) -> Any:
    """`value` without numpy; None where it stands for a missing one."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value)):
        return None
    return list(value) if isinstance(value, tuple) else value


def _typed(owner: str, name: str, value: Any) -> Any:
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        raise WorkbenchError(f"{owner} is missing; give it, for the checker would draw one.")
    if name in _COUNTS:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or value < 0 or value != value // 1:
            raise WorkbenchError(f"{owner} is {value!r}; give a whole number, 0 or more.")
        return int(value)
    if name in _LISTS:
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise WorkbenchError(f"{owner} is {value!r}; give a list of texts.")
    elif not isinstance(value, str):
        raise WorkbenchError(f"{owner} is {value!r}; give a text.")
    return value


@functools.lru_cache(maxsize=len(IDS))
def _parameters(kind: str) -> tuple[str, ...]:
    build = lookup(dict(checkers()), "constraint", kind)(kind).build_description
    return tuple(inspect.signature(build).parameters)


def _checker(kind: str, given: dict[str, Any]) -> Any:
    """The checker with its requirement; it is built anew each time, which takes some 20 microseconds."""
    built = checkers()[kind](kind)
    from lm_eval.tasks.ifeval import instructions, instructions_util

    try:
        with _lock, _swapped("random", _NoDraw(), instructions, instructions_util):
            built.build_description(**given)
        for name in _PATTERNS & given.keys():
            for text in given[name] if name in _LISTS else [given[name]]:
                re.compile(text)
    except (ValueError, KeyError, TypeError, re.error) as error:
        raise WorkbenchError(
            f"The checker of {kind} refuses {given} ({error}); mend or drop this constraint."
        ) from error
    return built


class _NoDraw:
    """Stands in for the module `random` where a checker would draw what it was not rightly given."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("out of its range, it would draw a requirement of its own")


@contextlib.contextmanager
def _swapped(name: str, value: Any, *owners: Any) -> Iterator[None]:
    """Each owner's attribute `name` is `value` for a while."""
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, value)
        yield
    finally:
        for owner, old in zip(owners, before, strict=True):
            setattr(owner, name, old)
