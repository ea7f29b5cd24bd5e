"""Files and hub datasets become rows; bad ones are refused in one sentence."""

import json

import pandas as pd
import pytest

from workbench.tasks import make_task
from workbench.tasks.source import in_eval
from workbench.variants import WorkbenchError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets.load_dataset` that serves the tables put into it."""
    import datasets

    tables = {}

    def load_dataset(source, subset):
        if source not in tables:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{source}' doesn't exist")
        return {name: datasets.Dataset.from_list(rows) for name, rows in tables[source].items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return tables


def problems(first, last):
    return [{"prompt": f"problem {i}", "answer": str(i)} for i in range(first, last)]


def test_splits_never_overlap_and_do_not_depend_on_order_or_spacing(tmp_path):
    rows = problems(0, 200)
    task = make_task("jsonl", source=write(tmp_path / "a.jsonl", rows))
    train, held = (set(task.dataset(split)["prompt"]) for split in ("train", "eval"))
    assert not train & held
    assert len(train | held) == 200
    assert 25 <= len(held) <= 75  # a share of 0.25: 50, give or take four standard deviations
    other = make_task("jsonl", source=write(tmp_path / "b.jsonl", rows[::-1] + problems(200, 300)))
    assert set(other.dataset("eval")["prompt"]) >= held
    assert in_eval("Two  words", 0.5) == in_eval("two words", 0.5)


def test_a_larger_share_keeps_what_was_held_out():
    keys = [str(i) for i in range(500)]
    assert {k for k in keys if in_eval(k, 0.1)} <= {k for k in keys if in_eval(k, 0.4)}


def test_parquet_gives_the_same_rows_as_jsonl(tmp_path):
    pd.DataFrame(problems(0, 30)).to_parquet(tmp_path / "a.parquet")
    written = write(tmp_path / "a.jsonl", problems(0, 30))
    for split in ("train", "eval"):
        from_parquet = make_task("jsonl", source=str(tmp_path / "a.parquet")).dataset(split)
        assert from_parquet.to_list() == make_task("jsonl", source=written).dataset(split).to_list()


def test_the_splits_of_the_hub_are_kept_and_copies_leave_train(hub):
    hub["someone/sums"] = {"train": problems(0, 10), "test": problems(8, 12)}
    task = make_task("jsonl", source="someone/sums")
    assert task.dataset("eval")["prompt"][:] == [f"problem {i}" for i in range(8, 12)]
    assert task.dataset("train")["prompt"][:] == [f"problem {i}" for i in range(8)]


def test_a_hub_dataset_without_eval_split_is_divided(hub):
    hub["someone/sums"] = {"train": problems(0, 100)}
    task = make_task("jsonl", source="someone/sums")
    train, held = (set(task.dataset(split)["prompt"]) for split in ("train", "eval"))
    assert train and held and not train & held


def test_an_unreachable_hub_name_is_one_sentence(hub):
    with pytest.raises(WorkbenchError, match=r"'no/such' could not be loaded.*local file"):
        make_task("jsonl", source="no/such").dataset("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "answer": "b"}\n{"prompt": \n', r"Line 2 of .* is not JSON"),
        ("[1, 2]\n", r"Line 1 of .* is not a JSON object"),
        ("[" * 100_000 + "\n", r"Line 1 of .* is not JSON"),
        (
            '{"prompt": "a", "answr": "b"}\n',
            r"Unknown column 'answer'; allowed: prompt, answr\. Did",
        ),
        (
            '{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n',
            r"Row 2 of .*Unknown column 'answer'",
        ),
        ('{"prompt": "a", "answer": null}\n', r"Row 1 of .* has an empty 'answer'"),
        ("\n", r"has no rows"),
        ('{"prompt": "a", "answer": "b"}\n', r"leaves no row for the (train|eval) split"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    task = make_task("jsonl", source=str(path))
    with pytest.raises(WorkbenchError, match=message) as caught:
        [task.dataset(split) for split in ("train", "eval")]
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_of_another_kind(tmp_path):
    with pytest.raises(WorkbenchError, match=r"gone\.jsonl does not exist"):
        make_task("jsonl", source=str(tmp_path / "gone.jsonl")).dataset("train")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(WorkbenchError, match=r"neither JSONL nor Parquet"):
        make_task("jsonl", source=str(tmp_path / "a.txt")).dataset("train")
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(WorkbenchError, match=r"cannot be read as Parquet"):
        make_task("jsonl", source=str(tmp_path / "a.parquet")).dataset("train")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkbenchError, match=r"cannot be read as UTF-8"):
        make_task("jsonl", source=str(tmp_path / "a.jsonl")).dataset("train")


@pytest.mark.parametrize("share", [0, 1, -0.1, "half", True])
def test_eval_share_must_be_a_share(share):
    with pytest.raises(WorkbenchError, match="eval_share"):
        make_task("jsonl", eval_share=share)
