"""8-bit tables: their sums bound distances from below, so that no code that is near enough is ever excluded."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search.kernels import all_distances, quantize
from skdpq._search.segments import build


@given(
    seed=st.integers(0, 2**32 - 1),
    M=st.integers(1, 20),
    K=st.sampled_from([2, 16, 256]),
    scale=st.sampled_from([1e-38, 1e-20, 1e-6, 1.0, 1e10, 1e36]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    quantile=st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0, 2.0]),
)
@example(0, 8, 256, 1.0, 100.0, 0.0)
def test_a_code_that_is_near_enough_is_never_excluded(seed, M, K, scale, offset, quantile):
    rng = np.random.default_rng(seed)
    table = ((rng.random((M, K)) + offset) * scale / (1 + offset)).astype(np.float32)
    codes = rng.integers(K, size=(2000, M))
    distances = np.zeros(len(codes), dtype=np.float32)
    for m in range(M):
        distances += table[m, codes[:, m]]
    threshold = np.float32(np.inf) if quantile > 1 else np.quantile(distances, quantile, method="lower")
    table_u8 = np.zeros((M, 256), dtype=np.uint8)
    max_sum = quantize(table, table.argmin(axis=1), threshold, table_u8)
    sums = np.minimum(table_u8[np.arange(M), codes].astype(int).sum(axis=1), 255)  # they saturate
    assert (sums[distances <= threshold] <= max_sum).all()


def test_a_threshold_below_all_distances_excludes_all():
    table = np.full((3, 4), 2.0, dtype=np.float32)
    assert quantize(table, np.zeros(3, dtype=np.int64), np.float32(5.9), np.zeros((3, 64), np.uint8)) == -1


def test_the_bound_is_close_enough_to_exclude_most():
    rng = np.random.default_rng(0)
    table = rng.random((8, 256)).astype(np.float32)
    codes = rng.integers(256, size=(10_000, 8))
    distances = table[np.arange(8), codes].sum(axis=1)
    threshold = np.sort(distances)[10]
    table_u8 = np.zeros((8, 256), dtype=np.uint8)
    max_sum = quantize(table, table.argmin(axis=1), threshold, table_u8)
    sums = np.minimum(table_u8[np.arange(8), codes].astype(int).sum(axis=1), 255)
    assert 10 <= np.count_nonzero(sums <= max_sum) < 100


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([3, 256, 300]), st.integers(1, 600))
def test_all_distances_are_float32_sums_in_the_order_of_the_parts(seed, M, K, n):
    rng = np.random.default_rng(seed)
    segment = build(rng.integers(K, size=(n, M)).astype(np.uint8 if K <= 256 else np.uint16), np.arange(n))
    table = rng.random((M, K)).astype(np.float32)
    out = np.empty(len(segment.counts), dtype=np.float32)
    all_distances(table, segment.blocks, out)
    expected = np.zeros(len(out), dtype=np.float32)
    for m, column in enumerate(segment.codes().T):
        expected += table[m, column]
    assert_array_equal(out, expected)
