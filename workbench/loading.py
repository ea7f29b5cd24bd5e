"""From weights on disk to a frozen, quantised base on its device, and a fresh adapter on that."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers import logging as transformers_logging

from workbench.devices import check_quantize, compute_dtype, facts_of
from workbench.merging import keep_weights_unpacked
from workbench.sources import cannot_read, no_safetensors
from workbench.variants import WorkbenchError

QUANTIZATIONS = ("nf4", "int8", "none")
# transformers and peft switch global state while they build a model: one thread at a time.
LOADING = threading.Lock()


def load_base(source: str, name: str, quantize: str, device: torch.device) -> nn.Module:
    """The frozen base model on `device`, quantised as asked."""
    check_quantize(facts_of(device), quantize)
    dtype = compute_dtype(device)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                device_map={"": device},
                quantization_config=quantization(quantize, source, device),
                use_safetensors=True,
                trust_remote_code=False,
            )
    except OSError as error:
        wanted = "safetensors" in str(error) and "connect" not in str(error)
        raise WorkbenchError(
            no_safetensors(name) if wanted else cannot_read(source, name)
        ) from error
    except SafetensorError as error:
        raise WorkbenchError(
            f"The weights of {name!r} are damaged ({error}); copy or download them again."
        ) from error
    except torch.OutOfMemoryError as error:
        raise WorkbenchError(
            f"The GPU's memory is too small for {name!r} with quantize={quantize!r}; "
            'use quantize="nf4" or a smaller model.'
        ) from error
    keep_weights_unpacked(model)
    model.config.use_cache = True
    return model.requires_grad_(False)


def quantization(
    quantize: str, source: str, device: torch.device, head: str = "lm_head"
) -> BitsAndBytesConfig | None:
    """How the weights of `source` are quantised on `device`; its `head` stays as it is."""
    if quantize == "none":
        return None
    plain = _unaligned(source, device) if quantize == "nf4" else []
    skipped = (
        [*plain, head] if plain or head != "lm_head" else None
    )  # None: what transformers skips
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(device),
        llm_int8_skip_modules=skipped,
    )


def _unaligned(source: str, device: torch.device) -> list[str]:
    """Linear layers that stay as they are under NF4: on the CPU, those whose inputs are no multiple of 64.

    bitsandbytes' AVX-512 kernel reads the wrong scale where a row ends within a block of 64, and returns
    weights that are wrong by a third without a word (0.50.2).
    """
    if device.type != "cpu":
        return []
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source))
    layers = [(name, m) for name, m in shape.named_modules() if isinstance(m, nn.Linear)]
    return [name for name, layer in layers if layer.in_features % 64]


def add_adapter(base: nn.Module, targets: str | list[str], seed: int, **settings: Any) -> Any:
    """`base` with a LoRA adapter: A uniform as peft draws it, but from `seed` alone; B zero."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict  # after hush()

    config = LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **settings)
    try:
        # Empty (meta) weights first: torch's global generator stays where the user left it.
        model = get_peft_model(base, config, low_cpu_mem_usage=True)
    except ValueError as error:
        raise WorkbenchError(
            f"lora_targets {targets!r} names no layer that can be adapted; "
            'use "all-linear" or names such as "q_proj,v_proj".'
        ) from error
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in sorted(adapter_tensors(model).items()):
        weight = torch.zeros(tensor.shape)
        if "lora_A" in name:
            weight.uniform_(-1, 1, generator=generator).div_(math.sqrt(tensor.shape[1]))
        state[name] = weight.to(next(base.parameters()).device)
    set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name and parameter.dtype != torch.float32:
            # peft gives them the base's type; in fp16 or bf16 most updates are too small to change them.
            parameter.data = parameter.data.float()
    return model


def adapter_tensors(model: Any) -> dict[str, Tensor]:
    from peft.utils import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)


def target_names(lora_targets: str | Sequence[str]) -> str | list[str]:
    if lora_targets == "all-linear":
        return lora_targets
    names = lora_targets.split(",") if isinstance(lora_targets, str) else lora_targets
    return [name.strip() for name in names if name.strip()]


def hush() -> None:
    """Silence four messages from below that a user can do nothing about."""
    # bitsandbytes: an optional kernel that is not used here, and int8's rounding at every call.
    for part in ("backends.cpu.ops", "autograd._functions"):
        logging.getLogger(f"bitsandbytes.{part}").setLevel(logging.ERROR)
    # peft calls a name that transformers is about to rename.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    # transformers 5.24 renames an argument that 5.17 knows by no other name.
    warnings.filterwarnings(
        "ignore", message="`past_key_values` is deprecated", category=FutureWarning
    )


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """No report of a head that a checkpoint lacks, where it is meant to be drawn anew."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No bar for reading weights from the disk or writing them; the hub's download bars still show."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
