"""Arithmetic: one right answer, steps that add up, splits that never overlap."""

import json
import random
import time

import pytest

from workbench.tasks import make_task
from workbench.tasks._expression import evaluate
from workbench.tasks.arithmetic import Arithmetic
from workbench.variants import WorkbenchError

ROW = {"expression": "(3+4)*2-5", "answer": 9}


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>3+4=7 7*2=14 14-5=9</think>9", 1.0),
        ("<think></think>9", 1.0),
        ("9", 1.0),
        ("<think>x</think> 9.\n", 1.0),
        ("<think>x</think><answer>9</answer>", 1.0),
        ("<think>x</think>(3+4)*2-5 = 9", 1.0),
        ("<think>x</think>09", 1.0),
        ("<think>x</think>10", 0.0),
        ("<think>x</think>-9", 0.0),
        ("<think>x</think>9 9", 0.0),
        ("<think>x</think>(3+4)*2-5", 0.0),  # the question is no answer
        ("<think>x</think>4+5", 0.0),
        ("<think>x</think>9.0", 0.0),
        ("<think>x</think>٩", 0.0),
        ("<think>9</think>", 0.0),
        ("<think>9", 0.0),
        ("", 0.0),
        ("<think>x</think>9**9**9**9", 0.0),
        ("<think>x</think>__import__('os')", 0.0),
        ("<think>x</think>" + "(" * 10_000, 0.0),
        ("<think>x</think>" + "9" * 1_000_000, 0.0),
        ("<think>x</think>" + "=" * 1_000_000, 0.0),
        ("<answer>" * 100_000, 0.0),
    ],
    ids=lambda value: repr(value[:32]) if isinstance(value, str) else str(value),
)
def test_score(completion, score):
    started = time.perf_counter()
    assert Arithmetic().score(ROW, completion) == score
    assert time.perf_counter() - started < 0.05


def test_drawn_rows_are_right_and_in_range():
    task, rng = Arithmetic(), random.Random(0)
    for _ in range(500):
        key, row, term = task.draw(rng)
        parsed = evaluate(row["expression"])
        assert key == row["expression"]
        assert parsed.value == row["answer"] == term.value
        assert len(parsed.numbers) in (3, 4)
        assert all(1 <= number <= 9 for number in parsed.numbers)
        assert all(0 <= node.value <= 99 for node in term.nodes())


def test_splits_share_no_expression():
    train = {row["expression"] for row in Arithmetic(rows=600).dataset("train")}
    held_out = {row["expression"] for row in Arithmetic(seed=3).dataset("eval")}
    assert len(train) == 600
    assert len(held_out) == 256
    assert not train & held_out


def test_operands_follow_the_fields():
    rows = make_task("arithmetic", fewest=2, most=2, largest=4, rows=20).dataset("train")
    assert all(len(evaluate(row["expression"]).numbers) == 2 for row in rows)


def test_messages():
    assert Arithmetic().messages(ROW) == [{"role": "user", "content": "Compute (3+4)*2-5"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fewest": 5}, "arithmetic.fewest is 5; give at most arithmetic.most, 4."),
        ({"most": True}, "arithmetic.most is True; give a whole number from 2 up."),
        ({"prompt": "Compute"}, "give a text with {expression} in it."),
    ],
)
def test_wrong_fields_are_named(arguments, message):
    with pytest.raises(WorkbenchError, match=r".") as caught:
        make_task("arithmetic", **arguments)
    assert message in str(caught.value)


def test_the_sample_file_is_what_the_task_gives():
    from workbench.packaged import data_path

    lines = data_path("tasks", "arithmetic.sample.jsonl").read_text(encoding="utf-8").splitlines()
    rows = list(Arithmetic(eval_rows=len(lines)).dataset("eval"))
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("7", "07", True),
        ("-7", "-7", True),
        ("7", "8", False),
        ("7", "-7", False),
        ("7", "7 ", False),
    ]
    + [(text, text, False) for text in ("", "3+4", "seven", "7.0")],
)
def test_answers_are_the_same_where_both_are_the_same_whole_number(one, two, same):
    task = make_task("arithmetic")
    assert task.same(one, two) is task.same(two, one) is same


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("<think>x</think>9", "right: it is 9"),
        ("(3+4)*2-5 = 09", "right: it is 9"),
        ("10", "says 10, it is 9"),
        ("-9", "says -9, it is 9"),
        ("4+5", "no whole number can be read in “4+5”"),
        ("9.0", "no whole number can be read in 9.0"),
        ("<think>9", "no answer is given"),
        ("", "no answer is given"),
    ],
)
def test_it_says_why(completion, said):
    assert Arithmetic().explain(ROW, completion) == said


def test_right_is_said_exactly_where_the_score_is_one():
    task, rng, right = Arithmetic(), random.Random(0), 0
    for _ in range(3000):
        text = "".join(
            rng.choices(["9", "0", "-", "=", "<think>", "</think>", " ", "."], k=rng.randint(0, 5))
        )
        score, said = task.score(ROW, text), task.explain(ROW, text)
        right += score == 1.0
        assert said.startswith("right") == (score >= 1.0), (text, said)
    assert right > 20


def test_a_hostile_answer_is_quoted_in_short():
    for text in ("9" * 1_000_000, "<b>" * 100_000, "\n" * 1_000_000 + "x"):
        said = Arithmetic().explain(ROW, text)
        assert len(said) < 120 and "\n" not in said
