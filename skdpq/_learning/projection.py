"""Projections of a sample's own features, which take the place of class centers where labels do not supervise.

`_base.BaseDPQ` learns one from the training samples before training; the term "preservation" of `step.Objective` takes
the projection of each sample as its target. It is not trained.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import normalize

from .._arrays import one_at_a_time
from .user_code import units_of

_SHARED = 2.0  # times as many dimensions as the samples vary in have all parts together, where they share them
_ONE_UNIT = 10.0  # times the median standard deviation, at most, that of any feature is
_MAX_SQUARE = 2048  # features, or samples, whose matrix of covariances, or of products, is decomposed whole
_MAX_PRODUCTS_VALUES = 2**25  # of all samples at a time: 256 MB
_NO_VARIANCE = 2.0**-40  # of the largest variance; what has less is rounding
_NO_LENGTH = 1e-12  # of units; what is shorter is divided by this
_TIED = 1e-9  # variances that differ by less than this share of the largest are equal
_OVERSAMPLED, _ITERATIONS = 10, 6  # of the randomized decomposition
_FITTED = ("projection_", "projection_bias_", "projection_scale_")


class Directions(NamedTuple):
    """How units are compared: as x * scale + origin, divided by its length, so that distances are those of cosines.

    Attributes
    ----------
    scale, origin : ndarray or Tensor of shape (n_units,) or ()
        From `directions_of`.
    """

    scale: Any
    origin: Any

    def __call__(self, x):
        """Return units x, an array (n, n_units), as they are compared."""
        return one_at_a_time(normalize)(x * self.scale + self.origin)


def choose_divisors(scaling):
    """Return by what features are divided before they are compared.

    Features of one unit, such as pixels or the units of a network, keep their proportions: what hardly varies is of
    little weight. Features of several units are compared in their standard deviations.

    Parameters
    ----------
    scaling : dict
        From `inputs.learn_scaling` or `inputs.no_scaling`.

    Returns
    -------
    divisors : ndarray of shape (n_features,) or None
        All the same, or standard deviations; infinite for constant features, which tell nothing apart. None without
        scaling.
    """
    if scaling["mean_"] is None:
        return None
    varies = scaling["var_"] > 0
    deviations = scaling["scale_"][varies]
    if len(deviations) and deviations.max() <= _ONE_UNIT * np.median(deviations):
        return np.where(varies, np.median(deviations), np.inf)
    return np.where(varies, scaling["scale_"], np.inf)


def directions_of(scaling, divisors):
    """Return the directions of standardized features; of units that are taken as they are, without scaling."""
    if scaling["mean_"] is None:
        return Directions(np.ones(()), np.zeros(()))
    return Directions(scaling["scale_"] / divisors, scaling["mean_"] / divisors)


class Projection:
    """The target t = F P + b of soft and of hard, which is not trained; F are units of length one.

    Parameters
    ----------
    weight, bias : Tensor of shape (n_units, M * D), (M * D,)
        P and b, from `learn_projection`.
    directions : Directions of Tensor
        In which units are compared.
    backbone : Module or None
        What computes the units of a sample; without, they are the sample.
    """

    def __init__(self, weight, bias, directions, backbone=None):
        self.weight, self.bias, self.directions = weight, bias, directions
        self.backbone = backbone

    @classmethod
    def of_arrays(cls, weight, bias, directions, backbone, dtype, device):
        """Return one of arrays, its tensors of a type and on a device; a backbone is there already."""
        arrays = weight, bias, *directions
        weight, bias, *directions = (torch.from_numpy(array).to(dtype).to(device) for array in arrays)
        return cls(weight, bias, Directions(*directions), backbone)

    @torch.no_grad()
    def __call__(self, x, scaled=None, out=None):
        """Return the target (B, M * D) of a batch, in memory for scaled units (B, n_units) and for it, if given."""
        units = x if self.backbone is None else units_of(self.backbone, x, len(self.weight))
        scaled = torch.mul(units, self.directions.scale, out=scaled).add_(self.directions.origin)
        lengths = torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_(min=_NO_LENGTH)
        # The product is divided by the lengths, as it has fewer columns than there are units.
        return torch.mm(scaled, self.weight, out=out).div_(lengths).add_(self.bias)


def fit_projection(blocks, scaling, M, D, generator, shared):
    """Learn a projection of standardized features, or of units that are taken as they are.

    Parameters
    ----------
    blocks, M, D, generator, shared
        As for `learn_projection`.
    scaling : dict
        From `inputs.learn_scaling` or `inputs.no_scaling`.

    Returns
    -------
    learned : dict
        ``projection_``, ``projection_bias_`` and ``projection_scale_``: weight, bias and the divisors of features.
    """
    divisors = choose_divisors(scaling)
    weight, bias = learn_projection(blocks, directions_of(scaling, divisors), M, D, generator, shared)
    return dict(zip(_FITTED, (weight, bias, divisors), strict=True))


def no_projection():
    """Return what `fit_projection` returns, where there is none yet."""
    return dict.fromkeys(_FITTED)


def learn_projection(blocks, directions, M, D, generator, shared):
    """Learn a projection to M * D dimensions: random, but of the first principal components alone.

    Samples vary in (sum of variances)^2 / (sum of their squares) dimensions in effect. A part has that many, and zeros
    after them: a codebook tells apart more in few dimensions, and with fewer than these a part is no longer a view of
    the whole. Where parts share, all of them together have twice that many. A codebook of few dimensions is closer to
    what it has not seen, one of a view of the whole tells the samples apart that it was learned from.

    All parts have about the same norm, so that intra-normalization (section 4) comes close to normalizing the whole,
    which is what cosine distances do. On average the squared norm of a part is one, as that of the codewords is at
    first.

    Where the components are fewer than all units, they are a space that the samples determine, whatever their order:
    without components of no variance, and with all that tie for the last place.

    Parameters
    ----------
    blocks : callable
        Returns an iterable of units and weights of samples, ndarrays of shape (n, n_units) and (n,), a block at a time.
    directions : Directions
        How units are compared.
    M, D : int
        Number of parts, and width of a codeword.
    generator : torch.Generator
        Draws the projection; of the CPU.
    shared : bool
        Whether the parts share the dimensions in which the samples vary.

    Returns
    -------
    weight, bias : ndarray of shape (n_units, M * D), (M * D,), float64
        P has orthonormal rows or columns, but for its scale and the zeros; it projects the mean of the samples to zero.
    """
    components = _components(lambda: ((directions(units), weight) for units, weight in blocks()), M * D, generator)
    mean, variances, axes = components.mean, components.variances, components.axes
    n_effective = components.n_effective
    width = min(D, math.ceil(_SHARED * n_effective / M) if shared else n_effective)
    if M * width < len(mean):
        kept = variances > _NO_VARIANCE * variances[-1]
        kept &= variances >= variances[-min(M * width, len(variances))] - _TIED * variances[-1]
        kept[-1] = True  # where there is no variance at all
        variances, axes = variances[kept], axes[:, kept]
    random = torch.randn(len(mean), M * width, dtype=torch.float64, generator=generator).numpy()
    # The orthonormal matrix that is nearest to the random one, whatever the signs and the order of the axes.
    left, _, right = np.linalg.svd(axes.T @ random, full_matrices=False)
    rotation = left @ right
    projection = np.zeros((len(mean), M, D))
    projection[:, :, :width] = (axes @ rotation).reshape(len(mean), M, width)
    projection = projection.reshape(len(mean), M * D)
    variance = variances.clip(0) @ np.square(rotation).sum(axis=1) / M
    projection /= np.sqrt(variance) if variance > _NO_VARIANCE * (mean @ mean) else 1.0
    return projection, -mean @ projection


class _Components(NamedTuple):
    """Principal components of samples.

    Attributes
    ----------
    mean : ndarray of shape (n_units,)
        The weighted mean.
    variances : ndarray of shape (r,)
        Weighted variances along the axes, ascending.
    axes : ndarray of shape (n_units, r)
        Orthonormal columns, those of the largest variances.
    n_effective : int
        In how many directions the samples vary in effect: all if variances are equal, one if one outweighs.
    """

    mean: np.ndarray
    variances: np.ndarray
    axes: np.ndarray
    n_effective: int


def _components(blocks, n_most, generator):
    """Return the principal components: all where units or samples are few, else about `n_most`."""
    n_units = next(iter(blocks()))[0].shape[1]
    if n_units <= _MAX_SQUARE:
        mean, covariance = _mean_and_covariance(blocks())
        variances, axes = np.linalg.eigh(covariance)
        return _Components(mean, variances, axes, _n_effective(variances))
    n_samples, total, mean = 0, 0.0, 0.0
    for block, weight in blocks():
        n_samples, total = n_samples + len(block), total + weight.sum()
        mean = mean + weight @ block.astype(np.float64, copy=False)
    mean = mean / total

    def centered():
        """Yield samples less their mean, so scaled that the covariance is their product with themselves."""
        for block, weight in blocks():
            yield (block - mean) * np.sqrt(weight / total)[:, None]

    if n_samples <= _MAX_SQUARE and n_samples * n_units <= _MAX_PRODUCTS_VALUES:
        X = np.concatenate(list(centered()))
        variances, left = np.linalg.eigh(X @ X.T)
        there = variances > _NO_VARIANCE * variances[-1]
        there[-1] = True
        axes, _ = np.linalg.qr((X.T @ left[:, there])[:, ::-1])  # the largest first, so that each stays what it is
        return _Components(mean, variances[there], axes[:, ::-1], _n_effective(variances))
    return _randomized(mean, centered, min(n_units, n_samples, n_most + _OVERSAMPLED), n_samples, generator)


def _randomized(mean, centered, n_axes, n_samples, generator):
    """Return some first components, by iteration of a random subspace (Halko, Martinsson & Tropp, 2011)."""

    def times_covariance(vectors):
        return sum(X.T @ (X @ vectors) for X in centered())

    axes = torch.randn(len(mean), n_axes, dtype=torch.float64, generator=generator).numpy()
    for _ in range(_ITERATIONS):
        axes, _ = np.linalg.qr(times_covariance(axes))
    variances, rotation = np.linalg.eigh(axes.T @ times_covariance(axes))
    # What the axes leave out is taken to be spread evenly.
    rest = max(sum(np.square(X).sum() for X in centered()) - variances.sum(), 0.0)
    n_rest = max(min(len(mean), n_samples - 1) - n_axes, 1)
    every = np.concatenate((np.full(n_rest, rest / n_rest), variances))
    return _Components(mean, variances, axes @ rotation, _n_effective(every))


def _mean_and_covariance(blocks):
    """Return the weighted mean and covariance of samples, in float64, from one pass over their blocks."""
    total, mean, scatter = 0.0, 0.0, 0.0
    for block, weight in blocks:
        units = block.astype(np.float64, copy=False)
        total += weight.sum()
        mean = mean + weight @ units
        scatter = scatter + (units.T * weight) @ units
    mean = mean / total
    return mean, scatter / total - np.outer(mean, mean)


def _n_effective(variances):
    """Return in how many directions the samples vary in effect: all if variances are equal, one if one outweighs."""
    variances = variances.clip(0)  # by rounding, some may be negative
    squares = np.square(variances).sum()
    return round(variances.sum() ** 2 / squares) if squares > 0 else 1
