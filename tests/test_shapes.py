"""Shapes counted from configs alone: Qwen2.5-1.5B by hand, others against models that exist."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.shapes import find_shape, shape_of
from workbench.variants import WorkbenchError


def test_qwen_1_5b_by_hand(qwen_1_5b):
    """From a folder with a config.json and no weights."""
    shape = find_shape(qwen_1_5b)
    assert shape.parameters == 1_543_714_304
    attention = 2 * 1536 * 1536 + 2 * 1536 * 256  # q and o; k and v of 2 heads of 128
    layer = attention + 3 * 1536 * 8960
    assert sum(m.size for m in shape.linears) == 28 * layer == 1_310_195_712
    assert len(shape.linears) == 28 * 7
    (embedding,) = [m for m in shape.matrices if m.kind == "embedding"]
    (head,) = [m for m in shape.matrices if m.kind == "head"]
    assert embedding.size == head.size == 151936 * 1536 == 233_373_696
    assert head.shares
    # q, k and v have biases; two norms a layer and one at the end.
    assert shape.others == 28 * (1536 + 2 * 256 + 2 * 1536) + 1536 == 144_896
    assert shape.multiplied == 28 * layer + head.size
    assert shape.layers == (shape.layers[0],) * 28
    assert (shape.layers[0].query_heads, shape.layers[0].key_heads) == (12, 2)
    assert (shape.layers[0].size, shape.layers[0].window) == (128, None)
    assert (shape.hidden, shape.inner) == (1536, 8960)
    assert shape.norms == (1536,) * 57


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_counts_are_those_of_the_model_on_the_disk(toy_family, family):
    folder = toy_family(family)
    shape, model = find_shape(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.buffers == sum(b.nbytes for b in model.buffers())
    (head,) = [m for m in shape.matrices if m.kind == "head"]
    assert head.shares == (model.lm_head.weight is model.get_input_embeddings().weight)
    assert head.shares == (family != "qwen3")


def test_windows_and_norms_of_heads_are_seen():
    config = {"num_hidden_layers": 6, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 8}
    small = config | {"num_key_value_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    gemma = shape_of(AutoConfig.for_model("gemma3_text", **small, sliding_window=16))
    assert [layer.window for layer in gemma.layers] == [16] * 5 + [None]
    assert sorted(set(gemma.norms)) == [2 * 8, 4 * 8, 64]
    assert sum(gemma.norms) == 6 * (2 * 8 + 4 * 8 + 4 * 64) + 64


def test_layers_are_adapted_as_peft_adapts_them(policy_of):
    for targets in ("all-linear", "q_proj,v_proj", "down_proj, lm_head", "embed_tokens"):
        policy = policy_of("qwen3", lora_targets=targets)
        there = {
            name.split(".lora_")[0].removeprefix("base_model.model.")
            for name, _ in policy.trainable()
        }
        found = find_shape(policy.name).adapted(targets)
        assert {m.name for m in found} == there
        numbers = sum(4 * (m.inputs + m.outputs) for m in found)
        assert numbers == sum(p.numel() for _, p in policy.trainable())
    with pytest.raises(WorkbenchError, match="names no layer"):
        find_shape(policy.name).adapted("w_proj")


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WorkbenchError, match="There is no model folder"):
        find_shape(str(tmp_path / "none"))
    with pytest.raises(WorkbenchError, match="holds no readable model"):
        find_shape(str(tmp_path))
