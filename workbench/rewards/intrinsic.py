"""Rewards without labels, from what `sample` recorded: no further forward pass, no gradient through them.

T is a completion's number of tokens, its end token included; p_t is the policy's whole next-token
distribution while sampling, at temperature 1 and in fp32 whatever the sampling settings, and H(p_t) its
entropy in nats. Answers of the initial model (`answerer`) are left out: they say nothing of the policy's
certainty, so T and the sums are over the policy's own tokens. None of the rows but `incorrect_majority`
looks at what is right.

The first four are those of arXiv 2603.16578, whose full text and code were not at hand: names and
directions are from summaries of it [B], the formulas are reconstructed [D]. Its length penalty, -T, is the
row `length` up to scale and shift, and the control "format only" is the row `format` by itself: neither
has a second row here. Tags of the other sources: [A] abstract, [C] source code read, [D] derived.

Rows that compare answers let the task say which are the same (`Task.same`). A completion that was cut off,
or whose answer the checker can't read, has no answer: it has no vote, and gets 0. The whole group votes;
where the recipe's `extra_votes` are sampled as well, they vote and are then dropped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.rewards.verifiable import correct
from workbench.variants import Param, Variant

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.rollout import Rollouts
    from workbench.tasks.base import Task

NO_ANSWER = -1  # the cluster number of a completion without an answer
_ROUNDING = 1e-9

# ------------------------------------------------------------------ certainty and length


def ent(rollouts: Rollouts, task: Task) -> Tensor:
    """Minus the entropy summed over the tokens: short and certain completions get more."""
    return _summed(rollouts, -rollouts.entropies_BT)


def avg_ent(rollouts: Rollouts, task: Task) -> Tensor:
    """Minus the mean entropy of a token: certain completions get more, whatever their length."""
    return ent(rollouts, task) / _lengths(rollouts)


def cre(rollouts: Rollouts, task: Task, *, order: int | str = 2) -> Tensor:
    """Minus the Renyi entropy summed over the tokens: short and certain completions get more.

    Sampling records the orders 1 (Shannon: the row `ent`), 2 (collisions) and "inf" (the likeliest token);
    any other would need the whole distribution of every token again, which is not kept.
    """
    recorded = {
        1: -rollouts.entropies_BT,
        2: rollouts.log_collisions_BT,
        "inf": rollouts.log_peaks_BT,
    }
    return _summed(rollouts, recorded[order])


def collision(rollouts: Rollouts, task: Task) -> Tensor:
    """Chance of drawing the same token twice, summed over the tokens: long and certain ones get more.

    Each certain token adds about 1, so it pays to go on to the limit.
    """
    return _summed(rollouts, rollouts.log_collisions_BT.exp())


def self_certainty(rollouts: Rollouts, task: Task) -> Tensor:
    """Mean over the tokens of KL(uniform || p): certain completions get more, whatever their length."""
    mean_PG = _summed(rollouts, rollouts.self_certainties_BT) / _lengths(rollouts)
    return mean_PG.clamp_min(0)  # rounding may leave a KL of 0 just below it


def sequence_logprob(rollouts: Rollouts, task: Task) -> Tensor:
    """Log-probability of the completion: short and likely ones get more."""
    return _summed(rollouts, rollouts.logprobs_BT)


# ------------------------------------------------------------------ agreement


def majority_vote(rollouts: Rollouts, task: Task) -> Tensor:
    """1 where the answer is the one that most completions of the prompt give, else 0.

    Of answers with equally many votes, the one that was sampled first wins; so where all differ, the first.
    """
    values = []
    for numbers in answer_clusters(rollouts, task):
        winner = majority(numbers)
        values.append([float(number == winner) for number in numbers])
    return rollouts.logprobs_BT.new_tensor(values)


def empo(rollouts: Rollouts, task: Task, *, guard: float = 1.0) -> Tensor:
    """Share of the prompt's completions that give the same answer; 0 where the group is too divided.

    A group gets 0 where the entropy of its answers reaches `guard` times log G; at 1, where no two agree.
    A completion without an answer gets 0, and counts in the entropy as an answer of its own [D].
    """
    values = []
    for numbers in answer_clusters(rollouts, task):
        count = Counter(numbers)
        sizes = [1 if n == NO_ANSWER else count[n] for n in numbers]
        # The mean over completions of -log(share) is the sum over clusters of -share * log(share).
        entropy = sum(math.log(len(numbers) / size) for size in sizes) / len(numbers)
        kept = entropy < guard * math.log(len(numbers)) - _ROUNDING
        shares = [count[n] / len(numbers) if n != NO_ANSWER and kept else 0.0 for n in numbers]
        values.append(shares)
    return rollouts.logprobs_BT.new_tensor(values)


# ------------------------------------------------------------------ controls


def random_(rollouts: Rollouts, task: Task, *, chance: float = 0.5) -> Tensor:
    """A coin for each completion, which knows nothing of it: a control.

    Thrown anew in each step, from the seed that the batch was drawn with.
    """
    coins = np.random.default_rng([rollouts.seed, 1]).random((rollouts.P, rollouts.G)) < chance
    return rollouts.logprobs_BT.new_tensor(coins.tolist())


def incorrect_majority(rollouts: Rollouts, task: Task) -> Tensor:
    """1 where the answer is the majority's and the majority is wrong, else 0: a control that sees labels.

    Where the majority is right, all get 0. The majority is right where the checker accepts any of it.
    """
    values = []
    truths = correct(rollouts, task).tolist()
    for numbers, truth in zip(answer_clusters(rollouts, task), truths, strict=True):
        winner = majority(numbers)
        right = any(t >= 1 for n, t in zip(numbers, truth, strict=True) if n == winner)
        values.append([float(number == winner and not right) for number in numbers])
    return rollouts.logprobs_BT.new_tensor(values)


# ------------------------------------------------------------------ clusters of answers


def answer_clusters(rollouts: Rollouts, task: Task) -> list[list[int]]:
    """Of each prompt, the cluster number of each completion's answer (see `cluster`)."""
    answers = [
        "" if cut else task.answer(text)
        for text, cut in zip(rollouts.completions, rollouts.truncated_B.tolist(), strict=True)
    ]
    starts = range(0, len(answers), rollouts.G)
    return [cluster(answers[start : start + rollouts.G], task.same) for start in starts]


def cluster(answers: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
    """The number of each answer's cluster, in order of appearance; NO_ANSWER for what can't be read.

    An answer joins the first cluster whose first answer is the same; one that is not the same as itself
    can't be read.
    """
    firsts: list[str] = []
    numbers: dict[str, int] = {}
    for answer in answers:
        if answer in numbers:
            continue
        if not same(answer, answer):
            numbers[answer] = NO_ANSWER
            continue
        found = (number for number, first in enumerate(firsts) if same(first, answer))
        numbers[answer] = next(found, len(firsts))
        if numbers[answer] == len(firsts):
            firsts.append(answer)
    return [numbers[answer] for answer in answers]


def majority(numbers: Sequence[int]) -> int | None:
    """The largest cluster, the earliest of equally large ones; None where nobody answered."""
    count = Counter(number for number in numbers if number != NO_ANSWER)
    return min(count, key=lambda number: (-count[number], number), default=None)


def _summed(rollouts: Rollouts, series_BT: Tensor) -> Tensor:
    """Sum over the policy's own tokens, (P, G)."""
    return (series_BT * rollouts.sampled_BT).sum(1).view(rollouts.P, rollouts.G)


def _lengths(rollouts: Rollouts) -> Tensor:
    return rollouts.sampled_BT.sum(1).view(rollouts.P, rollouts.G)


# ------------------------------------------------------------------ the rows

_MANIFOLD = "arXiv 2603.16578 [name and direction B, formula D]"

INTRINSIC: dict[str, Variant] = {
    "ent": Variant(
        ent,
        formula=r"r = -\sum_{t=1}^{T} H(p_t)",
        source=f"Ent of {_MANIFOLD}; reward of EM-RL-token, arXiv 2505.15134",
        bounds=(-math.inf, 0.0),
        pressure=("down", "up"),
    ),
    "avg_ent": Variant(
        avg_ent,
        formula=r"r = -\frac{1}{T} \sum_{t=1}^{T} H(p_t)",
        source=f"RENT, arXiv 2505.22660 [C]; AvgEnt of {_MANIFOLD}",
        bounds=(-math.inf, 0.0),
        pressure=("none", "up"),
    ),
    "cre": Variant(
        cre,
        formula=(
            r"\begin{gathered}r = -\sum_{t=1}^{T} H_a(p_t)"
            r"\\ H_a(p) = \tfrac{1}{1-a} \log \textstyle\sum_v p(v)^a\end{gathered}"
        ),
        source=f"cumulative Renyi entropy of {_MANIFOLD}; order 2 is a guess [D]",
        params=(
            Param("order", 2, "Order a: 1 is Shannon's entropy, inf the likeliest token's -log p.",
                  low=1, high=2, words=("inf",)),
        ),
        bounds=(-math.inf, 0.0),
        pressure=("down", "up"),
    ),
    "collision": Variant(
        collision,
        formula=r"r = \sum_{t=1}^{T} \sum_v p_t(v)^2",
        source=f"collision probability (CP) of {_MANIFOLD}",
        bounds=(0.0, math.inf),
        pressure=("up", "up"),
    ),
    "self_certainty": Variant(
        self_certainty,
        formula=r"r = \frac{1}{T} \sum_{t=1}^{T} KL(U \| p_t)",
        source="Intuitor, arXiv 2505.19590 [C]; its code leaves out the constant -log V",
        bounds=(0.0, math.inf),
        pressure=("none", "up"),
    ),
    "sequence_logprob": Variant(
        sequence_logprob,
        formula=r"r = \sum_{t=1}^{T} \log p_t(y_t)",
        source="EM-RL-sequence, arXiv 2505.15134 [formula D]",
        bounds=(-math.inf, 0.0),
        pressure=("down", "up"),
    ),
    "majority_vote": Variant(
        majority_vote,
        formula=r"r = \mathbb{1}[\text{answer} = \text{majority answer}]",
        source="TTRL, arXiv 2504.16084 [C]; first of equals and unread answers [D]",
        bounds=(0.0, 1.0),
        pressure=("none", "up"),
    ),
    "empo": Variant(
        empo,
        formula=r"r = |\text{own cluster}| / G,\ 0 \text{ where } H(\text{clusters}) \ge g \log G",
        source="EMPO, arXiv 2504.05812 [C], with the task's own equivalence; its guard is g = 1",
        params=(
            Param("guard", 1.0, "Share g of the largest entropy at which a group gets nothing.",
                  low=0.0, high=1.0),
        ),
        bounds=(0.0, 1.0),
        pressure=("none", "up"),
    ),
    "random": Variant(
        random_,
        formula=r"r \sim \mathrm{Bernoulli}(c)",
        source="Spurious Rewards, arXiv 2506.10947 [C]: c = 1/2",
        params=(Param("chance", 0.5, "Chance c of a 1.", low=0.0, high=1.0),),
        bounds=(0.0, 1.0),
        pressure=("none", "none"),
    ),
    "incorrect_majority": Variant(
        incorrect_majority,
        formula=r"r = \mathbb{1}[\text{answer} = \text{majority answer, which is wrong}]",
        source="Spurious Rewards, arXiv 2506.10947 [from names of its data]; all prompts stay in [D]",
        bounds=(0.0, 1.0),
        pressure=("none", "up"),
    ),
}  # fmt: skip
