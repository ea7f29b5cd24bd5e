"""The buttons that copy and open, drawn in the page; `takeaway.js` beside this file is the page's side."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


class Page(anywidget.AnyWidget):
    """Copy code, Copy link and Report.

    Attributes:
        code, link: what the first two copy; empty where the controls hold no valid recipe.
        reportable: whether there is a run to report on.
    """

    _esm = Path(__file__).with_name("takeaway.js").read_text(encoding="utf-8")

    code = traitlets.Unicode("").tag(sync=True)
    link = traitlets.Unicode("").tag(sync=True)
    reportable = traitlets.Bool(False).tag(sync=True)
