"""The demo: two objectives train the same tiny model; one raises pass@1 more, one keeps more of pass@64.

1. Train each arm from the same base, with the same seed and data, and evaluate on the same prompts.
2. Print pass@k before and after, with 95 % intervals over the prompts.
3. Write one self-contained page with the curves.
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from workbench import runs
from workbench.progress import Bar, wait_for
from workbench.recipe import Recipe
from workbench.report import write_report
from workbench.variants import WorkbenchError

ARMS = ("rloo", "maxrl")
STEPS = 60
EVALUATIONS = 3  # of each arm, besides the base
KS = (1, 4, 16, 64)


def demo_recipe(objective: str, steps: int = STEPS, seed: int = 0) -> Recipe:
    """The recipe of one arm."""
    return Recipe(
        name=f"demo-{objective}",
        objective=objective,
        steps=steps,
        seed=seed,
        eval_every=max(1, -(-steps // EVALUATIONS)),
        eval_prompts=48,
        eval_samples=max(KS),
        checkpoint_every=max(1, -(-steps // EVALUATIONS)),
    )


def run_demo(out: str | Path | None = None, *, steps: int = STEPS, seed: int = 0) -> Path:
    """Train the arms with one bar, print the table, write the page; its path.

    Args:
        out: the folder for the arms' runs and the page; by default a new one under ``runs/``.
    """
    folder = Path(out) if out else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-demo"
    recipes = [demo_recipe(objective, steps, seed) for objective in ARMS]
    taken = [name for name in ARMS if (folder / name).exists()]
    if taken:
        raise WorkbenchError(
            f"{folder} holds a demo already ({', '.join(taken)}); give another --out."
        )
    print(f"Two arms of {steps} steps on countdown, from tiny-strong. Runs: {folder}")
    done = []
    with Bar(steps * len(ARMS)) as bar:
        for name, recipe in zip(ARMS, recipes, strict=True):
            done.append(wait_for(runs.train(recipe, folder=folder / name, listeners=[bar])))
    print(before_after_text({run.name: run.metrics for run in done}))
    page = write_report(done, folder / "demo.html")
    print(f"Curves: {page.resolve()}")
    return page


def before_after_text(metrics: dict[str, pd.DataFrame]) -> str:
    """pass@k of the base and of each arm's last step, as aligned text."""
    lines = ["pass@k on held-out prompts, with 95 % intervals"]
    lines.append(f"{'':<8}{'steps':>6}" + "".join(f"{f'pass@{k}':^24}" for k in KS))
    for number, (name, table) in enumerate(metrics.items()):
        evaluated = table.dropna(subset=["eval/pass@1"])
        if number == 0:  # every arm starts from this
            lines.append(_line("base", evaluated.iloc[0]))
        lines.append(_line(name, evaluated.iloc[-1]))
    return "\n".join(lines)


def _line(name: str, row: pd.Series) -> str:
    cells = [
        f"{row[f'eval/pass@{k}']:.3f} [{row[f'eval/pass@{k}/low']:.3f}, {row[f'eval/pass@{k}/high']:.3f}]"
        for k in KS
    ]
    return f"{name:<8}{row.name:>6}" + "".join(f"{cell:^24}" for cell in cells)
