"""The training of a network: schedule, plateau, and the loop over epochs.

The estimators call `train` in `fit`, and `train_one_pass` in `partial_fit`. The network is trained in place, and all
that is random comes from one generator.
"""

import copy
import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from .._threads import lock_of
from .losses import TERMS
from .network import DPQNetwork
from .step import TrainingStep
from .user_code import augmented


class Settings(NamedTuple):
    """How fast and how long `train` trains.

    Attributes
    ----------
    learning_rate : float
        Of AdamW, in the constant phase of the `Schedule`.
    max_iter : int
        Epochs at most.
    warm_up : float
        Share of the constant phase over which the learning rate rises.
    tol, n_iter_no_change : float, int
        What a `Plateau` is. It starts the decay of the learning rate.
    verbose : bool, default=False
        Print a line an epoch.
    warn : bool, default=True
        Warn if `max_iter` epochs pass without a plateau.
    """

    learning_rate: float
    max_iter: int
    warm_up: float
    tol: float
    n_iter_no_change: int
    verbose: bool = False
    warn: bool = True


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

    The factor rises linearly at the start of the constant phase, and falls linearly to zero over the decay.
    A plateau during the constant phase starts the decay; so stopping early never skips the decay, which is where
    much of the gain comes from, and the two do not fight.

    Parameters
    ----------
    max_iter : int
        Number of epochs if no plateau is met.
    warm_up : float, default=0.1
        Share of the constant phase over which the factor rises.
    """

    def __init__(self, max_iter, warm_up=0.1):
        self.decay_start = max_iter / 2
        self.n_iter = max_iter
        self._warm_up = warm_up

    def warms_up(self, epoch):
        """Return whether the factor still rises after `epoch` epochs: then there is no plateau yet."""
        return epoch < self._warm_up * self.decay_start

    def start_decay(self, epoch):
        """Let the decay begin now, after `epoch` epochs, unless it has begun already."""
        if epoch < self.decay_start:
            self.decay_start = epoch
            self.n_iter = 2 * epoch

    def factor(self, time):
        """Return the factor at `time`, in epochs since the start."""
        if time > self.decay_start:
            return (self.n_iter - time) / (self.n_iter - self.decay_start)
        return min(1.0, time / (self._warm_up * self.decay_start))


class Plateau:
    """Some epochs in a row without an improvement.

    Parameters
    ----------
    tol : float
        By how much the best so far must be exceeded for an improvement.
    n_iter_no_change : int
        Number of epochs.

    Attributes
    ----------
    reached : bool
        Whether there has been one.
    """

    def __init__(self, tol, n_iter_no_change):
        self._tol, self._n_iter_no_change = tol, n_iter_no_change
        self._best, self._n_stale = -math.inf, 0
        self.reached = False

    def update(self, progress, counts=True):
        """Take the progress of an epoch, the more the better; return whether it is the best so far.

        An epoch that does not count, as the learning rate is not there yet, is none without an improvement.
        """
        stale = counts and progress <= self._best + self._tol
        self._n_stale = self._n_stale + 1 if stale else 0
        self.reached |= self._n_stale >= self._n_iter_no_change
        is_best = progress > self._best
        if is_best:
            self._best = progress
        return is_best


class Learner(NamedTuple):
    """What learns in an epoch, and from what.

    Attributes
    ----------
    network : DPQNetwork
        Initialized, on its device.
    batches : InMemory or Streamed
        Source of the training batches.
    step : TrainingStep
        From `make_step`, entered.
    loss_weights : dict of str to float
        Weight of every term of `TERMS`.
    augment : callable or None
        Applied to each training batch of X.
    generator : torch.Generator
        Draws the batches.
    """

    network: DPQNetwork
    batches: Any
    step: TrainingStep
    loss_weights: dict
    augment: Callable | None
    generator: torch.Generator

    def learn(self, learning_rate):
        """Train the network for an epoch.

        Parameters
        ----------
        learning_rate : callable
            Returns the learning rate at a time of the epoch, from 0 to 1.

        Returns
        -------
        terms : dict of str to float
            Mean of every term of the objective, and of the weighted sum under "loss".
        """
        self.network.train()
        codebooks = self.network.codebooks
        totals = torch.zeros(len(TERMS), dtype=codebooks.dtype, device=codebooks.device)
        for i, (X, y, weight, batch) in enumerate(self.batches.epoch(self.generator)):
            if self.augment is not None:
                X = augmented(self.augment, X[batch], resizes=self.network.backbone is not None)
                y, weight = y[batch], weight[batch]
                batch = torch.arange(len(y), device=y.device)
            time = min(1.0, (i + 1) / (self.batches.n_batches + 1))  # there may be a few batches more than n_batches
            terms = self.step(X, y, weight, batch, learning_rate(time))
            totals.add_(terms, alpha=len(batch) / len(self.batches))
        means = dict(zip(TERMS, totals.tolist(), strict=True))
        return {"loss": sum(self.loss_weights[name] * mean for name, mean in means.items())} | means


def train(learner, settings, validation, callbacks):
    """Train the network in place.

    Parameters
    ----------
    learner : Learner
        What learns, and from what.
    settings : Settings
        How fast and how long.
    validation : tuple of Tensor or None
        X, y and weight to validate on after each epoch. Their score then takes the place of the loss where a plateau is
        looked for, and the network ends with the weights that score best.
    callbacks : object
        Has `begin_epoch()` and `end_epoch()`, which returns whether to stop.

    Returns
    -------
    history : History
        Losses and validation scores of each epoch.

    Raises
    ------
    ValueError
        If the loss is no longer finite.

    Warns
    -----
    ConvergenceWarning
        If no plateau was reached (see `Settings`); and if training is interrupted after an epoch or more, the weights
        being the best on the validation data, or without them those at the interruption.
    """
    network = learner.network
    schedule = Schedule(settings.max_iter, settings.warm_up)
    plateau = Plateau(settings.tol, settings.n_iter_no_change)
    history = History({name: [] for name in ("loss", *TERMS)}, None if validation is None else [])
    best_state = None
    epoch = 0
    try:
        while epoch < schedule.n_iter:
            callbacks.begin_epoch()
            terms = learner.learn(lambda time, epoch=epoch: settings.learning_rate * schedule.factor(epoch + time))
            epoch += 1
            for name, value in terms.items():
                history.loss_curve[name].append(value)
            _check_finite(terms["loss"], epoch, settings.learning_rate)
            progress = -terms["loss"]
            if validation is not None:
                progress = accuracy(network, *validation)
                history.validation_scores.append(progress)
            if plateau.update(progress, counts=not schedule.warms_up(epoch)) and validation is not None:
                best_state = copy.deepcopy(network.state_dict())
            if plateau.reached:
                schedule.start_decay(epoch)
            if settings.verbose:
                _print_epoch(f"{epoch}/{schedule.n_iter}", terms, history.validation_scores)
            if callbacks.end_epoch():
                break
        else:
            if settings.warn and not plateau.reached:
                _warn(
                    f"Training ended after max_iter={settings.max_iter} epochs, and had not come to a plateau before: "
                    'more epochs may give better codes. max_iter="auto" takes as many as make 1,000 batches.'
                )
    except KeyboardInterrupt:
        if epoch == 0:
            raise
        _warn(f"Training was interrupted after {epoch} epochs.")
    if best_state is not None:
        network.load_state_dict(best_state)
    network.eval()
    return history


def _check_finite(loss, epoch, learning_rate):
    if not math.isfinite(loss):
        raise ValueError(
            f"The loss became {loss} in epoch {epoch}. Expected a learning_rate and loss weights "
            f"with which training converges, got learning_rate={learning_rate}."
        )


def _print_epoch(epoch, terms, scores):
    values = [f"{name} {value:.4f}" for name, value in terms.items()]
    if scores:
        values.append(f"validation {scores[-1]:.4f}")
    print(f"Epoch {epoch}  {'  '.join(values)}", flush=True)


def _warn(message):
    warnings.warn(message, ConvergenceWarning, stacklevel=3)  # at the caller of `train`


def train_one_pass(learner, learning_rate):
    """Train the network in place for one epoch.

    Parameters
    ----------
    learner : Learner
        What learns, and from what.
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
    terms = learner.learn(lambda time: learning_rate)
    if not math.isfinite(terms["loss"]):
        raise ValueError(f"The loss became {terms['loss']}. Expected a lower learning_rate, got {learning_rate}.")
    learner.network.eval()
    return terms


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


def generators(random_state):
    """Return the generators of NumPy, which splits samples, and of torch, which draws all else, by a `random_state`."""
    random_state = check_random_state(random_state)
    return random_state, torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))


@contextmanager
def seeded_globally(generator, device, enabled):
    """Seed torch's global generator, from which a backbone's dropout and an augmentation draw, and put it back.

    A process has one such generator, so blocks that need it wait for one another.
    """
    if not enabled:
        yield
        return
    with lock_of("global generator"), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))
        yield
