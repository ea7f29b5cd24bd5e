"""Where live figures can't be shown: chosen by itself, said, and updated in place."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from workbench.panel import fallback
from workbench.panel.fallback import TableCurves, sparkline

METRICS = pd.DataFrame(
    {"train/entropy": [4.0, 3.0], "reward/correct": [0.1, 0.2], "eval/pass@1": [0.3, 0.4]},
    index=pd.Index([1, 2], name="step"),
)


def events(*texts):
    rows = [{"step": 2, "time": 0.0, "kind": "update", "text": t, "changes": {}} for t in texts]
    return pd.DataFrame(rows, columns=["step", "time", "kind", "text", "changes"])


def test_it_updates_in_place_and_escapes(hostile):
    table = TableCurves("Install <anywidget>.")
    assert "&lt;anywidget&gt;" in table.root.value and "<table" not in table.root.value
    root = table.root
    assert table.draw([(hostile, METRICS, events(hostile))]) == 3
    assert table.root is root and "4.000" in root.value and "<script" not in root.value
    assert root.value.count("<svg") == 3  # entropy, the reward and pass@1


def test_changes_are_listed_newest_last():
    table = TableCurves("no")
    table.draw([("a", METRICS, events(*(f"beta {n}" for n in range(30))))])
    assert "beta 29" in table.root.value and "beta 17<" not in table.root.value
    assert table.root.value.index("beta 18") < table.root.value.index("beta 29")


def test_constraints_and_cross_generation_have_lines_too():
    metrics = METRICS.assign(**{"constraints/hard": 0.5, "eval/post_pre": 0.25})
    text = "".join(fallback.rows_of("a", metrics))
    assert "constraints/hard" in text and "post_pre" in text


def test_a_sparkline_spans_its_box():
    assert 'points="1.0,23.0 179.0,1.0"' in sparkline(np.array([2.0, 4.0]))
    assert "nan" not in sparkline(np.array([3.0]))


def test_without_anywidget_a_sentence_says_what_to_install(monkeypatch):
    assert fallback.missing() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install anywidget" in fallback.missing()


def test_colab_is_told_by_its_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert "looks like Colab" in fallback.missing()


@pytest.mark.parametrize(
    ("names", "said"), [({"__vsc_ipynb_file__": "x.ipynb"}, True), ({}, False)]
)
def test_vs_code_is_told_by_the_name_that_it_leaves(monkeypatch, names, said):
    shell = SimpleNamespace(user_ns=names)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert ("looks like VS Code" in (fallback.missing() or "")) is said
