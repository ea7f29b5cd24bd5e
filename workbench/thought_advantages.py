"""Several answers to each thought: one advantage for the thought, another for each answer.

After GRPO-MA (arXiv 2509.24494): drawing more answers to a thought lowers the variance of the thought's
advantage [A]. The formulas are derived, the paper's were not seen [D]; R_km is the reward of answer m to
thought k:

    V_k = mean_m R_km,   A(thought k) = objective(V_1 .. V_K)_k,   A(answer k, m) = objective(all R)_km.

With `rloo` both are unbiased. A thought's tokens stand in each of its M completions, and the loss divides by
G = K*M: their gradients add up to that of K completions. The answers' baseline holds the other answers to
the same thought; given the thoughts, they are independent of this one.

P prompts, K thoughts of each, M answers to each thought, G = K*M (row order: thought, then answer), B = P*G.
Tensors are used through their methods only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_over_answers(values_PG: Tensor, answers: int) -> Tensor:
    """The mean of each thought's `answers` values, (P, K)."""
    prompts, group = values_PG.shape
    # In fp64: means of the same numbers in another order are the same, not a rounding apart.
    mean_PK = values_PG.double().reshape(prompts, group // answers, answers).mean(-1)
    return mean_PK.to(values_PG.dtype)


def split_advantages(
    objective: Callable[..., Tensor], rewards_PG: Tensor, answers: int, **further_PG: Tensor
) -> tuple[Tensor, Tensor]:
    """Advantages of the answers and of the thoughts, both (P, G); the same tensor for one answer a thought.

    `objective` is f(rewards_PG, **further_PG) -> advantages_PG; it sees the thoughts as groups of K, with the
    mean over their answers of everything.
    """
    advantages_PG = objective(rewards_PG, **further_PG)
    if answers == 1:
        return advantages_PG, advantages_PG
    further_PK = {name: mean_over_answers(values, answers) for name, values in further_PG.items()}
    thoughts_PK = objective(mean_over_answers(rewards_PG, answers), **further_PK)
    return advantages_PG, thoughts_PK.repeat_interleave(answers, 1)


def token_advantages(
    advantages_PG: Tensor, thought_advantages_PG: Tensor, thinking_BT: Tensor
) -> Tensor:
    """Each token's advantage, (B, T): its thought's where it thinks; (B, 1) where the two are the same."""
    advantages_B1 = advantages_PG.reshape(-1, 1)
    thoughts_B1 = thought_advantages_PG.reshape(-1, 1)
    if bool((advantages_B1 == thoughts_B1).all()):
        return advantages_B1
    return thoughts_B1.where(thinking_BT, advantages_B1)
