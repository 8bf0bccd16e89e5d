"""What users give, at the door of each method: tensors become arrays, and scikit-learn checks them.

Torch is never imported for it.
"""

import sys
from functools import wraps

import numpy as np
from sklearn.utils import multiclass, validation

from ._threads import lock_of


def as_array(X):
    """Return a tensor as an array, and anything else as it is.

    Parameters
    ----------
    X : object
        What a user gives. A tensor may require gradients, and be on any device; a list may hold a tensor a sample.

    Returns
    -------
    X : object
        An array where there was a tensor. Kinds of floating point that NumPy does not have, bfloat16 among them,
        become float32, which holds each of their values.
    """
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", ())  # who has a tensor has imported torch
    if isinstance(X, list | tuple) and X and isinstance(X[0], tensor_type):
        return [as_array(sample) for sample in X]
    if not isinstance(X, tensor_type):
        return X
    known = not X.is_floating_point() or hasattr(np, str(X.dtype).removeprefix("torch."))
    return (X if known else X.float()).numpy(force=True)


def check_shape(X, shape, name="samples"):
    """Raise ValueError unless samples, which an error calls by a name, are of a shape."""
    if X.shape[1:] != shape:
        raise ValueError(f"Expected {name} of shape {shape}, got {X.shape[1:]}.")


def is_lazy(X):
    """Tell whether X is an array, a frame or a series of dask, which has its values elsewhere, or nowhere yet."""
    return type(X).__module__.startswith("dask.")


def slices_of(n, size):
    """Return consecutive slices of n things, `size` in each but the last.

    They are those of scikit-learn's gen_batches, which takes longer to validate them than a small search takes.
    """
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def one_at_a_time(function):
    """Return a function of scikit-learn that checks arrays as one that a single thread at a time is in.

    Each check changes the warning filters of the process for a moment. Where two such moments overlap, Python brings
    back the filters of the wrong one, and that for good.

    Parameters
    ----------
    function : callable
        Returns soon.

    Returns
    -------
    function : callable
        The same, under the lock of warning filters. It raises TypeError for arrays of dask.
    """

    @wraps(function)
    def called(*args, **kwargs):
        lazy = next((argument for argument in args if is_lazy(argument)), None)
        if lazy is not None:
            raise TypeError(
                f"Expected values in memory, got a {type(lazy).__name__} of dask, which would be brought here as a "
                "whole. X.compute() does that; skdpq.dask.DPQNeighbors and partial_fit take it as it is."
            )
        with lock_of("warning filters"):
            return function(*args, **kwargs)

    return called


check_array = one_at_a_time(validation.check_array)
check_classification_targets = one_at_a_time(multiclass.check_classification_targets)
check_sample_weight = one_at_a_time(validation._check_sample_weight)
column_or_1d = one_at_a_time(validation.column_or_1d)
validate_data = one_at_a_time(validation.validate_data)
