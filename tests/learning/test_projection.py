"""What keeps codes useful beyond the classes of the training data: projections of the samples' own features."""

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import normalize

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer
from skdpq._learning.projection import Directions, Projection, learn_projection

SMALL = {"M": 2, "K": 8, "D": 3, "hidden_layer_sizes": (16,), "random_state": 0, "max_iter": 3}


def blocks(X, weight, size=7):
    for start in range(0, len(X), size):
        yield X[start : start + size], weight[start : start + size]


def learn(X, weight, M, D, seed=0, shared=False):
    return learn_projection(lambda: blocks(X, weight), np.asarray, M, D, torch.Generator().manual_seed(seed), shared)


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**31 - 1), st.booleans())
def test_projections_keep_the_geometry_of_the_principal_components(n_features, M, D, seed, shared):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, n_features)) * rng.uniform(0.5, 2, n_features) + rng.normal(size=n_features)
    repeats = rng.integers(1, 4, 40)
    projection, bias = learn(X, repeats / 5, M, D, seed, shared)
    X = np.repeat(X, repeats, axis=0)  # which is what weights mean
    target = X @ projection + bias
    assert_allclose(target.mean(0), 0, atol=1e-10)
    assert_allclose(np.square(target).sum(1).mean() / M, 1)
    pca = PCA().fit(X)
    n_effective = round(pca.explained_variance_.sum() ** 2 / np.square(pca.explained_variance_).sum())
    width = min(D, -(-2 * n_effective // M) if shared else n_effective)
    assert (target.reshape(-1, M, D)[:, :, width:] == 0).all()
    components = pca.transform(X)[:, : M * width]
    scale = np.square(target).sum() / np.square(components).sum()
    assert_allclose(target @ target.T, scale * (components @ components.T), atol=1e-8 * scale * np.square(X).max())


@pytest.mark.parametrize("shared", [False, True])
def test_parts_have_as_many_dimensions_as_the_samples_vary_in_or_share_twice_as_many(shared):
    rng = np.random.default_rng(0)
    for stretch, n_effective in ((1, 8), ((9, 9, 9, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3), 3), ((9, *(1e-3,) * 7), 1)):
        X = rng.normal(size=(40, 8))
        X = np.linalg.qr(X - X.mean(0))[0] * stretch  # of equal variances, but for the stretch
        projection, _ = learn(X, np.ones(40), 4, 16, shared=shared)
        width = -(-2 * n_effective // 4) if shared else n_effective
        assert_array_equal(projection.any(axis=0), np.tile(np.arange(16) < width, 4))


def test_projections_do_not_depend_on_the_order_of_samples_but_on_the_generator():
    X = np.random.default_rng(0).normal(size=(30, 5))
    projection, _ = learn(X, np.ones(30), 2, 4)
    assert_allclose(learn(X[::-1].copy(), np.ones(30), 2, 4)[0], projection, rtol=1e-9)
    assert np.abs(learn(X, np.ones(30), 2, 4, seed=1)[0] - projection).max() > 0.01


def test_all_parts_of_a_projection_have_about_the_same_norm():
    X, _ = load_digits(return_X_y=True)
    projection, bias = learn(X, np.ones(len(X)), 4, 16)
    norms = np.linalg.norm((X @ projection + bias).reshape(len(X), 4, 16), axis=2)
    assert_allclose(norms.mean(0), 1, atol=0.15)
    assert (norms.std(1) / norms.mean(1)).mean() < 0.25


def test_features_that_do_not_vary_are_projected_to_zero():
    for value in (3.0, 0.1, 1e3 / 3):
        projection, bias = learn(np.full((9, 4), value), np.ones(9) / 7, 2, 3)
        assert np.isfinite(projection).all()
        assert_allclose(np.full(4, value) @ projection + bias, 0, atol=1e-12)


@pytest.fixture(scope="module")
def split():
    """Digits 0 to 6, from which the codes are learned, and 7 to 9, which are searched for."""
    X, y = load_digits(return_X_y=True)
    return X[y < 7], y[y < 7], X[y >= 7], y[y >= 7]


def retrieval(quantizer, X, y):
    """Return the mAP of half of the samples among the other half."""
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X[::2], y[::2])
    return neighbors.score(X[1::2], y[1::2])


def test_less_supervision_keeps_more_of_classes_that_are_not_in_the_training_data(split):
    X, y, X_other, y_other = split
    seen, unseen = {}, {}
    for supervision in (1.0, 0.2):
        clf = DPQClassifier(M=8, K=32, supervision=supervision, random_state=0).fit(X[::2], y[::2])
        assert clf.score(X[1::2], y[1::2]) > 0.95
        seen[supervision] = retrieval(clf, X, y)
        unseen[supervision] = retrieval(clf.set_params(intra_norm=True), X_other, y_other)
    assert unseen[0.2] > unseen[1.0] + 0.1
    assert seen[1.0] > seen[0.2] + 0.1


def test_codes_without_labels_keep_neighbourhoods():
    X, y = load_digits(return_X_y=True)
    Z = normalize(X)
    nearest = np.argsort(np.linalg.norm(Z[:200, None] - Z[None], axis=2))[:, 1:11]
    recall = []
    for labels in (None, y):
        dpq = DPQTransformer(M=8, K=32, random_state=0).fit(X, labels)
        neighbors = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X)
        found = neighbors.kneighbors(X[:200], 21, return_distance=False)
        recall.append(np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(nearest, found, strict=True)]))
    assert recall[0] > 0.6
    assert recall[0] > recall[1] + 0.15


def test_parts_share_dimensions_where_labels_supervise(split):
    X, y, *_ = split
    params = SMALL | {"M": 8, "D": 16, "max_iter": 1}
    variances = PCA().fit(normalize(X)).explained_variance_
    n_effective = round(variances.sum() ** 2 / np.square(variances).sum())
    for fit, width in (
        (lambda: DPQTransformer(**params).fit(X), n_effective),
        (lambda: DPQTransformer(**params, supervision=0.9).fit(X, y), -(-2 * n_effective // 8)),
        (
            lambda: DPQClassifier(**params, supervision=0.1).partial_fit(X, y, classes=range(7)),
            -(-2 * n_effective // 8),
        ),
    ):
        assert fit().projection_.any(axis=0).sum() == 8 * width
    assert 2 < n_effective < 16


def test_no_supervision_is_the_same_as_no_labels(split):
    X, y, *_ = split
    without = DPQTransformer(**SMALL).fit(X)
    zero = DPQTransformer(**SMALL, supervision=0).fit(X, y)
    assert joblib.hash(without.parameters_) == joblib.hash(zero.parameters_)
    for dpq in (without, zero):
        assert dpq.classes_.shape == (0,)
        assert dpq.class_centers_.shape == (0, 6)
        assert "classifier.weight" not in dpq.parameters_
        assert dpq.loss_curve_["softmax_soft"] == dpq.loss_curve_["joint_central"] == [0, 0, 0]


def test_full_supervision_preserves_nothing(split):
    X, y, *_ = split
    dpq = DPQTransformer(**SMALL).fit(X, y)
    assert dpq.projection_ is dpq.projection_bias_ is None
    assert dpq.loss_curve_["preservation"] == [0, 0, 0]
    fitted_before = DPQTransformer(**SMALL).fit(X).fit(X, y)
    assert joblib.hash(fitted_before.parameters_) == joblib.hash(dpq.parameters_)
    assert fitted_before.projection_ is None


def test_samples_of_weight_zero_have_no_share_in_the_projection(split):
    X, _, X_other, _ = split
    weight = np.r_[np.ones(len(X)), np.zeros(len(X_other))]
    padded = DPQTransformer(**SMALL).fit(np.r_[X, X_other], sample_weight=weight)
    assert_allclose(padded.projection_, DPQTransformer(**SMALL).fit(X).projection_, rtol=1e-6, atol=1e-9)


def test_partial_fit_without_labels_keeps_the_projection_of_the_first_call(split):
    X, y, *_ = split
    dpq = DPQTransformer(**SMALL).partial_fit(X[:300])
    projection = dpq.projection_
    curve = [dpq.partial_fit(X).loss_curve_["preservation"][-1] for _ in range(10)]
    assert curve[-1] < 0.9 * curve[0]
    assert dpq.projection_ is projection
    assert dpq.classes_.shape == (0,)
    for other in (dpq, DPQTransformer(**SMALL, warm_start=True).fit(X)):
        before = joblib.hash(vars(other))
        fit = other.partial_fit if other is dpq else other.fit
        with pytest.raises(ValueError, match=r"Expected y to hold labels of \[\]|only go on with the same classes"):
            fit(X, y)
        assert joblib.hash(vars(other)) == before
    labelled = DPQTransformer(**SMALL).partial_fit(X, y)
    with pytest.raises(ValueError, match=r"Expected the classes of the first call, \[0 1 2 3 4 5 6\], got \[\]"):
        labelled.partial_fit(X)


def test_a_warm_start_may_change_the_supervision(split):
    X, y, *_ = split
    dpq = DPQTransformer(**SMALL, warm_start=True).fit(X, y)
    dpq.set_params(supervision=0.5).fit(X, y)
    projection = dpq.projection_
    assert projection is not None
    dpq.set_params(supervision=1.0).fit(X, y).set_params(supervision=0.2).fit(X, y)
    assert dpq.projection_ is projection
    preserving = np.array(dpq.loss_curve_["preservation"]) > 0
    assert_array_equal(preserving, np.repeat([False, True, False, True], 3))


def test_units_of_a_backbone_are_preserved_as_they_were_before_training(split):
    X, y, *_ = split
    X = X.astype(np.float32)
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10), torch.nn.ReLU())
    with torch.no_grad():
        units = backbone.eval()(torch.from_numpy(X)).numpy()
    params = SMALL | {"learning_rate": 0.01, "max_iter": 30}
    dpq = DPQTransformer(**params, backbone=backbone.train(), supervision=0.3).fit(X, y)
    target = normalize(units) @ dpq.projection_ + dpq.projection_bias_
    assert_allclose(target.mean(0), 0, atol=1e-4)
    assert_allclose(np.square(target).sum(1).mean(), 2, rtol=1e-3)
    with torch.no_grad():
        trained = dpq.backbone_(torch.from_numpy(X)).numpy()
    assert np.abs(trained - units).mean() > 0.1
    error = np.square(dpq.soft(X) - target).sum(1).mean()
    assert error < 0.7 * np.square(target).sum(1).mean()
    assert np.square(dpq.soft(X) - (normalize(trained) @ dpq.projection_ + dpq.projection_bias_)).sum(1).mean() > error


def test_the_target_has_no_gradient():
    backbone = torch.nn.Linear(4, 3)
    directions = Directions(torch.ones(()), torch.zeros(()))
    target = Projection(torch.ones(3, 2), torch.zeros(2), directions, backbone)(torch.ones(5, 4))
    assert not target.requires_grad


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_what_is_preserved_is_the_direction_of_the_features(unit):
    rng = np.random.default_rng(0)
    X = unit * (rng.normal(size=(300, 6)) * (1, 2, 3, 4, 5, 0) + 2.0)
    dpq = DPQTransformer(**SMALL).partial_fit(X)
    target = normalize(X * (1, 1, 1, 1, 1, 0)) @ dpq.projection_ + dpq.projection_bias_
    assert_allclose(normalize(X / dpq.projection_scale_) @ dpq.projection_ + dpq.projection_bias_, target, atol=1e-9)
    assert_allclose(target.mean(0), 0, atol=1e-5)
    longer = X * rng.uniform(0.5, 2, (300, 1))
    assert_allclose(normalize(longer / dpq.projection_scale_), normalize(X / dpq.projection_scale_))
    preserved = DPQTransformer(**SMALL | {"max_iter": 60, "K": 64}).fit(X)
    expected = normalize(X / preserved.projection_scale_) @ preserved.projection_ + preserved.projection_bias_
    error = np.square(preserved.soft(X) - expected).sum(1).mean()
    assert error < 0.2 * np.square(expected).sum(1).mean()
    dpq.partial_fit(100 * X)  # in another scale: what is preserved is in that of the first call
    assert_allclose(dpq.projection_scale_[:5], dpq.projection_scale_[0])


def test_features_of_several_units_are_compared_in_their_deviations():
    X = np.random.default_rng(0).normal(size=(200, 5)) * (1e-3, 1, 1, 100, 1e5) + 1
    dpq = DPQTransformer(**SMALL).fit(X)
    assert_allclose(dpq.projection_scale_, X.std(0), rtol=1e-5)
    other_units = DPQTransformer(**SMALL).fit(X * (1e3, 1, 0.1, 1, 1))
    assert_allclose(other_units.projection_, dpq.projection_, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("params", "fit_params", "match"),
    [
        ({"early_stopping": True}, {}, "Validation scores .* got y=None"),
        ({"early_stopping": True, "supervision": 0}, {"y": True}, "Validation scores .* got supervision=0"),
        ({}, {"X_val": True}, "Validation scores .* got y=None"),
    ],
)
def test_what_needs_labels_says_so(split, params, fit_params, match):
    X, y, *_ = split
    dpq = DPQTransformer(**SMALL, **params)
    given = {"y": y} if "y" in fit_params else {}
    given |= {"X_val": X, "y_val": y} if "X_val" in fit_params else {}
    with pytest.raises(ValueError, match=match):
        dpq.fit(X, **given)
    assert not hasattr(dpq, "parameters_")


def test_a_classifier_needs_labels_and_supervision(split):
    X, y, *_ = split
    with pytest.raises(ValueError, match="requires y to be passed"):
        DPQClassifier(**SMALL).fit(X, None)
    with pytest.raises(ValueError, match=r"'supervision' parameter .* in the range \(0.0, 1.0\]"):
        DPQClassifier(**SMALL, supervision=0).fit(X, y)


def test_one_sample_is_too_few():
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match="minimum of 2 is required"):
            getattr(DPQTransformer(**SMALL), method)(np.ones((1, 3)))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        DPQTransformer(**SMALL, supervision=0).fit(np.ones((1, 3)), [0])
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        DPQClassifier(**SMALL, supervision=0.5).partial_fit(np.ones((1, 3)), [0], classes=[0, 1])


def test_neighbors_take_a_transformer_without_labels(split):
    X, *_ = split
    neighbors = DPQNeighbors(quantizer=DPQTransformer(**SMALL)).fit(X)
    assert_array_equal(neighbors.codes_, clone(neighbors.quantizer).fit(X).encode(X))


def test_units_of_no_length_have_the_target_of_none():
    projection = Projection(torch.ones(3, 2), torch.tensor([0.5, 2.0]), Directions(torch.ones(3), torch.zeros(3)))
    torch.testing.assert_close(projection(torch.zeros(2, 3)), torch.tensor([[0.5, 2.0]] * 2))
