"""Samples of dask at the door of a quantizer: what it computes of them is a dask array, and it learns block by block.

The methods of `BaseDPQ`, `ProductQuantizer`, `DPQClassifier` and `QuantizerMixin` that take samples are decorated with
these. dask is not imported unless somebody gives what it made.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ._arrays import is_lazy
from ._atomic import changes, snapshot

_Method = TypeVar("_Method", bound=Callable[..., Any])


def by_blocks(method: _Method) -> _Method:
    """Decorate a method of samples, so that samples of dask get a dask array, computed when it is wanted.

    Parameters
    ----------
    method : callable
        Takes the estimator and samples, and returns a row for each.

    Returns
    -------
    method : callable
        The array that it returns for dask is of the state that the estimator has now.
    """

    @wraps(method)
    def of_samples(estimator, X):
        if not is_lazy(X):
            return method(estimator, X)
        from .dask._encoding import map_rows

        return map_rows(snapshot(estimator), method.__name__, X)

    return of_samples  # type: ignore[return-value]


def learns_by_blocks(method: _Method) -> _Method:
    """Decorate `partial_fit`, so that samples of dask are learned from a block at a time, in shuffled order.

    Parameters
    ----------
    method : callable
        Takes the estimator, samples, labels, classes and weights.

    Returns
    -------
    method : callable
        Learns from all blocks, or changes nothing.
    """

    @wraps(method)
    def partial_fit(estimator, X, y=None, classes=None, sample_weight=None):
        if not is_lazy(X):
            return method(estimator, X, y, classes, sample_weight)
        from .dask._encoding import learn_blocks

        return changes(learn_blocks)(estimator, method, X, y, classes, sample_weight)

    return partial_fit  # type: ignore[return-value]
