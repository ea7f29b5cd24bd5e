"""Population weights as Bernstein coefficients: the one idea behind every objective that counts successes.

A group of n rollouts with success probability p has K successes. An estimator that sees the group only
through K follows, in expectation, w(p) times the gradient of p, and

    w(p) = sum_{m=0}^{n-1} beta_m B_{m,n-1}(p),    B_{m,n-1}(p) = C(n-1, m) p^m (1-p)^(n-1-m).

So an objective is a vector of n coefficients: beta_m is the weight of one success when m of the n - 1 other
rollouts succeed too. Giving each success beta_{K-1} / n estimates w exactly (*direct*, n = G); giving each
rollout its RLOO advantage times beta_{K-1} does so with advantages that sum to zero (*zero-sum*, n = G - 1).

The representation is theorem 2.1 of RL2ML (Zheng 2026, arXiv 2605.30154) as others cite it; the paper's body
was not accessible, so the families below are derived here, and the tests prove each by enumeration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from workbench.variants import WorkbenchError


def _cached(function: Callable[[int, float], np.ndarray]) -> Callable[[int, float], np.ndarray]:
    """Remember results; they are read-only, since every caller gets the same array."""

    @functools.lru_cache(256)
    @functools.wraps(function)
    def call(n: int, parameter: float) -> np.ndarray:
        found = function(n, parameter)
        found.flags.writeable = False
        return found

    return call


@_cached
def gamma_ratio(n: int, alpha: float) -> np.ndarray:
    """Coefficients (n) of the truncated p^-alpha: w(p) = sum_{k<n} (alpha)_k / k! (1-p)^k, alpha > -1.

    beta_m = prod_{j=m+1}^{n-1} (j + alpha) / j. alpha 0 is REINFORCE, 1 is MaxRL.
    """
    j = np.arange(1, n)
    return np.append(np.cumprod(((j + alpha) / j)[::-1])[::-1], 1.0)


@_cached
def power_ratio(n: int, alpha: float) -> np.ndarray:
    """Coefficients (n) of the plain power family: beta_m = (n / (m + 1))^alpha."""
    return (n / np.arange(1, n + 1)) ** alpha


@_cached
def geometric_sum(n: int, ratio: float) -> np.ndarray:
    """Coefficients (n) of w(p) = sum_{k<n} (ratio (1-p))^k; ratio 0 is REINFORCE, 1 is MaxRL.

    beta_m = sum_{k <= n-1-m} ratio^k C(n-1-m, k) / C(n-1, k).
    """
    failures = np.arange(n - 1, -1, -1.0)  # of the n - 1 others, when m succeed
    drawn = np.arange(n - 1.0)
    shares_MK = np.clip(failures[:, None] - drawn, 0, None) / (n - 1 - drawn)
    terms_MK = np.cumprod(ratio * shares_MK, axis=1)
    return 1.0 + terms_MK.sum(1)


def elevate(beta: tuple[float, ...], n: int) -> np.ndarray:
    """The same polynomial w(p) with n >= len(beta) coefficients, exactly (degree elevation)."""
    found = np.asarray(beta, dtype=np.float64)
    if n < len(found):
        raise WorkbenchError(
            f"A weight drawn with {len(found)} handles needs as many rollouts to be estimated; "
            f"this estimator has {n} to use. Raise group_size or draw it with fewer handles."
        )
    for size in range(len(found), n):
        share = np.arange(size + 1) / size
        found = share * np.append(0.0, found) + (1 - share) * np.append(found, 0.0)
    return found


def weight(beta: np.ndarray, p: np.ndarray | float) -> np.ndarray:
    """w(p) of the coefficients, by de Casteljau's averages: stable for any degree and p in [0, 1]."""
    p_X = np.asarray(p, dtype=np.float64)[..., None]
    found = np.broadcast_to(np.asarray(beta, dtype=np.float64), (*p_X.shape[:-1], len(beta)))
    while found.shape[-1] > 1:
        found = (1 - p_X) * found[..., :-1] + p_X * found[..., 1:]
    return found[..., 0]
