"""Anchors: the penalty that ties the policy to the reference (the same model with its adapter off).

Signature: ``f(logprobs_BT, reference_logprobs_BT, **params) -> penalty_BT``; the loss gets beta times it,
weighted like the policy loss. Gradients flow through `logprobs_BT` only.

`kl_value` is what is shown to the user, whatever is optimised: an estimate of KL(policy || reference) per
token that is unbiased on the policy's own samples.

Tensors are used through their methods only, so that the table can be read without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.variants import Param, Variant

if TYPE_CHECKING:
    from torch import Tensor


def none(logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """No anchor: nothing but the reward restrains the policy."""
    return logprobs_BT * 0.0


def reverse_kl(
    logprobs_BT: Tensor, reference_logprobs_BT: Tensor, *, estimator: str = "k2"
) -> Tensor:
    """KL from the policy to the reference, estimated from each sampled token.

    With d = log reference - log policy: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. k1 and k3 estimate the
    value of the KL without bias, but as a *loss*, on the policy's own samples, their gradients differ: k1's
    has mean zero, k2's is that of the per-token reverse KL, k3's is that of the forward KL.
    """
    difference_BT = reference_logprobs_BT - logprobs_BT
    if estimator == "k1":
        return -difference_BT
    if estimator == "k2":
        return difference_BT.square() / 2
    return difference_BT.exp() - difference_BT - 1


def kl_value(logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """log policy - log reference: its mean over the policy's own tokens is the KL, in nats per token.

    Of the unbiased estimators this one (k1) is shown: k3 is never negative, but its exponential makes single
    tokens jump, while the mean of k1 over a batch of thousands of tokens is steady.
    """
    return logprobs_BT - reference_logprobs_BT


ANCHORS: dict[str, Variant] = {
    "none": Variant(none, formula="0", source="no anchor"),
    "reverse_kl": Variant(
        reverse_kl,
        formula=(
            r"\begin{gathered}k_1=-d,\quad k_2=\tfrac12 d^2,\quad k_3=e^{d}-d-1"
            r"\\ d=\log\pi_{ref}-\log\pi\end{gathered}"
        ),
        source="Schulman 2020, Approximating KL divergence; gradients derived in the tests",
        params=(
            Param(
                "estimator",
                "k2",
                "k2 has the reverse-KL gradient; k3 (GRPO's custom) the forward-KL one; k1 none on average.",
                choices=("k1", "k2", "k3"),
            ),
        ),
    ),
}
