"""Fitting that either succeeds or leaves the estimator as it was."""

import copy
from contextlib import contextmanager


@contextmanager
def all_or_nothing(estimator):
    """Yield a shallow copy to change; its state replaces the estimator's only if nothing was raised.

    Parameters
    ----------
    estimator : estimator
        The one to change.

    Yields
    ------
    draft : estimator
        A copy that shares every attribute's value. Attributes of the draft may be set, not changed in place.
    """
    draft = copy.copy(estimator)
    yield draft
    estimator.__dict__ = draft.__dict__
