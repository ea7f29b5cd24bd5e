"""transformers' continuous batching, run for real: its tokens, its log-probs, its seed."""

import pytest
import torch

from workbench.paged import has_flash, plain, run_paged
from workbench.rollout import sample
from workbench.sampling import filter_logits
from workbench.variants import WorkbenchError

TEXTS = ("Make 24 from 3 8", "Compute 1", "Compute 12 + 3 * 4")
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_greedy_tokens_and_statistics_are_those_of_the_native_engine(policy_of, family):
    policy = policy_of(family)
    settings = {"group_size": 2, "max_new_tokens": 12, "temperature": 0, "further_stops": (12,)}
    native = sample(policy, PROMPTS, **settings)
    paged = sample(policy, PROMPTS, engine="paged", **settings)
    assert paged.completions == native.completions
    assert torch.equal(paged.mask_BT, native.mask_BT)
    assert torch.equal(paged.truncated_B, native.truncated_B)
    for name in ("logprobs_BT", "entropies_BT", "self_certainties_BT", "log_peaks_BT"):
        torch.testing.assert_close(
            getattr(paged, name), getattr(native, name), atol=2e-4, rtol=1e-4, msg=name
        )


def test_its_own_log_probs_are_the_samplers(policy_of):
    policy = policy_of("llama", "nf4")
    made = sample(policy, PROMPTS, engine="paged", group_size=4, max_new_tokens=10, seed=3)
    tokens, logprobs = run_paged(policy, [[5, 6, 7]] * 3, 8, policy.stop_ids(), PLAIN, 7)
    assert made.logprobs_BT[made.mask_BT].max() < 0
    model = policy.sampler()
    for row, given in zip(tokens, logprobs, strict=True):
        logp = model(torch.tensor([[5, 6, 7, *row]])).logits[0, 2:-1].log_softmax(-1)
        wanted = logp[range(len(row)), row]
        torch.testing.assert_close(torch.tensor(given), wanted, atol=1e-4, rtol=1e-4)


def test_a_seed_repeats_its_draw_and_the_global_generator_stays(policy_of):
    policy = policy_of()
    settings = {"engine": "paged", "group_size": 3, "max_new_tokens": 8}
    before = torch.random.get_rng_state()
    first = sample(policy, PROMPTS, seed=7, **settings)
    assert torch.equal(before, torch.random.get_rng_state())
    assert sample(policy, PROMPTS, seed=7, **settings).completions == first.completions
    assert sample(policy, PROMPTS, seed=8, **settings).completions != first.completions


@pytest.mark.parametrize(
    "filters", [{"top_k": 3}, {"temperature": 0.5, "top_p": 0.7}, {"min_p": 0.2}]
)
def test_first_tokens_follow_the_filtered_distribution(policy_of, filters):
    policy = policy_of()
    made = sample(
        policy, PROMPTS[:1], engine="paged", group_size=400, max_new_tokens=1, seed=2, **filters
    )
    logits = policy.sampler()(made.prompt_ids_PL).logits[:, -1].detach()
    p = filter_logits(logits, **filters).softmax(-1)[0].double()
    counts = torch.bincount(made.completion_ids_BT[:, 0], minlength=len(p)).double()
    assert not counts[p == 0].any()
    kept = p > 0
    cells = int(kept.sum())
    chi_square = float(((counts - 400 * p)[kept] ** 2 / (400 * p[kept])).sum())
    assert cells > 1 and chi_square < cells + 4 * (2 * cells) ** 0.5
    # What is recorded is of the whole distribution all the same.
    wanted = logits[0].log_softmax(-1)[made.completion_ids_BT[:, 0]]
    torch.testing.assert_close(made.logprobs_BT[:, 0], wanted, atol=1e-4, rtol=1e-4)


def test_a_failed_request_is_said(policy_of, monkeypatch):
    policy = policy_of()
    monkeypatch.setattr(type(policy.sampler()), "generate_batch", lambda *_: {})
    with pytest.raises(WorkbenchError, match='6 requests got no answer.; use engine="native"'):
        sample(policy, PROMPTS, engine="paged", group_size=2, max_new_tokens=3)


def test_no_kernel_is_fetched_where_flash_attention_is_not_installed():
    assert not has_flash()
    assert plain(PLAIN) and not plain(PLAIN | {"top_k": 5})
