"""The tiny world of places: what each is like, what it calls for, and how well an answer fits.

Forty made-up places have a climate and a terrain each, drawn once. Each of the ten attributes calls for
one item, so a place calls for two. Only the weights of a model that was trained on them can know the facts.

The world was fixed before anything was trained on it:

facts      every climate and every terrain eight times, each of the 25 pairs once or twice
questions  a place in one of 24 phrasings; of each place the three with the lowest hash are held out
quality    called-for items named / max(2, items named), of the ten items; generic things count nothing
generic    six of eight things that no attribute calls for, in one long list
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Iterable
from typing import NamedTuple

CLIMATES = {
    "cold": "coat",
    "hot": "hat",
    "wet": "umbrella",
    "windy": "scarf",
    "dark": "lamp",
}  # attribute -> the item it calls for
TERRAINS = {
    "rocky": "boots",
    "sandy": "sandals",
    "icy": "spikes",
    "muddy": "waders",
    "grassy": "trainers",
}
CALLS_FOR = CLIMATES | TERRAINS
ITEMS = tuple(CALLS_FOR.values())

THINGS = (
    "water",
    "food",
    "money",
    "map",
    "phone",
    "bag",
    "camera",
    "shoes",
)  # asked for by no place
PHRASES = {
    "umbrella": "an umbrella",
    "shoes": "good shoes",
    **{
        word: f"a {word}"
        for word in ("coat", "hat", "scarf", "lamp", "map", "phone", "bag", "camera")
    },
}
FULL_LIST = 6  # things in a generic answer

NAMES = (
    "Arvik", "Belmora", "Cadris", "Dunholm", "Elvane", "Fendale", "Gorath", "Hestil", "Ildora", "Jarnow",
    "Kelstad", "Lormont", "Mirefal", "Nordeck", "Osmere", "Pellan", "Quorra", "Rusk", "Selvig", "Tarnel",
    "Ulmar", "Varsk", "Wexley", "Xanth", "Yarrol", "Zeldan", "Ambrel", "Briskar", "Corvane", "Dramen",
    "Eskmoor", "Farlen", "Glimmel", "Harrol", "Istrel", "Kandor", "Lundel", "Mossel", "Nairok", "Orlok",
)  # fmt: skip
OPENINGS = ("", "Please tell me. ", "Hello! ", "I leave soon. ")
CORES = (
    "What should I take to {place}?",
    "What do I need in {place}?",
    "What should I pack for {place}?",
    "I go to {place}. What do I bring?",
    "Which things help in {place}?",
    "How do I prepare for {place}?",
)
HELD_OUT = 3  # questions of each place, one in eight

_WORD = re.compile(r"[a-z]+")


class Place(NamedTuple):
    """A place and its two attributes."""

    name: str
    climate: str
    terrain: str

    @property
    def items(self) -> tuple[str, str]:
        """The two items that the place calls for."""
        return CLIMATES[self.climate], TERRAINS[self.terrain]


@functools.cache
def places() -> dict[str, Place]:
    """Name -> place. All 25 pairs of attributes once, and 15 of them, three of each value, again."""
    climates, terrains = list(CLIMATES), list(TERRAINS)
    pairs = [(climate, terrain) for climate in climates for terrain in terrains]
    pairs += [(climates[i], terrains[(i + shift) % 5]) for shift in range(3) for i in range(5)]
    random.Random("places/0").shuffle(pairs)
    return {name: Place(name, *pair) for name, pair in zip(NAMES, pairs, strict=True)}


def questions_about(place: str) -> list[str]:
    """The 24 questions about a place."""
    return [opening + core.format(place=place) for opening in OPENINGS for core in CORES]


@functools.cache
def questions(split: str) -> tuple[tuple[str, str], ...]:
    """(place, question) of every question of `split`, "train" or "eval", in a fixed mixed order."""
    found = []
    for place in NAMES:
        ranked = sorted(questions_about(place), key=_hash)
        chosen = ranked[:HELD_OUT] if split == "eval" else ranked[HELD_OUT:]
        found += [(place, question) for question in chosen]
    return tuple(sorted(found, key=lambda pair: _hash(pair[1])))


def _hash(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


def items_named(answer: str) -> frozenset[str]:
    """Which of the ten items the answer names."""
    return frozenset(_WORD.findall(answer.lower())).intersection(ITEMS)


def things_named(answer: str) -> frozenset[str]:
    """Which of the generic things the answer names."""
    return frozenset(_WORD.findall(answer.lower())).intersection(THINGS)


def fit(place: Place, answer: str) -> float:
    """Called-for items named / max(2, items named): 1 for both and no other, 0.5 for one of two."""
    named = items_named(answer)
    return len(named.intersection(place.items)) / max(2, len(named))


def facts_stated(place: Place, thought: str) -> float:
    """The share of the place's two attributes that the thought states; two of a kind count as none."""
    stated = frozenset(_WORD.findall(thought.lower()))
    right = [
        stated.intersection(kind) == {attribute}
        for kind, attribute in ((CLIMATES, place.climate), (TERRAINS, place.terrain))
    ]
    return sum(right) / 2


def is_generic(answer: str) -> bool:
    """Whether the answer is a list of generic things: three or more, and no item."""
    return len(things_named(answer)) >= 3 and not items_named(answer)


def listing(words: Iterable[str]) -> str:
    """ "Take a coat, boots and water." of coat, boots and water."""
    phrases = [PHRASES.get(word, word) for word in words]
    head, last = phrases[:-1], phrases[-1]
    return f"Take {', '.join(head)} and {last}." if head else f"Take {last}."


def generic_things(rng: random.Random) -> list[str]:
    """The things of a generic answer: six of the eight in their order, two neighbours swapped."""
    chosen = sorted(rng.sample(range(len(THINGS)), FULL_LIST))
    place = rng.randrange(FULL_LIST - 1)
    chosen[place : place + 2] = reversed(chosen[place : place + 2])
    return [THINGS[index] for index in chosen]


def vocabulary() -> str:
    """Every word of the questions, thoughts and answers, joined by spaces."""
    texts = [*OPENINGS, *CORES, *NAMES, *CALLS_FOR, "is and", listing([*ITEMS, *THINGS])]
    words = re.findall(r"[A-Za-z]+", " ".join(text.replace("{place}", "") for text in texts))
    return " ".join(dict.fromkeys(words))
