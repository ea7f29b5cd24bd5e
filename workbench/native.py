"""decode_native(): the bench's own sampling loops, in parts that memory holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.attention import can_replace
from workbench.decoding import Recorded, Request, Uniforms, decode
from workbench.devices import free_memory
from workbench.static import decode_static

SHARE = 0.5  # of the free memory that the rows decoded at once may take
# Of a row's logits and what the draw makes of them, for each entry of the vocabulary.
LOGIT_BYTES = 32


def decode_native(model: nn.Module, asked: Request, generator: torch.Generator) -> Recorded:
    """What is asked for: on a GPU by the loop with fixed addresses, else by that over distinct prefixes.

    Where memory does not hold all rows at once they are decoded in parts, which changes none of them.
    """
    device, count = asked.ids_PL.device, asked.rows
    uniforms = Uniforms(generator, count)
    at_once = rows_at_once(model, asked.mask_PL.shape[1] + asked.steps, device)
    loop = decode_static if device.type == "cuda" and can_replace(model) else decode
    if at_once >= count:
        return loop(model, asked, uniforms)
    recorded = Recorded.empty(count, asked.steps, device)
    for start in range(0, count, at_once):
        part = slice(start, start + at_once)
        if not asked.limits_B[part].any():
            continue
        found = loop(model, asked.part(part), lambda block, part=part: uniforms(block)[:, part])
        width = found.mask_BT.shape[1]
        recorded.tokens_BT[part, :width] = found.tokens_BT
        recorded.mask_BT[part, :width] = found.mask_BT
        recorded.statistics_5BT[:, part, :width] = found.statistics_5BT
    return recorded


def rows_at_once(model: Any, columns: int, device: torch.device) -> int:
    """How many rows of `columns` tokens may be decoded together, at least one."""
    config = model.config.get_text_config()
    cached = columns * cache_bytes(config, 4 if device.type == "cpu" else 2)
    needed = cached + LOGIT_BYTES * config.vocab_size
    return max(1, int(SHARE * free_memory(device) / needed))


def cache_bytes(config: Any, item: int) -> int:
    """Bytes of the keys and values of one token, from a model's config and the bytes of a number."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * item
