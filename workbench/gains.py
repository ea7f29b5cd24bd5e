"""What Cross-Generation says: means, gains of thinking and answering, win rates; intervals over questions.

Scores come as (P, S): P questions, and S samples of each (thoughts times answers to one thought). Samples
of a question are alike, so an interval resamples questions and keeps each one's samples together; what is
compared is compared on the same questions. The gains are the working definition of the START note
(arXiv 2603.20799 names the evaluation [A] and win rates [B]; the formulas are derived, [D]).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.variants import WorkbenchError

RESAMPLES = 2_000  # of the questions, for an interval
Array = NDArray[np.float64]
Prefer = Callable[[dict[str, Any], str, str], float]


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (f"{round(x, 3) + 0.0:.3f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"  # + 0.0: no -0.000


@dataclass(frozen=True)
class Decomposition:
    """S(post, post) - S(pre, pre) and the three parts that add up to it."""

    total: Estimate
    thinking: (
        Estimate  # S(post, pre) - S(pre, pre): the gain of thinking, with the initial answerer
    )
    answering: (
        Estimate  # S(pre, post) - S(pre, pre): the gain of answering, after the initial thoughts
    )
    interaction: Estimate  # what the two are worth together beyond both alone

    def __str__(self) -> str:
        parts = ("total", "thinking", "answering", "interaction")
        return "\n".join(f"{name:<12} {getattr(self, name)}" for name in parts)


@functools.lru_cache(8)
def draws(questions: int) -> Array:
    """How often each question is in each resample, (RESAMPLES, P); the same at every call.

    So figures on the same questions share their resamples: their intervals are paired.
    """
    chances = np.full(questions, 1 / questions)
    drawn_RP = (
        np.random.default_rng(0).multinomial(questions, chances, size=RESAMPLES).astype(float)
    )
    drawn_RP.setflags(write=False)
    return drawn_RP


def estimate(values_P: Array) -> Estimate:
    """Mean of one value a question, and the percentile interval of its mean over resampled questions."""
    values_P = np.asarray(values_P, float)
    if values_P.ndim != 1 or not len(values_P) or not np.isfinite(values_P).all():
        raise WorkbenchError(
            "An interval needs one finite number for each of one or more questions."
        )
    means_R = draws(len(values_P)) @ values_P / len(values_P)
    low, high = np.quantile(means_R, [0.025, 0.975])
    return Estimate(float(values_P.mean()), float(low), float(high))


def mean_score(scores_PS: Array) -> Estimate:
    """S(a, b): the mean score of one thinker's thoughts with one answerer."""
    return estimate(_means(scores_PS))


def gain(after_PS: Array, before_PS: Array) -> Estimate:
    """Mean of after less before, paired by question.

    The thinking gain dT(b) where only the thinker differs, the answer gain dA(a) where only the answerer.
    """
    _check_questions(after_PS, before_PS)
    return estimate(_means(after_PS) - _means(before_PS))


def decomposition(
    pre_pre_PS: Array, pre_post_PS: Array, post_pre_PS: Array, post_post_PS: Array
) -> Decomposition:
    """S(post, post) - S(pre, pre) = dT(pre) + dA(pre) + interaction; names give thinker, then answerer."""
    scores = (pre_pre_PS, pre_post_PS, post_pre_PS, post_post_PS)
    for scores_PS in scores[1:]:
        _check_questions(scores_PS, pre_pre_PS)
    neither_P, answer_P, thought_P, both_P = map(_means, scores)
    return Decomposition(
        total=estimate(both_P - neither_P),
        thinking=estimate(thought_P - neither_P),
        answering=estimate(answer_P - neither_P),
        interaction=estimate(both_P - thought_P - answer_P + neither_P),
    )


def win_rate(first_PS: Array, second_PS: Array) -> Estimate:
    """Chance that a sample of the first scores above one of the second, ties half; 0.5: equally good.

    Every pair of a question's samples is compared. A judge that scores each answer alone knows no order, so
    there is none to swap; for one that compares two answers see `preferred`.
    """
    _check_questions(first_PS, second_PS)
    first_PS1, second_P1S = np.asarray(first_PS)[:, :, None], np.asarray(second_PS)[:, None, :]
    won_PSS = (first_PS1 > second_P1S) + 0.5 * (first_PS1 == second_P1S)
    return estimate(won_PSS.mean((1, 2)))


def preferred(
    prefer: Prefer,
    rows: Sequence[dict[str, Any]],
    first: Sequence[Sequence[str]],
    second: Sequence[Sequence[str]],
) -> Estimate:
    """Win rate by a judge of pairs, asked twice, the second time with the order swapped.

    Args:
        prefer: `prefer(row, first, second)`, from 1 (the first is better) to 0; 0.5 is a tie.
        rows: P problems.
        first: P x S answers; sample s of the first meets sample s of the second.
    """
    if not len(rows) == len(first) == len(second):
        raise WorkbenchError(
            f"A win rate needs the same questions twice; got {len(rows)} questions, {len(first)} and "
            f"{len(second)} lists of answers."
        )
    shares = []
    for row, ours, theirs in zip(rows, first, second, strict=True):
        if not ours or len(ours) != len(theirs):
            raise WorkbenchError(
                f"A judge of pairs needs as many answers on both sides; got {len(ours)} and {len(theirs)}."
            )
        pairs = zip(ours, theirs, strict=True)
        asked = [(_asked(prefer, row, a, b), _asked(prefer, row, b, a)) for a, b in pairs]
        shares.append(np.mean([0.5 * (given + (1 - swapped)) for given, swapped in asked]))
    return estimate(np.array(shares))


def _asked(prefer: Prefer, row: dict[str, Any], first: str, second: str) -> float:
    value = float(prefer(row, first, second))
    if not 0 <= value <= 1:
        raise WorkbenchError(
            f"The judge of pairs gave {value}; return 1 where the first is better, 0 where the second is."
        )
    return value


def _means(scores_PS: Array) -> Array:
    """Each question's mean over its samples."""
    return np.asarray(scores_PS, float).mean(1)


def _check_questions(one_PS: Array, two_PS: Array) -> None:
    if len(one_PS) != len(two_PS):
        raise WorkbenchError(
            f"A comparison needs the same questions twice; got {len(one_PS)} and {len(two_PS)} of them."
        )
