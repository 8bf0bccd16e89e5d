"""Projections of a sample's own features, which take the place of class centers where labels do not supervise.

`_base.BaseDPQ` learns one from the training samples before training; the term "preservation" of `step.Objective` takes
the projection of each sample as its target. It is not trained.
"""

import numpy as np
import torch

from .user_code import units_of


class Projection:
    """The target t = F P + b of soft and of hard, which is not trained.

    Parameters
    ----------
    weight, bias : Tensor of shape (n_units, M * D), (M * D,)
        P and b, from `learn_projection`.
    backbone : Module or None
        What computes the units F of a sample; without, F is the sample.
    """

    def __init__(self, weight, bias, backbone=None):
        self.weight, self.bias = weight, bias
        self.backbone = backbone

    @torch.no_grad()
    def __call__(self, x):
        """Return the target (B, M * D) of a batch."""
        units = x if self.backbone is None else units_of(self.backbone, x, len(self.weight))
        return torch.addmm(self.bias, units, self.weight)


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
