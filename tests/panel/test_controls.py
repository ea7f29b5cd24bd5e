"""The controls are generated: all of the recipe and the tables is there, with its own range."""

import pytest
import torch  # noqa: F401 - without it no picture is drawn

from workbench.objectives import OBJECTIVES
from workbench.panel.controls import FIXED, REST, Controls
from workbench.panel.inputs import about, field_docs, parameters_of
from workbench.recipe import FIELDS, LIVE, TABLES, Recipe
from workbench.variants import Param, Variant, WorkbenchError


@pytest.fixture
def made():
    changes = []
    return Controls(Recipe(), lambda **fields: changes.append(fields)), changes


def test_every_field_of_the_recipe_has_a_control_in_one_section(made):
    controls, _ = made
    names = [name for section in controls.sections.values() for name in section]
    assert sorted(names) == sorted(n for n in FIELDS if not n.endswith("_args"))


def test_probes_stand_where_evaluations_do(made):
    controls, changes = made
    names = controls.sections[REST]
    assert {"eval_every", "probe_every", "probe_prompts", "probe_samples"} <= set(names)
    controls.by_field["probe_every"].widget.value = 5
    assert changes == [{"probe_every": 5}]
    controls.by_field["probe_samples"].widget.value = 1
    assert controls.recipe().probe_samples == 2  # one response always agrees with itself


def test_untouched_controls_give_back_the_recipe(made):
    controls, _ = made
    recipe = controls.recipe()
    assert (
        recipe.replace(objective_args={}, surrogate_args={}, anchor_args={}, task_args={})
        == Recipe()
    )
    assert recipe.anchor_args == TABLES["anchor"]["reverse_kl"].defaults


def test_a_recipe_with_everything_changed_survives(made):
    controls, _ = made
    recipe = Recipe(
        model="some/folder", quantize="none", lora_rank=3, lora_dropout=0.15, task="arithmetic",
        rewards={"correct": 0.5, "length": 3.5}, objective="grpo", surrogate="ppo_clip",
        objective_args={"std": "population"}, surrogate_args={"clip_low": 0.1, "clip_high": 0.3},
        anchor_args={"estimator": "k3", "place": "loss"}, beta=1.75,
        temperature=0.7, top_k=5, learning_rate=3.25e-4,
        steps=7, seed=11, name="mine", eval_every=3,
    )  # fmt: skip
    controls.show(recipe)
    assert controls.recipe().replace(task_args={}) == recipe


def test_showing_a_recipe_reports_no_change(made):
    controls, changes = made
    controls.show(Recipe(objective="maxrl", beta=0.5, rewards={"format": 1.0}, task="arithmetic"))
    assert changes == []


def test_choosing_a_variant_shows_its_parameters_and_reports_both(made):
    controls, changes = made
    control = controls.by_field["surrogate"]
    control.choice.value = "ppo_clip"
    assert changes == [
        {"surrogate": "ppo_clip", "surrogate_args": {"clip_low": 0.2, "clip_high": 0.2}}
    ]
    slider = control.arguments["clip_high"]
    assert (slider.min, slider.max, slider.tooltip) == (
        0.0,
        5.0,
        "How far the ratio may rise above 1.",
    )
    slider.value = 0.4
    assert changes[-1]["surrogate_args"] == {"clip_low": 0.2, "clip_high": 0.4}
    control.choice.value = "reinforce"
    assert control.arguments == {} and changes[-1] == {
        "surrogate": "reinforce",
        "surrogate_args": {},
    }


def test_formula_source_and_doc_stand_beside_the_choice(made):
    controls, _ = made
    text = controls.by_field["objective"].about.value
    row = OBJECTIVES["rloo"]
    assert row.doc in text and f"${row.formula}$" in text and "Kool et al. 2019" in text


def test_a_reward_of_weight_zero_is_measured_and_an_unticked_one_is_not(made):
    controls, changes = made
    tick, weight = controls.by_field["rewards"].rows["format"]
    weight.value = 0.3
    assert changes[-1] == {
        "rewards": {"correct": 1.0, "format": 0.3, "length": 0.0},
        "reward_args": {},
    }
    tick.value = False
    assert changes[-1] == {"rewards": {"correct": 1.0, "length": 0.0}, "reward_args": {}}
    weight.value = -0.5  # moving the weight of a reward takes it up again
    assert changes[-1] == {
        "rewards": {"correct": 1.0, "format": -0.5, "length": 0.0},
        "reward_args": {},
    }


def test_functions_of_ones_own_get_controls(made):
    def my_objective(rewards_PG):
        """Mine <b>."""

    def my_reward(rollouts, task):
        """Counts."""

    controls, changes = made
    controls.show(Recipe(objective=my_objective, rewards={my_reward: 0.5, "correct": 1.0}))
    recipe = controls.recipe()
    assert recipe.objective is my_objective and recipe.rewards[my_reward] == 0.5
    assert "Mine &lt;b&gt;." in controls.by_field["objective"].about.value
    assert controls.by_field["rewards"].rows[my_reward][1].description == "my_reward"
    controls.by_field["objective"].choice.value = "grpo"
    assert changes[-1]["objective"] == "grpo"


def test_while_running_what_is_fixed_is_disabled_and_says_why(made):
    controls, _ = made
    controls.lock(True)
    for name, control in controls.by_field.items():
        for widget in control.widgets():
            assert widget.disabled == (name not in LIVE)
            assert widget.tooltip.endswith(FIXED) == (name not in LIVE)
    controls.lock(True)
    controls.lock(False)
    widget = controls.by_field["lora_rank"].widget
    assert not widget.disabled and widget.tooltip == FIELDS["lora_rank"].metadata["doc"]


def test_a_value_out_of_range_is_cut_to_the_range_by_its_control(made):
    controls, _ = made
    control = controls.by_field["top_p"].widget
    control.value = 7.0
    assert control.value == 1.0
    controls.by_field["lora_rank"].widget.value = 0
    assert controls.recipe().lora_rank == 1


def test_a_wrong_text_is_refused_by_the_recipe(made):
    controls, _ = made
    controls.by_field["temperature"].widget.value = 0.0
    with pytest.raises(WorkbenchError, match=r"temperature is 0\.0; give more than 0"):
        controls.recipe()


def test_sliders_leave_no_noise(made):
    controls, changes = made
    controls.by_field["beta"].widget.value = 0.1 + 0.2
    assert changes == [{"beta": 0.3}]


def test_sections_fold_by_a_native_button(made):
    controls, _ = made
    header = controls.headers["Model"]
    body = controls.root.children[list(controls.sections).index("Model")].children[1]
    assert not header.value and body.layout.display == "none"
    header.value = True
    assert body.layout.display == "" and header.icon == "chevron-down"


def test_a_new_row_needs_no_line_of_code_here(made, monkeypatch):
    def tilt(rewards_PG, *, alpha=1.0, count=3, sharp=False):
        """Tilts."""

    params = (
        Param("alpha", 1.0, "Power.", low=-0.9, high=4.0),
        Param("count", 3, "How many.", low=1, high=9),
        Param("sharp", False, "Or not."),
    )
    row = Variant(tilt, formula=r"r < 1 & \alpha", source="<i>me</i>", params=params)
    monkeypatch.setitem(TABLES["objective"], "tilt", row)
    changes = []
    controls = Controls(Recipe(), lambda **fields: changes.append(fields))
    controls.by_field["objective"].choice.value = "tilt"
    assert changes[-1]["objective_args"] == {"alpha": 1.0, "count": 3, "sharp": False}
    slider = controls.by_field["objective"].arguments["alpha"]
    assert (slider.min, slider.max, slider.step, slider.continuous_update) == (
        -0.9,
        4.0,
        0.01,
        False,
    )
    assert r"$r &lt; 1 &amp; \alpha$" in about(row) and "&lt;i&gt;me&lt;/i&gt;" in about(row)


def test_a_tasks_fields_are_its_parameters_with_their_written_help():
    task = TABLES["task"]["countdown"]
    by_name = {param.name: param for param in parameters_of(task)}
    assert by_name["numbers"].default == 3
    assert by_name["numbers"].doc == "How many numbers a problem has."
    assert field_docs(type(task))["rows"] == "Problems in the train split."


def test_a_word_and_a_list_of_a_row_reach_the_recipe_and_come_back(made):
    controls, changes = made
    objective = controls.by_field["objective"]
    objective.choice.value = "rl2ml"
    objective.arguments["alpha"].words["auto"].value = True
    assert changes[-1]["objective_args"]["alpha"] == "auto"
    auto = controls.recipe()
    objective.choice.value = "bernstein"
    objective.arguments["beta"].handles.value = [2.0, 1.0, 0.0]
    assert changes[-1]["objective_args"]["beta"] == [2.0, 1.0, 0.0]
    drawn = controls.recipe()
    for recipe in (auto, drawn):
        controls.show(recipe)
        assert controls.recipe() == recipe
    assert Recipe.from_yaml(drawn.to_yaml()) == drawn


def test_dragging_a_handle_reports_nothing_until_it_is_let_go(made):
    controls, changes = made
    controls.by_field["objective"].choice.value = "bernstein"
    handles = controls.by_field["objective"].arguments["beta"].handles
    before, shown = len(changes), controls.preview.root.value
    handles.live = [8.0, 1.5, 1.0, 0.5]
    assert len(changes) == before and controls.preview.root.value != shown
    handles.value = [8.0, 1.5, 1.0, 0.5]
    assert len(changes) == before + 1


def test_the_picture_follows_objective_parameters_and_group_size(made):
    controls, _ = made
    pictures = [controls.preview.root.value]

    def changed():
        pictures.append(controls.preview.root.value)
        return pictures[-1] != pictures[-2]

    objective = controls.by_field["objective"]
    objective.choice.value = "rl2ml"
    assert changed() and "critical: flat" in pictures[-1]
    objective.arguments["alpha"].number.value = 2.0
    assert changed() and "supercritical" in pictures[-1]
    controls.by_field["group_size"].widget.value = 8
    assert changed() and "K of 8" in pictures[-1]
    objective.arguments["alpha"].words["auto"].value = True
    assert changed() and "alpha is auto, chosen by the run; drawn for 2." in pictures[-1]
    objective.choice.value = "differential_smoothing"
    assert changed() and "<svg" not in pictures[-1]


def test_every_row_of_every_table_has_controls_that_give_back_its_defaults(made):
    controls, _ = made
    for kind in ("objective", "surrogate", "anchor"):
        control = controls.by_field[kind]
        for name, row in TABLES[kind].items():
            control.choice.value = name
            found = control.values()[f"{kind}_args"]
            expected = {k: list(v) if isinstance(v, tuple) else v for k, v in row.defaults.items()}
            assert found == expected


def test_a_ticked_rewards_parameters_stand_below_its_weight(made):
    controls, changes = made
    control = controls.by_field["rewards"]
    tick, _ = control.rows["empo"]
    guard = control.arguments["empo"]["guard"]
    box = control.box.children[1 + 2 * list(control.rows).index("empo") + 1]
    assert box.children == (guard,) and box.layout.display == "none"
    tick.value = True
    assert box.layout.display == "" and changes[-1]["reward_args"] == {"empo": {"guard": 1.0}}
    guard.value = 0.5
    assert changes[-1]["reward_args"] == {"empo": {"guard": 0.5}}
    assert changes[-1]["rewards"]["empo"] == 0.0
    tick.value = False
    assert box.layout.display == "none" and changes[-1]["reward_args"] == {}


def test_reward_arguments_are_taken_over_from_a_recipe(made):
    def own(rollouts, task, *, times=1):
        """Mine."""

    controls, changes = made
    recipe = Recipe(
        rewards={"cre": 1.0, "random": 0.0, own: 0.5},
        reward_args={"cre": {"order": "inf"}, "random": {"chance": 0.25}, own: {"times": 2}},
        standardise="group", truncated="lowest", reward_floor=0.01, extra_votes=3,
    )  # fmt: skip
    controls.show(recipe)
    assert changes == []
    assert (
        controls.recipe().replace(
            objective_args={}, surrogate_args={}, anchor_args={}, task_args={}
        )
        == recipe
    )
    controls.show(Recipe())
    assert controls.by_field["rewards"].arguments["cre"]["order"].value == 2


def test_what_each_reward_is_says_which_way_it_pushes(made):
    assert "Pushes length: down; certainty: up." in about(TABLES["rewards"]["ent"])
    assert "Pushes" not in about(TABLES["rewards"]["correct"])


def test_a_reward_models_name_is_typed_into_a_box_and_lands_in_the_recipe():
    import ipywidgets as widgets

    controls = Controls(Recipe(), lambda **fields: None)
    rewards = controls.by_field["rewards"]
    box = rewards.arguments["learned"]["reward_model"]
    assert isinstance(box, widgets.Text) and box.value == "reward-shortcut"
    tick, weight = rewards.rows["learned"]
    tick.value, weight.value = True, 1.0
    box.value = "owner/name"
    recipe = controls.recipe()
    assert recipe.rewards["learned"] == 1.0
    assert recipe.reward_args["learned"]["reward_model"] == "owner/name"


def test_thinking_and_answer_have_a_section_with_the_strip_below_the_separation(made):
    controls, changes = made
    assert controls.sections["Think / answer"] == (
        "separation", "answerer", "answers_per_thought", "cross_samples",
    )  # fmt: skip
    at = list(controls.sections).index("Think / answer")
    body = controls.root.children[at].children[1]
    assert body.children[0] is controls.by_field["separation"].box
    assert body.children[1] is controls.timeline.root
    control = controls.by_field["separation"]
    control.choice.value = "start"
    assert changes[-1]["separation"] == "start" and "switch" in control.arguments
    assert control.arguments["switch"].options == ("share", "step", "flat")


def test_the_strip_follows_separation_its_arguments_steps_and_answerer(made):
    controls, _ = made
    strip = controls.timeline.root
    assert "steps 1 to 100 thinking and answer" in strip.value
    controls.by_field["separation"].choice.value = "start"
    controls.by_field["separation"].arguments["share"].value = 0.2
    assert "steps 1 to 20 thinking; steps 21 to 100 thinking and answer" in strip.value
    controls.by_field["steps"].widget.value = 10
    assert "steps 1 to 2 thinking; steps 3 to 10" in strip.value
    controls.by_field["answerer"].widget.value = "initial"
    assert "steps 1 to 10 thinking." in strip.value
    controls.show(Recipe(separation="answer_only", steps=7))
    assert "steps 1 to 7 answer." in strip.value


def test_the_curriculum_stands_with_the_task_and_is_chosen_from_a_list(made):
    controls, changes = made
    assert controls.sections["Task"] == ("task", "curriculum")
    widget = controls.by_field["curriculum"].widget
    assert widget.options == ("shuffled", "staged", "full", "one") and widget.value == "shuffled"
    controls.by_field["task"].choice.value = "instructions"
    widget.value = "staged"
    assert changes[-1] == {"curriculum": "staged"} and controls.recipe().curriculum == "staged"


def test_the_reward_constraints_shows_its_parameters_each_in_a_fitting_input(made):
    import ipywidgets as widgets

    controls, changes = made
    control = controls.by_field["rewards"]
    controls.by_field["task"].choice.value = "instructions"
    control.rows["constraints"][1].value = 1.0
    inputs = control.arguments["constraints"]
    kinds = {name: type(widget) for name, widget in inputs.items()}
    choices = ("scorer", "aggregation", "soft", "pairs", "loss")
    assert kinds == dict.fromkeys(choices, widgets.Dropdown) | {
        "reward_model": widgets.Text, "refresh_every": widgets.BoundedIntText,
    }  # fmt: skip
    assert all(len(widget.description) <= 16 for widget in inputs.values())  # 118 pixels
    inputs["scorer"].value, inputs["refresh_every"].value = "rules", 40
    given = changes[-1]["reward_args"]["constraints"]
    assert given["scorer"] == "rules" and given["refresh_every"] == 40
    assert given["soft"] == "probability" and given["reward_model"] == "own"
    inputs["refresh_every"].value = -3
    assert controls.recipe().reward_args["constraints"]["refresh_every"] == 0


def test_a_whole_number_has_a_slider_only_where_a_place_is_wide_enough_to_hit(made):
    import ipywidgets as widgets

    from workbench.panel.inputs import MOST_PLACES, parameter

    few = parameter(Param("few", 3, "Few.", low=0, high=MOST_PLACES), 3)
    many = parameter(Param("many", 3, "Many.", low=0, high=MOST_PLACES + 1), 3)
    assert type(few) is widgets.IntSlider and type(many) is widgets.BoundedIntText
    assert (many.min, many.max) == (0, MOST_PLACES + 1)
