"""The reward of instruction following: how many of its constraints an answer keeps, one verdict each.

A hard constraint is checked by a rule (0 or 1), a soft one by the constraint reward model (a probability).
The reward is their mean over the constraints present. A malformed completion, as in `learned.answers_of`,
keeps none.

Source: arXiv 2508.02150, R = (1/k) sum_i r_i, probabilities as they are (literal); `all` and `product`, the
ways of counting that its follow-ups argue about, and thresholds are options here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.rewards.learned import answers_of
from workbench.rewards.verifiable import Detailed
from workbench.tasks.base import known_means
from workbench.tasks.instructions import LIGHT, constraints_of, shares
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.rewards.verdicts import VerdictModel
    from workbench.rollout import Rollouts
    from workbench.tasks.base import Row, Task
    from workbench.tasks.demands import Constraint

SCORERS = ("mixed", "rules", "model")
AGGREGATIONS = ("mean", "all", "product")
SOFT = ("probability", "binary")
PAIRS = ("adjacent", "far")
LOSSES = ("binary", "bradley_terry")
OWN = "own"  # the reward model that the run trains on what its policy writes
KEPT = 0.5  # verdicts from here on count as kept, where they count as 0 or 1


def constraints(
    rollouts: Rollouts,
    task: Task,
    *,
    scorer: str = "mixed",
    aggregation: str = "mean",
    soft: str = "probability",
    constraint_model: VerdictModel | None = None,
    **training: Any,
) -> Detailed:
    """How many of its constraints an answer keeps: rules for hard ones, a trained model for soft ones.

    A prompt without a constraint that counts, as one with soft ones only under `rules`, gives 0 to all its
    completions and so teaches nothing. `training` says how the run trains its own model (`labelling`).

    Numbers: hard, soft, kind/<kind> (mean verdicts), level/<k> (mean reward of prompts with k constraints).
    """
    asked = [constraints_of(row) for row in rollouts.rows]
    owners = [b // rollouts.G for b in range(rollouts.B)]
    answers = answers_of(rollouts)
    verdicts = _verdicts(rollouts, task, asked, answers, scorer, constraint_model)
    if soft == "binary":
        verdicts = [[None if v is None else float(v >= KEPT) for v in row] for row in verdicts]
    values = [total([v for v in row if v is not None], aggregation) for row in verdicts]
    known = [shares(asked[p], row) for p, row in zip(owners, verdicts, strict=True)]
    levels = [{f"level/{len(asked[p])}": value} for p, value in zip(owners, values, strict=True)]
    numbers = known_means(known) | known_means(levels)
    numbers.pop("constraints", None)  # their mean is the reward itself
    return Detailed(
        rollouts.logprobs_BT.new_tensor(values).view(rollouts.P, rollouts.G),
        numbers,
        [_note(asked[p], row) for p, row in zip(owners, verdicts, strict=True)],
    )


def total(verdicts: Sequence[float], aggregation: str) -> float:
    """The reward of one answer from its verdicts; 0 where there is none.

    mean: their mean; all: 1 where each is at least 1/2, else 0; product: their product.
    """
    if not verdicts:
        return 0.0
    if aggregation == "all":
        return float(min(verdicts) >= KEPT)
    return math.prod(verdicts) if aggregation == "product" else sum(verdicts) / len(verdicts)


def _verdicts(
    rollouts: Rollouts,
    task: Any,
    asked: Sequence[Sequence[Constraint]],
    answers: Sequence[str | None],
    scorer: str,
    model: VerdictModel | None,
) -> list[list[float | None]]:
    """One list for each completion: a verdict for each constraint, None where it does not count."""
    found: list[list[float | None]] = []
    open_places: list[tuple[int, int]] = []  # (completion, constraint) left to the model
    for b, answer in enumerate(answers):
        p = b // rollouts.G
        rules = _ruled(task, rollouts.rows[p], asked[p], answer or "", scorer)
        if answer is None:
            found.append([None if r is None and scorer == "rules" else 0.0 for r in rules])
            continue
        found.append([None if rule is None else float(rule) for rule in rules])
        if scorer != "rules":
            open_places += [(b, i) for i, rule in enumerate(rules) if rule is None]
    if open_places and model is None:
        raise WorkbenchError(
            "The reward 'constraints' has soft constraints to judge and no constraint reward model; train "
            "one (labelling.fit), give its folder as reward_model, or use scorer 'rules'."
        )
    if open_places and model is not None:
        texts = [asked[b // rollouts.G][i].text for b, i in open_places]
        judged = model.verdicts(texts, [answers[b] or "" for b, _ in open_places])
        for (b, i), verdict in zip(open_places, judged, strict=True):
            found[b][i] = verdict
    return found


def _ruled(
    task: Any, row: Row, asked: Sequence[Constraint], answer: str, scorer: str
) -> list[bool | None]:
    """What rules say of each constraint; None where they can't tell, or where the model judges all.

    A gold answer is no constraint that a model could read, so a rule judges it always.
    """
    light = [one.kind in LIGHT for one in asked]
    if scorer == "model" and not any(light):
        return [None] * len(asked)
    rules = task.rules(row, answer)
    return [
        rule if gold or scorer != "model" else None for gold, rule in zip(light, rules, strict=True)
    ]


def _note(asked: Sequence[Constraint], verdicts: Sequence[float | None]) -> str:
    """The verdicts of one answer as a line: "mood 0.93, count 1"."""
    parts = [
        f"{constraint.kind} {'–' if verdict is None else f'{verdict:.2g}'}"
        for constraint, verdict in zip(asked, verdicts, strict=True)
    ]
    return ", ".join(parts)
