"""From prompts to advantages: what is weighed, what is handed on, what is refused."""

import pytest
import torch

from workbench.objectives import OBJECTIVES
from workbench.recipe import Recipe
from workbench.scoring import advantages, score, weighted_sum
from workbench.tasks import make_task
from workbench.variants import WorkbenchError


def test_the_total_is_the_weighted_sum_and_weight_0_stays_out():
    rewards = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[float("nan"), 1.0]])}
    total = weighted_sum(rewards | {"c": torch.ones(1, 2)}, {"a": 2.0, "b": 0.0, "c": -0.5})
    assert total.tolist() == [[1.5, 3.5]]


def test_a_batch_is_scored_from_prompts_to_advantages(policy_of):
    task = make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    recipe = Recipe(
        group_size=3,
        max_new_tokens=8,
        objective="reinforce",
        rewards={"length": 1.0, "correct": 0.0},
    )
    batch = score(policy_of(), task, rows, recipe, {}, seed=4)
    assert (batch.rollouts.P, batch.rollouts.G) == (2, 3)
    assert set(batch.rewards) == {"length", "correct"}
    assert torch.equal(batch.advantages_PG, batch.rewards["length"])
    assert batch.sample_seconds > 0 and batch.reward_seconds > 0


def test_differential_smoothing_gets_the_mean_log_prob_of_each_rollout(policy_of):
    task = make_task("countdown")
    rows = [task.dataset("train")[0]]
    recipe = Recipe(group_size=4, max_new_tokens=8, objective="differential_smoothing")
    batch = score(policy_of(), task, rows, recipe, {}, seed=4)
    rollouts = batch.rollouts
    mean_PG = torch.stack(
        [row[mask].mean() for row, mask in zip(rollouts.logprobs_BT, rollouts.mask_BT, strict=True)]
    ).view(1, 4)
    expected = OBJECTIVES["differential_smoothing"](batch.total_PG, mean_logprobs_PG=mean_PG)
    torch.testing.assert_close(batch.advantages_PG, expected)
    assert mean_PG.std() > 0.01


def misshapen(rewards_PG):
    return rewards_PG.mean(-1)


def test_an_objective_of_the_wrong_shape_is_named():
    recipe = Recipe(objective=misshapen)
    with pytest.raises(WorkbenchError, match=r"returned shape \(2,\); return one.*\(2, 3\)"):
        advantages(recipe, {}, None, torch.ones(2, 3))


def test_dead_groups_are_those_without_any_advantage(policy_of):
    task = make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    recipe = Recipe(group_size=2, max_new_tokens=4, objective="rloo")
    batch = score(policy_of(), task, rows, recipe, {}, seed=4)
    assert batch.dead() == [
        p for p in range(2) if torch.equal(batch.advantages_PG[p], torch.zeros(2))
    ]
