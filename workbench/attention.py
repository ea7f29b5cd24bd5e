"""Attention functions of our own, put in the place of a model's for the length of a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

ONE_QUERY = "workbench_one_query"
_NOT_HANDLED = ("softcap", "s_aux", "position_bias")  # no model that attends by sdpa passes them


def can_replace(model: Any) -> bool:
    """Whether the model attends by torch's plain function, which ours can stand in for."""
    return model.config._attn_implementation == "sdpa"


@contextlib.contextmanager
def attending(model: Any, name: str | None) -> Iterator[None]:
    """Inside, the model attends by the function registered as `name`; None changes nothing."""
    usual = model.config._attn_implementation
    model.config._attn_implementation = name or usual
    try:
        yield
    finally:
        model.config._attn_implementation = usual


def refuse_unknown(others: dict[str, Any]) -> None:
    """Raise for an argument that would change the result and is not handled."""
    strange = [name for name in _NOT_HANDLED if others.get(name) is not None]
    if strange:
        raise NotImplementedError(f"this attention has no {strange[0]}")


def one_query(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """One query (R, heads, 1, size) a row, on the CPU: two batched products beat torch's kernel there.

    `attention_mask` (R, 1, 1, S) is added to the scores.
    """
    refuse_unknown(others)
    if sliding_window is not None:
        key, value = key[:, :, -sliding_window:], value[:, :, -sliding_window:]
    rows, heads, seen, size = key.shape
    grouped = (query * scaling).reshape(rows * heads, -1, size)  # queries of one key head together
    scores = torch.bmm(grouped, key.flatten(0, 1).transpose(1, 2)).view(rows, heads, -1, seen)
    if attention_mask is not None:
        scores += attention_mask[..., -seen:]
    weights = scores.softmax(-1).flatten(0, 1)
    return torch.bmm(weights, value.flatten(0, 1)).view(rows, 1, -1, size), None


AttentionInterface.register(ONE_QUERY, one_query)
