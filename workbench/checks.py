"""What a recipe refuses beyond the range of each field: choices that don't go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workbench.fields import texts_of
from workbench.rewards import REWARDS
from workbench.tasks.base import knows_truth
from workbench.variants import Variant, WorkbenchError, lookup, name_of

if TYPE_CHECKING:
    from workbench.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raise WorkbenchError for the first of a recipe's choices that can't be run; loads no torch."""
    _check_variants(recipe)
    truth = knows_truth(recipe.make_task())
    _check_rewards(recipe, truth)
    _check_range(recipe)
    _check_sizes(recipe)
    _check_device(recipe)
    _check_separation(recipe)
    _check_thoughts(recipe)
    apart = recipe.answerer != "policy" or recipe.answers_per_thought > 1 or recipe.cross_samples
    if texts_of("stop", recipe.stop) and apart:
        raise WorkbenchError(
            "stop ends whole completions, but answerer, answers_per_thought or cross_samples ask for "
            "thoughts and answers apart; leave stop empty, or those at their defaults."
        )
    if recipe.cross_samples and not truth and not recipe.rewards.get("learned"):
        raise WorkbenchError(
            f"cross_samples is {recipe.cross_samples}, but the task {recipe.task!r} knows no right answers "
            "to judge by; train on the reward 'learned', or set cross_samples to 0."
        )
    if recipe.curriculum != "shuffled" and not hasattr(recipe.make_task(), "rules"):
        raise WorkbenchError(
            f"curriculum {recipe.curriculum!r} goes by the number of constraints, but the task "
            f"{recipe.task!r} has none; set it to 'shuffled'."
        )
    if recipe.kl_target and not recipe.beta:
        raise WorkbenchError("kl_target moves beta from where it is; give beta more than 0.")


def _check_variants(recipe: Recipe) -> None:
    for kind in ("objective", "surrogate", "aggregation", "anchor", "separation"):
        row = recipe.variant(kind)
        if isinstance(row, Variant):
            row.check(str(getattr(recipe, kind)), getattr(recipe, f"{kind}_args", {}))


def _check_rewards(recipe: Recipe, truth: bool) -> None:
    for reward, weight in recipe.rewards.items():
        if not callable(reward):
            lookup(REWARDS, "reward", reward)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise WorkbenchError(f"rewards[{name_of(reward)!r}] is {weight!r}; give a number.")
        if not math.isfinite(weight):
            raise WorkbenchError(f"rewards[{name_of(reward)!r}] is {weight!r}; give a finite one.")
    if not any(recipe.rewards.values()):
        raise WorkbenchError("All reward weights are 0; give at least one reward a weight.")
    for reward, arguments in recipe.reward_args.items():
        row = reward if callable(reward) else lookup(REWARDS, "reward", reward)
        if not isinstance(arguments, dict):
            raise WorkbenchError(
                f"reward_args[{name_of(reward)!r}] is {arguments!r}; give a dictionary of name: value."
            )
        if isinstance(row, Variant):
            row.check(str(reward), arguments)
    if "constraints" in recipe.rewards and not hasattr(recipe.make_task(), "rules"):
        raise WorkbenchError(
            f"The reward 'constraints' counts constraints, but the task {recipe.task!r} has none; choose "
            "the task 'instructions'."
        )
    if "correct" in recipe.rewards and not truth:
        raise WorkbenchError(
            f"The task {recipe.task!r} knows no right answers to these questions, so the reward 'correct' "
            "can't be measured; give others, such as rewards={'learned': 1.0}."
        )


def _check_range(recipe: Recipe) -> None:
    """Refuse at once what the objective would refuse at the next step; own functions are not known."""
    row = recipe.variant("objective")
    allowed_range = row.range_with(recipe.objective_args) if isinstance(row, Variant) else None
    if allowed_range is None:
        return
    if recipe.standardise == "never" and any(map(callable, recipe.rewards)):
        return
    low = high = 0.0
    for reward, weight in recipe.rewards.items():
        ends = sorted(weight * end if weight else 0.0 for end in _bounds(recipe, reward))
        low, high = low + ends[0], high + ends[1]
    if low < allowed_range[0] - 1e-6 or high > allowed_range[1] + 1e-6:
        allowed = f"{allowed_range[0]:g} to {allowed_range[1]:g}".replace("to inf", "upwards")
        cause = "weights" if recipe.standardise == "never" else "weights and standardise='group'"
        remedy = "change the weights" if recipe.standardise == "never" else "set it to 'never'"
        raise WorkbenchError(
            f"Objective {name_of(recipe.objective)!r} takes total rewards from {allowed}, but with these "
            f"{cause} they go from {low:g} to {high:g}; {remedy} or choose 'rloo'."
        )


def _bounds(recipe: Recipe, reward: Any) -> tuple[float, float]:
    """The range of what the reward's weight is multiplied with."""
    if recipe.standardise == "group":
        # The furthest is one completion apart from all others of its group.
        return -math.sqrt(recipe.group_size - 1), math.sqrt(recipe.group_size - 1)
    return REWARDS[reward].range_with(recipe.reward_args.get(reward, {})) or (-math.inf, math.inf)


def _check_sizes(recipe: Recipe) -> None:
    row = recipe.variant("objective")
    needed = row.group_needed(recipe.objective_args) if isinstance(row, Variant) else 1
    if recipe.group_size < needed:
        raise WorkbenchError(
            f"group_size is {recipe.group_size}, but objective {name_of(recipe.objective)!r} with these "
            f"parameters needs at least {needed} completions of each prompt."
        )
    if recipe.standardise == "group" and recipe.group_size < 2:
        raise WorkbenchError(
            f"group_size is {recipe.group_size}, but standardise='group' compares completions of one "
            "prompt; give at least 2."
        )
    if recipe.minibatches > recipe.prompts_per_step:
        raise WorkbenchError(
            f"minibatches is {recipe.minibatches}, but a batch holds {recipe.prompts_per_step} groups; "
            "give at most prompts_per_step."
        )


def _check_device(recipe: Recipe) -> None:
    """What is known without asking the device."""
    if recipe.device == "mps" and recipe.quantize != "none":
        raise WorkbenchError(
            f"quantize is {recipe.quantize!r}, but on Apple's MPS weights stay as they are; set "
            "quantize='none', or device='cpu'."
        )


def _check_separation(recipe: Recipe) -> None:
    if recipe.answerer == "initial" and recipe.separation in ("answer_only", "reversed"):
        raise WorkbenchError(
            f"separation {recipe.separation!r} begins with the answers alone, but with answerer 'initial' "
            "they are not the policy's to train; choose another separation, or answerer 'policy'."
        )
    rule = (recipe.variant("separation").defaults | recipe.separation_args).get("switch")
    if rule == "flat" and not recipe.cross_samples:
        raise WorkbenchError(
            f"separation {recipe.separation!r} with switch 'flat' watches eval/post_pre, which is not "
            "measured with cross_samples 0; give cross_samples at least 1, or switch by 'share' or "
            "'step'."
        )


def _check_thoughts(recipe: Recipe) -> None:
    """Thoughts where they are needed; whole ones, enough of them, and nothing that cuts a group."""
    answers = recipe.answers_per_thought
    parted = {
        "separation": recipe.separation != "joint",
        "answerer": recipe.answerer != "policy",
        "answers_per_thought": answers > 1,
        "cross_samples": recipe.cross_samples > 0,
    }
    if recipe.thinking == "off" and any(parted.values()):
        name = next(name for name, asked in parted.items() if asked)
        raise WorkbenchError(
            f"thinking is 'off', but {name} {getattr(recipe, name)!r} needs thoughts; set thinking to 'auto' "
            "or 'on', or that to its default."
        )
    if answers == 1:
        return
    if recipe.group_size % answers:
        raise WorkbenchError(
            f"group_size is {recipe.group_size} and answers_per_thought {answers}; give a group_size that "
            "is a multiple of it."
        )
    row, thoughts = recipe.variant("objective"), recipe.group_size // answers
    needed = row.group_needed(recipe.objective_args) if isinstance(row, Variant) else 1
    if thoughts < needed:
        raise WorkbenchError(
            f"group_size {recipe.group_size} with {answers} answers to each thought holds {thoughts} "
            f"thoughts, but objective {name_of(recipe.objective)!r} with these parameters compares at least "
            f"{needed}; give a group_size of {needed * answers} or more, or fewer answers."
        )
    if recipe.extra_votes:
        raise WorkbenchError(
            f"extra_votes is {recipe.extra_votes} and answers_per_thought {answers}, but votes are dropped "
            "one by one and would tear a thought's answers apart; set one of the two to its default."
        )
