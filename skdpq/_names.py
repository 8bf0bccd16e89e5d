"""Ids that are strings: the names of a database's items, found by binary search.

`DPQNeighbors` has them where it was given strings as ids. Its index then numbers the items from zero in the order in
which they were added, and the name of item i stands at position i here.
"""

from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_ERRORS = "surrogatepass"  # the names of files may hold what is no text


class Names(NamedTuple):
    """Strings that differ; they never change.

    Attributes
    ----------
    utf8 : ndarray of shape (n_bytes,), uint8
        All of them in UTF-8, one after the other.
    ends : ndarray of shape (n,), int64
        Where each ends.
    order : ndarray of shape (n,), uint32
        Their positions, in the order of their bytes.
    """

    utf8: np.ndarray
    ends: np.ndarray
    order: np.ndarray

    def at(self, positions):
        """Return the names at positions, of any shape, as an array of str."""
        names = np.empty(positions.size, dtype=object)
        try:
            for i, position in enumerate(positions.ravel().tolist()):
                names[i] = self._bytes_at(position).decode(errors=_ERRORS)
        except (IndexError, UnicodeDecodeError) as error:
            raise ValueError("Expected a file that is whole, got one that load(..., verify=True) refuses.") from error
        return names.reshape(positions.shape)

    def find(self, names):
        """Return the position of each name, -1 where there is none: int64, of the shape of an array of str."""
        _, found = self._search([name.encode(errors=_ERRORS) for name in names.ravel().tolist()])
        return np.array(found, dtype=np.int64).reshape(names.shape)

    def append(self, names):
        """Return these and new ones, an array of str; ValueError where two are the same."""
        new = names_of(names)
        ranks, found = self._search([new._bytes_at(i) for i in new.order.tolist()])
        known = np.sort(new.order[np.array(found, dtype=np.int64) >= 0])
        if len(known):
            raise ValueError(f"Expected ids that are not in the database yet, got {names[known[:5]].tolist()}.")
        order = np.insert(self.order, ranks, new.order + np.uint32(len(self.ends)))
        return Names(
            np.concatenate((self.utf8, new.utf8)), np.concatenate((self.ends, new.ends + len(self.utf8))), order
        )

    def keep(self, kept):
        """Return those whose entry in a mask (n,) is true."""
        lengths = np.diff(self.ends, prepend=0)
        order = (np.cumsum(kept, dtype=np.int64) - 1)[self.order][kept[self.order]]
        return Names(self.utf8[np.repeat(kept, lengths)], np.cumsum(lengths[kept]), order.astype(np.uint32))

    def check(self, n, thorough):
        """Raise ValueError unless these are the names of n items; `thorough` looks at each."""
        wanted = {"utf8": (np.uint8, self.utf8.shape[:1]), "ends": (np.int64, (n,)), "order": (np.uint32, (n,))}
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"expected {name} of shape {shape}, got {array.dtype} of shape {array.shape}.")
        if not thorough:
            return
        lengths = np.diff(self.ends, prepend=0)
        if lengths.min(initial=0) < 0 or (self.ends[-1] if n else 0) != len(self.utf8):
            raise ValueError("expected names one after the other, got others.")
        if not np.array_equal(np.sort(self.order), np.arange(n)):
            raise ValueError("expected each position of a name once, got others.")
        names = [self._bytes_at(i) for i in self.order.tolist()]
        if any(a >= b for a, b in pairwise(names)):
            raise ValueError("expected names that differ, in order, got others.")
        self.at(self.order)  # raises where one is no UTF-8

    def _bytes_at(self, position):
        start = int(self.ends[position - 1]) if position else 0
        return self.utf8[start : int(self.ends[position])].tobytes()

    def _search(self, encoded):
        """Return the rank in `order` that each name has or would have, and its position, -1 where there is none."""
        utf8, ends, order = map(memoryview, self)  # an entry of which takes a fifth of the time of an array's

        def name_at(rank):
            position = order[rank]
            return bytes(utf8[ends[position - 1] if position else 0 : ends[position]])

        ranks = [bisect_left(range(len(order)), name, key=name_at) for name in encoded]
        is_there = [rank < len(order) and name_at(rank) == name for rank, name in zip(ranks, encoded, strict=True)]
        return ranks, [order[rank] if there else -1 for rank, there in zip(ranks, is_there, strict=True)]


def names_of(names):
    """Return the Names of an array of str (n,); ValueError where two are the same."""
    encoded = [name.encode(errors=_ERRORS) for name in names.tolist()]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    for i, j in pairwise(order):
        if encoded[i] == encoded[j]:
            raise ValueError(f"Expected ids that differ, got {names[i]!r} twice.")
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return Names(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, np.array(order, dtype=np.uint32))


def as_names(ids):
    """Return ids that are strings as an array of str, of any shape; None for ids of another kind.

    Raises ValueError where some are strings and others are not.
    """
    array = np.asarray(ids) if hasattr(ids, "dtype") else np.array(ids, dtype=object)  # which makes 1 no "1"
    if array.dtype.kind == "U" or isinstance(array.dtype, np.dtypes.StringDType):
        return array.astype(object)
    if array.dtype.kind != "O" or not array.size:
        return None
    if all(isinstance(item, str) for item in array.flat):
        return array
    if any(isinstance(item, str) for item in array.flat):
        raise ValueError("Expected ids that are all strings or all integers, got both.")
    return None


def check_names(names, n):
    """Raise ValueError unless an array of str has n that differ."""
    if names.ndim != 1:
        raise ValueError(f"Expected ids as a 1-D array, got shape {names.shape}.")
    if len(names) != n:
        raise ValueError(f"Expected one id for each of {n} items, got {len(names)}.")
    if len(set(names.tolist())) < n:
        names_of(names)  # says which


def extend(names, ids, n_given, n_new):
    """Take the ids of new items.

    Parameters
    ----------
    names : Names or None
        Of the items that are there; None if these have numbers.
    ids : array-like of shape (n_new,) or None
        Of the new ones.
    n_given : int
        How many numbers were given to items before.
    n_new : int
        Number of new items.

    Returns
    -------
    names : Names or None
        Of all items.
    ids : array-like or None
        What the index takes.

    Raises
    ------
    ValueError
        If the new ids are not of the kind of the others, or no n_new different ones that are not there.
    """
    new = None if ids is None else as_names(ids)
    if new is None:
        if names is not None and n_new:
            raise ValueError(
                "Expected ids, as those of the database are strings, got None."
                if ids is None
                else f"Expected ids that are strings, as in the database, got {np.asarray(ids)[:5].tolist()}."
            )
        return names, ids
    if names is None and n_given:
        raise ValueError(f"Expected ids that are integers, as in the database, got {new.ravel()[:5].tolist()}.")
    check_names(new, n_new)
    return (names_of(new) if names is None else names.append(new)), None


def numbers_of(names, ids):
    """Return ids of a database, of any shape, as its index numbers them: an array.

    Raises ValueError where they are not of its kind, or strings that it does not have.
    """
    given = as_names(ids)
    if names is None or given is None:
        ids = np.asarray(ids)
        if (names is None) != (given is None) and ids.size:
            kind = "integers" if names is None else "strings"
            raise ValueError(f"Expected ids of the database, which are {kind}, got {ids.ravel()[:5].tolist()}.")
        return ids if ids.size else ids.astype(np.int64)
    numbers = names.find(given)
    if (numbers < 0).any():
        raise ValueError(f"Expected ids of the database, got {given[numbers < 0][:5].tolist()}.")
    return numbers
