"""Taking a probe: what it keeps of each completion, that it repeats itself and touches nothing."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workbench import tracing
from workbench.rollout import sample
from workbench.tasks.arithmetic import Arithmetic
from workbench.tracing import PROBE_SEED, trace
from workbench.trainer import prepare, train_step

SIZES = {"samples": 4, "max_new_tokens": 8}
LONG = {"samples": 8, "max_new_tokens": 40}  # long enough for the toy model to end now and then
ROWS = [{"expression": "3+4", "answer": 7}, {"expression": "2*3", "answer": 6}]


def probe(state, step=0, **changes):
    rows = changes.pop("rows", state.probe_rows)
    return trace(state.policy, state.task, rows, step=step, **SIZES | changes)


@pytest.fixture
def state(toy_recipe):
    return prepare(toy_recipe.replace(probe_prompts=3))


# ------------------------------------------------------------------ with the toy model


def test_the_same_weights_give_the_same_trace_and_others_another(state, toy_recipe):
    first = probe(state)
    assert probe(state).to_dict() == first.to_dict()
    assert probe(state, step=5).to_dict() == first.to_dict() | {"step": 5}
    train_step(state, toy_recipe)
    later = probe(state)
    assert later.to_dict() != first.to_dict()
    other = prepare(toy_recipe.replace(probe_prompts=3, seed=9))  # B is 0: still the base
    assert probe(other).to_dict() == first.to_dict()
    assert probe(state, seed=PROBE_SEED + 1).to_dict() != later.to_dict()


def test_a_trace_is_what_sample_gives_at_temperature_1(state):
    found = probe(state, step=3, **LONG)
    rollouts = sample(
        state.policy,
        [state.task.messages(row) for row in state.probe_rows],
        group_size=8,
        max_new_tokens=40,
        temperature=1.0,
        seed=PROBE_SEED,
    )
    assert found.step == 3
    assert found.prompts_B.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert found.lengths_B.tolist() == rollouts.lengths_B.tolist()
    assert found.ended_B.tolist() == (~rollouts.truncated_B).tolist()
    for series, row, length in zip(
        found.entropies, rollouts.entropies_BT, found.lengths_B, strict=True
    ):
        assert series.tolist() == row[:length].tolist()
    mean = rollouts.entropies_BT.sum() / rollouts.mask_BT.sum()
    assert found.mean_entropy == pytest.approx(mean.item(), rel=1e-6)
    assert 0 < found.truncated < 1


def test_entropies_have_the_lengths_of_the_completions(state):
    found = probe(state, **LONG)
    assert [len(series) for series in found.entropies] == found.lengths_B.tolist()
    assert len(set(found.lengths_B.tolist())) > 1
    assert found.lengths_B.max() == 40
    assert all((series > 0).all() for series in found.entropies)  # nothing of the padding


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_not_touched(toy_recipe, dropout):
    """Probes before, between and after two steps: the weights are those without, bit for bit."""
    recipe = toy_recipe.replace(lora_dropout=dropout)
    alone, probed = prepare(recipe), prepare(recipe)
    probe(probed)
    for _ in range(2):
        mine, theirs = train_step(alone, recipe), train_step(probed, recipe)
        assert mine.rollouts.completions == theirs.rollouts.completions
        probe(probed)
    weights, others = alone.policy.state(), probed.policy.state()
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)


def test_no_generator_but_its_own_is_moved(state):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    probe(state)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


# ------------------------------------------------------------------ by hand


def written(completions, cut=(), rows=ROWS):
    """What `sample` would return of these completions; those whose number is in `cut` hit the limit."""
    lengths = [len(text) + (b not in cut) for b, text in enumerate(completions)]
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return SimpleNamespace(
        P=len(rows),
        G=len(completions) // len(rows),
        B=len(completions),
        completions=completions,
        texts_of=lambda p, g=len(completions) // len(rows): completions[p * g : (p + 1) * g],
        lengths_B=mask_BT.sum(1),
        entropies_BT=torch.arange(len(completions))[:, None] * mask_BT.float(),
        truncated_B=torch.tensor([b in cut for b in range(len(completions))]),
    )


@pytest.fixture
def traced(monkeypatch):
    """Completions -> their trace on ROWS; `asked` holds the settings of the call to `sample`."""

    def run(completions, cut=(), task=None):
        def fixed(policy, prompts, **settings):
            run.asked = {"prompts": prompts, **settings}
            return written(completions, cut)

        monkeypatch.setattr(tracing, "sample", fixed)
        sizes = SIZES | {"samples": len(completions) // 2}
        return trace(None, task or Arithmetic(), ROWS, step=9, **sizes)

    return run


def test_each_completion_is_judged_by_its_own_prompt(traced):
    found = traced(["7", "6", "8", "6", "7", "6"])
    assert found.prompts_B.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.answers == ("7", "6", "8", "6", "7", "6")
    assert found.correct_B.tolist() == [1, 0, 0, 1, 0, 1]
    assert found.accuracy == pytest.approx(3 / 6)
    assert traced.asked["prompts"] == [Arithmetic().messages(row) for row in ROWS]
    assert (traced.asked["group_size"], traced.asked["max_new_tokens"]) == (3, 8)
    assert traced.asked.get("temperature", 1.0) == 1.0


def test_answers_that_are_the_same_share_the_first_ones_text(traced):
    found = traced(["<think>x</think>07", "7.", "7", "3+3=6", "06", "5"])
    assert found.answers == ("07", "07", "07", "6", "6", "5")
    assert found.correct_B.tolist() == [1, 1, 1, 1, 1, 0]
    assert found.vote_share == pytest.approx((1 + 2 / 3) / 2)
    assert found.distinct_answers == pytest.approx((1 + 2) / 2)


def test_prompts_do_not_share_their_texts(traced):
    """07 is the first form of the first prompt, 7 that of the second."""
    assert traced(["07", "7", "7", "07"]).answers == ("07", "07", "7", "7")


def test_what_was_cut_off_or_can_not_be_read_has_no_answer(traced):
    """The first completion reads like an answer, but nobody knows what would have followed."""
    found = traced(["7", "7", "seven", "6", "<think>6", ""], cut=(0,))
    assert found.answers == (None, "7", None, "6", None, None)
    assert found.ended_B.tolist() == [False, True, True, True, True, True]
    assert found.truncated == pytest.approx(1 / 6)
    assert found.vote_share == pytest.approx(1 / 3)


def test_lengths_and_entropies_are_those_of_each_completion(traced):
    found = traced(["7", "<think>x</think>7", "6", "66666"], cut=(3,))
    assert found.lengths_B.tolist() == [2, 18, 2, 5]  # with the end token, where there is one
    assert [series.tolist() for series in found.entropies] == [
        [0.0] * 2,
        [1.0] * 18,
        [2.0] * 2,
        [3.0] * 5,
    ]


def test_a_share_of_the_score_is_not_right(traced):
    class Half(Arithmetic):
        def score(self, row, completion):
            return {"7": 1.0, "8": 0.5}.get(completion, 0.0)

    assert traced(["7", "8", "9", "7"], task=Half()).correct_B.tolist() == [1, 0, 0, 1]
