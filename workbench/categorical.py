"""A world of one question with a few answers, where every anchor's optimum and pull is a finite sum.

A policy is a softmax over A answers (axis A), so nothing is hidden by sampling or by the network: `optimum`
is the best policy in closed form, `train` is gradient ascent under the mean gradient that the row really has,
or under one estimated from draws. `zoo` compares the estimators of the KL in value and in gradient.

Everything is exact for one state. Completions of many tokens add what the anchors' docstrings say about the
states that follow. Numpy only; formulas of sage.md sections 2 and 4, derived, checked in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from workbench.variants import WorkbenchError, lookup

Array = NDArray[np.float64]

# Row -> what it is; `optimum` and `train` know these.
ROWS = {
    "none": "no anchor",
    "k1": "reverse_kl, estimator k1 in the loss",
    "k2": "reverse_kl, estimator k2 in the loss",
    "exact": "reverse_kl, exact",
    "k3": "reverse_kl, estimator k3 in the loss",
    "forward_kl": "forward_kl, exact",
    "sage": "sage, released form: k3 against q * reference",
    "faithful": "sage, faithful form: reverse KL to q * reference",
}
NOISELESS = ("exact", "forward_kl")  # these sum over all answers also when the reward is sampled


@dataclass(frozen=True)
class World:
    """Answers of one question: which are right, how likely under the reference, and a guide's q."""

    right_A: NDArray[np.bool_]
    reference_A: Array
    q_A: Array

    @property
    def mass(self) -> float:
        """Z: the sum of q * reference."""
        return float((self.q_A * self.reference_A).sum())

    @property
    def tilted_A(self) -> Array:
        """q * reference, normalised."""
        return self.q_A * self.reference_A / self.mass


def make_world(answers: int = 24, right: int = 8, spread: float = 1.5, seed: int = 1) -> World:
    """Log-normal reference probabilities, likeliest first; q rises from 0.6 to 1.4 with their rarity.

    In training q is computed anew from the current policy; here it stays fixed, as theory has it.
    """
    if not 0 < right < answers:
        raise WorkbenchError(f"right is {right} of {answers} answers; give at least 1 and not all.")
    generator = np.random.default_rng(seed)
    reference_A = -np.sort(-np.exp(spread * generator.standard_normal(answers)))
    right_A = np.zeros(answers, dtype=bool)
    right_A[generator.choice(answers, right, replace=False)] = True
    return World(right_A, reference_A / reference_A.sum(), np.linspace(0.6, 1.4, answers))


# ------------------------------------------------------------------ what is best


def optimum(row: str, world: World, beta: float) -> Array:
    """The policy that maximises E[right] - beta * the divergence which `row` really descends.

    Without an anchor (and with k1 in the loss, which is none in the mean) every policy on right answers is
    best; given is the limit of a vanishing reverse KL, the reference restricted to the right answers.
    """
    lookup(ROWS, "row", row)
    if beta <= 0 or row in ("none", "k1"):
        kept_A = world.reference_A * world.right_A
        return kept_A / kept_A.sum()
    if row in ("k2", "exact"):
        return _reverse_optimum(world.right_A, world.reference_A, beta)
    if row in ("k3", "forward_kl"):
        return _forward_optimum(world.right_A, world.reference_A, beta)
    if row == "faithful":
        return _reverse_optimum(world.right_A, world.tilted_A, beta)
    return _forward_optimum(world.right_A, world.tilted_A, beta * world.mass)


def _reverse_optimum(right_A: NDArray[np.bool_], anchor_A: Array, beta: float) -> Array:
    """anchor * exp(right / beta), normalised: among right answers the anchor's proportions stay."""
    weights_A = anchor_A * np.exp((right_A - 1.0) / beta)  # less 1: no overflow at small beta
    return weights_A / weights_A.sum()


def _forward_optimum(right_A: NDArray[np.bool_], anchor_A: Array, beta: float) -> Array:
    """beta * anchor / (lambda - right), lambda > 1 such that it sums to 1."""
    wrong = anchor_A[~right_A].sum()
    level = ((1 + beta) + np.sqrt((1 + beta) ** 2 - 4 * beta * wrong)) / 2
    return beta * anchor_A / (level - right_A)


# ------------------------------------------------------------------ what training does


def coefficients(row: str, policy_A: Array, world: World) -> Array:
    """c(a) such that the gradient of the penalty of a drawn answer a is c(a) * grad log policy(a)."""
    lookup(ROWS, "row", row)
    d_A = np.log(world.reference_A) - np.log(policy_A)
    if row in ("k2", "exact"):
        return -d_A
    if row in ("k3", "forward_kl"):
        return 1 - np.exp(d_A)
    if row == "sage":
        return 1 - world.q_A * np.exp(d_A)
    if row == "faithful":
        return -d_A - np.log(world.q_A)
    return np.full_like(policy_A, 1.0 if row == "k1" else 0.0)


def mean_gradient(coefficients_A: Array, policy_A: Array) -> Array:
    """E over answers of c(a) * d log policy(a) / d logits."""
    return policy_A * (coefficients_A - policy_A @ coefficients_A)


def train(
    row: str,
    world: World,
    beta: float,
    *,
    steps: int = 2_000,
    rate: float = 1.0,
    draws: int = 0,
    seed: int = 0,
) -> Array:
    """Policies of gradient ascent from the reference, (steps + 1, A).

    With `draws` = 0 each step follows the exact mean gradient. Otherwise that many answers are drawn at each
    step, and the reward (less the mean of the others, as in rloo) and the anchor see only these.
    """
    generator = np.random.default_rng(seed)
    logits_A = np.log(world.reference_A)
    path = [world.reference_A]
    for _ in range(steps):
        policy_A = path[-1]
        penalty_A = beta * coefficients(row, policy_A, world)
        if draws:
            gain_A = _sampled(world, policy_A, penalty_A, row, draws, generator)
        else:
            gain_A = mean_gradient(world.right_A - penalty_A, policy_A)
        logits_A = logits_A + rate * gain_A
        path.append(softmax(logits_A))
    return np.stack(path)


def _sampled(
    world: World, policy_A: Array, penalty_A: Array, row: str, draws: int, generator: np.random.Generator
) -> Array:  # fmt: skip
    """The gradient that `draws` answers give; rows that need no draws keep their exact pull."""
    counts_A = generator.multinomial(draws, policy_A / policy_A.sum())
    rewards_A = world.right_A.astype(float)
    if draws > 1:
        mean = counts_A @ rewards_A / draws
        rewards_A = (rewards_A - mean) * draws / (draws - 1)
    exact_A = mean_gradient(-penalty_A, policy_A) if row in NOISELESS else 0.0
    sampled_A = counts_A / draws * (rewards_A - (0.0 if row in NOISELESS else penalty_A))
    return sampled_A - policy_A * sampled_A.sum() + exact_A


def softmax(logits_A: Array) -> Array:
    """exp(logits), normalised; floored so that its logarithm exists."""
    weights_A = np.exp(logits_A - logits_A.max()).clip(1e-300)
    return weights_A / weights_A.sum()


# ------------------------------------------------------------------ what a policy is worth


def accuracy(policy_A: Array, world: World) -> float:
    """Probability of a right answer: pass@1."""
    return float(policy_A[world.right_A].sum())


def pass_at_k(policy_A: Array, world: World, k: int) -> float:
    """Probability that at least one of `k` draws is right."""
    return float(1 - (1 - accuracy(policy_A, world)) ** k)


def coverage(policy_A: Array, world: World, k: int) -> float:
    """Share of the right answers that are found within `k` draws, in the mean.

    This is pass@k over unseen questions of which each accepts one of these answers only.
    """
    return float((1 - (1 - policy_A[world.right_A]) ** k).mean())


def entropy(policy_A: Array) -> float:
    """In nats."""
    return float(-xlogy(policy_A, policy_A).sum())


def reverse_kl(policy_A: Array, anchor_A: Array) -> float:
    """KL(policy || anchor), in nats."""
    return float((xlogy(policy_A, policy_A) - xlogy(policy_A, anchor_A)).sum())


# ------------------------------------------------------------------ the estimator zoo

ESTIMATORS = ("k1", "k2", "k3")


@dataclass(frozen=True)
class Estimator:
    """An estimator of KL(policy || reference) from one draw, and its gradients in the mean.

    `slip` compares a mean gradient with the reverse KL's: |difference| / |reverse KL's gradient|.
    """

    name: str
    value: float
    bias: float
    deviation: float  # of one draw
    loss_gradient_A: Array
    reward_gradient_A: Array
    loss_slip: float
    reward_slip: float


def zoo(policy_A: Array, reference_A: Array) -> list[Estimator]:
    """Each estimator's exact bias and spread in value, and what it does as loss and as reward."""
    d_A = np.log(reference_A) - np.log(policy_A)
    true = reverse_kl(policy_A, reference_A)
    true_gradient_A = mean_gradient(-d_A, policy_A)
    slopes = {"k1": np.ones_like(d_A), "k2": -d_A, "k3": 1 - np.exp(d_A)}
    found = []
    for name in ESTIMATORS:
        values_A = estimate(name, policy_A, reference_A)
        mean = float(policy_A @ values_A)
        gradients = [mean_gradient(c_A, policy_A) for c_A in (slopes[name], values_A)]
        size = np.linalg.norm(true_gradient_A)
        slips = [float(np.linalg.norm(g_A - true_gradient_A) / size) for g_A in gradients]
        spread = float(np.sqrt(policy_A @ (values_A - mean) ** 2))
        found.append(Estimator(name, mean, mean - true, spread, *gradients, *slips))
    return found


def estimate(name: str, policy_A: Array, reference_A: Array) -> Array:
    """The estimator's value at each answer."""
    d_A = np.log(reference_A) - np.log(policy_A)
    values = {"k1": -d_A, "k2": d_A**2 / 2, "k3": np.exp(d_A) - d_A - 1}
    return lookup(values, "estimator", name)


def batch_estimates(
    name: str, policy_A: Array, reference_A: Array, draws: int, repeats: int = 2_000, seed: int = 0
) -> Array:
    """The estimator's mean over `draws` answers, drawn anew `repeats` times."""
    values_A = estimate(name, policy_A, reference_A)
    counts = np.random.default_rng(seed).multinomial(draws, policy_A, size=repeats)
    return counts @ values_A / draws
