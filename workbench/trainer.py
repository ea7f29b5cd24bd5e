"""The algorithm: one step of reinforcement learning with verifiable rewards, top to bottom.

    1. Take the next P prompts of a seeded permutation of the training split.
    2. Sample G completions of each (`rollout.sample`), recording log-probs and entropies on the way.
    3. Score every completion with every reward; the weighted sum is the reward that counts.
       A weight of 0 measures without training.
    4. Turn each group's rewards into advantages (`objectives`).
    5. Leave out groups whose advantages are all 0, unless an anchor still pulls on them; count them.
    6. For each epoch and minibatch (whole groups): recompute log-probs with gradient, take
       surrogate loss + beta * anchor, aggregate over tokens, clip the gradient, step AdamW.
    7. Report numbers; nothing here writes files or knows of widgets.

A step is a function of (weights, optimiser, recipe, step number): its randomness comes from the seed and the
step, so a run that is resumed from a checkpoint repeats itself. The reference is the same model with its
adapter off. Left out on purpose: a value network, learning-rate schedules, and refilling of dead groups.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.anchors import kl_value
from workbench.models import Policy, load_policy
from workbench.recipe import Recipe
from workbench.rewards import compute
from workbench.rollout import Rollouts, sample, token_stats
from workbench.seeds import ORDER, SAMPLING, prompt_indices, seeded_dropout, step_seed
from workbench.variants import WorkbenchError


class NonFiniteError(WorkbenchError):
    """The loss or its gradient became NaN or infinite; `report` holds the batch that did it."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclass
class State:
    """What changes while training: the policy's adapter, the optimiser and the number of steps done."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    task: Any
    rows: Any  # the training split
    eval_rows: list[dict[str, Any]]
    step: int = 0


@dataclass(frozen=True)
class Report:
    """What one step did. `metrics` has the keys listed at `train_step`."""

    step: int
    metrics: dict[str, float]
    rollouts: Rollouts
    rewards: dict[str, Tensor]  # name -> values_PG
    total_PG: Tensor
    advantages_PG: Tensor


@dataclass(frozen=True)
class Batch:
    """The part of a step that the update needs, on the model's device."""

    rollouts: Rollouts
    advantages_B1: Tensor
    reference_BT: Tensor | None  # the reference's log-probs; None without an anchor


def prepare(recipe: Recipe) -> State:
    """Load the policy, the task and a fresh optimiser for `recipe`."""
    policy = load_policy(
        recipe.model,
        quantize=recipe.quantize,
        lora_rank=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_targets=recipe.lora_targets,
        lora_dropout=recipe.lora_dropout,
        device=recipe.device,
        seed=recipe.seed,
    )
    task = recipe.make_task()
    held_out = task.dataset("eval")
    eval_rows = [held_out[i] for i in range(min(recipe.eval_prompts, len(held_out)))]
    optimizer = torch.optim.AdamW(
        [parameter for _, parameter in policy.trainable()],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    return State(policy, optimizer, task, task.dataset("train"), eval_rows)


def train_step(state: State, recipe: Recipe, *, measure_kl: bool = False) -> Report:
    """Do one step and advance `state`.

    Metrics: reward/total and reward/<name> (means); rollout/length (tokens), rollout/truncated (share),
    rollout/tokens (sum); train/entropy (nats a token, while sampling), train/mismatch (mean
    |trainer - sampler log-prob|), train/kl (nats a token, k1 against the reference; present where the
    reference was run), train/loss, train/grad_norm (before clipping), train/ratio_gap (mean |ratio - 1|),
    train/learning_rate, train/beta; groups/zero_signal, groups/solved_all, groups/solved_none (shares);
    groups/advantage (mean |advantage|); time/sample, time/reward, time/update, time/step (seconds).
    """
    started = time.perf_counter()
    step = state.step + 1
    rows = [state.rows[i] for i in prompt_indices(recipe, step, len(state.rows))]
    rollouts = sample(
        state.policy,
        [state.task.messages(row) for row in rows],
        rows=rows,
        group_size=recipe.group_size,
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        top_k=recipe.top_k,
        min_p=recipe.min_p,
        seed=step_seed(recipe.seed, step, SAMPLING),
    )
    sampled = time.perf_counter()

    rewards = compute(recipe.reward_functions(), rollouts, state.task)
    total_PG = weighted_sum(rewards, recipe.reward_weights())
    advantages_PG = advantages(recipe, total_PG)
    scored = time.perf_counter()

    metrics = batch_metrics(rollouts, rewards, total_PG, advantages_PG)
    report = Report(step, metrics, rollouts, rewards, total_PG, advantages_PG)
    metrics |= update(state, recipe, report, measure_kl=measure_kl)
    state.step = step
    ended = time.perf_counter()
    metrics |= {
        "train/learning_rate": recipe.learning_rate,
        "train/beta": recipe.beta,
        "time/sample": sampled - started,
        "time/reward": scored - sampled,
        "time/update": ended - scored,
        "time/step": ended - started,
    }
    return report


def update(
    state: State, recipe: Recipe, report: Report, *, measure_kl: bool = False
) -> dict[str, float]:
    """Steps 5 and 6: every epoch and minibatch of a scored batch. Returns the train/ metrics."""
    rollouts = report.rollouts
    anchored = recipe.beta > 0 and recipe.anchor != "none"
    reference_BT = reference_logprobs(state, recipe, rollouts) if anchored or measure_kl else None
    batch = Batch(rollouts, report.advantages_PG.reshape(-1, 1), reference_BT if anchored else None)
    pulled_P = (report.advantages_PG != 0).any(-1) | anchored
    signal_B = pulled_P.repeat_interleave(rollouts.G)

    for group in state.optimizer.param_groups:
        group["lr"] = recipe.learning_rate
    sums = dict.fromkeys(("loss", "grad_norm", "ratio_gap", "updates"), 0.0)
    metrics: dict[str, float] = {}
    with seeded_dropout(recipe, report.step, state.policy.device):
        for number, indices_M in enumerate(minibatches(recipe, report.step, rollouts)):
            kept_M = indices_M[signal_B[indices_M]]
            if len(kept_M) == 0:
                continue
            mismatch = backward(state, recipe, batch, indices_M, kept_M, sums)
            if number == 0:
                metrics["train/mismatch"] = mismatch
            clip_and_step(state, recipe, report, sums)
    state.policy.refresh_sampler()

    count = max(sums.pop("updates"), 1.0)
    metrics |= {f"train/{name}": value / count for name, value in sums.items()}
    if reference_BT is not None:
        kl_BT = kl_value(rollouts.logprobs_BT, reference_BT)
        metrics["train/kl"] = masked_mean(kl_BT, rollouts.mask_BT)
    return metrics


def backward(
    state: State, recipe: Recipe, batch: Batch, indices_M: Tensor, kept_M: Tensor, sums: dict[str, float]
) -> float:  # fmt: skip
    """Add the gradient of one minibatch; rows without signal count in the means but are not computed.

    Returns the mean |log-prob here - log-prob recorded while sampling| over the tokens computed.
    """
    rollouts = batch.rollouts
    weights_BT = torch.zeros_like(rollouts.logprobs_BT)
    weights_BT[indices_M] = recipe.variant("aggregation")(
        rollouts.mask_BT[indices_M].float(), recipe.max_new_tokens
    )
    gap = tokens = mismatch = 0.0
    for indices in kept_M.split(recipe.microbatch):
        new_BT, _ = token_stats(state.policy, rollouts, indices)
        width = new_BT.shape[1]
        old_BT = rollouts.logprobs_BT[indices, :width]
        mask_BT = rollouts.mask_BT[indices, :width]
        loss_BT = recipe.variant("surrogate")(
            new_BT, old_BT, batch.advantages_B1[indices], **recipe.surrogate_args
        )
        if batch.reference_BT is not None:
            penalty_BT = recipe.variant("anchor")(
                new_BT, batch.reference_BT[indices, :width], **recipe.anchor_args
            )
            loss_BT = loss_BT + recipe.beta * penalty_BT
        loss = (loss_BT * weights_BT[indices, :width])[mask_BT].sum()
        loss.backward()
        sums["loss"] += float(loss.detach())
        difference = (new_BT.detach() - old_BT)[mask_BT]
        gap += float((difference.exp() - 1).abs().sum())
        mismatch += float(difference.abs().sum())
        tokens += len(difference)
    sums["ratio_gap"] += gap / max(tokens, 1.0)
    return mismatch / max(tokens, 1.0)


@torch.no_grad()
def reference_logprobs(state: State, recipe: Recipe, rollouts: Rollouts) -> Tensor:
    """Log-probs of the completions under the reference: the model with its adapter off, (B, T)."""
    found_BT = torch.zeros_like(rollouts.logprobs_BT)
    with state.policy.reference():
        for indices in torch.arange(rollouts.B, device=found_BT.device).split(recipe.microbatch):
            logprobs_NT, _ = token_stats(state.policy, rollouts, indices)
            found_BT[indices, : logprobs_NT.shape[1]] = logprobs_NT
    return found_BT


def clip_and_step(state: State, recipe: Recipe, report: Report, sums: dict[str, float]) -> None:
    """Clip the gradient, step the optimiser; a non-finite gradient stops the run instead."""
    parameters = [parameter for _, parameter in state.policy.trainable()]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm))
    if not np.isfinite(norm + sums["loss"]):
        state.optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(
            f"Step {report.step} has loss {sums['loss']} and gradient norm {norm}; its batch was saved "
            "in the run's folder. Lower learning_rate, or look for a reward that is far too large.",
            report,
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    sums["grad_norm"] += norm
    sums["updates"] += 1


def minibatches(recipe: Recipe, step: int, rollouts: Rollouts) -> Iterator[Tensor]:
    """Row indices of every update of the batch: whole groups, in a new order in each later epoch."""
    generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, ORDER))
    rows_PG = torch.arange(rollouts.B).view(rollouts.P, rollouts.G)
    for epoch in range(recipe.epochs):
        order_P = torch.randperm(rollouts.P, generator=generator) if epoch else slice(None)
        for part_PG in rows_PG[order_P].tensor_split(recipe.minibatches):
            yield part_PG.reshape(-1).to(rollouts.mask_BT.device)


def weighted_sum(rewards: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """The reward that counts, (P, G); weight 0 leaves a reward out."""
    parts = [weights[name] * values for name, values in rewards.items() if weights[name]]
    return torch.stack(parts).sum(0)


def advantages(recipe: Recipe, total_PG: Tensor) -> Tensor:
    """The objective's advantages, (P, G), checked for shape."""
    values_PG = recipe.variant("objective")(total_PG, **recipe.objective_args)
    if tuple(values_PG.shape) != tuple(total_PG.shape):
        raise WorkbenchError(
            f"The objective returned shape {tuple(values_PG.shape)}; "
            f"return one advantage per reward, shape {tuple(total_PG.shape)}."
        )
    return values_PG.detach()


def batch_metrics(
    rollouts: Rollouts, rewards: dict[str, Tensor], total_PG: Tensor, advantages_PG: Tensor
) -> dict[str, float]:
    """The reward/, rollout/ and groups/ metrics and train/entropy of a scored batch."""
    metrics = {f"reward/{name}": float(values.mean()) for name, values in rewards.items()}
    metrics["reward/total"] = float(total_PG.mean())
    if "correct" in rewards:
        solved_P = (rewards["correct"] >= 1).float().mean(-1)
        metrics["groups/solved_all"] = float((solved_P == 1).float().mean())
        metrics["groups/solved_none"] = float((solved_P == 0).float().mean())
    return metrics | {
        "groups/zero_signal": float((advantages_PG == 0).all(-1).float().mean()),
        "groups/advantage": float(advantages_PG.abs().mean()),
        "rollout/length": float(rollouts.lengths_B.float().mean()),
        "rollout/tokens": float(rollouts.mask_BT.sum()),
        "rollout/truncated": float(rollouts.truncated_B.float().mean()),
        "train/entropy": masked_mean(rollouts.entropies_BT, rollouts.mask_BT),
    }


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> float:
    """Mean over the generated tokens."""
    return float(values_BT[mask_BT].mean()) if bool(mask_BT.any()) else 0.0
