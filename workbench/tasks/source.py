"""Tasks whose rows come from a file or the hub, and how those rows are read and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from workbench.packaged import data_path
from workbench.tasks.base import NO_ANSWER, RIGHT, Message, Row, check_split, quoted
from workbench.tasks.grading import final_answer, same_answer, same_value
from workbench.variants import WorkbenchError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (*JSON_SUFFIXES, ".parquet")


@dataclass(frozen=True)
class SourceTask:
    """Problems from a file or a hub dataset, judged by the value of the final answer.

    A subclass says where a row's reference answer is, and may judge in its own way.
    """

    name: ClassVar[str]
    sample: ClassVar[str]

    source: str = ""
    """A JSONL or Parquet file, or a dataset's name on the hub; empty for the shipped sample."""
    subset: str = ""
    """The hub dataset's configuration, where it has several."""
    prompt_column: str = "prompt"
    """The column with the problem."""
    answer_column: str = "answer"
    """The column with the reference answer."""
    instruction: str = ""
    """Text put under every problem."""
    train_split: str = "train"
    """The source's split to train on."""
    eval_split: str = "test"
    """The source's split to evaluate on; a source without it is divided by `eval_share`."""
    eval_share: float = 0.25
    """The share of problems held out, chosen by a hash of the problem."""

    def __post_init__(self) -> None:
        check_share(self.name, self.eval_share)

    def reference(self, row: Row) -> str:
        """The right answer of `row`."""
        return str(row[self.answer_column]).strip()

    def dataset(self, split: str) -> Dataset:
        """The rows of `split`; no problem is in both."""
        from datasets import Dataset

        check_split(split)
        wanted = (self.train_split, self.eval_split, self.eval_share)
        rows = split_rows(
            self._tables(), self.prompt_column, split, wanted, self.source or self.sample
        )
        return Dataset.from_list(rows)

    def messages(self, row: Row) -> list[Message]:
        """One user message: the problem, and the instruction under it."""
        text = str(row[self.prompt_column]).strip()
        if self.instruction:
            text = f"{text}\n\n{self.instruction}"
        return [{"role": "user", "content": text}]

    def score(self, row: Row, completion: str) -> float:
        """1.0 where the final answer has the reference's value."""
        return float(same_value(self.reference(row), self.answer(completion)))

    def explain(self, row: Row, completion: str) -> str:
        """What the answer says and what the reference is."""
        answer, reference = self.answer(completion), quoted(self.reference(row))
        if self.score(row, completion) >= 1.0:
            return f"{RIGHT}: the reference is {reference}"
        return f"says {quoted(answer)}, the reference is {reference}" if answer else NO_ANSWER

    def answer(self, completion: str) -> str:
        """The final answer as the judge reads it."""
        return final_answer(completion)

    def same(self, one: str, two: str) -> bool:
        """Whether two final answers have the same value."""
        return same_answer(one, two)

    def _tables(self) -> dict[str, list[Row]]:
        """Checked rows by the source's own split names; a file is one table."""
        columns = (self.prompt_column, self.answer_column)
        if self.source:
            tables = read_source(self.source, self.subset, columns)
        else:
            tables = {"all": _read_local(str(data_path("tasks", self.sample)))}
            check_rows(tables["all"], columns, self.sample)
        for name, rows in tables.items():
            for number, row in enumerate(rows, start=1):
                try:
                    self.reference(row)
                except WorkbenchError as error:
                    where = _where(self.source or self.sample, name, tables)
                    raise WorkbenchError(f"Row {number} of {where}: {error}") from error
        return tables


def check_share(owner: str, share: object) -> None:
    """Raise WorkbenchError unless `share` lies between 0 and 1."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise WorkbenchError(f"{owner}.eval_share is {share!r}; give a number between 0 and 1.")


def read_source(source: str, subset: str, columns: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of a file or hub dataset by its own split names, each with text in all `columns`."""
    tables = {"all": _read_local(source)} if _is_local(source) else _read_hub(source, subset)
    for name, rows in tables.items():
        check_rows(rows, columns, _where(source, name, tables))
    return tables


def check_rows(rows: list[Row], columns: Sequence[str], where: str) -> None:
    """Raise WorkbenchError where there are no rows, or one lacks the text of a column."""
    if not rows:
        raise WorkbenchError(f"{where} has no rows; give a source with at least one problem.")
    for number, row in enumerate(rows, start=1):
        for column in columns:
            if column not in row:
                raise WorkbenchError(f"Row {number} of {where}: {unknown('column', column, row)}")
            if row[column] is None or not str(row[column]).strip():
                raise WorkbenchError(
                    f"Row {number} of {where} has an empty {column!r}; fill or remove it."
                )


def split_rows(
    tables: Mapping[str, list[Row]],
    key: str,
    split: str,
    wanted: tuple[str, str, float],
    where: str,
) -> list[Row]:
    """The rows of `split`, told apart by their column `key`; no problem is in both splits.

    `wanted`: the source's split to train on, the one to evaluate on, and the share held out without it.
    """
    train_split, eval_split, eval_share = wanted
    if train_split in tables and eval_split in tables:
        rows = tables[eval_split]
        if split == "train":
            held_out = {_key(row[key]) for row in rows}
            rows = [r for r in tables[train_split] if _key(r[key]) not in held_out]
    else:
        everything = [row for rows in tables.values() for row in rows]
        rows = [row for row in everything if in_eval(row[key], eval_share) == (split == "eval")]
    if not rows:
        raise WorkbenchError(
            f"{where} leaves no row for the {split} split; give more rows or another eval_share."
        )
    return rows


def _where(place: str, name: str, tables: Mapping[str, list[Row]]) -> str:
    return f"{place} ({name})" if len(tables) > 1 else place


def in_eval(key: object, eval_share: float) -> bool:
    """Whether the problem `key` is held out; the same answer on every machine."""
    digest = hashlib.sha256(_key(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < eval_share


def _key(text: object) -> str:
    # Copies of a problem that differ in spacing or case must land on one side.
    return " ".join(str(text).split()).lower()


def _is_local(source: str) -> bool:
    path = Path(source).expanduser()
    return path.suffix.lower() in SUFFIXES or path.exists() or source.startswith((".", "/", "~"))


def _read_local(source: str) -> list[Row]:
    path = Path(source).expanduser()
    if not path.exists():
        raise WorkbenchError(f"The file {source} does not exist; give its path or a hub name.")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    if path.suffix.lower() in JSON_SUFFIXES:
        return _read_jsonl(path)
    raise WorkbenchError(
        f"{source} is neither JSONL nor Parquet; give a file ending in one of "
        f"{', '.join(SUFFIXES)}."
    )


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_json_row(line, path, number))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    return rows


def _json_row(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkbenchError(
            f"Line {number} of {path} is not JSON ({error}); mend or remove it."
        ) from error
    if not isinstance(row, dict):
        raise WorkbenchError(
            f"Line {number} of {path} is not a JSON object; write one {{...}} a line."
        )
    return row


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise WorkbenchError(f"{path} cannot be read as Parquet: {error}.") from error


def _read_hub(source: str, subset: str) -> dict[str, list[Row]]:
    import datasets

    try:
        splits = datasets.load_dataset(source, subset or None)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkbenchError(
            f"The hub dataset {source!r} could not be loaded ({reason}); "
            "check the name and the connection, or give a local file."
        ) from error
    return {name: rows.to_list() for name, rows in splits.items()}
