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
    """One layer's keys and values with spare room, so that a step copies one token only.

    The room grows with the completions: little and dense memory is also the quickest to read.
    """

    def __init__(self, prompt: DynamicLayer, group_size: int) -> None:
        super().__init__()
        self.lazy_initialization(prompt.keys, prompt.values)
        self.filled = prompt.keys.shape[2]
        self.keys = self._roomy(prompt.keys.repeat_interleave(group_size, 0))
        self.values = self._roomy(prompt.values.repeat_interleave(group_size, 0))

    def _roomy(self, tensor: Tensor) -> Tensor:
        rows, heads, _, size = tensor.shape
        room = self.filled + max(16, self.filled // 4)
        buffer = tensor.new_empty(rows, heads, room, size)
        buffer[:, :, : self.filled] = tensor[:, :, : self.filled]
        return buffer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of one new token; return all so far."""
        if self.filled == self.keys.shape[2]:
            self.keys, self.values = self._roomy(self.keys), self._roomy(self.values)
        end = self.filled + 1
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
        self, model: nn.Module, prompt: DynamicCache, mask_PL: Tensor, group_size: int
    ) -> None:
        self.model = model
        self.layers = [RoomyLayer(layer, group_size) for layer in prompt.layers]
        self.cache = Cache(layers=self.layers)
        # Without padding a single query sees every key, and no mask at all is the fastest mask.
        self.padded = not bool(mask_PL.all())
        self.mask_RL = mask_PL.repeat_interleave(group_size, 0)
        self.positions_R1 = self.mask_RL.sum(1, keepdim=True)

    def step(self, tokens_R: Tensor) -> Tensor:
        """Feed one token to every row; the next token's logits (R, V)."""
        seen = self.layers[0].filled + 1
        mask_RS = nn.functional.pad(self.mask_RL, (0, seen - self.mask_RL.shape[1]), value=True)
        output = self.model(
            tokens_R[:, None],
            attention_mask=mask_RS if self.padded else None,
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
        self.positions_R1, self.mask_RL = self.positions_R1[order_R], self.mask_RL[order_R]
        return order_R


def prefill(model: nn.Module, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, DynamicCache]:
    """Run the prompts: logits (P, V) of the first completion token, and the keys and values."""
    # Made without the config, so that sliding-window layers keep all keys; their mask hides the old.
    cache = DynamicCache()
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
    """Logits (N, Q, V) after each of `inputs_NQ`, which continue the prompts `owners_N`.

    For models whose attention cannot be packed. Gradients flow through the shared keys and values
    back into the prompts.
    """
    layers = []
    for shared in prompt.layers:
        layer = DynamicLayer()
        layer.lazy_initialization(shared.keys, shared.values)
        layer.keys, layer.values = shared.keys[owners_N], shared.values[owners_N]
        layers.append(layer)
    queries = inputs_NQ.shape[1]
    if queries == 0:
        return prompt.layers[0].keys.new_empty(len(inputs_NQ), 0, model.config.vocab_size)
    mask_NL = mask_PL[owners_N]
    return model(
        inputs_NQ,
        attention_mask=nn.functional.pad(mask_NL, (0, queries), value=True),
        position_ids=mask_NL.sum(1, keepdim=True) + torch.arange(queries, device=mask_NL.device),
        past_key_values=Cache(layers=layers),
        use_cache=True,
    ).logits
