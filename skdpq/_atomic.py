"""States of an estimator: methods that change it in one step or not at all, and methods that read one state.

The state of an estimator is its attributes, and nothing that they hold is ever changed in place. So a copy of them,
which CPython makes at one instant, is a state that nobody else changes, and to exchange them all is one step.
"""

from collections.abc import Callable, Iterable
from functools import cache, wraps
from os import PathLike
from typing import Any, Self, TypeVar

from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import make_constraint, validate_parameter_constraints

from ._threads import lock_of

_NESTED = ("quantizer_", "estimator")  # attributes with estimators whose state belongs to the one of the estimator

_Method = TypeVar("_Method", bound=Callable)


def _with_attributes(cls, attributes):
    """Return an object of a class; what copy.copy does takes as long as a small addition."""
    made = object.__new__(cls)
    made.__dict__ = attributes
    return made


def snapshot(estimator):
    """Return an estimator with the state that this one has now; it shares its arrays, and nobody else changes it.

    Parameters
    ----------
    estimator : object
        The estimator.

    Returns
    -------
    snapshot : object
        Of the same class, and with snapshots of the estimators in it; one that is not the package's is returned as it
        is.
    """
    if not isinstance(estimator, (StateMixin, FrozenEstimator)):
        return estimator
    attributes = estimator.__dict__.copy()
    for name in _NESTED:
        if name in attributes:
            attributes[name] = snapshot(attributes[name])
    return _with_attributes(type(estimator), attributes)


def reads(method: _Method) -> _Method:
    """Decorate a method that reads its estimator, so that all it sees is of one state.

    Parameters
    ----------
    method : callable
        Takes the estimator first, and gets a snapshot of it.

    Returns
    -------
    method : callable
        Changes nothing on the estimator.
    """

    @wraps(method)
    def read_of_one_state(estimator, *args, **kwargs):
        return method(snapshot(estimator), *args, **kwargs)

    return read_of_one_state  # type: ignore[return-value]


def changes(method: _Method) -> _Method:
    """Decorate a method that changes its estimator, so that it does in one step, or not at all if anything is raised.

    The method runs on a copy, and the attributes that it changed become those of the estimator in one step: parameters
    that are set meanwhile stay set. Methods that change one estimator wait for one another.

    Parameters
    ----------
    method : callable
        Takes the estimator first. It may set attributes, and must not change their values in place.

    Returns
    -------
    method : callable
        Returns what the method returns, or the estimator where that is nothing or the copy.

    Raises
    ------
    RuntimeError
        If the thread changes the estimator meanwhile, as a callback of its fit could.
    """

    @wraps(method)
    def changed_in_one_step(estimator, *args, **kwargs):
        with lock_of(id(estimator)):
            before = estimator.__dict__.copy()
            draft = _with_attributes(type(estimator), before.copy())
            result = method(draft, *args, **kwargs)
            _publish(estimator, before, draft.__dict__, alone=True)
        return estimator if result is None or result is draft else result

    return changed_in_one_step  # type: ignore[return-value]


def _publish(estimator, before, after, alone=False):
    """Make the difference of two states one of the estimator, in one step."""
    changed = {name: value for name, value in after.items() if name not in before or before[name] is not value}
    with lock_of("states"):  # for microseconds: parameters can be set during a fit
        now = estimator.__dict__
        if alone and any(now.get(name) is not before.get(name) for name in changed):
            raise RuntimeError(
                f"Expected no change of this {type(estimator).__name__} by a callback of its own fit, got one. "
                "Change a copy instead."
            )
        kept = {name: value for name, value in now.items() if name in after or name not in before}
        estimator.__dict__ = kept | changed


class StateMixin:
    """What every estimator has whose methods are decorated with `reads` and `changes`."""

    _parameter_constraints: dict
    _fitted_attributes: dict[str, bool]  # by their names, whether they may be missing

    def set_params(self, **params: Any) -> Self:
        """Set the parameters of this estimator, all in one step.

        Parameters
        ----------
        **params : dict
            Parameters, those of estimators in it as ``<component>__<parameter>``.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If there is no such parameter; then none is set.
        """
        before = self.__dict__.copy()
        draft = _with_attributes(type(self), before.copy())
        super(StateMixin, draft).set_params(**params)  # type: ignore[misc]
        _publish(self, before, draft.__dict__)
        return self

    def __copy__(self):
        return snapshot(self)

    def save(self, path: str | PathLike[str], *, leave_out: Iterable[str] = ()) -> None:
        """Write this estimator to a file, which `skdpq.load` reads, on this machine or on another.

        The file holds numbers and text and nothing that runs; docs/file_format.md describes it. At any moment there is
        either the file that was there before or the new one. What `transform`, `predict` and searches of the loaded
        estimator return is the same bit for bit on the same machine.

        Parameters
        ----------
        path : str or path-like
            Where to. A file there is replaced.
        leave_out : iterable of str, default=()
            Parameters that are not written, and are as constructed by default when loaded: those that a file cannot
            hold, such as a function as `augment`. ``"callbacks"`` leaves out what `set_callbacks` set.

        Raises
        ------
        TypeError
            If a file cannot hold a parameter or an attribute, which the message names.
        ValueError
            If a parameter is out of range, `leave_out` names no parameter, or the quantizer of a database was fitted
            again behind it.
        OSError
            If the file cannot be written; what was there is as it was.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> import skdpq
        >>> X, y = load_digits(return_X_y=True)
        >>> neighbors = skdpq.DPQNeighbors(random_state=0).fit(X)
        >>> neighbors.save("digits.skdpq")
        >>> again = skdpq.load("digits.skdpq")
        >>> bool((again.kneighbors(X)[1] == neighbors.kneighbors(X)[1]).all())
        True
        """
        from ._files import container, estimators  # reading and writing are no part of importing

        container.write(path, *estimators.describe(self, leave_out))

    def _valid(self, name):
        """Return a parameter that may be changed after `fit`; raise InvalidParameterError as `fit` does."""
        value = getattr(self, name)
        if not any(constraint.is_satisfied_by(value) for constraint in _constraints(type(self), name)):
            wanted = {name: self._parameter_constraints[name]}
            validate_parameter_constraints(wanted, {name: value}, caller_name=type(self).__name__)
        return value


@cache
def _constraints(cls, name):
    """Return the constraints of a parameter; to make them takes as long as a part of a search."""
    return [make_constraint(constraint) for constraint in cls._parameter_constraints[name]]
