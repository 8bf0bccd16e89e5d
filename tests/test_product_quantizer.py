"""ProductQuantizer: codes against brute force, OPQ against PQ, and inputs of every size, scale and kind."""

import pickle
import tracemalloc

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import euclidean_distances
from threadpoolctl import threadpool_info, threadpool_limits

from skdpq import ProductQuantizer

X = load_digits().data[:400]
ROTATIONS = pytest.mark.parametrize("rotation", [None, "opq"])


def quantization_error(quantizer, X):
    return np.square(quantizer.soft(X) - quantizer.decode(quantizer.encode(X)), dtype=np.float64).sum(axis=1).mean()


def correlated(n=800, n_features=12):
    rng = np.random.default_rng(0)
    scales = np.exp(-np.arange(n_features) / 2)[:, np.newaxis]
    return rng.standard_normal((n, n_features)) @ (scales * rng.standard_normal((n_features, n_features)))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_codes_are_the_nearest_codewords(data):
    M, K = data.draw(st.integers(1, 6), "M"), data.draw(st.integers(2, 9), "K")
    n, n_features = data.draw(st.integers(1, 30), "n"), data.draw(st.integers(1, 14), "n_features")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    # Small integers have duplicates and exact ties.
    X = (
        rng.integers(0, 3, (n, n_features))
        if data.draw(st.booleans(), "integers")
        else rng.normal(size=(n, n_features))
    )
    rotation = data.draw(st.sampled_from([None, "opq"]), "rotation")
    quantizer = ProductQuantizer(M, K, rotation=rotation, max_iter_rotation=3, random_state=0).fit(X)

    D = -(-n_features // M)
    assert quantizer.codebooks_.shape == (M, K, D)
    assert quantizer.codebooks_.dtype == np.float32
    soft, codes, hard = quantizer.soft(X), quantizer.encode(X), quantizer.decode(quantizer.encode(X))
    assert soft.shape == hard.shape == (n, M * D)
    assert soft.dtype == hard.dtype == np.float32
    assert (codes.shape, codes.dtype) == ((n, M), np.uint8)

    sub_vectors = soft.reshape(n, M, 1, D).astype(np.float64)
    distances = np.square(sub_vectors - quantizer.codebooks_).sum(axis=3)
    chosen = np.take_along_axis(distances, codes[:, :, np.newaxis].astype(int), axis=2)[:, :, 0]
    np.testing.assert_allclose(chosen, distances.min(axis=2), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        np.square(soft - hard, dtype=float).sum(axis=1), chosen.sum(axis=1), rtol=1e-4, atol=1e-9
    )

    # No feature is dropped: distances are those of X.
    np.testing.assert_allclose(euclidean_distances(soft.astype(float)), euclidean_distances(X), rtol=1e-5, atol=1e-5)
    for m in range(M):  # repeated codewords come last, and are not used
        n_codewords = quantizer.n_codewords_[m]
        assert len(np.unique(quantizer.codebooks_[m], axis=0)) == n_codewords
        assert len(np.unique(quantizer.codebooks_[m, :n_codewords], axis=0)) == n_codewords
        assert codes[:, m].max() < n_codewords
        if len(np.unique(sub_vectors[:, m, 0], axis=0)) <= K and rotation is None:
            assert not chosen[:, m].any()
    if n_features < M:
        assert not quantizer.codebooks_[n_features:].any()
        assert not codes[:, n_features:].any()


def test_ties_go_to_the_lowest_index():
    quantizer = ProductQuantizer(1, 4).fit([[0.0], [1.0], [2.0]])
    np.testing.assert_array_equal(quantizer.codebooks_.ravel(), [0, 1, 2, 0])
    np.testing.assert_array_equal(quantizer.encode([[0.5], [1.5], [0], [2], [9]]).ravel(), [0, 1, 0, 2, 2])


def test_parts_differ_by_at_most_one_feature():
    quantizer = ProductQuantizer(3, 2).fit(X[:5, :8])
    np.testing.assert_array_equal(quantizer.soft([[1, 2, 3, 4, 5, 6, 7, 8]]), [[1, 2, 3, 4, 5, 6, 7, 8, 0]])
    quantizer = ProductQuantizer(4, 2).fit(X[:5, :2])
    np.testing.assert_array_equal(quantizer.soft([[1, 2]]), [[1, 2, 0, 0]])


@ROTATIONS
def test_codewords_are_the_means_of_their_samples(rotation):
    quantizer = ProductQuantizer(4, 8, rotation=rotation, max_iter=300, max_iter_rotation=4, random_state=0).fit(X)
    soft, codes = quantizer.soft(X).reshape(len(X), 4, -1), quantizer.encode(X)
    for m in range(4):
        means = [soft[codes[:, m] == k, m].mean(axis=0) for k in range(8)]
        np.testing.assert_allclose(quantizer.codebooks_[m], means, rtol=1e-3, atol=0.05)


@ROTATIONS
def test_transform_and_pack(rotation):
    quantizer = ProductQuantizer(4, 300, rotation=rotation, max_iter_rotation=2, random_state=0).fit(X)
    codes = quantizer.encode(X)
    assert codes.dtype == np.uint16
    np.testing.assert_array_equal(quantizer.transform(X), quantizer.soft(X))
    np.testing.assert_array_equal(quantizer.set_params(output="hard").transform(X), quantizer.decode(codes))
    np.testing.assert_array_equal(quantizer.set_params(output="codes").transform(X), codes)
    np.testing.assert_array_equal(quantizer.unpack_codes(quantizer.pack_codes(codes)), codes)
    assert quantizer.compression_ratio_ == pytest.approx(32 * 64 / (4 * np.log2(300)))


@pytest.mark.parametrize("n_features", [1, 5, 12])
def test_rotation_is_orthonormal_and_keeps_distances(n_features):
    data = correlated()[:, :n_features] + 100
    quantizer = ProductQuantizer(3, 8, rotation="opq", max_iter_rotation=5, random_state=0).fit(data)
    np.testing.assert_allclose(quantizer.rotation_ @ quantizer.rotation_.T, np.eye(n_features), atol=1e-12)
    soft = quantizer.soft(data)
    np.testing.assert_allclose(
        euclidean_distances(soft[:50].astype(float)), euclidean_distances(data[:50]), atol=1e-4 * n_features
    )
    assert ProductQuantizer(3, 8).fit(data).rotation_ is None


@pytest.mark.parametrize(("data", "at_most"), [(correlated(), 0.7), (X, 0.97)], ids=["correlated", "digits"])
@pytest.mark.parametrize(("M", "K"), [(4, 16), (3, 8)])
def test_opq_has_a_smaller_error_than_pq(data, at_most, M, K):
    pq, opq = (
        ProductQuantizer(M, K, rotation=rotation, max_iter_rotation=20, random_state=0).fit(data)
        for rotation in (None, "opq")
    )
    assert quantization_error(opq, data) <= at_most * quantization_error(pq, data)


@pytest.mark.parametrize(
    ("exponents", "dealt"),
    [
        ([3, 2, 1, 0], [[0, 3], [1, 2]]),  # 8 and 1, 4 and 2
        ([5, 4, 3, 2, 1, 0], [[0, 5], [1, 4], [2, 3]]),
        ([7, 6, 4, 2, 1, 0], [[0, 3, 4], [1, 2, 5]]),
        ([6, 3, 2, 1, 0], [[0, 3, 4], [1, 2]]),  # the second part has less, and is full
    ],
)
def test_opq_starts_from_principal_axes_dealt_to_parts_of_equal_variance(exponents, dealt):
    # The largest goes to the part whose product is smallest. Each axis has two levels, so that a start whose parts are
    # axes has no error, and is not left.
    M, n_axes, scales = len(dealt), len(exponents), 2.0 ** np.array(exponents)
    levels = np.stack(np.meshgrid(*[[-1, 1]] * n_axes), axis=-1).reshape(-1, n_axes) * scales
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(n_axes, n_axes)))[0]
    data = np.tile(levels @ axes, (3, 1)) + 5
    quantizer = ProductQuantizer(M, 2 ** len(dealt[0]), rotation="opq", random_state=0).fit(data)
    assert quantization_error(quantizer, data) < 1e-9
    starts = np.cumsum([0, *map(len, dealt[:-1])])  # of the parts' columns
    shares = np.add.reduceat(np.square(axes @ quantizer.rotation_), starts, axis=1)  # of each axis in each part
    expected = np.zeros((n_axes, M))
    for m, part in enumerate(dealt):
        expected[part, m] = 1
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_opq_starts_from_the_features_where_their_order_means_something():
    rng = np.random.default_rng(0)
    data = np.repeat(rng.normal(size=(500, 3)), 2, axis=1) + 0.01 * rng.normal(size=(500, 6))  # pairs, one a part
    pq, opq = (
        ProductQuantizer(3, 16, rotation=rotation, max_iter_rotation=1, random_state=0).fit(data)
        for rotation in (None, "opq")
    )
    assert quantization_error(opq, data) < 1.02 * quantization_error(pq, data)


def test_more_alternations_lessen_the_error():
    quantizer = ProductQuantizer(3, 8, rotation="opq", random_state=0)
    errors = [
        quantization_error(clone(quantizer).set_params(max_iter_rotation=n).fit(X), X) for n in (1, 2, 10, 50, 200)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1.04 * errors[1] > 1.06 * errors[2]


def test_one_alternation_leaves_either_start():
    rotation = ProductQuantizer(3, 8, rotation="opq", max_iter_rotation=1, random_state=0).fit(correlated()).rotation_
    assert np.abs(rotation - np.eye(12)).max() > 1e-3  # not the features
    covariance = rotation.T @ np.cov(correlated().T) @ rotation
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 1e-3 * covariance.max()  # and not principal axes


def test_max_iter_bounds_the_iterations_of_k_means():
    fitted = [ProductQuantizer(4, 16, max_iter=n, random_state=0).fit(X) for n in (1, 3, 300)]
    assert [quantizer.n_iter_ for quantizer in fitted[:2]] == [1, 3]
    assert 3 < fitted[2].n_iter_ < 300
    errors = [quantization_error(quantizer, X) for quantizer in fitted]
    assert errors[0] > errors[1] > errors[2]
    assert ProductQuantizer().max_iter == 25


def test_opq_learns_from_a_sample(monkeypatch):
    data = correlated()
    whole = ProductQuantizer(3, 2, rotation="opq", max_iter_rotation=10, random_state=0).fit(data)
    monkeypatch.setattr("skdpq.product_quantizer._ROTATION_SAMPLES", 0)  # leaves 256 samples a codeword
    sampled = ProductQuantizer(3, 2, rotation="opq", max_iter_rotation=10, random_state=0).fit(data)
    assert not np.array_equal(whole.rotation_, sampled.rotation_)
    np.testing.assert_array_equal(clone(sampled).fit(data).rotation_, sampled.rotation_)  # drawn by random_state
    assert quantization_error(sampled, data) <= 1.1 * quantization_error(whole, data)


def test_opq_without_error_to_lessen_is_pq():
    pq, opq = (ProductQuantizer(4, 256, rotation=rotation).fit(X[:100]) for rotation in (None, "opq"))
    np.testing.assert_array_equal(opq.rotation_, np.eye(64))
    np.testing.assert_array_equal(opq.codebooks_, pq.codebooks_)


@ROTATIONS
def test_same_seed_same_codes(rotation):
    quantizer = ProductQuantizer(4, 16, rotation=rotation, max_iter_rotation=4, random_state=0)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    threads = [(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()]
    first = clone(quantizer).fit(X)
    assert [(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()] == threads
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    codebooks = first.codebooks_.copy()
    with threadpool_limits(1):  # whatever the number of threads
        second = clone(quantizer).fit(X)
    first.transform(X)
    first.encode(X)
    for other in (second, first.fit(X)):
        np.testing.assert_array_equal(other.codebooks_, codebooks)
    other_seed = clone(quantizer).set_params(random_state=1).fit(X)
    assert not np.array_equal(other_seed.codebooks_, codebooks)


@ROTATIONS
@pytest.mark.parametrize("exponent", [-70, 100])
def test_scale_changes_no_code(rotation, exponent):
    # Squares of such values are no longer float32 numbers, or hardly.
    quantizer = ProductQuantizer(4, 16, rotation=rotation, max_iter_rotation=3, random_state=0)
    codes = clone(quantizer).fit(X).encode(X)
    scaled = np.ldexp(X, exponent)
    np.testing.assert_array_equal(clone(quantizer).fit(scaled).encode(scaled), codes)


@ROTATIONS
def test_values_beyond_float32(rotation):
    quantizer = ProductQuantizer(2, 4, rotation=rotation, max_iter_rotation=3, random_state=0)
    with pytest.raises(ValueError, match=r"float32 can hold, at most 3\.4e\+38"):
        quantizer.fit(X * 1e200)
    assert not hasattr(quantizer, "n_features_in_")
    quantizer.fit(X)
    for method in (quantizer.soft, quantizer.encode, quantizer.transform, quantizer.fit):
        with pytest.raises(ValueError, match=r"got 1e\+39"):
            method(np.where(X > 0, 1e39, 0))
    assert np.isfinite(quantizer.soft(X)).all()  # the failed fit left it as it was


def test_rotation_beyond_float32():
    quantizer = ProductQuantizer(2, 4, rotation="opq", max_iter_rotation=3, random_state=0).fit(correlated())
    with pytest.raises(ValueError, match="also after the rotation"):
        quantizer.soft(3.4e38 * np.sign(quantizer.rotation_.T))
    with pytest.raises(ValueError, match="also after the rotation"):
        quantizer.fit(3.4e38 * np.sign(correlated()))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool])
@ROTATIONS
def test_dtypes(dtype, rotation):
    quantizer = ProductQuantizer(4, 16, rotation=rotation, max_iter_rotation=2, random_state=0).fit(X)
    converted = X.astype(dtype)
    np.testing.assert_array_equal(quantizer.encode(converted), quantizer.encode(converted.astype(float)))
    refitted = clone(quantizer).fit(converted)
    np.testing.assert_array_equal(refitted.codebooks_, clone(quantizer).fit(converted.astype(float)).codebooks_)


@ROTATIONS
def test_memory_maps_and_blocks(rotation, tmp_path, monkeypatch):
    path = tmp_path / "X.npy"
    np.save(path, X)
    mapped = np.load(path, mmap_mode="r")
    quantizer = ProductQuantizer(5, 16, rotation=rotation, max_iter_rotation=2, random_state=0)
    whole = clone(quantizer).fit(X)
    codes, soft = whole.encode(X), whole.soft(X)
    monkeypatch.setattr("skdpq.product_quantizer._BLOCK_VALUES", 64 * 7)
    quantizer.fit(mapped)
    np.testing.assert_allclose(quantizer.codebooks_, whole.codebooks_, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(whole.encode(mapped), codes)
    np.testing.assert_allclose(whole.soft(mapped), soft, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
@ROTATIONS
def test_encode_copies_no_large_array(rotation, dtype, monkeypatch):
    monkeypatch.setattr("skdpq.product_quantizer._BLOCK_VALUES", 2**14)
    quantizer = ProductQuantizer(4, 16, rotation=rotation, max_iter_rotation=2, random_state=0).fit(X)
    large = np.tile(X, (100, 1)).astype(dtype)
    tracemalloc.start()
    try:
        codes = quantizer.encode(large)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - codes.nbytes < large.size / 2  # bytes; X has 8 a value, float32 would have 4
    np.testing.assert_array_equal(codes, np.tile(quantizer.encode(X), (100, 1)))


@pytest.mark.parametrize("data", [np.zeros((1, 1)), np.ones((1, 9)), np.ones((20, 9)), np.eye(7)], ids=str)
@ROTATIONS
def test_few_distinct_samples(data, rotation):
    quantizer = ProductQuantizer(4, 32, rotation=rotation, random_state=0).fit(data)
    assert quantization_error(quantizer, data) == pytest.approx(0, abs=1e-10)
    assert quantizer.n_iter_ == 1


def test_nearly_equal_samples_warn_of_nothing():
    # Distinct in float32, but not after k-means has subtracted the mean.
    data = np.concatenate([np.linspace(1, 2, 50) * 1e-30, [1e3]])[:, np.newaxis]
    quantizer = ProductQuantizer(1, 8, random_state=0).fit(data)
    assert np.isfinite(quantizer.codebooks_).all()
    assert len(np.unique(quantizer.encode(data))) >= 2


def test_feature_names_and_set_output():
    names = [f"pixel{i}" for i in range(64)]
    frame = pd.DataFrame(X, columns=names)
    quantizer = ProductQuantizer(3, 4, output="codes", random_state=0).fit(frame)
    np.testing.assert_array_equal(quantizer.feature_names_in_, names)
    columns = ["productquantizer0", "productquantizer1", "productquantizer2"]
    np.testing.assert_array_equal(quantizer.get_feature_names_out(), columns)
    for library, data in ((pd, frame), (pl, pl.DataFrame(X, schema=names))):
        quantizer.set_output(transform=library.__name__)
        result = quantizer.transform(data)
        assert isinstance(result, library.DataFrame)
        assert list(result.columns) == columns
        np.testing.assert_array_equal(result.to_numpy(), quantizer.encode(data))
    assert len(quantizer.set_params(output="soft").get_feature_names_out()) == 66
    with pytest.raises(ValueError, match="feature names should match"):
        quantizer.encode(frame[names[::-1]])


@ROTATIONS
def test_pickle_joblib_and_clone(rotation, tmp_path):
    quantizer = ProductQuantizer(3, 4, rotation=rotation, max_iter_rotation=2, random_state=0).fit(X)
    joblib.dump(quantizer, tmp_path / "quantizer")
    for loaded in (pickle.loads(pickle.dumps(quantizer)), joblib.load(tmp_path / "quantizer")):
        np.testing.assert_array_equal(loaded.encode(X), quantizer.encode(X))
    copy = clone(quantizer)
    assert copy.get_params() == quantizer.get_params()
    assert not hasattr(copy, "codebooks_")


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (np.full((3, 2), np.nan), ValueError, "NaN"),
        (np.full((3, 2), np.inf), ValueError, "infinity"),
        (np.ones(3), ValueError, "Expected 2D array"),
        (np.ones((2, 2, 2)), ValueError, "dim 3"),
        (np.ones((0, 2)), ValueError, "0 sample"),
        (np.ones((2, 0)), ValueError, "0 feature"),
        (np.ones((2, 2), complex), ValueError, "Complex data"),
        (np.array([["a", "b"]]), ValueError, "numeric|convert"),
        (np.array([[{}, 1]], dtype=object), TypeError, "argument must be .* string.* number"),
        (csr_array(np.eye(3)), TypeError, "Sparse data"),
    ],
)
def test_bad_data(data, error, match):
    quantizer = ProductQuantizer(2, 2, random_state=0)
    with pytest.raises(error, match=match):
        quantizer.fit(data)
    assert vars(quantizer) == vars(clone(quantizer))
    quantizer.fit(X[:, :2])
    before = quantizer.encode(X[:, :2])
    for method in (quantizer.fit, quantizer.soft, quantizer.encode, quantizer.transform):
        with pytest.raises(error, match=match):
            method(data)
    np.testing.assert_array_equal(quantizer.encode(X[:, :2]), before)


@pytest.mark.parametrize(
    "params",
    [
        {"M": 0},
        {"M": 2.0},
        {"K": 1},
        {"K": 65_537},
        {"rotation": "pca"},
        {"output": "code"},
        {"max_iter": 0},
        {"max_iter_rotation": 0},
        {"random_state": "a"},
    ],
    ids=str,
)
def test_bad_parameters(params):
    with pytest.raises(ValueError, match=f"The '{next(iter(params))}' parameter of ProductQuantizer must be"):
        ProductQuantizer(**params).fit(X)


def test_not_fitted_and_wrong_width():
    quantizer = ProductQuantizer(2, 2)
    for method in (quantizer.soft, quantizer.encode, quantizer.transform, quantizer.decode):
        with pytest.raises(NotFittedError):
            method(X)
    quantizer.fit(X)
    for method in (quantizer.soft, quantizer.encode, quantizer.transform):
        with pytest.raises(ValueError, match="expecting 64 features"):
            method(X[:, 1:])
    with pytest.raises(ValueError, match=r"range\(2\)"):
        quantizer.decode([[0, 2]])
