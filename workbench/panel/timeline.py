"""The strip of what gets gradient at which step: thinking and answer, over the steps of a run.

Plain SVG in one HTML widget. What is planned comes from the separation's own row, called on the two parts
before and after its switch, and from its own rule, so that neither is written twice; what is done comes
from the metrics.
"""

from __future__ import annotations

import bisect
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from workbench.separation import SEPARATIONS, stage, switched

FLAT = "when T_post + A_pre is flat"
PARTS = ("thinking", "answer")
KNOWN = ("train/trains_thinking", "train/trains_answer")
ASKED = {"separation", "separation_args", "answerer"}  # a change of one of these is marked
WIDTH, LEFT, RIGHT, TOP, ROW, GAP = 290, 54, 12, 16, 15, 4
BOTTOM = TOP + 2 * ROW + GAP  # where the axis is
HEIGHT = BOTTOM + 17
FADES = 12  # strips of the part that will get gradient at a moment not known yet
ROOM = 138  # pixels that FLAT takes
STRETCHES = 6  # said in words, at most

Gets = tuple[bool, bool]  # gradient to thinking, to answer


@dataclass(frozen=True)
class Plan:
    """The fields of a recipe that say what gets gradient at which step."""

    steps: int
    separation: str = "joint"
    separation_args: Mapping[str, Any] = field(default_factory=dict)
    answerer: str = "policy"

    @classmethod
    def of(cls, recipe: Any) -> Plan:
        """What a recipe plans."""
        return cls(recipe.steps, recipe.separation, recipe.separation_args, recipe.answerer)


@dataclass(frozen=True)
class Stage:
    """Steps `first` to `last`, and which parts get gradient in them.

    `later`, if given, is what they turn into at a moment that is not known yet.
    """

    first: int
    last: int
    gets: Gets
    later: Gets | None = None
    done: bool = False


# ------------------------------------------------------------------ what is done and what is planned


def parts_of(plan: Plan, after: bool) -> Gets:
    """Which of thinking and answer the plan trains, before or after the switch."""
    thinking, answer = stage(plan.separation, after)
    return thinking, answer and plan.answerer == "policy"


def planned(plan: Plan, start: int = 0, turned: bool = False) -> list[Stage]:
    """The stages of the steps after `start`; `turned`: the switch has come already."""
    before, after = parts_of(plan, False), parts_of(plan, True)
    arguments = SEPARATIONS[plan.separation].defaults | plan.separation_args
    whole = (start + 1, plan.steps)
    if turned and before != after:
        return _stages((*whole, after))
    if arguments.get("switch") == "flat" and before != after:
        return _stages((*whole, before, after))
    at = start + bisect.bisect_left(
        range(start + 1, plan.steps + 1),
        True,
        key=lambda step: switched(arguments, step, plan.steps),
    )
    if before == after:
        at = plan.steps
    return _stages((start + 1, at, before), (at + 1, plan.steps, after))


def _stages(*found: tuple[Any, ...]) -> list[Stage]:
    return [Stage(*fields) for fields in found if fields[1] >= fields[0]]


def done(metrics: pd.DataFrame | None) -> list[Stage]:
    """The stages that a run has gone through, from what each step noted; none where it noted nothing."""
    if metrics is None or not set(KNOWN) <= set(metrics):
        return []
    noted = np.stack([metrics[name].to_numpy(float) for name in KNOWN], axis=1)
    known = ~np.isnan(noted).any(1)
    steps, gets = metrics.index.to_numpy()[known], noted[known] > 0
    if not len(steps):
        return []
    new = np.flatnonzero((gets[1:] != gets[:-1]).any(1) | (np.diff(steps) > 1)) + 1
    stages = []
    for at in np.split(np.arange(len(steps)), new):
        thinking, answer = map(bool, gets[at[0]])
        stages.append(Stage(int(steps[at[0]]), int(steps[at[-1]]), (thinking, answer), done=True))
    return stages


def changes(events: pd.DataFrame | None) -> list[int]:
    """The steps at which what is separated was changed by hand."""
    if events is None or events.empty:
        return []
    found = zip(events["step"], events["changes"], strict=True)
    return sorted({int(step) for step, asked in found if ASKED & set(asked or ())})


def turned(plan: Plan, past: Sequence[Stage], since: int) -> bool:
    """True once a run has gone over to the later parts of what it trains since step `since`."""
    return bool(past) and past[-1].last >= since and past[-1].gets == parts_of(plan, True)


# ------------------------------------------------------------------ in words


def said(gets: Gets) -> str:
    """Which parts, in words."""
    return " and ".join(name for name, one in zip(PARTS, gets, strict=True) if one) or "nothing"


def stage_words(stage: Stage) -> str:
    """A stage in words."""
    ends = dict.fromkeys((stage.first, stage.last))
    text = (
        f"{'steps' if len(ends) > 1 else 'step'} {' to '.join(map(str, ends))} {said(stage.gets)}"
    )
    return text if stage.later is None else f"{text}, then {said(stage.later)} {FLAT}"


def words(past: Sequence[Stage], plan: Sequence[Stage]) -> str:
    """What gets gradient when, as sentences."""
    parts = []
    for name, stages in (("Trained", past), ("Planned", plan)):
        shown = [stage_words(stage) for stage in stages[-STRETCHES:]]
        more = "… " if len(stages) > STRETCHES else ""
        parts += [f"{name}: {more}{'; '.join(shown)}."] if shown else []
    return " ".join(parts)


# ------------------------------------------------------------------ as a picture


def strip_html(
    plan: Plan,
    metrics: pd.DataFrame | None = None,
    events: pd.DataFrame | None = None,
    since: int = 0,
) -> str:
    """The strip as HTML, for a fixed place on the page; all text in it is its own or escaped.

    Args:
        plan: of the steps to come.
        metrics: of the run, by step; none before there is one.
        events: of the run; changes of what is separated are marked.
        since: the first step that the recipe's separation concerns, where no event says it yet.
    """
    now = int(metrics.index[-1]) if metrics is not None and len(metrics) else 0
    past, changed = done(metrics), changes(events)
    to_come = planned(plan, now, turned(plan, past, max([since, *changed])))
    steps = max(plan.steps, now, 1)

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / steps

    caption = words(past, to_come)
    if now and not past:
        caption = f"What the first {now} steps trained was not noted. {caption}"
    drawn = [
        *_frames(),
        *(part for stage in (*past, *to_come) for part in _cells(stage, x_of)),
        *_axis(steps, x_of),
        *(_change(x_of(step - 1)) for step in changed if step <= steps),
        *([_now(x_of(now), now)] if now else []),
    ]
    said_aloud = f"Which tokens get gradient over {steps} steps. {caption}"
    said_aloud += f" The run is at step {now}." if now else ""
    said_aloud += f" Changed at step {', '.join(map(str, changed))}." if changed else ""
    return (
        f'<svg class="wb-strip" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(said_aloud)}">{"".join(drawn)}</svg>'
        f'{legend(past, to_come, changed, now)}<div class="wb-doc">{html.escape(caption)}</div>'
    )


def _top(part: int) -> int:
    return TOP + part * (ROW + GAP)


def _frames() -> Iterable[str]:
    for part, name in enumerate(PARTS):
        yield f'<text class="wb-p-tick" x="0" y="{_top(part) + ROW - 4}">{name}</text>'
        size = f'width="{WIDTH - LEFT - RIGHT}" height="{ROW}"'
        yield f'<rect class="wb-s-frame" x="{LEFT}" y="{_top(part)}" {size}/>'


def _cells(stage: Stage, x_of: Any) -> Iterable[str]:
    """The coloured cells of a stage, a step reaching from the tick before it to its own."""
    left, right = x_of(stage.first - 1), x_of(stage.last)
    for part, name in enumerate(PARTS):
        kind = f"wb-s-{name}"
        if stage.later is not None and stage.later[part] != stage.gets[part]:
            yield from _fading(part, kind, left, right, rising=stage.later[part])
        elif stage.gets[part]:
            yield _cell(part, kind if stage.done else f"{kind} wb-s-plan", left, right)


def _cell(part: int, kind: str, left: float, right: float, style: str = "") -> str:
    width = max(right - left, 0.5)
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{_top(part)}" width="{width:.1f}" '
        f'height="{ROW}"{style}/>'
    )


def _fading(part: int, kind: str, left: float, right: float, *, rising: bool) -> Iterable[str]:
    """A part that will get gradient, or lose it, somewhere in this stretch."""
    edges = np.linspace(left, right, FADES + 1)
    for i in range(FADES):
        share = (i + 0.5) / FADES if rising else 1 - (i + 0.5) / FADES
        yield _cell(part, kind, edges[i], edges[i + 1], f' fill-opacity="{0.45 * share:.2f}"')
    yield _cell(part, "wb-s-open", left, right)
    if right - left >= ROOM:
        place = f'x="{(left + right) / 2:.1f}" y="{_top(part) + ROW - 4}" text-anchor="middle"'
        yield f'<text class="wb-p-tick wb-s-words" {place}>{FLAT}</text>'


def _axis(steps: int, x_of: Any) -> Iterable[str]:
    for step in ticks(steps):
        x = x_of(step)
        yield f'<path class="wb-p-axis" d="M{x:.1f} {BOTTOM}v3"/>'
        yield (
            f'<text class="wb-p-tick" x="{x:.1f}" y="{BOTTOM + 13}" text-anchor="middle">{step}'
            "</text>"
        )
    yield f'<text class="wb-p-tick" x="0" y="{BOTTOM + 13}">step</text>'


def ticks(steps: int) -> list[int]:
    """0, the last step, and round numbers between them that keep apart from it."""
    scale = 10 ** int(np.log10(steps))
    sizes = (scale // 5, scale // 2, scale, 2 * scale, 5 * scale)
    each = next((s for s in sizes if s >= 1 and steps / s <= 5), steps)
    between = [step for step in range(each, steps, each) if steps - step >= 0.12 * steps]
    return [0, *between, steps]


def _change(x: float) -> str:
    line = f'<path class="wb-s-change" d="M{x:.1f} 9V{BOTTOM}"/>'
    return f'{line}<path class="wb-s-diamond" d="M{x:.1f} 3l4 4l-4 4l-4 -4z"/>'


def _now(x: float, now: int) -> str:
    line = f'<path class="wb-s-now" d="M{x:.1f} 10V{BOTTOM + 3}"/>'
    head = f'<path class="wb-s-head" d="M{x - 4:.1f} 4h8l-4 7z"/>'
    end = x > WIDTH - RIGHT - 30  # no room to the right
    anchor = f'x="{x - 7:.1f}" text-anchor="end"' if end else f'x="{x + 7:.1f}"'
    return f'{line}{head}<text class="wb-p-tick wb-s-words" {anchor} y="11">{now}</text>'


def legend(past: Sequence[Stage], plan: Sequence[Stage], changed: Sequence[int], now: int) -> str:
    """What the looks mean, of those that occur."""
    swatch = '<svg width="22" height="10" aria-hidden="true">{}</svg>'
    both = '<rect class="wb-s-thinking{0}" width="11" height="10"/><rect class="wb-s-answer{0}" x="11" '
    both += 'width="11" height="10"/>'
    items = []
    if past:
        items.append((swatch.format(both.format("")), "trained"))
    if plan:
        items.append((swatch.format(both.format(" wb-s-plan")), "planned"))
    if any(stage.later is not None for stage in plan):
        frame = '<rect class="wb-s-open" x="1" y="1" width="20" height="8"/>'
        items.append((swatch.format(frame), FLAT))
    if not all(all(stage.gets) for stage in (*past, *plan)):
        frame = '<rect class="wb-s-frame" x="1" y="1" width="20" height="8"/>'
        items.append((swatch.format(frame), "no gradient"))
    narrow = '<svg width="10" height="10" aria-hidden="true"><path class="{}" d="{}"/></svg>'
    if now:
        items.append((narrow.format("wb-s-head", "M1 1h8l-4 8z"), "now"))
    if changed:
        items.append((narrow.format("wb-s-diamond", "M5 1l4 4l-4 4l-4 -4z"), "changed"))
    shown = "".join(f'<span class="wb-key">{mark} {name}</span>' for mark, name in items)
    return f'<div class="wb-keys">{shown}</div>'


class Timeline:
    """The strip as a widget; `plan` and `follow` bring it up to date."""

    def __init__(self) -> None:
        self.root = widgets.HTML()
        self._plan: Plan | None = None
        self._run: Any = None
        self._since = 0
        self._seen: tuple[Any, ...] = ()

    def plan(self, plan: Plan) -> None:
        """Show what the controls plan from here on."""
        before, self._plan = self._plan, plan
        if self._run is not None and before != replace(plan, steps=before.steps if before else 1):
            self._since = int(self._run.progress["step"]) + 1
        self._draw()

    def follow(self, run: Any) -> None:
        """Show what `run` (None: no run) has done so far."""
        if run is not self._run:
            self._run, self._since = run, 0
        self._draw()

    def _draw(self) -> None:
        run = None if self._begins() else self._run
        metrics, events = (None, None) if run is None else (run.metrics, run.events)
        counts = (0, 0) if run is None else (len(metrics), len(events))
        seen = (run, self._plan, self._since, *counts)
        if self._plan is not None and seen != self._seen:
            self._seen = seen
            self.root.value = strip_html(self._plan, metrics, events, self._since)

    def _begins(self) -> bool:
        """True where the controls plan another run than the one shown, which has done its steps."""
        run, plan = self._run, self._plan
        if run is None or plan is None or run.status != "finished":
            return False
        over = run.progress["step"] >= plan.steps
        return over and planned(plan) != planned(Plan.of(run.recipe))
