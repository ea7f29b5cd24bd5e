"""From cells and traces to verdicts and warnings, on runs whose drops are known; nothing else is touched."""

import numpy as np
import pytest

from workbench import cli, references
from workbench.claims import judging, load, results
from workbench.claims.judging import judge, reference_file
from workbench.claims.measure import trace_file
from workbench.phase import ACCURACY, VOTE


@pytest.fixture
def said():
    return []


def test_every_run_but_the_reference_is_judged(judged):
    geometry = judged["geometry"]
    assert geometry["reference"]["runs"] == ["good seed 5", "good seed 6", "good seed 7"]
    rows = {(row["arm"], row["seed"]): row for row in geometry["verdicts"]}
    assert list(rows) == [("good", 0), ("fall", 0), ("fall", 1), ("calm", 0), ("calm", 1)]
    assert geometry["runs"] == 5
    # Smoothed accuracy at 39 is a third of the fall below its best.
    assert [row["drop"] for row in rows.values()] == [None, 39, 39, None, None]
    assert (geometry["drops"], geometry["first_warning"], geometry["too_early"]) == (2, 12, 0)
    # Outside from 24, 18 and the beginning on; burn-in ends at 6.
    left = [row[VOTE]["left_at"] for row in rows.values()]
    assert left == [None, 30, 24, 12, None]
    assert all(row[space]["held_out"] for row in rows.values() for space in (VOTE, ACCURACY))


def test_verdicts_keep_what_decided_and_are_counted_by_arm(judged):
    geometry = judged["geometry"]
    row = geometry["verdicts"][2]  # answers agree, accuracy is lost
    assert row[VOTE]["name"] == "exploration stagnation"
    assert row[VOTE]["numbers"]["accuracy"] == 0
    assert row[VOTE]["numbers"]["accuracy best"] == pytest.approx(0.6)
    for space, arms in geometry["counts"].items():
        names = [(each["arm"], each[space]["name"]) for each in geometry["verdicts"]]
        assert arms == {
            arm: {name: names.count((arm, name)) for _, name in names if (arm, name) in names}
            for arm in ("good", "fall", "calm")
        }


def test_the_distances_in_the_cells_are_those_of_their_responses(judged):
    """Constant series: 64 points at distance |a - b| along the diagonal are sqrt(64) |a - b| apart."""
    levels = np.array(judged["geometry"]["reference"]["centres"])
    cell = judged["arms"]["fall"]["cells"][0]
    near = np.array(cell["probes"]["near"])
    assert near.shape == (20, 3)
    wobble = np.array([-0.1, -0.05, 0.0, 0.05, 0.1])
    for row, entropy in ((0, 0.3), (19, 0.7)):
        expected = 8 * np.abs(entropy * (1 + wobble)[:, None] - levels).mean(0)
        assert near[row] == pytest.approx(expected, rel=1e-4)
    assert "near" not in judged["arms"]["good"]["cells"][1]["probes"]  # of the reference


def test_the_reference_is_saved_beside_the_file(measured, said):
    claim, path = measured
    judge(claim, path, say=said.append)
    kept = references.load(path.parent / "references" / "tiny-strong-countdown.json")
    assert list(kept.runs) == ["good seed 5", "good seed 6", "good seed 7"]
    assert kept.settings["task"] == "countdown"
    assert kept.settings["max_new_tokens"] == load(path)["geometry"]["settings"]["cap"]
    assert kept.about == "claim toy, arm good, seeds 5, 6, 7"
    other = path.parent / "elsewhere"
    judge(claim, path, folder=other, say=said.append)
    assert [file.name for file in other.iterdir()] == ["tiny-strong-countdown.json"]


def test_only_the_checkout_s_own_results_change_the_shipped_references(
    measured, tmp_path, monkeypatch
):
    claim, path = measured
    monkeypatch.setattr(judging.results, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(judging, "data_path", lambda: tmp_path / "data")
    name = "tiny-strong-countdown.json"
    assert reference_file(claim, path) == tmp_path / "data" / "references" / name
    assert reference_file(claim, tmp_path / "out" / "toy.json").parent.parent == tmp_path / "out"
    monkeypatch.setattr(judging, "in_checkout", lambda: False)
    assert reference_file(claim, path) == tmp_path / "references" / name


# ------------------------------------------------------------------ the file


def test_judging_keeps_cells_and_header(measured, said):
    claim, path = measured
    before = load(path)
    judge(claim, path, say=said.append)
    after = load(path)
    for holder in after["arms"].values():
        for cell in holder["cells"]:
            cell["probes"].pop("near", None)
            cell.pop("centres", None)
    after.pop("geometry")
    assert after == before


def test_a_second_time_writes_nothing_and_needs_no_traces_of_the_judged(measured, said):
    claim, path = measured
    judge(claim, path, say=said.append)
    assert said == ["5 runs: distances of their responses to the entropy centres"]
    text = path.read_text()
    for arm, seed in (("fall", 0), ("good", 0)):
        trace_file(path, arm, seed).unlink()
    judge(claim, path, say=said.append)
    assert len(said) == 1
    assert path.read_text() == text


def test_a_new_cell_drops_what_was_judged_without_it(measured, said, add_cell):
    claim, path = measured
    judge(claim, path, say=said.append)
    add_cell(claim, path, "calm", 1)
    found = load(path)
    assert "geometry" not in found
    assert "near" not in found["arms"]["calm"]["cells"][1]["probes"]
    assert "near" in found["arms"]["calm"]["cells"][0]["probes"]
    judge(claim, path, say=said.append)
    assert said[1:] == ["1 runs: distances of their responses to the entropy centres"]
    assert load(path)["geometry"]["runs"] == 5


def test_cells_that_another_process_adds_meanwhile_are_kept_and_judged(
    measured, said, add_cell, monkeypatch
):
    claim, path = measured
    real, calls = judging.geometry_of, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 1:
            add_cell(claim, path, "good", 1, judging.read_probes(trace_file(path, "calm", 1)))
        return real(*args)

    monkeypatch.setattr(judging, "geometry_of", interrupted)
    judge(claim, path, say=said.append)
    found = load(path)
    assert len(calls) == 2
    assert said[1].startswith("1 runs")  # the distances of the others were written the first time
    assert [cell["seed"] for cell in found["arms"]["good"]["cells"]] == [0, 1, 5, 6, 7]
    assert found["geometry"]["runs"] == 6


def test_other_centres_make_other_distances(measured, said, add_cell):
    claim, path = measured
    judge(claim, path, say=said.append)
    before = load(path)["arms"]["fall"]["cells"][0]
    louder = [
        trace.of(trace.step, trace.prompts_B, [e * 1.5 for e in trace.entropies], trace.ended_B,
                 trace.answers, trace.correct_B)
        for trace in judging.read_probes(trace_file(path, "good", 7))
    ]  # fmt: skip
    add_cell(claim, path, "good", 7, louder)
    judge(claim, path, say=said.append)
    after = load(path)["arms"]["fall"]["cells"][0]
    assert after["centres"] != before["centres"]
    assert after["probes"]["near"] != before["probes"]["near"]


# ------------------------------------------------------------------ what is missing


def test_a_claim_without_a_geometry_is_left_alone(said, tmp_path):
    from workbench.claims.plan import claim_from

    judge(claim_from("toy", {"arms": {"a": {}}}), tmp_path / "gone.json", say=said.append)
    assert said == []


def test_a_missing_reference_is_one_line(measured, said):
    claim, path = measured
    trace_file(path, "good", 6).unlink()
    before = path.read_text()
    judge(claim, path, say=said.append)
    (line,) = said
    assert line.startswith("Not judged: The reference lacks runs with probes (arm good, seeds 6)")
    assert path.read_text() == before
    assert not (path.parent / "references").exists()


def test_missing_traces_of_a_judged_run_are_one_line(measured, said):
    claim, path = measured
    trace_file(path, "fall", 1).unlink()
    judge(claim, path, say=said.append)
    (line,) = said
    assert line.startswith("Not judged: The traces of fall seed 1 are not in")
    assert "geometry" not in load(path)


def test_failed_cells_are_left_out(measured, said):
    claim, path = measured
    found = load(path)
    for arm, place in (("fall", 0), ("good", 1)):
        cell = found["arms"][arm]["cells"][place]
        del cell["metrics"], cell["probes"]
        cell["failed"] = "Step 2 has loss nan"
    results.write(path, found)
    judge(claim, path, say=said.append)
    geometry = load(path)["geometry"]
    assert geometry["reference"]["runs"] == ["good seed 6", "good seed 7"]
    assert [(row["arm"], row["seed"]) for row in geometry["verdicts"]] == [
        ("good", 0), ("fall", 1), ("calm", 0), ("calm", 1),
    ]  # fmt: skip


@pytest.mark.slow
def test_smoke_measures_judges_and_says_what_can_t_be(toy_world, tmp_path, capsys):
    """Three probes a run, whose accuracy may or may not move: no more than that it ends well."""
    command = ["claims", "intrinsic", "--smoke", "--base", toy_world, "--out"]
    assert cli.main([*command, str(tmp_path), "--arms", "supervised,collision"]) == 0
    printed = capsys.readouterr().out
    assert "Geometry: 2 runs beside the reference (supervised seed 5)" in printed
    assert "can't be judged" in printed  # with two runs, drops or false alarms or both
    assert "best/step" in printed
    assert load(tmp_path / "intrinsic.json")["geometry"]["runs"] == 2
    assert (tmp_path / "references" / "toy-model-arithmetic.json").is_file()
    assert cli.main([*command, str(tmp_path / "b"), "--arms", "collision"]) == 0
    assert "Not judged: The reference lacks runs" in capsys.readouterr().out
