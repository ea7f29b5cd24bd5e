"""What alpha "auto" rests on: the score noise of a model, and what smoothed success rates cost.

    python -m tests.benchmarks.alpha_choice [--prompts 10] [--samples 64]

Score noise is the trace of a score's covariance among successes and among failures over |mu1 - mu0|^2, the
squared distance of their means without its sampling error: the unit in which |grad p|^2 is (p (1-p))^2.
"""

import argparse

import numpy as np
import torch
from scipy.stats import binom

from workbench.analysis import best_alpha, metric_gain
from workbench.models import load_policy
from workbench.reading import read
from workbench.rollout import sample
from workbench.tasks import make_task


def score_noise(policy, task, row, samples, seed):
    """(p, noise of successes, noise of failures), or None with fewer than four of either."""
    rollouts = sample(
        policy, [task.messages(row)], rows=[row], group_size=samples, max_new_tokens=64, seed=seed
    )
    good = torch.tensor([task.score(row, text) >= 1 for text in rollouts.completions])
    if min(good.sum(), (~good).sum()) < 4:
        return None
    # At the base B is 0, and only B has a gradient.
    weights = [p for name, p in policy.trainable() if "lora_B" in name]
    scores = []
    for b in range(samples):
        logprob = read(policy, rollouts, [b]).logprobs_entropies()[0].sum()
        scores.append(torch.cat([g.flatten() for g in torch.autograd.grad(logprob, weights)]))
    scores = torch.stack(scores).double()
    parts = (scores[good], scores[~good])
    traces = [float(part.var(0).sum()) for part in parts]
    errors = sum(trace / len(part) for trace, part in zip(traces, parts, strict=True))
    apart = float((parts[0].mean(0) - parts[1].mean(0)).square().sum()) - errors
    return float(good.double().mean()), *(trace / apart for trace in traces)


def smoothing_loss(metric="pass@64", p=0.05, group=16):
    """(alpha from (K + 1/2) / (G + 1), best alpha, share of the gain lost) where every prompt has this p."""
    K = np.arange(group + 1)
    rates, counts = (K + 0.5) / (group + 1), binom.pmf(K, group, p)
    chosen = best_alpha(metric, rates, group, weights=counts)
    best = best_alpha(metric, [p], group)
    gains = [metric_gain("rl2ml", metric, [p], group, alpha=alpha) for alpha in (chosen, best)]
    return chosen, best, 1 - gains[0] / gains[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--samples", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy, task = load_policy("tiny-strong"), make_task("countdown")
    rows, found = task.dataset("eval"), []
    for number in range(options.prompts):
        one = score_noise(policy, task, rows[number], options.samples, number)
        if one is not None:
            found.append(one)
            print(f"prompt {number}: p {one[0]:.2f}, successes {one[1]:.2f}, failures {one[2]:.2f}")
    print("median p {:.2f}, successes {:.2f}, failures {:.2f}".format(*np.median(found, axis=0)))
    print("all p .05, pass@64: chosen {:.2f}, best {:.2f}, lost {:.0%}".format(*smoothing_loss()))


if __name__ == "__main__":
    main()
