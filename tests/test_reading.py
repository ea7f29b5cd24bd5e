"""read() against full forward passes, in value and gradient."""

import dataclasses

import pytest
import torch

from workbench import reading
from workbench.reading import read
from workbench.rollout import sample
from workbench.tiles import Given, Linear, given

FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"]


def ask(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


PROMPTS = ask("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4", "Make 7")


def token_stats(policy, rollouts, indices=None):
    return read(policy, rollouts, indices).logprobs_entropies()


def full_logits(model, rollouts, b):
    """fp32 logits for each completion token of row `b`, run alone, without padding or cache."""
    p, length = b // rollouts.G, int(rollouts.lengths_B[b])
    prompt = rollouts.prompt_ids_PL[p][rollouts.prompt_mask_PL[p]]
    ids = torch.cat((prompt, rollouts.completion_ids_BT[b, :length]))[None]
    return model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()


def gradients(policy):
    found = torch.cat([p.grad.flatten() for _, p in policy.trainable()])
    for _, parameter in policy.trainable():
        parameter.grad = None
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("family", "quantize"), [*[(f, "none") for f in FAMILIES], ("llama", "nf4")]
)
def test_read_equal_the_naive_pass_in_value_and_gradient(
    policy_of, monkeypatch, family, quantize, packed
):
    if not packed:
        monkeypatch.setattr(reading, "can_replace", lambda model: False)
    policy = policy_of(family, quantize)
    made = sample(policy, PROMPTS, group_size=3, max_new_tokens=12, temperature=2.0)
    chosen = torch.tensor([11, 0, 4, 5, 1, 10])
    logprobs, entropies = token_stats(policy, made, chosen)
    weights = torch.randn(2, *logprobs.shape, generator=torch.Generator().manual_seed(0))
    (logprobs * weights[0] + entropies * weights[1]).sum().backward()
    mine = gradients(policy)

    loss = 0.0
    for place, b in enumerate(chosen.tolist()):
        logp = full_logits(policy.model, made, b).log_softmax(-1)
        length = len(logp)
        wanted = logp[range(length), made.completion_ids_BT[b, :length]]
        entropy = -(logp.exp() * logp).sum(-1)
        assert torch.allclose(logprobs[place, :length], wanted, atol=1e-4)
        assert torch.allclose(entropies[place, :length], entropy, atol=1e-4)
        assert not logprobs[place, length:].any()
        loss = loss + (wanted * weights[0, place, :length]).sum()
        loss = loss + (entropy * weights[1, place, :length]).sum()
    loss.backward()
    naive = gradients(policy)
    assert naive.abs().max() > 0
    assert (mine - naive).abs().max() < 2e-4 * naive.abs().max()


def test_read_of_the_reference_are_the_bases(policy_of, toy_family):
    from transformers import AutoModelForCausalLM

    policy = policy_of()
    made = sample(policy, PROMPTS, group_size=2, max_new_tokens=6)
    with torch.no_grad(), policy.reference():
        reference = token_stats(policy, made)[0]
    base = AutoModelForCausalLM.from_pretrained(toy_family("llama"))
    for b in range(made.B):
        logp = full_logits(base, made, b).log_softmax(-1)
        wanted = logp[range(len(logp)), made.completion_ids_BT[b, : len(logp)]]
        assert torch.allclose(reference[b, : len(logp)], wanted, atol=1e-4)
    assert not torch.allclose(reference, made.logprobs_BT, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_the_gpu_samples_and_trains_in_bf16(toy_family, quantize):
    from workbench.models import load_policy

    policy = load_policy(toy_family("llama"), quantize=quantize, lora_rank=4, device="cuda")
    made = sample(policy, PROMPTS, group_size=4, max_new_tokens=20)
    logprobs, _ = token_stats(policy, made)
    logprobs.sum().backward()
    assert next(policy.sampler().parameters()).dtype == torch.bfloat16
    assert all(torch.isfinite(p.grad).all() for _, p in policy.trainable())
    assert (logprobs.detach() - made.logprobs_BT).abs()[made.mask_BT].mean() < 0.1


def test_reading_completions_of_a_single_token(policy_of):
    """Then there are prompts and nothing after them to run."""
    policy = policy_of()
    made = sample(policy, PROMPTS, group_size=2, max_new_tokens=1)
    logprobs, entropies = token_stats(policy, made)
    assert torch.allclose(logprobs, made.logprobs_BT, atol=1e-5)
    assert torch.allclose(entropies, made.entropies_BT, atol=1e-5)
    logprobs.sum().backward()
    assert gradients(policy).abs().max() > 0


def test_a_reading_of_fewer_tokens_is_the_same_there_and_nothing_elsewhere(policy_of):
    policy = policy_of()
    rollouts = sample(policy, PROMPTS[:2], group_size=2, max_new_tokens=6)
    whole = read(policy, rollouts)
    chosen_BT = torch.zeros(4, rollouts.T + 3, dtype=torch.bool)  # wider than the longest row
    chosen_BT[::2, ::2] = True
    part = whole.only(chosen_BT)
    kept_BT = rollouts.mask_BT & chosen_BT[:, : rollouts.T]
    assert torch.equal(part.mask_NT, kept_BT) and part.states is whole.states
    for mine, theirs in zip(part.statistics(), whole.statistics(), strict=True):
        assert torch.equal(mine, theirs * kept_BT)
    flat = dataclasses.replace(whole, states=given(torch.zeros_like(whole.logits())))
    kl_BT = part.exact_kl(flat, "reverse")
    assert (kl_BT[kept_BT] > 0).all() and not kl_BT[~kept_BT].any()


@pytest.mark.parametrize("tile", [64 * 7, 2**23])
@pytest.mark.parametrize("known", [True, False])
def test_the_four_statistics_are_those_recorded_while_sampling(policy_of, monkeypatch, known, tile):
    monkeypatch.setattr("workbench.tiles.TILE", tile)
    policy = policy_of()
    if not known:
        policy.head = None
    made = sample(policy, PROMPTS, group_size=2, max_new_tokens=6)
    found = read(policy, made).statistics()
    recorded = (
        made.logprobs_BT, made.entropies_BT, made.log_collisions_BT, made.self_certainties_BT,
    )  # fmt: skip
    for mine, theirs in zip(found, recorded, strict=True):
        torch.testing.assert_close(mine, theirs * made.mask_BT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "family", ["llama", "gemma2"]
)  # packed, and with a soft cap and not packed
def test_without_a_known_head_the_reading_is_the_same(policy_of, family):
    """Full logits on one side, hidden states on the other, in value and gradient."""
    policy = policy_of(family)
    assert reading.can_replace(policy.model) == (family == "llama")
    made = sample(policy, PROMPTS, group_size=2, max_new_tokens=6)

    def outcome():
        found = read(policy, made)
        with torch.no_grad(), policy.reference():
            reference = read(policy, made)
        loss = sum(part.sum() for part in found.statistics())
        (loss + found.exact_kl(reference, "reverse").sum()).backward()
        return loss.detach(), found, gradients(policy)

    value, whole, gradient = outcome()
    assert isinstance(whole.states.source, Linear)
    policy.head = None
    naive_value, naive, naive_gradient = outcome()
    assert isinstance(naive.states.source, Given)
    torch.testing.assert_close(whole.logits(), naive.logits(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(value, naive_value)
    assert (gradient - naive_gradient).abs().max() < 1e-4 * naive_gradient.abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_adapter_on_the_head_is_trained_and_the_reference_goes_without(policy_of, dropout):
    """Against the logits of the model itself, whose dropout is drawn from the same numbers."""
    policy = policy_of(lora_targets="q_proj,lm_head", lora_dropout=dropout)
    made = sample(policy, PROMPTS, group_size=2, max_new_tokens=6)

    def outcome(direction):
        torch.manual_seed(3)
        found = read(policy, made)
        with torch.no_grad(), policy.reference():
            reference = read(policy, made)
        kl = found.exact_kl(reference, direction)
        logprobs, entropies = found.logprobs_entropies()
        (logprobs + entropies + kl).sum().backward()
        return logprobs.detach(), kl.detach(), gradients(policy)

    head = policy.head
    for direction in ("reverse", "forward"):
        policy.head = head
        mine = outcome(direction)
        policy.head = None
        for found, wanted in zip(mine, outcome(direction), strict=True):
            torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)
    assert mine[1].max() > 0.1


def test_a_reference_held_in_another_adapter_keeps_its_own_head(policy_of):
    """The reading of a held adapter is used after the policy's own is back."""
    policy = policy_of(lora_targets="lm_head")
    made = sample(policy, PROMPTS[:1], group_size=2, max_new_tokens=4)
    other = {name: parameter.detach() * 3 for name, parameter in policy.trainable()}
    with torch.no_grad():
        with policy.holding(other):
            reference = read(policy, made)
            wanted = reference.logits().clone()
        assert torch.equal(reference.logits(), wanted)
        assert (read(policy, made).logits() - wanted).abs().max() > 0.1
