"""The scan by NumPy: what the compiled scans find, bit for bit, by a process that has not compiled their kernels.

`CodeIndex` and `ranking` take it where `is_enough` says so. To compile the kernels takes ten seconds and more, and a
first search of a small database, or all that a short process does, takes less than one by this scan.
"""

from typing import NamedTuple

import numpy as np

from .compiling import is_compiled
from .posteriors import code_posteriors
from .results import concatenate, nothing
from .segments import count_up
from .simd import BLOCK_CODES
from .tables import Queries

_MOST_LOOKUPS = 2**28  # in a process: some half a second, so that to wait with compiling never costs much
_LOOKUPS_OF_POSTERIOR = 32  # what a posterior costs for each class: they are computed for each search
_BLOCK_DISTANCES = 2**22  # at a time: 16 MB
_CHUNK_CODES = 2**14  # that all queries of a block see in turn, while their positions stay in the cache

_n_lookups = 0  # in this process so far


def is_enough(kernel, n_codes, n_queries, n_terms, n_classes=0):
    """Tell whether to compare codes with queries here, and count what that looks up.

    Parameters
    ----------
    kernel : callable
        What would be compiled, unless it is.
    n_codes, n_queries : int
        How many there are.
    n_terms : int
        How many numbers a distance is the sum of.
    n_classes : int, default=0
        Of how many classes the posteriors of all codes are needed.

    Returns
    -------
    is_enough : bool
        Whether the kernel is not compiled, and this process has looked up too little to wait for it.
    """
    global _n_lookups
    if _n_lookups >= _MOST_LOOKUPS or is_compiled(kernel):
        return False
    _n_lookups += n_codes * (n_queries * n_terms + n_classes * _LOOKUPS_OF_POSTERIOR)
    return _n_lookups < _MOST_LOOKUPS  # else there is something to compile it for, now and later


def stop():
    """Have all searches of this process compile from now on."""
    global _n_lookups
    _n_lookups = _MOST_LOOKUPS


def compare_posteriors(queries, codes):
    """Return the distances by relevance of codes from queries: sums in the order of the classes.

    Parameters
    ----------
    queries, codes : ndarray of shape (n_queries, C), (n_codes, C), float32
        Their posteriors.

    Returns
    -------
    distances : ndarray of shape (n_queries, n_codes), float32
        As `relevance_kernels` computes them.
    """
    total = np.zeros((len(queries), len(codes)))
    for of_queries, of_codes in zip(queries.T.astype(np.float64), codes.T.astype(np.float64), strict=True):
        total += of_queries[:, None] * of_codes
    return np.maximum(1 - total, 0).astype(np.float32)


def nearest(segments, queries, k, plan):
    """Find the k nearest items of each query, ordered by (distance, id); see `scan_numba.nearest`."""
    items = _Items.of(segments)
    distances, ids = nothing(len(queries), k)
    some = np.flatnonzero(items.counts)  # of a view, codes may be without items
    for q, of_codes in _distances(segments, queries):
        codes = some
        if k < len(codes):
            codes = codes[of_codes[codes] <= np.partition(of_codes[codes], k - 1)[k - 1]]
        for found, row in zip(items.expand(codes, of_codes), (distances[q], ids[q]), strict=True):
            row[: len(found)] = found[:k]
    return distances, ids


def within_radius(segments, queries, threshold, plan):
    """Find all items up to a squared distance, ordered by (distance, id); see `scan_numba.within_radius`."""
    items = _Items.of(segments)
    found = []
    for _, of_codes in _distances(segments, queries):
        distances, ids = items.expand(np.flatnonzero(of_codes <= threshold), of_codes)
        found.append((np.array([len(ids)]), distances, ids))
    return concatenate(found)


class _Items(NamedTuple):
    """The items of some segments, whose codes are numbered from one segment to the next.

    Attributes
    ----------
    counts, first_items : ndarray of shape (n_codes,), int64
        How many items each code has, and where its first one stands.
    ids : ndarray of shape (n_items,), int64
        Their ids.
    """

    counts: np.ndarray
    first_items: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, segments):
        """Return the items of segments."""
        starts = np.cumsum([0, *(len(segment.ids) for segment in segments)])[:-1]
        first_items = [segment.first_items() + start for segment, start in zip(segments, starts, strict=True)]
        counts, ids = ([getattr(segment, name) for segment in segments] for name in ("counts", "ids"))
        return cls(*(np.concatenate([np.empty(0, np.int64), *arrays]) for arrays in (counts, first_items, ids)))

    def expand(self, codes, of_codes):
        """Return the distances and ids of the items of some codes, by (distance, id), given the distances of all."""
        counts = self.counts[codes]
        positions = np.repeat(self.first_items[codes], counts) + count_up(counts)
        ids = self.ids.take(positions, mode="clip")  # a file may count more than there are
        distances = np.repeat(of_codes[codes], counts)
        order = np.lexsort((ids, distances))
        return distances[order], ids[order]


def _distances(segments, queries):
    """Yield for each query its number and the distances of all codes, (n_codes,) float32, as the queries compare."""
    by_tables = isinstance(queries, Queries)
    posteriors = [] if by_tables else [code_posteriors(segment.codes(), queries.classifier) for segment in segments]
    n_codes = sum(len(segment.counts) for segment in segments)
    size = max(1, _BLOCK_DISTANCES // n_codes)
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        if by_tables:
            tables = queries.tables(block)
            found = [_look_up(segment, tables) for segment in segments]
        else:
            values = queries.posteriors(block)
            found = [compare_posteriors(values, of_codes) for of_codes in posteriors]
        yield from enumerate(np.concatenate(found, axis=1), start)


def _look_up(segment, tables):
    """Return the distances of the codes of a segment, (n_queries, n_codes): sums in the order of the parts."""
    distances = np.empty((len(tables), len(segment.blocks) * BLOCK_CODES), dtype=np.float32)
    n_blocks = _CHUNK_CODES // BLOCK_CODES
    for first in range(0, len(segment.blocks), n_blocks):
        codes = segment.blocks[first : first + n_blocks].transpose(1, 0, 2)
        codes = codes.reshape(len(codes), -1).astype(np.intp)
        for table, row in zip(tables, distances[:, first * BLOCK_CODES :], strict=True):
            total = row[: codes.shape[1]]
            total[:] = table[0].take(codes[0])
            for entries, codewords in zip(table[1:], codes[1:], strict=True):
                total += entries.take(codewords)
    return distances[:, : len(segment.counts)]
