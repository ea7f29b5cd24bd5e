"""load_policy(): a quantised base with a LoRA adapter, and the plain copy that rollouts come from.

    1. The base is loaded frozen: NF4 (double quantisation), int8 or as it is; what it computes in goes by
       the device (`devices`).
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
)

from workbench.devices import find_device
from workbench.engines import check_engine
from workbench.fields import texts_of
from workbench.head import Head, find_head
from workbench.loading import (
    LOADING,
    QUANTIZATIONS,
    adapter_tensors,
    add_adapter,
    hush,
    load_base,
    target_names,
)
from workbench.merging import copy_fits, plain_copy, refresh
from workbench.sources import check_loadable, find_model
from workbench.tokens import (
    THINK_TAGS,
    Tags,
    check_thinking,
    find_tags,
    in_common_tags,
    load_tokenizer,
    opens_thought,
    render,
    turn_end,
)
from workbench.variants import WorkbenchError, unknown

MERGED = ("auto", "always", "never")


@dataclass
class Policy:
    """A causal language model with a trainable adapter, its tokenizer and its sampler."""

    model: Any  # peft model
    tokenizer: PreTrainedTokenizerBase
    name: str
    device: torch.device
    quantize: str
    merged: str = "auto"  # whether sampler() is a merged copy: "auto", "always" or "never"
    head: Head | None = None  # what makes its logits, where that is known
    engine: str = "auto"  # what decodes: see `engines`
    served: Any = field(default=None, repr=False)  # vLLM's model, where that is the engine
    served_number: int = 0
    thinking: str = "auto"  # "on" or "off" where the chat template has a switch
    tags: Tags = THINK_TAGS  # the model's own; texts have THINK_TAGS in their place
    turn_end: int | None = None  # the token by which the chat template ends an answer
    stop: tuple[str, ...] = ()  # texts that end a completion
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

        The trainable model itself (slower) where that is not merged.
        """
        if not self.merges():
            return self.model
        versions = tuple(parameter._version for _, parameter in self.trainable())
        if self._sampler is None:
            self._sampler = plain_copy(self.model.get_base_model()).eval()
        if self._sampler_versions != versions:
            refresh(self.model.get_base_model(), self._sampler)
            self._sampler_versions = versions
        return self._sampler

    def merges(self) -> bool:
        """Whether `sampler()` is a merged copy; with `merged` "auto" where it fits in the GPU's memory."""
        if self.merged != "auto" or self._sampler is not None:
            return self.merged != "never"
        return copy_fits(self.model, self.device)

    def refresh_sampler(self) -> None:
        """Have the next `sampler()` merge the adapter anew, whatever changed it."""
        self._sampler_versions = None

    def render(self, messages_list: Sequence[Sequence[dict[str, str]]]) -> list[str]:
        """The prompt text of each conversation, up to where the model's answer begins."""
        return [
            render(self.tokenizer, messages, self.name, self.thinking) for messages in messages_list
        ]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Left-padded token ids and their mask (bool), both (P, L), on the model's device."""
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        if not ids or not all(ids):
            raise WorkbenchError("A prompt is empty; give every problem at least one word of text.")
        return self.left_padded(ids)

    def left_padded(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids of P prompts as `encode` returns them: padded left, and their mask, both (P, L)."""
        self._check_ids(ids)
        ids_PL = torch.full((len(ids), max(map(len, ids))), self.tokenizer.pad_token_id)
        mask_PL = torch.zeros_like(ids_PL, dtype=torch.bool)
        for row, tokens in enumerate(ids):
            ids_PL[row, -len(tokens) :] = torch.as_tensor(tokens)
            mask_PL[row, -len(tokens) :] = True
        return ids_PL.to(self.device), mask_PL.to(self.device)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """The text of each completion; of the special tokens only those of the tags are kept.

        The model's own tags are written <think> and </think>. Rows of a padded vocabulary have no text.
        """
        hidden = self._hidden_ids()
        kept = [[token for token in row if token not in hidden] for row in tokens]
        texts = self.tokenizer.batch_decode(
            kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return [in_common_tags(text, self.tags) for text in texts]

    def opened(self, prompt: str) -> str:
        """What of a completion's text stands in its prompt already: <think>, or nothing."""
        return THINK_TAGS.open if opens_thought(prompt, self.tags) else ""

    def stop_ids(self) -> list[int]:
        """Tokens that end a completion: the tokenizer's, the generation config's and the template's."""
        configured = self.model.generation_config.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        found = {i for i in (self.tokenizer.eos_token_id, self.turn_end, *several) if i is not None}
        return sorted(found)

    def thought_end_id(self) -> int | None:
        """The token that ends the thinking, or None where the closing tag is not one token."""
        found = self.tokenizer.convert_tokens_to_ids(self.tags.close)
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
        tensors = adapter_tensors(self.model)
        return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back an adapter taken with `state()`."""
        own = adapter_tensors(self.model)
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

    def embedded(self) -> int:
        """Rows of the embedding: token ids from there on can't be read."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def _check_ids(self, ids: Sequence[Sequence[int]]) -> None:
        rows, highest = self.embedded(), max(map(max, ids))
        if highest >= rows:
            raise WorkbenchError(
                f"A prompt holds the token {self.tokenizer.convert_ids_to_tokens(highest)!r} (id {highest}), "
                f"but the embedding of {self.name!r} has {rows} rows; give the model its own tokenizer, or "
                "widen it with resize_token_embeddings and save both."
            )

    def _hidden_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder
        special = {i for i, t in added.items() if t.special}
        unknown_id = (
            self.tokenizer.unk_token_id
        )  # what a tag it lacks becomes; it may also end a text
        whole = {self.tokenizer.convert_tokens_to_ids(tag) for tag in self.tags} - {unknown_id}
        within = {i for i, t in added.items() if any(t.content in tag for tag in self.tags)}
        kept = whole | within
        return (special | set(self.tokenizer.all_special_ids) | set(self.stop_ids())) - kept


def load_policy(
    name: str | Path = "tiny-strong",
    *,
    quantize: str = "nf4",
    lora_rank: int = 16,
    lora_alpha: float = 32.0,
    lora_targets: str | Sequence[str] = "all-linear",
    lora_dropout: float = 0.0,
    device: str = "auto",
    merged: str = "auto",
    engine: str = "auto",
    thinking: str = "auto",
    think_tags: str = "auto",
    stop: str = "",
    seed: int = 0,
) -> Policy:
    """Load a model to train: a shipped name, a folder, or a hub name ("owner/name").

    `merged` says whether rollouts come from a merged copy of the weights: "auto" (where it fits), "always"
    or "never" (slower, and no memory beside the model's own). `engine` is what decodes: "auto", "native",
    "paged" or "vllm". `thinking` ("on", "off") is told to a chat template that has a switch for it;
    `think_tags` are those of the model's thoughts (`tokens.find_tags`). `stop` is a text that ends a
    completion, or a JSON list of such texts.
    """
    if quantize not in QUANTIZATIONS:
        raise WorkbenchError(unknown("quantize", quantize, QUANTIZATIONS))
    if merged not in MERGED:
        raise WorkbenchError(unknown("merged", merged, MERGED))
    check_engine(engine, quantize)
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
        check_thinking(tokenizer, str(name), thinking)
        tags = find_tags(tokenizer, think_tags)
        settings = {"r": lora_rank, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        model = add_adapter(base, target_names(lora_targets), seed, **settings).eval()
        head = find_head(model)
        if head is None:
            logging.getLogger(__name__).warning(
                "The head of %r is of no known kind: log-probs are read from full logits, 4 bytes or more "
                "for every context and word. Lower microbatch if memory runs out.",
                str(name),
            )
        for module_name, module in model.named_modules():
            module.training = "lora_dropout" in module_name  # the only dropout that training uses
        policy = Policy(
            model, tokenizer, str(name), where, quantize, merged, head, engine,
            thinking=thinking, tags=tags, turn_end=turn_end(tokenizer), stop=texts_of("stop", stop),
        )  # fmt: skip
        if tokenizer.pad_token_id >= policy.embedded():  # looked up, though masked
            tokenizer.pad_token_id = policy.stop_ids()[0] if policy.stop_ids() else 0
        return policy
