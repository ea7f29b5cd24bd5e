"""One progress bar for one or several runs, and waiting for a run from a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.run import Run


class Bar:
    """A bar over optimiser steps that names the run and its last pass@1; give it as a listener.

    Where stderr is no terminal it prints one line for each evaluation instead. Warnings are printed too.
    """

    def __init__(self, steps: int, done: int = 0, show: bool | None = None) -> None:
        # tqdm's None: hidden where stderr is no terminal
        hidden = None if show is None else not show
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=hidden, dynamic_ncols=True)
        self._last: dict[str, int] = {}  # run -> its step, as shown
        self._passed: dict[str, float] = {}  # run -> its last pass@1
        self._noted = ""
        self._warned: dict[str, int] = {}  # run -> events looked at

    def __call__(self, run: Run, record: dict[str, Any]) -> None:
        name, step = run.name, int(record["step"])
        evaluated = any(key.startswith("eval/") for key in record)
        if "eval/pass@1" in record:
            self._passed[name] = record["eval/pass@1"]
        passed = f"pass@1 {self._passed[name]:.3f}" if name in self._passed else ""
        self._bar.set_description(f"{name} {passed}".strip(), refresh=False)
        self._bar.update(step - self._last.get(name, step if step == 0 else step - 1))
        self._last[name] = step
        if evaluated and self._bar.disable:
            print(f"{name} step {step} {passed}".rstrip(), flush=True)
        self._warn(run)

    def _warn(self, run: Run) -> None:
        """Print the warnings that a run has had since, on lines of their own."""
        events = run.events
        for event in events[self._warned.get(run.name, 0) :].itertuples():
            if event.kind == "warning":
                self._bar.write(f"{run.name} step {event.step}: {event.text}")
        self._warned[run.name] = len(events)

    def note(self, text: str) -> None:
        """Show a line behind the bar on what is done beside the steps."""
        if text != self._noted:
            self._noted = text
            self._bar.set_postfix_str(text)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


def wait_for(run: Run, bar: Bar | None = None) -> Run:
    """Wait for the end of `run`, with what it does shown by `bar`; Ctrl-C stops it and says how to go on."""
    from workbench.worker import RunFailed

    try:
        while bar is not None and run.live:
            run.wait(0.5)
            bar.note(run.doing)
        return run.wait()
    except KeyboardInterrupt:
        step = run.progress["step"]
        raise KeyboardInterrupt(
            f"Stopped at step {step}; go on with: workbench train --resume {run.path}"
        ) from None
    except RunFailed as error:
        raise WorkbenchError(f"{error} (run folder: {run.path})") from error
