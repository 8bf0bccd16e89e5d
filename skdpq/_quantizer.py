"""What all quantizers share: the face of the protocol in which the learning and the searching half meet.

A quantizer has `fit(X, y=None)`, `codebooks_` (M, K, D), `encode(X)`, `soft(X)` and `decode(codes)`. This mixin gives
the rest, from `codebooks_` alone.

A quantizer that classifies codes has three things more, by which `DPQNeighbors(metric="relevance")` searches: `lutc_`
(M, K, n_classes) and `class_bias_` (n_classes,), whose sums are the scores of a code before the softmax (section
3.1.2), and `predict_proba_soft(X)`, the class probabilities (n, n_classes) of samples before they are quantized.
"""

import copy
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _get_feature_names, _num_samples, check_is_fitted

from . import _codes
from ._arrays import as_array, slices_of
from ._atomic import StateMixin, changes, reads
from ._blockwise import by_blocks
from ._doc_links import DocLinksMixin
from ._typing import Codes
from ._versions import VersionedMixin

_CLASSIFIES = ("lutc_", "class_bias_", "predict_proba_soft")  # what a quantizer has that classifies codes
_BLOCK_SCORES = 2**22  # scores of classes at a time: 32 MB
_BLOCK_SAMPLES = 2**14  # at most, that `DPQNeighbors` has represented at a time
_BLOCK_VALUES = 2**24  # of X at a time: 128 MB in float64


class QuantizerMixin(StateMixin, VersionedMixin, DocLinksMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Transform, decode and pack, for an estimator with `codebooks_`, `soft`, `encode` and the parameter `output`."""

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Represent X as the parameter `output` says.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        X_new : ndarray of shape (n_samples, M * D) or (n_samples, M)
            ``output="soft"``: `soft`, float32; ``"hard"``: the decoded codes, float32; ``"codes"``: `encode`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on.
        """
        output = self._valid("output")
        if output == "soft":
            return self.soft(X)
        codes = self.encode(X)
        return codes if output == "codes" else self.decode(codes)

    @reads
    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Return the hard representation of codes (equations 2 and 4).

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.

        Returns
        -------
        hard : ndarray of shape (n_samples, M * D), float32
            Row z_m of every codebook, concatenated.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the codes have another width than M, or are out of range.
        """
        check_is_fitted(self)
        return _codes.decode(codes, self.codebooks_)

    @reads
    def pack_codes(self, codes: ArrayLike) -> NDArray[np.uint8]:
        """Pack codes to ceil(M log2(K) / 8) bytes a row (section 3.1.1).

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.

        Returns
        -------
        packed : ndarray of shape (n_samples, ceil(M * log2(K) / 8)), uint8
            Row z is the integer sum_m z_m K^m, little-endian: plain bit packing for K a power of two.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the codes have another width than M, or are out of range.
        """
        check_is_fitted(self)
        M, K, _ = self.codebooks_.shape
        return _codes.pack_codes(_codes.check_codes(codes, M, K), K)

    @reads
    def unpack_codes(self, packed: ArrayLike) -> Codes:
        """Undo `pack_codes`.

        Parameters
        ----------
        packed : ndarray of shape (n_samples, ceil(M * log2(K) / 8)), uint8
            Packed rows.

        Returns
        -------
        codes : ndarray of shape (n_samples, M), uint8 or uint16
            The codes.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `packed` is not what `pack_codes` returns.
        """
        check_is_fitted(self)
        M, K, _ = self.codebooks_.shape
        return _codes.unpack_codes(packed, M, K)

    get_feature_names_out = reads(ClassNamePrefixFeaturesOutMixin.get_feature_names_out)

    @property
    @reads
    def _n_features_out(self):
        M, _, D = self.codebooks_.shape
        return M if self._valid("output") == "codes" else M * D

    def _codebooks(self):
        """Return the codebooks as they were trained: the same until another fit, whatever parameters are set."""
        return self.codebooks_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [] if self.output == "codes" else ["float32"]
        return tags


# As the outermost, so that the names of a frame's columns are of the state that its data are of; and so that what is
# transformed is what was fitted.
QuantizerMixin.transform = by_blocks(reads(QuantizerMixin.transform))  # type: ignore[method-assign]
QuantizerMixin.fit_transform = changes(QuantizerMixin.fit_transform)  # type: ignore[method-assign]


def represent(quantizer, method, X, checked_by=None):
    """Return what a method of a quantizer makes of samples, which may be of any kind that it takes.

    All that `DPQNeighbors` has a quantizer compute comes through here. Width, kind and range of the rows are checked
    where they are compared with the codebooks (`_search.index`).

    Parameters
    ----------
    quantizer : estimator
        A fitted quantizer, of the user's own making perhaps.
    method : {"encode", "soft", "predict_proba_soft"}
        Name of the method.
    X : array-like of shape (n_samples, ...)
        Samples.
    checked_by : estimator, default=None
        What has checked the feature names of X before. If it has warned of them, the quantizer does not, too.

    Returns
    -------
    rows : ndarray of shape (n_samples, ...)
        One row for each sample.

    Raises
    ------
    ValueError
        If they are not.
    """
    if checked_by is not None:
        quantizer = _with_names_of(X, quantizer, checked_by)
    rows = np.asarray(as_array(getattr(quantizer, method)(X)))
    n_samples = _num_samples(X)
    if rows.ndim != 2 or len(rows) != n_samples:
        raise ValueError(
            f"Expected {type(quantizer).__name__}.{method} to return one row for each of {n_samples} samples, "
            f"got an array of shape {rows.shape}."
        )
    return rows


def blocks_of(X):
    """Return slices of samples to represent at a time: few where they are wide."""
    shape = getattr(X, "shape", ())
    n_samples = max(1, min(_BLOCK_SAMPLES, _BLOCK_VALUES // max(1, math.prod(shape[1:]))))
    return slices_of(_num_samples(X), n_samples)


def query_method(metric, symmetric):
    """Return the name of the method that represents queries: codes, else soft, or the class probabilities of soft."""
    if symmetric:
        return "encode"
    return "predict_proba_soft" if metric == "relevance" else "soft"


def represent_blocks(quantizer, method, X, checked_by):
    """Yield what `represent` returns, a block of samples at a time."""
    blocks = blocks_of(X)
    if len(blocks) < 2:
        yield represent(quantizer, method, X, checked_by)  # which refuses an X without samples
    else:
        for block in blocks:
            yield represent(quantizer, method, _safe_indexing(X, block), checked_by)


def trained_codebooks(quantizer):
    """Return what a quantizer's codes index: its codebooks as trained, or those that one of a user's own has."""
    return quantizer._codebooks() if hasattr(quantizer, "_codebooks") else as_array(quantizer.codebooks_)


def check_same(quantizer, codebooks):
    """Raise ValueError unless a quantizer still has the codebooks that the codes of a database are of."""
    trained = trained_codebooks(quantizer)
    if trained is not codebooks and not np.array_equal(np.asarray(as_array(trained), codebooks.dtype), codebooks):
        raise ValueError(
            "Expected the quantizer that the codes of the database are of, got one with other codebooks: it was "
            "fitted again. Fit this DPQNeighbors again, or give it a copy of the quantizer."
        )


def check_classifies(quantizer):
    """Raise ValueError if a quantizer, which may not be fitted yet, will not classify codes."""
    if not hasattr(quantizer, "predict_proba_soft"):
        raise _no_classifier(quantizer)


def classifier_of(quantizer):
    """Return `lutc_` and `class_bias_` of a fitted quantizer; ValueError if it classifies no codes."""
    try:
        lutc, bias, _ = (getattr(quantizer, name) for name in _CLASSIFIES)
    except AttributeError as error:
        raise _no_classifier(quantizer) from error
    return lutc, bias


def _no_classifier(quantizer):
    return ValueError(
        'metric="relevance" needs a quantizer that classifies codes, as DPQTransformer and DPQClassifier do where '
        f"labels supervise: expected one with {', '.join(_CLASSIFIES)}, got {quantizer!r}."
    )


def _with_names_of(X, quantizer, checked_by):
    """Return the quantizer as fitted with the feature names of X, if an estimator has warned that these are others."""
    names = None if isinstance(X, np.ndarray) else _get_feature_names(X)  # which takes a tenth of a small search
    if (names is None) != hasattr(checked_by, "feature_names_in_"):
        return quantizer
    quantizer = copy.copy(quantizer.estimator if isinstance(quantizer, FrozenEstimator) else quantizer)
    if names is None:
        vars(quantizer).pop("feature_names_in_", None)
    elif not hasattr(quantizer, "feature_names_in_"):
        quantizer.feature_names_in_ = names
    return quantizer


def compression_ratio(n_values, M, K):
    """Return 32 L / (M log2(K)), equation 8.

    Parameters
    ----------
    n_values : int
        Number L of float32 values in a sample.
    M, K : int
        Number of parts and of codewords a part.

    Returns
    -------
    ratio : float
        How many times smaller the codes are than the float32 samples.
    """
    return float(32 * n_values / (M * np.log2(K)))


def normalize_parts(vectors):
    """L2-normalize the last axis, leaving zero vectors as they are: intra-normalization (section 4).

    Parameters
    ----------
    vectors : ndarray of shape (..., D)
        The parts of representations, or codewords.

    Returns
    -------
    normalized : ndarray of shape (..., D)
        Vectors of length one, or zero.
    """
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)


def class_posterior(soft, weight, bias):
    """Return the class probabilities of soft, or of hard (section 3.1.2), computed in float64, block by block.

    Parameters
    ----------
    soft : ndarray of shape (n, M * D)
        Representations.
    weight, bias : ndarray of shape (C, M * D), (C,)
        The classifier that soft and hard share, W transposed and b.

    Returns
    -------
    proba : ndarray of shape (n, C), float32
        Softmax of the scores.
    """
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    proba = np.empty((len(soft), len(bias)), dtype=np.float32)
    for rows in slices_of(len(soft), max(1, _BLOCK_SCORES // len(bias))):
        proba[rows] = softmax(soft[rows].astype(np.float64) @ weight.T + bias, axis=1)
    return proba
