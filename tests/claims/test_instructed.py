"""What claims measure of instructions: further tasks, reward models, and arms that share one."""

import pytest

from workbench.claims import instructed, load, table
from workbench.claims import measure as measuring
from workbench.claims.plan import claim_from
from workbench.evaluation import evaluate
from workbench.labelling import ConstraintModel, label, settings_of, wanted
from workbench.labelling.pairs import Pair
from workbench.models import load_policy
from workbench.tasks import make_task
from workbench.variants import WorkbenchError

ALSO = {"held_out": {"kinds": "held_out", "constraints": 3}, "longer": {"constraints": 7}}


@pytest.fixture
def toy_claim(toy_scribe):
    return claim_from(
        "toy",
        {
            "recipe": {
                "model": toy_scribe, "quantize": "none", "lora_rank": 2, "steps": 1,
                "task": "instructions", "task_args": {"chains": 6},
                "rewards": {"constraints": 1.0, "correct": 0.0},
                "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 12,
            },
            "evaluation": {"prompts": 4, "samples": 2, "ks": [1, 2]},
            "seeds": [0],
            "arms": {
                "full": {},
                "all": {"reward_args": {"constraints": {"aggregation": "all"}}},
                "ranked": {"reward_args": {"constraints": {"loss": "bradley_terry"}}},
                "rules": {"reward_args": {"constraints": {"scorer": "rules"}}},
            },
            "also": ALSO,
            "models": ["full", "ranked"],
        },
    )  # fmt: skip


def test_cells_have_further_tasks_and_arms_share_a_model_that_is_the_same(
    toy_claim, tmp_path, monkeypatch
):
    fits = []
    real = measuring.train_step

    def step(state, recipe, **kwargs):
        before = state.constraint_model
        report = real(state, recipe, **kwargs)
        if state.constraint_model is not before:
            fits.append(recipe.name)
        return report

    monkeypatch.setattr(measuring, "train_step", step)
    path = measuring.measure(toy_claim, out=tmp_path, say=lambda line: None)
    assert fits == ["toy-full", "toy-ranked"]  # all shares the first one's; rules needs none
    result = load(path)
    cells = {arm: holder["cells"][0]["metrics"] for arm, holder in result["arms"].items()}
    for metrics in (*cells.values(), result["base"]["cells"][0]["metrics"]):
        for name in ALSO:
            assert {f"{name}/pass@1", f"{name}/constraints", f"{name}/hard"} <= set(metrics)
        assert 0 <= metrics["constraints"] < 1
    quality = {"model/auc", "model/auc_hard", "model/group_tau", "model/rules_tau", "model/pairs"}
    assert quality <= set(cells["full"]) and quality <= set(cells["ranked"])
    assert "model/blind_accuracy" in cells["full"]
    assert "model/blind_accuracy" not in cells["ranked"]  # of the first arm and seed alone
    assert not any(key.startswith("model/") for key in (*cells["all"], *cells["rules"]))
    assert "held_out/constraints" in table(path)


def test_the_further_tasks_are_the_claims_own_with_other_parameters(toy_claim):
    recipe = toy_claim.recipe_of("rules")
    with measuring.loaded(recipe) as state:
        found = instructed.also_metrics(state, toy_claim, 5)
        task = make_task("instructions", chains=6, kinds="held_out", constraints=3)
        again = evaluate(state.policy, task, prompts=4, samples=2, max_new_tokens=12, seed=5)
    assert found["held_out/pass@1"] == again.pass_at[1]
    assert found["held_out/constraints"] == again.measures["constraints"]
    assert found["held_out/constraints"] != found["longer/constraints"]


def test_the_book_knows_which_further_tasks_it_was_measured_with(toy_claim):
    assert toy_claim.base_settings()["also"] == ALSO


def test_an_unknown_arm_among_the_models_is_refused():
    with pytest.raises(WorkbenchError, match="Unknown arm in 'models' of claim mine 'b'"):
        claim_from("mine", {"arms": {"a": {}}, "models": ["b"]})


def test_a_model_is_lent_to_the_same_seed_and_settings_alone(toy_claim):
    shelf = instructed.Shelf()

    class State:
        constraint_model = None

    recipes = {arm: toy_claim.recipe_of(arm) for arm in toy_claim.arms}
    given = settings_of(wanted(recipes["full"]))
    made = ConstraintModel(None, 1, given, {})
    shelf.lend(State(), recipes["full"])  # the shelf is now of this seed
    trained = State()
    trained.constraint_model = made
    shelf.keep(trained)
    lent = {}
    for arm, recipe in recipes.items():
        state = State()
        shelf.lend(state, recipe)
        lent[arm] = state.constraint_model
    assert lent == {"full": made, "all": made, "ranked": None, "rules": None}
    other = State()
    shelf.lend(other, recipes["full"].replace(seed=1))
    assert other.constraint_model is None
    later = State()
    later.constraint_model = ConstraintModel(None, 20, given, {})  # of a refresh: not the first
    shelf.keep(later)
    again = State()
    shelf.lend(again, recipes["full"].replace(seed=1))
    assert again.constraint_model is None


def test_blind_labels_are_the_initial_policys_without_the_constraint(toy_claim, monkeypatch):
    seen = []
    monkeypatch.setattr(
        instructed, "label", lambda *a, **kw: seen.append(label(*a, **kw)) or seen[0]
    )
    trained_on = []
    monkeypatch.setattr(
        instructed, "fit_pairs", lambda judge, pairs, **kw: trained_on.append(pairs) or judge
    )
    recipe = toy_claim.recipe_of("full")
    with measuring.loaded(recipe) as state:
        model = ConstraintModel(None, 1, settings_of(wanted(recipe)), {})
        accuracy = instructed.blind_accuracy(state, recipe, model)
        fresh = load_policy(recipe.model, quantize="none", lora_rank=2)
        policy_labels = label(
            fresh, state.task, max_new_tokens=12, seed=instructed.step_seed(0, 1, instructed.LABELS)
        )
    assert seen[0].train == policy_labels.train
    assert all(isinstance(pair, Pair) and pair.constraint == "" for pair in trained_on[0])
    assert [p.kept for p in trained_on[0]] == [p.kept for p in seen[0].train]
    assert 0 <= accuracy <= 1
