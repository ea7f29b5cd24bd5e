"""A batch taken apart into thinking and answer, and what of it is trained.

The row of the recipe's separation chooses tokens. On top of it, in every separation but joint [D]: a
malformed completion (``</think>`` missing or there twice, or no answer) gets the lowest total reward of its
group, and its thinking is trained in either stage; its answer follows the row. What the initial model
answered (`answerer`) is never trained.

Where a tokenizer has no single ``</think>`` token nothing can be told apart, and only joint can train.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.models import Policy
from workbench.recipe import Recipe
from workbench.rollout import Rollouts
from workbench.separation import malformed, thinking
from workbench.variants import WorkbenchError


@dataclass(frozen=True)
class Separated:
    """The masks of a batch, bool; `separate` makes them."""

    thinking_BT: Tensor  # all False where the tokenizer has no single </think> token
    trained_BT: Tensor  # never beyond the batch's own mask
    malformed_B: Tensor | None  # None where the tokenizer has no such token


def thought_end(policy: Policy, recipe: Recipe) -> int | None:
    """The token that ends the thinking; WorkbenchError where the recipe needs one and there is none."""
    end_id = policy.thought_end_id()
    if end_id is None and recipe.separation != "joint":
        raise WorkbenchError(
            f"separation is {recipe.separation!r}, but the tokenizer of {policy.name!r} has no single token "
            "</think> to part thinking from answer; choose a model that has one, or separation 'joint'."
        )
    return end_id


def malformed_rows(rollouts: Rollouts, end_id: int) -> Tensor:
    """Which completions are malformed, bool (B,); a ``</think>`` spelled in other tokens does not count."""
    ends_BT = (rollouts.completion_ids_BT == end_id) & rollouts.mask_BT
    by_text_B = torch.tensor(malformed(rollouts.completions), device=ends_BT.device)
    return by_text_B | (ends_BT.sum(-1) != 1)


def separate(policy: Policy, recipe: Recipe, rollouts: Rollouts, late: bool) -> Separated:
    """The masks of `rollouts`; `late` says whether the separation's second stage has begun."""
    mask_BT = rollouts.mask_BT
    end_id = thought_end(policy, recipe)
    if end_id is None:
        return Separated(torch.zeros_like(mask_BT), mask_BT, None)
    thinking_BT = thinking(rollouts.completion_ids_BT, mask_BT, end_id)
    trained_BT = recipe.variant("separation")(thinking_BT, mask_BT & ~thinking_BT, late)
    malformed_B = malformed_rows(rollouts, end_id)
    trained_BT = (trained_BT | (thinking_BT & malformed_B[:, None])) & rollouts.sampled_BT
    if recipe.answerer == "initial":  # of a reference's own completions the answers neither
        trained_BT = trained_BT & thinking_BT
    return Separated(thinking_BT, trained_BT, malformed_B)
