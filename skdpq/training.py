"""The training loop: batches, optimiser, schedule, stopping."""

import copy
import math
from typing import NamedTuple

import torch

from . import losses

TERMS = ("softmax_soft", "softmax_hard", "joint_central", "gini_batch", "gini_sample")


class History(NamedTuple):
    """What `train` reports.

    Attributes
    ----------
    loss_curve : dict of str to list of float
        Mean of every term of the objective over each epoch, and of the weighted sum under "loss".
    validation_scores : list of float or None
        Accuracy from hard codes on the validation set after each epoch; None without one.
    """

    loss_curve: dict
    validation_scores: list | None


class Schedule:
    """Learning-rate factor of each epoch: a constant phase that may end early, then a decay as long as it.

    The factor rises linearly over the first tenth of the constant phase, and falls linearly to zero over the decay.
    A plateau during the constant phase starts the decay; so stopping early never skips the decay, which is where
    much of the gain comes from, and the two do not fight.

    Parameters
    ----------
    max_iter : int
        Number of epochs if no plateau is met.
    """

    def __init__(self, max_iter):
        self.decay_start = max_iter / 2
        self.n_iter = max_iter

    def start_decay(self, epoch):
        """Let the decay begin now, after `epoch` epochs, unless it has begun already."""
        if epoch < self.decay_start:
            self.decay_start = epoch
            self.n_iter = 2 * epoch

    def factor(self, time):
        """Return the factor at `time`, in epochs since the start."""
        if time > self.decay_start:
            return (self.n_iter - time) / (self.n_iter - self.decay_start)
        return min(1.0, time / (0.1 * self.decay_start))


def objective(network, x, y, weight, loss_weights):
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

    Returns
    -------
    loss : Tensor of shape ()
        Weighted sum of the terms.
    terms : Tensor of shape (5,)
        The terms in the order of `TERMS`, unweighted and detached.
    """
    output = network(x)
    terms = (
        losses.softmax_loss(network.classifier(output.soft), y, weight),
        losses.softmax_loss(network.classifier(output.hard), y, weight),
        losses.joint_central_loss(output.soft, output.hard, network.class_centers[y], weight),
        losses.gini_batch(output.p, weight),
        losses.gini_sample(output.p, weight),
    )
    loss = sum(loss_weights[name] * term for name, term in zip(TERMS, terms, strict=True))
    return loss, torch.stack(terms).detach()


def train(
    network,
    X,
    y,
    weight,
    *,
    validation,
    loss_weights,
    learning_rate,
    weight_decay,
    batch_size,
    max_iter,
    tol,
    n_iter_no_change,
    augment,
    generator,
    verbose,
):
    """Train the network in place.

    Parameters
    ----------
    network : DPQNetwork
        Initialised, on its device.
    X, y, weight : Tensor of shape (n, ...), (n,) int64, (n,)
        Training data, class indices and positive sample weights, on the network's device.
    validation : tuple of Tensor or None
        X, y and weight to validate on after each epoch; the weights that score best there are kept.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    learning_rate, weight_decay : float
        Of AdamW; the decay acts on weights of layers, not on biases, codebooks or class centers.
    batch_size, max_iter : int
        Samples a batch at most, and epochs at most.
    tol, n_iter_no_change : float, int
        A plateau is `n_iter_no_change` epochs without an improvement by `tol`, of the validation score where there
        is one, else of the loss; it starts the decay of the learning rate (`Schedule`).
    augment : callable or None
        Applied to each training batch of X.
    generator : torch.Generator
        Draws the batches.
    verbose : bool
        Print a line an epoch.

    Returns
    -------
    history : History
        Losses and validation scores of each epoch.
    """
    optimizer = _make_optimizer(network, learning_rate, weight_decay)
    schedule = Schedule(max_iter)
    n = len(X)
    n_batches = math.ceil(n / batch_size)
    curve = {name: [] for name in ("loss", *TERMS)}
    scores = [] if validation is not None else None
    best, best_state, n_stale = -math.inf, None, 0
    epoch = 0
    while epoch < schedule.n_iter:
        network.train()
        order = torch.randperm(n, generator=generator).to(X.device)
        totals = torch.zeros(len(TERMS), dtype=weight.dtype, device=X.device)
        for i, batch in enumerate(order.tensor_split(n_batches)):
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate * schedule.factor(
                epoch + (i + 1) / (n_batches + 1)
            )
            x, batch_weight = X[batch], weight[batch]
            batch_weight = batch_weight / batch_weight.sum()
            loss, terms = objective(network, x if augment is None else augment(x), y[batch], batch_weight, loss_weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            totals += terms * (len(batch) / n)
        epoch += 1

        for name, value in zip(TERMS, totals.tolist(), strict=True):
            curve[name].append(value)
        curve["loss"].append(sum(loss_weights[name] * curve[name][-1] for name in TERMS))
        if not math.isfinite(curve["loss"][-1]):
            raise ValueError(
                f"The loss became {curve['loss'][-1]} in epoch {epoch}. Expected a learning_rate and loss weights "
                f"with which training converges, got learning_rate={learning_rate}."
            )
        progress = -curve["loss"][-1]
        if validation is not None:
            progress = accuracy(network, *validation, batch_size)
            scores.append(progress)
        n_stale = 0 if progress > best + tol else n_stale + 1
        if progress > best:
            best = progress
            if validation is not None:
                best_state = copy.deepcopy(network.state_dict())
        if n_stale >= n_iter_no_change:
            schedule.start_decay(epoch)
        if verbose:
            values = "  ".join(f"{name} {values[-1]:.4f}" for name, values in curve.items())
            print(f"Epoch {epoch}/{schedule.n_iter}  {values}" + (f"  validation {progress:.4f}" if scores else ""))

    if best_state is not None:
        network.load_state_dict(best_state)
    network.eval()
    return History(curve, scores)


def _make_optimizer(network, learning_rate, weight_decay):
    layers = [*network.trunk, *network.parts, network.classifier]
    decayed = [layer.weight for layer in layers]
    other = [layer.bias for layer in layers] + [network.codebooks, network.class_centers]
    if network.backbone is not None:
        for parameter in network.backbone.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else other).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=network.codebooks.device.type in ("cpu", "cuda"))


@torch.no_grad()
def accuracy(network, X, y, weight, batch_size):
    """Return the weighted accuracy of the predictions from hard codes.

    Parameters
    ----------
    network : DPQNetwork
        The network; left in evaluation mode.
    X, y, weight : Tensor of shape (n, ...), (n,) int64, (n,)
        Data, class indices and sample weights.
    batch_size : int
        Samples at a time.

    Returns
    -------
    accuracy : float
        Share of the weight that is predicted correctly.
    """
    network.eval()
    correct = torch.cat([network.classifier(network(x).hard).argmax(1) for x in X.split(batch_size)]) == y
    return float((weight * correct).sum() / weight.sum())
