"""One training step against TRL's GRPOTrainer: python -m tests.benchmarks.step_time

Same weights, 16 prompts x 16 completions, LoRA rank 16 on all linear layers, KL to the adapter-free
model, AdamW, fp32 on the CPU, countdown's own checker as reward. The steps alternate: before each of
TRL's, one of the workbench's is timed. TRL runs on the plain base; so does "quantize none" here, which is
the ratio that counts; the default recipe (NF4) stands beside it. Needs the extra `benchmark`.
"""

import argparse
import tempfile

from tests.benchmarks.common import GROUP, PROMPTS, Clocks, model_folder

BETA, RATE = 0.05, 1e-5  # a small rate, so that completions keep their length


def workbench_step(folder, quantize, max_new_tokens):
    """A function that does one step."""
    from workbench.recipe import Recipe
    from workbench.trainer import prepare, train_step

    recipe = Recipe(
        model=folder,
        quantize=quantize,
        objective="grpo",
        anchor="reverse_kl",
        beta=BETA,
        prompts_per_step=PROMPTS,
        group_size=GROUP,
        max_new_tokens=max_new_tokens,
        learning_rate=RATE,
        steps=1000,
        device="cpu",
    )
    state = prepare(recipe)
    return lambda: train_step(state, recipe)


def trl_trainer(folder, steps, max_new_tokens, callback):
    """TRL's trainer on the same task; it saves nothing and reports to nobody."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from workbench.tasks import make_task

    task = make_task("countdown")
    rows = list(task.dataset("train").select(range(PROMPTS * 64)))
    data = Dataset.from_list(
        [{"prompt": task.messages(row), "number": i} for i, row in enumerate(rows)]
    )

    def correct(completions, number, **_):
        texts = [completion[0]["content"] for completion in completions]
        return [task.score(rows[i], text) for i, text in zip(number, texts, strict=True)]

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=max_new_tokens,
        max_steps=steps,
        beta=BETA,
        learning_rate=RATE,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=correct,
        args=config,
        train_dataset=data,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[callback],
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=8)
    arguments.add_argument("--max-new-tokens", type=int, default=64)
    arguments = arguments.parse_args()
    clocks = Clocks()
    from transformers import TrainerCallback

    folder = model_folder()
    steps = {
        f"workbench, quantize {quantize}": workbench_step(
            folder, quantize, arguments.max_new_tokens
        )
        for quantize in ("none", "nf4")
    }
    reports = {}

    class Alternate(TrainerCallback):
        def on_step_begin(self, *_, **__):
            for label, step in steps.items():
                reports[label] = clocks.time(label, step)
            self.started = clocks.start()

        def on_step_end(self, *_, **__):
            clocks.stop("TRL GRPOTrainer", self.started)

    trainer = trl_trainer(folder, arguments.rounds + 1, arguments.max_new_tokens, Alternate())
    trainer.train()
    # TRL logs the means over all its steps once, at the end.
    length = float(trainer.state.log_history[-1]["completions/mean_length"])
    print(f"TRL: completions of {length:.1f} tokens on average")
    for label, report in reports.items():
        parts = {k: round(v, 3) for k, v in report.metrics.items() if k.startswith("time/")}
        print(f"{label}: {report.metrics['rollout/length']:.1f} tokens on average, {parts}")
    print(clocks.table("TRL GRPOTrainer"))
    print("Bar: at most 0.50; aim: 0.33.")


if __name__ == "__main__":
    main()
