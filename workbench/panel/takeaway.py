"""What a person takes away from the panel: the recipe as code or as a link, the run's report.

The page copies and opens by itself (`takeaway.js`); without anywidget the text is shown to be copied by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workbench.panel.fallback import missing
from workbench.panel.inputs import parameters_of
from workbench.recipe import FIELDS, TABLES, Recipe
from workbench.variants import WorkbenchError

Say = Callable[[str], None]
SHOWN = "Select the text and copy it."


def lean(recipe: Recipe) -> Recipe:
    """The same recipe without the parameters that stand at their defaults, so that its code is short."""

    def needed(kind: str, value: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        row = TABLES[kind].get(value) if isinstance(value, str) else None
        known = {param.name: param.default for param in parameters_of(row)}
        return {n: v for n, v in given.items() if n not in known or v != known[n]}

    kinds = [kind for kind in TABLES if f"{kind}_args" in FIELDS]
    changes = {
        f"{kind}_args": needed(kind, getattr(recipe, kind), getattr(recipe, f"{kind}_args"))
        for kind in kinds
    }
    rewards = {r: needed("rewards", r, given) for r, given in recipe.reward_args.items()}
    return recipe.replace(
        **changes, reward_args={r: given for r, given in rewards.items() if given}
    )


class Takeaway:
    """Copy code, Copy link and Report as buttons.

    Args:
        guard: turns an action into a callback whose errors are shown.
        recipe: the recipe that the controls stand for; raises where there is none.
        report: writes the current run's report and returns its path.
        say: shows a sentence.
    """

    def __init__(
        self,
        guard: Callable[[Callable[[], None]], Callable[..., None]],
        recipe: Callable[[], Recipe],
        report: Callable[[], Path],
        say: Say,
    ) -> None:
        self._guard, self._report, self._say = guard, report, say
        self._recipe = lambda: lean(recipe())
        self.text = widgets.Textarea(
            description="text", tooltip="The text to copy", layout={"width": "100%", "display": "none"}
        )  # fmt: skip
        self._page: Any = None
        if missing():
            self.buttons = self._plain_buttons()
        else:
            from workbench.panel.page import Page  # here, since it needs anywidget

            self._page = self.buttons = Page()
            self._page.on_msg(self._heard)

    def refresh(self, reportable: bool) -> None:
        """Take up the controls as they are now; `reportable`: there is a run to report on."""
        if self._page is None:
            self._report_button.disabled = not reportable
            return
        try:
            recipe = self._recipe()
            code, link = recipe.to_code(), recipe.to_link()
        except WorkbenchError:  # clicking says what is wrong; the controls said it already
            code = link = ""
        changes = {"code": code, "link": link, "reportable": reportable}
        for name, value in changes.items():
            if getattr(self._page, name) != value:
                setattr(self._page, name, value)

    def write_report(self) -> None:
        """Write the report and, where the page can, send it there to be opened."""
        path = self._report()
        if self._page is not None:
            self._page.send({"kind": "report"}, buffers=[path.read_bytes()])
        self._say(f"The report is in {path}.")

    # --- inside -----------------------------------------------------------------------------------

    def _plain_buttons(self) -> widgets.HBox:
        def button(text: str, tooltip: str, action: Callable[[], None]) -> widgets.Button:
            made = widgets.Button(description=text, tooltip=tooltip)
            made.on_click(self._guard(action))
            return made

        self._report_button = button("Report", "Write the run's report", self.write_report)
        code = button("Copy code", "Show a snippet that runs this recipe", self._show_code)
        link = button("Copy link", "Show one short text with every choice", self._show_link)
        return widgets.HBox([code, link, self._report_button])

    def _show_code(self) -> None:
        self._show(self._recipe().to_code())

    def _show_link(self) -> None:
        self._show(self._recipe().to_link())

    def _show(self, text: str) -> None:
        self.text.value, self.text.rows = text, min(text.count("\n") + 2, 16)
        self.text.layout.display = ""
        self._say(SHOWN)

    def _heard(self, _: Any, message: dict[str, Any], __: Any) -> None:
        """What the page tells: something was copied, could not be, or a report is wanted."""
        kind, what = message.get("kind"), message.get("what")
        if kind == "copied":
            words = {
                "Copy code": "The recipe is copied as code.",
                "Copy link": 'The recipe is copied as a link; wb.panel("workbench:…") opens it.',
            }
            self._guard(lambda: self._say(words.get(str(what), "Copied.")))()
        elif kind == "shown":
            self._guard(self._show_link if what == "Copy link" else self._show_code)()
        elif kind == "refused":
            self._guard(lambda: self._show(self._recipe().to_code()))()
        elif kind == "report":
            # Seconds of work: in a thread, so that the kernel answers meanwhile.
            work = self._guard(self._report_or_close)
            threading.Thread(target=work, name="workbench report", daemon=True).start()

    def _report_or_close(self) -> None:
        self._say("Writing the report.")
        try:
            self.write_report()
        except BaseException:
            self._page.send({"kind": "failed"})  # closes the tab that waits for it
            raise
