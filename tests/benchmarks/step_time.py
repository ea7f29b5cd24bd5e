"""One training step against TRL's GRPOTrainer: python -m tests.benchmarks.step_time

Same weights, 16 prompts x 16 completions, LoRA rank 16 on all linear layers, KL to the adapter-free
model, AdamW, fp32 on the CPU, countdown's own checker as reward. The steps alternate: before each of
TRL's, one of the workbench's is timed. TRL runs on the plain base; so does "quantize none" here, which is
the ratio that counts; the default recipe (NF4) stands beside it. Needs the extra `benchmark`.
"""

import argparse

from tests.benchmarks.common import (
    GROUP,
    PROMPTS,
    Clocks,
    alternating,
    grpo_recipe,
    model_folder,
    trl_trainer,
)


def workbench_step(folder, quantize, max_new_tokens):
    """A function that does one step."""
    from workbench.trainer import prepare, train_step

    recipe = grpo_recipe(
        folder,
        quantize=quantize,
        prompts_per_step=PROMPTS,
        group_size=GROUP,
        max_new_tokens=max_new_tokens,
        device="cpu",
    )
    state = prepare(recipe)
    return lambda: train_step(state, recipe)


def correct(task, rows, texts):
    """The task's own checker."""
    return [task.score(row, text) for row, text in zip(rows, texts, strict=True)]


def trl(folder, steps, max_new_tokens, callback):
    """TRL's trainer on the plain base, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return trl_trainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
        correct,
        steps,
        callback,
        prompts=PROMPTS,
        group=GROUP,
        max_new_tokens=max_new_tokens,
        use_cpu=True,
        bf16=False,
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--max-new-tokens", type=int, default=64)
    arguments = arguments.parse_args()
    clocks = Clocks()
    folder = model_folder()
    steps = {
        f"workbench, quantize {quantize}": workbench_step(
            folder, quantize, arguments.max_new_tokens
        )
        for quantize in ("none", "nf4")
    }
    alternate = alternating(clocks, steps)
    trainer = trl(folder, arguments.rounds + 1, arguments.max_new_tokens, alternate)
    trainer.train()
    # TRL logs the means over all its steps once, at the end.
    length = float(trainer.state.log_history[-1]["completions/mean_length"])
    print(f"TRL: completions of {length:.1f} tokens on average")
    for label, report in alternate.reports.items():
        parts = {k: round(v, 3) for k, v in report.metrics.items() if k.startswith("time/")}
        print(f"{label}: {report.metrics['rollout/length']:.1f} tokens on average, {parts}")
    print(clocks.table("TRL GRPOTrainer"))
    print("Bar: at most 0.50; aim: 0.33.")


if __name__ == "__main__":
    main()
