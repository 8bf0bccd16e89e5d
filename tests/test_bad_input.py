"""Bad input gets a clear error, early, and leaves every estimator as it was, fitted or not."""

import copy
import re

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer

X, Y = load_iris(return_X_y=True)
SMALL = {"M": 2, "K": 4, "random_state": 0}
ESTIMATORS = {
    "DPQTransformer": DPQTransformer(**SMALL, max_iter=2),
    "DPQClassifier": DPQClassifier(**SMALL, max_iter=2),
    "ProductQuantizer": ProductQuantizer(**SMALL),
    "DPQNeighbors": DPQNeighbors(quantizer=ProductQuantizer(**SMALL)),
    "DPQNeighbors, supervised": DPQNeighbors(quantizer=DPQTransformer(**SMALL, max_iter=2)),
}
SUPERVISED = ["DPQTransformer", "DPQClassifier", "DPQNeighbors, supervised"]
QUERY_METHODS = {
    "DPQTransformer": ["transform", "soft", "encode"],
    "DPQClassifier": [
        "transform",
        "soft",
        "encode",
        "predict",
        "predict_proba",
        "predict_log_proba",
        "decision_function",
    ],
    "ProductQuantizer": ["transform", "soft", "encode"],
    "DPQNeighbors": ["kneighbors", "radius_neighbors", "kneighbors_graph", "radius_neighbors_graph", "transform"],
}
CODE_METHODS = {
    "DPQTransformer": ["decode", "pack_codes"],
    "DPQClassifier": ["decode", "pack_codes", "predict_codes", "predict_proba_codes", "decision_function_codes"],
    "ProductQuantizer": ["decode", "pack_codes"],
    "DPQNeighbors": ["kneighbors_codes", "add_codes"],
}


def with_entry(value, dtype=float):
    changed = X.astype(dtype)
    changed[3, 1] = value
    return changed


BAD_X = {
    "NaN": (with_entry(np.nan), ValueError, "contains NaN"),
    "infinity": (with_entry(np.inf), ValueError, "contains infinity"),
    "None": (with_entry(None, object), (ValueError, TypeError), "NaN|NoneType"),
    "text in objects": (with_entry("long", object), ValueError, "could not convert string to float: 'long'"),
    "a dict in objects": (with_entry({}, object), TypeError, "argument must be .* (string|real number)"),
    "1-D": (X[:, 0], ValueError, "Expected 2D array, got 1D array instead"),
    "0-D": (np.float64(3), (ValueError, TypeError), "scalar array|singleton|0-dimensional"),
    "3-D": (X[:, :, None], ValueError, r"Found array with dim 3"),
    "no samples": (X[:0], ValueError, "Found array with 0 sample"),
    "no features": (X[:, :0], ValueError, "0 feature"),
    "sparse": (sparse.csr_array(X), TypeError, "Sparse data was passed"),
    "complex": (X + 1j, ValueError, "Complex data not supported"),
    "a list of ragged rows": ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous|setting an array element"),
}


def assert_refused(estimator, call, errors, match):
    before = joblib.hash(estimator.__dict__)
    with pytest.raises(errors, match=match) as caught:
        call()
    assert len(str(caught.value)) > 20
    assert joblib.hash(estimator.__dict__) == before


@pytest.fixture(scope="module")
def fitted():
    return {name: clone(estimator).fit(X, Y) for name, estimator in ESTIMATORS.items()}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("bad", BAD_X)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_fitting_bad_samples(fitted, name, bad, again):
    estimator = fitted[name] if again else clone(ESTIMATORS[name])
    bad, errors, match = BAD_X[bad]
    y = Y[: len(bad)] if isinstance(bad, list) else Y[: bad.shape[0]] if bad.ndim else Y
    assert_refused(estimator, lambda: estimator.fit(bad, y), errors, match)


@pytest.mark.parametrize("bad", [bad for bad in BAD_X if bad != "no features"])
@pytest.mark.parametrize(("name", "method"), [(n, m) for n, methods in QUERY_METHODS.items() for m in methods])
def test_querying_bad_samples(fitted, name, method, bad):
    bad, errors, match = BAD_X[bad]
    assert_refused(fitted[name], lambda: getattr(fitted[name], method)(bad), errors, match)


@pytest.mark.parametrize(("name", "method"), [(n, m) for n, methods in QUERY_METHODS.items() for m in methods])
@pytest.mark.parametrize("width", [0, 1, 3, 5])
def test_querying_with_the_wrong_width(fitted, name, method, width):
    bad = np.ones((6, width))
    match = f"{width} feature.*{type(fitted[name]).__name__} is expecting 4 features|0 feature"
    assert_refused(fitted[name], lambda: getattr(fitted[name], method)(bad), ValueError, match)


BAD_Y = {
    "one class": (np.ones(150), "one class|2 classes"),
    "two classes, one without weight": (Y, "2 classes with positive weight"),
    "continuous": (X[:, 0], "Unknown label type: continuous"),
    "NaN": (np.where(Y == 1, np.nan, Y), "NaN"),
    "2-D": (np.stack([Y, Y], 1), "1d array|1-d|label type|Unknown label type|multi"),
    "too short": (Y[:-1], "inconsistent numbers of samples"),
    "none": (None, "requires y to be passed"),
}


@pytest.mark.parametrize("bad", BAD_Y)
@pytest.mark.parametrize("name", SUPERVISED)
def test_fitting_bad_labels(fitted, name, bad):
    y, match = BAD_Y[bad]
    if bad == "none":
        name = "DPQClassifier"  # the others learn without labels
    params = {"sample_weight": (Y == 1).astype(float)} if "weight" in bad else {}
    assert_refused(fitted[name], lambda: fitted[name].fit(X, y, **params), ValueError, match)


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (-np.ones(150), "[Nn]egative"),
        (np.zeros(150), "zero"),
        (np.full(150, np.nan), "NaN"),
        (np.ones(149), "shape|inconsistent"),
    ],
)
@pytest.mark.parametrize("name", SUPERVISED)
def test_fitting_bad_sample_weights(fitted, name, weight, match):
    assert_refused(fitted[name], lambda: fitted[name].fit(X, Y, sample_weight=weight), ValueError, match)


BAD_PARAMETERS = [
    ("M", 0),
    ("M", -1),
    ("M", 2.0),
    ("M", None),
    ("K", 1),
    ("K", 0),
    ("K", 65537),
    ("K", "64"),
    ("output", "packed"),
    ("random_state", "seed"),
    ("D", 0),
    ("hidden_layer_sizes", (8, 0)),
    ("hidden_layer_sizes", 8),
    ("hidden_layer_sizes", (8.5,)),
    ("part_layer_sizes", (-1,)),
    ("backbone", "resnet"),
    ("augment", "flip"),
    ("intra_norm", "yes"),
    ("dropout", 1.0),
    ("dropout", -0.1),
    ("dropout", "most"),
    ("label_smoothing", 1.0),
    ("label_smoothing", -0.1),
    ("warm_start", "yes"),
    ("verbose", "yes"),
    ("softmax_soft_weight", -1),
    ("softmax_hard_weight", -1.0),
    ("joint_central_weight", "0.1"),
    ("supervision", -0.1),
    ("supervision", 1.5),
    ("supervision", "none"),
    ("gini_batch_weight", -0.1),
    ("gini_batch_weight", "even"),
    ("gini_sample_weight", None),
    ("learning_rate", 0),
    ("weight_decay", -1),
    ("batch_size", 0),
    ("max_iter", 0),
    ("max_iter", "many"),
    ("tol", -1e-3),
    ("early_stopping", "yes"),
    ("validation_fraction", 0.0),
    ("validation_fraction", 1.0),
    ("n_iter_no_change", 0),
    ("class_weight", "even"),
    ("device", "abacus"),
    ("device", 3),
    ("representation", "codes"),
    ("rotation", "random"),
    ("n_neighbors", 0),
    ("radius", -1.0),
    ("search", "exact"),
    ("mode", "similarity"),
    ("n_jobs", 1.5),
    ("quantizer", 3),
]


@pytest.mark.parametrize(("parameter", "value"), BAD_PARAMETERS)
def test_fitting_with_bad_parameters(fitted, parameter, value):
    tried = 0
    for name, estimator in fitted.items():
        for nested in (parameter, f"quantizer__{parameter}"):
            if nested in estimator.get_params():
                changed = clone(ESTIMATORS[name]).fit(X, Y).set_params(**{nested: value})
                assert_refused(changed, lambda changed=changed: changed.fit(X, Y), (ValueError, TypeError), parameter)
                tried += 1
    assert tried


ENDS = [  # of the ranges, which are taken
    {"M": 1, "K": 2, "D": 1, "batch_size": 1, "max_iter": 1, "n_iter_no_change": 1, "dropout": 0, "label_smoothing": 0},
    {"softmax_soft_weight": 0, "softmax_hard_weight": 0, "joint_central_weight": 0, "gini_batch_weight": 0},
    {"gini_sample_weight": 0, "weight_decay": 0, "tol": 0, "supervision": 1, "verbose": 0, "D": None},
    {"hidden_layer_sizes": [], "part_layer_sizes": np.array([1]), "dropout": 0.99, "label_smoothing": 0.99},
    {"early_stopping": True, "validation_fraction": 0.9, "batch_size": 10**9, "learning_rate": 1e-30},
]


@pytest.mark.parametrize("params", ENDS, ids=str)
def test_parameters_at_the_ends_of_their_ranges_are_taken(params):
    for name in ("DPQTransformer", "DPQClassifier"):
        estimator = clone(ESTIMATORS[name]).set_params(**params).fit(X, Y)
        assert np.isfinite(estimator.soft(X)).all()
        assert estimator.encode(X).shape == (150, estimator.M)
    assert DPQTransformer(**SMALL, supervision=0, max_iter=1).fit(X, Y).encode(X).shape == (150, 2)


@pytest.mark.parametrize("name", ["DPQTransformer", "ProductQuantizer"])
def test_as_many_codewords_as_a_code_can_tell_apart(name):
    quantizer = clone(ESTIMATORS[name]).set_params(M=1, K=65536).fit(X[::5], Y[::5])
    assert quantizer.codebooks_.shape[1] == 65536
    assert quantizer.encode(X).dtype == np.uint16


def test_class_weights_of_unknown_classes(fitted):
    changed = clone(ESTIMATORS["DPQClassifier"]).set_params(class_weight={7: 1.0})
    assert_refused(changed, lambda: changed.fit(X, Y), ValueError, "not in class_weight")


def test_a_diverging_fit_says_so():
    estimator = DPQTransformer(M=2, K=4, learning_rate=1e30, random_state=0)
    assert_refused(estimator, lambda: estimator.fit(X, Y), ValueError, "learning_rate=1e\\+30")


GOOD_CODES = np.zeros((6, 2), dtype=np.uint8)
BAD_CODES = {
    "out of range": (GOOD_CODES + 4, ValueError, "4"),
    "negative": (GOOD_CODES.astype(int) - 1, ValueError, "-1"),
    "beyond the dtype": (GOOD_CODES.astype(int) + 256, ValueError, "256"),
    "1-D": (GOOD_CODES[0], ValueError, "dimension|2D|2-D|shape"),
    "too wide": (np.zeros((6, 3), np.uint8), ValueError, "3"),
    "too narrow": (np.zeros((6, 1), np.uint8), ValueError, "1"),
    "floating": (GOOD_CODES + 0.5, (ValueError, TypeError), "integer"),
    "boolean": (GOOD_CODES.astype(bool), (ValueError, TypeError), "integer"),
    "complex": (GOOD_CODES + 0j, (ValueError, TypeError), "integer|[Cc]omplex"),
    "text": (GOOD_CODES.astype("U1"), (ValueError, TypeError), "integer"),
    "sparse": (sparse.csr_array(GOOD_CODES), TypeError, "[Ss]parse"),
}


@pytest.mark.parametrize("bad", BAD_CODES)
@pytest.mark.parametrize(("name", "method"), [(n, m) for n, methods in CODE_METHODS.items() for m in methods])
def test_bad_codes(fitted, name, method, bad):
    codes, errors, match = BAD_CODES[bad]
    assert_refused(fitted[name], lambda: getattr(fitted[name], method)(codes), errors, match)


@pytest.mark.parametrize("bad", BAD_CODES)
def test_fitting_bad_codes(fitted, bad):
    codes, errors, match = BAD_CODES[bad]
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(fitted["DPQTransformer"])).fit(X, Y)
    assert_refused(neighbors, lambda: neighbors.fit_codes(codes), errors, match)


@pytest.mark.parametrize(
    ("packed", "match"),
    [
        (np.zeros((3, 2), np.uint8), "1 byte|shape|columns|got 2"),
        (np.zeros((3, 1), np.int64), "uint8"),
        (np.zeros(3, np.uint8), "dimension|2D|2-D|shape"),
        (np.full((3, 1), 16, np.uint8), "below K\\*\\*M"),
    ],
)
def test_bad_packed_codes(fitted, packed, match):
    for name in QUERY_METHODS:
        if name != "DPQNeighbors":
            quantizer = fitted[name]
            assert_refused(
                quantizer, lambda quantizer=quantizer: quantizer.unpack_codes(packed), (ValueError, TypeError), match
            )


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("queries", [X[:3], None])
@pytest.mark.parametrize(
    ("k", "errors"), [(151, ValueError), (0, ValueError), (-2, ValueError), (2.5, TypeError), ("3", TypeError)]
)
def test_bad_numbers_of_neighbors(fitted, queries, k, errors, search):
    neighbors = clone(ESTIMATORS["DPQNeighbors"]).set_params(search=search).fit(X)
    assert_refused(neighbors, lambda: neighbors.kneighbors(queries, n_neighbors=k), errors, "n_neighbors|not supported")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_unfitted_estimators_say_so(name):
    estimator = clone(ESTIMATORS[name])
    key = name.split(",")[0]
    for method in QUERY_METHODS[key]:
        assert_refused(estimator, lambda method=method: getattr(estimator, method)(X), NotFittedError, "not fitted yet")
    for method in CODE_METHODS[key]:
        assert_refused(
            estimator, lambda method=method: getattr(estimator, method)(GOOD_CODES), NotFittedError, "not fitted yet"
        )
    if key == "DPQNeighbors":
        assert_refused(estimator, lambda: estimator.remove([0]), NotFittedError, "not fitted yet")
        assert_refused(estimator, lambda: estimator.add(X), NotFittedError, "not fitted yet")
        assert_refused(estimator, lambda: estimator.score(X, Y), NotFittedError, "not fitted yet")
    else:
        assert_refused(
            estimator, lambda: estimator.unpack_codes(np.zeros((1, 1), np.uint8)), NotFittedError, "not fitted yet"
        )
        assert_refused(estimator, estimator.get_feature_names_out, NotFittedError, "not fitted yet")
        assert not hasattr(estimator, "codebooks_")


@pytest.mark.parametrize("bad", ["NaN", "1-D", "no samples", "sparse", "complex"])
def test_adding_bad_samples(fitted, bad):
    bad, errors, match = BAD_X[bad]
    for name in ("DPQNeighbors", "DPQNeighbors, supervised"):
        assert_refused(fitted[name], lambda name=name: fitted[name].add(bad), errors, match)


class Expensive(ProductQuantizer):
    """A quantizer that must not be asked in vain."""

    def fit(self, X, y=None, sample_weight=None):
        raise AssertionError

    def encode(self, X):
        raise AssertionError


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (np.arange(len(X) - 1), "one id for each"),
        (np.zeros(len(X), int), "ids that differ"),
        (-np.arange(len(X)), "ids from 0"),
        (np.arange(len(X)) + 0.5, "1-D array of integers"),
    ],
)
def test_ids_are_refused_before_anything_is_learned_or_encoded(fitted, ids, match):
    neighbors = DPQNeighbors(quantizer=Expensive())
    assert_refused(neighbors, lambda: neighbors.fit(X, ids=ids), ValueError, match)
    neighbors = copy.deepcopy(fitted["DPQNeighbors"])
    neighbors.quantizer_.__class__ = Expensive
    assert_refused(neighbors, lambda: neighbors.add(X, ids=ids), ValueError, match)


def test_feature_names_out_of_other_features(fitted):
    for name in ("DPQTransformer", "DPQClassifier", "ProductQuantizer"):
        names = fitted[name].get_feature_names_out()
        assert len(names) == fitted[name].transform(X).shape[1]
        assert all(re.fullmatch(f"{name.lower()}[0-9]+", feature) for feature in names)
        assert_refused(
            fitted[name],
            lambda name=name: fitted[name].get_feature_names_out(["a", "b"]),
            ValueError,
            "input_features",
        )
