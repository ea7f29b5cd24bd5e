"""Decoding against its floor and against `generate`: python -m tests.benchmarks.decode [--shape qwen2.5-1.5b]

Random weights, NF4 + LoRA r=16, `--rows` sequences of `--tokens` new tokens each, none of which may end:
what a rollout takes by `sample()`, with the merged copy and without it, and by transformers' `generate` on
the same quantised model; a decoding step's time (two lengths' difference, so that neither the prompts nor
the merging count) over the time that its weights, keys and values take to be read once at the speed of a
large copy. With `--out`, all of it is written there as JSON, with the machine's name.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks.common import never_ending, wait, write  # first: it sets the hub offline

SHAPES = {
    "toy": {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    "qwen2.5-0.5b": {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2,
    },
    "qwen2.5-1.5b": {
        "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2,
    },
}  # fmt: skip
PROMPT = "Compute 12 + 3 * 4 - 5 + 6 * 7 - 8 + 9 * 10"


def build(shape):
    """A folder with random weights of this shape, in the tiny world's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from workbench.tiny.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    config = Qwen2Config(
        **({"vocab_size": len(tokenizer)} | SHAPES[shape]),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=None,
        bos_token_id=None,
    )
    folder = Path(tempfile.mkdtemp()) / shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        Qwen2ForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def clock(function, rounds):
    """Median seconds of `function` after one call that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        function()
        wait()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def copy_bandwidth(device):
    """Bytes a second of a large copy, read and written counted."""
    import torch

    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / clock(lambda: target.copy_(source), 10)


def step_bytes(policy, rows, columns):
    """What one decoding step must read: every matrix of the sampler once, and the keys and values."""
    from workbench.native import cache_bytes

    model = policy.sampler()
    tied = {id(p): p for p in model.parameters()}.values()
    item = 2 if policy.device.type == "cuda" else 4
    cached = rows * columns * cache_bytes(model.config, item)
    return sum(p.numel() * p.element_size() for p in tied), cached


def machine(device):
    """The machine and the versions, for the record."""
    import torch
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": name or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }


def measure(arguments):
    """All figures, by name."""
    import torch

    from workbench.models import load_policy
    from workbench.rollout import sample

    policy = load_policy(build(arguments.shape), quantize="nf4", lora_rank=16)
    never_ending(policy)
    policy.decode = lambda tokens: (
        [""] * len(tokens)
    )  # the tokenizer is smaller than the vocabulary
    device, rows, tokens = policy.device, arguments.rows, arguments.tokens
    prompts = [[{"role": "user", "content": PROMPT}]] * (rows // arguments.group)
    ids_PL, mask_PL = policy.encode(policy.render(prompts))
    ids_BL, mask_BL = (x.repeat_interleave(arguments.group, 0) for x in (ids_PL, mask_PL))

    def rollout(count, stats=True):
        made = sample(
            policy, prompts, group_size=arguments.group, max_new_tokens=count, stats=stats
        )
        assert int(made.lengths_B.min()) == count

    @torch.no_grad()
    def generate():
        made = policy.model.generate(
            input_ids=ids_BL, attention_mask=mask_BL, do_sample=True, top_k=0, top_p=1.0,
            max_new_tokens=tokens, min_new_tokens=tokens, eos_token_id=None,
            pad_token_id=policy.tokenizer.pad_token_id,
        )  # fmt: skip
        assert made.shape[1] == ids_BL.shape[1] + tokens

    found = {
        "shape": arguments.shape,
        "rows": rows,
        "new_tokens": tokens,
        "machine": machine(device),
    }
    bandwidth = copy_bandwidth(device)
    found["copy_bytes_per_s"] = bandwidth
    theirs = clock(generate, max(1, arguments.rounds // 3))
    found["generate_tokens_per_s"] = rows * tokens / theirs
    for merged in ("always", "never"):
        policy.merged = merged
        whole = clock(lambda: rollout(tokens), arguments.rounds)
        half = clock(lambda: rollout(tokens // 2), arguments.rounds)
        bare = clock(lambda: rollout(tokens, stats=False), arguments.rounds)
        step = (whole - half) / (tokens - tokens // 2)
        weights, cached = step_bytes(policy, rows, ids_PL.shape[1] + 3 * tokens // 4)
        floor = (weights + cached) / bandwidth
        found[f"merged_{merged}"] = {
            "tokens_per_s": rows * tokens / whole,
            "over_generate": theirs / whole,
            "step_s": step,
            "floor_s": floor,
            "step_over_floor": step / floor,
            "weight_bytes": weights,
            "cache_bytes": cached,
            "statistics_share": whole / bare - 1,
        }
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--shape", choices=SHAPES, default="toy")
    arguments.add_argument("--rows", type=int, default=64)
    arguments.add_argument("--group", type=int, default=8)
    arguments.add_argument("--tokens", type=int, default=256)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--out", type=Path)
    arguments = arguments.parse_args()
    write(measure(arguments), arguments.out)


if __name__ == "__main__":
    main()
