"""Advantages from tables over K, and rewards between 0 and 1 as chances: all coins enumerated."""

import itertools

import numpy as np
import pytest
import torch

from workbench.bernstein import gamma_ratio
from workbench.counting import check_unit, counted, weighted
from workbench.variants import WorkbenchError

SUCCESS = np.array([0.0, 3.0, 2.0, 0.5])  # K = 0..3
FAILURE = np.array([-1.0, -0.7, 0.4, 0.0])


def test_each_rollout_looks_up_its_outcome_and_its_groups_count():
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0] * 3, [1.0] * 3])
    expected = [[3.0, -0.7, -0.7], [2.0, 0.4, 2.0], [-1.0] * 3, [0.5] * 3]
    torch.testing.assert_close(counted(rewards_PG, SUCCESS, FAILURE), torch.tensor(expected))


def mean_over_coins(chances_PG):
    """E over independent coins of the advantages of 0/1 rewards."""
    total_PG = torch.zeros_like(chances_PG)
    for coins in itertools.product([0.0, 1.0], repeat=chances_PG.shape[1]):
        coins_PG = torch.tensor([coins], dtype=chances_PG.dtype).expand_as(chances_PG)
        chance_P = (coins_PG * chances_PG + (1 - coins_PG) * (1 - chances_PG)).prod(-1)
        total_PG += chance_P[:, None] * counted(coins_PG, SUCCESS, FAILURE)
    return total_PG


def test_a_reward_between_is_a_chance_and_the_advantage_its_mean_over_coins():
    chances_PG = torch.tensor([[0.2, 0.9, 0.5], [1.0, 0.0, 0.3]], dtype=torch.float64)
    found_PG = counted(chances_PG, SUCCESS, FAILURE)
    torch.testing.assert_close(found_PG, mean_over_coins(chances_PG), atol=1e-12, rtol=0)


def test_the_coins_mean_goes_over_into_the_table_at_0_and_1():
    hard_PG = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    nearly_PG = hard_PG.clamp(1e-9, 1 - 1e-9)
    torch.testing.assert_close(
        counted(nearly_PG, SUCCESS, FAILURE), counted(hard_PG, SUCCESS, FAILURE), atol=1e-7, rtol=0
    )


def test_three_estimators_of_one_weight_by_hand():
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0] * 4])  # K = 2 of 4

    def ml(n):  # alpha 1: beta_m = n / (m + 1)
        return gamma_ratio(n, 1.0)

    direct_PG = weighted(rewards_PG, ml, "direct", 1.0)
    torch.testing.assert_close(direct_PG, torch.tensor([[2.0, 0, 0, 2], [0.0] * 4]))
    baseline_PG = weighted(rewards_PG, ml, "score_baseline", 0.25)
    torch.testing.assert_close(baseline_PG, direct_PG - 0.25)
    # RLOO gives 4/3 (1 - 1/2) = 2/3; the family of n = 3 has beta_1 = 3/2: together 1
    zero_PG = weighted(rewards_PG, ml, "zero_sum", 1.0)
    torch.testing.assert_close(zero_PG, torch.tensor([[1.0, -1, -1, 1], [0.0] * 4]))


def test_zero_sum_advantages_sum_to_zero_and_equal_rewards_get_exactly_zero():
    rewards_PG = torch.tensor([[0.2, 0.9, 0.4, 0.0], [0.1] * 4, [0.7] * 4])
    found_PG = weighted(rewards_PG, lambda n: gamma_ratio(n, 1.6), "zero_sum", 1.0)
    assert found_PG.sum(-1).abs().max() < 1e-6
    assert found_PG[0].abs().max() > 0.1
    assert torch.equal(found_PG[1:], torch.zeros(2, 4))


def test_rewards_outside_0_to_1_are_refused_with_a_way_out():
    check_unit(torch.tensor([[1.000001, -0.000001]]))  # rounding of a weighted sum
    for wrong in (-0.5, 1.2):
        with pytest.raises(WorkbenchError, match="between 0 and 1.*sum to 1, or choose 'rloo'"):
            counted(torch.tensor([[1.0, wrong, 0.0]]), SUCCESS, FAILURE)
