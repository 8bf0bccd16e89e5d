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

    def take(self, projection, beta):
        """Copy a Projection and the factor."""
        tensors = projection.weight, projection.bias, *projection.directions, torch.tensor(beta)
        for name, tensor in zip(_TENSORS, tensors, strict=True):
            getattr(self, name).copy_(tensor)

    def add(self, logits, units, codebooks):
        """Add to logits (M, B, K), in place, what they gain by units (B, n_units) and codebooks (M, K, D)."""
        M, _, D = codebooks.shape
        target = Projection(self.weight, self.bias, Directions(self.scale, self.origin))(units)
        target = target.mul_(2 * self.beta).unflatten(1, (M, D)).transpose(0, 1)
        logits.baddbmm_(target, codebooks.transpose(1, 2))
        return logits.sub_(self.beta * codebooks.square().sum(2)[:, None])


class Aim:
    """What `Nearness.add` adds, and its gradient: for one batch after another, in kept buffers, without autograd.

    Of each part it takes the first w dimensions alone; in the others, the target of any sample is zero.

    Parameters
    ----------
    parameters : dict of str to Tensor
        By their names in `network.DPQNetwork`, with those of its nearness.
    B : int
        Samples of a batch.
    """

    def __init__(self, parameters, B):
        weight, bias, scale, origin, beta = (parameters[f"nearness.{name}"] for name in _TENSORS)
        self._beta = float(beta)
        self._codebooks = parameters["codebooks"]
        (M, K, D), new = self._codebooks.shape, self._codebooks.new_empty
        weight, bias = weight.unflatten(1, (M, D)), bias.view(M, D)
        w = _width(weight, bias)
        self._projection = Projection(weight[:, :, :w].flatten(1), bias[:, :w].flatten(), Directions(scale, origin))
        self._scaled, self._target = new(B, len(weight)), new(B, M * w)
        self._target_of_parts = self._target.view(B, M, w).transpose(0, 1)
        self._transposed_codewords = self._codebooks[:, :, :w].transpose(1, 2)
        self._norms, self._bias, self._gradient = new(M, K), new(M, 1, K), new(M, K, w)

    def take(self, units):
        """Compute 2 beta t of units (B, n_units)."""
        self._projection(units, self._scaled, self._target).mul_(2 * self._beta)

    def copy_target(self, out):
        """Copy t to a tensor (B, M * D)."""
        M, _, w = self._gradient.shape
        of_parts = out.unflatten(1, (M, -1)).transpose(0, 1)
        torch.mul(self._target_of_parts, 0.5 / self._beta, out=of_parts[:, :, :w])
        of_parts[:, :, w:] = 0

    def bias(self, bias):
        """Return the last bias (M, 1, K) less beta ||c_mk||^2."""
        norms = torch.linalg.vector_norm(self._codebooks, dim=2, out=self._norms)[:, None]
        return torch.addcmul(bias, norms, norms, value=-self._beta, out=self._bias)

    def add(self, logits):
        """Add to logits (M, B, K), in place, the products of targets and codewords; return them."""
        return logits.baddbmm_(self._target_of_parts, self._transposed_codewords)

    def add_gradient(self, gradient, grad_logits, sums):
        """Add to the gradient of the codebooks (M, K, D), in place, what it gains by that of the logits (M, B, K).

        `sums` (M, 1, K) are those of `grad_logits` over the batch.
        """
        torch.bmm(grad_logits.transpose(1, 2), self._target_of_parts, out=self._gradient)
        gradient[:, :, : self._gradient.shape[2]].add_(self._gradient)
        gradient.addcmul_(sums.transpose(1, 2), self._codebooks, value=-2 * self._beta)


def _width(weight, bias):
    """Return how many dimensions of weights (n_units, M, D) and biases (M, D), from the first on, are not all zero."""
    used = (weight.any(0) | bias.bool()).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


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
