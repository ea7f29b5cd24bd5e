"""What the slowest answers cost the judge: python -m tests.benchmarks.judge_time

Random expressions of the notation that the judge accepts, against references of several kinds. Prints
quantiles of the processor time of one comparison, and the slowest ones.
"""

import argparse
import random
import time

from workbench.tasks.grading import same_value

REFERENCES = (
    "18", r"\frac{1}{2}", r"2\sqrt{3}", "(1,2]", "x^2+1", "(x+1)(x+2)(x+3)-5y",
    r"x^2-3x+\frac{1}{2}", r"\sin x", r"\sqrt{x+1}", "2^{x}", r"\log_2 x",
)  # fmt: skip
ATOMS = ("x", "y", "2", "3", "17", r"\pi", "9" * 20, "0", "0.5", "e", "i")
EXPONENTS = ("2", "5", "9", "{10}", "{99}", "{1/3}", "{x}", "{-5}")


def expression(rng, depth):
    """A random expression, nested up to `depth` times."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(ATOMS)
    a, b = expression(rng, depth - 1), expression(rng, depth - 1)
    forms = (
        f"{a}+{b}", f"{a}-({b})", f"({a})({b})", f"({a})/({b})", rf"\frac{{{a}}}{{{b}}}",
        rf"\sqrt{{{a}}}", rf"\sin({a})", rf"\log({a})", f"({a})^{rng.choice(EXPONENTS)}",
    )  # fmt: skip
    return rng.choice(forms)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    same_value("19", "20.5")  # loads the judge
    found = []
    for _ in range(args.count):
        reference, answer = rng.choice(REFERENCES), expression(rng, rng.choice((2, 3, 4)))
        start = time.process_time()
        same_value(reference, answer)
        found.append((1000 * (time.process_time() - start), reference, answer))
    found.sort(reverse=True)
    for share in (0.5, 0.9, 0.99):
        print(
            f"{share:.0%} of {args.count}: at most {found[int((1 - share) * args.count)][0]:.0f} ms"
        )
    for cost, reference, answer in found[:5]:
        print(f"{cost:6.0f} ms  {answer}  against  {reference}")


if __name__ == "__main__":
    main()
