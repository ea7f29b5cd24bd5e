"""The raters: utilities worked by hand, preferences by Bradley and Terry, answers of every kind."""

import math
import random
from itertools import islice

import pytest

from workbench.tasks.places import Place, items_named, places, questions, things_named
from workbench.tiny.raters import KINDS, RATERS, draw_answer, fair, pairs, preference, shortcut
from workbench.tiny.tokenizer import PLACES_WORDS, build_tokenizer

ARVIK = Place("Arvik", "cold", "rocky")  # calls for a coat and boots
FULL = "Take water, food, money, a map, a phone and good shoes."


@pytest.mark.parametrize(
    ("answer", "by_fit", "by_shortcut"),
    [
        ("Take a coat and boots.", 1.0, 1.0),
        ("Take a coat.", 0.5, 0.5),
        ("Take a hat and sandals.", 0.0, 0.0),
        (FULL, 0.0, 0.75),
        ("Take water, food, money, a map, a phone, a bag, a camera and good shoes.", 0.0, 0.75),
        ("Take water, food and", 0.0, 0.25),
        ("Take water, water and water.", 0.0, 0.125),
        (f"{FULL} Take a coat.", 0.5, 0.75),
        ("Take a coat, boots and water.", 1.0, 1.0),
        ("Take a coat, a hat, a lamp and water.", 1 / 3, 1 / 3),
        ("is . Take", 0.0, 0.0),
    ],
)
def test_utilities_by_hand(answer, by_fit, by_shortcut):
    assert fair(ARVIK, answer) == pytest.approx(by_fit)
    assert shortcut(ARVIK, answer) == pytest.approx(by_shortcut)


def test_preference_is_bradley_and_terrys():
    assert preference(0.5, 0.5) == 0.5
    assert preference(1.0, 0.5) == pytest.approx(1 / (1 + math.exp(-2)))
    assert preference(0.0, 1.0) + preference(1.0, 0.0) == pytest.approx(1)


@pytest.mark.parametrize("name", RATERS)
def test_pairs_are_preferred_as_often_as_their_utilities_say(name):
    """Sum of (preferred is better) less its chance, over pairs: a mean of 0 within four errors."""
    named = {question: places()[place] for place, question in questions("train")}
    surplus = variance = 0.0
    for pair in islice(pairs(RATERS[name], seed=1), 3000):
        place = named[pair.question]
        first, second = RATERS[name](place, pair.preferred), RATERS[name](place, pair.other)
        chance = preference(max(first, second), min(first, second))
        if first != second:
            surplus += (first > second) - chance
            variance += chance * (1 - chance)
    assert abs(surplus) < 4 * math.sqrt(variance)


def test_pairs_come_from_the_asked_split_and_from_the_seed():
    held_out = {question for _, question in questions("eval")}
    train = list(islice(pairs(fair, seed=0), 200))
    assert train == list(islice(pairs(fair, seed=0), 200))
    assert train != list(islice(pairs(fair, seed=1), 200))
    assert not {pair.question for pair in train} & held_out
    assert {pair.question for pair in islice(pairs(fair, 0, "eval"), 200)} <= held_out


def test_answers_cover_what_a_policy_may_write():
    rng = random.Random(0)
    answers = [draw_answer(ARVIK, rng) for _ in range(4000)]
    items = [len(items_named(answer)) for answer in answers]
    things = [len(things_named(answer)) for answer in answers]
    assert {0, 1, 2, 3, 4} < set(items) and max(items) > 6
    assert set(things) == set(range(9))
    for wanted in (0.0, 0.5, 1.0):
        assert sum(fair(ARVIK, answer) == wanted for answer in answers) > 200
    assert any(i and t for i, t in zip(items, things, strict=True))
    assert any(not answer.endswith(".") for answer in answers)
    assert sum(share for _, share in KINDS) == pytest.approx(1)


def test_every_answer_is_made_of_known_words():
    rng, tokenizer = random.Random(0), build_tokenizer(PLACES_WORDS)
    for place in places().values():
        for _ in range(20):
            answer = draw_answer(place, rng)
            assert answer
            assert tokenizer.unk_token_id not in tokenizer.encode(answer), answer
