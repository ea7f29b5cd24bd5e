"""Rollouts and probes as tables: one row each, and back as they were."""

import numpy as np
import pandas as pd
import pytest

from workbench.folder import RunFolder
from workbench.probe import ProbeTrace
from workbench.tables import probe_table, read_probes, write_parquet
from workbench.trainer import prepare, train_step


@pytest.fixture
def kept(tmp_path):
    return RunFolder(tmp_path)


def probed(step=7, **changes):
    """Two prompts, two responses each, one of them without an answer."""
    given = {
        "prompts": [0, 0, 1, 1],
        "entropies": [[0.1, 2.5], [1 / 3], [0.0, 0.0, 4.0], [1e-9]],
        "ended": [True, False, True, True],
        "answers": ["12", None, "", "nan"],
        "correct": [1, 0, 0, 1],
    }
    return ProbeTrace.of(step, **given | changes)


def assert_same_trace(found, wanted):
    """Equal but for what 32 bits leave of the entropies."""
    found, wanted = found.to_dict(), wanted.to_dict()
    series, exact = found.pop("entropies"), wanted.pop("entropies")
    assert found == wanted
    assert series == [[float(np.float32(x)) for x in row] for row in exact]


@pytest.mark.parametrize(
    "changes",
    [{}, {"correct": None}, {"answers": [None] * 4}, {"lengths": [9, 8, 7, 6]}],
    ids=["all", "no labels", "no answers", "lengths"],
)
def test_a_probe_comes_back_as_it_was_written(kept, changes):
    file = kept.write_probe(probed(**changes))
    assert (file.parent.name, file.name) == ("probes", "000007.parquet")
    (found,) = read_probes(file)
    assert_same_trace(found, probed(**changes))


def test_a_probe_is_one_row_a_response(kept):
    table = pd.read_parquet(kept.write_probe(probed()))
    assert list(table) == [
        *("step", "prompts", "entropies", "ended", "answers", "correct", "lengths")
    ]
    assert table["step"].tolist() == [7] * 4
    assert table["lengths"].tolist() == [2, 1, 3, 1]
    assert table["entropies"][0].dtype == np.float32
    again = kept.write_probe(probed(ended=[True] * 4))  # the later one stands
    assert [file.name for file in again.parent.iterdir()] == ["000007.parquet"]
    assert read_probes(again)[0].ended_B.all()


def test_many_probes_fit_in_one_file_in_order_of_step(tmp_path):
    """Each keeps what it knows: the one without labels takes none from its neighbours."""
    traces = [probed(6), probed(0, correct=None), probed(3, answers=["1", "1", "2", None])]
    found = read_probes(write_parquet(probe_table(*traces), tmp_path / "a" / "all.parquet"))
    assert [trace.step for trace in found] == [0, 3, 6]
    for trace, wanted in zip(found, (traces[1], traces[2], traces[0]), strict=True):
        assert_same_trace(trace, wanted)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["all.parquet"]


def test_rollouts_are_one_row_a_completion(kept, toy_recipe):
    state = prepare(toy_recipe)
    train_step(state, toy_recipe)
    report = train_step(state, toy_recipe)
    table = pd.read_parquet(kept.write_rollouts(report, state))
    rollouts = report.rollouts
    assert len(table) == rollouts.B == 12
    assert table["prompt_index"].tolist() == [b // 4 for b in range(12)]
    assert table["completion"].tolist() == rollouts.completions
    assert table["advantage"].tolist() == pytest.approx(report.advantages_PG.flatten().tolist())
    added = state.policy.tokenizer.added_tokens_decoder.values()
    hidden = {str(token) for token in added if token.special}
    for row, length in zip(table.itertuples(), rollouts.lengths_B.tolist(), strict=True):
        assert len(row.tokens) == len(row.logprobs) == len(row.entropies) == length
        assert "".join(t for t in row.tokens if t not in hidden) == row.completion
    assert table["logprobs"][3][0] == rollouts.logprobs_BT[3, 0].item()
