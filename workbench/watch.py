"""Watch a run from where the reference runs went: its verdict, and a guard that warns when it leaves.

Both look at the run's probes, so `probe_every` must be set. The envelope needs no labels unless accuracy is
chosen as an axis. How far such warnings are to be trusted was measured: `workbench claims intrinsic`.
"""

from __future__ import annotations

from typing import Any

from workbench.alarms import MARGIN, PATIENCE, leaves_at, left_index
from workbench.diagnosis import Verdict
from workbench.diagnosis import verdict as judge
from workbench.phase import CENTRES, VOTE, Path, distances
from workbench.references import Reference, from_traces, shipped
from workbench.remarks import LEAVING, left_at
from workbench.run import Run
from workbench.variants import WorkbenchError, lookup

THEN = ("warn", "pause")
WARNING = "warning"  # the kind of the event


def from_runs(*runs: Run) -> Reference:
    """A reference of your own runs, which you take to have gone well; all of one model, task and probe."""
    settings = [run.recipe.to_dict() for run in runs]
    found = from_traces(
        f"runs {', '.join(run.name for run in runs)}",
        settings[0] if settings else {},
        {run.name: run.probes() for run in runs},
    )
    for run, each in zip(runs, settings, strict=True):
        _check_fit(run, found, each)
    return found


def reference_of(run: Run, reference: Reference | None = None) -> Reference:
    """The reference given, or the shipped one for the run's model, task and probe."""
    settings = run.recipe.to_dict()
    if reference is None:
        reference = shipped(settings)
    if reference is None:
        raise WorkbenchError(
            f"No reference is shipped for {settings['model']} on {settings['task']} with this probe; make "
            "one of runs of yours that went well: workbench.watch.from_runs(run, ...)."
        )
    _check_fit(run, reference, settings)
    return reference


def _check_fit(run: Run, reference: Reference, settings: dict[str, Any]) -> None:
    differs = reference.misfit(settings)
    if differs:
        raise WorkbenchError(
            f"Run {run.name} can't be compared with the reference, since it differs in {differs}."
        )


def path_of(run: Run, reference: Reference, space: str = VOTE) -> Path:
    """The path of a run's probes so far, in one of `phase.SPACES`."""
    columns = run.probe_columns()
    if not columns["step"]:
        raise WorkbenchError(
            f"Run {run.name} has taken no probe; set probe_every, as in run.update(probe_every=3)."
        )
    near = None
    if space == CENTRES and reference.centres is not None:
        near = distances(run.probes(), reference.centres)
    return reference.path(run.name, columns, space, near)


def verdict(
    run: Run, reference: Reference | None = None, *, space: str = VOTE, margin: float = MARGIN
) -> Verdict:
    """What became of a run: success, one of three ways to fail, or undecided; see `diagnosis.verdict`.

    Args:
        run: a run with probes, going or ended.
        reference: runs to compare with; by default those shipped for its model, task and probe.
        space: P1 with the majority's share (label-free) or with accuracy, or P2; see `phase.SPACES`.
        margin: standard deviations of the reference outside that still count as inside.
    """
    reference = reference_of(run, reference)
    one = path_of(run, reference, space)
    return judge(one, reference.envelope(space), cap=run.recipe.max_new_tokens, margin=margin)


def last_inside(
    run: Run, reference: Reference | None = None, *, patience: int = PATIENCE, margin: float = MARGIN
) -> int | None:  # fmt: skip
    """The step of the last checkpoint before the run left; None if it did not leave or kept none."""
    reference = reference_of(run, reference)
    one, envelope = path_of(run, reference), reference.envelope()
    left = left_index(
        envelope.beyond(one), one.steps_N, envelope.burn_step, patience=patience, margin=margin
    )
    if left is None:
        return None
    kept = [step for step in run.checkpoint_steps if step < one.steps_N[left]]
    return kept[-1] if kept else None


class Guard:
    """A listener of a run that marks the step at which it leaves the envelope, and may pause it.

    `wb.train(recipe, listeners=[wb.Guard(then="pause")])`. It speaks once: a run that is resumed after the
    warning goes on undisturbed.
    """

    def __init__(
        self,
        reference: Reference | None = None,
        *,
        then: str = "warn",
        patience: int = PATIENCE,
        margin: float = MARGIN,
    ) -> None:
        self.then = str(lookup(dict(zip(THEN, THEN, strict=True)), "action of a guard", then))
        self.reference = reference
        self.patience = patience
        self.margin = margin

    def __call__(self, run: Run, record: dict[str, Any]) -> None:
        """Look at a new probe; called by the run's thread after the record is on the disk."""
        if "probe/entropy" not in record or self.left_at(run) is not None:
            return
        reference = reference_of(run, self.reference)
        one = path_of(run, reference)
        step = leaves_at(one, reference.envelope(), patience=self.patience, margin=self.margin)
        if step is None:
            return
        text = f"{LEAVING} {step}"
        run.folder.append_event(step, WARNING, text, {})
        if self.then == "pause":
            run.pause()

    def left_at(self, run: Run) -> int | None:
        """The step of the warning, None as long as there is none."""
        return left_at(run.events)
