"""Engines behind sample(): limits, what is measured where an engine gives nothing, what is refused."""

import dataclasses

import pytest
import torch

from workbench import engines
from workbench.continuation import answer, think
from workbench.decoding import SERIES, Recorded, Request
from workbench.engines import check_engine, decode_by, differs, measure
from workbench.rollout import sample
from workbench.variants import WorkbenchError

TEXTS = ("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4")
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("entries", [1, 2**26])
def test_measured_statistics_are_the_recorded_ones(policy_of, monkeypatch, family, entries):
    monkeypatch.setattr(engines, "_ENTRIES", entries)
    policy = policy_of(family)
    settings = {"max_new_tokens": 20, "further_stops": (12, 20, 31), "temperature": 2.0}
    made = sample(policy, PROMPTS, group_size=4, **settings)
    assert len(made.lengths_B.unique()) > 2
    again = Recorded(made.completion_ids_BT, made.mask_BT, torch.zeros(5, *made.mask_BT.shape))
    owners_B = torch.arange(made.B) // made.G
    measure(policy.sampler(), made.prompt_ids_PL, made.prompt_mask_PL, owners_B, again)
    recorded = torch.stack([getattr(made, name) for name in SERIES])
    torch.testing.assert_close(again.statistics_5BT, recorded, atol=2e-4, rtol=1e-4)


def test_an_engines_rows_are_cut_at_their_limits_and_carry_its_log_probs(policy_of, monkeypatch):
    policy = policy_of()
    asked = []

    def engine(policy, prompts, most, stop_ids, settings, seed):
        asked.append((prompts, most, stop_ids, settings, seed))
        return [[5, 6, 7, 8]] * len(prompts), [[-1.0, -2.0, -3.0, -4.0]] * len(prompts)

    monkeypatch.setitem(engines.RUNNERS, "paged", engine)
    ids_PL, mask_PL = policy.left_padded([[9, 10, 11], [12]])
    owners_B, limits_B = torch.tensor([0, 0, 1]), torch.tensor([4, 0, 2])
    generator = torch.Generator().manual_seed(0)
    asked_for = Request(ids_PL, mask_PL, owners_B, limits_B, torch.tensor([2]), PLAIN)
    made = decode_by("paged", policy, asked_for, generator)
    assert asked[0][:4] == ([[9, 10, 11], [12]], 4, [2], PLAIN)
    assert made.tokens_BT.tolist() == [[5, 6, 7, 8], [0] * 4, [5, 6, 0, 0]]
    assert made.mask_BT.sum(1).tolist() == [4, 0, 2]
    assert made.statistics_5BT[0].tolist() == [[-1, -2, -3, -4], [0] * 4, [-1, -2, 0, 0]]
    assert made.statistics_5BT[1, 0].min() > 0 and not made.statistics_5BT[:, 1].any()
    bare = dataclasses.replace(asked_for, stats=False)
    assert not decode_by("paged", policy, bare, generator).statistics_5BT.any()
    decode_by("paged", policy, bare, generator)
    assert len({call[4] for call in asked}) == 3  # each draw has a seed of its own


def test_thoughts_and_answers_by_another_engine(policy_of, toy_world):
    from workbench.models import load_policy

    policy = load_policy(toy_world, engine="paged", device="cpu")
    thoughts = think(policy, PROMPTS, group_size=4, max_new_tokens=30, temperature=2.0, seed=1)
    made = answer(policy, thoughts, per_thought=2, initial=True)
    assert made.B == 24 and int(made.lengths_B.max()) <= 30
    assert torch.equal(made.sampled_BT, made.mask_BT & made.sampled_BT)


def test_what_is_refused():
    with pytest.raises(WorkbenchError, match="Unknown engine 'pagd'.*Did you mean 'paged'"):
        check_engine("pagd", "nf4")
    with pytest.raises(WorkbenchError, match="vLLM is not installed here; pip install vllm"):
        check_engine("vllm", "nf4")


def test_int8_weights_are_not_vllms(monkeypatch):
    monkeypatch.setattr(engines, "check_vllm", lambda: None)
    check_engine("vllm", "nf4")
    with pytest.raises(WorkbenchError, match="no int8 weights like these"):
        check_engine("vllm", "int8")


def test_who_samples_by_other_numbers_than_the_trainers(policy_of):
    policy = policy_of()
    assert not differs(policy)
    policy.engine = "paged"
    assert differs(policy)
    policy.engine, policy.device = "native", torch.device("cuda")
    policy.merged = "always"
    assert differs(policy)
    policy.merged = "never"
    assert not differs(policy)
