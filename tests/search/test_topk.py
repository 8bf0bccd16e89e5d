"""Selection against sorting: the k nearest by (distance, id), however many codes and items tie."""

import numpy as np
import pytest
from _from_python import from_python
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_array_equal

from skdpq._search import topk
from skdpq._search.results import nothing
from skdpq._search.segments import build
from skdpq._search.topk import distance_of, merge_found, position_of

expand, first_item, keep_nearest, make_key, max_kept, select, sort, sorted_keys, threshold_of_nearest = (
    from_python(getattr(topk, name))
    for name in (
        "expand",
        "first_item",
        "keep_nearest",
        "make_key",
        "max_kept",
        "select",
        "sort",
        "sorted_keys",
        "threshold_of_nearest",
    )
)
seeds = st.integers(0, 2**32 - 1)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), min_size=1), st.data())
def test_the_smallest_keys_are_moved_to_the_front(values, data):
    keys = np.array(values, dtype=np.uint64)
    k = data.draw(st.integers(1, len(keys)))
    inside = np.pad(keys, (2, 1))  # what is outside stays as it is
    select(inside, 2, 2 + len(keys), k)
    assert not inside[[0, 1, -1]].any()
    keys = inside[2:-1]
    assert_array_equal(np.sort(keys[:k]), np.sort(np.array(values, dtype=np.uint64))[:k])
    assert keys[k - 1] == keys[:k].max()
    assert_array_equal(np.sort(keys), np.sort(np.array(values, dtype=np.uint64)))


@pytest.mark.parametrize("n", [0, 1, 2, 127, 128, 129, 1000])
def test_keys_are_sorted(n):
    keys = np.random.default_rng(n).permutation(10**6)[:n].astype(np.uint64)
    assert_array_equal(sorted_keys(np.pad(keys, (2, 1)), 2, 2 + n), np.sort(keys))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5)), st.integers(0, 3000), st.booleans())
def test_a_sort_is_that_of_numpy(values, n, descending):
    keys = np.concatenate((np.array(values, dtype=np.uint64), np.arange(n, dtype=np.uint64)))  # parts are in order
    keys = keys[::-1].copy() if descending else keys
    expected = np.sort(keys)
    sort(keys, len(keys))
    assert_array_equal(keys, expected)


@njit
def there_and_back(distance, position):
    key = topk.make_key(distance, position)
    return key, distance_of(key), position_of(key)


@given(
    *2 * [st.tuples(st.floats(0, 2.0**100, width=32), st.integers(0, 2**32 - 1))],
)
def test_keys_are_in_the_order_of_distance_and_position(one, other):
    (key, *back), (other_key, *_) = (there_and_back(np.float32(d), np.int64(p)) for d, p in (one, other))
    assert tuple(back) == one
    assert (key < other_key) == (one < other)


@given(
    st.lists(st.tuples(st.floats(0, 2.0**100, width=32) | st.integers(0, 3), st.integers(1, 255)), min_size=1),
    st.integers(1, 2000),
)
def test_a_threshold_lets_k_items_through(codes, k):
    distances = np.array([distance for distance, _ in codes], dtype=np.float32)
    counts = np.array([count for _, count in codes], dtype=np.int32)
    threshold = threshold_of_nearest(distances, counts, k)
    if counts.sum() < k:
        assert threshold == np.inf
    else:
        assert counts[distances <= threshold].sum() >= k
        assert threshold <= distances.max()


def test_a_threshold_lets_few_more_than_k_items_through():
    distances = np.random.default_rng(0).random(5000).astype(np.float32)
    for k in (10, 100, 1000):
        assert (distances <= threshold_of_nearest(distances, np.ones(5000, np.int32), k)).sum() <= k + k // 8 + 3


class Found:
    """A segment whose codes are all candidates: at distances of which many are equal, or none."""

    def __init__(self, seed, n_codes, n_distances, most_items):
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, most_items + 1, size=n_codes)
        codes = np.arange(n_codes, dtype=np.uint16)[:, None]
        self.ids = rng.permutation(2 * counts.sum())[: counts.sum()]
        self.segment = build(np.repeat(codes, counts, axis=0), self.ids)
        self.distance_of_code = rng.integers(n_distances, size=n_codes).astype(np.float32)
        self.code_of_stored = self.segment.codes()[:, 0]
        distances = self.distance_of_code[self.code_of_stored]
        keys = distances.view(np.uint32).astype(np.uint64) << np.uint64(32) | np.arange(len(distances), dtype=np.uint64)
        self.keys = rng.permutation(keys)

    def expected(self):
        """Distances and ids of all items, in order."""
        distances = self.distance_of_code[np.repeat(self.code_of_stored, self.segment.counts)]
        order = np.lexsort((self.segment.ids, distances))
        return distances[order], self.segment.ids[order]


found = st.builds(
    Found,
    seed=seeds,
    n_codes=st.integers(1, 40) | st.integers(250, 600),
    n_distances=st.sampled_from([1, 3, 50, 10**6]),
    most_items=st.sampled_from([1, 3, 300]),
)
ks = st.integers(1, 10) | st.integers(1, 500) | st.just(10**5)


@given(found)
def test_a_code_knows_where_its_items_begin(found):
    expected = np.cumsum(found.segment.counts, dtype=np.int64) - found.segment.counts
    assert [first_item(found.segment, u) for u in range(len(expected))] == expected.tolist()


@given(found, ks)
def test_codes_that_are_kept_hold_the_nearest_items_and_are_few(found, k):
    keys = found.keys.copy()
    n_kept, threshold = keep_nearest(keys, len(keys), k, found.segment)
    distances, ids = (values[:k] for values in found.expected())
    assert n_kept <= max_kept(k, len(found.segment.counts))
    assert set(keys[:n_kept].tolist()) <= set(found.keys.tolist())
    assert distances[-1] <= threshold or k > len(found.ids)
    kept = (keys[:n_kept] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    starts = found.segment.first_items()
    items = [i for u in kept for i in found.segment.ids[starts[u] : starts[u] + found.segment.counts[u]]]
    assert set(ids.tolist()) <= set(np.array(items).tolist())


@given(found, ks)
def test_the_nearest_items_are_those_of_a_sort(found, k):
    distances, ids = nothing(1, k)
    merge_found(found.keys[None].copy(), np.array([len(found.keys)]), found.segment, distances, ids)
    for actual, expected in zip((distances[0], ids[0]), found.expected(), strict=True):
        assert_array_equal(actual[: len(expected)], expected[:k])
    assert (distances[0, len(found.ids) :] == np.inf).all()


@given(found, found, ks)
def test_items_of_several_segments_are_merged_by_distance_and_id(one, other, k):
    distances, ids = nothing(1, k)
    for part in (one, other):
        merge_found(part.keys[None].copy(), np.array([len(part.keys)]), part.segment, distances, ids)
    both = [np.concatenate(values) for values in zip(one.expected(), other.expected(), strict=True)]
    order = np.lexsort(both[::-1])[:k]
    assert_array_equal(distances[0, : len(order)], both[0][order])
    assert_array_equal(ids[0, : len(order)], both[1][order])


@given(found, st.integers(0, 500))
def test_items_of_sorted_codes_are_written_up_to_a_number(found, n_most):
    expected = found.expected()
    n_most = min(n_most, len(found.ids))
    distances, ids = np.full(n_most, np.nan, np.float32), np.full(n_most, -1)
    assert expand(np.sort(found.keys), found.segment, n_most, distances, ids, 0) == n_most
    assert_array_equal(distances, expected[0][:n_most])
    assert_array_equal(ids, expected[1][:n_most])


def test_ties_at_the_last_place_go_to_the_lowest_ids():
    codes = np.arange(300, dtype=np.uint16)[:, None]
    segment = build(codes, np.arange(300)[::-1].copy())  # the code that comes last has the lowest id
    keys = np.array([make_key(np.float32(1), u) for u in range(300)], dtype=np.uint64)
    distances, ids = nothing(1, 7)
    merge_found(keys[None], np.array([300]), segment, distances, ids)
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
