"""The quantizer of a database: which one it is, whether it will do, and its part in a fit.

`DPQNeighbors` calls it, in one process and on a cluster.
"""

from contextlib import nullcontext

import numpy as np
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import process_routing
from sklearn.utils.validation import check_is_fitted

from ._progress import fit_task
from ._quantizer import blocks_of, check_classifies, represent
from .product_quantizer import ProductQuantizer


def choose_quantizer(neighbors, y):
    """Return the quantizer of a database: the one that it was given, else one by whether there are labels."""
    if neighbors.quantizer is not None:
        return neighbors.quantizer
    if y is None:
        return ProductQuantizer(random_state=neighbors.random_state)
    from .transformer import DPQTransformer  # imports torch, which searching does without

    return DPQTransformer(random_state=neighbors.random_state, verbose=neighbors.verbose)


def check_metric(neighbors, y):
    """Raise ValueError if it can be told before the quantizer is fitted that it will not classify codes."""
    if neighbors.metric == "relevance" and not isinstance(neighbors.quantizer, FrozenEstimator):
        if y is None:
            raise ValueError(
                'metric="relevance" needs labels: expected y, or quantizer=FrozenEstimator(<fitted quantizer that '
                f"classifies codes>), got y=None and quantizer={neighbors.quantizer!r}."
            )
        if neighbors.quantizer is not None:
            check_classifies(neighbors.quantizer)


def check_frozen(quantizer):
    """Raise ValueError unless a quantizer is frozen, as that of codes alone, and NotFittedError unless it is fitted."""
    if not isinstance(quantizer, FrozenEstimator):
        raise ValueError(
            "fit_codes needs a fitted quantizer: expected quantizer=FrozenEstimator(<fitted quantizer>), "
            f"got {quantizer!r}."
        )
    check_is_fitted(quantizer)


def take_quantizer(neighbors, quantizer):
    """Make a fitted quantizer the one of a database, with the features that it knows."""
    neighbors.quantizer_ = quantizer
    for name in ("n_features_in_", "feature_names_in_"):
        vars(neighbors).pop(name, None)
        if hasattr(quantizer, name):
            setattr(neighbors, name, getattr(quantizer, name))


def fit_quantizer(neighbors, X, y, fit_params, task):
    """Fit the quantizer of a database, whose callbacks, where it has some, hear of it as a part of a task.

    Parameters
    ----------
    neighbors : DPQNeighbors
        Has the quantizer, which is fitted in place.
    X, y : array-like of shape (n_samples, ...), (n_samples,) or None
        Samples and their labels.
    fit_params : dict
        What `fit` was given beside these; metadata routing, where that is enabled, says what of it the quantizer gets.
    task : CallbackContext
        From `fit_task`.
    """
    quantizer = neighbors.quantizer_
    if get_config()["enable_metadata_routing"]:
        fit_params = process_routing(neighbors, "fit", **fit_params).quantizer.fit
    supports_callbacks = hasattr(quantizer, "set_callbacks")
    with task.propagate_callback_context(quantizer) if supports_callbacks else nullcontext():
        quantizer.fit(X, y, **fit_params)


def blocks_to_tell(neighbors, X):
    """Return the blocks of samples of whose encoding callbacks hear: none without callbacks, or where there is one."""
    if not hasattr(neighbors, "_skl_callbacks") or issparse(X):
        return []
    blocks = blocks_of(X)
    return blocks if len(blocks) > 1 else []


def encode_blocks(quantizer, X, blocks, task, data):
    """Return the codes of samples, of which callbacks hear block by block.

    Parameters
    ----------
    quantizer : estimator
        A fitted quantizer.
    X : array-like of shape (n_samples, ...)
        Samples.
    blocks : list of slice
        From `blocks_to_tell`; without any, the quantizer encodes X as it likes to.
    task : CallbackContext
        From `fit_task`.
    data : dict
        What callbacks are given.

    Returns
    -------
    codes : ndarray of shape (n_samples, M)
        Integers.
    """
    codes = []
    for block in blocks:
        with fit_task(task, "block", **data):
            codes.append(represent(quantizer, "encode", _safe_indexing(X, block)))
    return np.concatenate(codes) if codes else represent(quantizer, "encode", X)
