"""Cards of the scribes: what they were made from, and how often they keep what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.evaluation import EVAL_SEED
from workbench.models import load_policy
from workbench.rewards.verifiable import well_formed
from workbench.rollout import sample
from workbench.tasks import make_task
from workbench.tasks.base import known_means
from workbench.tasks.demands import HELD_OUT, KINDS, SOFT, note
from workbench.tasks.instructions import constraints_of, rungs
from workbench.tiny.advice_card import markdown_table, write_card
from workbench.tiny.scribes import SCRIBES

PROMPTS, SAMPLES = 128, 16
MAX_NEW_TOKENS = 48  # no demonstration is longer

TEMPLATE = """\
---
license: apache-2.0
library_name: transformers
---

# {name}

A Llama of 0.8 million parameters, pretrained from nothing on lines written under constraints, such as
`<think>glad 7 words</think>the golden wave sits and fern goes.` It plans which constraints to heed, forgets
some, and writes a line that keeps most of what it planned. It knows nothing else.

Made by `{command}`; the same command gives the same weights on the same
machine.

## The demonstrators

They heed each constraint with probability {heed:g} and forget the others; the plan names what they heed,
and the line keeps all of that and is drawn at random otherwise. Prompts have 0 to 7 constraints of all
thirteen kinds.

## Measured on held-out prompts, temperature 1

{prompts} prompts with 1 to 5 constraints of the kinds that training sees, {samples} samples each; weights
as trained, and in NF4 with double quantisation.

{table}

constraints: kept, by truth. instructions: all constraints of the prompt kept. planned: constraints that the
plan names. planned and kept: of these, how many the line keeps. well-formed: one plan, a line, and an end.

How often a constraint of each kind is kept where it is asked for (p) and by the same model where it is not
yet (q), on chains of five, held-out kinds among them; weights as trained:

{kinds}
"""


def write_scribe_card(
    folder: Path, name: str, seed: int, steps: int, prompts: int = PROMPTS, samples: int = SAMPLES
) -> None:
    """Measure the scribe in `folder`, and write measured.json and README.md beside its weights."""
    policies = {q: load_policy(str(folder), quantize=q) for q in ("none", "nf4")}
    figures: dict[str, Any] = {q: measure_scribe(p, prompts, samples) for q, p in policies.items()}
    figures["kinds"] = kept_by_kind(policies["none"], prompts, max(1, samples // 4))
    some = list(figures["none"])
    text = TEMPLATE.format(
        name=name,
        command=f"workbench pretrain {name} --seed {seed} --steps {steps}",
        heed=SCRIBES[name].heed,
        prompts=prompts,
        samples=samples,
        table=markdown_table(
            ["weights", *some], [[q, *(f"{figures[q][key]:.3f}" for key in some)] for q in policies]
        ),
        kinds=markdown_table(
            ["kind", "", "p", "q"],
            [
                [kind, _what(kind), *(f"{figures['kinds'][kind][key]:.3f}" for key in ("p", "q"))]
                for kind in KINDS
                if kind in figures["kinds"]
            ],
        ),
    )
    write_card(folder, figures, text)


def _what(kind: str) -> str:
    return ("soft" if kind in SOFT else "hard") + (", held out" if kind in HELD_OUT else "")


def measure_scribe(policy: Any, prompts: int = PROMPTS, samples: int = SAMPLES) -> dict[str, float]:
    """What the policy plans and keeps on the held-out prompts; the numbers of the card's first table."""
    task = make_task("instructions")
    rows = list(task.dataset("eval"))[:prompts]
    rollouts = sample(
        policy,
        [task.messages(row) for row in rows],
        rows=rows,
        group_size=samples,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=EVAL_SEED,
    )
    parts = [
        _of_one(task, rows[b // samples], text, cut)
        for b, (text, cut) in enumerate(
            zip(rollouts.completions, rollouts.truncated_B.tolist(), strict=True)
        )
    ]
    length = float(rollouts.lengths_B.float().mean())
    return {
        key: round(value, 4) for key, value in (known_means(parts) | {"length": length}).items()
    }


def _of_one(task: Any, row: dict[str, Any], completion: str, cut: bool) -> dict[str, float]:
    kept = task.truths(row, task.answer(completion))
    plan = f" {completion.partition('<think>')[2].partition('</think>')[0]} "
    planned = [f" {note(one)} " in plan for one in constraints_of(row)]
    both = [k for k, p in zip(kept, planned, strict=True) if p]
    found = {
        "constraints": np.mean(kept),
        "instructions": float(all(kept)),
        "planned": np.mean(planned),
        **({"planned and kept": np.mean(both)} if both else {}),
        "well-formed": float(well_formed(completion) and not cut),
    }
    return {key: float(value) for key, value in found.items()}


def kept_by_kind(policy: Any, chains: int, samples: int) -> dict[str, dict[str, float]]:
    """Kind -> p and q: how often an answer keeps such a constraint, asked for and one rung before."""
    task = make_task("instructions", kinds="all")
    rows: Sequence[dict[str, Any]] = task.whole_chains("eval")[:chains]
    asked = [(row, rung, text) for row in rows for rung, text in enumerate(rungs(row))]
    rollouts = sample(
        policy,
        [task.messages({"prompt": text}) for *_, text in asked],
        group_size=samples,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=EVAL_SEED,
    )
    found: dict[str, dict[str, list[bool]]] = {}
    for p, (row, rung, _) in enumerate(asked):
        for text in rollouts.texts_of(p):
            kept = task.truths(row, task.answer(text))
            for side, place in (("p", rung - 1), ("q", rung)):
                if 0 <= place < len(kept):
                    kind = row["instruction_id_list"][place]
                    found.setdefault(kind, {"p": [], "q": []})[side].append(kept[place])
    return {
        kind: {side: round(float(np.mean(each)), 4) for side, each in sides.items()}
        for kind, sides in found.items()
    }
