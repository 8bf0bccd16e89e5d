"""Kernels against NumPy: 8-bit sums exclude no near code, and every scan finds what a sort of all distances does."""

import numpy as np
import pytest
from _from_python import from_python
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search import kernels
from skdpq._search.kernels import (
    TOGETHER_QUERIES,
    all_distances,
    scan_nearest,
    scan_nearest_together,
    scan_radius,
)
from skdpq._search.results import nothing
from skdpq._search.segments import build
from skdpq._search.simd import BLOCK_CODES, n_registers
from skdpq._search.topk import merge_found

quantize = from_python(kernels.quantize)

seeds = st.integers(0, 2**32 - 1)


def sum_entries(table, codes):
    """Return distances of codes: float32 sums in the order of the parts."""
    total = np.zeros(len(codes), dtype=np.float32)
    for m in range(len(table)):
        total += table[m, codes[:, m]]
    return total


def make_table(rng, M, K, scale, offset, spread):
    """Return a table (M, K) of entries that are not negative."""
    entries = np.exp(rng.normal(size=(M, K)) * spread) * scale + offset
    return np.minimum(entries, float(np.finfo(np.float32).max) / (2 * M)).astype(np.float32)


tables = {
    "M": st.integers(1, 20) | st.just(64),
    "K": st.sampled_from([1, 2, 16, 64, 65, 256, 300]),
    "scale": st.sampled_from([1e-45, 1e-38, 1e-30, 1e-6, 1.0, 1e6, 1e30, 1e37]),
    "offset": st.sampled_from([0.0, 1e-40, 1.0, 1e10, 1e35]),
    "spread": st.sampled_from([0.0, 0.1, 1.0, 10.0]),
}


@given(**tables, seed=seeds, threshold=st.floats(0, 1) | st.floats(0, width=32, allow_infinity=True))
@example(M=4, K=16, scale=1.0, offset=0.0, spread=1.0, seed=0, threshold=np.inf)
@example(M=4, K=16, scale=1.0, offset=0.0, spread=1.0, seed=0, threshold=float(np.finfo(np.float32).max))
@example(M=4, K=16, scale=1e-45, offset=0.0, spread=1.0, seed=0, threshold=1e-45)
def test_no_code_up_to_the_threshold_is_excluded(M, K, scale, offset, spread, seed, threshold):
    rng = np.random.default_rng(seed)
    table = make_table(rng, M, K, scale, offset, spread)
    codes = rng.integers(K, size=(500, M))
    codes[0] = table.argmin(axis=1)
    distances = sum_entries(table, codes)
    # thresholds that are distances, and their neighbors: at the boundary, or just outside
    at = np.quantile(distances, min(threshold, 1), method="lower")
    for limit in (np.float32(threshold), at, np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(np.inf))):
        table_u8 = np.zeros((M, K), dtype=np.uint8)
        max_sum = quantize(table, table.argmin(axis=1), limit, table_u8)
        sums = np.minimum(table_u8[np.arange(M), codes].sum(axis=1, dtype=np.int64), 255)
        assert (sums[distances <= limit] <= max_sum).all()


@given(tables["M"], st.integers(2, 300), st.sampled_from([0.0, 1.0, 100.0]), seeds, st.floats(0.01, 1))
def test_codes_well_beyond_the_threshold_are_excluded(M, K, offset, seed, share):
    rng = np.random.default_rng(seed)
    table = make_table(rng, M, K, 1.0, offset, 1.0)
    codes = rng.integers(K, size=(2000, M))
    distances = sum_entries(table, codes)
    least = table.min(axis=1).sum(dtype=np.float64)
    threshold = np.float32(least + share * (distances.max() - least))
    table_u8 = np.zeros((M, K), dtype=np.uint8)
    max_sum = quantize(table, table.argmin(axis=1), threshold, table_u8)
    sums = np.minimum(table_u8[np.arange(M), codes].sum(axis=1, dtype=np.int64), 255)
    # each of M entries is rounded down by less than one of 254 steps from the least distance to the threshold
    beyond = distances > least + (threshold - least) * (1 + M / 254) + 1e-4 * threshold
    assert (sums[beyond] > max_sum).all()


def test_nothing_is_within_a_threshold_below_the_least_distance():
    table = np.ones((4, 16), dtype=np.float32)
    assert quantize(table, np.zeros(4, int), np.float32(3.9), np.zeros((4, 16), np.uint8)) == -1
    assert quantize(table, np.zeros(4, int), np.float32(4), np.zeros((4, 16), np.uint8)) >= 0
    assert quantize(table, np.zeros(4, int), np.float32(-1), np.zeros((4, 16), np.uint8)) == -1


class Scan:
    """A segment and tables of some queries, whose distances are all known."""

    def __init__(self, seed, codes, K, n_queries, ties):
        rng = np.random.default_rng(seed)
        n, M = codes.shape
        self.segment = build(codes.astype(np.uint8 if K <= 256 else np.uint16), rng.permutation(2 * n)[:n])
        shape = n_queries, M, K
        self.tables = (rng.integers(4, size=shape) if ties else rng.random(shape)).astype(np.float32)
        self.nearest = self.tables.argmin(axis=2)
        self.distances = np.array([sum_entries(table, self.segment.item_codes()) for table in self.tables])
        self.block_of_item = np.repeat(np.arange(len(self.segment.counts)), self.segment.counts) // BLOCK_CODES

    def expected(self, k, blocks):
        """Return the k nearest items in some blocks, distances and ids; infinite where there are fewer."""
        distances, ids = nothing(len(self.tables), k)
        there = np.isin(self.block_of_item, blocks)
        for q, row in enumerate(self.distances):
            order = np.lexsort((self.segment.ids[there], row[there]))[:k]
            distances[q, : len(order)] = row[there][order]
            ids[q, : len(order)] = self.segment.ids[there][order]
        return distances, ids


def make_scan(seed, M, K, n_distinct, n_queries, ties):
    """Return a scan of 3,000 items, many of which may have the same code."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(K, size=(n_distinct, M))[rng.integers(n_distinct, size=3000)]
    return Scan(seed, codes, K, n_queries, ties)


scans = st.builds(
    make_scan,
    seed=seeds,
    M=st.sampled_from([1, 2, 3, 4, 8, 13]),
    K=st.sampled_from([2, 64, 65, 128, 129, 256, 300]),
    n_distinct=st.sampled_from([1, 300, 3000, 10**6]),
    n_queries=st.integers(1, 5),
    ties=st.booleans(),
)
every_block_begins_otherwise = Scan(0, np.array([[p, p, k] for p in range(8) for k in range(256)]), 256, 9, False)


@given(scans, st.integers(1, 9) | st.integers(1, 4000), st.integers(1, 15), st.booleans(), st.integers(1, 12))
@example(every_block_begins_otherwise, 10, 1, True, 3)
def test_scans_of_shares_of_the_blocks_find_the_nearest_of_all(scan, k, chunk_blocks, simd, middle):
    n_blocks, K = len(scan.segment.blocks), scan.tables.shape[2]
    middle = min(middle, n_blocks)
    distances, ids = nothing(len(scan.tables), k)
    tables = scan.tables, scan.nearest, n_registers(K) if simd else 0
    for first, last in ((0, middle), (middle, n_blocks)):
        if first < last:
            candidates = scan_nearest(scan.segment, *tables, chunk_blocks, first, last, distances)
            merge_found(*candidates, scan.segment, distances, ids)
            for actual, expected in zip((distances, ids), scan.expected(k, range(last)), strict=True):
                assert_array_equal(actual, expected)


@given(
    scans.filter(lambda scan: scan.tables.shape[2] <= 256), st.integers(1, 9) | st.integers(1, 4000), st.integers(1, 12)
)
@example(every_block_begins_otherwise, 10, 1)
def test_scans_of_queries_together_find_the_nearest_of_all(scan, k, middle):
    n_blocks = len(scan.segment.blocks)
    middle = min(middle, n_blocks)
    distances, ids = nothing(len(scan.tables), k)
    for first, last in ((middle, n_blocks), (0, middle)):
        candidates = scan_nearest_together(scan.segment, scan.tables, scan.nearest, first, last, distances)
        merge_found(*candidates, scan.segment, distances, ids)
    for actual, expected in zip((distances, ids), scan.expected(k, range(n_blocks)), strict=True):
        assert_array_equal(actual, expected)


def test_as_many_queries_as_fit_are_scanned_together():
    scan = make_scan(0, 4, 256, 10**6, TOGETHER_QUERIES, False)
    distances, ids = nothing(TOGETHER_QUERIES, 5)
    candidates = scan_nearest_together(scan.segment, scan.tables, scan.nearest, 0, len(scan.segment.blocks), distances)
    merge_found(*candidates, scan.segment, distances, ids)
    for actual, expected in zip((distances, ids), scan.expected(5, range(len(scan.segment.blocks))), strict=True):
        assert_array_equal(actual, expected)


@given(scans, st.sampled_from([-1.0, 0.0, 0.01, 0.3, 1.0]), st.booleans())
def test_a_scan_within_a_radius_finds_all_and_nothing_else(scan, quantile, simd):
    threshold = np.float32(-1) if quantile < 0 else np.quantile(scan.distances, quantile, method="lower")
    registers = n_registers(scan.tables.shape[2]) if simd else 0
    counts, distances, ids = scan_radius(scan.segment, scan.tables, scan.nearest, registers, threshold)
    orders = [np.lexsort((scan.segment.ids, row))[: (row <= threshold).sum()] for row in scan.distances]
    assert_array_equal(counts, [len(order) for order in orders])
    assert_array_equal(ids, np.concatenate([scan.segment.ids[order] for order in orders]))
    assert_array_equal(
        distances, np.concatenate([row[order] for row, order in zip(scan.distances, orders, strict=True)])
    )


@pytest.mark.parametrize("M", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("K", [256, 300])
def test_all_distances_are_the_sums_in_the_order_of_the_parts(M, K):
    scan = make_scan(0, M, K, 10**6, 1, False)
    out = np.full(len(scan.segment.counts), np.nan, dtype=np.float32)
    all_distances(scan.tables[0], scan.segment.blocks, out)
    assert_array_equal(out, sum_entries(scan.tables[0], scan.segment.codes()))
