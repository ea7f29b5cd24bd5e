"""Dynamic sampling: groups without signal make room for groups of new prompts.

After DAPO (Yu et al. 2025, arXiv 2503.14476, section 3.2). A batch then holds more groups that teach
something, and each step costs more sampling. It also changes what is estimated: prompts are chosen by their
own rewards, so the population weights of `objectives` no longer hold exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.rollout import Rollouts
from workbench.scoring import Scored


def refilled(
    batch: Scored, rounds: int, draw: Callable[[int, int], Scored]
) -> tuple[Scored, list[int]]:
    """`batch` with dead groups replaced by live ones from up to `rounds` draws, and their places.

    `draw(number, count)` samples and scores `count` new prompts for round `number` (from 1). Places that
    stay dead keep their first group.
    """
    replaced: list[int] = []
    for number in range(1, rounds + 1):
        places = batch.dead()
        if not places:
            break
        fresh = draw(number, len(places))
        live = sorted(set(range(len(places))) - set(fresh.dead()))
        batch = replace_groups(batch, places[: len(live)], fresh, live)
        replaced += places[: len(live)]
    return batch, sorted(replaced)


def replace_groups(
    batch: Scored, places: Sequence[int], fresh: Scored, chosen: Sequence[int]
) -> Scored:
    """`batch` with the groups at `places` replaced by the `chosen` ones of `fresh`; seconds add up."""

    group = batch.total_PG.shape[1]

    def put(old: Tensor, new: Tensor) -> Tensor:
        return _put(old, places, new, chosen, left=False)

    return Scored(
        _replace_rollouts(batch.rollouts, places, fresh.rollouts, chosen),
        {name: put(values, fresh.rewards[name]) for name, values in batch.rewards.items()},
        put(batch.total_PG, fresh.total_PG),
        put(batch.advantages_PG, fresh.advantages_PG),
        put(batch.thought_advantages_PG, fresh.thought_advantages_PG),
        batch.sample_seconds + fresh.sample_seconds,
        batch.reward_seconds + fresh.reward_seconds,
        batch.numbers,  # of the prompts that were drawn, whatever replaces them
        {
            name: _put_list(
                lines, _completions(places, group), fresh.notes[name], _completions(chosen, group)
            )
            for name, lines in batch.notes.items()
        },
    )


def _completions(groups: Sequence[int], size: int) -> list[int]:
    """The rows of the completions of these groups."""
    return [group * size + g for group in groups for g in range(size)]


def _replace_rollouts(
    old: Rollouts, places: Sequence[int], new: Rollouts, chosen: Sequence[int]
) -> Rollouts:
    to_rows, from_rows = _completions(places, old.G), _completions(chosen, old.G)
    changes: dict[str, object] = {}
    for field in dataclasses.fields(old):
        mine, theirs = getattr(old, field.name), getattr(new, field.name)
        if field.name.endswith(("_BT", "_B")):
            changes[field.name] = _put(mine, to_rows, theirs, from_rows, left=False)
        elif field.name.endswith("_PL"):
            changes[field.name] = _put(mine, places, theirs, chosen, left=True)
        elif field.name in ("rows", "prompts"):
            changes[field.name] = _put_list(mine, places, theirs, chosen)
        elif field.name == "completions":
            changes[field.name] = _put_list(mine, to_rows, theirs, from_rows)
    return dataclasses.replace(old, **changes)


def _put(old: Tensor, to: Sequence[int], new: Tensor, chosen: Sequence[int], left: bool) -> Tensor:
    """Rows of `new` put into a copy of `old`, both padded with 0 to the same width.

    Padding is masked everywhere, so its token does not matter.
    """
    if old.ndim == 2:
        width = max(old.shape[1], new.shape[1])
        old, new = (
            torch.nn.functional.pad(x, (width - x.shape[1], 0) if left else (0, width - x.shape[1]))
            for x in (old, new)
        )
    merged = old.clone()
    merged[list(to)] = new[list(chosen)]
    return merged


def _put_list(old: list, to: Sequence[int], new: list, chosen: Sequence[int]) -> list:
    merged = list(old)
    for place, source in zip(to, chosen, strict=True):
        merged[place] = new[source]
    return merged
