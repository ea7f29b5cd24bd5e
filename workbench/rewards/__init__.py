"""The table of rewards, and the one place where they are computed and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.rewards import constraints, learned, verifiable
from workbench.rewards.intrinsic import INTRINSIC
from workbench.rewards.verifiable import Detailed
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
    "constraints": Variant(
        constraints.constraints,
        formula=(
            r"\begin{gathered}r=\frac{1}{k}\sum_{i=1}^{k}r_i\\"
            r"r_i=\text{rule, or }\mathrm{softmax}(f(c_i,o))_1\end{gathered}"
        ),
        source="arXiv 2508.02150, read for 2510.14420 (literal); all, product, binary: options of ours [D]",
        params=(
            Param(
                "scorer",
                "mixed",
                "Who judges: rules and model, rules alone, or the model alone.",
                choices=constraints.SCORERS,
            ),
            Param(
                "aggregation",
                "mean",
                "From verdicts to a reward: mean, all kept or not, product.",
                choices=constraints.AGGREGATIONS,
            ),
            Param(
                "soft",
                "probability",
                "The model's verdict as it is, or 0 and 1 at one half.",
                choices=constraints.SOFT,
            ),
            Param(
                "reward_model",
                constraints.OWN,
                "own: trained in the run on what its policy writes; or the folder of a trained one.",
            ),
            Param(
                "pairs",
                "adjacent",
                "Pseudo-labels: rung k against k - 1, or against every rung below.",
                choices=constraints.PAIRS,
            ),
            Param(
                "loss",
                "binary",
                "How the own model learns: kept or not, or which of two is better.",
                choices=constraints.LOSSES,
            ),
            Param(
                "refresh_every",
                0,
                "Steps after which the own model is trained anew; 0 keeps the first.",
                low=0,
                high=100_000,
            ),
        ),
        bounds=(0.0, 1.0),
        needs=("constraint_model",),
    ),
} | INTRINSIC


class Computed(NamedTuple):
    """Rewards on a batch, and what they say beyond their values."""

    values: dict[str, Tensor]  # name -> values_PG, float32, finite
    numbers: dict[str, float]  # <reward>/<name> -> number
    notes: dict[str, list[str]]  # name -> a line for each completion


def compute(
    functions: Mapping[str, Callable[..., Any]], rollouts: Rollouts, task: Task
) -> dict[str, Tensor]:
    """Evaluate each reward on the rollouts: name -> values_PG, float32, finite.

    Raises:
        WorkbenchError: naming the reward that raised, or returned a wrong shape or a non-finite value.
    """
    return compute_detailed(functions, rollouts, task).values


def compute_detailed(
    functions: Mapping[str, Callable[..., Any]], rollouts: Rollouts, task: Task
) -> Computed:
    """As `compute`, with the further numbers and notes of the rewards that have some."""
    found = Computed({}, {}, {})
    for name, function in functions.items():
        returned = _called(name, function, rollouts, task)
        detailed = returned if isinstance(returned, Detailed) else Detailed(returned)
        found.values[name] = _checked(name, detailed.values_PG, rollouts)
        found.numbers.update({f"{name}/{key}": float(v) for key, v in detailed.numbers.items()})
        if detailed.notes is not None:
            found.notes[name] = [str(line) for line in detailed.notes]
            if len(found.notes[name]) != rollouts.B:
                raise WorkbenchError(
                    f"Reward {name!r} returned {len(found.notes[name])} notes; return one for each of the "
                    f"{rollouts.B} completions."
                )
    return found


def _called(name: str, function: Callable[..., Any], rollouts: Rollouts, task: Task) -> Any:
    try:
        return function(rollouts, task)
    except WorkbenchError:
        raise
    except Exception as error:
        raise WorkbenchError(
            f"Reward {name!r} raised {type(error).__name__}: {error}; "
            f"the first completion of its batch was {rollouts.completions[0][:200]!r}."
        ) from error


def _checked(name: str, values: Any, rollouts: Rollouts) -> Tensor:
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
