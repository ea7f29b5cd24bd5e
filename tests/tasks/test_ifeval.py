"""Hard constraints on a text: the verdicts of lm-eval's own rule, and nothing left to chance."""

import builtins
import importlib
import json
import random
import sys
import threading
from collections import Counter

import numpy
import pandas
import pytest

from workbench.tasks import ifeval
from workbench.tasks.ifeval import (
    IDS,
    checkers,
    cleaned,
    conflicts,
    follows,
    is_known,
    same_light,
)
from workbench.variants import WorkbenchError

FIRST_WORD = "length_constraints:nth_paragraph_first_word"
LANGUAGE = "language:response_language"
SENTENCES = "length_constraints:number_sentences"
CAPITALS = "change_case:capital_word_frequency"
AMBIGUOUS = "das the de Boot casa ami"  # English or Portuguese, by chance

TEXTS = {
    "plain": "The boat left the harbour at noon. It carried salt and rope.",
    "lower": "the boat left the harbour at noon and carried all the salt of the island.",
    "upper": "THE BOAT LEFT THE HARBOUR AT NOON AND CARRIED ALL THE SALT OF THE ISLAND.",
    "german": "Das Boot verliess den Hafen am Mittag und brachte das ganze Salz der Insel mit.",
    "paragraphs": "Rope is strong.\n\nSalt, however, is dear.\n\nP.S. Bring a lamp.",
    "stars": "One part here\n***\nAnother part here",
    "bullets": "* rope\n* salt\n- lamp",
    "marked": "<<The boat>>\n*rope* and **salt** for [name] at [place], SECTION 1 then SECTION 2",
    "json": '```json\n{"rope": 3}\n```',
    "twice": "Take the rope.******Take the salt.",
    "quoted": '"My answer is yes."',
    "ending": "Tie the rope well. That is all.",
    "digits": "12 34 56",
    "blank": " \n ",
}
CONSTRAINTS = (
    ("keywords:existence", {"keywords": ["rope", "salt"]}),
    ("keywords:frequency", {"keyword": "the", "frequency": 3, "relation": "at least"}),
    ("keywords:frequency", {"keyword": "rope", "frequency": 1, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["boat", "lamp"]}),
    (
        "keywords:letter_frequency",
        {"letter": "t", "let_frequency": 4, "let_relation": "less than"},
    ),
    (LANGUAGE, {"language": "de"}),
    (LANGUAGE, {"language": "en"}),
    (SENTENCES, {"num_sentences": 2, "relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:number_words", {"num_words": 8, "relation": "at least"}),
    (FIRST_WORD, {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "salt"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "the boat left"}),
    ("startend:end_checker", {"end_phrase": "That is all."}),
    ("startend:quotation", {}),
    (CAPITALS, {"capital_frequency": 2, "capital_relation": "at least"}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
)
EVERY_KEY = sorted({name for _, arguments in CONSTRAINTS for name in arguments})


@pytest.fixture
def extra():
    pytest.importorskip("lm_eval")
    return checkers()


def _forget_sentences():
    from lm_eval.tasks.ifeval import instructions_util
    from nltk import tokenize

    instructions_util._get_sentence_tokenizer.cache_clear()
    getattr(tokenize._get_punkt_tokenizer, "cache_clear", lambda: None)()


@pytest.fixture
def no_punkt(extra, monkeypatch):
    """nltk without any data."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    _forget_sentences()
    yield
    _forget_sentences()


@pytest.fixture
def punkt(no_punkt, tmp_path, monkeypatch):
    """nltk with sentence data that knows no abbreviation."""
    import nltk

    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (folder / name).write_text("")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])


def _their_verdict(kind, arguments, answer):
    utils = importlib.import_module("lm_eval.tasks.ifeval.utils")
    asked = utils.InputExample(
        key=0, instruction_id_list=[kind], prompt="", kwargs=[dict(arguments)]
    )
    return utils.test_instruction_following_strict(asked, answer).follow_all_instructions


def test_the_25_ids_are_those_of_the_registry(extra):
    assert len(IDS) == len(set(IDS)) == 25
    assert set(IDS) == set(extra) == {kind for kind, _ in CONSTRAINTS}


def test_every_parameter_has_a_type_here(extra):
    named = {name for kind in IDS for name in ifeval._parameters(kind)}
    assert named == set(EVERY_KEY)
    assert named >= ifeval._COUNTS | ifeval._PATTERNS
    values = {name: value for _, arguments in CONSTRAINTS for name, value in arguments.items()}
    assert {name for name in named if isinstance(values[name], int)} == ifeval._COUNTS
    assert {name for name in named if isinstance(values[name], list)} == ifeval._LISTS


def test_an_id_is_known_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert is_known("punctuation:no_comma")
    assert not is_known("light") and not is_known("punctuation:commas")


@pytest.mark.parametrize("kind, arguments", CONSTRAINTS)
def test_the_verdict_is_that_of_their_strict_rule(punkt, kind, arguments):
    published = dict.fromkeys(EVERY_KEY) | arguments
    taken = cleaned(kind, published, "row 1")
    assert taken == arguments
    ours = {name: follows(kind, taken, text) for name, text in TEXTS.items()}
    assert ours == {name: _their_verdict(kind, taken, text) for name, text in TEXTS.items()}
    assert set(ours.values()) == {True, False}
    assert not ours["blank"]
    assert ours == {name: follows(kind, published, text) for name, text in TEXTS.items()}


def test_a_requirement_of_zero_is_kept(extra):
    asked = {"num_highlights": 0}
    kind = "detectable_format:number_highlighted_sections"
    assert cleaned(kind, asked, "row 1") == asked
    assert all(follows(kind, asked, "no highlight") for _ in range(20))


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA, "", " ", []])
@pytest.mark.parametrize("kind, arguments", [pair for pair in CONSTRAINTS if pair[1]])
def test_a_missing_requirement_is_refused(extra, kind, arguments, missing):
    for name in arguments:
        with pytest.raises(WorkbenchError, match=rf"^row 7: {kind}\.{name} is missing"):
            cleaned(kind, arguments | {name: missing}, "row 7")
        rest = {other: value for other, value in arguments.items() if other != name}
        with pytest.raises(WorkbenchError, match=rf"^{kind}\.{name} is missing"):
            follows(kind, rest, "A text.")


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("length_constraints:words", {}, "row 2: Unknown constraint .*number_words"),
        ("startend:quotation", {"num_words": 3}, "Unknown parameter of startend:quotation"),
        (LANGUAGE, {"langauge": "en"}, "Did you mean 'language'"),
        (LANGUAGE, {"language": "xx"}, "refuses .*xx"),
        (SENTENCES, {"num_sentences": 2.5, "relation": "at least"}, "2.5; give a whole number"),
        (SENTENCES, {"num_sentences": "2", "relation": "at least"}, "'2'; give a whole number"),
        (SENTENCES, {"num_sentences": True, "relation": "at least"}, "give a whole number"),
        (SENTENCES, {"num_sentences": -1, "relation": "at least"}, "0 or more"),
        (SENTENCES, {"num_sentences": float("inf"), "relation": "at least"}, "whole number"),
        (SENTENCES, {"num_sentences": 2, "relation": "at most"}, "refuses .*at most"),
        ("keywords:existence", {"keywords": "rope"}, "'rope'; give a list of texts"),
        ("keywords:existence", {"keywords": ["rope", None]}, "give a list of texts"),
        ("keywords:existence", {"keywords": ["rope", "c++("]}, "refuses"),
        ("startend:end_checker", {"end_phrase": 3}, "3; give a text"),
        # Out of its range: the checker would draw another one.
        (FIRST_WORD, {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}, "draw"),
        (FIRST_WORD, {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"}, "draw"),
        (
            "keywords:letter_frequency",
            {"letter": "#", "let_frequency": 4, "let_relation": "at least"},
            "draw",
        ),
    ],
)
def test_a_wrong_argument_is_refused(extra, kind, arguments, message):
    for _ in range(20):
        with pytest.raises(WorkbenchError, match=message) as caught:
            cleaned(kind, arguments, "row 2")
        assert str(caught.value).startswith("row 2: ") and "\n" not in str(caught.value)
        with pytest.raises(WorkbenchError):
            follows(kind, arguments, "A text.")


def test_whole_floats_of_a_pandas_round_trip_are_integers(extra, tmp_path):
    rows = [
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "salt", "language": None},
        {"num_paragraphs": None, "nth_paragraph": None, "first_word": None, "language": "de"},
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    back = pandas.read_parquet(tmp_path / "rows.parquet").to_dict("records")
    assert isinstance(back[0]["nth_paragraph"], float)
    taken = cleaned(FIRST_WORD, back[0], "row 1")
    assert taken == {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "salt"}
    assert {type(value) for value in taken.values()} == {int, str}
    assert follows(FIRST_WORD, back[0], TEXTS["paragraphs"])
    assert not follows(FIRST_WORD, back[0], TEXTS["plain"])
    assert cleaned(LANGUAGE, back[1], "row 2") == {"language": "de"}


@pytest.mark.parametrize("wrap", [list, tuple, numpy.array, pandas.Series])
def test_keywords_may_be_an_array(extra, wrap):
    arguments = {"keywords": wrap(["salt", "rope"]), "num_words": numpy.float64("nan")}
    taken = cleaned("keywords:existence", arguments, "row 1")
    assert taken == {"keywords": ["salt", "rope"]} and json.dumps(taken)
    assert follows("keywords:existence", arguments, TEXTS["plain"])
    assert not follows("keywords:existence", arguments, TEXTS["german"])


def test_numpy_integers_are_integers(extra):
    kind = "detectable_format:number_bullet_lists"
    taken = cleaned(kind, {"num_bullets": numpy.int64(3)}, "row 1")
    assert taken == {"num_bullets": 3} and type(taken["num_bullets"]) is int


def test_the_language_of_an_ambiguous_text_is_always_the_same(extra):
    import langdetect

    by_chance = Counter(langdetect.detect(AMBIGUOUS) for _ in range(60))
    assert by_chance["en"] and by_chance["pt"]  # else the text tells nothing

    def verdicts():
        return tuple(follows(LANGUAGE, {"language": name}, AMBIGUOUS) for name in ("en", "pt"))

    found = [verdicts() for _ in range(20)]
    threads = [threading.Thread(target=lambda: found.append(verdicts())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24 and len(set(found)) == 1 and sum(found[0]) == 1
    assert langdetect.DetectorFactory.seed is None


def test_a_text_without_a_language_passes_in_silence(extra, caplog):
    assert follows(LANGUAGE, {"language": "de"}, "12 34 56")
    assert not caplog.records


def test_random_stays_as_it_was(punkt):
    before = random.getstate()
    for kind, arguments in CONSTRAINTS:
        follows(kind, cleaned(kind, arguments, "row 1"), TEXTS["plain"])
    with pytest.raises(WorkbenchError):
        follows(FIRST_WORD, {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}, "A text.")
    assert random.getstate() == before
    from lm_eval.tasks.ifeval import instructions, instructions_util

    assert instructions.random is instructions_util.random is random


def test_json_nested_too_deeply_is_not_json(extra):
    assert not follows("detectable_format:json_format", {}, "[" * 200_000)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    for name in {"lm_eval", *(n for n in sys.modules if n.startswith("lm_eval."))}:
        monkeypatch.setitem(sys.modules, name, None)
    checkers.cache_clear()
    ifeval._parameters.cache_clear()
    try:
        for asked in (
            checkers,
            conflicts,
            lambda: cleaned("punctuation:no_comma", {}, "row 1"),
            lambda: follows("punctuation:no_comma", {}, "A text."),
        ):
            with pytest.raises(WorkbenchError, match=r'pip install "rlvr-workbench\[ifeval\]"'):
                asked()
    finally:
        checkers.cache_clear()


@pytest.mark.parametrize("kind", [SENTENCES, CAPITALS])
def test_without_the_data_of_nltk_the_message_says_what_to_run(no_punkt, kind):
    arguments = cleaned(kind, dict(CONSTRAINTS)[kind], "row 1")
    with pytest.raises(WorkbenchError, match=f"{kind}.*python -m nltk.downloader punkt_tab"):
        follows(kind, arguments, "A text.")


def test_the_other_23_need_no_data_of_nltk(no_punkt):
    for kind, arguments in CONSTRAINTS:
        if kind not in (SENTENCES, CAPITALS):
            assert follows(kind, arguments, TEXTS["plain"]) in (True, False)


def test_the_first_import_downloads_and_prints_nothing(no_punkt, monkeypatch, capfd):
    import nltk

    def refuse(*names, **options):
        raise AssertionError(f"a download of {names}")

    find = nltk.data.find
    monkeypatch.setattr(nltk, "download", refuse)
    monkeypatch.setattr(builtins, "print", refuse)
    for name in [n for n in sys.modules if n.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    package = importlib.import_module("lm_eval.tasks")
    monkeypatch.delattr(package, "ifeval", raising=False)
    checkers.cache_clear()
    try:
        assert set(checkers()) == set(IDS)
    finally:
        checkers.cache_clear()
    assert capfd.readouterr() == ("", "")
    assert nltk.data.find is find


def test_conflicts_hold_both_ways_and_theirs_stay_as_they_were(extra):
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_CONFLICTS

    before = {kind: set(others) for kind, others in INSTRUCTION_CONFLICTS.items()}
    found = conflicts()
    assert set(found) == set(IDS)
    for kind, others in found.items():
        assert kind in others and others >= before[kind]
        assert all(kind in found[other] for other in others)
    assert "startend:quotation" in found["detectable_format:title"]  # they name it one way only
    assert "startend:quotation" not in before["detectable_format:title"]
    assert "punctuation:no_comma" not in found["startend:quotation"]
    assert before == INSTRUCTION_CONFLICTS


@pytest.mark.parametrize(
    "gold, answer, right",
    [
        ("1/2", r"So it is \boxed{0.5}.", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{0.5}", True),
        ("12", "<think>13</think>The sum is 12.", True),
        ("12", r"\boxed{13}", False),
        ("12", "<think>12", False),
        ("12", "", False),
    ],
)
def test_light_is_judged_by_value(gold, answer, right):
    assert same_light("light", gold, answer) is right


@pytest.mark.parametrize(
    "answer, right",
    [
        (r"\boxed{B}", True),
        (r"\boxed{A} or rather \boxed{\text{(B)}}", True),
        (r"\boxed{b}", True),
        (r"\boxed{B. A long rope}", True),
        (r"\boxed{A and B}", False),
        (r"\boxed{Bell}", False),
        (r"The answer is B, \boxed{12}", False),
        (r"\boxed{A}, not B", False),
        ("The answer is **B**.", True),
        ("The answer is (B). I hope that it helps: A rope is long.", True),
        ("I think it's B.", True),
        ("B, no: A", False),
        ("<think>B</think>It is A.", False),
        (r"<think>\boxed{A}</think>B", True),
        ("<think>B", False),
        ("Bell", False),
        ("", False),
    ],
)
def test_light_choice_is_judged_by_its_letter(answer, right):
    assert same_light("light_choice", "B", answer) is right
    assert same_light("light_choice", r"\boxed{b}", answer) is right


@pytest.mark.parametrize(
    "kind, gold, message",
    [
        ("light", " ", "blank"),
        ("light_choice", "12", "give a letter A to J"),
        ("light_choice", "", "give a letter A to J"),
        ("light_choise", "B", "Did you mean 'light_choice'"),
    ],
)
def test_a_wrong_gold_answer_is_refused(kind, gold, message):
    with pytest.raises(WorkbenchError, match=message):
        same_light(kind, gold, "B")
