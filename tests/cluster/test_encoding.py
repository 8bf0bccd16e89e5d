"""Quantizers on arrays and frames of dask; no cluster is needed. And what takes no array of dask says so."""

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris

import skdpq
import skdpq.dask

X, Y = load_iris(return_X_y=True)
Y = np.array(["setosa", "versicolor", "virginica"])[Y]
X_DASK = da.from_array(X, chunks=(40, 2))
METHODS = {
    "quantizer": ["encode", "soft", "transform"],
    "classifier": [
        "encode",
        "soft",
        "transform",
        "predict_proba_soft",
        "predict",
        "predict_proba",
        "decision_function",
    ],
}


@pytest.fixture(scope="module")
def estimators():
    return {
        "quantizer": skdpq.ProductQuantizer(M=2, K=8, random_state=0).fit(X),
        "classifier": skdpq.DPQClassifier(M=2, K=4, max_iter=3, random_state=0).fit(X, Y),
    }


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in METHODS for method in METHODS[name]])
def test_what_is_computed_block_by_block_is_what_is_computed_at_once(estimators, name, method):
    call = getattr(estimators[name], method)
    expected, lazy = call(X), call(X_DASK)
    assert (lazy.dtype, lazy.shape, lazy.chunks[0]) == (expected.dtype, expected.shape, (40, 40, 40, 30))
    assert isinstance(lazy._meta, np.ndarray)
    found = lazy.compute(scheduler="synchronous")
    assert found.dtype == expected.dtype
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # products of other shapes round otherwise
    else:
        assert_array_equal(found, expected)


def test_frames_and_blocks_without_rows():
    frame = pd.DataFrame(X, columns=list("abcd"))
    quantizer = skdpq.ProductQuantizer(M=2, K=8, random_state=0).fit(frame)
    parts = dd.from_pandas(frame, npartitions=3)
    assert_array_equal(quantizer.encode(parts).compute(), quantizer.encode(frame))
    some = parts[parts.a > 5.5]
    assert_array_equal(quantizer.encode(some).compute(), quantizer.encode(frame[frame.a > 5.5]))
    with pytest.raises(ValueError, match="feature names"):
        quantizer.encode(parts.rename(columns={"a": "z"}))


def test_an_array_is_of_the_state_at_the_call(estimators):
    quantizer = estimators["quantizer"].__copy__()
    lazy, expected = quantizer.encode(X_DASK), quantizer.encode(X)
    quantizer.fit(X[:50] * 3)
    assert_array_equal(lazy.compute(), expected)


def test_nothing_is_computed_before_it_is_wanted(estimators):
    def refuse(block):
        raise RuntimeError("computed")

    bad = X_DASK.map_blocks(refuse, dtype=float, meta=np.empty((0, 0)))
    lazy = estimators["quantizer"].encode(bad)
    with pytest.raises(RuntimeError, match="computed"):
        lazy.compute()
    with pytest.raises(ValueError, match="expecting 4 features"):
        estimators["quantizer"].encode(bad[:, :3])


@pytest.mark.parametrize("labels", [Y, da.from_array(Y, chunks=70)])
def test_partial_fit_learns_from_each_block_once_in_shuffled_order(labels):
    seen = []

    class Recorded(skdpq.DPQClassifier):
        def _check_samples(self, X, y, sample_weight, reset):
            seen.append((X.copy(), np.asarray(y)))
            return super()._check_samples(X, y, sample_weight, reset)

    classifier = Recorded(M=2, K=4, random_state=0).partial_fit(X_DASK, labels)
    assert sorted(len(block) for block, _ in seen) == [30, 40, 40, 40]
    for block, of_block in seen:
        i = int(np.flatnonzero((block[0] == X).all(axis=1))[0])
        assert_array_equal(block, X[i : i + len(block)])
        assert_array_equal(of_block, Y[i : i + len(block)])
    firsts = [float(block[0, 0]) for block, _ in seen]
    assert firsts != [X[i, 0] for i in (0, 40, 80, 120)]
    assert_array_equal(classifier.classes_, np.unique(Y))
    again = skdpq.DPQClassifier(M=2, K=4, random_state=0)
    for block, of_block in seen:
        again.partial_fit(block, of_block, np.unique(Y))
    assert_array_equal(again.encode(X), classifier.encode(X))


def test_a_block_that_cannot_be_learned_changes_nothing():
    classifier = skdpq.DPQClassifier(M=2, K=4, random_state=0).partial_fit(X, Y, np.unique(Y))
    before = vars(classifier).copy()
    bad = da.concatenate([X_DASK, da.full((10, 4), np.nan)])
    with pytest.raises(ValueError, match="NaN"):
        classifier.partial_fit(bad, np.append(Y, Y[:10]))
    assert vars(classifier) == before
    with pytest.raises(ValueError, match="y with a value for each of 150 samples, got 149"):
        classifier.partial_fit(X_DASK, Y[1:])


def test_what_would_bring_an_array_here_raises(estimators):
    one = skdpq.DPQNeighbors(quantizer=skdpq.ProductQuantizer(M=2, K=8)).fit(X)
    for call in (
        lambda: skdpq.ProductQuantizer(M=2, K=8).fit(X_DASK),
        lambda: skdpq.DPQClassifier().fit(X_DASK, Y),
        lambda: skdpq.DPQClassifier().fit(X, da.from_array(Y)),
        lambda: skdpq.DPQNeighbors().fit(X_DASK),
        lambda: one.kneighbors(X_DASK),
        lambda: one.add(X_DASK),
        lambda: one.add_codes(da.zeros((3, 2), dtype=np.uint8)),
    ):
        with pytest.raises(TypeError, match="Expected values in memory, got a Array of dask"):
            call()
    assert dask.is_dask_collection(X_DASK)
