"""read(): the trainable model over completions that were sampled, with gradient.

Shapes: P prompts, L prompt tokens (padded left), N chosen completions, T completion tokens (padded right), C
contexts of a token, V vocabulary, X what the head reads or, where no head is known, the vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench import likelihoods
from workbench.attention import can_replace
from workbench.cache import completion_outputs, prefill
from workbench.packing import context_outputs, pack
from workbench.rollout import Rollouts
from workbench.tiles import States, given

if TYPE_CHECKING:
    from workbench.models import Policy


@dataclass(frozen=True)
class Reading:
    """What the trainable model says of chosen completions, with gradient: once per distinct context.

    It holds the last hidden states and the head, so that logits exist one tile at a time; the logits
    themselves only for a model whose head is not known (`head`).
    """

    states: States
    context_NT: Tensor  # the context that predicts each token; any where masked
    tokens_NT: Tensor
    mask_NT: Tensor

    def logprobs_entropies(self) -> tuple[Tensor, Tensor]:
        """Log-probs of the tokens and entropies (nats), both fp32 (N, T), temperature 1, 0 where masked."""
        logprobs_NT, entropies_NT = map(
            self._spread, likelihoods.logprob_entropy(self.states, *self._chosen())
        )
        return logprobs_NT, entropies_NT

    def statistics(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same two, and of each token's distribution log collision probability and self-certainty."""
        found = map(self._spread, likelihoods.statistics(self.states, *self._chosen()))
        logprobs_NT, entropies_NT, collisions_NT, certainties_NT = found
        return logprobs_NT, entropies_NT, collisions_NT, certainties_NT

    def logits(self) -> Tensor:
        """All logits, fp32 (C, V), without gradient: for looking at a few."""
        return self.states.logits()

    def only(self, mask_NL: Tensor) -> Reading:
        """The same reading of fewer tokens; the others are looked at no more and get no gradient.

        `mask_NL` has one row per chosen completion and at least T columns.
        """
        mask_NT = self.mask_NT & mask_NL[:, : self.mask_NT.shape[1]]
        return dataclasses.replace(self, mask_NT=mask_NT)

    def exact_kl(self, reference: Reading, direction: str) -> Tensor:
        """KL of each token's state over the whole vocabulary, (N, T): "reverse" is KL(policy || reference).

        `reference` is a reading of the same completions by the reference (`read` in its context); it gets
        no gradient.
        """
        kl_C = likelihoods.exact_kl(self.states, reference.states, direction)
        return self._spread(kl_C[self.context_NT[self.mask_NT]])

    def _chosen(self) -> tuple[Tensor, Tensor]:
        return self.context_NT[self.mask_NT], self.tokens_NT[self.mask_NT]

    def _spread(self, values: Tensor) -> Tensor:
        empty_NT = values.new_zeros(self.mask_NT.shape)
        return empty_NT.masked_scatter(self.mask_NT, values)


def read(
    policy: Policy, rollouts: Rollouts, indices: Tensor | Sequence[int] | None = None
) -> Reading:
    """Run the trainable model over the chosen completions (all without `indices`).

    Inside `policy.reference()` it is the base that is run. T is the longest of the chosen rows.
    """
    device = rollouts.mask_BT.device
    rows_N = torch.arange(rollouts.B) if indices is None else torch.as_tensor(indices)
    rows_N = rows_N.to(device)
    prompts_P, owners_N = torch.unique(rows_N // rollouts.G, return_inverse=True)
    ids_PL, mask_PL = rollouts.prompt_ids_PL[prompts_P], rollouts.prompt_mask_PL[prompts_P]
    lengths_N = rollouts.lengths_B[rows_N]
    longest = int(lengths_N.max())
    tokens_NT = rollouts.completion_ids_BT[rows_N, :longest]
    mask_NT = rollouts.mask_BT[rows_N, :longest]
    model, head = policy.model, policy.head
    if can_replace(model):
        packing = pack(ids_PL, mask_PL, owners_N, tokens_NT, lengths_N)
        outputs_CX, context_NT = context_outputs(model, packing, head), packing.context_NT
    else:
        first_PX, cache = prefill(model, ids_PL, mask_PL, head)
        parts = [first_PX[owners_N, None]]
        if longest > 1:
            inputs_NQ = tokens_NT[:, :-1]
            parts.append(completion_outputs(model, cache, mask_PL, owners_N, inputs_NQ, head))
        outputs_CX = torch.cat(parts, 1).flatten(0, 1)
        context_NT = torch.arange(len(outputs_CX), device=device).view_as(tokens_NT)
    states = given(outputs_CX) if head is None else head.states(outputs_CX)
    return Reading(states, context_NT, tokens_NT, mask_NT)
