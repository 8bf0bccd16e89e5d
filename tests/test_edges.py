"""Numbers at the edge of what float32, float64 and small integers hold: right, or refused, and never silently wrong."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq._learning import auto

SMALL = {"M": 2, "K": 8, "D": 3, "hidden_layer_sizes": (16,), "part_layer_sizes": (), "max_iter": 20, "random_state": 0}
LEARNS = SMALL | {"K": 4, "learning_rate": 0.02}
SMALL |= {"batch_size": 300}  # one batch, so that no order of samples matters


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 8)), np.arange(300) % 3
    return X + 2 * np.eye(8)[y], rng.normal(size=(20, 8)), y


def search(X, queries, **params):
    """Return what an index of samples finds, distances first."""
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=4, K=16, random_state=0), **params).fit(X)
    near = neighbors.kneighbors(queries, 5)
    codes = neighbors.kneighbors_codes(neighbors.codes_[:9], 5)
    every = neighbors.kneighbors(n_neighbors=5)
    # up to a distance of the first query that is in between two
    radius = np.sqrt(near[0][0, 1] * near[0][0, 3])
    within = (np.concatenate(parts) for parts in neighbors.radius_neighbors(queries, radius))
    distances, ids = zip(near, codes, every, within, strict=True)
    return distances, ids


@pytest.mark.parametrize("exponent", [-31, -63, -76, -150, 40])
@pytest.mark.parametrize("how", ["asymmetric", "symmetric"])
def test_neighbors_are_the_same_in_any_unit(samples, exponent, how):
    X, queries, _ = samples
    expected_distances, expected_ids = search(X, queries, search=how)
    distances, ids = search(np.ldexp(X, exponent), np.ldexp(queries, exponent), search=how)
    for actual, expected in zip(ids, expected_ids, strict=True):
        assert_array_equal(actual, expected)
    for actual, expected in zip(distances, expected_distances, strict=True):
        assert_array_equal(np.ldexp(actual, -exponent), expected)  # a power of two costs no digit


def test_scores_are_the_same_in_any_unit(samples):
    X, queries, y = samples
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=4, K=16, random_state=0))
    scores = [
        clone(neighbors).fit(np.ldexp(X, e), y).score(np.ldexp(queries, e), np.arange(20) % 3) for e in (0, -76, -150)
    ]
    assert len(set(scores)) == 1


@pytest.mark.parametrize("rotation", [None, "opq"])
@pytest.mark.parametrize("offset", [1e9, -1e15])
def test_features_far_from_zero_are_told_apart(samples, rotation, offset):
    X = samples[0]
    moved = X + offset
    X = moved - offset  # with the rounding of float64
    here, there = (ProductQuantizer(M=4, K=16, rotation=rotation, random_state=0).fit(a) for a in (X, moved))
    assert there.codebooks_.dtype == np.float64  # as soft and hard, which float32 could not hold
    origin = np.full(8, offset)
    origin = origin if rotation is None else origin @ there.rotation_
    np.testing.assert_allclose(there.soft(moved) - origin, X if rotation is None else X @ there.rotation_, atol=0.51)
    errors = [
        np.square(pq.decode(pq.encode(a)) - pq.soft(a)).sum(axis=1).mean() for pq, a in ((here, X), (there, moved))
    ]
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.05 if abs(offset) < 1e12 else 0.5)
    assert_array_equal(there.encode(moved[:9]), there.encode(moved)[:9])


def test_values_one_apart_far_from_zero_have_a_codeword_each():
    X = 1e9 + np.arange(6.0)[:, None]
    quantizer = ProductQuantizer(M=1, K=8).fit(X)
    assert_array_equal(quantizer.encode(X)[:, 0], np.arange(6))
    assert_array_equal(quantizer.decode(quantizer.encode(X)), X)
    neighbors = DPQNeighbors(quantizer=quantizer).fit(X)
    assert_array_equal(neighbors.kneighbors(X[:1], 6)[0], [np.arange(6.0)])
    assert_array_equal(neighbors.kneighbors(n_neighbors=2)[0], [[1, 2], [1, 1], [1, 1], [1, 1], [1, 1], [1, 2]])


def test_features_that_float32_holds_stay_as_they_are(samples):
    X = samples[0] + 100
    quantizer = ProductQuantizer(M=4, K=16).fit(X)
    assert quantizer.origin_ is None
    assert quantizer.exponent_ == 0
    assert quantizer.codebooks_.dtype == quantizer.soft(X).dtype == np.float32


@pytest.mark.parametrize("supervision", [0, 0.5])
@pytest.mark.parametrize(("n", "n_features"), [(15, 30), (15, 2100)])
def test_codes_do_not_depend_on_the_order_of_fewer_samples_than_features(supervision, n, n_features):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, n_features)), np.arange(n) % 3
    order = rng.permutation(n)
    dpq = DPQTransformer(**(SMALL | {"D": 16, "K": 4}), supervision=supervision)
    codes = clone(dpq).fit(X, y).encode(X)
    assert_array_equal(clone(dpq).fit(X[order], y[order]).encode(X), codes)


def test_components_that_tie_are_kept_or_left_out_together():
    X = np.repeat(np.eye(12), 4, axis=0) * 3  # eleven equal variances, of which six would be wanted
    order = np.random.default_rng(1).permutation(len(X))
    dpq = DPQTransformer(**SMALL, supervision=0)
    assert_array_equal(clone(dpq).fit(X[order]).encode(X), clone(dpq).fit(X).encode(X))


@pytest.mark.parametrize("value", [1e22, 1e22 / 3, -1e30])
@pytest.mark.parametrize("partial", [False, True])
def test_a_constant_feature_says_nothing_however_large_it_is(samples, value, partial):
    X, _, y = samples
    codes = []
    for constant in (0.0, value):
        data = np.column_stack((X, np.full(len(X), constant)))
        dpq = DPQClassifier(**SMALL)
        if partial:
            for rows in (slice(0, 100), slice(100, None)):
                dpq.partial_fit(data[rows], y[rows], classes=[0, 1, 2])
        else:
            dpq.fit(data, y)
        codes.append(dpq.encode(data))
    assert_array_equal(*codes)


def test_a_feature_that_varies_by_its_rounding_alone_does_no_harm(samples):
    X, _, y = samples
    noise = 1e22 * (1 + np.random.default_rng(0).normal(size=300) * 1e-15)
    dpq = DPQClassifier(**SMALL).fit(np.column_stack((X, noise)), y)
    assert np.abs((noise - dpq.mean_[-1]) / dpq.scale_[-1]).max() < 10


@pytest.mark.parametrize("scale", [1e-46, 2.0**-140, 2.0**130, 1e39])
@pytest.mark.parametrize("supervision", [0.5, 1])
def test_the_unit_of_sample_weights_does_not_matter(samples, scale, supervision):
    X, _, y = samples
    weight = np.random.default_rng(0).integers(1, 4, 300) / 4
    dpq = DPQTransformer(**SMALL, supervision=supervision)
    expected = clone(dpq).fit(X, y, sample_weight=weight)
    actual = clone(dpq).fit(X, y, sample_weight=weight * scale)
    assert (actual.encode(X) == expected.encode(X)).mean() > 0.9
    if np.frexp(scale)[0] == 0.5:  # a power of two changes nothing at all
        assert_array_equal(actual.soft(X), expected.soft(X))


def test_weights_that_vanish_beside_others_count_for_nothing(samples):
    X, _, y = samples
    weight = np.where(np.arange(300) < 100, 1.0, 1e-46)
    dpq = DPQClassifier(**(LEARNS | {"batch_size": 4})).fit(X, y, sample_weight=weight)
    assert dpq.score(X[:100], y[:100]) > 0.6
    scored = clone(dpq).fit(X, y, X_val=X[:50], y_val=y[:50], sample_weight_val=np.full(50, 1e-46))
    assert max(scored.validation_scores_) > 0


def test_a_class_without_weight_is_not_balanced(samples):
    X, _, y = samples
    dpq = DPQClassifier(**LEARNS, class_weight="balanced").fit(X, y, sample_weight=(y != 2) * 1.0)
    assert np.isfinite(dpq.codebooks_).all()
    assert_array_equal(dpq.classes_, [0, 1, 2])
    assert set(dpq.predict(X[y != 2])) == {0, 1}


def test_samples_of_classes_without_weight_teach_nothing(samples):
    X, _, y = samples
    dpq = DPQClassifier(**SMALL, class_weight={0: 0})
    dpq.partial_fit(X[y == 0], y[y == 0], classes=[0, 1, 2])  # which begins
    assert dpq.n_iter_ == 0
    assert np.isfinite(dpq.soft(X)).all()
    dpq.partial_fit(X[y > 0], y[y > 0])
    before = {name: value.copy() for name, value in vars(dpq).items() if isinstance(value, np.ndarray)}
    parameters = {name: value.copy() for name, value in dpq.parameters_.items()}
    dpq.partial_fit(X[y == 0], y[y == 0])
    assert dpq.n_iter_ == 1
    for name, value in parameters.items():
        assert_array_equal(dpq.parameters_[name], value)
    for name, value in before.items():
        assert_array_equal(getattr(dpq, name), value)


def test_only_classes_without_weight_are_refused(samples):
    X, _, y = samples
    with pytest.raises(ValueError, match="at least 2 classes with positive weight"):
        DPQClassifier(**SMALL, class_weight=dict.fromkeys(range(3), 0)).fit(X, y)


def test_small_integer_types_of_numpy_are_integers(samples):
    X, _, y = samples
    X = np.repeat(X, 2, axis=0)[:, :6]
    y = np.repeat(y, 2)
    sizes = {"M": np.int8(100), "K": np.uint8(200), "max_iter": np.int8(2)}
    quantizers = ProductQuantizer(**sizes, random_state=0), ProductQuantizer(M=100, K=200, max_iter=2, random_state=0)
    assert_array_equal(*(quantizer.fit(X).encode(X) for quantizer in quantizers))
    assert quantizers[0].compression_ratio_ == quantizers[1].compression_ratio_
    opq = {
        "M": np.int8(2),
        "K": np.int16(200),
        "rotation": "opq",
        "max_iter_rotation": np.int8(4),
        "max_iter": np.int8(2),
    }
    ProductQuantizer(**opq, random_state=0).fit(X)

    small = {
        "M": np.int8(20),
        "K": np.uint8(128),
        "D": np.int8(16),
        "batch_size": np.int8(127),
        "max_iter": np.int8(2),
        "n_iter_no_change": np.int8(1),
        "hidden_layer_sizes": np.array([127], np.int8),
        "part_layer_sizes": np.array([127], np.int8),
    }
    large = {name: value.tolist() for name, value in small.items()}
    one, other = (DPQClassifier(**params, random_state=0, supervision=0.5).fit(X, y) for params in (small, large))
    assert_array_equal(one.encode(X), other.encode(X))
    assert one.compression_ratio_ == other.compression_ratio_
    assert auto.Resolved(DPQTransformer(max_iter=np.int8(100)), 2, distills=False).batch_size(30_000) == 256

    neighbors = DPQNeighbors(np.int8(127), quantizer=quantizers[1]).fit(X)
    assert neighbors.transform(X[:2]).nnz == 2 * 128  # with one more for the sample itself
    assert neighbors.kneighbors(X[:2], np.uint8(255))[1].shape == (2, 255)
    assert neighbors.kneighbors(n_neighbors=np.int8(127))[1].shape == (600, 127)


LARGE = np.array([2**53, 2**53 + 1, 2**53 + 2])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_labels_beyond_53_bits_stay_apart(samples, dtype):
    X, _, y = samples
    labels = LARGE[y]
    dpq = DPQClassifier(**LEARNS).fit(X, labels, X_val=X, y_val=labels.astype(dtype))
    assert max(dpq.validation_scores_) > 0.5
    with pytest.raises(ValueError, match="y_val"):
        clone(dpq).fit(X, labels, X_val=X, y_val=np.full(300, 2**53 + 3, dtype))

    dpq = DPQClassifier(**LEARNS)
    for _ in range(10):
        dpq.partial_fit(X, labels, classes=LARGE.astype(dtype))
        dpq.partial_fit(X, labels.astype(dtype))
    assert dpq.score(X, labels) > 0.5


def test_a_class_that_is_too_small_to_be_held_out_is_named(samples):
    X, _, y = samples
    labels = np.array(["apple", "banana", "cherry"])[y]
    labels[labels == "banana"] = "apple"
    labels[0] = "banana"
    with pytest.raises(ValueError, match="banana"):
        DPQClassifier(**SMALL, early_stopping=True).fit(X, labels)


@pytest.mark.parametrize(
    "more", [LARGE.astype(np.uint64), LARGE + 3, np.array([1.5, 2.0, 0.0]), LARGE.astype(np.uint64) * 1000]
)
def test_labels_of_items_stay_apart_whatever_their_types_are(samples, more):
    X, _, y = samples
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0)).fit(X, LARGE[y])
    neighbors.add(X[:3], more)
    found = neighbors.labels_of([0, 1, 2, 300, 301, 302]).tolist()
    assert found == LARGE.tolist() + more.tolist()  # as Python compares them
    assert len(neighbors.classes_) == len(set(LARGE.tolist() + more.tolist()))
    assert neighbors.labels_.dtype == np.int8
    neighbors.score(X[:9], LARGE[y[:9]])


def test_labels_of_items_are_kept_in_the_smallest_type(samples):
    X = np.repeat(samples[0], 2, axis=0)
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0)).fit(X[:128], np.arange(128))
    assert neighbors.labels_.dtype == np.int8
    neighbors.add(X[128:130])
    neighbors.add(X[130:], np.arange(130, 600))
    assert neighbors.labels_.dtype == np.int16
    assert_array_equal(neighbors.labels_[[0, 127, 128, 129]], [0, 127, -1, -1])
    assert_array_equal(neighbors.labels_of([0, 127, 130, 599]), [0, 127, 130, 599])
