"""Claims as files: the shipped ones make recipes, and a wrong one is told in a sentence."""

import pytest

from workbench.claims import plan
from workbench.claims.plan import Geometry, claim_from, parse_seeds, read_claim
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
    assert plan.names() == [
        *("anchors", "instructions", "intrinsic", "intrinsic_countdown", "intrinsic_weak"),
        *("objectives", "start", "start_arithmetic", "start_fair", "start_weak"),
    ]


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
        ({"arms": {"a": {"probe_every": 4}}}, "Arm a of claim mine sets probe_every"),
        ({"compare": [["a", "bb"]]}, "Unknown arm in 'compare' of claim mine 'bb'.*mean 'b'"),
        ({"evaluation": {"samples": 8}}, r"asks for pass@64 of 8 samples"),
        ({"evaluation": {"sample": 8}}, r"part of claim mine's evaluation 'sample'.*'samples'"),
    ],
)
def test_a_wrong_claim_is_one_sentence(change, message):
    with pytest.raises(WorkbenchError, match=message):
        claim_from("mine", VALUES | change)


# ------------------------------------------------------------------ geometry

WATCHED = VALUES | {
    "recipe": VALUES["recipe"] | {"probe_every": 2},
    "seeds": [0, 1],
    "geometry": {"arm": "b", "seeds": [7, 8]},
}


def test_the_reference_has_seeds_of_its_own():
    claim = claim_from("mine", WATCHED)
    assert claim.geometry == Geometry("b", (7, 8), patience=3, margin=0.5, margins=(0, 0.5, 1, 2))
    assert claim.seeds_of("a") == (0, 1)
    assert claim.seeds_of("b") == (0, 1, 7, 8)
    assert claim_from("mine", VALUES).geometry is None
    assert claim_from("mine", VALUES).seeds_of("b") == (0, 1, 2, 3, 4)
    for arm in "ab":  # all arms take the same probes
        assert claim.recipe_of(arm).probe_every == 2


def test_a_geometry_s_settings_are_read():
    given = {"arm": "b", "seeds": [7], "patience": 2, "margin": 0.25, "margins": [0, 3]}
    claim = claim_from("mine", WATCHED | {"geometry": given})
    assert claim.geometry == Geometry("b", (7,), 2, 0.25, (0, 3))


def test_a_smoke_claim_takes_few_small_probes_and_none_where_there_are_none():
    claim = claim_from("mine", WATCHED).smoke()
    assert (claim.seeds_of("a"), claim.seeds_of("b")) == ((0,), (0, 7))
    assert (claim.geometry.patience, claim.geometry.margins) == (1, (0.0, 0.5, 1.0, 2.0))
    small = claim.recipe_of("b")
    assert (small.probe_every, small.probe_prompts, small.probe_samples) == (1, 4, 4)
    assert claim_from("mine", VALUES).smoke().recipe_of("a").probe_every == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {}}, "Claim mine has a geometry but no probes; give probe_every in recipe"),
        ({"recipe": {"probe_every": 0}}, "has a geometry but no probes"),
        ({"geometry": {"arm": "c", "seeds": [7]}}, "Unknown reference arm of claim mine 'c'"),
        ({"geometry": {"seeds": [7]}}, "Unknown reference arm of claim mine ''; allowed: a, b"),
        ({"geometry": {"arm": "b"}}, "needs seeds of the geometry's reference that are none of"),
        ({"geometry": {"arm": "b", "seeds": []}}, "needs seeds of the geometry's reference"),
        ({"geometry": {"arm": "b", "seeds": [7, 1]}}, "no run is judged by an envelope it belongs"),
        (
            {"geometry": {"arm": "b", "seeds": [7], "patiens": 2}},
            "part of claim mine's geometry 'patiens'.*Did you mean 'patience'",
        ),
    ],
)
def test_a_wrong_geometry_is_one_sentence(change, message):
    with pytest.raises(WorkbenchError, match=message):
        claim_from("mine", WATCHED | change)


def test_the_default_seeds_are_none_of_the_reference_s():
    values = {key: value for key, value in WATCHED.items() if key != "seeds"}
    with pytest.raises(WorkbenchError, match="none of its seeds"):
        claim_from("mine", values | {"geometry": {"arm": "b", "seeds": [4]}})
    assert claim_from("mine", values).seeds_of("b") == (0, 1, 2, 3, 4, 7, 8)


# ------------------------------------------------------------------ extends

PARENT = """
title: The parent
questions: ["Why?"]
recipe: {steps: 5, objective: grpo, probe_every: 2}
evaluation: {samples: 16, ks: [1, 16]}
seeds: [0, 1]
arms:
  a: {note: first, objective: rloo}
  b: {}
  c: {beta: 0.5}
geometry: {arm: b, seeds: [7]}
compare: [[a, base], [a, b], [c, b]]
expect:
  - {who: me, says: up, arm: a, control: base, metric: pass@1, sign: 1}
  - {who: you, says: down, arm: c, control: a, metric: pass@1, sign: -1}
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Text of a claim -> that claim; the only shipped one is `parent`."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "parent.yaml").write_text(PARENT)
    monkeypatch.setattr(plan, "data_path", lambda folder, *names: shipped.joinpath(*names))

    def read(text):
        (tmp_path / "child.yaml").write_text(text)
        return read_claim(tmp_path / "child.yaml")

    return read


def test_a_claim_that_extends_another_says_only_what_differs(child):
    claim, parent = child("extends: parent\nrecipe: {steps: 9, beta: 0.1}\n"), read_claim("parent")
    assert (claim.name, claim.title, claim.questions) == ("child", "The parent", ("Why?",))
    assert claim.shared == {"steps": 9, "objective": "grpo", "probe_every": 2, "beta": 0.1}
    for part in ("evaluation", "seeds", "arms", "notes", "compare", "expect", "geometry"):
        assert getattr(claim, part) == getattr(parent, part), part
    assert parent.shared["steps"] == 5
    assert claim.recipe_of("a").name == "child-a"


def test_a_list_of_arms_chooses_and_drops_what_needs_the_others(child):
    claim = child("extends: parent\narms: [b, a]\ntitle: Two\n")
    assert claim.title == "Two"
    assert claim.arms == {"b": {}, "a": {"objective": "rloo"}}
    assert claim.notes["a"] == "first"
    assert claim.compare == (("a", "base"), ("a", "b"))
    assert [item.who for item in claim.expect] == ["me"]
    assert claim.geometry == Geometry("b", (7,))


def test_arms_comparisons_and_expectations_of_its_own_replace_the_others(child):
    claim = child("extends: parent\narms: {b: {}, d: {beta: 0.2}}\ncompare: [[d, b]]\n")
    assert claim.arms == {"b": {}, "d": {"beta": 0.2}}
    assert (claim.compare, claim.expect) == ((("d", "b"),), ())
    line = "{who: they, says: up, arm: c, control: b, metric: pass@1, sign: 1}"
    claim = child(f"extends: parent\nexpect: [{line}]\n")
    assert [item.who for item in claim.expect] == ["they"]
    assert len(claim.compare) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: parnt", "Unknown claim to extend 'parnt'.*Did you mean 'parent'"),
        ("extends: parent\narms: [a, bb]", "Unknown arm 'bb'.*Did you mean 'b'"),
        ("extends: parent\narms:", "Claim child has no arms"),
        ("arms: [a, b]", "Claim child has no arms"),  # of which claim?
        ("extends: parent\narms: [a, c]", "Unknown reference arm of claim child 'b'"),
        # A slip in its own lines is told; only the other claim's are dropped.
        ("extends: parent\narms: [a, b]\ncompare: [[a, c]]", "Unknown arm in 'compare'.*'c'"),
        (
            "extends: parent\nexpect: [{who: me, arm: a}]",
            "In 'expect' of claim child give each line who, says, arm, control, metric, sign",
        ),
        ("extends: parent\nsteps: 4", "Unknown part of claim child 'steps'"),
    ],
)
def test_a_wrong_extension_is_one_sentence(child, text, message):
    with pytest.raises(WorkbenchError, match=message):
        child(text)


def test_the_shipped_extensions_differ_in_what_they_name():
    strong, weak, countdown = (
        read_claim(name) for name in ("intrinsic", "intrinsic_weak", "intrinsic_countdown")
    )
    assert weak.shared == strong.shared | {"model": "tiny-weak"}
    assert (weak.arms, weak.seeds, weak.geometry) == (strong.arms, strong.seeds, strong.geometry)
    assert countdown.shared == strong.shared | {"task": "countdown"}
    assert set(countdown.arms) < set(strong.arms)
    assert ("avg_ent", "length") in countdown.compare and countdown.expect


# ------------------------------------------------------------------ files and seeds


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
