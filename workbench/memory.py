"""What a run remembers from step to step besides weights and optimiser, and what follows from it.

    - How many successes recent groups had: from these, alpha "auto" and baseline "optimal" are chosen
      before a step, never from the step's own rewards, so that its gradient stays unbiased.
    - The factor on beta that holds the KL at kl_target.
    - The reference's adapter, where it is not simply the base.
    - The T_post + A_pre scores seen, from which a separation's "flat" rule takes its switch, and the step
      after which the switch came, so that a run that is made longer does not take it back.
    - How many tokens fit in one pass (`microbatches`), so that a run that goes on is cut the same way.
    - The loss scale of cards that compute in fp16.

K successes in a group of G.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.analysis import best_alpha, optimal_baseline
from workbench.counting import ROUNDING
from workbench.decoding import evaluating
from workbench.devices import loss_scaler
from workbench.models import Policy
from workbench.recipe import Recipe
from workbench.separation import flat_at, switched
from workbench.variants import Variant, name_of

DECAY = 0.9  # of the counts, per step: about the last ten steps matter
PRIOR = 0.5  # pseudo-successes and pseudo-failures of a group (Jeffreys)
BETA_GAIN = 0.1  # most that beta changes in a step, as a share
BETA_RANGE = (0.05, 20.0)  # of the factor, so that a KL long out of reach does not wind it up


@dataclass
class Memory:
    """See the module; `solved_K` are decayed counts of groups with K = 0..G successes."""

    solved_K: np.ndarray
    beta_factor: float = 1.0
    held: str = ""  # the anchor and beta that the factor belongs to
    reference: dict[str, Tensor] | None = None  # by the names of Policy.trainable(); None: the base
    separated: str = ""  # the separation that the two below belong to
    post_pre: list[tuple[int, float]] = field(default_factory=list)  # step, T_post + A_pre
    switched_at: int | None = None  # the last step of its first stage, once that has ended
    token_limit: int = (
        0  # most tokens of a microbatch, as far as that has shown itself; 0: it has not
    )
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: loss_scaler(torch.float32, torch.device("cpu"))
    )
    retries: int = 0  # microbatches for which memory gave out, and that were halved

    @classmethod
    def fresh(cls, group_size: int) -> Memory:
        """Nothing seen yet: every K equally likely, counted as one group in all."""
        return cls(np.full(group_size + 1, 1.0 / (group_size + 1)))

    def to_dict(self) -> dict[str, Any]:
        """The plain numbers, for a checkpoint's state.json; the reference is saved beside it."""
        return {
            "solved": self.solved_K.tolist(),
            "beta_factor": self.beta_factor,
            "held": self.held,
            "separated": self.separated,
            "post_pre": [list(pair) for pair in self.post_pre],
            "switched_at": self.switched_at,
            "token_limit": self.token_limit,
            "retries": self.retries,
            "loss_scale": self.scaler.state_dict(),
        }

    def load(self, values: Mapping[str, Any], reference: dict[str, Tensor] | None) -> None:
        """Put back what a checkpoint holds; counts of another group size are left out."""
        solved_K = np.array(values.get("solved", []))
        if len(solved_K) == len(self.solved_K):
            self.solved_K = solved_K
        self.beta_factor = float(values.get("beta_factor", 1.0))
        self.held = str(values.get("held", ""))
        self.separated = str(values.get("separated", ""))
        self.post_pre = [(int(step), float(score)) for step, score in values.get("post_pre", [])]
        self.switched_at = values.get("switched_at")
        self.token_limit = int(values.get("token_limit", 0))
        self.retries = int(values.get("retries", 0))
        if self.scaler.is_enabled() and values.get("loss_scale"):
            self.scaler.load_state_dict(dict(values["loss_scale"]))
        self.reference = reference


def objective_arguments(recipe: Recipe, memory: Memory) -> dict[str, Any]:
    """The objective's parameters for this step, with "auto" and "optimal" turned into numbers.

    A prompt's success rate is taken to be (K + 1/2) / (G + 1). These point estimates spread wider than the
    rates themselves and can't tell a rate of 0 from one of a few percent, which matters for pass@k with k
    far above G. Estimator score_baseline is chosen for as if its baseline were the best one.
    """
    row = recipe.variant("objective")
    known = getattr(row, "defaults", {}) | recipe.objective_args
    wanted = known.get("alpha") == "auto" or known.get("baseline") == "optimal"
    if not (wanted and isinstance(row, Variant)):
        return known
    group = len(memory.solved_K) - 1
    rates_K = (np.arange(group + 1) + PRIOR) / (group + 2 * PRIOR)
    noise = {"weights": memory.solved_K, "score_noise": known["score_noise"]}
    if known["alpha"] == "auto":
        known["alpha"] = best_alpha(
            known["metric"], rates_K, group, estimator=known["estimator"], **noise
        )
    if known["baseline"] == "optimal":
        known["baseline"] = optimal_baseline(rates_K, group, known["alpha"], **noise)
    return known


def remember_groups(memory: Memory, total_PG: Tensor) -> None:
    """Count the groups of a step by their successes; rewards between 0 and 1 by their rounded sum.

    A step whose rewards leave 0 to 1 tells nothing of success rates and is passed over.
    """
    group = total_PG.shape[1]
    if float(total_PG.min()) < -ROUNDING or float(total_PG.max()) > 1 + ROUNDING:
        return
    wins_P = total_PG.sum(1).round().clamp(0, group).long().cpu().numpy()
    seen_K = np.bincount(wins_P, minlength=group + 1)
    memory.solved_K = DECAY * memory.solved_K + seen_K


def begin_step(memory: Memory, recipe: Recipe, step: int) -> None:
    """Let go of what belongs to choices that have been changed: they land at this step. Note a switch."""
    held = f"{recipe.beta} {name_of(recipe.anchor)} {recipe.anchor_args}"
    if held != memory.held:
        memory.held, memory.beta_factor = held, 1.0
    if recipe.reference == "fixed":
        memory.reference = None
    _hold_separation(memory, recipe)
    if memory.switched_at is None and second_stage(memory, recipe, step):
        memory.switched_at = step - 1


def _hold_separation(memory: Memory, recipe: Recipe) -> None:
    """A separation that is new, or has new parameters, has seen no scores."""
    separated = f"{recipe.separation} {recipe.separation_args}"
    if separated != memory.separated:
        memory.separated, memory.post_pre, memory.switched_at = separated, [], None


def note_post_pre(memory: Memory, recipe: Recipe, step: int, score: float) -> None:
    """Take in the T_post + A_pre score measured after `step`; the "flat" rule may switch on it."""
    _hold_separation(memory, recipe)
    arguments = recipe.variant("separation").defaults | recipe.separation_args
    if arguments.get("switch") != "flat" or memory.switched_at is not None:
        return
    memory.post_pre = [pair for pair in memory.post_pre if pair[0] < step] + [(step, float(score))]
    place = flat_at([score for _, score in memory.post_pre], arguments["tolerance"])
    memory.switched_at = None if place is None else memory.post_pre[place][0]


def second_stage(memory: Memory, recipe: Recipe, step: int) -> bool:
    """Whether `step` lies after the switch of the recipe's separation."""
    arguments = recipe.variant("separation").defaults | recipe.separation_args
    return switched(arguments, step, recipe.steps, memory.switched_at)


def effective_beta(recipe: Recipe, memory: Memory) -> float:
    """The anchor's weight in this step."""
    return recipe.beta * (memory.beta_factor if recipe.kl_target else 1.0)


def adapt_beta(memory: Memory, recipe: Recipe, kl: float) -> None:
    """Raise beta when the measured KL is above its target, lower it when below.

    After the proportional controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2), with the error
    cut at 1 instead of 0.2, since runs here are short.
    """
    if recipe.kl_target:
        error = float(np.clip(kl / recipe.kl_target - 1, -1.0, 1.0))
        factor = memory.beta_factor * (1 + BETA_GAIN * error)
        memory.beta_factor = float(np.clip(factor, *BETA_RANGE))
    else:
        memory.beta_factor = 1.0


@contextlib.contextmanager
def reference_of(policy: Policy, memory: Memory) -> Iterator[None]:
    """Inside this context the policy's model is the reference, without dropout."""
    own = policy.reference() if memory.reference is None else policy.holding(memory.reference)
    with evaluating(policy.model), own:
        yield


@torch.no_grad()
def move_reference(memory: Memory, recipe: Recipe, policy: Policy, step: int) -> None:
    """After a step: take in a share of the policy, or become its copy every few steps.

    A moving average is taken of the low-rank factors, not of their product. It starts from the base, and
    what it has become stays the reference until the first periodic copy where the choice changes to that.
    """
    if recipe.reference == "moving_average":
        if memory.reference is None:
            memory.reference = policy.base_adapter()
        for name, parameter in policy.trainable():
            memory.reference[name].lerp_(parameter, recipe.reference_rate)
    elif recipe.reference == "periodic" and step % recipe.reference_every == 0:
        memory.reference = {name: p.detach().clone() for name, p in policy.trainable()}
