"""The command ``workbench``: demo, lab, train, runs, report, export, claims, doctor, pretrain.

Heavy imports stay inside the commands, so that ``workbench --help`` answers at once. What a user can
mend is one sentence on stderr and exit status 2; a failed run is 1; Ctrl-C is 130.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.packaged import SHIPPED_MODELS, recipe_path
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.claims import Claim
    from workbench.recipe import Recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    args, extra = parser.parse_known_args(argv)
    if extra and args.command is not lab:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.extra = extra
    try:
        return int(args.command(args) or 0)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\nworkbench: {interrupt or 'Stopped.'}", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `command` to its function."""
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="Reinforcement learning with verifiable rewards on small models.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "demo", help="train two arms on a tiny model, two to five minutes"
    )
    command.add_argument("--steps", type=int, help="optimiser steps of each arm")
    command.add_argument("--out", help="folder of the runs and the page (default: under runs/)")
    command.add_argument("--seed", type=int, default=0, help="seed of both arms (default: 0)")
    command.set_defaults(command=demo)

    command = commands.add_parser(
        "lab",
        help="open the notebooks in JupyterLab",
        description="Open the notebooks in JupyterLab. Unknown options are passed on to it.",
    )
    command.set_defaults(command=lab)

    command = commands.add_parser("train", help="train a recipe, or go on with a run")
    command.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="a YAML file, fields left out: defaults; or a shipped one, such as gsm8k-qwen2.5-0.5b",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="FIELD=VALUE",
        help="override a field, such as beta=0.1 or rewards.length=0.2; repeatable",
    )
    command.add_argument("--out", help="folder of the new run (default: under runs/)")
    command.add_argument("--resume", metavar="FOLDER", help="go on with the run in this folder")
    command.set_defaults(command=train)

    command = commands.add_parser("runs", help="list the runs of a folder, newest first")
    command.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="default: runs/, or $WORKBENCH_RUNS"
    )
    command.set_defaults(command=list_runs)

    command = commands.add_parser("report", help="write a run's curves to one HTML page")
    command.add_argument("run", metavar="RUN", help="the run's folder")
    command.add_argument("-o", "--out", help="the page (default: report.html in the run's folder)")
    command.set_defaults(command=report)

    command = commands.add_parser("export", help="write a run's adapter or model for use elsewhere")
    command.add_argument("run", metavar="RUN", help="the run's folder")
    command.add_argument("-o", "--out", required=True, metavar="DIR", help="a new or empty folder")
    command.add_argument(
        "--merged",
        action="store_true",
        help="a whole model for transformers, not the adapter alone",
    )
    command.add_argument("--step", type=int, help="of which checkpoint (default: the last)")
    command.set_defaults(command=export)

    command = commands.add_parser(
        "claims", help="measure arms x seeds of claims, and print their tables"
    )
    command.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="such as objectives, anchors, intrinsic, or YAML files of your own",
    )
    command.add_argument("--arms", help="some of the arms, joined by commas (default: all)")
    command.add_argument("--seeds", help="such as 0,1,2 or 5-9 (default: the claim's)")
    command.add_argument("--base", metavar="MODEL", help="start from another model or folder")
    command.add_argument("--out", help="folder of NAME.json (default: data/results or ./results)")
    command.add_argument("--fresh", action="store_true", help="measure again what is there already")
    command.add_argument(
        "--smoke", action="store_true", help="two steps and one seed, into a scratch folder"
    )
    command.set_defaults(command=claims)

    command = commands.add_parser(
        "doctor", help="versions, GPU, what is missing or known to be bad; what a recipe will need"
    )
    command.add_argument(
        "--recipe", metavar="RECIPE.yaml", help="foretell its peak memory and step time instead"
    )
    command.add_argument(
        "--memory", metavar="GIB", help="on a GPU of so many GiB, or a known one such as T4"
    )
    command.set_defaults(command=doctor)

    command = commands.add_parser("pretrain", help="make the tiny models again from their seeds")
    command.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(SHIPPED_MODELS)}; default: all"
    )
    command.add_argument(
        "--out", help="folder to put the models in (default: where the shipped are)"
    )
    command.add_argument("--steps", type=int, help="training steps")
    command.add_argument("--seed", type=int, default=0, help="(default: 0)")
    command.add_argument(
        "--smoke", action="store_true", help="a few steps only, into a scratch folder"
    )
    command.set_defaults(command=pretrain)
    return parser


def demo(args: argparse.Namespace) -> None:
    """Two arms on the tiny model, a table and a page."""
    from workbench.demo import run_demo

    settings = {} if args.steps is None else {"steps": args.steps}
    run_demo(out=args.out, seed=args.seed, **settings)


def lab(args: argparse.Namespace) -> int:
    """JupyterLab on the notebooks, reachable from this machine only."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise WorkbenchError("JupyterLab is not installed here; run: pip install jupyterlab")
    if any(option.split("=")[0].lstrip("-") in ("ip", "ServerApp.ip") for option in args.extra):
        raise WorkbenchError(
            "workbench lab listens on this machine only; to reach it from another, "
            "open an SSH tunnel, or start jupyter lab yourself."
        )
    command = [sys.executable, "-m", "jupyterlab", str(notebook_folder()), *args.extra]
    server = subprocess.Popen([*command, "--ServerApp.ip=127.0.0.1"])  # noqa: S603 -- a fixed program
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            continue  # the server got it too, and asks whether it is meant


def notebook_folder() -> Path:
    """The checkout's notebooks, or ./notebooks with a copy of the packaged ones added."""
    from workbench.packaged import in_checkout, notebooks_path

    if in_checkout():
        return notebooks_path()
    folder = Path("notebooks")
    folder.mkdir(exist_ok=True)
    for notebook in sorted(notebooks_path().glob("*.ipynb")):
        if not (folder / notebook.name).exists():  # never over the user's own work
            shutil.copy(notebook, folder)
    return folder


def train(args: argparse.Namespace) -> None:
    """Train a recipe with a bar, or go on with a run."""
    from workbench import runs
    from workbench.progress import Bar, wait_for

    changes = [parse_change(text) for text in args.changes]
    if args.resume is not None:
        if args.recipe is not None or args.out is not None:
            raise WorkbenchError("--resume takes recipe and folder from the run; use --set alone.")
        run = runs.attach(args.resume)
        recipe = changed(run.recipe, changes)
        names = {path[0] for path, _ in changes}
        run.update(**{name: getattr(recipe, name) for name in sorted(names)})
        done = run.progress["step"]
        if run.status == "finished" and done >= recipe.steps:
            raise WorkbenchError(
                f"This run has finished its {done} steps; to go on, add --set steps={2 * done}."
            )
        with Bar(recipe.steps, done) as bar:
            run.listeners.append(bar)
            run.resume()
            wait_for(run, bar)
    else:
        if args.recipe is None:
            raise WorkbenchError("Give a recipe file, or --resume FOLDER.")
        recipe = changed(read_recipe(args.recipe), changes)
        with Bar(recipe.steps) as bar:
            run = runs.train(recipe, folder=args.out, listeners=[bar])
            wait_for(run, bar)
    print(f"Run: {run.path}\nIts curves as a page: workbench report {run.path}")


def read_recipe(path: str) -> Recipe:
    """The recipe in a YAML file, or a shipped one by its name."""
    from workbench.recipe import Recipe

    try:
        text = recipe_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkbenchError(f"The recipe {path} can't be read: {error}.") from error
    return Recipe.from_yaml(text)


def parse_change(text: str) -> tuple[list[str], Any]:
    """(["rewards", "length"], 0.2) of "rewards.length=0.2"; values are YAML, and 1e-3 is a number."""
    import yaml

    name, equals, value_text = text.partition("=")
    if not equals or not name.strip():
        raise WorkbenchError(f"--set {text!r} is not FIELD=VALUE, such as beta=0.1.")
    try:
        value = yaml.safe_load(value_text)
    except yaml.YAMLError as error:
        raise WorkbenchError(f"--set {text!r}: {value_text!r} is not a YAML value.") from error
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return name.strip().split(".", 1), value


def changed(recipe: Recipe, changes: list[tuple[list[str], Any]]) -> Recipe:
    """`recipe` with the changes of --set; all land at once, so their order does not matter."""
    values = recipe.to_dict()
    for path, value in changes:
        name = path[0]
        if len(path) == 1:
            values[name] = value
        elif isinstance(values.get(name), dict):
            values[name] = {**values[name], path[1]: value}
        else:
            raise WorkbenchError(
                f"--set {'.'.join(path)}: {name!r} has no parts; use {name}=VALUE."
            )
    return type(recipe).from_dict(values)


def list_runs(args: argparse.Namespace) -> None:
    """Print the table of the runs below a folder."""
    from workbench.runs import runs

    print(runs(args.folder))


def report(args: argparse.Namespace) -> None:
    """Write a run's page and say where it is."""
    from workbench.runs import attach

    run = attach(args.run)
    out = Path(args.out) if args.out else run.path / "report.html"
    try:
        print(f"Wrote {run.report(out)}")
    except OSError as error:
        raise WorkbenchError(f"The page {out} can't be written: {error}.") from error


def export(args: argparse.Namespace) -> None:
    """Write a run's adapter or merged model, and say how it is loaded."""
    from workbench.runs import attach

    out = attach(args.run).export(args.out, merged=args.merged, step=args.step)
    load = "AutoModelForCausalLM" if args.merged else "AutoPeftModelForCausalLM"
    package = "transformers" if args.merged else "peft"
    print(f"Wrote {out}\nTo load it: {package}.{load}.from_pretrained({str(out)!r})")


def claims(args: argparse.Namespace) -> None:
    """Measure the missing cells of each claim, one after the other, and print what is in its file."""
    from workbench.claims.plan import parse_seeds, read_claim

    seeds = parse_seeds(args.seeds) if args.seeds is not None else ()
    arms = [arm.strip() for arm in args.arms.split(",")] if args.arms is not None else []
    found = [read_claim(name) for name in args.names]
    if args.base is not None:
        found = [replace(claim, shared=claim.shared | {"model": args.base}) for claim in found]
    if args.smoke:
        found = [claim.smoke() for claim in found]
    for claim in found:  # a wrong name is told before any work
        for arm in arms:
            claim.recipe_of(arm)
    for number, claim in enumerate(found):
        if number:
            print()
        measure_claim(claim, arms, seeds, args)


def measure_claim(
    claim: Claim, arms: Sequence[str], seeds: Sequence[int], args: argparse.Namespace
) -> None:
    """Measure and judge one claim, and print its tables."""
    from workbench.claims import geometry_table, load, table, verdicts
    from workbench.claims.judging import judge
    from workbench.claims.measure import measure

    print("\n".join([claim.title, *claim.questions]))
    try:
        path = measure(
            claim, arms=arms, seeds=seeds, out=args.out, smoke=args.smoke, fresh=args.fresh
        )
        judge(claim, path)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Stopped; the same command goes on with the missing cells."
        ) from None
    print(f"\n{table(path)}")
    result = load(path)
    if "geometry" in result:
        print(f"\n{geometry_table(result)}")
    expected = verdicts(result, claim.expect)
    if len(expected):
        print(f"\nExpected and measured\n\n{expected.to_string(index=False)}")
    print(f"\nWritten to {path}")


def doctor(args: argparse.Namespace) -> int:
    """Print the table of findings; with a recipe its forecast, and 1 where that does not fit."""
    from workbench import doctor as checks

    if args.recipe is None:
        if args.memory is not None:
            raise WorkbenchError("--memory says where a recipe is to run; give --recipe too.")
        return checks.main()
    from workbench.forecast import forecast

    found = forecast(read_recipe(args.recipe), args.memory)
    print(found)
    return 0 if found.fits else 1


def pretrain(args: argparse.Namespace) -> None:
    """Make tiny models and say where they are."""
    from workbench.tiny.pretrain import pretrain

    settings = {} if args.steps is None else {"steps": args.steps}
    for name in args.names or SHIPPED_MODELS:
        out = Path(args.out) / name if args.out else None
        folder = pretrain(name, out, seed=args.seed, smoke=args.smoke, **settings)
        print(f"{name}: {folder}")
