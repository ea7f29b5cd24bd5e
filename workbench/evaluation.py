"""Evaluation: unbiased pass@k on fixed held-out prompts, with bootstrap intervals over prompts.

The prompts are the first rows of the eval split, and the samples come from a fixed seed, so that two
evaluations differ only by the weights. A task that knows no right answers is sampled all the same, without
pass@k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.crossing import CrossGeneration as CrossGeneration
from workbench.crossing import cross_generation as cross_generation
from workbench.models import Policy
from workbench.rollout import Rollouts, sample
from workbench.support import Support as Support
from workbench.support import support_counts as support_counts
from workbench.tasks import make_task
from workbench.tasks.base import known_means, knows_truth
from workbench.variants import WorkbenchError

EVAL_SEED = 20_240_501
BOOTSTRAP = 2_000  # resamples of the prompts for an interval
ROWS = 4_096  # completions decoded together


@dataclass(frozen=True)
class Evaluation:
    """Successes of each prompt and what follows from them."""

    samples: int
    successes_P: np.ndarray  # empty for a task that knows no right answers, and so is pass_at
    pass_at: dict[int, float]  # k -> unbiased pass@k, every k from 1 to samples
    low: dict[int, float]  # 95 % bootstrap interval over prompts
    high: dict[int, float]
    entropy: float  # nats a token
    length: float  # tokens
    truncated: float  # share of completions cut at the limit
    measures: dict[str, float] = field(default_factory=dict)  # means of what else the task can tell
    kept: tuple[Rollouts, ...] = field(default=(), repr=False)  # what `keep` asked for, in parts

    def metrics(self) -> dict[str, float]:
        """eval/pass@k with /low and /high for k = 1, 2, 4, … and samples; eval/entropy, /length, …"""
        found: dict[str, float] = {}
        for k in self._shown():
            found[f"eval/pass@{k}"] = self.pass_at[k]
            found[f"eval/pass@{k}/low"] = self.low[k]
            found[f"eval/pass@{k}/high"] = self.high[k]
        found["eval/entropy"] = self.entropy
        found["eval/length"] = self.length
        found["eval/truncated"] = self.truncated
        return found | {f"eval/{name}": value for name, value in self.measures.items()}

    def _shown(self) -> list[int]:
        return shown_ks(self.samples) if self.pass_at else []

    def __str__(self) -> str:
        if not self.pass_at:
            return (
                f"No right answers are known; entropy {self.entropy:.3f}, length {self.length:.1f}"
            )
        lines = [f"{len(self.successes_P)} prompts, {self.samples} samples each, 95 % intervals"]
        lines += [
            f"  pass@{k:<4} {self.pass_at[k]:.3f}  [{self.low[k]:.3f}, {self.high[k]:.3f}]"
            for k in self._shown()
        ]
        return "\n".join(lines)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that k samples drawn from n, c of them right, hold a right one: unbiased pass@k.

    1 - C(n - c, k) / C(n, k), as a product to stay exact for large n (Chen et al. 2021, arXiv 2107.03374).
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise WorkbenchError(
            f"pass_at_k needs 0 <= c <= n and 1 <= k <= n; got n={n}, c={c}, k={k}."
        )
    return float(_pass_table(n)[c, k - 1])


def _pass_table(n: int) -> np.ndarray:
    """pass@k for every c (rows, 0..n) and k (columns, 1..n)."""
    c = np.arange(n + 1)[:, None]
    drawn = np.arange(n)[None, :]  # samples drawn before this one
    still_wrong = np.clip((n - c - drawn) / (n - drawn), 0.0, 1.0)
    return 1.0 - np.cumprod(still_wrong, axis=1)


def pass_at_every_k(
    successes_P: np.ndarray, samples: int, seed: int = 0
) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
    """Mean pass@k over prompts for k = 1..samples with its 95 % bootstrap interval: mean, low, high."""
    per_prompt_PK = _pass_table(samples)[successes_P]
    prompts = len(successes_P)
    draws_RP = np.random.default_rng(seed).multinomial(
        prompts, np.full(prompts, 1 / prompts), size=BOOTSTRAP
    )
    means_RK = draws_RP @ per_prompt_PK / prompts
    low_K, high_K = np.quantile(means_RK, [0.025, 0.975], axis=0)
    ks = range(1, samples + 1)
    return (
        dict(zip(ks, per_prompt_PK.mean(0).tolist(), strict=True)),
        dict(zip(ks, low_K.tolist(), strict=True)),
        dict(zip(ks, high_K.tolist(), strict=True)),
    )


def shown_ks(samples: int) -> list[int]:
    """1, 2, 4, … up to `samples`, and `samples` itself."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return powers if powers[-1] == samples else [*powers, samples]


def evaluate(
    policy: Policy,
    task: Any,
    *,
    rows: Sequence[dict[str, Any]] | None = None,
    prompts: int = 64,
    samples: int = 64,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = EVAL_SEED,
    keep: tuple[int, int] = (0, 0),
) -> Evaluation:
    """pass@k of `policy` on the first `prompts` rows of the task's eval split; none without `knows_truth`.

    Args:
        task: a task, or its name with default parameters.
        rows: problems to use instead of the eval split.
        samples: completions of each prompt (n); pass@k is given for every k up to n.
        temperature: of the samples that are judged.
        keep: how many prompts, and how many completions of each, to keep: the first ones, which are the
            same each time. None of them unless asked for.
    """
    task = make_task(task) if isinstance(task, str) else task
    found = task.dataset("eval") if rows is None else rows
    rows = [found[i] for i in range(min(prompts, len(found)))]
    at_once = max(1, ROWS // samples)
    parts = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    truth = knows_truth(task)
    successes: list[int] = []
    measured: list[dict[str, float]] = []
    kept: list[Rollouts] = []
    wanted = keep[0] if keep[1] else 0
    tokens = entropy = cut = 0.0
    for number, part in enumerate(parts):
        rollouts = sample(
            policy,
            [task.messages(row) for row in part],
            rows=part,
            group_size=samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed + number,
        )
        for place, row in enumerate(part):
            texts = rollouts.completions[place * samples : (place + 1) * samples]
            if truth:
                successes.append(sum(task.score(row, text) >= 1.0 for text in texts))
            if hasattr(task, "measures"):
                measured += [task.measures(row, text) for text in texts]
        if wanted > 0:
            kept.append(rollouts.first(min(keep[1], samples), wanted))
            wanted -= kept[-1].P
        tokens += float(rollouts.mask_BT.sum())
        entropy += float(rollouts.entropies_BT.sum())
        cut += float(rollouts.truncated_B.sum())
    successes_P = np.array(successes, dtype=int)
    mean, low, high = pass_at_every_k(successes_P, samples) if truth else ({}, {}, {})
    count = len(rows) * samples
    return Evaluation(
        samples, successes_P, mean, low, high, entropy / max(tokens, 1), tokens / count, cut / count,
        known_means(measured), tuple(kept),
    )  # fmt: skip
