"""Pretraining: same seed, same weights; loss on completions; shipped models keep their word."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from workbench.models import load_policy
from workbench.packaged import data_path
from workbench.tasks import make_task
from workbench.tasks.demands import KINDS
from workbench.tiny import card
from workbench.tiny.corpus import Example, examples
from workbench.tiny.pretrain import (
    MODELS,
    SCRIBE_STEPS,
    STEPS,
    Batch,
    batches,
    build_model,
    collate,
    completion_loss,
    encode,
    pretrain,
    train,
)
from workbench.tiny.tokenizer import LINES_WORDS, build_tokenizer, vocabulary
from workbench.variants import WorkbenchError

MIXTURE = MODELS["tiny-strong"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(tokenizer, seed):
    model = train(examples(MIXTURE, seed), tokenizer, seed, steps=4, batch=8, title=None)
    return model.state_dict()


def test_the_same_seed_gives_the_same_weights_bit_for_bit(tokenizer):
    torch.manual_seed(1)
    first = weights(tokenizer, seed=0)
    torch.manual_seed(2)  # what the caller drew before must not matter
    second = weights(tokenizer, seed=0)
    other = weights(tokenizer, seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_callers_random_numbers_alone(tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    weights(tokenizer, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_the_model_is_small_and_fits_nf4_blocks(tokenizer):
    model = build_model(tokenizer)
    assert 500_000 < sum(p.numel() for p in model.parameters()) < 1_500_000
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert all(linear.in_features % 64 == 0 for linear in linears)


def test_only_completion_tokens_are_targets(tokenizer):
    demonstration = Example(
        [{"role": "user", "content": "Compute 1+2"}], "<think></think>3", "arithmetic", "guessing"
    )
    longer = Example(
        [{"role": "user", "content": "Compute 1+2+3"}], "<think></think>6", "arithmetic", "guessing"
    )
    batch = collate(encode(tokenizer, [demonstration, longer]), tokenizer.pad_token_id)
    wanted = tokenizer.convert_tokens_to_ids(["<think>", "</think>", "3", "<|end|>"])
    assert [label for label in batch.labels_BL[0].tolist() if label >= 0] == wanted
    assert (
        batch.labels_BL[0].tolist().index(wanted[0]) == 8
    )  # bos user Compute ␣1 + 2 end assistant
    assert batch.ids_BL[0, -2:].tolist() == [tokenizer.pad_token_id] * 2


def test_loss_is_the_negative_log_prob_of_the_targets(tokenizer):
    torch.manual_seed(0)
    model = build_model(tokenizer).eval()
    example = Example([{"role": "user", "content": "Compute 1+2"}], "x=3", "arithmetic", "guessing")
    batch = collate(encode(tokenizer, [example]), tokenizer.pad_token_id)
    with torch.no_grad():
        logprobs_LV = model(input_ids=batch.ids_BL).logits[0].log_softmax(-1)
        places = [i for i, label in enumerate(batch.labels_BL[0].tolist()) if label >= 0]
        by_hand = -sum(logprobs_LV[i - 1, batch.ids_BL[0, i]] for i in places)
        assert completion_loss(model, batch).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_every_token_weighs_the_same_whatever_its_completions_length(tokenizer):
    # Guesses are short: in a mean of each part's own they would count several times too much.
    parts = next(batches(examples(MODELS["tiny-weak"], seed=0), tokenizer, size=16))
    assert [len(part.ids_BL) for part in parts] == [8, 8]
    assert parts[0].ids_BL.shape[1] < parts[1].ids_BL.shape[1]
    torch.manual_seed(0)
    model = build_model(tokenizer)
    whole = sum(completion_loss(model, part).item() for part in parts)
    singly = 0.0
    for part in parts:
        for ids, labels in zip(part.ids_BL, part.labels_BL, strict=True):
            singly += completion_loss(model, Batch(ids[None], labels[None])).item()
    assert whole == pytest.approx(singly, rel=1e-5)


def test_smoke_writes_a_whole_model_folder(tmp_path):
    folder = pretrain("tiny-weak", tmp_path / "weak", steps=2, batch=4, smoke=True, progress=False)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "workbench pretrain tiny-weak --seed 0 --steps 2" in text
    assert "| countdown | nf4 |" in text
    assert "| guessing | 72% |" in text


def test_a_scribe_is_made_in_the_words_of_its_world_and_measured(tmp_path):
    folder = pretrain("scribe", tmp_path / "scribe", steps=2, batch=4, smoke=True, progress=False)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == vocabulary(LINES_WORDS)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "workbench pretrain scribe --seed 0 --steps 2" in text and "probability 0.6" in text
    assert {"none", "nf4", "kinds"} == json.loads((folder / card.FIGURES).read_text()).keys()
    again = pretrain("scribe", tmp_path / "again", steps=2, batch=4, smoke=True, progress=False)
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, again))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tiny-strnog"}, "Did you mean 'tiny-strong'?"),
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(WorkbenchError) as caught:
        pretrain(out=tmp_path / "model", **arguments)
    assert message in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_correlation():
    rising, falling = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    assert card.correlation(rising, falling) == -1.0
    assert card.correlation(rising, np.array([1.0, 0.0, 1.0])) == 0.0
    assert card.correlation(rising, np.ones(3)) is None


# --- the shipped models ---------------------------------------------------------------------------


def figures(name):
    return json.loads((data_path("models", name) / card.FIGURES).read_text(encoding="utf-8"))


def test_shipped_figures_are_on_target():
    strong, weak = figures("tiny-strong"), figures("tiny-weak")
    assert 0.20 <= strong["countdown"]["none"]["pass@k"]["1"] <= 0.40
    assert strong["countdown"]["none"]["pass@k"]["64"] >= 0.95
    arithmetic = strong["arithmetic"]["none"]
    assert 0.30 <= arithmetic["pass@k"]["1"] <= 0.60
    for what in ("certainty and right", "brevity and right"):
        assert arithmetic[what] > 0.05
        assert arithmetic[f"{what}, within a prompt"] > 0.05
    assert 0.05 <= weak["arithmetic"]["none"]["pass@k"]["1"] <= 0.20
    assert weak["arithmetic"]["none"]["share of short answers"] > 0.5
    assert weak["arithmetic"]["none"]["short answers right"] < 0.15
    assert weak["arithmetic"]["none"]["brevity and right"] < -0.2
    for model in (strong, weak):
        for found in model.values():
            assert found["nf4"]["pass@k"]["1"] >= found["none"]["pass@k"]["1"] - 0.03


@pytest.mark.parametrize("name", MODELS)
def test_shipped_models_are_those_of_the_code(name):
    # Fails where the vocabulary or a mixture was changed and the models were not shipped again.
    folder = data_path("models", name)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == vocabulary()
    text = (folder / card.CARD).read_text(encoding="utf-8")
    assert f"workbench pretrain {name} --seed 0 --steps {STEPS}" in text
    for demonstrator, share in dataclasses.asdict(MODELS[name]).items():
        assert f"| {demonstrator} | {share:.0%} |" in text


def test_the_shipped_scribe_is_that_of_the_code_and_its_pseudo_labels_are_worth_something():
    folder, found = data_path("models", "scribe"), figures("scribe")
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == vocabulary(LINES_WORDS)
    text = (folder / card.CARD).read_text(encoding="utf-8")
    assert f"workbench pretrain scribe --seed 0 --steps {SCRIBE_STEPS}" in text
    assert found["kinds"].keys() == KINDS.keys()
    for kind, sides in found["kinds"].items():  # asked for it is kept more often than not yet
        assert sides["p"] > sides["q"] + 0.08, kind
    assert 0.5 < found["none"]["constraints"] < 0.75  # room to learn, and something to learn from
    assert found["none"]["well-formed"] > 0.98
    assert found["nf4"]["constraints"] > found["none"]["constraints"] - 0.03


def test_shipped_models_are_small_and_hold_no_pickle():
    files = [path for path in data_path("models").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("family", ["countdown", "arithmetic"])
def test_shipped_figures_hold_when_measured_again(name, family):
    policy = load_policy(name, quantize="none")
    again = card.measure_task(policy, make_task(family), prompts=32, samples=16)
    shipped = figures(name)[family]["none"]
    # 32 prompts: the standard error of pass@1 is about 0.05 at most.
    assert again["pass@k"]["1"] == pytest.approx(shipped["pass@k"]["1"], abs=0.15)
    assert again["mean length"] == pytest.approx(shipped["mean length"], rel=0.15)
    assert again["truncated"] < 0.03
