"""The numbers of a figure are those of the row; the figure shows what was asked for."""

import subprocess
import sys

import numpy as np
import pytest

from workbench import analysis, explain
from workbench.objectives import OBJECTIVES
from workbench.variants import WorkbenchError

COUNTING = [name for name, row in OBJECTIVES.items() if not row.needs]


def side(name, N=16, **params):
    found = explain.explain(name, N, **params)
    return explain.transition(found.success, found.failure)


def test_advantages_of_rloo_worked_by_hand():
    found = explain.explain("rloo", 4)
    np.testing.assert_allclose(found.success[1:], [1, 2 / 3, 1 / 3, 0], atol=1e-12)
    np.testing.assert_allclose(found.failure[:-1], [0, -1 / 3, -2 / 3, -1], atol=1e-12)
    assert np.isnan(found.success[0]) and np.isnan(found.failure[-1])
    np.testing.assert_allclose(found.weight, 1)
    np.testing.assert_allclose(found.surrogate, found.p - 1, atol=1e-12)


def test_noise_is_the_spread_over_the_mean_of_the_update():
    """One completion with advantage r: the update is r (r - p), mean p q, second moment p q^2."""
    found = explain.explain("reinforce", 1, score_noise=0.0)
    p, q = found.p_inside, 1 - found.p_inside
    np.testing.assert_allclose(found.noise, np.sqrt(p * q**2 - (p * q) ** 2) / (p * q))


def test_a_line_of_the_scale_leaves_out_k_zero():
    x, y = explain.explain("reinforce", 3).line("scale")
    assert x.tolist() == [1, 2, 3]
    np.testing.assert_allclose(y, [1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("estimator", ["zero_sum", "direct", "score_baseline"])
def test_the_transition_is_at_alpha_one_whatever_the_estimator(estimator):
    sides = [
        side("rl2ml", 8, alpha=alpha, estimator=estimator).split(":")[0]
        for alpha in (-0.5, 0.0, 0.9, 1.0, 1.1, 3.0)
    ]
    assert sides == ["subcritical"] * 3 + ["critical"] + ["supercritical"] * 2


def test_the_side_of_other_rows():
    assert side("maxrl") == side("maxrl", form="full") == "critical: flat"
    assert side("grpo") == side("rloo") == side("reinforce") == "subcritical: rises"
    assert side("pkpo", k=4) == "rises, then falls"
    assert side("rloo", 2) == "one point"


def test_success_rates_have_the_mean_and_spread_that_were_asked_for():
    rates = explain.success_rates(0.3, 0.5, count=4000)
    assert rates.mean() == pytest.approx(0.3, abs=1e-3)
    variance = 0.5 * 0.3 * 0.7  # a Beta's a + b + 1 is 1 / spread
    assert rates.var() == pytest.approx(variance, rel=1e-2)
    assert (rates > 0).all() and (rates < 1).all()


def test_the_gain_is_one_at_the_best_alpha_and_moves_with_the_metric():
    rates = explain.success_rates(1 / 3, 0.45)
    gains = explain.gains(rates, 16)
    best = {metric: alpha for metric, (_, alpha, _) in gains.items()}
    assert best["pass@1"] < best["log p"] < best["pass@8"] < best["pass@64"]
    for metric, (gain, alpha, top) in gains.items():
        assert gain.max() <= 1 + 1e-9 and gain.max() > 0.99
        assert abs(explain.ALPHAS[gain.argmax()] - alpha) < 0.07
        assert top == analysis.metric_gain("rl2ml", metric, rates, 16, alpha=alpha)


def test_the_figure_shows_the_chosen_objectives_and_nothing_else():
    figure = explain.empty_figure(COUNTING)
    found = {"maxrl": explain.explain("maxrl", 8)}
    explain.fill(figure, COUNTING, found, K=3)
    visible = {(t.meta["group"], t.meta["line"]) for t in figure.data if t.visible}
    assert visible == {("maxrl", line) for line in explain.LINES} | {
        ("chosen", "advantage"), ("chosen", "scale"),
    }  # fmt: skip
    marks = [t for t in figure.data if t.meta["group"] == "chosen"]
    assert all(list(t.x) == [3, 3] for t in marks)
    explain.fill(figure, COUNTING, {})
    assert not any(t.visible for t in figure.data if t.meta["group"] == "maxrl")


def test_lines_of_objectives_differ_in_colour_and_dash_together():
    looks = [explain.look(position) for position in range(len(OBJECTIVES))]
    assert len({(look["color"], look["dash"]) for look in looks}) == len(OBJECTIVES)
    assert len({look["dash"] for look in looks[:4]}) > 1


def test_a_static_figure_of_named_objectives():
    figure = explain.objectives_figure({"rloo": {}, "rl2ml": {"alpha": 2.0}}, N=8, theme="dark")
    weight = next(t for t in figure.data if t.meta == {"group": "rl2ml", "line": "weight"})
    direct = analysis.population_weight("rl2ml", 8, weight.x, alpha=2.0)
    np.testing.assert_allclose(weight.y, direct, rtol=1e-5)
    assert {t.name for t in figure.data if t.visible and t.showlegend} == {
        "rloo", "rl2ml", *explain.METRICS,
    }  # fmt: skip


def test_subplots_do_not_overlap():
    cells = [explain.cell(subplot) for subplot in explain.SUBPLOTS]
    for i, (left, right, bottom, top) in enumerate(cells):
        assert 0 <= left < right <= 1.001 and 0 <= bottom < top <= 1
        for other in cells[:i]:
            assert left > other[1] or other[0] > right or bottom > other[3] or other[2] > top


def test_what_looks_at_more_than_k_is_refused():
    with pytest.raises(WorkbenchError, match="mean_logprobs_PG"):
        explain.explain("differential_smoothing", 8)


def test_importing_it_loads_no_torch():
    code = "import workbench.explain, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
