"""The heat map is read from the figure's data; nothing is compared by its pixels."""

import numpy as np
import pytest

from workbench.crossmap import INK, NONE, OTHER, heat_map, told

MEAN = np.array([[0.25, 0.5], [0.75, 0.625], [0.125, 0.1], [0.2, 0.15]])
NAMES = ("initial", "trained", NONE, OTHER)


def drawn(thinkers=NAMES, answerers=("weak", "strong"), mean=MEAN, **settings):
    return heat_map(thinkers, answerers, mean, mean - 0.05, mean + 0.05, **settings)


def test_every_cell_has_its_value_and_its_interval():
    figure = drawn(score="accuracy")
    (trace,) = figure.data
    np.testing.assert_array_equal(trace.z, MEAN)
    assert trace.text[1][0] == '<b>0.75</b><br><span style="font-size:10px">[0.70, 0.80]</span>'
    assert (trace.zmin, trace.zmax) == (0.1, 0.75)
    assert trace.colorbar.title.text == "accuracy"
    assert figure.layout.title.text and figure.layout.xaxis.title.text == "answers"
    assert figure.layout.xaxis.ticktext == ("weak", "strong")
    assert figure.layout.yaxis.ticktext == NAMES
    assert figure.layout.yaxis.title.text == "thinks"


def test_the_pointer_is_told_in_words():
    (trace,) = drawn().data
    said = "<b>initial</b> thinks, <b>strong</b> answers<br>0.50 on average; 95 % interval 0.45 to 0.55"
    assert trace.customdata[0][1] == said
    assert trace.customdata[2][0].startswith("<b>no thought</b>, <b>weak</b> answers")
    assert told(OTHER, "b", 1, 1, 1).startswith("<b>a thought of another question</b>, ")


def test_a_line_parts_the_controls_from_the_thinkers():
    (line,) = drawn().layout.shapes
    assert (line.y0, line.y1) == (1.5, 1.5)
    assert not drawn(("a", "b", "c", "d")).layout.shapes


def test_names_are_escaped_wherever_they_stand():
    hostile = "<img src=x onerror=alert(1)>"
    figure = drawn((hostile, *NAMES[1:]), (hostile, "b"), score=hostile)
    assert "<img" not in figure.to_json()
    shown = figure.layout.xaxis.ticktext[0], figure.layout.yaxis.ticktext[0]
    assert all("&lt;img" in text for text in shown)
    assert "&lt;img src=x onerror=alert(1)&gt;" in figure.data[0].customdata[0][0]


def test_long_names_are_cut_in_the_middle_and_told_whole():
    name = "meta-llama/Llama-3.2-1B-Instruct-of-a-long-name"
    figure = drawn((name, *NAMES[1:]), (name, "tiny-strong"))
    assert figure.layout.yaxis.ticktext[0] == "meta-llama/Lla…-of-a-long-name"
    first, second = figure.layout.xaxis.ticktext[0].split("<br>")
    assert first + second == "meta-llama/Lla…-of-a-long-name"
    assert max(len(first), len(second)) <= 15
    assert name in figure.data[0].customdata[0][0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_text_follows_the_theme_and_the_colours_let_it_through(theme):
    figure = drawn(theme=theme)
    assert figure.data[0].textfont.color == figure.layout.font.color == INK[theme]
    (_, faint), (_, strong) = figure.data[0].colorscale
    assert faint.startswith("rgba(0,114,178,0.") and strong.startswith("rgba(0,114,178,0.")
    assert figure.layout.plot_bgcolor == figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_equal_scores_have_a_scale_and_more_models_more_room():
    (trace,) = drawn(mean=np.full((4, 2), 0.5)).data
    assert trace.zmin < trace.zmax
    many = drawn(NAMES, tuple("abcdefgh"), np.zeros((4, 8)))
    assert many.layout.width > drawn().layout.width
    assert many.data[0].text[0][0].startswith("<b>0.0000</b>")


@pytest.mark.parametrize(
    ("scale", "text"), [(1, "0.50"), (100, "50.0"), (1e4, "5000"), (0.01, "0.0050")]
)
def test_all_cells_have_the_decimals_that_the_largest_needs(scale, text):
    cell = drawn(mean=MEAN * scale).data[0].text[0][1]
    assert cell.startswith(f"<b>{text}</b>")
