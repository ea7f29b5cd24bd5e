"""forecast(): what a recipe will need, in memory and time, before anything of it is loaded.

    >>> workbench.forecast.forecast(recipe, memory="T4")

Read from the recipe and the model's config.json alone. Bytes of weights, adapter, optimiser and cache are
exact, the rest are estimates; seconds are the least that the device's bandwidth and FLOP/s allow.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from workbench import footprint
from workbench.cards import Card, card_here, named_card
from workbench.choosing import Choice, choose, copies, is_open, limited
from workbench.footprint import PHASES, Item, items, peak_bytes, phase_bytes
from workbench.pace import Pace, least_seconds
from workbench.planning import Plan, plan_of
from workbench.recipe import Recipe
from workbench.shapes import ModelShape, find_shape

GIB, MIB = 2**30, 2**20
WIDTH = 44  # of the longest line's name


@dataclass(frozen=True)
class Advice:
    """One thing to lower, and what that does to the peak."""

    what: str
    saves: int  # bytes, by itself
    peak: int  # bytes, with everything before it lowered too


@dataclass(frozen=True)
class Forecast:
    """The memory and time of one plan on one card; print it, or take `table()`."""

    model: str
    shape: ModelShape
    plan: Plan
    card: Card
    items: tuple[Item, ...]
    pace: Pace | None
    choice: Choice | None = None  # of what the recipe leaves open

    @property
    def phases(self) -> dict[str, int]:
        """Bytes held in each phase."""
        return phase_bytes(self.items)

    @property
    def peak_phase(self) -> str:
        """The phase that holds most."""
        return max(self.phases, key=self.phases.__getitem__)

    @property
    def peak(self) -> int:
        """Bytes held in that phase."""
        return self.phases[self.peak_phase]

    @property
    def fits(self) -> bool:
        """Whether the peak stays within the card's free memory."""
        return self.peak <= self.card.free

    def table(self) -> pd.DataFrame:
        """One row a line, in GiB: a column for each phase, and whether the line is exact; sums at the end."""
        frame = pd.DataFrame(
            [[line.bytes.get(phase, 0) / GIB for phase in PHASES] for line in self.items],
            index=pd.Index([line.name for line in self.items], name="GiB"),
            columns=list(PHASES),
        )
        frame["exact"] = [line.exact for line in self.items]
        frame.loc["sum"] = [*(size / GIB for size in self.phases.values()), False]
        return frame

    def advice(self) -> list[Advice]:
        """What lowers the peak, in the order in which it is worth trying."""
        found, plan, before = [], self.plan, self.peak
        for lower in LOWERED:
            alone, together = lower(self.plan), lower(plan)
            if alone is None or together is None:
                continue
            saves = self.peak - peak_bytes(self.shape, alone[1])
            after = peak_bytes(self.shape, together[1])
            if saves > 0 or after < before:
                found.append(Advice(alone[0], max(saves, 0), after))
                plan, before = together[1], after
        return found

    def __str__(self) -> str:
        return "\n".join(lines_of(self))

    def __repr__(self) -> str:
        return str(self)


def forecast(
    recipe: Recipe,
    memory: float | str | None = None,
    *,
    prompt_tokens: int | None = None,
    measure: bool = True,
) -> Forecast:
    """The memory and time of `recipe`, on the device here or on another card.

    Args:
        memory: a card that need not be here: of so many GiB, or a known one such as "T4".
        prompt_tokens: the longest prompt; by default that of a sample of the task's prompts.
        measure: take a third of a second to measure this device's speed.
    """
    card = card_here(recipe.device, measure=measure) if memory is None else named_card(memory)
    shape = find_shape(recipe.model)
    plan = plan_of(recipe, shape, card, prompt_tokens)
    choice = choose(shape, plan, card) if is_open(recipe) else None
    if choice is not None:
        plan = choice.plan
    else:
        merged = plan.merged and (recipe.merged == "always" or copies(shape, plan, card))
        plan = limited(shape, plan.replace(merged=merged), card)
    pace = least_seconds(shape, plan, card)
    return Forecast(recipe.model, shape, plan, card, items(shape, plan), pace, choice)


# --- what to lower ------------------------------------------------------------------------------

Lowered = tuple[str, Plan] | None


def _halved(field: str, name: str = "") -> Callable[[Plan], Lowered]:
    def lower(plan: Plan) -> Lowered:
        value = getattr(plan, field)
        half = value // 2
        return (
            (f"{name or field} {value} to {half}", plan.replace(**{field: half})) if half else None
        )

    return lower


def _smaller_microbatch(plan: Plan) -> Lowered:
    half = plan.pass_rows // 2
    if half and plan.pass_rows < min(plan.microbatch, plan.rows):  # it is the tokens that bound it
        tokens = plan.padded_tokens(half)
        return f"microbatch_tokens to {tokens}", plan.replace(token_limit=tokens)
    return (f"microbatch to {half}", plan.replace(microbatch=half)) if half else None


def _shorter_evaluation(plan: Plan) -> Lowered:
    fewer = plan.rows // plan.eval_samples
    if not 0 < fewer < plan.eval_prompts:
        return None
    return f"eval_prompts {plan.eval_prompts} to {fewer}", plan.replace(eval_prompts=fewer)


def _nf4(plan: Plan) -> Lowered:
    return None if plan.quantize == "nf4" else ("quantize: nf4", plan.replace(quantize="nf4"))


def _states_in_8_bit(plan: Plan) -> Lowered:
    changed = plan.replace(optimizer="adamw8bit")
    return ("optimizer: adamw8bit", changed) if plan.optimizer == "adamw" else None


def _checkpointing(plan: Plan) -> Lowered:
    changed = plan.replace(checkpointing=True)
    return None if plan.checkpointing else ("gradient checkpointing (slower)", changed)


def _no_copy(plan: Plan) -> Lowered:
    changed = plan.replace(merged=False)
    return ("no merged copy to sample from (slower)", changed) if plan.merged else None


# In the order in which it is worth trying.
LOWERED: tuple[Callable[[Plan], Lowered], ...] = (
    _halved("new_tokens", "max_new_tokens"),
    _smaller_microbatch,
    _halved("prompts", "prompts_per_step"),
    _halved("group", "group_size"),
    _shorter_evaluation,
    _nf4,
    _checkpointing,
    _states_in_8_bit,
    _no_copy,
)


# --- as text ------------------------------------------------------------------------------------


def lines_of(found: Forecast) -> Iterator[str]:
    """The forecast as lines of at most 100 characters."""
    yield from _heading(found)
    yield ""
    yield from _table_lines(found)
    yield ""
    yield from _verdict(found)
    yield from _pace_lines(found)
    yield from _advice_lines(found)
    yield ""
    yield from _assumptions(found)


def _heading(found: Forecast) -> Iterator[str]:
    shape, plan = found.shape, found.plan
    trained = footprint.adapter_numbers(shape, plan)
    yield (
        f"{_short(found.model)}: {_count(shape.parameters)} parameters, {len(shape.layers)} layers, "
        f"a vocabulary of {shape.vocabulary}."
    )
    yield (
        f"{plan.quantize} and LoRA of rank {plan.lora_rank} ({_count(trained)} trained), computing in "
        f"{8 * plan.compute_bytes} bit on {found.card.name}."
    )
    yield (
        f"{plan.prompts} prompts of up to {plan.prompt_tokens} tokens x {plan.group} completions of up "
        f"to {plan.new_tokens}; {plan.pass_rows} of them in a pass."
    )
    if found.choice is not None:
        yield from textwrap.wrap(f"Chosen for this card: {found.choice}.", 98)


def _table_lines(found: Forecast) -> Iterator[str]:
    size, unit = (GIB, "GiB") if found.peak >= 2 * GIB else (MIB, "MiB")
    yield f"{unit:<{WIDTH}}" + "".join(f"{phase:>11}" for phase in PHASES)
    for line in found.items:
        name = line.name if line.exact else f"{line.name} ~"
        cells = (f"{line.bytes[p] / size:11.2f}" if p in line.bytes else " " * 11 for p in PHASES)
        yield f"{name:<{WIDTH}}{''.join(cells)}".rstrip()
    yield f"{'sum':<{WIDTH}}" + "".join(f"{v / size:11.2f}" for v in found.phases.values())


def _verdict(found: Forecast) -> Iterator[str]:
    free, peak = found.card.free, found.peak
    yield f"Peak: {_bytes(peak)}, during {found.peak_phase}; free on {found.card.name}: {_bytes(free)}."
    if found.fits:
        yield f"It fits, with {_bytes(free - peak)} to spare."
    else:
        yield f"It does not fit: {_bytes(peak - free)} too much."


def _pace_lines(found: Forecast) -> Iterator[str]:
    pace, card = found.pace, found.card
    if pace is None:
        yield "No step time: the speed of this card is not known; name one, as in --memory T4."
        return
    parts = [f"sampling {_seconds(pace.sampling)}"]
    parts += [f"reference {_seconds(pace.reference)}"] if pace.reference else []
    parts += [f"update {_seconds(pace.update)}"]
    yield f"A step takes at least {_seconds(pace.step)} (estimate): {', '.join(parts)};"
    yield (
        f"by {card.bandwidth / 1e9:.0f} GB/s and {card.flops / 1e12:.3g} TFLOP/s ({card.source}), which "
        "no program reaches."
    )


def _advice_lines(found: Forecast) -> Iterator[str]:
    advice = found.advice()
    if not advice:
        return
    yield ""
    head = "What to lower, in this order" if found.fits else "It must be lowered, in this order"
    yield f"{head:<{WIDTH}}{'by itself':>11}{'peak, with all above':>22}"
    fits = found.fits
    for each in advice:
        enough = not fits and each.peak <= found.card.free
        fits = fits or enough
        line = f"  {each.what:<{WIDTH - 2}}{_bytes(-each.saves):>11}{_bytes(each.peak):>22}"
        yield f"{line}  fits" if enough else line
    if not fits:
        yield "All of it is not enough; lower it further, or take a smaller model or a larger card."


def _assumptions(found: Forecast) -> Iterator[str]:
    yield "~ is an estimate, the other lines are exact where every completion is as long as it may be."
    yield f"The length of prompts is {found.plan.prompt_source}."
    if found.plan.engine not in ("auto", "native"):
        yield f"What the engine {found.plan.engine} holds for itself is not in it."


def _short(model: str) -> str:
    return model if len(model) <= 40 else f"…{model[-39:]}"


def _bytes(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if abs(size) >= GIB / 10 else f"{size / MIB:.1f} MiB"


def _count(number: int) -> str:
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
