"""The base network: a classifier trained first, by the softmax loss alone, for a trunk that reads its posterior.

`BaseDPQ` has one where classes are many, and `Inputs` calls it. In the paper, too, a base network has been trained by
the softmax loss before DPQ takes its units (section 4); here the units are the square roots of the class posterior,
between which Euclidean distance is Hellinger's. Once trained it is fixed, and its parameters are arrays.
"""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from .._threads import limited_threads
from . import auto
from .batches import make_batches
from .network import to_tensors
from .samples import Samples
from .training import Schedule

_HIDDEN_UNITS, _BATCH_SAMPLES = 256, 256
_DROPOUT, _WEIGHT_DECAY, _LEARNING_RATE = 0.2, 2.0, 3e-3
_HELD_OUT, _MAX_HELD_OUT_SAMPLES = 0.1, 10_000  # of the samples, that choose the temperature
_TEMPERATURES = 0.2, 2.0


class BaseNetwork(nn.Module):
    """A hidden ReLU layer beside a linear path, to the logits of the classes.

    Parameters
    ----------
    n_features, n_classes : int
        Width of the input, and number of classes.
    """

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.hidden = nn.utils.skip_init(nn.Linear, n_features, _HIDDEN_UNITS)
        self.output = nn.utils.skip_init(nn.Linear, _HIDDEN_UNITS, n_classes, bias=False)
        self.linear = nn.utils.skip_init(nn.Linear, n_features, n_classes)
        self.register_buffer("temperature", torch.ones(()))

    @torch.no_grad()
    def initialize(self, generator):
        """Draw all parameters: uniform in +-1/sqrt(fan-in)."""
        for layer in (self.hidden, self.output, self.linear):
            for parameter in layer.parameters():
                bound = layer.in_features**-0.5
                parameter.uniform_(-bound, bound, generator=generator)

    @property
    def n_classes(self):
        """Number of classes."""
        return self.linear.out_features

    def forward(self, x):
        """Compute the logits (B, C) of standardized features x (B, n_features)."""
        return self.output(self.hidden(x).relu()) + self.linear(x)

    @torch.inference_mode()
    def units(self, x):
        """Compute the square roots (B, C) of the posterior of standardized features x (B, n_features)."""
        return torch.softmax(self(x) / self.temperature, dim=1).sqrt_()

    def arrays(self):
        """Return its parameters, by their names, as arrays on the CPU."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}


def from_arrays(arrays):
    """Return the network of some parameters, on the CPU; None for None."""
    if arrays is None:
        return None
    n_classes, n_features = arrays["linear.weight"].shape
    network = BaseNetwork(n_features, n_classes)
    network.load_state_dict(to_tensors(arrays))
    return network.eval()


def learn_base_network(samples, n_classes, inputs, device, generator):
    """Train a base network by the softmax loss, and choose the temperature of its posterior on samples held out.

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
    order = torch.randperm(len(samples.X), generator=generator).numpy()
    n_held_out = max(1, min(int(_HELD_OUT * len(order)), _MAX_HELD_OUT_SAMPLES))
    held_out = samples.take(np.sort(order[:n_held_out]))
    network = BaseNetwork(samples.X.shape[1], n_classes)
    network.initialize(generator)
    with limited_threads(1):  # so that the result does not depend on their number
        _train(network.to(device), _without(samples, order[:n_held_out]), inputs, generator)
        X, y, weight = held_out.tensors(inputs, torch.float32, device)
        network.temperature.fill_(_calibrate(network(X).detach(), y, weight))
    return network.to("cpu").eval()


def _without(samples, rows):
    """Return the samples but for some rows: by weight, as `Samples.present` leaves them out."""
    weight = samples.weight.copy()
    weight[rows] = 0
    return Samples(samples.X, samples.y, samples.sample_weight, weight).present()


def _train(network, samples, inputs, generator):
    """Train the network in place, by as many epochs as `max_iter` of "auto"."""
    device = network.temperature.device
    batches = make_batches(samples, _BATCH_SAMPLES, inputs, torch.float32, device)
    schedule = Schedule(auto.n_epochs(batches.n_batches))
    decay = [{"params": [p]} if p.ndim > 1 else {"params": [p], "weight_decay": 0.0} for p in network.parameters()]
    optimizer = torch.optim.AdamW(decay, weight_decay=_WEIGHT_DECAY, fused=device.type in ("cpu", "cuda"))
    for epoch in range(schedule.n_iter):
        for i, (X, y, weight, batch) in enumerate(batches.epoch(generator)):
            x, weight = X[batch], weight[batch]
            kept = torch.empty(x.shape).bernoulli_(1 - _DROPOUT, generator=generator).to(device)
            loss = nn.functional.cross_entropy(network(x * kept / (1 - _DROPOUT)), y[batch], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            ((loss @ weight) / weight.sum()).backward()
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * schedule.factor(epoch + min(1.0, (i + 1) / (batches.n_batches + 1)))
            optimizer.step()


def _calibrate(logits, y, weight):
    """Return the temperature at which the posterior of some logits has the least negative log-likelihood."""

    def loss(temperature):
        losses = nn.functional.cross_entropy(logits / temperature, y, reduction="none")
        return float(losses @ weight)

    return minimize_scalar(loss, bounds=_TEMPERATURES, method="bounded").x
