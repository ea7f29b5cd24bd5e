"""Rows of the tables and the messages of wrong names and values."""

import pytest

from workbench.variants import Param, Variant, WorkbenchError, lookup, unknown


def double(x, *, by=2):
    """Twice the input.

    More text.
    """
    return x * by


ROW = Variant(double, "2x", "arithmetic", (Param("by", 2, "factor", low=1, high=9),))


def test_a_row_is_called_like_its_function_and_shows_its_first_line():
    assert ROW(3) == 6
    assert ROW(3, by=3) == 9
    assert ROW.doc == "Twice the input."
    assert ROW.defaults == {"by": 2}


def test_a_text_without_choices_takes_any_text_that_says_something():
    param = Param("model", "reward-fair", "a name")
    param.check("learned", "owner/name")
    for wrong in ("", "  ", 3, True, None, ["a"]):
        with pytest.raises(WorkbenchError, match="learned.model is .*; give a text"):
            param.check("learned", wrong)
    with pytest.raises(WorkbenchError, match="give a number or 'auto'"):
        Param("alpha", "auto", "alpha", words=("auto",)).check("x", "many")


def test_bounds_may_depend_on_the_arguments():
    row = Variant(double, "2x", "arithmetic", ROW.params, bounds=lambda given: (0.0, given["by"]))
    assert (row.range_with({}), row.range_with({"by": 5})) == ((0.0, 2), (0.0, 5))
    assert ROW.range_with({}) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10, "double.by is 10; give 1 to 9."),
        (0, "double.by is 0; give 1 to 9."),
        (2.5, "double.by is 2.5; give a whole number."),
        ("2", "double.by is '2'; give a number."),
        (True, "double.by is True; give a number."),
    ],
)
def test_a_parameter_out_of_range_says_which_and_what_is_allowed(value, message):
    with pytest.raises(WorkbenchError) as caught:
        ROW.check("double", {"by": value})
    assert str(caught.value) == message


def test_non_finite_and_unknown_parameters_are_refused():
    row = Variant(double, "", "", (Param("x", 1.0, ""), Param("mode", "a", "", choices=("a", "b"))))
    with pytest.raises(WorkbenchError, match="x is nan; give a finite number"):
        row.check("row", {"x": float("nan")})
    with pytest.raises(WorkbenchError, match="Unknown row.mode 'c'; allowed: a, b."):
        row.check("row", {"mode": "c"})
    with pytest.raises(WorkbenchError, match="Unknown parameter of row 'mod'.*Did you mean 'mode'"):
        row.check("row", {"mod": "a"})
    row.check("row", {"x": 1, "mode": "b"})


def test_the_message_names_the_nearest_match_only_when_there_is_one():
    assert unknown("objective", "rlo", ["rloo", "grpo"]).endswith("Did you mean 'rloo'?")
    assert unknown("objective", "zzz", ["rloo"]) == "Unknown objective 'zzz'; allowed: rloo."
    assert lookup({"a": 1}, "thing", "a") == 1
