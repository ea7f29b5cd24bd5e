"""Completions from vLLM, where that is installed: its own copy of the base, given the adapter at each draw.

The base is loaded as the policy's is: NF4 by vLLM's bitsandbytes loader, else in bf16. Log-probs are vLLM's
own, of the whole distribution at temperature 1. The adapter goes through a folder on disk.

Not yet run against vLLM itself, only against a module that stands in for it: it needs a GPU.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.sources import find_model
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.models import Policy

GPU_SHARE = 0.4  # of the GPU's memory that vLLM takes for itself


def check_vllm() -> None:
    """Refuse where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise WorkbenchError(
            'engine is "vllm" but vLLM is not installed here; pip install vllm, or use engine="native".'
        )


def run_vllm(
    policy: Policy,
    prompts: Sequence[list[int]],
    most: int,
    stop_ids: Sequence[int],
    settings: dict[str, Any],
    seed: int,
) -> tuple[list[list[int]], list[list[float]]]:
    """At most `most` tokens after each prompt, and their log-probs at temperature 1 (nats)."""
    check_vllm()
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    if policy.served is None:
        policy.served = _load(policy)
        policy.served_number = 0
    policy.served_number += 1  # vLLM keeps adapters by number, and each draw's is another
    given = [
        SamplingParams(
            max_tokens=most,
            stop_token_ids=list(stop_ids),
            ignore_eos=True,  # the end tokens are among the stop tokens
            logprobs=0,
            seed=(seed + number) % 2**31,
            detokenize=False,
            **settings,
        )
        for number in range(len(prompts))
    ]
    with tempfile.TemporaryDirectory() as folder:
        policy.save(folder)
        adapter = LoRARequest("policy", policy.served_number, folder)
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = policy.served.generate(requests, given, lora_request=adapter, use_tqdm=False)
    drawn = [answer.outputs[0] for answer in answers]
    tokens = [list(output.token_ids) for output in drawn]
    logprobs = [
        [places[token].logprob for token, places in zip(row, output.logprobs, strict=True)]
        for row, output in zip(tokens, drawn, strict=True)
    ]
    return tokens, logprobs


def _load(policy: Policy) -> Any:
    from vllm import LLM

    rank = policy.model.peft_config["default"].r
    quantised = {"quantization": "bitsandbytes"} if policy.quantize == "nf4" else {}
    return LLM(
        model=find_model(policy.name),
        dtype="bfloat16",
        enable_lora=True,
        max_loras=1,
        max_lora_rank=max(8, 1 << (rank - 1).bit_length()),
        logprobs_mode="raw_logprobs",
        gpu_memory_utilization=GPU_SHARE,
        trust_remote_code=False,
        **quantised,
    )
