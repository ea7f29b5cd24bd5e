"""What each anchor's loss really does, on a categorical policy where every mean can be summed exactly."""

import pytest
import torch

from workbench.anchors import ANCHORS, kl_value

LOGITS = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64)
REFERENCE = torch.log_softmax(torch.tensor([1.0, 0.2, -0.5, 0.4], dtype=torch.float64), -1)


def expected_gradient(estimator: str) -> torch.Tensor:
    """E over actions of d penalty(action) / d logits, the sampling itself not differentiated."""
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(-1)
    penalty = ANCHORS["reverse_kl"](logp, REFERENCE, estimator=estimator)
    (logp.detach().exp() * penalty).sum().backward()
    return logits.grad


def gradient_of(value) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    value(logits.log_softmax(-1)).backward()
    return logits.grad


def reverse_kl(logp):
    return (logp.exp() * (logp - REFERENCE)).sum()


def forward_kl(logp):
    return (REFERENCE.exp() * (REFERENCE - logp)).sum()


def test_k1_as_a_loss_has_mean_gradient_zero():
    assert expected_gradient("k1").abs().max() < 1e-12


def test_k2_as_a_loss_has_the_reverse_kl_gradient():
    torch.testing.assert_close(expected_gradient("k2"), gradient_of(reverse_kl))


def test_k3_as_a_loss_has_the_forward_kl_gradient():
    torch.testing.assert_close(expected_gradient("k3"), gradient_of(forward_kl))
    assert not torch.allclose(gradient_of(forward_kl), gradient_of(reverse_kl), atol=1e-2)


def test_the_shown_value_is_the_reverse_kl_without_bias():
    logp = LOGITS.log_softmax(-1)
    values = kl_value(logp, REFERENCE)
    assert (logp.exp() * values).sum() == pytest.approx(reverse_kl(logp).item(), abs=1e-12)


def test_k3_is_never_negative_and_k1_can_be():
    logp = LOGITS.log_softmax(-1)
    assert (ANCHORS["reverse_kl"](logp, REFERENCE, estimator="k3") >= 0).all()
    assert (ANCHORS["reverse_kl"](logp, REFERENCE, estimator="k1") < 0).any()


def test_sign_and_direction_errors_of_published_code_are_not_ours():
    """Published slips: k1 with the wrong sign, k3 with policy and reference exchanged."""
    logp = LOGITS.log_softmax(-1)
    true = reverse_kl(logp).item()
    means = {
        name: (logp.exp() * ANCHORS["reverse_kl"](logp, REFERENCE, estimator=name)).sum().item()
        for name in ("k1", "k2", "k3")
    }
    assert means["k1"] == pytest.approx(true, abs=1e-12)
    assert means["k3"] == pytest.approx(true, abs=1e-12)
    assert abs(means["k2"] - true) > 0.01  # k2's value is biased; only its gradient is right
    wrong = ANCHORS["reverse_kl"](REFERENCE, logp, estimator="k3")
    exchanged = (logp.exp() * wrong).sum().item()
    assert abs(exchanged - true) > 0.01


def test_none_adds_nothing_and_the_policy_at_its_reference_pays_nothing():
    logp = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ANCHORS["none"](logp, torch.tensor([[-3.0, -1.0]])).sum().backward()
    assert torch.equal(logp.grad, torch.zeros(1, 2))
    for estimator in ("k1", "k2", "k3"):
        same = ANCHORS["reverse_kl"](logp, logp.detach(), estimator=estimator)
        assert torch.equal(same, torch.zeros(1, 2))
