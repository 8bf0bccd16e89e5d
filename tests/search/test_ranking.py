"""Tie groups against sorting the items one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search.ranking import CodeGroups, precision, tie_groups, tie_groups_from_distances

seeds = st.integers(0, 2**32 - 1)
distances_of_codes = st.lists(
    st.sampled_from([0.0, 1e-45, 1.0, 1.0000001, 2.0, 3e38]) | st.floats(0, width=32), min_size=1, max_size=200
)


def groups_by_sorting(distances, relevant):
    """Return how many items, and relevant ones, there are at each distance in ascending order."""
    values = np.unique(distances)
    n = [(distances == value).sum() for value in values]
    return n, [relevant[distances == value].sum() for value in values]


def assert_groups(found, expected):
    for actual, one in zip(found, expected, strict=True):
        assert actual.dtype == np.int64
        assert_array_equal(actual, one)


@given(distances_of_codes, seeds)
def test_codes_at_equal_distance_are_one_group(distances, seed):
    rng = np.random.default_rng(seed)
    distances = np.abs(np.array(distances, dtype=np.float32))
    counts = rng.integers(1, 256, size=len(distances))
    relevant = rng.integers(counts + 1)
    items = np.repeat(distances, counts)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    relevant_items = np.zeros(len(items), bool)
    for start, n in zip(starts, relevant, strict=True):
        relevant_items[start : start + n] = True
    assert_groups(tie_groups(distances, counts.astype(np.uint8), relevant), groups_by_sorting(items, relevant_items))


def test_many_codes_are_in_the_order_of_all_their_bits():
    distances = np.exp(np.random.default_rng(0).normal(size=5000) * 20).astype(np.float32)
    codes = np.arange(5000)  # as counts of relevant items they tell which code is where
    n, r = tie_groups(distances, np.ones(5000, np.uint8), codes)
    assert_array_equal(r, np.argsort(distances))
    assert_array_equal(n, np.ones(5000))


@given(distances_of_codes, seeds)
def test_items_at_equal_distance_are_one_group(distances, seed):
    distances = np.array(distances)
    relevant = np.random.default_rng(seed).random(len(distances)) < 0.5
    assert_groups(tie_groups_from_distances(distances, relevant), groups_by_sorting(distances, relevant))


def test_distances_that_are_not_a_number_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        tie_groups_from_distances(np.array([1.0, np.nan]), np.array([True, False]))


def make_database(seed, n, n_classes=4):
    """Return codes, of which some have more than 255 items, their classes, and tables of three queries."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(8, size=(n, 2)).astype(np.uint8)
    return codes, rng.integers(n_classes, size=n), rng.integers(5, size=(3, 2, 8)).astype(np.float32)


@given(seeds, st.sampled_from([1, 50, 20_000]))
def test_relevant_items_are_counted_for_each_code_and_class(seed, n):
    codes, labels, tables = make_database(seed, n)
    groups = CodeGroups(codes, labels, 4)
    assert groups.counts.sum(dtype=np.int64) == n
    assert_array_equal(sum(groups.relevant(c) for c in range(4)), groups.counts)
    for table in tables:
        distances = table[0, codes[:, 0]] + table[1, codes[:, 1]]
        for c in range(4):
            assert_groups(groups.rank(table, groups.relevant(c)), groups_by_sorting(distances, labels == c))


def test_each_query_is_measured_by_its_own_class():
    codes, labels, tables = make_database(0, 3000, n_classes=2)
    groups, out = CodeGroups(codes, labels, 2), np.full(3, np.nan)
    groups.measure(tables, np.array([1, -1, 0]), precision, 10, out)
    for q, c in ((0, 1), (2, 0)):
        assert out[q] == precision(*groups.rank(tables[q], groups.relevant(c)), 10)
    assert out[1] == 0  # of a class that no item has
