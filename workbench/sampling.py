"""From logits to a token and its statistics: filters, the draw, log-probs with their gradient.

Statistics are of the full distribution at temperature 1 and in fp32, whatever the sampling settings.
N rows of logits, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 2**22  # logits worked on at a time, so that no fp32 copy of [N, V] is ever made


def filter_logits(
    logits_NV: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """fp32 logits over `temperature`; -inf for tokens outside top-k, then top-p, then min-p."""
    logits_NV = logits_NV.float() / temperature
    if 0 < top_k < logits_NV.shape[-1]:
        least_N1 = logits_NV.topk(top_k).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < least_N1, -math.inf)
    if top_p < 1:
        ascending_NV, order_NV = logits_NV.sort()
        # Dropped: the unlikeliest tokens that together hold at most 1 - top_p; the likeliest stays.
        drop_NV = ascending_NV.softmax(-1).cumsum(-1) <= 1 - top_p
        drop_NV[:, -1] = False
        drop_NV = drop_NV.scatter(1, order_NV, drop_NV)
        logits_NV = logits_NV.masked_fill(drop_NV, -math.inf)
    if min_p > 0:
        # p < min_p * p_max, written in logits.
        bar_N1 = logits_NV.amax(-1, keepdim=True) + math.log(min_p)
        logits_NV = logits_NV.masked_fill(logits_NV < bar_N1, -math.inf)
    return logits_NV


def draw(logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """One token a row, (N,), by inverting the cumulative distribution at `uniforms_N` in [0, 1).

    In fp64, since fp32 sums over a large vocabulary would starve its unlikely tokens.
    """
    cumulative_NV = logits_NV.softmax(-1).double().cumsum(-1)
    targets_N1 = uniforms_N[:, None] * cumulative_NV[:, -1:]
    tokens_N1 = torch.searchsorted(cumulative_NV, targets_N1, right=True)
    return tokens_N1.squeeze(1).clamp_(max=logits_NV.shape[-1] - 1)


def statistics(logits_NV: Tensor, tokens_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob of each token, entropy, log collision and self-certainty, each (N,).

    Log collision is log sum p^2. Self-certainty is KL(uniform || p) = logsumexp(z) - mean(z) - log V.
    """
    parts = []
    for logits, tokens in _chunks(logits_NV, tokens_N):
        z = logits.float()
        normaliser = z.logsumexp(-1)
        logp = z - normaliser[:, None]
        parts.append(
            (
                logp.gather(1, tokens[:, None]).squeeze(1),
                torch.special.entr(logp.exp()).sum(-1),
                (2 * logp).logsumexp(-1),
                normaliser - z.mean(-1) - math.log(z.shape[-1]),
            )
        )
    if len(parts) == 1:
        return parts[0]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]


def logprob_entropy(logits_NV: Tensor, tokens_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each token and entropy, fp32 (N,), with gradient to `logits_NV`.

    The backward pass recomputes the probabilities: autograd would keep four fp32 copies of [N, V].
    """
    return _LogprobEntropy.apply(logits_NV, tokens_N)


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, tokens_N: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, entropies, normalisers = [], [], []
        for logits, tokens in _chunks(logits_NV, tokens_N):
            z = logits.float()
            normaliser = z.logsumexp(-1)
            logprobs.append(z.gather(1, tokens[:, None]).squeeze(1) - normaliser)
            entropies.append(torch.special.entr((z - normaliser[:, None]).exp_()).sum(-1))
            normalisers.append(normaliser)
        entropies_N = torch.cat(entropies)
        ctx.save_for_backward(logits_NV, tokens_N, torch.cat(normalisers), entropies_N)
        ctx.set_materialize_grads(False)
        return torch.cat(logprobs), entropies_N.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs_N: Tensor | None, grad_entropies_N: Tensor | None
    ) -> tuple[Tensor, None]:
        """d log p_a / dz_j = [j = a] - p_j, and dH / dz_j = -p_j (log p_j + H)."""
        logits_NV, tokens_N, normalisers_N, entropies_N = ctx.saved_tensors
        grad_NV = torch.empty_like(logits_NV)
        for part in _slices(logits_NV):
            logp = logits_NV[part].float() - normalisers_N[part, None]
            p = logp.exp()
            grad = torch.zeros_like(p)
            if grad_logprobs_N is not None:
                weight = grad_logprobs_N[part, None]
                grad.addcmul_(p, weight, value=-1)
                grad.scatter_add_(1, tokens_N[part, None], weight)
            if grad_entropies_N is not None:
                # log p is -inf where p is 0, and the product must be 0 there.
                slope = torch.special.entr(p) - p * entropies_N[part, None]
                grad.addcmul_(slope, grad_entropies_N[part, None])
            grad_NV[part] = grad
        return grad_NV, None


def _slices(logits_NV: Tensor) -> list[slice]:
    size = max(1, _CHUNK // logits_NV.shape[-1])
    return [slice(start, start + size) for start in range(0, max(len(logits_NV), 1), size)]


def _chunks(logits_NV: Tensor, tokens_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(logits_NV[part], tokens_N[part]) for part in _slices(logits_NV)]
