"""What shards find, and how that of several is put together: by (distance, number), in any order and any grouping.

Shards make these; workers and the caller merge them. Distances are as an index finds them, float32.
"""

from typing import NamedTuple

import numpy as np

from .._search.results import join


class Nearest(NamedTuple):
    """The nearest items of each query, ascending by (distance, number).

    Attributes
    ----------
    distances : ndarray of shape (n_queries, k), float32
        As an index finds them.
    numbers : ndarray of shape (n_queries, k), int64
        The items' numbers.
    n_allowed : int
        How many items were allowed.
    """

    distances: np.ndarray
    numbers: np.ndarray
    n_allowed: int


class Within(NamedTuple):
    """All items within a radius of each query, one query after the other, ascending by (distance, number).

    Attributes
    ----------
    counts : ndarray of shape (n_queries,), int64
        How many each query has.
    distances : ndarray of shape (n_found,), float32
        As an index finds them.
    numbers : ndarray of shape (n_found,), int64
        The items' numbers.
    n_allowed : int
        How many items were allowed.
    """

    counts: np.ndarray
    distances: np.ndarray
    numbers: np.ndarray
    n_allowed: int


def nearest(parts, k):
    """Merge parts, a list of Nearest, into the k nearest of all, or as many as there are."""
    n_allowed = sum(part.n_allowed for part in parts)
    if len(parts) == 1 and parts[0].numbers.shape[1] <= k:
        return parts[0]._replace(n_allowed=n_allowed)
    distances = np.concatenate([part.distances for part in parts], axis=1)
    numbers = np.concatenate([part.numbers for part in parts], axis=1)
    # Two stable sorts: ties in distance stay in the order of their numbers.
    by_number = np.argsort(numbers, axis=1)
    by_distance = np.argsort(np.take_along_axis(distances, by_number, axis=1), axis=1, kind="stable")[:, :k]
    order = np.take_along_axis(by_number, by_distance, axis=1)
    return Nearest(np.take_along_axis(distances, order, axis=1), np.take_along_axis(numbers, order, axis=1), n_allowed)


def within(parts):
    """Merge parts, a list of Within, into all that was found."""
    n_queries = len(parts[0].counts)
    found = join([part[:3] for part in parts], n_queries) if len(parts) > 1 else parts[0][:3]
    return Within(*found, sum(part.n_allowed for part in parts))


def joined(parts):
    """Return the members of lists, in any order."""
    return [member for part in parts for member in part]


def total(parts):
    """Return the sum of arrays."""
    return sum(parts)
