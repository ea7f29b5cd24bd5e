"""What several benchmarks share: models, TRL's trainer, and clocks that read side by side."""

import json
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
BETA, RATE = 0.05, 1e-5  # a small rate, so that completions keep their length


def write(found, path):
    """Print the figures as JSON, and write them where asked."""
    text = json.dumps(found, indent=2)
    print(text)
    if path:
        path.write_text(text + "\n")


def wait():
    """Until the GPU, if there is one, has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clocks:
    """Wall and CPU seconds by label. CPU seconds are the fairer of the two on a busy machine."""

    def __init__(self):
        self.wall, self.cpu = defaultdict(list), defaultdict(list)

    def start(self):
        wait()
        return time.perf_counter(), time.process_time()

    def stop(self, label, started):
        wait()
        self.wall[label].append(time.perf_counter() - started[0])
        self.cpu[label].append(time.process_time() - started[1])

    def time(self, label, function):
        started = self.start()
        result = function()
        self.stop(label, started)
        return result

    def medians(self, label, skip=1):
        """Median wall and CPU seconds without the first `skip` rounds."""
        return [statistics.median(clock[label][skip:]) for clock in (self.wall, self.cpu)]

    def table(self, against, skip=1):
        """Medians without the first `skip` rounds, and their ratio to the label `against`."""
        lines = [f"{'':34} {'wall s':>8} {'ratio':>6} {'CPU s':>8} {'ratio':>6} {'rounds':>6}"]
        base = self.medians(against, skip)
        for label in self.wall:
            wall, cpu = self.medians(label, skip)
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


def grpo_recipe(folder, **fields):
    """GRPO with a KL to the adapter-free model: what is compared with TRL."""
    from workbench.recipe import Recipe

    given = {"beta": BETA, "learning_rate": RATE, "steps": 1000} | fields
    return Recipe(model=folder, objective="grpo", anchor="reverse_kl", **given)


def never_ending(policy):
    """Have no token end a completion: every one is as long as it may be."""
    policy.model.generation_config.eos_token_id = None
    policy.stop_ids = lambda: [-1]
    return policy


def trl_trainer(
    model, tokenizer, reward, steps, callback, *, prompts, group, max_new_tokens, **more
):
    """TRL's trainer on countdown's prompts, LoRA of rank 16; it saves nothing and reports to nobody.

    `reward` takes (task, its rows, texts). `more` goes to its config.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    from workbench.tasks import make_task

    task = make_task("countdown")
    rows = list(task.dataset("train").select(range(prompts * 64)))
    data = Dataset.from_list(
        [{"prompt": task.messages(row), "number": i} for i, row in enumerate(rows)]
    )

    def scored(completions, number, **_):
        return reward(task, [rows[i] for i in number], [each[0]["content"] for each in completions])

    cuda = torch.cuda.is_available()
    settings = {
        "per_device_train_batch_size": prompts * group,
        "gradient_checkpointing": False,
        "use_cpu": not cuda,
        "bf16": cuda,
    }
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        num_generations=group,
        max_completion_length=max_new_tokens,
        max_steps=steps,
        beta=BETA,
        learning_rate=RATE,
        temperature=1.0,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(settings | more),
    )
    return GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=scored,
        args=config,
        train_dataset=data,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[callback],
    )


def alternating(clocks, steps, label="TRL GRPOTrainer"):
    """A callback of TRL's trainer: its steps are timed, and each of `steps` once before every one of them.

    `reports` has what they returned last.
    """
    from transformers import TrainerCallback

    class Alternate(TrainerCallback):
        def __init__(self):
            self.reports = {}

        def on_step_begin(self, *_, **__):
            for name, step in steps.items():
                self.reports[name] = clocks.time(name, step)
            self.started = clocks.start()

        def on_step_end(self, *_, **__):
            clocks.stop(label, self.started)

    return Alternate()
