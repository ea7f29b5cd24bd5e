"""load_policy(): a quantised base with a LoRA adapter, and the plain copy that rollouts come from.

    1. The base is loaded frozen: NF4 (double quantisation), int8 or as it is; it computes in fp32 on
       the CPU and in bf16 on CUDA.
    2. LoRA weights are fp32 and drawn from a generator of their own: loading moves nobody's random
       numbers.
    3. The reference is the same model with its adapter off.
    4. `sampler()` is a copy without quantisation or adapter (base + update in one matrix), because
       decoding straight through 4-bit layers is several times slower. It shares everything else with
       the base and is refreshed in place when the adapter has changed.

Only safetensors are read and remote code is never run.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers import logging as transformers_logging

from workbench.merging import copy_fits, keep_weights_unpacked, plain_copy, refresh
from workbench.sources import cannot_read, check_loadable, find_model, no_safetensors
from workbench.variants import WorkbenchError, unknown

QUANTIZATIONS = ("nf4", "int8", "none")
# transformers and peft switch global state while they build a model: one thread at a time.
LOADING = threading.Lock()
THINK_TAGS = ("<think>", "</think>")
# For tokenizers without a chat template: the messages' text, one below the other.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
)


@dataclass
class Policy:
    """A causal language model with a trainable adapter, its tokenizer and its sampler."""

    model: Any  # peft model
    tokenizer: PreTrainedTokenizerBase
    name: str
    device: torch.device
    quantize: str
    _sampler: nn.Module | None = field(default=None, repr=False)
    _sampler_versions: tuple[int, ...] | None = field(default=None, repr=False)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """The adapter's parameters by name."""
        return [(name, p) for name, p in self.model.named_parameters() if "lora_" in name]

    def reference(self) -> contextlib.AbstractContextManager[None]:
        """Inside this context `model` is the base: its adapter is off."""
        return self.model.disable_adapter()

    @contextlib.contextmanager
    def holding(self, adapter: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside this context the model carries another adapter, given by the names of `trainable()`.

        Only the storage is exchanged, so a graph that was built before may be differentiated afterwards.
        """
        own = {name: parameter.data for name, parameter in self.trainable()}
        try:
            for name, parameter in self.trainable():
                parameter.data = adapter[name]
            self.refresh_sampler()
            yield
        finally:
            for name, parameter in self.trainable():
                parameter.data = own[name]
            self.refresh_sampler()

    def sampler(self) -> nn.Module:
        """The module to sample from: base + adapter as plain matrices, up to date with the adapter.

        Where the copy would not fit in the GPU's memory, the trainable model itself (slower).
        """
        versions = tuple(parameter._version for _, parameter in self.trainable())
        if self._sampler is None:
            if not copy_fits(self.model, self.device):
                return self.model
            self._sampler = plain_copy(self.model.get_base_model()).eval()
        if self._sampler_versions != versions:
            refresh(self.model.get_base_model(), self._sampler)
            self._sampler_versions = versions
        return self._sampler

    def refresh_sampler(self) -> None:
        """Have the next `sampler()` merge the adapter anew, whatever changed it."""
        self._sampler_versions = None

    def render(self, messages_list: Sequence[Sequence[dict[str, str]]]) -> list[str]:
        """The prompt text of each conversation, up to where the model's answer begins."""
        return [
            self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
            for messages in messages_list
        ]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Left-padded token ids and their mask (bool), both (P, L), on the model's device."""
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        if not ids or not all(ids):
            raise WorkbenchError("A prompt is empty; give every problem at least one word of text.")
        return self.left_padded(ids)

    def left_padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids of P prompts as `encode` returns them: padded left, and their mask, both (P, L)."""
        ids_PL = torch.full((len(ids), max(map(len, ids))), self.tokenizer.pad_token_id)
        mask_PL = torch.zeros_like(ids_PL, dtype=torch.bool)
        for row, tokens in enumerate(ids):
            ids_PL[row, -len(tokens) :] = torch.as_tensor(tokens)
            mask_PL[row, -len(tokens) :] = True
        return ids_PL.to(self.device), mask_PL.to(self.device)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The text of each completion; of the special tokens only <think> and </think> are kept."""
        hidden = self._hidden_ids()
        kept = [[token for token in row if token not in hidden] for row in tokens]
        return self.tokenizer.batch_decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def stop_ids(self) -> list[int]:
        """Tokens that end a completion: the tokenizer's and the generation config's."""
        configured = self.model.generation_config.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        found = {i for i in (self.tokenizer.eos_token_id, *several) if i is not None}
        return sorted(found)

    def thought_end_id(self) -> int | None:
        """The token that ends the thinking, or None where `</think>` is not one token."""
        found = self.tokenizer.convert_tokens_to_ids("</think>")
        return found if isinstance(found, int) and found != self.tokenizer.unk_token_id else None

    @torch.no_grad()
    def base_adapter(self) -> dict[str, Tensor]:
        """An adapter that adds nothing, for `holding`: the policy's A with B at zero."""
        return {
            name: torch.zeros_like(p)
            if "lora_B" in name or "lora_embedding_B" in name
            else p.clone()
            for name, p in self.trainable()
        }

    def state(self) -> dict[str, Tensor]:
        """The adapter as plain CPU tensors, named as in peft's adapter_model.safetensors."""
        tensors = _adapter_tensors(self.model)
        return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back an adapter taken with `state()`."""
        own = _adapter_tensors(self.model)
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in state.items()}:
            raise WorkbenchError(
                f"The saved adapter does not fit {self.name!r}; "
                "use the lora_rank and lora_targets that it was trained with."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def save(self, folder: str | Path) -> None:
        """Write adapter_model.safetensors and its config, as plain peft loads them."""
        self.model.save_pretrained(str(folder), save_embedding_layers=False)

    def _hidden_ids(self) -> set[int]:
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        kept = {self.tokenizer.convert_tokens_to_ids(tag) for tag in THINK_TAGS}
        return (special | set(self.tokenizer.all_special_ids) - kept | set(self.stop_ids())) - kept


def load_policy(
    name: str | Path = "tiny-strong",
    *,
    quantize: str = "nf4",
    lora_rank: int = 16,
    lora_alpha: float = 32.0,
    lora_targets: str | Sequence[str] = "all-linear",
    lora_dropout: float = 0.0,
    device: str = "auto",
    seed: int = 0,
) -> Policy:
    """Load a model to train: a shipped name, a folder, or a hub name ("owner/name")."""
    if quantize not in QUANTIZATIONS:
        raise WorkbenchError(unknown("quantize", quantize, QUANTIZATIONS))
    if lora_rank < 1 or not lora_alpha > 0 or not 0 <= lora_dropout < 1:
        raise WorkbenchError(
            f"lora_rank is {lora_rank}, lora_alpha {lora_alpha} and lora_dropout {lora_dropout}; give a "
            "rank of 1 or more, an alpha above 0 and a dropout from 0 to below 1."
        )
    with LOADING:
        hush()
        where = find_device(device)
        source = find_model(str(name))
        check_loadable(source, str(name))
        base = load_base(source, str(name), quantize, where)
        tokenizer = load_tokenizer(source, str(name))
        settings = {"r": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        model = add_adapter(base, _targets(lora_targets), seed, **settings).eval()
        for module_name, module in model.named_modules():
            module.training = "lora_dropout" in module_name  # the only dropout that training uses
        return Policy(model, tokenizer, str(name), where, quantize)


def find_device(device: str) -> torch.device:
    """The torch device behind "auto", "cpu", "cuda" or "cuda:1"."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise WorkbenchError(unknown("device", device, ("auto", "cpu", "cuda")))
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise WorkbenchError(
            f"device is {device!r} but torch sees {torch.cuda.device_count()} CUDA devices here; "
            'use device="cpu" or "auto", or install a torch build for your GPU and its driver.'
        )
    return found


def load_base(source: str, name: str, quantize: str, device: torch.device) -> nn.Module:
    """The frozen base model on `device`, quantised as asked."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
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


def load_tokenizer(source: str, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer; a missing chat template or padding token is supplied."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"The model {name!r} comes without a tokenizer that can be read; "
            "put its tokenizer.json and tokenizer_config.json beside the weights."
        ) from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if tokenizer.pad_token_id is None:
        # Padding is always masked, so any token will do.
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    return tokenizer


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
    for name, tensor in sorted(_adapter_tensors(model).items()):
        weight = torch.zeros(tensor.shape)
        if "lora_A" in name:
            weight.uniform_(-1, 1, generator=generator).div_(math.sqrt(tensor.shape[1]))
        state[name] = weight.to(next(base.parameters()).device)
    set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def _adapter_tensors(model: Any) -> dict[str, Tensor]:
    from peft.utils import get_peft_model_state_dict

    return get_peft_model_state_dict(model, save_embedding_layers=False)


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
        bnb_4bit_compute_dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
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


def _targets(lora_targets: str | Sequence[str]) -> str | list[str]:
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
