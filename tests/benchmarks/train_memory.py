"""What an update keeps in memory: python -m tests.benchmarks.train_memory

One update of the same batch, with gradient checkpointing off and on, by rows and by tokens. "kept" is what
the largest microbatch keeps for its backward pass, each storage once, without weights; "peak" is all of the
GPU's memory that was in use at once, where there is a GPU. The model is a random Llama of a toy shape, or
with --model a folder or name; the recipe's defaults otherwise (NF4, rank 16).
"""

import argparse
import tempfile
import time
from pathlib import Path

from tests.benchmarks.common import (
    model_folder,
)  # first: it keeps the hub libraries off the network

MIB = 2**20
ROWS = (32, 8, 2)
TOKENS = (2048, 512)


def toy_folder():
    """A random Llama of 8 layers, 256 wide, in the tiny vocabulary."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = str(Path(tempfile.mkdtemp()) / "toy")
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.02,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def length(rollouts, task):
    """A reward that every batch has signal for."""
    return rollouts.lengths_B.float().view(rollouts.P, rollouts.G)


def update(state, recipe, report):
    """Bytes kept by the largest microbatch, number of microbatches, peak on the GPU, seconds."""
    import torch

    from workbench import trainer
    from workbench.microbatches import Kept

    part, kept = trainer.backward_part, []

    def counted(*given):
        with Kept(state.policy.model) as each:
            found = part(*given)
        kept.append(each.bytes)
        return found

    cuda = state.policy.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer.backward_part = counted
    started = time.perf_counter()
    try:
        trainer.update(state, recipe, report, report.rollouts)
        peak = torch.cuda.max_memory_allocated() if cuda else None  # waits for the device
    finally:
        trainer.backward_part = part
    return max(kept), len(kept), peak, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()

    from workbench.recipe import Recipe
    from workbench.recomputing import switch_recomputing
    from workbench.trainer import prepare, train_step

    recipe = Recipe(
        model=options.model or toy_folder(),
        rewards={length: 1.0},
        prompts_per_step=options.prompts,
        group_size=options.group,
        max_new_tokens=options.tokens,
        learning_rate=0.0,
    )
    state = prepare(recipe)
    report = train_step(state, recipe)
    lengths_B = report.rollouts.lengths_B
    print(
        f"{state.policy.device}, {report.rollouts.B} completions, {int(lengths_B.sum())} tokens, "
        f"the longest {int(lengths_B.max())}"
    )
    print(
        f"{'checkpointing':14} {'microbatch':>12} {'parts':>6} {'kept MiB':>9} {'peak MiB':>9} {'s':>6}"
    )
    settings = [{"microbatch": rows} for rows in ROWS]
    settings += [{"microbatch_tokens": tokens} for tokens in TOKENS]
    for choice in ("off", "on"):
        switch_recomputing(state.policy.model, choice, state.policy.device)
        for fields in settings:
            state.memory.token_limit = 0
            kept, parts, peak, seconds = update(state, recipe.replace(**fields), report)
            ((name, value),) = fields.items()
            label = f"{value} {'rows' if name == 'microbatch' else 'tokens'}"
            shown = "-" if peak is None else f"{peak / MIB:.0f}"
            print(f"{choice:14} {label:>12} {parts:6} {kept / MIB:9.1f} {shown:>9} {seconds:6.2f}")


if __name__ == "__main__":
    main()
