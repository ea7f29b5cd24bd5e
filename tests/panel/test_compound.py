"""A number or a word, and a list of numbers: both act as one widget."""

import pytest

from workbench.panel import compound
from workbench.panel.compound import NumberList, NumberOrWord, numbers
from workbench.panel.inputs import parameter, read, read_live
from workbench.variants import Param, WorkbenchError

ALPHA = Param("alpha", 1.0, "Which.", low=-0.9, high=4.0, words=("auto",))
BETA = Param("beta", (3.0, 1.5, 1.0), "Handles.")


def seen(widget, name="value"):
    found = []
    widget.observe(lambda change: found.append(change["new"]), name)
    return found


def test_a_word_is_the_value_while_its_toggle_is_pressed():
    widget = parameter(ALPHA, 2.0)
    assert isinstance(widget, NumberOrWord) and read(widget) == 2.0
    changes = seen(widget)
    widget.words["auto"].value = True
    assert read(widget) == "auto" and read_live(widget) == 2.0
    widget.words["auto"].value = False
    widget.number.value = 3.0
    assert changes == ["auto", 2.0, 3.0]


def test_moving_the_number_lifts_the_word():
    widget = parameter(ALPHA, "auto")
    assert widget.words["auto"].value and read(widget) == "auto"
    widget.number.value = 0.5
    assert read(widget) == 0.5 and not widget.words["auto"].value


def test_a_default_that_is_a_word_has_a_number_in_its_range():
    widget = parameter(Param("x", "free", "X.", low=2.0, high=3.0, words=("free",)), "free")
    assert read(widget) == "free" and widget.number.value == 2.0


def test_disabling_and_tooltips_reach_the_parts_and_no_tooltip_the_page():
    for widget in (parameter(ALPHA, 1.0), parameter(BETA, [1.0])):
        widget.disabled, widget.tooltip = True, "Fixed."
        parts = [p for p in widget.children if hasattr(p, "disabled")]
        assert len(parts) == 2 and all(part.disabled for part in parts)
        assert "Fixed." in (getattr(widget, "number", None) or widget.text).tooltip
        assert "tooltip" not in widget.get_state()  # a box with one fails to show in JupyterLab


def test_a_drag_is_live_at_once_and_counts_when_let_go():
    widget = parameter(BETA, BETA.default)
    values, live = seen(widget), seen(widget, "live")
    widget.handles.live = [3.0, 2.0, 1.0]
    assert read(widget) == [3.0, 1.5, 1.0] and read_live(widget) == [3.0, 2.0, 1.0]
    assert values == [] and live == [[3.0, 2.0, 1.0]]
    widget.handles.value = [3.0, 2.5, 1.0]
    assert values == [[3.0, 2.5, 1.0]] and widget.text.value == "3, 2.5, 1"
    assert live[-1] == [3.0, 2.5, 1.0]


def test_a_typed_list_moves_the_handles():
    widget = parameter(BETA, BETA.default)
    widget.text.value = "2 -0.5; 1,0"
    assert read(widget) == widget.handles.value == widget.handles.live == [2.0, -0.5, 1.0, 0.0]
    assert widget.text.value == "2, -0.5, 1, 0"


def test_a_wrong_text_is_told_and_the_value_stays():
    widget = parameter(BETA, BETA.default)
    for text in ("1, <b>", "", "nan", "1, inf"):
        widget.text.value = text
        assert read(widget) == [3.0, 1.5, 1.0]
        assert widget.error.layout.display == "" and "separated by commas" in widget.error.value
        assert "<b>" not in widget.error.value
    widget.text.value = "1, 2"
    assert read(widget) == [1.0, 2.0] and widget.error.layout.display == "none"


def test_without_anywidget_the_text_alone_does_it(monkeypatch):
    monkeypatch.setattr(compound, "missing", lambda: "none here")
    widget = NumberList("beta", [1.0, 2.0], "Handles.")
    widget.text.value = "4, 5"
    assert widget.handles is None and read(widget) == read_live(widget) == [4.0, 5.0]


def test_numbers():
    assert numbers(" 1e-1,2 ;3 ") == [0.1, 2.0, 3.0]
    with pytest.raises(WorkbenchError, match="'x' is not a list of numbers"):
        numbers("x")
