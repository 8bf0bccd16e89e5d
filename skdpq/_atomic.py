"""Methods that change an estimator in full or not at all."""

from functools import wraps


def all_or_nothing(method):
    """Decorate a method that changes its estimator, so that it leaves it as it was if anything is raised.

    The method runs on a shallow copy, whose attributes then become those of the estimator in one step. So it may set
    attributes, and must not change their values in place.

    Parameters
    ----------
    method : callable
        Takes the estimator first. What it returns is dropped.

    Returns
    -------
    method : callable
        Returns the estimator.
    """

    @wraps(method)
    def changed_as_a_whole(estimator, *args, **kwargs):
        draft = object.__new__(type(estimator))  # what copy.copy does takes as long as a small addition
        draft.__dict__ = estimator.__dict__.copy()
        method(draft, *args, **kwargs)
        estimator.__dict__ = draft.__dict__
        return estimator

    return changed_as_a_whole
