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
    if estimator == "k3":
        return kl_value(logprobs_BT, reference_logprobs_BT)
    difference_BT = reference_logprobs_BT - logprobs_BT
    return -difference_BT if estimator == "k1" else difference_BT.square() / 2


def kl_value(logprobs_BT: Tensor, reference_logprobs_BT: Tensor) -> Tensor:
    """k3 = exp(d) - d - 1 with d = log reference - log policy: KL in nats per token, never negative."""
    difference_BT = reference_logprobs_BT - logprobs_BT
    return difference_BT.exp() - difference_BT - 1


ANCHORS: dict[str, Variant] = {
    "none": Variant(none, formula="0", source="no anchor"),
    "reverse_kl": Variant(
        reverse_kl,
        formula=r"k_1=-d,\quad k_2=\tfrac12 d^2,\quad k_3=e^{d}-d-1,\qquad d=\log\pi_{ref}-\log\pi",
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
