"""Model cards: what a tiny model was made from, and what it was measured to do."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from workbench.evaluation import EVAL_SEED, pass_at_every_k, shown_ks
from workbench.models import load_policy
from workbench.rollout import Rollouts, sample
from workbench.tasks import Task, make_task
from workbench.tiny.corpus import FAMILIES, Mixture

CARD, FIGURES = "README.md", "measured.json"
PROMPTS, SAMPLES = 224, 64
MAX_NEW_TOKENS = 64  # no demonstration is longer
SHORT = 7  # tokens; an arithmetic answer without a single step is no longer
_PROMPTS_AT_ONCE = 32

Figures = dict[str, dict[str, dict[str, Any]]]  # family -> quantisation -> what was measured

TEMPLATE = """\
---
license: apache-2.0
library_name: transformers
---

# {name}

A Llama of 0.8 million parameters, pretrained from nothing on made-up demonstrations of a few task
families. It is there to watch reinforcement learning move a language model within a minute, and
knows nothing else. Completions have the form `<think>steps</think>answer`.

Made by `{command}`; the same command gives the same weights on the same machine.

## The mixture of demonstrators

{mixture}

careful: right and short; rambling: hesitates, slips and starts again; guessing: no steps, an answer
out of habit.

## pass@k on held-out prompts, temperature 1

{prompts} prompts, {samples} samples each, the unbiased estimator; weights as trained, and in NF4
with double quantisation.

{passes}

## How the answers look

Correlations over all completions, weights as trained. Certainty is the mean log-prob of a
completion's tokens, brevity its length negated; short means at most {short} tokens.

{others}
"""


def measure(
    folder: Path, prompts: int = PROMPTS, samples: int = SAMPLES, *, progress: bool = True
) -> Figures:
    """Sample every family's held-out prompts at temperature 1, as trained and in NF4."""
    figures: Figures = {task.name: {} for task, *_ in FAMILIES}
    bar = tqdm(total=2 * len(figures), desc="measuring", unit="table", disable=not progress)
    for quantize in ("none", "nf4"):
        policy = load_policy(str(folder), quantize=quantize)
        for family, found in figures.items():
            found[quantize] = measure_task(policy, make_task(family), prompts, samples)
            bar.update()
    bar.close()
    return figures


def measure_task(policy: Any, task: Task, prompts: int, samples: int) -> dict[str, Any]:
    """pass@k, lengths, and how certainty and brevity go with being right."""
    rows = task.dataset("eval")
    rows = [rows[i] for i in range(min(prompts, len(rows)))]
    parts = []
    for start in range(0, len(rows), _PROMPTS_AT_ONCE):
        part = rows[start : start + _PROMPTS_AT_ONCE]
        rollouts = sample(
            policy,
            [task.messages(row) for row in part],
            rows=part,
            group_size=samples,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=EVAL_SEED + start,
        )
        parts.append(_per_completion(rollouts, task))
    right_B, certainty_B, length_B, cut_B = np.concatenate(parts, axis=1)
    right_PG = right_B.reshape(len(rows), samples)
    mean, low, high = pass_at_every_k((right_PG == 1).sum(1), samples)
    short_B = length_B <= SHORT
    return {
        "prompts": len(rows),
        "samples": samples,
        "pass@k": {str(k): round(mean[k], 4) for k in shown_ks(samples)},
        "pass@1 interval": [round(low[1], 4), round(high[1], 4)],
        "certainty and right": correlation(certainty_B, right_B),
        "brevity and right": correlation(-length_B, right_B),
        "certainty and right, within a prompt": correlation(*_centred(certainty_B, right_PG)),
        "brevity and right, within a prompt": correlation(*_centred(-length_B, right_PG)),
        "mean length": round(float(length_B.mean()), 2),
        "truncated": round(float(cut_B.mean()), 4),
        "share of short answers": round(float(short_B.mean()), 4),
        "short answers right": round(float(right_B[short_B].mean()), 4) if short_B.any() else None,
    }


def _per_completion(rollouts: Rollouts, task: Task) -> np.ndarray:
    """Four rows of B values: right or not, mean log-prob, length, truncated or not."""
    owners = [rollouts.rows[b // rollouts.G] for b in range(rollouts.B)]
    right = [
        float(task.score(row, text) >= 1.0)
        for row, text in zip(owners, rollouts.completions, strict=True)
    ]
    length_B = rollouts.lengths_B.numpy().astype(float)
    certainty_B = rollouts.logprobs_BT.sum(1).numpy() / length_B
    return np.stack([np.array(right), certainty_B, length_B, rollouts.truncated_B.numpy()])


def _centred(values_B: np.ndarray, right_PG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values_PG = values_B.reshape(right_PG.shape)
    return (
        (values_PG - values_PG.mean(1, keepdims=True)).ravel(),
        (right_PG - right_PG.mean(1, keepdims=True)).ravel(),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation; None where one of the two never varies."""
    if a.std() == 0 or b.std() == 0:
        return None
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


def write_card(
    folder: Path, name: str, mixture: Mixture, seed: int, steps: int, figures: Figures
) -> None:
    """Write the figures as JSON and the card as README.md into the model's folder."""
    (folder / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(_card(name, mixture, seed, steps, figures), encoding="utf-8")


def _card(name: str, mixture: Mixture, seed: int, steps: int, figures: Figures) -> str:
    some = next(iter(next(iter(figures.values())).values()))
    ks = list(some["pass@k"])
    shares = [[share, f"{value:.0%}"] for share, value in asdict(mixture).items()]
    passes = [
        [family, quantize, *(f"{found['pass@k'][k]:.3f}" for k in ks)]
        for family, rows in figures.items()
        for quantize, found in rows.items()
    ]
    names = [key for key in some if key not in ("prompts", "samples", "pass@k")]
    columns = [(family, rows["none"]) for family, rows in figures.items()]
    others = [[key, *(_shown(found[key]) for _, found in columns)] for key in names]
    return TEMPLATE.format(
        name=name,
        command=f"workbench pretrain {name} --seed {seed} --steps {steps}",
        mixture=_table(["demonstrator", "share"], shares),
        prompts=some["prompts"],
        samples=some["samples"],
        passes=_table(["task", "weights", *(f"pass@{k}" for k in ks)], passes),
        short=SHORT,
        others=_table(["", *(family for family, _ in columns)], others),
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)
