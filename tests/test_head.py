"""Heads of real architectures at toy sizes, quantised and adapted, against the models' own logits."""

import pytest
import torch
from torch import nn

from workbench.head import Head, find_head, outputs, rows_of
from workbench.likelihoods import logprob_entropy
from workbench.loading import keep_weights_unpacked
from workbench.tiles import Linear

SMALL = {
    "vocab_size": 200, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
ARCHITECTURES = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 32},
    "phi": {},  # its head has a bias
    "gpt_neox": {},  # its head has another name
    "gemma2": {"head_dim": 32, "final_logit_softcapping": 30.0},
    "granite": {"logits_scaling": 4.0},  # divided by
    "cohere": {"logit_scale": 0.0625},  # multiplied by
    "minicpm3": {
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "dim_model_base": 16,
    },  # hidden states are divided
    "hyperclovax": {"logits_scaling": 4.0},  # multiplied by
    "nanochat": {},  # capped
}
FOUND = {"gemma2": (1, 30.0), "granite": (0.25, None), "cohere": (0.0625, None), "minicpm3": (1, None),
         "hyperclovax": (4.0, None), "nanochat": (1, 15.0)}  # fmt: skip


def model_of(family="llama", dtype=torch.float32, **settings):
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    config = AutoConfig.for_model(family, **SMALL | ARCHITECTURES[family] | settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        bias = model.get_output_embeddings().bias
        if bias is not None:
            nn.init.normal_(bias)
    return model.to(dtype).eval().requires_grad_(False)


def adapted(model, **settings):
    """With a LoRA adapter on the head, off zero."""
    from peft import LoraConfig, get_peft_model

    name = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": [name],
        "task_type": "CAUSAL_LM",
    } | settings
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(**settings)).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.3)
    return model


def quantised(model, kind, nested=True):
    """With the head in NF4 or int8."""
    import bitsandbytes as bnb

    plain = model.get_output_embeddings()
    if kind == "nf4":
        layer = bnb.nn.Linear4bit(
            plain.in_features, plain.out_features, bias=False, quant_type="nf4",
            compute_dtype=torch.float32, compress_statistics=nested,
        )  # fmt: skip
        layer.weight = bnb.nn.Params4bit(
            plain.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=nested
        )
    else:
        layer = bnb.nn.Linear8bitLt(
            plain.in_features, plain.out_features, bias=False, has_fp16_weights=False, threshold=6.0
        )
        layer.weight = bnb.nn.Int8Params(
            plain.weight.data, requires_grad=False, has_fp16_weights=False
        )
    model.set_output_embeddings(layer.to("cpu").eval())
    keep_weights_unpacked(model)
    return model


IDS = torch.tensor([[5, 17, 3, 150, 9, 9]])


def check(model, head, atol=1e-4, rtol=1e-4):
    """Log-probs and their gradient in the hidden states, against the model's own logits."""
    hidden = outputs(model, head, IDS)
    assert hidden.shape[:2] == IDS.shape
    logits = outputs(model, None, IDS)
    assert torch.equal(logits, model(IDS).logits)
    wanted = logits[0].float().log_softmax(-1)[torch.arange(6), torch.arange(6) * 30]
    found, _ = logprob_entropy(head.states(hidden[0]), torch.arange(6), torch.arange(6) * 30)
    torch.testing.assert_close(found, wanted, atol=atol, rtol=rtol)
    return found, wanted


@pytest.mark.parametrize("tile", [64 * 7, 2**23])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_heads_of_real_architectures_are_recognised(monkeypatch, family, tile):
    monkeypatch.setattr("workbench.tiles.TILE", tile)
    model = model_of(family)
    head = find_head(model)
    assert head.layer is model.get_output_embeddings()
    assert (head.scale, head.cap) == FOUND.get(family, (1, None))
    check(model, head)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "granite"])
def test_heads_in_half_precision_are_recognised(family, dtype):
    model = model_of(family, dtype)
    head = find_head(model)
    assert (head.scale, head.cap) == FOUND.get(family, (1, None))
    check(model, head, atol=0.1 if dtype == torch.bfloat16 else 0.02)


@pytest.mark.parametrize("tile", [64 * 7, 2**23])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("lora", [False, True])
def test_nf4_heads_are_dequantised_by_rows(monkeypatch, tile, nested, lora):
    monkeypatch.setattr("workbench.tiles.TILE", tile)
    model = quantised(model_of(), "nf4", nested)
    model = adapted(model) if lora else model
    head = find_head(model)
    check(model, head)
    layer = head.layer.get_base_layer() if lora else head.layer
    from workbench.merging import dequantised

    rows, whole = rows_of(layer), dequantised(layer)
    for words in (slice(0, 200), slice(3, 4), slice(77, 200)):
        assert torch.equal(rows(words), whole[words])


def test_nf4_rows_that_end_within_a_block_are_rows_of_the_whole_matrix():
    from workbench.merging import dequantised

    layer = quantised(model_of(hidden_size=48, head_dim=24), "nf4").get_output_embeddings()
    assert torch.equal(rows_of(layer)(slice(3, 9)), dequantised(layer)[3:9])


@pytest.mark.parametrize("lora", [False, True])
def test_int8_heads_differ_by_their_rounding_of_the_inputs(monkeypatch, lora):
    from workbench.merging import dequantised

    monkeypatch.setattr("workbench.tiles.TILE", 64 * 7)
    model = quantised(model_of(), "int8")
    model = adapted(model) if lora else model
    head = find_head(model)
    check(model, head, atol=0.3, rtol=0.02)
    layer = head.layer.get_base_layer() if lora else head.layer
    torch.testing.assert_close(rows_of(layer)(slice(3, 77)), dequantised(layer)[3:77].float())


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_an_adapter_on_the_head_gets_the_models_gradient(monkeypatch, family):
    monkeypatch.setattr("workbench.tiles.TILE", 64 * 7)
    model = adapted(model_of(family), use_rslora=True)
    head = find_head(model)
    found, wanted = check(model, head)
    own = [p for p in model.parameters() if p.requires_grad]
    assert len(own) == 2
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), own), torch.autograd.grad(wanted.sum(), own), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)
        assert theirs.abs().max() > 1e-2
    with model.disable_adapter():
        off, _ = check(model, head)
    assert (off - found).abs().max() > 0.01


def test_the_adapters_dropout_is_drawn_once_and_as_in_the_model():
    model = adapted(model_of(), lora_dropout=0.5)
    head = find_head(model)
    model.train()
    torch.manual_seed(5)
    wanted = outputs(model, None, IDS)[0]
    torch.manual_seed(5)
    states = head.states(outputs(model, head, IDS)[0])
    torch.testing.assert_close(states.logits(), wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(states.logits(), states.logits())
    model.eval()
    assert (outputs(model, None, IDS)[0] - wanted).abs().max() > 0.1


def changed(model, change):
    """A model that does something to its logits that no config tells of."""
    forward = model.forward

    def other(*arguments, **named):
        output = forward(*arguments, **named)
        output.logits = change(output.logits)
        return output

    model.forward = other
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z * 1.01,
        lambda z: 50 * (z / 50).tanh(),
        lambda z: z + torch.arange(z.shape[-1]) / 100,
        lambda z: z[..., :-8],
    ],
    ids=["factor", "cap", "bias", "fewer words"],
)
def test_a_head_that_does_otherwise_than_it_should_is_none(change):
    assert find_head(changed(model_of(), change)) is None


def with_head(layer):
    model = model_of()
    model.set_output_embeddings(layer)
    return model


class Odd(nn.Linear):
    """A linear layer of another kind, with a forward pass of its own."""


@pytest.mark.parametrize(
    "model",
    [
        lambda: adapted(model_of(), use_dora=True),
        lambda: adapted(model_of(), lora_bias=True),
        lambda: with_head(nn.Linear(64, 200)),  # trained itself
        lambda: with_head(Odd(64, 200, bias=False).requires_grad_(False)),
        lambda: with_head(nn.Sequential(nn.Linear(64, 200)).requires_grad_(False)),
    ],
    ids=["dora", "adapter with bias", "trained", "subclass", "two layers"],
)
def test_heads_of_other_kinds_are_none(model):
    assert find_head(model()) is None


def test_a_bias_of_minus_infinity_is_left_to_full_logits():
    layer = nn.Linear(64, 200).requires_grad_(False)
    layer.bias[7] = -torch.inf
    assert find_head(with_head(layer)) is None


def test_looking_for_the_head_leaves_no_trace(policy_of):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    policy = policy_of(lora_targets="all-linear", lora_dropout=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (
        isinstance(policy.head, Head) and policy.head.layer is policy.model.get_output_embeddings()
    )
    assert not policy.head.layer._forward_pre_hooks
    assert any(module.training for module in policy.model.modules())  # the adapter's dropout
    with pytest.raises(IndexError):
        outputs(policy.model, policy.head, IDS + 10**6)
    assert not policy.head.layer._forward_pre_hooks


def test_the_model_makes_no_logits_where_hidden_states_are_asked_for():
    model = model_of()
    head = find_head(model)
    seen = []
    head.layer.register_forward_hook(lambda _, given, made: seen.append(made.shape))
    hidden = outputs(model, head, IDS, logits_to_keep=torch.tensor([1, 4]))
    assert seen == [(1, 0, 200)] and hidden.shape == (1, 2, 64)
    assert isinstance(head.states(hidden[0]).source, Linear)
