"""Rewards that a rule checks, by hand."""

from types import SimpleNamespace

import pytest
import torch

from workbench.rewards.verifiable import correct, format_, length, overlong, well_formed
from workbench.variants import WorkbenchError


def rollouts(completions, lengths=None, truncated=None, group=2):
    count = len(completions)
    return SimpleNamespace(
        completions=completions,
        rows=[{"answer": str(p)} for p in range(count // group)],
        P=count // group,
        G=group,
        lengths_B=torch.tensor(lengths or [1] * count),
        truncated_B=torch.tensor(truncated or [False] * count),
        max_new_tokens=10,
        logprobs_BT=torch.zeros(count, 3),
    )


class Task:
    name = "toy"

    def score(self, row, completion):
        if completion == "boom":
            raise RuntimeError("checker broke")
        return float(completion == row["answer"])


def test_correct_asks_the_task_about_each_completion_with_its_own_row():
    values_PG = correct(rollouts(["0", "1", "0", "1"]), Task())
    assert values_PG.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_checker_that_breaks_is_named_with_its_completion():
    with pytest.raises(
        WorkbenchError, match="Task 'toy' failed.*'boom'.*RuntimeError: checker broke"
    ):
        correct(rollouts(["0", "boom"]), Task())


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("<think>1+1=2</think>2", True),
        ("<think></think> 2 ", True),
        ("<think>x</think>", False),
        ("<think>x</think>   ", False),
        ("2", False),
        ("x<think>y</think>2", False),
        ("<think>x</think>2</think>3", False),
        ("<think><think>x</think>2", False),
        ("<think>x", False),
        ("</think>2<think>", False),
    ],
)
def test_the_format_is_one_thought_then_an_answer(text, good):
    assert well_formed(text) is good


def test_a_completion_cut_off_is_not_well_formed():
    values_PG = format_(rollouts(["<think>x</think>2"] * 2, truncated=[False, True]), Task())
    assert values_PG.tolist() == [[1.0, 0.0]]


def test_length_is_the_share_of_the_limit_left_unused():
    values_PG = length(rollouts(["a"] * 4, lengths=[0, 1, 5, 10]), Task())
    torch.testing.assert_close(values_PG, torch.tensor([[1.0, 0.9], [0.5, 0.0]]))


def test_overlong_punishes_only_the_last_fifth_and_falls_to_minus_one():
    """Limit 10, buffer 2: 0 up to 8 tokens, -1/2 at 9, -1 at 10."""
    values_PG = overlong(rollouts(["a"] * 6, lengths=[0, 1, 7, 8, 9, 10]), Task())
    assert values_PG.tolist() == [[0.0, 0.0], [0.0, 0.0], [-0.5, -1.0]]


def test_overlong_takes_a_buffer_that_is_no_whole_number_of_tokens():
    """Limit 8, buffer 1.6: 7 tokens are 0.6 into it."""
    given = rollouts(["a"] * 4, lengths=[6, 7, 8, 3])
    given.max_new_tokens = 8
    wanted = torch.tensor([[0.0, -0.375], [-1.0, 0.0]])
    torch.testing.assert_close(overlong(given, Task()), wanted)


def test_overlong_punishes_a_cut_completion_in_full():
    given = rollouts(["a"] * 4, lengths=[10, 10, 9, 2], truncated=[True, False, False, False])
    assert overlong(given, Task()).tolist() == [[-1.0, -1.0], [-0.5, 0.0]]
    given.truncated_B[2] = True  # whatever its recorded length
    assert overlong(given, Task()).tolist() == [[-1.0, -1.0], [-1.0, 0.0]]
