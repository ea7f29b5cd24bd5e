"""From one step's logits to a token and its statistics: filters and the draw.

Statistics are of the full distribution at temperature 1 and in fp32, whatever the sampling settings.
N rows of logits, V vocabulary; C contexts and M tokens, each after one of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workbench.devices import exact_device

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


def draw(logits_CV: Tensor, contexts_M: Tensor, uniforms_M: Tensor) -> Tensor:
    """One token after each context, (M,), by inverting its cumulative distribution at `uniforms_M`.

    In fp64, since fp32 sums over a large vocabulary would starve its unlikely tokens. `uniforms_M` lie where
    that is done.
    """
    device = exact_device(logits_CV.device)
    cumulative_CV = logits_CV.softmax(-1).to(device).double().cumsum(-1)
    cumulative_MV = cumulative_CV[contexts_M.to(device)]
    targets_M1 = uniforms_M[:, None] * cumulative_MV[:, -1:]
    tokens_M1 = torch.searchsorted(cumulative_MV, targets_M1, right=True)
    return tokens_M1.squeeze(1).clamp_(max=logits_CV.shape[-1] - 1).to(logits_CV.device)


def statistics(logits_CV: Tensor, contexts_M: Tensor, tokens_M: Tensor) -> Tensor:
    """Log-prob of each token after its context, and the context's entropy, log collision, self-certainty
    and log peak, fp32 (5, M) without gradient.

    Log collision is log sum p^2, log peak is log max p. Self-certainty is KL(uniform || p) = logsumexp(z) -
    mean(z) - log V.
    """
    parts = []
    for part in _slices(logits_CV):
        z = logits_CV[part].float()
        normaliser = z.logsumexp(-1)
        logp = z - normaliser[:, None]
        entropy = torch.special.entr(logp.exp()).sum(-1)
        certainty = normaliser - z.mean(-1) - math.log(z.shape[-1])
        collision, peak = (2 * logp).logsumexp(-1), logp.amax(-1)
        parts.append(torch.stack((normaliser, entropy, collision, certainty, peak)))
    found_5M = torch.cat(parts, 1)[:, contexts_M]
    found_5M[0] = logits_CV[contexts_M, tokens_M].float() - found_5M[0]
    return found_5M


def _slices(logits_NV: Tensor) -> list[slice]:
    size = max(1, _CHUNK // logits_NV.shape[-1])
    return [slice(start, start + size) for start in range(0, max(len(logits_NV), 1), size)]
