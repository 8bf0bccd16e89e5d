"""Pickles carry the version of skdpq that made them, and loading them with another warns, as scikit-learn's do.

The estimators and `CodeIndex` inherit this; what is inside of these is covered by them.
"""

import warnings

from sklearn.exceptions import InconsistentVersionWarning

from . import __version__

_KEY = "_skdpq_version"


class OtherVersionWarning(InconsistentVersionWarning):
    """A pickle was made by another version of skdpq: scikit-learn's warning, of which it is one, names its own."""

    def __str__(self):
        return (
            f"Trying to unpickle {self.estimator_name} of skdpq {self.original_sklearn_version} with skdpq "
            f"{self.current_sklearn_version}. This might lead to breaking code or invalid results. Fit again, or load "
            "it with the version that made it."
        )


class VersionedMixin:
    """Stamps the state of its objects with the version, and warns where a state has another stamp, or none."""

    def __getstate__(self):
        return {**super().__getstate__(), _KEY: __version__}

    def __setstate__(self, state):
        version = state.get(_KEY, "(a version that left no stamp)")
        if version != __version__:
            warning = OtherVersionWarning(
                estimator_name=type(self).__name__,
                current_sklearn_version=__version__,
                original_sklearn_version=version,
            )
            warnings.warn(warning, stacklevel=2)
        vars(self).update({name: value for name, value in state.items() if name != _KEY})
