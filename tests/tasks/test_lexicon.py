"""The words of the world of lines: one class each, and as many short as long ones in every class."""

from collections import Counter

import pytest

from workbench.tasks.lexicon import (
    ADJECTIVE,
    AND,
    BY_PART,
    MOODS,
    NEUTRAL,
    NOUN,
    REGISTERS,
    THE,
    TOPICS,
    VERB,
    WORDS,
    content_of,
    words_of,
)


def test_every_class_has_three_short_and_three_long_words_that_no_other_has():
    sizes = Counter((word.part, word.group, word.short) for word in WORDS.values())
    classes = [(NOUN, TOPICS), (ADJECTIVE, MOODS), (VERB, REGISTERS)]
    assert sizes == {
        (part, group, short): 3
        for part, groups in classes
        for group in groups
        for short in (True, False)
    }
    assert len(WORDS) == 66  # so no word stands in two classes
    assert {part: len(words) for part, words in BY_PART.items()} == {
        NOUN: 24,
        ADJECTIVE: 24,
        VERB: 18,
    }
    assert not {THE, AND} & WORDS.keys()


def test_words_are_found_by_hand():
    wave = WORDS["wave"]
    assert (wave.text, wave.part, wave.group, wave.short) == ("wave", NOUN, "sea", True)
    assert WORDS["dolphin"].group == "sea" and not WORDS["dolphin"].short
    assert WORDS["simple"].group == NEUTRAL
    assert (WORDS["hath"].part, WORDS["hath"].group) == (VERB, "antique")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("The Golden wave, and moss sits!", ["the", "golden", "wave", "and", "moss", "sits"]),
        (" wave.wave?\nWAVE ", ["wave"] * 3),
        ("", []),
        (" .!? 12 ", []),
    ],
)
def test_the_words_of_a_line_are_letters_alone_and_small(line, words):
    assert words_of(line) == words


def test_content_words_keep_their_order_and_the_others_drop_out():
    found = content_of(["the", "moss", "zebra", "and", "gray", "moss"])
    assert [word.text for word in found] == ["moss", "gray", "moss"]
