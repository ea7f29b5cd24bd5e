"""What a long run costs the panel: `python -m tests.benchmarks.soak [--steps 10000] [--runs 4]`.

A real kernel holds the panel on runs whose records grow as those of a training would, without training:
half of them runs of this kernel, half attached by their folder as runs of another process. Bars: 10,000
recorded steps cost under 300 MB of the kernel's memory, and a redraw under 50 ms.

1. Memory: the kernel's resident set. Libraries, with the panel on show and no run, are told apart.
2. Redraw: wall and processor time of one drawing after every run has grown by a step, half of the time by
   one with an evaluation, and the bytes that go to the page.
3. Click answer at the end, while all runs grow by five steps a second: as in `panel_cost`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import queue
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from jupyter_client.manager import start_new_kernel

from tests.benchmarks.panel_cost import ask, await_change, click, run_code

EVAL_EVERY, ROLLOUTS_EVERY, EVENT_EVERY, CHECKPOINT_EVERY = 10, 5, 50, 10
KS = (1, 2, 4, 8, 16, 32, 64)
PROMPTS, GROUP, EVAL_PROMPTS = 16, 16, 48
# Metric -> about where it starts and ends; each wanders around the line between.
EACH_STEP = {
    "groups/zero_signal": (0.2, 0.7), "groups/solved_all": (0.0, 0.6), "groups/solved_none": (0.2, 0.1),
    "reward/correct": (0.3, 0.8), "reward/length": (0.5, 0.3), "reward/ent": (-7.0, -2.0),
    "reward_std/correct": (0.4, 0.2), "reward_std/length": (0.1, 0.05), "reward_std/ent": (0.7, 0.2),
    "reward_std/total": (0.4, 0.2), "reward/total": (0.3, 0.8), "groups/update_scale": (0.3, 0.1),
    "groups/advantage": (0.3, 0.1), "rollout/length": (33.0, 20.0), "rollout/tokens": (8400.0, 5100.0),
    "rollout/truncated": (0.05, 0.0), "train/entropy": (0.25, 0.05), "groups/refilled": (0.0, 0.1),
    "train/alpha": (1.3, 0.4), "train/trains_thinking": (1.0, 1.0), "train/trains_answer": (1.0, 1.0),
    "train/trained_share": (1.0, 1.0), "rollout/malformed": (0.1, 0.0), "train/mismatch": (2e-7, 2e-7),
    "train/loss": (-0.4, 0.1), "train/anchor_loss": (0.0, 0.01), "train/grad_norm": (0.9, 0.3),
    "train/ratio_gap": (2e-7, 2e-7), "train/beta": (0.05, 0.01), "train/kl": (0.0, 0.9),
    "train/learning_rate": (0.002, 0.002), "time/sample": (0.27, 0.2), "time/reward": (0.001, 0.001),
    "time/update": (0.11, 0.1), "time/step": (0.39, 0.3), "memory/process": (600.0, 640.0),
}  # fmt: skip
AT_EVALUATIONS = {
    "eval/entropy": (0.2, 0.05),
    "eval/length": (30.0, 20.0),
    "eval/truncated": (0, 0),
}
AT_EVALUATIONS |= {"time/eval": (0.6, 0.5), "train/kl_answer": (0.0, 0.1)}
PROBE = {"entropy": (0.2, 0.05), "length": (33.0, 20.0), "vote_share": (0.5, 0.9)}
PROBE |= {"truncated": (0.0, 0.0), "distinct": (2.7, 1.2), "accuracy": (0.3, 0.8)}
AT_EVALUATIONS |= {f"probe/{name}": ends for name, ends in PROBE.items()}


def make_record(step: int, steps: int, rng: np.random.Generator) -> dict[str, Any]:
    """A step's line as a run with an anchor, an automatic alpha and three rewards writes it."""
    share, evaluates = step / steps, step % EVAL_EVERY == 0
    found = (EACH_STEP if step else {}) | (AT_EVALUATIONS if evaluates else {})
    noise = dict(zip(found, rng.normal(1.0, 0.1, len(found)).tolist(), strict=True))
    record: dict[str, Any] = {"step": step}
    record |= {k: (a + (b - a) * share) * noise[k] for k, (a, b) in found.items()}
    if step:
        record["groups/successes"] = rng.integers(0, GROUP + 1, PROMPTS).tolist()
    if evaluates:
        p = (0.3 + 0.5 * share) * rng.normal(1.0, 0.05)
        for k in KS:
            value = 1 - (1 - p) ** (k**0.5)
            record |= {f"eval/pass@{k}": value}
            record |= {f"eval/pass@{k}/low": value - 0.05, f"eval/pass@{k}/high": value + 0.05}
        record["eval/successes"] = rng.integers(0, 65, EVAL_PROMPTS).tolist()
    return record | {"time": 1.7e9 + step}


# ------------------------------------------------------------------ in the kernel


class Grown:
    """A run that grows when told: of this process, fed to a worker that trains nothing, or by its folder."""

    def __init__(self, path: Path, steps: int, rollout: Path, *, here: bool, seed: int) -> None:
        import workbench as wb
        from workbench.run import Run
        from workbench.runs import attach
        from workbench.worker import Worker

        class Fed(Worker):
            """The worker's own way of keeping a record, with a queue in place of a model."""

            def __init__(self, *given: Any) -> None:
                self.fed: queue.Queue[dict[str, Any]] = queue.Queue()
                super().__init__(*given)

            def _work(self) -> None:
                self._set_status("running")
                while True:
                    self._record(self.fed.get())

        from workbench.folder import RunFolder

        self.folder, self.steps, self.rollout = RunFolder(path), steps, rollout
        self.step, self.rng = -1, np.random.default_rng(seed)
        if here:
            recipe = wb.Recipe(steps=steps, name=path.name, probe_every=EVAL_EVERY)
            path.mkdir()
            self.folder.write_recipe(recipe)
            self.run = Run(self.folder, recipe)
            self.run._worker = self.worker = Fed(self.folder, recipe)
        else:
            self.run, self.worker = attach(path), None
        (path / "rollouts").mkdir()

    def grow(self, to: int) -> None:
        """Write every step up to `to`."""
        while self.step < to:
            self.step += 1
            if self.step and self.step % EVENT_EVERY == 0:
                text = f"beta 0.0{self.step % 7} → 0.0{self.step % 5}"
                self.folder.append_event(self.step, "update", text, {"beta": (0.01, 0.02)})
            record = make_record(self.step, self.steps, self.rng)
            if self.worker is None:
                self.folder.append_metrics(record)
            else:
                self.worker.fed.put(record)
            if self.step and self.step % ROLLOUTS_EVERY == 0:
                os.link(self.rollout, self.folder.path / "rollouts" / f"{self.step:06d}.parquet")
            if self.step and self.step % CHECKPOINT_EVERY == 0:
                self.save()
        while self.worker is not None and len(self.worker.records) <= to:
            time.sleep(0.001)

    def save(self) -> None:
        """A checkpoint whose files are small."""
        place = self.folder.path / "checkpoints" / f"{self.step:06d}"
        place.mkdir(parents=True)
        sizes = {"adapter_model.safetensors": 4, "optimizer.safetensors": 4}
        for name in sizes:
            (place / name).write_text("four")
        from workbench.folder import FORMAT

        record = {"format": FORMAT, "step": self.step, "recipe": self.run.recipe.to_dict()}
        text = json.dumps(record | {"memory": {}, "sizes": sizes}, indent=1)
        (place / "state.json").write_text(text)


class Bench:
    """The panel and its runs, measured from inside the kernel."""

    def __init__(self, root: str, steps: int, runs: int) -> None:
        import workbench as wb
        from workbench.panel.bench import Panel

        self.bare = resident()
        self.panel = Panel(wb.Recipe(steps=steps))
        self.panel.controls.preview.load()  # as when it is shown
        import workbench.runs  # noqa: F401

        self.panel.draw()
        self.libraries = resident()
        place, rollout = Path(root), Path(root) / "rollout.parquet"
        self.runs = [
            Grown(place / f"run{n}", steps, rollout, here=n % 2 == 0, seed=n) for n in range(runs)
        ]
        self.draw, self.panel.drawer._draw = self.panel.draw, lambda: False
        for run in reversed(self.runs):
            run.grow(0)
            self.panel._adopt(run.run)  # the first, of this kernel, last: buttons act on it

    def fill(self, to: int) -> None:
        """Grow all runs, a hundred steps at a time, with a drawing after each."""
        for reached in range(self.runs[0].step, to, 100):
            for run in self.runs:
                run.grow(min(reached + 100, to))
            self.draw()

    def redraw(self, live: int) -> dict[str, float]:
        """The seconds of one drawing after the first `live` runs have grown by one step."""
        for run in self.runs[:live]:
            run.grow(run.step + 1)
        wall, own = time.perf_counter(), time.thread_time()
        self.draw()
        return {"wall": time.perf_counter() - wall, "cpu": time.thread_time() - own}

    def go_live(self) -> None:
        """Let the panel draw as it does, and all runs grow by five steps a second."""
        self.panel.drawer._draw = self.draw

        def work() -> None:
            while True:
                for run in self.runs:
                    run.grow(run.step + 1)
                self.panel.drawer.wake()
                time.sleep(0.2)

        threading.Thread(target=work, daemon=True).start()


def resident() -> float:
    """Megabytes of this process in memory."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


# ------------------------------------------------------------------ the client


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000, help="recorded steps of each run")
    parser.add_argument("--runs", type=int, default=4, help="runs in the panel, at most 4")
    parser.add_argument("--redraws", type=int, default=30, help="drawings measured at each length")
    parser.add_argument("--clicks", type=int, default=40)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    root = tempfile.mkdtemp()
    prepare(Path(root), options.steps, options.runs)
    manager, client = start_new_kernel()
    try:
        run_code(client, "import json, psutil\nfrom tests.benchmarks import soak")
        run_code(client, f"b = soak.Bench({root!r}, {options.steps}, {options.runs})")
        bare, libraries = ask(client, "[b.bare, b.libraries]")
        print(
            f"{options.runs} runs, every second one attached by its folder; bars 300 MB and 50 ms"
        )
        print(
            f"the kernel with benchmark and pandas {bare:.0f} MB; with torch and the panel, before"
        )
        print(f"any run, {libraries:.0f} MB: this is libraries\n")
        print("            memory, MB |  redraw, one run growing |  redraw, all runs growing")
        print("  steps   total growth |  ms 50 %  95 % cpu ms kB |  ms 50 %  95 % cpu ms  kB")
        tenth = options.steps // 10
        for steps in (tenth, 5 * tenth, options.steps):
            print_row(client, steps, libraries, options)
        print_tabs(client, options.redraws)
        print_answers(client, options.clicks)
        total = ask(client, "soak.resident()")
        print(f"memory after that: {total:.0f} MB, growth {total - libraries:.0f} MB")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def prepare(root: Path, steps: int, runs: int) -> None:
    """A batch to be saved at each step, and the folders of the runs of this process, alive."""
    import pandas as pd

    from workbench.folder import RunFolder
    from workbench.recipe import Recipe

    rows = PROMPTS * GROUP
    batch = {"step": 1, "prompt_index": np.arange(rows) // GROUP, "prompt": "Make 24 from 3, 8, 1."}
    batch |= {"completion": "<think> 3 * 8 = 24 , * 1 </think> 3 * 8 * 1", "answer": "3 * 8 * 1"}
    batch |= {"reward/correct": 1.0, "reward/total": 1.0, "advantage": 0.0, "length": 20}
    pd.DataFrame(batch | {"truncated": False}).to_parquet(root / "rollout.parquet")
    for number in range(1, runs, 2):
        folder = RunFolder(root / f"run{number}")
        folder.path.mkdir()
        folder.write_recipe(Recipe(steps=steps, name=folder.path.name))
        folder.write_status("running")


def print_row(client, steps: int, libraries: float, options: argparse.Namespace) -> None:
    run_code(client, f"b.fill({steps - 2 * options.redraws})")
    cells = []
    for live in (1, options.runs):
        found = [redraw(client, live) for _ in range(options.redraws)]
        wall = [1_000 * each["wall"] for each in found]
        cpu = statistics.median(1_000 * each["cpu"] for each in found)
        kb = statistics.median(each["bytes"] for each in found) / 1_000
        high = statistics.quantiles(wall, n=20)[-1]
        cells.append(f"{statistics.median(wall):8.1f} {high:6.1f} {cpu:5.1f} {kb:4.0f}")
    total = ask(client, "soak.resident()")
    print(f"{steps:7}   {total:5.0f} {total - libraries:6.0f} | {' | '.join(cells)}", flush=True)


def redraw(client, live: int) -> dict[str, float]:
    """One drawing's seconds, and the bytes of all messages that it sent to the page."""
    sent = []

    def count(message: dict[str, Any]) -> None:
        if message["msg_type"] == "comm_msg":
            sent.append(len(json.dumps(message["content"])) + sum(map(len, message["buffers"])))

    reply = client.execute_interactive(
        "", user_expressions={"x": f"json.dumps(b.redraw({live}))"}, timeout=600, output_hook=count
    )
    text = reply["content"]["user_expressions"]["x"]
    if text["status"] != "ok":
        raise SystemExit("\n".join(text["traceback"]))
    return json.loads(eval(text["data"]["text/plain"])) | {"bytes": sum(sent)}


def print_tabs(client, redraws: int) -> None:
    tabs = ask(client, "list(b.panel.tabs.titles)")
    for tab in ("Rollouts", "Groups", "Geometry", "Compare"):
        run_code(client, f"b.panel.tabs.selected_index = {tabs.index(tab)}; b.redraw(0)")
        drawn = [redraw(client, 4) for _ in range(redraws)]
        found = [1_000 * each["wall"] for each in drawn]
        cpu = statistics.median(1_000 * each["cpu"] for each in drawn)
        high = statistics.quantiles(found, n=20)[-1]
        middle = statistics.median(found)
        print(f"with the tab {tab} open: {middle:.1f} ms, 95 % {high:.1f} ms, cpu {cpu:.1f} ms")
    run_code(client, "b.panel.tabs.selected_index = 0")


def print_answers(client, clicks: int) -> None:
    ids = ask(client, "{n: b.panel.buttons[n].model_id for n in ('pause', 'resume')}")
    line = ask(client, "b.panel.message.model_id")
    run_code(client, "b.go_live()")
    answers = []
    for number in range(clicks):
        started = time.perf_counter()
        click(client, ids["resume" if number % 2 else "pause"])
        await_change(client, line)
        answers.append(1_000 * (time.perf_counter() - started))
        time.sleep(0.1)
    high = statistics.quantiles(answers, n=20)[-1]
    print(f"click answer while all runs grow by five steps a second, {clicks} clicks: ", end="")
    print(f"median {statistics.median(answers):.0f} ms, 95 % within {high:.0f} ms (bar 150 ms)")


if __name__ == "__main__":
    main()
