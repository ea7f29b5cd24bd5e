"""The demonstrators do what their names say, and the mixture decides how often."""

import random
import re
from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest

from workbench.tasks import make_task
from workbench.tasks._drawn import split_of
from workbench.tasks._expression import apply, evaluate
from workbench.tiny.corpus import ARITHMETIC, COUNTDOWN, Mixture, examples
from workbench.tiny.tokenizer import build_tokenizer
from workbench.variants import WorkbenchError

STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
COMPUTE = re.compile(r"Compute (.+)")
MAKE = re.compile(r"Make (\d+) from ([\d ]+)")


def row_of(example):
    content = example.messages[0]["content"]
    if example.family == "arithmetic":
        expression = COMPUTE.fullmatch(content).group(1)
        return {"expression": expression, "answer": int(evaluate(expression).value)}
    target, numbers = MAKE.fullmatch(content).groups()
    return {"numbers": [int(number) for number in numbers.split()], "target": int(target)}


def drawn(demonstrator, count=1000, seed=0):
    mixture = Mixture(**{"careful": 0, "rambling": 0, "guessing": 0, demonstrator: 1})
    return list(islice(examples(mixture, seed), count))


def share_right(demonstrations):
    right = {"countdown": [], "arithmetic": []}
    for example in demonstrations:
        task = make_task(example.family)
        right[example.family].append(task.score(row_of(example), example.completion))
    return {family: sum(scores) / len(scores) for family, scores in right.items()}


def test_careful_demonstrations_are_always_right_and_every_step_is_true():
    demonstrations = drawn("careful")
    assert share_right(demonstrations) == {"countdown": 1.0, "arithmetic": 1.0}
    for example in demonstrations:
        steps = STEP.findall(example.completion)
        numbers = row_of(example).get("numbers") or evaluate(row_of(example)["expression"]).numbers
        assert len(steps) == len(numbers) - 1
        for left, operator, right, result in steps:
            assert apply(Fraction(int(left)), operator, Fraction(int(right))) == int(result)


def test_rambling_demonstrations_are_mostly_wrong_but_not_always():
    right = share_right(drawn("rambling"))
    assert 0.1 < right["countdown"] < 0.35
    assert 0.1 < right["arithmetic"] < 0.4


def test_guesses_have_no_steps_and_are_rarely_right():
    demonstrations = drawn("guessing")
    assert all(e.completion.startswith("<think></think>") for e in demonstrations)
    assert max(share_right(demonstrations).values()) < 0.15


def test_ramblers_write_more_than_the_careful_who_write_more_than_guessers():
    mean = {
        name: sum(len(e.completion) for e in drawn(name, 400)) / 400
        for name in ("guessing", "careful", "rambling")
    }
    assert mean["guessing"] < mean["careful"] < mean["rambling"]


@pytest.mark.parametrize("demonstrator", ["careful", "rambling", "guessing"])
def test_no_completion_reaches_64_tokens(demonstrator):
    tokenizer = build_tokenizer()
    completions = [example.completion + "<|end|>" for example in drawn(demonstrator)]
    lengths = [len(ids) for ids in tokenizer(completions)["input_ids"]]
    assert max(lengths) < 64


def test_demonstrations_stay_off_the_eval_split():
    for example in drawn("careful", 500):
        row = row_of(example)
        if example.family == "arithmetic":
            assert split_of(row["expression"]) == "train"
        else:
            assert split_of(f"{sorted(row['numbers'])}->{row['target']}") == "train"


def test_the_mixture_is_the_share_of_each_demonstrator():
    mixture = Mixture(careful=0.5, rambling=0.3, guessing=0.2)
    counts = Counter(example.demonstrator for example in islice(examples(mixture, 0), 4000))
    # Three standard deviations of a share of 4000 draws are at most 0.024.
    assert counts["careful"] / 4000 == pytest.approx(0.5, abs=0.024)
    assert counts["rambling"] / 4000 == pytest.approx(0.3, abs=0.024)
    assert counts["guessing"] / 4000 == pytest.approx(0.2, abs=0.024)


def test_the_same_seed_gives_the_same_corpus_whatever_random_did_before():
    mixture = Mixture(careful=0.5, rambling=0.3, guessing=0.2)
    first = list(islice(examples(mixture, 7), 50))
    random.seed(1)
    assert list(islice(examples(mixture, 7), 50)) == first
    assert list(islice(examples(mixture, 8), 50)) != first


def test_shares_must_add_up():
    with pytest.raises(WorkbenchError, match="add up to 1"):
        Mixture(careful=0.5, rambling=0.3, guessing=0.3)
    with pytest.raises(WorkbenchError, match="add up to 1"):
        Mixture(careful=1.5, rambling=-0.5, guessing=0.0)


def test_the_corpus_uses_the_tasks_as_they_are_by_default():
    assert make_task("countdown") == COUNTDOWN
    assert make_task("arithmetic") == ARITHMETIC
