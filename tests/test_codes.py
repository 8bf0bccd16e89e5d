"""Codes: validation, and packing to ceil(M log2(K) / 8) bytes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skdpq._codes import check_codes, code_dtype, pack_codes, packed_width, unpack_codes

seeds = st.integers(0, 2**32 - 1)


def as_integers(codes, K):
    """Each row as the Python integer sum_m z_m K^m."""
    return [sum(int(z) * K**m for m, z in enumerate(row)) for row in codes]


def exact_width(M, K):
    """Return the smallest number of bytes that distinguishes K**M rows, by counting up."""
    width = 0
    while 256**width < K**M:
        width += 1
    return width


@given(st.integers(1, 64), st.integers(2, 65536), st.integers(0, 20), seeds)
@example(64, 65536, 3, 0)
@example(1, 2, 1, 0)
@example(64, 3, 5, 0)
def test_unpacking_undoes_packing_in_the_fewest_bytes(M, K, n, seed):
    codes = np.random.default_rng(seed).integers(K, size=(n, M))
    codes = np.vstack([codes, np.zeros((1, M), int), np.full((1, M), K - 1)])
    packed = pack_codes(codes, K)
    assert packed.dtype == np.uint8
    assert packed.shape == (n + 2, exact_width(M, K))
    assert packed.flags.c_contiguous
    assert [int.from_bytes(row.tobytes(), "little") for row in packed] == as_integers(codes, K)
    unpacked = unpack_codes(packed, M, K)
    assert unpacked.dtype == code_dtype(K)
    assert_array_equal(unpacked, codes)


@given(st.integers(1, 64), st.integers(2, 65536))
def test_the_packed_width_is_exact(M, K):
    assert packed_width(M, K) == exact_width(M, K)


@given(st.integers(1, 64), st.integers(1, 16), seeds)
def test_a_power_of_two_is_plain_bit_packing(M, bits, seed):
    codes = np.random.default_rng(seed).integers(2**bits, size=(7, M))
    each_bit = (codes[:, :, None] >> np.arange(bits)) & 1
    expected = np.packbits(each_bit.reshape(7, -1).astype(np.uint8), axis=1, bitorder="little")
    assert_array_equal(pack_codes(codes, 2**bits), expected)


@given(st.integers(1, 8), st.integers(2, 300), seeds)
def test_a_packed_row_that_no_codes_pack_to_is_refused(M, K, seed):
    width = packed_width(M, K)
    too_large = int(np.random.default_rng(seed).integers(2**31)) % max(1, 256**width - K**M) + K**M
    if too_large >= 256**width:  # every value is a row, as for K = 256
        assert_array_equal(as_integers(unpack_codes(np.full((1, width), 255, np.uint8), M, K), K), [K**M - 1])
        return
    packed = np.frombuffer(too_large.to_bytes(width, "little"), dtype=np.uint8)[None]
    with pytest.raises(ValueError, match="got a larger value"):
        unpack_codes(packed, M, K)


@pytest.mark.parametrize(("K", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_a_code_takes_one_byte_up_to_256_codewords(K, dtype):
    assert code_dtype(K) == dtype
    checked = check_codes([[0, K - 1]], 2, K)
    assert checked.dtype == dtype
    assert_array_equal(checked, [[0, K - 1]])
    assert unpack_codes(pack_codes([[0, K - 1]], K), 2, K).dtype == dtype


def test_packing_does_not_change_its_input():
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    packed = pack_codes(codes, 12)
    before = packed.copy()
    unpack_codes(packed, 4, 12)
    assert_array_equal(codes, np.arange(12).reshape(3, 4))
    assert_array_equal(packed, before)


def test_codes_that_need_no_conversion_are_not_copied():
    codes = np.zeros((3, 2), dtype=np.uint8)
    assert np.shares_memory(check_codes(codes, 2, 16), codes)


@pytest.mark.parametrize("make", [list, np.asfortranarray, pd.DataFrame, lambda c: c[:, ::-1][:, ::-1]])
def test_any_array_like_of_integers_is_taken(make):
    codes = np.arange(6).reshape(2, 3)
    checked = check_codes(make(codes), 3, 6)
    assert checked.flags.c_contiguous
    assert_array_equal(checked, codes)
    assert_array_equal(pack_codes(make(codes), 6), pack_codes(codes, 6))


def test_no_rows_pack_to_no_rows():
    packed = pack_codes(np.empty((0, 5), dtype=int), 10)
    assert packed.shape == (0, packed_width(5, 10))
    assert unpack_codes(packed, 5, 10).shape == (0, 5)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0.0, 1.0]], "integer codes"),
        ([[True, False]], "integer codes"),
        (np.array([[0, 1]], dtype=object), "integer codes"),
        ([["0", "1"]], "integer codes"),
        ([[0j, 1j]], "[Cc]omplex"),
        ([[np.nan, 1.0]], "NaN"),
        ([[-1, 0]], r"range\(4\), got values from -1 to 0"),
        ([[0, 4]], r"range\(4\), got values from 0 to 4"),
        (np.array([[0, 2**63]], dtype=np.uint64), r"range\(4\)"),
        ([0, 1], "2D"),
        (0, "2D"),
        ([[[0, 1]]], "dim"),
        ([[0], [0, 1]], "."),
    ],
)
def test_what_are_no_codes_is_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        check_codes(codes, 2, 4)
    with pytest.raises(ValueError, match=message):
        pack_codes(codes, 4)


def test_codes_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 3\), one column a part, got \(1, 2\)"):
        check_codes([[0, 1]], 3, 4)


@pytest.mark.parametrize("call", [lambda c: check_codes(c, 2, 4), lambda c: pack_codes(c, 4)])
def test_sparse_codes_are_a_type_error(call):
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        call(csr_array(np.array([[0, 1]])))


@pytest.mark.parametrize(
    "packed",
    [
        np.zeros((2, 3), np.uint8),
        np.zeros((2, 1), np.uint8),
        np.zeros(2, np.uint8),
        np.zeros((2, 2), np.int64),
        np.zeros((2, 2)),
        [[0, 0]],
    ],
)
def test_packed_codes_of_another_width_or_dtype_are_refused(packed):
    with pytest.raises(ValueError, match=r"dtype uint8 and shape \(n, 2\) for M=4, K=10"):
        unpack_codes(packed, 4, 10)


@pytest.mark.parametrize(("K", "error"), [(1, ValueError), (0, ValueError), (65537, ValueError), (4.0, TypeError)])
def test_k_out_of_range_is_refused(K, error):
    with pytest.raises(error, match="K"):
        pack_codes([[0, 0]], K)
    with pytest.raises(error, match="K"):
        unpack_codes(np.zeros((1, 1), np.uint8), 2, K)


def test_sizes_may_be_numpy_integers():
    codes = np.full((1, 64), 99)
    packed = pack_codes(codes, np.int64(100))  # 100**64 is beyond any NumPy integer
    assert_array_equal(unpack_codes(packed, np.int64(64), np.int32(100)), codes)


@pytest.mark.parametrize(("M", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_m_out_of_range_is_refused(M, error):
    with pytest.raises(error, match="M"):
        unpack_codes(np.zeros((1, 1), np.uint8), M, 4)
