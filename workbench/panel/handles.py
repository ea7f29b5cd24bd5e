"""A curve w(p) with handles, drawn in the page; `handles.js` beside this file is the page's side."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

MOST = 32  # handles; more than fit under a pointer


class Handles(anywidget.AnyWidget):
    """Handles of w(p) = sum_m beta_m B_{m,n-1}(p): drag them, or move them by the arrow keys.

    Attributes:
        value: the coefficients beta, set when a handle is let go.
        live: the same, following every move.
    """

    _esm = Path(__file__).with_name("handles.js").read_text(encoding="utf-8")

    value = traitlets.List(traitlets.Float()).tag(sync=True)
    live = traitlets.List(traitlets.Float()).tag(sync=True)
    label = traitlets.Unicode("weight").tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    most = traitlets.Int(MOST).tag(sync=True)
    height = traitlets.Int(170).tag(sync=True)
