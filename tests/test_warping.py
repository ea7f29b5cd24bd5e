"""Time warping by hand, what resampling keeps, and clusters that were planted."""

import itertools

import numpy as np
import pytest

from workbench.variants import WorkbenchError
from workbench.warping import (
    cluster,
    dtw_matrix,
    dtw_to,
    entropy_centres,
    resample,
    resample_series,
    silhouette,
)


def plain_dtw(a, b, radius):
    """The textbook recursion: the least sum of squares along a path, then its root."""
    cost = np.full((len(a) + 1, len(b) + 1), np.inf)
    cost[0, 0] = 0.0
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        if abs(i - j) <= radius:
            before = min(cost[i - 1, j], cost[i, j - 1], cost[i - 1, j - 1])
            cost[i, j] = (a[i - 1] - b[j - 1]) ** 2 + before
    return np.sqrt(cost[-1, -1])


def bump(at, length=20):
    series = np.zeros(length)
    series[at] = 1.0
    return series


# ------------------------------------------------------------------ resampling


@pytest.mark.parametrize("tokens", [2, 3, 17, 64, 200])
def test_a_line_stays_a_line(tokens):
    line = 3.0 - 2.0 * np.arange(tokens) / (tokens - 1)
    assert resample_series(line) == pytest.approx(np.linspace(3.0, 1.0, 64), abs=1e-12)


def test_ends_are_kept_and_one_token_is_a_constant():
    found = resample_series([5.0, 1.0, 1.0, 9.0])
    assert (found[0], found[-1]) == (pytest.approx(5.0), pytest.approx(9.0))
    assert (resample_series([0.7]) == pytest.approx(0.7)) and len(resample_series([0.7])) == 64


def test_the_moving_mean_by_hand():
    """Five points as they are: means over 1, 3, 5, 3 and 1 of them."""
    found = resample_series([0.0, 6.0, 0.0, 0.0, 9.0], length=5, window=5)
    assert found == pytest.approx([0, 2, 3, 3, 9])
    assert resample_series([0.0, 1.0], length=3, window=1) == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("series", [[], [1.0, np.nan], [[1.0, 2.0]]])
def test_a_series_without_numbers_is_refused(series):
    with pytest.raises(WorkbenchError, match="one number per token"):
        resample_series(series)


def test_an_even_window_is_refused():
    with pytest.raises(WorkbenchError, match="odd window"):
        resample_series([1.0], window=4)


# ------------------------------------------------------------------ time warping


def test_distances_by_hand():
    """(0, 1, 2) against (0, 0, 2): 1 is matched with 0 or 2, either way at a cost of 1."""
    found = dtw_matrix([[0, 1, 2], [0, 0, 2], [0, 2, 2]], band=1.0)
    assert found == pytest.approx(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]))


def test_the_matrix_is_the_textbook_recursion():
    series_NL = np.random.default_rng(0).random((6, 20))
    for band, radius in ((0.1, 2), (0.3, 6), (0.0, 0), (1.0, 20)):
        found = dtw_matrix(series_NL, band)
        for a, b in itertools.product(range(6), repeat=2):
            assert found[a, b] == pytest.approx(plain_dtw(series_NL[a], series_NL[b], radius))


def test_the_matrix_is_symmetric_with_a_zero_diagonal():
    found = dtw_matrix(np.random.default_rng(1).random((9, 64)))
    assert (found == found.T).all()
    assert (found.diagonal() == 0).all()


def test_band_zero_is_the_euclidean_distance():
    a, b = np.random.default_rng(2).random((2, 12))
    assert dtw_matrix([a, b], band=0.0)[0, 1] == pytest.approx(np.linalg.norm(a - b))


def test_a_shift_costs_nothing_within_the_band_and_all_beyond_it():
    """10 % of 20 points allow a shift by 2."""
    found = dtw_to([bump(5)], [bump(5 + shift) for shift in range(5)], band=0.1)
    assert found == pytest.approx(np.array([[0, 0, 0, np.sqrt(2), np.sqrt(2)]]))


def test_distances_to_centres_are_those_of_the_matrix_in_blocks_too():
    series_NL = np.random.default_rng(3).random((260, 8))  # more than one block of 250
    found = dtw_to(series_NL, series_NL[:3], band=0.2)
    assert found == pytest.approx(dtw_matrix(series_NL, band=0.2)[:, :3])


@pytest.mark.parametrize("band", [-0.1, 1.1])
def test_a_band_outside_0_to_1_is_refused(band):
    with pytest.raises(WorkbenchError, match="share of the length"):
        dtw_matrix([[0.0, 1.0]], band)


def test_ragged_or_differing_series_are_refused():
    with pytest.raises(WorkbenchError, match="resample"):
        dtw_matrix([0.0, 1.0])
    with pytest.raises(WorkbenchError, match="3 points and centres 2"):
        dtw_to([[0, 1, 2]], [[0, 1]])


# ------------------------------------------------------------------ clusters


def line_distances(*places):
    places = np.array(places, dtype=float)
    return np.abs(places[:, None] - places)


def test_medoids_and_cost_by_hand():
    found = cluster(line_distances(0, 1, 2, 10, 11, 13), k=2)
    assert found.medoids_K.tolist() == [1, 4]
    assert found.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.cost == pytest.approx(1 + 1 + 1 + 2)


def test_the_partition_is_the_best_of_all():
    places = np.random.default_rng(4).random(12)
    distances = line_distances(*places)
    for k in (1, 2, 3, 4):
        least = min(
            distances[:, list(chosen)].min(1).sum()
            for chosen in itertools.combinations(range(12), k)
        )
        assert cluster(distances, k=k).cost == pytest.approx(least)


def test_silhouette_by_hand():
    """0 and 1 against 5: (5-1)/5, (4-1)/4, and 0 for the row alone."""
    assert silhouette(line_distances(0, 1, 5), [0, 0, 1]) == pytest.approx((0.8 + 0.75 + 0) / 3)
    assert silhouette(line_distances(0, 1, 5), [0, 0, 0]) == 0.0
    assert silhouette(np.zeros((4, 4)), [0, 0, 1, 1]) == 0.0


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_silhouette_finds_the_number_of_groups(k):
    rng = np.random.default_rng(5)
    places = np.concatenate([100 * group + rng.random(8) for group in range(k)])
    found = cluster(line_distances(*places))
    assert found.k == k
    assert set(found.silhouettes) == {2, 3, 4, 5}
    assert found.silhouettes[k] == max(found.silhouettes.values()) > 0.95


def test_a_seed_repeats():
    distances = dtw_matrix(np.random.default_rng(6).random((40, 16)))
    first, second = cluster(distances, 4, seed=3), cluster(distances, 4, seed=3)
    assert first.labels_N.tolist() == second.labels_N.tolist()
    assert first.cost == second.cost


def test_more_clusters_than_different_series_are_refused():
    with pytest.raises(WorkbenchError, match="3 clusters need as many series; 2 differ"):
        cluster(line_distances(0, 0, 1), k=3)
    with pytest.raises(WorkbenchError, match="1 differ"):
        cluster(np.zeros((3, 3)))


def planted(count=30, seed=7):
    """Series that fall from 1 to 0 and series with a hump in the middle, of any length, with noise."""
    rng = np.random.default_rng(seed)
    rows, kinds = [], []
    for number in range(count):
        t = np.linspace(0, 1, int(rng.integers(12, 90)))
        kinds.append(number % 2)
        shape = np.exp(-((t - 0.5) ** 2) / 0.02) if kinds[-1] else 1 - t
        rows.append(shape + 0.05 * rng.standard_normal(len(t)))
    return resample(rows), np.array(kinds)


def test_two_planted_shapes_are_recovered():
    series_NL, kinds = planted()
    found = cluster(dtw_matrix(series_NL))
    assert found.k == 2
    assert (found.labels_N == kinds).all() or (found.labels_N == 1 - kinds).all()


def test_centres_are_ordered_medoids_with_their_shares():
    series_NL, kinds = planted()
    found = entropy_centres(series_NL, 2)
    assert found.levels_K[0] < found.levels_K[1]
    assert found.levels_K == pytest.approx(found.series_KL.mean(1))
    assert found.levels_K == pytest.approx([0.25, 0.5], abs=0.05)  # the hump's area, and the line's
    assert found.shares_K == pytest.approx([0.5, 0.5])
    assert all((row == series_NL).all(1).any() for row in found.series_KL)
    assert (found.distances(series_NL).argmin(1) == 1 - kinds).all()


def test_more_series_than_the_limit_are_sampled_by_the_seed():
    series_NL, _ = planted(60)
    small, again = (entropy_centres(series_NL, 2, limit=20, seed=1) for _ in range(2))
    assert (small.series_KL == again.series_KL).all()
    assert small.levels_K == pytest.approx([0.25, 0.5], abs=0.05)
