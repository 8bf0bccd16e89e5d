"""Progress of a fit or an encoding: lines that are printed, and scikit-learn's callbacks.

`BaseDPQ` and `DPQNeighbors` call this. Neither changes what is computed.
"""

import copy
import time
from contextlib import contextmanager

from ._arrays import slices_of

_LINE_SAMPLES = 2**14  # between two lines, at least
_MOST_LINES = 10


def printed_blocks(n_samples, verbose):
    """Yield all samples at once, or, if there are many and `verbose`, in pieces with a printed line after each.

    Parameters
    ----------
    n_samples : int
        Number of samples.
    verbose : bool or int
        Whether to print.

    Yields
    ------
    rows : slice
        The next samples.
    """
    if not verbose or n_samples <= _LINE_SAMPLES:
        yield slice(0, n_samples)
        return
    for rows in slices_of(n_samples, _LINE_SAMPLES * -(-n_samples // (_LINE_SAMPLES * _MOST_LINES))):
        yield rows
        print(f"Encoded {rows.stop:,} of {n_samples:,} samples", flush=True)


@contextmanager
def printed_stage(name, verbose):
    """Print that a stage of a fit begins and, unless something is raised, that it has ended.

    Parameters
    ----------
    name : str
        What it does.
    verbose : bool or int
        Whether to print.
    """
    began = time.perf_counter()
    if verbose:
        print(f"{name} ...", flush=True)
    yield
    if verbose:
        print(f"{name} took {time.perf_counter() - began:.1f} s", flush=True)


@contextmanager
def fit_task(parent, name, max_subtasks=0, **data):
    """Tell callbacks of a task in a fit: of its begin and, unless something is raised, of its end.

    Parameters
    ----------
    parent : CallbackContext
        Of the fit, or of a larger task.
    name : str
        What the task does.
    max_subtasks : int or None, default=0
        How many tasks it consists of; None where that is not known.
    **data : dict
        What callbacks are given: the estimator, X and y.

    Yields
    ------
    context : CallbackContext
        Of the task.
    """
    context = parent.subcontext(task_name=name, max_subtasks=max_subtasks).call_on_fit_task_begin(**data)
    yield context
    context.call_on_fit_task_end(**data)


class FitCallbacks:
    """Tells scikit-learn's callbacks of a fit, which is a block, and of its epochs.

    Parameters
    ----------
    estimator : BaseDPQ
        The estimator that is fitted.
    network : DPQNetwork
        What is trained.
    samples : Samples
        The training data.
    y : ndarray of shape (n,) or None
        Their labels.

    Attributes
    ----------
    backbone : Module or None
        A fixed backbone, which is not in the network while that is trained.
    """

    def __init__(self, estimator, network, samples, y):
        self._estimator, self._network = estimator, network
        metadata = {"sample_weight": samples.sample_weight}
        self._data = {"estimator": estimator, "X": samples.X, "y": y, "metadata": metadata}
        self.backbone = None

    @contextmanager
    def begin(self, n_epochs):
        """Tell of the fit's begin and, unless something is raised, of its end."""
        self._context = self._estimator._init_callback_context(max_subtasks=n_epochs)
        self._context.call_on_fit_task_begin(**self._data)
        yield
        self._context.call_on_fit_task_end(**self._data, reconstruction_attributes=self._fitted)

    def begin_epoch(self):
        """Tell of an epoch's begin."""
        self._epoch = self._context.subcontext(task_name="epoch")
        self._epoch.call_on_fit_task_begin(**self._data)

    def end_epoch(self):
        """Tell of an epoch's end; return whether a callback wants to stop."""
        return self._epoch.call_on_fit_task_end(**self._data, reconstruction_attributes=self._fitted)

    def _fitted(self):
        """Return what an estimator would hold if training had ended here."""
        network, fixed = copy.deepcopy((self._network, self.backbone))
        network.to("cpu").eval()
        return {"parameters_": network.arrays(), "backbone_": network.backbone if fixed is None else fixed.to("cpu")}
