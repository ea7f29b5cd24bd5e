"""read(): the trainable model over completions that were sampled, with gradient.

Shapes: P prompts, L prompt tokens (padded left), N chosen completions, T completion tokens (padded right), C
contexts of a token, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workbench.attention import can_replace
from workbench.cache import completion_logits, prefill
from workbench.packing import context_logits, pack
from workbench.rollout import Rollouts
from workbench.sampling import logprob_entropy

if TYPE_CHECKING:
    from workbench.models import Policy

_KL_ENTRIES = 2**24  # contexts x vocabulary of one part of an exact KL


@dataclass(frozen=True)
class Reading:
    """The trainable model's logits over chosen completions, with gradient: once per distinct context."""

    logits_CV: Tensor
    context_NT: Tensor  # the context that predicts each token; any where masked
    tokens_NT: Tensor
    mask_NT: Tensor

    def logprobs_entropies(self) -> tuple[Tensor, Tensor]:
        """Log-probs of the tokens and entropies (nats), both fp32 (N, T), temperature 1, 0 where masked."""
        mask_NT = self.mask_NT
        found = logprob_entropy(self.logits_CV, self.context_NT[mask_NT], self.tokens_NT[mask_NT])
        logprobs_NT, entropies_NT = (self._spread(part) for part in found)
        return logprobs_NT, entropies_NT

    def only(self, mask_NL: Tensor) -> Reading:
        """The same reading of fewer tokens; the others are looked at no more and get no gradient.

        `mask_NL` has one row per chosen completion and at least T columns.
        """
        mask_NT = self.mask_NT & mask_NL[:, : self.mask_NT.shape[1]]
        return dataclasses.replace(self, mask_NT=mask_NT)

    def exact_kl(self, reference_CV: Tensor, direction: str) -> Tensor:
        """KL of each token's state over the whole vocabulary, (N, T): "reverse" is KL(policy || reference).

        `reference_CV` are the reference's logits over the same completions (`read` in its context). Contexts
        are taken in parts that are computed again in the backward pass, so no more than one part of the
        vocabulary-sized terms is held.
        """
        size = max(1, _KL_ENTRIES // self.logits_CV.shape[1])
        parts = [
            checkpoint(_state_kl, logits, reference, direction, use_reentrant=False)
            for logits, reference in zip(
                self.logits_CV.split(size), reference_CV.detach().split(size), strict=True
            )
        ]
        return self._spread(torch.cat(parts)[self.context_NT[self.mask_NT]])

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
    if can_replace(policy.model):
        packing = pack(ids_PL, mask_PL, owners_N, tokens_NT, lengths_N)
        logits_CV, context_NT = context_logits(policy.model, packing), packing.context_NT
    else:
        logits_PV, cache = prefill(policy.model, ids_PL, mask_PL)
        rest = completion_logits(policy.model, cache, mask_PL, owners_N, tokens_NT[:, :-1])
        logits_CV = torch.cat((logits_PV[owners_N, None], rest), 1).flatten(0, 1)
        context_NT = torch.arange(len(logits_CV), device=device).view_as(tokens_NT)
    return Reading(logits_CV, context_NT, tokens_NT, mask_NT)


def _state_kl(logits_CV: Tensor, reference_CV: Tensor, direction: str) -> Tensor:
    logp_CV, ref_CV = logits_CV.float().log_softmax(-1), reference_CV.float().log_softmax(-1)
    if direction == "forward":
        logp_CV, ref_CV = ref_CV, logp_CV
    return (logp_CV.exp() * (logp_CV - ref_CV)).sum(-1)
