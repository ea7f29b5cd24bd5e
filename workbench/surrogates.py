"""Surrogates: the policy loss of each token, and how token losses become one number.

Surrogate: ``f(logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT, **params) -> loss_BT``.
`old_logprobs_BT` are those recorded while sampling; both are natural logs of the policy at temperature 1.
`advantages_BT` is one number per completion, (B, 1), or one per token; `mask_BT` (bool) marks the tokens
of a completion. Where the two policies agree (ratio 1) every row has the gradient of `reinforce`.

Aggregation: ``f(mask_BT, max_new_tokens) -> weights_BT``; the loss is ``(weights_BT * loss_BT).sum()``.
Weights are taken over the whole batch and a row sees no completion but its own, so cutting the batch
into microbatches leaves the gradient unchanged.

A paper's name here means its token loss. Its aggregation, advantages and sampling are chosen separately.

Tensors are used through their methods only, so that the tables can be read without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.variants import Param, Variant

if TYPE_CHECKING:
    from torch import Tensor

# exp(80) is 6e34, near the end of float32. A ratio beyond counts as exp(80) and no longer pulls: left
# alone it would become inf, and the 0 that a clip sends back to it 0 * inf = nan.
MAX_LOG_RATIO = 80.0


def log_ratios(logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Log of the new over the old probability of each token; 0, without gradient, off the mask."""
    return (logprobs_BT - old_logprobs_BT).masked_fill(~mask_BT, 0.0)


def bounded_exp(log_ratios_BT: Tensor) -> Tensor:
    """Ratios from their logs, at most exp(MAX_LOG_RATIO); loss and gradient stay finite."""
    return log_ratios_BT.clamp(max=MAX_LOG_RATIO).exp()


def reinforce(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor
) -> Tensor:
    """Advantage times log-probability: the plain policy gradient, for one update per batch."""
    return -advantages_BT * logprobs_BT.masked_fill(~mask_BT, 0.0)


def ppo_clip(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Tensor:
    """Importance ratio times advantage, clipped so that stale tokens stop pulling."""
    ratio_BT = bounded_exp(log_ratios(logprobs_BT, old_logprobs_BT, mask_BT))
    return _clipped(ratio_BT, advantages_BT, clip_low, clip_high)


def dapo(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Clipping with a higher ceiling, so that unlikely tokens may grow further.

    `ppo_clip` with DAPO's two ranges ("clip-higher") and nothing else of that paper: its token mean is an
    aggregation, its overlong punishment a reward, its dynamic sampling a setting of the recipe.
    """
    ratio_BT = bounded_exp(log_ratios(logprobs_BT, old_logprobs_BT, mask_BT))
    return _clipped(ratio_BT, advantages_BT, clip_low, clip_high)


def gspo(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """One ratio for a whole completion, the geometric mean of its tokens', and one clip.

    Aggregation `sequence_mean` gives the paper's loss. Under the others a completion is clipped just the
    same, only weighted differently: by its length (`sum`, `token_mean`, `fixed_length`) instead of equally.

    Written in the paper's token form (GSPO-token): value and gradient are GSPO's where a completion has
    one advantage; where advantages differ by token, each token keeps its own instead of their mean.
    """
    logs_BT = log_ratios(logprobs_BT, old_logprobs_BT, mask_BT)
    mean_B1 = logs_BT.sum(-1, keepdim=True) / mask_BT.sum(-1, keepdim=True).clamp_min(1)
    # The difference is 0: the value is the completion's, the gradient goes to each token's own log.
    ratio_BT = bounded_exp(mean_B1.detach() + (logs_BT - logs_BT.detach()))
    return _clipped(ratio_BT, advantages_BT, clip_low, clip_high)


def cispo(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_high: float = 4.0,
) -> Tensor:
    """Log-probability weighted by the capped ratio: stale tokens count less, none falls silent.

    The paper sets no lower bound, tunes the upper one, and doesn't say to what. The default caps the
    ratio at 5, the value that TRL's documentation recommends after ScaleRL (arXiv 2510.13786).
    """
    ratio_BT = bounded_exp(log_ratios(logprobs_BT, old_logprobs_BT, mask_BT))
    weights_BT = ratio_BT.clamp(max=1 + clip_high).detach()
    return weights_BT * reinforce(logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT)


def sapo(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> Tensor:
    """A smooth gate in place of the clip: the pull fades as the ratio leaves 1.

    The gradient is the ratio's times sech^2(tau (ratio - 1) / 2), tau by the sign of the advantage (0
    counts as negative). The paper aggregates with `sequence_mean`.
    """
    ratio_BT = bounded_exp(log_ratios(logprobs_BT, old_logprobs_BT, mask_BT))
    positive_BT = (advantages_BT > 0).to(advantages_BT.dtype)
    tau_BT = tau_pos * positive_BT + tau_neg * (1 - positive_BT)
    gate_BT = (tau_BT * (ratio_BT - 1)).sigmoid() * 4 / tau_BT
    return -gate_BT * advantages_BT


def truncated_is(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    *,
    cap: float = 2.0,
    level: str = "token",
) -> Tensor:
    """Log-probability weighted by the importance ratio, cut off at a cap.

    Level `sequence` takes the product over the completion's tokens: without the cap and with aggregation
    `sum` it is the unbiased gradient under the new policy, with much noise. Level `token` is biased and
    calm; it is `cispo` with clip_high = cap - 1, apart from the default.
    """
    weights_BT = truncated_weights(logprobs_BT, old_logprobs_BT, mask_BT, cap=cap, level=level)
    return weights_BT * reinforce(logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT)


def truncated_weights(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor, *, cap: float, level: str
) -> Tensor:
    """min(new / old, cap) without gradient: of each token, (B, T), or of the completion, (B, 1)."""
    logs_BT = log_ratios(logprobs_BT, old_logprobs_BT, mask_BT)
    if level == "sequence":
        logs_BT = logs_BT.sum(-1, keepdim=True)
    return bounded_exp(logs_BT).clamp(max=cap).detach()


def _clipped(ratio_BT: Tensor, advantages_BT: Tensor, low: float, high: float) -> Tensor:
    """Minus the smaller of ratio times advantage and clipped ratio times advantage."""
    clipped_BT = ratio_BT.clamp(1 - low, 1 + high)
    return -(ratio_BT * advantages_BT).minimum(clipped_BT * advantages_BT)


_CLIP = (
    r"\begin{gathered}\ell_t=-\min\big(\rho_t A,\ "
    r"\mathrm{clip}(\rho_t,1-\epsilon_l,1+\epsilon_h)A\big)"
    r"\\ \rho_t=\pi_\theta(y_t)/\pi_{old}(y_t)\end{gathered}"
)

SURROGATES: dict[str, Variant] = {
    "reinforce": Variant(
        reinforce,
        formula=r"\ell_t = -A \log \pi_\theta(y_t)",
        source="Williams 1992",
    ),
    "ppo_clip": Variant(
        ppo_clip,
        formula=_CLIP,
        source="Schulman et al. 2017, PPO (arXiv 1707.06347), eq. 7",
        params=(
            Param("clip_low", 0.2, "How far the ratio may fall below 1.", low=0.0, high=1.0),
            Param("clip_high", 0.2, "How far the ratio may rise above 1.", low=0.0, high=5.0),
        ),
    ),
    "dapo": Variant(
        dapo,
        formula=_CLIP,
        source="Yu et al. 2025, DAPO (arXiv 2503.14476), eq. 10 (its clip; literal)",
        params=(
            Param("clip_low", 0.2, "How far the ratio may fall below 1.", low=0.0, high=1.0),
            Param("clip_high", 0.28, "How far the ratio may rise above 1.", low=0.0, high=5.0),
        ),
    ),
    "gspo": Variant(
        gspo,
        formula=(
            r"\begin{gathered}\ell_t=-\min\big(s A,\ \mathrm{clip}(s,1-\epsilon_l,1+\epsilon_h)A\big)"
            r"\\ s=\exp\Big(\frac{1}{T}\sum_{t'}\log\rho_{t'}\Big)\end{gathered}"
        ),
        source="Zheng et al. 2025, GSPO (arXiv 2507.18071), eq. 5, as eq. 13-14 (literal)",
        params=(
            Param(
                "clip_low",
                3e-4,
                "How far a completion's ratio may fall below 1.",
                low=0.0,
                high=0.05,
            ),
            Param(
                "clip_high",
                4e-4,
                "How far a completion's ratio may rise above 1.",
                low=0.0,
                high=0.05,
            ),
        ),
    ),
    "cispo": Variant(
        cispo,
        formula=r"\ell_t=-\mathrm{sg}\big[\min(\rho_t,1+\epsilon_h)\big]\,A\log\pi_\theta(y_t)",
        source="MiniMax-M1 2025 (arXiv 2506.13585), eq. 4-5 (literal; default as TRL recommends)",
        params=(
            Param("clip_high", 4.0, "The ratio counts as at most 1 + this.", low=0.0, high=20.0),
        ),
    ),
    "sapo": Variant(
        sapo,
        formula=(
            r"\begin{gathered}\ell_t=-\frac{4}{\tau}\,\sigma\big(\tau(\rho_t-1)\big)A"
            r"\\ \tau=\tau_{pos}\text{ if }A>0\text{, else }\tau_{neg}\end{gathered}"
        ),
        source="Gao et al. 2025, SAPO (arXiv 2511.20347), eq. 5-6 (literal)",
        params=(
            Param("tau_pos", 1.0, "How fast the pull of good tokens fades.", low=0.05, high=10.0),
            Param("tau_neg", 1.05, "How fast the pull of bad tokens fades.", low=0.05, high=10.0),
        ),
    ),
    "truncated_is": Variant(
        truncated_is,
        formula=(
            r"\begin{gathered}\ell_t=-\mathrm{sg}\big[\min(\rho,C)\big]\,A\log\pi_\theta(y_t)"
            r"\\ \rho=\rho_t\text{ or }\textstyle\prod_{t'}\rho_{t'}\end{gathered}"
        ),
        source=(
            "Espeholt et al. 2018, IMPALA (arXiv 1802.01561), truncated rho; for language models Yao et al. "
            "2025, “Your efficient RL framework secretly brings you off-policy RL training” (cap 2 and the "
            "sequence level as in TRL and ms-swift)"
        ),
        params=(
            Param("cap", 2.0, "The largest weight of a token.", low=1.0, high=100.0),
            Param(
                "level",
                "token",
                "Ratio of each token or of the completion.",
                choices=("token", "sequence"),
            ),
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
