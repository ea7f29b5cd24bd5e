"""What every task's explanation keeps to."""

import pytest

from workbench.tasks import TASKS
from workbench.tasks.base import NO_ANSWER, QUOTED, UNREAD, known_means, quoted, thinks


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("blue", "“blue”"),
        ("18", "18"),
        ("-1,200.5", "-1,200.5"),
        ("a\n  b\t", "“a b”"),
        ("<b>", "“<b>”"),
        ("x" * 41, f"“{'x' * 40}…”"),
        ("9" * 41, f"“{'9' * 40}…”"),
        (" " * 500 + "x", "“…”"),
        ("", "“”"),
    ],
)
def test_what_is_quoted_is_short_and_on_one_line(text, said):
    assert quoted(text) == said
    assert len(said) <= QUOTED + 3


@pytest.mark.parametrize(
    ("text", "tagged"),
    [
        ("<think>3", True),
        ("3</think>4", True),
        ("<think>3</think>4", True),
        ("", False),
        ("<answer>4", False),
    ],
)
def test_a_tag_says_that_there_is_thinking(text, tagged):
    assert thinks(text) == tagged


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_that_no_answer_was_given(name):
    task = TASKS[name]
    said = task.explain(task.dataset("eval")[0], "<think>so")
    assert said.startswith(UNREAD) and (said == NO_ANSWER or name == "jsonl")


def test_a_mean_is_over_those_that_know_the_name():
    parts = [{"a": 1.0, "b": 4.0}, {"a": 0.0}, {}, {"a": 0.5, "c": 2.0}]
    assert known_means(parts) == {"a": 0.5, "b": 4.0, "c": 2.0}
    assert known_means([]) == known_means([{}]) == {}
