"""Separation: which tokens of a completion get gradient, its thinking, its answer, or both.

Row: ``f(thinking_BT, answer_BT, switched) -> trained_BT`` (bool). The thinking ends with the last
``</think>``, or with the token that completes it, which is part of it; the answer is every token after.
Rows with parameters have two stages; the parameters belong to the rule that ends the first one
(`switched`), not to the row's function.

With the answer regarded as the environment's noise, sum_t A grad log pi(thinking token t) is the policy
gradient of the thinking alone, so a masked answer is not a bias but another objective: START (Li, Pang, Yu
2026, arXiv 2603.20799). Evidence tags: [A] the paper's abstract, [B] a secondary digest, [D] derived here.

Everywhere below, "masked" tokens count nowhere: not in the surrogate, the aggregation's denominator, or an
anchor's penalty [D]. The weights are shared, so what is masked drifts all the same.

Tensors are used through their methods only, so that the table can be read without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.variants import Param, Variant, lookup

if TYPE_CHECKING:
    from torch import Tensor

THOUGHT_END = "</think>"
FLAT_EVALUATIONS = 2  # in a row that end the first stage


def joint(thinking_BT: Tensor, answer_BT: Tensor, switched: bool) -> Tensor:
    """Thinking and answer together, as plain training does."""
    return thinking_BT | answer_BT


def thinking_only(thinking_BT: Tensor, answer_BT: Tensor, switched: bool) -> Tensor:
    """The thinking alone, throughout: the first stage of START without its second."""
    return thinking_BT


def answer_only(thinking_BT: Tensor, answer_BT: Tensor, switched: bool) -> Tensor:
    """The answer alone, throughout: the control that can't improve the thinking directly."""
    return answer_BT


def start(thinking_BT: Tensor, answer_BT: Tensor, switched: bool) -> Tensor:
    """The thinking alone until the switch, then thinking and answer together.

    The first stage is [A]; that the second trains both, not the answer alone, is the better supported
    reading [B]. When it begins was not found: the rule and its defaults are [D].
    """
    return thinking_BT | answer_BT if switched else thinking_BT


def reversed_(thinking_BT: Tensor, answer_BT: Tensor, switched: bool) -> Tensor:
    """The answer alone until the switch, then thinking and answer together: START's order as a control.

    [D] "Reversed" might also mean the thinking alone in the second stage. This reading differs from START in
    the first stage only, so that a difference between the two runs is due to what came first.
    """
    return thinking_BT | answer_BT if switched else answer_BT


def thinking(closing_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The thinking of each completion, bool (B, T): up to and including its last token in `closing_BT`.

    A completion without one is all thinking: cut off inside its thought, it never came to an answer.
    """
    to_come_BT = closing_BT.flip(-1).cumsum(-1).flip(-1) > 0  # an end here or later
    return (to_come_BT | ~closing_BT.any(-1, keepdim=True)) & mask_BT


def malformed(completions: Sequence[str]) -> list[bool]:
    """Whether each text has ``</think>`` not exactly once, or nothing but whitespace after it.

    What the method asks of these is [D]: the lowest reward of their group, and their thinking trained.
    """
    found = []
    for text in completions:
        _, mark, answer = text.partition(THOUGHT_END)
        found.append(not mark or THOUGHT_END in answer or not answer.strip())
    return found


def switched(
    arguments: Mapping[str, Any], step: int, steps: int, switched_at: int | None = None
) -> bool:
    """Whether `step` (from 1, of `steps`) lies in the second stage; `arguments` are a row's, complete.

    By "share" the first stage is the first round(share * steps) steps, by "step" the first `step` ones; by
    "flat" it ends with the evaluation at which the score was found flat. Where it has ended already, its
    last step is `switched_at`, whatever the rule says now. A row without a rule has one stage, which never
    ends. [D]
    """
    rule = arguments.get("switch")
    if rule is not None and switched_at is not None:
        return step > switched_at
    if rule == "share":
        return step > round(arguments["share"] * steps)
    return rule == "step" and step > arguments["step"]


def flat_at(scores: Sequence[float], tolerance: float) -> int | None:
    """The place of the evaluation at which `scores` have been flat twice in a row, or None.

    An evaluation is flat when it is not above the best one before it by more than `tolerance`; the first
    has none before it.
    """
    flat, best = 0, None
    for place, score in enumerate(scores):
        rises = best is None or score > best + tolerance
        flat = 0 if rises else flat + 1
        if flat == FLAT_EVALUATIONS:
            return place
        best = score if best is None else max(best, score)
    return None


def stage(name: str, switched: bool) -> tuple[bool, bool]:
    """Whether separation `name` trains the thinking, and the answer, before or after the switch."""
    row: Any = lookup(SEPARATIONS, "separation", name)
    return row(True, False, switched), row(False, True, switched)


START = "Li, Pang, Yu 2026, START (arXiv 2603.20799)"

_SWITCH = (
    Param(
        "switch",
        "share",
        "What ends the first stage: a share of the run, a step, or a flat T_post + A_pre score.",
        choices=("share", "step", "flat"),
    ),
    Param("share", 0.5, "Share of the run's steps in the first stage.", low=0.0, high=1.0),
    Param("step", 50, "Steps in the first stage, where `switch` is step.", low=0),
    Param(
        "tolerance",
        0.01,
        "An evaluation is flat when it is not above the best so far by more than this; two flat ones in a "
        "row switch, where `switch` is flat.",
        low=0.0,
    ),
)

SEPARATIONS: dict[str, Variant] = {
    "joint": Variant(
        joint,
        formula=r"m_t=1",
        source="plain policy-gradient training",
    ),
    "thinking_only": Variant(
        thinking_only,
        formula=r"m_t=\mathbb{1}[t\le t_{\text{</think>}}]",
        source=f"{START}: its first stage alone, a control [D]",
    ),
    "answer_only": Variant(
        answer_only,
        formula=r"m_t=\mathbb{1}[t>t_{\text{</think>}}]",
        source=f"a control for {START} [D]",
    ),
    "start": Variant(
        start,
        formula=(
            r"m_t=\begin{cases}\mathbb{1}[t\le t_{\text{</think>}}]&\text{before the switch}"
            r"\\1&\text{after}\end{cases}"
        ),
        source=f"{START}: thinking first [A], then jointly [B]; the switch rule is [D]",
        params=_SWITCH,
    ),
    "reversed": Variant(
        reversed_,
        formula=(
            r"m_t=\begin{cases}\mathbb{1}[t>t_{\text{</think>}}]&\text{before the switch}"
            r"\\1&\text{after}\end{cases}"
        ),
        source=f"a control for {START}: answer first, then jointly [D]",
        params=_SWITCH,
    ),
}
