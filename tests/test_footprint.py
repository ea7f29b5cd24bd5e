"""Bytes held against bytes foretold: weights, adapter, states and cache to the byte, activations nearly."""

import dataclasses

import pytest
import torch

from workbench.cache import PrefixCache
from workbench.cards import card_here
from workbench.footprint import (
    adapter_numbers,
    cache_bytes,
    cache_room,
    head_kept_bytes,
    is_quantised,
    items,
    key_value_bytes,
    layer_bytes,
    merged_bytes,
    optimizer_bytes,
    peak_bytes,
    phase_bytes,
    stored_bytes,
)
from workbench.models import load_policy
from workbench.optimizing import make_optimizer
from workbench.planning import plan_of
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.rollout import sample
from workbench.shapes import find_shape
from workbench.trainer import prepare, train_step

QUANTIZATIONS = ("nf4", "int8", "none")


def plan_for(model, prompt_tokens=12, **fields):
    recipe = Recipe(model=model, device="cpu", **fields)
    shape = find_shape(model)
    return shape, plan_of(recipe, shape, card_here("cpu", measure=False), prompt_tokens)


def storages(tensors):
    """Bytes of the distinct storages of tensors, with what a quantised one carries."""
    found = {}
    for tensor in tensors:
        state, scales = getattr(tensor, "quant_state", None), getattr(tensor, "SCB", None)
        parts = [tensor] if scales is None else [tensor, scales]
        if state is not None:
            nested = state.state2
            parts += [state.absmax, state.code, state.offset, nested.absmax, nested.code]
        for part in parts:
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_weights_and_adapter_to_the_byte(toy_family, family, quantize):
    model = toy_family(family)
    policy = load_policy(model, quantize=quantize, lora_rank=4, device="cpu")
    shape, plan = plan_for(model, quantize=quantize, lora_rank=4)
    named = dict(policy.model.named_parameters())
    base = [p for name, p in named.items() if "lora_" not in name]
    # In its first forward pass an 8-bit layer takes the scales from its weight.
    states = [m.state for m in policy.model.modules() if hasattr(m, "state")]
    base += [state.SCB for state in states if state.SCB is not None]
    foretold = sum(stored_bytes(m, plan) for m in shape.matrices) + 4 * shape.others
    assert foretold + shape.buffers == storages([*base, *policy.model.buffers()])
    assert 4 * adapter_numbers(shape, plan) == storages([p for _, p in policy.trainable()])
    held = phase_bytes(items(shape, plan))["loading"]
    assert held >= foretold + shape.buffers + 4 * adapter_numbers(shape, plan)


def test_the_shipped_model_and_layers_that_nf4_leaves_alone(tmp_path):
    """Inputs of 96 are no multiple of 64: on the CPU these layers stay as they are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from workbench.tiny.tokenizer import build_tokenizer

    build_tokenizer().save_pretrained(tmp_path)
    config = AutoConfig.for_model(
        "llama", vocab_size=70, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for model, left in ((str(tmp_path), 1), ("tiny-strong", 0)):
        policy = load_policy(model, quantize="nf4", device="cpu")
        shape, plan = plan_for(model)
        assert sum(not is_quantised(m, plan) for m in shape.linears) == left
        base = [p for n, p in policy.model.named_parameters() if "lora_" not in n]
        foretold = sum(stored_bytes(m, plan) for m in shape.matrices) + 4 * shape.others
        assert foretold + shape.buffers == storages([*base, *policy.model.buffers()])


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_the_merged_copy_to_the_byte(policy_of, quantize):
    policy = policy_of("qwen2", quantize)
    shape, plan = plan_for(policy.name, quantize=quantize, lora_rank=4)
    shared = {p.data_ptr() for p in policy.model.parameters()}
    own = [p for p in policy.sampler().parameters() if p.data_ptr() not in shared]
    assert merged_bytes(shape, plan) == storages(own)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
@pytest.mark.parametrize(("targets", "rank"), [("all-linear", 4), ("q_proj,v_proj", 64)])
def test_optimiser_states_after_a_step_to_the_byte(toy_family, targets, rank, name):
    """With rank 64 there are tensors of 4096 numbers, with rank 4 none."""
    fields = {"quantize": "none", "lora_rank": rank, "lora_targets": targets}
    policy = load_policy(toy_family("llama"), device="cpu", **fields)
    shape, plan = plan_for(policy.name, **fields, optimizer=name)
    parameters = [p for _, p in policy.trainable()]
    optimizer = make_optimizer(name, policy.trainable(), rate=1e-3, weight_decay=0.0)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    assert optimizer_bytes(shape, plan) == storages(states)
    gradients = storages([p.grad for p in parameters])
    (line,) = [i for i in items(shape, plan) if i.name.startswith("gradients")]
    assert line.bytes == {"update": gradients}


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
@pytest.mark.parametrize("new_tokens", [1, 30, 80])
def test_keys_and_values_of_a_real_sample_to_the_byte(policy_of, family, new_tokens, monkeypatch):
    """Nobody may end early, and all prompts are as long as the longest."""
    caches = []

    class Kept(PrefixCache):
        def __init__(self, model, prompt, mask_PL, most_rows):
            super().__init__(model, prompt, mask_PL, most_rows)
            caches.append((self, prompt))

    monkeypatch.setattr("workbench.decoding.PrefixCache", Kept)
    policy = policy_of(family)
    monkeypatch.setattr(policy, "stop_ids", list)
    prompts = [[{"role": "user", "content": text}] for text in ("1 2 3", "4 5 6")]
    rollouts = sample(policy, prompts, group_size=3, max_new_tokens=new_tokens)
    length = rollouts.prompt_ids_PL.shape[1]
    shape, plan = plan_for(
        policy.name, length, prompts_per_step=2, group_size=3, max_new_tokens=new_tokens
    )
    (cache, prompt), *others = caches
    assert not others
    held = storages(
        [t for layer in (*cache.layers, *prompt.layers) for t in (layer.keys, layer.values)]
    )
    assert cache_bytes(shape, plan, plan.prompts, plan.rows) == held
    stored = 6 * (length + new_tokens - 1) * 2 * 2 * 2 * 16 * 4  # layers, heads, both, size, fp32
    assert key_value_bytes(shape, plan, 6, length + new_tokens - 1) == stored <= held


def test_room_grows_as_the_cache_does():
    assert cache_room(10, 33) == 42  # room for 32 more
    assert cache_room(10, 34) == 42 + 32
    assert cache_room(400, 101) == 500
    assert cache_room(400, 102) == 500 + 125


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_activations_are_foretold_within_a_quarter(policy_of, family, half):
    """What autograd keeps of a real pass, by its own hooks, parameters left out."""
    policy = policy_of(family)
    if half:  # as on a GPU: the base in 16 bit, the adapter in fp32
        policy.model.to(torch.bfloat16)
        for _, parameter in policy.trainable():
            parameter.data = parameter.data.float()
    prompts = [[{"role": "user", "content": text}] for text in ("1 2 3 4 5 6", "4 5 6 7 8 9")]
    policy.stop_ids = list
    rollouts = sample(policy, prompts, group_size=4, max_new_tokens=40, use_sampler=False)
    length = rollouts.prompt_ids_PL.shape[1]
    known = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(part.sum() for part in read(policy, rollouts).logprobs_entropies())
    held = sum(size for size, _ in kept.values())
    shape, plan = plan_for(
        policy.name, length, prompts_per_step=2, group_size=4, max_new_tokens=40, lora_rank=4
    )
    plan = dataclasses.replace(plan, compute_bytes=2 if half else 4)
    foretold = layer_bytes(shape, plan) + head_kept_bytes(shape, plan)
    print(family, half, foretold / held)
    assert 0.8 < foretold / held < 1.25, foretold / held
    loss.backward()


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all(toy_family):
    shape, plan = plan_for(toy_family("llama"), prompts_per_step=2, group_size=2)
    checkpointed = plan.replace(checkpointing=True)
    lines = {i.name: i.bytes["update"] for i in items(shape, checkpointed) if "update" in i.bytes}
    inputs = 2 * plan.pass_tokens * 64 * 4
    assert lines["checkpointed activations of 4 rows"] == layer_bytes(shape, plan) // 2 + inputs


def test_qwen_1_5b_by_hand(qwen_1_5b):
    """NF4 with r = 16 on a GPU: the numbers of the model's published shape, worked out on paper."""
    shape, plan = plan_for(qwen_1_5b, 100, prompts_per_step=8, group_size=8, max_new_tokens=512)
    plan = plan.replace(device="cuda", compute_bytes=2)
    small = [m for m in shape.matrices if is_quantised(m, plan)]
    numbers = 1_310_195_712
    # A layer's seven matrices have 731 136 scales of 64; of these 256 share one of 4 bytes, rounded up in
    # none of them: 144 + 24 + 24 + 144 + 3 * 840 = 2856.
    foretold = numbers // 2 + 28 * 731_136 + 28 * 4 * 2856 + 196 * 4 * (16 + 256 + 1)
    assert sum(stored_bytes(m, plan) for m in small) == foretold == 676_103_568
    rest = [m for m in shape.matrices if not is_quantised(m, plan)]
    assert sum(stored_bytes(m, plan) for m in rest) == 2 * 233_373_696
    # Of a layer: q, o 2 * 3072; k, v 2 * 1792; gate, up, down 3 * 10496.
    assert adapter_numbers(shape, plan) == 28 * 16 * (6144 + 3584 + 31_488) == 18_464_768
    assert merged_bytes(shape, plan) == 2 * numbers
    assert optimizer_bytes(shape, plan) == 8 * 18_464_768
    # 28 layers x 2 heads x 128 x keys and values x 2 bytes = 28 672 bytes a token.
    assert key_value_bytes(shape, plan, 64, 612) == 64 * 612 * 28_672
    int8 = plan.replace(quantize="int8")
    scales = 28 * 4 * (2 * 1536 + 2 * 256 + 2 * 8960 + 1536)
    assert sum(stored_bytes(m, int8) for m in small) == numbers + scales
    assert peak_bytes(shape, plan.replace(merged=False)) < peak_bytes(shape, plan)


def test_a_phase_is_the_sum_of_its_lines(toy_family):
    shape, plan = plan_for(toy_family("llama"), reference="moving_average", beta=0.1)
    lines = items(shape, plan)
    for phase, total in phase_bytes(lines).items():
        assert total == sum(line.bytes.get(phase, 0) for line in lines)
    assert len({line.name for line in lines}) == len(lines)
    assert peak_bytes(shape, plan) == max(phase_bytes(lines).values())
    (moving,) = [line for line in lines if "moving" in line.name]
    assert moving.bytes["update"] == 4 * adapter_numbers(shape, plan)
    assert "loading" not in moving.bytes


def test_a_real_run_of_the_tiny_model_holds_what_was_foretold():
    """Weights, adapter, copy and states by their tensors, after a step; nothing else is held by the state."""
    recipe = Recipe(
        prompts_per_step=2, group_size=4, max_new_tokens=8, eval_prompts=2, device="cpu"
    )
    shape = find_shape(recipe.model)
    plan = plan_of(recipe, shape, card_here("cpu", measure=False), 12)
    state = prepare(recipe)
    while not state.optimizer.state:  # a step without signal makes no states
        train_step(state, recipe)
    held = [*state.policy.model.parameters(), *state.policy.model.buffers()]
    held += list(state.policy.sampler().parameters())
    held += [t for states in state.optimizer.state.values() for t in states.values()]
    kept = ("base", "LoRA", "states", "merged")
    lines = [line for line in items(shape, plan) if line.name.startswith(kept)]
    assert len(lines) == 5
    assert all(line.exact for line in lines)
    assert sum(line.bytes["update"] for line in lines) == storages(held)
