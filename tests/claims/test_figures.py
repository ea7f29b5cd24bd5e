"""The figures hold the numbers of the results, where they belong."""

import pytest

from workbench.claims import alpha_figure, claims_figure
from workbench.claims.figures import alpha_of
from workbench.claims.results import summarise


def arm(values, alpha=None, **recipe):
    extra = {} if alpha is None else {"alpha": alpha}
    cells = [
        {"seed": seed, "metrics": {"pass@1": value, "pass@64": 1 - value, **extra}}
        for seed, value in enumerate(values)
    ]
    return {"recipe": recipe, "cells": cells}


@pytest.fixture
def result():
    found = {
        "evaluation": {"ks": [1, 8, 64]},
        "base": {"cells": arm([0.1, 0.3])["cells"]},
        "arms": {
            "two": arm([0.4, 0.6], objective="rl2ml", objective_args={"alpha": 2}),
            "rloo": arm([0.5, 0.7], objective="rloo"),
            "maxrl": arm([0.3, 0.5], objective="maxrl"),
            "grpo": arm([0.8, 0.8], objective="grpo"),
            "auto": arm([0.5, 0.5], 0.7, objective="rl2ml", objective_args={"alpha": "auto"}),
        },
    }
    summarise(found)
    return found


def test_only_arms_of_the_family_have_an_alpha(result):
    alphas = {name: alpha_of(arm) for name, arm in result["arms"].items()}
    assert alphas == {"two": 2, "rloo": 0.0, "maxrl": 1.0, "grpo": None, "auto": None}


def test_the_dot_plot_has_every_arm_seed_and_interval(result):
    figure = claims_figure(result)
    seeds, means = figure.data[:2]
    assert len(figure.data) == 4  # two metrics
    assert len(seeds.x) == 10
    assert list(means.y) == list(result["arms"])
    assert list(means.x) == pytest.approx([0.5, 0.6, 0.4, 0.8, 0.5])
    high = result["arms"]["two"]["summary"]["pass@1"]["high"]
    assert means.error_x.array[0] == pytest.approx(high - 0.5)
    assert figure.data[3].x[0] == pytest.approx(0.5)
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert lines[0].x0 == lines[0].x1 == pytest.approx(0.2)  # the base


def test_the_alpha_figure_runs_over_alpha_in_order(result):
    figure = alpha_figure(result, ["pass@64"])
    fixed, auto = figure.data
    assert list(fixed.x) == [0, 1, 2]
    assert list(fixed.y) == pytest.approx([0.4, 0.6, 0.5])
    assert list(auto.x) == pytest.approx([0.7])
    assert auto.text == ("auto",)


def test_an_arm_without_the_metric_leaves_a_gap(result):
    figure = claims_figure(result, ["kl"])
    assert set(figure.data[1].x) == {None}
