"""Exports are loaded by plain transformers and peft, and answer as the run's policy does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench import exporting
from workbench.exporting import plain_model
from workbench.models import load_policy
from workbench.runs import attach, train
from workbench.variants import WorkbenchError

ALSO = ("recipe.yaml", "report.html", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def trained(toy_recipe, tmp_path):
    """quantize -> a finished run with checkpoints at 2 and 4."""

    def build(quantize="none", **changes):
        recipe = toy_recipe.replace(quantize=quantize, steps=4, learning_rate=0.05, **changes)
        return train(recipe, folder=tmp_path / "run").wait()

    return build


def logits(model, policy):
    ids, mask = policy.encode(["Compute 1 + 2", "Make 24"])
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits[:, -1]


def names_in(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_a_merged_model_answers_as_the_policy_does(trained, tmp_path, quantize):
    run = trained(quantize)
    out = run.export(tmp_path / "out", merged=True)
    assert names_in(out) == {"model.safetensors", "config.json", "generation_config.json",
                             "chat_template.jinja", *ALSO}  # fmt: skip
    policy = run.policy()
    wanted, sampled = logits(policy.model, policy), logits(policy.sampler(), policy)
    with policy.reference():
        base = logits(policy.model, policy)
    assert (wanted - base).abs().max() > 0.5  # it has learned something

    plain = AutoModelForCausalLM.from_pretrained(out)
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    assert not hasattr(plain.config, "quantization_config")
    found = logits(plain, policy)
    assert torch.allclose(found, sampled, atol=1e-5)
    tolerance = 0.3 if quantize == "int8" else 1e-4  # int8 rounds the activations as well
    assert (found - wanted).abs().max() < tolerance

    tokenizer = AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "Make 24"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert [text] == policy.render([asked])


def test_an_adapter_answers_as_the_policy_does_on_the_plain_base(trained, toy_world, tmp_path):
    from peft import PeftModel

    run = trained()
    out = run.export(tmp_path / "out")
    assert names_in(out) >= {"adapter_model.safetensors", "adapter_config.json", *ALSO}
    assert "model.safetensors" not in names_in(out)
    base = AutoModelForCausalLM.from_pretrained(toy_world)
    plain = PeftModel.from_pretrained(base, out).eval()
    policy = run.policy()
    assert torch.allclose(logits(plain, policy), logits(policy.model, policy), atol=1e-5)
    AutoTokenizer.from_pretrained(out)


def test_the_adapter_names_a_base_that_is_found_from_anywhere(
    trained, toy_world, tmp_path, monkeypatch
):
    from peft import AutoPeftModelForCausalLM

    shutil.copytree(toy_world, tmp_path / "near")
    monkeypatch.chdir(tmp_path)
    run = trained(model="near")
    out = run.export("out")
    assert out == tmp_path / "out"
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "near")
    monkeypatch.chdir("/")
    plain, policy = AutoPeftModelForCausalLM.from_pretrained(out).eval(), run.policy
    monkeypatch.chdir(tmp_path)
    assert torch.allclose(logits(plain, policy()), logits(policy().model, policy()), atol=1e-5)


def test_a_hub_name_stays_a_name(trained, tmp_path, monkeypatch):
    run = trained()
    tokenizer = run.policy().tokenizer
    monkeypatch.setattr(exporting, "find_model", lambda name: "owner/name")
    monkeypatch.setattr(exporting, "load_tokenizer", lambda source, name: tokenizer)
    config = json.loads((run.export(tmp_path / "out") / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"


def test_a_step_is_exported_with_the_recipe_that_was_in_force(trained, tmp_path):
    run = trained(checkpoint_every=2)
    run.update(steps=6, beta=0.5)
    run.resume()
    run.wait()
    early, late = run.export(tmp_path / "early", merged=True, step=2), run.export(tmp_path / "late")
    assert [yaml.safe_load((f / "recipe.yaml").read_text())["beta"] for f in (early, late)] == [
        0.0,
        0.5,
    ]
    policy = run.policy(2)
    plain = AutoModelForCausalLM.from_pretrained(early)
    assert torch.allclose(logits(plain, policy), logits(policy.model, policy), atol=1e-4)
    assert run.name in (late / "report.html").read_text()


def test_a_live_run_is_exported_from_its_last_checkpoint(toy_recipe, tmp_path):
    with train(toy_recipe.replace(steps=10_000), folder=tmp_path / "run") as run:
        run.pause()
        while run.status != "paused":
            assert run.live
        run.export(tmp_path / "out")
        assert run.status == "paused"
    assert (tmp_path / "out" / "adapter_config.json").is_file()


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,lm_head", "q_proj,embed_tokens"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])  # tied and untied embeddings
def test_tied_embeddings_stay_tied_unless_an_update_parts_them(
    policy_of, tmp_path, family, targets
):
    policy = policy_of(family, "nf4", lora_targets=targets)
    plain_model(policy).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(logits(plain, policy), logits(policy.sampler(), policy), atol=1e-5)
    assert torch.allclose(logits(plain, policy), logits(policy.model, policy), atol=1e-3)
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert tied == (family == "llama" and targets == "all-linear")


def test_the_policy_stays_as_it_was(policy_of):
    policy = policy_of("llama", "nf4")
    before = logits(policy.model, policy)
    plain_model(policy)
    assert torch.equal(logits(policy.model, policy), before)
    assert policy.model.get_base_model().config.quantization_config is not None


def test_what_the_model_says_on_generation_goes_along(toy_world, tmp_path):
    folder = Path(shutil.copytree(toy_world, tmp_path / "model"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    policy = load_policy(folder, quantize="none", lora_rank=2, device="cpu")
    plain_model(policy).save_pretrained(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.generation_config.eos_token_id == [1, 2]


# --- what is refused ----------------------------------------------------------------------------


def refusal(run, *args, **settings):
    with pytest.raises(WorkbenchError) as caught:
        run.export(*args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_in_use_an_unknown_step_and_a_run_without_checkpoint_are_refused(
    trained, tmp_path
):
    run = trained()
    used = tmp_path / "used"
    used.mkdir()
    assert run.export(used) == used  # an empty one will do
    written = (used / "report.html").stat().st_mtime_ns
    assert "used is not an empty folder; give one that is" in refusal(run, used)
    assert (used / "report.html").stat().st_mtime_ns == written
    assert "is not an empty folder" in refusal(run, used / "report.html")
    assert "Unknown checkpoint 3; allowed: 2, 4." in refusal(run, tmp_path / "new", step=3)
    shutil.rmtree(run.path / "checkpoints")
    bare = attach(run.path)
    assert "has no checkpoint yet" in refusal(bare, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_write_that_fails_leaves_the_folder_as_it_was(trained, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run = trained()
    monkeypatch.setattr(exporting, "write_report", full)
    out = tmp_path / "out"
    out.mkdir()
    assert "can't be written ([Errno 28] No space left" in refusal(run, out)
    assert names_in(out) == set()
