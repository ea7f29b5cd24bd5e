"""Judge the runs of a claim by their geometry, from the probes that `measure` kept.

1. The reference: the runs of the claim's `geometry.arm` with `geometry.seeds`, and their entropy centres.
2. Every other run's distances to these centres, kept in its cell.
3. Every other run's drop in accuracy, if any, and its verdicts in P1 with and without labels.
4. What the envelopes and simpler fences would have warned of, and how early: `fences`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench import references
from workbench.alarms import DROP, SMOOTH, drop_step
from workbench.claims import fences, results
from workbench.claims.book import Book, Near, commit
from workbench.claims.measure import tell, trace_file
from workbench.claims.plan import Claim, Geometry
from workbench.claims.results import Result
from workbench.diagnosis import Verdict, verdict
from workbench.geometry import BURN
from workbench.packaged import data_path, in_checkout
from workbench.phase import ACCURACY, SPACES, VOTE, distances
from workbench.references import Reference
from workbench.tables import read_probes
from workbench.variants import WorkbenchError

JUDGED_IN = (VOTE, ACCURACY)  # spaces of the verdicts
TRIES = 3  # where other processes add cells meanwhile


@dataclass(frozen=True)
class Run:
    """A judged cell."""

    arm: str
    seed: int
    cell: dict[str, Any]

    @property
    def name(self) -> str:
        """As in traces and references."""
        return run_name(self.arm, self.seed)


def run_name(arm: str, seed: int) -> str:
    """ARM seed N."""
    return f"{arm} seed {seed}"


def judge(
    claim: Claim,
    path: Path,
    *,
    folder: Path | None = None,
    say: Callable[[str], None] = tell,
) -> None:
    """Write "geometry" into the claim's file at `path`; says in one line what is missing for it.

    folder: where the reference is saved as MODEL-TASK.json; by default data/references for the checkout's
    own results, else `references` beside the file.
    """
    if claim.geometry is None:
        return
    try:
        for _ in range(TRIES):
            if _judge_once(claim, path, folder, say):
                return
    except WorkbenchError as error:
        say(f"Not judged: {error}")
        return
    say("Not judged: cells are being added; run the command again once they are all there.")


def _judge_once(claim: Claim, path: Path, folder: Path | None, say: Callable[[str], None]) -> bool:
    """False where the file changed meanwhile."""
    assert claim.geometry is not None
    result = results.load(path)
    reference = reference_of(claim, path, result)
    runs = judged_runs(result, claim.geometry)
    if not runs:
        raise WorkbenchError("There is no run beside those of the reference; measure more arms.")
    near = near_of(path, runs, reference, say)
    judged = {
        space: [reference.path(run.name, run.cell["probes"], space, near[run.arm, run.seed].rows_NK)
                for run in runs]
        for space in SPACES
    }  # fmt: skip
    cap = claim.base_recipe().max_new_tokens
    found = geometry_of(claim.geometry, reference, runs, judged, cap)
    references.save(reference, reference_file(claim, path, folder))
    old = result.get("geometry")
    cached = all(run.cell.get("centres") == near[run.arm, run.seed].centres for run in runs)
    if old and cached and _same(old, found):
        return True  # a date and a commit alone are no reason to write
    return Book(path, claim, commit()).set_geometry(result, near, found | {"commit": commit()})


def _same(old: Result, new: Result) -> bool:
    plain = json.loads(json.dumps(results.rounded(new)))
    return {key: value for key, value in old.items() if key != "commit"} == plain


# ------------------------------------------------------------------ runs and their distances


def reference_of(claim: Claim, path: Path, result: Result) -> Reference:
    """The reference runs' envelope and centres, as they read in their file; told where runs are missing."""
    geometry = claim.geometry
    assert geometry is not None
    cells = results.cells_of(result, geometry.arm)
    failed = {cell["seed"] for cell in result["arms"].get(geometry.arm, {}).get("cells", [])}
    failed -= set(cells)
    wanted = [seed for seed in geometry.seeds if seed not in failed]
    files = {seed: trace_file(path, geometry.arm, seed) for seed in wanted}
    missing = [seed for seed in wanted if seed not in cells or not files[seed].is_file()]
    if missing or not wanted:
        which = ", ".join(map(str, missing or geometry.seeds))
        raise WorkbenchError(
            f"The reference lacks runs with probes (arm {geometry.arm}, seeds {which}); measure them with "
            f"--arms {geometry.arm} into the same folder."
        )
    seeds = ", ".join(map(str, wanted))
    made = references.from_traces(
        f"claim {claim.name}, arm {geometry.arm}, seeds {seeds}",
        claim.base_recipe().to_dict(),
        {run_name(geometry.arm, seed): read_probes(file) for seed, file in files.items()},
    )
    return Reference.from_dict(made.to_dict())  # rounded: the file that is shipped judges alike


def judged_runs(result: Result, geometry: Geometry) -> list[Run]:
    """All cells with probes but the reference's."""
    return [
        Run(arm, cell["seed"], cell)
        for arm, holder in result["arms"].items()
        for cell in holder["cells"]
        if "metrics" in cell
        and "probes" in cell
        and not (arm == geometry.arm and cell["seed"] in geometry.seeds)
    ]


def near_of(
    path: Path, runs: Sequence[Run], reference: Reference, say: Callable[[str], None]
) -> dict[tuple[str, int], Near]:
    """Each run's distances to the centres, from its cell where they are of these centres."""
    assert reference.centres is not None
    mark = hashlib.sha256(reference.centres.series_KL.tobytes()).hexdigest()[:12]
    todo = [run for run in runs if run.cell.get("centres") != mark]
    files = {run.name: trace_file(path, run.arm, run.seed) for run in todo}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        raise WorkbenchError(
            f"The traces of {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''} are not "
            f"in {path.parent / 'traces'}; measure these cells again with --fresh."
        )
    if todo:
        say(f"{len(todo)} runs: distances of their responses to the entropy centres")
    found = {(run.arm, run.seed): run.cell["probes"].get("near") for run in runs}
    for run in todo:
        rows_NK = distances(read_probes(files[run.name]), reference.centres)
        found[run.arm, run.seed] = results.rounded(rows_NK.tolist())
    return {key: Near(mark, rows) for key, rows in found.items()}


def reference_file(claim: Claim, path: Path, folder: Path | None = None) -> Path:
    """Where the reference of a claim's base and task is saved."""
    recipe = claim.base_recipe()
    if folder is None:
        own = in_checkout() and path.parent.resolve() == results.default_folder().resolve()
        folder = (data_path() if own else path.parent) / "references"
    return folder / f"{Path(recipe.model).name}-{recipe.task}.json"


# ------------------------------------------------------------------ verdicts and warnings


def geometry_of(
    geometry: Geometry, reference: Reference, runs: Sequence[Run], judged: fences.Paths, cap: int
) -> Result:
    """All that is judged, as plain numbers, strings and lists; see the module and `fences`."""
    around = fences.fences_of(reference)
    patience = geometry.patience
    rows = [
        _row(run, reference, {space: judged[space][i] for space in JUDGED_IN}, geometry, cap)
        for i, run in enumerate(runs)
    ]
    ends = [row["drop"] for row in rows if row["drop"] is not None]
    first = fences.first_warning(around, judged, patience)
    return {
        "settings": {**asdict(geometry), "drop": DROP, "smooth": SMOOTH, "burn": BURN, "cap": cap},
        "reference": _about(reference),
        "runs": len(runs),
        "drops": len(ends),
        "first_warning": first,
        "too_early": sum(first is None or end <= first for end in ends),
        "counts": {space: _counted(rows, space) for space in JUDGED_IN},
        "verdicts": rows,
        "warnings": fences.at_margins(around, judged, patience, geometry.margins),
        "sweeps": fences.over_margins(around, judged, patience),
    }


def _about(reference: Reference) -> Result:
    """The reference in a few numbers; all of it is in its own file."""
    assert reference.centres is not None
    envelopes = {space: reference.envelope(space) for space in SPACES}
    return {
        "runs": list(reference.runs),
        "burn_step": envelopes[VOTE].burn_step,
        "volumes": {space: one.volume for space, one in envelopes.items()},
        "centres": reference.centres.levels_K.tolist(),
        "shares": reference.centres.shares_K.tolist(),
    }


def _row(
    run: Run, reference: Reference, paths: dict[str, Any], geometry: Geometry, cap: int
) -> Result:
    """A run's drop and verdicts: {arm, seed, drop, space: verdict}."""
    steps, accuracy = run.cell["probes"]["step"], run.cell["probes"]["accuracy"]
    row = {"arm": run.arm, "seed": run.seed, "drop": drop_step(steps, accuracy)}
    for space, one in paths.items():
        found = verdict(
            one,
            reference.envelope(space),
            cap=cap,
            patience=geometry.patience,
            margin=geometry.margin,
        )
        row[space] = _plain(found)
    return row


def _plain(found: Verdict) -> Result:
    return {
        "name": found.name,
        "holds": list(found.holds),
        "held_out": found.held_out,
        "left_at": found.left_at,
        "signs": list(found.signs),
        "numbers": found.decided_by,
    }


def _counted(rows: Sequence[Result], space: str) -> dict[str, dict[str, int]]:
    """Arm -> verdict -> runs."""
    arms = dict.fromkeys(row["arm"] for row in rows)
    return {
        arm: dict(Counter(row[space]["name"] for row in rows if row["arm"] == arm)) for arm in arms
    }
