"""Gradient checkpointing: a layer keeps its input alone and is run again in the backward pass.

transformers' layers carry the switch; here it acts in training's packed pass only, never while sampling. The
backward pass comes after `attending` has put the model's usual attention back, so a layer that is run
again goes into it once more: otherwise it would attend to all packed tokens as to one row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from workbench.attention import attending, can_replace
from workbench.variants import WorkbenchError

LARGE = 300_000_000  # parameters from which "auto" recomputes on a GPU


def switch_recomputing(model: Any, choice: str, device: torch.device) -> None:
    """Have the layers of `model` checkpointed: "on", "off", or "auto" (a large model on a GPU).

    Raises WorkbenchError for "on" where the model's training pass can't be packed.
    """
    possible = can_replace(model) and any(_layers(model))
    if choice == "on" and not possible:
        raise WorkbenchError(
            "gradient_checkpointing is 'on', but this model's layers can't be run again by themselves (it "
            "does not attend by torch's plain function); set it to 'auto' or 'off'."
        )
    if choice == "auto":
        possible = possible and device.type != "cpu" and _parameters(model) >= LARGE
    for layer in _layers(model):
        layer.gradient_checkpointing = possible and choice != "off"


@contextlib.contextmanager
def recomputing(model: Any, attention: str) -> Iterator[None]:
    """Inside, the layers that are switched on are checkpointed, with the attention of that name.

    Nothing changes where no gradient is asked for.
    """

    def run(forward: Any, *inputs: Any) -> Any:
        def again(*given: Any) -> Any:
            with attending(model, attention):
                return forward(*given)

        return checkpoint(again, *inputs, use_reentrant=False)

    on = [layer for layer in _layers(model) if layer.gradient_checkpointing]
    before = [layer.training for layer in on]
    try:
        for layer in on if torch.is_grad_enabled() else ():
            layer._gradient_checkpointing_func = run
            layer.training = True  # of the layer alone: transformers checkpoints in training mode
        yield
    finally:
        for layer, training in zip(on, before, strict=True):
            layer.training = training


def _layers(model: Any) -> Iterator[Any]:
    return (m for m in model.modules() if isinstance(m, GradientCheckpointingLayer))


def _parameters(model: Any) -> int:
    """Weights of the base; a 4-bit one counts as a weight, not as half a byte."""
    return int(model.get_base_model().num_parameters())
