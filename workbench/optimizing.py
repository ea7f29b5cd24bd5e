"""The optimiser: made by its name, and its state as plain tensors by the adapter's names and back.

adamw keeps two fp32 moments of each weight. adamw8bit is bitsandbytes' (Dettmers et al. 2022, arXiv
2110.02861): moments as 8-bit codes in blocks of 256, each with its own scale; on a GPU in pages that move to
the machine's memory when the GPU's runs short. Tensors of fewer than 4 096 weights stay in fp32 there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.variants import WorkbenchError

# What 8-bit codes stand for: the same for every tensor, and made anew with the optimiser.
_CODEBOOKS = ("qmap1", "qmap2")
Named = Sequence[tuple[str, nn.Parameter]]


def make_optimizer(
    name: str, named: Named, *, rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A fresh optimiser of the parameters: "adamw" or "adamw8bit"."""
    parameters = [parameter for _, parameter in named]
    settings = {"lr": rate, "weight_decay": weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    kind = parameters[0].device.type
    if kind not in ("cpu", "cuda"):
        raise WorkbenchError(
            f"optimizer is 'adamw8bit', which has no kernels for {kind!r}; set it to 'adamw'."
        )
    import bitsandbytes.optim

    # There are no pages on the CPU.
    row = bitsandbytes.optim.PagedAdamW8bit if kind == "cuda" else bitsandbytes.optim.AdamW8bit
    made: torch.optim.Optimizer = row(parameters, **settings)
    return made


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """Moments, their scales and step counts as `<parameter>.<entry>`, on the CPU."""
    return {
        f"{name}.{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in named
        for key, value in optimizer.state.get(parameter, {}).items()
        if key not in _CODEBOOKS
    }


@torch.no_grad()
def load_optimizer(
    optimizer: torch.optim.Optimizer, named: Named, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned; a parameter it says nothing of has not been stepped."""
    plain = isinstance(optimizer, torch.optim.AdamW)
    for place, (name, parameter) in enumerate(named):
        start = f"{name}."
        slots = {
            key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)
        }
        if not slots:
            continue
        if plain != ("exp_avg" in slots):
            raise WorkbenchError(
                "The checkpoint holds the state of another optimiser; keep the recipe's optimizer as it "
                "was, or begin a new run."
            )
        if plain:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device)
                for key, value in slots.items()
            }
        else:
            _fill(optimizer, parameter, place, slots)


def _fill(optimizer: Any, parameter: nn.Parameter, place: int, slots: dict[str, Tensor]) -> None:
    """Into buffers of bitsandbytes' own making, which may be pages."""
    optimizer.init_state(optimizer.param_groups[0], parameter, 0, place)
    state = optimizer.state[parameter]
    for key, value in slots.items():
        if key == "step":
            state[key] = int(value)
        else:
            state[key].copy_(value)
