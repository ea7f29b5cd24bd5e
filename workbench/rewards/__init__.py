"""The table of rewards, and the one place where they are computed and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.rewards import learned, verifiable
from workbench.rewards.intrinsic import INTRINSIC
from workbench.variants import Param, Variant, WorkbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.rollout import Rollouts
    from workbench.tasks.base import Task

REWARDS: dict[str, Variant] = {
    "correct": Variant(
        verifiable.correct,
        formula=r"r = \mathbb{1}[\text{checker accepts the answer}]",
        source="the task's own checker",
        bounds=(0.0, 1.0),
    ),
    "format": Variant(
        verifiable.format_,
        formula=r"r = \mathbb{1}[\text{<think>…</think>answer, ended}]",
        source="DeepSeek-AI 2025, DeepSeek-R1 (arXiv 2501.12948); alone, a control as in 2506.10947",
        bounds=(0.0, 1.0),
    ),
    "length": Variant(
        verifiable.length,
        formula=r"r = 1 - T / T_{max}",
        source="LP of arXiv 2603.16578, -T, up to scale and shift [name and direction B, formula D]",
        bounds=(0.0, 1.0),
        pressure=("down", "none"),
    ),
    "overlong": Variant(
        verifiable.overlong,
        formula=(
            r"\begin{gathered}r=\mathrm{clip}\Big(\frac{T_{max}-T_{buf}-T}{T_{buf}},-1,0\Big)"
            r"\\ T_{buf}=T_{max}/5;\ r=-1\text{ if cut off}\end{gathered}"
        ),
        source="Yu et al. 2025, DAPO (arXiv 2503.14476), eq. 13, soft overlong punishment (literal)",
        bounds=(-1.0, 0.0),
        pressure=("down", "none"),
    ),
    "learned": Variant(
        learned.learned,
        formula=r"r = \mathrm{RM}(\text{question},\ \text{answer without the thinking})",
        source="START (arXiv 2603.20799): reward on the answer alone [A]; malformed: lowest of its group [D]",
        params=(
            Param(
                "reward_model",
                "reward-shortcut",
                "reward-shortcut, reward-fair, a folder, or a classifier's name on the hub.",
            ),
            Param(
                "squash",
                "none",
                "The score as it is, or its sigmoid, from 0 to 1.",
                choices=learned.SQUASHES,
            ),
        ),
        bounds=learned.bounds,
    ),
} | INTRINSIC


def compute(
    functions: Mapping[str, Callable[..., Any]], rollouts: Rollouts, task: Task
) -> dict[str, Tensor]:
    """Evaluate each reward on the rollouts: name -> values_PG, float32, finite.

    Raises:
        WorkbenchError: naming the reward that raised, or returned a wrong shape or a non-finite value.
    """
    return {name: _checked(name, f, rollouts, task) for name, f in functions.items()}


def _checked(name: str, function: Callable[..., Any], rollouts: Rollouts, task: Task) -> Tensor:
    try:
        values = function(rollouts, task)
    except WorkbenchError:
        raise
    except Exception as error:
        raise WorkbenchError(
            f"Reward {name!r} raised {type(error).__name__}: {error}; "
            f"the first completion of its batch was {rollouts.completions[0][:200]!r}."
        ) from error
    wanted = (rollouts.P, rollouts.G)
    shape = tuple(getattr(values, "shape", ()))
    if shape != wanted:
        got = f"shape {shape}" if shape else repr(type(values).__name__)
        raise WorkbenchError(
            f"Reward {name!r} returned {got}; return a tensor of shape {wanted} (prompts, group)."
        )
    values_PG = rollouts.logprobs_BT.new_tensor(values.tolist())
    for index, value in enumerate(values_PG.flatten().tolist()):
        if not math.isfinite(value):
            raise WorkbenchError(
                f"Reward {name!r} is {value} for the completion "
                f"{rollouts.completions[index][:200]!r}; return a finite number."
            )
    return values_PG
