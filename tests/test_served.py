"""Our side of vLLM, against a module that stands in for it: vLLM itself is not run here."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from workbench import served
from workbench.rollout import sample
from workbench.variants import WorkbenchError

PROMPTS = [[{"role": "user", "content": text}] for text in ("Make 24 from 3 8", "Compute 1")]


@pytest.fixture
def stand_in(monkeypatch):
    """A module `vllm` that answers every prompt with three tokens; returns what it was asked."""
    asked = SimpleNamespace(loaded=[], calls=[])

    class LLM:
        def __init__(self, **settings):
            asked.loaded.append(settings)

        def generate(self, requests, sampling, lora_request, use_tqdm):
            tensors = load_file(f"{lora_request.path}/adapter_model.safetensors")
            asked.calls.append((requests, sampling, lora_request, tensors))
            places = [{5: SimpleNamespace(logprob=-0.5), 9: SimpleNamespace(logprob=-7.0)}] * 3
            output = SimpleNamespace(token_ids=(5, 5, 5), logprobs=places)
            return [SimpleNamespace(outputs=[output]) for _ in requests]

    def request(name, number, path):
        return SimpleNamespace(name=name, number=number, path=path)

    module, lora, inner = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("request")
    module.LLM, module.SamplingParams = LLM, lambda **given: given
    inner.LoRARequest = request
    for name, part in {"vllm": module, "vllm.lora": lora, "vllm.lora.request": inner}.items():
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(served, "check_vllm", lambda: None)
    monkeypatch.setattr("workbench.engines.check_vllm", lambda: None)
    return asked


def test_vllm_gets_prompts_settings_and_the_adapter_as_it_is_now(policy_of, stand_in):
    policy = policy_of("llama", "nf4")
    settings = {"group_size": 2, "max_new_tokens": 3, "engine": "vllm", "top_k": 4}
    made = sample(policy, PROMPTS, further_stops=(12,), **settings)
    requests, sampling, adapter, tensors = stand_in.calls[0]
    prompt = made.prompt_ids_PL[0][made.prompt_mask_PL[0]].tolist()
    assert [request["prompt_token_ids"] for request in requests[:2]] == [prompt, prompt]
    assert len(requests) == 4 and len({given["seed"] for given in sampling}) == 4
    first = sampling[0]
    assert (first["max_tokens"], first["top_k"], first["logprobs"]) == (3, 4, 0)
    assert first["stop_token_ids"] == [*policy.stop_ids(), 12]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in policy.state().items())
    assert made.completion_ids_BT.tolist() == [[5, 5, 5]] * 4
    assert made.logprobs_BT.tolist() == [[-0.5] * 3] * 4  # vLLM's own
    assert made.entropies_BT.min() > 0  # the trainer's
    assert made.truncated_B.all()
    with torch.no_grad():
        policy.trainable()[0][1].add_(1)
    sample(policy, PROMPTS, **settings)
    assert stand_in.calls[1][2].number == adapter.number + 1
    assert not all(torch.equal(t, tensors[name]) for name, t in stand_in.calls[1][3].items())
    assert len(stand_in.loaded) == 1
    assert stand_in.loaded[0]["quantization"] == "bitsandbytes"
    assert stand_in.loaded[0]["max_lora_rank"] == 8  # rank 4, but vLLM starts at 8
    assert stand_in.loaded[0]["trust_remote_code"] is False


def test_without_vllm_one_sentence_says_what_to_do(policy_of):
    with pytest.raises(WorkbenchError, match='pip install vllm, or use engine="native"'):
        sample(policy_of(), PROMPTS, group_size=1, max_new_tokens=2, engine="vllm")
