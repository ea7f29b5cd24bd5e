"""The tables show what was judged, and say what it is."""

import copy

import pytest

from workbench.claims import geometry_table
from workbench.claims.results import write
from workbench.variants import WorkbenchError


def lines_of(text, start):
    return [line.split() for line in text.splitlines() if line.startswith(start)]


def test_verdicts_by_arm_and_warnings_by_fence(judged):
    text = geometry_table(judged)
    assert "5 runs beside the reference (good seed 5, good seed 6, good seed 7)" in text
    assert "2 of them drop" in text and "which is at step 12" in text
    assert lines_of(text, "fall ") == [["fall", "2", "2", "-", "1", "1", "-", "-"]] * 2
    votes = lines_of(text, "envelope: votes")
    at_half = votes[1]
    assert at_half[2:7] == ["0.5", "2/2", "(0)", "1/3", "(1)"]
    assert at_half[7:] == ["60%", "12", "[10.5,", "13.5]", "12", "1/0/1/0"]
    assert votes[3][2:] == [
        "0.83",
        "0.83",
        "0/3",
        "1/2",
        "4.5",
        "0/0/1/1",
        "0/3",
        "1/2",
        "4.5",
        "0/0/1/1",
    ]
    assert lines_of(text, "envelope: accuracy")[0][2:4] == ["(sees", "labels)"]
    assert max(map(len, text.splitlines())) < 140


def test_it_is_found_by_path_as_well(judged, tmp_path):
    write(tmp_path / "toy.json", judged)
    assert geometry_table(tmp_path / "toy.json") == geometry_table(judged)


@pytest.mark.parametrize(
    ("drops", "message"),
    [(0, "No run drops: leads and detection"), (5, "Every run drops: false alarms")],
)
def test_what_can_t_be_judged_is_said(judged, drops, message):
    changed = copy.deepcopy(judged)
    changed["geometry"]["drops"] = drops
    assert message in geometry_table(changed)
    assert message not in geometry_table(judged)


def test_a_claim_that_is_not_judged_is_told():
    with pytest.raises(WorkbenchError, match=r"not judged yet; run: workbench claims toy"):
        geometry_table({"name": "toy"})
