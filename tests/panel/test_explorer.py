"""The explorer without a browser: controls, figure and table say the same."""

import re

import numpy as np
import pytest

from workbench import analysis
from workbench import explain as numbers
from workbench.panel import explorer
from workbench.panel.explorer import draw_objective, explore_objectives
from workbench.recipe import Recipe
from workbench.variants import WorkbenchError


def trace(shown, group, line):
    return next(t for t in shown.figure.data if t.meta == {"group": group, "line": line})


def test_it_starts_with_curves_and_a_table():
    shown = explore_objectives()
    visible = {t.meta["group"] for t in shown.figure.data if t.visible}
    assert visible == {*explorer.START, "prompts", "chosen", *numbers.METRICS}
    assert all(f"<b>{name}</b>" in shown.table.value for name in explorer.START)
    assert "+4.333" in shown.table.value  # MaxRL, 3 of 16: (1 - 3/16) / (3/16)
    assert "application/vnd.jupyter.widget-view+json" in shown._repr_mimebundle_()


def test_ticking_shows_and_unticking_hides():
    shown = explore_objectives(["rloo"])
    shown.choices["maxrl"].tick.value = True
    assert trace(shown, "maxrl", "weight").visible and "<b>maxrl</b>" in shown.table.value
    shown.choices["maxrl"].tick.value = False
    assert not trace(shown, "maxrl", "weight").visible and "maxrl" not in shown.table.value


def test_alpha_moves_the_curve_and_the_side_of_the_transition():
    shown = explore_objectives({"rl2ml": {"alpha": 0.5}}, N=8)
    assert "subcritical" in shown.table.value
    shown.choices["rl2ml"].inputs["alpha"].value = 2.0
    assert "supercritical" in shown.table.value
    line = trace(shown, "rl2ml", "weight")
    np.testing.assert_allclose(
        line.y, analysis.population_weight("rl2ml", 8, line.x.astype(float), alpha=2.0), rtol=1e-4
    )
    assert shown.arguments("rl2ml")["alpha"] == 2.0


def test_another_group_size_keeps_the_share_of_successes():
    shown = explore_objectives(["rloo"], N=16, K=4)
    shown.N.value = 32
    assert (shown.K.value, shown.K.max) == (8, 32)
    assert len(trace(shown, "rloo", "scale").x) == 32
    shown.N.value = 2
    assert shown.K.value == shown.K.max / 4 or shown.K.value == 0


def test_k_moves_the_mark_and_the_table():
    shown = explore_objectives(["rloo"], N=4, K=1)
    assert "+1.000" in shown.table.value
    shown.K.value = 2
    assert list(trace(shown, "chosen", "scale").x) == [2, 2]
    assert "+0.667" in shown.table.value and "−0.667" in shown.table.value


def test_the_metric_names_its_best_alpha():
    shown = explore_objectives(["rloo"])
    rates = numbers.success_rates(0.33, 0.45)
    for metric in ("pass@1", "log p"):
        shown.metric.value = metric
        best = analysis.best_alpha(metric, rates, 16)
        assert f"<b>{best:.2f}</b>" in shown.table.value
    shown.metric.value = "pass@64"
    assert "an end of the range" in shown.table.value


def test_dragging_handles_redraws_only_that_objective(monkeypatch):
    shown = explore_objectives(["rloo", "bernstein"])
    seen = []
    fill = numbers.fill
    monkeypatch.setattr(numbers, "fill", lambda *a, **k: seen.append(k["changed"]) or fill(*a, **k))
    shown.choices["bernstein"].inputs["beta"].live = [4.0, 0.0, 0.0, 0.0]
    assert seen == [["bernstein"]]
    assert trace(shown, "bernstein", "weight").y[0] == 4.0


def test_a_group_too_small_for_a_row_is_said_and_the_others_stay():
    shown = explore_objectives(["rloo", "pkpo"], N=4)
    assert re.search("wb-warn.*pkpo.* needs .*8.*N is 4", shown.table.value)
    assert "<b>rloo</b>" in shown.table.value


def test_linear_and_logarithmic():
    shown = explore_objectives(["rloo"])
    assert shown.figure.layout.yaxis3.type == "log"
    shown.log.value = False
    assert shown.figure.layout.yaxis3.type == "linear"


def test_what_cannot_be_drawn_cannot_be_ticked_and_a_wrong_name_is_refused():
    assert explore_objectives().choices["differential_smoothing"].tick.disabled
    with pytest.raises(WorkbenchError, match="Unknown objective 'grop'"):
        explore_objectives(["grop"])


def test_a_drawing_gives_the_arguments_of_a_recipe():
    drawing = draw_objective([1.0, 2.0, 0.5])
    drawing.handles.handles.value = [4.0, 0.0, 0.0, 0.0]
    recipe = Recipe(objective="bernstein", objective_args=drawing.arguments)
    assert recipe.objective_args == {"beta": [4.0, 0.0, 0.0, 0.0], "estimator": "zero_sum"}
    assert drawing.preview.root.value.count("<svg") == 4
    before = drawing.preview.root.value
    drawing.handles.handles.live = [4.0, 2.0, 0.0, 0.0]
    assert drawing.preview.root.value != before and drawing.beta == [4.0, 0.0, 0.0, 0.0]
