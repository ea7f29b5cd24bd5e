"""The one place where rewards are computed: what it accepts, and how it names what it doesn't."""

from types import SimpleNamespace

import pytest
import torch

from workbench.recipe import Recipe
from workbench.rewards import REWARDS, compute, compute_detailed
from workbench.rewards.intrinsic import INTRINSIC
from workbench.rewards.verifiable import Detailed
from workbench.variants import WorkbenchError

ROLLOUTS = SimpleNamespace(P=2, G=3, B=6, completions=list("abcdef"), logprobs_BT=torch.zeros(6, 1))


def test_values_come_back_by_name_as_float32():
    values = compute({"a": lambda r, t: torch.arange(6).view(2, 3)}, ROLLOUTS, None)
    assert values["a"].dtype == torch.float32
    assert values["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def bad_shape(rollouts, task):
    return torch.zeros(6)


def no_tensor(rollouts, task):
    return [0.0] * 6


def not_a_number(rollouts, task):
    return torch.tensor([[0, 0, 0], [0, float("nan"), 0]])


def raises(rollouts, task):
    return {}["missing"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bad_shape, r"'bad_shape' returned shape \(6,\); return a tensor of shape \(2, 3\)"),
        (no_tensor, r"'no_tensor' returned 'list'; return a tensor of shape \(2, 3\)"),
        (not_a_number, "'not_a_number' is nan for the completion 'e'"),
        (raises, "'raises' raised KeyError: 'missing'; the first completion of its batch was 'a'"),
    ],
)
def test_a_broken_reward_is_named_and_never_becomes_a_zero(function, message):
    with pytest.raises(WorkbenchError, match=message):
        compute({function.__name__: function}, ROLLOUTS, None)


def detailed(rollouts, task):
    lines = [text.upper() for text in rollouts.completions]
    return Detailed(torch.ones(2, 3), {"mean": torch.tensor(0.25), "count": 6}, lines)


def test_a_reward_may_tell_numbers_and_a_line_on_each_completion():
    plain = {
        "plain": lambda r, t: torch.zeros(2, 3),
        "bare": lambda r, t: Detailed(torch.zeros(2, 3)),
    }
    found = compute_detailed({"mine": detailed} | plain, ROLLOUTS, None)
    assert found.numbers == {"mine/mean": 0.25, "mine/count": 6.0}
    assert found.notes == {"mine": list("ABCDEF")}
    assert {name: values.tolist() for name, values in found.values.items()} == {
        "mine": [[1.0] * 3] * 2, "plain": [[0.0] * 3] * 2, "bare": [[0.0] * 3] * 2,
    }  # fmt: skip
    assert compute({"mine": detailed}, ROLLOUTS, None)["mine"].tolist() == [[1.0] * 3] * 2


def too_few(rollouts, task):
    return Detailed(torch.ones(2, 3), notes=["a"])


def test_what_is_told_is_checked_as_the_values_are():
    with pytest.raises(
        WorkbenchError, match="'too_few' returned 1 notes; return one for each of the 6"
    ):
        compute({"too_few": too_few}, ROLLOUTS, None)
    with pytest.raises(WorkbenchError, match=r"'f' returned shape \(6,\)"):
        compute({"f": lambda r, t: Detailed(torch.ones(6))}, ROLLOUTS, None)


def test_the_table_shows_a_formula_a_source_and_a_line_of_help():
    for name, row in REWARDS.items():
        assert row.formula and row.source and row.doc.endswith("."), name


class Task:
    name = "toy"

    def score(self, row, completion):
        return float(completion == "yes")


def test_every_verifiable_row_stays_within_its_bounds_and_reaches_both_ends():
    """From empty to cut off, well formed or not."""
    other = {*INTRINSIC, "learned", "constraints"}
    checked = {name: row for name, row in REWARDS.items() if name not in other}
    rollouts = SimpleNamespace(
        P=2,
        G=2,
        rows=[{}, {}],
        completions=["yes", "<think>a</think>b", "no", "c"],
        lengths_B=torch.tensor([0, 9, 10, 10]),
        truncated_B=torch.tensor([False, False, False, True]),
        max_new_tokens=10,
        logprobs_BT=torch.zeros(4, 10),
    )
    for name, values_PG in compute(checked, rollouts, Task()).items():
        assert (float(values_PG.min()), float(values_PG.max())) == REWARDS[name].bounds, name


def test_the_default_recipe_does_not_punish_overlong_completions():
    assert "overlong" not in Recipe().rewards
