"""The guides' demonstrators: how often they recall, follow their thought, and give generic lists."""

from itertools import islice

import pytest

from workbench.rewards.verifiable import well_formed
from workbench.tasks.places import places, questions
from workbench.tiny.advice import GENERIC, GUIDES, SLIP, Guide, advice
from workbench.tiny.advice_card import is_generic, thought_of
from workbench.tiny.tokenizer import PLACES_WORDS, build_tokenizer
from workbench.variants import WorkbenchError

COUNT = 4000


def demonstrated(guide):
    """(place, thought, answer) of many demonstrations."""
    named = {question: places()[place] for place, question in questions("train")}
    for example in islice(advice(guide, seed=0), COUNT):
        place = named[example.messages[0]["content"]]  # fails for a question that is held out
        thought = thought_of(example.completion, place)
        assert thought is not None and well_formed(example.completion)
        yield place, thought, example.completion.partition("</think>")[2]


@pytest.mark.parametrize("name", GUIDES)
def test_attributes_are_recalled_as_often_as_the_guide_says(name):
    right = sum(
        (thought.climate == place.climate) + (thought.terrain == place.terrain)
        for place, thought, _ in demonstrated(GUIDES[name])
    )
    # the standard error of 8000 draws is below 0.006
    assert right / (2 * COUNT) == pytest.approx(GUIDES[name].recall, abs=0.024)


def test_answers_follow_the_thought_and_not_the_place():
    generic = followed = 0
    for _, thought, answer in demonstrated(Guide(recall=0.0)):
        generic += is_generic(answer)
        followed += all(item in answer for item in thought.items)
    assert generic / COUNT == pytest.approx(GENERIC, abs=0.02)
    assert followed / (COUNT - generic) == pytest.approx((1 - SLIP) ** 2, abs=0.02)


def test_every_demonstration_is_short_and_made_of_known_words():
    tokenizer = build_tokenizer(PLACES_WORDS)
    for example in islice(advice(GUIDES["guide-weak"], seed=1), 500):
        ids = tokenizer.encode(example.completion, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids and len(ids) < 32
        assert tokenizer.decode(ids) == example.completion


def test_a_thought_about_another_place_is_none():
    arvik = places()["Arvik"]
    assert thought_of("<think>Arvik is hot and icy</think>", arvik) == ("Arvik", "hot", "icy")
    for text in (
        "<think>Belmora is hot and icy</think>",
        "<think>Arvik is icy and hot</think>",
        "",
    ):
        assert thought_of(text, arvik) is None


def test_a_recall_beyond_a_chance_is_refused():
    with pytest.raises(WorkbenchError, match="give a chance from 0 to 1"):
        Guide(recall=1.2)
