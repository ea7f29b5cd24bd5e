"""What a setting takes, and how a wrong value is told."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from workbench.fields import check_setting, setting, texts_of
from workbench.variants import WorkbenchError


@dataclass(frozen=True)
class Toy:
    """One setting of each kind."""

    count: int = setting(3, "Whole.", low=1, high=9)
    rate: float = setting(0.5, "Real.", above=0, high=1, live=True)
    kind: str = setting("a", "One of two.", choices=("a", "b"))
    text: str = setting("", "Any.")
    weights: dict[str, Any] = setting({"x": 1.0}, "Several.")


FIELDS = {field.name: field for field in dataclasses.fields(Toy)}


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 9), ("rate", 1), ("rate", 1e-9), ("kind", "b"), ("text", "any"), ("weights", {})],
)
def test_what_fits_is_taken(name, value):
    check_setting(FIELDS[name], value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("count", 0, "count is 0; give 1 to 9"),
        ("count", 2.0, "count is 2.0; give a whole number"),
        ("count", True, "count is True; give a number"),
        ("rate", 0, "rate is 0; give more than 0 and at most 1"),
        ("rate", float("nan"), "give a finite number"),
        ("rate", "1e-3", "in YAML write 0.001"),
        ("kind", "c", "Unknown kind 'c'; allowed: a, b"),
        ("text", 3, "text is 3; give a text"),
        ("weights", ["x"], "give a dictionary"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(name, value, told):
    with pytest.raises(WorkbenchError, match=told):
        check_setting(FIELDS[name], value)


def test_only_open_fields_take_functions():
    check_setting(FIELDS["text"], len, open=True)
    with pytest.raises(WorkbenchError, match="give a text"):
        check_setting(FIELDS["text"], len)


def test_defaults_are_not_shared_and_metadata_is_kept():
    assert Toy().weights == {"x": 1.0} and Toy().weights is not Toy().weights
    assert FIELDS["rate"].metadata["live"] and not FIELDS["count"].metadata["live"]
    assert FIELDS["count"].metadata["doc"] == "Whole."


@pytest.mark.parametrize(
    ("value", "texts"),
    [("", ()), ("User:", ("User:",)), ('["\\n\\n", "a, b"]', ("\n\n", "a, b")), ("[]", ())],
)
def test_a_field_may_hold_several_texts(value, texts):
    assert texts_of("stop", value) == texts


@pytest.mark.parametrize("value", ["[a", '[""]', "[1]"])
def test_texts_that_are_none_are_refused(value):
    with pytest.raises(WorkbenchError, match="stop is .*; give"):
        texts_of("stop", value)
