"""Labels of different types, compared without a rounding.

NumPy compares int64 with uint64, and integers with floats, as float64, which has 53 bits: larger labels that differ
become equal. The learning wing and `DPQNeighbors` compare labels by these functions.
"""

import numpy as np


def comparable(labels, others):
    """Return two arrays of labels of a type that holds both exactly: Python's own objects where NumPy has none.

    Parameters
    ----------
    labels, others : ndarray
        Labels.

    Returns
    -------
    labels, others : ndarray
        The same; the arrays themselves where their types agree.
    """
    kinds = {labels.dtype.kind, others.dtype.kind}
    if kinds <= set("biuf") and len(kinds) > 1 and not all(map(_in_53_bits, (labels, others))):
        return labels.astype(object), others.astype(object)
    return labels, others


def _in_53_bits(labels):
    """Tell whether float64 holds all labels exactly."""
    if labels.dtype.kind not in "iu" or labels.dtype.itemsize < 8 or labels.size == 0:
        return True
    return int(labels.min()) >= -(2**53) and int(labels.max()) <= 2**53


def class_indices(classes, labels):
    """Return the positions of labels among classes that have them all, and are sorted: (n,) int64."""
    return np.searchsorted(*comparable(classes, labels))


def union(classes, labels):
    """Return all distinct labels of two arrays, ascending, in a type that holds them exactly.

    Parameters
    ----------
    classes, labels : ndarray of shape (n_classes,), (n,)
        Labels; not strings in one and numbers in the other.

    Returns
    -------
    classes : ndarray of shape (n_all_classes,)
        Integers where all are, else of the type that NumPy finds, or Python's own objects where that would round.
    """
    merged = np.union1d(*comparable(classes, labels))
    if merged.dtype.kind in "fO" and {classes.dtype.kind, labels.dtype.kind} <= set("iu") and len(merged):
        unsigned = merged[0] >= 0
        if unsigned or merged[-1] < 2**63:
            return merged.astype(np.uint64 if unsigned else np.int64)
    return merged


def narrow(indices, n_classes):
    """Return indices into classes, -1 for none, in the smallest integer type that holds them."""
    return indices.astype(np.min_scalar_type(-max(1, n_classes)), copy=False)
