"""Forecasts: their table and text, what to lower, and the real bytes of a run beside the foretold ones."""

import pytest
import torch

from workbench.choosing import limited
from workbench.footprint import GIB, PHASES, peak_bytes
from workbench.forecast import LOWERED, forecast
from workbench.recipe import Recipe


def recipe_for(model, **fields):
    sizes = {"prompts_per_step": 8, "group_size": 8, "max_new_tokens": 512, "beta": 0.01}
    return Recipe(**({"model": model, "task": "gsm8k"} | sizes | fields))


def test_the_table_holds_every_line_and_their_sums(qwen_1_5b):
    found = forecast(recipe_for(qwen_1_5b), memory=16)
    table = found.table()
    assert list(table.columns) == [*PHASES, "exact"]
    sums = table.loc["sum", list(PHASES)].astype(float)
    assert table[list(PHASES)].iloc[:-1].sum().to_list() == pytest.approx(sums.to_list())
    assert sums.max() * GIB == pytest.approx(found.peak)
    assert sums.idxmax() == found.peak_phase
    assert bool(table.loc["LoRA of rank 16, fp32", "exact"])
    assert table.loc["LoRA of rank 16, fp32", "update"] == pytest.approx(4 * 18_464_768 / GIB)


@pytest.mark.parametrize("memory", [2, 8, "T4", "H100", None])
def test_the_text_is_narrow_and_says_whether_it_fits(qwen_1_5b, memory):
    found = forecast(recipe_for(qwen_1_5b, quantize="auto"), memory)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    assert repr(found) == str(found)
    said = "It fits, with" if found.fits else "It does not fit:"
    assert sum(line.startswith(said) for line in lines) == 1
    (peak,) = [line for line in lines if line.startswith("Peak: ")]
    assert f"during {found.peak_phase};" in peak
    assert any(line.startswith("Chosen for this card: quantize") for line in lines)
    timed = [line for line in lines if line.startswith("A step takes at least")]
    assert bool(timed) == (memory not in (2, 8))
    assert ("--memory T4" in str(found)) == (memory in (2, 8))


@pytest.mark.parametrize(
    ("limit", "first"),
    [(100_000, "max_new_tokens 512 to 256"), (8192, "microbatch_tokens to 3684")],
)
def test_advice_says_what_each_would_save(qwen_1_5b, limit, first):
    """Under a limit on tokens shorter completions save little: more of them go in a pass."""
    recipe = recipe_for(qwen_1_5b, microbatch_tokens=limit)
    found = forecast(recipe.replace(merged="always"), memory=5, prompt_tokens=100)
    assert not found.fits
    advice = found.advice()
    places = [lower(found.plan) for lower in LOWERED]
    plans = dict(place for place in places if place is not None)
    for each in advice:
        assert each.saves == max(0, found.peak - peak_bytes(found.shape, plans[each.what]))
    named = [each.what for each in advice]
    assert named == [what for what in plans if what in named]  # in the order of the list
    assert first in named[:2]
    assert any("merged copy" in what for what in named)
    peaks = [each.peak for each in advice]
    assert peaks == sorted(peaks, reverse=True)
    enough = [i for i, peak in enumerate(peaks) if peak <= found.card.free]
    marked = [line for line in str(found).splitlines() if line.endswith("  fits")]
    assert len(marked) == bool(enough)
    if enough:
        assert marked[0].strip().startswith(named[enough[0]])


def test_a_copy_is_made_where_it_takes_under_half_of_what_is_free(qwen_1_5b):
    """2.44 GiB of copy beside 1.7 GiB that loading holds: from 6.6 GiB on, and before if it must."""
    found = {gib: forecast(recipe_for(qwen_1_5b), gib).plan.merged for gib in (6, 7)}
    assert found == {6: False, 7: True}
    assert forecast(recipe_for(qwen_1_5b, merged="always"), 6).plan.merged
    assert not forecast(recipe_for(qwen_1_5b, merged="never"), 80).plan.merged


def test_what_cannot_be_lowered_is_not_advised(qwen_1_5b):
    small = forecast(
        recipe_for(
            qwen_1_5b, max_new_tokens=1, prompts_per_step=1, group_size=2, microbatch=1, eval_prompts=1,
            eval_samples=1,
        ),
        memory=16,
    )  # fmt: skip
    plan = small.plan.replace(merged=False, checkpointing=True, group=1)
    plan = plan.replace(optimizer="adamw8bit")
    assert [lower(plan) for lower in LOWERED] == [None] * len(LOWERED)


def test_a_given_prompt_length_is_taken(qwen_1_5b):
    short, long = (forecast(recipe_for(qwen_1_5b), 16, prompt_tokens=n) for n in (50, 500))
    assert (short.plan.prompt_tokens, short.plan.prompt_source) == (50, "given")
    assert long.phases["sampling"] > short.phases["sampling"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_a_step_on_a_gpu_is_foretold_within_a_third(toy_family):
    """Of what torch allocates: the context and what lies in pieces are not in its count."""
    from workbench.trainer import prepare, train_step

    recipe = Recipe(
        model=toy_family("llama"), prompts_per_step=8, group_size=16, max_new_tokens=64,
        microbatch_tokens=16384, rewards={"length": 1.0},
    )  # fmt: skip
    found = forecast(recipe, measure=False)
    state = prepare(recipe)
    torch.cuda.reset_peak_memory_stats()
    train_step(state, recipe)
    assumed = sum(line.bytes["update"] for line in found.items if "assumed" in line.name)
    foretold = max(found.phases["update"], found.phases["sampling"]) - assumed
    assert 0.67 < torch.cuda.max_memory_allocated() / foretold < 1.33


def test_limits_are_those_of_the_card(qwen_1_5b):
    found = forecast(recipe_for(qwen_1_5b), memory=16)
    assert found.plan == limited(found.shape, found.plan.replace(token_limit=0), found.card)
