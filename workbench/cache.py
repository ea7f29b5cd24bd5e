"""Keys and values: a prefix is run once, and every completion that begins with it reads it.

P prompts, L prompt tokens (padded left), N rows, Q queries; while sampling, R distinct prefixes, of which
each has its row in the cache, and K those of the next step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from workbench.attention import ONE_QUERY, attending, can_replace
from workbench.head import Head, outputs


class RoomyLayer(DynamicLayer):
    """One layer's keys and values with spare rows and spare room, so that a step copies little.

    The room grows with the completions: little and dense memory is also the quickest to read.
    """

    def __init__(self, prompt: DynamicLayer, most_rows: int) -> None:
        super().__init__()
        self.lazy_initialization(prompt.keys, prompt.values)
        self.rows, _, self.filled, _ = prompt.keys.shape
        self.keys = self._roomy(prompt.keys, most_rows)
        self.values = self._roomy(prompt.values, most_rows)

    def _roomy(self, tensor: Tensor, rows: int) -> Tensor:
        room = self.filled + max(32, self.filled // 4)
        buffer = tensor.new_empty(rows, tensor.shape[1], room, tensor.shape[3])
        buffer[: self.rows, :, : self.filled] = tensor[: self.rows, :, : self.filled]
        return buffer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of one new token; return all so far."""
        if self.filled == self.keys.shape[2]:
            self.keys = self._roomy(self.keys, len(self.keys))
            self.values = self._roomy(self.values, len(self.values))
        end = self.filled + 1
        self.keys[: self.rows, :, self.filled : end] = key_states
        self.values[: self.rows, :, self.filled : end] = value_states
        self.filled = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def get_seq_length(self) -> int:
        """Tokens stored so far, the prompt's included."""
        return self.filled

    def arrange(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """Copy rows `sources` to `targets` and let the batch be the first `rows` rows."""
        if len(sources):
            for tensor in (self.keys, self.values):
                tensor[targets, :, : self.filled] = tensor[sources, :, : self.filled]
        self.rows = rows


class PrefixCache:
    """The distinct prefixes being continued, one row each; it starts with the prompts."""

    def __init__(
        self, model: nn.Module, prompt: DynamicCache, mask_PL: Tensor, most_rows: int
    ) -> None:
        self.model = model
        self.layers = [RoomyLayer(layer, most_rows) for layer in prompt.layers]
        self.cache = Cache(layers=self.layers)
        # Without padding a single query sees every key, and no mask at all is the fastest mask.
        self.padded = not bool(mask_PL.all())
        self.mask_RL = mask_PL
        ours = mask_PL.device.type == "cpu" and can_replace(model)
        self.attention = ONE_QUERY if ours else None
        self.positions_R1 = mask_PL.sum(1, keepdim=True)

    def step(self, parents_K: Tensor, tokens_K: Tensor) -> tuple[Tensor, Tensor]:
        """Continue row `parents_K[k]` by `tokens_K[k]`, for each k; parents in ascending order.

        Returns the rows at which these prefixes now stand (K), and the next logits (R = K, V) by row.
        """
        place_K = self._split(parents_K)
        tokens_R = torch.empty_like(tokens_K).index_copy_(0, place_K, tokens_K)
        with attending(self.model, self.attention):
            output = self.model(
                tokens_R[:, None],
                attention_mask=self._mask() if self.padded else None,
                position_ids=self.positions_R1,
                past_key_values=self.cache,
                use_cache=True,
            )
        self.positions_R1 = self.positions_R1 + 1
        return place_K, output.logits[:, -1]

    def _mask(self) -> Tensor:
        """The mask of all keys and the new token: what transformers expects, or ours expects."""
        new = self.layers[0].filled + 1 - self.mask_RL.shape[1]
        mask_RS = nn.functional.pad(self.mask_RL, (0, new), value=True)
        if self.attention is None:
            return mask_RS
        dtype = self.layers[0].keys.dtype
        hidden = torch.zeros(mask_RS.shape, dtype=dtype).masked_fill_(~mask_RS, -torch.inf)
        return hidden[:, None, None]

    def _split(self, parents_K: Tensor) -> Tensor:
        """Give every prefix a row that holds its parent's keys and values.

        A parent's first child takes its row over; only the others are copied, into rows whose
        completions have all finished or behind the end. Rows beyond the new number move forward.
        """
        rows = len(parents_K)
        first_K = torch.ones_like(parents_K, dtype=torch.bool)
        first_K[1:] = parents_K[1:] != parents_K[:-1]
        stays_K = first_K & (parents_K < rows)
        free_R = torch.ones_like(stays_K)
        free_R[parents_K[stays_K]] = False
        targets, sources = free_R.nonzero().squeeze(1), parents_K[~stays_K]
        for layer in self.layers:
            layer.arrange(sources, targets, rows)
        place_K = parents_K.clone()
        place_K[~stays_K] = targets
        parents_R = torch.empty_like(parents_K).index_copy_(0, place_K, parents_K)
        self.positions_R1, self.mask_RL = self.positions_R1[parents_R], self.mask_RL[parents_R]
        return place_K


def prefill(
    model: nn.Module, ids_PL: Tensor, mask_PL: Tensor, head: Head | None = None
) -> tuple[Tensor, DynamicCache]:
    """Run the prompts: logits (P, V) of the first completion token, and the keys and values.

    With the model's `head`, what the head makes these logits of, (P, H), in their place.
    """
    # Made without the config, so that sliding-window layers keep all keys; their mask hides the old.
    cache = DynamicCache()
    last_P1X = outputs(
        model,
        head,
        ids_PL,
        attention_mask=mask_PL,
        position_ids=(mask_PL.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return last_P1X[:, -1], cache


def completion_outputs(
    model: nn.Module,
    prompt: DynamicCache,
    mask_PL: Tensor,
    owners_N: Tensor,
    inputs_NQ: Tensor,
    head: Head | None,
) -> Tensor:
    """Logits (N, Q, V) after each of `inputs_NQ`, which continue the prompts `owners_N`; as in `prefill`,
    with a head what it makes them of.

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
    mask_NL = mask_PL[owners_N]
    return outputs(
        model,
        head,
        inputs_NQ,
        attention_mask=nn.functional.pad(mask_NL, (0, queries), value=True),
        position_ids=mask_NL.sum(1, keepdim=True) + torch.arange(queries, device=mask_NL.device),
        past_key_values=Cache(layers=layers),
        use_cache=True,
    )
