"""Support: which prompts a model solves at all, before and after training; no torch.

Who gains pass@1 may lose prompts: those that only a lucky sample solved. The counts tell the two apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workbench.variants import WorkbenchError


@dataclass(frozen=True)
class Support:
    """Prompts by who solves them (Wu et al., arXiv 2507.14843); a ratio without a denominator is NaN."""

    preserved: int  # solved by the base and by the trained model
    expanded: int  # by the trained model only
    shrunk: int  # by the base only
    out: int  # by neither

    @property
    def srr(self) -> float:
        """Support retention: the share of what the base solves that is still solved."""
        return _ratio(self.preserved, self.preserved + self.shrunk)

    @property
    def ndr(self) -> float:
        """Net discovery: the share of what the trained model solves that the base does not."""
        return _ratio(self.expanded, self.preserved + self.expanded)

    @property
    def sds(self) -> float:
        """The harmonic mean of retention and discovery."""
        return _ratio(2 * self.srr * self.ndr, self.srr + self.ndr)

    @property
    def nscr(self) -> float:
        """Net change: expanded less shrunk, as a share of what either solves."""
        return _ratio(self.expanded - self.shrunk, self.preserved + self.expanded + self.shrunk)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def support_counts(
    base_successes_P: np.ndarray, trained_successes_P: np.ndarray, *, threshold: int = 0
) -> Support:
    """Prompts preserved, expanded, shrunk and out, of equally many samples of each model.

    A prompt counts as solved with more than `threshold` successes. With 0 of n samples right, a chance of
    success above `unseen(n)` is ruled out at 95 % only: two evaluations of one model differ as well, and
    that difference is the noise floor to compare with.
    """
    base_P, trained_P = np.asarray(base_successes_P), np.asarray(trained_successes_P)
    if base_P.shape != trained_P.shape:
        raise WorkbenchError(
            f"Support needs the same prompts twice; got {len(base_P)} and {len(trained_P)} of them."
        )
    base_P, trained_P = base_P > threshold, trained_P > threshold
    return Support(
        preserved=int((base_P & trained_P).sum()),
        expanded=int((~base_P & trained_P).sum()),
        shrunk=int((base_P & ~trained_P).sum()),
        out=int((~base_P & ~trained_P).sum()),
    )


def unseen(samples: int) -> float:
    """The chance of success that 0 of `samples` right still allows at 95 %: -ln(0.05) / n, at most 1."""
    return min(-math.log(0.05) / samples, 1.0)
