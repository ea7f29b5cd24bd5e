"""Groups without signal make room for new ones; all else stays where it was."""

import pytest
import torch

from workbench.reading import read
from workbench.refill import refilled, replace_groups
from workbench.rollout import sample
from workbench.scoring import Scored

TEXTS = ("make 7 from 3 4 1", "make 9 from 1 2 8 please", "make 1 from 1 1 1", "make 5 from 2 3 4")


def scored(policy, chosen, advantages, *, tokens=6, seed=0):
    prompts = [[{"role": "user", "content": TEXTS[i]}] for i in chosen]
    rows = [{"number": i} for i in chosen]
    rollouts = sample(policy, prompts, rows=rows, group_size=2, max_new_tokens=tokens, seed=seed)
    values_PG = torch.tensor(advantages, dtype=torch.float32)[:, None] * torch.tensor([1.0, -1.0])
    values = {"r": values_PG + 1}, values_PG + 1, values_PG, 2 * values_PG
    notes = {"r": [f"{seed}/{b // 2}/{b % 2}" for b in range(2 * len(chosen))]}
    return Scored(rollouts, *values, 1.0, 0.5, {"r/seed": float(seed)}, notes)


def test_dead_groups_take_the_live_ones_of_each_round_in_turn(policy_of):
    policy = policy_of()
    first = scored(policy, [0, 1, 2], [0.0, 3.0, 0.0])
    asked = []

    def draw(number, count):
        asked.append((number, count))
        return scored(policy, [3, 1][:count], [5.0 * number, 0.0][:count], tokens=9, seed=number)

    batch, replaced = refilled(first, 3, draw)
    assert asked == [(1, 2), (2, 1)] and replaced == [0, 2]
    assert batch.advantages_PG[:, 0].tolist() == [5.0, 3.0, 10.0]
    assert batch.thought_advantages_PG[:, 0].tolist() == [10.0, 6.0, 20.0]
    assert batch.rewards["r"][:, 0].tolist() == [6.0, 4.0, 11.0]
    assert [row["number"] for row in batch.rollouts.rows] == [3, 1, 3]
    assert batch.sample_seconds == 3.0 and batch.reward_seconds == 1.5
    # What rewards say of a completion goes with it; numbers stay those of the prompts that were drawn.
    assert batch.notes == {"r": ["1/0/0", "1/0/1", "0/1/0", "0/1/1", "2/0/0", "2/0/1"]}
    assert batch.numbers == {"r/seed": 0.0}


def test_without_rounds_nothing_is_drawn(policy_of):
    first = scored(policy_of(), [0, 1], [0.0, 1.0])

    def never(number, count):
        raise AssertionError("drawn")

    batch, replaced = refilled(first, 0, never)
    assert batch is first and replaced == []


def test_places_stay_dead_where_no_round_helps(policy_of):
    policy = policy_of()
    first = scored(policy, [0, 1], [0.0, 1.0])
    batch, replaced = refilled(first, 2, lambda number, count: scored(policy, [3], [0.0]))
    assert replaced == [] and batch.dead() == [0]
    assert batch.rollouts.rows == first.rollouts.rows


@pytest.mark.parametrize("long", [4, 12])
def test_a_merged_batch_reads_as_its_parts_did(policy_of, long):
    """Prompts and completions of other lengths are padded on their own side."""
    policy = policy_of()
    first = scored(policy, [0, 2], [1.0, 1.0], tokens=8)
    fresh = scored(policy, [3, 1], [1.0, 1.0], tokens=long, seed=5)
    merged = replace_groups(first, [1], fresh, [1]).rollouts
    assert merged.prompts == [first.rollouts.prompts[0], fresh.rollouts.prompts[1]]
    assert merged.completions == first.rollouts.completions[:2] + fresh.rollouts.completions[2:]
    parts = (first.rollouts.select([0, 1]), fresh.rollouts.select([2, 3]))
    with torch.no_grad():
        whole = read(policy, merged).logprobs_entropies()[0]
        for number, part in enumerate(parts):
            alone = read(policy, part).logprobs_entropies()[0]
            rows = whole[2 * number : 2 * number + 2, : alone.shape[1]]
            torch.testing.assert_close(rows, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, merged.logprobs_BT, atol=1e-4, rtol=1e-4)
