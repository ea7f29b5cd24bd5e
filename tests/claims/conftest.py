"""A claim with a geometry whose runs are made by hand, so that drops and warnings are known.

Twenty probes, at steps 0, 3, ... 57; burn-in ends at 6, so 12 is the first step with three of them. The
reference visits the corners of a box: entropy 0.2 to 0.4 nats, length 10 to 20, vote share 0.4 to 0.8.
"""

import itertools

import numpy as np
import pytest

from workbench.claims.book import Book
from workbench.claims.measure import trace_file
from workbench.claims.plan import claim_from
from workbench.phase import table
from workbench.probe import ProbeTrace
from workbench.tables import probe_table, write_parquet

STEPS = range(0, 60, 3)
SAMPLES = 5  # responses to the only prompt
WOBBLE = (-0.1, -0.05, 0.0, 0.05, 0.1)  # of the entropy, from response to response


def a_probe(step, entropy=0.3, length=15, votes=3, right=3):
    """Constant entropy series; of five responses `votes` give one answer and `right` are right."""
    answers = ["1"] * votes + [str(i) for i in range(2, 2 + SAMPLES - votes)]
    return ProbeTrace.of(
        step,
        [0] * SAMPLES,
        [np.full(length, entropy * (1 + w)) for w in WOBBLE],
        [True] * SAMPLES,
        answers,
        [1] * right + [0] * (SAMPLES - right),
    )


def a_run(**changes):
    """One probe per step; each change is a list of 20 values, or a function of the step."""
    return [a_probe(step, **{k: f(step) for k, f in changes.items()}) for step in STEPS]


def corners(order):
    """The corners of the box, in an order of its own for each run, then inside it."""
    box = list(itertools.product((0.2, 0.4), (10, 20), (2, 4)))
    box = np.random.default_rng(order).permutation(len(box) * 2) % len(box), box
    found = []
    for at, step in enumerate(STEPS):
        entropy, length, votes = box[1][box[0][at - 2]] if 2 <= at < 18 else (0.3, 15, 3)
        found.append(a_probe(step, entropy, length, votes))
    return found


RUNS = {
    # Entropy leaves at 24, three deviations out: due at 30. Accuracy is lost at 39.
    ("fall", 0): a_run(entropy=lambda s: 0.7 if s >= 24 else 0.3,
                       right=lambda s: 0 if s >= 39 else 3),
    # All agree from 18 on, two deviations out; no other signal moves. Due at 24, lost at 39.
    ("fall", 1): a_run(votes=lambda s: 5 if s >= 18 else 3, right=lambda s: 0 if s >= 39 else 3),
    # Too short from the start, never a drop.
    ("calm", 0): a_run(length=lambda s: 6),
    ("calm", 1): a_run(length=lambda s: 14),
    ("good", 0): corners(0),
    **{("good", seed): corners(seed) for seed in (5, 6, 7)},
}  # fmt: skip


def a_claim(**changes):
    return claim_from(
        "toy",
        {
            "recipe": {"steps": 57, "probe_every": 3},
            "evaluation": {"prompts": 2, "samples": 4, "ks": [1, 4]},
            "seeds": [0, 1],
            "arms": {"good": {}, "fall": {"objective": "rloo"}, "calm": {"objective": "maxrl"}},
            "geometry": {"arm": "good", "seeds": [5, 6, 7], "margins": [0, 0.5, 2.5]},
        }
        | changes,
    )


def add(claim, path, arm, seed, run=None):
    """Write a cell and its traces as `measure` does."""
    run = run or RUNS[arm, seed]
    columns = table(run) | {"reward": [trace.step / 57 for trace in run]}
    metrics = {"pass@1": 0.5, "best/pass@1": 0.7, "best/step": 30.0}
    write_parquet(probe_table(*run), trace_file(path, arm, seed))
    cell = {"seed": seed, "metrics": metrics, "probes": columns, "threads": 1}
    Book(path, claim, "abc").add_cell(claim.recipe_of(arm), arm, cell)


@pytest.fixture
def measured(tmp_path):
    """(claim, path): every cell and its traces, nothing judged yet."""
    claim, path = a_claim(), tmp_path / "toy.json"
    Book(path, claim, "abc").set_base({"pass@1": 0.5}, np.array([1, 2]))
    for arm, seed in RUNS:
        add(claim, path, arm, seed)
    return claim, path


@pytest.fixture(scope="session")
def judged(tmp_path_factory):
    """The result of the same claim, judged; not to be changed."""
    from workbench.claims.judging import judge
    from workbench.claims.results import load

    claim, path = a_claim(), tmp_path_factory.mktemp("judged") / "toy.json"
    Book(path, claim, "abc").set_base({"pass@1": 0.5}, np.array([1, 2]))
    for arm, seed in RUNS:
        add(claim, path, arm, seed)
    judge(claim, path, say=lambda text: None)
    return load(path)


@pytest.fixture
def add_cell():
    """(claim, path, arm, seed, run) -> None: measure a cell once more."""
    return add
