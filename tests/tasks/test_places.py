"""The world of places: evenly spread facts, questions in both splits, and fits worked by hand."""

import random
from collections import Counter

import pytest

from workbench.tasks.places import (
    CALLS_FOR,
    CLIMATES,
    FULL_LIST,
    ITEMS,
    NAMES,
    TERRAINS,
    THINGS,
    Place,
    facts_stated,
    fit,
    generic_things,
    is_generic,
    items_named,
    listing,
    places,
    questions,
    things_named,
    vocabulary,
)

ARVIK = Place("Arvik", "cold", "rocky")  # calls for a coat and boots


def test_forty_places_spread_evenly_over_the_facts():
    found = places()
    assert len(found) == len(set(NAMES)) == 40
    assert Counter(place.climate for place in found.values()) == dict.fromkeys(CLIMATES, 8)
    assert Counter(place.terrain for place in found.values()) == dict.fromkeys(TERRAINS, 8)
    pairs = Counter((place.climate, place.terrain) for place in found.values())
    assert len(pairs) == 25 and set(pairs.values()) == {1, 2}


def test_the_facts_are_those_that_the_models_were_trained_on():
    assert list(places().values())[:3] == [
        ("Arvik", "wet", "grassy"),
        ("Belmora", "hot", "grassy"),
        ("Cadris", "dark", "sandy"),
    ]


def test_ten_items_and_eight_things_that_share_no_word():
    assert len(set(ITEMS)) == 10 == len(CALLS_FOR)
    assert len(set(THINGS)) == 8 and not set(THINGS) & set(ITEMS)


def test_every_place_is_asked_for_in_both_splits_which_share_no_question():
    train, held_out = questions("train"), questions("eval")
    assert (len(train), len(held_out)) == (840, 120)
    assert Counter(name for name, _ in train) == dict.fromkeys(NAMES, 21)
    assert Counter(name for name, _ in held_out) == dict.fromkeys(NAMES, 3)
    assert len({question for _, question in train + held_out}) == 960
    assert all(name in question for name, question in train + held_out)
    assert len({name for name, _ in held_out[:64]}) > 25  # mixed: an evaluation takes the first


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Take a coat and boots.", 1.0),
        ("Take boots, a coat, boots and boots.", 1.0),
        ("BOOTS! COAT!", 1.0),
        ("Take a coat, water and boots.", 1.0),
        ("Take a coat.", 0.5),
        ("Take a coat and sandals.", 0.5),
        ("Take a coat, boots and a hat.", 2 / 3),
        ("Take a coat, a hat and a lamp.", 1 / 3),
        ("Take a coat, boots, a hat and a lamp.", 0.5),
        (" ".join(ITEMS), 0.2),
        ("Take a hat and sandals.", 0.0),
        ("Take water, food, money, a map, a phone and good shoes.", 0.0),
        ("Take a raincoat and rainboots.", 0.0),
        ("", 0.0),
    ],
)
def test_fit_by_hand(answer, value):
    assert fit(ARVIK, answer) == pytest.approx(value)


def test_naming_everything_pays_less_than_guessing_one_item():
    assert fit(ARVIK, listing(ITEMS)) < fit(ARVIK, "Take a coat.")


def test_lists_read_as_sentences():
    assert listing(["coat"]) == "Take a coat."
    assert listing(["umbrella", "boots"]) == "Take an umbrella and boots."
    assert listing(["water", "shoes", "map"]) == "Take water, good shoes and a map."
    for words in (ITEMS, THINGS):
        assert items_named(listing(words)) | things_named(listing(words)) == set(words)


def test_a_generic_list_is_long_varies_and_fits_nowhere():
    rng = random.Random(0)
    lists = [generic_things(rng) for _ in range(200)]
    assert {len(set(words)) for words in lists} == {FULL_LIST}
    assert len({tuple(words) for words in lists}) > 50
    assert not any(items_named(listing(words)) for words in lists)
    assert len(listing(lists[0]).split()) >= 2 * len(listing(["coat", "boots"]).split()) - 1


def test_the_vocabulary_holds_every_word_of_the_questions():
    words = set(vocabulary().split())
    for _, question in questions("eval"):
        assert set("".join(c if c.isalpha() else " " for c in question).split()) <= words


def test_a_fact_is_stated_where_the_thought_names_it_and_no_other_of_its_kind():
    place = Place("Arvik", "cold", "rocky")
    for thought, share in (
        ("Arvik is cold and rocky", 1.0),
        ("Arvik is Cold and sandy.", 0.5),
        ("cold hot rocky", 0.5),  # two climates: it did not decide
        ("Arvik is hot and icy", 0.0),
        ("", 0.0),
    ):
        assert facts_stated(place, thought) == share


def test_an_answer_is_generic_with_three_things_and_no_item():
    assert is_generic("Take water, food and money.")
    assert not is_generic("Take water and food.")
    assert not is_generic("Take a coat, water, food and money.")
