"""The base network: a classifier trained first, by the softmax loss alone, for a trunk that reads its posterior.

`BaseDPQ` has one where classes are many, and `Inputs` calls it. In the paper, too, a base network has been trained by
the softmax loss before DPQ takes its units (section 4); here the units are the square roots of the class posterior,
between which Euclidean distance is Hellinger's. Linear discriminant analysis is mixed in by as much as samples that
were held out show to be right: where it fits the data, nothing learns as much from few samples. Once trained the
network is fixed, and its parameters are arrays.
"""

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn

from .._threads import limited_threads
from . import auto
from .batches import make_batches
from .discriminant import discriminant_analysis
from .losses import softmax_loss
from .network import to_tensors
from .samples import Samples, blocks_of
from .training import Schedule

HIDDEN_UNITS, _BATCH_SAMPLES = 512, 256
_WEIGHT_DECAY, _LEARNING_RATE = 1.0, 1e-2
_MAX_DROPOUT, _NOISE_FEATURES = 0.3, 150  # of n features n / (n + 150), at most
_MAX_HELD_OUT, _HELD_OUT = 0.2, 0.1  # of the samples, that choose the shares of both classifiers: of few, of many
_FEW_HELD_OUT_SAMPLES, _MAX_HELD_OUT_SAMPLES = 1000, 10_000
_BLOCK_SAMPLES = 2**13


class BaseNetwork(nn.Module):
    """A hidden ReLU layer beside a linear path, to the logits of the classes.

    Parameters
    ----------
    n_features, n_classes : int
        Width of the input, and number of classes.
    n_hidden : int
        Width of the hidden layer.
    """

    def __init__(self, n_features, n_classes, n_hidden=HIDDEN_UNITS):
        super().__init__()
        self.hidden = nn.utils.skip_init(nn.Linear, n_features, n_hidden)
        self.output = nn.utils.skip_init(nn.Linear, n_hidden, n_classes, bias=False)
        self.linear = nn.utils.skip_init(nn.Linear, n_features, n_classes)

    @torch.no_grad()
    def initialize(self, generator):
        """Draw all parameters: uniform in +-1/sqrt(fan-in)."""
        for layer in (self.hidden, self.output, self.linear):
            for parameter in layer.parameters():
                bound = layer.in_features**-0.5
                parameter.uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def mix(self, linear, own_share, share):
        """Add the logits of a linear layer: both are multiplied by their shares."""
        self.output.weight *= own_share
        for own, other in zip(self.linear.parameters(), linear.parameters(), strict=True):
            own.mul_(own_share).add_(other, alpha=share)

    @property
    def n_classes(self):
        """Number of classes."""
        return self.linear.out_features

    def forward(self, x):
        """Compute the logits (B, C) of standardized features x (B, n_features)."""
        return self.output(self.hidden(x).relu()) + self.linear(x)

    @torch.inference_mode()
    def units(self, x, generator=None):
        """Compute the square roots (B, C) of the posterior of standardized features x (B, n_features).

        A generator, where there is one, drops some features as in training: a posterior of samples that it was trained
        on is then about as uncertain as one of others.
        """
        return torch.softmax(self(x if generator is None else drop(x, generator)), dim=1).sqrt_()

    def arrays(self):
        """Return its parameters, by their names, as arrays on the CPU."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}


def from_arrays(arrays):
    """Return the network of some parameters, on the CPU; None for None."""
    if arrays is None:
        return None
    n_classes, n_features = arrays["linear.weight"].shape
    network = BaseNetwork(n_features, n_classes, len(arrays["hidden.bias"]))
    network.load_state_dict(to_tensors(arrays))
    return network.eval()


def drop(x, generator):
    """Return features (B, n_features) of which some are dropped, and the others are larger for it."""
    n = x.shape[1]
    dropout = min(_MAX_DROPOUT, n / (n + _NOISE_FEATURES))  # few features say too much each to be done without
    kept = torch.rand(x.shape, generator=generator) >= dropout
    return x * kept.to(x.device) / (1 - dropout)


def learn_base_network(samples, n_classes, inputs, device, generator):
    """Train a base network by the softmax loss, and mix in discriminant analysis as samples held out tell.

    Parameters
    ----------
    samples : Samples
        The training data.
    n_classes : int
        Number of classes.
    inputs : Inputs
        Standardizes them.
    device : torch.device
        Where to train.
    generator : torch.Generator
        Draws all that is random.

    Returns
    -------
    network : BaseNetwork
        On the CPU.
    """
    order = torch.randperm(len(samples.X), generator=generator).numpy()[: _n_held_out(len(samples.X))]
    held_out, kept = samples.take(np.sort(order)), _without(samples, order)
    with limited_threads(1):  # so that the result does not depend on their number
        network = _train(kept, n_classes, inputs, device, generator)
        X, y, weight = held_out.tensors(inputs, torch.float32, torch.device("cpu"))
        with torch.no_grad():
            shares = calibrate((network(X), _linear(kept, inputs, n_classes)(X)), y, weight)
        # Both are worth learning again from all samples: the layer as it takes no time, the network where they are few.
        if len(order) > _HELD_OUT * len(samples.X):
            network = _train(samples, n_classes, inputs, device, generator)
        network.mix(_linear(samples, inputs, n_classes), *shares)
    return network


def _n_held_out(n):
    """Return how many of n samples are held out."""
    wanted = max(_FEW_HELD_OUT_SAMPLES, int(_HELD_OUT * n))
    return max(1, min(wanted, int(_MAX_HELD_OUT * n), _MAX_HELD_OUT_SAMPLES))


def _linear(samples, inputs, n_classes):
    """Return discriminant analysis, learned from samples, as a layer."""
    weight, bias = discriminant_analysis(_blocks(samples, inputs), n_classes)
    layer = nn.utils.skip_init(nn.Linear, *weight.T.shape)
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return layer


def _without(samples, rows):
    """Return the samples but for some rows: by weight, as `Samples.present` leaves them out."""
    weight = samples.weight.copy()
    weight[rows] = 0
    return Samples(samples.X, samples.y, samples.sample_weight, weight).present()


def _train(samples, n_classes, inputs, device, generator):
    """Return a network that is trained by as many epochs as `max_iter` of "auto"; on the CPU."""
    network = BaseNetwork(samples.X.shape[1], n_classes)
    network.initialize(generator)
    network.to(device)
    batches = make_batches(samples, _BATCH_SAMPLES, inputs, torch.float32, device)
    schedule = Schedule(auto.least_epochs(batches.n_batches))
    decay = [{"params": [p]} if p.ndim > 1 else {"params": [p], "weight_decay": 0.0} for p in network.parameters()]
    optimizer = torch.optim.AdamW(decay, weight_decay=_WEIGHT_DECAY, fused=device.type in ("cpu", "cuda"))
    for epoch in range(schedule.n_iter):
        for i, (X, y, weight, batch) in enumerate(batches.epoch(generator)):
            x, weight = drop(X[batch], generator), weight[batch]
            loss = nn.functional.cross_entropy(network(x), y[batch], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            ((loss @ weight) / weight.sum()).backward()
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * schedule.factor(epoch + min(1.0, (i + 1) / (batches.n_batches + 1)))
            optimizer.step()
    return network.to("cpu").eval()


def _blocks(samples, inputs):
    """Yield standardized samples, class indices and weights, a block at a time."""
    for rows in blocks_of(samples.X, _BLOCK_SAMPLES):
        yield inputs.tensor(samples.X[rows], torch.float64).numpy(), samples.y[rows], samples.weight[rows]


def calibrate(logits, y, weight):
    """Return the shares of two classifiers' logits in the sum that has the least negative log-likelihood.

    Labels are smoothed by one in n + 2 samples, after Platt (1999): few samples may all be told right, which is no
    reason to be certain.

    Parameters
    ----------
    logits : tuple of two Tensor of shape (n, C)
        Logits of each.
    y, weight : Tensor of shape (n,)
        Class indices and weights.

    Returns
    -------
    shares : ndarray of shape (2,)
        Not negative. That of one classifier alone would be the inverse of its temperature.
    """
    stacked = torch.stack(logits)

    def loss_and_gradient(shares):
        shares = torch.tensor(shares, dtype=stacked.dtype, requires_grad=True)
        with torch.enable_grad():
            losses = softmax_loss(torch.einsum("i,inc->nc", shares, stacked), y, weight, 1 / (len(y) + 2))
            loss = losses / weight.sum()
        loss.backward()
        return loss.item(), shares.grad.numpy().astype(np.float64)

    return minimize(loss_and_gradient, [0.5, 0.5], jac=True, bounds=[(0, None)] * 2, method="L-BFGS-B").x
