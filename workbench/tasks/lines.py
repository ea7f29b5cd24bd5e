"""Lines that keep given constraints, and chains of constraints that some line can keep.

A chain is a seed ("Write a verse for Anna.") and up to n constraints in a fixed order. Its rungs x_1 .. x_n
are the seed with the first k of them, x_0 the bare seed. A chain is kept only where a line that keeps all of
it was found, so none asks for the impossible.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple

from workbench.tasks._drawn import split_of
from workbench.tasks.demands import (
    HARD,
    HELD_OUT,
    KINDS,
    SOFT,
    TRAINED,
    Constraint,
    draw,
    exclude,
    keeps,
)
from workbench.tasks.lexicon import ADJECTIVE, AND, BY_PART, NEUTRAL, NOUN, THE, VERB, WORDS, Word

VERBS = ("Write", "Give me", "Compose", "Say")
FORMS = ("a verse", "a caption", "a note", "a slogan", "a line")
PEOPLE = ("Anna", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Hugo")
MOST_HELD_OUT = 2  # in a chain: hardly a line has the room for words repeated and words in order
SOFT_SHARE = 0.55  # of the constraints in a chain; the published data has 60 %

# A phrase and its weight; a line has one to three of them.
PHRASES = (
    ((THE, ADJECTIVE, NOUN, VERB), 0.35),
    ((ADJECTIVE, NOUN, VERB), 0.3),
    ((THE, NOUN, VERB), 0.2),
    ((NOUN, VERB), 0.15),
)
COUNTS = (0.3, 0.45, 0.25)  # of lines with one, two and three phrases
MARK_WEIGHTS = {".": 0.7, "!": 0.15, "?": 0.15}
TRIES = 40

Slots = tuple[str, ...]


class Chain(NamedTuple):
    """A seed and its constraints in order."""

    seed: str
    constraints: tuple[Constraint, ...]

    def prompt(self, rung: int) -> str:
        """The text of x_rung: the seed with its first `rung` constraints."""
        return " ".join([self.seed, *(one.text for one in self.constraints[:rung])])


@functools.cache
def seeds(split: str) -> tuple[str, ...]:
    """The seeds of a split; "train" and "eval" share none, so they share no prompt either."""
    parts = itertools.product(VERBS, FORMS, PEOPLE)
    everything = (f"{verb} {form} for {name}." for verb, form, name in parts)
    return tuple(seed for seed in everything if split_of(seed) == split)


def draw_chain(rng: random.Random, split: str, length: int, kinds: str = "trained") -> Chain:
    """A chain of `length` constraints, of the kinds that training sees, or with held-out ones among them.

    "held_out" puts one held-out kind into it, two from four constraints on; "all" draws of all.
    """
    while True:
        found: list[Constraint] = []
        for kind in _kinds(rng, length, kinds):
            fitting = (draw(kind, rng) for _ in range(TRIES))
            added = next((c for c in fitting if not any(exclude(c, kept) for kept in found)), None)
            found += [added] if added else []
        if len(found) == length and (length == 0 or compose(found, rng) is not None):
            return Chain(rng.choice(seeds(split)), tuple(found))


def _kinds(rng: random.Random, length: int, kinds: str) -> list[str]:
    """The kinds of a chain, each once, hard and soft mixed in a drawn order."""
    pool = list(KINDS if kinds == "all" else TRAINED)
    chosen: list[str] = []
    if kinds == "held_out":
        chosen = rng.sample(HELD_OUT, min(max(1, length // 2), MOST_HELD_OUT))
    while len(chosen) < length:
        table = SOFT if rng.random() < SOFT_SHARE else HARD
        open_kinds = [kind for kind in pool if kind in table and kind not in chosen]
        if open_kinds:
            chosen.append(rng.choice(open_kinds))
        elif all(kind in chosen for kind in pool):
            break
    return rng.sample(chosen, len(chosen))


# --- lines ------------------------------------------------------------------------------------------


@functools.cache
def structures() -> tuple[tuple[Slots, float], ...]:
    """Every line's slots, such as (the, noun, verb, and, noun, verb), with its weight."""
    found = []
    for count, share in enumerate(COUNTS, 1):
        for phrases in itertools.product(PHRASES, repeat=count):
            slots: list[str] = []
            weight = share
            for number, (phrase, each) in enumerate(phrases):
                slots += ([AND] if number else []) + list(phrase)
                weight *= each
            found.append((tuple(slots), weight))
    return tuple(found)


def compose(constraints: Sequence[Constraint], rng: random.Random) -> str | None:
    """A line that keeps all the constraints and is drawn at random otherwise; None where none was found."""
    asked = {one.kind: one.arguments for one in constraints}
    fitting = [(slots, weight) for slots, weight in structures() if _fits(slots, asked)]
    if not fitting:
        return None
    choices, weights = zip(*fitting, strict=True)
    for _ in range(TRIES):
        words = _fill(rng.choices(choices, weights)[0], asked, rng)
        if words is None:
            continue
        mark = asked["mark"]["mark"] if "mark" in asked else _mark(rng)
        line = " ".join(words) + mark
        if all(keeps(one.kind, one.arguments, line) for one in constraints):
            return line
    return None


def _mark(rng: random.Random) -> str:
    return rng.choices(list(MARK_WEIGHTS), list(MARK_WEIGHTS.values()))[0]


def _fits(slots: Slots, asked: dict[str, dict]) -> bool:
    """Whether words can fill these slots as asked, as far as their places tell."""
    if "count" in asked and len(slots) != asked["count"]["count"]:
        return False
    if "avoids" in asked and asked["avoids"]["word"] in slots:
        return False
    if "first" in asked:
        word = asked["first"]["word"]
        if slots[0] != (WORDS[word].part if word in WORDS else word):
            return False
    if asked.get("style") == {"style": "bare"} and ADJECTIVE in slots:
        return False
    if asked.get("style") == {"style": "lush"} and slots.count(ADJECTIVE) != slots.count(NOUN):
        return False
    return not ("mood" in asked and ADJECTIVE not in slots)


def _fill(slots: Slots, asked: dict[str, dict], rng: random.Random) -> list[str] | None:
    """Words for the slots: those asked for by name first, the others from what the soft ones allow."""
    words: list[str | None] = [slot if slot in (THE, AND) else None for slot in slots]
    if "first" in asked:
        words[0] = asked["first"]["word"]
    if "last" in asked:
        words[-1] = asked["last"]["word"]
    named = []
    if "order" in asked:
        named += [asked["order"]["word"], asked["order"]["then"]]
    if "repeats" in asked:
        named += [asked["repeats"]["word"]] * (2 - words.count(asked["repeats"]["word"]))
    if "contains" in asked and asked["contains"]["word"] not in words:
        named.append(asked["contains"]["word"])
    for word in named:
        places = [
            i for i, slot in enumerate(slots) if words[i] is None and slot == WORDS[word].part
        ]
        if not places:
            return None
        words[rng.choice(places)] = word
    swing = rng.random() < 0.5
    turn = 0
    for place, slot in enumerate(slots):
        if slot in (THE, AND):
            continue
        turn += 1
        if words[place] is None:
            short = _length(asked, (turn % 2 == 0) == swing, rng)
            words[place] = _draw_word(slot, asked, short, rng).text
    return [word or "" for word in words]


def _length(asked: dict[str, dict], in_turn: bool, rng: random.Random) -> bool | None:
    """Whether a word should be short; None leaves it open."""
    rhythm = asked.get("rhythm", {}).get("rhythm")
    if rhythm == "swaying":
        return in_turn
    if rhythm is None or rng.random() < 0.1:
        return None
    return rhythm == "brisk"


def _draw_word(part: str, asked: dict[str, dict], short: bool | None, rng: random.Random) -> Word:
    name = {NOUN: "topic", ADJECTIVE: "mood", VERB: "register"}[part]
    group = asked.get(name, {}).get(name)
    if group is not None and part == ADJECTIVE and rng.random() < 0.25:
        group = NEUTRAL  # where no adjective is of the mood the line is drawn anew
    return rng.choice(_pool(part, group, short))


@functools.cache
def _pool(part: str, group: str | None, short: bool | None) -> tuple[Word, ...]:
    return tuple(
        word
        for word in BY_PART[part]
        if group in (None, word.group) and short in (None, word.short)
    )


def vocabulary() -> str:
    """Every word of the seeds, the constraints, the plans and the lines, joined by spaces."""
    texts = [*VERBS, *FORMS, *PEOPLE, "for", THE, AND, *WORDS]
    rng = random.Random("vocabulary/0")
    for row in KINDS.values():
        for _ in range(200):  # arguments that are words of a line are in the list already
            arguments = row.draw(rng)
            texts += [text.format(**arguments) for text in (*row.wordings, row.note)]
    words = [word for text in texts for word in _letters(text)]
    return " ".join(dict.fromkeys(words))


def _letters(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text).split()
