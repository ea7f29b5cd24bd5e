"""What claims measure beyond pass@k where prompts carry constraints.

also    the trained weights on further tasks: the claim's own with other parameters, such as held-out kinds
models  how good an arm's constraint reward model is, on pairs and on groups (see `labelling.quality`)

Arms of one seed whose constraint reward models would be trained alike share one: it is a function of the
base, the seed and its settings.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from workbench.claims.plan import Claim
from workbench.evaluation import evaluate
from workbench.labelling import ConstraintModel, label, settings_of, wanted
from workbench.labelling.fitting import fit_pairs
from workbench.labelling.quality import group_quality, held_out_quality, mixed_groups, soft_groups
from workbench.recipe import Recipe
from workbench.rewards.constraints import OWN
from workbench.rewards.verdicts import new_verdict_model
from workbench.seeds import LABELS, step_seed
from workbench.tasks import make_task
from workbench.trainer import State

GROUPS = 50  # as many as people labelled for the paper
SHARES = ("constraints", "hard", "soft")


def also_metrics(state: State, claim: Claim, seed: int) -> dict[str, float]:
    """<name>/pass@1, <name>/constraints, … of every further task of the claim."""
    recipe = claim.base_recipe()
    found: dict[str, float] = {}
    for name, changes in claim.also.items():
        task = make_task(recipe.task, **(recipe.task_args | changes))
        seen = evaluate(
            state.policy,
            task,
            prompts=claim.evaluation["prompts"],
            samples=claim.evaluation["samples"],
            max_new_tokens=recipe.max_new_tokens,
            seed=seed,
        )
        found[f"{name}/pass@1"] = seen.pass_at[1]
        found |= {f"{name}/{key}": seen.measures[key] for key in SHARES if key in seen.measures}
    return found


def model_metrics(state: State, claim: Claim, recipe: Recipe, arm: str) -> dict[str, float]:
    """model/… of the arm's constraint reward model; nothing where it has none, or the claim does not ask.

    group_… on groups of soft constraints, which it judges all; rules_… on mixed ones, hard by rule, as the
    reward does; blind_accuracy, of the first arm and seed alone, see there.
    """
    model = state.constraint_model
    if arm not in claim.models or model is None:
        return {}
    groups = 4 if claim.evaluation["prompts"] <= 4 else GROUPS  # a smoke test
    found = dict(model.quality)
    found |= {f"group_{k}": v for k, v in group_quality(model.judge, soft_groups(groups)).items()}
    mixed = group_quality(model.judge, mixed_groups(groups), rules=True)
    found |= {f"rules_{k}": v for k, v in mixed.items()}
    arguments = wanted(recipe)
    if arguments is not None and (arm, recipe.seed) == (claim.models[0], claim.seeds[0]):
        found["blind_accuracy"] = blind_accuracy(state, recipe, model)
    return {f"model/{key}": float(value) for key, value in found.items() if np.isfinite(value)}


def blind_accuracy(state: State, recipe: Recipe, model: ConstraintModel) -> float:
    """How well held-out pseudo-labels are told by a model trained on the same answers, constraint unseen.

    One that sees the constraint alone is right half of the time: each has as many kept as missed answers.
    """
    policy, settings = state.policy, model.settings
    seed = step_seed(recipe.seed, model.step, LABELS)
    with policy.holding(policy.base_adapter()):
        labelled = label(
            policy,
            state.task,
            pairs=settings["pairs"],
            hard=settings["hard"],
            max_new_tokens=recipe.max_new_tokens,
            seed=seed,
        )
    train, held = (
        [dataclasses.replace(pair, constraint="") for pair in pairs]
        for pairs in (labelled.train, labelled.held)
    )
    judge = new_verdict_model(
        policy.name, quantize="none", lora_rank=0, device=policy.device, seed=seed % 2**31
    )
    fit_pairs(judge, train, loss=settings["loss"], seed=seed)
    return held_out_quality(judge, held, [])["accuracy"]


class Shelf:
    """Constraint reward models of the seed at hand, for arms that would train the same."""

    def __init__(self) -> None:
        self._seed = -1
        self._models: list[ConstraintModel] = []

    def lend(self, state: State, recipe: Recipe) -> None:
        """Give the state a model that was trained with the recipe's settings, where there is one."""
        if recipe.seed != self._seed:
            self._seed, self._models = recipe.seed, []
        arguments = wanted(recipe)
        if arguments is None or arguments["reward_model"] != OWN:
            return
        wished = settings_of(arguments)
        fitting: Any = (model for model in self._models if model.settings == wished)
        state.constraint_model = next(fitting, None)

    def keep(self, state: State) -> None:
        """Put by a model that the state trained before its first step."""
        model = state.constraint_model
        if model is not None and model.step == 1 and model not in self._models:
            self._models.append(model)
