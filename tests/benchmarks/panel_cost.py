"""What the panel costs: `python -m tests.benchmarks.panel_cost [--steps N] [--clicks N]`.

A real kernel trains the tiny model with the panel's run, and a client reads and clicks as a page would.

1. Click answer: from sending a click to receiving the changed message line, while the model trains.
   Bar: 95 % within 150 ms.
2. Step time: one run, blocks of steps with the panel drawing and not drawing in turn, so that both
   see the same machine. Bar: drawing costs less than 3 %.

Other work on the machine disturbs the second figure; the drawer's own processor time bounds it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time

from jupyter_client.manager import start_new_kernel

BLOCK = 6  # steps; the first of a block is left out, since the drawer is still catching up
SETUP = """
import json, os, threading, time
import workbench as wb
from workbench.panel import bench
from workbench.runs import train

drawing = True
blocks = []  # (drawing, step times)
spent = {True: 0.0, False: 0.0}  # processor time of the drawer
draws = 0

def listen(run, record):
    global drawing
    if record["step"] == 0 or not measuring:
        return
    if not blocks or len(blocks[-1][1]) == BLOCK:
        drawing = len(blocks) % 4 in (0, 3)  # on, off, off, on: a drift cancels
        blocks.append((drawing, []))
    blocks[-1][1].append(record["time/step"])

def draw():
    global draws
    started = time.thread_time()
    alive = ui_draw() if drawing else True
    spent[drawing] += time.thread_time() - started
    draws += drawing
    return alive

measuring = False
bench.launch = lambda recipe: train(recipe, listeners=[listen])
ui = bench.Panel(wb.Recipe(steps=100_000, eval_every=10**6, eval_prompts=4, eval_samples=8,
                           rollouts_every=10**6, checkpoint_every=10**6))
ui_draw, ui.drawer._draw = ui.draw, draw
ui.start()
while ui.run.progress["step"] < 3 and ui.run.status != "failed":
    time.sleep(0.1)
assert ui.run.error is None, ui.run.error
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=144, help="steps measured, a multiple of 24")
    parser.add_argument("--clicks", type=int, default=60)
    options = parser.parse_args()
    os.environ["WORKBENCH_RUNS"] = tempfile.mkdtemp()
    os.environ["HF_HUB_OFFLINE"] = "1"
    manager, client = start_new_kernel()
    try:
        run_code(client, f"BLOCK = {BLOCK}\n{SETUP}")
        print_answers(client, options.clicks)
        print_steps(client, options.steps)
        run_code(client, "ui.stop()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def print_answers(client, clicks: int) -> None:
    """Pause and Resume in turn, far quicker than a step: the run goes on, the message changes."""
    ids = ask(client, "{n: ui.buttons[n].model_id for n in ('pause', 'resume')}")
    line = ask(client, "ui.message.model_id")
    answers = []
    for number in range(clicks):
        started = time.perf_counter()
        click(client, ids["resume" if number % 2 else "pause"])
        await_change(client, line)
        answers.append(1_000 * (time.perf_counter() - started))
        time.sleep(0.1)
    run_code(client, "ui.resume()")
    p95 = statistics.quantiles(answers, n=20)[-1]
    print(
        f"click answer while training, {clicks} clicks: median {statistics.median(answers):.0f} ms, "
        f"95 % within {p95:.0f} ms (bar 150 ms)"
    )


def print_steps(client, steps: int) -> None:
    run_code(client, "spent[True] = 0.0; draws = 0; measuring = True")
    started = time.perf_counter()
    while ask(client, "len(blocks)") <= steps // BLOCK:
        time.sleep(2)
    seconds = time.perf_counter() - started
    found = ask(client, "{'blocks': blocks, 'spent': spent[True], 'draws': draws}")
    blocks = [(drawing, times[1:]) for drawing, times in found["blocks"][: steps // BLOCK]]
    means = {
        on: statistics.median([t for drawing, times in blocks if drawing == on for t in times])
        for on in (True, False)
    }
    ratios = []
    for first in range(0, len(blocks) - 3, 4):  # on, off, off, on
        four = [statistics.median(times) for _, times in blocks[first : first + 4]]
        ratios.append((four[0] + four[3]) / (four[1] + four[2]))
    print(
        f"step time: {means[True]:.3f} s drawing, {means[False]:.3f} s not drawing; "
        f"cost {100 * (statistics.median(ratios) - 1):+.1f} % "
        f"(median of {len(ratios)} groups of four blocks, "
        f"from {100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f} %; bar 3 %)"
    )
    share = found["spent"] / (seconds / 2)
    print(
        f"the drawer itself: {found['draws']} drawings, "
        f"{1_000 * found['spent'] / max(found['draws'], 1):.1f} ms of processor time each, "
        f"{100 * share:.1f} % of one core while drawing"
    )


def run_code(client, code: str) -> None:
    reply = client.execute_interactive(code, timeout=600, output_hook=lambda message: None)
    if reply["content"]["status"] != "ok":
        raise SystemExit("\n".join(reply["content"]["traceback"]))


def ask(client, expression: str):
    """The value of an expression in the kernel."""
    reply = client.execute_interactive(
        "", user_expressions={"x": f"json.dumps({expression})"}, timeout=600,
        output_hook=lambda message: None,
    )  # fmt: skip
    return json.loads(eval(reply["content"]["user_expressions"]["x"]["data"]["text/plain"]))


def click(client, comm_id: str) -> None:
    content = {"comm_id": comm_id, "data": {"method": "custom", "content": {"event": "click"}}}
    client.shell_channel.send(client.session.msg("comm_msg", content))


def await_change(client, comm_id: str) -> None:
    """Read what the kernel publishes until the widget `comm_id` has a new value."""
    while True:
        message = client.get_iopub_msg(timeout=60)
        content = message["content"]
        ours = message["msg_type"] == "comm_msg" and content["comm_id"] == comm_id
        if ours and "value" in content["data"].get("state", {}):
            return


if __name__ == "__main__":
    main()
