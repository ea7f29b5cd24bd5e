"""What goes wrong from outside: full disks, lost folders, raising rewards, hasty hands, interrupts, kills.

Mirrors no module. Whatever happens, a run ends in a stated status with a sentence that says what to do,
shows it in the panel and gives its memory back. Also of this kind: out of memory and an interrupt while
waiting are in test_run, damaged files in test_runs, checkpoints cut short in test_folder, errors of callbacks
and a second Start in panel/test_panel.
"""

import errno
import gc
import html
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from workbench import folder as folder_module
from workbench import run as run_module
from workbench import worker
from workbench.folder import RunFolder
from workbench.panel import bench, panel
from workbench.runs import attach, train
from workbench.variants import WorkbenchError

ROOT = Path(__file__).parent.parent


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def close_runs():
    yield
    for run in list(run_module.HERE.values()):
        run.close()
    run_module.HERE.clear()


@pytest.fixture
def kept_alive(monkeypatch):
    """Weak references to every model that a run has loaded, and to its state."""
    found, prepare = [], worker.prepare

    def noted(recipe):
        state = prepare(recipe)
        found.extend([weakref.ref(state), weakref.ref(state.policy.model)])
        return state

    monkeypatch.setattr(worker, "prepare", noted)
    return found


def assert_ended(run, status, said, kept_alive):
    """In a stated status, with a readable error that the panel shows, and nothing left in memory."""
    until(lambda: run._worker.done.is_set())
    assert (run.status, run.live) == (status, False)
    ui = panel(run)
    assert f"<b>{status}</b>" in ui.state.value
    if said is None:
        assert run.error is None
    else:
        assert said in run.error and "\n" not in run.error
        assert html.escape(run.error) in ui.message.value and "wb-error" in ui.message.value
    ui.close()
    gc.collect()
    assert kept_alive and [ref() for ref in kept_alive] == [None] * len(kept_alive)


def numbers(run):
    table = run.metrics
    clocks = ("time", "memory/")
    return table[[column for column in sorted(table) if not column.startswith(clocks)]]


# ------------------------------------------------------------------ disks and folders

DISK = "No space left on device"
PLACES = {
    "a metrics line": [(folder_module, "_append")],
    "completions": [(RunFolder, "write_rollouts")],
    "a checkpoint": [(folder_module, "save_file")],
    "the status": [(RunFolder, "write_status")],
}
PLACES["everything"] = [where for (where,) in PLACES.values()]


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_ends_the_run_and_it_goes_on_once_there_is_room(
    toy_recipe, tmp_path, kept_alive, place
):
    whole = train(toy_recipe, folder=tmp_path / "whole", blocking=True)
    with pytest.MonkeyPatch.context() as disk:

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, DISK)

        def fill(run, record):
            if record["step"] == 3:
                for where in PLACES[place]:
                    disk.setattr(*where, full)

        run = train(toy_recipe, folder=tmp_path / "a", listeners=[fill])
        assert_ended(run, "failed", f"{DISK}); free or unlock the disk", kept_alive)
        assert f"wb.attach({str(run.path)!r}).resume()" in run.error
    run.listeners.clear()
    run.resume()
    assert run.wait().status == "finished" and run.error is None
    assert numbers(run).equals(numbers(whole))
    kept_alive.clear()
    del whole


def test_a_disk_that_is_full_from_the_start_is_a_sentence(toy_recipe, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, DISK)

    monkeypatch.setattr(RunFolder, "write_status", full)
    with pytest.raises(WorkbenchError, match=f"{DISK}.*free or unlock the disk"):
        train(toy_recipe, folder=tmp_path / "a")


def test_a_folder_removed_in_mid_run_ends_it_and_what_was_measured_stays_in_memory(
    toy_recipe, tmp_path, kept_alive
):
    def remove(run, record):
        if record["step"] == 3:
            shutil.rmtree(run.path)

    run = train(toy_recipe.replace(steps=50), folder=tmp_path / "a", listeners=[remove])
    assert_ended(
        run,
        "failed",
        "it is gone or was emptied; what was measured is still in run.metrics",
        kept_alive,
    )
    assert list(run.metrics.index) == [0, 1, 2, 3]
    with pytest.raises(WorkbenchError, match="is not the folder of a run"):
        run_module.HERE.clear()
        attach(run.path)


# ------------------------------------------------------------------ errors in the middle


def raise_late(rollouts, task, seen=[]):  # noqa: B006 -- counts its calls
    seen.append(1)
    if len(seen) == 30:
        held = rollouts  # noqa: F841 -- what a user's frame would hold on to
        raise ZeroDivisionError("no luck")
    return rollouts.logprobs_BT.new_zeros(rollouts.P, rollouts.G)


def test_a_reward_that_raises_at_step_30(toy_recipe, tmp_path, kept_alive):
    recipe = toy_recipe.replace(
        rewards={**toy_recipe.rewards, raise_late: 0.0},
        steps=40,
        eval_every=40,
        checkpoint_every=20,
    )
    run = train(recipe, folder=tmp_path / "a")
    assert_ended(run, "failed", "Reward 'raise_late' raised ZeroDivisionError: no luck", kept_alive)
    assert run.metrics.index[-1] == 29 and run.checkpoint_steps[-1] == 20
    kept_alive.clear()
    run.resume()
    assert_ended(run, "finished", None, kept_alive)


def nothing_finite(rewards_PG):
    return rewards_PG / 0.0 * 0.0


def test_a_loss_that_is_not_finite(toy_recipe, tmp_path, kept_alive):
    def spoil(run, record):
        if record["step"] == 2:
            run.update(objective=nothing_finite)

    run = train(toy_recipe, folder=tmp_path / "a", listeners=[spoil])
    assert_ended(run, "failed", "its batch was saved in the run's folder", kept_alive)
    assert run.metrics.index[-1] == 2


def test_memory_comes_back_after_a_stop_and_after_the_end(toy_recipe, tmp_path, kept_alive):
    run = train(toy_recipe.replace(steps=500), folder=tmp_path / "a")
    until(lambda: run.progress["step"] >= 2)
    run.stop()
    assert_ended(run, "stopped", None, kept_alive)
    run.update(steps=int(run.progress["step"]) + 2)
    kept_alive.clear()
    run.resume()
    assert_ended(run, "finished", None, kept_alive)


# ------------------------------------------------------------------ hasty hands


def test_a_stop_during_the_start_is_kept(toy_recipe, tmp_path, kept_alive):
    run = train(toy_recipe, folder=tmp_path / "a")
    assert run.status == "starting"
    run.stop()
    assert_ended(run, "stopped", None, kept_alive)
    assert list(run.metrics.index) == [0]
    run.resume()
    assert run.wait().status == "finished"
    assert numbers(run).equals(numbers(train(toy_recipe, folder=tmp_path / "b", blocking=True)))


def test_start_pressed_by_two_threads_at_once_starts_one_run(toy_recipe, tmp_path, monkeypatch):
    launched, ready = [], threading.Barrier(2)

    def launch(recipe):
        launched.append(train(toy_recipe, folder=tmp_path / f"run{len(launched)}"))
        return launched[-1]

    monkeypatch.setattr(bench, "launch", launch)
    ui = panel(toy_recipe)
    said = []
    ui.message.observe(lambda change: said.append(change["new"]), "value")

    def press():
        ready.wait()
        ui.buttons["start"].click()

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(launched) == 1 and ui.runs == launched and ui.run is launched[0]
    assert sum("press Stop before starting another run" in text for text in said) == 1
    assert launched[0].wait().status == "finished"


def test_toggles_hammered_fifty_times_a_second_all_land_or_are_overtaken(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=100_000, checkpoint_every=50), folder=tmp_path / "a")
    until(lambda: run.progress["step"] >= 1)
    toggles = [{"beta": 0.1}, {"objective": "grpo"}, {"rewards": {"length": 0.5}}, {"beta": 0.0}]
    toggles += [{"objective": "maxrl"}, {"rewards": {"length": 1.0}}, {"anchor": "none"}]
    toggles += [{"learning_rate": 1e-3}, {"anchor": "reverse_kl"}, {"learning_rate": 2e-3}]
    end, count = time.monotonic() + 3, 0
    while time.monotonic() < end:
        run.update(**toggles[count % len(toggles)])
        count += 1
        time.sleep(0.02)
    run.update(anchor="reverse_kl", beta=0.25, objective="rloo", rewards={"length": 0.75})
    wanted, at = run.recipe, run.progress["step"]
    assert (wanted.beta, wanted.objective, wanted.rewards["length"]) == (0.25, "rloo", 0.75)
    until(lambda: run.progress["step"] >= at + 2)
    assert run.recipe == wanted and run.metrics["train/beta"].iloc[-1] == 0.25
    run.close()
    assert (run.status, run.error) == ("stopped", None)
    events = run.events[run.events["kind"] != "warning"]  # toys write to the limit, which is told
    assert set(events["kind"]) == {"update"} and events["step"].is_unique
    assert 0 < len(events) <= run.progress["step"] and count > 50
    run_module.HERE.clear()
    assert attach(run.path, toy_recipe.reward_functions().values()).recipe == wanted


def test_two_panels_steer_one_run_and_one_may_be_closed(toy_recipe, tmp_path):
    run = train(toy_recipe.replace(steps=100_000, eval_every=1000), folder=tmp_path / "a")
    one, two = panel(run), panel(run)
    until(lambda: run.progress["step"] >= 2)
    one.controls.by_field["beta"].widget.value = 0.25
    assert "beta: 0.25" in one.message.value and "Lands at the next step" in one.message.value
    until(lambda: "beta: 0.25" in two.message.value)
    assert "Changed elsewhere" in two.message.value
    assert two.controls.by_field["beta"].widget.value == 0.25 and run.recipe.beta == 0.25
    two.controls.by_field["objective"].choice.value = "grpo"
    until(lambda: "objective: grpo" in one.message.value)
    assert one.controls.by_field["objective"].choice.value == "grpo"
    run.update(beta=0.5)  # and a change by a cell shows in both
    for ui in (one, two):
        until(lambda ui=ui: "beta: 0.5" in ui.message.value)
        until(lambda ui=ui: ui.drawer.count > 0 and "step" in ui.state.value)
    one.close()
    at = run.progress["step"]
    until(lambda: run.progress["step"] > at + 2)
    assert run.status == "running"
    two.buttons["stop"].click()
    run.wait()
    until(lambda: "Stopped" in two.message.value)


# ------------------------------------------------------------------ interrupts and kills


IN_KERNEL = """
import sys
sys.path.insert(0, {tests!r})
from conftest import digits
from workbench.recipe import Recipe
from workbench.runs import train
recipe = Recipe.from_yaml({text!r}, [digits])
run = train(recipe, folder={folder!r})
"""


@pytest.mark.slow
def test_interrupting_a_kernel_leaves_its_run_alone_unless_a_cell_waits_for_it(
    toy_recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    recipe = toy_recipe.replace(steps=100_000, eval_every=1000)
    code = IN_KERNEL.format(
        tests=str(Path(__file__).parent), text=recipe.to_yaml(), folder=str(tmp_path / "a")
    )
    manager, client = start_new_kernel()

    def ask(expression):
        reply = client.execute_interactive(
            "", user_expressions={"x": expression}, timeout=60, output_hook=lambda message: None
        )
        return eval(reply["content"]["user_expressions"]["x"]["data"]["text/plain"])

    def interrupt(cell):
        """Interrupt a running cell; the name of the error that it ends with."""
        message = client.execute(cell, stop_on_error=False)  # what is asked next is answered
        time.sleep(1)
        manager.interrupt_kernel()
        while True:
            reply = client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message:
                return reply["content"].get("ename")

    def status_is(wanted):
        until(lambda: ask("run.status") == wanted)

    try:
        reply = client.execute_interactive(code, timeout=120, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
        assert ask("run.status") == "starting"
        manager.interrupt_kernel()  # starting
        until(lambda: ask("run.progress['step']") >= 2)
        sleep = "import time; time.sleep(30)"
        assert interrupt(sleep) == "KeyboardInterrupt"  # running
        at = ask("run.progress['step']")
        until(lambda: ask("run.progress['step']") > at)
        assert ask("run.status") == "running"
        ask("run.pause()")
        status_is("paused")
        assert interrupt(sleep) == "KeyboardInterrupt"  # paused
        assert ask("run.status") == "paused"
        ask("run.resume()")
        status_is("running")
        assert interrupt("run.wait()") == "KeyboardInterrupt"  # waited for: stopped in order
        assert ask("(run.status, run.error, run.live)") == ("stopped", None, False)
        assert ask("run.checkpoint_steps[-1] == run.progress['step']") is True
        ask("run.update(steps=int(run.progress['step']) + 1)")
        ask("run.resume()")
        status_is("finished")
        assert interrupt(sleep) == "KeyboardInterrupt"  # finished
        assert ask("(run.status, run.error)") == ("finished", None)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_runs_killed_at_any_moment_go_on_bit_for_bit():
    """Three kills of the benchmark, which has more: at a random time, in a checkpoint, at another time."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.faults", "--kills", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 killed runs ended as undisturbed ones" in done.stdout
