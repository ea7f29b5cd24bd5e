"""load_policy(): what it loads and refuses; sampler, reference and adapter are what they say."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from workbench import models, sources
from workbench.merging import dequantised
from workbench.models import load_policy
from workbench.pieces import pieces
from workbench.rollout import sample
from workbench.variants import WorkbenchError

QUANTIZATIONS = ["none", "nf4", "int8"]
# int8 rounds the activations as well, which the plain copy does not.
TOLERANCE = {"none": 1e-4, "nf4": 1e-4, "int8": 0.3}


@pytest.fixture
def copied(toy_family, tmp_path):
    """A copy of a good model folder, to break."""
    return Path(shutil.copytree(toy_family("llama"), tmp_path / "model"))


def logits(model, policy):
    ids, mask = policy.encode(["Compute 1 + 2", "Make 24"])
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits[:, -1]


def change(policy, by=0.05):
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(by * torch.sign(parameter) + by)


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_the_sampler_is_the_trained_model_in_plain_matrices(policy_of, quantize):
    policy = policy_of("llama", quantize)
    sampler = policy.sampler()
    assert {type(p) for p in sampler.parameters()} == {torch.nn.Parameter}
    assert all(p.dtype == torch.float32 for p in sampler.parameters())
    trained = logits(policy.model, policy)
    assert (logits(sampler, policy) - trained).abs().max() < TOLERANCE[quantize]

    places = [p.data_ptr() for p in sampler.parameters()]
    change(policy)
    policy.refresh_sampler()
    assert policy.sampler() is sampler
    assert [p.data_ptr() for p in sampler.parameters()] == places  # refreshed in place
    moved = logits(policy.model, policy)
    assert (moved - trained).abs().max() > 2 * TOLERANCE[quantize]
    assert (logits(sampler, policy) - moved).abs().max() < 2 * TOLERANCE[quantize]


def test_the_sampler_notices_an_optimiser_step_by_itself(policy_of):
    policy = policy_of()
    before = logits(policy.sampler(), policy)
    optimizer = torch.optim.AdamW([p for _, p in policy.trainable()], lr=0.1)
    for _, parameter in policy.trainable():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = logits(policy.sampler(), policy)
    assert (after - before).abs().max() > 0.1
    assert torch.allclose(after, logits(policy.model, policy), atol=1e-4)


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_the_reference_is_the_base(policy_of, toy_family, quantize):
    policy = policy_of("llama", quantize)
    fresh = load_policy(toy_family("llama"), quantize=quantize, lora_rank=4, device="cpu")
    with policy.reference():
        reference = logits(policy.model, policy)
    assert torch.equal(reference, logits(fresh.model, fresh))  # a new adapter adds exactly nothing
    assert not torch.allclose(reference, logits(policy.model, policy), atol=1e-2)
    if quantize == "none":
        base = AutoModelForCausalLM.from_pretrained(toy_family("llama"))
        assert torch.allclose(reference, logits(base, policy), atol=1e-5)


@pytest.mark.parametrize(
    ("quantize", "least", "most"), [("nf4", 0.05, 0.12), ("int8", 0.001, 0.01)]
)
def test_quantisation_costs_the_rounding_of_its_grid(policy_of, quantize, least, most):
    plain, rounded = policy_of("llama", "none"), policy_of("llama", quantize)
    layers = [m for m in rounded.model.modules() if hasattr(m, "get_base_layer")][1:]
    exact = [m for m in plain.model.modules() if hasattr(m, "get_base_layer")][1:]
    assert len(layers) == len(exact) > 10
    for mine, wanted in zip(layers, exact, strict=True):
        weight = wanted.get_base_layer().weight
        error = (dequantised(mine.get_base_layer()) - weight).norm() / weight.norm()
        assert least < error < most  # NF4's sixteen levels: about 9 % of a normal weight


def test_layers_that_bitsandbytes_would_garble_on_the_cpu_stay_plain(copied):
    path = copied / "config.json"
    config = AutoConfig.from_pretrained(path, intermediate_size=80)  # no multiple of 64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(config)
    plain.save_pretrained(copied)
    policy = load_policy(copied, quantize="nf4", device="cpu")
    wanted = dict(plain.named_modules())
    kinds = {}
    for name, module in policy.model.get_base_model().named_modules():
        if hasattr(module, "get_base_layer"):
            base, weight = module.get_base_layer(), wanted[name].weight
            assert (dequantised(base) - weight).norm() < 0.12 * weight.norm(), name
            kinds.setdefault(name.split(".")[-1], type(base).__name__)
    assert kinds.pop("down_proj") == "Linear"
    assert set(kinds.values()) == {"Linear4bit"}


def test_an_evaluation_leaves_the_gradients_of_4_bit_layers_alone(policy_of):
    # bitsandbytes repacks 4-bit weights for a kernel without backward in the first evaluation on
    # some CPUs; load_policy forbids it.
    policy = policy_of("llama", "nf4")

    def gradient():
        ids, _ = policy.encode(["Compute 1 + 2"])
        policy.model(ids).logits.log_softmax(-1)[..., 5].sum().backward()
        found = [p.grad.clone() for _, p in policy.trainable()]
        for _, parameter in policy.trainable():
            parameter.grad = None
        return found

    before = gradient()
    logits(policy.model.eval(), policy)
    with policy.reference():
        logits(policy.model, policy)
    for mine, wanted in zip(gradient(), before, strict=True):
        assert wanted.abs().max() > 0
        assert torch.equal(mine, wanted)


def test_the_adapter_comes_from_the_seed_and_moves_no_global_generator(toy_family):
    before = torch.random.get_rng_state()
    first, again, other = (
        load_policy(toy_family("llama"), quantize="nf4", device="cpu", seed=seed).state()
        for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = [name for name in first if "lora_A" in name]
    assert all(not torch.equal(first[name], other[name]) for name in down)
    assert not any(first[name].any() for name in first if "lora_B" in name)
    # peft's own start: kaiming_uniform(a=sqrt 5), which is uniform up to 1 / sqrt(inputs).
    bound = torch.stack([first[n].abs().max() * first[n].shape[1] ** 0.5 for n in down])
    assert bool((bound <= 1).all())
    assert bound.mean() > 0.95


def test_only_the_adapter_is_trainable_in_fp32_and_dropout_only_there(toy_family):
    policy = load_policy(
        toy_family("llama"), quantize="nf4", lora_rank=2, lora_dropout=0.1, device="cpu",
        lora_targets="q_proj, down_proj",
    )  # fmt: skip
    names = [name for name, _ in policy.trainable()]
    assert len(names) == 2 * 2 * 2  # layers, targets, A and B
    assert all("q_proj" in name or "down_proj" in name for name in names)
    assert all(p.dtype == torch.float32 and p.requires_grad for _, p in policy.trainable())
    others = [p for n, p in policy.model.named_parameters() if n not in names]
    assert not any(p.requires_grad for p in others)
    training = {type(m).__name__ for m in policy.model.modules() if m.training}
    assert training == {"Dropout", "ModuleDict"}


def test_saved_adapters_load_with_plain_peft(policy_of, toy_family, tmp_path):
    from peft import PeftModel

    policy = policy_of()
    policy.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    base = AutoModelForCausalLM.from_pretrained(toy_family("llama"))
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.allclose(logits(loaded, policy), logits(policy.model, policy), atol=1e-5)


def test_state_is_what_peft_saves_and_goes_back_in(policy_of, tmp_path):
    from safetensors.torch import load_file

    policy = policy_of()
    state, before = policy.state(), logits(policy.model, policy)
    policy.save(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in state)
    change(policy)
    assert not torch.allclose(logits(policy.sampler(), policy), before, atol=1e-2)
    policy.load_state(state)
    assert torch.equal(logits(policy.model, policy), before)
    assert torch.allclose(logits(policy.sampler(), policy), before, atol=1e-4)
    with pytest.raises(WorkbenchError, match="does not fit"):
        policy.load_state({name: tensor[:1] for name, tensor in state.items()})


def test_prompts_are_padded_left_and_keep_their_tokens(policy_of):
    policy = policy_of()
    texts = policy.render([[{"role": "user", "content": c}] for c in ("Make 24", "Compute 1 + 2")])
    ids, mask = policy.encode(texts)
    assert not mask[0, 0]
    assert mask[:, -1].all()
    assert [
        policy.tokenizer.decode(row[keep]) for row, keep in zip(ids, mask, strict=True)
    ] == texts


# --- what is supplied, and what is refused -----------------------------------------------------------


def test_a_tokenizer_without_template_and_padding_is_made_whole(copied):
    for template in copied.glob("chat_template*"):
        template.unlink()
    path = copied / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items()
              if k not in ("chat_template", "pad_token")}  # fmt: skip
    path.write_text(json.dumps(config))
    policy = load_policy(copied, quantize="none", device="cpu")
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id
    asked = [{"role": "system", "content": "Compute"}, {"role": "user", "content": "1 + 2"}]
    assert policy.render([asked]) == ["<|bos|>Compute\n1 + 2\n"]


def refusal(name, **settings):
    with pytest.raises(WorkbenchError) as caught:
        load_policy(name, device=settings.pop("device", "cpu"), **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_name_gets_the_nearest_match(monkeypatch):
    monkeypatch.setattr(
        sources, "_shipped_models", lambda: {"tiny-strong": Path(), "tiny-weak": Path()}
    )
    assert "Did you mean 'tiny-strong'" in refusal("tiny-stong")
    assert "owner/name" in refusal("")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_missing_folder_is_named(name):
    assert refusal(name) == f"There is no model folder {name!r}; check the path."


def test_a_hub_name_out_of_reach_says_what_to_check(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("nobody/no-such-model")
    assert "could not be fetched" in message
    assert "local folder" in message


def test_pickled_weights_are_not_opened(copied):
    torch.save({}, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert "no safetensors weights" in refusal(copied)


def test_damaged_weights_are_named(copied):
    (copied / "model.safetensors").write_bytes(b"junk")
    assert "are damaged" in refusal(copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mystery", "auto_map": {"AutoConfig": "code.Config"}}, "never run here"),
        ({"model_type": "mystery"}, "upgrade transformers"),
    ],
)
def test_models_that_need_foreign_code_are_refused(copied, changes, words):
    marker = copied / "ran"
    (copied / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    (copied / "config.json").write_text(json.dumps(changes))
    assert words in refusal(copied)
    assert not marker.exists()


def test_known_architectures_load_without_their_extra_code(copied):
    path = copied / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "code.Model"}}
    path.write_text(json.dumps(config))
    assert load_policy(copied, quantize="none", device="cpu").trainable()


def test_an_unreadable_folder_and_a_missing_tokenizer_are_named(copied, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no readable model" in refusal(tmp_path / "empty")
    for path in copied.glob("*token*"):
        path.unlink()
    assert "without a tokenizer" in refusal(copied)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantize": "nf5"}, "Did you mean 'nf4'"),
        ({"device": "tpu"}, "allowed: auto, cpu, cuda"),
        ({"device": "cuda:99"}, 'use device="cpu"'),
        ({"lora_targets": "q_prj"}, "names no layer"),
        ({"lora_rank": 0}, "rank of 1 or more"),
        ({"lora_alpha": float("nan")}, "alpha above 0"),
    ],
)
def test_wrong_settings_say_what_to_write(toy_family, settings, words):
    assert words in refusal(toy_family("llama"), **settings)


def test_two_threads_may_load_at_once(toy_world):
    """transformers switches global state while it builds; unguarded, one model ends up half built."""
    found, errors = [], []

    def load():
        try:
            found.append(load_policy(toy_world, lora_rank=2))
        except Exception as error:  # noqa: BLE001 -- told below
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    devices = {p.device.type for policy in found for p in policy.model.parameters()}
    assert (len(found), devices) == (4, {"cpu"})


def test_the_end_of_thought_is_one_token_or_none(policy_of):
    policy = policy_of()
    end_id = policy.thought_end_id()
    assert policy.tokenizer.encode("</think>", add_special_tokens=False) == [end_id]
    assert policy.decode([[end_id]]) == ["</think>"]


@pytest.mark.parametrize("answer", [None, 3])
def test_a_tokenizer_that_does_not_know_the_end_of_thought_has_none(policy_of, monkeypatch, answer):
    """Tokenizers say so with None or with the unknown token."""
    policy = policy_of()
    assert policy.tokenizer.unk_token_id == 3
    monkeypatch.setattr(policy.tokenizer, "convert_tokens_to_ids", lambda token: answer)
    assert policy.thought_end_id() is None


def test_token_ids_are_padded_as_texts_are(policy_of):
    policy = policy_of()
    texts = ["Make 24 from 3 8", "Make 7"]
    ids = [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for mine, theirs in zip(policy.left_padded(ids), policy.encode(texts), strict=True):
        assert torch.equal(mine, theirs)


def test_the_base_adapter_is_the_base(policy_of):
    policy = policy_of()
    ids, _ = policy.encode(["Make 7"])
    with torch.no_grad():
        with policy.reference():
            wanted = policy.model(ids).logits
        with policy.holding(policy.base_adapter()):
            found = policy.sampler()(ids).logits
        moved = policy.sampler()(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (moved - wanted).abs().max() > 0.1


def test_a_head_of_no_known_kind_is_said(toy_world, monkeypatch, caplog):
    assert load_policy(toy_world, device="cpu").head is not None and not caplog.text
    monkeypatch.setattr(models, "find_head", lambda model: None)
    assert load_policy(toy_world, device="cpu").head is None
    assert "Lower microbatch" in caplog.text


# ------------------------------------------------------------------ templates, tags and odd vocabularies


def written(copied, template, tokens=(), **config):
    """The copied model's folder with another chat template, added tokens and changed config."""
    tokenizer = AutoTokenizer.from_pretrained(copied)
    for path in copied.glob("chat_template*"):
        path.unlink()
    tokenizer.chat_template = template
    tokenizer.add_tokens([AddedToken(t, special=True) for t in tokens], special_tokens=True)
    tokenizer.save_pretrained(copied)
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return copied


def widened(copied, rows):
    """The copied model with so many rows of embedding and head."""
    model = AutoModelForCausalLM.from_pretrained(copied)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(copied)


ASK = [{"role": "user", "content": "Make 24"}]
CHATML = (
    "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% elif add_generation_prompt and enable_thinking is defined %}<think>{% endif %}"
)


def test_thinking_is_told_to_the_template_and_what_it_opened_stands_in_the_text(copied):
    widened(copied, 400)
    written(copied, CHATML, ["<|im_end|>"])
    ends = {}
    for thinking in ("auto", "on", "off"):
        policy = load_policy(copied, quantize="none", device="cpu", thinking=thinking)
        found = sample(policy, [ASK], group_size=2, max_new_tokens=4)
        ends[thinking] = found.prompts[0].removeprefix("Make 24<|im_end|>")
        assert [text.startswith("<think>") for text in found.completions] == [thinking == "on"] * 2
    assert ends == {"auto": "", "on": "<think>", "off": "<think></think>"}


def test_the_templates_end_of_turn_ends_a_completion(copied):
    plain = load_policy(copied, quantize="none", device="cpu").stop_ids()
    widened(copied, 400)
    policy = load_policy(written(copied, CHATML, ["<|im_end|>"]), quantize="none", device="cpu")
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert policy.stop_ids() == sorted([*plain, end])
    assert policy.decode([[end]]) == [""]


def test_a_padded_vocabulary_decodes_to_nothing_beyond_the_tokenizer(copied):
    widened(copied, 400)
    policy = load_policy(copied, quantize="none", device="cpu")
    a = policy.tokenizer.convert_tokens_to_ids("4")
    assert len(policy.tokenizer) < 399
    assert policy.decode([[a, 399, a], [398]]) == [policy.decode([[a, a]])[0], ""]
    assert "".join(pieces(policy.tokenizer, [[a, 399, a]])[0]) == policy.decode([[a, a]])[0]


def test_a_token_beyond_the_embedding_is_refused_by_name(copied):
    written(copied, "{{ messages[0].content }}<|im_end|>", ["<|im_end|>"])
    policy = load_policy(copied, quantize="none", device="cpu")
    with pytest.raises(
        WorkbenchError, match=r"holds the token '<\|im_end\|>' .* has \d+ rows; give"
    ):
        policy.encode(policy.render([ASK]))


def test_padding_beyond_the_embedding_is_replaced(copied):
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.add_special_tokens({"pad_token": "<|outside|>"})
    tokenizer.save_pretrained(copied)
    policy = load_policy(copied, quantize="none", device="cpu")
    assert policy.tokenizer.pad_token_id in policy.stop_ids()
    assert sample(
        policy, [ASK, [{"role": "user", "content": "Make 2"}]], group_size=2, max_new_tokens=3
    ).B


def test_padding_with_the_end_token_changes_no_length_and_no_end(policy_of):
    """Ends are told by the mask, so a pad that is the end token must not be taken for one."""
    ask = [ASK, [{"role": "user", "content": "Compute 1 + 2"}]]
    usual = policy_of()
    twin = policy_of()
    twin.tokenizer.pad_token = twin.tokenizer.eos_token
    one, two = (sample(p, ask, group_size=16, max_new_tokens=12, seed=4) for p in (usual, twin))
    assert 0 < one.truncated_B.sum() < one.B  # some end by themselves, some do not
    assert torch.equal(one.mask_BT, two.mask_BT) and torch.equal(one.truncated_B, two.truncated_B)
    assert one.completions == two.completions
    assert torch.equal(one.logprobs_BT, two.logprobs_BT)
    assert bool((two.completion_ids_BT[~two.mask_BT] == twin.tokenizer.eos_token_id).all())


def test_a_models_own_tags_become_the_common_ones(copied):
    widened(copied, 400)
    policy = load_policy(
        written(
            copied, "{{ messages[0].content }}", ["<|begin_of_thought|>", "<|end_of_thought|>"]
        ),
        quantize="none",
        device="cpu",
        think_tags="<|begin_of_thought|> <|end_of_thought|>",
    )
    ids = policy.tokenizer.encode(
        "<|begin_of_thought|>1 + 2<|end_of_thought|>3", add_special_tokens=False
    )
    assert policy.decode([ids]) == ["<think>1 + 2</think>3"]
    assert policy.thought_end_id() == policy.tokenizer.convert_tokens_to_ids("<|end_of_thought|>")
