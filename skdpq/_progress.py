"""What tells how far a fit or an encoding is."""

import copy

from sklearn.utils import gen_batches

_FEWEST = 16384  # samples between two lines
_MOST = 10  # lines


def announced(n_samples, verbose):
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
    if not verbose or n_samples <= _FEWEST:
        yield slice(0, n_samples)
        return
    for rows in gen_batches(n_samples, _FEWEST * -(-n_samples // (_FEWEST * _MOST))):
        yield rows
        print(f"Encoded {rows.stop:,} of {n_samples:,} samples")


class Watch:
    """Tells scikit-learn's callbacks of the fit and of its epochs."""

    def __init__(self, estimator, network, fixed, context, X, y, sample_weight):
        self.estimator, self.network, self.fixed, self.context = estimator, network, fixed, context
        self.data = {"estimator": estimator, "X": X, "y": y, "metadata": {"sample_weight": sample_weight}}

    def __enter__(self):
        self.context.call_on_fit_task_begin(**self.data)
        return self

    def __exit__(self, exception_type, *_):
        if exception_type is None:
            self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=self._fitted)

    def begin_epoch(self):
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self.data)

    def end_epoch(self):
        """Return whether a callback wants to stop."""
        return self.epoch.call_on_fit_task_end(**self.data, reconstruction_attributes=self._fitted)

    def _fitted(self):
        """Return what an estimator would hold if training had ended here."""
        network, fixed = copy.deepcopy((self.network, self.fixed))
        backbone = network.to("cpu").eval().backbone if fixed is None else fixed.to("cpu")
        return {"parameters_": network.arrays(), "backbone_": backbone}
