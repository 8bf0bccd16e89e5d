"""Samples: data with class indices and weights, and which of them there are.

`BaseDPQ` makes them of what `fit` is given. A sample of weight zero is not there.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import check_consistent_length

from .._arrays import as_array, check_sample_weight, column_or_1d, one_at_a_time, slices_of
from .._classes import class_indices, comparable

IN_MEMORY_BYTES = 2**28  # of float32 up to which all samples are converted at once: 256 MB
NO_CLASSES = np.array([], dtype=np.int64)
_BLOCK_BYTES = 2**25  # of float64 that are converted at a time: 32 MB
_LEAST_WEIGHT = 2.0**-100  # of the largest; what has less is not there, as float32 has no such sums


def fits_in_memory(n_values):
    """Tell whether so many values may be held at once, as float32."""
    return 4 * n_values <= IN_MEMORY_BYTES


def blocks_of(X, n_most):
    """Return slices of samples to convert at a time: few where they are wide, and at most `n_most`."""
    return slices_of(len(X), max(1, min(n_most, _BLOCK_BYTES // (8 * max(1, math.prod(X.shape[1:]))))))


def weight_exponent(largest):
    """Return the exponent of the power of two that is at most a weight, and more than half of it; zero for zero."""
    return int(np.frexp(largest)[1]) - 1 if largest > 0 else 0


def relative(weight):
    """Return weights over a power of two, which changes no weighted mean, so that the largest is from one to two."""
    weight = np.ldexp(weight, -weight_exponent(weight.max(initial=0)))
    return np.where(weight < _LEAST_WEIGHT, 0.0, weight)


class Samples(NamedTuple):
    """Samples with labels and weights.

    Attributes
    ----------
    X : ndarray of shape (n, ...)
        Samples.
    y : ndarray of shape (n,), int64
        Class indices.
    sample_weight : ndarray of shape (n,)
        Weights as given.
    weight : ndarray of shape (n,)
        Weights in the objective, with those of the classes; from `relative`.
    """

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray
    weight: np.ndarray

    def take(self, rows):
        """Return some of the samples."""
        return Samples(*(array[rows] for array in self))

    def present(self):
        """Leave out samples of weight zero; where there are too many samples to copy, their source passes over them."""
        return self if self.weight.all() or not fits_in_memory(self.X.size) else self.take(self.weight > 0)

    def tensors(self, inputs, dtype, device):
        """Return X, y and weight as tensors on a device."""
        tensors = inputs.tensor(self.X, dtype), torch.from_numpy(self.y), torch.from_numpy(self.weight).to(dtype)
        return [tensor.to(device) for tensor in tensors]


def weigh(X, y, sample_weight, classes, class_weight):
    """Return the samples of positive weight.

    Parameters
    ----------
    X : ndarray of shape (n, ...)
        Samples.
    y : ndarray of shape (n,) or None
        Labels, all in `classes`; None without.
    sample_weight : ndarray of shape (n,)
        Weights.
    classes : ndarray of shape (n_classes,)
        Sorted labels.
    class_weight : ndarray of shape (n_classes,) or None
        Weights of the classes, by which those of their samples are multiplied; None without labels.

    Returns
    -------
    samples : Samples
        See `Samples.present`.
    """
    if y is None:
        return Samples(X, np.zeros(len(X), dtype=np.int64), sample_weight, relative(sample_weight)).present()
    y = class_indices(classes, y)
    weight = relative(relative(sample_weight) * relative(class_weight)[y])
    return Samples(X, y, sample_weight, weight).present()


def weigh_all(X, y, sample_weight, class_weight):
    """Return the classes of labels, and the samples of positive weight.

    Parameters
    ----------
    X, y, sample_weight : ndarray of shape (n, ...), (n,), (n,)
        As for `weigh`.
    class_weight : dict, "balanced" or None
        Weights of the classes, as scikit-learn takes them.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted labels; none without y.
    samples : Samples
        See `Samples.present`.

    Raises
    ------
    ValueError
        If fewer than two classes have a sample of positive weight.
    """
    if y is None:
        return NO_CLASSES, weigh(X, None, sample_weight, NO_CLASSES, None)
    classes = np.unique(y)
    if isinstance(class_weight, str):  # "balanced"; a class without weight has none to be balanced
        there = sample_weight > 0
        known = np.unique(y[there])
        balanced = compute_class_weight(class_weight, classes=known, y=y[there], sample_weight=sample_weight[there])
        class_weight = np.zeros(len(classes))
        class_weight[class_indices(classes, known)] = balanced
    else:
        class_weight = compute_class_weight(class_weight, classes=classes, y=y)
    samples = weigh(X, y, sample_weight, classes, class_weight)
    present = np.unique(samples.y[samples.weight > 0])
    if len(present) < 2:
        found = f"the data contain only one class: {classes[present[0]]!r}" if len(present) else "the data contain none"
        raise ValueError(f"Expected samples of at least 2 classes with positive weight; {found}.")
    return classes, samples


def weigh_known(X, y, sample_weight, classes, class_weight):
    """Return the samples of positive weight, of classes that are known; as `weigh_all`, but for "balanced"."""
    if y is None:
        return weigh(X, None, sample_weight, classes, None)
    check_labels(y, classes, "y")
    class_weight = compute_class_weight(class_weight, classes=classes, y=classes)
    return weigh(X, y, sample_weight, classes, class_weight)


def classes_to_come(classes, y, earlier, required):
    """Return the classes of all calls of `partial_fit`.

    Parameters
    ----------
    classes : array-like of shape (n_classes,) or None
        All labels, as given to this call.
    y : ndarray of shape (n,) or None
        Labels of this call.
    earlier : ndarray of shape (n_classes,) or None
        What the first call returned; None at the first call.
    required : bool
        Whether the first call must be given `classes`, instead of taking the labels that it sees.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted labels; none without y.

    Raises
    ------
    ValueError
        If they are missing, fewer than two, or others than those of the first call.
    """
    if y is None:
        classes = NO_CLASSES
    elif classes is not None:
        classes = np.unique(column_or_1d(classes))
    elif earlier is not None:
        return earlier
    elif required:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    else:
        classes = np.unique(y)
    if earlier is not None and not np.array_equal(*comparable(classes, earlier)):
        raise ValueError(f"Expected the classes of the first call, {earlier}, got {classes}.")
    if len(classes) == 1:
        raise ValueError(f"Expected at least 2 classes, got only one class: {classes}.")
    return classes


def hold_out(samples, classes, fraction, random_state):
    """Split samples, stratified by class.

    Parameters
    ----------
    samples : Samples
        All samples.
    classes : ndarray of shape (n_classes,)
        Sorted labels, by which an error names a class.
    fraction : float
        Share of those of positive weight to hold out.
    random_state : RandomState
        Draws them.

    Returns
    -------
    held_out, others : Samples
        Both parts.

    Raises
    ------
    ValueError
        If a class has a single sample, or the parts have fewer samples than there are classes.
    """
    present = np.flatnonzero(samples.weight)
    labels = classes[samples.y[present]]
    _, rows = one_at_a_time(train_test_split)(present, test_size=fraction, stratify=labels, random_state=random_state)
    weight = samples.weight.copy()
    weight[rows] = 0
    return samples.take(rows), samples._replace(weight=weight).present()


def to_validate(X_val, y_val, sample_weight_val, classes):
    """Return samples that a fit is given to validate on.

    Parameters
    ----------
    X_val : ndarray of shape (n, ...)
        Samples.
    y_val : array-like of shape (n,)
        Their labels, all in `classes`.
    sample_weight_val : array-like of shape (n,) or None
        Their weights.
    classes : ndarray of shape (n_classes,)
        Sorted labels.

    Returns
    -------
    samples : Samples
        All of them; classes have no weights here.

    Raises
    ------
    ValueError
        If labels or weights are invalid, or not one for each sample.
    """
    y_val = column_or_1d(as_array(y_val))
    check_labels(y_val, classes, "y_val")
    check_consistent_length(X_val, y_val)
    weight = check_weights(sample_weight_val, X_val)
    return Samples(X_val, class_indices(classes, y_val), weight, relative(weight))


def check_labels(y, classes, name):
    """Raise ValueError where a label is none of the classes."""
    unknown = ~np.isin(*comparable(y, classes))
    if unknown.any():
        raise ValueError(f"Expected {name} to hold labels of {classes}, got {np.unique(y[unknown])[:5]}.")


def check_weights(sample_weight, X):
    """Return weights as an array; raise ValueError where one is negative, or all are zero."""
    return check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=False
    )


def validates(early_stopping, X_val, y_val, y, supervision):
    """Tell whether a fit is to validate, by the parameter and by the data that it was given.

    Parameters
    ----------
    early_stopping : bool or "auto"
        The parameter.
    X_val, y_val : array-like or None
        Validation data and their labels.
    y : ndarray of shape (n,) or None
        Labels that supervise.
    supervision : float
        The parameter.

    Returns
    -------
    validates : bool
        Whether it is.

    Raises
    ------
    ValueError
        If these contradict each other.
    """
    if (X_val is None) != (y_val is None):
        given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(f"{given} is provided, but {missing} was not provided.")
    if X_val is not None and early_stopping is False:
        raise ValueError('Expected early_stopping="auto" or True with X_val and y_val, got early_stopping=False.')
    validates = X_val is not None if early_stopping == "auto" else early_stopping
    if validates and y is None:
        raise ValueError(
            "Validation scores the accuracy of predicted labels: expected y and a supervision above 0 with "
            f"early_stopping=True or X_val, got {'y=None' if supervision else 'supervision=0'}."
        )
    return validates
