"""Results of parts, put together, are those of the whole."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search.results import concatenate, count_others, join, merge_nearest, nothing, without_self

seeds = st.integers(0, 2**32 - 1)


def make_nearest(rng, n_queries, k, ids):
    """Return distances, of which many are equal, and ids, ascending by (distance, id)."""
    rows = [
        sorted(zip(rng.integers(4, size=k).tolist(), rng.permutation(ids)[:k].tolist(), strict=True))
        for _ in range(n_queries)
    ]
    pairs = np.array(rows).reshape(n_queries, k, 2)
    return pairs[..., 0].astype(np.float32), pairs[..., 1].astype(np.int64)


@given(seeds, st.integers(1, 4), st.integers(1, 9), st.integers(0, 12), st.integers(0, 9))
def test_merged_nearest_items_are_the_first_of_both(seed, n_queries, k, k_other, n_before):
    rng = np.random.default_rng(seed)
    distances, ids = nothing(n_queries, k)
    n_before = min(n_before, k)
    distances[:, :n_before], ids[:, :n_before] = make_nearest(rng, n_queries, n_before, np.arange(0, 100, 2))
    others = make_nearest(rng, n_queries, k_other, np.arange(1, 101, 2))
    both = [np.hstack(arrays) for arrays in zip((distances, ids), others, strict=True)]
    order = np.lexsort(both[::-1], axis=1)[:, :k]
    merge_nearest(distances, ids, *others)
    assert_array_equal(distances, np.take_along_axis(both[0], order, axis=1))
    assert_array_equal(ids, np.take_along_axis(both[1], order, axis=1))


def make_within(rng, n_queries, ids):
    """Return counts, distances and ids of some queries, in no order within each."""
    counts = rng.integers(4, size=n_queries)
    return counts, rng.integers(3, size=counts.sum()).astype(np.float32), rng.permutation(ids)[: counts.sum()]


@given(seeds, st.integers(0, 5), st.integers(0, 4))
def test_joined_results_of_parts_of_a_database_are_in_order(seed, n_queries, n_parts):
    rng = np.random.default_rng(seed)
    parts = [make_within(rng, n_queries, np.arange(i, 100, 4)) for i in range(n_parts)]
    counts, distances, ids = join(parts, n_queries)
    triples = sorted(
        triple
        for part in parts
        for triple in zip(np.repeat(np.arange(n_queries), part[0]), part[1], part[2], strict=True)
    )
    assert list(zip(np.repeat(np.arange(n_queries), counts), distances, ids, strict=True)) == triples
    assert (len(counts), distances.dtype, ids.dtype) == (n_queries, np.float32, np.int64)


@given(seeds, st.integers(0, 4))
def test_results_of_blocks_of_queries_follow_one_another(seed, n_blocks):
    rng = np.random.default_rng(seed)
    blocks = [make_within(rng, 3, np.arange(50)) for _ in range(n_blocks)]
    found = concatenate(blocks)
    assert [array.dtype for array in found] == [np.int64, np.float32, np.int64]
    for i, array in enumerate(found):
        assert_array_equal(array, np.concatenate([[], *(block[i] for block in blocks)]))


def test_an_item_does_not_find_itself():
    # two queries with two and three results, shared by items 5, 6 and 7
    distances, ids = without_self(
        np.array([1, 0, 1]),
        np.array([5, 6, 7]),
        np.array([0, 2, 5]),
        np.array([0, 1, 0, 0, 2], np.float32),
        np.array([6, 5, 5, 7, 6]),
        np.array([0, 2, 3, 5]),
    )
    assert ids.tolist() == [7, 6, 5, 5, 6]
    assert distances.tolist() == [0, 2, 1, 0, 2]


def test_what_does_not_fit_an_item_is_dropped_within_bounds():
    # an item that none of the results is, as k others are at distance zero and have lower ids
    results = np.zeros(3, np.float32), np.array([1, 2, 3])
    arguments = np.array([0]), np.array([9]), np.array([0, 3]), *results, np.array([0, 2])
    for function in (without_self, without_self.py_func):  # only the latter checks bounds
        assert function(*arguments)[1].tolist() == [1, 2]


def test_an_item_that_does_not_find_itself_has_no_result_less():
    # items 5, 6 and 7 share the first query, which finds 6 and 7; item 8 has the second, which finds nothing
    found = count_others(np.array([0, 0, 0, 1]), np.array([5, 6, 7, 8]), np.array([0, 2, 2]), np.array([7, 6]))
    assert found.tolist() == [2, 1, 1, 0]
