"""DPQTransformer and DPQClassifier on real data."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from sklearn.utils import get_tags

from skdpq import DPQClassifier, DPQTransformer

SMALL = {"M": 4, "K": 16, "random_state": 0}


@pytest.fixture(scope="module")
def clf(digits):
    X, _, y, _ = digits
    return DPQClassifier(**SMALL, trunk_input="features").fit(X, y)


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


def layers_by_hand(dpq, name):
    """Return the weights and biases of the trunk or of the part networks, in float64."""
    found = []
    while f"{name}.{len(found)}.weight" in dpq.parameters_:
        layer = f"{name}.{len(found)}"
        found.append([dpq.parameters_[f"{layer}.{of}"].astype(np.float64) for of in ("weight", "bias")])
    return found


def distributions_by_hand(dpq, X):
    """Equation 1, one part at a time, from the fitted arrays alone: p (M, n, K)."""
    X = np.asarray(X, dtype=np.float64)
    units = X if dpq.mean_ is None else (X - dpq.mean_) / dpq.scale_
    for weight, bias in layers_by_hand(dpq, "trunk"):
        units = np.maximum(units @ weight.T + bias, 0)
    M = len(dpq.codebooks_)
    N = units.shape[1] // M
    p = []
    for m in range(M):
        s = units[:, m * N : (m + 1) * N] if N else units
        *hidden, last = layers_by_hand(dpq, "parts")
        for weight, bias in hidden:
            s = np.maximum(s @ weight[m] + bias[m], 0)
        logits = s @ last[0][m] + last[1][m]
        if "nearness" in dpq.architecture_:
            target = (normalize(X / dpq.projection_scale_) @ dpq.projection_ + dpq.projection_bias_).reshape(
                len(X), M, -1
            )
            squares = np.square(target[:, m, None] - dpq.codebooks_[m]).sum(2)
            logits -= dpq.parameters_["nearness.beta"] * squares
        p.append(np.exp(logits - logits.max(1, keepdims=True)))
        p[-1] /= p[-1].sum(1, keepdims=True)
    return np.stack(p)


def assert_equations_1_to_4(dpq, X, atol):
    p, (M, _, D) = distributions_by_hand(dpq, X), dpq.codebooks_.shape
    codes, soft = dpq.encode(X), dpq.soft(X).reshape(len(X), M, D)
    hard = dpq.decode(codes).reshape(len(X), M, D)
    assert dpq.codebooks_.dtype == soft.dtype == hard.dtype == np.float32
    for m, codebook in enumerate(dpq.codebooks_):
        assert_allclose(soft[:, m], p[m] @ codebook, atol=atol)  # eq. 3
        chosen = p[m][np.arange(len(X)), codes[:, m]]
        assert (chosen > (1 - atol) * p[m].max(1)).all()
        assert_array_equal(hard[:, m], codebook[codes[:, m]])  # eq. 4


def test_soft_is_a_convex_combination_and_hard_its_most_probable_codeword(clf, digits):
    X = digits[1]
    assert (distributions_by_hand(clf, X).max(2) > 0.99).any()  # neither even nor one-hot
    assert (distributions_by_hand(clf, X).max(2) < 0.7).any()
    assert_equations_1_to_4(clf, X, atol=1e-4)
    soft = clf.soft(X).reshape(500, 4, 16)
    assert (soft <= clf.codebooks_.max(1) + 1e-6).all()
    assert (soft >= clf.codebooks_.min(1) - 1e-6).all()


@given(
    n_features=st.integers(1, 9),
    M=st.integers(1, 5),
    K=st.integers(2, 6),
    D=st.one_of(st.none(), st.integers(1, 4)),
    trunk=st.lists(st.integers(1, 9), max_size=2),
    part=st.lists(st.integers(1, 5), max_size=2),
    kind=st.sampled_from(["float64", "float32", "backbone"]),
    supervision=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=40)
def test_soft_and_codes_are_equations_1_to_4_for_any_architecture(
    n_features, M, K, D, trunk, part, kind, supervision, seed
):
    X = np.random.default_rng(seed).normal(5, 3, size=(23, n_features)).astype("f4" if kind == "float32" else "f8")
    sizes = {"hidden_layer_sizes": trunk, "part_layer_sizes": part, "batch_size": 23}
    dpq = DPQTransformer(M, K, D, **sizes, max_iter=1, random_state=seed)
    if kind == "backbone":
        dpq.set_params(backbone=torch.nn.Identity())
    else:
        dpq.set_params(supervision=supervision)
    dpq.fit(X, np.arange(23) % 2)
    assert dpq.parameters_["codebooks"].dtype == ("f8" if kind == "float64" else "f4")
    for name, value in dpq.parameters_.items():  # as training makes them: far from even
        dpq.parameters_[name] = 4 * value if name.startswith("parts.") else value
    assert_equations_1_to_4(dpq, X, atol=1e-6 if kind == "float64" else 1e-4)


def test_values_too_large_are_refused_wherever_they_are(digits):
    X, X_test, y, _ = digits
    good = np.tile(X_test, (50, 1)).astype(np.float32)
    for backbone in (None, torch.nn.Identity()):
        dpq = DPQClassifier(**SMALL, backbone=backbone, max_iter=1).fit(X.astype(np.float32), y)
        for method in ("encode", "soft", "transform", "predict", "decision_function"):
            assert np.isfinite(getattr(dpq, method)(good)).all()
            for row in (0, -1):
                bad = good.copy()
                bad[row] = 3e38
                with pytest.raises(ValueError, match="got values too large"):
                    getattr(dpq, method)(bad)


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


@pytest.mark.parametrize("representation", ["hard", "soft"])
def test_predictions_do_not_depend_on_intra_norm(clf, digits, representation):
    X = digits[1]
    clf = copy.copy(clf).set_params(representation=representation)
    scores, soft = clf.decision_function(X), clf.soft(X)
    clf.set_params(intra_norm=True)
    assert_array_equal(clf.decision_function(X), scores)
    assert not np.allclose(clf.soft(X), soft)


def test_intra_norm_leaves_codewords_of_zeros_as_they_are(clf, digits):
    clf = copy.deepcopy(clf).set_params(intra_norm=True)
    clf.parameters_["codebooks"][1] = 0
    assert (clf.codebooks_[1] == 0).all()
    assert (clf.soft(digits[1])[:, 16:32] == 0).all()
    assert_allclose(np.linalg.norm(clf.codebooks_[0], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("output", "dtypes"), [("soft", ["float32"]), ("hard", ["float32"]), ("codes", [])])
def test_tags_say_which_dtypes_are_preserved(output, dtypes):
    assert get_tags(DPQTransformer(output=output)).transformer_tags.preserves_dtype == dtypes


@pytest.mark.parametrize(
    ("n", "dtype", "params", "precise"),
    [
        (60, "f8", {"max_iter": "auto"}, True),
        (60, "i8", {"max_iter": "auto"}, True),
        (60, "f4", {"max_iter": "auto"}, False),
        (60, "f2", {"max_iter": "auto"}, False),
        (60, "f8", {}, False),
        (60, "f8", {"batch_size": 60}, True),
        (60, "f8", {"batch_size": 59}, False),
        (60, "f8", {"backbone": torch.nn.Identity()}, False),
    ],
)
def test_a_problem_of_one_batch_is_computed_in_float64(n, dtype, params, precise):
    X = np.random.default_rng(0).normal(0, 9, size=(n, 5)).astype(dtype)
    dpq = DPQClassifier(**{"M": 2, "K": 4, "max_iter": 1} | params).fit(X, np.arange(n) % 3)
    assert {value.dtype.str for value in dpq.parameters_.values()} == {"<f8" if precise else "<f4"}
    for array in (dpq.soft(X), dpq.codebooks_, dpq.class_centers_, dpq.decode(dpq.encode(X))):
        assert array.dtype == np.float32


def test_predictions_are_the_linear_classifier_on_hard_and_on_soft(clf, digits):
    X, y = digits[1], digits[3]
    for representation, vectors in [("hard", clf.decode(clf.encode(X))), ("soft", clf.soft(X))]:
        clf = copy.copy(clf).set_params(representation=representation)
        scores = vectors @ clf.class_vectors_.T + clf.class_bias_
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


def test_tables_of_codes_and_probabilities_of_soft_are_those_of_the_classifier(clf, digits):
    X_test = digits[1]
    assert (clf.lutc_.shape, clf.lutc_.dtype, clf.class_bias_.shape, clf.class_bias_.dtype) == (
        (clf.M, clf.K, 10),
        np.float32,
        (10,),
        np.float32,
    )
    codes = clf.encode(X_test)
    scores = clf.class_bias_ + sum(clf.lutc_[m, codes[:, m]] for m in range(clf.M))
    assert_allclose(scores, clf.decision_function_codes(codes), rtol=1e-4, atol=1e-5)
    proba = clf.predict_proba_soft(X_test)
    assert proba.dtype == np.float32
    soft = pickle.loads(pickle.dumps(clf)).set_params(representation="soft", intra_norm=True)
    for same in (clf, soft):
        assert_allclose(same.predict_proba_soft(X_test), soft.predict_proba(X_test), rtol=1e-4, atol=1e-7)
        assert_array_equal(same.lutc_, clf.lutc_)


@pytest.mark.parametrize("D", [8, 16])  # so that M * D is the number of features, or is not
@pytest.mark.parametrize("select", [SelectFromModel, RFE])
def test_features_cannot_be_selected_by_weights_of_other_dimensions(digits, select, D):
    X, _, y, _ = digits
    clf = DPQClassifier(**SMALL, max_iter=1).set_params(M=8, D=D)
    with pytest.raises(ValueError, match="DPQClassifier should have `coef_` or `feature_importances_`"):
        select(clf).fit(X, y).transform(X)
    clf.fit(X, y)
    assert clf.class_vectors_.shape == (10, 8 * D)
    assert not hasattr(clf, "coef_")
    assert not hasattr(clf, "intercept_")


def test_where_no_labels_supervise_codes_are_not_classified(digits):
    X, _, y, _ = digits
    for dpq in (
        DPQTransformer(**SMALL, max_iter=1).fit(X),
        DPQTransformer(**SMALL, max_iter=1, supervision=0).fit(X, y),
    ):
        for name in ("lutc_", "class_bias_", "predict_proba_soft"):
            assert not hasattr(dpq, name)
            with pytest.raises(AttributeError):
                getattr(dpq, name)
    assert not hasattr(DPQTransformer(supervision=0), "predict_proba_soft")
    for name in ("lutc_", "class_bias_"):
        with pytest.raises(NotFittedError):
            getattr(DPQTransformer(), name)
    with pytest.raises(NotFittedError):
        DPQTransformer().predict_proba_soft(X)


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
    by_hand = np.diff(clf.decode(codes) @ clf.class_vectors_.T + clf.class_bias_).ravel()
    assert_allclose(clf.decision_function_codes(codes), by_hand, rtol=1e-4, atol=1e-4)
    assert clf.score(X, y) > 0.95


def test_classification_from_codes_is_close_to_the_uncompressed_classifier(clf, digits):
    X, X_test, y, y_test = digits
    uncompressed = LogisticRegression(max_iter=5000).fit(X / 16, y).score(X_test / 16, y_test)
    assert clf.score(X_test, y_test) > uncompressed - 0.01  # 16 bits instead of 64 floats


@pytest.fixture(scope="module")
def weighable():
    """Samples of three classes, with the same features in each: weights of classes move no mean and no variance."""
    X = np.random.default_rng(0).normal(size=(20, 5))
    return np.tile(X, (3, 1)), np.repeat([0, 1, 2], 20)


def assert_same_parameters(first, second, *, rtol=1e-6, atol=1e-8):
    assert first.parameters_.keys() == second.parameters_.keys()
    for name, value in first.parameters_.items():
        assert_allclose(value, second.parameters_[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_class_weight_and_sample_weight_are_one_thing(weighable, method):
    X, y = weighable

    def fit(sample_weight=None, class_weight=None):
        clf = DPQClassifier(M=2, K=4, max_iter=9, class_weight=class_weight, random_state=0)
        classes = {"classes": range(3)} if method == "partial_fit" else {}
        return getattr(clf, method)(X, y, sample_weight=sample_weight, **classes)

    five, plain = fit(np.where(y == 1, 5.0, 1.0)), fit()
    assert_same_parameters(fit(class_weight={1: 5.0}), five, rtol=1e-4, atol=1e-6)
    assert np.abs(five.parameters_["codebooks"] - plain.parameters_["codebooks"]).max() > 1e-3
    both = fit(np.where(y == 2, 3.0, 1.0), {1: 5.0})  # they multiply
    assert_same_parameters(both, fit(np.array([1.0, 5.0, 3.0])[y]), rtol=1e-4, atol=1e-6)
    assert five.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean()


def test_class_weights_do_not_move_the_features(digits):
    X, _, y, _ = digits
    X, y = X[:200], y[:200]
    by_class = DPQClassifier(**SMALL, max_iter=3, class_weight={3: 5.0}).fit(X, y)
    assert_allclose(by_class.mean_, X.mean(0))
    weight = np.where(y == 3, 5.0, 1.0)
    by_sample = DPQClassifier(**SMALL, max_iter=3).fit(X, y, sample_weight=weight)
    assert_allclose(by_sample.mean_, np.average(X, axis=0, weights=weight))


def test_balanced_classes_weigh_the_same(weighable):
    X, y = weighable
    clf = DPQClassifier(M=2, K=4, max_iter=9, random_state=0)
    balanced = clone(clf).set_params(class_weight="balanced").fit(X, y, sample_weight=np.array([1.0, 5.0, 3.0])[y])
    assert_same_parameters(balanced, clone(clf).fit(X, y), rtol=1e-4, atol=1e-6)
    few = np.r_[:20, 20:25, 40:60]  # five samples of class 1
    X, y = X[few], y[few]
    balanced = clone(clf).set_params(class_weight="balanced").fit(X, y)
    assert_same_parameters(balanced, clone(clf).set_params(class_weight={0: 0.75, 1: 3.0, 2: 0.75}).fit(X, y))
    assert np.abs(balanced.parameters_["codebooks"] - clf.fit(X, y).parameters_["codebooks"]).max() > 1e-3


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
    plain, moved = (DPQTransformer(**SMALL, max_iter=3, batch_size=256) for _ in range(2))
    plain.fit(X, y)
    moved.fit(X * factor + offset * factor, y)
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
