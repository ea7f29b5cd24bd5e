"""The plain twin: base + (alpha / rank) B A in one matrix, everything else shared."""

import pytest
import torch

from workbench.merging import dequantised, plain_copy, refresh


def adapted_layers(model):
    return {n: m for n, m in model.named_modules() if hasattr(m, "get_base_layer")}


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_the_twins_matrices_are_base_plus_scaled_product(policy_of, quantize):
    policy = policy_of("llama", quantize)
    base = policy.model.get_base_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    twin = plain_copy(base)
    refresh(base, twin)
    layers = adapted_layers(base)
    assert layers
    for name, layer in layers.items():
        a = layer.lora_A["default"].weight
        b = layer.lora_B["default"].weight
        scale = policy.model.peft_config["default"].lora_alpha / a.shape[0]
        wanted = dequantised(layer.get_base_layer()) + scale * (b @ a)
        torch.testing.assert_close(twin.get_submodule(name).weight, wanted, atol=1e-5, rtol=1e-5)


def test_what_is_neither_quantised_nor_adapted_is_shared(policy_of):
    base = policy_of().model.get_base_model()
    twin = plain_copy(base)
    assert twin.model.embed_tokens.weight is base.model.embed_tokens.weight
    assert twin.model.norm.weight is base.model.norm.weight
    assert not adapted_layers(twin)
    assert adapted_layers(base)  # the original is left as it was
