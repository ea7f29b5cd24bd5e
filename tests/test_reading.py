"""read() against full forward passes, in value and gradient."""

import pytest
import torch

from workbench import reading
from workbench.reading import read
from workbench.rollout import sample

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
    assert torch.equal(part.mask_NT, kept_BT) and part.logits_CV is whole.logits_CV
    for mine, theirs in zip(part.logprobs_entropies(), whole.logprobs_entropies(), strict=True):
        assert torch.equal(mine, theirs * kept_BT)
    kl_BT = part.exact_kl(torch.zeros_like(whole.logits_CV), "reverse")
    assert (kl_BT[kept_BT] > 0).all() and not kl_BT[~kept_BT].any()
