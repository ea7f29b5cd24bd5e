"""The head of a model: what turns its last hidden states into logits, and how to get along without these.

A head is a linear layer (plain, or NF4 or int8 from bitsandbytes; with a LoRA adapter or without; tied to the
embeddings or not), then perhaps a factor and a soft cap. Which of them a model has is guessed from its
config and held against the model's own logits once; a model that does otherwise has no known head.

C contexts, V vocabulary, H hidden size, R LoRA rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.merging import dequantised
from workbench.tiles import Linear, States

# transformers' names for a factor on the logits (some models divide by theirs) and for a soft cap on them.
_FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SIZES = (1.0, 8.0, 60.0)  # of the logits a head is tried at: small, usual, and beyond a soft cap
# int8 rounds its inputs, too, which ours does not; half precision rounds every logit.
_TOLERANCE = {"Int8Params": 0.06, torch.bfloat16: 0.02, torch.float16: 0.01, torch.float32: 2e-3}


@dataclass(frozen=True)
class Head:
    """The layer that a model calls last, and what the model does with its output."""

    layer: nn.Module
    scale: float = 1.0
    cap: float | None = None

    def states(self, hidden_CH: Tensor) -> States:
        """What the logits after these hidden states are made of, with the adapter as it is now.

        The adapter's dropout is drawn here, once.
        """
        base = _base(self.layer)
        source = Linear(rows_of(base), base.out_features, base.bias, self.scale, self.cap)
        adapter = _adapter(self.layer)
        if adapter is None:
            return States(source, (hidden_CH,))
        down, up = self.layer.lora_A[adapter], self.layer.lora_B[adapter]
        dropped_CH = self.layer.lora_dropout[adapter](hidden_CH.to(down.weight.dtype))
        low_CR = down(dropped_CH) * self.layer.scaling[adapter]
        states = States(source, (hidden_CH, low_CR, up.weight))
        # Without gradient they outlive the adapter that `Policy.holding` puts in for a while.
        return states if torch.is_grad_enabled() else states.detach()


def outputs(model: nn.Module, head: Head | None, *arguments: Any, **named: Any) -> Tensor:
    """Run the model for its logits (..., V) or, with its head, for what the head reads, (..., H)."""
    if head is None:
        return model(*arguments, **named).logits
    caught: list[Tensor] = []

    def catch(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        caught.append(given[0])
        return given[0][..., :0, :]  # the head still runs, over no rows

    hook = head.layer.register_forward_pre_hook(catch)
    try:
        model(*arguments, **named)
    finally:
        hook.remove()
    return caught[0]


@torch.no_grad()
def find_head(model: Any) -> Head | None:
    """The head of a causal language model in eval mode; None where it is not of a known kind.

    The model is run once over four tokens, with hidden states of our own in front of its head.
    """
    base_model = model.get_base_model() if hasattr(model, "get_base_model") else model
    layer = base_model.get_output_embeddings()
    if layer is None or not _known(layer):
        return None
    plain = Head(layer)
    probe_CH = _probe(plain, base_model)
    hook = layer.register_forward_pre_hook(lambda *_: probe_CH[None])
    try:
        ids = torch.zeros(1, len(probe_CH), dtype=torch.long, device=probe_CH.device)
        wanted_CV = model(ids, use_cache=False).logits[0].float()
    finally:
        hook.remove()
    guesses = [Head(layer, *guess) for guess in _guesses(base_model.config.get_text_config())]
    errors = [_error(guess.states(probe_CH).logits(), wanted_CV) for guess in guesses]
    least = min(errors)
    return guesses[errors.index(least)] if least < _tolerance(layer, probe_CH.dtype) else None


def rows_of(layer: nn.Module) -> Callable[[slice], Tensor]:
    """The rows of a layer's weight that belong to some words, as floating-point numbers.

    int8 has a scale for each row and NF4 one for each block of 64 numbers, so that a tile's rows are
    dequantised alone. Only where a row of NF4 ends within a block is the whole matrix made, once.
    """
    weight, kind = layer.weight, type(layer.weight).__name__
    if kind == "Int8Params":
        scales = weight.SCB if weight.SCB is not None else layer.state.SCB
        return lambda words: weight.data[words].float() * (scales[words, None] / 127)
    if kind == "Params4bit":
        aligned = weight.quant_state.shape[1] % weight.quant_state.blocksize == 0
        return _rows_of_4bit(weight) if aligned else dequantised(layer).__getitem__
    return weight.detach().__getitem__


def _rows_of_4bit(weight: Any) -> Callable[[slice], Tensor]:
    from bitsandbytes import functional

    state = weight.quant_state
    width, scales = state.shape[1], state.absmax
    if state.nested:  # the blocks' scales are themselves quantised, in blocks of their own
        scales = (functional.dequantize_blockwise(scales, state.state2) + state.offset).float()
    packed = weight.data.view(-1, 1)

    def rows(words: slice) -> Tensor:
        blocks = slice(*(row * width // state.blocksize for row in (words.start, words.stop)))
        part = functional.QuantState(
            scales[blocks],
            shape=torch.Size((words.stop - words.start, width)),
            code=state.code,
            blocksize=state.blocksize,
            quant_type=state.quant_type,
            dtype=state.dtype,
        )
        data = packed[words.start * width // 2 : words.stop * width // 2]
        return functional.dequantize_4bit(data, part)

    return rows


def _known(layer: nn.Module) -> bool:
    """Whether it is a frozen linear layer with at most one plain LoRA adapter."""
    base = _base(layer)
    kind = type(getattr(base, "weight", None)).__name__
    if not isinstance(base, nn.Linear) or kind not in ("Parameter", "Params4bit", "Int8Params"):
        return False
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return False
    if getattr(getattr(base.weight, "quant_state", None), "packing_format_for_cpu", False):
        return False
    if layer is base:
        return type(base) is nn.Linear or kind != "Parameter"
    return _plain_lora(layer)


def _plain_lora(layer: Any) -> bool:
    """One adapter that adds B A x: no variant of LoRA, no bias, not merged into the weight."""
    if not hasattr(layer, "lora_A") or layer.merged or len(layer.active_adapters) != 1:
        return False
    adapter = layer.active_adapters[0]
    return (
        adapter in layer.lora_A
        and adapter not in getattr(layer, "lora_variant", {})
        and layer.lora_B[adapter].bias is None
    )


def _base(layer: Any) -> Any:
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def _adapter(layer: Any) -> str | None:
    """The LoRA adapter that is on."""
    if not hasattr(layer, "lora_A") or layer.disable_adapters:
        return None
    return layer.active_adapters[0]


def _probe(head: Head, model: Any) -> Tensor:
    """Random hidden states (C, H) whose logits, without factor and cap, are of the sizes asked for."""
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    generator = torch.Generator().manual_seed(0)
    probe_CH = torch.randn(len(_SIZES), _base(head.layer).in_features, generator=generator)
    probe_CH = probe_CH.to(like.device)
    spread_C = head.states(probe_CH.to(like.dtype)).logits().std(-1)
    sizes_C = torch.tensor(_SIZES, device=like.device)
    return (probe_CH * (sizes_C / spread_C)[:, None]).to(like.dtype)


def _guesses(config: Any) -> Iterator[tuple[float, float | None]]:
    """Factors on the logits and caps on them that the config may mean."""
    numbers = {
        name: float(value)
        for name in (*_FACTORS, *_CAPS)
        if isinstance(value := getattr(config, name, None), (int, float)) and value
    }
    factors = [numbers[name] for name in _FACTORS if name in numbers]
    factors = [1.0, *factors, *(1 / factor for factor in factors)]
    yield from itertools.product(factors, [*(numbers[n] for n in _CAPS if n in numbers), None])


def _error(mine_CV: Tensor, wanted_CV: Tensor) -> float:
    """The largest difference beside the largest logit of its context; inf where the shapes differ."""
    if mine_CV.shape != wanted_CV.shape:
        return math.inf
    off_C, size_C = (mine_CV - wanted_CV).abs().amax(-1), wanted_CV.abs().amax(-1)
    worst = float((off_C / size_C).max())
    return worst if math.isfinite(worst) else math.inf


def _tolerance(layer: nn.Module, dtype: torch.dtype) -> float:
    base = _base(layer)
    kinds = type(base.weight).__name__, getattr(base, "compute_dtype", None), dtype
    return max(_TOLERANCE.get(kind, 0.0) for kind in kinds)
