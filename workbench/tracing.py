"""Take a probe: sample a fixed set of prompts with fixed noise, and keep what the geometry looks at.

The noise is the same at every step, so two probes differ only by the weights. Training is not touched: a
run with probes has the weights of the run without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.models import Policy
from workbench.probe import ProbeTrace
from workbench.rewards.intrinsic import NO_ANSWER, answer_clusters
from workbench.rollout import sample
from workbench.tasks.base import knows_truth

PROBE_SEED = 20_240_401


def trace(
    policy: Policy,
    task: Any,
    rows: Sequence[dict[str, Any]],
    *,
    step: int,
    samples: int,
    max_new_tokens: int,
    seed: int = PROBE_SEED,
) -> ProbeTrace:
    """The responses of `policy` to `rows`, `samples` each, at temperature 1.

    Answers that the task takes for the same are given by one of their texts; a completion that was cut off,
    or that the checker can't read, has none. Correctness is the checker's; None where it knows no truth.
    """
    rollouts = sample(
        policy,
        [task.messages(row) for row in rows],
        rows=list(rows),
        group_size=samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    lengths = rollouts.lengths_B.tolist()
    entropies_BT = rollouts.entropies_BT.double().cpu().numpy()
    answers: list[str | None] = []
    for prompt, numbers in enumerate(answer_clusters(rollouts, task)):
        texts = [task.answer(text) for text in rollouts.texts_of(prompt)]
        answers += [None if n == NO_ANSWER else texts[numbers.index(n)] for n in numbers]
    owners = [b // samples for b in range(rollouts.B)]
    correct = None
    if knows_truth(task):
        texts = zip(owners, rollouts.completions, strict=True)
        correct = [float(task.score(rows[p], text) >= 1.0) for p, text in texts]
    return ProbeTrace.of(
        step,
        owners,
        [row_T[:length] for row_T, length in zip(entropies_BT, lengths, strict=True)],
        (~rollouts.truncated_B).cpu().numpy(),
        answers,
        correct,
    )
