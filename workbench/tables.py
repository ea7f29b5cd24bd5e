"""Batches of rollouts and probes as Parquet tables, which pandas reads too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from workbench.pieces import pieces
from workbench.probe import ProbeTrace
from workbench.rollout import Rollouts
from workbench.tasks.base import knows_truth
from workbench.trainer import Report, State
from workbench.variants import WorkbenchError

# Columns of numbers per token, kept in half the space.
FLOATS = ("logprobs", "entropies", "advantages", "log_ratios", "guides")


def write_parquet(table: pa.Table, target: Path) -> Path:
    """Write a table whole or not at all, making its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, target)
    return target


def probe_table(*traces: ProbeTrace) -> pa.Table:
    """Probes, one row per response."""
    parts = [trace.to_dict() for trace in traces]
    columns: dict[str, list[Any]] = {
        name: [x for part in parts for x in part[name] or [None] * len(part["answers"])]
        for name in ("prompts", "entropies", "ended", "answers", "correct", "lengths")
    }
    steps = [trace.step for trace in traces for _ in trace.answers]
    kinds = {"entropies": pa.list_(pa.float32()), "answers": pa.string(), "correct": pa.float32()}
    arrays = {name: pa.array(values, type=kinds.get(name)) for name, values in columns.items()}
    return pa.table({"step": steps} | arrays)


def read_probes(file: Path) -> list[ProbeTrace]:
    """The probes in a file of `probe_table`, in order of step."""
    found = pq.read_table(file).to_pandas()
    return [
        ProbeTrace.of(
            int(step),
            rows["prompts"],
            list(rows["entropies"]),
            rows["ended"],
            [None if pd.isna(answer) else answer for answer in rows["answers"]],
            None if rows["correct"].isna().any() else rows["correct"],
            rows["lengths"],
        )
        for step, rows in found.groupby("step")
    ]


def rollout_table(report: Report, state: State) -> pa.Table:
    """One row per completion: texts, rewards, advantage and the series of its tokens."""
    rollouts = report.rollouts
    rewards = {f"reward/{name}": values for name, values in report.rewards.items()}
    last = {"reward/total": report.total_PG, "advantage": report.advantages_PG}
    series = {
        "logprobs": rollouts.logprobs_BT,
        "entropies": rollouts.entropies_BT,
        "thinking": report.thinking_BT,
        "trained": report.trained_BT,
        **report.series,
    }
    return _table(
        _texts(report.step, rollouts, state.task)
        | {name: values_PG.flatten().tolist() for name, values_PG in rewards.items()}
        | {f"note/{name}": lines for name, lines in report.notes.items()}
        | {name: values_PG.flatten().tolist() for name, values_PG in last.items()}
        | _tokens(rollouts, state.policy.tokenizer)
        | _series(rollouts, series)
    )


def held_out_table(kept: Sequence[Rollouts], state: State) -> pa.Table:
    """The completions that an evaluation kept, in the columns of `rollout_table` that it knows."""
    columns: dict[str, list[Any]] = {}
    prompts = 0
    for rollouts in kept:
        found = _texts(state.step, rollouts, state.task, prompts)
        if knows_truth(state.task):
            rows = [rollouts.rows[b // rollouts.G] for b in range(rollouts.B)]
            pairs = zip(rows, rollouts.completions, strict=True)
            found["reward/correct"] = [state.task.score(row, text) for row, text in pairs]
        found |= _tokens(rollouts, state.policy.tokenizer)
        series = {"logprobs": rollouts.logprobs_BT, "entropies": rollouts.entropies_BT}
        for name, values in (found | _series(rollouts, series)).items():
            columns.setdefault(name, []).extend(values)
        prompts += rollouts.P
    return _table(columns)


def _texts(step: int, rollouts: Rollouts, task: Any, before: int = 0) -> dict[str, list[Any]]:
    """Prompts and completions, and what the checker sees in these; `before` counts the prompts before."""
    owners = [b // rollouts.G for b in range(rollouts.B)]
    columns = {
        "step": [step] * rollouts.B,
        "prompt_index": [before + owner for owner in owners],
        "prompt": [rollouts.prompts[owner] for owner in owners],
        "completion": rollouts.completions,
        "answer": [task.answer(text) for text in rollouts.completions],
    }
    if hasattr(task, "explain"):
        pairs = zip(owners, rollouts.completions, strict=True)
        columns["check"] = [task.explain(rollouts.rows[owner], text) for owner, text in pairs]
    return columns


def _tokens(rollouts: Rollouts, tokenizer: Any) -> dict[str, list[Any]]:
    lengths = rollouts.lengths_B.tolist()
    ids = rollouts.completion_ids_BT.tolist()
    return {
        "length": lengths,
        "truncated": rollouts.truncated_B.tolist(),
        "tokens": pieces(tokenizer, [row[:n] for row, n in zip(ids, lengths, strict=True)]),
    }


def _series(rollouts: Rollouts, series: dict[str, Tensor]) -> dict[str, list[Any]]:
    """Numbers per token, each completion's as long as it is."""
    lengths = rollouts.lengths_B.tolist()
    return {
        name: [row[:n] for row, n in zip(series_BT.tolist(), lengths, strict=True)]
        for name, series_BT in series.items()
    }


def _table(columns: dict[str, list[Any]]) -> pa.Table:
    """Columns as a table; explanations are left out where they say nothing at all."""
    silent = "check" in columns and not any(columns["check"])
    floats = pa.list_(pa.float32())
    return pa.table(
        {
            name: pa.array(values, type=floats if name in FLOATS else None)
            for name, values in columns.items()
            if not (silent and name == "check")
        }
    )


def read_rollouts(
    files: Sequence[Path], step: int | None = None, columns: list[str] | None = None
) -> pd.DataFrame:
    """The table of `step` among saved ones, by default of the last; of it only `columns`, if given."""
    found = {int(file.stem): file for file in files}
    if not found:
        raise WorkbenchError(
            "This run has saved no such completions yet; wait for its first step, or for its first "
            "evaluation for held-out ones."
        )
    if step is not None and step not in found:
        raise WorkbenchError(f"Step {step} has no saved rollouts; saved steps: {list(found)}.")
    chosen = max(found) if step is None else step
    try:
        return pd.read_parquet(found[chosen], columns=columns)
    except FileNotFoundError as error:
        raise WorkbenchError(
            f"The rollouts of step {chosen} are gone: the run was rewound; choose another step."
        ) from error
