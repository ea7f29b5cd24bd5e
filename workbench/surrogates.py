"""Surrogates: the policy loss of each token, and how token losses become one number.

Surrogate: ``f(logprobs_BT, old_logprobs_BT, advantages_B1, **params) -> loss_BT``. `old_logprobs_BT` are
those recorded while sampling; both are natural logs of the policy at temperature 1.

Aggregation: ``f(mask_BT, max_new_tokens) -> weights_BT``; the loss is ``(weights_BT * loss_BT).sum()``.
Weights are taken over the whole batch, so cutting it into microbatches leaves the gradient unchanged.

Tensors are used through their methods only, so that the tables can be read without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.variants import Param, Variant

if TYPE_CHECKING:
    from torch import Tensor


def reinforce(logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_B1: Tensor) -> Tensor:
    """Advantage times log-probability: the plain policy gradient, for one update per batch."""
    return -advantages_B1 * logprobs_BT


def ppo_clip(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_B1: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """Importance ratio times advantage, clipped so that stale tokens stop pulling."""
    ratio_BT = (logprobs_BT - old_logprobs_BT).exp()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    return -(ratio_BT * advantages_B1).minimum(clipped_BT * advantages_B1)


SURROGATES: dict[str, Variant] = {
    "reinforce": Variant(
        reinforce,
        formula=r"\ell_t = -A \log \pi_\theta(y_t)",
        source="Williams 1992",
    ),
    "ppo_clip": Variant(
        ppo_clip,
        formula=(
            r"\begin{gathered}\ell_t=-\min\big(\rho_t A,\ "
            r"\mathrm{clip}(\rho_t,1-\epsilon_l,1+\epsilon_h)A\big)"
            r"\\ \rho_t=\pi_\theta(y_t)/\pi_{old}(y_t)\end{gathered}"
        ),
        source="Schulman et al. 2017, PPO (arXiv 1707.06347), eq. 7",
        params=(
            Param("clip_low", 0.2, "How far the ratio may fall below 1.", low=0.0, high=1.0),
            Param("clip_high", 0.2, "How far the ratio may rise above 1.", low=0.0, high=5.0),
        ),
    ),
}


def total(mask_BT: Tensor, max_new_tokens: int) -> Tensor:
    """Sum over tokens, mean over completions: the exact policy gradient of the mean reward."""
    return mask_BT / mask_BT.shape[0]


def sequence_mean(mask_BT: Tensor, max_new_tokens: int) -> Tensor:
    """Mean over a completion's tokens, then over completions: a token of a long one counts less."""
    return mask_BT / mask_BT.sum(-1, keepdim=True).clamp_min(1) / mask_BT.shape[0]


def token_mean(mask_BT: Tensor, max_new_tokens: int) -> Tensor:
    """Mean over all tokens of the batch: every token counts the same."""
    return mask_BT / mask_BT.sum().clamp_min(1)


def fixed_length(mask_BT: Tensor, max_new_tokens: int) -> Tensor:
    """Sum over tokens divided by the length limit: `sum` in units of a full completion."""
    return mask_BT / (mask_BT.shape[0] * max_new_tokens)


AGGREGATIONS: dict[str, Variant] = {
    "sum": Variant(
        total,
        formula=r"\frac{1}{B}\sum_i \sum_t \ell_{it}",
        source="the policy-gradient theorem",
    ),
    "sequence_mean": Variant(
        sequence_mean,
        formula=r"\frac{1}{B}\sum_i \frac{1}{T_i}\sum_t \ell_{it}",
        source="Shao et al. 2024, GRPO (arXiv 2402.03300), eq. 3",
    ),
    "token_mean": Variant(
        token_mean,
        formula=r"\frac{1}{\sum_i T_i}\sum_i \sum_t \ell_{it}",
        source="Yu et al. 2025, DAPO (arXiv 2503.14476), eq. 12",
    ),
    "fixed_length": Variant(
        fixed_length,
        formula=r"\frac{1}{B\,T_{max}}\sum_i \sum_t \ell_{it}",
        source="Liu et al. 2025, Dr. GRPO (arXiv 2503.20783)",
    ),
}
