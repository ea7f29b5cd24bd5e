"""Guides against numbers worked by hand and the released schedule's values."""

import math

import pytest
import torch

from workbench import guides

ALL = torch.ones(1, 4, dtype=torch.bool)
PART = torch.tensor([[True, True, True, False]])


def test_branch_rises_with_entropy_above_its_threshold():
    entropies = torch.tensor([[0.0, 1.2, 1.5, 2.0, 2.5333334, 9.0]])
    q = guides.branch(entropies, torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(q, torch.tensor([[1.0, 1.0, 1.09, 1.24, 1.4, 1.4]]))
    other = guides.branch(entropies, torch.ones(1, 6, dtype=torch.bool), threshold=0.2, ratio=0.1)
    torch.testing.assert_close(other, torch.tensor([[1.0, 1.1, 1.13, 1.18, 1.2333333, 1.4]]))


def test_the_schedule_has_the_released_values():
    """sage.md 3.4, token's alpha over 1000 steps: the released counter is from 0, ours from 1."""
    expected = {0: 0.3, 62: 0.201, 124: 0.1, 125: 0.27, 500: 0.197, 875: 0.143, 999: 0.1}
    for counter, value in expected.items():
        found = guides.schedule(0.3, 0.1, counter + 1, 1000)
        assert found == pytest.approx(value, abs=6e-4), counter


def test_the_schedule_lowers_its_height_seven_times_at_most():
    for cycle, height in ((0, 1.0), (3, 0.9**3), (7, 0.9**7), (8, 0.9**7), (20, 0.9**7)):
        assert guides.schedule(1.0, 0.0, 1 + 125 * cycle, 1000) == pytest.approx(height)
    assert guides.schedule(1.0, 0.0, 1, 3) == 1.0  # fewer steps than cycles
    assert guides.schedule(1.0, 0.0, 3, 3) == pytest.approx(0.81)


def test_token_follows_surprisal_and_adds_noise_in_its_proportion():
    logprobs = -torch.tensor([[1.0, 3.0, 2.0, 9.0]])
    quiet = guides.token(logprobs, PART, torch.zeros(1, 4), 1, 1000, normalise="rank")
    torch.testing.assert_close(quiet, torch.tensor([[1.0, 1.3, 1.15, 1.0]]))
    noise = torch.tensor([[1.0, 0.2, -1.0, 5.0]])
    noisy = guides.token(logprobs, PART, noise, 1, 1000, normalise="rank")
    torch.testing.assert_close(noisy, torch.tensor([[1.0, 1.35, 1.025, 1.0]]))
    late = guides.token(logprobs, PART, torch.zeros(1, 4), 125, 1000, normalise="rank")
    torch.testing.assert_close(late, torch.tensor([[1.0, 1.1, 1.05, 1.0]]), atol=1e-4, rtol=0)


def test_random_moves_a_scheduled_share_of_tokens():
    uniform = torch.tensor([[0.09, 0.11, 0.02, 0.01]])
    noise = torch.tensor([[1.0, 1.0, -9.0, 2.0]])
    q = guides.random(uniform, ALL, noise, 1, 1000)
    torch.testing.assert_close(q, torch.tensor([[1.15, 1.0, 0.6, 1.3]]))
    assert torch.equal(guides.random(uniform, ALL, noise, 125, 1000), torch.ones(1, 4))
    torch.manual_seed(0)
    many, mask = torch.rand(1, 20_000), torch.ones(1, 20_000, dtype=torch.bool)
    drawn = guides.random(many, mask, torch.randn(1, 20_000), 1, 1000)
    assert (drawn != 1).float().mean() == pytest.approx(0.1, abs=0.01)
    assert drawn.mean() == pytest.approx(1.0, abs=0.002)


def test_surprisals_are_cut_at_their_quantiles_before_scaling():
    values = torch.arange(101.0).view(1, -1)  # quantiles 5 and 95
    found = guides.minmax(values, torch.ones(1, 101, dtype=torch.bool))
    expected = ((values - 5) / 90).clamp(0, 1)
    torch.testing.assert_close(found, expected)
    padded = torch.cat((values, torch.full((1, 7), 1e6)), 1)
    mask = torch.arange(108).view(1, -1) < 101
    torch.testing.assert_close(guides.minmax(padded, mask)[:, :101], expected)


def test_ranks_and_z_scores_are_taken_within_a_completion():
    values = torch.tensor([[2.0, 8.0, 5.0, -7.0], [1.0, 1.0, 1.0, 1.0]])
    mask = torch.cat((PART, ALL))
    found = guides.rank(values, mask)
    torch.testing.assert_close(found[0, :3], torch.tensor([0.0, 1.0, 0.5]))
    assert found[1].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    scores = guides.zscore(values, mask)
    z = math.sqrt(1.5)  # 3 / sqrt(6)
    assert scores[0, :3].tolist() == pytest.approx(
        [1 / (1 + math.exp(z)), 1 / (1 + math.exp(-z)), 0.5]
    )
    assert scores[1].tolist() == [0.5] * 4


@pytest.mark.parametrize("normalise", list(guides.NORMALISERS))
def test_one_token_and_no_token_give_finite_factors(normalise):
    mask = torch.tensor([[True, False], [False, False]])
    q = guides.token(-torch.rand(2, 2), mask, torch.zeros(2, 2), 1, 8, normalise=normalise)
    assert torch.isfinite(q).all()
    assert q[0, 1] == 1 and (q[1] == 1).all()


@pytest.mark.parametrize("normalise", list(guides.NORMALISERS))
def test_padding_does_not_move_the_factors_of_a_completion(normalise):
    torch.manual_seed(1)
    logprobs, normal = -torch.rand(3, 6) * 5, torch.randn(3, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    plain = guides.token(logprobs, mask, normal, 3, 80, normalise=normalise)
    longer = guides.token(
        torch.cat((logprobs, torch.zeros(3, 2)), 1),
        torch.cat((mask, torch.zeros(3, 2, dtype=torch.bool)), 1),
        torch.cat((normal, torch.randn(3, 2)), 1),
        3,
        80,
        normalise=normalise,
    )
    torch.testing.assert_close(longer[:, :6], plain)
    assert (longer[:, 6:] == 1).all()


def test_factors_stay_in_their_bounds_and_carry_no_gradient():
    torch.manual_seed(2)
    logprobs = (-torch.rand(4, 50) * 6).requires_grad_()
    normal, uniform = 20 * torch.randn(4, 50), torch.rand(4, 50) / 50
    mask = torch.ones(4, 50, dtype=torch.bool)
    for q in (
        guides.token(logprobs, mask, normal, 1, 8, low=0.8, high=1.1),
        guides.random(uniform, mask, normal, 1, 8, low=0.8, high=1.1),
        guides.branch(logprobs.exp() * 9, mask, low=0.8, high=1.1),
    ):
        assert not q.requires_grad
        assert q.min() >= 0.8 and q.max() <= 1.1 and q.max() > 1.0
