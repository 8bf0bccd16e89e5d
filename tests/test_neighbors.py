"""DPQNeighbors beside scikit-learn's NearestNeighbors, against brute force, and what it has beyond."""

import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import euclidean_distances
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer, NearestNeighbors
from sklearn.pipeline import make_pipeline

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq._search.posteriors import CodeClassifier, code_posteriors
from skdpq.metrics import mean_average_precision, retrieval_scorer

M = 2


class RowQuantizer(BaseEstimator):
    """A user's own quantizer: the codewords are parts of K rows of X, by default of all, so no row loses anything."""

    def __init__(self, M=M, K=None):
        self.M = M
        self.K = K

    def fit(self, X, y=None, sample_weight=None):
        X = np.asarray(X, dtype=np.float32)
        rows = X if self.K is None else np.random.default_rng(0).permutation(X)[: self.K]
        self.codebooks_ = rows.reshape(len(rows), self.M, -1).transpose(1, 0, 2)
        self.sample_weight_ = sample_weight
        return self

    def soft(self, X):
        return np.asarray(X, dtype=np.float32)

    def encode(self, X):
        parts = self.soft(X).reshape(-1, self.M, 1, self.codebooks_.shape[2])
        return np.square(parts - self.codebooks_).sum(axis=3).argmin(axis=2)

    def decode(self, codes):
        return self.codebooks_[np.arange(self.M), codes].reshape(len(codes), -1)


LOSSLESS = [RowQuantizer(), ProductQuantizer(M=M, K=64)]  # at most 64 rows are their own codewords


@pytest.fixture(scope="module")
def data():
    """Database and queries of integers, whose distances float32 holds exactly, no two of a query equal."""
    rng = np.random.default_rng(0)
    X, Q = rng.integers(0, 1500, size=(60, 4)).astype(float), rng.integers(0, 1500, size=(25, 4)).astype(float)
    for queries in (X, Q):
        assert all(len(np.unique(row)) == len(X) for row in euclidean_distances(queries, X))
    return X, Q


@pytest.fixture(params=LOSSLESS, ids=lambda quantizer: type(quantizer).__name__)
def pair(request, data):
    """Ours and scikit-learn's, fitted on the same data."""
    options = {"n_neighbors": 4, "radius": 700.0}
    ours = DPQNeighbors(quantizer=request.param, **options).fit(data[0])
    return ours, NearestNeighbors(algorithm="brute", **options).fit(data[0])


@pytest.fixture(scope="module")
def labelled():
    """Two hundred clustered samples, fifty queries, and labels of both."""
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=250)
    X = rng.normal(size=(250, 6)) + 2 * y[:, None]
    return X[:200], X[200:], y[:200], y[200:]


@pytest.fixture(scope="module")
def dpq(digits):
    """A DPQTransformer, trained briefly."""
    X, _, y, _ = digits
    return DPQTransformer(M=4, K=16, max_iter=3, random_state=0).fit(X, y)


def brute_force(soft, hard, ids, n_parts=M):
    """Return all distances and ids by (distance, id), one row a query."""
    squares = np.zeros((len(soft), len(hard)), dtype=np.float32)
    for x, y in zip(np.split(soft, n_parts, axis=1), np.split(hard, n_parts, axis=1), strict=True):
        part = np.zeros(squares.shape)
        for d in range(x.shape[1]):  # exact in each part
            part += np.square(x[:, d, None].astype(np.float64) - y[:, d])
        squares += part.astype(np.float32)
    order = np.array([np.lexsort((ids, row)) for row in squares])
    return np.sqrt(np.take_along_axis(squares, order, axis=1), dtype=np.float64), np.asarray(ids)[order]


def state(value):
    """Everything that an object holds, in a form that == compares."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: state(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(state, value))
    if hasattr(value, "__dict__"):
        return type(value), state(vars(value))
    return value


def assert_same(actual, expected):
    """Equality of results, their dtypes and their nesting."""
    assert type(actual) is type(expected)
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif expected.dtype == object:
        assert actual.shape == expected.shape
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual.dtype == expected.dtype
        assert_array_equal(actual, expected)


def assert_same_graph(actual, expected):
    assert type(actual) is type(expected)
    assert actual.shape == expected.shape
    for name in ("data", "indices", "indptr"):
        assert_same(getattr(actual, name), getattr(expected, name))


def in_order(found):
    """Sort the unsorted results of radius_neighbors."""
    distances, indices = found
    for i, row in enumerate(distances):
        order = np.argsort(row)
        distances[i], indices[i] = row[order], indices[i][order]
    return distances, indices


# Side by side with NearestNeighbors, without loss

METHODS = ["kneighbors", "radius_neighbors", "kneighbors_graph", "radius_neighbors_graph"]


@pytest.mark.parametrize("method", METHODS)
def test_signatures_are_those_of_nearest_neighbors(method):
    ours, theirs = (inspect.signature(getattr(c, method)) for c in (DPQNeighbors, NearestNeighbors))
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values() if p.name != "among"] == [
        (p.name, p.default, p.kind) for p in theirs.parameters.values()
    ]


def test_fit_and_parameters_begin_as_those_of_nearest_neighbors():
    ours, theirs = (inspect.signature(c.fit).parameters for c in (DPQNeighbors, NearestNeighbors))
    assert [(p.name, p.default) for p in list(ours.values())[: len(theirs)]] == [
        (p.name, p.default) for p in theirs.values()
    ]
    ours, theirs = (inspect.signature(c).parameters for c in (DPQNeighbors, NearestNeighbors))
    for name in ("n_neighbors", "radius", "n_jobs"):
        assert ours[name].default == theirs[name].default


@pytest.mark.parametrize("options", [{}, {"n_neighbors": 1}, {"n_neighbors": np.int32(7)}, {"return_distance": False}])
def test_kneighbors_is_that_of_nearest_neighbors(pair, data, options):
    ours, theirs = pair
    for queries in (data[1], data[0], data[1].tolist(), data[1].astype(np.float32), data[1].astype(int), None):
        assert_same(ours.kneighbors(queries, **options), theirs.kneighbors(queries, **options))


def test_all_items_may_be_neighbors(pair, data):
    ours, theirs = pair
    assert_same(ours.kneighbors(data[1], 60), theirs.kneighbors(data[1], 60))
    assert_same(ours.kneighbors(None, 59), theirs.kneighbors(None, 59))


def test_a_symmetric_search_agrees_where_queries_lose_nothing(pair, data):
    ours, theirs = pair
    ours = clone(ours).set_params(search="symmetric").fit(data[0])
    assert_same(ours.kneighbors(data[0][:9]), theirs.kneighbors(data[0][:9]))
    assert_same(ours.kneighbors(), theirs.kneighbors())
    assert_same(ours.kneighbors_codes(ours.codes_[:9]), theirs.kneighbors(data[0][:9]))


@pytest.mark.parametrize("radius", [None, 0, 1, 400.0, np.float32(900), 1e30, np.float32(1e30), 1e300, np.inf])
def test_radius_neighbors_is_that_of_nearest_neighbors(pair, data, radius):
    ours, theirs = pair
    for queries in (data[1], data[0], data[1].tolist(), None):
        assert_same(
            ours.radius_neighbors(queries, radius, sort_results=True),
            theirs.radius_neighbors(queries, radius, sort_results=True),
        )
        assert_same(ours.radius_neighbors(queries, radius), in_order(theirs.radius_neighbors(queries, radius)))
        assert_same(
            ours.radius_neighbors(queries, radius, return_distance=False),
            theirs.radius_neighbors(queries, radius, sort_results=True)[1],
        )


def test_the_boundary_is_within_the_radius():
    X = np.array([[0.0, 0], [3, 4], [6, 8], [5, 12]])
    theirs = NearestNeighbors(algorithm="brute").fit(X)
    for quantizer in LOSSLESS:
        ours = DPQNeighbors(quantizer=quantizer).fit(X)
        for radius in (5, 10, 13, np.nextafter(10, 0), np.nextafter(10, 11)):
            expected = theirs.radius_neighbors([[0, 0]], radius, sort_results=True)
            assert_same(ours.radius_neighbors([[0, 0]], radius), expected)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e15])
def test_a_radius_that_is_a_distance_includes_it(labelled, scale):
    X, Q, _, _ = labelled
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=M, K=8, random_state=0)).fit(X * scale)
    distances = ours.kneighbors(Q * scale, 200)[0]
    for rank in (0, 9, 199):
        for i in range(0, 50, 7):
            radius = distances[i, rank]
            within = ours.radius_neighbors(Q[i : i + 1] * scale, radius)[0][0]
            assert_array_equal(within, distances[i][distances[i] <= radius])
            closer = ours.radius_neighbors(Q[i : i + 1] * scale, np.nextafter(radius, 0))[0][0]
            assert_array_equal(closer, distances[i][distances[i] < radius])


@pytest.mark.parametrize("interface", ["spmatrix", "sparray"])
@pytest.mark.parametrize("mode", ["connectivity", "distance"])
def test_graphs_are_those_of_nearest_neighbors(pair, data, mode, interface):
    ours, theirs = pair
    with config_context(sparse_interface=interface):
        for queries in (data[1], None):
            for k in (None, 3):
                assert_same_graph(*(e.kneighbors_graph(queries, k, mode=mode) for e in pair))
            for radius in (None, 1.0, 900):
                graph = ours.radius_neighbors_graph(queries, radius, mode=mode)
                expected = theirs.radius_neighbors_graph(queries, radius, mode=mode, sort_results=mode == "distance")
                assert type(graph) is type(expected)
                assert_array_equal(graph.toarray(), expected.toarray())
                if mode == "distance":
                    assert_same_graph(graph, expected)


@pytest.mark.parametrize("mode", ["connectivity", "distance"])
@pytest.mark.parametrize("quantizer", LOSSLESS)
def test_as_a_transformer_it_is_kneighborstransformer(data, mode, quantizer):
    X, Q = data
    ours = DPQNeighbors(n_neighbors=4, mode=mode, quantizer=quantizer)
    theirs = KNeighborsTransformer(n_neighbors=4, mode=mode, algorithm="brute")
    assert_same_graph(ours.fit_transform(X), theirs.fit_transform(X))
    assert_same_graph(ours.transform(Q), theirs.transform(Q))
    assert len(ours.get_feature_names_out()) == len(theirs.get_feature_names_out()) == len(X)
    y = np.arange(60) % 3
    predictions = [
        make_pipeline(graph, KNeighborsClassifier(n_neighbors=4, metric="precomputed")).fit(X, y).predict(Q)
        for graph in (ours, theirs)
    ]
    assert_array_equal(*predictions)


CALLS = {
    "k = 0": lambda e, Q: e.kneighbors(Q, 0),
    "k = 0 without X": lambda e, Q: e.kneighbors(n_neighbors=0),
    "negative k": lambda e, Q: e.kneighbors(Q, -3),
    "float k": lambda e, Q: e.kneighbors(Q, 2.5),
    "whole float k": lambda e, Q: e.kneighbors(Q, 2.0),
    "k > n": lambda e, Q: e.kneighbors(Q, 61),
    "k = n without X": lambda e, Q: e.kneighbors(None, 60),
    "k > n without X": lambda e, Q: e.kneighbors(None, 1000),
    "n_neighbors > n": lambda e, Q: e.set_params(n_neighbors=61).kneighbors(Q),
    "n_neighbors = n without X": lambda e, Q: e.set_params(n_neighbors=60).kneighbors(),
    "graph, k = 0": lambda e, Q: e.kneighbors_graph(Q, 0),
    "graph, float k": lambda e, Q: e.kneighbors_graph(Q, 1.5),
    "graph, k > n": lambda e, Q: e.kneighbors_graph(Q, 61),
    "graph, k = n without X": lambda e, Q: e.kneighbors_graph(None, 60),
    "graph, mode": lambda e, Q: e.kneighbors_graph(Q, mode="distances"),
    "radius graph, mode": lambda e, Q: e.radius_neighbors_graph(Q, mode=None),
    "sorted without distances": lambda e, Q: e.radius_neighbors(Q, return_distance=False, sort_results=True),
    "too narrow": lambda e, Q: e.kneighbors(Q[:, :3]),
    "too wide": lambda e, Q: e.kneighbors(np.hstack([Q, Q])),
    "radius, too narrow": lambda e, Q: e.radius_neighbors(Q[:, :3]),
    "radius graph, too narrow": lambda e, Q: e.radius_neighbors_graph(Q[:, :3]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_errors_are_those_of_nearest_neighbors_word_for_word(pair, data, call):
    errors = []
    for estimator in pair:
        with pytest.raises((ValueError, TypeError)) as info:
            call(estimator, data[1])
        errors.append((type(info.value), str(info.value).replace("DPQNeighbors", "NearestNeighbors")))
    assert errors[0] == errors[1]


def spoilt(Q, value):
    Q = Q.copy()
    Q[3, 2] = value
    return Q


BAD_QUERIES = {
    "1-D": (lambda Q: Q[0], "Expected 2D array, got 1D array"),
    "3-D": (lambda Q: Q[None], "features"),
    "a number": (lambda Q: 5, "Expected 2D array, got scalar array"),
    "empty": (lambda Q: Q[:0], r"0 sample\(s\)"),
    "no features": (lambda Q: Q[:, :0], r"0 feature\(s\)"),
    "NaN": (lambda Q: spoilt(Q, np.nan), "contains NaN"),
    "inf": (lambda Q: spoilt(Q, np.inf), "contains infinity"),
    "complex": (lambda Q: Q + 1j, "Complex data not supported"),
    "text": (lambda Q: [["a", "b", "c", "d"]], "."),
    "ragged": (lambda Q: [[1, 2, 3, 4], [1, 2, 3]], "inhomogeneous"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
@pytest.mark.parametrize(("bad", "message"), BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_queries_are_refused_as_by_nearest_neighbors(data, method, search, bad, message):
    X, Q = data
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=M, K=64), search=search).fit(X)
    before = state(ours)
    with pytest.raises(ValueError, match=r"\w") as theirs:
        getattr(NearestNeighbors(algorithm="brute").fit(X), method)(bad(Q))
    with pytest.raises(type(theirs.value), match=message):
        getattr(ours, method)(bad(Q))
    assert state(ours) == before


def test_sparse_queries_are_a_type_error(data):
    X, Q = data
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=M, K=64)).fit(X)
    for call in (ours.kneighbors, ours.radius_neighbors, ours.add, clone(ours).fit):
        with pytest.raises(TypeError, match=r"[Ss]parse"):
            call(csr_array(Q))


@pytest.mark.parametrize("radius", [np.nan, "1", [1.0]])
def test_a_radius_that_is_no_number_is_refused(pair, data, radius):
    with pytest.raises(ValueError, match="radius"):
        pair[0].radius_neighbors(data[1], radius)


def test_methods_of_an_unfitted_estimator_raise_as_those_of_nearest_neighbors(data):
    Q = data[1]
    for method in METHODS:
        messages = []
        for estimator in (DPQNeighbors(), NearestNeighbors()):
            with pytest.raises(NotFittedError) as info:
                getattr(estimator, method)(Q)
            messages.append(str(info.value).replace("DPQNeighbors", "NearestNeighbors"))
        assert messages[0] == messages[1]
    codes = np.zeros((1, M), int)
    for method, *args in [
        ("kneighbors_codes", codes),
        ("add", Q),
        ("add_codes", codes),
        ("remove", [0]),
        ("score", Q, codes[0]),
        ("transform", Q),
    ]:
        with pytest.raises(NotFittedError):
            getattr(DPQNeighbors(), method)(*args)
    for name in ("codes_", "ids_", "n_samples_fit_"):
        assert not hasattr(DPQNeighbors(), name)
        with pytest.raises(NotFittedError):
            getattr(DPQNeighbors(), name)


@pytest.mark.parametrize(
    "params",
    [
        {"n_neighbors": 0},
        {"n_neighbors": 1.5},
        {"radius": -1},
        {"metric": "cosine"},
        {"search": "both"},
        {"mode": "x"},
        {"quantizer": NearestNeighbors()},
        {"n_jobs": 1.5},
        {"random_state": "0"},
    ],
)
def test_invalid_parameters_are_refused_by_both_fits(data, params):
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(data[0])
    before = state(ours)
    old = {name: getattr(ours, name) for name in params}
    ours.set_params(**params)
    (name,) = params
    with pytest.raises(ValueError, match=f"'{name}' parameter of DPQNeighbors"):
        ours.fit(data[0])
    with pytest.raises(ValueError, match=f"'{name}' parameter of DPQNeighbors"):
        ours.fit_codes(ours.codes_)
    assert state(ours.set_params(**old)) == before


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
def test_an_item_is_not_its_own_neighbor_however_many_duplicates_it_has(data, search):
    X = np.repeat(data[0][:6], 10, axis=0)
    ours = DPQNeighbors(quantizer=RowQuantizer(), search=search).fit(X)
    theirs = NearestNeighbors(algorithm="brute").fit(X)
    everything, positions = euclidean_distances(X).astype(np.float32), np.arange(60)
    for k in (1, 3, 9, 15, 59):
        distances, indices = ours.kneighbors(n_neighbors=k)
        assert_allclose(distances, theirs.kneighbors(n_neighbors=k)[0], rtol=1e-7, atol=1e-4)
        for i in range(60):
            order = np.lexsort((positions, everything[i]))
            assert_array_equal(indices[i], order[order != i][:k])
    for i, indices in enumerate(ours.radius_neighbors(radius=0, return_distance=False)):
        assert_array_equal(indices, [j for j in range(60) if j // 10 == i // 10 and j != i])
    assert ours.kneighbors_graph(n_neighbors=9).diagonal().sum() == 0
    assert ours.radius_neighbors_graph(radius=1.0).diagonal().sum() == 0


# Against brute force, with loss


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize(
    "quantizer", [ProductQuantizer(M=M, K=8, random_state=0), RowQuantizer(K=5), RowQuantizer(M=3, K=300)]
)
def test_results_are_brute_force_over_the_decoded_vectors(labelled, quantizer, n_jobs):
    X, Q, _, _ = labelled
    ours = DPQNeighbors(quantizer=quantizer, n_jobs=n_jobs).fit(X)
    fitted = ours.quantizer_
    hard = fitted.decode(fitted.encode(X))
    ids, n_parts = np.arange(200), quantizer.M
    assert_array_equal(ours.codes_, fitted.encode(X))
    for search, queries in [("asymmetric", fitted.soft(Q)), ("symmetric", fitted.decode(fitted.encode(Q)))]:
        ours.set_params(search=search)
        distances, indices = brute_force(queries, hard, ids, n_parts)
        assert_allclose(distances**2, np.sort(((queries[:, None] - hard) ** 2).sum(axis=2)), rtol=1e-4, atol=1e-5)
        for k in (1, 10, 200):
            assert_same(ours.kneighbors(Q, k), (distances[:, :k], indices[:, :k]))
        radius = float(np.median(distances))
        for row, (near, found) in enumerate(zip(*ours.radius_neighbors(Q, radius), strict=True)):
            within = distances[row] <= radius
            assert_same((near, found), (distances[row][within], indices[row][within]))
    assert_same(ours.kneighbors_codes(fitted.encode(Q)), ours.kneighbors(Q))
    assert_same(ours.kneighbors_codes(fitted.encode(Q), 3, return_distance=False), ours.kneighbors(Q, 3, False))


def test_intra_norm_changed_on_a_frozen_dpq_is_searched_consistently(digits, dpq):
    X, Q, _, _ = digits
    found = []
    for intra_norm in (False, True):
        quantizer = pickle.loads(pickle.dumps(dpq)).set_params(intra_norm=intra_norm)
        ours = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X[:300])
        hard = quantizer.decode(quantizer.encode(X[:300]))
        norms = np.linalg.norm(hard.reshape(300, 4, -1), axis=2)
        assert np.allclose(norms, 1) == intra_norm
        for search, queries in [
            ("asymmetric", quantizer.soft(Q[:40])),
            ("symmetric", quantizer.decode(quantizer.encode(Q[:40]))),
        ]:
            distances, indices = brute_force(queries, hard, np.arange(300), 4)
            actual = ours.set_params(search=search).kneighbors(Q[:40], 300)
            assert_same(actual, (distances, indices))
            found.append(distances)
    assert not np.allclose(found[0], found[2])


NAMES = list("abcdef")


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
@pytest.mark.parametrize(
    "make",
    [
        np.asarray,
        np.ndarray.tolist,
        lambda d: pd.DataFrame(d, columns=NAMES, index=np.arange(len(d))[::-1]),
        lambda d: pl.DataFrame(d, schema=NAMES),
    ],
    ids=["array", "list", "pandas", "polars"],
)
def test_more_queries_than_a_block_equal_one_block(labelled, monkeypatch, search, make):
    X, Q, y, y_queries = labelled
    ours = DPQNeighbors(quantizer=RowQuantizer(K=9), search=search).fit(make(X), y)
    calls = [
        lambda: ours.kneighbors(make(Q)),
        lambda: ours.radius_neighbors(make(Q), 3.0),
        lambda: ours.kneighbors_graph(make(Q)).toarray(),
        lambda: np.array(ours.score(make(Q), y_queries)),
    ]
    expected = [call() for call in calls]
    for block in (1, 7, 25, 49):
        monkeypatch.setattr("skdpq._quantizer._BLOCK_SAMPLES", block)
        for call, one_block in zip(calls, expected, strict=True):
            assert_same(call(), one_block)


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
def test_query_tables_come_in_blocks_that_follow_each_other(labelled, search):
    X, _, _, _ = labelled
    Q = np.random.default_rng(0).normal(size=(40_000, 6)).astype(np.float32)
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=8, random_state=0), search=search).fit(X)
    fitted = ours.quantizer_
    starts, blocks = zip(*ours.query_tables(Q), strict=True)
    assert len(starts) > 3
    assert_array_equal(starts, np.cumsum([0, *map(len, blocks[:-1])]))
    queries = fitted.decode(fitted.encode(Q)) if search == "symmetric" else fitted.soft(Q)
    parts = queries.reshape(len(Q), 2, 1, 3).astype(np.float64)
    assert_array_equal(np.concatenate(blocks), np.square(parts - fitted.codebooks_).sum(3).astype(np.float32))


# Quantizers


def test_labels_decide_the_default_quantizer(digits):
    X, Q, y, _ = digits
    unsupervised = DPQNeighbors(random_state=0).fit(X[:300])
    assert type(unsupervised.quantizer_) is ProductQuantizer
    assert_array_equal(unsupervised.codes_, ProductQuantizer(random_state=0).fit(X[:300]).encode(X[:300]))
    assert not hasattr(unsupervised, "classes_")
    assert not hasattr(unsupervised, "labels_")
    supervised = DPQNeighbors(random_state=0).fit(X[:300], y[:300])
    fitted = supervised.quantizer_
    assert type(fitted) is DPQTransformer
    assert fitted.get_params() == DPQTransformer(random_state=0).get_params()
    assert_array_equal(supervised.classes_[supervised.labels_], y[:300])
    hard = fitted.decode(fitted.encode(X[:300]))
    assert_same(supervised.kneighbors(Q[:9], 300), brute_force(fitted.soft(Q[:9]), hard, np.arange(300), 8))
    again = supervised.fit(X[:300])
    assert again is supervised
    assert not hasattr(again, "labels_")


def test_a_quantizer_is_cloned_and_the_users_own_stays_unfitted(data):
    quantizer = ProductQuantizer(M=2, K=4, random_state=0)
    ours = DPQNeighbors(quantizer=quantizer).fit(data[0])
    assert ours.quantizer is quantizer
    assert ours.quantizer_ is not quantizer
    assert not hasattr(quantizer, "codebooks_")


def test_nested_parameters_reach_the_quantizer(data):
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4)).set_params(quantizer__M=4, quantizer__K=8)
    assert ours.get_params()["quantizer__K"] == 8
    assert ours.fit(data[0]).codes_.shape == (60, 4)
    assert ours.index_.codebooks.shape[1] == 8


def test_a_grid_search_needs_no_scoring(labelled):
    X, _, y, _ = labelled
    grid = {"quantizer__K": [2, 8], "search": ["asymmetric", "symmetric"]}
    search = GridSearchCV(DPQNeighbors(quantizer=ProductQuantizer(M=2, random_state=0)), grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["quantizer__K"] == 8


def test_a_frozen_quantizer_is_used_as_it_is(data):
    X, Q = data
    fitted = RowQuantizer(K=7).fit(X)
    frozen = FrozenEstimator(fitted)
    before = state(fitted)
    ours = DPQNeighbors(quantizer=frozen).fit(Q)
    assert ours.quantizer_ is frozen
    assert state(fitted) == before
    assert_array_equal(ours.codes_, fitted.encode(Q))


def test_a_frozen_quantizer_must_be_fitted(data):
    ours = DPQNeighbors(quantizer=FrozenEstimator(ProductQuantizer()))
    with pytest.raises(NotFittedError):
        ours.fit(data[0])
    with pytest.raises(NotFittedError):
        ours.fit_codes([[0, 0]])
    assert not hasattr(ours, "index_")


@pytest.mark.parametrize("y", [None, np.array(["odd", "even", "both"])[np.arange(60) % 3]])
@pytest.mark.parametrize("as_frame", [False, True])
def test_fitting_codes_equals_fitting_what_they_encode(data, y, as_frame):
    X, Q = (pd.DataFrame(d, columns=list("abcd")) if as_frame else d for d in data)
    quantizer = FrozenEstimator(ProductQuantizer(M=2, K=8, random_state=0).fit(X))
    fitted = DPQNeighbors(quantizer=quantizer).fit(X, y)
    from_codes = DPQNeighbors(quantizer=quantizer).fit_codes(quantizer.encode(X), y)
    assert state(from_codes) == state(fitted)
    assert_same(from_codes.kneighbors(Q), fitted.kneighbors(Q))
    assert from_codes.n_samples_fit_ == 60


def test_fitting_codes_forgets_what_was_fitted_before(data):
    X = pd.DataFrame(data[0], columns=list("abcd"))
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X, np.arange(60) % 3)
    assert hasattr(ours, "feature_names_in_")
    ours.set_params(quantizer=FrozenEstimator(RowQuantizer().fit(data[0][:, :2]))).fit_codes([[0, 1], [2, 3]])
    for name in ("feature_names_in_", "n_features_in_", "classes_", "labels_"):
        assert not hasattr(ours, name)
    assert_array_equal(ours.kneighbors(data[0][:1, :2], 1)[1], [[0]])


@pytest.mark.parametrize("quantizer", [None, ProductQuantizer(), RowQuantizer()])
def test_fitting_codes_needs_a_frozen_quantizer(quantizer):
    with pytest.raises(ValueError, match="FrozenEstimator"):
        DPQNeighbors(quantizer=quantizer).fit_codes([[0, 0]])


@pytest.mark.parametrize(
    ("codes", "y"),
    [([[0, 60]], None), ([[0]], None), ([[0.0, 1.0]], None), ([[-1, 0]], None), ([[0, 1]], [1, 2]), ([0, 1], None)],
)
def test_fitting_invalid_codes_leaves_the_estimator_as_it_was(data, codes, y):
    X, _ = data
    ours = DPQNeighbors(quantizer=FrozenEstimator(RowQuantizer().fit(X))).fit(X)
    before = state(ours)
    with pytest.raises(ValueError, match="Expected"):
        ours.fit_codes(codes, y)
    assert state(ours) == before


@pytest.mark.parametrize(
    ("change", "y", "message"),
    [
        (lambda X: X * np.nan, None, "NaN"),
        (lambda X: X[:, 0], None, "2D array"),
        (lambda X: X[:0], None, r"0 sample\(s\)"),
        (lambda X: X, [1, 2], "one label for each of 60"),
        (lambda X: X, np.ones((60, 2)), "1d array"),
        (lambda X: X, np.full(60, np.nan), "NaN"),
    ],
)
def test_a_failing_fit_leaves_the_estimator_as_it_was(data, change, y, message):
    X, _ = data
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0)).fit(X, np.arange(60) % 2)
    unfitted = clone(ours)
    for estimator in (ours, unfitted):
        before = state(estimator)
        with pytest.raises(ValueError, match=message):
            estimator.fit(change(X), y)
        assert state(estimator) == before


class Misfit(RowQuantizer):
    """A quantizer whose codes or soft do not fit its codebooks."""

    def __init__(self, M=M, K=None, wrong="soft"):
        super().__init__(M, K)
        self.wrong = wrong

    def soft(self, X):
        return super().soft(X)[:, : 3 if self.wrong == "soft" else None]

    def encode(self, X):
        return RowQuantizer.encode(clone(self).set_params(wrong="").fit(np.arange(8).reshape(2, 4)), X) + (
            100 if self.wrong == "codes" else 0
        )


def test_a_quantizer_that_contradicts_its_codebooks_is_refused(data):
    X, Q = data
    with pytest.raises(ValueError, match=r"range\(60\)"):
        DPQNeighbors(quantizer=Misfit(wrong="codes")).fit(X)
    with pytest.raises(ValueError, match="soft representations of shape"):
        DPQNeighbors(quantizer=Misfit()).fit(X).kneighbors(Q)


# Updates


def test_items_added_in_pieces_equal_items_fitted_at_once(labelled):
    X, Q, y, _ = labelled
    quantizer = FrozenEstimator(ProductQuantizer(M=2, K=8, random_state=0).fit(X))
    whole = DPQNeighbors(quantizer=quantizer).fit(X, y)
    pieces = DPQNeighbors(quantizer=quantizer).fit(X[:50], y[:50])
    assert pieces.add(X[50:120], y=y[50:120]) is pieces
    pieces.add_codes(quantizer.encode(X[120:]), y=y[120:])
    assert state(pieces) == state(whole)
    backwards = DPQNeighbors(quantizer=quantizer).fit_codes(np.empty((0, 2), int))
    for i in reversed(range(0, 200, 40)):
        backwards.add(X[i : i + 40], ids=np.arange(i, i + 40))
    assert_array_equal(backwards.codes_, whole.codes_)
    assert_same(backwards.kneighbors(Q), whole.kneighbors(Q))
    assert_same(backwards.kneighbors(), whole.kneighbors())


def test_results_are_ids_and_graph_columns_positions(data):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    ours.remove(np.arange(0, 60, 2)).add(X[::2], ids=np.arange(1000, 1030))
    theirs = NearestNeighbors(algorithm="brute").fit(np.vstack([X[1::2], X[::2]]))
    ids = np.concatenate([np.arange(1, 60, 2), np.arange(1000, 1030)])
    assert_array_equal(ours.ids_, ids)
    assert ours.n_samples_fit_ == 60
    for queries in (Q, None):
        distances, positions = theirs.kneighbors(queries)
        assert_same(ours.kneighbors(queries), (distances, ids[positions]))
        for actual, expected in zip(
            ours.radius_neighbors(queries, 900, return_distance=False),
            theirs.radius_neighbors(queries, 900, sort_results=True)[1],
            strict=True,
        ):
            assert_same(actual, ids[expected])
        assert_same_graph(ours.kneighbors_graph(queries), theirs.kneighbors_graph(queries))


def test_removing_all_leaves_an_index_that_takes_more(data):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    ours.remove(ours.ids_)
    assert ours.n_samples_fit_ == 0
    with pytest.raises(ValueError, match="n_samples_fit = 0"):
        ours.kneighbors(Q, 1)
    assert [len(found) for found in ours.radius_neighbors(Q, np.inf)[1]] == [0] * len(Q)
    assert [len(found) for found in ours.radius_neighbors(radius=np.inf)] == [0, 0]
    assert ours.radius_neighbors_graph(Q).shape == (len(Q), 0)
    ours.add(X)
    assert_array_equal(ours.ids_, np.arange(60, 120))
    assert_array_equal(ours.kneighbors(X, 1)[1].ravel(), ours.ids_)


def test_labels_follow_their_items_and_new_classes_join():
    codes = np.arange(4)[:, None] * [1, 1]
    quantizer = FrozenEstimator(RowQuantizer().fit(np.arange(16).reshape(4, 4)))
    ours = DPQNeighbors(quantizer=quantizer).fit_codes(codes, ["cat", "ox", "cat", "ox"])
    ours.add_codes(codes[:2], ["armadillo", "dog"], ids=[9, 7])
    ours.remove([1, 3])
    assert ours.ids_.tolist() == [0, 2, 7, 9]
    assert ours.classes_[ours.labels_].tolist() == ["cat", "cat", "dog", "armadillo"]
    assert ours.classes_.tolist() == sorted(ours.classes_)
    ours.add_codes(codes[:1], ids=[5])
    assert ours.labels_[ours.ids_ == 5] == -1
    ours.add_codes(codes[:1], ids=[6], y=np.array(["bee"], dtype=object))
    assert ours.classes_[ours.labels_[ours.ids_ != 5]].tolist() == ["cat", "cat", "bee", "dog", "armadillo"]
    assert ours.labels_[ours.ids_ == 5] == -1


def test_unlabelled_items_forbid_a_score_until_removed(labelled):
    X, Q, y, y_queries = labelled
    ours = DPQNeighbors(quantizer=RowQuantizer(K=9)).fit(X, y)
    score = ours.score(Q, y_queries)
    ours.add(Q)
    with pytest.raises(ValueError, match="label"):
        ours.score(Q, y_queries)
    ours.remove(np.arange(200, 250))
    assert ours.score(Q, y_queries) == score
    unlabelled = DPQNeighbors(quantizer=RowQuantizer(K=9)).fit(X)
    with pytest.raises(ValueError, match="label"):
        unlabelled.score(Q, y_queries)
    unlabelled.add(Q, y=y_queries)
    assert_array_equal(unlabelled.labels_[:200], -1)
    with pytest.raises(ValueError, match="label"):
        unlabelled.score(Q, y_queries)
    unlabelled.remove(np.arange(200))
    assert unlabelled.score(Q, y_queries) > 0


FAILING = {
    "add, ids known": (lambda e, X: e.add(X, ids=range(25), y=["a"] * 25), "not in the index yet"),
    "add, ids twice": (lambda e, X: e.add(X[:2], ids=[70, 70], y=["a", "new"]), "ids that differ"),
    "add, ids too few": (lambda e, X: e.add(X, ids=[70], y=["new"] * 25), "one id for each of 25"),
    "add, labels too few": (lambda e, X: e.add(X, y=["a"]), "one label for each of 25"),
    "add, labels of another kind": (lambda e, X: e.add(X[:1], y=[3]), "labels of the kind"),
    "add, labels 2-D": (lambda e, X: e.add(X[:1], y=[["a", "b"]]), "1d array"),
    "add, NaN": (lambda e, X: e.add(X * np.nan, y=["new"] * 25), "NaN"),
    "add, empty": (lambda e, X: e.add(X[:0]), r"0 sample\(s\)"),
    "add, 1-D": (lambda e, X: e.add(X[0]), "Expected 2D array, got 1D"),
    "add, too narrow": (lambda e, X: e.add(X[:, :3]), "expecting 4 features"),
    "add_codes, out of range": (lambda e, X: e.add_codes([[0, 64]], y=["new"]), r"range\(64\)"),
    "add_codes, too wide": (lambda e, X: e.add_codes([[0, 0, 0]], y=["new"]), r"shape \(n, 2\)"),
    "add_codes, float": (lambda e, X: e.add_codes([[0.0, 0.0]], y=["new"]), "integer codes"),
    "remove, unknown": (lambda e, X: e.remove([0, 60]), r"ids of the index, got \[60\]"),
    "remove, float": (lambda e, X: e.remove([0.0]), "1-D array of integers"),
    "kneighbors_codes, out of range": (lambda e, X: e.kneighbors_codes([[0, 64]]), r"range\(64\)"),
    "kneighbors_codes, k > n": (lambda e, X: e.kneighbors_codes([[0, 0]], 61), "n_neighbors <= n_samples_fit"),
    "kneighbors_codes, k = 0": (lambda e, X: e.kneighbors_codes([[0, 0]], 0), "n_neighbors > 0"),
    "score, labels too few": (lambda e, X: e.score(X, ["a"]), "inconsistent numbers of samples"),
    "score, labels of another kind": (lambda e, X: e.score(X, np.zeros(25)), "one kind"),
}


@pytest.mark.parametrize(("call", "message"), FAILING.values(), ids=FAILING)
def test_a_failing_call_leaves_the_estimator_as_it_was(data, call, message):
    X, Q = data
    y = np.array(["a", "b"])[np.arange(60) % 2]
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=64)).fit(X, y)
    before = state(ours)
    with pytest.raises(ValueError, match=message):
        call(ours, Q)
    assert state(ours) == before


# Score


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("names", [None, np.array(["ant", "bee", "cat"])])
def test_score_is_the_mean_average_precision_of_the_distances(labelled, search, names):
    X, Q, y, y_queries = labelled
    y, y_queries = (labels if names is None else names[labels] for labels in (y, y_queries))
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0), search=search).fit(X, y)
    distances, indices = ours.kneighbors(Q, 200)
    matrix = np.empty_like(distances)
    np.put_along_axis(matrix, indices, distances, axis=1)
    assert_allclose(ours.score(Q, y_queries), mean_average_precision(y_queries, y, matrix), rtol=1e-12)
    assert 0.5 < ours.score(Q, y_queries) < 1


def test_score_with_dpq_is_the_mean_average_precision_of_the_distances(digits, dpq):
    X, Q, y, y_queries = digits
    ours = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X, y)
    for search in ("asymmetric", "symmetric"):
        distances, indices = ours.set_params(search=search).kneighbors(Q[:50], len(X))
        matrix = np.empty_like(distances)
        np.put_along_axis(matrix, indices, distances, axis=1)
        expected = mean_average_precision(y_queries[:50], y, matrix)
        assert_allclose(ours.score(Q[:50], y_queries[:50]), expected, rtol=1e-12)


# Relevance


class PosteriorQuantizer(RowQuantizer):
    """A user's own quantizer that classifies codes: each codeword votes for the class of its row."""

    def fit(self, X, y=None):
        super().fit(X)
        self.lutc_ = np.tile(np.eye(3)[y[: self.codebooks_.shape[1]]], (self.M, 1, 1))
        self.class_bias_ = np.zeros(3)
        return self

    def predict_proba_soft(self, X):
        scores = self.lutc_[0][self.encode(X)].sum(axis=1)
        return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def classifying(digits):
    """A DPQClassifier, trained briefly."""
    X, _, y, _ = digits
    return DPQClassifier(M=4, K=16, max_iter=15, random_state=0).fit(X, y)


def posteriors(quantizer, codes):
    return code_posteriors(
        codes.astype(np.uint8), CodeClassifier(*map(np.float32, (quantizer.lutc_, quantizer.class_bias_)))
    )


def relevance_distances(of_queries, of_codes):
    """Return one less the products of posteriors, (n_queries, n)."""
    total = np.zeros((len(of_queries), len(of_codes)))
    for c in range(of_codes.shape[1]):
        total += of_queries[:, c, None].astype(np.float64) * of_codes[:, c].astype(np.float64)
    return np.maximum(0, 1 - total).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
def test_relevance_is_one_less_the_product_of_posteriors(digits, classifying, search, n_jobs):
    X, Q, y, _ = digits
    X, Q = X[:400], Q[:30]
    ours = DPQNeighbors(quantizer=FrozenEstimator(classifying), metric="relevance", search=search, n_jobs=n_jobs)
    ours.fit(X, y[:400])
    of_codes = posteriors(classifying, ours.codes_)
    of_query_codes = posteriors(classifying, classifying.encode(Q))
    assert_allclose(of_query_codes, classifying.predict_proba_codes(classifying.encode(Q)), rtol=1e-4)
    of_queries = of_query_codes if search == "symmetric" else classifying.predict_proba_soft(Q)
    everything = relevance_distances(of_queries, of_codes)
    order = np.argsort(everything, axis=1, kind="stable")
    expected = np.take_along_axis(everything, order, axis=1), order
    for k in (1, 10, 400):
        assert_same(ours.kneighbors(Q, k), tuple(part[:, :k] for part in expected))
    radius = np.median(everything)
    for distances, ids, row in zip(*ours.radius_neighbors(Q, radius), everything, strict=True):
        assert_array_equal(np.flatnonzero(row <= radius), np.sort(ids))
        assert_array_equal(distances, np.sort(row[row <= radius]))
    graph = ours.kneighbors_graph(Q, 10, mode="distance").toarray()
    assert_array_equal(np.sort(graph, axis=1)[:, -10:], expected[0][:, :10])
    assert_array_equal((ours.radius_neighbors_graph(Q, radius).toarray() > 0), everything <= radius)
    assert_array_equal(ours.transform(Q).toarray(), ours.kneighbors_graph(Q, 6, mode="distance").toarray())
    if search == "symmetric":
        assert_same(ours.kneighbors_codes(classifying.encode(Q)), ours.kneighbors(Q))
    itself = relevance_distances(of_codes, of_codes)
    np.fill_diagonal(itself, 2)
    order = np.argsort(itself, axis=1, kind="stable")[:, :10]
    assert_same(ours.kneighbors(None, 10), (np.take_along_axis(itself, order, axis=1), order))
    assert_array_equal(ours.radius_neighbors_graph(radius=radius).toarray() > 0, itself <= radius)


def test_a_radius_that_is_a_relevance_includes_it(digits, classifying):
    X, Q, _, _ = digits
    # by codes, as soft may be rounded otherwise in a batch of another size
    ours = DPQNeighbors(quantizer=FrozenEstimator(classifying), metric="relevance", search="symmetric").fit(X)
    distances = ours.kneighbors(Q[:20], len(X))[0]
    for i, row in enumerate(distances):
        query, rank = Q[i : i + 1], 50 * i
        for radius in (row[rank], np.nextafter(row[rank], 0), np.nextafter(row[rank], 2), np.float32(row[rank])):
            assert_array_equal(ours.radius_neighbors(query, radius)[0][0], row[row <= radius])
    for radius in (1, 1.5, np.inf):
        assert len(ours.radius_neighbors(Q[:1], radius)[0][0]) == len(X)
    with pytest.raises(ValueError, match="real number"):
        ours.radius_neighbors(Q[:1], np.nan)


def test_metric_and_search_may_change_after_fit(digits, classifying):
    X, Q, y, y_queries = digits
    ours = DPQNeighbors(quantizer=FrozenEstimator(classifying)).fit(X, y)
    for metric in ("relevance", "euclidean"):
        for search in ("symmetric", "asymmetric"):
            fresh = clone(ours).set_params(metric=metric, search=search).fit(X, y)
            ours.set_params(metric=metric, search=search)
            assert_same(ours.kneighbors(Q), fresh.kneighbors(Q))
            assert ours.score(Q, y_queries) == fresh.score(Q, y_queries)
    ours.set_params(metric="cosine")
    with pytest.raises(ValueError, match="The 'metric' parameter"):
        ours.kneighbors(Q)


def test_relevance_does_not_depend_on_intra_norm(digits, classifying):
    X, Q, y, _ = digits
    quantizer = pickle.loads(pickle.dumps(classifying))
    ours = DPQNeighbors(quantizer=FrozenEstimator(quantizer), metric="relevance").fit(X, y)
    for search in ("asymmetric", "symmetric"):
        found = ours.set_params(search=search).kneighbors(Q), ours.kneighbors()
        quantizer.set_params(intra_norm=True)
        assert_same((ours.kneighbors(Q), ours.kneighbors()), found)
        quantizer.set_params(intra_norm=False)


def test_a_frozen_classifier_that_goes_on_to_learn_is_noticed(digits, classifying):
    X, Q, y, _ = digits
    quantizer = pickle.loads(pickle.dumps(classifying))
    ours = DPQNeighbors(quantizer=FrozenEstimator(quantizer), metric="relevance").fit(X, y)
    quantizer.partial_fit(X, y)
    with pytest.raises(ValueError, match="it was fitted again"):
        ours.kneighbors(Q)


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
def test_score_by_relevance_is_the_mean_average_precision_of_the_distances(digits, classifying, search):
    X, Q, y, y_queries = digits
    ours = DPQNeighbors(quantizer=FrozenEstimator(classifying), metric="relevance", search=search, n_jobs=2).fit(X, y)
    distances, indices = ours.kneighbors(Q[:50], len(X))
    matrix = np.empty_like(distances)
    np.put_along_axis(matrix, indices, distances, axis=1)
    expected = mean_average_precision(y_queries[:50], y, matrix)
    assert_allclose(ours.score(Q[:50], y_queries[:50]), expected, rtol=1e-12)
    assert ours.score(Q, y_queries) > ours.set_params(metric="euclidean").score(Q, y_queries) - 0.05
    assert 0.8 < retrieval_scorer("precision_at_k", k=5)(ours.set_params(metric="relevance"), Q, y_queries) <= 1


def test_relevance_with_a_quantizer_of_the_users_own(labelled):
    X, Q, y, y_queries = labelled
    ours = DPQNeighbors(quantizer=PosteriorQuantizer(), metric="relevance").fit(X, y)
    of_codes = posteriors(ours.quantizer_, ours.codes_)
    assert_allclose(of_codes[:, 0] + of_codes[:, 1] + of_codes[:, 2], 1, rtol=1e-6)
    everything = relevance_distances(ours.quantizer_.predict_proba_soft(Q).astype(np.float32), of_codes)
    assert_array_equal(ours.kneighbors(Q, 200)[0], np.sort(everything, axis=1))
    assert ours.score(Q, y_queries) > 0.6


def test_labels_decide_the_default_quantizer_of_relevance_too(digits):
    X, Q, y, _ = digits
    ours = DPQNeighbors(metric="relevance", random_state=0).fit(X[:300], y[:300])
    assert type(ours.quantizer_) is DPQTransformer
    assert (ours.kneighbors(Q)[0] <= 1).all()


NO_CLASSIFIER = "needs a quantizer that classifies codes"


@pytest.mark.parametrize("y_given", [True, False])
@pytest.mark.parametrize(
    "quantizer",
    [None, ProductQuantizer(M=2, K=4), RowQuantizer(), DPQTransformer(supervision=0), DPQTransformer(max_iter=1)],
)
def test_relevance_without_labels_or_classifier_is_refused_before_fitting(labelled, quantizer, y_given):
    X, _, y, _ = labelled
    if y_given and (quantizer is None or quantizer.get_params().get("supervision") == 1):
        return
    ours = DPQNeighbors(quantizer=quantizer, metric="relevance")
    with pytest.raises(ValueError, match=NO_CLASSIFIER if y_given else "needs labels"):
        ours.fit(X * np.nan, y if y_given else None)  # so it comes before all else
    assert not hasattr(ours, "quantizer_")


class TornQuantizer(PosteriorQuantizer):
    """Turns out to classify nothing when it is fitted."""

    def fit(self, X, y=None):
        super().fit(X, y)
        del self.lutc_
        return self


def test_a_quantizer_that_does_not_classify_is_refused_at_each_fit_and_read(labelled):
    X, Q, y, y_queries = labelled
    with pytest.raises(ValueError, match=NO_CLASSIFIER):
        DPQNeighbors(quantizer=TornQuantizer(), metric="relevance").fit(X, y)
    unsupervised = DPQTransformer(M=2, K=4, max_iter=1, random_state=0).fit(X)
    for quantizer in (unsupervised, ProductQuantizer(M=2, K=4).fit(X), RowQuantizer().fit(X)):
        frozen = FrozenEstimator(quantizer)
        for call in (lambda ours: ours.fit(X, y), lambda ours: ours.fit_codes([[0, 1]])):
            ours = DPQNeighbors(quantizer=frozen, metric="relevance")
            with pytest.raises(ValueError, match=NO_CLASSIFIER):
                call(ours)
            assert not hasattr(ours, "index_")
        ours = DPQNeighbors(quantizer=frozen).fit(X, y).set_params(metric="relevance")
        before = state(ours)
        for method in (*METHODS, "transform"):
            with pytest.raises(ValueError, match=NO_CLASSIFIER):
                getattr(ours, method)(Q)
        for call in (
            lambda ours: ours.kneighbors(),
            lambda ours: ours.kneighbors_codes([[0, 1]]),
            lambda ours: ours.score(Q, y_queries),
        ):
            with pytest.raises(ValueError, match=NO_CLASSIFIER):
                call(ours)
        assert state(ours) == before


def test_updates_and_pickles_are_searched_by_relevance(digits, classifying):
    X, Q, y, y_queries = digits
    frozen = FrozenEstimator(classifying)
    whole = DPQNeighbors(quantizer=frozen, metric="relevance").fit(X, y)
    pieces = DPQNeighbors(quantizer=frozen, metric="relevance").fit(X[:900], y[:900])
    pieces.kneighbors(Q)
    pieces.add(X[900:1100], y=y[900:1100])
    pieces.kneighbors(Q)
    pieces.add_codes(frozen.encode(X[1100:]), y=y[1100:]).add(X[:50], y=y[:50])
    pieces.remove(np.arange(len(X), len(X) + 50))
    for ours in (pieces, pickle.loads(pickle.dumps(pieces))):
        assert_same(ours.kneighbors(Q), whole.kneighbors(Q))
        assert_same(ours.radius_neighbors(Q, 0.5), whole.radius_neighbors(Q, 0.5))
        assert_same(ours.kneighbors(), whole.kneighbors())
        assert ours.score(Q, y_queries) == whole.score(Q, y_queries)


# Among some


def filtered(found, allowed, k):
    """Keep of results among all, ordered rows of distances and ids, the first k that are allowed."""
    kept = [np.flatnonzero(np.isin(row, allowed))[:k] for row in found[1]]
    return tuple(np.array([row[columns] for row, columns in zip(part, kept, strict=True)]) for part in found)


SEARCHES = {
    "asymmetric": {},
    "symmetric": {"search": "symmetric"},
    "relevance": {"metric": "relevance"},
    "two threads": {"n_jobs": 2},
    "by torch": {"device": torch.device("cpu")},
    "relevance by torch": {"metric": "relevance", "device": torch.device("cpu")},
}


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("n_allowed", [10, 300])
@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
def test_a_search_among_some_is_one_among_all_less_the_others(digits, classifying, options, n_allowed, as_ids):
    X, Q, y, _ = digits
    ours = DPQNeighbors(quantizer=FrozenEstimator(classifying), **options).fit(X[:400], y[:400])
    ours.remove([3, 40]).add(X[400:402], y[400:402], ids=[1000, 900])
    rng = np.random.default_rng(0)
    allowed = rng.permutation(ours.ids_)[:n_allowed]
    among = np.concatenate((allowed, allowed[:3])) if as_ids else np.isin(ours.ids_, allowed)
    for X_or_none in (Q[:30], None):
        everything = ours.kneighbors(X_or_none, 399 + (X_or_none is not None))
        expected = filtered(everything, allowed, 7)
        assert_same(ours.kneighbors(X_or_none, 7, among=among), expected)
        assert_same(ours.kneighbors(X_or_none, 7, return_distance=False, among=among), expected[1])
        radius = np.median(expected[0])
        found = ours.radius_neighbors(X_or_none, radius, among=among)
        for distances, ids, all_distances, all_ids in zip(*found, *everything, strict=True):
            kept = np.isin(all_ids, allowed) & (all_distances <= radius)
            assert_same((distances, ids), (all_distances[kept], all_ids[kept]))
        assert_same(ours.radius_neighbors(X_or_none, radius, return_distance=False, among=among), found[1])
    codes = classifying.encode(Q[:30])
    assert_same(ours.kneighbors_codes(codes, 7, among=among), filtered(ours.kneighbors_codes(codes, 400), allowed, 7))


@pytest.mark.parametrize("mode", ["connectivity", "distance"])
def test_graphs_among_some_keep_their_shape(data, mode):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X).remove([5, 6])
    allowed = ours.ids_ < 20
    theirs = NearestNeighbors(algorithm="brute").fit(X[ours.ids_[allowed]])
    for ours_graph, theirs_graph in [
        (ours.kneighbors_graph(Q, 4, mode, among=allowed), theirs.kneighbors_graph(Q, 4, mode)),
        (ours.radius_neighbors_graph(Q, 700, mode, among=allowed), theirs.radius_neighbors_graph(Q, 700, mode)),
    ]:
        assert ours_graph.shape == (len(Q), 58)
        assert_array_equal(ours_graph.toarray()[:, allowed], theirs_graph.toarray())
        assert not ours_graph.toarray()[:, ~allowed].any()
    graph = ours.kneighbors_graph(None, 4, mode, among=allowed)
    assert graph.shape == (58, 58)
    assert_array_equal(np.diff(graph.indptr), 4)
    assert not graph.toarray()[:, ~allowed].any()
    assert ours.radius_neighbors_graph(None, 700, mode, among=[]).shape == (58, 58)


AMONG_CALLS = {
    "k > n": lambda e, Q, **among: e.kneighbors(Q, 21, **among),
    "k = n without X": lambda e, Q, **among: e.kneighbors(None, 20, **among),
    "graph, k > n": lambda e, Q, **among: e.kneighbors_graph(Q, 21, **among),
    "k = 0": lambda e, Q, **among: e.kneighbors(Q, 0, **among),
}


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("call", AMONG_CALLS.values(), ids=AMONG_CALLS)
def test_too_many_neighbors_among_some_are_refused_as_by_nearest_neighbors_of_these(data, call, as_ids):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    among = np.arange(20) if as_ids else ours.ids_ < 20
    errors = []
    for estimator, options in ((ours, {"among": among}), (NearestNeighbors().fit(X[:20]), {})):
        with pytest.raises(ValueError, match="n_neighbors") as info:
            call(estimator, Q, **options)
        errors.append(str(info.value).replace("n_samples = 60", "n_samples = 20"))  # without X, all items are queries
    assert errors[0] == errors[1]


@pytest.mark.parametrize("among", [[], np.zeros(60, bool)], ids=["ids", "mask"])
def test_among_none_there_is_no_neighbor(data, among):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    for queries in (Q, None):
        with pytest.raises(ValueError, match="n_samples_fit = 0"):
            ours.kneighbors(queries, 1, among=among)
        n_queries = 60 if queries is None else len(Q)
        assert [len(ids) for ids in ours.radius_neighbors(queries, np.inf, among=among)[1]] == [0] * n_queries
        graph = ours.radius_neighbors_graph(queries, np.inf, among=among)
        assert (graph.shape, graph.nnz) == ((n_queries, 60), 0)
    with pytest.raises(ValueError, match="n_samples_fit = 0"):
        ours.kneighbors_codes(ours.codes_, 1, among=among)


BAD_AMONG = {
    "another length": (np.ones(59, bool), r"got bool of shape \(59,\)"),
    "numbers": (np.ones(60), r"got float64 of shape \(60,\)"),
    "unknown": ([4, 60, -1], r"Expected ids of the database in among, got \[60, -1\]"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("among", "message"), BAD_AMONG.values(), ids=BAD_AMONG)
def test_among_what_is_not_there_is_refused(data, method, among, message):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    for queries in (Q, None):
        with pytest.raises(ValueError, match=message):
            getattr(ours, method)(queries, among=among)
    with pytest.raises(ValueError, match=message):
        ours.kneighbors_codes(ours.codes_, among=among)


@pytest.mark.parametrize("as_given", [pd.Series, pl.Series, torch.tensor, list], ids=lambda kind: kind.__module__)
def test_among_takes_whatever_holds_a_mask_or_ids(data, as_given):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    expected = ours.kneighbors(Q, among=np.arange(9))
    assert_same(ours.kneighbors(Q, among=as_given(np.arange(9))), expected)
    assert_same(ours.kneighbors(Q, among=as_given(ours.ids_ < 9)), expected)


def test_more_queries_than_a_block_are_searched_among_the_same(data, monkeypatch):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(X)
    calls = [lambda: ours.kneighbors(Q, among=[1, 5, 8, 9, 30]), lambda: ours.radius_neighbors(Q, 700, among=[1, 5])]
    expected = [call() for call in calls]
    monkeypatch.setattr("skdpq._quantizer._BLOCK_SAMPLES", 7)
    for call, found in zip(calls, expected, strict=True):
        assert_same(call(), found)


# Serving


def test_a_pickle_answers_the_same(labelled, digits, dpq):
    X, Q, y, _ = labelled
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=8, random_state=0)).fit(X, y).remove([3])
    restored = pickle.loads(pickle.dumps(ours))
    assert state(restored) == state(ours)
    assert_same(restored.kneighbors(Q), ours.kneighbors(Q))
    assert_array_equal(restored.add(Q).ids_[-50:], np.arange(200, 250))
    assert ours.n_samples_fit_ == 199
    frozen = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(digits[0])
    restored = pickle.loads(pickle.dumps(frozen))
    assert_same(restored.kneighbors(digits[1]), frozen.kneighbors(digits[1]))


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("supervised", [False, True])
def test_many_threads_may_search_at_once(digits, dpq, supervised, n_jobs):
    X, Q, y, y_queries = digits
    quantizer = FrozenEstimator(dpq) if supervised else ProductQuantizer(M=4, K=16, random_state=0)
    ours = DPQNeighbors(quantizer=quantizer, n_jobs=n_jobs).fit(X, y)

    def search(_):
        return ours.kneighbors(Q[:60]), ours.kneighbors(), np.array(ours.score(Q[:60], y_queries[:60]))

    expected, before = search(None), state(ours)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search, range(8)):
            assert_same(found, expected)
    assert state(ours) == before


@pytest.mark.parametrize("frame", [pd.DataFrame, lambda d, columns: pl.DataFrame(d, schema=columns)])
def test_feature_names_are_checked(data, frame):
    X, Q = data
    ours = DPQNeighbors(quantizer=RowQuantizer()).fit(frame(X, columns=list("abcd")), np.zeros(60))
    assert ours.feature_names_in_.tolist() == list("abcd")
    right, wrong = frame(Q, columns=list("abcd")), frame(Q, columns=list("abdc"))
    expected = DPQNeighbors(quantizer=RowQuantizer()).fit(X).kneighbors(Q)
    assert_same(ours.kneighbors(right), expected)
    before = state(ours)
    for method in [*METHODS, "transform", "add"]:
        with pytest.raises(ValueError, match="feature names should match"):
            getattr(ours, method)(wrong)
        with (
            pytest.warns(UserWarning, match="does not have valid feature names"),
            pytest.raises(ValueError, match="features"),
        ):
            getattr(ours, method)(Q[:, :3])
    with pytest.raises(ValueError, match="feature names should match"):
        ours.score(wrong, np.zeros(25))
    assert state(ours) == before
    with pytest.warns(UserWarning, match="X does not have valid feature names, but DPQNeighbors") as warned:
        assert_same(ours.kneighbors(Q), expected)
    assert len(warned) == 1
    ours.add(right, y=np.ones(25))
    assert ours.n_samples_fit_ == 85


# Metadata


def test_sample_weight_reaches_the_quantizer(data):
    weight = np.linspace(1, 2, 60)
    ours = DPQNeighbors(quantizer=RowQuantizer())
    assert ours.fit(data[0], sample_weight=weight).quantizer_.sample_weight_ is weight
    assert ours.fit(data[0]).quantizer_.sample_weight_ is None


def test_sample_weight_is_routed_where_it_is_requested(data):
    weight = np.linspace(1, 2, 60)
    with config_context(enable_metadata_routing=True):
        requesting = DPQNeighbors(quantizer=RowQuantizer().set_fit_request(sample_weight=True))
        assert requesting.fit(data[0], sample_weight=weight).quantizer_.sample_weight_ is weight
        assert requesting.fit(data[0]).quantizer_.sample_weight_ is None
        refusing = DPQNeighbors(quantizer=RowQuantizer().set_fit_request(sample_weight=False))
        with pytest.raises(TypeError, match="sample_weight"):
            refusing.fit(data[0], sample_weight=weight)
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            DPQNeighbors(quantizer=RowQuantizer()).fit(data[0], sample_weight=weight)
        assert DPQNeighbors(quantizer=FrozenEstimator(RowQuantizer().fit(data[0]))).fit(data[0]).n_samples_fit_ == 60
        assert DPQNeighbors().fit(data[0]).n_samples_fit_ == 60


def test_weights_change_what_a_dpq_learns_exactly_as_without_the_search(digits):
    X, _, y, _ = digits
    X, y, weight = X[:200], y[:200], np.linspace(0.1, 3, 200)
    dpq = DPQTransformer(M=4, K=16, max_iter=2, random_state=0)
    ours = DPQNeighbors(quantizer=dpq).fit(X, y, sample_weight=weight)
    assert_array_equal(ours.quantizer_.codebooks_, clone(dpq).fit(X, y, sample_weight=weight).codebooks_)
    assert not np.array_equal(ours.quantizer_.codebooks_, clone(dpq).fit(X, y).codebooks_)


def test_intra_norm_changed_after_fit_changes_the_search(digits):
    X, X_test, y, _ = digits
    dpq = DPQTransformer(M=4, K=16, max_iter=3, random_state=0).fit(X, y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X, y)
    plain = neighbors.kneighbors(X_test)
    dpq.set_params(intra_norm=True)
    fresh = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X, y)
    for ours, expected in zip(neighbors.kneighbors(X_test), fresh.kneighbors(X_test), strict=True):
        assert_array_equal(ours, expected)
    assert (neighbors.kneighbors(X_test)[0] != plain[0]).all()
