"""What both benchmarks share: the model, the prompts, and clocks that read side by side."""

import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

# Set before any hub library is imported: nothing is fetched, nothing is reported.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "DO_NOT_TRACK": "1",
}
warnings.filterwarnings("ignore")

PROMPTS, GROUP = 16, 16


class Clocks:
    """Wall and CPU seconds by label. CPU seconds are the fairer of the two on a busy machine."""

    def __init__(self):
        self.wall, self.cpu = defaultdict(list), defaultdict(list)

    def start(self):
        return time.perf_counter(), time.process_time()

    def stop(self, label, started):
        self.wall[label].append(time.perf_counter() - started[0])
        self.cpu[label].append(time.process_time() - started[1])

    def time(self, label, function):
        started = self.start()
        result = function()
        self.stop(label, started)
        return result

    def table(self, against, skip=1):
        """Medians without the first `skip` rounds, and their ratio to the label `against`."""
        lines = [f"{'':34} {'wall s':>8} {'ratio':>6} {'CPU s':>8} {'ratio':>6} {'rounds':>6}"]
        base = [statistics.median(clock[against][skip:]) for clock in (self.wall, self.cpu)]
        for label in self.wall:
            wall, cpu = (statistics.median(clock[label][skip:]) for clock in (self.wall, self.cpu))
            lines.append(
                f"{label:34} {wall:8.3f} {wall / base[0]:6.2f} {cpu:8.3f} {cpu / base[1]:6.2f} "
                f"{len(self.wall[label]) - skip:6}"
            )
        return "\n".join(lines)


def model_folder():
    """The shipped tiny-strong; without it, a random model of the same shape."""
    from workbench.sources import find_model
    from workbench.variants import WorkbenchError

    try:
        return find_model("tiny-strong")
    except WorkbenchError:
        import torch

        from workbench.tiny.pretrain import build_model
        from workbench.tiny.tokenizer import build_tokenizer

        folder = Path(tempfile.mkdtemp()) / "stand-in"
        tokenizer = build_tokenizer()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            build_model(tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        print("tiny-strong is not shipped yet: a random model of its shape stands in for it.")
        return str(folder)
