"""Runs killed at any moment go on bit for bit: `python -m tests.benchmarks.faults [--kills 20] [--seed 0]`.

A short run of the tiny model, with a live update on its way, is killed by SIGKILL: at a random time, or while
a checkpoint, saved completions or a line are being written, or in the middle of an evaluation. It is resumed
in another process, given the same update, and held against an undisturbed run: every metric but clocks and
memory, the updates among the events, the final adapter and the optimiser's state must be the same bit for
bit. Ends with an error where one is not.

Processes are forked from this one, which has loaded the libraries, so that a kill costs seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS, CHECKPOINT_EVERY = 8, 3
RECIPE: dict[str, Any] = {
    "rewards": {"correct": 1.0, "length": 0.1}, "anchor": "reverse_kl", "beta": 0.02, "lora_dropout": 0.1,
    "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 24, "steps": STEPS,
    "eval_every": 4, "eval_prompts": 2, "eval_samples": 4, "probe_every": 4, "probe_prompts": 2,
    "probe_samples": 2, "checkpoint_every": CHECKPOINT_EVERY, "rollouts_every": 2, "threads": 1,
}  # fmt: skip
UPDATES: tuple[dict[str, Any], ...] = (
    {"beta": 0.2},
    {"objective": "maxrl"},
    {"rewards": {"length": 0.5}},
    {"learning_rate": 5e-4, "temperature": 0.8},
)
# Half of the kills come at a random time, the others in the midst of these.
MOMENTS = ("checkpoint", "completions", "evaluation", "line", "sealing", "status")
ALWAYS_OTHER = ("time", "memory/")  # names of metrics that no two runs share begin so


@dataclass(frozen=True)
class Kill:
    """When to die: after `value` seconds, or at the `value`-th time of a moment."""

    moment: str
    value: float


# ------------------------------------------------------------------ in the processes


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kill: Kill) -> None:
    """Let this process die when `kill` says."""
    from workbench import folder, tables, worker

    if kill.moment == "time":
        threading.Timer(kill.value, die).start()
        return

    def in_the_midst(
        function: Callable[..., Any], fatal: Callable[..., None]
    ) -> Callable[..., Any]:
        calls = []

        def call(*given: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) == kill.value:
                fatal(*given)
            return function(*given, **named)

        return call

    def write_half(table: Any, target: Path, **_: Any) -> None:
        write_table(table, target)
        cut_and_die(target)

    def append_half(path: Path, record: dict[str, Any]) -> None:
        append(path, record)
        line = len(json.dumps(record)) + 1
        os.truncate(path, path.stat().st_size - line // 2)
        die()

    def save_half(tensors: Any, target: Path) -> None:
        save(tensors, target)
        cut_and_die(target)

    def put_aside(path: Path, text: str) -> None:
        path.with_name(f".part-{path.name}").write_text(text[: len(text) // 2])
        die()

    def seal_only(*given: Any) -> None:
        seal(*given)
        die()

    write_table, append, save, seal = (
        tables.pq.write_table, folder._append, folder.save_file, folder.RunFolder._seal,
    )  # fmt: skip
    soon = lambda *_, **__: threading.Timer(0.03, die).start()  # noqa: E731
    if kill.moment == "checkpoint":
        folder.save_file = in_the_midst(save, save_half)
    elif kill.moment == "completions":
        tables.pq.write_table = in_the_midst(write_table, write_half)
    elif kill.moment == "evaluation":
        worker.evaluate = in_the_midst(worker.evaluate, soon)
    elif kill.moment == "line":
        folder._append = in_the_midst(append, append_half)
    elif kill.moment == "sealing":
        folder.RunFolder._seal = staticmethod(in_the_midst(seal, seal_only))
    elif kill.moment == "status":
        folder.replace_text = in_the_midst(folder.replace_text, put_aside)


def cut_and_die(path: Path) -> None:
    os.truncate(path, Path(path).stat().st_size // 2)
    die()


def start(path: Path, update: dict[str, Any], at: int, kill: Kill | None) -> None:
    """Train in `path`, with `update` after step `at`, until killed."""
    from workbench.recipe import Recipe
    from workbench.runs import train

    if kill is not None:
        arm(kill)
    train(Recipe(**RECIPE), folder=path, listeners=[updating(update, at)], blocking=True)


def resume(path: Path, update: dict[str, Any], at: int) -> None:
    """Go on with the run in `path`; the update is asked for unless the run had taken it up already."""
    from workbench.runs import attach

    run = attach(path)
    if run.status == "finished":  # killed between its end and that of its process
        return
    steps = run.checkpoint_steps
    taken_up = any(event["kind"] == "update" for event in run.folder.read_events())
    if steps and steps[-1] == at and not taken_up:
        run.update(**update)
    run.listeners.append(updating(update, at))
    run.resume()
    run.wait()


def updating(update: dict[str, Any], at: int) -> Callable[[Any, dict[str, Any]], None]:
    return lambda run, record: run.update(**update) if record["step"] == at else None


def in_a_fork(work: Callable[[], None]) -> int:
    """The exit code of a process that does `work`; minus a signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 -- a fork must not go on as its parent
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ------------------------------------------------------------------ what came of them


def outcome(path: Path) -> dict[str, Any]:
    """Everything about a finished run that must not depend on where it was killed."""
    from workbench.folder import RunFolder

    kept = RunFolder(path)
    last = kept.checkpoints()[-1]
    found: dict[str, Any] = {"status": kept.read_status()["status"], "checkpoint": last.name}
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        found[name] = (last / name).read_bytes()
    for event in kept.read_events():
        if event["kind"] == "warning":  # told again where a kill repeats the steps that it is about
            continue
        found[f"event at step {event['step']}"] = event["text"]
    for record in kept.read_metrics():
        for name, value in record.items():
            if not name.startswith(ALWAYS_OTHER):
                found[f"{name} at step {record['step']}"] = value
    return found


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The names under which two outcomes differ."""
    names = [*one, *(name for name in two if name not in one)]
    return [
        name for name in names if one.get(name) != two.get(name) or (name in one) != (name in two)
    ]


def seen(path: Path) -> tuple[int, int]:
    """The last step on the disk, and that of the last whole checkpoint; -1 and 0 where there is none."""
    from workbench.folder import RunFolder

    kept = RunFolder(path)
    steps = [record["step"] for record in kept.read_metrics()]
    return max(steps, default=-1), max((int(p.name) for p in kept.checkpoints()), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    warm()
    root, rng = Path(tempfile.mkdtemp()), random.Random(options.seed)
    references: dict[int, tuple[dict[str, Any], float]] = {}
    bad = 0
    print(
        f"{'':4} {'killed in':12} {'at':>6}  {'update after':13} {'step':>4} {'from':>4} {'s':>5}"
    )
    for number in range(options.kills):
        which = rng.randrange(len(UPDATES))
        update, at = UPDATES[which], 1 + (3 * which + 1) % (STEPS - 1)
        if which not in references:
            references[which] = undisturbed(root / f"whole{which}", update, at)
        whole, seconds = references[which]
        timed = number % 2 == 0
        moment = "time" if timed else MOMENTS[number // 2 % len(MOMENTS)]
        kill = Kill(moment, rng.uniform(0.02, 0.95) * seconds if timed else rng.randint(1, 3))
        started = time.perf_counter()
        path, kill = killed(root / f"killed{number}", update, at, kill)
        step, begun = seen(path)
        code = in_a_fork(lambda: resume(path, update, at))  # noqa: B023
        wrong = differences(whole, outcome(path)) if code == 0 else [f"resuming ended with {code}"]
        bad += bool(wrong)
        said = "the same bit for bit" if not wrong else f"DIFFERS: {', '.join(wrong[:6])}"
        when = f"{kill.value:.2f} s" if timed else f"no. {kill.value}"
        print(
            f"{number + 1:4} {moment:12} {when:>6}  {at} {next(iter(update)):11} {step:4} {begun:4} "
            f"{time.perf_counter() - started:5.1f}  {said}",
            flush=True,
        )
    print(f"{options.kills - bad} of {options.kills} killed runs ended as undisturbed ones")
    raise SystemExit(bad > 0)


def killed(path: Path, update: dict[str, Any], at: int, kill: Kill) -> tuple[Path, Kill]:
    """A run killed by `kill`, or sooner or later than it says, so that there is a run to go on with."""
    timed, tries = kill.moment == "time", 0
    while True:
        folder = path.with_name(f"{path.name}-{tries}")
        ended = in_a_fork(lambda: start(folder, update, at, kill)) == 0  # noqa: B023 -- called at once
        if not ended and (folder / "recipe.yaml").exists():
            return folder, kill
        if ended:
            kill = Kill(kill.moment, kill.value / 2 if timed else 1)
        else:
            kill = Kill(kill.moment, kill.value * 1.5 if timed else kill.value + 1)
        tries += 1


def warm() -> None:
    """Load the libraries and a model, so that forks have them."""
    import torch

    from workbench.models import load_policy
    from workbench.recipe import Recipe

    torch.set_num_threads(1)  # a pool of threads would not survive a fork
    load_policy(Recipe().model)


def undisturbed(path: Path, update: dict[str, Any], at: int) -> tuple[dict[str, Any], float]:
    started = time.perf_counter()
    code = in_a_fork(lambda: start(path, update, at, None))
    if code:
        raise SystemExit(f"The undisturbed run ended with {code}.")
    return outcome(path), time.perf_counter() - started


if __name__ == "__main__":
    main()
