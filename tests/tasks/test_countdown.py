"""Countdown: which answers count, splits that never overlap, problems that can be solved."""

import itertools
import json
import random
import time

import pytest

from workbench.tasks import make_task
from workbench.tasks._drawn import split_of
from workbench.tasks._expression import evaluate
from workbench.tasks.countdown import Countdown
from workbench.variants import WorkbenchError

ROW = {"numbers": [3, 7, 2], "target": 19}


@pytest.mark.parametrize(
    "completion",
    [
        "<think>3*7=21 21-2=19</think>3*7-2",
        "<think></think>7*3-2",
        "3*7-2",
        "<think>so</think>\n 3 * 7 - 2 \n",
        "<think>x</think><answer>3*7-2</answer>",
        "<think>x</think>It is <answer> (3*7)-2 </answer>.",
        "<think>x</think><answer>3*7-2",
        "<think>x</think>3*7-2 = 19",
        "<think>x</think>3*7-2=19.",
        "<think>a</think>1<think>b</think>3*7-2",
    ],
)
def test_right_answers(completion):
    assert Countdown().score(ROW, completion) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "<think>3*7-2</think>",  # no answer
        "<think>3*7-2",  # thinking never ends
        "<think>x</think>19",  # the numbers are not used
        "<think>x</think>3*7+2",  # 23
        "<think>x</think>7*2+7-2",  # 7 and 2 twice, 3 missing
        "<think>x</think>21-2",  # 3*7 done in the head
        "<think>x</think>3*7-2+7-7",  # 7 three times
        "<think>x</think>3*7-2 = 20",  # claims another target
        "<think>x</think>3*7-2 3*7-2",
        "<think>x</think>9**9**9**9",
        "<think>x</think>__import__('os')",
        "<think>x</think>" + "(" * 10_000,
        "<think>x</think>3*7-2" + " " * 200_000 + "x",
        "<think>x</think>3*7-2=" + "1" * 200_000,
        "",
    ],
    ids=lambda text: repr(text[:32]),
)
def test_wrong_and_hostile_answers(completion):
    started = time.perf_counter()
    assert Countdown().score(ROW, completion) == 0.0
    assert time.perf_counter() - started < 0.05


def test_any_right_expression_counts():
    # Every (a.b).c over the orders of 1, 2, 3 and the four operators; 6 is made in many ways.
    row = {"numbers": [1, 2, 3], "target": 6}
    texts = [
        f"({a}{o}{b}){p}{c}"
        for a, b, c in itertools.permutations((1, 2, 3))
        for o, p in itertools.product("+-*/", repeat=2)
    ]
    right = {text for text in texts if Countdown().score(row, text) == 1.0}
    assert right == {text for text in texts if evaluate(text).value == 6}
    assert {"(1+2)+3", "(3*2)*1", "(1*2)*3", "(2*3)/1"} <= right


def test_repeated_numbers_are_counted():
    row = {"numbers": [4, 4, 2], "target": 10}
    assert Countdown().score(row, "4+4+2") == 1.0
    assert Countdown().score(row, "4*2+2") == 0.0


def test_answer_is_what_the_checker_sees():
    task = Countdown()
    assert task.answer("<think>s</think><answer>3*7-2 = 19</answer>") == "3*7-2"
    assert task.answer("<think>never ends") == ""


def test_splits_share_no_problem_whatever_the_order_of_the_numbers():
    keys = {
        split: {
            f"{sorted(row['numbers'])}->{row['target']}"
            for row in Countdown(rows=600).dataset(split)
        }
        for split in ("train", "eval")
    }
    assert len(keys["eval"]) == 224
    assert len(keys["train"]) == 600
    assert not keys["train"] & keys["eval"]
    assert all(split_of(key) == split for split in keys for key in keys[split])


def test_another_seed_moves_no_problem_to_the_other_split():
    one, other = Countdown(eval_rows=64), Countdown(seed=1, rows=512)
    held_out = {(tuple(sorted(r["numbers"])), r["target"]) for r in one.dataset("eval")}
    trained = {(tuple(sorted(r["numbers"])), r["target"]) for r in other.dataset("train")}
    assert not held_out & trained


def test_the_same_seed_gives_the_same_rows():
    assert list(Countdown(rows=50).dataset("train")) == list(Countdown(rows=50).dataset("train"))
    assert list(Countdown(rows=50).dataset("train")) != list(
        Countdown(rows=50, seed=1).dataset("train")
    )


@pytest.mark.parametrize("numbers", [2, 3, 4, 6])
def test_every_problem_has_the_solution_it_was_drawn_from(numbers):
    task, rng = Countdown(numbers=numbers), random.Random(0)
    for _ in range(100):
        _, row, solution = task.draw(rng)
        assert task.score(row, str(solution)) == 1.0
        assert 1 <= row["target"] <= 99
        assert len(row["numbers"]) == numbers


def test_a_small_world_gives_the_rows_it_has():
    rows = list(Countdown(numbers=2, largest=3).dataset("train"))
    assert 0 < len(rows) < 30


def test_the_prompt_can_be_reworded():
    assert Countdown().messages(ROW) == [{"role": "user", "content": "Make 19 from 3 7 2"}]
    task = make_task("countdown", prompt="Use each of {numbers} once to get {target}.")
    assert task.messages(ROW)[0]["content"] == "Use each of 3 7 2 once to get 19."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numbers": 1}, "countdown.numbers is 1; give a whole number from 2 up."),
        ({"largest": "9"}, "countdown.largest is '9'; give a whole number from 1 up."),
        ({"prompt": "Make {goal}"}, "give a text with {target} and {numbers} in it."),
        ({"number": 3}, "Unknown parameter of countdown 'number'"),
    ],
)
def test_wrong_fields_are_named(arguments, message):
    with pytest.raises(WorkbenchError, match=r".") as caught:
        make_task("countdown", **arguments)
    assert message in str(caught.value)


def test_wrong_split_is_named():
    with pytest.raises(WorkbenchError, match="Unknown split 'test'"):
        Countdown().dataset("test")


def test_the_sample_file_is_what_the_task_gives():
    from workbench.packaged import data_path

    lines = data_path("tasks", "countdown.sample.jsonl").read_text(encoding="utf-8").splitlines()
    rows = list(Countdown(eval_rows=len(lines)).dataset("eval"))
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("2*3+1", "1+3*2", True),
        ("2*3+1", "(2*3)+1", True),
        ("2*3", "5+1", False),  # as much, of other numbers
        ("2*3+1", "2*(3+1)", False),
        ("", "", False),
        ("2*3+", "2*3+", False),
        ("9**9", "9**9", False),
    ],
)
def test_answers_are_the_same_where_value_and_numbers_are(one, two, same):
    task = make_task("countdown")
    assert task.same(one, two) is task.same(two, one) is same


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("<think>x</think>3*7-2", "right: makes 19"),
        ("3*7-2 = 19.", "right: makes 19"),
        ("<think>x</think>3*7+2", "makes 23, wanted 19"),
        ("3*7/2", "makes 21/2, wanted 19"),
        ("7*2+7-2", "uses 3 not at all, 7 twice, 2 twice"),
        ("3*7-2+7-7", "uses 7 three times"),
        ("21-2", "uses 3 not at all, 7 not at all; uses 21, not given"),
        ("3*7-2 = 20", "claims 20 but makes 19"),
        ("3*7+2 = 19", "claims 19 but makes 23"),
        ("3*7+2 = 23", "makes 23, wanted 19"),
        ("3*7-2 = <b>", "claims “<b>” but makes 19"),
        ("(3*7-2", "no expression can be read: a bracket is not closed"),
        (
            "I give up",
            "no expression can be read: a character that is no digit, operator or bracket",
        ),
        ("<think>3*7-2", "no answer is given"),
        ("", "no answer is given"),
    ],
)
def test_it_says_why(completion, said):
    assert Countdown().explain(ROW, completion) == said


def test_it_says_how_often_a_repeated_number_is_wanted():
    row = {"numbers": [4, 4, 2], "target": 10}
    assert Countdown().explain(row, "4*2+2") == "uses 4 once instead of twice, 2 twice"


def test_right_is_said_exactly_where_the_score_is_one():
    """Over sums of right and wrong numbers, whole and broken, with true and false claims."""
    task, right = Countdown(), 0
    sums = [
        f"{a}{o}{b}{p}{c}"
        for a, b, c in itertools.product(("3", "7", "2", "19", ""), repeat=3)
        for o, p in itertools.product("*-+(", repeat=2)
    ]
    for text in sums:
        for whole in (text, f"<think>x</think>{text}=19", f"{text} = 23.", f"<think>{text}"):
            score, said = task.score(ROW, whole), task.explain(ROW, whole)
            right += score == 1.0
            assert said.startswith("right") == (score >= 1.0), (whole, said)
            assert 0 < len(said) < 200
    assert right == 4  # 3*7-2 and 7*3-2, with and without the claim


@pytest.mark.parametrize("text", ["(" * 10_000, "3*7-2=" + "1" * 200_000, "999999*" * 28 + "9"])
def test_hostile_answers_are_explained_in_short(text):
    started = time.perf_counter()
    said = Countdown().explain(ROW, text)
    assert len(said) < 200 and not said.startswith("right")
    assert time.perf_counter() - started < 0.05
