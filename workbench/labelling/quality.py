"""How good a constraint reward model is: on held-out pairs, against truth where it is known, and on groups.

Measured here, and nowhere trained on:

accuracy       share of held-out pseudo-labels that the model agrees with, at one half
label_right    share of pseudo-labels that are true, of all pairs whose truth is known; p and q beside it
auc            chance that the model ranks a kept answer above a missed one by truth (ties half), soft pairs
auc_hard       the same on pairs of hard constraints, whose truth rules know for any text: the calibration set
swapped_gap    mean verdict with the answer's own constraint less that with one of another chain
tau            Kendall's tau-b between verdicts and truth on groups of answers that keep exactly 1 .. n of
               their constraints
position       share of answers in such groups whose rank is the true one, tied ones having no rank [the
               paper does not define its own]
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from workbench.labelling.pairs import Pair
from workbench.tasks.demands import SOFT, Constraint, keeps
from workbench.tasks.lines import Chain, compose, draw_chain

if TYPE_CHECKING:
    from workbench.rewards.verdicts import VerdictModel

SIDES = 2


def held_out_quality(
    judge: VerdictModel, held: Sequence[Pair], calibration: Sequence[Pair], seed: int = 0
) -> dict[str, float]:
    """The numbers of this module that pairs can tell; those without a pair, or without truth, are left out.

    `held`: pairs of the kind that was trained on, of other chains. `calibration`: pairs of hard constraints.
    """
    found: dict[str, float] = {}
    if held:
        kept, missed = _verdicts(judge, held)
        found["accuracy"] = float(np.mean(np.concatenate([kept > 0.5, missed <= 0.5])))
        others = _of_other_chains(held, seed)
        swapped = judge.verdicts([p.constraint for p in others], [p.kept for p in held])
        found["swapped_gap"] = float(kept.mean() - np.mean(swapped))
    for name, pairs in (("", [p for p in held if not p.hard]), ("_hard", list(calibration))):
        known = [p for p in pairs if p.kept_truth is not None and p.missed_truth is not None]
        if known:
            found |= {f"{key}{name}": value for key, value in label_quality(known).items()}
            truth = np.array([p.kept_truth for p in known] + [p.missed_truth for p in known])
            if 0 < truth.sum() < len(truth):
                found[f"auc{name}"] = auc(np.concatenate(_verdicts(judge, known)), truth)
    return found


def label_quality(pairs: Sequence[Pair]) -> dict[str, float]:
    """p, q and the share of pseudo-labels that are true."""
    p = float(np.mean([pair.kept_truth for pair in pairs]))
    q = float(np.mean([pair.missed_truth for pair in pairs]))
    return {"p": p, "q": q, "label_right": (p + 1 - q) / 2}


def auc(scores_N: np.ndarray, truth_N: np.ndarray) -> float:
    """The area under the ROC curve: the chance that a true one scores above a false one, ties half."""
    ranks_N = stats.rankdata(scores_N)
    true = int(truth_N.sum())
    above = ranks_N[truth_N.astype(bool)].sum() - true * (true + 1) / 2
    return float(above / (true * (len(truth_N) - true)))


def _verdicts(judge: VerdictModel, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    texts = [pair.constraint for pair in pairs]
    both = judge.verdicts(texts * SIDES, [p.kept for p in pairs] + [p.missed for p in pairs])
    return np.array(both[: len(pairs)]), np.array(both[len(pairs) :])


def _of_other_chains(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """For each pair one of another chain with another constraint, or itself where there is none."""
    rng = random.Random(f"swapped/{seed}")
    found = []
    for pair in pairs:
        others = (rng.choice(pairs) for _ in range(100))
        wanted = (o for o in others if o.chain != pair.chain and o.constraint != pair.constraint)
        found.append(next(wanted, pair))
    return found


# --- groups of the tiny world -----------------------------------------------------------------------


def soft_groups(count: int, seed: int = 0) -> list[tuple[Chain, list[str]]]:
    """Chains of the soft kinds that training sees, each with lines that keep exactly 1 .. n of them."""
    return _groups(count, seed, lambda rng: _soft_chain(rng))


def mixed_groups(count: int, seed: int = 0, length: int = 5) -> list[tuple[Chain, list[str]]]:
    """Chains as in training, hard and soft, each with lines that keep exactly 1 .. n constraints."""
    return _groups(count, seed, lambda rng: draw_chain(rng, "eval", length))


def _soft_chain(rng: random.Random) -> Chain:
    while True:
        chain = draw_chain(rng, "eval", 7)
        soft = tuple(c for c in chain.constraints if c.kind in SOFT)
        if len(soft) >= 4:
            return Chain(chain.seed, soft)


def _groups(count: int, seed: int, draw: Any) -> list[tuple[Chain, list[str]]]:
    rng = random.Random(f"groups/{seed}")
    found = []
    while len(found) < count:
        chain = draw(rng)
        lines = [
            keeping(chain.constraints, kept, rng) for kept in range(1, len(chain.constraints) + 1)
        ]
        if None not in lines:
            found.append((chain, [line or "" for line in lines]))
    return found


def keeping(
    constraints: Sequence[Constraint], kept: int, rng: random.Random, tries: int = 200
) -> str | None:
    """A line that keeps exactly `kept` of the constraints; None where none was found."""
    for _ in range(tries):
        line = compose(rng.sample(list(constraints), kept), rng)
        if line is not None and sum(keeps(c.kind, c.arguments, line) for c in constraints) == kept:
            return line
    return None


def group_quality(
    judge: VerdictModel, groups: Sequence[tuple[Chain, list[str]]], *, rules: bool = False
) -> dict[str, float]:
    """tau, position and seconds a group: each line scored by the mean verdict over its chain's constraints.

    With `rules` hard constraints are checked by rule, as the reward does; else the model judges all.
    """
    started = time.perf_counter()
    places = [
        (g, i, c)
        for g, (chain, lines) in enumerate(groups)
        for i in range(len(lines))
        for c in chain.constraints
    ]
    soft = [(g, i, c) for g, i, c in places if not (rules and c.kind not in SOFT)]
    verdicts = iter(
        judge.verdicts([c.text for *_, c in soft], [groups[g][1][i] for g, i, _ in soft])
    )
    totals = [np.zeros(len(lines)) for _, lines in groups]
    for g, i, c in places:
        by_rule = rules and c.kind not in SOFT
        totals[g][i] += keeps(c.kind, c.arguments, groups[g][1][i]) if by_rule else next(verdicts)
    seconds = (time.perf_counter() - started) / len(groups)
    truths = [np.arange(len(total)) for total in totals]
    taus = [
        stats.kendalltau(total, truth).statistic
        for total, truth in zip(totals, truths, strict=True)
    ]
    hits = [_in_place(total) for total in totals]
    return {
        "tau": float(np.mean(np.nan_to_num(taus))),
        "position": float(np.mean(hits)),
        "seconds": seconds,
    }


def _in_place(total_N: np.ndarray) -> float:
    """The share of scores that have the rank of their place and are tied with none."""
    places_N = np.arange(1, len(total_N) + 1)
    ranks = [stats.rankdata(total_N, method) for method in ("min", "max")]
    return float(np.mean((ranks[0] == places_N) & (ranks[1] == places_N)))
