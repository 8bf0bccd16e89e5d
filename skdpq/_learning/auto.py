"""The parameters that are "auto": what they stand for, by the number of samples, of units, and of codewords.

`BaseDPQ` asks with the parameter, which comes first, and comes back where it is not "auto". docs/defaults.md tells how
these were found.
"""

import math

_MIN_BATCHES, _MIN_DISTILLED_BATCHES, _MIN_EPOCHS = 1000, 3000, 20
_MIN_BATCH_SAMPLES, _MAX_BATCH_SAMPLES = 4, 256
_PLAIN_CODEWORDS = 64  # up to which the weight of GiniBatch is 1
_DISTILLING = 4.0  # times as much where a posterior is learned from
_POSTERIOR_CLASSES = 20  # from which the trunk reads their posterior
_SMOOTHING = 0.1
_WEIGHT_DECAY = 0.2
_TRUNK, _DISTILLING_TRUNK = (256,), (1024,)
_CODEWORD_WIDTH, _DISTILLING_CODEWORD_WIDTH = 16, 32
_NOISE_UNITS, _MAX_DROPOUT = 750, 0.5


def n_epochs(max_iter, n_batches, distills=False):
    """Return the number of epochs: as many, of so many batches, as make 1,000, or 3,000 to distill; at least 20."""
    if max_iter != "auto":
        return int(max_iter)
    return max(_MIN_EPOCHS, _least_epochs(n_batches, distills))


def weight_decay(decay, max_iter, n_batches, distills):
    """Return the weight decay: less, the more batches there are beyond those that `n_epochs` aims at.

    A weight shrinks by the sum of learning rate times decay, which then is about the same for any number of samples.
    Where labels supervise in part, or not at all, more decay serves what they do not name.

    Parameters
    ----------
    decay, max_iter : float or "auto", int or "auto"
        Parameters of the estimator.
    n_batches : int or None
        Of an epoch; None where it is not known how many will come, or labels do not supervise alone.
    distills : bool
        Whether a posterior is learned from.
    """
    if decay != "auto":
        return decay
    if n_batches is None:
        return _WEIGHT_DECAY
    return _WEIGHT_DECAY * min(1.0, _least_epochs(n_batches, distills) / n_epochs(max_iter, n_batches, distills))


def _least_epochs(n_batches, distills):
    """Return how many epochs make 1,000 batches, or 3,000 to distill."""
    return math.ceil((_MIN_DISTILLED_BATCHES if distills else _MIN_BATCHES) / n_batches)


def batch_size(batch_size, n_samples, max_iter):
    """Return how many samples a batch has at most: where epochs are given, as few as make 1,000 batches, at least 4."""
    if batch_size != "auto":
        return int(batch_size)
    if max_iter == "auto":
        return _MAX_BATCH_SAMPLES
    return max(_MIN_BATCH_SAMPLES, min(n_samples * int(max_iter) // _MIN_BATCHES, _MAX_BATCH_SAMPLES))


def gini_batch_weight(weight, K, distills):
    """Return the weight of GiniBatch, whose gradient shrinks like 1 / K, as its value for codewords in even use."""
    if weight != "auto":
        return weight
    return max(1.0, K / _PLAIN_CODEWORDS) * (_DISTILLING if distills else 1.0)


def dropout(dropout, n_units, n_samples, batch_size, distills):
    """Return the share of units to drop; none where all samples fit into a batch, or the units are a posterior.

    Dropping a share r of n units adds noise of variance r / (1 - r) / n to their mean: here 1 / 750, whatever n is.
    """
    if dropout != "auto":
        return dropout
    return 0.0 if n_samples <= batch_size or distills else min(_MAX_DROPOUT, n_units / (n_units + _NOISE_UNITS))


def hidden_layer_sizes(sizes, distills):
    """Return the widths of the trunk's layers; wide for a posterior, of whose many classes each part reads a slice."""
    if not isinstance(sizes, str):
        return sizes
    return _DISTILLING_TRUNK if distills else _TRUNK


def codeword_width(D, distills):
    """Return the width of a codeword; larger for many classes, among which a part tells as many directions apart."""
    if D != "auto":
        return D
    return _DISTILLING_CODEWORD_WIDTH if distills else _CODEWORD_WIDTH


def label_smoothing(smoothing, distills):
    """Return the share of each label that is spread; none of a posterior, which is smooth."""
    if smoothing != "auto":
        return smoothing
    return 0.0 if distills else _SMOOTHING


def check_one_pass(trunk_input):
    """Raise ValueError if the trunk is to read a posterior, which some of the samples do not give."""
    if trunk_input == "posterior":
        raise ValueError('trunk_input="posterior" needs all samples: expected "auto" or "features" for partial_fit.')


def reads_posterior(trunk_input, n_classes, possible):
    """Tell whether the trunk reads the class posterior instead of the features.

    Parameters
    ----------
    trunk_input : {"auto", "features", "posterior"}
        What was asked for.
    n_classes : int
        Number of classes; 0 without labels.
    possible : bool
        Whether there may be a posterior, where there are labels.

    Returns
    -------
    reads : bool
        Whether it does.

    Raises
    ------
    ValueError
        If it is asked for, and cannot be had.
    """
    possible = possible and n_classes > 0
    if trunk_input == "posterior" and not possible:
        raise ValueError(
            'trunk_input="posterior" needs labels: expected y, supervision=1, backbone=None and augment=None.'
        )
    return possible and (trunk_input == "posterior" or (trunk_input == "auto" and n_classes >= _POSTERIOR_CLASSES))
