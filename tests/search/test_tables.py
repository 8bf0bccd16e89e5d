"""The three look-up tables against the formulas of sections 3.1.2 to 3.1.4."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from skdpq._codes import decode
from skdpq._search.tables import Queries, check_range, lut_asymmetric, lut_classification, lut_symmetric

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 6), st.integers(2, 20), st.integers(1, 9))


def make_codebooks(seed, size, scale=1.0, offset=0.0):
    return (np.random.default_rng(seed).normal(size=size) * scale + offset).astype(np.float32)


def lutc(codebooks, coef):
    """LUTC_m[c, k] = sum_d W_{(m-1)D+d,c} C_m(k)[d], at [m, k, c]."""
    M, K, D = codebooks.shape
    table = np.zeros((M, K, len(coef)))
    for m in range(M):
        for k in range(K):
            for c in range(len(coef)):
                table[m, k, c] = sum(float(coef[c, m * D + d]) * float(codebooks[m, k, d]) for d in range(D))
    return table


def lut_asym(codebooks, soft):
    """LUTASym_m[k] = sum_d (C_m(k)[d] - soft[(m-1)D+d])^2 of each query, in float64."""
    M, K, D = codebooks.shape
    table = np.zeros((len(soft), M, K))
    for d in range(D):
        difference = codebooks[None, :, :, d].astype(np.float64) - soft.reshape(-1, M, D)[:, :, None, d]
        table += difference * difference
    return table


def lut_sym(codebooks):
    """LUTSym_m[k1, k2] = sum_d (C_m(k1)[d] - C_m(k2)[d])^2, in float64."""
    return np.square(codebooks[:, :, None].astype(np.float64) - codebooks[:, None]).sum(axis=3)


@given(sizes, st.integers(1, 5), seeds)
def test_classification_tables_are_the_formula(size, n_classes, seed):
    codebooks = make_codebooks(seed, size)
    M, K, D = size
    rng = np.random.default_rng(seed)
    coef = rng.normal(size=(n_classes, M * D)).astype(np.float32)
    tables = lut_classification(codebooks, coef)
    assert tables.shape == (M, K, n_classes)
    assert_allclose(tables, lutc(codebooks, coef), rtol=1e-5, atol=1e-5)
    codes = rng.integers(K, size=(8, M))
    assert_allclose(tables[np.arange(M), codes].sum(axis=1), decode(codes, codebooks) @ coef.T, rtol=1e-4, atol=1e-4)


@given(sizes, st.integers(0, 6), seeds)
def test_asymmetric_tables_are_the_formula_rounded_once(size, n_queries, seed):
    codebooks = make_codebooks(seed, size)
    soft = np.random.default_rng(seed + 1).normal(size=(n_queries, size[0] * size[2])).astype(np.float32)
    tables = lut_asymmetric(codebooks, soft)
    assert tables.dtype == np.float32
    assert_array_equal(tables, lut_asym(codebooks, soft).astype(np.float32))


@given(sizes, seeds)
def test_symmetric_tables_are_the_formula(size, seed):
    codebooks = make_codebooks(seed, size)
    M, K, _ = size
    every_codeword = np.repeat(np.arange(K)[:, None], M, axis=1)
    whole = lut_symmetric(codebooks, every_codeword)  # [k1, m, k2]
    assert whole.dtype == np.float32
    assert_allclose(whole.transpose(1, 0, 2), lut_sym(codebooks), rtol=1e-6)
    assert_array_equal(whole, whole.transpose(2, 1, 0))
    assert_array_equal(whole[np.arange(K), :, np.arange(K)], 0)


@given(sizes, st.integers(1, 70), seeds)
@example((2, 8, 3), 8, 0)
@example((2, 8, 3), 9, 0)
def test_symmetric_tables_do_not_depend_on_how_many_queries_there_are(size, n_queries, seed):
    codebooks = make_codebooks(seed, size)
    codes = np.random.default_rng(seed).integers(size[1], size=(n_queries, size[0])).astype(np.uint8)
    together = lut_symmetric(codebooks, codes)
    one_by_one = np.concatenate([lut_symmetric(codebooks, row[None]) for row in codes])
    assert_array_equal(together, one_by_one)
    assert_array_equal(together, lut_asymmetric(codebooks, decode(codes, codebooks)))


@given(sizes, seeds)
def test_entries_of_a_code_sum_to_the_squared_distance_of_its_decoded_vector(size, seed):
    codebooks = make_codebooks(seed, size)
    M, K, D = size
    rng = np.random.default_rng(seed)
    codes, query_codes = rng.integers(K, size=(10, M)), rng.integers(K, size=(4, M))
    soft = rng.normal(size=(4, M * D)).astype(np.float32)
    hard = decode(codes, codebooks).astype(np.float64)
    for queries, tables in [
        (soft, lut_asymmetric(codebooks, soft)),
        (decode(query_codes, codebooks), lut_symmetric(codebooks, query_codes)),
    ]:
        expected = np.square(queries[:, None].astype(np.float64) - hard).sum(axis=2)
        assert_allclose(tables[:, np.arange(M), codes].sum(axis=2), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_tables_are_as_precise_as_float32_whatever_the_offset_and_scale(offset, scale):
    codebooks = make_codebooks(0, (4, 16, 8), scale, offset * scale)
    soft = make_codebooks(1, (5, 32), scale, offset * scale)
    asymmetric = lut_asymmetric(codebooks, soft)
    exact = np.square(codebooks[None].astype(np.float64) - soft.reshape(5, 4, 1, 8)).sum(axis=3)
    assert_allclose(asymmetric, exact, rtol=2e-7)
    symmetric = lut_symmetric(codebooks, np.repeat(np.arange(16)[:, None], 4, axis=1))
    assert_allclose(symmetric.transpose(1, 0, 2), lut_sym(codebooks), rtol=2e-7)


def test_tables_take_any_memory_layout():
    codebooks, soft = make_codebooks(0, (3, 5, 4)), make_codebooks(1, (6, 12))
    expected = lut_asymmetric(codebooks, soft)
    read_only = soft.copy()
    read_only.flags.writeable = False
    for layout in [np.asfortranarray(soft), np.repeat(soft, 2, axis=0)[::2], read_only]:
        assert_array_equal(lut_asymmetric(np.asfortranarray(codebooks), layout), expected)


@pytest.mark.parametrize("M", [1, 2, 7])
def test_sums_of_as_many_entries_as_parts_must_fit_float32(M):
    most = np.finfo(np.float32).max / M
    check_range(np.nextafter(most, 0), M)
    for largest in (most, np.inf, np.nan):
        with pytest.raises(ValueError, match="squared distances fit float32"):
            check_range(largest, M)


@pytest.mark.parametrize("symmetric", [False, True])
def test_queries_give_the_tables_and_vectors_of_a_block(symmetric):
    codebooks = make_codebooks(0, (3, 5, 2))
    codes = np.random.default_rng(0).integers(5, size=(9, 3))
    soft = make_codebooks(1, (9, 6))
    queries = Queries(codebooks, codes if symmetric else soft, symmetric)
    vectors = decode(codes, codebooks) if symmetric else soft
    assert len(queries) == 9
    assert_array_equal(queries.vectors(slice(2, 5)), vectors[2:5])
    assert_array_equal(queries.tables(slice(2, 5)), lut_asymmetric(codebooks, vectors[2:5]))
    assert queries.tables(slice(0, 0)).shape == (0, 3, 5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_tables_whose_sums_may_not_fit_float32_are_refused(symmetric):
    codebooks = np.array([0, 1.3e19], np.float32).reshape(1, 2, 1).repeat(4, axis=0)  # squared, half of the largest
    queries = Queries(codebooks, np.zeros((1, 4), int) if symmetric else np.zeros((1, 4), np.float32), symmetric)
    with pytest.raises(ValueError, match="squared distances fit float32"):
        queries.tables(slice(None))
