"""Quantizers on arrays and frames of dask: what they compute, block by block, and learning from one block at a time.

`_blockwise` calls it for the methods of quantizers. It needs no cluster: any of dask's schedulers computes the blocks.
"""

from numbers import Integral

import dask
import dask.array as da
import numpy as np
from sklearn.utils.validation import _num_samples

from .._arrays import is_lazy
from ._rows import blocks_of


def map_rows(estimator, method, X):
    """Return what a method makes of samples.

    Parameters
    ----------
    estimator : estimator
        Fitted; nobody else changes it.
    method : str
        The name of its method.
    X : dask array or data frame of shape (n_samples, ...)
        Samples.

    Returns
    -------
    rows : dask array of shape (n_samples, ...)
        With a block for each block of X, of the type that the method returns.

    Raises
    ------
    ValueError
        If X does not match the data that the estimator was fitted on.
    """
    empty = getattr(estimator, method)(_one_sample(X))[:0]  # which raises where X does not match
    shared = dask.delayed(estimator, traverse=False)
    if not isinstance(X, da.Array):
        shape = (np.nan, *empty.shape[1:])
        parts = [dask.delayed(_rows_of)(block, shared, method, empty) for block in blocks_of(X)]
        return da.concatenate([da.from_delayed(part, shape, meta=empty) for part in parts])
    X = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
    return X.map_blocks(
        _rows_of,
        shared,
        method,
        empty,
        chunks=(X.chunks[0], *((n,) for n in empty.shape[1:])),
        drop_axis=list(range(empty.ndim, X.ndim)),
        meta=empty,
    )


def _one_sample(X):
    """Return a sample of the width, the type and the names of X."""
    if isinstance(X, da.Array):
        return np.zeros((1, *X.shape[1:]), X.dtype)
    return X._meta.reindex([0]).fillna(0).astype(X._meta.dtypes)


def _rows_of(block, estimator, method, empty):
    """Return what a method makes of a block, which may be without rows."""
    return getattr(estimator, method)(block) if _num_samples(block) else empty


def learn_blocks(estimator, method, X, y, classes, sample_weight):
    """Learn from all blocks of samples, one after the other, in an order that is drawn.

    Parameters
    ----------
    estimator : estimator
        What learns; its `random_state` and how much it has learned give the order.
    method : callable
        Its `partial_fit`.
    X : dask array or data frame of shape (n_samples, ...)
        Samples. One block of them is in memory at a time.
    y, sample_weight : dask array or series, or array-like, of shape (n_samples,), or None
        Labels and weights.
    classes : array-like or None
        All labels that may come; by default those in y.

    Returns
    -------
    estimator : estimator
        The same.

    Raises
    ------
    ValueError
        If y or `sample_weight` is not as long as X.
    """
    blocks = blocks_of(X)
    beside = [_beside(X, values, name) for values, name in ((y, "y"), (sample_weight, "sample_weight"))]
    if classes is None and y is not None and not hasattr(estimator, "classes_"):
        classes = np.unique(np.concatenate(dask.compute(*map(dask.delayed(np.unique), beside[0]))))
    seed = estimator.random_state
    if isinstance(seed, Integral):  # not the same order at each call
        seed = [int(seed), getattr(estimator, "n_iter_", 0)]
    random = seed if hasattr(seed, "permutation") else np.random.default_rng(seed)
    for i in random.permutation(len(blocks)):
        block, labels, weights = dask.compute(blocks[i], *(None if of is None else of[i] for of in beside))
        if len(block):
            method(estimator, block, labels, classes, weights)
    return estimator


def _beside(X, values, name):
    """Return the labels or weights of each block of X, a list; None for None."""
    if values is None:
        return None
    if is_lazy(values) and not isinstance(X, da.Array):
        return values.to_delayed() if hasattr(values, "to_delayed") else list(values)
    lengths = X.chunks[0] if isinstance(X, da.Array) else dask.compute(*map(dask.delayed(len), blocks_of(X)))
    if np.isnan(lengths).any() or len(values) != sum(lengths):
        raise ValueError(f"Expected {name} with a value for each of {sum(lengths)} samples, got {len(values)}.")
    if isinstance(values, da.Array):
        return values.rechunk((lengths,)).to_delayed().tolist()
    ends = np.cumsum(lengths)
    return [np.asarray(values)[end - n : end] for end, n in zip(ends, lengths, strict=True)]
