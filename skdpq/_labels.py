"""Labels of the items of a database: classes, and for each item an index into them, or -1 where it has none."""

import numpy as np

from ._arrays import as_array, check_array, column_or_1d
from ._classes import class_indices, narrow, union


def append_labels(classes, labels, y, n_new):
    """Append the labels of new items.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,) or None
        Distinct labels, ascending; None where no item has one.
    labels : ndarray of shape (n,), of integers
        Indices into them, -1 for an item without a label.
    y : array-like of shape (n_new,) or None
        Labels of the new items; None if they have none.
    n_new : int
        Number of new items.

    Returns
    -------
    classes, labels : ndarray of shape (n_classes,), (n + n_new,)
        Of all items, in the smallest integer type that holds the indices; what was given stays as it is.

    Raises
    ------
    ValueError
        If y is no vector of n_new labels, has missing values, or has numbers where the classes are strings.
    """
    if y is None:
        return classes, np.concatenate((labels, np.full(n_new, -1, dtype=labels.dtype)))
    y = column_or_1d(as_array(y), warn=True)
    y = check_array(y, ensure_2d=False, dtype=None, ensure_min_samples=0, input_name="y")
    if len(y) != n_new:
        raise ValueError(f"Expected one label for each of {n_new} samples, got {len(y)}.")
    if classes is None:
        merged = np.unique(y)
    elif _is_text(y) != _is_text(classes):
        raise ValueError(f"Expected labels of the kind of {classes.dtype}, as in the database, got {y.dtype}.")
    else:
        merged = union(classes, y)
        if len(merged) > len(classes):
            labels = np.where(labels < 0, -1, class_indices(merged, classes)[labels])
    return merged, narrow(np.concatenate((labels, class_indices(merged, y))), len(merged))


def check_stored(classes, labels, n):
    """Raise ValueError unless labels are those of n items, and indices into classes that differ and ascend."""
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or not np.array_equal(np.unique(classes), classes):
        raise ValueError(f"expected classes that differ, ascending, got {classes!r:.100}.")
    if not isinstance(labels, np.ndarray) or labels.shape != (n,) or labels.dtype.kind != "i":
        raise ValueError(f"expected integers of {n} items, got {labels!r:.100}.")
    if n and not -1 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"expected labels from -1 to {len(classes) - 1}, got values outside.")


def positions(known, ids):
    """Return where ids stand among known ones.

    Parameters
    ----------
    known : ndarray of shape (n,), int64
        Ids, ascending.
    ids : ndarray of any shape
        Some of them.

    Returns
    -------
    positions : ndarray of the shape of ids
        Such that ``known[positions]`` are the ids.

    Raises
    ------
    ValueError
        If they are no integers, or not known.
    """
    if ids.size and ids.dtype.kind not in "iu":
        raise ValueError(f"Expected ids as an array of integers, got {ids.dtype} of shape {ids.shape}.")
    ids = ids.astype(np.int64)
    found = np.searchsorted(known, ids)
    unknown = found == len(known)
    if len(known):
        unknown |= known[np.where(unknown, 0, found)] != ids
    if unknown.any():
        raise ValueError(f"Expected ids of the database, got {ids[unknown][:5].tolist()}.")
    return found


def _is_text(labels):
    """Tell whether labels are strings: NumPy would turn numbers among them into strings without a word."""
    return labels.dtype.kind in "STU" or (labels.dtype.kind == "O" and any(isinstance(i, str | bytes) for i in labels))
