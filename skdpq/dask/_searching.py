"""A search of the shards of a database: who is asked, how, and among what; and what they find for queries in memory.

`_neighbors` makes one for each search, and `_lazy` asks by it for queries of dask.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .._nearest_neighbors import check_n_neighbors
from .._search.index import CodeIndex
from .._search.memory import check_room
from .._search.results import count_others, without_self
from . import _found, _items
from ._asking import ask
from ._shard import Search, Shard
from ._shards import Shards


@dataclass(frozen=True)
class Asked:
    """Who is asked, how, and among what.

    Attributes
    ----------
    shards : Shards
        The database.
    index : CodeIndex
        Without items, as it is searched.
    search : Search
        How shards search.
    own : list of tuple or None
        What each shard is told of `among`, as `_items.allowed` returns it.
    args : tuple
        What all of them are told of it.
    n_allowed : int
        How many items are allowed.
    """

    shards: Shards
    index: CodeIndex
    search: Search
    own: list[tuple] | None
    args: tuple
    n_allowed: int

    def among(self, among):
        """Return the same search among some of the items, a mask or ids, or among all for None."""
        own, args, n_allowed = _items.allowed(self.shards, among)
        return replace(self, own=own, args=args, n_allowed=n_allowed)

    def check_known(self):
        """Raise ValueError if what is allowed has ids that are not in the database."""
        _items.check_known(self.shards, self.args)

    def check_n_neighbors(self, k, n_queries, excluding=False):
        """Return how many neighbours to find, as `_nearest_neighbors.check_n_neighbors`; unknown ids are the cause."""
        try:
            return check_n_neighbors(k, self.n_allowed, n_queries, excluding)
        except ValueError:
            self.check_known()
            raise

    def nearest(self, queries, k):
        """Return the Nearest of all shards, for queries as the quantizer represents them."""
        return self._ask(Shard.kneighbors, partial(_found.nearest, k=k), queries, k)

    def within(self, queries, radius):
        """Return the Within of all shards, for queries as the quantizer represents them."""
        return self._ask(Shard.radius_neighbors, _found.within, queries, radius)

    def check_room(self, queries, radius, rows):
        """Raise MemoryError if what shards find would not fit into memory here, as far as a few queries tell.

        `rows` says of which query each row of the answer is. The queries may be the first block of more, and then stand
        for the others.
        """

        def n_within(i):
            query = int(rows[i]) % len(queries)
            return int(self.within(queries[query : query + 1], radius).counts[0])

        check_room(n_within, len(rows), self.n_allowed)

    def _ask(self, function, merge, queries, limit):
        """Return the merged answers of all shards, k or a radius being the limit."""
        question = self.search, queries, limit
        own = None if self.own is None else [(*question, *mine) for mine in self.own]
        args = (*question, *self.args) if own is None else ()
        found = ask(self.shards.client, self.shards, function, merge, args, own)
        if found.n_allowed != self.n_allowed:
            self.check_known()
        return found

    def by_codes(self):
        """Return the same search for queries that are codes."""
        return replace(self, search=self.search._replace(symmetric=True))

    def all_nearest(self, k):
        """Return distances and numbers of k neighbours, (n, k), where each item is a query, and no neighbour of it."""
        n = len(self.shards)
        codes, code_of_item, numbers = _items.distinct_codes(self.shards)
        found = self.by_codes().nearest(codes, k + 1)
        starts, indptr = np.arange(len(codes) + 1) * (k + 1), np.arange(n + 1) * k
        distances, others = without_self(
            code_of_item, numbers, starts, found.distances.ravel(), found.numbers.ravel(), indptr
        )
        return self.index.distances(distances).reshape(n, k), others.reshape(n, k)

    def all_within(self, radius):
        """Return distances and numbers of neighbours, and where those of each item start, which is none of its own."""
        codes, code_of_item, numbers = _items.distinct_codes(self.shards)
        asked = self.by_codes()
        asked.check_room(codes, radius, code_of_item)
        found = asked.within(codes, radius)
        starts = np.concatenate(([0], np.cumsum(found.counts)))
        counts = count_others(code_of_item, numbers, starts, found.numbers)
        indptr = np.concatenate(([0], np.cumsum(counts)))
        distances, others = without_self(code_of_item, numbers, starts, found.distances, found.numbers, indptr)
        return self.index.distances(distances), others, indptr
