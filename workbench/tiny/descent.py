"""The descent that every tiny model shares: its optimisers, its learning rate and its loop.

Muon moves the layers' matrices, AdamW the embedding, the norms and a classifier's head; the learning rate
warms up, stays for a while, and falls to zero. Where Muon is left out AdamW moves everything: torch's Muon
works in bfloat16, and on a CPU without arithmetic for it an update takes longer than the gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MUON_RATE, ADAM_RATE, DECAY = 0.02, 0.004, 0.05
BETAS = (0.9, 0.98)
WARMUP, COOLDOWN = 0.02, 0.8  # shares of the steps
THREADS = 1  # of so small a model one thread makes more tokens a second than two


def descend(
    model: PreTrainedModel,
    losses: Callable[[], Iterator[torch.Tensor]],
    steps: int,
    title: str | None,
    rate: float | None = MUON_RATE,
) -> PreTrainedModel:
    """`steps` updates of `model`, each down the sum of the losses that one call of `losses` yields.

    A loss is differentiated before the next one is made. `title` names the progress bar, None leaves it out;
    `rate` is Muon's, None leaves Muon out.
    """
    optimizers = build_optimizers(model, rate)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
        for optimizer in optimizers
    ]
    bar = tqdm(total=steps, desc=title, unit="step", disable=title is None)
    mean_loss = 0.0
    for index in range(steps):
        total = 0.0
        for loss in losses():
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        mean_loss += (total - mean_loss) / min(index + 1, 100)
        bar.update()
        bar.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
    bar.close()
    return model.eval()


def build_optimizers(
    model: PreTrainedModel, rate: float | None = MUON_RATE
) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding, the norms and a head named `score`.

    Without a `rate` AdamW moves everything, and its weight decay is Muon's.
    """
    if rate is None:
        everything = model.parameters()
        return [torch.optim.AdamW(everything, lr=ADAM_RATE, weight_decay=DECAY, betas=BETAS)]
    apart = ("embed", "score")
    matrices = [
        p for n, p in model.named_parameters() if p.ndim == 2 and not any(a in n for a in apart)
    ]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=DECAY),
        torch.optim.AdamW(others, lr=ADAM_RATE, weight_decay=0.0, betas=BETAS),
    ]


def rate_at(step: int, steps: int) -> float:
    """The factor on the learning rates: a ramp up, a plateau, a straight fall to zero."""
    up = (step + 1) / max(1.0, WARMUP * steps)
    down = (steps - step) / max(1.0, COOLDOWN * steps)
    return min(1.0, up, down)


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """`count` threads inside, whatever the machine: sums are then added in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
