"""The file of a claim: merged by several writers, kept for what it was measured with."""

import multiprocessing
import re

import numpy as np
import pytest

from workbench.claims import book, results
from workbench.claims.book import Book, Near
from workbench.claims.plan import claim_from
from workbench.variants import WorkbenchError

ARMS = {"a": {"objective": "rloo"}, "b": {"objective": "maxrl", "note": "about b"}}


def a_claim(**changes):
    recipe = {"steps": 2} | changes
    return claim_from("toy", {"recipe": recipe, "arms": ARMS, "compare": [["a", "b"]]})


def opened(path, claim=None, fresh=False):
    claim = claim or a_claim()
    return Book(path, claim, "abc", fresh), claim


def begin(path, claim=None, successes=(1, 0)):
    kept, claim = opened(path, claim)
    kept.set_base({"pass@1": 0.5}, np.array(successes))
    return kept, claim


def cell(seed, value=0.5):
    return {"seed": seed, "metrics": {"pass@1": value}, "seconds": 1.0, "threads": 1}


def write_many(path, arm):
    kept, claim = opened(path)
    for seed in range(20):
        kept.add_cell(claim.recipe_of(arm), arm, cell(seed))


def test_two_writers_lose_none_of_each_other_s_cells(tmp_path):
    path = tmp_path / "toy.json"
    begin(path)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, arm)) for arm in ("b", "a")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = results.read(path)
    assert list(found["arms"]) == ["a", "b"]  # in the claim's order, whoever came first
    for arm in "ab":
        assert [kept["seed"] for kept in found["arms"][arm]["cells"]] == list(range(20))
    assert found["differences"][0]["seeds"] == list(range(20))
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_known_by_its_recipe_and_seed(tmp_path):
    kept, claim = begin(tmp_path / "toy.json")
    recipe = claim.recipe_of("a")
    assert not kept.has(recipe, "a", 0)
    kept.add_cell(recipe, "a", cell(0))
    again, _ = opened(kept.path)
    assert again.has(recipe, "a", 0)
    assert not again.has(recipe, "a", 1)
    assert not again.has(recipe.replace(learning_rate=0.1), "a", 0)
    anew, _ = opened(kept.path, fresh=True)
    assert not anew.has(recipe, "a", 0)
    anew.add_cell(recipe, "a", cell(0, 0.9))
    assert anew.has(recipe, "a", 0)
    assert results.cells_of(results.read(kept.path), "a") == {0: {"pass@1": 0.9}}


def test_cells_of_another_recipe_of_the_arm_are_dropped(tmp_path):
    kept, claim = begin(tmp_path / "toy.json")
    kept.add_cell(claim.recipe_of("a"), "a", cell(0))
    kept.add_cell(claim.recipe_of("b"), "b", cell(0))
    other, changed = opened(kept.path, a_claim(learning_rate=0.1))
    other.add_cell(changed.recipe_of("a"), "a", cell(1))
    found = results.read(kept.path)
    assert set(results.cells_of(found, "a")) == {1}
    assert set(results.cells_of(found, "b")) == {0}
    assert found["arms"]["b"]["note"] == "about b"


def test_another_base_is_refused_unless_fresh(tmp_path):
    kept, claim = begin(tmp_path / "toy.json")
    kept.add_cell(claim.recipe_of("a"), "a", cell(0))
    with pytest.raises(
        WorkbenchError, match=r"another base, task or evaluation; give another --out"
    ):
        opened(kept.path, a_claim(model="tiny-weak"))
    fresh, _ = opened(kept.path, a_claim(model="tiny-weak"), fresh=True)
    assert fresh.base() == (None, set())
    fresh.set_base({"pass@1": 0.1}, np.array([0, 0]))
    found = results.read(kept.path)
    assert (found["base"]["model"], found["arms"]) == ("tiny-weak", {})


def test_the_base_and_its_resamples_are_kept(tmp_path):
    kept, _ = begin(tmp_path / "toy.json", successes=(3, 0, 5))
    kept.add_base_cell(4, {"pass@1": 0.4})
    again, _ = opened(kept.path)
    successes_P, seeds = again.base()
    assert (successes_P.tolist(), seeds) == ([3, 0, 5], {4})
    kept.set_base({"pass@1": 0.5}, np.array([3, 0, 5]))  # a second process, the same base
    assert again.base()[1] == {4}


def test_a_file_that_is_no_result_is_left_alone(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text('{"mine": 1}')
    with pytest.raises(WorkbenchError, match="give another --out"):
        opened(path)
    assert path.read_text() == '{"mine": 1}'


def test_the_commit_is_named_or_the_version(monkeypatch):
    assert re.fullmatch(r"[\w.-]+(\+changes)?", book.commit())
    monkeypatch.setattr(book, "in_checkout", lambda: False)
    assert re.match(r"\d+\.\d+", book.commit())


def test_the_header_says_what_it_was_measured_with(tmp_path):
    kept, _ = begin(tmp_path / "toy.json")
    found = results.read(kept.path)
    assert set(found["versions"]) == {"workbench", "python", "torch", "transformers"}
    assert (found["commit"], found["name"], found["threads"]) == ("abc", "toy", 1)


def probed(path):
    """A file with two cells that have probes, and what was read of it."""
    kept, claim = begin(path)
    for seed in (0, 1):
        kept.add_cell(claim.recipe_of("a"), "a", cell(seed) | {"probes": {"step": [0, 3]}})
    return kept, claim, results.read(path)


NEAR = {("a", 0): Near("mark", [[1.0, 2.0], [3.0, 4.0]])}


def test_what_was_judged_is_written_beside_the_cells(tmp_path):
    kept, claim, seen = probed(tmp_path / "toy.json")
    later = Book(kept.path, claim, "def")
    assert later.set_geometry(seen, NEAR, {"runs": 1})
    found = results.read(kept.path)
    assert found["geometry"] == {"runs": 1}
    first, second = found["arms"]["a"]["cells"]
    assert first["probes"] == {"step": [0, 3], "near": [[1.0, 2.0], [3.0, 4.0]]}
    assert first["centres"] == "mark"
    assert second == seen["arms"]["a"]["cells"][1]
    assert found["commit"] == "abc"  # what measured the cells, not what judged them
    assert later.set_geometry(found, NEAR, {"runs": 2})
    assert results.read(kept.path)["geometry"] == {"runs": 2}


def test_what_was_judged_of_other_cells_is_not_written(tmp_path):
    kept, claim, seen = probed(tmp_path / "toy.json")
    kept.add_cell(claim.recipe_of("b"), "b", cell(0))
    assert not kept.set_geometry(seen, NEAR, {"runs": 1})
    found = results.read(kept.path)
    assert "geometry" not in found
    assert found["arms"]["a"]["cells"][0]["centres"] == "mark"  # true whatever else there is

    again = cell(0) | {"probes": {"step": [0, 6]}}
    kept.add_cell(claim.recipe_of("a"), "a", again)
    assert not kept.set_geometry(seen, NEAR, {"runs": 1})
    assert "near" not in results.read(kept.path)["arms"]["a"]["cells"][0]["probes"]


def test_a_cell_or_another_base_drops_what_was_judged(tmp_path):
    kept, claim, _ = probed(tmp_path / "toy.json")
    for change in (
        lambda: kept.add_cell(claim.recipe_of("b"), "b", cell(0)),
        lambda: kept.set_base({"pass@1": 0.4}, np.array([0, 1])),
    ):
        assert kept.set_geometry(results.read(kept.path), {}, {"runs": 1})
        kept.add_base_cell(9, {"pass@1": 0.4})  # the base's noise is not judged
        assert "geometry" in results.read(kept.path)
        change()
        assert "geometry" not in results.read(kept.path)
