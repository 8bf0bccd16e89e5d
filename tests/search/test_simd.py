"""SIMD primitives against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_array_equal

from skdpq._search import simd
from skdpq._search.simd import (
    BLOCK_CODES,
    HAS_SIMD,
    VECTOR_BYTES,
    bits_float,
    float_bits,
    mark_block,
    mark_queries,
    n_registers,
    trailing_zeros,
)

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("K", "expected"), [(1, 1), (2, 1), (64, 1), (65, 2), (128, 2), (129, 4), (256, 4), (257, 0), (65536, 0)]
)
def test_registers_hold_a_table(K, expected, monkeypatch):
    monkeypatch.setattr(simd, "HAS_SIMD", True)
    assert n_registers(K) == expected
    monkeypatch.setattr(simd, "HAS_SIMD", False)
    assert n_registers(K) == 0


def saturating_sums(entries):
    """Return sums over the parts of 8-bit entries (M, n) that stand at most at 255."""
    return np.minimum(entries.astype(np.int64).sum(axis=0), 255)


def make_entries(rng, shape):
    """Return 8-bit entries whose sums are around 255, so that some saturate."""
    return rng.integers(0, 1 + 2 * 255 // shape[0], size=shape).clip(0, 255).astype(np.uint8)


if HAS_SIMD:

    @njit
    def call_mark_block(n_registers, codes, table_u8, max_sum, masks):
        return mark_block(
            n_registers, codes.ctypes.data, table_u8.ctypes.data, len(codes), np.uint8(max_sum), masks.ctypes.data
        )

    @pytest.mark.parametrize("K", [1, 2, 63, 64, 65, 127, 128, 129, 200, 255, 256])
    @given(M=st.integers(1, 20), max_sum=st.integers(0, 255), seed=seeds)
    def test_codes_are_marked_where_their_saturating_sum_is_at_most_the_largest(K, M, max_sum, seed):
        rng = np.random.default_rng(seed)
        codes = rng.integers(K, size=(M, BLOCK_CODES)).astype(np.uint8)
        table_u8 = make_entries(rng, (M, VECTOR_BYTES * n_registers(K)))
        masks = np.zeros(4, dtype=np.uint64)
        union = call_mark_block(n_registers(K), codes, table_u8, max_sum, masks)
        expected = saturating_sums(np.take_along_axis(table_u8, codes.astype(np.int64), axis=1)) <= max_sum
        assert_array_equal(np.unpackbits(masks.view(np.uint8), bitorder="little"), expected)
        assert union == np.bitwise_or.reduce(masks)


@njit
def call_mark_queries(codes, tables_u8, sums, new_sums):
    M, K, _ = tables_u8.shape
    return mark_queries(codes.ctypes.data, tables_u8.ctypes.data, K, M, sums.ctypes.data, new_sums.ctypes.data)


@given(M=st.integers(0, 12), K=st.integers(1, 256), i=st.integers(0, BLOCK_CODES - 1), seed=seeds)
def test_queries_are_marked_where_their_saturating_sum_is_below_255(M, K, i, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(K, size=(M, BLOCK_CODES)).astype(np.uint8)
    tables_u8 = make_entries(rng, (M + 1, K, VECTOR_BYTES))[:M]
    sums = rng.integers(0, 256, size=VECTOR_BYTES).astype(np.uint8)
    before, new_sums = sums.copy(), np.zeros(VECTOR_BYTES, dtype=np.uint8)
    marked = call_mark_queries(codes.ravel()[i:], tables_u8, sums, new_sums)
    expected = saturating_sums(np.vstack([sums, *(tables_u8[m, codes[m, i]] for m in range(M))]))
    assert_array_equal(new_sums, expected)
    assert_array_equal(sums, before)
    assert_array_equal(np.unpackbits(np.array([marked], np.uint64).view(np.uint8), bitorder="little"), expected < 255)


@njit
def call_trailing_zeros(word):
    return trailing_zeros(word)


@given(st.integers(1, 2**64 - 1))
def test_trailing_zeros_are_the_position_of_the_lowest_bit(word):
    assert call_trailing_zeros(np.uint64(word)) == bin(word)[::-1].index("1")


@njit
def call_float_bits(x):
    return float_bits(x)


@njit
def call_bits_float(bits):
    return bits_float(bits)


@given(st.floats(min_value=0, width=32), st.floats(min_value=0, width=32))
def test_bits_of_floats_that_are_not_negative_are_in_their_order(x, y):
    x, y = np.float32(abs(x)), np.float32(abs(y))
    assert call_float_bits(x) == x.view(np.uint32)
    assert call_bits_float(call_float_bits(x)) == x
    assert (x < y) == (call_float_bits(x) < call_float_bits(y))
