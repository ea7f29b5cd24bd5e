"""The shipped sample is right, and the checker reads what models write."""

import json
import threading
from fractions import Fraction

import pytest

from workbench.packaged import data_path
from workbench.tasks import make_task
from workbench.tasks.grading import last_number
from workbench.variants import WorkbenchError

ROWS = [json.loads(line) for line in data_path("tasks", "gsm8k.sample.jsonl").open()]
TASK = make_task("gsm8k")


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_sample_answer_equals_its_own_expression(row):
    # eval is safe here: the expressions are ours, digits and operators only.
    assert set(row["check"]) <= set("0123456789.+-*/()")
    assert last_number(TASK.reference(row)) == Fraction(eval(row["check"])).limit_denominator(1000)
    assert TASK.score(row, row["answer"]) == 1.0


def test_the_sample_has_both_splits():
    train, held = (TASK.dataset(split) for split in ("train", "eval"))
    assert len(train) + len(held) == len(ROWS) == 40
    assert not set(train["question"]) & set(held["question"])
    assert len(held) >= 5


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("6*15 = 90, 90-72 = 18\n#### 18", 1.0),
        ("<think>90-72</think>18", 1.0),
        ("<think>18", 0.0),
        ("There are 18 rolls left.", 1.0),
        (r"\boxed{18}", 1.0),
        ("#### $18.00", 1.0),
        ("#### 19", 0.0),
        ("18 at first, then 20.", 0.0),
        ("", 0.0),
    ],
)
def test_score(completion, score):
    row = {"question": "", "answer": "90-72\n#### 18"}
    assert TASK.score(row, completion) == score
    there = []
    thread = threading.Thread(target=lambda: there.append(TASK.score(row, completion)))
    thread.start()
    thread.join()
    assert there == [score]


def test_the_prompt_holds_problem_and_instruction():
    (message,) = TASK.messages(ROWS[0])
    assert message["role"] == "user"
    assert message["content"].startswith(ROWS[0]["question"])
    assert message["content"].endswith(TASK.instruction)
    (bare,) = make_task("gsm8k", instruction="").messages(ROWS[0])
    assert bare["content"] == ROWS[0]["question"]


def test_a_reference_without_the_mark_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "1+1?", "answer": "2"}\n')
    with pytest.raises(WorkbenchError, match=r"Row 1 of .*'answer' has no '#### number'"):
        make_task("gsm8k", source=str(path)).dataset("train")


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("90-72 = 18\n#### 18", "right: the reference is 18"),
        ("#### 12", "says 12, the reference is 18"),
        ("It is blue.", "says “It is blue”, the reference is 18"),
        ("<think>18", "no answer is given"),
    ],
)
def test_it_says_why(completion, said):
    assert TASK.explain({"question": "", "answer": "90-72\n#### 18"}, completion) == said


def test_right_is_said_exactly_where_the_score_is_one():
    texts = [
        "18",
        "#### 18.0",
        "18.5",
        "$18$",
        "36/2",
        "1,8",
        "eighteen",
        "",
        "<think>",
        "18 or 19",
    ]
    for row in ROWS[:6]:
        for text in (*texts, row["answer"], TASK.reference(row), f"#### -{TASK.reference(row)}"):
            said = TASK.explain(row, text)
            assert said.startswith("right") == (TASK.score(row, text) >= 1.0), (text, said)
