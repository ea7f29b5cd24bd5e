"""Notebooks are stored without outputs, execution counts and widget state."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def dirt(notebook):
    """What a stored notebook must not carry, in words."""
    found = ["widget state"] if "widgets" in notebook["metadata"] else []
    for number, cell in enumerate(notebook["cells"]):
        if cell.get("outputs"):
            found.append(f"outputs in cell {number}")
        if cell.get("execution_count") is not None:
            found.append(f"an execution count in cell {number}")
    return found


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_clean(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert dirt(notebook) == []


def test_dirt_is_seen():
    cell = {"cell_type": "code", "source": "1", "outputs": [{}], "execution_count": 3}
    notebook = {"metadata": {"widgets": {}}, "cells": [{"cell_type": "markdown"}, cell]}
    assert dirt(notebook) == [
        "widget state",
        "outputs in cell 1",
        "an execution count in cell 1",
    ]
