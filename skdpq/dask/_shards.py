"""The shards of a database, as one value that the estimator has: where they are, and what is known of them.

`_neighbors` makes one of its attributes and puts another in its place. It never changes; the futures in it keep the
shards on their workers for as long as somebody holds it.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from .._labels import append_labels
from .._names import as_names, check_names
from .._search.index import MAX_ID, CodeIndex, check_new_ids
from ._shard import About


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards of a database.

    Attributes
    ----------
    futures : tuple of tuple of Future
        For each shard its replicas.
    abouts : tuple of About
        What is known of each.
    next_number : int
        The number that the next item gets.
    named : bool
        Whether ids are strings.
    index : CodeIndex
        Without items; what it knows of the codes is the same in all shards.
    classifier : tuple of ndarray (M, K, C) and (C,), or None
        What classifies codes.
    """

    futures: tuple[tuple[Any, ...], ...]
    abouts: tuple[About, ...]
    next_number: int
    named: bool
    index: CodeIndex
    classifier: tuple[np.ndarray, np.ndarray] | None

    def __len__(self):
        return sum(about.n for about in self.abouts)

    @property
    def client(self):
        """The client of the cluster that they are on; RuntimeError if it was closed."""
        client = self.futures[0][0].client
        if client.status == "closed":
            raise RuntimeError(
                "Expected the client with which the database was made or loaded, got one that is closed."
            )
        return client

    @property
    def classes(self):
        """Labels of all items, ascending; None where there are none. Raises ValueError where kinds differ."""
        given = [about.classes for about in self.abouts if about.classes is not None]
        none = np.empty(0, dtype=np.int64)
        return reduce(lambda a, b: append_labels(a, none, b, len(b))[0], given) if given else None

    @property
    def has_gaps(self):
        """Whether some number below the next has no item."""
        return len(self) != self.next_number

    def in_order(self):
        """Return the positions of shards with items in the order of these; None where their numbers interleave."""
        filled = [i for i, about in enumerate(self.abouts) if about.n]
        order = sorted(filled, key=lambda i: self.abouts[i].first)
        ends = [self.abouts[i].last for i in order]
        starts = [self.abouts[i].first for i in order]
        return order if all(a < b for a, b in zip(ends, starts[1:], strict=False)) else None

    def resized(self, futures):
        """Return these with other shards, of which nothing is known yet."""
        return replace(self, futures=futures, abouts=tuple(About(0, 0, -1, None, "") for _ in futures))

    def with_shards(self, changed, n_new=0, next_number=None):
        """Return these with others in the places of some.

        Parameters
        ----------
        changed : dict of int to (tuple of Future, About)
            By their positions.
        n_new : int, default=0
            How many items were added.
        next_number : int, default=None
            The number that the next item gets; by default it follows those that were added.

        Returns
        -------
        shards : Shards
            The others stay as they are.

        Raises
        ------
        ValueError
            If labels are strings in some and numbers in others.
        """
        futures, abouts = list(self.futures), list(self.abouts)
        for i, (made, about) in changed.items():
            futures[i], abouts[i] = made, about
        number = self.next_number + n_new if next_number is None else next_number
        shards = replace(self, futures=tuple(futures), abouts=tuple(abouts), next_number=number)
        _ = shards.classes  # raises where labels do not go together
        return shards

    def room_for(self, n_new):
        """Return how many of new items each shard gets, so that the smallest fill up: a list of counts."""
        sizes = np.array([about.n for about in self.abouts])
        order = np.argsort(sizes, kind="stable")
        ascending = sizes[order]
        # The level at which the first i shards hold all new items, for the largest i whose members are below it.
        levels = (np.cumsum(ascending) + n_new) / np.arange(1, len(sizes) + 1)
        n_filled = int(np.flatnonzero(levels >= ascending)[-1]) + 1
        total = int(ascending[:n_filled].sum()) + n_new
        room = np.zeros(len(sizes), dtype=np.int64)
        room[order[:n_filled]] = total // n_filled - ascending[:n_filled]
        room[order[: total % n_filled]] += 1
        return room.tolist()

    def check_new_ids(self, ids, n_new):
        """Return ids of new items, an array or None; raise ValueError unless they are of the kind of the others.

        Parameters
        ----------
        ids : array-like of shape (n_new,) or None
            Integers or strings that differ.
        n_new : int
            How many there are.

        Returns
        -------
        ids : ndarray of shape (n_new,) or None
            int64, or of str.
        """
        names = None if ids is None else as_names(ids)
        if self.named and names is None and n_new:
            got = "None" if ids is None else np.asarray(ids)[:5].tolist()
            raise ValueError(f"Expected ids that are strings, as in the database, got {got}.")
        if names is not None:
            if not self.named:
                raise ValueError(
                    f"Expected ids that are integers, as in the database, got {names.ravel()[:5].tolist()}."
                )
            check_names(names, n_new)
            return names
        if ids is not None:
            return check_new_ids(ids, n_new)
        if self.next_number + n_new > MAX_ID + 1:
            raise ValueError(f"Expected ids, as none are left above the largest given, {self.next_number - 1}.")
        return None

    def check_kind(self, ids):
        """Return ids, of any shape, as an array; raise ValueError where they are not of the database's kind."""
        names = as_names(ids)
        ids = np.asarray(ids) if names is None else names
        if self.named != (names is not None) and ids.size:
            kind = "strings" if self.named else "integers"
            raise ValueError(f"Expected ids of the database, which are {kind}, got {ids.ravel()[:5].tolist()}.")
        if not self.named and ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"Expected ids as an array of integers, got {ids.dtype} of shape {ids.shape}.")
        return ids if ids.size or self.named else ids.astype(np.int64)
