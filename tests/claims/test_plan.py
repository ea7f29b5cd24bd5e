"""Claims as files: the shipped ones make recipes, and a wrong one is told in a sentence."""

import pytest

from workbench.claims import plan
from workbench.claims.plan import claim_from, parse_seeds, read_claim
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


@pytest.mark.parametrize("name", plan.names())
def test_every_arm_of_a_shipped_claim_is_a_recipe_in_both_sizes(name):
    claim = read_claim(name)
    assert claim.questions and len(claim.seeds) >= 5
    for arm in claim.arms:
        recipe = claim.recipe_of(arm, 3)
        assert (recipe.seed, recipe.name) == (3, f"{name}-{arm}")
        assert recipe.eval_samples == claim.evaluation["samples"]
        assert Recipe.from_link(claim.recipe_of(arm).to_link()).replace(seed=3) == recipe
        small = claim.smoke().recipe_of(arm)
        assert (small.steps, small.prompts_per_step, small.group_size) == (2, 4, 8)


def test_the_shipped_claims_are_these():
    assert plan.names() == ["anchors", "objectives"]


VALUES = {
    "recipe": {"steps": 5, "objective": "grpo", "objective_args": {"std": "population"}},
    "arms": {"a": {"note": "first", "objective": "rloo"}, "b": None},
    "compare": [["a", "b"], ["a", "base"]],
}


def test_an_arm_changes_what_it_names_and_shares_the_rest():
    claim = claim_from("mine", VALUES)
    assert claim.notes == {"a": "first", "b": ""}
    a, b = claim.recipe_of("a"), claim.recipe_of("b")
    assert (a.objective, a.objective_args, a.steps) == ("rloo", {}, 5)
    assert (b.objective, b.objective_args, b.steps) == ("grpo", {"std": "population"}, 5)
    assert a.eval_every == b.eval_every == 5
    assert claim.seeds == (0, 1, 2, 3, 4)
    assert claim.evaluation["samples"] == 128


def test_a_smoke_claim_is_never_larger_than_the_claim():
    values = VALUES | {"recipe": {"steps": 1, "group_size": 4}, "arms": {"a": {"steps": 90}}}
    small = claim_from("mine", values | {"compare": []}).smoke().recipe_of("a")
    assert (small.steps, small.group_size, small.prompts_per_step) == (1, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {}} | {"arms": None}, "Claim mine has no arms"),
        ({"seed": 3}, "Unknown part of claim mine 'seed'.*Did you mean 'seeds'"),
        ({"arms": {"a": {"objectiv": "rloo"}}}, "recipe field of arm a 'objectiv'.*'objective'"),
        ({"arms": {"a": {"model": "tiny-weak"}}}, "Arm a of claim mine sets model"),
        ({"arms": {"a": {"eval_samples": 4}}}, "Arm a of claim mine sets eval_samples"),
        ({"compare": [["a", "bb"]]}, "Unknown arm in 'compare' of claim mine 'bb'.*mean 'b'"),
        ({"evaluation": {"samples": 8}}, r"asks for pass@64 of 8 samples"),
        ({"evaluation": {"sample": 8}}, r"part of claim mine's evaluation 'sample'.*'samples'"),
    ],
)
def test_a_wrong_claim_is_one_sentence(change, message):
    with pytest.raises(WorkbenchError, match=message):
        claim_from("mine", VALUES | change)


def test_unknown_claims_arms_and_files(tmp_path):
    with pytest.raises(WorkbenchError, match=r"Unknown claim 'objectivs'.*'objectives'"):
        read_claim("objectivs")
    with pytest.raises(WorkbenchError, match=r"Unknown arm 'rlo'.*Did you mean 'rloo'"):
        read_claim("objectives").recipe_of("rlo")
    with pytest.raises(WorkbenchError, match=r"The claim .*gone.yaml can't be read"):
        read_claim(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("arms: [\n")
    with pytest.raises(WorkbenchError, match=r"The claim .*bad.yaml can't be read"):
        read_claim(tmp_path / "bad.yaml")


def test_a_claim_of_ones_own_is_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("arms: {a: {objective: maxrl}}\nseeds: [7]\n")
    claim = read_claim(tmp_path / "mine.yaml")
    assert (claim.name, claim.title, claim.seeds) == ("mine", "mine", (7,))


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", (0, 1, 2, 3, 4)), ("7", (7,)), ("3, 1-2,1", (3, 1, 2))]
)
def test_seeds_are_lists_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "1-", "0-2147483648", "1.5", "0,,1"])
def test_wrong_seeds_are_a_sentence(text):
    with pytest.raises(WorkbenchError, match="give whole numbers such as 0,1,2 or 0-4"):
        parse_seeds(text)
