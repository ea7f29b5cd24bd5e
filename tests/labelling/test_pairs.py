"""Pseudo-labels: who stands against whom, balanced for answers and constraints, no chain on two sides."""

from collections import Counter

import pytest

from workbench.labelling.pairs import Ladder, Pair, climb, pairs_of, split_by_chain
from workbench.models import load_policy
from workbench.tasks import make_task
from workbench.tasks.demands import Constraint
from workbench.tasks.instructions import row_of, rungs
from workbench.tasks.lines import Chain

TASK = make_task("instructions", chains=8)
MOOD = Constraint("mood", {"mood": "sad"}, "Sound sad.")
COUNT = Constraint("count", {"count": 2}, "Use 2 words.")
TOPIC = Constraint("topic", {"topic": "sea"}, "Speak of the sea.")
STYLE = Constraint("style", {"style": "bare"}, "Keep the style bare.")


def ladder(number, constraints, answers):
    row = row_of(Chain("Write a note.", tuple(constraints)), number, len(constraints))
    return Ladder(number, row, answers)


def said(pairs):
    return [(pair.constraint, pair.kept, pair.missed) for pair in pairs]


def test_each_soft_constraint_stands_with_against_without():
    made = ladder(4, [MOOD, COUNT, TOPIC], [["a", "e"], ["b", "f"], ["c", "g"], ["d", "h"]])
    pairs = pairs_of([made], TASK)
    assert said(pairs) == [
        ("Sound sad.", "b", "a"),
        ("Sound sad.", "f", "e"),
        ("Speak of the sea.", "d", "c"),
        ("Speak of the sea.", "h", "g"),
    ]
    assert {(pair.chain, pair.hard) for pair in pairs} == {(4, False)}
    both = pairs_of([made], TASK, hard=True)
    assert said(both)[2:4] == [("Use 2 words.", "c", "b"), ("Use 2 words.", "g", "f")]
    assert [pair.hard for pair in both] == [False, False, True, True, False, False]


def test_truth_is_told_of_both_answers_and_never_decides():
    answers = [["gray wave sits"], ["golden moss"], ["moss sits now"], ["wave sits"]]
    pairs = pairs_of([ladder(0, [MOOD, COUNT, TOPIC], answers)], TASK, hard=True)
    assert [(p.kind, p.kept_truth, p.missed_truth) for p in pairs] == [
        ("mood", False, True),  # both labels wrong
        ("count", False, True),
        ("topic", True, False),
    ]


def test_malformed_and_equal_answers_are_left_out_pair_by_pair():
    answers = [["a", "b", None, "c"], ["a", None, "d", "e"]]
    assert said(pairs_of([ladder(0, [MOOD], answers)], TASK)) == [("Sound sad.", "e", "c")]


def test_far_pairs_put_every_lower_rung_against_one_that_has_the_constraint():
    constraints = [MOOD, TOPIC, STYLE]
    answers = [[f"{rung}"] for rung in range(4)]
    seen = Counter()
    for seed in range(40):
        pairs = pairs_of([ladder(0, constraints, answers)], TASK, far=True, seed=seed)
        for k, constraint in enumerate(constraints, 1):
            own = [(int(p.kept), int(p.missed)) for p in pairs if p.constraint == constraint.text]
            assert [j for _, j in own] == list(range(k))  # k contrasts
            assert all(i >= k > j for i, j in own)
            seen.update((k, i) for i, _ in own)
    assert set(seen) == {(k, i) for k in (1, 2, 3) for i in range(k, 4)}
    again = [pairs_of([ladder(0, constraints, answers)], TASK, far=True, seed=s) for s in (1, 1, 2)]
    assert again[0] == again[1] and again[0] != again[2]


@pytest.mark.parametrize("far", [False, True])
def test_labels_balance_for_every_constraint_and_for_answers_of_middle_rungs(far):
    """So neither the constraint alone nor, of a middle rung, the answer alone can tell the label."""
    constraints = [MOOD, TOPIC, STYLE]
    made = [
        ladder(n, constraints, [[f"{n} {rung} {s}" for s in range(3)] for rung in range(4)])
        for n in range(5)
    ]
    pairs = pairs_of(made, TASK, far=far)
    kept, missed = (Counter(p.constraint for p in pairs) for _ in range(2))
    assert kept == missed and len(kept) == 3
    if not far:
        labels = Counter((p.kept, 1) for p in pairs) + Counter((p.missed, 0) for p in pairs)
        for n in range(5):
            for rung in (1, 2):
                assert labels[f"{n} {rung} 0", 1] == labels[f"{n} {rung} 0", 0] == 1
            assert (labels[f"{n} 0 0", 1], labels[f"{n} 3 0", 0]) == (0, 0)


def test_no_chain_is_on_both_sides_and_the_seed_decides():
    pairs = [Pair(n // 4, "mood", "c", f"{n}", "", None, None) for n in range(80)]
    train, held = split_by_chain(pairs, 0.2, seed=0)
    assert len(train) + len(held) == 80 and len({p.chain for p in held}) == 4
    assert not {p.chain for p in train} & {p.chain for p in held}
    assert (train, held) == split_by_chain(pairs, 0.2, seed=0) != split_by_chain(pairs, 0.2, seed=1)
    assert split_by_chain(pairs[:4], 0.2, seed=0) == (pairs[:4], [])  # one chain is to train on
    assert split_by_chain([], 0.2, seed=0) == ([], [])


def test_the_policy_answers_every_rung(toy_scribe, monkeypatch):
    from workbench.labelling import pairs as module

    policy = load_policy(toy_scribe, quantize="none", lora_rank=4, device="cpu")
    rows = TASK.whole_chains("train")[:5]
    asked = []

    def spy(policy, conversations, **settings):
        asked.append([said[0]["content"] for said in conversations])
        return sample(policy, conversations, **settings)

    sample = module.sample
    monkeypatch.setattr(module, "sample", spy)
    sizes = {"samples": 3, "max_new_tokens": 10, "seed": 2}
    ladders = climb(policy, TASK, rows, **sizes)
    assert [text for part in asked for text in part] == [
        text for row in rows for text in rungs(row)
    ]
    for number, made in enumerate(ladders):
        assert (made.number, made.row) == (number, rows[number])
        assert [len(some) for some in made.answers] == [3] * 6
    answers = [a for made in ladders for some in made.answers for a in some]
    assert None in answers and all(a is None or a.strip() == a != "" for a in answers)
    assert climb(policy, TASK, rows, **sizes) == ladders
    assert climb(policy, TASK, rows, **sizes | {"seed": 3}) != ladders

    monkeypatch.setattr(module, "ROWS", 12)  # four prompts at once
    asked.clear()
    parts = climb(policy, TASK, rows, **sizes)
    assert [len(part) for part in asked] == [4] * 7 + [2]
    assert [len(made.answers) for made in parts] == [6] * 5
    shorter = [
        dict(rows[0]) | {"constraint": rows[0]["constraint"][:0], "prompt": "Do it."},
        rows[1],
    ]
    assert [len(made.answers) for made in climb(policy, TASK, shorter, **sizes)] == [1, 6]
