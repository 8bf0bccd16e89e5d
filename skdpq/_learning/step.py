"""A training step: the objective on a batch, its gradients, and AdamW."""

import torch

from . import losses
from .fast_step import RecordedStep
from .losses import TERMS


def objective(network, x, y, weight, loss_weights, label_smoothing=0.0, generator=None, projection=None):
    """Compute the objective on a batch.

    Parameters
    ----------
    network : DPQNetwork
        The network.
    x : Tensor of shape (B, ...)
        The batch.
    y : Tensor of shape (B,), int64
        Class indices.
    weight : Tensor of shape (B,)
        Sample weights that sum to one.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    label_smoothing : float, default=0.0
        Of both softmax losses.
    generator : torch.Generator, default=None
        Draws what to drop, on the device of the network.
    projection : Projection, default=None
        What the term "preservation" preserves.

    Returns
    -------
    loss : Tensor of shape ()
        Weighted sum of the terms.
    terms : Tensor of shape (6,)
        The terms in the order of `TERMS`, unweighted and detached; zero are the supervised ones of a network without
        classes, and preservation without a projection.
    """
    output = network(x, generator)
    terms = dict.fromkeys(TERMS, weight.new_zeros(()))
    if network.classifier is not None:
        centers = network.class_centers[y]
        terms["softmax_soft"] = losses.softmax_loss(network.classifier(output.soft), y, weight, label_smoothing)
        terms["softmax_hard"] = losses.softmax_loss(network.classifier(output.hard), y, weight, label_smoothing)
        terms["joint_central"] = losses.joint_central_loss(output.soft, output.hard, centers, weight)
    if projection is not None:
        terms["preservation"] = losses.joint_central_loss(output.soft, output.hard, projection(x), weight)
    terms["gini_batch"] = losses.gini_batch(output.p, weight)
    terms["gini_sample"] = losses.gini_sample(output.p, weight)
    loss = sum(loss_weights[name] * term for name, term in terms.items())
    return loss, torch.stack(list(terms.values())).detach()


def make_step(network, loss_weights, label_smoothing, weight_decay, batch_size, generator, projection=None):
    """Return the faster of two steps that compute the same: recorded ones are for features on the CPU.

    Parameters
    ----------
    network : DPQNetwork
        The network, on its device.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    label_smoothing : float
        Of both softmax losses.
    weight_decay : float
        Of AdamW, on weights of layers; not on biases, codebooks or class centers.
    batch_size : int
        Samples a batch at most.
    generator : torch.Generator
        Seeds what is dropped.
    projection : Projection, default=None
        What the term "preservation" preserves, on the network's device.

    Returns
    -------
    step : RecordedStep or AutogradStep
        Has `step(X, y, weight, batch, learning_rate)`, is a context manager, and has the `state` of AdamW.
    """
    if network.backbone is None and network.codebooks.device.type == "cpu":
        return RecordedStep(network, loss_weights, label_smoothing, weight_decay, batch_size, generator, projection)
    return AutogradStep(network, loss_weights, label_smoothing, weight_decay, generator, projection)


class AutogradStep:
    """Trains any network on any device, a batch at a time; takes what `make_step` takes."""

    def __init__(self, network, loss_weights, label_smoothing, weight_decay, generator, projection=None):
        self._network, self._loss_weights, self._smoothing = network, loss_weights, label_smoothing
        self._projection = projection
        self._device = network.codebooks.device
        self._generator = None
        if network.dropout:  # which draws on the network's device, where only a generator of that device can draw
            seed = int(torch.randint(2**63 - 1, (), generator=generator))
            self._generator = torch.Generator(self._device).manual_seed(seed)
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        own = {name for name in parameters if not name.startswith("backbone.")}
        decayed = {name for name, p in parameters.items() if (name.endswith(".weight") if name in own else p.ndim > 1)}
        self._names = sorted(parameters, key=lambda name: name not in decayed)
        groups = [
            {"params": [parameters[name] for name in self._names if name in decayed], "weight_decay": weight_decay},
            {"params": [parameters[name] for name in self._names if name not in decayed], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, fused=self._device.type in ("cpu", "cuda"))

    @property
    def state(self):
        """State of AdamW: the number of steps, and both moments by the names of the parameters, as arrays."""
        moments = self._optimizer.state_dict()["state"]
        arrays = [
            {name: moments[i][key].cpu().numpy() for i, name in enumerate(self._names) if i in moments}
            for key in ("exp_avg", "exp_avg_sq")
        ]
        n_steps = max((int(moment["step"]) for moment in moments.values()), default=0)
        return {"step": n_steps, "exp_avg": arrays[0], "exp_avg_sq": arrays[1]}

    @state.setter
    def state(self, state):
        moments = {
            i: {key: torch.tensor(state[key][name]) for key in ("exp_avg", "exp_avg_sq")}
            | {"step": torch.tensor(float(state["step"]))}
            for i, name in enumerate(self._names)
            if name in state["exp_avg"]
        }
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, X, y, weight, batch, learning_rate):
        """Learn from rows `batch` of X, y and weight; return the terms of the objective, unweighted."""
        x, y, weight = (tensor.index_select(0, batch) for tensor in (X, y, weight))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        weight = weight / weight.sum()
        loss, terms = objective(
            self._network, x, y, weight, self._loss_weights, self._smoothing, self._generator, self._projection
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return terms
