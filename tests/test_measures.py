"""The numbers of a batch, by hand."""

from types import SimpleNamespace

import pytest
import torch

from workbench.measures import (
    group_measures,
    masked_mean,
    rollout_measures,
    separation_measures,
    successes,
)
from workbench.recipe import Recipe
from workbench.scoring import Scored
from workbench.separating import Separated


def batch():
    mask_BT = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    rollouts = SimpleNamespace(
        P=2,
        G=2,
        mask_BT=mask_BT,
        sampled_BT=mask_BT,
        lengths_B=mask_BT.sum(1),
        truncated_B=torch.tensor([False, False, True, False]),
        entropies_BT=torch.tensor([[1.0, 2, 9], [3, 9, 9], [0, 0, 0], [2, 0, 9]]),
    )
    rewards = {"correct": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "length": torch.full((2, 2), 0.5)}
    advantages_PG = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    return Scored(rollouts, rewards, rewards["correct"], advantages_PG, advantages_PG, 0.0, 0.0)


def test_groups_are_measured_by_hand():
    assert group_measures(batch()) == {
        "groups/zero_signal": 0.5,
        "groups/solved_all": 0.0,
        "groups/solved_none": 0.5,
    }
    assert successes(batch()) == [1, 0]


def test_rollouts_are_measured_by_hand():
    found = rollout_measures(batch())
    assert found["reward/correct"] == 0.25 and found["reward/length"] == 0.5
    assert found["reward/total"] == 0.25
    assert found["reward_std/correct"] == found["reward_std/total"] == 0.25  # (1/2 + 0) / 2
    assert found["reward_std/length"] == 0.0
    assert found["groups/update_scale"] == 0.25  # (1 * 1 / 2 + 0) / 2 groups
    assert found["groups/advantage"] == 0.5
    assert found["rollout/length"] == 2.0 and found["rollout/tokens"] == 8.0
    assert found["rollout/truncated"] == 0.25
    assert found["train/entropy"] == pytest.approx((1 + 2 + 3 + 0 + 2) / 8)


def test_the_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)) == 0.0


def test_what_a_stage_trains_is_shown_with_its_share_of_tokens_and_the_malformed():
    mask_BT = torch.ones(2, 4, dtype=torch.bool)
    trained_BT = torch.tensor([[True, True, False, False], [True, False, False, False]])
    parts = Separated(trained_BT, trained_BT, torch.tensor([True, False]))
    assert separation_measures(Recipe(separation="start"), False, parts, mask_BT) == {
        "train/trains_thinking": 1.0,
        "train/trains_answer": 0.0,
        "train/trained_share": 0.375,
        "rollout/malformed": 0.5,
    }
    frozen = separation_measures(Recipe(answerer="initial"), False, parts, mask_BT)
    assert (frozen["train/trains_thinking"], frozen["train/trains_answer"]) == (1.0, 0.0)
    unknown = Separated(torch.zeros_like(mask_BT), mask_BT, None)
    assert separation_measures(Recipe(), False, unknown, mask_BT) == {
        "train/trains_thinking": 1.0, "train/trains_answer": 1.0, "train/trained_share": 1.0
    }  # fmt: skip
