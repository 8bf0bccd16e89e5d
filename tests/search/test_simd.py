"""Sums of 8-bit entries by vector instructions, against NumPy."""

import numpy as np
import pytest
from numba import njit
from numpy.testing import assert_array_equal

from skdpq._search import simd
from skdpq._search.simd import BLOCK_CODES, HAS_SIMD, VECTOR_BYTES, mark_block, mark_queries, n_registers


@pytest.mark.parametrize(
    ("K", "expected"), [(2, 1), (64, 1), (65, 2), (128, 2), (129, 4), (256, 4), (257, 0), (65536, 0)]
)
def test_registers_hold_a_table(K, expected, monkeypatch):
    monkeypatch.setattr(simd, "HAS_SIMD", True)
    assert n_registers(K) == expected
    monkeypatch.setattr(simd, "HAS_SIMD", False)
    assert n_registers(K) == 0


@njit
def mark(registers, codes, table_u8, max_sum, masks):
    return mark_block(
        registers, codes.ctypes.data, table_u8.ctypes.data, len(codes), np.uint8(max_sum), masks.ctypes.data
    )


def bits(masks):
    """Return the bits of 64-bit words, from the lowest."""
    return np.unpackbits(masks.view(np.uint8), bitorder="little").astype(bool)


@pytest.mark.parametrize("K", [5, 64, 65, 128, 129, 200, 256])
@pytest.mark.parametrize("M", [1, 3, 8, 17])
def test_codes_of_a_block_are_marked_whose_saturating_sums_are_small(K, M):
    registers = n_registers(K)
    assert (registers > 0) == HAS_SIMD
    rng = np.random.default_rng(K + M)
    for largest in (30, 256) if HAS_SIMD else ():  # the latter saturates
        codes = rng.integers(K, size=(M, BLOCK_CODES)).astype(np.uint8)
        table_u8 = np.zeros((M, VECTOR_BYTES * registers), dtype=np.uint8)
        table_u8[:, :K] = rng.integers(0, largest, (M, K))
        sums = np.minimum(sum(table_u8[m, codes[m]].astype(int) for m in range(M)), 255)
        for max_sum in (0, int(np.median(sums)), 254):
            masks = np.zeros(BLOCK_CODES // 64, dtype=np.uint64)
            union = mark(registers, codes, table_u8, max_sum, masks)
            assert_array_equal(bits(masks), sums <= max_sum)
            assert int(union) == int(np.bitwise_or.reduce(masks))


@njit
def mark_all_queries(codes, table_u8, sums, new_sums):
    M, K, _ = table_u8.shape
    return mark_queries(codes.ctypes.data, table_u8.ctypes.data, K, M, sums.ctypes.data, new_sums.ctypes.data)


@pytest.mark.parametrize("M", [0, 1, 2, 6])
@pytest.mark.parametrize("K", [2, 16, 256])
def test_queries_are_marked_whose_saturating_sums_are_below_255(M, K):
    rng = np.random.default_rng(M + K)
    for _ in range(20):
        table_u8 = rng.integers(0, 100, (M, K, 64)).astype(np.uint8)
        code = rng.integers(K, size=M)
        codes = np.zeros((M, BLOCK_CODES), dtype=np.uint8)
        codes[:, 0] = code
        before = rng.integers(0, 256, 64).astype(np.uint8)
        after = np.zeros(64, dtype=np.uint8)
        mask = mark_all_queries(codes, table_u8, before, after)
        expected = np.minimum(before.astype(int) + table_u8[np.arange(M), code].astype(int).sum(axis=0), 255)
        assert_array_equal(after, expected)
        assert_array_equal(bits(np.array([mask], dtype=np.uint64)), expected < 255)
