"""Constraints: each one's truth on lines made by hand, on both sides of each boundary; what excludes what."""

import itertools
import random

import pytest

from workbench.tasks.demands import (
    CONFLICTS,
    HARD,
    HELD_OUT,
    KINDS,
    SOFT,
    TRAINED,
    Constraint,
    draw,
    exclude,
    keeps,
    mark_of,
    names_of,
    note,
    told,
)
from workbench.tasks.lexicon import WORDS
from workbench.tasks.lines import compose
from workbench.variants import WorkbenchError

LINES = [  # kind, arguments, a line that keeps it, lines that don't
    ("count", {"count": 4}, "the golden wave sits.", ["golden wave sits.", "the golden wave sits and."]),
    ("first", {"word": "the"}, "The wave sits.", ["wave the sits.", "golden wave sits."]),
    ("first", {"word": "moss"}, "moss sits.", ["the moss sits.", "mosses sits."]),
    ("last", {"word": "sits"}, "wave sits!", ["sits wave.", "wave sits and wave.", "wave sit."]),
    ("contains", {"word": "moss"}, "the Moss sits.", ["the mossy fern sits.", "the fern sits."]),
    ("avoids", {"word": "the"}, "wave sits and then fern goes.", ["fern goes and The wave sits."]),
    ("avoids", {"word": "and"}, "the wave sits.", ["wave sits and fern goes."]),
    ("mark", {"mark": "!"}, "wave sits! ", ["wave sits.", "wave sits", "wave! sits", "wave sits!?"]),
    ("mark", {"mark": "."}, "wave sits..", ["wave sits", "wave sits.)"]),
    ("repeats", {"word": "moss"}, "moss sits and moss goes.", ["moss sits.", "mosses sits and moss goes."]),
    ("repeats", {"word": "moss"}, "moss moss moss sits.", ["fern sits and fern goes."]),
    (
        "order",
        {"word": "moss", "then": "fern"},
        "moss sits and fern goes.",
        ["fern sits and moss goes.", "moss sits.", "fern sits.", "oak sits."],
    ),
    # The first of each counts: moss comes before fern here, and not the other way round.
    (
        "order",
        {"word": "moss", "then": "fern"},
        "moss sits and fern goes and moss stays.",
        ["fern sits and moss goes and fern stays."],
    ),
    ("mood", {"mood": "glad"}, "the golden wave sits and small fern goes.", ["the wave sits."]),
    ("mood", {"mood": "glad"}, "Merry wave sits.", ["golden wave sits and gray fern goes."]),
    ("mood", {"mood": "sad"}, "gray wave sits.", ["small wave sits.", "golden wave sits.", "zebra sits."]),
    ("register", {"register": "antique"}, "wave doth.", ["wave sits.", "wave doth and fern sits.", "wave."]),
    ("topic", {"topic": "sea"}, "wave sits and tide goes.", ["wave sits and moss goes.", "golden sits."]),
    ("style", {"style": "bare"}, "the wave sits.", ["the small wave sits.", "the and."]),
    ("style", {"style": "lush"}, "small wave sits and the gray fern goes.", ["small wave sits and fern."]),
    ("style", {"style": "lush"}, "gray fern.", ["fern gray.", "gray sits.", "gray sits fern."]),
    # Three quarters is enough, two thirds is not; one content word has no rhythm.
    ("rhythm", {"rhythm": "brisk"}, "gray wave sits and dolphin.", ["gray wave wanders.", "wave."]),
    ("rhythm", {"rhythm": "brisk"}, "wave sits.", ["wave wanders.", "dolphin wanders."]),
    ("rhythm", {"rhythm": "slow"}, "golden dolphin wanders and moss.", ["golden dolphin sits.", "dolphin."]),
    ("rhythm", {"rhythm": "slow"}, "dolphin wanders.", ["dolphin sits.", "wave sits."]),
    ("rhythm", {"rhythm": "swaying"}, "the gray dolphin sits and golden.", ["gray wave wanders."]),
    ("rhythm", {"rhythm": "swaying"}, "dolphin sits.", ["golden dolphin sits.", "wave."]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments", "kept", "missed"), LINES)
def test_truth_by_hand(kind, arguments, kept, missed):
    assert keeps(kind, arguments, kept) is True
    for line in missed:
        assert keeps(kind, arguments, line) is False, line


def test_every_kind_is_tested_above():
    assert {kind for kind, *_ in LINES} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_without_words_keeps_nothing(kind):
    rng = random.Random(0)
    for _ in range(20):
        asked = draw(kind, rng)
        for line in ("", "  ", ".", "!?", "12 34.", "<|>"):
            assert keeps(kind, asked.arguments, line) is False


def test_hostile_lines_are_read_as_words_and_nothing_else():
    for kind in KINDS:
        asked = draw(kind, random.Random(1))
        for line in ("{word}", "%s" * 9, "\\", "__import__('os')", "a" * 100_000, "the\x00and"):
            assert isinstance(keeps(kind, asked.arguments, line), bool)


def test_the_mark_is_the_last_character_that_is_no_space():
    assert [mark_of(line) for line in ("a.", "a! \n", "a?!", "a", ".a", "", " ")] == [
        ".", "!", "!", "", "", "", "",
    ]  # fmt: skip


def test_an_unknown_kind_is_named():
    with pytest.raises(WorkbenchError, match="Unknown kind of constraint 'mod'.*'mood'"):
        keeps("mod", {}, "wave sits.")


def test_five_kinds_are_soft_and_three_are_kept_from_training():
    assert (len(HARD), len(SOFT)) == (8, 5) and not HARD.keys() & SOFT.keys()
    assert set(TRAINED) | set(HELD_OUT) == set(KINDS) and not set(TRAINED) & set(HELD_OUT)
    assert {kind in SOFT for kind in HELD_OUT} == {True, False}  # both sides are held out in part


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_says_all_that_its_checker_goes_by(kind):
    """Whoever reads the text alone can know the arguments, and every wording is drawn."""
    rng = random.Random(2)
    seen = {}
    for _ in range(300):
        asked = draw(kind, rng)
        assert asked.kind == kind and tuple(asked.arguments) == names_of(kind)
        assert seen.setdefault(asked.text, asked.arguments) == asked.arguments
        assert all(str(value) in note(asked) for value in asked.arguments.values())
    for wording in KINDS[kind].wordings:
        assert any(text.startswith(wording.split("{")[0]) for text in seen)


def test_notes_by_hand():
    assert note(Constraint("count", {"count": 7}, "")) == "7 words"
    assert note(Constraint("order", {"word": "moss", "then": "fern"}, "")) == "moss before fern"
    assert note(Constraint("mood", {"mood": "glad"}, "")) == "glad"


# --- what excludes what -------------------------------------------------------------------------------


def asked(kind, **arguments):
    return Constraint(kind, arguments, "")


PAIRS = [  # two constraints, and whether they exclude each other
    (asked("mood", mood="sad"), asked("mood", mood="sad"), True),  # a kind stands once in a chain
    (asked("first", word="the"), asked("avoids", word="the"), True),
    (asked("first", word="the"), asked("avoids", word="and"), False),
    (asked("contains", word="moss"), asked("topic", topic="sea"), True),
    (asked("contains", word="wave"), asked("topic", topic="sea"), False),
    (asked("contains", word="gray"), asked("topic", topic="sea"), False),
    (asked("contains", word="gray"), asked("mood", mood="glad"), True),
    (asked("contains", word="small"), asked("mood", mood="glad"), False),  # of no mood
    (asked("last", word="doth"), asked("register", register="plain"), True),
    (asked("last", word="doth"), asked("register", register="antique"), False),
    (asked("first", word="gray"), asked("style", style="bare"), True),
    (asked("first", word="gray"), asked("style", style="lush"), False),
    (asked("mood", mood="sad"), asked("style", style="bare"), True),
    (asked("mood", mood="sad"), asked("style", style="lush"), False),
    (asked("count", count=5), asked("avoids", word="and"), True),  # one phrase has four words at most
    (asked("count", count=4), asked("avoids", word="and"), False),
    (asked("count", count=5), asked("avoids", word="the"), False),
    (asked("repeats", word="moss"), asked("avoids", word="and"), True),
    (asked("order", word="moss", then="wave"), asked("avoids", word="and"), True),
    (asked("order", word="moss", then="wave"), asked("topic", topic="sea"), True),
    (asked("order", word="tide", then="wave"), asked("topic", topic="sea"), False),
    (asked("mark", mark="!"), asked("count", count=9), False),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two", "excluded"), PAIRS)
def test_the_table_of_conflicts_by_hand_both_ways(one, two, excluded):
    assert exclude(one, two) is exclude(two, one) is excluded


def test_no_line_keeps_what_the_table_forbids_and_some_line_keeps_most_of_the_rest():
    """Every pair of kinds with a row in the table, and as many without."""
    rng = random.Random(3)
    forbidden, allowed, made = {}, 0, 0
    for one, two in itertools.permutations(KINDS, 2):
        for _ in range(15):
            pair = draw(one, rng), draw(two, rng)
            line = compose(pair, rng)
            if exclude(*pair):
                forbidden[one, two] = forbidden.get((one, two), 0) + 1
                assert line is None, (pair, line)
            else:
                allowed, made = allowed + 1, made + (line is not None)
    # Of the rows those that such words can bring about: a last word is a verb, a repeated one a noun.
    never = {
        ("last", "avoids"),
        ("contains", "avoids"),
        ("repeats", "mood"),
        ("repeats", "register"),
    }
    never |= {("last", "topic"), ("last", "mood"), ("last", "style"), ("repeats", "style")}
    never |= {("order", "mood"), ("order", "register"), ("order", "style"), ("first", "register")}
    assert forbidden.keys() & CONFLICTS.keys() == CONFLICTS.keys() - never
    assert made > 0.9 * allowed


def test_the_words_that_the_conflicts_look_up_are_content_words():
    assert not [w for w in ("the", "and") if w in WORDS]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ([True, True, True], "right: keeps all 3"),
        ([True, False, False], "keeps 1 of 3, not “b”, “c”"),
        ([None, True, False], "keeps 1 of 2, not “c”, 1 that rules can't check"),
        ([True, None, True], "keeps 2 of 2, 1 that rules can't check"),
        ([None, None, None], "3 that rules can't check"),
    ],
)
def test_what_is_kept_is_told_and_right_only_where_all_is_known_to_be(kept, said):
    assert told(["a", "b", "c"], kept) == said


def test_one_constraint_is_told_without_a_number():
    assert told(["a"], [True]) == "right: keeps it"
    assert told(["a"], [False]) == "keeps 0 of 1, not “a”"
