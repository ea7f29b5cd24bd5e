"""Where names lead: shipped, folder or hub; and each kind of model refused in the other's place."""

import json

import pytest

from workbench.packaged import SHIPPED_JUDGES, SHIPPED_POLICIES, data_path
from workbench.sources import CONSTRAINT_MODEL, JUDGE, POLICY, check_loadable, find_model
from workbench.variants import WorkbenchError


def test_shipped_names_folders_and_hub_names(tmp_path):
    for name in SHIPPED_POLICIES:
        assert find_model(name) == str(data_path("models", name))
    for name in SHIPPED_JUDGES:
        assert find_model(name, JUDGE) == str(data_path("models", name))
    assert find_model(str(tmp_path)) == str(tmp_path)
    assert find_model("owner/name", JUDGE) == "owner/name"


def test_a_wrong_name_lists_the_models_of_its_kind_only():
    with pytest.raises(WorkbenchError) as caught:
        find_model("guide")
    assert "Unknown model 'guide'; allowed: guide-strong, guide-weak, scribe, tiny-strong" in str(
        caught.value
    )
    with pytest.raises(WorkbenchError) as caught:
        find_model("reward", JUDGE)
    assert "reward model 'reward'; allowed: reward-fair, reward-shortcut." in str(caught.value)
    with pytest.raises(WorkbenchError) as caught:  # none is shipped
        find_model("reward", CONSTRAINT_MODEL)
    assert "reward-" not in str(caught.value) and "'own', the folder" in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "kind", "message"),
    [
        ("LlamaForCausalLM", JUDGE, "is no sequence classifier (LlamaForCausalLM)"),
        (None, JUDGE, "is no sequence classifier (unnamed)"),
        ("LlamaForCausalLM", CONSTRAINT_MODEL, "give a constraint reward model."),
        ("LlamaForSequenceClassification", CONSTRAINT_MODEL, ""),
        ("LlamaForSequenceClassification", POLICY, "give this one to the reward 'learned'"),
        ("LlamaForCausalLM", POLICY, ""),
        (None, POLICY, ""),
        ("LlamaForSequenceClassification", JUDGE, ""),
    ],
)
def test_each_kind_is_refused_in_the_others_place(tmp_path, architecture, kind, message):
    config = {"model_type": "llama"} | ({"architectures": [architecture]} if architecture else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    if not message:
        check_loadable(str(tmp_path), "mine", kind)
        return
    with pytest.raises(WorkbenchError) as caught:
        check_loadable(str(tmp_path), "mine", kind)
    assert message in str(caught.value) and "\n" not in str(caught.value)
