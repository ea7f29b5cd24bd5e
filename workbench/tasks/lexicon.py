"""The words of the tiny world of lines, and what each of them is.

A line is made of phrases such as *the golden wave sits*, joined by *and*, with a mark at its end. Every
content word belongs to one class (a topic for nouns, a mood for adjectives, a register for verbs) and is
short or long, one syllable or more. Nobody tells a model of these classes: a soft constraint speaks of
them, and only `demands` knows them, to measure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NOUN, ADJECTIVE, VERB = "noun", "adjective", "verb"
THE, AND = "the", "and"
MARKS = ".!?"
NEUTRAL = "neutral"  # adjectives of no mood

# Class -> its short words, then its long ones.
TOPICS = {
    "sea": ("wave shell tide", "harbor lagoon dolphin"),
    "forest": ("oak moss fern", "squirrel badger willow"),
    "city": ("tram roof lane", "market station tower"),
    "kitchen": ("bread pan soup", "kettle butter oven"),
}
MOODS = {
    "glad": ("bright sweet warm", "golden merry cheerful"),
    "sad": ("gray lone pale", "weary tearful broken"),
    "angry": ("harsh fierce rough", "bitter raging furious"),
    NEUTRAL: ("small round flat", "simple wooden narrow"),
}
REGISTERS = {
    "plain": ("sits goes stays", "wanders settles hurries"),
    "formal": ("stands lasts yields", "proceeds remains arises"),
    "antique": ("doth hath wilt", "dwelleth cometh singeth"),
}


class Word(NamedTuple):
    """A content word: its part of speech, its class, and whether it has one syllable."""

    text: str
    part: str
    group: str
    short: bool


def _words() -> dict[str, Word]:
    classes = ((NOUN, TOPICS), (ADJECTIVE, MOODS), (VERB, REGISTERS))
    return {
        text: Word(text, part, group, short)
        for part, groups in classes
        for group, halves in groups.items()
        for short, half in zip((True, False), halves, strict=True)
        for text in half.split()
    }


WORDS: dict[str, Word] = _words()
BY_PART: dict[str, tuple[Word, ...]] = {
    part: tuple(word for word in WORDS.values() if word.part == part)
    for part in (NOUN, ADJECTIVE, VERB)
}
_WORD = re.compile(r"[A-Za-z]+")


def words_of(line: str) -> list[str]:
    """The words of a line in their order, in small letters."""
    return [word.lower() for word in _WORD.findall(line)]


def content_of(words: list[str]) -> list[Word]:
    """The content words among them, in their order."""
    return [WORDS[word] for word in words if word in WORDS]
