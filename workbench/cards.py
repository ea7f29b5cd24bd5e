"""What a device holds and how fast it is: asked, measured in a second, or taken from its data sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from workbench.devices import compute_dtype, find_device
from workbench.variants import WorkbenchError, unknown

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A device: GPU or CPU. Speeds are 0 where nothing is known of them."""

    name: str
    kind: str  # cuda, mps or cpu
    memory: int  # bytes
    free: int  # bytes that are free now; all of them for a card that is only named
    bandwidth: float  # bytes a second that a copy reads and writes
    flops: (
        float  # floating-point operations a second of a large product, in the type it computes in
    )
    dtype: torch.dtype  # what it computes in; see `devices`
    source: str  # where the two speeds come from


# Name in torch's -> GiB that nvidia-smi shows, GB/s, dense 16-bit tensor TFLOP/s with sums in fp32, bf16.
# From NVIDIA's data sheets: products' pages of T4, V100, L4, A10, A100, H100 and H200, and the Turing,
# Ampere, Ada and Blackwell architecture papers for the GeForce cards; written down from memory, and not
# looked up again: check one before you quote it.
_SHEETS: dict[str, tuple[float, float, float, bool]] = {
    "T4": (15.0, 320, 65, False),
    "V100": (16.0, 900, 125, False),
    "L4": (22.5, 300, 121, True),
    "A10": (22.5, 600, 125, True),
    "A100-40": (40.0, 1555, 312, True),
    "A100-80": (80.0, 2039, 312, True),
    "H100": (79.6, 3350, 989, True),
    "H200": (140.4, 4800, 989, True),
    "RTX 3060": (12.0, 360, 25, True),
    "RTX 3090": (24.0, 936, 71, True),
    "RTX 4090": (24.0, 1008, 165, True),
    "RTX 5090": (31.8, 1792, 209, True),
}
SHEETS = {
    name: Card(
        name,
        "cuda",
        int(gib * GIB),
        int(gib * GIB),
        gbs * 1e9,
        tflops * 1e12,
        torch.bfloat16 if bf16 else torch.float16,
        "data sheet",
    )
    for name, (gib, gbs, tflops, bf16) in _SHEETS.items()
}


def named_card(memory: float | str) -> Card:
    """A GPU that need not be here: of so many GiB, or a known one such as "T4"."""
    try:
        gib = float(memory)
    except ValueError:
        known = {name.lower(): card for name, card in SHEETS.items()}
        found = known.get(str(memory).strip().lower())
        if found is None:
            message = unknown("memory", memory, SHEETS)
            raise WorkbenchError(f"{message} Or give a number of GiB, such as 16.") from None
        return found
    if not 0 < gib < 10_000:
        raise WorkbenchError(f"memory is {memory!r}; give a number of GiB above 0, such as 16.")
    size = int(gib * GIB)
    return Card(f"a card of {gib:g} GiB", "cuda", size, size, 0.0, 0.0, torch.bfloat16, "unknown")


def card_here(device: str = "auto", *, measure: bool = True) -> Card:
    """The device that a run here would use, its free memory and, with `measure`, its speeds."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise WorkbenchError(
            "The recipe wants a CUDA device and torch sees none here; name the card you mean, as in "
            "--memory 16 or --memory T4."
        )
    where = find_device(device)
    dtype = compute_dtype(where)
    if where.type == "cuda":
        free, total = torch.cuda.mem_get_info(where)
        name = torch.cuda.get_device_name(where)
    else:
        name = "this machine's CPU" if where.type == "cpu" else "this machine's Apple GPU"
        total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    speeds = measured_speeds(where, dtype) if measure else (0.0, 0.0)
    source = "measured here" if measure else "unknown"
    return Card(name, where.type, total, free, *speeds, dtype, source)


def measured_speeds(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes a second that a copy moves, and FLOP/s of a product in `dtype`: the best of a few short tries."""
    gpu = device.type != "cpu"
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 2 * GIB:
        return 0.0, 0.0  # nothing may be taken from a card that is nearly full
    size, side = (2**28, 4096) if gpu else (2**25, 768)
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    copied = _best_seconds(lambda: target.copy_(source), device)
    multiplied = _best_seconds(lambda: matrix @ matrix, device)
    return 2 * size / copied, 2 * side**3 / multiplied


def _best_seconds(action: Callable[[], object], device: torch.device, tries: int = 5) -> float:
    found = []
    for _ in range(tries + 1):  # the first is warming up
        _wait_for(device)
        started = time.perf_counter()
        action()
        _wait_for(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
