"""A constraint reward model from end to end, and the one that is in force at a step of a run."""

import json
import random

import pytest
import torch

from workbench import labelling
from workbench.labelling import (
    ConstraintModel,
    extras_of,
    fit,
    in_force,
    label,
    load,
    settings_of,
    wanted,
)
from workbench.labelling.pairs import Pair
from workbench.models import load_policy
from workbench.recipe import Recipe
from workbench.seeds import LABELS, step_seed
from workbench.tasks import make_task
from workbench.variants import WorkbenchError

TASK = make_task("instructions", chains=16)
SIZES = {"chains": 12, "samples": 2, "max_new_tokens": 10}
CONSTRAINTS, ANSWERS = ["Sound sad.", "Make it glad."], ["gray wave sits.", "golden moss."]


@pytest.fixture(scope="module")
def policy(toy_scribe):
    return load_policy(toy_scribe, quantize="none", lora_rank=4, device="cpu")


def verdicts(made):
    return made.judge.verdicts(CONSTRAINTS, ANSWERS)


@pytest.fixture(scope="module")
def made(policy, tmp_path_factory):
    told = []
    folder = tmp_path_factory.mktemp("made") / "deep" / "model"
    found = fit(policy, TASK, **SIZES, seed=5, step=7, tell=told.append, out=folder)
    return found, told, folder


def test_it_is_made_from_what_the_policy_writes_and_says_how_good_it_is(made):
    found, told, _ = made
    assert (
        found.settings == {"pairs": "adjacent", "loss": "binary", "hard": False} and found.step == 7
    )
    quality = found.quality
    assert {
        "accuracy",
        "swapped_gap",
        "p",
        "q",
        "label_right",
        "pairs",
        "seconds",
    } <= quality.keys()
    assert {"p_hard", "q_hard", "label_right_hard"} <= quality.keys()
    assert quality["label_right"] == pytest.approx((quality["p"] + 1 - quality["q"]) / 2)
    assert quality["pairs"] > 5 and quality["seconds"] > 0
    assert all(type(value) is float for value in quality.values())
    assert told[0] == "constraint reward model: answering the rungs, 0 %"
    assert told[-1] == "constraint reward model: training, 100 %" and len(told) < 30
    assert all(0 < verdict < 1 for verdict in verdicts(found))


def test_saved_and_loaded_it_is_the_same(made):
    found, _, folder = made
    again = load(folder)
    assert verdicts(again) == verdicts(found)
    assert (again.step, again.settings, again.quality) == (7, found.settings, found.quality)
    known = json.loads((folder / "measured.json").read_text())
    assert known.keys() == {"step", "settings", "quality"}
    (folder / "measured.json").rename(folder / "kept.json")
    bare = load(folder)
    (folder / "kept.json").rename(folder / "measured.json")
    assert verdicts(bare) == verdicts(found) and (bare.step, bare.settings, bare.quality) == (
        0,
        {},
        {},
    )


def test_it_is_a_function_of_policy_task_and_seed_and_moves_no_generator(policy, made):
    torch.manual_seed(1), random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    again = fit(policy, TASK, **SIZES, seed=5, tell=lambda line: None)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert verdicts(again) == verdicts(made[0])
    numbers = [{k: v for k, v in m.quality.items() if k != "seconds"} for m in (again, made[0])]
    assert numbers[0] == numbers[1]
    other = fit(policy, TASK, **SIZES, seed=6, tell=lambda line: None)
    assert verdicts(other) != verdicts(again)


@pytest.mark.parametrize("changes", [{"pairs": "far"}, {"loss": "bradley_terry"}, {"hard": True}])
def test_every_choice_changes_what_is_made(policy, made, changes):
    other = fit(policy, TASK, **SIZES, seed=5, tell=lambda line: None, **changes)
    assert verdicts(other) != verdicts(made[0])
    assert other.settings == made[0].settings | changes
    if changes != {"loss": "bradley_terry"}:
        assert other.quality["pairs"] > made[0].quality["pairs"]


def test_a_quantised_backbone_under_an_adapter_can_be_asked_for(policy, toy_scribe, tmp_path):
    found = fit(
        policy, TASK, **SIZES, backbone=toy_scribe, quantize="nf4", lora_rank=4, epochs=1,
        tell=lambda line: None, out=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "adapter_config.json").is_file()
    assert verdicts(load(tmp_path)) == verdicts(found)


def test_a_bar_is_drawn_where_nobody_listens(policy, capsys):
    fit(policy, TASK, **SIZES | {"chains": 4}, epochs=1)
    assert "constraint reward model" in capsys.readouterr().err


def test_wrong_choices_are_named(policy):
    with pytest.raises(WorkbenchError, match="Unknown pairs 'fra'.*Did you mean 'far'"):
        fit(policy, TASK, **SIZES, pairs="fra")
    with pytest.raises(WorkbenchError, match="There is not one pair"):
        fit(policy, TASK, **SIZES | {"max_new_tokens": 1}, tell=lambda line: None)


def test_chains_of_each_side_are_apart_and_the_calibration_is_hard(policy):
    found = label(policy, TASK, **SIZES, seed=5)
    train, held = ({p.chain for p in part} for part in (found.train, found.held))
    assert train and held and not train & held and len(held) == round(0.2 * len(train | held))
    assert {p.chain for p in found.calibration} <= held
    assert all(p.hard and p.kept_truth is not None for p in found.calibration)
    assert not any(p.hard for p in found.train + found.held)
    both = label(policy, TASK, **SIZES, hard=True, seed=5)
    assert any(p.hard for p in both.train) and any(not p.hard for p in both.train)


# --- in a run --------------------------------------------------------------------------------------------


def recipe(**arguments):
    return Recipe(
        task="instructions",
        rewards={"constraints": 1.0},
        reward_args={"constraints": arguments},
        quantize="none",
        seed=3,
        max_new_tokens=10,
    )


@pytest.fixture
def fitted(monkeypatch):
    """Every call of `fit`, which makes an empty model."""
    calls = []

    def note(policy, task, **settings):
        calls.append(settings)
        chosen = {key: settings[key] for key in ("pairs", "loss", "hard")}
        return ConstraintModel("judge", settings["step"], chosen)

    monkeypatch.setattr(labelling, "fit", note)
    return calls


def test_only_the_reward_with_a_model_asks_for_one():
    assert wanted(Recipe()) is None and wanted(recipe(scorer="rules")) is None
    found = wanted(recipe(loss="bradley_terry"))
    assert (found["scorer"], found["loss"], found["reward_model"]) == (
        "mixed",
        "bradley_terry",
        "own",
    )
    assert settings_of(found) == {"pairs": "adjacent", "loss": "bradley_terry", "hard": False}
    assert settings_of(wanted(recipe(scorer="model")))["hard"] is True


def test_the_own_model_is_trained_once_and_held_while_its_settings_are(policy, fitted):
    first = in_force(None, policy, TASK, recipe(), 1)
    assert len(fitted) == 1 and first.step == 1
    assert fitted[0]["seed"] == step_seed(3, 1, LABELS)
    assert (fitted[0]["max_new_tokens"], fitted[0]["quantize"]) == (10, "none")
    for other in ({}, {"aggregation": "product"}, {"soft": "binary"}, {"refresh_every": 0}):
        assert in_force(first, policy, TASK, recipe(**other), 9) is first
    assert len(fitted) == 1
    for step, changes in enumerate(
        ({"pairs": "far"}, {"loss": "bradley_terry"}, {"scorer": "model"}), 2
    ):
        other = in_force(first, policy, TASK, recipe(**changes), step)
        assert other is not first and other.step == step
        assert other.settings == settings_of(wanted(recipe(**changes)))
    assert len(fitted) == 4


def test_a_refresh_comes_every_so_many_steps_after_the_last(policy, fitted):
    held, trained = None, []
    for step in range(1, 12):
        before, held = held, in_force(held, policy, TASK, recipe(refresh_every=4), step)
        trained += [step] if held is not before else []
    assert trained == [1, 5, 9]
    assert [call["seed"] for call in fitted] == [step_seed(3, step, LABELS) for step in (1, 5, 9)]


def test_where_rules_judge_all_nothing_is_trained(policy, fitted, tmp_path):
    held = ConstraintModel("judge")
    for kept in (None, held):
        assert in_force(kept, policy, TASK, recipe(scorer="rules"), 1) is kept
        assert in_force(kept, policy, TASK, Recipe(), 1) is kept
        checked = make_task("instructions", source=str(tmp_path / "x.jsonl"), checked=True)
        assert in_force(kept, policy, checked, recipe(), 1) is kept
    assert fitted == []
    assert in_force(None, policy, checked, recipe(scorer="model"), 1).step == 1


def test_a_given_folder_is_loaded_once(policy, made, fitted, monkeypatch):
    loaded = []

    def spy(name, device):
        loaded.append(name)
        return load(name, device)

    monkeypatch.setattr(labelling, "load", spy)
    folder = str(made[2])
    given = in_force(None, policy, TASK, recipe(reward_model=folder), 3)
    assert verdicts(given) == verdicts(made[0])
    assert given.settings == {"given": folder} and given.quality == {}
    assert in_force(given, policy, TASK, recipe(reward_model=folder, refresh_every=1), 9) is given
    assert (
        in_force(given, policy, TASK, recipe(reward_model=folder, loss="bradley_terry"), 9) is given
    )
    assert loaded == [folder] and fitted == []
    own = in_force(given, policy, TASK, recipe(), 10)
    assert own.step == 10 and len(fitted) == 1
    back = in_force(own, policy, TASK, recipe(reward_model=folder), 11)
    assert loaded == [folder] * 2 and back.settings == {"given": folder}


def test_rewards_get_the_judge_by_the_name_that_they_ask_for(made):
    assert extras_of(None) == {}
    assert extras_of(made[0]) == {"constraint_model": made[0].judge}


def test_pairs_know_whether_their_constraint_is_hard():
    assert (
        Pair(0, "count", "c", "", "", None, None).hard
        and not Pair(0, "soft", "c", "", "", None, None).hard
    )
