"""Every family that people train goes the whole way: load, sample, train with an anchor, save, load, export.

The models are stand-ins (`standins`): the real architectures, tokens and templates with random weights.
"""

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench import runs
from workbench.crossing import held_out_post_pre
from workbench.models import load_policy
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.rollout import sample
from workbench.trainer import prepare, train_step

from .standins import FAMILIES

ASKED = [
    [{"role": "user", "content": "Make 24 from 3 and 8."}],
    [{"role": "user", "content": "A bakery fills 6 trays with 15 rolls each. How many are there?"}],
]


def moved(policy, scale=0.05):
    """The policy with its adapter off zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return policy


def letters(rollouts, task):
    """Share of a completion's characters that are letters: noise earns it at once, and unequally."""
    share = [sum(c.isalpha() for c in text) / (len(text) + 1) for text in rollouts.completions]
    return torch.tensor(share).view(rollouts.P, rollouts.G)


def small_recipe(model, quantize):
    return Recipe(
        model=model,
        quantize=quantize,
        lora_rank=4,
        task="gsm8k",
        rewards={letters: 1.0, "correct": 0.0},
        beta=0.05,
        prompts_per_step=2,
        group_size=4,
        max_new_tokens=12,
        steps=2,
        eval_every=2,
        eval_prompts=1,
        eval_samples=2,
        checkpoint_every=1,
        rollouts_every=1,
    )


def naive_logprobs(model, rollouts):
    """Log-probs of each completion's tokens, one row at a time: no padding, no cache, nothing shared."""
    found = []
    for b in range(rollouts.B):
        prompt = rollouts.prompt_ids_PL[b // rollouts.G][rollouts.prompt_mask_PL[b // rollouts.G]]
        tokens = rollouts.completion_ids_BT[b][rollouts.mask_BT[b]]
        ids = torch.cat((prompt, tokens))[None]
        with torch.no_grad():
            logp = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(logp.gather(1, tokens[:, None]).squeeze(1))
    return found


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_while_sampling_is_what_the_plain_model_says(standin, family, quantize):
    policy = moved(load_policy(standin(family), quantize=quantize, lora_rank=4, device="cpu"))
    rollouts = sample(policy, ASKED, group_size=4, max_new_tokens=16, seed=0)
    naive = naive_logprobs(policy.model, rollouts)
    with torch.no_grad():
        read_BT, entropies_BT = read(policy, rollouts).logprobs_entropies()
    for b, wanted in enumerate(naive):
        for found_BT in (rollouts.logprobs_BT, read_BT):
            found = found_BT[b][rollouts.mask_BT[b]]
            torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
    assert (entropies_BT[rollouts.mask_BT] >= 0).all()
    with policy.reference():
        base = naive_logprobs(policy.model, rollouts)
    assert max(float((one - two).abs().max()) for one, two in zip(base, naive, strict=True)) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_every_end_token_ends_a_completion_and_is_not_shown(standin, family):
    policy = load_policy(standin(family), quantize="none", lora_rank=4, device="cpu")
    ends = policy.tokenizer.convert_tokens_to_ids(list(FAMILIES[family].ends))
    assert policy.stop_ids() == sorted({*ends, policy.tokenizer.eos_token_id})
    hello = policy.tokenizer.encode("Hello", add_special_tokens=False)
    assert policy.decode([[*hello, end] for end in ends]) == ["Hello"] * len(ends)
    rollouts = sample(policy, ASKED, group_size=64, max_new_tokens=24, temperature=2.0, seed=1)
    last_B = rollouts.completion_ids_BT.gather(1, rollouts.lengths_B[:, None] - 1).squeeze(1)
    assert 0 < int((~rollouts.truncated_B).sum()) < rollouts.B
    assert [int(one) in policy.stop_ids() for one in last_B] == (~rollouts.truncated_B).tolist()
    assert bool((rollouts.lengths_B[rollouts.truncated_B] == 24).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_the_familys_own_and_asks_for_an_answer(standin, family):
    policy = load_policy(standin(family), quantize="none", lora_rank=4, device="cpu")
    plain = AutoTokenizer.from_pretrained(standin(family))
    wanted = plain.apply_chat_template(ASKED[0], add_generation_prompt=True, return_dict=False)
    ids_PL, mask_PL = policy.encode(policy.render(ASKED))
    assert ids_PL[0][mask_PL[0]].tolist() == wanted  # one beginning token, and none twice
    assert not mask_PL[0, 0] and mask_PL[:, -1].all()  # padded left


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_with_an_anchor_agrees_with_the_sampler_and_moves_the_adapter(
    standin, family, quantize
):
    recipe = small_recipe(standin(family), quantize)
    state = prepare(recipe)
    moved(state.policy)
    before = state.policy.state()
    metrics = train_step(state, recipe, measure_kl=True).metrics
    assert metrics["train/mismatch"] < 1e-4
    assert metrics["train/ratio_gap"] < 1e-4
    assert metrics["train/grad_norm"] > 0
    assert abs(metrics["train/kl"]) > 1e-4  # the adapter was moved away from the reference
    assert metrics["train/anchor_loss"] > 0
    after = state.policy.state()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert all(not torch.equal(before[name], after[name]) for name in after)


def tag_within(policy, rollouts):
    """The text of two tokens in a row amid a completion, visible and without spaces."""
    rows = [
        ids[on].tolist()
        for ids, on in zip(rollouts.completion_ids_BT, rollouts.mask_BT, strict=True)
    ]
    texts = [
        policy.tokenizer.decode(pair) for row in rows for pair in itertools.pairwise(row[2:12])
    ]
    fit = [text for text in texts if text.isascii() and text.isprintable() and len(text) > 1]
    return next(text for text in fit if " " not in text and "<" not in text)


@pytest.mark.parametrize("parted", [{"separation": "thinking_only"}, {"answerer": "initial"}])
def test_thoughts_that_close_in_several_tokens_are_trained_apart(standin, parted):
    """Qwen2.5 has no token for the tags; a text that its stand-in writes closes thoughts here."""
    plain = small_recipe(standin("qwen2.5"), "none").replace(max_new_tokens=20, device="cpu")
    state = prepare(plain)
    close = tag_within(state.policy, train_step(state, plain).rollouts)
    recipe = plain.replace(
        think_tags=f"<t> {close}", answers_per_thought=2, group_size=8, cross_samples=2, **parted
    )
    state = prepare(recipe)
    assert state.policy.thought_end_id() is None
    report = train_step(state, recipe)
    rollouts, thinking_BT = report.rollouts, report.thinking_BT
    closed_B = rollouts.closing_BT.any(1)
    assert 0 < report.metrics["rollout/malformed"] < 1 and report.metrics["train/mismatch"] < 1e-4
    assert closed_B.tolist() == ["</think>" in text for text in rollouts.completions]
    assert torch.equal(report.trained_BT, thinking_BT)
    assert torch.equal((thinking_BT == rollouts.mask_BT).all(1), ~closed_B)
    found = held_out_post_pre(state, recipe)
    assert set(found) >= {"eval/post_post", "eval/post_pre"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_resumed_and_its_exports_answer_as_it_does(standin, family, tmp_path):
    from peft import PeftModel

    recipe = small_recipe(standin(family), "nf4").replace(learning_rate=0.02)
    straight = runs.train(recipe, folder=tmp_path / "straight").wait()
    first = runs.train(recipe.replace(steps=1), folder=tmp_path / "again").wait()
    again = runs.attach(first.path, functions=[letters])
    again.update(steps=2)
    again.resume()
    again.wait()
    wanted, found = straight.policy().state(), again.policy().state()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())

    policy = straight.policy()
    ids, mask = policy.encode(policy.render(ASKED))

    def logits(model):
        with torch.no_grad():
            return model(ids, attention_mask=mask).logits[:, -1]

    out = straight.export(tmp_path / "merged", merged=True)
    plain = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(plain), logits(policy.model), atol=1e-3, rtol=1e-3)
    assert plain.generation_config.eos_token_id == policy.model.generation_config.eos_token_id

    # On a plain base the adapter answers as on the same base kept in NF4, but for the base's rounding.
    adapter = straight.export(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(standin(family))
    same = load_policy(standin(family), quantize="none", lora_rank=4, device="cpu")
    same.load_state(policy.state())
    loaded = PeftModel.from_pretrained(base, adapter).eval()
    torch.testing.assert_close(logits(loaded), logits(same.model), atol=1e-4, rtol=1e-4)
