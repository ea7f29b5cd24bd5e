"""How a step's time grows with group size and length: python -m tests.benchmarks.growth [--out F] [--plot F]

Steps as in `full_step`, none of whose completions ends, on one policy with a merged copy; sizes take turns
within each round, the first round does not count, and of the others the least is taken: what other work on
the machine adds is noise. One table over the group size, one over the length: seconds of a step, processor
seconds, those of sampling and of the update, milliseconds per token drawn, and the exponent of each between
neighbours, log(t2 / t1) / log(x2 / x1): 1 is linear. "work" is the exponent of a step's multiply-adds,
attention's included; what lies well above it is a jump that isn't attention's. `--out` writes JSON, `--plot`
a page.
"""

import dataclasses
import math
from pathlib import Path

from tests.benchmarks.common import Clocks, write  # first: it sets the hub offline
from tests.benchmarks.full_step import about, parser, prepared, workbench_step

AXES = {"group_size": "completions of a prompt", "max_new_tokens": "new tokens"}
TIMES = ("step_s", "cpu_s", "sample_s", "update_s", "work")


def multiply_adds(policy, rollouts):
    """Of a step: a pass that samples, one of the reference and three of the update, each prompt once.

    Attention while sampling meets the keys there are; the other passes take whole rows of keys and mask them.
    """
    from torch import nn

    model, (P, G, T) = policy.sampler(), (rollouts.P, rollouts.G, rollouts.T)
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_pair = 2 * config.num_hidden_layers * config.num_attention_heads * size
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    L = float(rollouts.prompt_mask_PL.sum(1).float().mean())
    sampling = P * L * L + P * G * T * (L + T / 2)  # pairs of a query and a key
    reading = P * L * L + P * G * T * (L + T)
    return 5 * weights * P * (L + G * T) + per_pair * (sampling + 4 * reading)


def grow(state, recipe, axis, sizes, rounds):
    """A row for each size of `axis`, a field of the recipe."""
    from workbench.memory import Memory

    steps, clocks, reports = {}, Clocks(), {size: [] for size in sizes}
    for size in sizes:
        sized = recipe.replace(**{axis: size})
        fresh = dataclasses.replace(state, memory=Memory.fresh(sized.group_size))
        fresh.memory.scaler = state.memory.scaler
        steps[size] = workbench_step(fresh, sized)
    for _ in range(rounds + 1):
        for size, step in steps.items():
            reports[size].append(clocks.time(size, step))
    rows = []
    for size, made in reports.items():
        wall, cpu = (min(clock[size][1:]) for clock in (clocks.wall, clocks.cpu))
        parts = {
            f"{part}_s": min(each.metrics[f"time/{part}"] for each in made[1:])
            for part in ("sample", "update")
        }
        work = multiply_adds(state.policy, made[-1].rollouts)
        row = {axis: size, "step_s": wall, "cpu_s": cpu, **parts, "work": work}
        row["s_per_token"] = wall / int(made[-1].rollouts.lengths_B.sum())
        if rows:
            row["exponents"] = {
                name: math.log(row[name] / rows[-1][name]) / math.log(size / rows[-1][axis])
                for name in TIMES
            }
        rows.append(row)
    return rows


def table(axis, rows):
    """The rows as text; exponents are those from the row above."""
    lines = [
        f"{axis:>14} {'step s':>8} {'CPU s':>8} {'sample s':>8} {'update s':>8} {'ms/token':>8}   "
        + " ".join(f"{name.removesuffix('_s'):>7}" for name in TIMES)
    ]
    for row in rows:
        times = " ".join(f"{row[name]:8.3f}" for name in TIMES[:-1])
        found = row.get("exponents", {})
        exponents = " ".join(f"{found[name]:7.2f}" if found else f"{'':7}" for name in TIMES)
        lines.append(f"{row[axis]:14} {times} {1e3 * row['s_per_token']:8.3f}   {exponents}")
    return "\n".join(lines)


def plot(found, path):
    """Both growths on logarithmic axes, with the work drawn through the first step."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(AXES), subplot_titles=[f"over {axis}" for axis in AXES.values()])
    for column, axis in enumerate(AXES, 1):
        rows = found[axis]
        scale = rows[0]["step_s"] / rows[0]["work"]
        for color, name in zip(
            ("black", "darkgray", "steelblue", "indianred", "gray"), TIMES, strict=True
        ):
            work = name == "work"
            figure.add_scatter(
                x=[row[axis] for row in rows],
                y=[row[name] * (scale if work else 1) for row in rows],
                name=name.removesuffix("_s"),
                legendgroup=name,
                showlegend=column == 1,
                line={"color": color, "dash": "dot" if work else "solid"},
                row=1,
                col=column,
            )
        figure.update_xaxes(type="log", title=AXES[axis], row=1, col=column)
        figure.update_yaxes(type="log", title="seconds", row=1, col=column)
    device = found["machine"]["device"]
    figure.update_layout(title=f"Seconds of a step: {found['shape']} on {device}")
    figure.write_html(path, include_plotlyjs=True)


def main():
    import torch

    cuda = torch.cuda.is_available()
    prompts, group, tokens = (8, 8, 128) if cuda else (4, 4, 32)
    lengths = (128, 256, 512, 1024, 2048) if cuda else (32, 64, 128, 256, 512)
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--prompts", type=int, default=prompts)
    options.add_argument("--group", type=int, default=group, help="while the length grows")
    options.add_argument("--tokens", type=int, default=tokens, help="while the group grows")
    options.add_argument("--groups", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    options.add_argument("--lengths", type=int, nargs="+", default=list(lengths))
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--plot", type=Path)
    arguments = options.parse_args()

    from tests.benchmarks.decode import build

    state, recipe = prepared(build(arguments.shape), arguments, merged="always")
    found = about(arguments) | {
        "prompts": arguments.prompts,
        "group_size_fixed": arguments.group,
        "new_tokens_fixed": arguments.tokens,
    }
    sizes = {"group_size": arguments.groups, "max_new_tokens": arguments.lengths}
    for axis in AXES:
        fixed = {"group_size": arguments.group} if axis == "max_new_tokens" else {}
        found[axis] = grow(state, recipe.replace(**fixed), axis, sizes[axis], arguments.rounds)
        print(table(axis, found[axis]), flush=True)
    write(found, arguments.out)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
