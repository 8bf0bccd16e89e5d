"""What is not ours: tensors, and the quantizers, backbones and augmentations that users write."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator

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
