"""Memory grows with what is asked for, and not with the wrong thing. Peaks are NumPy's, as tracemalloc sees them."""

import pickle
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq._learning import projection
from skdpq._learning.inputs import learn_scaling

MB = 2**20


@contextmanager
def measured():
    """Yield what will have the peak of a block in bytes, above its start."""
    result = SimpleNamespace()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield result
        result.peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def codebooks():
    return ProductQuantizer(M=8, K=256, max_iter=1, random_state=0).fit(
        np.random.default_rng(0).normal(size=(2000, 16))
    )


def n_bytes(index):
    return sum(array.nbytes for segment in index.segments for array in segment)


def test_an_item_takes_its_code_and_four_bytes_of_id(codebooks):
    codes = np.random.default_rng(0).integers(256, size=(100_000, 8), dtype=np.uint8)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(codebooks)).fit_codes(codes)
    assert n_bytes(neighbors.index_) < 13.5 * len(codes)
    assert len(pickle.dumps(neighbors)) < 14 * len(codes)
    assert neighbors.ids_.dtype == np.int64
    for first in range(0, 30_000, 1000):
        neighbors.remove(np.arange(first, first + 1000))
    assert n_bytes(neighbors.index_) < 13.5 * 70_000


def test_ids_of_any_size_are_found(codebooks):
    ids = np.array([0, 2**32 - 1, 2**32, 2**62, 2**63 - 2])
    codes = np.arange(40, dtype=np.uint8).reshape(5, 8)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(codebooks)).fit_codes(np.zeros((3, 8), np.uint8))
    neighbors.remove([0])
    neighbors.add_codes(codes, ids=ids)
    found = neighbors.kneighbors_codes(codes, 1, return_distance=False)[:, 0]
    assert_array_equal(found, ids)
    assert_array_equal(neighbors.ids_, sorted([1, 2, *ids.tolist()]))
    neighbors.remove(ids[2:])
    assert_array_equal(neighbors.kneighbors_codes(codes[:2], 1, return_distance=False)[:, 0], ids[:2])


@pytest.mark.parametrize("everything", [False, True])
def test_a_radius_search_that_would_not_fit_is_refused_with_what_it_would_take(codebooks, everything):
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(codebooks)).fit_codes(np.zeros((400_000, 8), np.uint8))
    X = None if everything else np.zeros((400_000, 16), np.float32)
    with pytest.raises(MemoryError, match=r"160,000,000,000 items, which take 5,960.5 GiB; [0-9,.]+ GiB are left"):
        neighbors.radius_neighbors(X, radius=1e9)
    few = neighbors.radius_neighbors(np.zeros((2, 16), np.float32), radius=1e9, return_distance=False)
    assert [len(ids) for ids in few] == [400_000, 400_000]
    assert len(neighbors.radius_neighbors(radius=-1.0, return_distance=False)) == 400_000


def test_one_prediction_computes_no_table_of_all_codewords():
    X = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    classifier = DPQClassifier(M=8, K=256, D=4, hidden_layer_sizes=(), part_layer_sizes=(), trunk_input="features")
    classifier.set_params(max_iter=1, batch_size=4000, random_state=0).fit(X, np.arange(4000) % 2000)
    assert_allclose(classifier.predict_proba(X[:1]), classifier.predict_proba(X[:300])[:1], atol=1e-6)
    assert_allclose(
        classifier.decision_function(X[:1]), classifier.decision_function(X[:300])[:1], rtol=1e-4, atol=1e-5
    )
    codes = classifier.encode(X[:1])
    with measured() as memory:
        classifier.predict_codes(codes)
    assert memory.peak < MB  # the table has 16


def wide(n, n_features, tmp_path):
    """Return a memory map of float32."""
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (n, n_features))
    X[:] = np.random.default_rng(0).normal(size=n_features)
    X += np.random.default_rng(1).normal(size=(n, 1))
    return X


def test_wide_samples_are_converted_a_few_at_a_time(tmp_path):
    X = wide(1200, 20_000, tmp_path)  # 92 MB
    with measured() as memory:
        scaling = learn_scaling(X, np.ones(len(X)))
    assert memory.peak < 1.5 * X.nbytes
    assert_allclose(scaling["mean_"][:5], X[:, :5].mean(axis=0), rtol=1e-3)
    dpq = DPQTransformer(M=2, K=4, D=2, hidden_layer_sizes=(4,), part_layer_sizes=(), max_iter=1, batch_size=1200)
    dpq.fit(X[:8], np.arange(8) % 2)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit_codes(np.zeros((1, 2), int))
    with measured() as memory:
        dpq.encode(X)
        dpq.soft(X)
        neighbors.kneighbors(X, 1)
    assert memory.peak < X.nbytes


def test_a_product_quantizer_learns_wide_data_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("skdpq.product_quantizer._n_threads", lambda: 8)
    X = wide(4000, 1600, tmp_path)  # 26 MB
    quantizer = ProductQuantizer(M=8, K=4, max_iter=2, random_state=0)
    side_by_side = quantizer.fit(X).codebooks_
    monkeypatch.setattr("skdpq.product_quantizer._PARTS_BYTES", 1)
    monkeypatch.setattr("skdpq.product_quantizer._BLOCK_VALUES", 2**18)
    with measured() as memory:
        quantizer.fit(X)
    assert memory.peak < 0.5 * X.nbytes
    assert_array_equal(quantizer.codebooks_, side_by_side)


def learn(X, n_most=2048, n_products=2**25, size=100):
    """Return targets of weighted samples by a projection, whose components are found by one way or another."""
    weight = np.linspace(0.5, 2, len(X))
    blocks = [(X[start : start + size], weight[start : start + size]) for start in range(0, len(X), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "_MAX_SQUARE", n_most)
        patch.setattr(projection, "_MAX_PRODUCTS_VALUES", n_products)
        P, bias = projection.learn_projection(lambda: iter(blocks), np.asarray, 3, 4, torch.Generator(), shared=False)
    return X @ P + bias


def test_components_are_the_same_however_they_are_found():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 30)) @ (rng.normal(size=(30, 500)) * np.geomspace(3, 0.3, 30)[:, None])
    X += rng.normal(size=500) + rng.normal(size=X.shape) * 1e-3
    whole, products, randomized = learn(X), learn(X, n_most=400), learn(X, n_most=10)
    assert_allclose(products, whole, atol=1e-9)
    # The generator draws the random subspace first, and so another projection: of the same components, if it is right.
    assert_allclose(randomized @ randomized.T, whole @ whole.T, atol=1e-3 * np.abs(whole @ whole.T).max())
    assert_allclose(learn(X, n_most=10, size=7), randomized, atol=1e-9)


@pytest.mark.parametrize("n", [40, 2100])
def test_the_projection_of_very_wide_samples_takes_no_square_of_their_width(n):
    X = np.random.default_rng(0).normal(size=(n, 9000)).astype(np.float32)  # whose covariance has 648 MB
    with measured() as memory:
        targets = learn(X, n_products=2**20)
    assert memory.peak < 150 * MB + (X.nbytes if n > 40 else 0)
    assert_allclose(np.average(np.square(targets).sum(axis=1), weights=np.linspace(0.5, 2, n)) / 3, 1)
