"""A shard: a share of a database, which one worker holds and searches.

`_work` makes shards and asks them. A shard never changes: `add` and `remove` return another. It knows its items by
numbers that are those of the whole database: ids that are integers, or, where ids are strings, the order in which all
items were added. So what several shards find is put together by (distance, number), and is what one index finds.
"""

import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._device import search_device
from .._items import Items
from .._names import names_of
from .._search.index import CodeIndex
from .._search.results import NONE, nothing
from ._found import Nearest, Within

_CRC_BYTES = 2**26


class Runs(NamedTuple):
    """Numbers of items that were added a run at a time; they ascend, with gaps between the runs.

    Attributes
    ----------
    firsts : ndarray of shape (n_runs,), int64
        The number of the first item of each run.
    ends : ndarray of shape (n_runs,), int64
        How many items there are up to the end of each run.
    """

    firsts: np.ndarray
    ends: np.ndarray

    def numbers(self, positions):
        """Return the numbers of the items at positions, of any shape."""
        if not len(self.ends):
            return positions.astype(np.int64)
        run = np.searchsorted(self.ends, positions, side="right")
        return positions + (self.firsts - np.concatenate(([0], self.ends[:-1])))[run]

    def positions(self, numbers):
        """Return the positions of items, and whether they are here, by their numbers."""
        if not len(self.ends):
            return np.zeros_like(numbers), np.zeros(numbers.shape, dtype=bool)
        run = np.maximum(np.searchsorted(self.firsts, numbers, side="right") - 1, 0)
        positions = numbers - self.firsts[run] + np.concatenate(([0], self.ends[:-1]))[run]
        return positions, (numbers >= self.firsts[run]) & (positions < self.ends[run])

    def append(self, first, n):
        """Return these and a run of n items more, whose numbers are above all others."""
        if not n:
            return self
        return Runs(np.append(self.firsts, first), np.append(self.ends, (self.ends[-1] if len(self.ends) else 0) + n))

    def keep(self, kept):
        """Return those of the items whose entry in a mask is true; those of a run are numbered from its first."""
        before = np.concatenate(([0], np.cumsum(kept, dtype=np.int64)))
        ends = before[self.ends]
        there = np.diff(ends, prepend=0) > 0
        return Runs(self.firsts[there], ends[there])


NO_RUNS = Runs(np.empty(0, np.int64), np.empty(0, np.int64))


class About(NamedTuple):
    """What is known of a shard without it.

    Attributes
    ----------
    n : int
        Number of items.
    first, last : int
        The lowest and the highest of their numbers; 0 and -1 where there are none.
    classes : ndarray of shape (n_classes,) or None
        Labels of its items, where any were given.
    content : str
        A checksum of it: a shard that is made again is the same if it has the same.
    """

    n: int
    first: int
    last: int
    classes: np.ndarray | None
    content: str

    @property
    def is_dense(self):
        """Whether there is an item of each number from the first to the last."""
        return self.n == self.last - self.first + 1


class Search(NamedTuple):
    """How to search a shard.

    Attributes
    ----------
    symmetric : bool
        Whether queries are codes.
    relevance : bool
        Whether to search by relevance.
    codebooks : ndarray of shape (M, K, D) or None
        What to search with in the place of the codebooks as trained.
    n_jobs : int or None
        Threads, as in joblib.
    device : str
        As in `DPQNeighbors`.
    """

    symmetric: bool
    relevance: bool
    codebooks: np.ndarray | None
    n_jobs: int | None
    device: Any

    def prepare(self, index, classifier):
        """Return an index as it is searched."""
        if self.relevance:
            return index.with_classifier(*classifier)
        return index if self.codebooks is None else index.with_codebooks(self.codebooks)

    def how(self):
        """Return what the methods of an index take beside the queries."""
        return {"symmetric": self.symmetric, "n_jobs": self.n_jobs, "device": search_device(self.device)}


@dataclass(frozen=True)
class Shard:
    """A share of a database.

    Attributes
    ----------
    items : Items
        Its items. Where they have names, the index numbers them from zero; else by their ids.
    classifier : tuple of ndarray (M, K, C) and (C,), or None
        What classifies codes, where the quantizer does.
    runs : Runs or None
        The numbers of items that have names.
    made_of : tuple or None
        Where it is a map of a file, the arguments of `_storage.open_shard` that made it.
    content : str
        A checksum.
    """

    items: Items
    classifier: tuple[np.ndarray, np.ndarray] | None
    runs: Runs | None
    made_of: tuple | None = None
    content: str = ""

    def __len__(self):
        return len(self.items.index)

    def __reduce__(self):
        """Send a map to another worker as the name of its file, and other shards as they are."""
        if self.made_of is not None:
            from ._storage import open_shard  # which makes shards, so it imports this

            return open_shard, self.made_of
        return Shard, (self.items, self.classifier, self.runs, None, self.content)

    def __sizeof__(self):
        """Return bytes, by which dask decides that queries go to a shard and not the other way round."""
        return 1024 + sum(array.nbytes for segment in self.items.index.segments for array in segment.stored().values())

    def numbers(self, found=None):
        """Return numbers of items, given those of the index; of all items, ascending, without."""
        found = self.items.index.ids if found is None else found
        return found if self.runs is None else self.runs.numbers(found)

    def about(self):
        """Return what is known of the shard without it."""
        if self.runs is None:
            ids = [segment.ids for segment in self.items.index.segments]
            first, last = min((int(i.min()) for i in ids), default=0), max((int(i.max()) for i in ids), default=-1)
        else:
            ends = self.numbers(np.array([0, len(self) - 1])) if len(self) else (0, -1)
            first, last = map(int, ends)
        return About(len(self), first, last, self.items.classes, self.content)

    def find(self, ids):
        """Return where ids are among some, and how the index numbers them.

        Parameters
        ----------
        ids : ndarray of shape (n,)
            Integers or, where items have names, str.

        Returns
        -------
        positions : ndarray of shape (n_found,), int64
            Which of the ids the shard has.
        found : ndarray of shape (n_found,), int64
            The numbers of these in the index.
        """
        if self.items.names is not None:
            found = self.items.names.find(ids)
            positions = np.flatnonzero(found >= 0)
            return positions, found[positions]
        known = np.zeros(len(ids), dtype=bool)
        for segment in self.items.index.segments:
            known |= np.isin(ids, segment.ids)
        return np.flatnonzero(known), ids[known].astype(np.int64)

    def ranks(self, numbers):
        """Return how many items have numbers below given ones."""
        return np.searchsorted(self.numbers(), numbers)

    def kneighbors(self, search, queries, k, among=None):
        """Find up to k nearest items of each query.

        Parameters
        ----------
        search : Search
            How.
        queries : ndarray of shape (n_queries, ...)
            Codes, soft representations or posteriors.
        k : int
            How many.
        among : ndarray, default=None
            A mask of the shard's items, or ids of which it may have some.

        Returns
        -------
        nearest : Nearest
            Fewer than k where there are fewer.
        """
        index, n_known = self._among(search.prepare(self.items.index, self.classifier), among, len(queries))
        k = min(k, len(index))
        if k == 0:
            return Nearest(*nothing(len(queries), 0), n_known)
        found, numbers = index.kneighbors(queries, k, **search.how())
        return Nearest(found, self.numbers(numbers), n_known)

    def radius_neighbors(self, search, queries, radius, among=None, n_queries=None):
        """Find all items within a radius, as users see it; other parameters are those of `kneighbors`."""
        index, n_known = self._among(search.prepare(self.items.index, self.classifier), among, len(queries))
        if not len(index):
            return Within(np.zeros(len(queries), np.int64), *NONE[1:], n_known)
        counts, found, numbers = index.radius_neighbors(
            queries, index.threshold(radius), n_queries=n_queries, **search.how()
        )
        return Within(counts, found, self.numbers(numbers), n_known)

    def _among(self, index, among, n_queries):
        """Return an index of what may be found, and how many items that are."""
        if among is None:
            return index, len(index)
        if among.dtype != bool:
            among = self.find(among)[1]
        index = index.among(among, n_queries) if among.size else CodeIndex(index.codebooks)
        return index, len(index)

    def add(self, codes, y, ids, first):
        """Return a shard with items added.

        Parameters
        ----------
        codes : ndarray of shape (n_new, M)
            Their codes.
        y : ndarray of shape (n_new,) or None
            Their labels.
        ids : ndarray of shape (n_new,) or None
            Their ids; None for numbers from `first`.
        first : int
            The number of the first, where they have names.

        Returns
        -------
        shard : Shard
            With them.
        """
        named = self.runs is not None
        if ids is None and not named:
            ids = np.arange(first, first + len(codes))
        items = self.items.add(codes, y, ids)
        return _made(items, self.classifier, self.runs.append(first, len(codes)) if named else None)

    def remove(self, found):
        """Return a shard without items, by their numbers in the index: (n,) int64."""
        kept = np.ones(len(self) if self.runs is not None else 0, dtype=bool)
        if self.runs is not None:
            kept[found] = False
        runs = None if self.runs is None else self.runs.keep(kept)
        return _made(self.items.remove(self.items.named(found)), self.classifier, runs)

    def look_up(self, ids, what):
        """Return what is known of those of some ids that the shard has.

        Parameters
        ----------
        ids : ndarray of shape (n,)
            As for `find`.
        what : {"numbers", "codes", "labels"}
            What to return; labels are indices into the classes of the shard, -1 for none.

        Returns
        -------
        parts : list of tuple
            One: which of the ids, what is known of each, and the classes.
        """
        positions, found = self.find(ids)
        if what == "numbers":
            values = self.numbers(found)
        elif what == "codes":
            values = self.items.index.codes_of(found)
        elif self.items.labels is None:
            values = np.full(len(found), -1)
        else:
            values = self.items.labels[self._order_of(found)]
        return [(positions, values, self.items.classes)]

    def _order_of(self, found):
        """Return where items stand in the order of their numbers, by those in the index."""
        about = self.about()
        if self.runs is not None or about.is_dense:
            return found - (about.first if self.runs is None else 0)
        return np.searchsorted(self.items.index.ids, found)

    def name(self, numbers):
        """Return which of some numbers are of the shard's items, and the names of these: a list of one pair."""
        found, there = self.runs.positions(numbers)
        return [(np.flatnonzero(there), self.items.names.at(found[there]))]

    def all_of(self, what):
        """Return "numbers", "codes", "ids" or "labels" of all items, in the order of numbers."""
        if what == "numbers":
            return self.numbers()
        if what == "codes":
            return self.items.index.codes
        if what == "ids":
            return self.items.ids
        return np.full(len(self), -1) if self.items.labels is None else self.items.labels

    def one_of(self, i, what):
        """Return what `all_of` does, with the position of the shard among others: a list of one pair."""
        return [(i, self.all_of(what))]


def new_shard(codebooks, classifier, named):
    """Return a shard without items; `named` tells whether they will have names."""
    items = Items(CodeIndex(codebooks), names_of(np.empty(0, object)) if named else None)
    return _made(items, classifier, NO_RUNS if named else None)


def _made(items, classifier, runs):
    return Shard(items, classifier, runs, content=checksum(items))


def checksum(items):
    """Return a checksum of all that items are."""
    arrays = [array for segment in items.index.segments for array in segment.stored().values()]
    arrays += [] if items.names is None else list(items.names)
    arrays += [] if items.labels is None else [items.labels]
    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"
