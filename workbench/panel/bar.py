"""The run bar: buttons, progress, the line of figures, the line of messages and the lines of warnings."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.panel.geometry import notice
from workbench.remarks import standing

ALIVE = ("starting", "running", "paused")
# Which buttons make sense in which state; "" is before the first run.
BUTTONS_IN = {
    "": ("start",),
    "starting": ("stop",),
    "running": ("pause", "stop", "fork", "rewind"),
    "paused": ("resume", "step", "stop", "fork", "rewind"),
    "finished": ("start", "resume", "fork", "rewind"),
    "stopped": ("start", "resume", "fork", "rewind"),
    "failed": ("start", "resume", "rewind"),
    "interrupted": ("start", "resume", "fork", "rewind"),
}
BUTTONS = {
    "start": ("Start", "play", "Start a new run with these controls"),
    "pause": ("Pause", "pause", "Pause before the next step"),
    "resume": ("Resume", "forward", "Go on where the run was paused or stopped"),
    "step": ("Step", "step-forward", "Do one step, pause again, and look inside it"),
    "stop": ("Stop", "stop", "Stop after this step; the run is kept and can be resumed"),
    "fork": ("Fork", "code-fork", "Pause this run and go on in a copy with its weights"),
    "rewind": (
        "Rewind",
        "backward",
        "Go back to the checkpoint chosen beside; what came after is kept in the run's folder",
    ),
}
NO_RUN = "No run yet. Choose, then press Start."
READ_ONLY = "read-only: another process holds it"


def clock(seconds: float) -> str:
    """Seconds as 12 s, 3 min 20 s or 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def size(mebibytes: float) -> str:
    """Memory as 712 MB or 3.4 GB (binary)."""
    return f"{mebibytes:.0f} MB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GB"


def described(changes: dict[str, Any]) -> str:
    """Changed fields as text; a function goes by its name."""
    parts = []
    for field, value in changes.items():
        if isinstance(value, dict):
            items = (f"{getattr(k, '__name__', k)} {v}" for k, v in value.items())
            value = ", ".join(items)
        if value != "":
            parts.append(f"{field.replace('_', ' ')}: {getattr(value, '__name__', value)}")
    return "; ".join(parts)


def place(run: Any) -> str:
    """The run's folder, as seen from here."""
    path = Path(getattr(run, "path", run.name))
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


class RunBar:
    """The bar above the panel.

    Args:
        actions: what each of BUTTONS does, as a callback that shows its own errors.
        chosen: called when another run is chosen.
        takeaway: the buttons that copy and report, to stand behind the others.
    """

    def __init__(
        self,
        actions: Mapping[str, Callable[..., None]],
        chosen: Callable[..., None],
        takeaway: widgets.Widget,
    ) -> None:
        self.buttons = {
            name: widgets.Button(description=text, icon=icon, tooltip=tooltip)
            for name, (text, icon, tooltip) in BUTTONS.items()
        }
        for name, button in self.buttons.items():
            button.on_click(actions[name])
        self.buttons["start"].button_style = "primary"
        self.progress = widgets.IntProgress(
            0, min=0, max=1, tooltip="Steps done", layout={"flex": "1 1 120px", "width": "auto"}
        )
        style = {"description_width": "initial"}
        self.back_to = widgets.Dropdown(
            description="to step", tooltip="The checkpoint that Rewind goes back to", style=style,
            layout={"width": "140px", "display": "none"},
        )  # fmt: skip
        self.choice = widgets.Dropdown(
            options=[], description="run", tooltip="The run that buttons and controls act on",
            style=style, layout={"display": "none", "width": "260px"},
        )  # fmt: skip
        self.choice.observe(chosen, "value")
        self.state, self.message = widgets.HTML(NO_RUN), widgets.HTML()
        self.state.add_class("wb-state")
        self.message.add_class("wb-message")
        self.warnings = widgets.HTML(layout={"display": "none"})
        self._judged: tuple[Any, int] | None = (
            None  # the run and the steps that the warnings are of
        )
        line = widgets.HBox(
            [*self.buttons.values(), self.back_to, takeaway, self.progress, self.choice]
        )
        line.add_class("wb-buttons")
        self.root = widgets.VBox([line, self.state, self.message, self.warnings])
        self.root.add_class("wb-bar")

    def say(self, text: str, error: bool = False) -> None:
        """Put a sentence in the message line; errors in red."""
        kind = "wb-error" if error else "wb-note"
        role = "alert" if error else "status"
        shown = f'<span class="{kind}" role="{role}">{html.escape(text)}</span>' if text else ""
        if self.message.value != shown:
            self.message.value = shown

    def show(self, run: Any, status: str, mine: bool) -> None:
        """Bring progress, figures and buttons up to date; none of these act on a run that is not `mine`."""
        progress = run.progress if run is not None else {"step": 0, "steps": 1}
        self.progress.max, self.progress.value = progress["steps"], progress["step"]
        self.progress.bar_style = {"failed": "danger", "finished": "success"}.get(status, "")
        self.state.value = state_html(run, status, progress, mine)
        self._warn(run, int(progress["step"]))
        steps = list(run.checkpoint_steps) if run is not None and mine else []
        if list(self.back_to.options) != steps:
            chosen = self.back_to.value
            newest = chosen is None or chosen == (self.back_to.options or [None])[-1]
            self.back_to.options = steps
            keep = chosen in steps and not newest
            self.back_to.value = chosen if keep else (steps or [None])[-1]
            self.back_to.layout.display = "" if steps else "none"
        makes_sense = BUTTONS_IN.get(status, ()) if mine else ("start",)
        for name, button in self.buttons.items():
            off = name not in makes_sense or (name == "rewind" and not steps)
            if button.disabled != off:
                button.disabled = off

    def _warn(self, run: Any, step: int) -> None:
        """What is wrong in the run's last steps; looked at once a step."""
        if self._judged == (run, step):
            return
        self._judged = (run, step)
        found = standing(run.metrics, run.recipe) if run is not None else []
        self.warnings.layout.display = "" if found else "none"
        lines = "".join(f"<div>{html.escape(text)}</div>" for text in found)
        shown = f'<div class="wb-warn" role="alert">{lines}</div>' if found else ""
        if self.warnings.value != shown:
            self.warnings.value = shown


def state_html(run: Any, status: str, progress: Mapping[str, float], mine: bool) -> str:
    """The line of figures: state, progress, speed, memory, and what came of it so far."""
    if not status:
        return NO_RUN
    parts = [f"<b>{status}</b>", f"step {progress['step']:.0f} of {progress['steps']:.0f}"]
    if not mine:
        parts.insert(1, READ_ONLY)
    if run.doing:
        parts.insert(1, html.escape(run.doing))
    if progress["step"] and status in ALIVE:
        parts += [
            f"{progress['seconds_per_step']:.2f} s/step",
            f"{clock(progress['seconds_left'])} left",
            f"{progress['tokens_per_second']:,.0f} tokens/s",
        ]
        if progress.get("memory"):
            parts.append(f"memory {size(progress['memory'])}")
        if progress.get("gpu_memory"):
            parts.append(f"GPU peak {size(progress['gpu_memory'])}")
    return " · ".join(parts + figures(run) + notice(run))


def figures(run: Any) -> list[str]:
    """pass@1, the greatest pass@k and T_post + A_pre, from the base to now, as text beside the curves."""
    from workbench.series import pass_ks

    metrics = run.metrics
    ks = pass_ks(metrics)
    found = []
    for k in dict.fromkeys((*ks[:1], *ks[-1:])):
        known = metrics[f"eval/pass@{k}"].dropna()
        if len(known):
            found.append(f"pass@{k} {known.iloc[0]:.3f} → <b>{known.iloc[-1]:.3f}</b>")
    if "eval/post_pre" in metrics and len(known := metrics["eval/post_pre"].dropna()):
        found.append(f"T_post+A_pre {known.iloc[0]:.3f} → <b>{known.iloc[-1]:.3f}</b>")
    return found
