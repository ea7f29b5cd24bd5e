"""Seconds: the least that a step can take on a device of known speed.

    - Sampling a token reads every weight and all keys and values once: bytes over the bandwidth, or its
      products over the FLOP/s, whichever is longer.
    - A token costs 2 FLOPs for each number that it is multiplied by, and its attention. The backward pass
      costs as much again: the base is frozen, so only its inputs get a gradient. Checkpointing adds one
      more forward pass.

No device reaches either bound, and what Python adds between kernels is in neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.cards import Card
from workbench.footprint import (
    adapter_numbers,
    is_quantised,
    key_value_bytes,
    stored_bytes,
)
from workbench.planning import Plan
from workbench.shapes import ModelShape


@dataclass(frozen=True)
class Pace:
    """Seconds of the parts of a step, each at least; evaluation comes on top every few steps."""

    sampling: float
    reference: float
    update: float

    @property
    def step(self) -> float:
        """Seconds of one step."""
        return self.sampling + self.reference + self.update


def least_seconds(shape: ModelShape, plan: Plan, card: Card) -> Pace | None:
    """The bounds for `plan` on `card`; None where the card's speeds are not known."""
    if not (card.bandwidth and card.flops):
        return None
    sampling = forward_flops(shape, plan, plan.prompts, plan.prompt_tokens) / card.flops
    # The prompt gives the first token. What a later one sees grows by one a token: their mean is taken.
    later = plan.new_tokens - 1
    seen = plan.prompt_tokens + plan.new_tokens / 2
    reading = weights_read(shape, plan) + seen_bytes(shape, plan, seen)
    working = plan.rows * token_flops(shape, plan, seen)
    sampling += later * max(reading / card.bandwidth, working / card.flops)
    forward = training_flops(shape, plan) / card.flops
    passes = 3 if plan.checkpointing else 2
    return Pace(sampling, forward if plan.reference else 0.0, plan.passes * passes * forward)


def weights_read(shape: ModelShape, plan: Plan) -> float:
    """Bytes of weights that one decoding step reads, whatever the number of rows.

    Without a merged copy a quantised matrix is read, written out plainly and read again, and so is LoRA.
    """
    looked_up = sum(m.size for m in shape.matrices if m.kind == "embedding")
    tied = sum(m.size for m in shape.matrices if m.shares)
    whole = (shape.parameters - looked_up + tied) * plan.compute_bytes
    if plan.merged:
        return whole
    small = [m for m in shape.matrices if is_quantised(m, plan)]
    own = sum(stored_bytes(m, plan) + m.size * plan.compute_bytes for m in small)
    return whole + own + 4 * adapter_numbers(shape, plan)


def seen_bytes(shape: ModelShape, plan: Plan, tokens: float) -> float:
    """Bytes of keys and values that one decoding step reads for all rows: within a window no more than it."""
    one = key_value_bytes(shape, plan, plan.rows, 1) / len(shape.layers)
    return sum(one * min(tokens, layer.window or tokens) for layer in shape.layers)


def token_flops(shape: ModelShape, plan: Plan, seen: float) -> float:
    """FLOPs of one token in a forward pass that sees `seen` tokens."""
    numbers = shape.multiplied + (0 if plan.merged else adapter_numbers(shape, plan))
    attending = sum(
        4 * layer.query_heads * layer.size * min(seen, layer.window or seen)
        for layer in shape.layers
    )
    return 2 * numbers + attending


def forward_flops(shape: ModelShape, plan: Plan, rows: int, tokens: int) -> float:
    """FLOPs of `rows` texts of `tokens` tokens, each token seeing those before it."""
    return rows * tokens * token_flops(shape, plan, tokens / 2)


def training_flops(shape: ModelShape, plan: Plan) -> float:
    """FLOPs of one forward pass over a batch, its adapter beside the base."""
    apart = plan.replace(merged=False)
    seen = plan.prompt_tokens + plan.new_tokens / 2
    prompts = forward_flops(shape, apart, plan.prompts, plan.prompt_tokens)
    completions = plan.rows * (plan.new_tokens - 1) * token_flops(shape, apart, seen)
    return prompts + completions
