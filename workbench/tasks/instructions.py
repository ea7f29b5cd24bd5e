"""Instructions: a seed with several constraints, kept or not one by one.

In the tiny world (see `lines`, `demands`) every constraint's truth is known, to measure. Text of your own is
read from a file of the published form: `prompt`, `instruction_id_list`, `kwargs` and `constraint`, the last
three lists of one length. There the hard constraints are checked by IFEval's rules (`ifeval`), and the
soft ones only by a model.

A row is one rung of a chain: the seed with its first k constraints. Source of the ladder and of the form:
arXiv 2508.02150 and its released code and data (literal); this world is ours.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from workbench.tasks import demands, ifeval
from workbench.tasks._drawn import check_whole
from workbench.tasks.base import NO_ANSWER, RIGHT, Message, Row, after_thinking, check_split
from workbench.tasks.demands import Constraint
from workbench.tasks.lexicon import words_of
from workbench.tasks.lines import Chain, draw_chain
from workbench.tasks.source import check_share, read_source, split_rows
from workbench.variants import WorkbenchError, unknown

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("prompt", "instruction_id_list", "kwargs", "constraint")
KINDS = ("trained", "held_out", "all")
LIGHT = ("light", "light_choice")  # the published data's mathematics and multiple choice
LONGEST = 7  # constraints; as many as the scribe's demonstrators knew
EVAL_CHAINS = 128
PATIENCE = 1000  # draws without a new chain before the world counts as exhausted


@dataclass(frozen=True)
class Instructions:
    """Write a line under several constraints; or instructions of your own, in the published form."""

    name: ClassVar[str] = "instructions"

    source: str = ""
    """A JSONL or Parquet file of the published form, or a hub name; empty for the tiny world."""
    subset: str = ""
    """The hub dataset's configuration, where it has several."""
    checked: bool = False
    """Whether rules can check every constraint of the source, as in IFEval, so that answers have a score."""
    chains: int = 400
    """Chains of the tiny world to train on; fewer where it holds no more of them."""
    constraints: int = 5
    """Constraints of a whole chain in the tiny world."""
    kinds: str = "trained"
    """trained: kinds that training sees; held_out: with others among them; all."""
    instruction: str = ""
    """Text put under every prompt. The tiny models know none."""
    train_split: str = "train"
    """The source's split to train on."""
    eval_split: str = "test"
    """The source's split to evaluate on; a source without it is divided by `eval_share`."""
    eval_share: float = 0.25
    """The share of a source's instructions held out, chosen by a hash of the prompt."""
    seed: int = 0
    """Draws other chains."""

    def __post_init__(self) -> None:
        check_share(self.name, self.eval_share)
        check_whole(self.name, chains=self.chains, constraints=self.constraints)
        check_whole(self.name, 0, seed=self.seed)
        if self.constraints > LONGEST:
            raise WorkbenchError(
                f"{self.name}.constraints is {self.constraints}; tiny chains have at most {LONGEST}."
            )
        if self.kinds not in KINDS:
            raise WorkbenchError(unknown(f"{self.name}.kinds", self.kinds, KINDS))

    @property
    def knows_truth(self) -> bool:
        """Whether every constraint's truth is known: in the tiny world, and where rules can check all."""
        return not self.source or self.checked

    # --- rows -------------------------------------------------------------------------------------

    def dataset(self, split: str) -> Dataset:
        """The rows of `split`; no prompt is in both. Of a chain to evaluate on there is one rung."""
        check_split(split)
        if self.source:
            return _from_source(self, split)
        return _drawn(self, split)

    def whole_chains(self, split: str) -> list[Row]:
        """The rows of `split` that are the last rung of their chain; `rungs` gives the prompts before.

        Mathematics and multiple choice have no rungs, and are left out.
        """
        check_split(split)
        if not self.source:
            return [
                row_of(chain, i, self.constraints) for i, chain in enumerate(_chains(self, split))
            ]
        return [row for row in last_rungs(list(self.dataset(split))) if not _is_light(row)]

    def messages(self, row: Row) -> list[Message]:
        """One user message: the prompt, and the instruction under it."""
        text = str(row["prompt"]).strip()
        if self.instruction:
            text = f"{text}\n\n{self.instruction}"
        return [{"role": "user", "content": text}]

    # --- answers ----------------------------------------------------------------------------------

    def answer(self, completion: str) -> str:
        """The text after the thinking."""
        return after_thinking(completion)

    def same(self, one: str, two: str) -> bool:
        """The same words in the same order, one at least."""
        return bool(words_of(one)) and words_of(one) == words_of(two)

    def rules(self, row: Row, answer: str) -> list[bool | None]:
        """What rules say of each constraint: kept or not; None for a soft one, which rules can't check."""
        return [_rule(constraint, answer) for constraint in constraints_of(row)]

    def truths(self, row: Row, answer: str) -> list[bool | None]:
        """What is true of each constraint: as `rules`, and in the tiny world of soft ones too. To measure."""
        return [
            demands.keeps(c.kind, c.arguments, answer)
            if c.kind in demands.SOFT
            else _rule(c, answer)
            for c in constraints_of(row)
        ]

    def score(self, row: Row, completion: str) -> float:
        """The share of the constraints that the answer keeps, by truth; 1.0 where it keeps all.

        Raises:
            WorkbenchError: where the truth of some constraint is not known.
        """
        kept = self.truths(row, self.answer(completion))
        if None in kept:
            raise WorkbenchError(
                f"No rule can check the constraint {row['constraint'][kept.index(None)]!r}, so answers have "
                "no score; train on the reward 'constraints', and leave 'correct' out."
            )
        return sum(map(bool, kept)) / len(kept)

    def measures(self, row: Row, completion: str) -> dict[str, float]:
        """By truth: the share of constraints kept, of hard and of soft ones, and of each kind.

        Constraints whose truth is not known are left out, and so is a share of none.
        """
        kept = self.truths(row, self.answer(completion))
        return shares(constraints_of(row), [None if one is None else float(one) for one in kept])

    def explain(self, row: Row, completion: str) -> str:
        """How many constraints the answer keeps and which it does not, by truth where that is known."""
        answer = self.answer(completion)
        found = demands.told(row["constraint"], self.truths(row, answer))
        return found if answer or found.startswith(RIGHT) else NO_ANSWER


def shares(constraints: Sequence[Constraint], values: Sequence[float | None]) -> dict[str, float]:
    """Means of one answer's known values: "constraints", "hard", "soft", "kind/<kind>", those there are."""
    found: dict[str, list[float]] = {}
    for constraint, value in zip(constraints, values, strict=True):
        if value is not None:
            side = "hard" if is_hard(constraint.kind) else "soft"
            for name in ("constraints", side, f"kind/{constraint.kind}"):
                found.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in found.items()}


def is_hard(kind: str) -> bool:
    """Whether a rule can check constraints of this kind."""
    return kind in demands.HARD or kind in LIGHT or ifeval.is_known(kind)


def constraints_of(row: Row) -> list[Constraint]:
    """The constraints of a row, with the arguments that each one's checker takes."""
    parts = zip(row["instruction_id_list"], row["kwargs"], row["constraint"], strict=True)
    return [Constraint(kind, _arguments(kind, given), text) for kind, given, text in parts]


def _arguments(kind: str, given: dict[str, Any] | None) -> dict[str, Any]:
    known = {name: value for name, value in (given or {}).items() if value is not None}
    return ifeval.cleaned(kind, known, "a row") if ifeval.is_known(kind) else known


def _rule(constraint: Constraint, answer: str) -> bool | None:
    kind, arguments, text = constraint
    if kind in demands.HARD:
        return demands.keeps(kind, arguments, answer)
    if kind in LIGHT:
        return ifeval.same_light(kind, text, answer)
    return ifeval.follows(kind, arguments, answer) if ifeval.is_known(kind) else None


# --- the tiny world -----------------------------------------------------------------------------------


def row_of(chain: Chain, number: int, rung: int) -> Row:
    """Rung `rung` of chain `number`, in the published form, with the chain and the rung beside it."""
    some = chain.constraints[:rung]
    return {
        "prompt": chain.prompt(rung),
        "instruction_id_list": [one.kind for one in some],
        "kwargs": [dict(one.arguments) for one in some],
        "constraint": [one.text for one in some],
        "chain": number,
        "level": rung,
    }


@functools.lru_cache(maxsize=16)
def _chains(task: Instructions, split: str) -> tuple[Chain, ...]:
    rng = random.Random(f"{task.name}/{split}/{task.kinds}/{task.constraints}/{task.seed}")
    count = task.chains if split == "train" else EVAL_CHAINS
    found: dict[str, Chain] = {}
    misses = 0
    while len(found) < count and misses < PATIENCE:
        chain = draw_chain(rng, split, task.constraints, task.kinds)
        prompt = chain.prompt(task.constraints)
        misses = misses + 1 if prompt in found else 0
        found.setdefault(prompt, chain)
    return tuple(found.values())


@functools.lru_cache(maxsize=16)  # an evaluation asks for the same rows again and again
def _drawn(task: Instructions, split: str) -> Dataset:
    from datasets import Dataset  # heavy, and only needed once rows are asked for

    chains, n = _chains(task, split), task.constraints
    if split == "train":
        found = [(number, rung) for number in range(len(chains)) for rung in range(1, n + 1)]
    else:
        found = [(number, 1 + number % n) for number in range(len(chains))]
    rows = [row_of(chains[number], number, rung) for number, rung in found]
    return Dataset.from_list(_filled(rows))


def _filled(rows: list[Row]) -> list[Row]:
    """The rows with every argument's name in each kwargs, unused ones null, as in the published data."""
    names = sorted({name for row in rows for given in row["kwargs"] for name in given})
    return [
        row | {"kwargs": [dict.fromkeys(names) | given for given in row["kwargs"]]} for row in rows
    ]


# --- chains and their rungs ----------------------------------------------------------------------------


def rungs(row: Row) -> list[str]:
    """The prompts x_0 .. x_n of a row with n constraints: cut before each constraint's text, x_n whole.

    Raises:
        WorkbenchError: where the prompt does not hold the constraints' texts in their order.
    """
    prompt = str(row["prompt"])
    found, end = [prompt], len(prompt)
    for text in reversed(row["constraint"]):
        end = prompt.rfind(text, 0, end)
        if end < 0:
            raise WorkbenchError(
                f"The prompt {prompt[:80]!r} does not hold the text of its constraint {text[:80]!r} in "
                "order, so its ladder is unknown; write each constraint into the prompt as it stands in its "
                "column."
            )
        found.append(prompt[:end].rstrip())
    return found[::-1]


def seed_of(row: Row) -> str:
    """The prompt without its constraints, by which rows of one chain are known; else the prompt."""
    try:
        return str(row["prompt"]) if _is_light(row) else rungs(row)[0]
    except WorkbenchError:
        return str(row["prompt"])


def _is_light(row: Row) -> bool:
    return any(kind in LIGHT for kind in row["instruction_id_list"])


def last_rungs(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other row of the same seed goes on from."""
    by_seed: dict[str, list[Row]] = {}
    for row in rows:
        by_seed.setdefault(seed_of(row), []).append(row)
    return [
        row
        for same in by_seed.values()
        for row in same
        if not any(_goes_on(longer["constraint"], row["constraint"]) for longer in same)
    ]


def chains_in(rows: Sequence[Row]) -> list[int]:
    """The number of the chain that each row is a rung of; a rung of several belongs to the first."""
    last = last_rungs(rows)
    by_seed: dict[str, list[tuple[int, Row]]] = {}
    for number, row in enumerate(last):
        by_seed.setdefault(seed_of(row), []).append((number, row))
    return [
        next(
            number
            for number, longer in by_seed[seed_of(row)]
            if list(longer["constraint"][: len(row["constraint"])]) == list(row["constraint"])
        )
        for row in rows
    ]


def _goes_on(longer: list[str], shorter: list[str]) -> bool:
    return len(longer) > len(shorter) and list(longer[: len(shorter)]) == list(shorter)


# --- text of your own ---------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _from_source(task: Instructions, split: str) -> Dataset:
    from datasets import Dataset

    tables = {
        name: [
            _checked(task, row, f"Row {number} of {task.source} ({name})")
            for number, row in enumerate(rows, 1)
        ]
        for name, rows in read_source(task.source, task.subset, ("prompt",)).items()
    }
    wanted = (task.train_split, task.eval_split, task.eval_share)
    # Split by seed, so that all rungs of a chain are on one side.
    rows = _filled(split_rows(tables, "seed", split, wanted, task.source))
    return Dataset.from_list(
        [row | {"chain": n} for row, n in zip(rows, chains_in(rows), strict=True)]
    )


def _checked(task: Instructions, row: Row, where: str) -> Row:
    """The row in our form; WorkbenchError unless it has the published one with complete arguments."""
    if task.checked and "constraint" not in row and "instruction_id_list" in row:
        row = row | {
            "constraint": row["instruction_id_list"]
        }  # IFEval's own file has no such column
    for column in COLUMNS:
        if column not in row:
            raise WorkbenchError(f"{where}: {unknown('column', column, row)}")
    lists = [row[column] for column in COLUMNS[1:]]
    if (
        not all(isinstance(one, list) for one in lists)
        or len({len(one) for one in lists}) != 1
        or not lists[0]
    ):
        raise WorkbenchError(
            f"{where}: instruction_id_list, kwargs and constraint must be lists of one length, 1 or more."
        )
    cleaned = []
    for kind, given, text in zip(*lists, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise WorkbenchError(
                f"{where} has the constraint {text!r}; give its text, or remove it."
            )
        if not isinstance(given, dict | None):
            raise WorkbenchError(
                f"{where} has the kwargs {given!r}; give an object for each constraint."
            )
        if task.checked and not is_hard(kind):
            raise WorkbenchError(
                f"{where} has the constraint {kind!r}, which no rule can check; set checked to false."
            )
        cleaned.append(_cleaned(kind, given or {}, where))
    kept = {column: row[column] for column in COLUMNS} | {"kwargs": cleaned}
    return kept | {"seed": seed_of(row), "level": len(cleaned)}


def _cleaned(kind: str, given: dict[str, Any], where: str) -> dict[str, Any]:
    """The arguments that the kind's checker takes; none of a kind that only a model can judge."""
    if ifeval.is_known(kind):
        return ifeval.cleaned(kind, given, where)
    taken = demands.names_of(kind) if kind in demands.KINDS else ()
    if any(given.get(name) is None for name in taken):
        raise WorkbenchError(
            f"{where} has the constraint {kind!r}, which is one of the tiny world's kinds and takes "
            f"{' and '.join(taken)} in its kwargs; give that, or call the kind otherwise, such as soft."
        )
    return {name: given[name] for name in taken}
