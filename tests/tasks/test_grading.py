"""The final answer of a completion and its judge: right, wrong, hostile, and in a worker thread."""

import threading
import time
from fractions import Fraction

import pytest

from workbench.tasks import grading
from workbench.tasks.grading import final_answer, last_boxed, last_number, same_answer, same_value

SAME = [
    ("18", "18.0"),
    ("18", r"\$18"),
    ("18", r"18\text{ cm}"),
    ("1234", "1,234"),
    ("-7", "-7"),
    ("3", "x=3"),
    ("1/2", "0.5"),
    (r"\frac{3}{4}", "3/4"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    ("x^2-2x-15", "(x+3)(x-5)"),
    (r"\text{Evelyn}", "Evelyn"),
    ("(1,2]", "( 1, 2 ]"),
    (r"\log_2 3", r"\log_23"),
    ("1024", "2^{10}"),
]
DIFFERENT = [
    ("18", "19"),
    ("18", ""),
    ("18", "81"),
    ("1/2", "2"),
    (r"2\sqrt{3}", r"\sqrt{13}"),
    ("x^2-2x-15", "(x+3)(x+5)"),
    (r"\text{Evelyn}", "Evelin"),
    ("(1,2]", "[1,2)"),
    ("18", "x"),
]
HOSTILE = [
    "9**9**9**9",
    "9^{9^{9^9}}",
    "((9^{999})^{999})^{999}",
    "9^(9*9*9*9*9*9*9*9*9*9*9)",
    "__import__('os').system('true')",
    "(" * 10_000,
    "[" * 10_000 + "]" * 10_000,
    "{" * 10_000,
    "9" * 10_000,
    "1" + "/2" * 5_000,
    "1," * 5_000,
    "-" * 10_000 + "1",
    r"\boxed{" * 2_000,
    r"\frac" * 2_000,
    "$" * 10_000,
    "1000000!",
    r"\binom{10000000}{500000}",
    r"\sum_{n=1}^{1000000}n",
    r"\int_0^1 x^x dx",
    "(x+y+z+1)^{64}",
]


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_equal_values_are_the_same(reference, answer):
    assert same_value(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), DIFFERENT)
def test_other_values_are_not(reference, answer):
    assert not same_value(reference, answer)


def least_time(refuses):
    """Seconds of this thread for a call that must say no; the least of three has no garbage collection."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        assert not refuses()
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:20])
def test_hostile_answers_score_zero_within_50_ms(hostile):
    same_value("19", "20.5")  # load the judge first
    for text in (hostile, rf"\boxed{{{hostile}}}", f"The answer is {hostile}", f"#### {hostile}"):
        assert least_time(lambda text=text: same_value("18", final_answer(text))) < 0.05


@pytest.mark.parametrize(("one", "two"), SAME + DIFFERENT)
def test_two_written_answers_are_compared_alike_in_either_order(one, two):
    assert same_answer(one, two) is same_answer(two, one) is ((one, two) in SAME)


def test_an_empty_answer_is_not_even_the_same_as_itself():
    assert not same_answer("", "") and not same_answer(" $ ", "")


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:20])
def test_neither_of_two_written_answers_is_trusted(hostile):
    same_value("19", "20.5")  # load the judge first
    for other in ("18", hostile + "+0"):
        pair = (hostile, other)
        for one, two in (pair, pair[::-1]):
            assert least_time(lambda one=one, two=two: same_answer(one, two)) < 0.05


def test_a_comparison_that_makes_too_many_calls_counts_as_different(monkeypatch):
    monkeypatch.setattr(grading, "MAX_CALLS", 100)
    assert not same_value("x^2-2x-3", "(x+1)(x-3)")
    same_value.cache_clear()
    monkeypatch.undo()
    assert same_value("x^2-2x-3", "(x+1)(x-3)")


def test_a_worker_thread_judges_as_the_main_thread_does():
    pairs = SAME + DIFFERENT
    same_value.cache_clear()
    here = [same_value(*pair) for pair in pairs]
    same_value.cache_clear()
    there = []
    thread = threading.Thread(target=lambda: there.extend(same_value(*pair) for pair in pairs))
    thread.start()
    thread.join()
    assert there == here == [True] * len(SAME) + [False] * len(DIFFERENT)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"so \boxed{1} no, \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("<think>\\boxed{3}</think>4", "4"),
        ("<think>\\boxed{3}", ""),
        ("He has 3 left.\n#### 12", "12"),
        ("First 5.\nThe answer is 18.", "18"),
        ("The answer is $x+1$.", "x+1"),
        ("It costs $1,250.50 in all", "1,250.50"),
        (r"2\sqrt{3}.", r"2\sqrt{3}"),
        ("**42**", "42"),
        ("no number here", "no number here"),
        ("", ""),
    ],
)
def test_final_answer(completion, answer):
    assert final_answer(completion) == answer


def test_last_boxed_needs_closed_braces():
    assert last_boxed(r"\boxed{{1}}") == "{1}"
    assert last_boxed(r"\boxed{1") is None
    assert last_boxed("1") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", Fraction(18)),
        ("-3.50", Fraction(-7, 2)),
        ("from 3 to 1,200", Fraction(1200)),
        ("3/4", Fraction(3, 4)),
        ("10-4", Fraction(4)),
        ("1/0", None),
        ("none", None),
        ("9" * 1000, None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number
