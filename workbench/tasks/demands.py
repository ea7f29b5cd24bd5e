"""Constraints on a line: what each asks, in which words, and whether a line keeps it.

Eight *hard* kinds can be checked by a rule that knows nothing of words. Five *soft* kinds speak of the
classes of words (see `lexicon`); their truth is known here, to measure, and is never trained on.

hard   count, first, last, contains, avoids, mark, repeats, order
soft   mood, register, topic, style, rhythm

An empty line keeps nothing, as in IFEval's strict reading. The world, its wording and its truths were fixed
before any model was trained on it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from workbench.tasks.base import RIGHT, quoted
from workbench.tasks.lexicon import (
    ADJECTIVE,
    AND,
    BY_PART,
    MARKS,
    MOODS,
    NEUTRAL,
    NOUN,
    REGISTERS,
    THE,
    TOPICS,
    VERB,
    WORDS,
    content_of,
    words_of,
)
from workbench.variants import lookup

Arguments = Mapping[str, Any]


class Constraint(NamedTuple):
    """One constraint: its kind, the arguments of its checker, and its text, which is all a model sees."""

    kind: str
    arguments: dict[str, Any]
    text: str


class Kind(NamedTuple):
    """A row of KINDS: how to draw the arguments, how to word them, how to check them."""

    draw: Callable[[random.Random], dict[str, Any]]
    wordings: tuple[str, ...]  # with the arguments in braces
    note: str  # how a plan puts it, in a word or two
    keeps: Callable[[list[str], str, Arguments], bool]  # (words, mark, arguments)


# --- what each kind checks ------------------------------------------------------------------------


def _only(words: list[str], part: str, group: str) -> bool:
    """At least one word of the class, and none of another class of that part; neutral ones are free."""
    groups = {word.group for word in content_of(words) if word.part == part} - {NEUTRAL}
    return groups == {group}


def _in_order(words: list[str], arguments: Arguments) -> bool:
    one, two = arguments["word"], arguments["then"]
    return one in words and two in words and words.index(one) < words.index(two)


def _style(words: list[str], arguments: Arguments) -> bool:
    """bare: no adjective; lush: one before every noun."""
    content = content_of(words)
    if arguments["style"] == "bare":
        return bool(content) and all(word.part != ADJECTIVE for word in content)
    pairs = zip([None, *content], content, strict=False)
    nouns = [before for before, word in pairs if word.part == NOUN]
    return bool(nouns) and all(before is not None and before.part == ADJECTIVE for before in nouns)


RHYTHM_SHARE = 0.75  # of the content words that are short in a brisk line, long in a slow one


def _rhythm(words: list[str], arguments: Arguments) -> bool:
    """brisk: at least three quarters of the content words short; slow: long; swaying: in turn."""
    lengths = [word.short for word in content_of(words)]
    if len(lengths) < 2:
        return False
    if arguments["rhythm"] == "swaying":
        return all(one != two for one, two in itertools.pairwise(lengths))
    share = sum(lengths) / len(lengths)
    return (share if arguments["rhythm"] == "brisk" else 1 - share) >= RHYTHM_SHARE


# --- how arguments are drawn ----------------------------------------------------------------------


def _count(rng: random.Random) -> dict[str, Any]:
    return {"count": rng.randint(4, 9)}


def _any_word(rng: random.Random) -> dict[str, Any]:
    return {"word": rng.choice(BY_PART[rng.choice((NOUN, ADJECTIVE, VERB))]).text}


def _opening(rng: random.Random) -> dict[str, Any]:
    part = rng.choice((NOUN, ADJECTIVE))
    return {
        "word": rng.choice((THE, rng.choice(BY_PART[part]).text, rng.choice(BY_PART[part]).text))
    }


def _ending(rng: random.Random) -> dict[str, Any]:
    return {"word": rng.choice(BY_PART[VERB]).text}


def _noun(rng: random.Random) -> dict[str, Any]:
    return {"word": rng.choice(BY_PART[NOUN]).text}


def _two_nouns(rng: random.Random) -> dict[str, Any]:
    one, two = rng.sample(BY_PART[NOUN], 2)
    return {"word": one.text, "then": two.text}


def _one_of(name: str, values: tuple[str, ...]) -> Callable[[random.Random], dict[str, Any]]:
    return lambda rng: {name: rng.choice(values)}


HARD: dict[str, Kind] = {
    "count": Kind(_count, ("Use {count} words.", "Write {count} words.", "Keep it to {count} words."),
                  "{count} words", lambda w, m, a: len(w) == a["count"]),
    "first": Kind(_opening, ("Start with {word}.", "Begin with {word}.", "Open with {word}."),
                  "first {word}", lambda w, m, a: w[0] == a["word"]),
    "last": Kind(_ending, ("Close with {word}.", "Finish with {word}.", "Let {word} come last."),
                 "last {word}", lambda w, m, a: w[-1] == a["word"]),
    "contains": Kind(_any_word, ("Mention {word}.", "Say {word} somewhere.", "Include {word}."),
                     "with {word}", lambda w, m, a: a["word"] in w),
    "avoids": Kind(_one_of("word", (THE, AND)), ("Avoid {word}.", "Leave out {word}.", "Never say {word}."),
                   "no {word}", lambda w, m, a: a["word"] not in w),
    "mark": Kind(_one_of("mark", tuple(MARKS)),
                 ("End with {mark}", "Put {mark} at the end.", "The mark is {mark}"),
                 "end {mark}", lambda w, m, a: m == a["mark"]),
    "repeats": Kind(_noun, ("Say {word} twice.", "Use {word} two times.", "Repeat {word}."),
                    "twice {word}", lambda w, m, a: w.count(a["word"]) >= 2),
    "order": Kind(_two_nouns, ("Put {word} before {then}.", "First {word} and later {then}.",
                               "Name {word} and after it {then}."),
                  "{word} before {then}", lambda w, m, a: _in_order(w, a)),
}  # fmt: skip
SOFT: dict[str, Kind] = {
    "mood": Kind(_one_of("mood", tuple(name for name in MOODS if name != NEUTRAL)),
                 ("Sound {mood}.", "Let the mood be {mood}.", "Make it {mood}."),
                 "{mood}", lambda w, m, a: _only(w, ADJECTIVE, a["mood"])),
    "register": Kind(_one_of("register", tuple(REGISTERS)),
                     ("Use a voice that is {register}.", "Speak in {register} words.",
                      "Keep the voice {register}."),
                     "{register}", lambda w, m, a: _only(w, VERB, a["register"])),
    "topic": Kind(_one_of("topic", tuple(TOPICS)),
                  ("Speak of the {topic}.", "Let it be about the {topic}.", "Stay with the {topic}."),
                  "{topic}", lambda w, m, a: _only(w, NOUN, a["topic"])),
    "style": Kind(_one_of("style", ("bare", "lush")),
                  ("Make the style {style}.", "Keep the style {style}.", "Write in a {style} style."),
                  "{style}", lambda w, m, a: _style(w, a)),
    "rhythm": Kind(_one_of("rhythm", ("brisk", "slow", "swaying")),
                   ("Make the rhythm {rhythm}.", "Let the rhythm be {rhythm}.", "Give it a {rhythm} rhythm."),
                   "{rhythm}", lambda w, m, a: _rhythm(w, a)),
}  # fmt: skip
KINDS: dict[str, Kind] = HARD | SOFT
HELD_OUT = ("repeats", "order", "rhythm")  # in no chain that is trained on
TRAINED = tuple(kind for kind in KINDS if kind not in HELD_OUT)


def draw(kind: str, rng: random.Random) -> Constraint:
    """A constraint of a kind, its arguments and its wording drawn."""
    row = KINDS[kind]
    arguments = row.draw(rng)
    return Constraint(kind, arguments, rng.choice(row.wordings).format(**arguments))


def names_of(kind: str) -> tuple[str, ...]:
    """The names of a kind's arguments."""
    return tuple(KINDS[kind].draw(random.Random(0)))


def note(constraint: Constraint) -> str:
    """How a plan puts the constraint."""
    return KINDS[constraint.kind].note.format(**constraint.arguments)


def mark_of(line: str) -> str:
    """The mark that a line ends with; empty where it has none."""
    last = line.rstrip()[-1:]
    return last if last and last in MARKS else ""


def keeps(kind: str, arguments: Arguments, line: str) -> bool:
    """Whether a line keeps a constraint: by rule for a hard kind, by the words' classes for a soft one."""
    row = lookup(KINDS, "kind of constraint", kind)
    words = words_of(line)
    return bool(words) and row.keeps(words, mark_of(line), arguments)


def told(texts: Sequence[str], kept: Sequence[bool | None]) -> str:
    """How many constraints are kept and which are not, as words; None where nobody knows."""
    if all(kept):
        return f"{RIGHT}: keeps {'it' if len(kept) == 1 else f'all {len(kept)}'}"
    broken = [text for text, one in zip(texts, kept, strict=True) if one is False]
    known = sum(one is not None for one in kept)
    parts = [f"keeps {known - len(broken)} of {known}"] if known else []
    parts += [f"not {', '.join(map(quoted, broken))}"] if broken else []
    parts += [f"{len(kept) - known} that rules can't check"] if known < len(kept) else []
    return ", ".join(parts)


# --- what can't be asked together -------------------------------------------------------------------

_NAMING = ("first", "last", "contains", "repeats", "order")  # kinds that ask for words by name


def _named(constraint: Constraint) -> set[str]:
    asked = constraint.arguments
    return {asked[name] for name in ("word", "then") if name in asked}


def _of_another(part: str, name: str) -> Callable[[Constraint, Constraint], bool]:
    """Whether a word asked for by name is of another class than a soft constraint allows."""

    def clash(naming: Constraint, soft: Constraint) -> bool:
        words = [WORDS[word] for word in _named(naming) if word in WORDS]
        allowed = (soft.arguments[name], NEUTRAL)
        return any(word.part == part and word.group not in allowed for word in words)

    return clash


# A pair of kinds -> whether two such constraints exclude each other. Every kind excludes itself.
CONFLICTS: dict[tuple[str, str], Callable[[Constraint, Constraint], bool]] = {
    **{(kind, "avoids"): lambda one, two: two.arguments["word"] in _named(one) for kind in _NAMING},
    **{(kind, "topic"): _of_another(NOUN, "topic") for kind in _NAMING},
    **{(kind, "mood"): _of_another(ADJECTIVE, "mood") for kind in _NAMING},
    **{(kind, "register"): _of_another(VERB, "register") for kind in _NAMING},
    **{
        (kind, "style"): lambda one, two: (
            two.arguments["style"] == "bare"
            and any(WORDS[w].part == ADJECTIVE for w in _named(one) if w in WORDS)
        )
        for kind in _NAMING
    },
    ("mood", "style"): lambda one, two: two.arguments["style"] == "bare",
    ("count", "avoids"): lambda one, two: two.arguments["word"] == AND and one.arguments["count"] > 4,
    ("repeats", "avoids"): lambda one, two: two.arguments["word"] in (AND, one.arguments["word"]),
    ("order", "avoids"): lambda one, two: two.arguments["word"] in (AND, *_named(one)),
}  # fmt: skip


def exclude(one: Constraint, two: Constraint) -> bool:
    """Whether no line can keep both, as far as the table tells; `lines.compose` finds the rest."""
    if one.kind == two.kind:
        return True
    for first, second in ((one, two), (two, one)):
        clash = CONFLICTS.get((first.kind, second.kind))
        if clash is not None and clash(first, second):
            return True
    return False
