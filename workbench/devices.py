"""Devices: which one a name means, in which type it computes, and what is refused on it.

- CPU: fp32.
- NVIDIA cards with bf16 (compute capability 8.0 and up): bf16.
- NVIDIA cards without (T4 and older): fp16, with adapters in fp32 and loss scaling. fp16 ends at 65 504:
  models that were trained in bf16 with larger activations (Gemma) overflow in it.
- Apple's MPS: fp32, without quantisation; only where it is asked for by name.
- Everything else is refused, AMD cards too, although torch calls them cuda: nothing here was tried on one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from workbench.variants import WorkbenchError, unknown

BF16_FROM = (8, 0)  # compute capability; older cards only imitate it, slowly
INT8_FROM = (7, 5)  # of bitsandbytes' 8-bit layers
ALLOCATOR, OLD_ALLOCATOR = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"  # torch reads both
SEGMENTS = "expandable_segments:True"


@dataclass(frozen=True)
class Facts:
    """What is known of a device: torch's name of its kind, its capability (CUDA), whether it is AMD's."""

    kind: str
    capability: tuple[int, int] | None = None
    amd: bool = False


def facts_of(device: torch.device) -> Facts:
    """What torch says of `device`."""
    if device.type != "cuda":
        return Facts(device.type)
    amd = torch.version.hip is not None
    return Facts("cuda", torch.cuda.get_device_capability(device), amd)


def dtype_of(facts: Facts) -> torch.dtype:
    """The type that base weights and activations have there; raises WorkbenchError where it is refused."""
    if facts.kind in ("cpu", "mps"):
        return torch.float32
    if facts.kind != "cuda" or facts.amd:
        name = "AMD cards (ROCm)" if facts.amd else f"Devices of the kind {facts.kind!r}"
        raise WorkbenchError(
            f"{name} are not supported; set device='cpu', or use an NVIDIA card or Apple's 'mps'."
        )
    return torch.bfloat16 if (facts.capability or (0, 0)) >= BF16_FROM else torch.float16


def compute_dtype(device: torch.device) -> torch.dtype:
    """`dtype_of` what torch says of `device`."""
    return dtype_of(facts_of(device))


def exact_device(device: torch.device) -> torch.device:
    """Where fp64 numbers of `device` are worked on: on the CPU for Apple's GPUs, which have none."""
    return torch.device("cpu") if device.type == "mps" else device


def free_memory(device: torch.device) -> int:
    """Bytes that may still be allocated on `device`, what torch holds in reserve on a GPU included."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserve)
    return int(psutil.virtual_memory().available)


def check_quantize(facts: Facts, quantize: str) -> None:
    """Refuse a quantisation that the device has no kernels for."""
    if facts.kind == "mps" and quantize != "none":
        raise WorkbenchError(
            f"quantize is {quantize!r}, but on Apple's MPS weights stay as they are; set quantize='none', "
            "or device='cpu'."
        )
    if quantize == "int8" and facts.capability is not None and facts.capability < INT8_FROM:
        raise WorkbenchError("quantize='int8' needs a newer card than this; set quantize='nf4'.")


def find_device(device: str) -> torch.device:
    """The torch device behind "auto", "cpu", "cuda", "cuda:1" or "mps".

    "auto" is the first NVIDIA card, else the CPU.
    """
    if device == "auto":
        nvidia = torch.cuda.is_available() and torch.version.hip is None
        return torch.device("cuda" if nvidia else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", device):
        raise WorkbenchError(unknown("device", device, ("auto", "cpu", "cuda", "mps")))
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise WorkbenchError(
            f"device is {device!r} but torch sees {torch.cuda.device_count()} CUDA devices here; "
            'use device="cpu" or "auto", or install a torch build for your GPU and its driver.'
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise WorkbenchError(
            'device is \'mps\' but torch sees no Apple GPU here; use device="cpu" or "auto".'
        )
    return found


def loss_scaler(dtype: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """The loss scale that computing in `dtype` needs: dynamic in fp16, none (scale 1) in other types.

    Gradients of activations below 6e-8 vanish in fp16, so the loss is multiplied by a power of two, and the
    adapter's gradient divided by it (Micikevicius et al. 2018, arXiv 1710.03740). A step whose gradient
    overflows is left out and halves the scale; 100 steps without one double it.
    """
    enabled = dtype == torch.float16
    return torch.amp.GradScaler(device.type, enabled=enabled, growth_interval=100)


def segments_advice(kind: str, environment: Mapping[str, str]) -> str:
    """What to set so that a GPU's memory does not go to pieces; empty where it is set or means nothing.

    `kind` is torch's name of the device's kind, `environment` the variables that Python was started with.
    """
    settings = environment.get(ALLOCATOR, "") + environment.get(OLD_ALLOCATOR, "")
    if kind != "cuda" or "expandable_segments" in settings:
        return ""
    return f"set {ALLOCATOR}={SEGMENTS} before Python starts, so that parts of unlike length leave no gaps"
