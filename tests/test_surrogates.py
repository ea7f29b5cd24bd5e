"""Token losses by hand, their gradients, and the weights of each aggregation."""

import pytest
import torch

from workbench.surrogates import AGGREGATIONS, SURROGATES

OLD = torch.tensor([[-1.0, -2.0]])


def gradient(name, logprobs, advantage, **params):
    logprobs = torch.tensor([logprobs], requires_grad=True)
    loss = SURROGATES[name](logprobs, OLD, torch.tensor([[advantage]]), **params)
    loss.sum().backward()
    return loss.detach()[0].tolist(), logprobs.grad[0].tolist()


def test_reinforce_is_minus_advantage_times_logprob():
    loss, slope = gradient("reinforce", [-1.5, -2.0], 2.0)
    assert loss == [3.0, 4.0]
    assert slope == [-2.0, -2.0]


def test_ppo_clip_on_policy_has_the_policy_gradient():
    loss, slope = gradient("ppo_clip", [-1.0, -2.0], 2.0)
    assert loss == [-2.0, -2.0]  # ratio 1
    assert slope == [-2.0, -2.0]


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "slope"),
    [
        (0.5, 1.0, -1.2, 0.0),  # ratio 1.649 above 1 + 0.2: clipped, no pull
        (-0.5, 1.0, -0.6065307, -0.6065307),  # falling while good: pulled back up
        (-0.5, -1.0, 0.8, 0.0),  # ratio 0.607 below 1 - 0.2: clipped
        (0.5, -1.0, 1.6487213, 1.6487213),  # rising while bad: pulled back down
    ],
)
def test_ppo_clip_stops_only_moves_that_have_gone_far_enough(log_ratio, advantage, loss, slope):
    found, slopes = gradient("ppo_clip", [-1.0 + log_ratio, -2.0], advantage)
    assert found[0] == pytest.approx(loss, abs=1e-6)
    assert slopes[0] == pytest.approx(slope, abs=1e-6)


def test_ppo_clip_takes_two_clip_ranges():
    ratio = [-1.0 + 0.5, -2.0]
    assert gradient("ppo_clip", ratio, 1.0, clip_high=0.7)[1][0] == pytest.approx(-1.6487213)
    assert gradient("ppo_clip", ratio, 1.0, clip_high=0.1)[0][0] == pytest.approx(-1.1)


MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sum", [1 / 3, 1 / 3, 1 / 3]),
        ("sequence_mean", [1 / 6, 1 / 3, 1 / 9]),  # 1 / (3 completions * own length)
        ("token_mean", [1 / 6, 1 / 6, 1 / 6]),  # six tokens in all
        ("fixed_length", [1 / 12, 1 / 12, 1 / 12]),  # 3 completions * 4
    ],
)
def test_aggregation_weights_by_hand(name, rows):
    weights_BT = AGGREGATIONS[name](MASK, 4)
    torch.testing.assert_close(weights_BT, MASK * torch.tensor(rows)[:, None])


def test_an_empty_completion_gets_no_weight_and_no_nan():
    for row in AGGREGATIONS.values():
        assert torch.equal(row(torch.zeros(2, 3), 3), torch.zeros(2, 3))
