"""Plans of recipes, and how long prompts are."""

import pytest

from workbench.cards import card_here, named_card
from workbench.models import load_policy
from workbench.planning import UNSEEN, plan_of, prompt_length
from workbench.recipe import Recipe
from workbench.shapes import find_shape


@pytest.fixture(scope="module")
def tiny():
    return find_shape("tiny-strong")


def test_a_plan_takes_its_sizes_from_the_recipe(tiny):
    recipe = Recipe(
        prompts_per_step=6, group_size=4, extra_votes=2, max_new_tokens=30, microbatch=8, epochs=2,
        beta=0.1, reference="moving_average", eval_prompts=10, eval_samples=7,
    )  # fmt: skip
    plan = plan_of(recipe, tiny, card_here("cpu", measure=False), 10)
    assert (plan.prompts, plan.group, plan.rows) == (6, 6, 36)
    assert (plan.pass_rows, plan.pass_prompts) == (8, 2)
    assert plan.pass_tokens == 2 * 10 + 8 * 29
    assert plan.batch_tokens == 6 * 10 + 36 * 29
    assert (plan.passes, plan.reference, plan.moving) == (2, True, True)
    assert plan.eval_rows == 70
    assert (plan.device, plan.compute_bytes) == ("cpu", 4)
    assert not plan.checkpointing


def test_a_limit_on_tokens_is_kept_as_microbatches_count_them(tiny):
    recipe = Recipe(prompts_per_step=2, group_size=4, max_new_tokens=30, microbatch_tokens=150)
    plan = plan_of(recipe, tiny, card_here("cpu", measure=False), 10)
    assert [plan.padded_tokens(rows) for rows in (4, 5)] == [10 + 120, 20 + 150]
    assert plan.pass_rows == 4
    assert plan.replace(token_limit=5).pass_rows == 1
    assert plan.replace(token_limit=0).pass_rows == 8


def test_an_anchor_without_weight_needs_no_reference(tiny):
    card = card_here("cpu", measure=False)
    assert not plan_of(Recipe(), tiny, card, 10).reference
    assert not plan_of(Recipe(beta=0.1, anchor="none"), tiny, card, 10).reference


def test_a_gpu_computes_in_16_bit(tiny):
    plan = plan_of(Recipe(), tiny, named_card(8), 10)
    assert (plan.device, plan.compute_bytes, plan.memory) == ("cuda", 2, 8 * 2**30)


def test_prompts_are_as_long_as_the_policy_makes_them():
    recipe = Recipe(task="arithmetic")
    tokens, source = prompt_length(recipe)
    policy, task = load_policy("tiny-strong", device="cpu"), recipe.make_task()
    rows = task.dataset("train")
    ids_PL, _ = policy.encode(policy.render([task.messages(rows[i]) for i in range(64)]))
    assert tokens == ids_PL.shape[1]
    assert source == "the longest of 64"


def test_without_a_tokenizer_or_prompts_the_length_is_a_guess(qwen_1_5b):
    recipe = Recipe(model=qwen_1_5b, task="gsm8k")
    task = recipe.make_task()
    rows = task.dataset("train")
    longest = max(len(task.messages(rows[i])[0]["content"]) for i in range(min(64, len(rows))))
    assert prompt_length(recipe) == (-(-longest // 3) + 40, "a guess: 3 letters a token")
    hub = recipe.replace(task_args={"source": "openai/gsm8k", "subset": "main"})
    assert prompt_length(hub) == (UNSEEN, "a guess: the prompts of openai/gsm8k are not here")
