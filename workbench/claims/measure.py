"""Measure a claim: arms x seeds, written to one JSON file that anyone can repeat.

    1. A claim is a YAML file (data/claims): a shared recipe, arms that change it, seeds, pairs to compare.
    2. The base is measured once, and again with each seed's sampling noise: that is the noise floor.
    3. A cell is one arm with one seed: the steps of a run, then one evaluation on the held-out prompts.
    4. Each cell is merged into the file at once. A stopped claim goes on where it was, and processes
       with different arms may write into one file.

A cell's weights are those of `wb.train` with the arm's recipe link and the cell's seed, bit for bit. Its
evaluation draws with a seed of its own: with one shared draw, luck in sampling would look like agreement
between seeds. Arms with the same seed share the draw, so that their paired difference is less noisy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.claims import results
from workbench.claims.book import Book, commit
from workbench.claims.crossed import cross_cell, post_pre_metrics
from workbench.claims.instructed import Shelf, also_metrics, model_metrics
from workbench.claims.plan import Claim, read_claim
from workbench.evaluation import EVAL_SEED, Evaluation, evaluate, support_counts
from workbench.phase import table
from workbench.probe import ProbeTrace
from workbench.recipe import Recipe
from workbench.tables import probe_table, write_parquet
from workbench.tasks.base import knows_truth
from workbench.tracing import trace
from workbench.trainer import NonFiniteError, State, prepare, train_step
from workbench.variants import WorkbenchError
from workbench.worker import crossed, fitting_threads

LAST = 10  # steps at the end of a run over which its alpha is averaged


def tell(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


def measure(
    claim: Claim | str,
    *,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    base: str | None = None,
    out: str | os.PathLike[str] | None = None,
    smoke: bool = False,
    fresh: bool = False,
    say: Callable[[str], None] = tell,
) -> Path:
    """Measure the cells that are missing, write each into OUT/NAME.json at once; the file's path.

    Args:
        claim: a shipped claim's name, the path of a YAML file, or a Claim.
        arms: names of arms; all when empty.
        seeds: any seeds; those of the claim when empty.
        base: a model to start from instead of the claim's.
        out: folder of the file; by default data/results in a checkout, else ./results.
        smoke: two steps and four prompts, into a scratch folder unless `out` is given.
        fresh: measure also what is in the file already.
        say: takes the lines of progress.
    """
    claim = read_claim(claim) if isinstance(claim, str) else claim
    claim = claim if base is None else _with_base(claim, base)
    claim = claim.smoke() if smoke else claim
    chosen = list(arms) or list(claim.arms)
    recipes = {arm: claim.recipe_of(arm) for arm in chosen}  # a wrong one is told before any work
    if not knows_truth(claim.base_recipe().make_task()):
        raise WorkbenchError(
            f"Claim {claim.name} can't be measured: its task {claim.base_recipe().task!r} knows no right "
            "answers, and every cell has its pass@k; choose a task that does."
        )
    path = _folder(out, smoke) / f"{claim.name}.json"
    given = tuple(seeds)
    wanted = given or tuple(dict.fromkeys(seed for arm in chosen for seed in claim.seeds_of(arm)))
    book = Book(path, claim, commit(), fresh)
    base_P = measure_base(claim, given or claim.seeds, book, say)
    todo = [
        (arm, seed)
        for seed in wanted
        for arm in chosen
        if seed in (given or claim.seeds_of(arm)) and not book.has(recipes[arm], arm, seed)
    ]
    say(f"{len(todo)} cells to measure, into {path}")
    started, shelf = time.perf_counter(), Shelf()
    for number, (arm, seed) in enumerate(todo, 1):
        if book.has(recipes[arm], arm, seed):
            continue  # another process has measured it by now
        cell, traces = measure_cell(claim, arm, seed, base_P, shelf)
        gc.collect()
        if traces:  # before the cell: a cell that is there has its traces
            write_parquet(probe_table(*traces), trace_file(path, arm, seed))
        book.add_cell(recipes[arm], arm, cell)
        left = (time.perf_counter() - started) / number * (len(todo) - number)
        say(f"[{number}/{len(todo)}] {_cell_line(claim, arm, cell)}; {_duration(left)} left")
    return path


def _with_base(claim: Claim, base: str) -> Claim:
    return dataclasses.replace(claim, shared=claim.shared | {"model": base})


def _folder(out: str | os.PathLike[str] | None, smoke: bool) -> Path:
    if out is not None:
        folder = Path(out)
    elif smoke:
        folder = Path(tempfile.mkdtemp(prefix="workbench-claims-"))
    else:
        folder = results.default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkbenchError(
            f"Can't make the folder {folder} ({error.strerror}); give another --out."
        ) from error
    return folder


def measure_base(
    claim: Claim, seeds: Sequence[int], book: Book, say: Callable[[str], None]
) -> np.ndarray:
    """The base's successes per prompt; measured where the file lacks them, and sampled anew per seed."""
    known_P, done = book.base()
    missing = [seed for seed in seeds if seed not in done]
    if known_P is not None and not missing:
        return known_P
    started = time.perf_counter()
    with loaded(claim.base_recipe()) as state:
        if known_P is None:
            first = evaluate_cell(state, claim, EVAL_SEED)
            known_P = first.successes_P
            further = post_pre_metrics(state, claim, EVAL_SEED)
            further |= also_metrics(state, claim, EVAL_SEED)
            book.set_base(evaluation_metrics(first, claim) | further, known_P)
        for seed in missing:
            book.add_base_cell(seed, cell_metrics(state, claim, seed, known_P))
    del state
    gc.collect()
    say(f"base: {_duration(time.perf_counter() - started)}")
    return known_P


def measure_cell(
    claim: Claim, arm: str, seed: int, base_P: np.ndarray, shelf: Shelf | None = None
) -> tuple[dict[str, Any], list[ProbeTrace]]:
    """Train one arm with one seed as a run does, evaluate it at the end; its numbers and its probes.

    Constraint reward models come from the `shelf` and go there.
    """
    shelf = shelf or Shelf()
    recipe = claim.recipe_of(arm, seed)
    started = time.perf_counter()
    cell: dict[str, Any] = {"seed": seed}
    history: list[dict[str, float]] = []
    curve: list[dict[str, float]] = []
    with loaded(recipe) as state:
        cell["threads"] = torch.get_num_threads()
        shelf.lend(state, recipe)
        probes = Probes(state, recipe)
        probes.take()
        _watch_score(state, recipe)
        if probes.traces and any(row in state.eval_rows for row in state.probe_rows):
            raise WorkbenchError(
                f"Claim {claim.name} probes prompts that it evaluates too, which would flatter the best "
                "point; lower evaluation.prompts or probe_prompts."
            )
        try:
            for step in range(1, recipe.steps + 1):
                history.append(train_step(state, recipe, measure_kl=step == recipe.steps).metrics)
                shelf.keep(state)
                probes.take()
                _watch_score(state, recipe)
                if claim.curve_every and step % claim.curve_every == 0:
                    curve.append({"step": step, **cell_metrics(state, claim, seed)})
            measured = cell_metrics(state, claim, seed, base_P)
            measured |= cross_cell(state, claim, cell_seed(seed))
            measured |= model_metrics(state, claim, recipe, arm)
            cell["metrics"] = measured | training_metrics(history)
        except NonFiniteError as error:
            cell["failed"] = str(error).split(";")[0]  # a cell has no folder with the batch in it
        if probes.traces and "metrics" in cell:
            cell["metrics"] |= measure_best(probes, claim, seed)
            cell["probes"] = table(probes.traces) | {"reward": probes.rewards(history)}
    if curve:
        cell["curve"] = curve
    if history:
        cell["seconds_per_step"] = float(np.mean([metrics["time/step"] for metrics in history]))
    cell["seconds"] = time.perf_counter() - started
    return cell, probes.traces


def _watch_score(state: State, recipe: Recipe) -> None:
    """What a run measures at its evaluations, for a separation that switches on it."""
    due = state.step % recipe.eval_every == 0 or state.step >= recipe.steps
    if due and recipe.separation_args.get("switch") == "flat":
        crossed(state, recipe)


class Probes:
    """The probes of one cell, and the weights at the one with the highest accuracy."""

    def __init__(self, state: State, recipe: Recipe) -> None:
        self.traces: list[ProbeTrace] = []
        self._state = state
        self._recipe = recipe
        self._best: dict[str, torch.Tensor] = {}
        self.best_step = 0

    def take(self) -> None:
        """Take a probe where one is due; its accuracy, which only measures, picks the best weights."""
        state, recipe, step = self._state, self._recipe, self._state.step
        if not recipe.probe_every or (step % recipe.probe_every and step < recipe.steps):
            return
        found = trace(
            state.policy,
            state.task,
            state.probe_rows,
            step=step,
            samples=recipe.probe_samples,
            max_new_tokens=recipe.max_new_tokens,
        )
        if all((found.accuracy or 0.0) > (kept.accuracy or 0.0) for kept in self.traces):
            self._best = state.policy.state()
            self.best_step = step
        self.traces.append(found)

    def load_best(self) -> State:
        """The state with the best weights in it."""
        self._state.policy.load_state(self._best)
        self._state.policy.refresh_sampler()
        return self._state

    def rewards(self, history: Sequence[Mapping[str, float]]) -> list[float]:
        """The mean reward of the steps since the probe before; before the first step that of the first."""
        steps = [found.step for found in self.traces]
        totals = [metrics["reward/total"] for metrics in history]
        parts = [totals[a:b] for a, b in itertools.pairwise(steps)]
        return [totals[0], *(float(np.mean(part)) for part in parts)]


def measure_best(probes: Probes, claim: Claim, seed: int) -> dict[str, float]:
    """best/ metrics: the weights that the probe's accuracy chose, evaluated on other prompts.

    The probe chooses with labels and on its own prompts, so the figure is not raised by the choice, but no
    label-free run could have stopped there by itself.
    """
    state = probes.load_best()
    found = cell_metrics(state, claim, seed)
    return {"best/step": probes.best_step} | {f"best/{k}": value for k, value in found.items()}


def trace_file(path: Path, arm: str, seed: int) -> Path:
    """Where a cell's probes are kept, beside the claim's file; too large to be shipped."""
    return path.parent / "traces" / path.stem / f"{arm}-{seed}.parquet"


@contextlib.contextmanager
def loaded(recipe: Recipe) -> Iterator[State]:
    """The state at the start of `recipe`, with the threads a run would have; both are given back."""
    before = torch.get_num_threads()
    state = prepare(recipe)
    state.tell = lambda line: None  # a claim's own lines tell how far it is
    torch.set_num_threads(recipe.threads or fitting_threads(state))
    try:
        yield state
    finally:
        del state
        torch.set_num_threads(before)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def cell_seed(seed: int) -> int:
    """The seed of a cell's evaluation; an evaluation uses up to a thousand numbers from it on."""
    return EVAL_SEED + 1000 * (seed + 1)


def evaluate_cell(state: State, claim: Claim, seed: int) -> Evaluation:
    """The held-out prompts with the claim's many samples."""
    return evaluate(
        state.policy,
        state.task,
        rows=state.eval_rows,
        prompts=claim.evaluation["prompts"],
        samples=claim.evaluation["samples"],
        max_new_tokens=claim.base_recipe().max_new_tokens,
        seed=seed,
    )


def cell_metrics(
    state: State, claim: Claim, seed: int, base_P: np.ndarray | None = None
) -> dict[str, float]:
    """Everything that is measured of a cell's weights, with the noise of its seed."""
    own_seed = cell_seed(seed)
    found = evaluation_metrics(evaluate_cell(state, claim, own_seed), claim, base_P)
    further = post_pre_metrics(state, claim, own_seed) | also_metrics(state, claim, own_seed)
    return found | further


def evaluation_metrics(
    evaluation: Evaluation, claim: Claim, base_P: np.ndarray | None = None
) -> dict[str, float]:
    """pass@k, entropy, length, truncated; with `base_P` the support counts against it."""
    found: dict[str, float] = {f"pass@{k}": evaluation.pass_at[k] for k in claim.evaluation["ks"]}
    found |= {key: getattr(evaluation, key) for key in ("entropy", "length", "truncated")}
    found |= evaluation.measures
    for threshold in claim.evaluation["thresholds"] if base_P is not None else ():
        support = support_counts(base_P, evaluation.successes_P, threshold=threshold)
        names = (*results.SUPPORT, *results.RATIOS)
        found |= {results.support_name(name, threshold): getattr(support, name) for name in names}
    return found


def training_metrics(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the steps: KL before the last update, groups without signal (mean), the last alphas' mean."""
    found = {
        "kl": history[-1]["train/kl"],
        "reward": float(np.mean([metrics["reward/total"] for metrics in history[-LAST:]])),
        "zero_signal": float(np.mean([metrics["groups/zero_signal"] for metrics in history])),
    }
    alphas = [m["train/alpha"] for m in history[-LAST:] if "train/alpha" in m]
    return found | ({"alpha": float(np.mean(alphas))} if alphas else {})


def _cell_line(claim: Claim, arm: str, cell: Mapping[str, Any]) -> str:
    if "failed" in cell:
        return f"{arm} seed {cell['seed']}: {cell['failed']}"
    ends = (f"pass@{k}" for k in (claim.evaluation["ks"][0], claim.evaluation["ks"][-1]))
    passed = ", ".join(f"{name} {cell['metrics'][name]:.3f}" for name in ends)
    return f"{arm} seed {cell['seed']}: {passed}, {_duration(cell['seconds'])}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
