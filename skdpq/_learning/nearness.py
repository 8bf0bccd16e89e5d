"""What the nearness of codewords to a sample's own features adds to the logits, where labels supervise in part.

`network.DPQNetwork` has one where its architecture says so; not in the paper. The network beside it learns what labels
ask for, from the training samples alone; this term holds for any sample, as the codes of product quantization do.
"""

import torch
from torch import nn

from .projection import Directions, Projection

_LARGEST_BETA = 16.0  # beyond, p_m is one-hot from the start, and few codewords learn
_TENSORS = ("weight", "bias", "scale", "origin", "beta")


class Nearness(nn.Module):
    """Adds -beta ||t_m - c_mk||^2 to the logit of the k-th codeword of part m, where t is the projection of a sample.

    ||t_m||^2 is left out, as it is the same for all codewords of a part. Nothing of it is trained but the codewords.

    Parameters
    ----------
    n_units, width : int
        Width of the network's input, and M * D.

    Attributes
    ----------
    weight, bias, scale, origin, beta : Tensor
        Of the projection, its directions, and the factor: buffers, zero until `take`.
    """

    def __init__(self, n_units, width):
        super().__init__()
        shapes = (n_units, width), (width,), (n_units,), (n_units,), ()
        for name, shape in zip(_TENSORS, shapes, strict=True):
            self.register_buffer(name, torch.zeros(shape))

    @classmethod
    def among(cls, parameters):
        """Return that of a network's parameters, a dict of tensors by name, without copying; None if it has none."""
        if "nearness.beta" not in parameters:
            return None
        nearness = cls(0, 0)
        for name in _TENSORS:
            setattr(nearness, name, parameters[f"nearness.{name}"])
        return nearness

    def take(self, projection, beta):
        """Copy a Projection and the factor."""
        tensors = projection.weight, projection.bias, *projection.directions, torch.tensor(beta)
        for name, tensor in zip(_TENSORS, tensors, strict=True):
            getattr(self, name).copy_(tensor)

    def target(self, units):
        """Return the projection t (B, M * D) of units (B, n_units)."""
        return Projection(self.weight, self.bias, Directions(self.scale, self.origin))(units)

    def add(self, logits, target, codebooks):
        """Add to logits (M, B, K), in place, what they gain by a target (B, M * D) and codebooks (M, K, D)."""
        logits.baddbmm_(self.scaled(target, codebooks), codebooks.transpose(1, 2))
        return logits.sub_(self.beta * codebooks.square().sum(2)[:, None])

    def scaled(self, target, codebooks):
        """Return 2 beta t_m (M, B, D): what a product with c_mk makes the logit's share of both."""
        M, _, D = codebooks.shape
        return (2 * self.beta * target).unflatten(1, (M, D)).transpose(0, 1)

    def add_gradient(self, gradient, grad_logits, sums, target, codebooks):
        """Add to the gradient of codebooks (M, K, D), in place, what it gains by that of the logits (M, B, K).

        `sums` (M, 1, K) are those of `grad_logits` over the batch.
        """
        gradient.baddbmm_(grad_logits.transpose(1, 2), self.scaled(target, codebooks))
        gradient.addcmul_(2 * self.beta * sums.transpose(1, 2), codebooks, value=-1)


def choose_beta(weight, M, K):
    """Return the factor of distances: one over the squared error with which K codewords quantize a part.

    Where a part has a variance of one in w dimensions, that is about K ** (-2 / w), as for a uniform distribution.

    Parameters
    ----------
    weight : ndarray of shape (n_units, M * D)
        Of the projection; a part has w columns that are not zero.
    M, K : int
        Number of parts, and of codewords a part.
    """
    width = max(1, weight.any(axis=0).sum() // M)
    return min(float(K) ** (2 / width), _LARGEST_BETA)
