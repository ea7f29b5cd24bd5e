"""pass@k against counting every subset, its intervals against a known case, evaluation end to end."""

import itertools
import math

import numpy as np
import pytest

from workbench import evaluation
from workbench.evaluation import (
    evaluate,
    pass_at_every_k,
    pass_at_k,
    shown_ks,
)
from workbench.models import load_policy
from workbench.tasks.countdown import Countdown
from workbench.variants import WorkbenchError


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_success():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            outcomes = [1] * c + [0] * (n - c)
            subsets = list(itertools.combinations(outcomes, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12), (n, c, k)


def test_pass_at_k_by_hand_and_for_large_n():
    assert pass_at_k(64, 0, 64) == 0.0
    assert pass_at_k(64, 1, 64) == 1.0
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)  # 1 - 1/6: one pair of the two failures
    exact = 1 - math.comb(990, 100) / math.comb(1000, 100)
    assert pass_at_k(1000, 10, 100) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(WorkbenchError, match=f"got n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


def test_pass_at_k_is_unbiased_for_the_chance_that_k_fresh_samples_hold_a_success():
    """Average over the binomial number of successes in n = 6 samples of probability p."""
    n, p = 6, 0.3
    for k in range(1, n + 1):
        mean = sum(
            math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1)
        )
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_the_interval_is_that_of_the_mean_over_prompts():
    """400 prompts, half solved always, half never: the mean is 0.5, its error 0.5 / sqrt(400)."""
    successes_P = np.array([0, 8] * 200)
    mean, low, high = pass_at_every_k(successes_P, 8)
    assert set(mean) == set(range(1, 9))
    assert mean[1] == mean[8] == pytest.approx(0.5)
    half_width = 1.96 * 0.5 / 20
    assert low[1] == pytest.approx(0.5 - half_width, abs=0.006)
    assert high[1] == pytest.approx(0.5 + half_width, abs=0.006)


def test_prompts_that_agree_leave_no_interval():
    mean, low, high = pass_at_every_k(np.array([2, 2, 2]), 4)
    assert low[2] == high[2] == mean[2] == pytest.approx(5 / 6)


def test_the_ks_that_are_shown():
    assert shown_ks(64) == [1, 2, 4, 8, 16, 32, 64]
    assert shown_ks(1) == [1]
    assert shown_ks(12) == [1, 2, 4, 8, 12]


class AlwaysRight(Countdown):
    def score(self, row, completion):
        return 1.0


class Half(Countdown):
    def score(self, row, completion):
        return 0.5  # partly right is not solved


def test_evaluation_counts_what_the_task_accepts_and_repeats_itself(toy_world):
    policy = load_policy(toy_world, quantize="none", lora_rank=4)
    sizes = {"prompts": 3, "samples": 4, "max_new_tokens": 6}
    result = evaluate(policy, AlwaysRight(), **sizes)
    assert result.successes_P.tolist() == [4, 4, 4]
    assert result.pass_at == dict.fromkeys(range(1, 5), 1.0)
    assert evaluate(policy, Half(), **sizes).successes_P.tolist() == [0, 0, 0]
    again = evaluate(policy, "countdown", **sizes)
    assert again.entropy == result.entropy
    assert again.length == result.length <= 6
    metrics = result.metrics()
    assert metrics["eval/pass@4"] == metrics["eval/pass@4/low"] == 1.0
    assert "pass@4    1.000  [1.000, 1.000]" in str(result)


def test_rows_of_ones_own_take_the_place_of_the_split(toy_world, monkeypatch):
    policy = load_policy(toy_world, quantize="none", lora_rank=4)
    row = {"numbers": [1, 2, 3], "target": 6}
    seen = []
    monkeypatch.setattr(Half, "score", lambda self, row, text: seen.append(row["target"]) or 1.0)
    result = evaluate(policy, Half(), rows=[row], prompts=5, samples=2, max_new_tokens=2)
    assert (seen, len(result.successes_P)) == ([6, 6], 1)


def test_a_task_that_knows_no_truth_is_sampled_without_pass_at_k(policy_of):
    class Unknown(Countdown):
        knows_truth = False

        def score(self, row, completion):
            raise AssertionError("there is nothing to score against")

    rows = [{"numbers": [1, 2, 3], "target": 6}, {"numbers": [1, 2, 4], "target": 7}]
    policy = policy_of()
    result = evaluate(policy, Unknown(), rows=rows, samples=3, max_new_tokens=6)
    assert (result.pass_at, len(result.successes_P)) == ({}, 0)
    known = evaluate(policy, Countdown(), rows=rows, samples=3, max_new_tokens=6).metrics()
    assert result.metrics() == {k: v for k, v in known.items() if "pass@" not in k}
    assert set(result.metrics()) == {"eval/entropy", "eval/length", "eval/truncated"}
    assert str(result).startswith("No right answers are known; entropy")


def test_what_else_a_task_tells_of_completions_is_shown_as_means(toy_world):
    """A task with `measures`: the mean over all completions, under eval/."""

    class Telling(Countdown):
        def measures(self, row, completion):
            return {"letters": float(len(completion)), "one": 1.0}

    policy, task = load_policy(toy_world), Telling()
    found = evaluate(policy, task, prompts=2, samples=3, max_new_tokens=5)
    plain = evaluate(policy, "countdown", prompts=2, samples=3, max_new_tokens=5)
    assert found.measures["one"] == 1.0 and found.measures["letters"] > 0
    told = {"eval/letters": found.measures["letters"], "eval/one": 1.0}
    assert found.metrics() == plain.metrics() | told


def test_a_task_without_truth_may_tell_something_all_the_same(toy_world):
    """And not the same of every completion."""

    class Telling(Countdown):
        knows_truth = False

        def measures(self, row, completion):
            return {"three": 1.0} if row["target"] == 3 else {"other": 0.25}

    rows = [{"numbers": [1, 2], "target": 3}, {"numbers": [1, 3], "target": 4}]
    found = evaluate(load_policy(toy_world), Telling(), rows=rows, samples=3, max_new_tokens=4)
    assert found.measures == {"three": 1.0, "other": 0.25} and found.pass_at == {}
    assert found.metrics()["eval/three"] == 1.0


def test_what_is_kept_are_the_first_completions_and_changes_nothing(toy_world, monkeypatch):
    """Also where they lie in several parts of the evaluation."""
    policy = load_policy(toy_world, quantize="none", lora_rank=4)
    sizes = {"prompts": 5, "samples": 4, "max_new_tokens": 6}
    plain = evaluate(policy, "countdown", **sizes)
    found = evaluate(policy, "countdown", **sizes, keep=(3, 2))
    assert found.metrics() == plain.metrics() and plain.kept == ()
    (whole,) = found.kept
    assert (whole.P, whole.G) == (3, 2)
    assert whole.rows == [Countdown().dataset("eval")[i] for i in range(3)]
    (every,) = evaluate(policy, "countdown", **sizes, keep=(5, 4)).kept
    assert whole.completions == [text for p in range(3) for text in every.texts_of(p)[:2]]
    (all_there_is,) = evaluate(policy, "countdown", **sizes, keep=(9, 9)).kept
    assert all_there_is.completions == every.completions
    assert evaluate(policy, "countdown", **sizes, keep=(3, 0)).kept == ()
    monkeypatch.setattr(evaluation, "ROWS", 8)  # two prompts at once
    parts = evaluate(policy, "countdown", **sizes, keep=(3, 2)).kept
    assert [(part.P, part.G) for part in parts] == [(2, 2), (1, 2)]
