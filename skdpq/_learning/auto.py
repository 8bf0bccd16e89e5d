"""The parameters that are "auto": what they stand for, by the number of samples, of units, and of codewords.

`BaseDPQ` asks `Resolved`, which gives a parameter back where it is not "auto". docs/defaults.md tells how these were
found.
"""

import math

from .losses import SUPERVISED
from .step import Distilled
from .training import Settings

_MIN_BATCHES, _MIN_DISTILLED_BATCHES, _MIN_EPOCHS = 1000, 3000, 20
_MIN_BATCH_SAMPLES, _MAX_BATCH_SAMPLES = 4, 256
_PLAIN_CODEWORDS = 64  # up to which the weight of GiniBatch is 1
_DISTILLING = 4.0  # times as much where a posterior is learned from
_MANY_CLASSES = 11  # from which the trunk reads their posterior, however many samples there are
_FIXED_CENTERS = 30  # classes at most; centers of more are learned
_SMOOTHING = 0.1
_WEIGHT_DECAY = 0.2
_LEARNING_RATE, _DISTILLING_LEARNING_RATE = 3e-3, 1e-2
_SMOOTH_BATCH_SAMPLES = 32  # fewer have too much noise for the higher rate
_WARM_UP, _DISTILLING_WARM_UP = 0.1, 0.2  # with a shorter one, codewords of a part may run away at the higher rate
_TRUNK, _DISTILLING_TRUNK = (256,), (1024,)
_CROWDED = Distilled(power=1.5, soft_factor=3.0)  # where there are more class centers than dimensions for them
_SPREAD = Distilled(power=4.0, soft_factor=3.0, hard_factor=3.0, center_scale=1.0)  # where classes are few
_CLOSER = _SPREAD._replace(center_scale=1 / 8)  # from 11 to 30 classes
_FEW_BITS = 2.0  # times the bits that name a class: with fewer, codes lose more than crowded centers do
_CODEWORD_WIDTH, _DISTILLING_CODEWORD_WIDTH = 16, 32
_NOISE_UNITS, _MAX_DROPOUT = 750, 0.5


class Resolved:
    """The parameters of an estimator, with numbers in the place of "auto".

    Parameters
    ----------
    parameters : BaseDPQ
        The estimator, of which nothing but parameters is read.
    n_classes : int
        Number of classes; 0 without labels.
    distills : bool
        Whether a posterior is learned from.
    """

    def __init__(self, parameters, n_classes, distills):
        self._parameters, self._n_classes, self._distills = parameters, n_classes, distills
        self._least_batches = _MIN_DISTILLED_BATCHES if distills and n_classes >= _MANY_CLASSES else _MIN_BATCHES

    @property
    def codeword_width(self):
        """Width of a codeword; larger for many classes, among which a part tells as many directions apart."""
        if self._parameters.D != "auto":
            return self._parameters.D
        return _DISTILLING_CODEWORD_WIDTH if self._distills else _CODEWORD_WIDTH

    @property
    def hidden_layer_sizes(self):
        """Widths of the trunk's layers; wide for a posterior, of whose many classes each part reads a slice."""
        if not isinstance(self._parameters.hidden_layer_sizes, str):
            return self._parameters.hidden_layer_sizes
        return _DISTILLING_TRUNK if self._distills else _TRUNK

    @property
    def label_smoothing(self):
        """Share of each label that is spread; none of a posterior, which is smooth."""
        if self._parameters.label_smoothing != "auto":
            return self._parameters.label_smoothing
        return 0.0 if self._distills else _SMOOTHING

    def distilled(self, M, K, D):
        """Return how a posterior is learned from by M parts of K codewords of width D; None where it is not.

        Centers of few classes are orthogonal and stay so, and small probabilities hardly count among them: an uncertain
        sample is then near to others of its most probable class, instead of to those that are as uncertain. Codewords
        are held close to these centers, which takes the more of what else they tell, the more classes there are: so
        centers of 11 and more are shorter, and those of many are learned. More centers than dimensions cannot be
        orthogonal, so that the small probabilities of many classes add up to noise in the sum of centers: they then
        count less, too, and soft is held closer to that sum.
        """
        if not self._distills:
            return None
        fits = self._n_classes <= M * D
        if fits and self._n_classes <= _FIXED_CENTERS:
            return _SPREAD if self._n_classes < _MANY_CLASSES else _CLOSER
        enough_bits = M * math.log2(K) >= _FEW_BITS * math.log2(self._n_classes)
        return Distilled() if fits or not enough_bits else _CROWDED

    def learning_rate(self, batch_size, n_batches=None):
        """Return the learning rate for batches of so many samples; higher for a posterior, as labels are noisier.

        It is lower, as `weight_decay` is, the more batches there are; `n_batches` is the number of those in an epoch.
        """
        if self._parameters.learning_rate != "auto":
            return self._parameters.learning_rate
        if not self._distills:
            return _LEARNING_RATE
        rate = _DISTILLING_LEARNING_RATE * min(1.0, batch_size / _SMOOTH_BATCH_SAMPLES) ** 0.5
        return max(_LEARNING_RATE, rate * self._share_of_epochs(n_batches))

    def n_epochs(self, n_batches):
        """Return the number of epochs: as many, of so many batches, as make 1,000, or 3,000 to distill many classes.

        At least 20.
        """
        if self._parameters.max_iter != "auto":
            return int(self._parameters.max_iter)
        return least_epochs(n_batches, self._least_batches)

    def settings(self, n_samples, n_batches):
        """Return the settings of a training by epochs of so many samples and batches."""
        return Settings(
            learning_rate=self.learning_rate(n_samples / n_batches, n_batches),
            max_iter=self.n_epochs(n_batches),
            warm_up=_DISTILLING_WARM_UP if self._distills else _WARM_UP,
            tol=self._parameters.tol,
            n_iter_no_change=int(self._parameters.n_iter_no_change),
            verbose=bool(self._parameters.verbose),
            warn=self._parameters.max_iter != "auto",
        )

    def weight_decay(self, n_batches):
        """Return the weight decay: less, the more batches there are beyond those that `n_epochs` aims at.

        A weight shrinks by the sum of learning rate times decay, which then is about the same for any number of
        samples. Where labels supervise in part, or not at all, more decay serves what they do not name.

        Parameters
        ----------
        n_batches : int or None
            Of an epoch; None where it is not known how many will come, or labels do not supervise alone.
        """
        if self._parameters.weight_decay != "auto":
            return self._parameters.weight_decay
        return _WEIGHT_DECAY * self._share_of_epochs(n_batches)

    def _share_of_epochs(self, n_batches):
        """Return which share of the epochs makes as many batches as `n_epochs` aims at; 1 for fewer, or if unknown."""
        if n_batches is None:
            return 1.0
        return min(1.0, math.ceil(self._least_batches / n_batches) / self.n_epochs(n_batches))

    def batch_size(self, n_samples):
        """Return how many samples a batch has at most: where epochs are given, as few as make 1,000, at least 4."""
        max_iter = self._parameters.max_iter
        if self._parameters.batch_size != "auto":
            return int(self._parameters.batch_size)
        if max_iter == "auto":
            return _MAX_BATCH_SAMPLES
        return max(_MIN_BATCH_SAMPLES, min(n_samples * int(max_iter) // _MIN_BATCHES, _MAX_BATCH_SAMPLES))

    def n_draws(self, n_samples):
        """Return how often an epoch visits each of so many samples: more than once if few, to draw more posteriors.

        Each time other features are dropped (`base_network.BaseNetwork.units`). Epochs are then still 20 at least;
        where their number is given, each visits all samples once.
        """
        if self._parameters.max_iter != "auto" or not self._distills:
            return 1
        return max(1, self._least_batches * _MAX_BATCH_SAMPLES // (_MIN_EPOCHS * n_samples))

    def dropout(self, n_units, n_samples):
        """Return the share of units to drop; none where all samples fit into a batch, or the units are a posterior.

        Dropping a share r of n units adds noise of variance r / (1 - r) / n to their mean: here 1 / 750, whatever n is.
        """
        if self._parameters.dropout != "auto":
            return self._parameters.dropout
        if self._distills or n_samples <= self.batch_size(n_samples):
            return 0.0
        return min(_MAX_DROPOUT, n_units / (n_units + _NOISE_UNITS))

    def loss_weights(self, K, supervision):
        """Return the weight of every term, where labels supervise by a share.

        The gradient of GiniBatch shrinks like 1 / K, as its value for codewords in even use does.
        """
        names = (*SUPERVISED, "gini_batch", "gini_sample")
        weights = {name: getattr(self._parameters, f"{name}_weight") for name in names}
        if weights["gini_batch"] == "auto":
            weights["gini_batch"] = max(1.0, K / _PLAIN_CODEWORDS) * (_DISTILLING if self._distills else 1.0)
        weights |= {name: supervision * weights[name] for name in SUPERVISED}
        return weights | {"preservation": 1 - supervision}


def least_epochs(n_batches, least_batches=_MIN_BATCHES):
    """Return the number of epochs, of so many batches, that "auto" stands for: 20 at least, and 1,000 batches."""
    return max(_MIN_EPOCHS, math.ceil(least_batches / n_batches))


def check_one_pass(trunk_input):
    """Raise ValueError if the trunk is to read a posterior, which some of the samples do not give."""
    if trunk_input == "posterior":
        raise ValueError('trunk_input="posterior" needs all samples: expected "auto" or "features" for partial_fit.')


def reads_posterior(parameters, n_classes, n_samples, possible):
    """Tell whether the trunk reads the class posterior instead of the features.

    By default it does so of many classes. Of few it does where `max_iter` is "auto", too, and there are more samples
    than in a batch, which may be learned in float64, but too few for 1,000 batches in 20 epochs: of more, codes learn
    as much from labels.

    Parameters
    ----------
    parameters : BaseDPQ
        The estimator, of which nothing but parameters is read.
    n_classes, n_samples : int
        Number of classes, 0 without labels; of samples.
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
    if parameters.trunk_input != "auto":
        if parameters.trunk_input == "posterior" and not possible:
            raise ValueError(
                'trunk_input="posterior" needs labels: expected y, supervision=1, backbone=None and augment=None.'
            )
        return parameters.trunk_input == "posterior"
    few = _MAX_BATCH_SAMPLES < n_samples <= _MIN_BATCHES * _MAX_BATCH_SAMPLES // _MIN_EPOCHS
    return possible and (n_classes >= _MANY_CLASSES or (parameters.max_iter == "auto" and few))
