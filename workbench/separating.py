"""A batch taken apart into thinking and answer, and what of it is trained.

The row of the recipe's separation chooses tokens. On top of it, in every separation but joint [D]: a
malformed completion (``</think>`` missing or there twice, or no answer) gets the lowest total reward of its
group, and its thinking is trained in either stage; its answer follows the row. What the initial model
answered (`answerer`) is never trained.

Where the closing tag is no single token of the model, it is found in the text (`rollout.closing`). A model
that was told not to think, or has no such token and writes no tags, gives nothing to tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.models import Policy
from workbench.recipe import Recipe
from workbench.rollout import Rollouts
from workbench.separation import malformed, thinking
from workbench.tasks.base import thinks
from workbench.tokens import closes_thought


@dataclass(frozen=True)
class Separated:
    """The masks of a batch, bool; `separate` makes them."""

    thinking_BT: Tensor  # all False where there is nothing to tell apart
    trained_BT: Tensor  # never beyond the batch's own mask
    malformed_B: Tensor | None  # None where there is nothing to tell apart


def tells_apart(policy: Policy, recipe: Recipe, rollouts: Rollouts) -> bool:
    """Whether thought and answer are told apart in `rollouts`: where the recipe needs it, else where the
    model was to think, and has a token for the closing tag or some tag was written.
    """
    if (
        recipe.separation != "joint"
        or recipe.answerer == "initial"
        or recipe.answers_per_thought > 1
    ):
        return True
    if policy.thinking == "off" or all(closes_thought(p, policy.tags) for p in rollouts.prompts):
        return False
    return policy.thought_end_id() is not None or any(map(thinks, rollouts.completions))


def malformed_rows(rollouts: Rollouts) -> Tensor:
    """Which completions are malformed, bool (B,), by their text and by their tokens.

    Where ``</think>`` is one token of the model, one spelled in other tokens does not count.
    """
    by_text_B = torch.tensor(malformed(rollouts.completions), device=rollouts.mask_BT.device)
    return by_text_B | (rollouts.closing_BT.sum(-1) != 1)


def separate(policy: Policy, recipe: Recipe, rollouts: Rollouts, late: bool) -> Separated:
    """The masks of `rollouts`; `late` says whether the separation's second stage has begun."""
    mask_BT = rollouts.mask_BT
    if not tells_apart(policy, recipe, rollouts):
        return Separated(torch.zeros_like(mask_BT), mask_BT, None)
    thinking_BT = thinking(rollouts.closing_BT, mask_BT)
    trained_BT = recipe.variant("separation")(thinking_BT, mask_BT & ~thinking_BT, late)
    malformed_B = malformed_rows(rollouts)
    trained_BT = (trained_BT | (thinking_BT & malformed_B[:, None])) & rollouts.sampled_BT
    if recipe.answerer == "initial":  # of a reference's own completions the answers neither
        trained_BT = trained_BT & thinking_BT
    return Separated(thinking_BT, trained_BT, malformed_B)
