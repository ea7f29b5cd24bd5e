"""The corpus of the world of lines: demonstrators who heed some of what they are asked, and write a line.

Every completion has the form ``<think>glad 7 words</think>the golden wave sits and ...``.

thought  a plan: the constraints that the demonstrator heeds, each in a word or two, in the prompt's order;
         each is heeded with the chance `heed`, the others are forgotten;
answer   a line that keeps all that the plan names and is drawn at random otherwise.

A scribe trained on it forgets as its demonstrators did. It can learn to plan for more, and then keeps more.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.tasks.demands import Constraint, note
from workbench.tasks.lines import compose, draw_chain
from workbench.tiny.corpus import Example
from workbench.variants import WorkbenchError

LENGTHS = (1, 1.5, 1.5, 1.5, 1.5, 1.5, 0.75, 0.75)  # weights of prompts with 0 to 7 constraints


@dataclass(frozen=True)
class Scribe:
    """How often the demonstrators heed a constraint."""

    heed: float

    def __post_init__(self) -> None:
        if not 0 <= self.heed <= 1:
            raise WorkbenchError(f"Scribe.heed is {self.heed!r}; give a chance from 0 to 1.")


SCRIBES = {"scribe": Scribe(heed=0.6)}


def writing(scribe: Scribe, seed: int) -> Iterator[Example]:
    """Endless demonstrations on prompts of the train split only, of all kinds of constraints."""
    rng = random.Random(f"writing/{seed}")
    while True:
        length = rng.choices(range(len(LENGTHS)), LENGTHS)[0]
        chain = draw_chain(rng, "train", length, "all")
        yield demonstration(scribe, chain.prompt(length), chain.constraints, rng)


def demonstration(
    scribe: Scribe, prompt: str, constraints: Sequence[Constraint], rng: random.Random
) -> Example:
    """One demonstration: the plan of what is heeded, and a line that keeps it."""
    while True:
        heeded = [one for one in constraints if rng.random() < scribe.heed]
        line = compose(heeded, rng)
        if line is not None:
            plan = " ".join(note(one) for one in heeded)
            completion = f"<think>{plan}</think>{line}"
            return Example(
                [{"role": "user", "content": prompt}], completion, "instructions", "scribe"
            )
