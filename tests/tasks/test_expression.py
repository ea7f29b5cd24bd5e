"""The expression parser: exact values, and hostile text refused at once."""

import itertools
import time
from fractions import Fraction

import pytest

from workbench.tasks._expression import ExpressionError, Term, evaluate, whole


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)),
        ("3*7-2", 19, (3, 7, 2)),
        ("2+3*4", 14, (2, 3, 4)),
        ("(2+3)*4", 20, (2, 3, 4)),
        ("10-4-3", 3, (10, 4, 3)),  # from the left: (10-4)-3, not 10-(4-3)
        ("24/4/3", 2, (24, 4, 3)),
        ("8/(3-8/3)", 24, (8, 3, 8, 3)),  # 3-8/3 is 1/3 exactly
        (" ( 1 + 2 ) * 3 ", 9, (1, 2, 3)),
        ("6 × 7 − 8 ÷ 2", 38, (6, 7, 8, 2)),
        ("1/3", Fraction(1, 3), (1, 3)),
    ],
)
def test_value_and_numbers(text, value, numbers):
    parsed = evaluate(text)
    assert parsed.value == value
    assert parsed.numbers == numbers


HOSTILE = [
    "9**9**9**9",
    "__import__('os')",
    "(" * 10_000,
    "(" * 10_000 + "1" + ")" * 10_000,
    "(" * 90 + "1" + ")" * 90,
    "9" * 100_000,
    "9" * 7,
    "1/0",
    "1/(2-2)",
    "",
    " " * 100_000,
    "1+",
    "+1",
    "-3",
    "1 2",
    "(1+2",
    "1+2)",
    "()",
    "2(3)",
    "1.5+1",
    "1e9",
    "٣+1",  # a digit, but not one of ours
    "3+4=7",
    "lambda: 0",
    "1\x002",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_hostile_text_is_refused_at_once(text):
    started = time.perf_counter()
    with pytest.raises(ExpressionError):
        evaluate(text)
    assert time.perf_counter() - started < 0.05


def test_term_writes_what_the_parser_reads_back():
    inner = Term.join(Term(3), "+", Term(4))
    term = Term.join(Term.join(inner, "*", Term(2)), "-", Term(5))
    assert str(term) == "(3+4)*2-5"
    assert term.value == 9 == evaluate(str(term)).value
    assert [str(node) for node in term.nodes()] == ["3+4", "(3+4)*2", "(3+4)*2-5"]


def test_term_keeps_the_order_of_calculation():
    assert str(Term.join(Term(9), "-", Term.join(Term(5), "-", Term(2)))) == "9-(5-2)"
    assert str(Term.join(Term.join(Term(9), "-", Term(5)), "-", Term(2))) == "9-5-2"


def test_term_has_whole_values_only():
    assert Term.join(Term(7), "/", Term(2)) is None
    assert Term.join(Term(7), "/", Term(0)) is None
    assert Term.join(Term(6), "/", Term(2)).value == 3


@pytest.mark.parametrize("operator", "+-*/")
def test_whole_agrees_with_exact_fractions(operator):
    for left, right in itertools.product(range(13), repeat=2):
        exact = Fraction(left, right) if operator == "/" and right else None
        if operator != "/":
            exact = evaluate(f"{left}{operator}{right}").value
        wanted = int(exact) if exact is not None and exact.denominator == 1 else None
        assert whole(left, operator, right) == wanted
