"""Every answer of a database on a cluster is, bit for bit, that of one index over the same data."""

import os
from typing import NamedTuple

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator

import skdpq
import skdpq.dask

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
N_EXAMPLES = int(os.environ.get("SKDPQ_EXAMPLES", "4"))  # of each number of shards and workers
QUANTIZERS = {
    "euclidean": FrozenEstimator(skdpq.ProductQuantizer(M=2, K=4, random_state=0).fit(X)),
    "relevance": FrozenEstimator(skdpq.DPQTransformer(M=2, K=4, max_iter=3, random_state=0).fit(X, Y)),
}


class Change(NamedTuple):
    """Items that are added: their samples, labels or None, ids or None, and how many of all are removed after it."""

    samples: np.ndarray
    labels: np.ndarray | None
    ids: list | None
    n_removed: int


def draw_history(random):
    """Draw changes of a database, the first of which has an item or more."""
    kind = random.choice(["default", "integers", "strings"])
    sizes = [random.integers(1, 31), *random.integers(0, 13, random.integers(0, 3))]
    numbers = random.permutation(3 * sum(sizes))[: sum(sizes)]
    changes, start = [], 0
    for size in sizes:
        ids = numbers[start : start + size]
        ids = {"default": None, "integers": ids, "strings": [f"item {i}" for i in ids]}[kind]
        labels = NAMES[random.integers(0, 3, size)] if random.random() < 0.6 else None
        samples = X[random.integers(0, len(X), size)]  # of 16 codes at most, so many are equally far
        changes.append(Change(samples, labels, ids, random.integers(0, size // 2 + 1)))
        start += size
    return changes


def build(one, many, history, chunk):
    """Make two databases by the same changes, the second of dask arrays of `chunk` rows unless that is None."""

    def wrap(values):
        wanted = chunk and values is not None and len(values)
        return da.from_array(values, chunks=(chunk, *values.shape[1:])) if wanted else values

    for i, (samples, labels, ids, n_removed) in enumerate(history):
        if i == 0 or len(samples):
            method = "add" if i else "fit"
            getattr(one, method)(samples, labels, ids=ids)
            getattr(many, method)(wrap(samples), wrap(labels), ids=ids)
        removed = one.ids_[:: max(1, len(one) // max(1, n_removed))][:n_removed]
        if len(removed):
            one.remove(removed)
            many.remove(removed)


def flat(found):
    """Return arrays of numbers or names, whatever a search returned."""
    arrays = []
    for array in found if isinstance(found, tuple) else (found,):
        array = np.asarray(array)
        if array.dtype == object and array.ndim == 1 and all(isinstance(row, np.ndarray) for row in array):
            arrays += [np.array([len(row) for row in array]), np.concatenate([np.empty(0), *array])]
        else:
            arrays.append(array)
    return arrays


def answers(estimator, queries, among):
    """Yield what an estimator answers to everything."""
    n = estimator.n_samples_fit_
    k = max(1, n // 2)
    labelled = hasattr(estimator, "classes_")
    ids, codes, labels = dask.compute(estimator.ids_, estimator.codes_, estimator.labels_ if labelled else None)
    yield ids
    yield codes
    yield estimator.kneighbors(queries, k)
    yield estimator.kneighbors(queries, n, return_distance=False)
    yield estimator.kneighbors_codes(codes[:5], k)
    yield estimator.radius_neighbors(queries, 0.6)
    yield estimator.radius_neighbors(radius=0.5)
    yield estimator.kneighbors_graph(queries, k, mode="distance").toarray()
    yield estimator.radius_neighbors_graph(queries, 0.6).toarray()
    if n > 1:
        yield estimator.kneighbors(n_neighbors=k if k < n else n - 1)
    for allowed in (among, ids[among]):
        yield estimator.kneighbors(queries, max(1, among.sum() // 2), among=allowed)
        yield estimator.radius_neighbors(queries, 0.7, among=allowed)
        yield estimator.kneighbors(n_neighbors=max(1, among.sum() // 2), among=allowed) if among.sum() > 1 else 0
    yield estimator.reconstruct(ids[::3])
    yield labelled
    if labelled:
        yield estimator.classes_
        yield labels
        yield estimator.labels_of(ids[labels >= 0])
        if (labels >= 0).all():
            yield estimator.score(queries, NAMES[Y[: len(queries)]])


def assert_same(found, expected):
    for array, wanted in zip(flat(found), flat(expected), strict=True):
        assert_array_equal(array, wanted)
        assert array.dtype == wanted.dtype or array.dtype.kind == "i"  # labels_ is as narrow as it can be


def check(history, metric, search, n_shards, chunk):
    params = {"quantizer": QUANTIZERS[metric], "metric": metric, "search": search}
    one = skdpq.DPQNeighbors(**params)
    many = skdpq.dask.DPQNeighbors(**params, n_shards=n_shards)
    build(one, many, history, chunk)
    if not len(one):
        assert not len(many)
        return
    among, queries = np.arange(len(one)) % 3 != 1, X[5::30]
    for found, expected in zip(answers(many, queries, among), answers(one, queries, among), strict=True):
        assert_same(found, expected)
    of_dask = da.from_array(queries, chunks=(2, -1))
    lazy = many.kneighbors(of_dask, 1), many.radius_neighbors(of_dask, 0.6, among=among)
    for found, expected in zip(
        dask.compute(*lazy), (one.kneighbors(queries, 1), one.radius_neighbors(queries, 0.6, among=among)), strict=True
    ):
        assert_same(found, expected)


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("n_shards", [1, 2, 7])
def test_answers_are_those_of_one_index(n_shards, n_workers, one_worker, two_workers):
    # Not by Hypothesis, which forbids other threads to draw from Python's generator, as those of a cluster do.
    random = np.random.default_rng([n_shards, n_workers])
    with (one_worker if n_workers == 1 else two_workers).as_current():
        for i in range(N_EXAMPLES):
            search, chunk = random.choice(["asymmetric", "symmetric"]), random.choice([0, 4, 11])
            check(draw_history(random), list(QUANTIZERS)[i % 2], str(search), n_shards, int(chunk))


@pytest.mark.parametrize("everything", [False, True])
def test_a_radius_search_that_would_not_fit_here_is_refused_before_it_is_begun(client, monkeypatch, everything):
    many = skdpq.dask.DPQNeighbors(quantizer=QUANTIZERS["euclidean"], n_shards=2).fit(np.tile(X[:1], (3000, 1)))
    queries = None if everything else np.tile(X[:1], (3000, 1))
    monkeypatch.setattr("skdpq._search.memory.memory_left", lambda: 2**20)  # of the client; workers have theirs
    with pytest.raises(MemoryError, match=r"of 3,000 queries are about 9,000,000 items, which take 0\.3 GiB"):
        many.radius_neighbors(queries, radius=1e9)
    assert len(many.radius_neighbors(X[:1], radius=1e9, return_distance=False)[0]) == 3000
    assert len(many.radius_neighbors(queries, radius=-1.0 if everything else 0.0, return_distance=False)) == 3000
