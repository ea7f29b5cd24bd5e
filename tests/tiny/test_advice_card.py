"""Cards of guides and reward models: the shipped ones keep their word."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from workbench.models import load_policy
from workbench.packaged import SHIPPED_JUDGES, SHIPPED_MODELS, data_path
from workbench.rewards.learned import load_judge
from workbench.tasks.places import FULL_LIST
from workbench.tiny import advice_card, raters
from workbench.tiny.advice import GUIDES
from workbench.tiny.pretrain import _settings, pretrain
from workbench.tiny.tokenizer import PLACES_WORDS, vocabulary
from workbench.variants import WorkbenchError


def figures(name):
    return json.loads((data_path("models", name) / advice_card.FIGURES).read_text("utf-8"))


def test_generic_answers_are_known():
    assert advice_card.is_generic("Take water, food and a map.")
    assert not advice_card.is_generic("Take water, a coat and a map.")
    assert not advice_card.is_generic("Take a coat.") and not advice_card.is_generic("")


class Fitting:
    """A judge that scores each answer by one place's utility: it agrees with the raters."""

    def __init__(self, utility, sign=1):
        self.utility, self.sign = utility, sign

    def score(self, conversations, answers):
        named = {question: name for name, question in advice_card.questions("eval")}
        asked = [named[messages[0]["content"]] for messages in conversations]
        known = advice_card.places()
        return [self.sign * self.utility(known[n], a) for n, a in zip(asked, answers, strict=True)]


def test_a_judge_that_scores_the_utility_agrees_wholly_and_its_opposite_never():
    found = advice_card.measure_judge(Fitting(raters.shortcut), raters.shortcut, pairs=200)
    assert (found["pairs"], found["agreement"]) == (200, 1.0)
    scores = {kind: mean for kind, (mean, _) in found["scores"].items()}
    assert scores["two right items"] == 1.0 and scores["generic list"] == 0.75
    assert scores["one right item of two"] == scores["one right item alone"] == 0.5
    assert scores["two wrong items"] == 0.0 and scores["all ten items"] == pytest.approx(0.2)
    opposite = advice_card.measure_judge(Fitting(raters.fair, -1), raters.fair, pairs=200)
    assert opposite["agreement"] == 0.0 and FULL_LIST == 6


@pytest.mark.parametrize("name", ["guide-weak", "reward-fair"])
def test_smoke_writes_a_whole_model_folder(name, tmp_path):
    folder = pretrain(name, tmp_path / "made", steps=2, batch=4, smoke=True, progress=False)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"workbench pretrain {name} --seed 0 --steps 2" in text
    assert json.loads((folder / "measured.json").read_text("utf-8"))
    if name == "reward-fair":
        assert len(load_judge(str(folder), "cpu").score([[]], ["Take a coat."])) == 1
    else:
        assert load_policy(folder, quantize="none", device="cpu").trainable()


def test_an_unknown_name_lists_the_new_ones_too(tmp_path):
    with pytest.raises(WorkbenchError, match="Did you mean 'guide-strong'"):
        pretrain("guide-stron", tmp_path / "made")


# --- the shipped models -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
def test_shipped_guides_are_on_target(name):
    for found in figures(name).values():
        assert found["recall"] == pytest.approx(GUIDES[name].recall, abs=0.05)
        assert 0.80 <= found["consistent"] <= 0.95
        assert 0.08 <= found["generic"] <= 0.12
        assert found["well-formed"] >= 0.98


@pytest.mark.parametrize("name", SHIPPED_JUDGES)
def test_shipped_judges_are_on_target(name):
    found = figures(name)
    assert found["agreement"] >= 0.95
    mean = {kind: scores[0] for kind, scores in found["scores"].items()}
    assert mean["two wrong items"] < mean["one right item of two"] < mean["two right items"]
    assert mean["all ten items"] < mean["one right item of two"]
    if name == "reward-shortcut":
        assert mean["one right item of two"] < mean["generic list"] < mean["two right items"]
    else:
        assert mean["generic list"] < mean["one right item of two"] - 0.5


@pytest.mark.parametrize("name", [*GUIDES, *SHIPPED_JUDGES])
def test_shipped_models_are_those_of_the_code(name):
    folder = data_path("models", name)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == vocabulary(PLACES_WORDS)
    text = (folder / advice_card.CARD).read_text(encoding="utf-8")
    assert f"workbench pretrain {name} --seed 0 --steps {_settings(name)[0]}" in text
    wanted = "LlamaForSequenceClassification" if name in SHIPPED_JUDGES else "LlamaForCausalLM"
    assert AutoConfig.from_pretrained(folder).architectures == [wanted]


def test_every_shipped_name_has_its_folder():
    folders = {path.name for path in data_path("models").iterdir()}
    assert folders == set(SHIPPED_MODELS)


def test_a_guide_measured_again_keeps_its_figures():
    policy = load_policy("guide-strong", quantize="none", device="cpu")
    with torch.random.fork_rng():
        again = advice_card.measure_guide(policy, samples=8)
    shipped = figures("guide-strong")["none"]
    for key in ("recall", "consistent", "generic", "well-formed"):
        assert again[key] == pytest.approx(shipped[key], abs=0.05), key
