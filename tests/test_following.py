"""Thinned curves: what is kept of a long one, and that going on from a shorter one gives the same."""

import random

import numpy as np
import pandas as pd
import pytest

from workbench import following, series
from workbench.following import Followed
from workbench.growing import Growing


def test_thinning_keeps_both_ends_and_the_spikes():
    x = np.arange(10_000)
    y = np.sin(x / 500).astype(np.float32)
    y[1234], y[8765] = 50, -50
    thin_x, thin_y = following.thin(x, y)
    assert 1_000 < len(thin_x) <= following.MAX_POINTS
    assert thin_x[0] == 0 and thin_x[-1] == 9_999
    assert thin_y[thin_x == 1234] == 50 and thin_y[thin_x == 8765] == -50
    assert (np.diff(thin_x) > 0).all()


def test_two_thousand_points_are_left_alone():
    x = np.arange(following.MAX_POINTS)
    assert following.thin(x, x)[0] is x


@pytest.mark.parametrize("limit", [2, 3, 10, 120, 2_000])
def test_thinning_takes_the_extremes_of_each_bucket_and_both_ends(limit):
    rng = np.random.default_rng(limit)
    for count in (limit, limit + 1, 2 * limit + 3, 7 * limit, 7 * limit + 1, 5_000):
        y = rng.integers(0, 9, count).astype(np.float32)  # the first of equals is taken
        size = following.bucket_size(count, limit)
        expected = {0, count - 1}
        for start in range(0, count, size):
            bucket = y[start : start + size].tolist()
            expected |= {start + bucket.index(pick(bucket)) for pick in (min, max)}
        index, _ = following.thin(np.arange(count), y, limit)
        assert index.tolist() == (sorted(expected) if count > limit else list(range(count)))
        assert len(index) <= max(limit, 4)


def test_text_and_missing_values_in_a_metric_are_left_out():
    metrics = pd.DataFrame(
        {"train/entropy": [0.5, None, "bad", float("inf"), 0.25]}, index=[1, 2, 3, 4, 5]
    )
    for given in (metrics, Followed(metrics)):
        x, y = following.series(given, "train/entropy")
        assert x.tolist() == [1, 5] and y.tolist() == [0.5, 0.25]
        assert (x.dtype, y.dtype) == (np.int32, np.float32)
        assert len(following.series(given, "none")[0]) == 0


def make_history(rng, count):
    """Steps with gaps, a dense column, rare ones, a late one, and some with what can't be drawn."""
    odd = rng.choice([None, "text"])
    records, step = [], 0
    for at in range(count):
        record = {"step": step, "dense": rng.gauss(0, 1), "flat": 1.0, "count": at}
        if at % 7 == 0:
            record |= {"eval/pass@1": rng.random(), "eval/pass@4": rng.random()}
        if at > count // 2:
            record["late"] = rng.choice([rng.random(), float("nan"), float("inf")])
        if odd and at > count // 3:
            record["odd"] = rng.choice([odd, 2.0])
        records.append(record)
        step += rng.choice([1, 1, 1, 2])
    return records


@pytest.mark.parametrize("seed", range(6))
def test_followed_while_it_grows_a_run_is_drawn_as_at_once(seed):
    """In pieces of any size, also across the doubling of buckets; now and then its past is rewritten."""
    rng = random.Random(seed)
    events = pd.DataFrame(columns=["step", "time", "kind", "text"])
    records, at, before = make_history(rng, 9_000), 0, None
    growing = Growing()
    while at < len(records):
        if rng.random() < 0.1:  # a rewind, and other numbers from there on
            at = rng.randrange(at + 1)
            records[at:] = make_history(rng, len(records) - at)
            for place, record in enumerate(records):
                record["step"] = place
            growing = Growing(records[:at])
        more = rng.choice([1, 1, 2, 30, 400, 1500])
        for record in records[at : at + more]:
            growing.append(record)
        at += more
        frame = growing.frame()
        before = Followed(frame, before)
        whole = series.trace_data("a", frame, events)
        for key, trace in series.trace_data("a", before, events).items():
            np.testing.assert_array_equal(trace.x, whole[key].x)
            np.testing.assert_array_equal(trace.y, whole[key].y)
            assert (trace.visible, trace.name) == (whole[key].visible, whole[key].name)
        for column in ("dense", "flat", "count", "late", "odd"):
            x, y = following.series(before, column)
            whole_x, whole_y = following.series(frame, column)
            np.testing.assert_array_equal(x, whole_x)
            np.testing.assert_array_equal(y, whole_y)


def test_a_column_without_news_keeps_its_very_arrays():
    growing = Growing({"step": s, "a": 1.0 * s, **({"b": 2.0} if s < 5 else {})} for s in range(9))
    one = Followed(growing.frame())
    before = {name: one.series(name) for name in ("a", "b")}
    growing.append({"step": 9, "a": 9.0, "b": float("nan")})
    two = Followed(growing.frame(), one)
    assert two.series("b")[1] is before["b"][1]
    assert two.series("a")[1] is not before["a"][1] and len(two.series("a")[1]) == 10


def test_another_runs_columns_are_told_from_the_numbers():
    one = Followed(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]}, index=[0, 1]))
    assert one.series("a")[1].tolist() == one.series("b")[1].tolist() == [1.0, 2.0]
    for index, a in (([0, 1, 2], [1.0, 5.0, 6.0]), ([0, 2, 3], [1.0, 2.0, 3.0]), ([0], [1.0])):
        two = Followed(pd.DataFrame({"a": a}, index=index), one)
        x, y = two.series("a")
        assert x.tolist() == index and y.tolist() == a
        assert "b" not in two and list(two) == ["a"]
