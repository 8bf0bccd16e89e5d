"""What takes the place of class centers where labels do not supervise: projections of a sample's own features."""

import numpy as np
import torch

from ._principal import balanced_axes


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
        return torch.addmm(self.bias, x if self.backbone is None else self.backbone(x), self.weight)


def learn_projection(blocks, M, D):
    """Learn the projection to the M * D principal components of samples, dealt to the parts by their variances.

    Its scale makes the squared norm of a part one on average, as that of the codewords is at first.

    Parameters
    ----------
    blocks : iterable of tuple of ndarray of shape (n, n_units) and (n,)
        Units and weights of samples, a block at a time.
    M, D : int
        Number of parts, and width of a codeword.

    Returns
    -------
    weight, bias : ndarray of shape (n_units, M * D), (M * D,), float64
        The columns of components that there are not are zero.
    """
    total, mean, scatter = 0.0, 0.0, 0.0
    for block, weight in blocks:
        units = block.astype(np.float64, copy=False)
        total += weight.sum()
        mean = mean + weight @ units
        scatter = scatter + (units.T * weight) @ units
    mean = mean / total
    covariance = scatter / total - np.outer(mean, mean)
    projection = np.zeros((len(mean), M, D))
    for m, axes in enumerate(balanced_axes(covariance, [D] * M)):
        projection[:, m, : axes.shape[1]] = axes
    projection = projection.reshape(len(mean), M * D)
    variance = (projection * (covariance @ projection)).sum() / M
    projection /= np.sqrt(variance) if variance > 0 else 1.0
    return projection, -mean @ projection
