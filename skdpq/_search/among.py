"""Search among some: which items of a database are allowed, and segments that hold these alone.

`CodeIndex` calls it. A mask in the order of the ids, or ids, say what is allowed. What is searched is then a database
like any other, made for one call, so every scan finds in it exactly what it would find among all, less what is not
allowed. Few items are taken out of their segments, which takes as long as there are few. Of many, each segment is seen
through a view, which has its codes and counts other items: the mask is read once, and nothing is sorted.

Where each item stands is found out at the first search among some, and kept as long as the segments are.
"""

import weakref
from typing import NamedTuple

import numpy as np

from .._arrays import as_array
from .segments import take, view

# What an item costs in comparisons of a code with one query of many, about a third of a nanosecond each.
_TAKING, _VIEWING = 128, 8
_POSTERIOR_ENTRY_VIEWS = 16  # what a class of an item's posterior costs, in views of an item
_MANY_QUERIES = 64  # that make a view worth half as much; 192 or more, a quarter

_orders: dict = {}  # by the segments


class _Order(NamedTuple):
    """The ascending order of the ids of some segments.

    Attributes
    ----------
    first : int
        The lowest id, if the ids are consecutive; else zero.
    known : ndarray of shape (n,), int64, or None
        The ids, ascending; None if they are consecutive.
    places : ndarray of shape (n,), uint32
        In this order, where each item stands among those of all segments, one segment after the other.
    ranks : list of ndarray or None
        For each segment the position of each of its items in this order; None if the ids are consecutive, and tell.
    """

    first: int
    known: np.ndarray | None
    places: np.ndarray
    ranks: list[np.ndarray] | None

    def positions(self, ids):
        """Return where ids stand in this order; raise ValueError if one is unknown."""
        n, signed = len(self.places), ids.astype(np.int64, copy=False)
        if self.known is None:
            positions = signed - self.first if self.first else signed
            if positions.view(np.uint64).max(initial=0) < n:  # as a rule, and one look says it: -1 is the largest
                return positions
            unknown = (positions < 0) | (positions >= n)
        else:
            positions = np.minimum(np.searchsorted(self.known, signed), n - 1)
            unknown = self.known[positions] != signed
        if unknown.any():
            raise ValueError(f"Expected ids of the database in among, got {ids[unknown][:5].tolist()}.")
        return positions

    def take(self, segments, positions):
        """Take the items at some positions of this order out of their segments."""
        items = np.sort(self.places[positions]).astype(np.int64)
        items = items[np.diff(items, prepend=-1) > 0]  # an id may be given twice
        starts = np.cumsum([0, *(len(segment.ids) for segment in segments)])
        bounds = np.searchsorted(items, starts)
        return [take(segment, items[bounds[i] : bounds[i + 1]] - starts[i]) for i, segment in enumerate(segments)]

    def view(self, segments, mask):
        """View the segments through a mask of all items in this order."""
        if mask.all():
            return segments
        ranks = self.ranks or [segment.ids for segment in segments]
        return [view(segment, mask, of_items, self.first) for segment, of_items in zip(segments, ranks, strict=True)]


def restrict(segments, allowed, n_queries, n_classes):
    """Return segments with the allowed items of others.

    Parameters
    ----------
    segments : tuple of Segment
        The database.
    allowed : array-like
        A boolean mask of the items in ascending order of id, or ids in any order.
    n_queries : int
        For how many queries they are made.
    n_classes : int
        Number of classes for a search by relevance, else zero.

    Returns
    -------
    segments : tuple of Segment
        Segments with items, to be searched; the others stay as they are.

    Raises
    ------
    ValueError
        If `allowed` is neither, or has an unknown id.
    """
    n = sum(len(segment.ids) for segment in segments)
    allowed = _check_allowed(allowed, n)
    is_mask, order = allowed.dtype == bool, _order_of(segments)
    positions = None if is_mask else order.positions(allowed)
    if _are_few(np.count_nonzero(allowed) if is_mask else len(allowed), n, n_queries, n_classes):
        restricted = order.take(segments, np.flatnonzero(allowed) if is_mask else positions)
    else:
        restricted = order.view(segments, allowed if is_mask else _as_mask(positions, n))
    return tuple(segment for segment in restricted if segment is not None)


def _check_allowed(allowed, n):
    """Return a mask of n items, or ids."""
    allowed = np.asarray(as_array(allowed), order="C")
    if allowed.shape == (0,) and allowed.dtype != bool:
        return allowed.astype(np.int64)  # of an empty list, NumPy makes floats
    if allowed.ndim != 1 or allowed.dtype.kind not in "biu" or (allowed.dtype == bool and len(allowed) != n):
        raise ValueError(
            f"Expected among as a boolean mask of shape ({n},), in the order of ids_, or as a 1-D array of ids, "
            f"integers; got {allowed.dtype} of shape {allowed.shape}."
        )
    return allowed


def _are_few(n_allowed, n, n_queries, n_classes):
    """Tell whether to take items out of their segments and compare them alone is faster than to view and compare all.

    A search by relevance computes the posteriors of those that are taken out: each entry takes as long as a view of 16
    items. In a view, it passes over most codes, but the fewer are allowed, the fewer it passes over for each query.
    """
    if n_classes:
        return n_allowed * n_classes * _POSTERIOR_ENTRY_VIEWS <= n * min(1 + n_queries / _MANY_QUERIES, 4)
    return n_allowed * (_TAKING + n_queries) <= n * (_VIEWING + n_queries)


def _as_mask(positions, n):
    mask = np.zeros(n, dtype=bool)
    mask[positions] = True
    return mask


def _order_of(segments):
    """Return the order of the ids of segments; it is found out at their first search."""
    key = tuple(id(segment.ids) for segment in segments)
    if key not in _orders:
        _orders[key] = _make_order(segments)
        for segment in segments:
            weakref.finalize(segment.ids, _orders.pop, key, None)
    return _orders[key]


def _make_order(segments):
    ids = np.concatenate([np.empty(0, np.int64), *(segment.ids for segment in segments)])
    first, last = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
    if last - first == len(ids) - 1:
        return _Order(first, None, _inverse(ids - first), None)
    places = np.argsort(ids)
    ranks = np.split(_inverse(places), np.cumsum([len(segment.ids) for segment in segments[:-1]]))
    return _Order(0, ids[places], places.astype(np.uint32), ranks)


def _inverse(permutation):
    inverse = np.zeros(len(permutation), dtype=np.uint32)  # ids that a file has twice leave some places out
    inverse[permutation] = np.arange(len(permutation), dtype=np.uint32)
    return inverse
