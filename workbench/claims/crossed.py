"""Cross-Generation of a claim's cells: what its thoughts are worth, and its answers, each by itself.

The judge is that of the recipe that all arms share, so that arms and base are comparable; where it is a
learned reward and the task knows the truth, the same answers' true quality is given as well (`_true`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from workbench.claims.plan import Claim
from workbench.crossing import (
    CrossGeneration,
    cross_generation,
    held_out_post_pre,
    initial_of,
    judge_of,
)
from workbench.tasks.base import knows_truth
from workbench.trainer import State

PRE, POST = "pre", "post"


def post_pre_metrics(state: State, claim: Claim, seed: int) -> dict[str, float]:
    """post_post, post_pre and their true quality, where the claim's recipe has cross_samples."""
    recipe = claim.base_recipe()
    if not recipe.cross_samples:
        return {}
    found = held_out_post_pre(state, recipe, seed)
    return {
        key.removeprefix("eval/"): value
        for key, value in found.items()
        if not key.endswith(("/low", "/high"))  # intervals of claims are over seeds
    }


def cross_cell(state: State, claim: Claim, seed: int) -> dict[str, float]:
    """The gains of the trained policy over the initial one; nothing where the recipe has no cross_samples.

    thinking_gain, answer_gain and interaction add up to the gain of the whole; win_post_pre is how often the
    trained thoughts, initially answered, beat the initial ones so answered, ties half; other_post is what the
    trained policy scores with another question's thoughts.
    """
    recipe = claim.base_recipe()
    if not recipe.cross_samples:
        return {}
    models = {PRE: initial_of(state.policy), POST: state.policy}
    judge = judge_of(recipe, state.task)
    found = cross_generation(
        models,
        models,
        state.task,
        prompts=claim.evaluation["prompts"],
        thoughts=recipe.cross_samples,
        max_new_tokens=recipe.max_new_tokens,
        judge=judge,
        seed=seed,
    )
    metrics = gains_of(found)
    if judge is not None and knows_truth(state.task):
        truth = gains_of(by_truth(found, state))
        metrics |= {f"{name}_true": value for name, value in truth.items()}
    return metrics


def by_truth(found: CrossGeneration, state: State) -> CrossGeneration:
    """The same completions, scored by the task itself."""
    scores_ABPS = np.array(
        [
            [
                [
                    [state.task.score(row, text) for text in texts]
                    for row, texts in zip(found.rows, found.completions[a, b], strict=True)
                ]
                for b in found.answerers
            ]
            for a in found.thinkers
        ]
    )
    return dataclasses.replace(found, scores_ABPS=scores_ABPS)


def gains_of(found: CrossGeneration) -> dict[str, float]:
    """The numbers that `cross_cell` lists, from S(a, b) of the initial and the trained policy."""
    parts = found.decomposition(PRE, POST)
    return {
        "thinking_gain": parts.thinking.value,
        "answer_gain": parts.answering.value,
        "interaction": parts.interaction.value,
        "win_post_pre": found.win_rate((POST, PRE), (PRE, PRE)).value,
        "other_post": found.mean(found.thinkers[-1], POST),
    }
