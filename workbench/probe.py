"""What a checkpoint does on a fixed set of prompts: the raw material of the geometric diagnosis.

A probe trace holds, for every response, the entropy of each token, the length, whether an end was
reached, and the parsed answer. Correctness is kept beside them for evaluation only and may be missing:
whatever is computed without it is label-free. Plain numpy; whoever samples fills it.

Source: method note on "manifold envelopment" (arXiv 2603.16578), section 5.1. The paper's text was not
accessible: what is traced, and every quantity made of it, is a reconstruction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


NUMBERS = ("step", "entropy", "length", "truncated", "vote_share", "distinct", "accuracy")


@dataclass(frozen=True, eq=False)
class ProbeTrace:
    """The responses of one checkpoint; row b answers prompt `prompts_B[b]`.

    entropies: nats per token, an array (T,) for each response; resampled series will do as well.
    lengths_B: tokens. ended_B: whether the response came to an end of its own. answers: the parsed
    answer, None where there is none. correct_B: 1 or 0, or None for a trace without labels.
    Build it with `ProbeTrace.of`, which checks.
    """

    step: int
    prompts_B: NDArray[np.int64]
    entropies: tuple[Array, ...]
    lengths_B: NDArray[np.int64]
    ended_B: NDArray[np.bool_]
    answers: tuple[str | None, ...]
    correct_B: Array | None = None

    @classmethod
    def of(
        cls,
        step: int,
        prompts: ArrayLike,
        entropies: Sequence[ArrayLike],
        ended: ArrayLike,
        answers: Sequence[str | None],
        correct: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
    ) -> ProbeTrace:
        """A checked trace from arrays or lists; lengths default to those of the entropy series."""
        series = tuple(np.asarray(row, dtype=np.float64) for row in entropies)
        trace = cls(
            int(step),
            np.asarray(prompts, dtype=np.int64),
            series,
            np.asarray([len(row) for row in series] if lengths is None else lengths, np.int64),
            np.asarray(ended, dtype=np.bool_),
            tuple(None if answer is None else str(answer) for answer in answers),
            None if correct is None else np.asarray(correct, dtype=np.float64),
        )
        trace._check()
        return trace

    def _check(self) -> None:
        counts = {len(getattr(self, f.name)) for f in fields(self)[1:] if self._has(f.name)}
        if counts != {len(self.prompts_B)} or not len(self.prompts_B):
            raise WorkbenchError(
                f"A probe trace has {sorted(counts)} entries in its fields; give one of each per response."
            )
        if any(
            row.ndim != 1 or not len(row) or not np.isfinite(row).all() for row in self.entropies
        ):
            raise WorkbenchError(
                f"An entropy series at step {self.step} is empty or not finite; give one number of nats "
                "per token, the end token included."
            )
        if (self.lengths_B < 1).any():
            raise WorkbenchError(
                f"A response at step {self.step} has no token; count the end token."
            )

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    @property
    def mean_entropy(self) -> float:
        """Nats, mean over tokens: long responses weigh more, as in the training curves."""
        means_B = np.array([row.mean() for row in self.entropies])
        return float(means_B @ self.lengths_B / self.lengths_B.sum())

    @property
    def mean_length(self) -> float:
        """Tokens, mean over responses."""
        return float(self.lengths_B.mean())

    @property
    def truncated(self) -> float:
        """Share of responses without an end of their own."""
        return float(1 - self.ended_B.mean())

    @property
    def accuracy(self) -> float | None:
        """Mean correctness over responses, None without labels."""
        return None if self.correct_B is None else float(self.correct_B.mean())

    @property
    def vote_share(self) -> float:
        """Mean over prompts of the share of responses that give the most frequent answer.

        A missing answer has no vote but counts as a response. NaN where no prompt has two responses: a
        single response always agrees with itself.
        """
        shares = [
            max(Counter(a for a in group if a is not None).values(), default=0) / len(group)
            for group in self._groups()
        ]
        return float(np.mean(shares)) if shares else float("nan")

    @property
    def distinct_answers(self) -> float:
        """Mean over prompts of the number of different answers; no answer counts as one of them.

        NaN where no prompt has two responses.
        """
        counts = [len(set(group)) for group in self._groups()]
        return float(np.mean(counts)) if counts else float("nan")

    def numbers(self) -> dict[str, float]:
        """NUMBERS by name; without labels there is no accuracy."""
        values = (
            self.step, self.mean_entropy, self.mean_length, self.truncated,
            self.vote_share, self.distinct_answers, self.accuracy,
        )  # fmt: skip
        return {n: v for n, v in zip(NUMBERS, values, strict=True) if v is not None}

    def _groups(self) -> list[list[str | None]]:
        """The answers to each prompt that has two responses or more."""
        found: dict[int, list[str | None]] = {}
        for prompt, answer in zip(self.prompts_B.tolist(), self.answers, strict=True):
            found.setdefault(prompt, []).append(answer)
        return [group for group in found.values() if len(group) > 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "step": self.step,
            "prompts": self.prompts_B.tolist(),
            "entropies": [row.tolist() for row in self.entropies],
            "ended": self.ended_B.tolist(),
            "answers": list(self.answers),
            "correct": None if self.correct_B is None else self.correct_B.tolist(),
            "lengths": self.lengths_B.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProbeTrace:
        """The inverse of `to_dict`, checked again."""
        return cls.of(**data)


def columns_of(metrics: pd.DataFrame) -> dict[str, list[float]]:
    """The numbers of every probe as columns, from a run's metrics, whose index is the step."""
    known = [name for name in NUMBERS[1:] if f"probe/{name}" in metrics]
    if not known:
        return {"step": []}
    table = metrics[[f"probe/{name}" for name in known]].dropna(how="all")
    found = {name: table[f"probe/{name}"].tolist() for name in known}
    return {"step": table.index.tolist()} | found
