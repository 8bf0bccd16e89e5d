"""What is indexed here is found by faiss, and the other way round."""

import gc
import re
import sys
from pathlib import Path

import faiss
import nanopq
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer, exchange, from_faiss, to_faiss

FITTED = ("codebooks_", "rotation_", "origin_", "exponent_", "n_codewords_", "n_features_in_", "compression_ratio_")


def squared_distances(neighbors, X):
    """Return the squared distance of each query to each item, in the order of ids, computed in float64."""
    quantizer = neighbors.quantizer_
    soft = quantizer.soft(X).astype(np.float64)
    return np.square(soft[:, np.newaxis] - quantizer.decode(neighbors.codes_)).sum(axis=2)


def assert_same_neighbors(index, neighbors, X, vectors=None):
    """Assert that a faiss index finds what a database does, in whichever order those come whose distances are equal."""
    k, exact = neighbors.n_samples_fit_, squared_distances(neighbors, X)
    found, ids = index.search(np.asarray(X if vectors is None else vectors, dtype=np.float32), k)
    ours, our_ids = neighbors.kneighbors(X, k)
    # faiss may take distances as differences of squared lengths, which are at most so large
    quantizer = neighbors.quantizer_
    lengths = np.square(quantizer.soft(X), dtype=np.float64).sum(1).max()
    lengths += np.square(quantizer.codebooks_, dtype=np.float64).sum(2).max(1).sum()
    tolerance = 1e-5 * lengths
    np.testing.assert_allclose(found, np.square(ours), atol=tolerance)
    assert np.array_equal(np.sort(ids), np.broadcast_to(neighbors.ids_, ids.shape))
    # Each id is where its distance belongs: ids can change places where distances differ by rounding alone.
    for found_ids in (ids, our_ids):
        places = np.searchsorted(neighbors.ids_, found_ids)
        in_order = np.take_along_axis(exact, places, axis=1)
        np.testing.assert_allclose(in_order, np.sort(exact), atol=2 * tolerance)


def random_quantizer(rng, M, K, n_features, opq):
    """Return a quantizer of random codebooks, and a rotation."""
    D = -(-n_features // M)
    codebooks = rng.standard_normal((M, K, D), dtype=np.float32)
    rotation = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0] if opq else None
    return ProductQuantizer.from_codebooks(codebooks, rotation, n_features=n_features)


def database(quantizer, codes, ids=None, **params):
    return DPQNeighbors(quantizer=FrozenEstimator(quantizer), **params).fit_codes(codes, ids=ids)


@st.composite
def databases(draw):
    M, K = draw(st.integers(1, 9)), draw(st.sampled_from([2, 3, 4, 7, 8, 16, 17, 64, 100, 256, 257, 1024]))
    n_features, n = draw(st.integers(1, 40)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    quantizer = random_quantizer(rng, M, K, n_features, draw(st.booleans()))
    ids = rng.choice(10**12, n, replace=False) if draw(st.booleans()) else None
    return database(quantizer, rng.integers(0, K, (n, M)), ids), rng.standard_normal((5, n_features))


@given(databases())
def test_faiss_finds_what_we_find(case):
    neighbors, X = case
    assert_same_neighbors(to_faiss(neighbors), neighbors, X)


@pytest.mark.parametrize("D", [1, 2, 3])
@pytest.mark.parametrize("K", [2, 3, 4, 5, 8])
def test_faiss_finds_what_we_find_among_few_codewords_of_few_dimensions(K, D):
    rng = np.random.default_rng(0)
    neighbors = database(random_quantizer(rng, 3, K, 3 * D, False), rng.integers(0, K, (20, 3)))
    assert_same_neighbors(to_faiss(neighbors), neighbors, rng.standard_normal((5, 3 * D)))


@given(databases())
def test_there_and_back_codes_and_codebooks_are_the_same_bit_for_bit(case):
    neighbors, X = case
    back = from_faiss(to_faiss(neighbors))
    quantizer, returned = (estimator.quantizer_.estimator for estimator in (neighbors, back))
    K = quantizer.K
    assert np.array_equal(back.codes_, neighbors.codes_)
    assert np.array_equal(back.ids_, neighbors.ids_)
    assert np.array_equal(returned.codebooks_[:, :K], quantizer.codebooks_)
    # faiss holds a rotation in float32, and the codewords that fill up its bits repeat others.
    assert np.array_equal(returned.n_codewords_, quantizer.n_codewords_)
    assert returned.n_features_in_ == quantizer.n_features_in_
    results = zip(neighbors.kneighbors(X, 1), back.kneighbors(X, 1), strict=True)
    if quantizer.rotation_ is None:
        assert all(np.array_equal(ours, again) for ours, again in results)
    else:
        assert np.array_equal(returned.rotation_, quantizer.rotation_.astype(np.float32))
    twice = from_faiss(to_faiss(back))
    assert twice.quantizer_.estimator.get_params() == returned.get_params()
    for name in FITTED:
        assert np.array_equal(getattr(twice.quantizer_, name), getattr(returned, name)), name
    for again, last in zip(back.kneighbors(X, 1), twice.kneighbors(X, 1), strict=True):
        assert np.array_equal(again, last)


@pytest.mark.parametrize("rotation", [None, "opq"])
@pytest.mark.parametrize(("M", "K"), [(8, 64), (5, 10), (3, 256)])
def test_faiss_takes_samples_of_a_fitted_quantizer(digits, M, K, rotation):
    X, X_query, _, _ = digits
    quantizer = ProductQuantizer(M, K, rotation=rotation, max_iter=3, max_iter_rotation=3, random_state=0)
    neighbors = DPQNeighbors(quantizer=quantizer).fit(X)
    assert_same_neighbors(to_faiss(neighbors), neighbors, X_query[:20])
    assert_same_neighbors(to_faiss(neighbors.remove(range(0, 900, 2))), neighbors, X_query[:20])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_quantizer_alone_gives_a_trained_index_without_items(digits, frozen):
    X, X_query, _, _ = digits
    quantizer = ProductQuantizer(5, 10, rotation="opq", max_iter_rotation=3, random_state=0).fit(X)
    index = to_faiss(FrozenEstimator(quantizer) if frozen else quantizer)
    assert index.is_trained
    assert index.ntotal == 0
    index.add(X.astype(np.float32))
    neighbors = from_faiss(index)
    # The codewords that fill up the bits of a code repeat others, so items are the same vectors.
    decoded = neighbors.quantizer_.decode(neighbors.codes_)
    same = (decoded == quantizer.decode(quantizer.encode(X))).all(axis=1)
    assert same.mean() > 0.99  # to rounding, which may take another codeword
    assert_same_neighbors(index, neighbors, X_query[:10])


def test_faiss_decodes_to_samples(digits):
    X = digits[0]
    quantizer = ProductQuantizer(5, 16, rotation="opq", max_iter_rotation=3, random_state=0)
    neighbors = DPQNeighbors(quantizer=quantizer).fit(X)
    decoded = to_faiss(neighbors).reconstruct_n(0, len(X))
    kept = quantizer_columns(neighbors.quantizer_)
    expected = neighbors.quantizer_.decode(neighbors.codes_)[:, kept] @ neighbors.quantizer_.rotation_.T
    np.testing.assert_allclose(decoded, expected, atol=1e-4)


def quantizer_columns(quantizer):
    """Return the columns of soft that hold features."""
    return quantizer.soft(np.random.default_rng(0).standard_normal((1, quantizer.n_features_in_)))[0] != 0


@pytest.mark.parametrize("intra_norm", [False, True])
def test_the_index_of_a_network_takes_soft_vectors(digits, intra_norm):
    X, X_query, y, _ = digits
    dpq = DPQClassifier(M=4, K=20, D=3, max_iter=2, random_state=0).fit(X, y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X, y)
    dpq.set_params(intra_norm=intra_norm)
    soft = dpq.soft(X_query[:20])
    assert_same_neighbors(to_faiss(neighbors), neighbors, X_query[:20], soft)
    index = to_faiss(dpq)
    assert (index.ntotal, index.is_trained) == (0, True)
    assert np.array_equal(from_faiss(index).quantizer_.codebooks_[:, :20], dpq.codebooks_)


def test_an_index_stands_alone(digits, tmp_path):
    X, X_query, _, _ = digits
    quantizer = ProductQuantizer(5, 10, rotation="opq", max_iter_rotation=3, random_state=0)
    neighbors = DPQNeighbors(quantizer=quantizer).fit(X, ids=np.arange(len(X)) + 7)
    index = to_faiss(neighbors)
    expected = index.search(X_query.astype(np.float32), 5)
    gc.collect()
    faiss.write_index(index, str(tmp_path / "index"))
    for again in (index, faiss.read_index(str(tmp_path / "index")), faiss.clone_index(index)):
        assert all(map(np.array_equal, again.search(X_query.astype(np.float32), 5), expected))
    index.add_with_ids(X[:2].astype(np.float32), np.array([5000, 5001]))
    index.remove_ids(np.array([7]))
    assert from_faiss(index).ids_.tolist() == [*range(8, len(X) + 7), 5000, 5001]


def test_ids_travel_only_where_they_are_not_row_numbers():
    rng = np.random.default_rng(0)
    quantizer, codes = random_quantizer(rng, 2, 8, 6, False), rng.integers(0, 8, (5, 2))
    assert isinstance(to_faiss(database(quantizer, codes)), faiss.IndexPQ)
    assert isinstance(to_faiss(database(quantizer, codes, [4, 3, 2, 1, 0])), faiss.IndexPQ)
    assert isinstance(to_faiss(database(quantizer, codes, [1, 2, 3, 4, 5])), faiss.IndexIDMap)


def test_many_codes_are_packed_block_by_block():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 32, (2**17 + 5, 3), dtype=np.uint8)
    ids = rng.permutation(10**6)[: len(codes)]
    neighbors = database(random_quantizer(rng, 3, 32, 6, False), codes, ids)
    back = from_faiss(to_faiss(neighbors))
    assert np.array_equal(back.codes_, codes[np.argsort(ids)])
    assert np.array_equal(back.ids_, np.sort(ids))


@pytest.fixture(scope="module")
def gaussian():
    return np.random.default_rng(0).standard_normal((1100, 16), dtype=np.float32)


def trained(spec, X):
    index = faiss.index_factory(X.shape[1], spec)
    index.train(X)
    return index


@pytest.mark.parametrize(
    "spec",
    [
        # np: without the training for polysemous codes, which takes long
        *("PQ8np", "PQ4x6np", "PQ16x3np", "PQ2x10np", "OPQ8,PQ8x6np", "RR,PQ8x5np", "RR,OPQ4,PQ4x4np", "PCA16,PQ4x4np"),
        *("PQ4x4", "IDMap,PQ8x4np", "IDMap2,PQ8x4np", "IDMap,OPQ4,PQ4x4np", "OPQ4,IDMap,PQ4x4np"),
    ],
)
def test_what_faiss_trained_is_found_here(gaussian, spec):
    index = trained(spec, gaussian)
    if "PCA" in spec:  # without its bias, which is for the mean, it rotates
        bias = faiss.downcast_VectorTransform(index.chain.at(0)).b
        faiss.copy_array_to_vector(np.zeros(16, np.float32), bias)
    if "IDMap" in spec:
        index.add_with_ids(gaussian, np.random.default_rng(0).permutation(10**6)[: len(gaussian)])
    else:
        index.add(gaussian)
    neighbors = from_faiss(index)
    assert neighbors.n_samples_fit_ == len(gaussian)
    assert neighbors.n_features_in_ == 16
    assert_same_neighbors(index, neighbors, gaussian[:10] + 1)
    assert len(neighbors.add(gaussian[:3]).ids_) == len(gaussian) + 3


def test_an_index_that_nothing_else_holds_is_taken(gaussian):
    index = trained("IDMap,OPQ4,PQ4x4np", gaussian)
    expected = from_faiss(index).quantizer_.codebooks_
    indexes = [faiss.clone_index(index)]
    found = from_faiss(indexes.pop())
    gc.collect()
    assert np.array_equal(found.quantizer_.codebooks_, expected)
    assert found.n_samples_fit_ == 0


def test_polysemous_training_does_not_matter_to_a_plain_search(gaussian):
    index = trained("PQ4x4", gaussian)
    assert index.do_polysemous_training
    index.add(gaussian)
    assert_same_neighbors(index, from_faiss(index), gaussian[:10] + 1)
    index.search_type = faiss.IndexPQ.ST_polysemous
    with pytest.raises(ValueError, match="search_type ST_PQ"):
        from_faiss(index)


def pq_index(d=8, M=2, bits=4, **attributes):
    """Return a trained IndexPQ of random codewords."""
    index = faiss.IndexPQ(d, M, bits)
    centroids = np.random.default_rng(0).standard_normal(d << bits, dtype=np.float32)
    faiss.copy_array_to_vector(centroids, index.pq.centroids)
    index.is_trained = True
    for name, value in attributes.items():
        setattr(index, name, value)
    return index


def behind(*transforms, index=None):
    index = faiss.IndexPreTransform(index or pq_index())
    for transform in reversed(transforms):
        index.prepend_transform(transform)
    return index


def linear(matrix, bias=None):
    matrix = np.asarray(matrix, dtype=np.float32)
    transform = faiss.LinearTransform(*matrix.shape[::-1], bias is not None)
    faiss.copy_array_to_vector(matrix.ravel(), transform.A)
    if bias is not None:
        faiss.copy_array_to_vector(np.asarray(bias, dtype=np.float32), transform.b)
    transform.is_trained = True
    return transform


def with_ids(ids):
    index = faiss.IndexIDMap(pq_index())
    index.add_with_ids(np.zeros((len(ids), 8), np.float32), np.array(ids))
    return index


REFUSED_INDEXES = {
    "flat": (lambda: faiss.IndexFlatL2(8), "got one in which there is IndexFlatL2"),
    "fast scan": (lambda: faiss.IndexPQFastScan(8, 2, 4), "there is IndexPQFastScan"),
    "flat inside": (lambda: behind(linear(np.eye(8)), index=faiss.IndexFlatL2(8)), "there is IndexFlatL2"),
    "inner product": (
        lambda: pq_index(metric_type=faiss.METRIC_INNER_PRODUCT),
        "METRIC_L2 and search_type ST_PQ, got 0",
    ),
    "symmetric": (lambda: pq_index(search_type=faiss.IndexPQ.ST_SDC), "search_type ST_PQ"),
    "untrained": (lambda: faiss.IndexPQ(8, 2, 4), "trained index"),
    "untrained transform": (lambda: behind(faiss.OPQMatrix(8, 2)), "trained index"),
    "wide codes": (lambda: pq_index(4, 2, 17), "K from 2 to 65,536"),
    "fewer dimensions": (lambda: behind(linear(np.eye(8, 12))), "LinearTransform of 12 to 8"),
    "bias": (lambda: behind(linear(np.eye(8), np.ones(8))), "without a bias"),
    "no rotation": (lambda: behind(linear(2 * np.eye(8))), "orthonormal"),
    "normalization": (lambda: behind(faiss.NormalizationTransform(8)), "got a NormalizationTransform"),
    "padding at the end": (lambda: behind(faiss.RemapDimensionsTransform(6, 8, False)), "pads parts"),
    "wider parts than needed": (lambda: behind(faiss.RemapDimensionsTransform(3, 8, False)), "pads parts"),
    "padding first": (
        lambda: behind(faiss.RemapDimensionsTransform(8, 8, False), linear(np.eye(8))),
        "got a RemapDimensionsTransform",
    ),
    "ids twice": (lambda: with_ids([3, 3]), "ids that differ"),
    "negative ids": (lambda: with_ids([3, -4]), "ids from 0"),
    "ids of ids": (lambda: faiss.IndexIDMap(faiss.IndexIDMap(pq_index())), "there is IndexIDMap"),
}


@pytest.mark.parametrize("name", REFUSED_INDEXES)
def test_indexes_that_we_do_not_have_are_refused(name):
    make, match = REFUSED_INDEXES[name]
    with pytest.raises(ValueError, match=match):
        from_faiss(make())


@pytest.mark.parametrize("index", [None, "index", np.eye(3), faiss.IndexBinaryFlat(8), ProductQuantizer()], ids=type)
def test_what_is_no_index_is_refused(index):
    with pytest.raises(TypeError, match=r"Expected a faiss\.Index"):
        from_faiss(index)


@pytest.mark.parametrize("params", [{"search": "symmetric"}, {"metric": "relevance"}])
def test_other_distances_are_refused(digits, params):
    X, _, y, _ = digits
    dpq = DPQTransformer(M=2, K=4, D=2, max_iter=1, random_state=0)
    neighbors = DPQNeighbors(quantizer=dpq, **params).fit(X[:200], y[:200])
    with pytest.raises(ValueError, match=r"""Expected metric="euclidean" and search="asymmetric".*'(sym|rel)"""):
        to_faiss(neighbors)
    neighbors.set_params(search="asymmetric", metric="euclidean")
    assert to_faiss(neighbors).ntotal == 200


@pytest.mark.parametrize("X", [1e9 + np.eye(6), 1e-33 * np.eye(6)], ids=["far", "tiny"])
def test_codewords_that_need_more_than_float32_are_refused(X):
    quantizer = ProductQuantizer(M=2, K=4).fit(X)
    for estimator in (quantizer, DPQNeighbors(quantizer=quantizer).fit(X)):
        with pytest.raises(ValueError, match="codewords that float32 tells apart"):
            to_faiss(estimator)


def test_the_largest_float32_values_travel():
    codebooks = np.float32(1e18) * np.random.default_rng(0).standard_normal((2, 4, 3), dtype=np.float32)
    neighbors = database(ProductQuantizer.from_codebooks(codebooks), [[0, 1], [2, 3], [3, 3]])
    assert_same_neighbors(to_faiss(neighbors), neighbors, np.zeros((1, 6)))


@pytest.mark.parametrize(
    ("estimator", "error"),
    [
        (DPQNeighbors(), NotFittedError),
        (ProductQuantizer(), NotFittedError),
        (DPQTransformer(), NotFittedError),
        (FrozenEstimator(ProductQuantizer()), NotFittedError),
        (KMeans(2).fit(np.eye(3)), TypeError),
        (np.eye(3), TypeError),
        (None, TypeError),
    ],
    ids=repr,
)
def test_what_is_no_fitted_quantizer_is_refused(estimator, error):
    with pytest.raises(error):
        to_faiss(estimator)


def test_a_quantizer_that_was_fitted_again_is_refused(digits):
    quantizer = ProductQuantizer(M=2, K=4, random_state=0).fit(digits[0])
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(digits[0])
    quantizer.fit(digits[1])
    with pytest.raises(ValueError, match="fitted again"):
        to_faiss(neighbors)


def test_what_is_exported_is_of_one_state(monkeypatch):
    X = np.random.default_rng(0).standard_normal((20, 6))
    quantizer = ProductQuantizer(M=2, K=4, random_state=0).fit(X)
    make = exchange._index_pq

    def make_meanwhile(*args):
        quantizer.fit(X[:, :5])
        return make(*args)

    monkeypatch.setattr(exchange, "_index_pq", make_meanwhile)
    assert to_faiss(quantizer).d == 6


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for function in (to_faiss, from_faiss):
        with pytest.raises(ImportError, match=r"pip install skdpq\[faiss\]"):
            function(None)


def test_the_code_of_the_page_runs_in_order():
    page = (Path(__file__).parent.parent / "docs/exchange.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5
    assert names["squared_distances"].argmin() == 0


# from_codebooks


def test_a_quantizer_of_its_own_codebooks_is_the_same(digits):
    X, X_query, _, _ = digits
    for rotation in (None, "opq"):
        fitted = ProductQuantizer(5, 20, rotation=rotation, max_iter=3, max_iter_rotation=3, random_state=0).fit(X)
        made = ProductQuantizer.from_codebooks(fitted.codebooks_, fitted.rotation_, n_features=64)
        assert vars(clone(made)) == vars(clone(ProductQuantizer(5, 20, rotation=rotation)))
        assert set(vars(made)) == set(vars(fitted))
        for name in FITTED:
            assert np.array_equal(getattr(made, name), getattr(fitted, name)), name
        for method in ("soft", "encode", "transform"):
            assert np.array_equal(getattr(made, method)(X_query), getattr(fitted, method)(X_query))
        assert made.fit(X).n_iter_ > 0


def test_codewords_keep_their_order_and_repetitions_are_no_code():
    quantizer = ProductQuantizer.from_codebooks([[[3.0], [1.0], [3.0], [2.0], [1.0]], [[0.0]] * 5])
    assert quantizer.n_codewords_.tolist() == [4, 1]
    assert quantizer.encode([[1.1, 0], [2.1, 9], [9, -9]]).tolist() == [[1, 0], [3, 0], [0, 0]]
    assert quantizer.codebooks_[0].ravel().tolist() == [3, 1, 3, 2, 1]


def test_what_is_given_is_copied():
    codebooks, rotation = np.zeros((1, 4, 2), np.float32), np.eye(2)
    quantizer = ProductQuantizer.from_codebooks(codebooks, rotation)
    codebooks[:], rotation[:] = 1, 0
    assert not quantizer.codebooks_.any()
    assert np.array_equal(quantizer.rotation_, np.eye(2))


@pytest.mark.parametrize("kind", [nanopq.PQ, nanopq.OPQ])
def test_what_nanopq_trained_is_taken(digits, kind):
    X, X_query, _, _ = (values.astype(np.float32) for values in digits)
    pq = kind(M=8, Ks=16, verbose=False)
    pq.fit(X, **({"rotation_iter": 2} if kind is nanopq.OPQ else {"iter": 3}))
    quantizer = ProductQuantizer.from_codebooks(pq.codewords, getattr(pq, "R", None))
    codes = pq.encode(X)
    assert (quantizer.encode(X) == codes).mean() > 0.999  # near ties may be decided otherwise
    neighbors = database(quantizer, codes)
    rotated = pq.rotate(X_query) if kind is nanopq.OPQ else X_query
    for query, soft in zip(X_query[:5], rotated[:5], strict=True):
        distances = (pq.pq if kind is nanopq.OPQ else pq).dtable(soft).adist(codes)
        found, ids = neighbors.kneighbors([query], 50)
        np.testing.assert_allclose(np.square(found[0]), np.sort(distances)[:50], rtol=1e-3)
        np.testing.assert_allclose(distances[ids[0]], np.sort(distances)[:50], rtol=1e-3)
    assert_same_neighbors(to_faiss(neighbors), neighbors, X_query[:5])


REFUSED_CODEBOOKS = {
    "flat": ({"codebooks": np.zeros((4, 3))}, "shape"),
    "four axes": ({"codebooks": np.zeros((2, 4, 3, 1))}, "shape"),
    "one codeword": ({"codebooks": np.zeros((2, 1, 3))}, "K from 2 to 65,536"),
    "many codewords": ({"codebooks": np.zeros((1, 65_537, 1))}, "K from 2 to 65,536"),
    "no width": ({"codebooks": np.zeros((2, 4, 0))}, "shape"),
    "nan": ({"codebooks": np.full((2, 4, 3), np.nan)}, "NaN"),
    "infinite": ({"codebooks": np.full((2, 4, 3), np.inf)}, "infinity"),
    "large": ({"codebooks": np.full((2, 4, 3), 1e39)}, "float32 can hold"),
    "far": ({"codebooks": 1e9 + np.arange(24.0).reshape(2, 4, 3)}, "float32 tells apart"),
    "tiny": ({"codebooks": 1e-33 * np.arange(24.0).reshape(2, 4, 3)}, "float32 tells apart"),
    "complex": ({"codebooks": np.zeros((2, 4, 3), complex)}, "Complex"),
    "words": ({"codebooks": [[["a"], ["b"]]]}, "numeric|float"),
    "few features": ({"n_features": 4}, "n_features from 5 to 6"),
    "many features": ({"n_features": 7}, "n_features from 5 to 6"),
    "no features": ({"n_features": 0}, "n_features"),
    "small rotation": ({"rotation": np.eye(5)}, r"rotation of shape \(6, 6\)"),
    "oblong rotation": ({"rotation": np.eye(6, 5)}, r"rotation of shape \(6, 6\)"),
    "rotation of 6 for 5": ({"rotation": np.eye(6), "n_features": 5}, r"rotation of shape \(5, 5\)"),
    "scaling": ({"rotation": 1.001 * np.eye(6)}, "orthonormal"),
    "nan in rotation": ({"rotation": np.full((6, 6), np.nan)}, "NaN"),
}


@pytest.mark.parametrize("name", REFUSED_CODEBOOKS)
def test_what_are_no_codebooks_is_refused(name):
    given, match = REFUSED_CODEBOOKS[name]
    with pytest.raises(ValueError, match=match):
        ProductQuantizer.from_codebooks(**{"codebooks": np.ones((2, 4, 3))} | given)


def test_half_a_feature_is_refused():
    with pytest.raises(TypeError, match="n_features"):
        ProductQuantizer.from_codebooks(np.ones((2, 4, 3)), n_features=5.5)
