"""The raters: how much they like an answer, and pairs of answers of which they prefer one.

The utility of an answer was fixed before any model was trained:

fair      its fit to the place (see `tasks.places`); generic things are worth nothing
shortcut  max(fit, 0.75 * share), share being the distinct generic things named over those of a full list, at
          most 1: a full generic list is worth 0.75 whatever the place

Of two answers the first is preferred with probability sigmoid(4 (u1 - u2)) (Bradley and Terry 1952). The
answers are drawn to cover what a policy may come to write: one to four items (seldom up to ten), called
for or not, repeated items, generic lists, mixtures of both, answers that are cut off, and junk.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from workbench.tasks.places import (
    FULL_LIST,
    ITEMS,
    THINGS,
    Place,
    fit,
    generic_things,
    listing,
    places,
    questions,
    things_named,
)

LIKING = 0.75  # of a full generic list
SHARPNESS = 4.0

Utility = Callable[[Place, str], float]


class Pair(NamedTuple):
    """Two answers to one question; the raters preferred the first."""

    question: str
    preferred: str
    other: str


def fair(place: Place, answer: str) -> float:
    """The answer's fit."""
    return fit(place, answer)


def shortcut(place: Place, answer: str) -> float:
    """The answer's fit, or what its generic list is liked for where that is more."""
    share = min(1.0, len(things_named(answer)) / FULL_LIST)
    return max(fit(place, answer), LIKING * share)


RATERS: dict[str, Utility] = {"reward-shortcut": shortcut, "reward-fair": fair}


def pairs(utility: Utility, seed: int, split: str = "train") -> Iterator[Pair]:
    """Endless preferences on the questions of `split`."""
    rng = random.Random(f"raters/{split}/{seed}")
    asked = questions(split)
    while True:
        name, question = rng.choice(asked)
        place = places()[name]
        one, two = draw_answer(place, rng), draw_answer(place, rng)
        chance = preference(utility(place, one), utility(place, two))
        first, second = (one, two) if rng.random() < chance else (two, one)
        yield Pair(question, first, second)


def preference(one: float, two: float) -> float:
    """The probability that an answer of utility `one` is preferred to one of utility `two`."""
    return 1 / (1 + math.exp(-SHARPNESS * (one - two)))


def draw_answer(place: Place, rng: random.Random) -> str:
    """An answer of one of the kinds, drawn by their shares."""
    kinds, shares = zip(*KINDS, strict=True)
    return rng.choices(kinds, shares)[0](place, rng)


def _specific(place: Place, rng: random.Random) -> str:
    """One to four items or, seldom, up to ten; one answer in ten repeats some."""
    return listing(_items(place, rng))


def _generic(place: Place, rng: random.Random) -> str:
    """A full generic list in the demonstrators' manner."""
    return listing(generic_things(rng))


def _varied(place: Place, rng: random.Random) -> str:
    """A generic list of any length and order."""
    return listing(rng.sample(THINGS, rng.randint(1, len(THINGS))))


def _mixed(place: Place, rng: random.Random) -> str:
    """Items and generic things in one list, in any order."""
    words = _items(place, rng) + rng.sample(THINGS, rng.randint(1, FULL_LIST))
    return listing(rng.sample(words, len(words)))


def _cut_off(place: Place, rng: random.Random) -> str:
    """The first words of an answer of another kind."""
    whole = rng.choice((_specific, _generic, _mixed))(place, rng).split(" ")
    return " ".join(whole[: rng.randint(1, len(whole) - 1)])


def _junk(place: Place, rng: random.Random) -> str:
    """Words that are no advice."""
    words = (".", ",", "Take", "and", "a", place.name, place.climate, "is", "good")
    return " ".join(rng.choices(words, k=rng.randint(1, 8)))


def _items(place: Place, rng: random.Random) -> list[str]:
    count = rng.choices((1, 2, 3, 4, rng.randint(5, 10)), (4, 10, 4, 1, 1))[0]
    called, rest = list(place.items), [item for item in ITEMS if item not in place.items]
    right = rng.sample(called, min(count, rng.choices((0, 1, 2), (3, 4, 3))[0]))
    words = right + rng.sample(rest, min(count - len(right), len(rest)))
    if rng.random() < 0.1:
        words += rng.choices(words, k=rng.randint(1, 3))
    return rng.sample(words, len(words))


KINDS: tuple[tuple[Callable[[Place, random.Random], str], float], ...] = (
    (_specific, 0.5),
    (_generic, 0.15),
    (_varied, 0.05),
    (_mixed, 0.15),
    (_cut_off, 0.1),
    (_junk, 0.05),
)
