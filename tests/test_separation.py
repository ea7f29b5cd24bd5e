"""Masks of thinking and answer, what is malformed, and when the stage changes: by hand."""

import subprocess
import sys

import pytest
import torch

from workbench.separation import (
    SEPARATIONS,
    flat_at,
    malformed,
    stage,
    switched,
    thinking,
)
from workbench.variants import WorkbenchError

END, STOP, PAD = 9, 2, 0
COMPLETIONS = [  # tokens, how many of them are thinking
    ([5, 6, END, 7, STOP], 3),  # a thought and an answer
    ([5, 6, 7, 8, 4], 5),  # cut off inside the thought
    ([5, END, 6, END, 7, STOP], 4),  # the last one counts
    ([5, 6, END, STOP], 3),  # the answer is empty: its end token is an answer's
    ([5, 6, END], 3),  # cut off right after the thought
    ([END, 7, STOP], 1),  # an empty thought
    ([5, STOP], 2),  # ended without an answer or a mark
]


def batch():
    width = max(len(tokens) for tokens, _ in COMPLETIONS)
    tokens_BT = torch.full((len(COMPLETIONS), width), PAD)
    mask_BT = torch.zeros(len(COMPLETIONS), width, dtype=torch.bool)
    for row, (tokens, _) in enumerate(COMPLETIONS):
        tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
        mask_BT[row, : len(tokens)] = True
    return tokens_BT, mask_BT


def test_thinking_goes_up_to_and_including_the_last_end():
    tokens_BT, mask_BT = batch()
    found_BT = thinking(tokens_BT == END, mask_BT)
    assert found_BT.dtype == torch.bool
    for row, (tokens, count) in enumerate(COMPLETIONS):
        expected = [True] * count + [False] * (len(tokens) - count)
        assert found_BT[row, : len(tokens)].tolist() == expected
        assert not found_BT[row, len(tokens) :].any()


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("<think>a</think>4", False),
        ("a</think>4", False),  # the template may have opened the thought
        ("</think>4", False),
        ("<think>a</think> \n4", False),
        ("<think>a", True),
        ("4", True),
        ("", True),
        ("<think>a</think>", True),
        ("<think>a</think> \n\t", True),
        ("<think>a</think>4</think>5", True),
        ("<think>a</think></think>5", True),
        ("<think>a</think>4</think>", True),
    ],
)
def test_a_completion_is_malformed_unless_one_mark_parts_thought_and_answer(text, bad):
    assert malformed([text, "<think>a</think>4"]) == [bad, False]


T, A = True, False  # of the five tokens below, the first three are thinking
THINKING = torch.tensor([[T, T, T, A, A, A]])
ANSWER = torch.tensor([[A, A, A, T, T, A]])  # the last place is padding


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("joint", "tttaa", "tttaa"),
        ("thinking_only", "ttt--", "ttt--"),
        ("answer_only", "---aa", "---aa"),
        ("start", "ttt--", "tttaa"),
        ("reversed", "---aa", "tttaa"),
    ],
)
def test_each_row_before_and_after_the_switch(name, before, after):
    for late, wanted in ((False, before), (True, after)):
        found = SEPARATIONS[name](THINKING, ANSWER, late)
        assert found.tolist() == [[letter != "-" for letter in wanted] + [False]]
        assert stage(name, late) == (wanted[0] == "t", wanted[-1] == "a")


def test_every_row_is_covered_and_only_two_have_a_rule():
    assert list(SEPARATIONS) == ["joint", "thinking_only", "answer_only", "start", "reversed"]
    ruled = {name for name, row in SEPARATIONS.items() if "switch" in row.defaults}
    assert ruled == {"start", "reversed"}
    assert all("[" in row.source for name, row in SEPARATIONS.items() if name != "joint")
    with pytest.raises(WorkbenchError, match="Unknown separation 'strat'.*'start'"):
        stage("strat", False)


def first_stage(steps, **arguments):
    given = SEPARATIONS["start"].defaults | arguments
    return [s for s in range(1, steps + 1) if not switched(given, s, steps)]


def test_the_switch_by_share_counts_whole_steps():
    assert first_stage(10) == [1, 2, 3, 4, 5]
    assert first_stage(100, share=0.29)[-1] == 29  # 0.29 * 100 is a little less than 29
    assert first_stage(10, share=0.0) == []
    assert first_stage(10, share=1.0) == list(range(1, 11))
    assert first_stage(3, share=0.5) == [1, 2]


def test_the_switch_by_step_does_not_look_at_the_length_of_the_run():
    assert first_stage(10, switch="step", step=3) == [1, 2, 3]
    assert first_stage(10, switch="step", step=0) == []
    assert first_stage(10, switch="step", step=99) == list(range(1, 11))


def test_a_row_without_a_rule_never_switches():
    assert not any(switched({}, step, 10, 1) for step in range(1, 11))


def test_the_flat_rule_switches_after_the_step_at_which_it_was_found():
    flat = SEPARATIONS["start"].defaults | {"switch": "flat"}
    assert [switched(flat, step, 100, None) for step in (1, 100)] == [False, False]
    assert [switched(flat, step, 100, 20) for step in (19, 20, 21)] == [False, False, True]


@pytest.mark.parametrize(
    ("scores", "place"),
    [
        ([], None),
        ([0.3], None),
        ([0.3, 0.3], None),
        ([0.3, 0.3, 0.3], 2),
        ([0.3, 0.4, 0.41, 0.405], 3),  # 0.41 is above 0.40 by no more than 0.02; so is 0.405
        ([0.3, 0.4, 0.41, 0.44, 0.2, 0.3], 5),  # a rise starts the count anew
        ([0.5, 0.2, 0.4, 0.6], 2),  # rising again after a fall is not above the best
        ([0.3, 0.315, 0.33, 0.345], 2),  # a climb slower than the tolerance is flat
    ],
)
def test_two_flat_evaluations_in_a_row_end_the_first_stage(scores, place):
    assert flat_at(scores, 0.02) == place


def test_the_table_loads_without_torch():
    code = "import sys, workbench.separation as s; s.stage('start', True); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
