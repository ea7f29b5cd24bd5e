"""decode_native(): the bench's own sampling loops, in parts that memory holds.

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.attention import can_replace
from workbench.cache import prefill
from workbench.decoding import Begin, Recorded, Uniforms, decode
from workbench.static import decode_static

SHARE = 0.5  # of the free memory that the rows decoded at once may take
LOGIT_BYTES = (
    32  # of a row's logits and what the draw makes of them, for each entry of the vocabulary
)


def decode_native(
    model: nn.Module,
    ids_PL: Tensor,
    mask_PL: Tensor,
    owners_B: Tensor,
    limits_B: Tensor,
    stop_ids: Tensor,
    settings: dict[str, Any],
    generator: torch.Generator,
    stats: bool,
    begin: Begin = prefill,
) -> Recorded:
    """Row b continues prompt `owners_B[b]` by at most `limits_B[b]` tokens (0: none).

    On a GPU the loop with fixed addresses, else that over distinct prefixes. Where memory does not hold all
    rows at once they are decoded in parts, which changes none of them.
    """
    steps = int(limits_B.max())
    uniforms = Uniforms(generator, len(owners_B))
    at_once = rows_at_once(model, mask_PL.shape[1] + steps, ids_PL.device)
    fixed = ids_PL.device.type == "cuda" and can_replace(model)
    loop = decode_static if fixed else decode
    if at_once >= len(owners_B):
        return loop(
            model, ids_PL, mask_PL, owners_B, limits_B, stop_ids, settings, uniforms, stats, begin
        )
    recorded = Recorded.empty(len(owners_B), steps, ids_PL.device)
    for start in range(0, len(owners_B), at_once):
        part = slice(start, start + at_once)
        if not limits_B[part].any():
            continue
        prompts, owners = torch.unique(owners_B[part], return_inverse=True)
        found = loop(
            model,
            ids_PL[prompts],
            mask_PL[prompts],
            owners,
            limits_B[part],
            stop_ids,
            settings,
            lambda block, part=part: uniforms(block)[:, part],
            stats,
            begin,
        )
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


def free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated on `device`, torch's own reserve included."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    import psutil

    return psutil.virtual_memory().available
