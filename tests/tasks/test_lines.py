"""Chains that some line keeps, and lines that keep what they were asked for and are random otherwise."""

import random
from collections import Counter

import pytest

from workbench.tasks.demands import HELD_OUT, KINDS, SOFT, Constraint, draw, exclude, keeps
from workbench.tasks.lexicon import AND, THE, WORDS, words_of
from workbench.tasks.lines import (
    MARK_WEIGHTS,
    SOFT_SHARE,
    Chain,
    compose,
    draw_chain,
    seeds,
    structures,
    vocabulary,
)


def asked(kind, **arguments):
    return Constraint(kind, arguments, "")


def test_the_splits_share_no_seed_and_hold_all():
    train, held_out = seeds("train"), seeds("eval")
    assert not set(train) & set(held_out) and len(held_out) >= 10
    assert len(set(train + held_out)) == 4 * 5 * 8
    assert all(seed.endswith(".") for seed in train)


def test_a_prompt_is_the_seed_with_its_first_constraints():
    two = (Constraint("mood", {}, "Sound sad."), Constraint("count", {}, "Use 7 words."))
    chain = Chain("Write a note for Anna.", two)
    assert [chain.prompt(k) for k in range(3)] == [
        "Write a note for Anna.",
        "Write a note for Anna. Sound sad.",
        "Write a note for Anna. Sound sad. Use 7 words.",
    ]


@pytest.mark.parametrize("kinds", ["trained", "held_out", "all"])
@pytest.mark.parametrize("length", [1, 2, 5, 7])
def test_a_chain_has_each_kind_once_and_a_line_that_keeps_it(kinds, length):
    rng = random.Random(length)
    for _ in range(25):
        chain = draw_chain(rng, "eval", length, kinds)
        drawn = [one.kind for one in chain.constraints]
        assert chain.seed in seeds("eval") and len(set(drawn)) == len(drawn) == length
        assert not any(
            exclude(a, b) for a in chain.constraints for b in chain.constraints if a is not b
        )
        lines = [compose(chain.constraints, rng) for _ in range(10)]
        assert any(lines)
        for line in filter(None, lines):
            assert all(keeps(one.kind, one.arguments, line) for one in chain.constraints)
        held_out = sum(kind in HELD_OUT for kind in drawn)
        if kinds == "trained":
            assert held_out == 0
        if kinds == "held_out":
            assert held_out == (1 if length < 4 else 2)


def test_a_chain_of_none_is_its_seed():
    chain = draw_chain(random.Random(0), "train", 0, "all")
    assert chain.constraints == () and chain.prompt(0) == chain.seed


def test_hard_and_soft_kinds_are_mixed_at_every_place():
    rng = random.Random(4)
    chains = [draw_chain(rng, "train", 3) for _ in range(400)]
    for place in range(3):
        share = sum(chain.constraints[place].kind in SOFT for chain in chains) / 400
        assert abs(share - SOFT_SHARE) < 0.1
    assert len({one.kind for chain in chains for one in chain.constraints}) == len(KINDS) - len(
        HELD_OUT
    )


def test_lines_have_one_to_three_phrases_whose_weights_add_up_to_one():
    found = structures()
    assert len(found) == len(dict(found)) == 4 + 4**2 + 4**3
    assert sum(weight for _, weight in found) == pytest.approx(1)
    weights = dict(found)
    assert weights["noun", "verb"] == pytest.approx(0.3 * 0.15)
    assert weights["the", "noun", "verb", "and", "noun", "verb"] == pytest.approx(0.45 * 0.2 * 0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_keeps_what_it_was_asked_for(kind):
    rng = random.Random(5)
    for _ in range(60):
        one = draw(kind, rng)
        line = compose([one], rng)
        assert line is not None and keeps(one.kind, one.arguments, line), (one, line)
        assert set(words_of(line)) <= {THE, AND, *WORDS} and line[-1] in ".!?"


def test_what_is_not_asked_for_is_drawn_at_random():
    """Marks, words and lengths of free lines come as often as their weights say."""
    rng = random.Random(6)
    lines = [compose([], rng) for _ in range(4000)]
    marks = Counter(line[-1] for line in lines)
    for mark, weight in MARK_WEIGHTS.items():
        assert abs(marks[mark] / 4000 - weight) < 0.03
    phrases = Counter(words_of(line).count(AND) + 1 for line in lines)
    for count, share in ((1, 0.3), (2, 0.45), (3, 0.25)):
        assert abs(phrases[count] / 4000 - share) < 0.03
    assert {word for line in lines for word in words_of(line)} == {THE, AND, *WORDS}


def test_a_glad_line_has_neutral_words_now_and_then_and_never_those_alone():
    rng = random.Random(7)
    groups = [
        {
            WORDS[word].group
            for word in words_of(compose([asked("mood", mood="glad")], rng))
            if word in WORDS
        }
        for _ in range(300)
    ]
    assert all("glad" in found for found in groups)
    assert 20 < sum("neutral" in found for found in groups) < 250


@pytest.mark.parametrize(
    "impossible",
    [
        [asked("count", count=5), asked("avoids", word="and")],
        [asked("mood", mood="sad"), asked("style", style="bare")],
        [asked("count", count=15)],
        [asked("first", word="moss"), asked("style", style="lush")],
        [asked("first", word="gray"), asked("mood", mood="sad"), asked("count", count=20)],
    ],
)
def test_the_impossible_is_told(impossible):
    assert compose(impossible, random.Random(8)) is None


def test_draws_are_a_function_of_the_generator():
    one, two = ([draw_chain(random.Random(seed), "train", 5) for _ in range(3)] for seed in (0, 0))
    assert one == two != [draw_chain(random.Random(1), "train", 5)] * 3


def test_the_vocabulary_has_each_word_once():
    words = vocabulary().split()
    assert len(words) == len(set(words)) and {
        "Anna",
        "twice",
        "before",
        "somewhere",
        *WORDS,
    } <= set(words)
    assert all(word.isalpha() for word in words)
