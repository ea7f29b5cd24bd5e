"""Training of a constraint reward model on pseudo-labels.

binary         cross-entropy of "kept" for the one answer and "not kept" for the other, each beside its
               constraint
bradley_terry  -log sigmoid(s_kept - s_missed) + 0.01 (s_kept + s_missed)^2 on the same pairs, with s the
               difference of the two logits; the second term holds what the first leaves free, so that
               sigmoid(s) is a verdict

Source: arXiv 2508.02150: binary cross-entropy over the pairs, three epochs, AdamW (literal); there 5e-6
with all weights of a 1.5B or 7B model; rates for tiny models and for LoRA are ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, softplus

from workbench.labelling.pairs import Pair
from workbench.rewards.classifying import Tokens, forward
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.rewards.verdicts import VerdictModel

EPOCHS = 3
BATCH = 32  # pairs
PART_TOKENS = 16_384  # of one forward and backward pass
TINY, TINY_RATE, FULL_RATE, LORA_RATE = 20_000_000, 1e-3, 5e-6, 1e-4
CENTRING = 0.01
Told = Callable[[int, int], None]  # (updates done, of how many)


def fit_pairs(
    judge: VerdictModel,
    pairs: Sequence[Pair],
    *,
    loss: str = "binary",
    epochs: int = EPOCHS,
    batch: int = BATCH,
    learning_rate: float | None = None,
    seed: int = 0,
    told: Told = lambda done, total: None,
) -> VerdictModel:
    """Train `judge` in place on the pairs and leave it ready for use; a function of pairs and seed."""
    if not pairs:
        raise WorkbenchError(
            "There is not one pair to train the constraint reward model on: the task's chains have no soft "
            "constraint, or no answer of the policy was whole; use scorer 'rules', or raise max_new_tokens."
        )
    if loss not in LOSSES:
        raise WorkbenchError(f"loss is {loss!r}; give one of {', '.join(LOSSES)}.")
    model = judge.model
    weights = [p for p in model.parameters() if p.requires_grad]
    rate = learning_rate or _rate(model, len(weights))
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    encoded = [
        (judge.encode(p.constraint, p.kept), judge.encode(p.constraint, p.missed)) for p in pairs
    ]
    total = epochs * math.ceil(len(pairs) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, total))
    rng, done = random.Random(f"fit/{seed}"), 0
    for _ in range(epochs):
        order = rng.sample(range(len(pairs)), len(pairs))
        for start in range(0, len(order), batch):
            chosen = [encoded[i] for i in order[start : start + batch]]
            loss_now = 0.0
            for part in _parts(chosen):
                value = LOSSES[loss](*_outputs(model, part)) * (len(part) / len(chosen))
                value.backward()
                loss_now += float(value.detach())
            norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
            if not math.isfinite(loss_now + float(norm)):
                raise WorkbenchError(
                    f"The constraint reward model's loss is {loss_now} after {done} updates; lower its "
                    "learning rate, or choose another backbone."
                )
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            told(done, total)
    model.eval().requires_grad_(False)
    return judge


def binary_loss(kept_N2: Tensor, missed_N2: Tensor) -> Tensor:
    """Cross-entropy of output 1 for kept and output 0 for missed answers, mean over both."""
    ones_N = torch.ones(len(kept_N2), dtype=torch.long, device=kept_N2.device)
    return (cross_entropy(kept_N2, ones_N) + cross_entropy(missed_N2, ones_N * 0)) / 2


def bradley_terry_loss(kept_N2: Tensor, missed_N2: Tensor) -> Tensor:
    """How badly the differences of the logits rank the two answers, with a small pull of their mean to 0."""
    kept_N, missed_N = kept_N2[:, 1] - kept_N2[:, 0], missed_N2[:, 1] - missed_N2[:, 0]
    return (softplus(missed_N - kept_N) + CENTRING * (kept_N + missed_N) ** 2).mean()


LOSSES = {"binary": binary_loss, "bradley_terry": bradley_terry_loss}


def _parts(chosen: list[tuple[Tokens, Tokens]]) -> list[list[tuple[Tokens, Tokens]]]:
    """The pairs in parts of at most PART_TOKENS, padding included, whose gradients are added up."""
    longest = max(len(row) for pair in chosen for row in pair)
    size = max(1, PART_TOKENS // (2 * longest))
    return [chosen[start : start + size] for start in range(0, len(chosen), size)]


def _outputs(
    model: torch.nn.Module, chosen: Sequence[tuple[Tokens, Tokens]]
) -> tuple[Tensor, Tensor]:
    """The outputs for the kept and for the missed answers, (N, 2) each, fp32."""
    rows = [kept for kept, _ in chosen] + [missed for _, missed in chosen]
    outputs = forward(model, rows).float()
    return outputs[: len(chosen)], outputs[len(chosen) :]


def _rate(model: torch.nn.Module, trained: int) -> float:
    """The learning rate that suits a model: tiny, larger, or adapted in part."""
    everything = sum(1 for _ in model.parameters())
    if sum(p.numel() for p in model.parameters()) < TINY:
        return TINY_RATE
    return FULL_RATE if trained == everything else LORA_RATE


def _factor(step: int, total: int) -> float:
    """A ramp over the first twentieth, then a straight fall to zero."""
    return min(1.0, (step + 1) / max(1.0, 0.05 * total), (total - step) / max(1.0, 0.95 * total))
