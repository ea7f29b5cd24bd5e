"""Saved completions as HTML: ordered, filtered, and as tables, one step's alone or two steps' side by side.

Model text is data: it is escaped, kept in its own writing direction and never typeset or run.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from workbench.panel import tokens
from workbench.panel.tokens import Colouring
from workbench.tasks.base import UNREAD

MARKS = {
    True: '<span class="wb-right" title="right">✓</span> ',
    False: '<span class="wb-wrong" title="wrong">✗</span> ',
}
REWARD = ("reward/total", "reward/correct")  # the first that was saved counts as the reward


# ------------------------------------------------------------------ which, in which order


def right(table: pd.DataFrame) -> pd.Series | None:
    """Which completions the checker accepts; None where the run does not measure it."""
    return table["reward/correct"] >= 1 if "reward/correct" in table else None


def wrong(table: pd.DataFrame) -> pd.Series | None:
    """Which completions the checker does not accept; None where the run does not measure it."""
    accepted = right(table)
    return None if accepted is None else ~accepted


def unread(table: pd.DataFrame) -> pd.Series:
    """The completions in which the checker can read no answer: it is empty, or the checker says so."""
    found = table["answer"].map(lambda text: not str(text).strip()).astype(bool)
    if "check" in table:
        found |= table["check"].map(lambda said: str(said).startswith(UNREAD)).astype(bool)
    return found


def _advantage(table: pd.DataFrame, sign: int) -> pd.Series | None:
    return sign * table["advantage"] > 0 if "advantage" in table else None


ALL = "all"
# Name -> which completions pass; None where a table can't tell.
FILTERS: Mapping[str, Callable[[pd.DataFrame], pd.Series | None]] = {
    ALL: lambda table: pd.Series(True, table.index),
    "right": right,
    "wrong": wrong,
    "cut off": lambda table: table["truncated"].astype(bool),
    "no answer": unread,
    "advantage above 0": lambda table: _advantage(table, 1),
    "advantage below 0": lambda table: _advantage(table, -1),
}
# Name -> the columns that it may go by, the first there is, and whether the lowest comes first.
SAMPLED = "as sampled"
ORDERS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    SAMPLED: ((), True),
    "reward, highest first": (REWARD, False),
    "reward, lowest first": (REWARD, True),
    "advantage, highest first": (("advantage",), False),
    "advantage, lowest first": (("advantage",), True),
    "length, longest first": (("length",), False),
    "length, shortest first": (("length",), True),
}


def first_of(columns: tuple[str, ...], table: pd.DataFrame) -> str | None:
    """The first of `columns` that the table has."""
    return next((name for name in columns if name in table), None)


def orders_of(*tables: pd.DataFrame) -> list[str]:
    """The orders that all the tables can be put in."""
    return [
        name
        for name, (columns, _) in ORDERS.items()
        if not columns or all(first_of(columns, table) for table in tables)
    ]


def filters_of(*tables: pd.DataFrame) -> list[tuple[str, str]]:
    """The filters that all the tables know, each with the number that passes, as (label, name)."""
    found = []
    for name, passes in FILTERS.items():
        masks = [passes(table) for table in tables]
        if all(mask is not None for mask in masks):
            counts = " | ".join(str(int(mask.sum())) for mask in masks)
            found.append((f"{name} ({counts})", name))
    return found


def chosen(table: pd.DataFrame, which: str, order: str) -> pd.DataFrame:
    """The rows that pass a filter, in an order; equal ones stay as sampled."""
    mask = FILTERS[which](table)
    kept = table if mask is None else table[mask]
    columns, lowest = ORDERS[order]
    column = first_of(columns, table)
    return kept if column is None else kept.sort_values(column, ascending=lowest, kind="stable")


# ------------------------------------------------------------------ pieces of text


def text_html(text: str) -> str:
    """Text of a model or a data set as inert HTML, kept from turning its surroundings around."""
    return f'<bdi class="wb-text" dir="auto">{html.escape(text)}</bdi>'


def number(value: Any, signed: bool = False) -> str:
    """A number for a cell, or a dash where there is none."""
    return "–" if pd.isna(value) else f"{float(value):{'+' if signed else ''}.3g}"


def note_html(note: Any) -> str:
    """What a reward says of a completion, below its value; each of its parts is kept on one line."""
    if not isinstance(note, str) or not note:
        return ""
    *firsts, last = note.split(", ")
    parts = [*(f"{part}," for part in firsts), last]
    inner = " ".join(f'<span class="wb-part">{html.escape(part)}</span>' for part in parts)
    return f'<br><bdi class="wb-text" dir="auto">{inner}</bdi>'


def summary_html(table: pd.DataFrame, *, narrow: bool = False) -> str:
    """One line on the completions of a prompt."""
    if table.empty:
        return '<div class="wb-doc">This step has no completion of this prompt.</div>'
    accepted = right(table)
    parts = [] if accepted is None else [f"{int(accepted.sum())} of {len(table)} right"]
    if "reward/total" in table and not narrow:
        parts.append(f"mean reward {table['reward/total'].mean():.3f}")
    parts.append(f"mean length {table['length'].mean():.1f}{'' if narrow else ' tokens'}")
    answers = table["answer"][table["answer"].map(lambda text: bool(str(text).strip()))].nunique()
    parts.append(f"{answers} distinct answer{'' if answers == 1 else 's'}")
    return f'<div class="wb-doc">{" · ".join(parts)}</div>'


# ------------------------------------------------------------------ tables

Cell = tuple[str, str]  # class, HTML


def table_html(table: pd.DataFrame, how: Colouring = tokens.PLAIN, *, narrow: bool = False) -> str:
    """Completions as a table, their tokens coloured as asked; `narrow` for one of two side by side."""
    if table.empty:
        return '<div class="wb-doc">No completion passes this filter.</div>'
    accepted = right(table)
    rows = []
    for position, (index, row) in enumerate(table.iterrows()):
        mark = "" if accepted is None else MARKS[bool(accepted.loc[index])]
        cells = _cells(row, how, mark, narrow)
        body = "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in cells.values())
        rows.append(f'<tr class="wb-row{position % 2}">{body}</tr>')
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in cells)
    return (
        f'<div class="wb-scroll"><table class="wb-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(row: pd.Series, how: Colouring, mark: str, narrow: bool) -> dict[str, Cell]:
    """One completion's cells by the title of their column; every row of a table has the same ones."""
    text = text_html(str(row["completion"]))
    coloured = how.choice != tokens.NONE
    cells = {
        "completion": ("wb-long", tokens.completion_html(row, how) if coloured else text),
        "answer": ("wb-answer", _answer_html(row)),
    }
    cells |= _one_reward(row, mark) if narrow else _rewards(row, mark)
    if "advantage" in row and not narrow:
        cells["advantage"] = ("wb-number", number(row["advantage"], signed=True))
    cut = " cut off" if row["truncated"] else ""
    return cells | {"tokens": ("wb-number", f"{row['length']:.0f}{cut}")}


def _answer_html(row: pd.Series) -> str:
    """The answer, and below it what the checker says of it."""
    answer, check = text_html(str(row["answer"])), row.get("check", "")
    if not isinstance(check, str) or not check:
        return answer
    return f'{answer}<div class="wb-check"><bdi dir="auto">{html.escape(check)}</bdi></div>'


def _one_reward(row: pd.Series, mark: str) -> dict[str, Cell]:
    known = [number(row[name]) for name in REWARD if name in row]
    return {"reward": ("wb-number", mark + known[0])} if known else {}


def _rewards(row: pd.Series, mark: str) -> dict[str, Cell]:
    """Every reward with what it says of the completion; whether it is right stands first."""
    names = [name for name in row.index if name.startswith("reward/")]
    cells = {}
    for name in sorted(names, key=lambda name: name != "reward/correct"):
        note = name.replace("reward/", "note/", 1)
        value = number(row[name]) + note_html(row.get(note, ""))
        marked = mark if name == "reward/correct" else ""
        kind = "wb-note" if note in row else "wb-number"
        cells[name.split("/", 1)[1]] = (kind, marked + value)
    return cells


def group_html(table: pd.DataFrame, which: str, order: str, choice: str) -> str:
    """The completions of one prompt at one step."""
    how = tokens.colouring(choice, table)
    return (
        summary_html(table)
        + tokens.legend_html(how, choice, table)
        + table_html(chosen(table, which, order), how)
    )


def pair_html(sides: Mapping[str, pd.DataFrame], which: str, order: str, choice: str) -> str:
    """The completions of one prompt at two steps, by their titles: side by side, in one scale of colours."""
    how = tokens.colouring(choice, *sides.values())
    parts = []
    for title, table in sides.items():
        lack = tokens.missing(choice, table) if how.choice != tokens.NONE else ""
        said = f'<div class="wb-doc" role="status">{html.escape(lack)}</div>' if lack else ""
        shown, summary = chosen(table, which, order), summary_html(table, narrow=True)
        parts.append(
            f'<section class="wb-side" aria-label="{html.escape(title)}">'
            f'<div class="wb-title">{html.escape(title)}</div>{summary}{said}'
            f"{table_html(shown, tokens.PLAIN if lack else how, narrow=True)}</section>"
        )
    legend = tokens.legend_html(how, choice, *sides.values())
    return f'{legend}<div class="wb-sides">{"".join(parts)}</div>'
