"""The algorithm: one step of reinforcement learning with verifiable rewards, top to bottom.

    1. Take the next P prompts of a seeded permutation of the training split, or of one of its levels.
    2. Sample G completions of each (`rollout.sample`; thought and answers apart in `continuation`, where
       the recipe asks for it), recording log-probs and entropies on the way.
    3. Score every completion with every reward; the weighted sum is the reward that counts. A weight of 0
       measures without training. Malformed ones may get their group's lowest (`separating`). Where a reward
       asks for a constraint reward model, it is trained before the step (`labelling`).
    4. Turn each group's rewards into advantages (`objectives`).
       Groups whose advantages are all 0 may be replaced by new prompts (`refill`).
    5. Leave out groups whose advantages are all 0, and count them, unless an anchor still pulls on them;
       leave out completions without a token to train.
    6. For each epoch and minibatch (whole groups): recompute log-probs with gradient, take surrogate
       loss + beta * anchor (`anchoring`) of the tokens that are to be trained (`separating`), aggregate
       over them alone, clip the gradient, step AdamW.
    7. Move what moves with the run (`memory`): beta, the reference, the record of success rates.
    8. Report numbers; nothing here writes files or knows of widgets.

A step is a function of (weights, optimiser, memory, recipe, step number): its randomness comes from the seed
and the step, so a run that is resumed from a checkpoint repeats itself. The reference is the same model with
its adapter off, unless the recipe moves it. Left out on purpose: a value network, learning-rate schedules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench import measures
from workbench.anchoring import Anchoring, prepare_anchor
from workbench.anchors import kl_value
from workbench.correcting import WEIGHED, Correction, prepare_correction
from workbench.devices import compute_dtype, loss_scaler
from workbench.labelling import ConstraintModel, extras_of, in_force
from workbench.memory import (
    Memory,
    adapt_beta,
    begin_step,
    effective_beta,
    move_reference,
    objective_arguments,
    remember_groups,
    second_stage,
)
from workbench.microbatches import add_gradient, in_parts
from workbench.models import Policy, load_policy
from workbench.optimizing import make_optimizer
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.recomputing import switch_recomputing
from workbench.refill import refilled
from workbench.rollout import Rollouts
from workbench.scoring import Scored, check_judge, score
from workbench.seeds import (
    REFILL,
    SAMPLING,
    minibatches,
    open_rows,
    prompt_indices,
    refill_indices,
    seeded_dropout,
    step_seed,
)
from workbench.separating import separate
from workbench.thought_advantages import token_advantages
from workbench.variants import WorkbenchError


class NonFiniteError(WorkbenchError):
    """The loss or its gradient became NaN or infinite; `report` holds the batch that did it."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


@dataclass
class State:
    """What changes while training: the policy's adapter, the optimiser, the memory and the step."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    task: Any
    rows: Any  # the training split
    eval_rows: list[dict[str, Any]]
    probe_rows: list[dict[str, Any]]
    memory: Memory
    constraint_model: ConstraintModel | None = None  # where a reward needs one
    tell: Callable[[str], None] | None = None  # takes a line on what is done beside the steps
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
    thought_advantages_PG: Tensor  # of the thinking tokens
    thinking_BT: Tensor  # bool: up to the last </think>; nowhere where nothing is told apart
    trained_BT: Tensor  # bool: the tokens that may get gradient
    notes: dict[str, list[str]] = field(default_factory=dict)  # reward -> a line on each completion
    successes_P: list[int] = field(default_factory=list)  # K of each prompt drawn; [] if not known
    # (B, T) each: advantages; log_ratios (nats) where the reference was run; guides of an anchor with q
    series: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The part of a step that the update needs, on the model's device."""

    rollouts: Rollouts
    trained_BT: Tensor  # bool; what is not trained counts nowhere
    advantages_BT: Tensor  # (B, 1), or (B, T) where an anchor acts through the reward
    anchoring: Anchoring | None  # None without an anchor
    correction: Correction | None = None  # None where the trainer's own numbers sample


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
        merged=recipe.merged,
        engine=recipe.engine,
        thinking=recipe.thinking,
        think_tags=recipe.think_tags,
        stop=recipe.stop,
        seed=recipe.seed,
    )
    switch_recomputing(policy.model, recipe.gradient_checkpointing, policy.device)
    check_judge(recipe)
    task = recipe.make_task()
    count = len(held_out := task.dataset("eval"))
    eval_rows = [held_out[i] for i in range(min(recipe.eval_prompts, count))]
    # From the other end, so that they are other prompts wherever there are enough.
    probe_rows = [held_out[i] for i in range(max(count - recipe.probe_prompts, 0), count)]
    optimizer = make_optimizer(
        recipe.optimizer,
        policy.trainable(),
        rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    memory = Memory.fresh(recipe.group_size)
    memory.scaler = loss_scaler(compute_dtype(policy.device), policy.device)
    return State(policy, optimizer, task, task.dataset("train"), eval_rows, probe_rows, memory)


def train_step(state: State, recipe: Recipe, *, measure_kl: bool = False) -> Report:
    """Do one step and advance `state`.

    Metrics: reward/total and reward/<name> (means); reward_std/total and reward_std/<name> (standard
    deviation within a group, mean over groups); rollout/length (tokens), rollout/truncated (share),
    rollout/tokens (sum); train/entropy (nats a token, while sampling), train/mismatch (mean
    |trainer - sampler log-prob|), train/kl and train/kl_answer (nats a token, k1 against the reference, of
    all tokens and of the answers' alone; present where the reference was run), these without what the initial
    model answered; train/trains_thinking and train/trains_answer (1 or 0: what the stage trains),
    train/trained_share (of the tokens), rollout/malformed (share without one </think> and an answer after it;
    where told apart); train/loss, train/anchor_loss (the part of it that is beta * anchor; 0 where the
    anchor acts through the reward), train/grad_norm (before clipping), train/ratio_gap (mean
    |ratio - 1|), train/sampler_weight and train/sampler_cut (mean weight of the sampler's correction and
    share at its cap; where there is one), train/learning_rate, train/beta, train/alpha and
    train/baseline (of an objective that has them; chosen where they are "auto" and "optimal"), train/guide
    and train/guided (mean q and share of tokens with q off 1, of an anchor with a guide);
    train/tokens_at_once (most tokens of a microbatch; where that was chosen by the memory there is);
    train/loss_scale and train/skipped (updates left out because their gradient overflowed; both where fp16
    is computed in);
    groups/zero_signal, groups/solved_all, groups/solved_none (shares, before any refill),
    groups/refilled (share), groups/update_scale (mean over groups of sum_i r_i A_i / G, with 0/1 rewards
    the multiplier of the group's mean success score), groups/advantage (mean |advantage|);
    constraints/… (what that reward tells, see there); constraint_model/… where one was trained before this
    step (see `labelling.quality`); time/sample, time/reward, time/update, time/step (seconds; training a
    constraint reward model is in none of them).
    """
    step = state.step + 1
    held = state.constraint_model
    state.constraint_model = in_force(held, state.policy, state.task, recipe, step, state.tell)
    if state.tell is not None and state.constraint_model is not held:
        state.tell("")
    extras = extras_of(state.constraint_model)
    started = time.perf_counter()
    rows = open_rows(recipe, step, state.rows)
    begin_step(state.memory, recipe, step)
    arguments = objective_arguments(recipe, state.memory)

    def draw(places: list[int], stream: int) -> Scored:
        chosen = [state.rows[rows[place]] for place in places]
        seed = step_seed(recipe.seed, step, stream)
        return score(state.policy, state.task, chosen, recipe, arguments, seed, extras)

    def draw_more(number: int, count: int) -> Scored:
        return draw(refill_indices(recipe, step, number, count, len(rows)), REFILL + number)

    first = draw(prompt_indices(recipe, step, len(rows)), SAMPLING)
    batch, replaced = refilled(first, recipe.refill_rounds, draw_more)
    metrics = measures.group_measures(first) | measures.rollout_measures(batch)
    if state.constraint_model is not None and state.constraint_model is not held:
        known = state.constraint_model.quality
        metrics |= {f"constraint_model/{name}": value for name, value in known.items()}
    metrics["groups/refilled"] = len(replaced) / recipe.prompts_per_step
    metrics |= measures.objective_measures(arguments)
    late = second_stage(state.memory, recipe, step)
    parts = separate(state.policy, recipe, batch.rollouts, late)
    metrics |= measures.separation_measures(recipe, late, parts, batch.rollouts.mask_BT)
    report = Report(
        step, metrics, batch.rollouts, batch.rewards, batch.total_PG, batch.advantages_PG,
        batch.thought_advantages_PG, parts.thinking_BT, parts.trained_BT, batch.notes,
        measures.successes(first),
    )  # fmt: skip
    updating = time.perf_counter()
    metrics |= update(state, recipe, report, first.rollouts, measure_kl=measure_kl)
    remember_groups(state.memory, first.total_PG)
    move_reference(state.memory, recipe, state.policy, step)
    state.step = step
    ended = time.perf_counter()
    metrics |= {
        "train/learning_rate": recipe.learning_rate,
        "time/sample": batch.sample_seconds,
        "time/reward": batch.reward_seconds,
        "time/update": ended - updating,
        "time/step": ended - started,
    }
    return report


def update(
    state: State, recipe: Recipe, report: Report, drawn: Rollouts, *, measure_kl: bool = False
) -> dict[str, float]:
    """Steps 5 and 6: every epoch and minibatch of a scored batch. Returns the train/ metrics.

    `drawn` is the batch before any refill: there the KL is measured, since a refill chooses by reward.
    """
    rollouts, memory, trained_BT = report.rollouts, state.memory, report.trained_BT
    anchored = recipe.beta > 0 and recipe.anchor != "none"
    anchoring = None
    if anchored or measure_kl:
        messages = [state.task.messages(row) for row in rollouts.rows]
        anchoring = prepare_anchor(
            recipe, state.policy, memory, rollouts, report.step, messages, trained_BT
        )
    advantages_BT = token_advantages(
        report.advantages_PG, report.thought_advantages_PG, report.thinking_BT
    )
    credit_BT = anchoring.credit() if anchored else None
    if credit_BT is not None:
        advantages_BT = advantages_BT + credit_BT
    report.series["advantages"] = (advantages_BT * trained_BT).detach()
    if anchoring is not None:
        report.series["log_ratios"] = kl_value(rollouts.logprobs_BT, anchoring.reference_BT)
    if anchored:
        report.series.update(anchoring.guides())
    live_PG = (report.advantages_PG != 0) | (report.thought_advantages_PG != 0)
    pulled_P = live_PG.any(-1) | anchored
    signal_B = pulled_P.repeat_interleave(rollouts.G) & trained_BT.any(-1)
    correction = prepare_correction(recipe, state.policy, memory, rollouts, signal_B)
    used = anchoring if anchored else None
    batch = Batch(rollouts, trained_BT, advantages_BT, used, correction)

    for group in state.optimizer.param_groups:
        group["lr"] = recipe.learning_rate
    names = ("loss", "anchor_loss", "grad_norm", "ratio_gap", "updates", "skipped")
    sums = dict.fromkeys(names + (() if correction is None else WEIGHED), 0.0)
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

    count, skipped = max(sums.pop("updates"), 1.0), sums.pop("skipped")
    metrics |= {f"train/{name}": value / count for name, value in sums.items()}
    metrics["train/beta"] = effective_beta(recipe, memory) if anchored else 0.0
    if memory.scaler.is_enabled():
        metrics |= {"train/skipped": skipped, "train/loss_scale": memory.scaler.get_scale()}
    if memory.token_limit:
        metrics["train/tokens_at_once"] = float(memory.token_limit)
    if anchoring is not None:
        metrics |= anchoring.kl(drawn)
    if anchored:
        metrics |= anchoring.metrics()
        adapt_beta(memory, recipe, metrics["train/kl"])
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
        batch.trained_BT[indices_M].float(), recipe.max_new_tokens
    )

    def part(indices: Tensor) -> dict[str, float]:
        return backward_part(state, recipe, batch, weights_BT, indices)

    model, memory = state.policy.model, state.memory
    found = dict.fromkeys(("loss", "anchor_loss", "gap", "mismatch", "tokens"), 0.0)
    for _, numbers in in_parts(part, kept_M, rollouts, model, recipe, memory):
        found |= {name: found.get(name, 0.0) + value for name, value in numbers.items()}
    if batch.anchoring is not None:
        pull = batch.anchoring.pull_to_drawn(indices_M)
        found["loss"] += pull
        found["anchor_loss"] += pull
    tokens = max(found["tokens"], 1.0)
    sums["loss"] += found["loss"]
    sums["anchor_loss"] += found["anchor_loss"]
    sums["ratio_gap"] += found["gap"] / tokens
    for name in WEIGHED if batch.correction is not None else ():
        sums[name] += found[name] / tokens
    return found["mismatch"] / tokens


def backward_part(
    state: State, recipe: Recipe, batch: Batch, weights_BT: Tensor, indices: Tensor
) -> dict[str, float]:
    """Add the gradient of the rows `indices`, each token's loss by its weight; sums over their tokens."""
    rollouts = batch.rollouts
    reading = read(state.policy, rollouts, indices).only(batch.trained_BT[indices])
    new_BT, entropies_BT = reading.logprobs_entropies()
    width, mask_BT = new_BT.shape[1], reading.mask_NT
    sampler_BT = rollouts.logprobs_BT[indices, :width].masked_fill(~mask_BT, 0.0)
    old_BT, weigh_BT = sampler_BT, None
    if batch.correction is not None:
        old_BT, weigh_BT = batch.correction.of(new_BT, sampler_BT, mask_BT, indices)
    loss_BT = recipe.variant("surrogate")(
        new_BT, old_BT, batch.advantages_BT[indices, :width], mask_BT, **recipe.surrogate_args
    )
    if weigh_BT is not None:
        loss_BT = loss_BT * weigh_BT
    anchor_loss = 0.0
    if batch.anchoring is not None:
        penalty_BT = batch.anchoring.penalty(reading, new_BT, entropies_BT, indices)
        if penalty_BT is not None:
            loss_BT = loss_BT + penalty_BT
            part_BT = penalty_BT.detach() * weights_BT[indices, :width]
            anchor_loss = float(part_BT[mask_BT].sum())
    loss = (loss_BT * weights_BT[indices, :width])[mask_BT].sum()
    add_gradient(state.policy.model, state.memory.scaler.scale(loss))
    moved = (new_BT.detach() - old_BT)[mask_BT]
    found = {
        "loss": float(loss.detach()),
        "anchor_loss": anchor_loss,
        "gap": float((moved.exp() - 1).abs().sum()),
        "mismatch": float((new_BT.detach() - sampler_BT)[mask_BT].abs().sum()),
        "tokens": len(moved),
    }
    if batch.correction is not None:
        found |= batch.correction.measures(weigh_BT[mask_BT])
    return found


def clip_and_step(state: State, recipe: Recipe, report: Report, sums: dict[str, float]) -> None:
    """Clip the gradient, step the optimiser; a non-finite gradient stops the run instead.

    Under a loss scale, one that overflows only for the scale is left out, and the scale is halved.
    """
    parameters = [parameter for _, parameter in state.policy.trainable()]
    scaler = state.memory.scaler
    scaler.unscale_(state.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm))
    skipped = not np.isfinite(norm) and scaler.get_scale() > 1
    if not np.isfinite(sums["loss"] + (0.0 if skipped else norm)):
        state.optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(
            f"Step {report.step} has loss {sums['loss']} and gradient norm {norm}; its batch was saved "
            "in the run's folder. Lower learning_rate, or look for a reward that is far too large.",
            report,
        )
    scaler.step(state.optimizer)
    scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    sums["skipped"] += skipped
    sums["grad_norm"] += 0.0 if skipped else norm
    sums["updates"] += 1
