"""Batches of rollouts and probes as Parquet tables, which pandas reads too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from workbench.pieces import pieces
from workbench.probe import ProbeTrace
from workbench.trainer import Report, State

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
    lengths = rollouts.lengths_B.tolist()
    ids = rollouts.completion_ids_BT.tolist()
    kept = [row[:n] for row, n in zip(ids, lengths, strict=True)]
    columns: dict[str, Any] = {
        "step": [report.step] * rollouts.B,
        "prompt_index": [b // rollouts.G for b in range(rollouts.B)],
        "prompt": [rollouts.prompts[b // rollouts.G] for b in range(rollouts.B)],
        "completion": rollouts.completions,
        "answer": [state.task.answer(text) for text in rollouts.completions],
    }
    for name, values_PG in report.rewards.items():
        columns[f"reward/{name}"] = values_PG.flatten().tolist()
    columns |= {f"note/{name}": lines for name, lines in report.notes.items()}
    columns |= {
        "reward/total": report.total_PG.flatten().tolist(),
        "advantage": report.advantages_PG.flatten().tolist(),
        "length": lengths,
        "truncated": rollouts.truncated_B.tolist(),
        "tokens": pieces(state.policy.tokenizer, kept),
    }
    series = {
        "logprobs": rollouts.logprobs_BT,
        "entropies": rollouts.entropies_BT,
        "thinking": report.thinking_BT,
        "trained": report.trained_BT,
        **report.series,
    }
    for name, series_BT in series.items():
        columns[name] = [row[:n] for row, n in zip(series_BT.tolist(), lengths, strict=True)]
    floats = pa.list_(pa.float32())
    return pa.table(
        {
            name: pa.array(values, type=floats if name in FLOATS else None)
            for name, values in columns.items()
        }
    )
