"""Runs side by side, by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from workbench import comparing
from workbench.recipe import Recipe


def a_run(name, metrics, recipe=None, status="finished", tags=()):
    table = pd.DataFrame(metrics).set_index("step") if metrics else pd.DataFrame()
    recipe = recipe or Recipe()
    step = int(table.index[-1]) if len(table) else 0
    return SimpleNamespace(
        name=name, recipe=recipe, metrics=table, status=status, tags=tags,
        progress={"step": step, "steps": recipe.steps},
    )  # fmt: skip


def rows(values, ks=(1, 16), **more):
    """One row a step; None is a step without an evaluation. pass@k is value + k / 100, +- 0.05."""
    found = []
    for step, value in enumerate(values):
        row = {"step": step} | {name: column[step] for name, column in more.items()}
        for k in ks if value is not None else ():
            at = value + k / 100
            row |= {
                f"eval/pass@{k}": at,
                f"eval/pass@{k}/low": at - 0.05,
                f"eval/pass@{k}/high": at + 0.05,
            }
        found.append(row)
    return found


def test_final_and_best_with_their_intervals():
    entropy = {"train/entropy": [None, 2.0, 1.5], "rollout/length": [None, 9.0, 8.0]}
    table = comparing.table([a_run("a", rows([0.2, 0.5, 0.4], **entropy), tags=("x", "y"))])
    (row,) = table.to_dict("records")
    assert (row["run"], row["status"], row["step"], row["steps"]) == ("a", "finished", 2, 100)
    assert row["tags"] == "x, y"
    assert row["pass@1"] == pytest.approx(0.41) and row["best pass@1"] == pytest.approx(0.51)
    assert row["best pass@1/step"] == 1
    assert (row["pass@16/low"], row["best pass@16/high"]) == pytest.approx((0.51, 0.71))
    assert (row["entropy"], row["length"]) == (1.5, 8.0) and math.isnan(row["KL"])


def test_only_differing_fields_are_columns_and_those_of_dicts_apart():
    recipe = Recipe(objective="rl2ml", objective_args={"alpha": 1.0}, seed=1)
    other = recipe.replace(objective_args={"alpha": 2.0}, rewards={"correct": 1.0, "format": 0.0})
    table = comparing.table([a_run("a", [], recipe), a_run("b", [], other)])
    fields = list(table.columns)[1 : list(table.columns).index("status")]
    assert fields == ["rewards.length", "objective_args.alpha"]
    assert table["objective_args.alpha"].tolist() == [1.0, 2.0]
    assert table["rewards.length"][0] == 0.0 and pd.isna(table["rewards.length"][1])
    assert "seed" not in comparing.table([a_run("a", [], recipe)])
    seeds = comparing.table([a_run("a", [], recipe), a_run("b", [], recipe.replace(seed=2))])
    assert seeds["seed"].tolist() == [1, 2]


def test_a_dict_within_a_dict_is_taken_apart_as_well():
    values = {"reward_args": {"learned": {"reward_model": "x"}}, "beta": 0.0, "task_args": {}}
    assert comparing.flattened(values) == {"reward_args.learned.reward_model": "x", "beta": 0.0}


def test_the_greatest_k_is_one_that_all_have():
    runs = [
        a_run("a", rows([0.1], ks=(1, 4, 64))),
        a_run("b", rows([0.3], ks=(1, 4, 16))),
        a_run("never evaluated", rows([None, None])),
        a_run("no step", []),
    ]
    table = comparing.table(runs)
    assert [c for c in table if c.startswith("pass@") and "/" not in c] == ["pass@1", "pass@4"]
    assert np.isnan(table["pass@4"][2]) and np.isnan(table["best pass@1/step"][3])
    assert comparing.shared_ks([run.metrics for run in runs[2:]]) == []


def test_nothing_to_compare_is_an_empty_table():
    assert comparing.table([]).empty


def test_values_as_text():
    assert comparing.between(0.4234, 0.3712, 0.4796) == "0.423 [0.371, 0.480]"
    assert comparing.between(0.5, math.nan, math.nan) == "0.500"
    assert comparing.between(math.nan, 0.1, 0.2) == "–"
    assert [comparing.plain(v) for v in (None, math.nan, 0.10, 2, "rloo")] == [
        "–",
        "–",
        "0.1",
        "2",
        "rloo",
    ]


def test_rows_of_texts_as_html_are_escaped_and_a_short_one_fills_its_row():
    rows = [["<b>a</b>", "ok", "1"], ["b", "long & <i>"]]
    text = comparing.html_table(["name", "is", "x"], rows)
    assert "<b>" not in text and "<i>" not in text and "&lt;b&gt;a" in text and "long &amp;" in text
    assert text.count("nowrap") == 4 and text.count('colspan="2"') == 1


def test_rows_of_texts_as_lines():
    rows = [["a", "1", "x"], ["longer", "a sentence that needs room"], ["b", "", "y"]]
    assert comparing.aligned(["name", "n", "m"], rows).splitlines() == [
        "name    n  m",
        "a       1  x",
        "longer  a sentence that needs room",
        "b          y",
    ]
    assert comparing.aligned(["name"], []) == "name"
