"""Keys and values: a prompt is run once, and its group reads it, while sampling and while training.

P prompts, L prompt tokens (padded left), N or R rows, S keys seen, Q queries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values with room for the completion, so that a step copies one token only."""

    def __init__(self, prompt: DynamicLayer, group_size: int, room: int) -> None:
        super().__init__()
        self.lazy_initialization(prompt.keys, prompt.values)
        self.filled = prompt.keys.shape[2]
        self.keys = self._spread(prompt.keys, group_size, room)
        self.values = self._spread(prompt.values, group_size, room)

    def _spread(self, tensor: Tensor, group_size: int, room: int) -> Tensor:
        prompts, heads, length, size = tensor.shape
        buffer = tensor.new_empty(prompts * group_size, heads, length + room, size)
        grouped = buffer.view(prompts, group_size, heads, length + room, size)
        grouped[:, :, :, :length] = tensor[:, None]
        return buffer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the new token's keys and values; return all so far."""
        end = self.filled + key_states.shape[2]
        self.keys[:, :, self.filled : end] = key_states
        self.values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Tokens stored so far, the prompt's included."""
        return self.filled

    def compact(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """Move rows `sources` to `targets` and cut the batch to its first `rows` rows."""
        for tensor in (self.keys, self.values):
            tensor[targets, :, : self.filled] = tensor[sources, :, : self.filled]
        self.keys, self.values = self.keys[:rows], self.values[:rows]


class GroupCache:
    """The rows being decoded: their keys and values, their prompts' padding and their positions."""

    def __init__(
        self, model: nn.Module, prompt: DynamicCache, mask_PL: Tensor, group_size: int, room: int
    ) -> None:
        self.model = model
        self.layers = [RoomyLayer(layer, group_size, room) for layer in prompt.layers]
        self.cache = Cache(layers=self.layers)
        self.positions_R1 = mask_PL.sum(1, keepdim=True).repeat_interleave(group_size, 0)
        self.padded = not bool(mask_PL.all())
        self.mask_RS = nn.functional.pad(mask_PL, (0, room), value=True)
        self.mask_RS = self.mask_RS.repeat_interleave(group_size, 0)

    def step(self, tokens_R: Tensor) -> Tensor:
        """Feed one token to every row; the next token's logits (R, V)."""
        seen = self.layers[0].filled + 1
        # Without padding a single query sees every key, and no mask at all is the fastest mask.
        mask = attention_mask(self.model, self.mask_RS[:, :seen], 1) if self.padded else None
        output = self.model(
            tokens_R[:, None],
            attention_mask=mask,
            position_ids=self.positions_R1,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions_R1 = self.positions_R1 + 1
        return output.logits[:, -1]

    def drop(self, done_R: Tensor) -> Tensor:
        """Leave out the rows that are done; returns, for each place, the row that now sits there.

        Rows from the end fill the gaps, so only as many rows are copied as have finished.
        """
        rows = len(done_R) - int(done_R.sum())
        targets = done_R[:rows].nonzero().squeeze(1)
        sources = rows + (~done_R[rows:]).nonzero().squeeze(1)
        for layer in self.layers:
            layer.compact(sources, targets, rows)
        order_R = torch.arange(rows, device=done_R.device)
        order_R[targets] = sources
        self.positions_R1, self.mask_RS = self.positions_R1[order_R], self.mask_RS[order_R]
        return order_R


def prefill(model: nn.Module, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, DynamicCache]:
    """Run the prompts: the logits (P, V) of the first completion token, and the keys and values."""
    cache = DynamicCache()  # without a config: sliding-window layers keep all keys, the mask hides them
    output = model(
        ids_PL,
        attention_mask=mask_PL,
        position_ids=(mask_PL.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], cache


def completion_logits(
    model: nn.Module, prompt: DynamicCache, mask_PL: Tensor, owners_N: Tensor, inputs_NQ: Tensor
) -> Tensor:
    """Logits (N, Q, V) after each of `inputs_NQ`, which continue prompts `owners_N`.

    Gradients flow through the shared keys and values back into the prompts.
    """
    mask_NL = mask_PL[owners_N]
    rows, queries = inputs_NQ.shape
    layers = []
    for layer in prompt.layers:
        layers.append(DynamicLayer())
        layers[-1].lazy_initialization(layer.keys, layer.values)
        layers[-1].keys, layers[-1].values = layer.keys[owners_N], layer.values[owners_N]
    mask_NS = nn.functional.pad(mask_NL, (0, queries), value=True)
    steps_Q = torch.arange(queries, device=inputs_NQ.device)
    return model(
        inputs_NQ,
        attention_mask=attention_mask(model, mask_NS, queries),
        position_ids=mask_NL.sum(1, keepdim=True) + steps_Q,
        past_key_values=Cache(layers=layers),
        use_cache=True,
    ).logits


def attention_mask(model: nn.Module, mask_NS: Tensor, queries: int) -> Tensor:
    """What to pass as `attention_mask` for the last `queries` of S positions."""
    return mask_NS
