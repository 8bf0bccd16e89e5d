"""What is not ours: tensors, and the quantizers, backbones and augmentations that users write."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer

X, Y = load_iris(return_X_y=True)
SMALL = {"M": 2, "K": 4, "random_state": 0}

TENSORS = {
    "bfloat16": lambda a: torch.tensor(a).to(torch.bfloat16),
    "bfloat16 that requires grad": lambda a: torch.tensor(a).to(torch.bfloat16).requires_grad_(),
    "float16": lambda a: torch.tensor(a).to(torch.float16),
    "a parameter": lambda a: torch.nn.Parameter(torch.tensor(a, dtype=torch.float32)),
    "float64 that requires grad": lambda a: torch.tensor(a, requires_grad=True),
    "a result of operations": lambda a: torch.tensor(a, requires_grad=True).T.exp().T,
    "a list of samples": lambda a: list(torch.tensor(a).to(torch.bfloat16).requires_grad_()),
    "integers": lambda a: torch.tensor(a * 10).to(torch.int32),
}


def as_numpy(tensor):
    rows = tensor if isinstance(tensor, list) else [tensor]
    arrays = [row.detach().double().numpy() if row.dtype == torch.bfloat16 else row.detach().numpy() for row in rows]
    # float32 holds each bfloat16
    arrays = [a.astype(np.float32) if row.dtype == torch.bfloat16 else a for a, row in zip(arrays, rows, strict=True)]
    return np.stack(arrays) if isinstance(tensor, list) else arrays[0]


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("quantizer", [ProductQuantizer(**SMALL), DPQClassifier(**SMALL, max_iter=2)], ids=str)
def test_tensors_are_what_arrays_of_their_values_are(quantizer, kind):
    tensor = TENSORS[kind](X)
    array = as_numpy(tensor)
    ours, theirs = (DPQNeighbors(quantizer=quantizer).fit(a, Y) for a in (tensor, array))
    assert_array_equal(ours.codes_, theirs.codes_)
    for method in ("encode", "soft", "transform"):
        expected = getattr(theirs.quantizer_, method)(array)
        assert_array_equal(getattr(ours.quantizer_, method)(tensor), expected)
    for search in ("asymmetric", "symmetric"):
        found = ours.set_params(search=search).kneighbors(tensor[:7])
        for one, other in zip(found, theirs.set_params(search=search).kneighbors(array[:7]), strict=True):
            assert_array_equal(one, other)
    assert ours.score(tensor[:9], Y[:9]) == theirs.score(array[:9], Y[:9])
    assert_array_equal(ours.add(tensor[:5]).codes_, theirs.add(array[:5]).codes_)


def test_tensors_in_what_else_a_classifier_is_given():
    tensor, y = torch.tensor(X, requires_grad=True), torch.tensor(Y)
    ours = DPQClassifier(**SMALL, max_iter=2).fit(tensor, y, X_val=tensor, y_val=y)
    theirs = DPQClassifier(**SMALL, max_iter=2).fit(X, Y, X_val=X, y_val=Y)
    assert ours.validation_scores_ == theirs.validation_scores_
    assert_array_equal(ours.predict_proba(tensor), theirs.predict_proba(X))
    codes = torch.tensor(theirs.encode(X))
    assert_array_equal(ours.predict_codes(codes), theirs.predict(X))
    ours.partial_fit(tensor, y)
    assert_array_equal(ours.encode(tensor), theirs.partial_fit(X, Y).encode(X))


def test_more_queries_than_a_block_of_them_may_be_a_tensor():
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(**SMALL)).fit(X)
    many = np.tile(X, (120, 1)).astype(np.float32)
    _, ids = neighbors.kneighbors(torch.tensor(many, requires_grad=True), n_neighbors=1)
    assert_array_equal(ids, neighbors.kneighbors(many, n_neighbors=1)[1])


def test_what_is_wrong_with_a_tensor_is_said_as_of_an_array():
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(**SMALL)).fit(X)
    wrong = torch.tensor(X, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(ValueError, match=r"3 features.*expecting 4 features"):
        neighbors.kneighbors(wrong[:, :3])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        neighbors.kneighbors(wrong[0])
    with pytest.raises(ValueError, match="contains NaN"):
        neighbors.kneighbors(wrong * np.nan)


class Foreign(BaseEstimator):
    """A quantizer of a user, that returns what it is told to."""

    def __init__(self, inner=None, change=None, method=None):
        self.inner, self.change, self.method = inner, change, method

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        return self

    def _changed(self, method, X):
        value = getattr(self.inner, method)(X)
        return self.change(value) if self.method == method else value

    def encode(self, X):
        return self._changed("encode", X)

    def soft(self, X):
        return self._changed("soft", X)

    def decode(self, codes):
        return self.inner.decode(codes)

    def predict_proba_soft(self, X):
        return self._changed("predict_proba_soft", X)

    def _attribute(self, name):
        value = getattr(self.inner, name)
        return self.change(value) if self.method == name else value

    codebooks_ = property(lambda self: self._attribute("codebooks_"))
    lutc_ = property(lambda self: self._attribute("lutc_"))
    class_bias_ = property(lambda self: self._attribute("class_bias_"))


@pytest.fixture(scope="module")
def dpq():
    return DPQTransformer(**SMALL, max_iter=2).fit(X, Y)


ROWS = {
    "a row too few": (lambda rows: rows[:-1], r"one row for each of 9 samples, got an array of shape \(8, "),
    "a row too many": (lambda rows: np.concatenate((rows, rows[:1])), "one row for each of 9 samples"),
    "no rows": (lambda rows: rows[:0], r"one row for each of 9 samples, got an array of shape \(0, "),
    "flat": (lambda rows: rows.ravel(), "one row for each of 9 samples"),
    "a number": (lambda rows: 0.5, r"one row for each of 9 samples, got an array of shape \(\)"),
    "nothing": (lambda rows: None, "one row for each of 9 samples"),
    "too narrow": (lambda rows: rows[:, :-1], r"Expected .* of shape \(n, "),
    "too wide": (lambda rows: np.hstack((rows, rows[:, :1])), r"Expected .* of shape \(n, "),
    "complex": (lambda rows: rows + 0j, "got dtype complex|Complex data not supported"),
    "text": (lambda rows: rows.astype(str), "got dtype <U"),
    "objects": (lambda rows: rows.astype(object), "got dtype object"),
}


@pytest.mark.parametrize("bad", ROWS)
@pytest.mark.parametrize("method", ["encode", "soft", "predict_proba_soft"])
def test_what_a_foreign_quantizer_makes_of_queries_is_checked(dpq, method, bad):
    change, match = ROWS[bad]
    foreign = Foreign(dpq)
    params = {"search": "symmetric" if method == "encode" else "asymmetric"}
    params["metric"] = "relevance" if method == "predict_proba_soft" else "euclidean"
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(foreign), **params).fit(X, Y)
    neighbors.quantizer_.estimator.change, neighbors.quantizer_.estimator.method = change, method
    for call in (
        lambda: neighbors.kneighbors(X[:9]),
        lambda: neighbors.radius_neighbors(X[:9]),
        lambda: neighbors.score(X[:9], Y[:9]),
        lambda: neighbors.kneighbors_graph(X[:9]),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("bad", ROWS)
def test_the_codes_that_a_foreign_quantizer_gives_a_database_are_checked(dpq, bad):
    change, match = ROWS[bad]
    foreign = Foreign(FrozenEstimator(dpq), change, "encode")
    with pytest.raises(ValueError, match=match):
        DPQNeighbors(quantizer=foreign).fit(X[:9])
    neighbors = DPQNeighbors(quantizer=foreign.set_params(method=None)).fit(X)
    neighbors.quantizer_.method = "encode"
    with pytest.raises(ValueError, match=match):
        neighbors.add(X[:9])
    assert neighbors.n_samples_fit_ == 150


SAME = {
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "Fortran order": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "not aligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "a list": lambda a: a.tolist(),
    "a tensor": lambda a: torch.tensor(a, requires_grad=a.dtype.kind == "f"),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("method", ["encode", "soft", "predict_proba_soft", "codebooks_", "lutc_", "class_bias_"])
def test_what_a_foreign_quantizer_gives_is_converted(dpq, method, kind):
    if kind == "float16":  # what that holds of it is what counts
        dpq = Foreign(dpq, lambda a: a if a.dtype.kind == "u" else a.astype(np.float16).astype(np.float32), method)
    params = {"search": "symmetric" if method == "encode" else "asymmetric"}
    params["metric"] = "euclidean" if method in ("soft", "codebooks_") else "relevance"
    change = SAME[kind] if method != "encode" or "float" not in kind else np.int64
    foreign = Foreign(dpq, change, method)
    found, expected = (
        DPQNeighbors(quantizer=FrozenEstimator(quantizer), **params).fit(X, Y).kneighbors(X[:20])
        for quantizer in (foreign, dpq)
    )
    for one, other in zip(found, expected, strict=True):
        assert_array_equal(one, other)


def test_soft_beyond_float32_is_refused_without_a_warning(dpq):
    foreign = Foreign(dpq, lambda soft: soft.astype(np.float64) * 1e300, "soft")
    with pytest.raises(ValueError, match="squared distances fit float32"):
        DPQNeighbors(quantizer=FrozenEstimator(foreign)).fit(X).kneighbors(X[:3])


class Backbone(torch.nn.Module):
    """A backbone of a user, whose units are changed."""

    def __init__(self, change, trained):
        super().__init__()
        self.change = change
        self.layer = torch.nn.Linear(4, 6).requires_grad_(trained)

    def forward(self, x):
        return self.change(self.layer(x))


def same(x):
    return x


UNITS = {
    "a tuple": (lambda u: (u, u), "one tensor, got tuple"),
    "nothing": (lambda u: None, "one tensor, got NoneType"),
    "an array": (lambda u: u.detach().numpy(), "one tensor, got ndarray"),
    "float64": (torch.Tensor.double, "torch.float32, the dtype of its input, got torch.float64"),
    "float16": (torch.Tensor.half, "torch.float32, the dtype of its input, got torch.float16"),
    "a row too few": (lambda u: u[:-1], r"\(n_samples, n_units\), here \(\d+, (n_units|6)\), got \(\d+, 6\)"),
    "a row too many": (lambda u: torch.cat((u, u[:1])), r"\(n_samples, n_units\)"),
    "flat": (torch.flatten, r"\(n_samples, n_units\)"),
    "a number": (torch.sum, r"\(n_samples, n_units\).*got \(\)"),
    "no units": (lambda u: u[:, :0], r"\(n_samples, n_units\).*, 0\)"),
}


@pytest.mark.parametrize("bad", UNITS)
@pytest.mark.parametrize("trained", [False, True])
def test_what_a_backbone_returns_is_checked(bad, trained):
    change, match = UNITS[bad]
    clf = DPQClassifier(**SMALL, max_iter=1, backbone=Backbone(change, trained))
    for fit in (clf.fit, lambda X, y: clf.partial_fit(X, y, classes=np.unique(y))):
        with pytest.raises(ValueError, match=f"Expected a backbone that returns .*{match}"):
            fit(X, Y)
    assert not hasattr(clf, "parameters_")
    clf.set_params(backbone=Backbone(same, trained)).fit(X, Y)
    clf.backbone_.change = change
    for method in (clf.soft, clf.encode, clf.predict, clf.predict_proba_soft):
        with pytest.raises(ValueError, match=f"Expected a backbone that returns .*{match}"):
            method(X)


@pytest.mark.parametrize("trained", [False, True])
def test_a_backbone_that_changes_its_mind_in_training_is_noticed(trained):
    for change, match in [
        (lambda u: u if len(u) == 2 else u[:, :-1], r"\(n_samples, n_units\), here \(\d+, 6\), got \(\d+, 5\)"),
        (lambda u: u if len(u) == 2 else u[:, 0], r"here \(\d+, (6|n_units)\), got \(\d+,\)"),
        (lambda u: u * torch.nan, "finite units, got NaN"),
    ]:
        for supervision in (0.5, 1):
            clf = DPQClassifier(**SMALL, max_iter=1, backbone=Backbone(change, trained), supervision=supervision)
            with pytest.raises(ValueError, match=f"Expected a backbone that returns .*{match}"):
                clf.fit(X, Y)


def test_a_backbone_of_float64_parameters_is_made_float32():
    backbone = Backbone(same, True).double()
    clf = DPQClassifier(**SMALL, max_iter=1, backbone=backbone).fit(X, Y)
    assert clf.backbone_.layer.weight.dtype == torch.float32
    assert backbone.layer.weight.dtype == torch.float64


AUGMENTED = {
    "a row too many": (lambda x: torch.cat((x, x[:1])), r"as many samples, 50 of torch.float32, got shape \(51, 4\)"),
    "a row too few": (lambda x: x[1:], r"as many samples, 50 of torch.float32, got shape \(49, 4\)"),
    "a number": (torch.sum, r"as many samples, .*got shape \(\)"),
    "another width": (lambda x: x[:, :3], r"samples of the shape that it was given, \(50, 4\), got \(50, 3\)"),
    "float64": (torch.Tensor.double, "got shape .* of torch.float64"),
    "integers": (torch.Tensor.int, "got shape .* of torch.int32"),
    "an array": (torch.Tensor.numpy, "a tensor, got ndarray"),
    "nothing": (lambda x: None, "a tensor, got NoneType"),
    "a tuple": (lambda x: (x, x), "a tensor, got tuple"),
    "NaN": (lambda x: x * torch.nan, "finite numbers, got NaN or infinity"),
    "infinity": (lambda x: x / 0, "finite numbers, got NaN or infinity"),
}


@pytest.mark.parametrize("bad", AUGMENTED)
def test_what_an_augmentation_returns_is_checked(bad):
    augment, match = AUGMENTED[bad]
    clf = DPQClassifier(**SMALL, max_iter=1, batch_size=50, augment=augment)
    with pytest.raises(ValueError, match=f"Expected an augment that returns .*{match}"):
        clf.fit(X, Y)
    with pytest.raises(ValueError, match=f"Expected an augment that returns .*{match}"):
        clf.partial_fit(X, Y, classes=[0, 1, 2])
    assert not hasattr(clf, "parameters_")


def test_an_augmentation_may_resize_what_a_backbone_takes():
    images = np.random.default_rng(0).normal(size=(30, 1, 6, 6)).astype(np.float32)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(1, 5, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    clf = DPQClassifier(**SMALL, max_iter=1, backbone=backbone, augment=lambda x: x[:, :, 1:, 1:])
    assert clf.fit(images, np.arange(30) % 3).encode(images).shape == (30, 2)


def test_parameters_of_a_quantizer_need_a_quantizer():
    with pytest.raises(ValueError, match=r"quantizer__M is a parameter of the quantizer: .*got quantizer=None"):
        GridSearchCV(DPQNeighbors(), {"quantizer__M": [2, 4]}).fit(X, Y)
    neighbors = DPQNeighbors(n_neighbors=3)
    with pytest.raises(ValueError, match="quantizer__K is a parameter of the quantizer"):
        neighbors.set_params(n_neighbors=4, quantizer__K=4)
    assert neighbors.n_neighbors == 3
    neighbors.set_params(quantizer=ProductQuantizer(), quantizer__K=4)
    assert neighbors.quantizer.K == 4
    with pytest.raises(ValueError, match="quantizer__M is a parameter of the quantizer"):
        neighbors.set_params(quantizer=None, quantizer__M=4)
    grid = GridSearchCV(neighbors, {"quantizer__M": [1, 2]}, cv=StratifiedKFold(2)).fit(X, Y)
    assert grid.best_params_["quantizer__M"] in (1, 2)


def test_going_on_after_parameters_have_changed_keeps_to_what_was_begun():
    dpq = DPQTransformer(M=2, K=4, random_state=0)
    twin = DPQTransformer(M=2, K=4, random_state=0)
    for changed, params in ((dpq, {"M": 4, "K": 1024, "D": 3, "hidden_layer_sizes": (9,)}), (twin, {})):
        changed.partial_fit(X, Y).set_params(**params).partial_fit(X, Y)
    assert dpq.compression_ratio_ == twin.compression_ratio_ == 32 * 4 / (2 * 2)
    assert dpq.loss_curve_ == twin.loss_curve_  # gini_batch_weight="auto" follows K
    assert_array_equal(dpq.encode(X), twin.encode(X))
    assert len(dpq.get_feature_names_out()) == dpq.transform(X).shape[1] == 32
    assert dpq.set_params(output="codes").transform(X).shape == (150, 2)
    assert list(dpq.get_feature_names_out()) == ["dpqtransformer0", "dpqtransformer1"]


@pytest.mark.parametrize("backbone", [None, torch.nn.Identity()])
def test_going_on_with_or_without_a_backbone_as_was_not_begun(backbone):
    clf = DPQClassifier(**SMALL, max_iter=1, backbone=backbone, warm_start=True).fit(X, Y)
    before = clf.encode(X), clf.mean_
    clf.set_params(backbone=torch.nn.Identity() if backbone is None else None)
    for go_on in (clf.fit, clf.partial_fit):
        with pytest.raises(ValueError, match=r"Expected to go on with(out)? a backbone, as was begun"):
            go_on(X, Y)
    assert_array_equal(clf.encode(X), before[0])
    assert clf.mean_ is before[1]


NAMED = pd.DataFrame(X.astype(np.float32), columns=["a", "b", "c", "d"])
CALLS = {
    "kneighbors": lambda neighbors, X: neighbors.kneighbors(X),
    "symmetric": lambda neighbors, X: copy.copy(neighbors).set_params(search="symmetric").kneighbors(X),
    "radius_neighbors": lambda neighbors, X: np.concatenate(neighbors.radius_neighbors(X)[1]),
    "graph": lambda neighbors, X: neighbors.kneighbors_graph(X).toarray(),
    "transform": lambda neighbors, X: neighbors.transform(X).toarray(),
    "score": lambda neighbors, X: neighbors.score(X, Y),
    "add": lambda neighbors, X: copy.deepcopy(neighbors).add(X).codes_,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "quantizer",
    [ProductQuantizer(**SMALL), DPQClassifier(**SMALL, max_iter=1), FrozenEstimator(ProductQuantizer(**SMALL))],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_feature_names_are_told_of_once_and_of_the_estimator_that_was_fitted(quantizer, named, call):
    data, queries = (NAMED, NAMED.to_numpy()) if named else (NAMED.to_numpy(), NAMED)
    if isinstance(quantizer, FrozenEstimator):
        quantizer = FrozenEstimator(clone(quantizer.estimator).fit(data))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*feature names")
        neighbors = DPQNeighbors(quantizer=quantizer).fit(data, Y)
        expected = CALLS[call](neighbors, data)
    with pytest.warns(UserWarning, match="feature names") as caught:
        found = CALLS[call](neighbors, queries)
    assert len(caught) == 1
    assert "DPQNeighbors was fitted with" in str(caught[0].message)
    for one, other in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
        assert_array_equal(one, other)
    assert hasattr(neighbors.quantizer_, "feature_names_in_") == named


def test_feature_names_of_many_queries_are_told_of_once():
    neighbors = DPQNeighbors(1, quantizer=ProductQuantizer(**SMALL)).fit(NAMED)
    with pytest.warns(UserWarning, match="feature names") as caught:
        neighbors.kneighbors(np.tile(NAMED, (120, 1)))
    assert len(caught) == 1


def test_names_that_a_quantizer_was_fitted_with_are_its_own_to_tell_of():
    named = FrozenEstimator(ProductQuantizer(**SMALL).fit(NAMED))
    with pytest.warns(UserWarning, match="ProductQuantizer was fitted with feature names"):
        DPQNeighbors(quantizer=named).fit(NAMED.to_numpy())
    with pytest.raises(ValueError, match="feature names should match"):
        DPQNeighbors(quantizer=named).fit(NAMED.set_axis(list("wxyz"), axis=1))
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(**SMALL)).fit(NAMED)
    with pytest.raises(ValueError, match="feature names should match"):
        neighbors.kneighbors(NAMED[list("dcba")])
