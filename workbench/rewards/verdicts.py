"""A constraint reward model: a classifier with two outputs says whether an answer keeps one constraint.

It reads the constraint and the answer, never the instruction around it nor the thinking; the probability of
its output 1 is the verdict. One template serves for training and for use: the constraint as the user's
message, the answer as the reply. The constraint stands first, so that cutting what is too long never cuts it.

Source: arXiv 2508.02150 (two-way head, softmax[1] as a soft reward: literal); the template is ours, since the
released ones for training and for use differ and put the constraint last, where truncation takes it first.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
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

ADAPTER, BACKBONE = "adapter_config.json", "backbone.json"


@dataclass(frozen=True)
class VerdictModel:
    """A classifier with two outputs, and its tokenizer."""

    model: Any
    tokenizer: Any
    name: str
    longest: int  # tokens that it reads
    backbone: str = (
        ""  # of one trained by LoRA: the model under its adapter, and how that is quantised
    )
    quantize: str = "none"

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
        from workbench.loading import quiet

        with quiet():
            self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))
        if self.backbone:
            under = {"backbone": self.backbone, "quantize": self.quantize}
            (Path(folder) / BACKBONE).write_text(json.dumps(under) + "\n", encoding="utf-8")


def new_verdict_model(
    backbone: str, *, quantize: str, lora_rank: int, device: torch.device, seed: int
) -> VerdictModel:
    """A classifier on a decoder's weights, its head drawn from `seed`; ready to be trained.

    Args:
        backbone: a shipped name, a folder or a hub name of a decoder that transformers has a classifier of.
        quantize: "nf4", "int8" or "none" for the backbone; the first two need a `lora_rank`.
        lora_rank: rank of the trained update; 0 trains every weight.
    """
    import torch

    from workbench.sources import find_model
    from workbench.tokens import load_tokenizer

    if lora_rank == 0 and quantize != "none":
        raise WorkbenchError(
            f"quantize is {quantize!r} and lora_rank 0, but quantised weights can't be trained themselves; "
            "give a lora_rank of 1 or more, or quantize 'none'."
        )
    with _loading(device, seed):
        tokenizer = load_tokenizer(find_model(backbone), backbone)
        # In bf16 the steps of full training would be lost beside the weights.
        exact: dict[str, Any] = {} if lora_rank else {"dtype": torch.float32}
        model = _undecided(backbone, quantize, tokenizer, device, **exact)
        if lora_rank == 0:
            model = model.requires_grad_(True)
            return VerdictModel(model, tokenizer, backbone, room_of(model, tokenizer))
        model = _with_adapter(model, lora_rank)
    room = room_of(model, tokenizer)
    return VerdictModel(model, tokenizer, backbone, room, backbone, quantize)


@contextlib.contextmanager
def _loading(device: torch.device, seed: int = 0) -> Iterator[None]:
    """One thread at a time, in silence, with draws from `seed` that leave torch's global generators alone."""
    import torch

    from workbench.loading import LOADING, hush, unreported

    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with LOADING, unreported(), torch.random.fork_rng(devices=devices):
        hush()
        torch.manual_seed(seed)
        yield


def _undecided(
    backbone: str, quantize: str, tokenizer: Any, device: torch.device, **settings: Any
) -> Any:
    """A decoder's weights under a new head with two outputs."""
    from workbench.loading import quantization
    from workbench.merging import keep_weights_unpacked
    from workbench.sources import check_loadable, find_model

    source = find_model(backbone)
    check_loadable(source, backbone)
    settings |= {"num_labels": 2, "pad_token_id": tokenizer.pad_token_id}
    if quantize != "none":
        config = quantization(quantize, source, device, head="score")
        settings |= {"quantization_config": config, "device_map": {"": device}}
    model = load_classifier(source, backbone, device, **settings)
    keep_weights_unpacked(model)
    return model


def _with_adapter(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="SEQ_CLS"
    )
    return get_peft_model(model, config)


def load_verdict_model(name: str, device: str | torch.device = "cpu") -> VerdictModel:
    """A trained constraint reward model, a folder or a hub name, on `device`."""
    import torch

    from workbench.sources import CONSTRAINT_MODEL, find_model
    from workbench.tokens import load_tokenizer

    where = torch.device(device)
    with _loading(where):
        source = find_model(name, CONSTRAINT_MODEL)
        tokenizer = load_tokenizer(source, name)
        if (Path(source) / ADAPTER).is_file():
            return _adapted(source, name, tokenizer, where)
        model = _whole(source, name, where)
    model.config.pad_token_id = tokenizer.pad_token_id
    return VerdictModel(model, tokenizer, name, room_of(model, tokenizer))


def _whole(source: str, name: str, device: torch.device) -> Any:
    from workbench.sources import CONSTRAINT_MODEL, check_loadable

    check_loadable(source, name, CONSTRAINT_MODEL)
    # As it was saved, so that a run that goes on hears the same verdicts; the CPU computes in fp32.
    exact = {"dtype": "auto"} if device.type == "cuda" else {}
    model = load_classifier(source, name, device, **exact)
    if model.config.num_labels != 2:
        raise WorkbenchError(
            f"The model {name!r} has {model.config.num_labels} outputs; a constraint reward model has "
            "two: violated and kept."
        )
    return model


def _adapted(source: str, name: str, tokenizer: Any, device: torch.device) -> VerdictModel:
    """An adapter with its head, on its backbone as it was quantised in training."""
    from peft import PeftModel

    beside = Path(source) / BACKBONE
    if beside.is_file():
        under = json.loads(beside.read_text(encoding="utf-8"))
    else:  # an adapter from elsewhere
        known = json.loads((Path(source) / ADAPTER).read_text(encoding="utf-8"))
        under = {"backbone": known["base_model_name_or_path"], "quantize": "none"}
    base = _undecided(under["backbone"], under["quantize"], tokenizer, device)
    model = PeftModel.from_pretrained(base, source, use_safetensors=True)
    model = model.eval().requires_grad_(False)
    room = room_of(model, tokenizer)
    return VerdictModel(model, tokenizer, name, room, under["backbone"], under["quantize"])
