"""The sampler's correction: weights for tokens that another set of numbers drew than the trainer's.

An engine or a rounded copy of the weights samples from another distribution mu than the trainer's pi, so the
batch is off-policy from its first update on. After Yao et al. 2025 ("Your efficient RL framework secretly
brings you off-policy RL training") a token's loss is multiplied by min(pi / mu, C), without gradient; pi is
the trainer's at the start of the batch, and that is also what a surrogate's ratio compares with.

B completions of T tokens, N chosen ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.decoding import evaluating
from workbench.engines import differs
from workbench.memory import Memory
from workbench.microbatches import in_parts
from workbench.models import Policy
from workbench.reading import read
from workbench.recipe import Recipe
from workbench.rollout import Rollouts
from workbench.surrogates import truncated_weights

WEIGHED = ("sampler_weight", "sampler_cut")  # what is measured of the weights


@dataclass(frozen=True)
class Correction:
    """How tokens of one batch are weighed; `prepare_correction` makes it."""

    level: str  # "token" or "sequence"
    cap: float
    trainer_BT: Tensor | None  # log-probs at the start of the batch; None: those of its only update

    def of(
        self, logprobs_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor, indices_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The trainer's log-probs that the surrogate compares with, and the weights, both (N, T).

        `logprobs_NT` are the trainer's now and `sampler_NT` those recorded while sampling. At level
        "sequence" a weight is that of all tokens of its row that are trained.
        """
        old_NT = logprobs_NT.detach()
        if self.trainer_BT is not None:
            old_NT = self.trainer_BT[indices_N, : logprobs_NT.shape[1]]
        old_NT = old_NT.masked_fill(~mask_NT, 0.0)
        weights = truncated_weights(old_NT, sampler_NT, mask_NT, cap=self.cap, level=self.level)
        return old_NT, weights.expand_as(old_NT)

    def measures(self, weights_M: Tensor) -> dict[str, float]:
        """Sums over tokens: of the weights, and of those at the cap."""
        sums = weights_M.sum(), (weights_M >= self.cap).sum()
        return {name: float(value) for name, value in zip(WEIGHED, sums, strict=True)}


def level_of(recipe: Recipe, policy: Policy) -> str:
    """ "none", "token" or "sequence": what the recipe says, or "auto" by who samples."""
    if recipe.sampler_correction != "auto":
        return recipe.sampler_correction
    return "token" if differs(policy) else "none"


def prepare_correction(
    recipe: Recipe, policy: Policy, memory: Memory, rollouts: Rollouts, trained_B: Tensor
) -> Correction | None:
    """The correction of a batch whose rows `trained_B` (bool) are trained; None where there is none.

    A batch that is passed over once needs no pass of its own for the trainer's log-probs: they are those of
    its update.
    """
    level = level_of(recipe, policy)
    if level == "none":
        return None
    once = recipe.epochs == 1 and recipe.minibatches == 1 and not recipe.lora_dropout
    rows_N = trained_B.nonzero().squeeze(1)
    if once or len(rows_N) == 0:
        return Correction(level, recipe.sampler_cap, None)
    trainer_BT = torch.zeros_like(rollouts.logprobs_BT)

    def logprobs(indices_N: Tensor) -> Tensor:
        return read(policy, rollouts, indices_N).logprobs_entropies()[0]

    with torch.no_grad(), evaluating(policy.model):
        for rows, values in in_parts(logprobs, rows_N, rollouts, policy.model, recipe, memory):
            trainer_BT[rows, : values.shape[1]] = values
    return Correction(level, recipe.sampler_cap, trainer_BT)
