"""Shipped files are found in the checkout and in an installed package."""

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
