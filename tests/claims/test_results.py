"""Means, intervals and paired differences by hand; the file and the table made of them."""

import json
import math

import pytest

from workbench.claims import results
from workbench.claims.results import cells_of, difference, interval, load, summarise, table
from workbench.variants import WorkbenchError


def cell(seed, **metrics):
    return {"seed": seed, "metrics": {"pass@1": 0.0, **metrics}}


@pytest.fixture
def result():
    found = {
        "name": "toy",
        "title": "A toy",
        "evaluation": {"prompts": 4, "samples": 8, "ks": [1, 8]},
        "compare": [["a", "b"], ["a", "base"], ["b", "c"]],
        "base": {"cells": [cell(0, **{"pass@1": 0.2}), cell(1, **{"pass@1": 0.4})]},
        "arms": {
            "a": {
                "recipe": {"objective": "rloo"},
                "cells": [
                    cell(0, **{"pass@1": 0.5, "kl": 0.1}),
                    cell(1, **{"pass@1": 0.7, "kl": 0.3}),
                    cell(2, **{"pass@1": 0.9, "kl": 0.2}),
                ],
            },
            "b": {
                "recipe": {"objective": "rl2ml", "objective_args": {"alpha": 2}},
                "cells": [
                    cell(1, **{"pass@1": 0.6, "kl": None}),
                    cell(2, **{"pass@1": 0.7, "kl": None}),
                    {"seed": 3, "failed": "Step 2 has loss nan"},
                ],
            },
        },
    }
    summarise(found)
    return found


def test_the_interval_is_student_s():
    """1, 2, 3: mean 2, deviation 1, t(2) = 4.3027, so 2 ± 4.3027 / sqrt(3)."""
    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == 2.0 - found["low"] == pytest.approx(4.302653 / math.sqrt(3))


def test_one_value_has_no_interval_and_unknown_ones_do_not_count():
    assert interval([0.5]) == {"mean": 0.5, "low": None, "high": None}
    assert interval([None, 0.5, float("nan")]) == interval([0.5])
    assert interval([None]) == {"mean": None, "low": None, "high": None}


def test_differences_pair_the_seeds_that_both_have(result):
    """Seeds 1 and 2 of a less b: 0.1 and 0.2; t(1) = 12.7062, deviation 0.0707."""
    found = difference(result, "a", "b")
    assert found["seeds"] == [1, 2]
    one = found["metrics"]["pass@1"]
    assert one["each"] == pytest.approx([0.1, 0.2])
    assert one["mean"] == pytest.approx(0.15)
    assert one["high"] - one["mean"] == pytest.approx(12.7062 * 0.05, rel=1e-4)
    assert "kl" not in found["metrics"]  # never known on both sides
    assert difference(result, "b", "a")["metrics"]["pass@1"]["mean"] == pytest.approx(-0.15)


def test_the_base_is_a_control_like_any_arm_and_missing_arms_are_left_out(result):
    pairs = [(pair["arm"], pair["control"], pair["seeds"]) for pair in result["differences"]]
    assert pairs == [("a", "b", [1, 2]), ("a", "base", [0, 1])]
    assert result["differences"][1]["metrics"]["pass@1"]["each"] == pytest.approx([0.3, 0.3])


def test_failed_cells_count_in_no_mean(result):
    assert set(cells_of(result, "b")) == {1, 2}
    assert result["arms"]["b"]["summary"]["pass@1"]["mean"] == pytest.approx(0.65)


def test_the_best_point_of_the_base_is_the_base(result):
    for value, made in zip((0.8, 0.9, 1.0), result["arms"]["a"]["cells"], strict=True):
        made["metrics"] |= {"best/pass@1": value, "best/step": 3}
    found = difference(result, "a", "base")["metrics"]
    assert found["best/pass@1"]["each"] == pytest.approx([0.8 - 0.2, 0.9 - 0.4])
    assert found["pass@1"]["each"] == pytest.approx([0.3, 0.3])
    assert "best/step" not in found


def test_the_table_shows_base_arms_seeds_failures_and_differences(result):
    lines = table(result).splitlines()
    (base,) = (line for line in lines if line.startswith("base") and "0.300" in line)
    assert base.split()[:2] == ["base", "2"]
    (arm,) = (line for line in lines if line.startswith("a  ") and "0.700" in line)
    assert "0.700 [0.203, 1.197]" in arm  # 0.7 ± 4.3027 * 0.2 / sqrt(3)
    assert "b seed 3: Step 2 has loss nan" in lines
    assert any(line.startswith("a - b") and "0.150" in line for line in lines)
    assert "a - b" not in table(result, differences=False)
    only = table(result, ["kl"], differences=False)
    assert "pass@1" not in only and "0.200" in only


def test_the_best_probe_has_columns_where_it_was_measured(result):
    """Seeds 0 to 2 of a: steps 10, 20, 60 in the mean 30."""
    assert "best/" not in table(result)
    for one, step in zip(result["arms"]["a"]["cells"], (10, 20, 60), strict=True):
        one["metrics"] |= {"best/pass@1": 0.8, "best/step": step}
    summarise(result)
    first, *_ = table(result).split("\n\n")[1:]
    head, base, arm, _ = (line.split() for line in first.splitlines())
    assert head == ["arm", "n", "pass@1", "best/pass@1", "best/step"]
    assert base[-2:] == ["-", "-"]
    assert arm[-3:] == ["30.0", "[-35.7,", "95.7]"]
    assert "best/" not in table(result, ["pass@1"])


def test_rounding_keeps_five_digits_and_json_stays_json():
    value = {"a": [1.23456789, float("nan")], "b": 7, "c": -0.000123456789, "d": True}
    assert results.rounded(value) == {"a": [1.2346, None], "b": 7, "c": -0.00012346, "d": True}


def test_the_file_is_read_as_written_and_short_for_people(result, tmp_path):
    path = tmp_path / "toy.json"
    results.write(path, result)
    assert load(path) == json.loads(path.read_text()) == results.rounded(result)
    assert list(tmp_path.iterdir()) == [path]
    (line,) = (line for line in path.read_text().splitlines() if '"seed": 3' in line)
    assert line.strip().startswith("{") and line.rstrip(",").endswith("}")
    assert max(map(len, path.read_text().splitlines())) < 140


def test_results_are_found_by_name(result, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "default_folder", lambda: tmp_path)
    results.write(tmp_path / "toy.json", result)
    assert load("toy")["title"] == "A toy"
    assert table("toy") == table(result)
    with pytest.raises(WorkbenchError, match="To measure it: workbench claims nosuchclaim"):
        load("nosuchclaim")
    with pytest.raises(WorkbenchError, match="workbench claims gone"):
        load(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(WorkbenchError, match=r"bad.json can't be read"):
        load(tmp_path / "bad.json")


def test_the_frame_has_a_row_for_each_cell(result):
    cells = results.frame(result)
    assert cells[["arm", "seed"]].to_records(index=False).tolist() == [
        ("base", 0), ("base", 1), ("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2),
    ]  # fmt: skip
