"""The figures hold the numbers of the result, where they belong."""

import numpy as np
import pytest

from workbench.claims import curves_figure, warnings_figure
from workbench.variants import WorkbenchError


def on(figure, axis):
    """The traces of one subplot."""
    return [trace for trace in figure.data if (trace.xaxis or "x") == axis]


def test_curves_show_every_seed_their_mean_and_the_reward(judged):
    figure = curves_figure(judged, ["fall", "calm"])
    assert [title.text for title in figure.layout.annotations] == ["fall", "calm"]
    *seeds, mean, reward = on(figure, "x")
    assert [list(seed.y[-2:]) for seed in seeds] == [[0, 0], [0, 0]]
    assert list(mean.x) == list(range(0, 60, 3))
    assert mean.y[0] == pytest.approx(0.6) and mean.y[-1] == 0
    assert mean.line.width > seeds[0].line.width and seeds[0].opacity < 1
    assert reward.line.dash == "dash"
    assert (reward.y[0], reward.y[-1]) == (0, 1)
    assert reward.customdata[-1] == pytest.approx(1.0)  # as it was, before it was scaled
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2


def test_the_reward_is_scaled_within_its_arm(judged):
    arm = judged["arms"]["fall"]["cells"][0]
    rewards = {0: [-4.0, -2.0, -3.0], 1: [-6.0, -2.0, -1.0]}  # mean: -5, -2, -2
    cells = [
        {"seed": seed, "probes": arm["probes"] | {
            "step": [0, 3, 6], "accuracy": [0.5, 0.5, 0.5], "reward": values}}
        for seed, values in rewards.items()
    ]  # fmt: skip
    *_, reward = curves_figure({"arms": {"a": {"cells": cells}}}).data
    assert list(reward.y) == [0, 1, 1]
    within = [cells[0] | {"probes": cells[0]["probes"] | {"reward": [0.2, 0.3, 1.0]}}]
    *_, reward = curves_figure({"arms": {"a": {"cells": within}}}).data
    assert list(reward.y) == [0.2, 0.3, 1.0]
    constant = [cells[0] | {"probes": cells[0]["probes"] | {"reward": [2.0, 2.0, 2.0]}}]
    *_, reward = curves_figure({"arms": {"a": {"cells": constant}}}).data
    assert list(reward.y) == [0.5, 0.5, 0.5]


def test_a_reward_that_is_zero_by_construction_is_not_drawn(judged):
    fall = judged["arms"]["fall"]
    arms = {"a": fall | {"recipe": {"standardise": "group"}}, "b": fall}
    figure = curves_figure({"arms": arms})
    assert [len(on(figure, axis)) for axis in ("x", "x2")] == [3, 4]
    assert [trace.line.dash for trace in figure.data if trace.showlegend] == [None, "dash"]


def test_many_arms_go_into_rows(judged):
    arms = {f"arm {i}": judged["arms"]["fall"] for i in range(6)}
    figure = curves_figure({"arms": arms})
    assert len({axis for axis in figure.layout if axis.startswith("xaxis")}) >= 6
    assert figure.layout.height > curves_figure({"arms": {"a": arms["arm 0"]}}).layout.height


def test_arms_that_are_unknown_or_without_probes_are_told(judged):
    with pytest.raises(WorkbenchError, match="Did you mean 'fall'"):
        curves_figure(judged, ["fal"])
    with pytest.raises(WorkbenchError, match="took probes"):
        curves_figure({"arms": {"a": {"cells": [{"seed": 0, "metrics": {}}]}}})


def test_every_fence_is_a_line_from_few_false_alarms_to_many(judged):
    figure = warnings_figure(judged)
    sweeps = judged["geometry"]["sweeps"]
    for axis, place, scale in (("x", 2, 2), ("x2", 3, 1)):
        lines = [trace for trace in on(figure, axis) if trace.mode == "lines"]
        assert len(lines) == len(sweeps)
        for line, sweep in zip(lines, sweeps.values(), strict=True):
            trades = np.array(sweep["trades"])
            assert list(line.x) == pytest.approx(list(trades[:, 1] / 3))
            assert list(line.y) == pytest.approx(list(trades[:, place] / scale))
    solid = {trace.name for trace in figure.data if trace.line.dash == "solid"}
    assert solid == {"envelope: votes", "envelope: centres", "envelope: accuracy (sees labels)"}


def test_a_dot_marks_the_margin_that_was_fixed(judged):
    dots = [trace for trace in warnings_figure(judged).data if trace.mode == "markers"]
    votes = [dot for dot in dots if dot.name == "envelope: votes"]
    assert [(dot.x[0], dot.y[0]) for dot in votes] == [
        (pytest.approx(1 / 3), 1.0),
        (pytest.approx(1 / 3), 12.0),
    ]


def test_both_themes_are_drawn(judged):
    for draw in (curves_figure, warnings_figure):
        light, dark = (draw(judged, theme=theme).layout.template for theme in ("light", "dark"))
        assert light != dark
