"""Claims: questions about objectives and anchors, asked of arms x seeds, and what was measured.

`load`, `table`, `verdicts` and the figures read what `workbench claims NAME` wrote; `measure.measure` is
that command.
"""

from __future__ import annotations

from workbench.claims.figures import alpha_figure, claims_figure
from workbench.claims.plan import Claim, read_claim
from workbench.claims.results import frame, load, table
from workbench.claims.verdicts import alpha_choices, verdicts

__all__ = [
    "Claim",
    "alpha_choices",
    "alpha_figure",
    "claims_figure",
    "frame",
    "load",
    "read_claim",
    "table",
    "verdicts",
]
