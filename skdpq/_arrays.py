"""Tensors that users give become arrays, at the door of each method. Torch is never imported for it."""

import sys

import numpy as np


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
