"""Gradient checkpointing: the same values and gradients, from fewer bytes kept."""

import pytest
import torch

from workbench import recomputing
from workbench.microbatches import Kept
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.recomputing import switch_recomputing
from workbench.rollout import sample
from workbench.trainer import prepare, train_step
from workbench.variants import WorkbenchError

CPU = torch.device("cpu")
PROMPTS = [
    [{"role": "user", "content": text}] for text in ("Make 24 from 3 8", "Compute 1", "Make 7")
]


def run(policy, made, rows):
    """Log-probs, entropies and the adapter's gradient, and the bytes kept for it."""
    with Kept(policy.model) as kept, torch.random.fork_rng():
        torch.manual_seed(5)
        logprobs, entropies = read(policy, made, rows).logprobs_entropies()
    weights = torch.randn(2, *logprobs.shape, generator=torch.Generator().manual_seed(0))
    (logprobs * weights[0] + entropies * weights[1]).sum().backward()
    gradient = torch.cat([p.grad.flatten() for _, p in policy.trainable()])
    for _, parameter in policy.trainable():
        parameter.grad = None
    return logprobs.detach(), entropies.detach(), gradient, kept.bytes


@pytest.mark.parametrize(
    ("family", "quantize", "dropout"),
    [
        ("llama", "none", 0.0),
        ("llama", "nf4", 0.0),
        ("llama", "int8", 0.0),
        ("qwen2", "none", 0.3),
        ("qwen3", "nf4", 0.3),
        ("gemma3_text", "none", 0.0),
    ],
)
def test_values_and_gradients_are_those_without(policy_of, family, quantize, dropout):
    policy = policy_of(family, quantize, lora_dropout=dropout)
    made = sample(policy, PROMPTS, group_size=3, max_new_tokens=12, temperature=2.0)
    rows = torch.tensor([8, 0, 4, 5, 1])
    plain = run(policy, made, rows)
    switch_recomputing(policy.model, "on", CPU)
    kept = run(policy, made, rows)
    for mine, wanted in zip(kept[:3], plain[:3], strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-6, rtol=1e-5)
    assert plain[2].abs().max() > 1e-3
    assert kept[3] < 0.7 * plain[3]
    assert not any(m.training for n, m in policy.model.named_modules() if "lora_dropout" not in n)
    switch_recomputing(policy.model, "off", CPU)
    assert run(policy, made, rows)[3] == plain[3]


def test_layers_are_run_again_in_the_backward_pass_with_the_packed_attention(policy_of):
    policy = policy_of("llama")
    made = sample(policy, PROMPTS, group_size=3, max_new_tokens=12)
    switch_recomputing(policy.model, "on", CPU)
    seen = []
    layer = policy.model.get_base_model().model.layers[0].self_attn
    layer.register_forward_hook(lambda *_: seen.append(policy.model.config._attn_implementation))
    loss = read(policy, made).logprobs_entropies()[0].sum()
    assert seen == ["workbench_packed"]
    assert policy.model.config._attn_implementation == "sdpa"
    loss.backward()
    assert seen == ["workbench_packed"] * 2
    assert policy.model.config._attn_implementation == "sdpa"


def test_a_training_step_is_the_same_and_sampling_is_untouched(toy_recipe):
    found = []
    for choice in ("off", "on"):
        recipe = toy_recipe.replace(
            gradient_checkpointing=choice, beta=0.1, anchor_args={"estimator": "exact"}
        )
        state = prepare(recipe)
        reports = [train_step(state, recipe) for _ in range(2)]
        weights = torch.cat([p.detach().flatten() for _, p in state.policy.trainable()])
        found.append((reports[1].rollouts.completion_ids_BT, weights))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-5)


def switched(policy, choice, device):
    switch_recomputing(policy.model, choice, torch.device(device))
    return {layer.gradient_checkpointing for layer in recomputing._layers(policy.model)}


def test_auto_recomputes_large_models_on_a_gpu_alone(policy_of, monkeypatch):
    policy = policy_of("llama", "nf4")
    assert switched(policy, "auto", "cuda") == {False}
    monkeypatch.setattr(recomputing, "LARGE", recomputing._parameters(policy.model))
    assert switched(policy, "auto", "cuda") == {True}
    assert switched(policy, "auto", "cpu") == {False}
    assert switched(policy, "on", "cpu") == {True}
    assert switched(policy, "off", "cuda") == {False}


def test_four_bit_weights_count_as_weights(policy_of):
    plain, packed = (recomputing._parameters(policy_of("llama", q).model) for q in ("none", "nf4"))
    assert packed == plain > 0


def test_a_model_that_attends_in_its_own_way_is_refused_when_asked_and_else_left_alone(policy_of):
    policy = policy_of("gemma2")
    with pytest.raises(WorkbenchError, match="set it to 'auto' or 'off'"):
        switch_recomputing(policy.model, "on", CPU)
    assert switched(policy, "auto", "cuda") == {False}


def test_the_recipe_names_the_choices():
    with pytest.raises(WorkbenchError, match="gradient_checkpointing"):
        Recipe(gradient_checkpointing="yes")
    assert Recipe().gradient_checkpointing == "auto"
