"""A whole step at full length against TRL's, and what statistics cost: python -m tests.benchmarks.full_step

Random weights of `--shape`, LoRA of rank 16, GRPO with a KL to the adapter-free model: sample, reference,
update. Every completion has all its `--tokens`; none may end. Rewards are 0 and 1 in turn, so that every
group has signal. TRL's GRPOTrainer (no vLLM) trains the same base, quantised alike, on the same settings;
before each of its steps one of each workbench setting is timed. TRL keeps a quantised base's adapter in bf16.

On a GPU (defaults 8 prompts x 8 completions x 512 tokens) TRL computes in bf16 and in `--trl-parts`
microbatches, with gradient checkpointing where the workbench has it, and the peak memory of a step is taken
of each alone. On the CPU (4 x 4 x 64) both compute in fp32, TRL in one part, and no memory is measured.
"statistics": steps that record log-probs alone, against whole ones. With `--out`, all of it as JSON.
Needs the extra `benchmark`.
"""

import argparse
import contextlib
import math
import os
from pathlib import Path
from unittest.mock import patch

from tests.benchmarks.common import (  # first: it sets the hub offline
    Clocks,
    alternating,
    grpo_recipe,
    never_ending,
    trl_trainer,
    write,
)
from tests.benchmarks.decode import SHAPES, build, machine

TRL = "TRL GRPOTrainer"
FULL, BARE = "all statistics", "log-probs alone"
ARMS = {
    "native, merged copy": {"merged": "always"},
    "native, no merged copy": {"merged": "never"},
}
# On a large card a part is as large as memory allows; this is what a step needs where there is less.
SMALL_PARTS = {
    "native, no merged copy, 4096 at once": {"merged": "never", "microbatch_tokens": 4096}
}


def in_turn(rollouts, task):
    """A reward that every group has signal for: 0 and 1 in turn."""
    import torch

    return (torch.arange(rollouts.B) % 2).float().view(rollouts.P, rollouts.G)


def prepared(folder, arguments, **fields):
    """State and recipe of a run in which no completion ends."""
    from workbench.trainer import prepare

    given = {
        "quantize": arguments.quantize,
        "prompts_per_step": arguments.prompts,
        "group_size": arguments.group,
        "max_new_tokens": arguments.tokens,
    }
    recipe = grpo_recipe(folder, engine="native", rewards={in_turn: 1.0}, **(given | fields))
    state = prepare(recipe)
    never_ending(state.policy)
    return state, recipe


def workbench_step(state, recipe):
    """A function that does one step."""
    from workbench.trainer import train_step

    def step():
        report = train_step(state, recipe)
        assert int(report.rollouts.lengths_B.min()) == recipe.max_new_tokens
        return report

    return step


def trl(folder, arguments, steps, callback):
    """TRL's trainer on the same base; what it draws never ends either."""
    import torch
    from transformers import AutoTokenizer

    from workbench.devices import find_device
    from workbench.loading import load_base
    from workbench.recomputing import LARGE

    base = load_base(folder, "base", arguments.quantize, find_device("auto"))
    parts = arguments.trl_parts
    trainer = trl_trainer(
        base,
        AutoTokenizer.from_pretrained(folder),
        lambda task, rows, texts: [float(i % 2) for i in range(len(texts))],
        steps,
        callback,
        prompts=arguments.prompts,
        group=arguments.group,
        max_new_tokens=arguments.tokens,
        per_device_train_batch_size=arguments.prompts * arguments.group // parts,
        gradient_accumulation_steps=parts,
        gradient_checkpointing=torch.cuda.is_available() and base.num_parameters() >= LARGE,
        generation_kwargs={"eos_token_id": None},
    )
    trainer.eos_token_ids = [-1]
    return trainer


def trl_length(trainer):
    """Mean tokens of a completion over all its steps, which it logs once, at the end."""
    return float(trainer.state.log_history[-1]["completions/mean_length"])


def peaks(folder, arguments):
    """Peak bytes of a warm step of each setting, of TRL's first step, each with nothing else loaded."""
    import torch

    from workbench.microbatches import release

    found, device = {}, torch.device("cuda")
    release(device)

    def peak(step):
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)

    for label, fields in (ARMS | SMALL_PARTS).items():
        step = workbench_step(*prepared(folder, arguments, **fields))
        step()  # chooses its microbatches
        found[label] = peak(step)
        del step
        release(device)
    found[TRL] = peak(lambda: trl(folder, arguments, 1, alternating(Clocks(), {})).train())
    release(device)
    return found


def against_trl(folder, arguments):
    """Seconds of a step of each setting, and over TRL's."""
    arms = ARMS | (SMALL_PARTS if arguments.cuda else {})
    steps = {
        label: workbench_step(*prepared(folder, arguments, **fields))
        for label, fields in arms.items()
    }
    clocks = Clocks()
    alternate = alternating(clocks, steps, TRL)
    trainer = trl(folder, arguments, arguments.rounds + 1, alternate)
    trainer.train()
    assert trl_length(trainer) == arguments.tokens
    print(clocks.table(TRL))
    found = {}
    for label in (*steps, TRL):
        (wall, cpu), theirs = clocks.medians(label), clocks.medians(TRL)
        found[label] = {
            "step_s": wall,
            "cpu_s": cpu,
            "over_trl": wall / theirs[0],
            "cpu_over_trl": cpu / theirs[1],
        }
        if label in steps:
            metrics = alternate.reports[label].metrics
            found[label] |= {
                name: metrics[f"time/{part}"]
                for name, part in (("sample_s", "sample"), ("update_s", "update"))
            }
    return found


@contextlib.contextmanager
def logprobs_alone():
    """Inside, sampling and reading find each token's log-prob and no other statistic."""
    import torch

    from workbench import decoding, likelihoods, static

    def logprobs(logits_CV, contexts_M, tokens_M):
        normaliser_C = logits_CV.float().logsumexp(-1)
        found_5M = torch.zeros(5, len(tokens_M), device=logits_CV.device)
        found_5M[0] = logits_CV[contexts_M, tokens_M].float() - normaliser_C[contexts_M]
        return found_5M

    class Running(likelihoods._Running):
        def add(self, contexts, z_KW):
            most, total = self.most_C[contexts], self.sum_C[contexts]
            new = torch.maximum(most, z_KW.amax(-1))
            e_KW = (z_KW - new[:, None]).exp_()
            total.mul_((most - new).exp()).add_(e_KW.sum(-1))
            most.copy_(new)

    with (
        patch.object(decoding, "statistics", logprobs),
        patch.object(static, "statistics", logprobs),
        patch.object(likelihoods, "_Running", Running),
    ):
        yield


def statistics(folder, arguments):
    """What entropy, collision, certainty and peak cost a step: (whole / log-probs alone) - 1.

    Two policies, since each keeps the decoding graphs that it captured. They draw the same tokens.
    """
    import torch

    clocks = Clocks()
    states = [prepared(folder, arguments, merged="always") for _ in range(2)]
    steps = {
        label: workbench_step(*state) for label, state in zip((FULL, BARE), states, strict=True)
    }
    for number in range(arguments.rounds + 1):
        made = {}
        for label in (FULL, BARE) if number % 2 else (BARE, FULL):
            with logprobs_alone() if label == BARE else contextlib.nullcontext():
                made[label] = clocks.time(label, steps[label])
        full, bare = made[FULL], made[BARE]
        assert full.rollouts.entropies_BT.any() and not bare.rollouts.entropies_BT.any()
        if not arguments.cuda:  # where it is the same to the last digits, else draws may part
            torch.testing.assert_close(bare.rollouts.logprobs_BT, full.rollouts.logprobs_BT)
            norms = (each.metrics["train/grad_norm"] for each in (bare, full))
            assert math.isclose(*norms, rel_tol=1e-3)
    print(clocks.table(BARE))
    (wall, cpu), (bare_wall, bare_cpu) = clocks.medians(FULL), clocks.medians(BARE)
    return {
        "step_s": wall,
        "bare_step_s": bare_wall,
        "share": wall / bare_wall - 1,
        "cpu_share": cpu / bare_cpu - 1,
    }


def parser(description):
    """The options of both benchmarks of whole steps."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--shape", choices=SHAPES, default="toy")
    options.add_argument("--quantize", choices=("nf4", "none"), default="nf4")
    options.add_argument("--out", type=Path)
    return options


def about(arguments):
    """What was measured, where, and how busy the machine was."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "shape": arguments.shape,
        "quantize": arguments.quantize,
        "machine": machine(device),
        "load": os.getloadavg(),
    }


def main():
    import torch

    cuda = torch.cuda.is_available()
    prompts, group, tokens, parts = (8, 8, 512, 8) if cuda else (4, 4, 64, 1)
    arguments = parser(__doc__.split("\n")[0])
    arguments.add_argument("--prompts", type=int, default=prompts)
    arguments.add_argument("--group", type=int, default=group)
    arguments.add_argument("--tokens", type=int, default=tokens)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--trl-parts", type=int, default=parts)
    arguments = arguments.parse_args()
    arguments.cuda = cuda
    folder = build(arguments.shape)
    found = about(arguments) | {
        "prompts": arguments.prompts,
        "group_size": arguments.group,
        "new_tokens": arguments.tokens,
    }
    if cuda:  # first, while nothing else is loaded
        found["peak_bytes"] = peaks(folder, arguments)
    else:
        print("No GPU: peak memory is left out.")
    found["full_step"] = against_trl(folder, arguments)
    found["statistics"] = statistics(folder, arguments)
    write(found, arguments.out)
    print(
        "Bars: full step over TRL's at most 0.40; peak at most 5 GB with no merged copy; "
        "statistics at most 0.03."
    )


if __name__ == "__main__":
    main()
