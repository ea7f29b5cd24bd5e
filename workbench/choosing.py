"""What a recipe leaves to the machine ("auto"), chosen from the forecast before anything is loaded.

`choose` is a pure function of shape, plan and card. `settled` is the recipe with the choices put in, so that
a run which is repeated from its folder makes the same ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.cards import Card, card_here
from workbench.footprint import (
    activation_bytes,
    head_kept_bytes,
    items,
    key_value_bytes,
    merged_bytes,
    phase_bytes,
)
from workbench.microbatches import FIRST_TOKENS
from workbench.microbatches import SHARE as PASS_SHARE
from workbench.native import LOGIT_BYTES
from workbench.native import SHARE as DECODE_SHARE
from workbench.planning import Plan, plan_of
from workbench.recipe import FIELDS, Recipe
from workbench.shapes import ModelShape, find_shape

MARGIN = 0.9  # of the free memory may be planned with: activations are estimates


@dataclass(frozen=True)
class Choice:
    """The plan taken, and whether it fits."""

    plan: Plan
    fits: bool

    def __str__(self) -> str:
        plan = self.plan
        parts = [f"quantize {plan.quantize}"]
        parts += [f"passes of up to {plan.token_limit} tokens"] if plan.token_limit else []
        parts += ["gradient checkpointing"] if plan.checkpointing else []
        parts += ["a merged copy to sample from" if plan.merged else "no merged copy"]
        return ", ".join(parts) + ("" if self.fits else "; even so it may not fit")


def is_open(recipe: Recipe) -> bool:
    """Whether the recipe leaves its base to the machine."""
    return recipe.quantize == "auto"


def choose(shape: ModelShape, plan: Plan, card: Card) -> Choice:
    """The plainest base whose peak stays within nine tenths of the card's free memory.

    Plain weights before NF4: they are quicker, and exact. Never int8: it is larger than NF4, and slower than
    either. A merged copy to sample from is kept as long as that fits, be the base 4-bit: most of a step is
    sampling. If nothing fits, it is the smallest.
    """
    for base in _bases(plan):
        found = limited(shape, base, card)
        sums = phase_bytes(items(shape, found))
        evaluation = sums.pop(
            "evaluation"
        )  # takes half of what is free by itself, however much that is
        if max(sums.values()) <= MARGIN * card.free and evaluation <= card.free:
            return Choice(found, True)
    return Choice(found, False)


def copies(shape: ModelShape, plan: Plan, card: Card) -> bool:
    """Whether a merged copy left at "auto" is made: on a GPU, where it takes under half of what is free."""
    free = card.free - phase_bytes(items(shape, plan))["loading"]
    return card.kind != "cuda" or merged_bytes(shape, plan) < free / 2


def limited(shape: ModelShape, plan: Plan, card: Card) -> Plan:
    """`plan` with the limits that a run finds by itself: rows decoded together; on a GPU, tokens in a pass.

    As `native` does, half of what is free goes to decoding. As `microbatches` does, a first pass has 4096
    tokens and later ones what two fifths of the rest hold; where memory gives out, both are halved.
    """
    others = phase_bytes(items(shape, plan.replace(prompts=1, group=1, eval_samples=1)))["sampling"]
    row = key_value_bytes(shape, plan, 1, plan.prompt_tokens + plan.new_tokens)
    rows = int(DECODE_SHARE * (card.free - others) / (row + LOGIT_BYTES * shape.vocabulary))
    plan = plan.replace(decode_limit=max(1, rows))
    if plan.token_limit or plan.device != "cuda":
        return plan
    first = plan.replace(token_limit=FIRST_TOKENS)
    kept = activation_bytes(shape, first) + head_kept_bytes(shape, first)
    free = card.free - phase_bytes(items(shape, first))["update"] + kept
    tokens = first.padded_tokens(first.pass_rows)
    limit = max(tokens, int(PASS_SHARE * free * tokens / kept))
    found = plan.replace(token_limit=limit)
    room = MARGIN * card.free
    while found.pass_rows > 1 and phase_bytes(items(shape, found))["update"] > room:
        found = found.replace(token_limit=found.padded_tokens(found.pass_rows) // 2)
    return found


def settled(recipe: Recipe, card: Card | None = None) -> tuple[Recipe, Choice | None]:
    """`recipe` with its base chosen for `card` (the one here), and with that all that is left at auto.

    None, and the same recipe, where the base is not left open.
    """
    if not is_open(recipe):
        return recipe, None
    card = card or card_here(recipe.device, measure=False)
    shape = find_shape(recipe.model)
    choice = choose(shape, plan_of(recipe, shape, card), card)
    changes = {
        name: value
        for name, (left, value) in _fields(choice.plan).items()
        if name in FIELDS and getattr(recipe, name) == left
    }
    return dataclasses.replace(recipe, **changes), choice


def _bases(plan: Plan) -> Iterator[Plan]:
    quantizations = ("none", "nf4") if plan.quantize == "auto" else (plan.quantize,)
    for merged in (True, False) if plan.merged else (False,):
        for quantize in quantizations:
            yield plan.replace(quantize=quantize, merged=merged)


def _fields(plan: Plan) -> dict[str, tuple[Any, Any]]:
    """Recipe field -> what leaves it to the machine, and what `plan` makes of it."""
    return {
        "quantize": ("auto", plan.quantize),
        "engine": ("auto", "native"),
        "merged": ("auto", "always" if plan.merged else "never"),
        "gradient_checkpointing": ("auto", "on" if plan.checkpointing else "off"),
        "microbatch_tokens": (0, plan.token_limit),
    }
