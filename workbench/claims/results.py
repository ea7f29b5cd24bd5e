"""Results of claims: what `workbench claims` wrote, as numbers and as a table.

Every arm of a claim is a list of cells, one for each seed. All means and intervals here are over seeds, on
the same held-out prompts; the interval is Student's t at 95 %. Differences are paired: arm less control at
the same seed, which shares training prompts and sampling noise. No torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from workbench.packaged import PACKAGE, data_path, in_checkout
from workbench.variants import WorkbenchError, unknown

BASE = "base"  # the arm that is not trained: the base, sampled anew with each seed's noise
SUPPORT = ("preserved", "expanded", "shrunk", "out")
BEST = ["pass@1", "best/pass@1", "best/step"]  # the end beside the probe with the highest accuracy
CROSS = ["post_post", "post_pre", "post_post_true", "post_pre_true"]  # who answers to the thoughts
KEPT = [
    "constraints",
    "hard",
    "soft",
    "held_out/constraints",
    "longer/constraints",
]  # shares, by truth
RATIOS = ("srr", "ndr", "sds", "nscr")
Result = dict[str, Any]


# ------------------------------------------------------------------ reading and writing


def default_folder() -> Path:
    """Where claims are written: the checkout's data/results, or ./results."""
    return PACKAGE.parent / "data" / "results" if in_checkout() else Path("results")


def load(claim: str | os.PathLike[str]) -> Result:
    """What was measured for a claim: its name, or the path of its JSON file."""
    path = Path(claim)
    if path.suffix != ".json":
        own = default_folder() / f"{claim}.json"
        path = own if own.is_file() else _shipped(str(claim))
    result = read(path)
    if result is None:
        raise WorkbenchError(f"There is no file {path}; make it with: workbench claims {path.stem}")
    return result


def _shipped(name: str) -> Path:
    folder = data_path() / "results"  # there only once something was measured
    found = sorted(path.stem for path in folder.glob("*.json"))
    if name not in found:
        raise WorkbenchError(
            unknown("claim result", name, found) + f" To measure it: workbench claims {name}"
        )
    return folder / f"{name}.json"


def read(path: Path) -> Result | None:
    """The result in a file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"The results {path} can't be read ({error}); mend or delete them."
        ) from error


def write(path: Path, result: Result) -> None:
    """Write the file whole or not at all."""
    partial = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        partial.write_text(_text(rounded(result)) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise WorkbenchError(
            f"Can't write {path} ({error.strerror}); give --out a folder with room."
        ) from error


def rounded(value: Any) -> Any:
    """Floats to five significant digits; NaN and infinity, which JSON lacks, to None."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _text(value: Any, indent: int = 0) -> str:
    """JSON for people: short parts, and those that hold no further list or dictionary, on one line."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent < 110 or not any(isinstance(item, (dict, list)) for item in items):
        return flat
    space = " " * (indent + 1)
    if isinstance(value, dict):
        lines = [
            f"{json.dumps(key, ensure_ascii=False)}: {_text(item, indent + 1)}"
            for key, item in value.items()
        ]
        opening, closing = "{}"
    else:
        lines = [_text(item, indent + 1) for item in value]
        opening, closing = "[]"
    body = (",\n" + space).join(lines)
    return f"{opening}\n{space}{body}\n{' ' * indent}{closing}"


# ------------------------------------------------------------------ means and intervals


def support_name(name: str, threshold: int) -> str:
    """The metric of a support count: expanded, or expanded>12 where more than 12 successes solve."""
    return f"{name}>{threshold}" if threshold else name


def interval(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and 95 % t-interval of the known values; None where they do not suffice."""
    known = np.array([value for value in values if value is not None and math.isfinite(value)])
    n = len(known)
    if n == 0:
        return {"mean": None, "low": None, "high": None}
    mean = float(known.mean())
    if n == 1:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, n - 1) * known.std(ddof=1) / math.sqrt(n))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def cells_of(result: Result, arm: str) -> dict[int, dict[str, Any]]:
    """Seed -> metrics of an arm, or of the base; cells that failed are left out."""
    holder = result["base"] if arm == BASE else result["arms"].get(arm, {})
    return {cell["seed"]: cell["metrics"] for cell in holder.get("cells", []) if "metrics" in cell}


def summary(cells: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Metric -> mean and interval over the cells."""
    names = list(dict.fromkeys(name for metrics in cells.values() for name in metrics))
    return {name: interval([m.get(name) for m in cells.values()]) for name in names}


def difference(result: Result, arm: str, control: str) -> dict[str, Any] | None:
    """Arm less control at each seed that both have: metric -> mean, interval, and each seed's value.

    The best point of the base, which takes no step, is the base.
    """
    ours, theirs = cells_of(result, arm), cells_of(result, control)
    if control == BASE:
        best = {name for metrics in ours.values() for name in metrics if name.startswith("best/")}
        theirs = {
            seed: {name: metrics.get(name.removeprefix("best/")) for name in best} | metrics
            for seed, metrics in theirs.items()
        }
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    found = {}
    for name in ours[seeds[0]]:
        pairs = [(ours[seed].get(name), theirs[seed].get(name)) for seed in seeds]
        each = [None if a is None or b is None else a - b for a, b in pairs]
        if any(value is not None for value in each):
            found[name] = interval(each) | {"each": each}
    return {"arm": arm, "control": control, "seeds": seeds, "metrics": found}


def summarise(result: Result) -> None:
    """Put the summaries and differences of the cells at hand into `result`."""
    result["base"]["summary"] = summary(cells_of(result, BASE))
    for name, arm in result["arms"].items():
        arm["summary"] = summary(cells_of(result, name))
    pairs = [difference(result, arm, control) for arm, control in result.get("compare", [])]
    result["differences"] = [pair for pair in pairs if pair is not None]


def frame(result: Result) -> pd.DataFrame:
    """One row for each cell: arm, seed and every metric."""
    rows = [
        {"arm": arm, "seed": seed, **metrics}
        for arm in (BASE, *result["arms"])
        for seed, metrics in sorted(cells_of(result, arm).items())
    ]
    return pd.DataFrame(rows)


# ------------------------------------------------------------------ the table


def table(
    claim: str | os.PathLike[str] | Result, metrics: Sequence[str] | None = None, *, differences: bool = True
) -> str:  # fmt: skip
    """Mean [low, high] of every arm as aligned text, the base first, then the paired differences.

    Args:
        claim: a claim's name, the path of its JSON file, or what `load` returned.
        metrics: columns to show; by default pass@k and, below them, the other measures.
        differences: whether to add the differences.
    """
    result = claim if isinstance(claim, dict) else load(claim)
    passes = [f"pass@{k}" for k in result["evaluation"]["ks"]]
    supports = [
        [support_name(name, threshold) for name in SUPPORT]
        for threshold in result["evaluation"].get("thresholds", [0])
    ]
    blocks = [metrics] if metrics else [passes, ["entropy", "kl", "length"], *supports]
    if not metrics and any(BEST[1] in arm["summary"] for arm in result["arms"].values()):
        blocks.insert(0, BEST)
    found = result["base"]["summary"]
    crossed = [name for name in CROSS if name in found and not metrics]
    instructed = [name for name in KEPT if name in found and not metrics]
    blocks += [block for block in (crossed, instructed) if block]
    parts = [f"{result['title']}\n{_conditions(result)}"]
    parts += [_block(_arm_lines(result, block), block, "arm") for block in blocks]
    parts += [f"{arm} seed {seed}: {text}" for arm, seed, text in _failures(result)]
    if differences and result["differences"]:
        parts.append("Paired differences")
        shown = metrics or [passes[0], passes[-1], "entropy", *supports[-1][1:3]]
        lines = [
            (f"{pair['arm']} - {pair['control']}", len(pair["seeds"]), pair["metrics"])
            for pair in result["differences"]
        ]
        parts += [_block(lines, block, "pair") for block in (shown, crossed, instructed) if block]
    return "\n\n".join(parts)


def _conditions(result: Result) -> str:
    sizes = result["evaluation"]
    return (
        f"{sizes['prompts']} held-out prompts x {sizes['samples']} samples; mean [95 % t-interval over n "
        "seeds]. The base's line is the base sampled anew for each seed: the noise floor."
    )


def _arm_lines(result: Result, metrics: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for name in (BASE, *result["arms"]):
        holder = result["base"] if name == BASE else result["arms"][name]
        yield name, len(cells_of(result, name)), holder["summary"]


def _block(
    lines: Iterator[tuple[str, int, dict[str, Any]]] | list[Any], metrics: Sequence[str], head: str
) -> str:
    rows = [[head, "n", *metrics]]
    rows += [
        [name, str(n), *(_number(m, found.get(m)) for m in metrics)] for name, n, found in lines
    ]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as lines with straight columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)


def _number(metric: str, found: Mapping[str, float | None] | None) -> str:
    """0.512 [0.498, 0.526]; counts and lengths with one decimal."""
    if found is None or found["mean"] is None:
        return "-"
    counted = metric.split("/")[-1].split(">")[0] in (*SUPPORT, "length", "step")
    digits = 1 if counted else 3
    mean, low, high = (
        "" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.000
        for value in (found["mean"], found["low"], found["high"])
    )
    return f"{mean} [{low}, {high}]" if low else mean


def _failures(result: Result) -> list[tuple[str, int, str]]:
    return [
        (name, cell["seed"], cell["failed"])
        for name, arm in result["arms"].items()
        for cell in arm["cells"]
        if "failed" in cell
    ]
