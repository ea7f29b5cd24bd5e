"""The plain twin of a quantised, adapted model: what rollouts are drawn from.

Every layer that is quantised or carries an adapter becomes one floating-point matrix, base + update; all
other tensors are shared with the original, so the twin costs one copy of those matrices and no more.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from workbench.devices import compute_dtype


def plain_copy(module: nn.Module) -> nn.Module:
    """A twin of `module` without quantisation and adapters, sharing every tensor that it can.

    The matrices that differ are allocated here and filled by `refresh`.
    """
    if _is_own_matrix(module):
        base = module.get_base_layer() if _is_adapted(module) else module
        if isinstance(base, nn.Embedding):
            twin: nn.Module = _shallow(base)
        else:
            twin = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
            twin.bias = base.bias
        weight = dequantised(base)
        twin.weight = nn.Parameter(torch.empty_like(weight, dtype=_dtype(base)), False)
        return twin
    twin = _shallow(module)
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else plain_copy(child)
    return twin


@torch.no_grad()
def refresh(module: nn.Module, twin: nn.Module) -> None:
    """Write base + adapter of `module` into the matrices of its `plain_copy` twin, in place."""
    if _is_own_matrix(module):
        adapted = _is_adapted(module)
        weight = dequantised(module.get_base_layer() if adapted else module)
        if adapted:
            # Summed in fp32: a bf16 sum would lose updates that are small beside the weight.
            weight = weight.float() + module.get_delta_weight(module.active_adapters[0]).float()
        twin.weight.copy_(weight)
        return
    for name, child in module._modules.items():
        if child is not None:
            refresh(child, twin._modules[name])


def dequantised(layer: nn.Module) -> Tensor:
    """The weight of a 4-bit, 8-bit or plain layer as a floating-point matrix."""
    kind = type(layer.weight).__name__
    if kind == "Params4bit":
        return _bitsandbytes().dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    if kind == "Int8Params":
        # The scales move from the weight to the layer's state in its first forward pass.
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return _bitsandbytes().int8_vectorwise_dequant(layer.weight.data, scales)
    return layer.weight


def _bitsandbytes() -> Any:
    import bitsandbytes.functional

    return bitsandbytes.functional


def _is_own_matrix(module: nn.Module) -> bool:
    quantised = type(getattr(module, "weight", None)).__name__ in ("Params4bit", "Int8Params")
    return _is_adapted(module) or quantised


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "get_base_layer")  # a peft layer


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    twin._parameters = dict(module._parameters)
    return twin


def _dtype(layer: nn.Module) -> torch.dtype:
    """What `layer` computes in: bnb's compute type, or the type of its weight."""
    compute = getattr(layer, "compute_dtype", None)
    if compute is not None:
        return compute
    if layer.weight.is_floating_point():
        return layer.weight.dtype
    return compute_dtype(layer.weight.device)


def copy_fits(model: nn.Module, device: torch.device) -> bool:
    """Whether the plain copy of all adapted and quantised layers leaves half of the free memory."""
    if device.type != "cuda":
        return True
    layers = [m for m in model.modules() if hasattr(m, "in_features") and hasattr(m, "weight")]
    needed = sum(2 * layer.in_features * layer.out_features for layer in layers)
    return needed < torch.cuda.mem_get_info(device)[0] / 2


def keep_weights_unpacked(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights for its bf16 CPU kernel in eval mode.

    On CPUs with AVX512-BF16 the first evaluation would do so for good: later fp32 results carry bf16
    errors, and the kernel has no backward, so that gradients below the layer silently vanish
    (bitsandbytes 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
