"""What a model is made of, from its config.json alone: nothing of its weights is read or downloaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from workbench.attention import can_replace
from workbench.loading import LOADING, target_names
from workbench.sources import cannot_read, find_model
from workbench.variants import WorkbenchError


@dataclass(frozen=True)
class Matrix:
    """A linear layer, or an embedding: `inputs` rows are looked up instead of multiplied."""

    name: str
    inputs: int
    outputs: int
    kind: str  # linear, head (the layer that gives logits), embedding
    shares: bool = False  # a tied head: its numbers are the embedding's

    @property
    def size(self) -> int:
        """Numbers in its weight."""
        return self.inputs * self.outputs

    @property
    def place(self) -> str:
        """The module that it is part of: layers of one place often read the same input."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Attention:
    """The attention of one layer."""

    query_heads: int
    key_heads: int
    size: int  # of a head
    window: int | None  # tokens that are seen; None: all


@dataclass(frozen=True)
class ModelShape:
    """A causal language model without its weights."""

    family: str
    parameters: int  # of the whole model, a tied head counted once
    matrices: tuple[Matrix, ...]
    others: int  # numbers in norms, biases and the like
    buffers: int  # bytes of what is neither trained nor saved, such as rotary frequencies
    layers: tuple[Attention, ...]
    hidden: int
    inner: int  # width of the MLP
    vocabulary: int
    norms: tuple[int, ...]  # numbers that go through each norm for one token
    fused: bool  # whether attention runs without keeping its scores
    longest: int  # tokens that the model was made for

    @property
    def linears(self) -> tuple[Matrix, ...]:
        """The layers that are quantised and, with "all-linear", adapted."""
        return tuple(m for m in self.matrices if m.kind == "linear")

    @property
    def multiplied(self) -> int:
        """Numbers that every token is multiplied by: all matrices but looked-up embeddings."""
        return sum(m.size for m in self.matrices if m.kind != "embedding")

    @property
    def largest(self) -> int:
        """Numbers in the largest matrix."""
        return max(m.size for m in self.matrices)

    def adapted(self, lora_targets: str) -> tuple[Matrix, ...]:
        """The layers that get a low-rank update, chosen as peft chooses them."""
        targets = target_names(lora_targets)
        if targets == "all-linear":
            return self.linears
        found = tuple(
            m for m in self.matrices
            if any(m.name == t or m.name.endswith(f".{t}") for t in targets)
        )  # fmt: skip
        if not found:
            raise WorkbenchError(
                f"lora_targets {lora_targets!r} names no layer that can be adapted; "
                'use "all-linear" or names such as "q_proj,v_proj".'
            )
        return found


def find_shape(name: str) -> ModelShape:
    """The shape of a shipped model, a folder's, or a hub name's; of the hub, only config.json is fetched."""
    source = find_model(name)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise WorkbenchError(cannot_read(source, name)) from error
    return shape_of(config)


def shape_of(config: PreTrainedConfig) -> ModelShape:
    """Build the model without memory (on the meta device) and count."""
    with LOADING, torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = tuple(_matrices(model))
    parameters = sum(p.numel() for p in model.parameters())
    counted = sum(m.size for m in matrices if not m.shares)
    text = config.get_text_config()
    return ModelShape(
        family=str(text.model_type),
        parameters=parameters,
        matrices=matrices,
        others=parameters - counted,
        # Not `b.dtype`: what is made on the meta device has the dtype that it has anywhere.
        buffers=sum(b.numel() * b.element_size() for b in model.buffers()),
        layers=tuple(_attentions(text)),
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        norms=tuple(_norms(model, text)),
        fused=can_replace(model),
        longest=int(getattr(text, "max_position_embeddings", 0) or 0),
    )


def _matrices(model: Any) -> Iterator[Matrix]:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            yield Matrix(name, module.num_embeddings, module.embedding_dim, "embedding")
        elif isinstance(module, nn.Linear):
            sizes = (module.in_features, module.out_features)
            tied = module is head and module.weight is embedding.weight
            yield Matrix(name, *sizes, "head" if module is head else "linear", tied)
        elif isinstance(module, Conv1D):
            yield Matrix(name, *module.weight.shape, "head" if module is head else "linear")


def _attentions(config: PreTrainedConfig) -> Iterator[Attention]:
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    count = config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * count
    window = getattr(config, "sliding_window", None)
    for kind in kinds[:count]:
        yield Attention(heads, key_heads, size, window if kind == "sliding_attention" else None)


def _norms(model: nn.Module, config: PreTrainedConfig) -> Iterator[int]:
    """A norm of one head's size is applied to every head; which heads, its name says."""
    one = next(_attentions(config))
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if "Norm" not in type(module).__name__ or weight is None or weight.dim() != 1:
            continue
        width = math.prod(weight.shape)
        if width == one.size and width != config.hidden_size:
            width *= one.key_heads if name.endswith("k_norm") else one.query_heads
        yield width
