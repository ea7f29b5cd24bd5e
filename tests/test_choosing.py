"""What is chosen where the recipe says "auto": the plainest base that fits."""

import pytest

from workbench.cards import GIB, card_here, named_card
from workbench.choosing import MARGIN, choose, limited, settled
from workbench.footprint import PHASES, items, phase_bytes
from workbench.microbatches import FIRST_TOKENS
from workbench.planning import plan_of
from workbench.recipe import Recipe
from workbench.runs import attach, train
from workbench.shapes import find_shape
from workbench.trainer import prepare
from workbench.variants import WorkbenchError


def chosen(model, memory, **fields):
    sizes = {"prompts_per_step": 8, "group_size": 8, "max_new_tokens": 512}
    recipe = Recipe(model=model, quantize="auto", **(sizes | fields))
    shape, card = find_shape(model), named_card(memory)
    plan = plan_of(recipe, shape, card, 100)
    return shape, card, choose(shape, plan, card)


def test_more_memory_means_plainer_weights(qwen_1_5b):
    """16-bit weights and their copy are 5.5 GiB; NF4 and the copy 3.5 GiB; NF4 alone 1.1 GiB."""
    found = {gib: chosen(qwen_1_5b, gib)[2] for gib in (2, 5, 8, 24, 80)}
    order = [(c.fits, c.plan.quantize, c.plan.merged) for c in found.values()]
    assert order[0] == (False, "nf4", False)
    assert order[-1] == order[-2] == (True, "none", True)
    assert found[8].fits
    assert found[8].plan.quantize == "nf4"
    rank = [(fits, merged, quantize == "none") for fits, quantize, merged in order]
    assert rank == sorted(rank)  # never a worse choice on a larger card


@pytest.mark.parametrize("gib", [5, 8, 16, 40])
def test_what_fits_stays_within_the_margin(qwen_1_5b, gib):
    shape, card, choice = chosen(qwen_1_5b, gib)
    sums = phase_bytes(items(shape, choice.plan))
    evaluation = sums.pop("evaluation")
    within = max(sums.values()) <= MARGIN * card.free and evaluation <= card.free
    assert within == choice.fits


def test_what_the_recipe_says_is_left_alone(qwen_1_5b):
    shape, card = find_shape(qwen_1_5b), named_card(80)
    recipe = Recipe(model=qwen_1_5b, quantize="int8", microbatch_tokens=777)
    plan = plan_of(recipe, shape, card, 100)
    found = choose(shape, plan, card)
    assert (found.plan.quantize, found.plan.token_limit) == ("int8", 777)


def test_passes_and_decoding_are_limited_by_what_is_free(qwen_1_5b):
    recipe = Recipe(model=qwen_1_5b, prompts_per_step=32, group_size=32, max_new_tokens=512)
    shape = find_shape(qwen_1_5b)
    plans = []
    for gib in (8, 16, 80):
        card = named_card(gib)
        plan = limited(shape, plan_of(recipe, shape, card, 100), card)
        sums = phase_bytes(items(shape, plan))
        assert all(sums[phase] <= card.free for phase in PHASES), (gib, sums)
        plans.append(plan)
    assert plans[0].token_limit <= plans[1].token_limit < plans[2].token_limit
    assert plans[0].decode_limit < plans[1].decode_limit < plans[2].decode_limit
    assert plans[2].token_limit > FIRST_TOKENS


def test_the_cpu_sets_no_limit_on_tokens():
    shape, card = find_shape("tiny-strong"), card_here("cpu", measure=False)
    plan = plan_of(Recipe(), shape, card, 10)
    found = limited(shape, plan, card)
    assert found.token_limit == 0
    assert found.pass_rows == plan.rows


def test_a_settled_recipe_leaves_nothing_open(qwen_1_5b):
    recipe = Recipe(model=qwen_1_5b, task="gsm8k", quantize="auto", max_new_tokens=256)
    found, choice = settled(recipe, named_card(16))
    assert choice.fits
    assert found.quantize == choice.plan.quantize
    assert found.microbatch_tokens == choice.plan.token_limit > 0
    assert f"quantize {found.quantize}" in str(choice)
    assert settled(found, named_card(4)) == (found, None)
    kept, _ = settled(recipe.replace(microbatch_tokens=5000), named_card(16))
    assert kept.microbatch_tokens == 5000
    tight, choice = settled(recipe, named_card(1))
    assert tight.quantize == "nf4"
    assert str(choice).endswith("may not fit")


def test_a_run_notes_the_choice_and_repeats_it(toy_recipe, tmp_path):
    """On the CPU plain weights fit; the folder's recipe, events and run say so, and a resumed run too."""
    open = toy_recipe.replace(quantize="auto", steps=1)
    own = [reward for reward in open.rewards if callable(reward)]
    run = train(open, folder=tmp_path / "run").wait()
    assert run.recipe.quantize == "none"
    (event,) = [e for _, e in run.events.iterrows() if e["kind"] == "choice"]
    assert event["text"].startswith("chosen: quantize none")
    assert event["changes"]["quantize"] == ["auto", "none"]
    kept = Recipe.from_yaml((tmp_path / "run" / "recipe.yaml").read_text(), own)
    assert kept.quantize == "none"
    with attach(tmp_path / "run", functions=own) as again:
        again.update(steps=2)
        again.resume()
        again.wait()
        assert again.recipe.quantize == "none"
        assert [e["kind"] for _, e in again.events.iterrows()].count("choice") == 1


def test_without_a_run_it_must_be_settled_first(toy_recipe):
    with pytest.raises(WorkbenchError, match="Unknown quantize 'auto'; allowed: nf4"):
        prepare(toy_recipe.replace(quantize="auto"))
    found, _ = settled(toy_recipe.replace(quantize="auto"), card_here("cpu", measure=False))
    assert prepare(found).policy.quantize == "none"


def test_a_full_machine_keeps_to_4_bit():
    card = card_here("cpu", measure=False)
    full = card.__class__(**{**vars(card), "free": GIB // 2})
    found, choice = settled(Recipe(quantize="auto"), full)
    assert (found.quantize, choice.fits) == ("nf4", False)
