"""From prompts to advantages: what is weighed, what is handed on, what is refused."""

from types import SimpleNamespace

import pytest
import torch

from workbench import devices, scoring
from workbench.objectives import OBJECTIVES
from workbench.recipe import Recipe
from workbench.rewards.verifiable import Detailed
from workbench.rollout import sample
from workbench.scoring import (
    Scored,
    advantages,
    check_judge,
    lowest_where,
    score,
    standardised,
    total_reward,
    weighted_sum,
)
from workbench.tasks import make_task
from workbench.variants import Variant, WorkbenchError


def test_the_total_is_the_weighted_sum_and_weight_0_stays_out():
    rewards = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[float("nan"), 1.0]])}
    total = weighted_sum(rewards | {"c": torch.ones(1, 2)}, {"a": 2.0, "b": 0.0, "c": -0.5})
    assert total.tolist() == [[1.5, 3.5]]


def test_a_standardised_reward_is_counted_in_standard_deviations_of_its_group():
    values = torch.tensor([[1.0, 3.0, 1.0, 3.0], [0.0, 0.0, 0.0, 4.0]])
    root = 3**0.5  # mean 1, variance (3 + 9) / 4
    wanted = torch.tensor([[-1.0, 1.0, -1.0, 1.0], [-1 / root, -1 / root, -1 / root, root]])
    torch.testing.assert_close(standardised(values, 0.0), wanted)
    assert standardised(values, 1.0)[0].tolist() == wanted[0].tolist()  # at the floor it counts
    assert standardised(values, 1.1)[0].tolist() == [0.0] * 4  # below it no more
    torch.testing.assert_close(standardised(values, 1.1)[1], wanted[1])


def test_equal_rewards_are_0_even_where_rounding_parts_them():
    values = torch.tensor([[0.1, 0.1], [1e4, 1e4 * (1 + 1e-7)], [-5.0, -5.0]])
    assert not standardised(values, 0.0).any()
    assert not standardised(torch.ones(2, 1), 0.0).any()


def test_standardised_rewards_are_weighed_after_so_that_units_do_not_count():
    rewards = {
        "correct": torch.tensor([[0.0, 1.0, 0.0, 1.0]]),
        "ent": torch.tensor([[-100.0, -300.0, -300.0, -100.0]]),
    }
    settings = {"rewards": {"correct": 1.0, "ent": 0.5}, "group_size": 4}
    cut = torch.zeros(4, dtype=torch.bool)
    plain = total_reward(Recipe(**settings), rewards, cut)
    assert plain.tolist() == [[-50.0, -149.0, -150.0, -49.0]]
    recipe = Recipe(**settings, standardise="group")
    wanted = torch.tensor([[-0.5, 0.5, -1.5, 1.5]])
    torch.testing.assert_close(total_reward(recipe, rewards, cut), wanted)
    floored = recipe.replace(reward_floor=0.6)  # correct has a deviation of 1/2, ent one of 100
    wanted = torch.tensor([[0.5, -0.5, -0.5, 0.5]])
    torch.testing.assert_close(total_reward(floored, rewards, cut), wanted)


def test_a_completion_that_was_cut_off_may_get_the_lowest_total_of_its_group():
    rewards = {"collision": torch.tensor([[9.0, 2.0, 4.0], [1.0, 8.0, 8.0]])}
    cut = torch.tensor([True, False, False, False, True, False])
    recipe = Recipe(rewards={"collision": 1.0}, group_size=3)
    assert total_reward(recipe, rewards, cut).tolist() == rewards["collision"].tolist()
    lowest = recipe.replace(truncated="lowest")
    assert total_reward(lowest, rewards, cut).tolist() == [[2.0, 2.0, 4.0], [1.0, 1.0, 8.0]]
    negative = lowest.replace(rewards={"collision": -1.0})
    assert total_reward(negative, rewards, cut)[0].tolist() == [-9.0, -2.0, -4.0]


def test_a_group_whose_total_spreads_less_than_the_floor_teaches_nothing():
    total = torch.tensor([[1.0, 1.0], [1.0, 1.2], [0.0, 1.0]])  # deviations 0, 0.1 and 0.5
    recipe = Recipe(objective="reinforce", group_size=2)
    assert torch.equal(advantages(recipe, {}, None, total)[0], total)  # a floor of 0 masks nothing
    floored, _ = advantages(recipe.replace(reward_floor=0.3), {}, None, total)
    assert floored.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    own = recipe.replace(reward_floor=0.3, standardise="group")  # there each reward had its floor
    assert torch.equal(advantages(own, {}, None, total)[0], total)


def seen(rollouts, task):
    """The number of completions that a reward sees, plus the completion's own place."""
    places = torch.arange(rollouts.G).expand(rollouts.P, rollouts.G)
    return 10.0 * rollouts.G + places


def test_extra_votes_are_seen_by_rewards_and_then_dropped(policy_of):
    task = make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    recipe = Recipe(group_size=3, extra_votes=2, max_new_tokens=4, rewards={seen: 1.0})
    batch = score(policy_of(), task, rows, recipe, {}, seed=4)
    assert (batch.rollouts.P, batch.rollouts.G, batch.rollouts.B) == (2, 3, 6)
    assert batch.rewards["seen"].tolist() == [[50.0, 51.0, 52.0]] * 2
    assert batch.advantages_PG.tolist() == [[-1.5, 0.0, 1.5]] * 2


def telling(rollouts, task):
    lines = [f"{b // rollouts.G}/{b % rollouts.G}" for b in range(rollouts.B)]
    return Detailed(seen(rollouts, task), {"votes": rollouts.G}, lines)


def test_what_rewards_tell_goes_along_and_the_notes_of_extra_votes_are_dropped(policy_of):
    task = make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    recipe = Recipe(
        group_size=2, extra_votes=1, max_new_tokens=4, rewards={telling: 1.0, seen: 0.0}
    )
    batch = score(policy_of(), task, rows, recipe, {}, seed=4)
    assert batch.numbers == {"telling/votes": 3.0}
    assert batch.notes == {"telling": ["0/0", "0/1", "1/0", "1/1"]}


def test_extras_reach_the_rewards_that_ask_for_them(policy_of):
    asked = []

    def needy(rollouts, task, **given):
        asked.append(given)
        return torch.zeros(rollouts.P, rollouts.G)

    needy.needs = ("judge",)
    task = make_task("countdown")
    recipe = Recipe(group_size=2, max_new_tokens=4, rewards={needy: 1.0, seen: 0.0})
    score(
        policy_of(), task, [task.dataset("train")[0]], recipe, {}, 4, {"judge": "mine", "other": 1}
    )
    score(policy_of(), task, [task.dataset("train")[0]], recipe, {}, 4)
    assert asked == [{"judge": "mine"}, {}]


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


def test_the_mean_log_prob_is_of_the_policys_own_tokens(policy_of):
    seen = {}

    def spy(rewards_PG, *, mean_logprobs_PG):
        seen["mean"] = mean_logprobs_PG
        return rewards_PG

    row = Variant(spy, formula="", source="", needs=("mean_logprobs_PG",))
    logprobs_BT = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -9.0, 0.0]])
    sampled_BT = torch.tensor([[True, True, False], [True, False, False]])
    rollouts = SimpleNamespace(logprobs_BT=logprobs_BT, sampled_BT=sampled_BT)
    advantages(Recipe(objective=row), {}, rollouts, torch.zeros(1, 2))
    assert seen["mean"].tolist() == [[-1.5, -3.0]]


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


def own_length(rollouts, task):
    """Tokens of the completion: answers to one thought differ in them."""
    return rollouts.lengths_B.view(rollouts.P, rollouts.G).float()


def some_thoughts_close(policy, task, rows):
    """Let a token that the toy model draws often be `</think>`."""
    messages = [task.messages(row) for row in rows]
    drawn = sample(policy, messages, group_size=50, max_new_tokens=3, seed=1)
    common = int(torch.bincount(drawn.completion_ids_BT.flatten()).argmax())
    policy.thought_end_id = lambda: common


@pytest.mark.parametrize("answerer", ["policy", "initial"])
def test_several_answers_to_a_thought_are_sampled_and_compared_as_such(policy_of, answerer):
    policy, task = policy_of(), make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    some_thoughts_close(policy, task, rows)
    recipe = Recipe(
        group_size=6,
        answers_per_thought=2,
        answerer=answerer,
        max_new_tokens=10,
        objective="rloo",
        rewards={own_length: 1.0},
    )
    batch = score(policy, task, rows, recipe, {}, seed=4)
    assert (batch.rollouts.P, batch.rollouts.G) == (2, 6)
    assert torch.equal(batch.advantages_PG, OBJECTIVES["rloo"](batch.total_PG))
    values_PK = batch.total_PG.view(2, 3, 2).mean(-1)
    wanted = OBJECTIVES["rloo"](values_PK).repeat_interleave(2, 1)
    torch.testing.assert_close(batch.thought_advantages_PG, wanted)
    frozen_BT = batch.rollouts.mask_BT & ~batch.rollouts.sampled_BT
    assert bool(frozen_BT.any()) == (answerer == "initial")
    for b in range(0, 12, 2):  # two rows of one thought begin alike, up to where the answers do
        pair = batch.rollouts.completion_ids_BT[b : b + 2].tolist()
        close = policy.thought_end_id()
        if close in pair[0]:
            length = pair[0].index(close) + 1
            assert pair[0][:length] == pair[1][:length]
    floored = recipe.replace(reward_floor=1e6)
    both = score(policy, task, rows, floored, {}, seed=4)
    assert not both.advantages_PG.any() and not both.thought_advantages_PG.any()


def test_one_answer_by_the_policy_is_sampled_as_ever(policy_of):
    policy, task = policy_of(), make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    recipe = Recipe(group_size=3, max_new_tokens=6, top_k=5)
    batch = score(policy, task, rows, recipe, {}, seed=4)
    messages = [task.messages(row) for row in rows]
    plain = sample(policy, messages, group_size=3, max_new_tokens=6, top_k=5, seed=4)
    assert torch.equal(batch.rollouts.logprobs_BT, plain.logprobs_BT)
    assert torch.equal(batch.thought_advantages_PG, batch.advantages_PG)


def test_the_initial_model_may_answer_votes_as_well(policy_of):
    policy, task = policy_of(), make_task("countdown")
    rows = [task.dataset("train")[0]]
    some_thoughts_close(policy, task, rows)
    recipe = Recipe(
        group_size=3, extra_votes=2, answerer="initial", max_new_tokens=6, rewards={seen: 1.0}
    )
    batch = score(policy, task, rows, recipe, {}, seed=4)
    assert batch.rollouts.sampled_BT.shape == batch.rollouts.mask_BT.shape
    assert batch.rollouts.B == 3 and batch.rewards["seen"].tolist() == [[50.0, 51.0, 52.0]]


def test_a_group_is_dead_only_where_neither_part_has_an_advantage(policy_of):
    none, some = torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert Scored(None, {}, none, none, some, 0.0, 0.0).dead() == [0]
    assert Scored(None, {}, none, some, none, 0.0, 0.0).dead() == [0]


def test_the_lowest_of_the_group_goes_to_those_marked():
    total_PG = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    bad_B = torch.tensor([True, False, False, False, True, True])
    assert lowest_where(bad_B, total_PG).tolist() == [[1.0, 1.0, 2.0], [0.0, 0.0, 0.0]]


def test_malformed_completions_get_the_lowest_total_where_parts_are_trained_apart(policy_of):
    """Random completions of four tokens: none of them is a thought with an answer."""
    task = make_task("countdown")
    rows = [task.dataset("train")[i] for i in range(2)]
    recipe = Recipe(group_size=3, extra_votes=1, max_new_tokens=4, rewards={seen: 1.0})
    joint = score(policy_of(), task, rows, recipe, {}, seed=4)
    apart = score(policy_of(), task, rows, recipe.replace(separation="start"), {}, seed=4)
    assert joint.total_PG.tolist() == [[40.0, 41.0, 42.0]] * 2
    assert apart.total_PG.tolist() == [[40.0] * 3] * 2
    assert torch.equal(joint.rewards["seen"], apart.rewards["seen"])


def test_a_reward_model_that_is_not_there_is_refused_before_a_step():
    recipe = Recipe(rewards={"learned": 1.0})
    check_judge(recipe)
    check_judge(recipe.replace(reward_args={"learned": {"reward_model": "owner/name"}}))
    wrong = recipe.replace(reward_args={"learned": {"reward_model": "reward-shortcutt"}})
    with pytest.raises(WorkbenchError, match="Did you mean 'reward-shortcut'"):
        check_judge(wrong)
    check_judge(wrong.replace(rewards={"correct": 1.0}))


def test_a_constraint_model_that_is_not_there_is_refused_before_a_step():
    recipe = Recipe(task="instructions", rewards={"constraints": 1.0})
    check_judge(recipe)  # its own is trained in the run
    check_judge(recipe.replace(reward_args={"constraints": {"reward_model": "owner/name"}}))
    wrong = recipe.replace(reward_args={"constraints": {"reward_model": "mine"}})
    with pytest.raises(
        WorkbenchError, match="no constraint reward model 'mine'; give 'own', the folder"
    ):
        check_judge(wrong)


def test_objectives_count_where_there_is_fp64_and_advantages_come_back(monkeypatch):
    """A stand-in for Apple's GPUs: work is done on a device that is not the rewards' own."""
    assert devices.exact_device(torch.device("mps")) == torch.device("cpu")
    assert devices.exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    seen = []

    def noting(rewards_PG):
        seen.append(rewards_PG.device.type)
        return torch.tensor([[0.5, -0.5]])

    monkeypatch.setattr(scoring, "exact_device", lambda device: torch.device("meta"))
    recipe = Recipe(objective=noting, group_size=2)
    found = scoring.advantages(recipe, {}, None, torch.tensor([[1.0, 0.0]]))
    assert set(seen) == {"meta"}
    assert [part.device.type for part in found] == ["cpu", "cpu"]
    assert found[0].tolist() == [[0.5, -0.5]]
