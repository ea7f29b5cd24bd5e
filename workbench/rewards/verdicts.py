"""A constraint reward model: a classifier with two outputs says whether an answer keeps one constraint.

It reads the constraint and the answer, never the instruction around it nor the thinking; the probability of
its output 1 is the verdict. One template serves for training and for use: the constraint as the user's
message, the answer as the reply. The constraint stands first, so that cutting what is too long never cuts it.

Source: arXiv 2508.02150 (two-way head, softmax[1] as a soft reward: literal); the template is ours, since the
released ones for training and for use differ and put the constraint last, where truncation takes it first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.rewards.classifying import (
    Tokens,
    conversation_ids,
    load_classifier,
    logits_of,
    room_of,
)
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class VerdictModel:
    """A classifier with two outputs, and its tokenizer."""

    model: Any
    tokenizer: Any
    name: str
    longest: int  # tokens that it reads

    def verdicts(self, constraints: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The probability that each answer keeps its constraint, 0 to 1; all read in one go, batched."""
        import torch

        rows = [self.encode(c, a) for c, a in zip(constraints, answers, strict=True)]
        if not rows:
            return []
        return torch.tensor(logits_of(self.model, rows)).softmax(-1)[:, 1].tolist()

    def encode(self, constraint: str, answer: str) -> Tokens:
        """Token ids of a constraint with an answer; what is too long loses the end of the answer."""
        said = [{"role": "user", "content": constraint}, {"role": "assistant", "content": answer}]
        return tuple(conversation_ids(self.tokenizer, said)[: self.longest])

    def save(self, folder: str | Path) -> None:
        """Write safetensors, config and tokenizer; of a model trained by LoRA the adapter and its head."""
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))


def new_verdict_model(
    backbone: str, *, quantize: str, lora_rank: int, device: torch.device, seed: int
) -> VerdictModel:
    """A classifier on a decoder's weights, its head drawn from `seed`; ready to be trained.

    Args:
        backbone: a shipped name, a folder or a hub name of any decoder that transformers has a classifier
        for.
        quantize: "nf4", "int8" or "none" for the backbone; the first two need a `lora_rank`.
        lora_rank: rank of the trained update; 0 trains every weight.
    """
    import torch

    from workbench.merging import keep_weights_unpacked
    from workbench.models import LOADING, load_tokenizer, quantization, unreported
    from workbench.sources import check_loadable, find_model

    if lora_rank == 0 and quantize != "none":
        raise WorkbenchError(
            f"quantize is {quantize!r} and lora_rank 0, but quantised weights can't be trained themselves; "
            "give a lora_rank of 1 or more, or quantize 'none'."
        )
    with LOADING, unreported(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = find_model(backbone)
        check_loadable(source, backbone)
        tokenizer = load_tokenizer(source, backbone)
        settings: dict[str, Any] = {"num_labels": 2, "pad_token_id": tokenizer.pad_token_id}
        if quantize != "none":
            config = quantization(quantize, source, device, head="score")
            settings |= {"quantization_config": config, "device_map": {"": device}}
        model = load_classifier(source, backbone, device, **settings)
        keep_weights_unpacked(model)
        model = _with_adapter(model, lora_rank) if lora_rank else model.requires_grad_(True)
    return VerdictModel(model, tokenizer, backbone, room_of(model, tokenizer))


def _with_adapter(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="SEQ_CLS"
    )
    return get_peft_model(model, config)


def load_verdict_model(name: str, device: str | torch.device = "cpu") -> VerdictModel:
    """A trained constraint reward model, a folder or a hub name, on `device`."""
    import torch

    from workbench.models import LOADING, load_tokenizer
    from workbench.sources import CONSTRAINT_MODEL, check_loadable, find_model

    with LOADING:
        source = find_model(name, CONSTRAINT_MODEL)
        adapter = Path(source) / ADAPTER
        tokenizer = load_tokenizer(source, name)
        base = source
        if adapter.is_file():
            base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        else:
            check_loadable(source, name, CONSTRAINT_MODEL)
        settings = {"num_labels": 2} if adapter.is_file() else {}
        model = load_classifier(base, name, torch.device(device), **settings)
        if model.config.num_labels != 2:
            raise WorkbenchError(
                f"The model {name!r} has {model.config.num_labels} outputs; a constraint reward model has "
                "two: violated and kept."
            )
        model.config.pad_token_id = tokenizer.pad_token_id
        if adapter.is_file():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, source, use_safetensors=True)
            model = model.eval().requires_grad_(False)
    return VerdictModel(model, tokenizer, name, room_of(model, tokenizer))
