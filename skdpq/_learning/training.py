"""The training loop: batches, optimiser, schedule, stopping."""

import copy
import math
import warnings
from contextlib import contextmanager
from typing import NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning

from .losses import TERMS


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


def train(
    network,
    batches,
    step,
    *,
    validation,
    loss_weights,
    learning_rate,
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
    step : TrainingStep
        From `make_step`.
    validation : tuple of Tensor or None
        X, y and weight to validate on after each epoch; the weights that score best there are kept.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    learning_rate : float
        Of AdamW, in the constant phase.
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
                batches,
                step,
                loss_weights,
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


def train_one_pass(network, batches, step, loss_weights, learning_rate, augment, generator):
    """Train the network in place for one epoch.

    Parameters
    ----------
    network, batches, step, loss_weights, augment, generator
        As for `train`.
    learning_rate : float
        Of AdamW, for the whole epoch.

    Returns
    -------
    terms : dict of str to float
        Mean of every term of the objective, and of the weighted sum under "loss".

    Raises
    ------
    ValueError
        If the loss is no longer finite.
    """
    terms = _pass(network, batches, step, loss_weights, augment, generator, lambda time: learning_rate)
    if not math.isfinite(terms["loss"]):
        raise ValueError(f"The loss became {terms['loss']}. Expected a lower learning_rate, got {learning_rate}.")
    network.eval()
    return terms


def _pass(network, batches, step, loss_weights, augment, generator, learning_rate):
    """Train for an epoch; `learning_rate` returns the rate at a time from 0 to 1. Return the terms of the objective."""
    network.train()
    totals = torch.zeros(len(TERMS), dtype=network.codebooks.dtype, device=network.codebooks.device)
    for i, (X, y, weight, batch) in enumerate(batches.epoch(generator)):
        if augment is not None:
            X, y, weight = augment(X[batch]), y[batch], weight[batch]
            batch = torch.arange(len(y), device=y.device)
        terms = step(X, y, weight, batch, learning_rate(min(1.0, (i + 1) / (batches.n_batches + 1))))
        totals.add_(terms, alpha=len(batch) / len(batches))
    means = dict(zip(TERMS, totals.tolist(), strict=True))
    return {"loss": sum(loss_weights[name] * mean for name, mean in means.items())} | means


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


@contextmanager
def seeded_globally(generator, device, enabled):
    """Seed torch's global generator, from which a backbone's dropout and an augmentation draw, and put it back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=enabled):
        if enabled:
            torch.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
        yield
