"""The shipped sample is right by sympy, and the checker compares values, not spellings."""

import json
import threading

import pytest
import sympy

from workbench.packaged import data_path
from workbench.tasks import make_task
from workbench.variants import WorkbenchError

ROWS = [json.loads(line) for line in data_path("tasks", "math.sample.jsonl").open()]
TASK = make_task("math")


def check_value(row):
    names = {name: getattr(sympy, name) for name in dir(sympy)} | {"x": sympy.Symbol("x")}
    names |= {"sum": sum, "min": min, "int": int, "range": range}
    return sympy.sympify(eval(row["check"], names))  # our own expressions


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_sample_answer_equals_its_own_expression(row):
    assert TASK.score(row, row["solution"]) == 1.0
    # The expression is printed by sympy in its own spelling, and judged by value.
    printed = sympy.latex(check_value(row))
    assert TASK.score(row, rf"\boxed{{{printed}}}") == 1.0, (TASK.reference(row), printed)
    assert TASK.score(row, r"\boxed{123456}") == 0.0


def test_the_sample_has_both_splits():
    train, held = (TASK.dataset(split) for split in ("train", "eval"))
    assert len(train) + len(held) == len(ROWS) == 40
    assert not set(train["problem"]) & set(held["problem"])
    assert len(held) >= 5


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (r"so it is \boxed{\dfrac{1}{2}}", 1.0),
        (r"\boxed{0.5}", 1.0),
        ("<think>hm</think>1/2", 1.0),
        (r"<think>\boxed{1/2}", 0.0),
        (r"The answer is $\frac12$.", 1.0),
        (r"\boxed{1} or \boxed{2}", 0.0),
    ],
)
def test_score_in_the_main_and_in_a_worker_thread(completion, score):
    row = {"problem": "", "solution": r"\boxed{\frac{1}{2}}"}
    there = []
    thread = threading.Thread(target=lambda: there.append(TASK.score(row, completion)))
    thread.start()
    thread.join()
    assert TASK.score(row, completion) == score
    assert there == [score]


def test_a_solution_without_box_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"problem": "1+1?", "solution": "2"}\n')
    with pytest.raises(WorkbenchError, match=r"Row 1 of .*'solution' has no \\boxed"):
        make_task("math", source=str(path)).dataset("train")


def test_it_says_why_and_right_exactly_where_the_score_is_one():
    row = {"problem": "", "solution": r"\boxed{\frac{1}{2}}"}
    assert TASK.explain(row, r"\boxed{0.5}") == r"right: the reference is “\frac{1}{2}”"
    assert TASK.explain(row, r"\boxed{2}") == r"says 2, the reference is “\frac{1}{2}”"
    for row in ROWS[:5]:
        for text in (row["solution"], r"\boxed{1}", r"\boxed{x}", "0", "", "<think>", "9**9**9**9"):
            said = TASK.explain(row, text)
            assert said.startswith("right") == (TASK.score(row, text) >= 1.0), (text, said)


@pytest.mark.parametrize(
    ("solution", "reference"),
    [
        (r"so $x=\boxed 7$.", "7"),
        (r"thus \fbox{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"first \boxed 3 and then \boxed{4}", "4"),
    ],
)
def test_a_published_solution_may_box_its_answer_otherwise(solution, reference):
    assert TASK.reference({"problem": "?", "solution": solution}) == reference
