"""What came of crossing thinkers with answerers: the matrix, gains, win rates and the heat map. No torch.

A thinkers and controls, B answerers, P questions, S samples of each (thoughts times answers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import gains
from workbench.crossmap import heat_map
from workbench.gains import Array, Decomposition, Estimate, Prefer
from workbench.tasks.base import after_thinking
from workbench.variants import lookup

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Row = dict[str, Any]
Texts = list[list[str]]  # of each question, each sample


@dataclass(frozen=True, eq=False)
class CrossGeneration:
    """S(a, b) of every thinker with every answerer, sample by sample; the controls are the last thinkers."""

    thinkers: tuple[str, ...]  # A names, NONE and OTHER the last two
    answerers: tuple[str, ...]  # B names
    scores_ABPS: Array
    rows: list[Row]  # P problems
    completions: dict[tuple[str, str], Texts] = field(
        repr=False
    )  # (thinker, answerer) -> P x S texts
    unclosed: dict[str, int]  # thinker -> thoughts that never closed, and were closed by force

    def scores(self, thinker: str, answerer: str) -> Array:
        """The scores of one pair, (P, S)."""
        lookup(dict.fromkeys(self.thinkers), "thinker", thinker)
        lookup(dict.fromkeys(self.answerers), "answerer", answerer)
        return self.scores_ABPS[self.thinkers.index(thinker), self.answerers.index(answerer)]

    def mean(self, thinker: str, answerer: str) -> float:
        """S(a, b)."""
        return float(self.scores(thinker, answerer).mean())

    def interval(self, thinker: str, answerer: str) -> tuple[float, float]:
        """The 95 % bootstrap interval of S(a, b) over questions: low, high."""
        found = gains.mean_score(self.scores(thinker, answerer))
        return found.low, found.high

    def matrix(self) -> pd.DataFrame:
        """S(a, b): a row for each thinker, a column for each answerer."""
        import pandas as pd

        means_AB = self.scores_ABPS.mean((2, 3))
        return pd.DataFrame(means_AB, index=self.thinkers, columns=self.answerers)

    def thinking_gain(self, pre: str, post: str, answerer: str) -> Estimate:
        """dT(b) = S(post, b) - S(pre, b): what the better thoughts are worth to one answerer."""
        return gains.gain(self.scores(post, answerer), self.scores(pre, answerer))

    def answer_gain(self, pre: str, post: str, thinker: str) -> Estimate:
        """dA(a) = S(a, post) - S(a, pre): what the better answers to the same thoughts are worth."""
        return gains.gain(self.scores(thinker, post), self.scores(thinker, pre))

    def decomposition(self, pre: str, post: str) -> Decomposition:
        """S(post, post) - S(pre, pre) as dT(pre) + dA(pre) + interaction."""
        pairs = ((pre, pre), (pre, post), (post, pre), (post, post))
        return gains.decomposition(*(self.scores(*pair) for pair in pairs))

    def win_rate(
        self, first: tuple[str, str], second: tuple[str, str], prefer: Prefer | None = None
    ) -> Estimate:
        """How often the first (thinker, answerer) beats the second, ties half, paired by question.

        The scores that are at hand judge each answer alone, so they know no order. With
        `prefer(row, first, second) -> 0..1` pairs of answers, without their thoughts, are judged instead,
        each pair twice with the order swapped.
        """
        scores = self.scores(*first), self.scores(*second)
        if prefer is None:
            return gains.win_rate(*scores)
        answers = [
            [[after_thinking(text) for text in texts] for texts in self.completions[pair]]
            for pair in (first, second)
        ]
        return gains.preferred(prefer, self.rows, *answers)

    def figure(self, theme: str = "light") -> go.Figure:
        """The matrix as a heat map with intervals; `theme` is "light" or "dark"."""
        numbers_AB3 = np.array(
            [[(e.value, e.low, e.high) for e in row] for row in self._estimates()]
        )
        right_or_wrong = bool(np.isin(self.scores_ABPS, (0.0, 1.0)).all())
        score = "accuracy" if right_or_wrong else "mean score"
        parts = np.moveaxis(numbers_AB3, -1, 0)
        return heat_map(self.thinkers, self.answerers, *parts, score=score, theme=theme)

    def __str__(self) -> str:
        import pandas as pd

        table = pd.DataFrame(self._estimates(), index=self.thinkers, columns=self.answerers)
        questions, samples = self.scores_ABPS.shape[2:]
        head = f"{questions} questions, {samples} samples each, 95 % intervals over questions"
        return f"{head}; rows think, columns answer\n{table.astype(str).to_string()}"

    def _estimates(self) -> list[list[Estimate]]:
        return [
            [gains.mean_score(self.scores(a, b)) for b in self.answerers] for a in self.thinkers
        ]
