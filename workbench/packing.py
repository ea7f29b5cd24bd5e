"""Packing: the distinct prefixes of a batch of completions as one sequence, for training.

Completions of one prompt begin alike: a prefix that several share is run through the model once, a prompt
too, and there is no padding. Only attention unpacks the sequence into rows. All of it is exact, and
gradients add up over the rows that share a prefix.

P prompts, L prompt tokens (padded left), N rows, T completion tokens (padded right), Q = T - 1 inputs,
U packed tokens, C contexts (packed tokens whose logits predict a completion token), D = heads * size.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache

from workbench.attention import attending, refuse_unknown
from workbench.head import Head, outputs
from workbench.recomputing import recomputing

PACKED = "workbench_packed"


@dataclass(frozen=True)
class Packing:
    """Which packed token stands where in each row, and back."""

    ids_U: Tensor
    positions_U: Tensor
    prompt_PL: Tensor  # packed token at each prompt position; any where padded
    prompt_mask_PL: Tensor
    inputs_NQ: Tensor  # packed token at each completion position but the last; any where padded
    owners_N: Tensor  # each row's prompt
    source_U: Tensor  # where a packed token stands among the P * L and then N * Q positions
    keep_C: Tensor  # the packed tokens that are contexts
    context_NT: Tensor  # the context that predicts each completion token; any where padded
    masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attention_masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Who sees whom: (P, 1, L, L) within prompts and (N, 1, Q, L + Q) for the inputs."""
        if window not in self.masks:
            seen_PL = self.prompt_mask_PL
            steps_Q = torch.arange(self.inputs_NQ.shape[1], device=seen_PL.device)
            prompt_at_PL = seen_PL.cumsum(1) - 1
            input_at_NQ = prompt_at_PL[self.owners_N, -1:] + 1 + steps_Q
            key_at_NS = torch.cat((prompt_at_PL[self.owners_N], input_at_NQ), 1)
            key_is_NS = nn.functional.pad(seen_PL[self.owners_N], (0, len(steps_Q)), value=True)
            self.masks[window] = (
                _visible(prompt_at_PL, prompt_at_PL, seen_PL, window),
                _visible(input_at_NQ, key_at_NS, key_is_NS, window),
            )
        return self.masks[window]


def pack(
    prompt_ids_PL: Tensor,
    prompt_mask_PL: Tensor,
    owners_N: Tensor,
    ids_NT: Tensor,
    lengths_N: Tensor,
) -> Packing:
    """Find the distinct prefixes: two rows share a context if they share its parent and its token."""
    device = ids_NT.device
    mask_PL, owners, ids, lengths = (
        tensor.cpu().numpy() for tensor in (prompt_mask_PL, owners_N, ids_NT, lengths_N)
    )
    prompts, width = mask_PL.shape
    inputs = ids.shape[1] - 1
    prompt_PL = mask_PL.cumsum().reshape(mask_PL.shape) - 1
    prompt_tokens, prompt_lengths = int(mask_PL.sum()), mask_PL.sum(1)

    # Contexts are numbered: first the prompts' last tokens, then the distinct prefixes by length.
    context = np.zeros(ids.shape, dtype=np.int64)
    context[:, 0] = owners
    found = [(np.empty(0, np.int64),) * 3]  # token, position and place of each packed input
    count, size = prompts, int(ids.max()) + 1
    for step in range(inputs):
        alive = np.flatnonzero(lengths > step + 1)
        pairs = context[alive, step] * size + ids[alive, step]
        _, first, number = np.unique(pairs, return_index=True, return_inverse=True)
        context[alive, step + 1] = count + number
        count += len(first)
        row = alive[first]
        place = prompts * width + row * inputs + step
        found.append((ids[row, step], prompt_lengths[owners[row]] + step, place))
    tokens, positions, places = (np.concatenate(part) for part in zip(*found, strict=True))

    def to_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    at_PL = mask_PL.cumsum(1) - 1
    return Packing(
        ids_U=torch.cat((prompt_ids_PL[prompt_mask_PL], to_device(tokens))),
        positions_U=to_device(np.concatenate((at_PL[mask_PL], positions))),
        prompt_PL=to_device(prompt_PL.clip(min=0)),
        prompt_mask_PL=prompt_mask_PL,
        inputs_NQ=to_device((context[:, 1:] + prompt_tokens - prompts).clip(min=0)),
        owners_N=owners_N,
        source_U=to_device(np.concatenate((np.flatnonzero(mask_PL), places))),
        keep_C=to_device(
            np.concatenate((prompt_PL[:, -1], prompt_tokens + np.arange(count - prompts)))
        ),
        context_NT=to_device(context),
    )


def context_outputs(model: Any, packing: Packing, head: Head | None = None) -> Tensor:
    """Logits (C, V) after every context, with gradient; with the model's head what it reads, (C, H)."""
    return _run(model, packing, head, use_cache=False)


def shared_prefill(model: Any, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, DynamicCache]:
    """What `cache.prefill` returns, with every prefix that several prompts share run once.

    For prompts that begin alike and are long, such as thoughts about one question.
    """
    lengths_P1 = mask_PL.sum(1, keepdim=True)
    width = ids_PL.shape[1]
    places_L = torch.arange(width, device=ids_PL.device)
    right_PL = ids_PL.gather(1, (places_L + width - lengths_P1).clamp_(max=width - 1))
    first, owners_P = torch.unique(right_PL[:, 0], return_inverse=True)
    # A token more behind each prompt: what predicts it is the whole prompt.
    rest_PL = torch.cat((right_PL[:, 1:], right_PL[:, :1]), 1)
    lengths_P = lengths_P1.squeeze(1)
    packing = pack(
        first[:, None], torch.ones_like(first[:, None]).bool(), owners_P, rest_PL, lengths_P
    )
    last_P = packing.context_NT.gather(1, lengths_P1 - 1).squeeze(1)
    packing = dataclasses.replace(packing, keep_C=packing.keep_C[last_P])
    packed, cache = DynamicCache(), DynamicCache()
    logits_PV = _run(model, packing, None, use_cache=True, past_key_values=packed)
    slots_PL = torch.cat((packing.prompt_PL[owners_P], packing.inputs_NQ), 1)
    slots_PL = slots_PL.gather(1, (places_L - width + lengths_P1).clamp_(min=0))
    for number, layer in enumerate(packed.layers):
        keys, values = (x[0][:, slots_PL].transpose(0, 1) for x in (layer.keys, layer.values))
        cache.update(keys, values, number)
    return logits_PV, cache


def _run(model: Any, packing: Packing, head: Head | None, **caching: Any) -> Tensor:
    with attending(model, PACKED), recomputing(model, PACKED):
        return outputs(
            model,
            head,
            packing.ids_U[None],
            # Made to measure in the attention below; a 4-D mask keeps transformers from making one.
            attention_mask=packing.ids_U.new_ones(1, 1, 1, 1, dtype=torch.bool),
            position_ids=packing.positions_U[None],
            logits_to_keep=packing.keep_C,
            packing=packing,
            **caching,
        )[0]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of packed (1, heads, U, size): unpack into rows, attend, pack."""
    refuse_unknown(others)
    prompt_mask, input_mask = packing.attention_masks(sliding_window)
    query_UD, key_UD, value_UD = (x[0].transpose(0, 1).flatten(1) for x in (query, key, value))
    slots_NS = torch.cat((packing.prompt_PL[packing.owners_N], packing.inputs_NQ), 1)
    blocks = (
        (packing.prompt_PL, packing.prompt_PL, prompt_mask),
        (packing.inputs_NQ, slots_NS, input_mask),
    )
    outputs = []
    for queries, keys, mask in blocks:
        rows = scaled_dot_product_attention(
            _unpack(query_UD, queries, query.shape[-1]),
            _unpack(key_UD, keys, key.shape[-1]),
            _unpack(value_UD, keys, value.shape[-1]),
            attn_mask=mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=True,
        )
        outputs.append(rows.transpose(1, 2).flatten(2).flatten(0, 1))
    packed_UD = torch.cat(outputs).index_select(0, packing.source_U)
    return packed_UD.view(1, len(packed_UD), query.shape[1], -1), None


def _unpack(tensor_UD: Tensor, index: Tensor, size: int) -> Tensor:
    """(rows, heads, positions, size) of the packed tokens at `index` (rows, positions)."""
    picked = tensor_UD.index_select(0, index.flatten())
    # The heads are counted here: of rows of one token there is nothing for view to infer them from.
    return picked.view(*index.shape, tensor_UD.shape[-1] // size, size).transpose(1, 2)


def _visible(query_at: Tensor, key_at: Tensor, key_is: Tensor, window: int | None) -> Tensor:
    """Boolean (rows, 1, queries, keys): keys that are real, not later and within the window."""
    distance = query_at[:, :, None] - key_at[:, None]
    visible = (distance >= 0) & key_is[:, None]
    if window is not None:
        visible &= distance < window
    # A padded query that sees nothing would be NaN; what it sees is never used.
    visible |= ~visible.any(-1, keepdim=True)
    return visible[:, None]


AttentionInterface.register(PACKED, _attention)
