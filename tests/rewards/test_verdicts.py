"""A constraint reward model: one template, the constraint always whole, the same verdicts after loading."""

import dataclasses
import json

import pytest
import torch

from workbench.loading import quiet
from workbench.rewards.classifying import forward
from workbench.rewards.verdicts import load_verdict_model, new_verdict_model
from workbench.sources import CONSTRAINT_MODEL, find_model
from workbench.variants import WorkbenchError

CPU = torch.device("cpu")
CONSTRAINTS = ["Sound sad.", "Sound sad.", "Make it glad.", "Use 4 words."]
ANSWERS = ["the gray wave sits.", "golden moss goes!", "the gray wave sits.", "gray."]
KINDS = [("none", 0), ("none", 4), ("nf4", 4), ("int8", 4)]


def new(toy_scribe, quantize="none", lora_rank=0, seed=3):
    return new_verdict_model(
        toy_scribe, quantize=quantize, lora_rank=lora_rank, device=CPU, seed=seed
    )


def moved(judge, steps=3):
    """The judge after some updates away from where it began."""
    weights = [p for p in judge.model.parameters() if p.requires_grad]
    rows = [judge.encode(c, a) for c, a in zip(CONSTRAINTS, ANSWERS, strict=True)]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(
            forward(judge.model, rows), torch.tensor([1, 0, 0, 1])
        )
        loss.backward()
        optimizer.step()
        gradients = {
            n: p.grad.clone() for n, p in judge.model.named_parameters() if p.requires_grad
        }
        optimizer.zero_grad()
    judge.model.eval().requires_grad_(False)
    return gradients


def test_a_verdict_is_the_softmax_of_output_1_over_constraint_and_answer(toy_scribe):
    judge = new(toy_scribe)
    found = judge.verdicts(CONSTRAINTS, ANSWERS)
    for constraint, answer, verdict in zip(CONSTRAINTS, ANSWERS, found, strict=True):
        text = f"<|bos|><|user|>{constraint}<|end|><|assistant|>{answer}<|end|>"
        ids = judge.tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            violated, kept = judge.model(torch.tensor([ids])).logits[0].tolist()
        by_hand = 1 / (1 + torch.tensor(violated - kept).exp().item())
        assert verdict == pytest.approx(by_hand, abs=1e-5)
    assert len(set(found)) == 4
    assert judge.verdicts([], []) == []


def test_what_is_too_long_loses_the_end_of_the_answer_and_never_the_constraint(toy_scribe):
    judge = dataclasses.replace(new(toy_scribe), longest=20)
    long = "gray wave " * 50
    ids = judge.encode("Sound sad.", long)
    assert len(ids) == 20 and ids == new(toy_scribe).encode("Sound sad.", long)[:20]
    text = judge.tokenizer.decode(ids)
    assert text.startswith("<|bos|><|user|>Sound sad.<|end|><|assistant|>gray wave")
    assert judge.verdicts(["Sound sad."], [long]) != judge.verdicts(["Make it glad."], [long])


def test_the_head_is_drawn_from_the_seed_and_no_generator_is_moved(toy_scribe, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    heads = [new(toy_scribe, seed=seed).model.score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    for number, (quantize, rank) in enumerate(KINDS):
        new(toy_scribe, quantize, rank).save(tmp_path / str(number))
        load_verdict_model(str(tmp_path / str(number)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("quantize", "rank"), KINDS)
def test_trained_saved_and_loaded_it_gives_the_same_verdicts(
    toy_scribe, tmp_path, quantize, rank, capfd
):
    judge = new(toy_scribe, quantize, rank)
    fresh = judge.verdicts(CONSTRAINTS, ANSWERS)
    gradients = moved(judge)
    assert gradients and all(g.isfinite().all() for g in gradients.values())
    own = {name for name, gradient in gradients.items() if gradient.any()}
    assert gradients.keys() - own <= {"model.embed_tokens.weight"}
    if rank:
        assert all("lora_" in name or "score" in name for name in gradients)
        assert any("layers.0.self_attn.v_proj" in name for name in own)  # far below the head
    learnt = judge.verdicts(CONSTRAINTS, ANSWERS)
    assert learnt != fresh
    judge.save(tmp_path / "model")
    again = load_verdict_model(str(tmp_path / "model"))
    assert again.verdicts(CONSTRAINTS, ANSWERS) == learnt
    assert not any(p.requires_grad for p in again.model.parameters()) and not again.model.training
    again.save(tmp_path / "once more")
    assert load_verdict_model(str(tmp_path / "once more")).verdicts(CONSTRAINTS, ANSWERS) == learnt
    assert not any(path.suffix in (".bin", ".pt") for path in tmp_path.rglob("*"))
    said = "".join(capfd.readouterr())
    assert "MISSING" not in said and "shards" not in said


def test_an_adapter_from_elsewhere_is_put_on_the_model_that_it_names(toy_scribe, tmp_path):
    judge = new(toy_scribe, "none", 4)
    moved(judge)
    judge.save(tmp_path)
    (tmp_path / "backbone.json").unlink()
    again = load_verdict_model(str(tmp_path))
    assert again.verdicts(CONSTRAINTS, ANSWERS) == judge.verdicts(CONSTRAINTS, ANSWERS)


def refusal(name):
    with pytest.raises(WorkbenchError) as caught:
        load_verdict_model(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_constraint_reward_model_is_refused(toy_scribe, tmp_path):
    assert "is no sequence classifier (LlamaForCausalLM)" in refusal(toy_scribe)
    assert "give a constraint reward model." in refusal(toy_scribe)
    assert "has 1 outputs; a constraint reward model has two" in refusal("reward-fair")
    assert "There is no constraint reward model 'mine'" in refusal("mine")
    assert "There is no model folder 'a/b/c'" in refusal("a/b/c")
    assert "holds no readable model" in refusal(tmp_path) or "tokenizer" in refusal(tmp_path)
    with pytest.raises(WorkbenchError, match="'own', the folder of a trained one"):
        find_model("rewar", CONSTRAINT_MODEL)


def test_pickled_weights_and_own_code_are_refused(toy_scribe, tmp_path):
    with quiet():
        new(toy_scribe).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "has no safetensors weights" in refusal(tmp_path)
    other = config | {"architectures": ["Mine"], "auto_map": {"AutoModel": "m.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(other))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    assert "needs its own Python code, which is never run" in refusal(tmp_path)


def test_quantised_weights_need_an_adapter_and_a_backbone_must_write(toy_scribe):
    with pytest.raises(
        WorkbenchError, match="'nf4' and lora_rank 0.*give a lora_rank of 1 or more"
    ):
        new(toy_scribe, "nf4", 0)
    with pytest.raises(WorkbenchError, match="is a classifier, which scores texts and writes none"):
        new("reward-fair")
    with pytest.raises(WorkbenchError, match="Unknown model 'nobody'"):
        new("nobody")
