"""The DPQ network (section 3 and Fig. 1): trunk, M part networks, codebooks, and the classifier of soft and hard.

The training steps call it; `inference` and `fast_step` compute the same layers without autograd, by `Activations`.
Activations of the parts are laid out (M, B, .), so that one batched matrix product serves all parts of a batch.
"""

from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .nearness import Aim, Nearness
from .samples import fits_in_memory
from .user_code import trains, units_of


class DPQOutput(NamedTuple):
    """What the network computes for a batch of B samples.

    Attributes
    ----------
    p : Tensor of shape (M, B, K)
        Distribution p_m of every part over its codewords.
    codes : Tensor of shape (M, B), int64
        k* = argmax_k p_m(k), from `most_probable`.
    soft, hard : Tensor of shape (B, M * D)
        Equations 3 and 4.
    """

    p: torch.Tensor
    codes: torch.Tensor
    soft: torch.Tensor
    hard: torch.Tensor


class SoftAndHard(torch.autograd.Function):
    """Equations 1 to 4: soft_m = p_m C_m, and hard_m = C_m(k*) with the straight-through estimator.

    Forward gathers hard from the rows of the codebooks. Backward treats the one-hot encoding e_m as the identity: p_m
    receives what e_m would, so that one product serves both, (gradient of soft_m + gradient of hard_m) C_m^T. C_m
    receives p_m^T (gradient of soft_m) + e_m^T (gradient of hard_m), the latter a scatter of rows.
    """

    @staticmethod
    def forward(ctx, p, codes, codebooks):
        """Compute soft and hard (B, M * D) from p (M, B, K), codes (M, B) and codebooks (M, K, D)."""
        M, K, D = codebooks.shape
        rows = (codes.T + K * torch.arange(M, device=codes.device)).reshape(-1)
        ctx.save_for_backward(p, rows, codebooks)
        soft = concatenate_parts(torch.bmm(p, codebooks))
        hard = codebooks.reshape(M * K, D).index_select(0, rows).reshape(-1, M * D)
        return soft, hard

    @staticmethod
    def backward(ctx, grad_soft, grad_hard):
        """Pass the gradient of hard on to p as it is, and to the rows of the codebooks that were gathered."""
        p, rows, codebooks = ctx.saved_tensors
        M, K, D = codebooks.shape
        grad_p = torch.bmm(split_parts(grad_soft + grad_hard, M, D), codebooks.transpose(1, 2))
        grad_codebooks = torch.bmm(p.transpose(1, 2), split_parts(grad_soft, M, D)).reshape(M * K, D)
        grad_codebooks.index_add_(0, rows, grad_hard.reshape(-1, D))
        return grad_p, None, grad_codebooks.reshape(M, K, D)


class Linear(nn.Linear):
    """A linear layer; its parameters are uninitialized until `DPQNetwork.initialize`."""

    def reset_parameters(self):
        """Draw nothing: a network is also made for parameters that were fitted before."""


class PartLinear(nn.Module):
    """M independent linear layers as one batched matrix product.

    Parameters
    ----------
    M, n_in, n_out : int
        Number of parts; width of their input and of their output.
    """

    def __init__(self, M, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(M, n_in, n_out))
        self.bias = nn.Parameter(torch.empty(M, 1, n_out))

    def forward(self, x):
        """Map (M, B, n_in) to (M, B, n_out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class DPQNetwork(nn.Module):
    """Deep Product Quantization network (section 3); its parameters are uninitialized until `initialize`.

    Parameters
    ----------
    n_units : int
        Width U of the input, or of the backbone's output.
    n_classes : int
        Number of classes C; 0 for a network without a classifier.
    M, K : int
        Number of parts, and of codewords a part.
    D : int or None
        Width of a codeword; None for the width N of a sub-vector s_m, as in the paper's CIFAR-10 set-up.
    hidden_layer_sizes : sequence of int
        Widths of the trunk's ReLU layers; empty for no trunk.
    part_layer_sizes : sequence of int
        Widths of the ReLU layers of a part network; empty to go straight from s_m to the K logits.
    backbone : Module or None
        Learned in front of the trunk; returns (B, n_units).
    dropout : float
        Share of the n_units that training sets to zero, drawn anew for each sample.
    nearness : bool
        Whether the logits gain the `Nearness` of codewords, which the caller sets.
    """

    def __init__(
        self,
        n_units,
        n_classes,
        *,
        M,
        K,
        D,
        hidden_layer_sizes,
        part_layer_sizes,
        backbone=None,
        dropout=0.0,
        nearness=False,
    ):
        super().__init__()
        self.n_units, self.M, self.K = n_units, M, K
        self.dropout = dropout
        self.backbone = backbone
        widths = [n_units, *hidden_layer_sizes]
        self.trunk = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        # Units that do not divide are dropped, as in section 4; where there are fewer units than parts, every part
        # reads all of them.
        self.N = widths[-1] // M or widths[-1]
        widths = [self.N, *part_layer_sizes, K]
        self.parts = nn.ModuleList(PartLinear(M, a, b) for a, b in pairwise(widths))
        D = self.N if D is None else D
        self.codebooks = nn.Parameter(torch.empty(M, K, D))
        self.classifier = Linear(M * D, n_classes) if n_classes else None
        self.class_centers = nn.Parameter(torch.empty(n_classes, M * D))
        self.nearness = Nearness(n_units, M * D) if nearness else None

    def take_fixed_backbone(self, n_samples):
        """Take the backbone off and return it, if units of so many samples can be computed once; else return None."""
        if trains(self.backbone) or not fits_in_memory(n_samples * self.n_units):
            return None
        backbone, self.backbone = self.backbone, None
        return backbone

    def train(self, mode=True):
        """Switch between training and evaluation; a backbone without trainable parameters stays in evaluation mode."""
        super().train(mode)
        if self.backbone is not None and not trains(self.backbone):
            self.backbone.eval()
        return self

    @torch.no_grad()
    def initialize(self, generator):
        """Draw all parameters but the backbone's.

        Layers are uniform in +-1/sqrt(fan-in). Codewords start with an expected squared norm of one whatever D is:
        with long ones Joint Central Loss outweighs the others, and p_m learns to average codewords instead of
        choosing one.

        Parameters
        ----------
        generator : torch.Generator
            A CPU generator; the global one is left alone.
        """
        for layer in [*self.trunk, *self.parts, *([self.classifier] if self.classifier else [])]:
            fan_in = layer.weight.shape[1]
            layer.weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
            layer.bias.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        self.codebooks.normal_(0.0, self.codebooks.shape[2] ** -0.5, generator=generator)
        self.class_centers.zero_()

    @torch.no_grad()
    def spread_centers(self, scale, generator):
        """Draw class centers that are orthogonal, of the squared norm M * scale; no more than M * D of them."""
        drawn = torch.empty_like(self.class_centers.T).normal_(generator=generator)
        self.class_centers.copy_(torch.linalg.qr(drawn).Q.T * (self.M * scale) ** 0.5)

    def arrays(self):
        """Return all parameters but the backbone's, by their names, as arrays that share their memory."""
        return {name: tensor.numpy() for name, tensor in self.state_dict().items() if not name.startswith("backbone.")}

    def logits(self, x, generator=None):
        """Compute the logits of p_m, the distribution of every part over its codewords.

        Parameters
        ----------
        x : Tensor of shape (B, n_units), or what the backbone takes
            The batch.
        generator : torch.Generator, default=None
            Draws the dropout in training mode, on the device of the network.

        Returns
        -------
        logits : Tensor of shape (M, B, K)
            Before the softmax.
        """
        if self.backbone is not None:
            x = units_of(self.backbone, x, self.n_units)
        units = x
        if self.training and self.dropout:
            kept = torch.empty_like(x).bernoulli_(1 - self.dropout, generator=generator)
            x = x * kept.div_(1 - self.dropout)
        for layer in self.trunk:
            x = layer(x).relu_()
        s = split_parts(x, self.M, self.N)
        for layer in self.parts[:-1]:
            s = layer(s).relu_()
        logits = self.parts[-1](s)
        if self.nearness is None:
            return logits
        return self.nearness.add(logits, units, self.codebooks)

    def forward(self, x, generator=None):
        """Compute p, the codes and both representations of a batch.

        Parameters
        ----------
        x : Tensor of shape (B, n_units), or what the backbone takes
            The batch.
        generator : torch.Generator, default=None
            As for `logits`.

        Returns
        -------
        output : DPQOutput
            Tensors on the device of the parameters.
        """
        logits = self.logits(x, generator)
        p, codes = torch.softmax(logits, dim=-1), most_probable(logits)
        return DPQOutput(p, codes, *SoftAndHard.apply(p, codes, self.codebooks))


def make_architecture(n_units, n_classes, M, K, D, hidden_layer_sizes, part_layer_sizes, nearness):
    """Return what `DPQNetwork` takes, as a dict; ValueError where a layer's size is no positive integer.

    `nearness` is in it only where true: before there was one, it was not.
    """
    return {
        "n_units": n_units,
        "n_classes": n_classes,
        "M": int(M),
        "K": int(K),
        "D": None if D is None else int(D),
        "hidden_layer_sizes": check_layer_sizes(hidden_layer_sizes, "hidden_layer_sizes"),
        "part_layer_sizes": check_layer_sizes(part_layer_sizes, "part_layer_sizes"),
        **({"nearness": True} if nearness else {}),
    }


def check_layer_sizes(sizes, name):
    """Return the sizes of layers as a tuple; ValueError where one is no positive integer."""
    sizes = tuple(np.asarray(sizes).ravel().tolist())
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"{name} must hold positive integers, got {sizes}.")
    return sizes


def is_precise(X, batch_size, device):
    """Tell whether a network learns of samples in float64.

    A problem of one batch costs as little in float64, and is then reproducible to rounding whatever the order or
    multiplicity of its samples.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Samples.
    batch_size : int
        How many of them a batch has at most.
    device : torch.device
        Where the network learns.

    Returns
    -------
    precise : bool
        Whether they fit into a batch, are of more than float32, and the device has float64.
    """
    return len(X) <= batch_size and X.dtype not in (np.float16, np.float32) and device.type != "mps"


def draw_network(architecture, backbone, dropout, dtype, generator):
    """Return a network whose parameters are drawn, of a type, on the CPU; the backbone, if any, becomes its own."""
    network = DPQNetwork(**architecture, backbone=backbone, dropout=dropout).to(dtype)
    network.initialize(generator)
    return network


def restore(arrays, architecture, backbone, dropout):
    """Return the network of parameters that were fitted before, which it copies, and of a backbone."""
    network = DPQNetwork(**architecture, dropout=dropout)
    network.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()}, assign=True)
    network.backbone = backbone
    return network


def to_tensors(arrays):
    """Return arrays as tensors, by the same names, that share their memory where it may be written to."""
    # joblib hands large arrays to its workers as read-only memory maps, which torch warns about
    return {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in arrays.items()}


class Activations:
    """What the layers make of a batch, in buffers that serve one batch after another; without autograd.

    New memory for each batch would cost as much as small products do: the operating system clears it, and it is not in
    the cache.

    Parameters
    ----------
    parameters : dict of str to Tensor
        By their names in `DPQNetwork`, with those of its `Nearness`, if any.
    B : int
        Samples of a batch.

    Attributes
    ----------
    units : list of Tensor of shape (B, .)
        The batch, and the output of each layer of the trunk.
    s : list of Tensor of shape (M, B, .)
        Sub-vectors s_m, and the output of each layer of the part networks: last the logits (M, B, K).
    near : Aim or None
        Of the network's nearness.
    """

    def __init__(self, parameters, B):
        self._trunk = [(weight.T, bias) for weight, bias in layers(parameters, "trunk")]
        self._parts = layers(parameters, "parts")
        self.units = [None, *(bias.new_empty(B, len(bias)) for _, bias in self._trunk)]
        self.s = [None, *(bias.new_empty(len(bias), B, bias.shape[2]) for _, bias in self._parts)]
        self.near = Aim(parameters, B) if "nearness.beta" in parameters else None

    def place(self, x):
        """Take units x (B, n_units) as the batch, now or as often as they change."""
        M, N, _ = self._parts[0][0].shape
        self.units[0] = x
        self.s[0] = split_parts(self.units[-1], M, N)

    def aim(self):
        """Compute what codewords are to be near to, if anything: of the units as they are now, before a dropout."""
        if self.near is not None:
            self.near.take(self.units[0])

    def fill(self):
        """Compute the layers as `DPQNetwork.logits` does, after `aim`; return the logits."""
        units, s = self.units, self.s
        for i, (weight, bias) in enumerate(self._trunk):
            torch.addmm(bias, units[i], weight, out=units[i + 1]).relu_()
        for i, (weight, bias) in enumerate(self._parts[:-1]):
            torch.baddbmm(bias, s[i], weight, out=s[i + 1]).relu_()
        weight, bias = self._parts[-1]
        if self.near is None:
            return torch.baddbmm(bias, s[-2], weight, out=s[-1])
        return self.near.add(torch.baddbmm(self.near.bias(bias), s[-2], weight, out=s[-1]))


def layers(parameters, name):
    """Return the weight and the bias of each layer of the trunk or of the part networks, by `name`."""
    found = []
    while f"{name}.{len(found)}.weight" in parameters:
        found.append((parameters[f"{name}.{len(found)}.weight"], parameters[f"{name}.{len(found)}.bias"]))
    return found


def most_probable(logits, out=None):
    """Return the codes of logits (M, B, K): k* = argmax_k, the lowest such k, and NaN above all.

    They are of the logits, because the softmax may round two of them to one probability. Of shape (M, B), or written to
    `out` (M, B, 1), int64, where autograd records nothing.
    """
    if logits.device.type != "cpu":
        return torch.argmax(logits, -1, keepdim=out is not None, out=out)
    # NumPy's is several times as fast as torch's on the CPU.
    if out is None:
        return torch.from_numpy(logits.detach().numpy().argmax(-1))
    logits.numpy().argmax(-1, out.numpy(), keepdims=True)
    return out


def concatenate_parts(x):
    """Concatenate the parts of every sample (equations 3 and 4): (M, B, D) to (B, M * D)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def split_parts(x, M, N):
    """View x (B, n_units) as M parts (M, B, N); with fewer units than parts, each part is all of them."""
    B, n_units = x.shape
    if n_units < M:
        return x.expand(M, B, n_units)
    return x[:, : M * N].unflatten(1, (M, N)).transpose(0, 1)
