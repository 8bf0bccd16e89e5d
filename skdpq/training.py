"""The training loop: batches, optimiser, schedule, stopping."""

import copy
import math
import warnings
from typing import NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning

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


def objective(network, x, y, weight, loss_weights, label_smoothing=0.0, generator=None):
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

    Returns
    -------
    loss : Tensor of shape ()
        Weighted sum of the terms.
    terms : Tensor of shape (5,)
        The terms in the order of `TERMS`, unweighted and detached.
    """
    output = network(x, generator)
    terms = (
        losses.softmax_loss(network.classifier(output.soft), y, weight, label_smoothing),
        losses.softmax_loss(network.classifier(output.hard), y, weight, label_smoothing),
        losses.joint_central_loss(output.soft, output.hard, network.class_centers[y], weight),
        losses.gini_batch(output.p, weight),
        losses.gini_sample(output.p, weight),
    )
    loss = sum(loss_weights[name] * term for name, term in zip(TERMS, terms, strict=True))
    return loss, torch.stack(terms).detach()


def train(
    network,
    batches,
    *,
    validation,
    loss_weights,
    label_smoothing,
    learning_rate,
    weight_decay,
    max_iter,
    tol,
    n_iter_no_change,
    augment,
    generator,
    verbose,
    warn,
    watch,
):
    """Train the network in place.

    Parameters
    ----------
    network : DPQNetwork
        Initialised, on its device.
    batches : InMemory or Streamed
        Source of the training batches (`_batches`).
    validation : tuple of Tensor or None
        X, y and weight to validate on after each epoch; the weights that score best there are kept.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    label_smoothing : float
        Of both softmax losses.
    learning_rate, weight_decay : float
        Of AdamW; the decay acts on weights of layers, not on biases, codebooks or class centers.
    max_iter : int
        Epochs at most.
    tol, n_iter_no_change : float, int
        A plateau is `n_iter_no_change` epochs without an improvement by `tol`, of the validation score where there
        is one, else of the loss; it starts the decay of the learning rate (`Schedule`).
    augment : callable or None
        Applied to each training batch of X.
    generator : torch.Generator
        Draws the batches.
    verbose : bool
        Print a line an epoch.
    warn : bool
        Warn if `max_iter` epochs pass without a plateau.
    watch : object
        Has `begin_epoch()` and `end_epoch()`, which returns whether to stop.

    Returns
    -------
    history : History
        Losses and validation scores of each epoch.

    Warns
    -----
    ConvergenceWarning
        See `warn`; and if training is interrupted after an epoch or more, the weights being the best on the
        validation data, or without them those at the interruption.
    """
    optimizer = make_optimizer(network, learning_rate, weight_decay)
    schedule = Schedule(max_iter)
    curve = {name: [] for name in ("loss", *TERMS)}
    scores = [] if validation is not None else None
    best, best_state, n_stale, plateau = -math.inf, None, 0, False
    epoch = 0
    try:
        while epoch < schedule.n_iter:
            watch.begin_epoch()
            terms = _pass(
                network,
                optimizer,
                batches,
                loss_weights,
                label_smoothing,
                augment,
                generator,
                lambda time, epoch=epoch: learning_rate * schedule.factor(epoch + time),
            )
            epoch += 1
            for name, value in terms.items():
                curve[name].append(value)
            if not math.isfinite(terms["loss"]):
                raise ValueError(
                    f"The loss became {terms['loss']} in epoch {epoch}. Expected a learning_rate and loss weights "
                    f"with which training converges, got learning_rate={learning_rate}."
                )
            progress = -terms["loss"]
            if validation is not None:
                progress = accuracy(network, *validation)
                scores.append(progress)
            n_stale = 0 if progress > best + tol else n_stale + 1
            if progress > best:
                best = progress
                if validation is not None:
                    best_state = copy.deepcopy(network.state_dict())
            if n_stale >= n_iter_no_change:
                plateau = True
                schedule.start_decay(epoch)
            if verbose:
                values = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
                print(f"Epoch {epoch}/{schedule.n_iter}  {values}" + (f"  validation {progress:.4f}" if scores else ""))
            if watch.end_epoch():
                break
        else:
            if warn and not plateau:
                warnings.warn(
                    f"Training ended after max_iter={max_iter} epochs, and had not come to a plateau before.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
    except KeyboardInterrupt:
        if epoch == 0:
            raise
        warnings.warn(f"Training was interrupted after {epoch} epochs.", ConvergenceWarning, stacklevel=2)

    if best_state is not None:
        network.load_state_dict(best_state)
    network.eval()
    return History(curve, scores)


def train_one_pass(network, optimizer, batches, loss_weights, label_smoothing, augment, generator):
    """Train the network in place for one epoch, at the optimiser's learning rate.

    Parameters
    ----------
    network, batches, loss_weights, label_smoothing, augment, generator
        As for `train`.
    optimizer : Optimizer
        From `make_optimizer`.

    Returns
    -------
    terms : dict of str to float
        Mean of every term of the objective, and of the weighted sum under "loss".

    Raises
    ------
    ValueError
        If the loss is no longer finite.
    """
    rate = optimizer.param_groups[0]["lr"]
    terms = _pass(network, optimizer, batches, loss_weights, label_smoothing, augment, generator, lambda time: rate)
    if not math.isfinite(terms["loss"]):
        raise ValueError(f"The loss became {terms['loss']}. Expected a lower learning_rate, got {rate}.")
    network.eval()
    return terms


def _pass(network, optimizer, batches, loss_weights, label_smoothing, augment, generator, learning_rate):
    """Train for an epoch; `learning_rate` returns the rate at a time from 0 to 1. Return the terms of the objective."""
    network.train()
    codebooks = network.codebooks
    totals = torch.zeros(len(TERMS), dtype=codebooks.dtype, device=codebooks.device)
    dropping = generator
    if codebooks.device.type != "cpu":  # a generator draws on its own device only
        dropping = torch.Generator(codebooks.device).manual_seed(int(torch.randint(2**31, (), generator=generator)))
    for i, (x, y, weight) in enumerate(batches.epoch(generator)):
        rate = learning_rate(min(1.0, (i + 1) / (batches.n_batches + 1)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = x if augment is None else augment(x)
        loss, terms = objective(network, x, y, weight / weight.sum(), loss_weights, label_smoothing, dropping)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        totals += terms * (len(y) / len(batches))
    means = dict(zip(TERMS, totals.tolist(), strict=True))
    return {"loss": sum(loss_weights[name] * mean for name, mean in means.items())} | means


def make_optimizer(network, learning_rate, weight_decay):
    """Return AdamW for all parameters of the network, of which only layers' weights decay."""
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
def accuracy(network, X, y, weight, batch_size=1024):
    """Return the weighted accuracy of the predictions from hard codes.

    Parameters
    ----------
    network : DPQNetwork
        The network; left in evaluation mode.
    X, y, weight : Tensor of shape (n, ...), (n,) int64, (n,)
        Data, class indices and sample weights.
    batch_size : int, default=1024
        Samples at a time.

    Returns
    -------
    accuracy : float
        Share of the weight that is predicted correctly.
    """
    network.eval()
    correct = torch.cat([network.classifier(network(x).hard).argmax(1) for x in X.split(batch_size)]) == y
    return float((weight * correct).sum() / weight.sum())
