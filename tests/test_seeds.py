"""The order of prompts and the seeds of the steps."""

from types import SimpleNamespace

import torch

from workbench.recipe import Recipe
from workbench.seeds import (
    LABELS,
    REFILL,
    minibatches,
    open_rows,
    prompt_indices,
    refill_indices,
    seeded_dropout,
    step_seed,
)
from workbench.tasks import make_task


def test_every_row_is_used_once_before_any_is_used_again():
    recipe = Recipe(prompts_per_step=3)
    walked = [i for step in range(1, 8) for i in prompt_indices(recipe, step, 7)]
    assert sorted(walked[:7]) == sorted(walked[7:14]) == list(range(7))
    assert walked[:7] != walked[7:14]
    assert prompt_indices(recipe, 5, 7) == walked[12:15]  # a function of the step alone
    assert prompt_indices(recipe.replace(seed=1), 1, 7) != walked[:3]


def test_seeds_differ_by_run_step_and_stream():
    seeds = {step_seed(r, s, k) for r in range(5) for s in range(5) for k in range(3)}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 2, 0) == step_seed(1, 2, 0)


def test_refills_are_drawn_apart_from_the_walk():
    recipe = Recipe(prompts_per_step=3)
    first = refill_indices(recipe, 4, 1, 5, 100)
    assert len(set(first)) == 5 and first == refill_indices(recipe, 4, 1, 5, 100)
    assert first != refill_indices(recipe, 4, 2, 5, 100)
    assert first != refill_indices(recipe.replace(seed=1), 4, 1, 5, 100)
    assert len(refill_indices(recipe, 4, 1, 9, 2)) == 9  # more than there are rows


def test_dropout_is_seeded_inside_and_the_global_generator_put_back():
    cpu = torch.device("cpu")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded_dropout(Recipe(lora_dropout=0.1), 3, cpu):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with seeded_dropout(Recipe(lora_dropout=0.1), 3, cpu):
        assert torch.equal(torch.rand(2), first)
    with seeded_dropout(Recipe(lora_dropout=0.1), 4, cpu):
        assert not torch.equal(torch.rand(2), first)


def test_minibatches_hold_whole_groups_each_once_an_epoch():
    recipe = Recipe(epochs=2, minibatches=2, group_size=4, prompts_per_step=3)
    rollouts = SimpleNamespace(P=3, G=4, B=12, mask_BT=torch.ones(12, 1))
    parts = [part.tolist() for part in minibatches(recipe, 1, rollouts)]
    assert parts[:2] == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]]
    assert sorted(parts[2] + parts[3]) == list(range(12))
    assert all(part[i : i + 4] == list(range(part[i], part[i] + 4)) for part in parts for i in (0,))


# Three chains of 3, 1 and 2 rungs, their rows mixed.
ROWS = {"chain": [2, 0, 1, 0, 2, 0], "level": [1, 3, 1, 1, 2, 2]}


class Rows(dict):
    def __len__(self):
        return len(self["level"])


def opened(curriculum, step, steps=9, rows=ROWS):
    recipe = Recipe(
        task="instructions", rewards={"correct": 1.0}, curriculum=curriculum, steps=steps
    )
    return open_rows(recipe, step, Rows(rows))


def test_shuffled_draws_from_all_rows():
    assert list(opened("shuffled", 1)) == list(opened("shuffled", 9)) == list(range(6))


def test_stages_share_the_steps_evenly_with_the_lowest_level_first():
    by_level = {1: [0, 2, 3], 2: [4, 5], 3: [1]}
    for step in range(1, 10):
        assert opened("staged", step) == by_level[(step + 2) // 3]
    assert [opened("staged", step, steps=4) for step in range(1, 5)] == [
        by_level[1], by_level[1], by_level[2], by_level[3],
    ]  # fmt: skip
    assert opened("staged", 12) == by_level[3]  # beyond the end it stays at the last
    assert opened("staged", 1, steps=1) == by_level[1]


def test_full_draws_from_the_last_rung_of_each_chain():
    assert opened("full", 1) == opened("full", 9) == [1, 2, 4]


def test_one_draws_one_rung_of_each_chain_and_all_levels_equally_often():
    assert opened("one", 1) == opened("one", 5) == [3, 2, 0]  # rungs 0 % 3, 1 % 1 and 2 % 2
    task = make_task("instructions", chains=20, constraints=4)
    rows = task.dataset("train")
    recipe = Recipe(task="instructions", rewards={"correct": 1.0}, curriculum="one")
    found = open_rows(recipe, 3, rows)
    assert [rows[i]["chain"] for i in found] == list(range(20))
    assert [rows[i]["level"] for i in found] == [1, 2, 3, 4] * 5
    full = [rows[i]["level"] for i in open_rows(recipe.replace(curriculum="full"), 3, rows)]
    assert full == [4] * 20


def test_labels_have_a_stream_that_no_refill_reaches():
    assert REFILL + 16 < LABELS
