"""Claims: questions about objectives and anchors, asked of arms x seeds, and what was measured.

`load`, `table`, `verdicts` and the figures read what `workbench claims NAME` wrote; `measure.measure` and,
for claims with a geometry, `judging.judge` are that command.
"""

from __future__ import annotations

from workbench.claims.figures import alpha_figure, claims_figure
from workbench.claims.geometry_figures import curves_figure, warnings_figure
from workbench.claims.geometry_tables import geometry_table
from workbench.claims.plan import Claim, read_claim
from workbench.claims.results import frame, load, table
from workbench.claims.verdicts import alpha_choices, verdicts

__all__ = [
    "Claim",
    "alpha_choices",
    "alpha_figure",
    "claims_figure",
    "curves_figure",
    "frame",
    "geometry_table",
    "load",
    "read_claim",
    "table",
    "verdicts",
    "warnings_figure",
]
