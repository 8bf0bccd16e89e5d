"""The frame in which vectors are compared: an origin and a unit with which float32 tells them apart.

`ProductQuantizer` and `_search.index.CodeIndex` have one. Where float32 serves as it is, which it nearly always does,
the origin is zero and the unit one, and nothing is computed. The unit is a power of two, so it costs no digit.
"""

from typing import NamedTuple

import numpy as np

_MOST_OFFSET = 2.0**10  # of values from zero, in units of their spread: float32 has 14 bits left for this
_LEAST_EXPONENT = -30  # of a unit of spread; its squares have all their digits, and queries may be 2^90 times as far
_LEAST_VALUE_EXPONENT = -100  # of the largest value, which float32 holds with most of its digits


class Frame(NamedTuple):
    """An origin and a unit.

    Attributes
    ----------
    origin : ndarray of shape (n_values,), float64, or None
        What is subtracted from vectors; None for zero.
    exponent : int
        The unit is two to the power of this.
    """

    origin: np.ndarray | None = None
    exponent: int = 0

    @property
    def is_plain(self):
        """Whether it changes nothing."""
        return self.origin is None and not self.exponent

    def place(self, vectors):
        """Return vectors (n, n_values) in this frame: float32, or as they are if that changes nothing."""
        if self.is_plain:
            return vectors
        vectors = vectors.astype(np.float64, copy=False)
        if self.origin is not None:
            vectors = vectors - self.origin
        with np.errstate(over="ignore"):
            return np.ldexp(vectors, -self.exponent).astype(np.float32)

    def part(self, values):
        """Return the frame of some values: a slice."""
        return self if self.origin is None else self._replace(origin=self.origin[values])

    def restore(self, vectors):
        """Return vectors (n, n_values) of this frame as they were: float64, or as they are if that changes nothing."""
        if self.is_plain:
            return vectors
        vectors = np.ldexp(vectors.astype(np.float64), self.exponent)
        return vectors if self.origin is None else vectors + self.origin


def frame_of_range(least, most):
    """Return the frame in which to round samples to float32.

    Parameters
    ----------
    least, most : ndarray of shape (n_values,), float64
        The range of each value.

    Returns
    -------
    frame : Frame
        The frame.
    """
    magnitude = np.maximum(-least, most)
    largest = magnitude.max(initial=0)
    tiny = 0 < largest < 2.0**_LEAST_VALUE_EXPONENT
    return Frame(_far_origin(least, most), int(np.frexp(largest)[1]) if tiny else 0)


def frame_of_codebooks(codebooks):
    """Return the frame in which to compare with codebooks (M, K, D), which are finite."""
    least, most = (bound(axis=1).ravel().astype(np.float64) for bound in (codebooks.min, codebooks.max))
    spread = (most - least).max()
    tiny = 0 < spread < 2.0**_LEAST_EXPONENT
    origin = None if np.can_cast(codebooks.dtype, np.float32) else _far_origin(least, most)
    return Frame(origin, int(np.frexp(spread)[1]) - _LEAST_EXPONENT if tiny else 0)


def _far_origin(least, most):
    """Return the middles of ranges that are too far from zero for float32, zero for others; None if there are none."""
    far = (np.maximum(-least, most) > _MOST_OFFSET * (most - least)) & (most > least)
    return np.where(far, least + (most - least) / 2, 0.0) if far.any() else None
