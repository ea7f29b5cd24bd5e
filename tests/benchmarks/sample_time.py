"""`sample()` against transformers' `generate` on the same batch: python -m tests.benchmarks.sample_time

Both draw 16 completions of each of 16 prompts from the same weights at temperature 1. generate gets the
plain, unadapted model (its fastest case) and records nothing; sample() also records its four series.
"""

import argparse

from tests.benchmarks.common import GROUP, PROMPTS, Clocks, model_folder


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--max-new-tokens", type=int, default=64)
    arguments = arguments.parse_args()
    clocks = Clocks()
    import torch

    from workbench.models import load_policy
    from workbench.rollout import sample
    from workbench.tasks import make_task

    policy = load_policy(model_folder(), quantize="nf4")
    task = make_task("countdown")
    rows = task.dataset("train").select(range(PROMPTS))
    prompts = [task.messages(row) for row in rows]
    ids_PL, mask_PL = policy.encode(policy.render(prompts))
    ids_BL, mask_BL = (x.repeat_interleave(GROUP, 0) for x in (ids_PL, mask_PL))
    settings = {"group_size": GROUP, "max_new_tokens": arguments.max_new_tokens}

    @torch.no_grad()
    def generate(model):
        return model.generate(
            ids_BL,
            attention_mask=mask_BL,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=arguments.max_new_tokens,
            eos_token_id=policy.stop_ids(),
            pad_token_id=policy.tokenizer.pad_token_id,
        )

    plain = policy.sampler()
    for seed in range(arguments.rounds + 1):
        clocks.time("transformers generate", lambda: generate(plain))
        made = clocks.time(
            "workbench sample",
            lambda: sample(policy, prompts, seed=seed, **settings),  # noqa: B023
        )
        clocks.time(
            "workbench sample, nothing recorded",
            lambda: sample(policy, prompts, seed=seed, stats=False, **settings),  # noqa: B023
        )
        if seed < 3:
            clocks.time("generate through NF4 + LoRA", lambda: generate(policy.model))
    lengths = made.lengths_B.float()
    print(f"{made.B} completions, {lengths.mean():.1f} tokens on average, {made.T} at most")
    print(clocks.table("transformers generate"))
    print("Bar: at most 0.60.")


if __name__ == "__main__":
    main()
