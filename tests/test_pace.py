"""Bounds on seconds, worked out by hand for Qwen2.5-1.5B."""

import dataclasses

import pytest

from workbench.cards import named_card
from workbench.pace import forward_flops, least_seconds, seen_bytes, token_flops, weights_read
from workbench.planning import plan_of
from workbench.recipe import Recipe
from workbench.shapes import find_shape

LINEAR, HEAD = 1_310_195_712, 233_373_696


@pytest.fixture(scope="module")
def qwen(qwen_1_5b):
    shape, card = find_shape(qwen_1_5b), named_card("A100-80")
    recipe = Recipe(
        model=qwen_1_5b, prompts_per_step=8, group_size=8, max_new_tokens=512, beta=0.1,
        microbatch_tokens=4096,
    )  # fmt: skip
    return shape, plan_of(recipe, shape, card, 100), card


def test_a_decoding_step_reads_weights_keys_and_values(qwen):
    shape, plan, _ = qwen
    # The tied matrix is read as the head; looking tokens up in it reads next to nothing.
    assert weights_read(shape, plan) == 2 * 1_543_714_304
    assert seen_bytes(shape, plan, 356) == 64 * 356 * 28_672
    # Without the copy: 4-bit weights, the plain ones written out, and read; LoRA in fp32.
    apart = plan.replace(merged=False, device="cuda")
    assert weights_read(shape, apart) == (
        2 * 1_543_714_304 + 676_103_568 + 2 * LINEAR + 4 * 18_464_768
    )


def test_flops_of_a_token(qwen):
    shape, plan, _ = qwen
    attention = 28 * 4 * 12 * 128 * 100  # 2 for the scores, 2 for the values
    assert token_flops(shape, plan, 100) == 2 * (LINEAR + HEAD) + attention
    apart = plan.replace(merged=False)
    assert token_flops(shape, apart, 0) == 2 * (LINEAR + HEAD + 18_464_768)
    assert forward_flops(shape, plan, 3, 200) == 600 * token_flops(shape, plan, 100)


def test_a_window_bounds_what_is_read_and_attended_to(qwen):
    shape, plan, _ = qwen
    windowed = dataclasses.replace(
        shape, layers=tuple(dataclasses.replace(x, window=50) for x in shape.layers)
    )
    assert seen_bytes(windowed, plan, 356) == seen_bytes(shape, plan, 50)
    assert token_flops(windowed, plan, 356) == token_flops(shape, plan, 50)


def test_a_step_is_bound_by_bandwidth_and_then_by_products(qwen):
    shape, plan, card = qwen
    pace = least_seconds(shape, plan, card)
    prefill = 8 * 100 * token_flops(shape, plan, 50) / card.flops
    step = (2 * 1_543_714_304 + 64 * 356 * 28_672) / card.bandwidth
    assert pace.sampling == pytest.approx(prefill + 511 * step)
    apart = plan.replace(merged=False)
    forward = 800 * token_flops(shape, apart, 50) + 64 * 511 * token_flops(shape, apart, 356)
    assert pace.reference == pytest.approx(forward / card.flops)
    assert plan.checkpointing  # by itself, for a model of this size on a GPU
    assert pace.update == pytest.approx(3 * forward / card.flops)
    assert pace.step == pace.sampling + pace.reference + pace.update
    slow = dataclasses.replace(card, flops=1e12)
    products = 64 * token_flops(shape, plan, 356) / 1e12
    assert least_seconds(shape, plan, slow).sampling == pytest.approx(
        prefill * card.flops / 1e12 + 511 * products
    )


def test_checkpointing_runs_the_forward_pass_once_more(qwen):
    shape, plan, card = qwen
    without = least_seconds(shape, plan.replace(checkpointing=False), card)
    again = least_seconds(shape, plan.replace(checkpointing=True), card)
    assert again.update == pytest.approx(1.5 * without.update)
    twice = least_seconds(shape, plan.replace(checkpointing=False, passes=2), card)
    assert twice.update == pytest.approx(2 * without.update)


def test_no_reference_no_time_and_no_speed_no_pace(qwen):
    shape, plan, card = qwen
    assert least_seconds(shape, plan.replace(reference=False), card).reference == 0
    assert least_seconds(shape, plan, named_card(16)) is None
