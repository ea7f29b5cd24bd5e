"""Shipped files are found in the checkout and in an installed package."""

from pathlib import Path

import pytest

from workbench import packaged
from workbench.variants import WorkbenchError


def test_the_checkout_serves_its_own_folders():
    assert packaged.in_checkout()
    assert packaged.data_path("tasks", "gsm8k.sample.jsonl").is_file()
    assert packaged.notebooks_path().name == "notebooks"


def test_an_installed_package_serves_its_copies(tmp_path, monkeypatch):
    (tmp_path / "_data" / "tasks").mkdir(parents=True)
    (tmp_path / "_notebooks").mkdir()
    monkeypatch.setattr(packaged, "PACKAGE", tmp_path)
    assert packaged.data_path("tasks") == tmp_path / "_data" / "tasks"
    assert packaged.notebooks_path() == tmp_path / "_notebooks"


def test_a_missing_file_is_one_sentence():
    with pytest.raises(WorkbenchError, match=r"data/models/tiny-huge is missing; install"):
        packaged.data_path("models", "tiny-huge")


def test_a_recipe_is_found_by_its_name_or_path(tmp_path):
    found = packaged.recipe_path("gsm8k-qwen2.5-0.5b")
    assert found == packaged.data_path("recipes", "gsm8k-qwen2.5-0.5b.yaml")
    for path in ("mine.yaml", "some/where", str(tmp_path)):
        assert packaged.recipe_path(path) == Path(path)
    own = tmp_path / "gsm8k"
    own.write_text("steps: 1")
    assert packaged.recipe_path(str(own)) == own


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(WorkbenchError, match=r"gsm8k-qwen2\.5-1\.5b.*Or give a YAML file"):
        packaged.recipe_path("gsm8k-qwen25-1.5b")
