"""Choices of a recipe that don't go together are refused in a sentence."""

import pytest

from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def shout(rollouts, task):
    """A reward of one's own."""


def test_an_objective_that_counts_refuses_weights_that_leave_its_range():
    for rewards in ({"correct": 1.0, "length": 0.2}, {"correct": 1.0, "length": -0.1}):
        with pytest.raises(
            WorkbenchError, match="takes total rewards from 0 to 1, but.*choose 'rloo'"
        ):
            Recipe(objective="rl2ml", rewards=rewards)
    with pytest.raises(WorkbenchError, match="'maxrl' takes total rewards from 0 upwards"):
        Recipe(objective="maxrl", rewards={"correct": 1.0, "overlong": 1.0})
    Recipe(objective="rl2ml", rewards={"correct": 0.8, "length": 0.2, "overlong": 0.0})
    Recipe(objective="rloo", rewards={"correct": 1.0, "overlong": 1.0})


def test_rewards_without_an_end_go_where_the_objective_takes_any():
    Recipe(objective="rloo", rewards={"ent": 1.0, "collision": 0.1})
    Recipe(objective="maxrl", rewards={"collision": 1.0, "ent": 0.0})
    with pytest.raises(WorkbenchError, match="'maxrl'.*they go from -inf to 0; change the weights"):
        Recipe(objective="maxrl", rewards={"ent": 1.0})
    with pytest.raises(WorkbenchError, match="'rl2ml'.*they go from 0 to inf"):
        Recipe(objective="rl2ml", rewards={"collision": 1.0})


def test_standardised_rewards_leave_0_to_1():
    """One of five completions apart from the others lies 2 standard deviations from the mean."""
    fields = {"standardise": "group", "group_size": 5, "rewards": {"correct": 1.0, shout: 0.5}}
    Recipe(**fields, objective="grpo")
    with pytest.raises(WorkbenchError, match="standardise='group' they go from -3 to 3; set it to"):
        Recipe(**fields, objective="maxrl")


def test_the_range_of_rewards_of_ones_own_is_not_known():
    def mine(rollouts, task):
        """Anything."""

    Recipe(objective="rl2ml", rewards={mine: 3.0})
    with pytest.raises(
        WorkbenchError, match="go from 0 to 2"
    ):  # an anchor of one's own changes nothing
        Recipe(objective="rl2ml", rewards={"correct": 2.0}, anchor=mine)


def test_a_group_must_be_large_enough_for_the_objectives_parameters():
    with pytest.raises(WorkbenchError, match="group_size is 4.*'pkpo'.*at least 8"):
        Recipe(objective="pkpo", objective_args={"k": 8}, group_size=4)
    with pytest.raises(WorkbenchError, match="group_size is 4.*'bernstein'.*at least 5"):
        Recipe(objective="bernstein", objective_args={"beta": [1, 2, 3, 4]}, group_size=4)
    Recipe(
        objective="bernstein", objective_args={"beta": [1, 2, 3, 4], "estimator": "direct"}, group_size=4
    )  # fmt: skip


def test_a_kl_target_needs_a_beta_to_start_from():
    with pytest.raises(WorkbenchError, match="kl_target moves beta.*more than 0"):
        Recipe(kl_target=0.1)
    assert Recipe(kl_target=0.1, beta=0.01).kl_target == 0.1


def test_a_switch_when_flat_needs_the_score_that_it_watches():
    fields = {"separation": "reversed", "separation_args": {"switch": "flat"}}
    with pytest.raises(
        WorkbenchError, match="'flat' watches eval/post_pre.*cross_samples at least 1"
    ):
        Recipe(**fields)
    assert Recipe(**fields, cross_samples=2).separation == "reversed"


def test_several_answers_need_whole_thoughts_and_enough_of_them():
    recipe = Recipe(group_size=16, answers_per_thought=4, answerer="initial")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(WorkbenchError, match="multiple of it"):
        recipe.replace(answers_per_thought=3)
    with pytest.raises(WorkbenchError, match=r"holds 1 thoughts.*'rloo'.*at least 2.*32 or more"):
        recipe.replace(answers_per_thought=16)
    assert recipe.replace(answers_per_thought=16, objective="reinforce").group_size == 16
    with pytest.raises(WorkbenchError, match="holds 4 thoughts.*'pkpo'.*at least 8"):
        recipe.replace(objective="pkpo")
    with pytest.raises(WorkbenchError, match="extra_votes is 2 and answers_per_thought 4"):
        recipe.replace(extra_votes=2)
    assert recipe.replace(answers_per_thought=1, extra_votes=2).answerer == "initial"
    with pytest.raises(WorkbenchError, match="answerer"):
        recipe.replace(answerer="somebody")


@pytest.mark.parametrize("separation", ["answer_only", "reversed"])
def test_what_begins_with_the_answers_needs_the_policy_to_give_them(separation):
    with pytest.raises(WorkbenchError, match="begins with the answers.*another separation"):
        Recipe(separation=separation, answerer="initial")
    assert Recipe(separation="start", answerer="initial").answerer == "initial"


def test_crossing_needs_somebody_to_judge(tmp_path):
    source = tmp_path / "asked.jsonl"
    source.write_text("".join(f'{{"question": "{n}?"}}\n' for n in range(9)))
    fields = {"task": "questions", "task_args": {"source": str(source)}, "cross_samples": 1}
    with pytest.raises(WorkbenchError, match="'questions' knows no right answers to judge by"):
        Recipe(**fields, rewards={"length": 1.0, "learned": 0.0})
    assert Recipe(**fields, rewards={"learned": 1.0}).cross_samples == 1


def test_constraints_and_their_curricula_need_a_task_that_has_some():
    with pytest.raises(
        WorkbenchError, match="'constraints' counts constraints, but the task 'countdown' has"
    ):
        Recipe(rewards={"constraints": 1.0})
    with pytest.raises(
        WorkbenchError, match="curriculum 'staged' goes by the number of constraints"
    ):
        Recipe(curriculum="staged")
    recipe = Recipe(task="instructions", rewards={"constraints": 1.0}, curriculum="full")
    assert recipe.replace(objective="maxrl").objective == "maxrl"  # values are from 0 to 1
    with pytest.raises(WorkbenchError, match="curriculum 'full'"):
        recipe.replace(task="countdown", rewards={"correct": 1.0})
    with pytest.raises(WorkbenchError, match="Unknown curriculum 'stagd'|curriculum.*'staged'"):
        recipe.replace(curriculum="stagd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scorer": "rule"}, "Unknown constraints.scorer 'rule'.*Did you mean 'rules'"),
        ({"aggregation": "max"}, "Unknown constraints.aggregation 'max'"),
        ({"refresh_every": -1}, "constraints.refresh_every is -1; give 0 to 100000"),
        ({"reward_model": ""}, "constraints.reward_model is ''; give a text"),
        ({"constraint_model": "x"}, "Unknown parameter of constraints 'constraint_model'"),
    ],
)
def test_wrong_parameters_of_the_reward_of_constraints_are_named(arguments, message):
    with pytest.raises(WorkbenchError, match=message):
        Recipe(
            task="instructions",
            rewards={"constraints": 1.0},
            reward_args={"constraints": arguments},
        )


def test_a_file_without_truth_is_trained_on_by_constraints_and_not_by_correctness(tmp_path):
    fields = {"task": "instructions", "task_args": {"source": str(tmp_path / "rows.jsonl")}}
    with pytest.raises(WorkbenchError, match="knows no right answers to these questions"):
        Recipe(**fields, rewards={"constraints": 1.0, "correct": 0.0})
    assert Recipe(**fields, rewards={"constraints": 1.0}).task == "instructions"
    checked = {"source": str(tmp_path / "rows.jsonl"), "checked": True}
    assert Recipe(task="instructions", task_args=checked, rewards={"correct": 1.0}).steps


@pytest.mark.parametrize(
    "fields",
    [
        {"separation": "start"},
        {"answerer": "initial"},
        {"answers_per_thought": 2},
        {"cross_samples": 1},
    ],
)
def test_what_needs_thoughts_is_refused_without_them(fields):
    Recipe(**fields, thinking="on")
    (name,) = fields
    with pytest.raises(
        WorkbenchError, match=f"thinking is 'off', but {name} .* needs thoughts; set"
    ):
        Recipe(**fields, thinking="off")


def test_stop_texts_go_with_whole_completions_only():
    Recipe(stop="Question:")
    with pytest.raises(WorkbenchError, match="stop ends whole completions"):
        Recipe(stop="Question:", answers_per_thought=2)
    with pytest.raises(WorkbenchError, match="JSON list"):
        Recipe(stop="[Question:")
