"""Recipes: what they refuse and how, and that they survive YAML, links and code."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from workbench.recipe import FIELDS, LIVE, TABLES, Recipe
from workbench.variants import WorkbenchError


def shout(rollouts, task):
    """A reward of one's own."""


CHANGED = Recipe(
    task="arithmetic",
    objective="grpo",
    objective_args={"std": "population"},
    rewards={"correct": 1.0, "length": 0.25, "cre": 0.1},
    reward_args={"cre": {"order": "inf"}},
    standardise="group",
    beta=0.05,
    anchor_args={"estimator": "k3"},
    learning_rate=5e-4,
    probe_every=5,
    probe_samples=4,
    seed=7,
    name="naïve",
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "rlo"}, "Unknown objective 'rlo'; allowed: .*Did you mean 'rloo'?"),
        ({"anchor": "kl"}, "Unknown anchor 'kl'; allowed: none, reverse_kl"),
        ({"surrogate": "ppo"}, "Unknown surrogate 'ppo'; allowed: reinforce, ppo_clip."),
        ({"aggregation": "mean"}, "Unknown aggregation 'mean'.*Did you mean 'token_mean'?"),
        ({"task": "count-down"}, "Unknown task 'count-down'.*Did you mean 'countdown'?"),
        ({"task_args": {"number": 4}}, "of countdown 'number'.*Did you mean 'numbers'?"),
        ({"rewards": {"corect": 1}}, "Unknown reward 'corect'.*Did you mean 'correct'?"),
        ({"rewards": {"correct": 0.0}}, "All reward weights are 0; give at least one"),
        ({"rewards": {}}, "All reward weights are 0"),
        ({"rewards": {"correct": float("inf")}}, "is inf; give a finite one"),
        ({"rewards": {"correct": "1"}}, "rewards.'correct'. is '1'; give a number"),
        ({"rewards": ["correct"]}, "give a dictionary"),
        ({"reward_args": {"cer": {}}}, "Unknown reward 'cer'.*Did you mean 'cre'?"),
        ({"reward_args": {"cre": {"ordr": 1}}}, "Unknown parameter of cre 'ordr'.*mean 'order'?"),
        ({"reward_args": {"cre": {"order": 3}}}, "cre.order is 3; give 1 to 2"),
        ({"reward_args": {"cre": 2}}, "reward_args.'cre'. is 2; give a dictionary"),
        ({"reward_args": {"length": {"by": 2}}}, "allowed: nothing"),
        ({"standardise": "batch"}, "Unknown standardise 'batch'; allowed: never, group"),
        ({"truncated": "excluded"}, "Unknown truncated 'excluded'; allowed: as_is, lowest"),
        ({"reward_floor": -0.1}, "reward_floor is -0.1; give at least 0"),
        ({"extra_votes": 0.5}, "extra_votes is 0.5; give a whole number"),
        ({"probe_every": -1}, "probe_every is -1; give at least 0"),
        ({"probe_prompts": 0}, "probe_prompts is 0; give at least 1"),
        ({"probe_samples": 1}, "probe_samples is 1; give at least 2"),
        (
            {"standardise": "group", "group_size": 1, "objective": "reinforce"},
            "group_size is 1, but standardise='group' compares.*give at least 2",
        ),
        ({"group_size": 1}, "group_size is 1, but objective 'rloo' .*at least 2 completions"),
        ({"group_size": 2.5}, "group_size is 2.5; give a whole number"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001; give 0 to 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; give a finite number"),
        ({"learning_rate": "2e-3"}, "learning_rate is '2e-3'; give a number .in YAML write"),
        ({"beta": -0.1}, "beta is -0.1; give at least 0"),
        ({"beta": float("inf")}, "beta is inf; give a finite number"),
        ({"temperature": 0}, "temperature is 0; give more than 0 and at most 10"),
        ({"steps": True}, "steps is True; give a number"),
        (
            {"quantize": "nf5"},
            "Unknown quantize 'nf5'; allowed: nf4, int8, none, auto. Did you mean 'nf4'",
        ),
        ({"minibatches": 17}, "minibatches is 17, but a batch holds 16 groups"),
        ({"objective_args": {"alpha": 1}}, "of rloo 'alpha'; allowed: nothing"),
        ({"anchor_args": {"estimator": "k4"}}, "reverse_kl.estimator 'k4'; allowed: k1, k2, k3"),
        ({"model": 3}, "model is 3; give a text"),
        ({"device": print}, "device"),
    ],
)
def test_a_wrong_choice_says_which_what_and_what_instead(fields, message):
    with pytest.raises(WorkbenchError, match=message):
        Recipe(**fields)


def test_an_unknown_field_is_named_with_its_nearest_match():
    for make in (Recipe().replace, lambda **f: Recipe.from_dict(f)):
        with pytest.raises(WorkbenchError, match="Unknown recipe field 'lr_rate'"):
            make(lr_rate=1)
        with pytest.raises(WorkbenchError, match="Did you mean 'learning_rate'"):
            make(learning_rates=1)


def test_reinforce_needs_no_group():
    assert Recipe(objective="reinforce", group_size=1).group_size == 1


@pytest.mark.parametrize("recipe", [Recipe(), CHANGED])
def test_yaml_link_and_code_give_the_same_recipe_back(recipe):
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_link(recipe.to_link()) == recipe
    names: dict = {}
    code = recipe.to_code().replace("run = wb.train(recipe)", "")
    exec(
        code.replace("import workbench as wb", "import workbench.recipe as wb"), names
    )  # our own text
    assert names["recipe"] == recipe


def test_the_default_recipe_is_quantised_and_its_link_is_short():
    assert (Recipe().quantize, Recipe().lora_rank) == ("nf4", 16)
    assert len(Recipe().to_link()) < 30


def test_functions_of_ones_own_are_kept_by_name_and_given_back():
    recipe = Recipe(rewards={"correct": 1.0, shout: 0.5}, objective=shout)
    assert "objective: shout" in recipe.to_yaml()
    assert recipe.reward_weights() == {"correct": 1.0, "shout": 0.5}
    assert Recipe.from_yaml(recipe.to_yaml(), [shout]) == recipe
    assert "rewards={'correct': 1.0, shout: 0.5}" in recipe.to_code()
    with pytest.raises(
        WorkbenchError, match=r"Unknown reward 'shout'.*pass it: functions=\[shout\]"
    ):
        Recipe.from_dict({"rewards": {"shout": 0.5}})
    with pytest.raises(WorkbenchError, match=r"Unknown objective 'shout'.*functions=\[shout\]"):
        Recipe.from_yaml(recipe.to_yaml())


@pytest.mark.parametrize(
    "link", ["", "workbench:", "workbench:!!!!", "workbench:eNqrVkpKL", "https://example.org", "é"]
)
def test_a_broken_link_asks_for_a_whole_one(link):
    with pytest.raises(WorkbenchError, match="not a whole recipe link; copy it again"):
        Recipe.from_link(link)


def test_a_link_that_unpacks_without_end_is_refused_quickly():
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 50_000_000, 9)).decode()
    with pytest.raises(WorkbenchError, match="not a whole recipe link"):
        Recipe.from_link("workbench:" + bomb)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "not valid YAML at line 1"),
        ("- task", "A recipe is a list of 'field: value' lines"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("tusk: countdown", "Unknown recipe field 'tusk'.*Did you mean 'task'"),
    ],
)
def test_bad_yaml_is_a_sentence(text, message):
    with pytest.raises(WorkbenchError, match=message):
        Recipe.from_yaml(text)


def test_empty_yaml_is_the_default_recipe():
    assert Recipe.from_yaml("") == Recipe()


def test_a_new_variant_drops_the_old_ones_parameters():
    assert CHANGED.replace(objective="rloo").objective_args == {}
    assert CHANGED.replace(objective="grpo").objective_args == {"std": "population"}
    assert CHANGED.replace(anchor="none").anchor_args == {}
    other = Recipe().replace(objective="grpo", objective_args={"std": "population"})
    assert other.objective_args == {"std": "population"}


def test_diff_names_only_what_differs():
    assert Recipe().diff(Recipe(beta=0.1)) == {"beta": (0.0, 0.1)}


def test_every_field_has_help_and_live_fields_are_those_a_step_reads():
    assert all(field.metadata["doc"].endswith(".") for field in FIELDS.values())
    assert {"beta", "rewards", "objective", "learning_rate", "steps"} <= set(LIVE)
    assert not {"model", "quantize", "lora_rank", "task", "seed", "group_size"} & set(LIVE)


def test_probes_are_off_until_asked_for_and_their_size_is_fixed():
    """Probes of two sizes would not make one path."""
    assert (Recipe().probe_every, Recipe().probe_prompts, Recipe().probe_samples) == (0, 32, 8)
    assert "probe_every" in LIVE
    assert not {"probe_prompts", "probe_samples"} & set(LIVE)


def test_recipes_load_neither_torch_nor_widgets():
    code = "import sys, workbench.recipe as r; r.Recipe(); print({'torch', 'ipywidgets', 'transformers'} & set(sys.modules))"  # noqa: E501
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_rewards_arguments_reach_its_function():
    recipe = Recipe(
        rewards={"random": 1.0, "empo": 0.0, shout: 0.0},
        reward_args={"random": {"chance": 1.0}, shout: {"loud": True}, "empo": {}},
    )
    found = recipe.reward_functions()
    rollouts = SimpleNamespace(P=1, G=2, seed=0, logprobs_BT=torch.zeros(2, 1))
    assert found["random"](rollouts, None).tolist() == [[1.0, 1.0]]
    assert found["shout"].func is shout and found["shout"].keywords == {"loud": True}
    assert found["empo"] is TABLES["rewards"]["empo"]
    assert Recipe.from_yaml(recipe.to_yaml(), [shout]) == recipe
    assert Recipe.from_link(recipe.to_link(), [shout]) == recipe
    assert "shout: {'loud': True}" in recipe.to_code()


def test_a_reward_gets_of_the_runs_extras_what_its_row_needs():
    recipe = Recipe(
        task="instructions",
        rewards={"constraints": 1.0, "length": 0.0, shout: 0.0},
        reward_args={"constraints": {"scorer": "model"}, shout: {"loud": True}},
    )
    extras = {"constraint_model": "judge", "more": 1}
    found = recipe.reward_functions(extras)
    assert found["constraints"].keywords == {"scorer": "model", "constraint_model": "judge"}
    assert found["length"] is TABLES["rewards"]["length"]
    assert found["shout"].keywords == {"loud": True}
    assert recipe.reward_functions()["constraints"].keywords == {"scorer": "model"}
    assert recipe.reward_args["constraints"] == {"scorer": "model"}  # nothing is written back
    again = Recipe.from_yaml(recipe.to_yaml(), [shout])
    assert again == recipe == Recipe.from_link(recipe.to_link(), [shout])


def test_what_a_recipe_gives_away_is_its_own_copy():
    recipe = Recipe(reward_args={"cre": {"order": 1}})
    recipe.to_dict()["reward_args"]["cre"]["order"] = 2
    assert recipe.reward_args == {"cre": {"order": 1}}


def test_waiting_changes_stack_as_if_each_had_landed():
    recipe = Recipe(objective="rl2ml", objective_args={"alpha": 2.0})
    waiting = recipe.stack({}, {"anchor_args": {"estimator": "k3"}})
    waiting = recipe.stack(waiting, {"anchor": "sage"})  # which does not know the estimator
    waiting = recipe.stack(waiting, {"beta": 0.1})
    waiting = recipe.stack(waiting, {"objective": "grpo"})
    changed = recipe.replace(**waiting)
    assert (changed.anchor, changed.anchor_args, changed.beta) == ("sage", {}, 0.1)
    assert (changed.objective, changed.objective_args) == ("grpo", {})
    again = recipe.stack(waiting, {"objective": "rl2ml", "objective_args": {"alpha": 0.5}})
    assert recipe.replace(**again).objective_args == {"alpha": 0.5}
    with pytest.raises(WorkbenchError, match="Unknown parameter of sage"):
        recipe.stack(waiting, {"anchor_args": {"estimator": "k3"}})


def test_words_and_lists_survive_yaml_and_links():
    recipe = Recipe(objective="bernstein", objective_args={"beta": [2.0, 1.0, 0.5]})
    auto = Recipe(objective="rl2ml", objective_args={"alpha": "auto", "metric": "log p"})
    for each in (recipe, auto):
        assert Recipe.from_yaml(each.to_yaml()) == each
        assert Recipe.from_link(each.to_link()) == each


def test_a_separation_is_checked_with_its_arguments_and_survives_yaml_links_and_code():
    arguments = {"switch": "step", "step": 3}
    recipe = Recipe(separation="start", separation_args=arguments)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_link(recipe.to_link()) == recipe
    assert "separation='start'" in recipe.to_code() and "'step': 3" in recipe.to_code()
    assert {"separation", "separation_args", "cross_samples"} <= set(LIVE)
    assert recipe.replace(separation="joint").separation_args == {}
    for wrong, message in (
        ({"separation": "strat"}, "Unknown separation 'strat'.*'start'"),
        ({"separation": shout}, "separation is.*give a text"),
        ({"separation_args": {"share": 0.5}}, "Unknown parameter of joint 'share'"),
        ({"separation": "start", "separation_args": {"share": 2.0}}, "start.share is 2.0; give 0 to 1"),
        ({"separation": "start", "separation_args": {"switch": "late"}}, "Unknown start.switch 'late'"),
    ):  # fmt: skip
        with pytest.raises(WorkbenchError, match=message):
            Recipe(**wrong)
