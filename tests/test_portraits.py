"""The figures hold the numbers they claim to, and text of a model stays text."""

import numpy as np
import pytest

from workbench import categorical as cat
from workbench import portraits

WORLD = cat.make_world(answers=6, right=2)
BETAS = (0.2, 0.5)


def test_every_row_shows_its_optimum_beside_what_it_reached():
    figure = portraits.worlds_figure(WORLD, BETAS, rows=("k2", "sage"), steps=20)
    assert len(figure.data) == 2 * (2 * len(BETAS) + 1)
    shown = [trace for trace in figure.data if trace.visible is not False]
    assert [trace.type for trace in shown] == ["scatter" if i % 3 else "bar" for i in range(6)]
    reached = cat.train("k2", WORLD, 0.5, steps=20)[-1]
    np.testing.assert_allclose(shown[0].customdata, reached)
    np.testing.assert_allclose(shown[1].y, cat.optimum("k2", WORLD, 0.5))
    np.testing.assert_allclose(shown[4].y, cat.optimum("sage", WORLD, 0.5))


def test_the_slider_shows_one_beta_at_a_time():
    figure = portraits.worlds_figure(WORLD, BETAS, rows=("k2", "sage"), steps=5)
    slider = figure.layout.sliders[0]
    opened = [trace.visible is not False for trace in figure.data]
    assert list(slider.steps[slider.active].args[0]["visible"]) == opened
    first = list(slider.steps[0].args[0]["visible"])
    assert first == [True, True, False, False, True] * 2
    assert [step.label for step in slider.steps] == ["0.2", "0.5"]


def test_paths_end_where_training_ends():
    figure = portraits.plane_figure(WORLD, 0.5, rows=("k3",), k=8, draws=4, steps=30, seeds=2)
    reached = cat.train("k3", WORLD, 0.5, steps=30)[-1]
    assert figure.data[0].x[-1] == pytest.approx(cat.accuracy(reached, WORLD))
    assert figure.data[0].y[-1] == pytest.approx(cat.coverage(reached, WORLD, 8))
    assert figure.data[0].x[0] == pytest.approx(cat.accuracy(WORLD.reference_A, WORLD))
    assert [trace.xaxis for trace in figure.data[:3]] == ["x", "x2", "x2"]
    best = cat.optimum("k3", WORLD, 0.5)
    assert figure.data[3].x[0] == pytest.approx(cat.accuracy(best, WORLD))


def test_the_zoo_draws_every_estimator_and_its_errors():
    figure = portraits.zoo_figure(WORLD.tilted_A, WORLD.reference_A, draws=16)
    found = cat.zoo(WORLD.tilted_A, WORLD.reference_A)
    bars = {trace.name: trace.y for trace in figure.data if trace.type == "bar"}
    assert list(bars["in the loss"]) == pytest.approx([one.loss_slip for one in found])
    assert list(bars["in the reward"]) == pytest.approx([one.reward_slip for one in found])
    violins = [trace for trace in figure.data if trace.type == "violin"]
    assert np.mean(violins[1].y) == pytest.approx(found[1].bias, abs=0.01)
    line = figure.data[0]
    assert line.name == "k1" and line.y[0] == pytest.approx(3)  # -d


def test_tokens_are_shaded_by_their_distance_from_the_centre():
    text = portraits.tokens_html(
        ["a", "b", "c"],
        {"entropy": [0.0, 0.5, 1.0], "q": [1.0, 1.1, 0.2]},
        scales={"q": (1.0, 0.4)},
    )
    entropy, q = text.split("<tr>")[1:]
    assert "213,94,0,0.00" in entropy and "213,94,0,0.38" in entropy and "213,94,0,0.75" in entropy
    assert "213,94,0,0.19" in q and "0,114,178,0.75" in q
    assert "0.200 to 1.100" in q


def test_model_text_is_escaped_wherever_it_stands():
    nasty = '<script>alert("x")</script>\n'
    text = portraits.tokens_html([nasty, "'\"><b>"], {"<i>line</i>": [1.0, 2.0]})
    assert "<script" not in text and "<b>" not in text and "<i>" not in text
    assert "&lt;script&gt;" in text and "↵" in text


def test_no_tokens_give_an_empty_table():
    assert "<span" not in portraits.tokens_html([], {"q": []})
