"""Posteriors of codes: as accurate as SciPy's, and the same wherever a code stands."""

import numpy as np
import pytest
from _from_python import from_python
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from skdpq._search import posteriors
from skdpq._search.posteriors import (
    ROW_CODES,
    CodeClassifier,
    check_classifier,
    code_posteriors,
    exp,
)

block_posteriors, code_summary = map(from_python, (posteriors.block_posteriors, posteriors.code_summary))

seeds = st.integers(0, 2**32 - 1)


@njit
def exponentials(x):
    values = np.empty_like(x)
    for i in range(len(x)):
        values[i] = exp(x[i])
    return values


def test_the_exponential_function_is_accurate_to_rounding():
    rng = np.random.default_rng(0)
    x = -np.concatenate((np.zeros(1), rng.random(100_000) * 708, 10.0 ** rng.uniform(-300, 2, 100_000)))
    assert_allclose(exponentials(x), np.exp(x), rtol=5e-16)
    assert exponentials(np.array([0.0, -0.0])).tolist() == [1, 1]
    assert (exponentials(np.array([-709.0, -1e300, -np.inf])).astype(np.float32) == 0).all()


def make(seed, C, scale, n=70, M=5, K=30):
    rng = np.random.default_rng(seed)
    lutc = (rng.normal(size=(M, K, C)) * scale).astype(np.float32)
    classifier = CodeClassifier(lutc, rng.normal(size=C).astype(np.float32))
    return rng.integers(K, size=(n, M)).astype(np.uint8), classifier


@given(seeds, st.integers(1, 40), st.sampled_from([0, 1, 30, 1e30]))
def test_posteriors_are_the_softmax_of_bias_and_tables(seed, C, scale):
    codes, classifier = make(seed, C, scale)
    scores = classifier.bias.astype(np.float64)
    for m in range(codes.shape[1]):
        scores = scores + classifier.lutc[m, codes[:, m]].astype(np.float64)
    found = code_posteriors(codes, classifier)
    assert found.dtype == np.float32
    assert_allclose(found, softmax(scores, axis=1), rtol=1e-7, atol=1e-37)
    assert (np.abs(found.sum(axis=1, dtype=np.float64) - 1) < 2.0**-24).all()


@given(seeds, st.integers(1, 40), st.sampled_from([0, 1, 30, 1e30]), st.integers(1, 256))
def test_a_block_has_the_posteriors_of_its_codes(seed, C, scale, n):
    codes, classifier = make(seed, C, scale, n=256)
    columns = np.full((C, 256), np.nan, np.float32)
    rows, scores = np.empty((ROW_CODES, C), np.float32), np.empty(C)
    block_posteriors(np.ascontiguousarray(codes.T), n, classifier, rows, scores, columns)
    expected = code_posteriors(codes, classifier)
    assert_array_equal(columns[:, :n].T, expected[:n])
    assert not columns[:, n:].any()
    top, doubt, highest, normalizer = code_summary(codes[0], classifier, scores)
    assert expected[0, top] == expected[0].max()
    assert_allclose(doubt, 1 - expected[0, top], atol=1e-7)
    assert np.float32(normalizer) == expected[0, top]
    score = float(classifier.bias[top])
    for table, z in zip(classifier.lutc, codes[0], strict=True):
        score += float(table[z, top])
    assert highest == score


@pytest.mark.parametrize(
    ("lutc", "bias"),
    [
        (np.zeros((2, 3, 4)), np.zeros(5)),
        (np.zeros((2, 4, 4)), np.zeros(4)),
        (np.zeros((2, 3, 0)), np.zeros(0)),
        (np.zeros((2, 3, 1)), np.zeros((1, 1))),
        (np.full((2, 3, 4), np.nan), np.zeros(4)),
        (np.zeros((2, 3, 4)), np.full(4, np.inf)),
    ],
)
def test_tables_that_classify_nothing_are_refused(lutc, bias):
    with pytest.raises(ValueError, match="Expected"):
        check_classifier(lutc, bias, 2, 3)
