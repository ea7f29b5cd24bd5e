"""Log-probs through a real vocabulary, tiled against naive: python -m tests.benchmarks.head_memory

A random head of the shape of Qwen2.5-1.5B (151,936 words, hidden size 1536; --hidden for others), a few
hundred contexts, log-probs and entropies forward and back to the hidden states. "naive" is the plain way:
all logits, log_softmax, autograd. On a GPU in bf16, peak memory as the allocator counts it; on the CPU in
fp32, each way in a process of its own, peak memory beyond what the head and the hidden states take.
"""

import argparse
import multiprocessing
import resource
import time


def prepare(vocabulary, hidden, contexts):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    settings = {"generator": generator, "device": device}
    weight = torch.randn(vocabulary, hidden, **settings).mul_(hidden**-0.5).to(dtype)
    hidden = torch.randn(contexts, hidden, **settings).to(dtype).requires_grad_()
    tokens = torch.randint(0, vocabulary, (contexts,), **settings)
    return weight, hidden, tokens


def naive(weight, hidden, tokens):
    logp = (hidden @ weight.T).float().log_softmax(-1)
    entropies = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, tokens[:, None]).squeeze(1), entropies


def tiled(weight, hidden, tokens):
    import torch

    from workbench.likelihoods import logprob_entropy
    from workbench.tiles import Linear, States

    states = States(Linear(weight.__getitem__, len(weight)), (hidden,))
    return logprob_entropy(states, torch.arange(len(tokens), device=tokens.device), tokens)


def measure(way, shape, rounds):
    """Seconds of one pass forward and back (the least of `rounds`), its peak memory in MB, and the values."""
    import torch

    weight, hidden, tokens = prepare(*shape)
    gpu = weight.is_cuda
    (hidden[:1] @ weight[:64].T).sum().backward()  # what a library sets up at its first use
    hidden.grad = None
    seconds = []
    before = torch.cuda.memory_allocated() if gpu else peak()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(rounds):
        hidden.grad = None
        started = time.perf_counter()
        logprobs, entropies = way(weight, hidden, tokens)
        (logprobs.sum() + entropies.sum()).backward()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    used = (torch.cuda.max_memory_allocated() if gpu else peak()) - before
    values = [x.detach().float().cpu() for x in (logprobs, entropies, hidden.grad)]
    return min(seconds), used / 2**20, [value.numpy() for value in values]


def peak():
    """Most bytes this process has held so far; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(f"{'contexts':>8} {'way':>6} {'seconds':>8} {'peak MB':>8}")
    for contexts in given.contexts:
        shape, found = (given.vocabulary, given.hidden, contexts), {}
        for way in (naive, tiled):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[way] = pool.apply(measure, (way, shape, given.rounds))
            seconds, used, _ = found[way]
            print(f"{contexts:8} {way.__name__:>6} {seconds:8.2f} {used:8.0f}")
        pairs = zip(found[naive][2], found[tiled][2], strict=True)
        gaps = [f"{abs(a - b).max():.1e}" for a, b in pairs]
        print(f"{'':8} largest differences of log-prob, entropy, gradient: {', '.join(gaps)}")
        ratios = [
            mine / theirs for mine, theirs in zip(found[tiled][:2], found[naive][:2], strict=True)
        ]
        print(
            f"{'':8} tiled over naive: {ratios[0]:.2f} of the time, {ratios[1]:.2f} of the memory"
        )


if __name__ == "__main__":
    main()
