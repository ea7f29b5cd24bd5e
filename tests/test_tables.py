"""Rollouts and probes as tables: one row each, and back as they were."""

import numpy as np
import pandas as pd
import pytest

from workbench.folder import RunFolder
from workbench.probe import ProbeTrace
from workbench.rollout import sample
from workbench.tables import probe_table, read_probes, read_rollouts, write_parquet
from workbench.tasks import make_task
from workbench.tasks.countdown import Countdown
from workbench.trainer import prepare, train_step
from workbench.variants import WorkbenchError


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
    task = state.task
    rows = [rollouts.rows[b // 4] for b in range(12)]
    pairs = list(zip(rows, rollouts.completions, strict=True))
    assert table["check"].tolist() == [task.explain(row, text) for row, text in pairs]


def drawn(state, rows, group, seed):
    """A part of an evaluation."""
    messages = [state.task.messages(row) for row in rows]
    return sample(state.policy, messages, rows=rows, group_size=group, max_new_tokens=6, seed=seed)


def test_held_out_completions_of_several_parts_are_one_table_with_the_tasks_score(kept, toy_recipe):
    state = prepare(toy_recipe)
    state.task = Always()
    rows = list(state.task.dataset("eval"))[:3]
    parts = [drawn(state, rows[:2], 3, 0), drawn(state, rows[2:], 3, 1)]
    file = kept.write_held_out(parts, state)
    assert (file.parent.name, file.name) == ("held_out", "000000.parquet")
    assert kept.held_out_files() == [file]
    table = pd.read_parquet(file)
    assert list(table) == [
        *("step", "prompt_index", "prompt", "completion", "answer", "check", "reward/correct"),
        *("length", "truncated", "tokens", "logprobs", "entropies"),
    ]
    assert table["prompt_index"].tolist() == [0] * 3 + [1] * 3 + [2] * 3
    texts = [text for part in parts for text in part.completions]
    assert table["completion"].tolist() == texts
    assert table["prompt"].tolist() == [p for part in parts for p in part.prompts for _ in range(3)]
    owners = [rows[place] for place in table["prompt_index"]]
    assert table["check"].tolist() == [
        state.task.explain(row, text) for row, text in zip(owners, texts, strict=True)
    ]
    assert table["reward/correct"].tolist() == [1.0] * 9
    assert table["truncated"].tolist() == [bool(x) for part in parts for x in part.truncated_B]
    for row in table.itertuples():
        assert len(row.tokens) == len(row.logprobs) == len(row.entropies) == row.length
    assert table["entropies"][3][0] == parts[0].entropies_BT[3, 0].item()


class Always(Countdown):
    def score(self, row, completion):
        return 1.0


def test_what_no_checker_can_say_has_no_column(kept, toy_recipe, tmp_path):
    """Questions of one's own have no truth, and nothing is said of their answers."""
    source = tmp_path / "own.jsonl"
    source.write_text("".join(f'{{"question": "Why {n}?"}}\n' for n in range(20)))
    state = prepare(toy_recipe)
    state.task = make_task("questions", source=str(source))
    part = drawn(state, [state.task.dataset("eval")[0]], 2, 0)
    table = pd.read_parquet(kept.write_held_out([part], state))
    assert not {"reward/correct", "check"} & set(table)


def test_saved_rollouts_are_read_by_step_and_column_or_a_sentence_says_why_not(tmp_path):
    files = [tmp_path / f"{step:06d}.parquet" for step in (5, 10)]
    for file in files:
        pd.DataFrame({"step": [int(file.stem)], "prompt": ["p"]}).to_parquet(file)
    assert read_rollouts(files)["step"].tolist() == [10]
    assert list(read_rollouts(files, 5, ["prompt"])) == ["prompt"]
    with pytest.raises(
        WorkbenchError, match=r"Step 7 has no saved rollouts; saved steps: \[5, 10\]"
    ):
        read_rollouts(files, 7)
    with pytest.raises(
        WorkbenchError, match="wait for its first step, or for its first evaluation"
    ):
        read_rollouts([])
    files[1].unlink()
    with pytest.raises(WorkbenchError, match="step 10 are gone: the run was rewound"):
        read_rollouts(files)
