"""Microbatches: a batch in parts that fit in memory, and smaller parts where one did not.

Without a limit on tokens a part is the next rows in order, `recipe.microbatch` of them at most. Under a limit
(`recipe.microbatch_tokens`; on a GPU one chosen from what the first part took; the one at which memory gave
out) rows are sorted by length and filled into parts of at most that many tokens, padding counted. A prompt
is run once in each part that holds a row of it: whether its rows stay together or all rows are sorted by
length is decided by which of the two needs fewer tokens in all.

Where memory gives out, what was held is let go of, the same rows are tried again in halves, and the smaller
limit holds for the rest of the run. Such a part leaves no gradient behind.

N rows of a batch, B all of them, P prompts.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from workbench import static
from workbench.devices import free_memory, segments_advice
from workbench.rollout import Rollouts
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.memory import Memory
    from workbench.recipe import Recipe

FIRST_TOKENS = 4096  # of a part on a GPU, before one has shown what a token takes
SHARE = (
    0.4  # of the free memory for what the backward pass keeps; the rest is for what comes and goes
)
SIGNS = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Tokens of each row of a batch: its prompt's number, its prompt and its completion."""

    owners: list[int]
    prompts: list[int]
    completions: list[int]

    @classmethod
    def of(cls, rollouts: Rollouts) -> Sizes:
        """Those of all B rows."""
        prompts_P = rollouts.prompt_mask_PL.sum(1).tolist()
        owners = [row // rollouts.G for row in range(rollouts.B)]
        return cls(owners, [prompts_P[p] for p in owners], rollouts.lengths_B.tolist())

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of one pass over `rows`: each prompt once and each completion, as long as the longest."""
        distinct = {self.owners[row] for row in rows}
        longest = max(self.prompts[row] for row in rows)
        return len(distinct) * longest + len(rows) * max(self.completions[row] for row in rows)


def in_parts(
    work: Callable[[Tensor], T],
    rows_N: Tensor,
    rollouts: Rollouts,
    model: nn.Module,
    recipe: Recipe,
    memory: Memory,
) -> list[tuple[Tensor, T]]:
    """Call `work` with every row of `rows_N` once, in parts; each part with what it returned.

    `work` runs `model`, and leaves nothing behind where it fails: it is called again with fewer rows. Raises
    WorkbenchError where one row alone does not fit.
    """
    device = rows_N.device
    todo = _parts(rows_N, rollouts, recipe, memory)
    done = []
    while todo:
        part_N, limit = todo.pop(0), memory.token_limit
        with Kept(model) if _chooses(recipe, memory, device) else contextlib.nullcontext() as kept:
            found = _attempt(work, part_N)
        if found:
            done.append((part_N, found[0]))
            if kept is not None and kept.bytes:  # else nothing was to be differentiated
                memory.token_limit = _fitting(part_N, rollouts, kept.bytes)
        else:
            release(device)
            memory.token_limit = _smaller(part_N, rollouts)
            memory.retries += 1
            todo.insert(0, part_N)
        if todo and memory.token_limit != limit:
            todo = _parts(torch.cat(todo), rollouts, recipe, memory)
    return done


def plan(rows: Sequence[int], sizes: Sizes, most_rows: int, most_tokens: int) -> list[list[int]]:
    """`rows` in parts of at most `most_rows` rows and `most_tokens` tokens, longest first.

    A row that is longer than that by itself is a part of its own.
    """

    def fits(part: list[int]) -> bool:
        return len(part) <= most_rows and sizes.tokens(part) <= most_tokens

    def fill(units: list[list[int]]) -> list[list[int]]:
        parts: list[list[int]] = []
        for unit in units:
            for piece in [unit] if fits(unit) else [[row] for row in unit]:
                if parts and fits(parts[-1] + piece):
                    parts[-1] += piece
                else:
                    parts.append(list(piece))
        return parts

    ordered = sorted(rows, key=lambda row: -sizes.completions[row])
    groups: dict[int, list[int]] = {}
    for row in ordered:
        groups.setdefault(sizes.owners[row], []).append(row)
    plans = fill(list(groups.values())), fill([[row] for row in ordered])
    return min(plans, key=lambda parts: sum(map(sizes.tokens, parts)))


def add_gradient(model: nn.Module, loss: Tensor) -> None:
    """`loss.backward()`, all or nothing: where it fails, the model's gradients are as they were before.

    Adds in the same order as `backward` does, so the sum is the same to the last bit.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        loss.backward()
    except BaseException:
        for parameter, old in zip(parameters, before, strict=True):
            parameter.grad = old
        raise
    for parameter, old in zip(parameters, before, strict=True):
        if old is not None:
            parameter.grad = old if parameter.grad is None else old.add_(parameter.grad)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory or the machine's gave out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(sign in str(error).lower() for sign in SIGNS)


def release(device: torch.device) -> None:
    """Give back what nothing holds any more, and what is kept for the next rollouts alone."""
    static.release()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def free_bytes(device: torch.device) -> int | None:
    """What a GPU has left; None on other devices, where parts are by rows."""
    return free_memory(device) if device.type == "cuda" else None


@dataclass
class Kept:
    """Inside this context: counts the bytes that are kept for backward passes, each storage once.

    The weights of `model` are not counted: they are there anyway.
    """

    model: nn.Module
    bytes: int = 0
    _seen: set[int] = field(default_factory=set)
    _hooks: Any = None

    def __enter__(self) -> Kept:
        self._seen |= {weight.untyped_storage().data_ptr() for weight in self.model.parameters()}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _attempt(work: Callable[[Tensor], T], rows_N: Tensor) -> list[T]:
    """What `work` returns, in a list; an empty list where memory gave out.

    A function of its own: once it has returned, no frame of the error holds on to the part's tensors.
    """
    try:
        return [work(rows_N)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return []


def _chooses(recipe: Recipe, memory: Memory, device: torch.device) -> bool:
    """Whether the limit is still to be chosen: on a GPU, where nobody has set one."""
    return not (recipe.microbatch_tokens or memory.token_limit) and free_bytes(device) is not None


def _parts(rows_N: Tensor, rollouts: Rollouts, recipe: Recipe, memory: Memory) -> list[Tensor]:
    if len(rows_N) == 0:
        return []
    limits = [tokens for tokens in (recipe.microbatch_tokens, memory.token_limit) if tokens]
    if not limits and not _chooses(recipe, memory, rows_N.device):
        return list(rows_N.split(recipe.microbatch))
    most_tokens = min(limits) if limits else FIRST_TOKENS
    parts = plan(rows_N.tolist(), Sizes.of(rollouts), recipe.microbatch, most_tokens)
    return [torch.tensor(part, device=rows_N.device) for part in parts]


def _smaller(rows_N: Tensor, rollouts: Rollouts) -> int:
    """The limit after a part that did not fit."""
    tokens = Sizes.of(rollouts).tokens(rows_N.tolist())
    if len(rows_N) == 1:
        advice = segments_advice(rows_N.device.type, os.environ)
        raise WorkbenchError(
            f"Out of memory: one completion of {tokens} tokens, prompt included, does not fit by itself; "
            "set gradient_checkpointing='on', lower max_new_tokens, or take a smaller model."
            + (f" Also {advice}." if advice else "")
        )
    return tokens // 2


def _fitting(rows_N: Tensor, rollouts: Rollouts, kept: int) -> int:
    """The limit by what the first part kept for its backward pass, and what is free now that it is gone."""
    tokens = Sizes.of(rollouts).tokens(rows_N.tolist())
    free = free_bytes(rollouts.mask_BT.device) or 0
    return max(tokens, int(SHARE * free * tokens / kept))
