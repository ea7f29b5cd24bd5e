"""The controls of the panel, generated from the Recipe's fields and from the tables.

A field's label, help, range and liveness come from its metadata; a variant's parameters, formula
and source from its row. A new row or field appears here without a line of code.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets

from workbench.panel.compound import NumberList, NumberOrWord
from workbench.panel.inputs import (
    STYLE,
    WEIGHTS,
    WIDE,
    about,
    field_widget,
    first_line,
    label,
    parameter,
    parameters_of,
    read,
    read_live,
)
from workbench.panel.preview import Preview
from workbench.panel.timeline import Plan, Timeline
from workbench.recipe import FIELDS, LIVE, TABLES, Recipe

SECTIONS: dict[str, tuple[str, ...]] = {
    "Objective": ("objective",),
    "KL anchor": (
        "anchor", "beta", "kl_target", "reference", "reference_rate", "reference_every",
    ),
    "Rewards": ("rewards", "standardise", "reward_floor", "truncated", "extra_votes"),
    "Surrogate": ("surrogate", "aggregation"),
    "Think / answer": ("separation", "answerer", "answers_per_thought", "cross_samples"),
    "Task": ("task", "curriculum"),
    "Model": (
        "model", "quantize", "lora_rank", "lora_alpha", "lora_targets", "lora_dropout", "device", "merged",
        "thinking", "think_tags",
    ),
    "Sampling": (
        "prompts_per_step", "group_size", "max_new_tokens", "stop", "temperature", "top_p", "top_k",
        "min_p", "refill_rounds", "engine",
    ),
    "Optimiser": (
        "steps", "optimizer", "learning_rate", "weight_decay", "max_grad_norm", "minibatches", "epochs",
        "microbatch", "microbatch_tokens", "gradient_checkpointing",
        "sampler_correction", "sampler_cap",
    ),
}  # fmt: skip
REST = "Run, evaluation, saving"  # every field that no section names
PLANNED = {"steps", "separation", "answerer"}  # what the strip of the timeline follows
OPEN = ("Objective", "KL anchor", "Rewards")
FIXED = "Fixed when the run started; press Stop, change it and press Start for a new run."

FOREIGN = "Another process holds this run; change it from the notebook or command that started it."


class VariantControl:
    """The choice of a variant, and below it what it is and its parameters."""

    def __init__(self, kind: str, recipe: Recipe, changed: Callable[..., None]) -> None:
        self.kind = kind
        self._changed = changed
        self._quiet = False
        self.choice = widgets.Dropdown(
            options=list(TABLES[kind]), description=label(kind), style=STYLE, layout=WIDE,
            tooltip=FIELDS[kind].metadata["doc"],
        )  # fmt: skip
        self.about = widgets.HTMLMath()
        self.arguments: dict[str, widgets.DOMWidget] = {}
        self.moved: Callable[[], None] = lambda: None  # also called while a handle is dragged
        self.box = widgets.VBox([self.choice, self.about], layout=WIDE)
        self.show(recipe)
        self.choice.observe(self._on_choice, "value")

    @property
    def row(self) -> Any:
        """The chosen row of the table, or the user's own function."""
        return TABLES[self.kind].get(self.choice.value, self.choice.value)

    def values(self) -> dict[str, Any]:
        """The recipe fields that this control sets."""
        found = {self.kind: self.choice.value}
        if f"{self.kind}_args" in FIELDS:
            found[f"{self.kind}_args"] = {n: read(w) for n, w in self.arguments.items()}
        return found

    def drawn(self) -> tuple[dict[str, Any], str]:
        """The arguments as they stand at this moment, and what to say where a word was replaced."""
        found = {name: read_live(widget) for name, widget in self.arguments.items()}
        worded = [
            f"{label(name)} is {widget.value}, chosen by the run; drawn for {found[name]:g}."
            for name, widget in self.arguments.items()
            if isinstance(widget, NumberOrWord) and isinstance(widget.value, str)
        ]
        return found, " ".join(worded)

    def show(self, recipe: Recipe) -> None:
        """Take over the recipe's choice and arguments; a function of the user's joins the list."""
        value = getattr(recipe, self.kind)
        self._quiet = True
        options = [(name, name) for name in TABLES[self.kind]]
        if callable(value):
            options.append((getattr(value, "__name__", "own function"), value))
        self.choice.options = options
        self.choice.value = value
        self._build(getattr(recipe, f"{self.kind}_args", {}))
        self._quiet = False

    def widgets(self) -> Iterator[widgets.DOMWidget]:
        """Everything that can be disabled."""
        yield self.choice
        yield from self.arguments.values()

    def _build(self, arguments: Mapping[str, Any]) -> None:
        self.about.value = about(self.row)
        self.arguments = {
            param.name: parameter(param, arguments.get(param.name, param.default))
            for param in parameters_of(self.row)
        }
        for widget in self.arguments.values():
            widget.observe(self._on_argument, "value")
            if isinstance(widget, NumberList):
                widget.observe(lambda _: self.moved(), "live")
        self.box.children = (self.choice, self.about, *self.arguments.values())
        self.moved()

    def _on_choice(self, _: Any) -> None:
        if not self._quiet:
            self._build({})
            self._changed(**self.values())

    def _on_argument(self, _: Any) -> None:
        self.moved()
        self._changed(**self.values())


class RewardsControl:
    """Each reward with a tick (measure it), a weight, and below these the parameters of a ticked one.

    At weight 0 a reward is measured only.
    """

    def __init__(self, recipe: Recipe, changed: Callable[..., None]) -> None:
        self._changed = changed
        self.rows: dict[Any, tuple[widgets.Checkbox, widgets.FloatSlider]] = {}
        self.arguments: dict[Any, dict[str, widgets.DOMWidget]] = {}
        self._boxes: dict[Any, widgets.VBox] = {}  # of the arguments
        self._own: dict[Any, dict[str, Any]] = {}  # arguments of the user's functions: no widgets
        hint = widgets.HTML(
            '<div class="wb-doc">Tick what to measure; at weight 0 it is only measured.</div>'
        )
        formulas = "".join(
            f"<b>{html.escape(n)}</b>{about(row)}" for n, row in TABLES["rewards"].items()
        )
        self._foot = widgets.HTMLMath(
            '<details class="wb-details"><summary>What each reward is</summary>'
            f"{formulas}</details>"
        )
        self._hint = hint
        self.box = widgets.VBox(layout=WIDE)
        self.show(recipe)

    def values(self) -> dict[str, Any]:
        """The recipe fields that this control sets."""
        ticked = {r: read(weight) for r, (tick, weight) in self.rows.items() if tick.value}
        arguments = {
            reward: self._own.get(reward, {})
            | {n: read(w) for n, w in self.arguments[reward].items()}
            for reward in ticked
        }
        return {"rewards": ticked, "reward_args": {r: a for r, a in arguments.items() if a}}

    def show(self, recipe: Recipe) -> None:
        """Take over the recipe's rewards; functions of the user's get a row of their own."""
        self._own = {r: dict(given) for r, given in recipe.reward_args.items() if callable(r)}
        for reward in [*TABLES["rewards"], *recipe.rewards]:
            if reward not in self.rows:
                self.rows[reward] = self._row(reward)
            self._build(reward, recipe.reward_args.get(reward, {}))
        for reward, (tick, weight) in self.rows.items():
            value = float(recipe.rewards.get(reward, 0.0))
            weight.min, weight.max = min(weight.min, value), max(weight.max, value)
            weight.value = value
            tick.value = reward in recipe.rewards  # last: moving a weight ticks its reward
            self._shade(reward)
        lines = [
            part
            for reward, (tick, weight) in self.rows.items()
            for part in (widgets.HBox([weight, tick], layout=WIDE), self._boxes[reward])
        ]
        self.box.children = (self._hint, *lines, self._foot)

    def widgets(self) -> Iterator[widgets.DOMWidget]:
        """Everything that can be disabled."""
        for reward, (tick, weight) in self.rows.items():
            yield tick
            yield weight
            yield from self.arguments[reward].values()

    def _row(self, reward: Any) -> tuple[widgets.Checkbox, widgets.FloatSlider]:
        row = TABLES["rewards"].get(reward, reward) if not callable(reward) else reward
        name = getattr(reward, "__name__", "own reward") if callable(reward) else reward
        doc = first_line(row)
        tick = widgets.Checkbox(
            description="measure", tooltip=f"Measure {name}: {doc}", indent=False,
            layout={"width": "22px", "overflow": "hidden"},  # the word is for screen readers
        )  # fmt: skip
        weight = widgets.FloatSlider(
            min=WEIGHTS[0], max=WEIGHTS[1], step=0.05, continuous_update=False, description=name,
            tooltip=f"Weight of {name}; at 0 it is measured only. {doc}",
            style={"description_width": "128px"}, layout={"flex": "1 1 0", "width": "auto"},
        )  # fmt: skip

        def on_tick(_: Any) -> None:
            self._shade(reward)
            self._changed(**self.values())

        def on_weight(_: Any) -> None:
            if tick.value:
                self._changed(**self.values())
            else:
                tick.value = True  # which reports the change

        tick.observe(on_tick, "value")
        weight.observe(on_weight, "value")
        return tick, weight

    def _build(self, reward: Any, given: Mapping[str, Any]) -> None:
        """The inputs of a reward's parameters, at the recipe's values."""
        params = () if callable(reward) else parameters_of(TABLES["rewards"][reward])
        made = {p.name: parameter(p, given.get(p.name, p.default)) for p in params}
        for widget in made.values():
            widget.observe(lambda _: self._changed(**self.values()), "value")
        self.arguments[reward] = made
        self._boxes[reward] = widgets.VBox(list(made.values()), layout={"padding": "0 0 0 12px"})

    def _shade(self, reward: Any) -> None:
        """Show at a glance whether the reward is measured; its parameters only where it is."""
        tick, weight = self.rows[reward]
        (weight.remove_class if tick.value else weight.add_class)("wb-off")
        shown = bool(tick.value and self.arguments[reward])
        self._boxes[reward].layout.display = "" if shown else "none"


class FieldControl:
    """One plain field of the recipe."""

    def __init__(self, name: str, recipe: Recipe, changed: Callable[..., None]) -> None:
        self.name = name
        self._changed = changed
        self.widget = field_widget(name, getattr(recipe, name))
        self.box = self.widget
        self.widget.observe(self._on_value, "value")

    def values(self) -> dict[str, Any]:
        """The recipe field that this control sets."""
        return {self.name: read(self.widget)}

    def show(self, recipe: Recipe) -> None:
        """Take over the recipe's value, stretching a slider that is too short for it."""
        value = getattr(recipe, self.name)
        if isinstance(self.widget, widgets.FloatSlider):
            self.widget.max = max(self.widget.max, value)
        self.widget.value = value

    def widgets(self) -> Iterator[widgets.DOMWidget]:
        """Everything that can be disabled."""
        yield self.widget

    def _on_value(self, _: Any) -> None:
        self._changed(**self.values())


Control = VariantControl | RewardsControl | FieldControl


class Controls:
    """All sections. `changed` is called with the recipe fields that a person has just changed."""

    def __init__(self, recipe: Recipe, changed: Callable[..., None]) -> None:
        self._recipe = recipe
        self._silent = True  # until every control has its first value
        self._report = changed
        named = {name for names in SECTIONS.values() for name in names}
        rest = tuple(n for n in FIELDS if n not in named and not n.endswith("_args"))
        self.sections = {
            title: tuple(n for n in names if n in FIELDS) for title, names in SECTIONS.items()
        } | {REST: rest}
        self.by_field: dict[str, Control] = {
            name: self._control(name) for names in self.sections.values() for name in names
        }
        self.preview = Preview()
        self.by_field["objective"].moved = self._draw_preview
        self.by_field["group_size"].widget.observe(lambda _: self._draw_preview(), "value")
        self._draw_preview()
        self.timeline = Timeline()
        self.by_field["separation"].moved = self._draw_timeline
        for name in PLANNED & set(self.by_field) - {"separation"}:
            self.by_field[name].widget.observe(lambda _: self._draw_timeline(), "value")
        self._draw_timeline()
        self.headers: dict[str, widgets.ToggleButton] = {}
        self.root = widgets.VBox([self._section(title) for title in self.sections])
        self.root.add_class("wb-controls")
        self._silent = False

    def recipe(self) -> Recipe:
        """The recipe that the controls stand for; WorkbenchError says what is wrong with it."""
        values: dict[str, Any] = {}
        for control in self.by_field.values():
            values |= control.values()
        return self._recipe.replace(**values)

    def show(self, recipe: Recipe) -> None:
        """Set every control to `recipe` without reporting it as a change."""
        self._recipe = recipe
        with self._silence():
            for control in self.by_field.values():
                control.show(recipe)
        self._draw_timeline()

    def lock(self, running: bool, read_only: bool = False) -> None:
        """While a run is going, disable what can't change in it and say why in the tooltip."""
        for name, control in self.by_field.items():
            why = FOREIGN if read_only else FIXED if running and name not in LIVE else ""
            for widget in control.widgets():
                plain = widget.tooltip.removesuffix(FIXED).removesuffix(FOREIGN).rstrip()
                widget.disabled = bool(why)
                widget.tooltip = f"{plain} {why}".rstrip()

    def _control(self, name: str) -> Control:
        if name == "rewards":
            return RewardsControl(self._recipe, self._changed)
        kind = VariantControl if name in TABLES else FieldControl
        return kind(name, self._recipe, self._changed)

    def _draw_preview(self) -> None:
        control = self.by_field["objective"]
        arguments, note = control.drawn()
        group = self.by_field["group_size"].widget.value
        self.preview.show(control.row, group, arguments, note)

    def _draw_timeline(self) -> None:
        values: dict[str, Any] = {}
        for name in PLANNED & set(self.by_field):
            values |= self.by_field[name].values()
        self.timeline.plan(Plan(**values))

    def _changed(self, **changes: Any) -> None:
        if not self._silent:
            self._report(**changes)

    @contextmanager
    def _silence(self) -> Iterator[None]:
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def _section(self, title: str) -> widgets.VBox:
        # A ToggleButton is a native button, so unlike Accordion's titles it is reached by Tab.
        opened = title in OPEN
        header = widgets.ToggleButton(opened, description=title, tooltip=f"Show or hide: {title}")
        header.add_class("wb-header")
        boxes = [self.by_field[name].box for name in self.sections[title]]
        if title == "Objective":
            boxes.append(self.preview.root)
        if "separation" in self.sections[title]:
            boxes.insert(1, self.timeline.root)
        body = widgets.VBox(boxes)
        body.add_class("wb-section-body")

        def fold(_: Any = None) -> None:
            header.icon = "chevron-down" if header.value else "chevron-right"
            body.layout.display = "" if header.value else "none"

        header.observe(fold, "value")
        fold()
        self.headers[title] = header
        return widgets.VBox([header, body], layout=WIDE)
