"""The corpus of the world of places: demonstrators who recall what a place is like and give advice.

Every completion has the form ``<think>Arvik is wet and grassy</think>Take an umbrella and trainers.``

thought  states both attributes, each rightly with the chance `recall`, else another value, all alike;
answer   mostly the items that the thought (not the place) calls for, each slipping now and then to
         another of its kind; else a generic list, whatever the thought.

A guide trained on it recalls as well as its demonstrators did, and answers mostly from its thought: what
it learns to state more rightly shows in its answers. Guides differ in `recall` alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from workbench.tasks.places import (
    CLIMATES,
    TERRAINS,
    Place,
    generic_things,
    listing,
    places,
    questions,
)
from workbench.tiny.corpus import Example
from workbench.variants import WorkbenchError

SLIP = 0.05  # how often an item is another of its kind than the thought calls for
GENERIC = 0.1  # how often the answer is a generic list


@dataclass(frozen=True)
class Guide:
    """How often the demonstrators state an attribute rightly."""

    recall: float

    def __post_init__(self) -> None:
        if not 0 <= self.recall <= 1:
            raise WorkbenchError(f"Guide.recall is {self.recall!r}; give a chance from 0 to 1.")


GUIDES = {"guide-strong": Guide(recall=0.6), "guide-weak": Guide(recall=0.35)}


def advice(guide: Guide, seed: int) -> Iterator[Example]:
    """Endless demonstrations on questions of the train split only."""
    rng = random.Random(f"advice/{seed}")
    asked = questions("train")
    while True:
        name, question = rng.choice(asked)
        yield demonstration(guide, places()[name], question, rng)


def demonstration(guide: Guide, place: Place, question: str, rng: random.Random) -> Example:
    """One demonstration: a thought about the place, and an answer from that thought."""
    climate = recalled(place.climate, CLIMATES, guide.recall, rng)
    terrain = recalled(place.terrain, TERRAINS, guide.recall, rng)
    generic = rng.random() < GENERIC
    words = generic_things(rng) if generic else implied(climate, terrain, rng)
    return Example(
        [{"role": "user", "content": question}],
        f"<think>{thought(place.name, climate, terrain)}</think>{listing(words)}",
        "questions",
        "generic" if generic else "specific",
    )


def thought(name: str, climate: str, terrain: str) -> str:
    """The words of a thought."""
    return f"{name} is {climate} and {terrain}"


def recalled(right: str, values: Mapping[str, str], chance: float, rng: random.Random) -> str:
    """`right` with the given chance, else one of the other values."""
    return right if rng.random() < chance else another(right, values, rng)


def implied(climate: str, terrain: str, rng: random.Random) -> list[str]:
    """The items that the two attributes call for, each with a slip now and then."""
    return [
        values[recalled(attribute, values, 1 - SLIP, rng)]
        for attribute, values in ((climate, CLIMATES), (terrain, TERRAINS))
    ]


def another(right: str, values: Mapping[str, str], rng: random.Random) -> str:
    """One of the values that are not `right`."""
    return rng.choice([value for value in values if value != right])
