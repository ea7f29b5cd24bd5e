"""Growing tables against tables made of the whole at once, on histories meant to tell them apart."""

import json
import os
import random
import threading

import numpy as np
import pandas as pd
import pytest

from workbench.growing import RECENT, Growing, GrowingFile
from workbench.variants import WorkbenchError


def whole_table(records):
    """What a run's metrics were before tables grew: pandas on the list of all records."""
    if not records:
        return pd.DataFrame({"step": []}, dtype=int).set_index("step")
    table = pd.DataFrame(list(records))
    lists = [name for name in ("groups/successes", "eval/successes") if name in table]
    return table.drop(columns=lists).set_index("step")


def assert_same(table, records):
    pd.testing.assert_frame_equal(table, whole_table(records), check_exact=True)


def make_records(count, seed):
    """Columns that come late, go, are whole numbers for a while, hold NaN, text, None and huge numbers."""
    rng = random.Random(seed)
    late = {f"late/{i}": rng.randrange(count) for i in range(30)}
    records = []
    for step in range(count):
        record = {"step": step, "whole": step * 3, "time": rng.random()}
        record |= {name: rng.gauss(0, 1) for name, since in late.items() if step >= since}
        if rng.random() < 0.5:
            record["now and then"] = rng.choice([1.5, float("nan"), float("inf"), 1e300])
        if step < 0.8 * count:
            record["whole, then gone"] = step
        record["whole, then not"] = step if step < 0.7 * count else step + 0.5
        record["flag"] = step % 2 == 0
        record["huge"] = 2**60 + step
        if step > count // 2:
            record["text"] = rng.choice(["a", "b"])
            record["number, then text"] = 7 if step < 0.9 * count else "x"
            record["maybe"] = rng.choice([None, 2.5])
        if step % 3 == 0:
            record["groups/successes"] = [rng.randrange(9) for _ in range(4)]
        if step % 10 == 0:
            record["eval/successes"] = [step]
        items = list(record.items())
        if step:
            rng.shuffle(items)
        records.append(dict(items))
    return records


@pytest.mark.parametrize("seed", range(5))
def test_after_each_record_the_table_is_that_of_the_whole_history(seed):
    records = make_records(150, seed)
    growing, kept = Growing(), []
    assert_same(growing.frame(), [])
    for count, record in enumerate(records, 1):
        growing.append(record)
        assert len(growing) == count
        if count % 7 in (0, 1):
            assert_same(growing.frame(), records[:count])
            kept.append((count, growing.frame()))
    for count, frame in kept:  # what was handed out has not changed since
        assert_same(frame, records[:count])
    assert_same(Growing(records).frame(), records)


def test_it_knows_the_first_the_last_and_the_recent_records_and_the_lists():
    records = make_records(60, 0)
    growing = Growing(records)
    assert growing.first is records[0] and growing.last is records[-1]
    assert growing.recent() == records[-RECENT:]
    assert Growing(records[:1]).recent() == []  # step 0 was not trained
    expected = {r["step"]: r["groups/successes"] for r in records if "groups/successes" in r}
    assert growing.lists("groups/successes") == expected
    assert growing.lists("none") == {}


def test_lists_of_whole_numbers_are_rows_however_they_come():
    growing = Growing()
    assert growing.counts("k")[1].shape == (0, 0)
    for step, numbers in enumerate(([1, 2], [3, 0], None, [4], [5, 6, 7])):
        growing.append({"step": step, **({} if numbers is None else {"k": numbers})})
        growing.counts("k")
    steps, rows = growing.counts("k")
    assert steps.tolist() == [0, 1, 3, 4]
    assert rows.tolist() == [[1, 2, -1], [3, 0, -1], [4, -1, -1], [5, 6, 7]]
    records = make_records(60, 0)
    name = "groups/successes"
    at_once = Growing(records).counts(name)[1].tolist()
    assert at_once == [r[name] for r in records if name in r]


def test_writing_to_a_table_changes_no_other():
    records = [{"step": step, "a": float(step), "n": step} for step in range(5)]
    growing = Growing(records)
    mine = growing.frame()
    mine.loc[2, "a"] = 99.0
    mine.loc[2, "n"] = 99
    mine["more"] = 1
    assert_same(growing.frame(), records)
    growing.append({"step": 5, "a": 5.0, "n": 5})
    assert growing.frame()["a"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_reading_while_another_thread_appends_gives_whole_rows():
    records = make_records(400, 1)
    growing = Growing(records[:1])
    thread = threading.Thread(target=lambda: [growing.append(r) for r in records[1:]])
    thread.start()
    while thread.is_alive():
        frame = growing.frame()
        assert_same(frame, records[: len(frame)])
    thread.join()


def test_ten_thousand_steps_take_a_tenth_of_the_memory_of_dictionaries():
    growing = Growing(
        {"step": s, **{f"m/{i}": s + i / 7 for i in range(70)}} for s in range(10_000)
    )
    assert growing._values.nbytes < 15e6
    frame = growing.frame()
    assert np.shares_memory(frame["m/3"].to_numpy(), growing._values)  # no copy to draw from


# ------------------------------------------------------------------ files


def whole_lines(path):
    """How the file was read before: all of it."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if any(later.strip() for later in lines[number:]):
                return f"Line {number} of {path.name}"
    return records


def read(file):
    try:
        return list(file.now())
    except WorkbenchError as error:
        return str(error).split(" is damaged")[0]


@pytest.mark.parametrize("seed", range(8))
def test_read_in_any_pieces_a_file_gives_what_all_of_it_gives(seed, tmp_path):
    """Pieces end anywhere, also inside a letter; lines may be empty or damaged; files are replaced."""
    rng = random.Random(seed)
    path = tmp_path / "metrics.jsonl"
    file = GrowingFile(path, list)
    assert read(file) == []
    for _ in range(6):
        lines = []
        for step in range(rng.randrange(1, 25)):
            line = json.dumps({"step": step, "text": "→é" * rng.randrange(30)}, ensure_ascii=False)
            lines.append(line.encode())
            if rng.random() < 0.1:
                lines.append(rng.choice([b"", b"  ", b'{"step": 3, "te', b"\xff\xfe{"]))
        text = b"\n".join(lines) + rng.choice([b"", b"\n"])
        if rng.random() < 0.5:
            path.unlink(missing_ok=True)
        at = rng.randrange(len(text))
        partial = tmp_path / ".part"
        partial.write_bytes(text[:at])
        os.replace(partial, path)
        assert read(file) == whole_lines(path)
        while at < len(text):
            piece = text[at : at + rng.randrange(1, 200)]
            with path.open("ab") as target:
                target.write(piece)
            at += len(piece)
            assert read(file) == whole_lines(path)


def test_only_what_is_new_is_read_and_the_same_list_grows(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    file = GrowingFile(path, list)
    path.write_text('{"step": 1}\n{"step": 2}\n')
    held = file.now()
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or loads(text))
    assert file.now() is held and parsed == []
    with path.open("a") as target:
        target.write('{"step": 3}\n')
    assert file.now() is held and parsed == ['{"step": 3}']
    assert [r["step"] for r in held] == [1, 2, 3]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_written_anew_is_read_anew(tmp_path, replaced):
    """By a shorter one, one of the same size, and a longer one; put in its place or written into it."""
    path = tmp_path / "metrics.jsonl"
    file = GrowingFile(path, list)
    path.write_text('{"step": 1}\n{"step": 2}\n')
    before = file.now()
    for steps in ([7], [8], [9, 8], [5, 6, 7], [1, 6, 7, 8]):
        target = tmp_path / ".part" if replaced else path
        target.write_text("".join(f'{{"step": {step}}}\n' for step in steps))
        os.utime(target, ns=(0, steps[-1]))  # a clock too coarse to tell two writings apart
        os.replace(target, path)
        assert [r["step"] for r in file.now()] == steps
        assert file.now() is not before
        before = file.now()
    path.unlink()
    assert file.now() == []


def test_a_damaged_line_is_named_wherever_reading_began(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"st')
    file = GrowingFile(path, list)
    assert [r["step"] for r in file.now()] == [1, 2]
    with path.open("a") as target:
        target.write("\n")
    assert len(file.now()) == 2  # cut short by a kill: nothing is said of it
    with path.open("a") as target:
        target.write('{"step": 3}\n')
    for _ in range(2):
        with pytest.raises(WorkbenchError, match=r"Line 4 of metrics.jsonl is damaged.*delete or"):
            file.now()
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert [r["step"] for r in file.now()] == [1, 2, 3]
