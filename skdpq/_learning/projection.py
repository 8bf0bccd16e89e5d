"""Projections of a sample's own features, which take the place of class centers where labels do not supervise.

`_base.BaseDPQ` learns one from the training samples before training; the term "preservation" of `step.Objective` takes
the projection of each sample as its target. It is not trained.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import normalize
from torch import nn

from .user_code import units_of

_ONE_UNIT = 10.0  # times the median standard deviation, at most, that of any feature is


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
        """Return units x (B, n_units), an array or a tensor, as they are compared."""
        x = x * self.scale + self.origin
        return nn.functional.normalize(x) if isinstance(x, torch.Tensor) else normalize(x)


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

    @torch.no_grad()
    def __call__(self, x):
        """Return the target (B, M * D) of a batch."""
        units = x if self.backbone is None else units_of(self.backbone, x, len(self.weight))
        return torch.addmm(self.bias, self.directions(units), self.weight)


def learn_projection(blocks, M, D, generator):
    """Learn a projection to M * D dimensions: random, but of the first principal components alone.

    A part has as many dimensions as the components have in effect, (sum of variances)^2 / (sum of their squares), and
    zeros after them: a codebook tells apart more in few dimensions, and with fewer than these a part is no longer a
    view of the whole. All parts have about the same norm, so that intra-normalization (section 4) comes close to
    normalizing the whole, which is what cosine distances do. On average the squared norm of a part is one, as that of
    the codewords is at first.

    Parameters
    ----------
    blocks : iterable of tuple of ndarray of shape (n, n_units) and (n,)
        Units and weights of samples, a block at a time.
    M, D : int
        Number of parts, and width of a codeword.
    generator : torch.Generator
        Draws the projection; of the CPU.

    Returns
    -------
    weight, bias : ndarray of shape (n_units, M * D), (M * D,), float64
        P has orthonormal rows or columns, but for its scale and the zeros; it projects the mean of the samples to zero.
    """
    mean, covariance = _mean_and_covariance(blocks)
    variances, axes = np.linalg.eigh(covariance)
    width = min(D, _n_effective(variances))
    axes = axes[:, -M * width :]
    random = torch.randn(len(mean), M * width, dtype=torch.float64, generator=generator).numpy()
    # The orthonormal matrix that is nearest to the random one, whatever the signs and the order of the axes.
    left, _, right = np.linalg.svd(axes.T @ random, full_matrices=False)
    projection = np.zeros((len(mean), M, D))
    projection[:, :, :width] = (axes @ left @ right).reshape(len(mean), M, width)
    projection = projection.reshape(len(mean), M * D)
    variance = (projection * (covariance @ projection)).sum() / M
    projection /= np.sqrt(variance) if variance > 0 else 1.0
    return projection, -mean @ projection


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
