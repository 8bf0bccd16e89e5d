"""The training step: the objective on a batch, its gradients, and AdamW; in two implementations, chosen by `make_step`.

`training` calls the step. Both implementations compute the same, to rounding.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from . import losses
from .fast_step import FastStep, has_fused_adamw
from .losses import TERMS
from .projection import Projection


class Distilled(NamedTuple):
    """How a network learns from the class posterior whose square roots r a sample is, instead of from labels.

    The softmax losses have the targets r^2, and Joint Central Loss has the centers sum_i t_i o_i, where t is r^power.
    Where the class centers o are fixed, t has length one, as r has: t^2 is the posterior at a temperature of 1 / power.

    Attributes
    ----------
    power : float, default=1.0
        Of the roots.
    soft_factor : float, default=1.0
        How often Joint Central Loss counts soft.
    hard_factor : float, default=1.0
        How often the softmax loss counts hard.
    center_scale : float, default=None
        Squared norm of the class centers, as a multiple of M, where they stay as they are drawn; None where they are
        learned.
    """

    power: float = 1.0
    soft_factor: float = 1.0
    hard_factor: float = 1.0
    center_scale: float | None = None

    @property
    def fixed_centers(self):
        """Whether the class centers stay as they are."""
        return self.center_scale is not None

    def shares(self, roots, out=None):
        """Compute the shares t (B, C) of the class centers from the roots r (B, C)."""
        shares = torch.pow(roots, self.power, out=out)
        return nn.functional.normalize(shares, out=out) if self.fixed_centers else shares


class Objective(NamedTuple):
    """What is minimized on a batch: the weighted sum of the terms of `TERMS`.

    Attributes
    ----------
    loss_weights : dict of str to float
        Weight of every term.
    label_smoothing : float, default=0.0
        Of both softmax losses.
    projection : Projection, default=None
        The target of the term "preservation", on the network's device; where the network has a nearness, that of it.
    distilled : Distilled, default=None
        How the network learns from a posterior that samples are; None where it learns from labels.
    """

    loss_weights: dict
    label_smoothing: float = 0.0
    projection: Projection | None = None
    distilled: Distilled | None = None

    def __call__(self, network, x, y, weight, generator=None):
        """Compute the objective on a batch.

        Parameters
        ----------
        network : DPQNetwork
            The network.
        x : Tensor of shape (B, ...)
            The batch.
        y : Tensor of shape (B,), int64
            Class indices; not read where a posterior is learned from.
        weight : Tensor of shape (B,)
            Sample weights that sum to one.
        generator : torch.Generator, default=None
            Draws the dropout, on the device of the network.

        Returns
        -------
        loss : Tensor of shape ()
            Weighted sum of the terms.
        terms : Tensor of shape (6,)
            The terms in the order of `TERMS`, unweighted and detached; zero are the supervised ones of a network
            without classes, and preservation without a projection.
        """
        output = network(x, generator)
        soft, hard = output.soft, output.hard
        terms = dict.fromkeys(TERMS, weight.new_zeros(()))
        if network.classifier is not None:
            distilled = self.distilled or Distilled()
            if self.distilled is None:
                target, centers = y, network.class_centers[y]
            else:
                target, centers = x.square(), distilled.shares(x) @ network.class_centers
            softmax_hard = losses.softmax_loss(network.classifier(hard), target, weight, self.label_smoothing)
            terms["softmax_soft"] = losses.softmax_loss(network.classifier(soft), target, weight, self.label_smoothing)
            terms["softmax_hard"] = distilled.hard_factor * softmax_hard
            terms["joint_central"] = losses.joint_central_loss(
                soft, hard, centers.detach() if distilled.fixed_centers else centers, weight, distilled.soft_factor
            )
        if self.projection is not None:
            terms["preservation"] = losses.joint_central_loss(soft, hard, self.projection(x), weight)
        terms["gini_batch"] = losses.gini_batch(output.p, weight)
        terms["gini_sample"] = losses.gini_sample(output.p, weight)
        loss = sum(self.loss_weights[name] * term for name, term in terms.items())
        return loss, torch.stack(list(terms.values())).detach()


class TrainingStep(Protocol):
    """What learns from a batch; a context manager around all steps of a training.

    Attributes
    ----------
    state : dict
        State of AdamW: "step", the number of steps, and the moments "exp_avg" and "exp_avg_sq" by the names of the
        parameters, as arrays.
    """

    state: Any

    def __enter__(self): ...

    def __exit__(self, *exception): ...

    def stop(self):
        """Do what `__exit__` does, unless it is done."""

    def __call__(self, X, y, weight, batch, learning_rate):
        """Learn from rows `batch` of X, y and weight; return the terms of the objective (6,), unweighted."""


def make_step(network, objective, *, weight_decay, batch_size, generator):
    """Return the faster of two training steps that compute the same: `FastStep` is for features on the CPU.

    Parameters
    ----------
    network : DPQNetwork
        The network, on its device.
    objective : Objective
        What is minimized.
    weight_decay : float
        Of AdamW, on weights of layers; not on biases, codebooks or class centers.
    batch_size : int
        Samples a batch at most.
    generator : torch.Generator
        Seeds the dropout.

    Returns
    -------
    step : TrainingStep
        For `train`.
    """
    fast = network.backbone is None and network.codebooks.device.type == "cpu" and has_fused_adamw()
    make = FastStep if fast else AutogradStep
    return make(network, objective, weight_decay=weight_decay, batch_size=batch_size, generator=generator)


class AutogradStep:
    """Trains any network on any device; takes what `make_step` takes."""

    def __init__(self, network, objective, *, weight_decay, batch_size, generator):
        self._network, self._objective = network, objective
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

    def stop(self):
        """Do nothing: nothing begins with the context."""

    def __call__(self, X, y, weight, batch, learning_rate):
        """Learn from rows `batch` of X, y and weight; return the terms of the objective, unweighted."""
        x, y, weight = (tensor.index_select(0, batch) for tensor in (X, y, weight))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        weight = weight / weight.sum()
        loss, terms = self._objective(self._network, x, y, weight, self._generator)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return terms
