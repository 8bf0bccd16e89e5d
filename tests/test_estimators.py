"""DPQTransformer and DPQClassifier on real data."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from skdpq import DPQClassifier, DPQTransformer

SMALL = {"M": 4, "K": 16, "random_state": 0}


@pytest.fixture(scope="module")
def clf(digits):
    X, _, y, _ = digits
    return DPQClassifier(**SMALL).fit(X, y)


def test_defaults_learn_digits(digits):
    X, X_test, y, y_test = digits
    assert DPQClassifier(random_state=0).fit(X, y).score(X_test, y_test) > 0.95


def test_defaults_learn_a_toy_problem():
    X, y = load_iris(return_X_y=True)
    X, y = X[::5], y[::5]
    assert len(X) == 30
    assert DPQClassifier(random_state=0).fit(X, y).score(X, y) > 0.95


@pytest.mark.parametrize(("K", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_shapes_and_dtypes(digits, K, dtype):
    X, X_test, y, _ = digits
    dpq = DPQTransformer(M=3, K=K, D=5, max_iter=1).fit(X, y)
    assert dpq.codebooks_.shape == (3, K, 5)
    assert dpq.codebooks_.dtype == np.float32
    assert dpq.class_centers_.shape == (10, 15)
    codes = dpq.encode(X_test)
    assert codes.shape == (500, 3)
    assert codes.dtype == dtype
    assert dpq.soft(X_test).shape == (500, 15)
    assert dpq.soft(X_test).dtype == np.float32
    assert dpq.compression_ratio_ == pytest.approx(32 * 64 / (3 * np.log2(K)))  # eq. 8
    assert_array_equal(dpq.unpack_codes(dpq.pack_codes(codes)), codes)
    assert dpq.pack_codes(codes).shape[1] == int(np.ceil(3 * np.log2(K) / 8))


def test_transform_is_what_output_says(clf, digits):
    X = digits[1]
    clf = copy.copy(clf)
    codes = clf.encode(X)
    assert_array_equal(clf.transform(X), clf.soft(X))
    assert_array_equal(clf.set_params(output="codes").transform(X), codes)
    assert list(clf.get_feature_names_out()) == [f"dpqclassifier{m}" for m in range(4)]
    hard = clf.set_params(output="hard").transform(X)
    assert_array_equal(hard, clf.decode(codes))
    for m in range(4):
        assert_array_equal(hard[:, m * 16 : (m + 1) * 16], clf.codebooks_[m][codes[:, m]])
    assert clf.set_output(transform="pandas").transform(X).shape == (500, 64)


def test_soft_is_a_convex_combination_and_hard_its_most_probable_codeword(clf, digits):
    soft = clf.soft(digits[1]).reshape(500, 4, 16)
    assert (soft <= clf.codebooks_.max(1) + 1e-6).all()
    assert (soft >= clf.codebooks_.min(1) - 1e-6).all()


def test_intra_norm_changes_representations_without_retraining_and_no_prediction(clf, digits):
    X = digits[1]
    codes, predictions = clf.encode(X), clf.predict(X)
    soft, codebooks = clf.soft(X).reshape(500, 4, 16), clf.codebooks_
    clf = copy.copy(clf).set_params(intra_norm=True)
    assert_allclose(np.linalg.norm(clf.codebooks_, axis=2), 1, rtol=1e-5)
    assert_allclose(clf.codebooks_, codebooks / np.linalg.norm(codebooks, axis=2, keepdims=True), rtol=1e-5, atol=1e-7)
    normalised = soft / np.linalg.norm(soft, axis=2, keepdims=True)
    assert_allclose(clf.soft(X).reshape(500, 4, 16), normalised, rtol=1e-4, atol=1e-6)
    assert_allclose(np.linalg.norm(clf.decode(codes).reshape(500, 4, 16), axis=2), 1, rtol=1e-5)
    assert_array_equal(clf.encode(X), codes)
    assert_array_equal(clf.predict(X), predictions)
    assert_array_equal(clf.predict_codes(codes), predictions)


def test_predictions_are_the_linear_classifier_on_hard_and_on_soft(clf, digits):
    X, y = digits[1], digits[3]
    for representation, vectors in [("hard", clf.decode(clf.encode(X))), ("soft", clf.soft(X))]:
        clf = copy.copy(clf).set_params(representation=representation)
        scores = vectors @ clf.coef_.T + clf.intercept_
        assert_allclose(clf.decision_function(X), scores, rtol=1e-4, atol=1e-4)
        assert_array_equal(clf.predict(X), clf.classes_[scores.argmax(1)])
        proba = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        assert_allclose(clf.predict_proba(X), proba, rtol=1e-3, atol=1e-6)
        assert_allclose(clf.predict_proba(X).sum(1), 1, rtol=1e-5)
        assert_allclose(np.exp(clf.predict_log_proba(X)), proba, rtol=1e-3, atol=1e-6)
        assert clf.score(X, y) == np.mean(clf.predict(X) == y)


def test_predictions_from_codes_need_nothing_else(clf, digits):
    X = digits[1]
    codes = clf.encode(X)
    assert_array_equal(clf.predict_codes(codes), clf.predict(X))
    assert_array_equal(clf.predict_proba_codes(codes), clf.predict_proba(X))
    assert_array_equal(clf.decision_function_codes(codes), clf.decision_function(X))


def test_binary_problems_have_scikit_learns_shapes(digits):
    X, _, y, _ = digits
    X, y = X[y < 2], np.array(["no", "yes"])[y[y < 2]]
    clf = DPQClassifier(M=2, K=4, max_iter=60, random_state=0).fit(X, y)
    reference = LogisticRegression().fit(X, y)
    codes = clf.encode(X)
    for method in ("decision_function", "predict_proba", "predict"):
        shape = getattr(reference, method)(X).shape
        assert getattr(clf, method)(X).shape == shape
        assert getattr(clf, f"{method}_codes")(codes).shape == shape
    assert_array_equal(clf.predict(X), clf.classes_[(clf.decision_function(X) > 0).astype(int)])
    assert clf.coef_.shape == (1, clf.decode(codes).shape[1])
    assert clf.intercept_.shape == reference.intercept_.shape
    by_hand = (clf.decode(codes) @ clf.coef_.T + clf.intercept_).ravel()
    assert_allclose(clf.decision_function_codes(codes), by_hand, rtol=1e-4, atol=1e-4)
    assert clf.score(X, y) > 0.95


def test_classification_from_codes_is_close_to_the_uncompressed_classifier(clf, digits):
    X, X_test, y, y_test = digits
    uncompressed = LogisticRegression(max_iter=5000).fit(X / 16, y).score(X_test / 16, y_test)
    assert clf.score(X_test, y_test) > uncompressed - 0.01  # 16 bits instead of 64 floats


def test_class_weight_and_sample_weight_are_one_thing(digits):
    X, _, y, _ = digits
    X, y = X[:200], y[:200]
    weight = np.where(y == 3, 5.0, 1.0)
    by_class = DPQClassifier(**SMALL, max_iter=20, class_weight={3: 5.0}).fit(X, y)
    by_sample = DPQClassifier(**SMALL, max_iter=20).fit(X, y, sample_weight=weight)
    standardised_alike = DPQClassifier(**SMALL, max_iter=20).fit(X, y)
    assert_allclose(by_class.mean_, standardised_alike.mean_)  # class weights do not move the features
    assert (by_class.predict(X) == 3).sum() >= (standardised_alike.predict(X) == 3).sum()
    assert by_sample.mean_.shape == (64,)
    balanced = DPQClassifier(**SMALL, max_iter=3, class_weight="balanced").fit(X, y)
    assert balanced.n_iter_ == 3


def test_predicting_and_encoding_change_nothing_on_the_estimator(clf, digits):
    before = pickle.dumps(clf)
    X = digits[1]
    clf.predict(X), clf.predict_proba(X), clf.transform(X), clf.encode(X), clf.decode(clf.encode(X)), clf.codebooks_
    assert pickle.dumps(clf) == before


def test_pickle_joblib_copy_and_clone(clf, digits, tmp_path):
    X = digits[1]
    joblib.dump(clf, tmp_path / "clf.joblib")
    readonly = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")  # as joblib's workers see it
    for twin in (pickle.loads(pickle.dumps(clf)), copy.deepcopy(clf), readonly):
        assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
        assert_array_equal(twin.soft(X), clf.soft(X))
    with pytest.raises(NotFittedError):
        clone(clf).predict(X)


def test_fitted_state_is_numpy_and_plain_values(clf):
    def plain(value):
        if isinstance(value, dict):
            return all(plain(v) for v in value.values())
        if isinstance(value, list | tuple):
            return all(plain(v) for v in value)
        return isinstance(value, np.ndarray | np.generic | str | int | float | type(None))

    fitted = {name: value for name, value in vars(clf).items() if name not in clf.get_params()}
    assert fitted
    assert all(name.endswith("_") and not name.startswith("_") for name in fitted)
    assert all(plain(value) for value in fitted.values())


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_any_real_dtype_gives_the_same_codes(clf, digits, dtype):
    X = digits[1]
    assert np.mean(clf.encode(X.astype(dtype)) == clf.encode(X)) > 0.999


def test_units_of_the_features_do_not_matter(digits):
    X, X_test, y, _ = digits
    X, X_test = X.astype(np.float64), X_test.astype(np.float64)
    factor, offset = np.logspace(-6, 6, 64), np.linspace(-1e6, 1e6, 64)
    plain = DPQTransformer(**SMALL, max_iter=3).fit(X, y)
    moved = DPQTransformer(**SMALL, max_iter=3).fit(X * factor + offset * factor, y)
    same = moved.encode(X_test * factor + offset * factor) == plain.encode(X_test)
    assert same.mean() > 0.99


def test_memory_mapped_and_blocked_input(clf, digits, tmp_path):
    X = np.tile(digits[1], (20, 1))  # more than a block
    np.save(tmp_path / "X.npy", X)
    assert_array_equal(clf.encode(np.load(tmp_path / "X.npy", mmap_mode="r")), np.tile(clf.encode(digits[1]), (20, 1)))


def test_data_frames_keep_their_names(digits):
    X, y = load_digits(return_X_y=True, as_frame=True)
    dpq = DPQTransformer(M=2, K=4, max_iter=1).fit(X, y)
    assert_array_equal(dpq.feature_names_in_, X.columns)
    with pytest.raises(ValueError, match="feature names"):
        dpq.encode(X.rename(columns={"pixel_0_0": "other"}))
    with pytest.warns(UserWarning, match="valid feature names"):
        dpq.encode(X.to_numpy())
    assert not hasattr(dpq.fit(X.to_numpy(), y), "feature_names_in_")
    assert isinstance(dpq.set_output(transform="pandas").transform(X.to_numpy()), pd.DataFrame)


def test_devices(digits):
    X, _, y, _ = digits
    on_auto = DPQTransformer(**SMALL, max_iter=1).fit(X, y)
    assert on_auto.set_params(device="cpu").encode(X).shape == (len(X), 4)
    assert DPQTransformer(**SMALL, max_iter=1, device=torch.device("cpu")).fit(X, y).n_iter_ == 1
    for device in ("nowhere", "cuda:99"):
        with pytest.raises(ValueError, match="Expected a device that torch can use"):
            DPQTransformer(**SMALL, device=device).fit(X, y)
