"""Objectives without training: `explore_objectives()` compares them, `draw_objective()` makes one.

    from workbench.panel.explorer import draw_objective, explore_objectives

Both show at once what follows from a row of the table (`analysis`); nothing is trained or sampled.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np

from workbench import analysis
from workbench import explain as numbers
from workbench.objectives import OBJECTIVES
from workbench.panel.compound import NumberList
from workbench.panel.curves import QuietFigure, fitted
from workbench.panel.fallback import missing
from workbench.panel.inputs import STYLE, WIDE, parameter, read, read_live
from workbench.panel.preview import Preview
from workbench.panel.style import CSS
from workbench.variants import WorkbenchError

START: dict[str, dict[str, Any]] = {"rloo": {}, "grpo": {}, "maxrl": {}, "rl2ml": {"alpha": 1.5}}
GROUPS = (2, 64)  # least and greatest N offered
SIZE = "Completions of one prompt (group size)"
LINEAR = {"type": "linear", "tickmode": "auto"}
HIDDEN = ("metric", "score_noise")  # of a row: set once, for all, under Prompts


def explore_objectives(
    objectives: Mapping[str, Mapping[str, Any]] | Sequence[str] = START, N: int = 16, K: int = 3
) -> Explorer:
    """Objectives side by side, for every group size and success count; show it as a cell's last line.

    Args:
        objectives: those shown at first: names, or name -> parameters.
        N: rollouts of a group.
        K: how many of them succeed, for the table.
    """
    chosen = objectives if isinstance(objectives, Mapping) else {name: {} for name in objectives}
    return Explorer(chosen, N, K)


def draw_objective(beta: Sequence[float] = (3.0, 1.5, 1.0, 0.5), N: int = 16) -> Drawing:
    """The weight w(p) as handles to drag, and what follows from it; show it as a cell's last line."""
    return Drawing(beta, N)


def slider(
    kind: type, value: float, ends: tuple[float, float], name: str, doc: str, **more: Any
) -> Any:
    """A labelled slider over the whole width."""
    common = {"description": name, "tooltip": doc, "style": STYLE, "layout": WIDE}
    return kind(value, min=ends[0], max=ends[1], **common, **more)


class Choice:
    """One objective of the table: a tick, its colour in the curves, and its parameters while ticked."""

    def __init__(
        self,
        name: str,
        position: int,
        arguments: Mapping[str, Any] | None,
        moved: Callable[[], None],
    ) -> None:
        row = OBJECTIVES[name]
        self.name, self._moved = name, moved
        self.tick = widgets.Checkbox(
            arguments is not None, description=name, indent=False, tooltip=row.doc,
            disabled=bool(row.needs), layout={"width": "auto", "flex": "1 1 0"},
        )  # fmt: skip
        if row.needs:
            self.tick.tooltip = f"{row.doc} It looks at more than the number of successes."
        given = arguments or {}
        self.inputs = {
            p.name: parameter(dataclasses.replace(p, words=()), given.get(p.name, p.default))
            for p in row.params  # a word, such as "auto", means something to a run only
            if p.name not in HIDDEN
        }
        for widget in self.inputs.values():
            live = isinstance(widget, NumberList)
            if isinstance(widget, (widgets.FloatSlider, widgets.IntSlider)):
                widget.continuous_update = True  # nothing is trained: it may follow the hand
            widget.observe(lambda _: self._moved(), "live" if live else "value")
        look = numbers.look(position)
        colour = widgets.HTML(swatch(look), layout={"width": "48px", "flex": "0 0 auto"})
        head = widgets.HBox([self.tick, colour], layout=WIDE)
        self.body = widgets.VBox(list(self.inputs.values()), layout=WIDE)
        self.body.add_class("wb-section-body")
        self.root = widgets.VBox([head, self.body], layout=WIDE)
        self.tick.observe(self._on_tick, "value")
        self._fold()

    def arguments(self) -> dict[str, Any]:
        """The parameters as they stand."""
        return {name: read_live(widget) for name, widget in self.inputs.items()}

    def _fold(self) -> None:
        self.body.layout.display = "" if self.tick.value and self.inputs else "none"

    def _on_tick(self, _: Any) -> None:
        self._fold()
        self._moved()


def swatch(look: Mapping[str, Any]) -> str:
    """A piece of an objective's line."""
    dashes = {"solid": "none", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}[look["dash"]]
    return (
        '<svg width="44" height="12" aria-hidden="true"><line x1="2" x2="42" y1="6" y2="6" '
        f'stroke="{look["color"]}" stroke-width="2.5" stroke-dasharray="{dashes}"/></svg>'
    )


class Explorer:
    """Controls, one figure and one table; `arguments(name)` gives an objective's parameters."""

    def __init__(self, chosen: Mapping[str, Mapping[str, Any]], N: int, K: int) -> None:
        self.names = list(OBJECTIVES)
        for name in chosen:
            if name not in self.names:
                raise WorkbenchError(f"Unknown objective {name!r}; one of {', '.join(self.names)}.")
        self._quiet = False
        self._found: dict[str, tuple[tuple[Any, ...], numbers.Explained]] = {}
        self._shown: dict[str, numbers.Explained] = {}
        self._gain_key: tuple[Any, ...] = ()
        self._gain: dict[str, tuple[np.ndarray, float, float]] = {}
        self._p = np.empty(0)
        self.choices = {
            name: Choice(name, at, chosen.get(name), self.draw)
            for at, name in enumerate(self.names)
        }
        self._build_sliders(N, K)
        if missing() is None:
            self.figure: Any = QuietFigure(numbers.empty_figure(self.names))
            shown: widgets.Widget = fitted(self.figure)
        else:
            self.figure, shown = None, widgets.HTML(f'<p class="wb-warn">{missing()}</p>')
        self.table = widgets.HTML()
        self._lay_out(shown)
        self.draw()

    def arguments(self, name: str) -> dict[str, Any]:
        """The parameters of objective `name` as they stand: for a recipe's objective_args."""
        return self.choices[name].arguments()

    def _build_sliders(self, N: int, K: int) -> None:
        whole, real = widgets.IntSlider, widgets.FloatSlider
        noise = (
            "Variance of the score among equally rewarded completions, in the unit in which the slope "
            "of p is (p (1-p))^2"
        )
        alike = "0: all prompts alike; 1: each solved always or never"
        self.N = slider(whole, N, GROUPS, "N", SIZE)
        self.K = slider(whole, K, (0, N), "K", "How many of the N are right")
        self.mean = slider(real, 0.33, (0.02, 0.98), "mean p", "Mean of p over prompts", step=0.01)
        self.spread = slider(real, 0.45, (0.02, 0.95), "spread", alike, step=0.01)
        self.noise = slider(real, 0.25, (0.0, 4.0), "score noise", noise, step=0.05)
        self.metric = widgets.Dropdown(
            options=numbers.METRICS, value="pass@8", description="metric", style=STYLE, layout=WIDE,
            tooltip="What the gain in the table is measured by",
        )  # fmt: skip
        self.log = widgets.Checkbox(
            True, description="w(p) on a logarithmic scale", indent=False, layout=WIDE,
            tooltip="Off: a linear scale, which also shows weights of 0 and below",
        )  # fmt: skip
        self.log.observe(lambda _: self.draw(), "value")
        self.N.observe(self._on_group, "value")
        for widget in (self.mean, self.spread, self.noise):
            widget.continuous_update = False
        for widget in (self.K, self.mean, self.spread, self.noise, self.metric):
            widget.observe(lambda _: self.draw(), "value")

    def _lay_out(self, shown: widgets.Widget) -> None:
        def title(text: str) -> widgets.HTML:
            return widgets.HTML(f'<div class="wb-title">{text}</div>')

        left = widgets.VBox([
            title("One group"), self.N, self.K, self.log,
            title("Objectives"), *(choice.root for choice in self.choices.values()),
            title("Prompts"), self.mean, self.spread, self.noise, self.metric,
        ])  # fmt: skip
        left.add_class("wb-controls")
        right = widgets.VBox([shown, self.table])
        right.add_class("wb-right-side")
        body = widgets.HBox([left, right])
        body.add_class("wb-body2")
        self.root = widgets.VBox([widgets.HTML(f"<style>{CSS}</style>"), body])
        self.root.add_class("wb-panel")

    def _on_group(self, _: Any) -> None:
        self._quiet = True
        share = self.K.value / self.K.max
        self.K.max = self.N.value
        self.K.value = round(share * self.N.value)  # the same share of successes in the new group
        self._quiet = False
        self.draw()

    def draw(self) -> None:
        """Bring the figure and the table up to what the controls say."""
        if self._quiet:
            return
        N, noise = self.N.value, read(self.noise)
        found, refused = {}, {}
        for name, choice in self.choices.items():
            if choice.tick.value:
                try:
                    found[name] = self._explained(name, N, noise)
                except WorkbenchError as error:
                    refused[name] = str(error)
        changed = [name for name in found if found[name] is not self._shown.get(name)]
        self._shown = found
        new_gain = self._measure_gain(N, noise)
        if self.figure is not None:
            with self.figure.batch_update():
                kind = {"type": "log", **numbers.TICKS} if self.log.value else LINEAR
                self.figure.layout.yaxis3.update(kind)
                numbers.fill(
                    self.figure, self.names, found, changed=changed, K=self.K.value,
                    p_samples=self._p if new_gain else None, gain=self._gain if new_gain else None,
                )  # fmt: skip
        self.table.value = self._table_html(found, refused)

    def _explained(self, name: str, N: int, noise: float) -> numbers.Explained:
        arguments = self.arguments(name)
        key = (N, noise, repr(arguments))
        if self._found.get(name, ((), None))[0] != key:
            self._found[name] = (
                key, numbers.explain(OBJECTIVES[name], N, score_noise=noise, **arguments)
            )  # fmt: skip
        return self._found[name][1]

    def _measure_gain(self, N: int, noise: float) -> bool:
        """Work out the gain against alpha where the prompts, N or the noise changed; True if so."""
        key = (N, noise, read(self.mean), read(self.spread))
        if key == self._gain_key:
            return False
        self._gain_key = key
        self._p = numbers.success_rates(key[2], key[3])
        self._gain = numbers.gains(self._p, N, noise)
        return True

    def _table_html(
        self, found: Mapping[str, numbers.Explained], refused: Mapping[str, str]
    ) -> str:
        metric, K, N = self.metric.value, self.K.value, self.N.value
        _, best, top = self._gain[metric]
        heads = ("", "objective", "right one gets", "wrong one gets", "ω(K)", "ω over K",
                 f"gain on {metric}")  # fmt: skip
        head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
        rows = []
        for name, explained in found.items():
            gain = analysis.metric_gain(
                OBJECTIVES[name], metric, self._p, N, score_noise=read(self.noise),
                **self.arguments(name),
            )  # fmt: skip
            cells = [swatch(numbers.look(self.names.index(name))), f"<b>{name}</b>"]
            cells += [signed(v[K]) for v in (explained.success, explained.failure)]
            cells += [signed(explained.scale[K], plus=False)]
            cells += [numbers.transition(explained.success, explained.failure)]
            cells += [f"{gain / top:.0%} of the best α"]
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        said = (
            f"<b>K = {K} of N = {N} right.</b> Advantages below. For {metric} and these prompts the best "
            f"member of rl2ml has α = <b>{best:.2f}</b>{at_end(best)}."
        )
        errors = "".join(f'<div class="wb-warn">{html.escape(t)}</div>' for t in refused.values())
        body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        table = f'<div class="wb-scroll"><table class="wb-table">{body}</table></div>'
        return f'<div class="wb-doc">{said}</div>{table}{errors}'

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.root._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        ticked = [name for name, choice in self.choices.items() if choice.tick.value]
        return f"<objectives: {', '.join(ticked)}>"


def at_end(alpha: float) -> str:
    """A warning where the best alpha is an end of the range that was searched."""
    ends = (numbers.ALPHAS[0], numbers.ALPHAS[-1])
    return " (an end of the range)" if min(abs(alpha - end) for end in ends) < 1e-3 else ""


def signed(value: float, plus: bool = True) -> str:
    """A number with its sign, or a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    return f"{value:{'+' if plus else ''}.3f}".replace("-", "−")


class Drawing:
    """Large handles of w(p) beside what follows from it.

    Attributes:
        beta: the coefficients as they stand, a list.
        arguments: for a recipe: ``Recipe(objective="bernstein", objective_args=drawing.arguments)``.
    """

    def __init__(self, beta: Sequence[float], N: int) -> None:
        row = OBJECTIVES["bernstein"]
        inputs = {param.name: parameter(param, param.default) for param in row.params}
        self.handles, self.estimator = inputs["beta"], inputs["estimator"]
        self.handles.value = [float(value) for value in beta]
        if self.handles.handles is not None:
            self.handles.handles.height = 300
        self.N = slider(widgets.IntSlider, N, GROUPS, "N", SIZE)
        self.preview = Preview(scale=1.5)
        self.preview.root.layout.width = "460px"  # two pictures a row
        left = widgets.VBox([self.handles, self.estimator, self.N])
        left.add_class("wb-draw")
        body = widgets.HBox([left, self.preview.root])
        body.add_class("wb-body2")
        self.root = widgets.VBox([widgets.HTML(f"<style>{CSS}</style>"), body])
        self.root.add_class("wb-panel")
        self.handles.observe(self._draw, "live")
        for widget in (self.estimator, self.N):
            widget.observe(self._draw, "value")
        self._draw()

    @property
    def beta(self) -> list[float]:
        """The coefficients, from p = 0 to p = 1."""
        return read(self.handles)

    @property
    def arguments(self) -> dict[str, Any]:
        """The parameters of objective bernstein."""
        return {"beta": self.beta, "estimator": self.estimator.value}

    def _draw(self, _: Any = None) -> None:
        found = {"beta": read_live(self.handles), "estimator": self.estimator.value}
        self.preview.show(OBJECTIVES["bernstein"], self.N.value, found)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self.preview.load()
        return self.root._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"<drawn objective: beta={self.beta}>"
