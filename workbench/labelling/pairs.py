"""Pseudo-labels: what a policy writes with a constraint in its prompt, against what it writes without.

The policy answers every rung x_0 .. x_n of a chain. The answer o_k, written with c_k asked for, is taken to
keep c_k; an answer o_{k-1}, written before c_k came, is taken not to. Nobody says so: with p the chance
that an answer written with the constraint keeps it and q that one without does, (p + 1 - q) / 2 of the
labels are right, and the best classifier gives p / (p + q) to what is kept and (1 - p) / (2 - p - q) to
what is not [derived].

Source: arXiv 2508.02150, adjacent rungs, soft constraints, responses of the policy (literal); k - 1 = 0 as
the bare seed, samples of each rung, malformed and cut answers left out, the far pairs, are ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.rewards.learned import answers_of
from workbench.rollout import sample
from workbench.tasks.instructions import constraints_of, is_hard, rungs

if TYPE_CHECKING:
    from workbench.models import Policy
    from workbench.tasks.base import Row

ROWS = 4_096  # completions decoded together


@dataclass(frozen=True)
class Pair:
    """Two answers and one constraint: `kept` is taken to keep it, `missed` not to. So labels balance."""

    chain: int
    kind: str
    constraint: str
    kept: str
    missed: str
    kept_truth: bool | None  # whether that is so; None where nobody knows
    missed_truth: bool | None

    @property
    def hard(self) -> bool:
        """Whether a rule can check the constraint."""
        return is_hard(self.kind)


@dataclass(frozen=True)
class Ladder:
    """A chain's last row, and the answers to each of its rungs, 0 to n; a list holds None where malformed."""

    number: int
    row: Row
    answers: list[list[str | None]]


def climb(
    policy: Policy, task: Any, rows: Sequence[Row], *, samples: int, max_new_tokens: int, seed: int
) -> list[Ladder]:
    """`samples` answers of the policy to every rung of each chain, at temperature 1."""
    prompts = [(number, text) for number, row in enumerate(rows) for text in rungs(row)]
    answers: list[list[str | None]] = []
    at_once = max(1, ROWS // samples)
    for part, start in enumerate(range(0, len(prompts), at_once)):
        asked = [task.messages({"prompt": text}) for _, text in prompts[start : start + at_once]]
        found = sample(
            policy, asked, group_size=samples, max_new_tokens=max_new_tokens, seed=seed + part
        )
        cut = found.truncated_B.tolist()
        whole = [None if c else a for a, c in zip(answers_of(found), cut, strict=True)]
        answers += [whole[i * samples : (i + 1) * samples] for i in range(found.P)]
    ladders, at = [], 0
    for number, row in enumerate(rows):
        count = len(row["constraint"]) + 1
        ladders.append(Ladder(number, row, answers[at : at + count]))
        at += count
    return ladders


def pairs_of(
    ladders: Iterable[Ladder], task: Any, *, far: bool = False, hard: bool = False, seed: int = 0
) -> list[Pair]:
    """The pairs of soft constraints; of `hard` ones too where asked for.

    Rung k stands against rung k - 1; with `far` every rung j < k stands against a drawn rung i >= k. Pairs
    with a malformed or cut answer, or with the same answer twice, are left out.
    """
    rng = random.Random(f"pairs/{seed}")
    found = []
    for ladder in ladders:
        for k, constraint in enumerate(constraints_of(ladder.row), 1):
            if is_hard(constraint.kind) and not hard:
                continue
            lower = range(k) if far else (k - 1,)
            for j in lower:
                i = rng.randint(k, len(ladder.answers) - 1) if far else k
                for kept, missed in zip(ladder.answers[i], ladder.answers[j], strict=True):
                    if kept is None or missed is None or kept == missed:
                        continue
                    truths = [task.truths(ladder.row, answer)[k - 1] for answer in (kept, missed)]
                    found.append(
                        Pair(ladder.number, constraint.kind, constraint.text, kept, missed, *truths)
                    )
    return found


def split_by_chain(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held out; all pairs of a chain are on one side."""
    chains = sorted({pair.chain for pair in pairs})
    held = set(random.Random(f"split/{seed}").sample(chains, round(share * len(chains))))
    return [p for p in pairs if p.chain not in held], [p for p in pairs if p.chain in held]
