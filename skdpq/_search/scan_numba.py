"""Shares a search out: over blocks of queries, segments, and threads.

With many queries each thread takes blocks of them; with few, threads share out the blocks of codes, and what they find
is merged. `n_jobs` is joblib's, the threads are not: joblib starts some for every call and looks after them every
10 ms, a hundred times what a search takes.
"""

import numpy as np
from joblib import effective_n_jobs

from .._threads import run
from .kernels import TOGETHER, scan_nearest, scan_nearest_together, scan_radius
from .simd import BLOCK, n_registers
from .topk import merge_nearest

_TABLES = 2**22  # table entries at a time in each thread: 16 MB
_BOUNDS = 2**19  # 8-bit entries at a time in each thread: half of a common L2 cache
_KEYS = 2**21  # candidates at a time in each thread: 16 MB
_FEW = 4  # queries a thread; fewer may be too uneven to share out
_FEW_FOR_MEMORY = 32  # the same where codes come from memory, whose speed the threads share
_CACHE = 2**24  # bytes of codes that may stay in the last cache
_ENOUGH_TOGETHER = 8  # queries; for fewer, float32 sums one by one are faster than 64 of 8 bits at once
_WORTH_THREADS = 2**24  # 8-bit look-ups; fewer take less than a quarter of a millisecond, and threads do not pay
_QUERY = 2**18  # what a query costs besides, in 8-bit look-ups
NONE = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)  # counts, distances, ids
_SLOWER = 16  # what a look-up in float32 costs, in those of 8 bits


def query_blocks(n_queries, M, K, k=1, n_threads=1):
    """Return slices of the queries that are searched for at a time.

    Parameters
    ----------
    n_queries : int
        Number of queries.
    M, K : int
        Number of parts and of codewords a part.
    k : int, default=1
        Number of neighbours.
    n_threads : int, default=1
        Number of threads among which to share out the queries.

    Returns
    -------
    blocks : list of slice
        Consecutive slices.
    """
    size = min(_TABLES // (M * K), _KEYS // (2 * k + BLOCK))
    if n_registers(K):
        size = min(size, _BOUNDS // (M * 64 * n_registers(K)))
    n_blocks = -(-n_queries // max(1, size))
    n_blocks = -(-n_blocks // n_threads) * n_threads  # as many for each thread
    size = max(1, -(-n_queries // max(1, n_blocks)))
    # scikit-learn's gen_batches takes longer to validate this than a small search takes
    return [slice(start, min(start + size, n_queries)) for start in range(0, n_queries, size)]


def nearest(segments, make_tables, n_queries, M, K, k, n_jobs):
    """Find the k nearest items of each query, ordered by (distance, id).

    Parameters
    ----------
    segments : sequence of Segment
        The database.
    make_tables : callable
        Returns the look-up tables (n, M, K) of a slice of the queries.
    n_queries, M, K, k : int
        Number of queries, of parts, of codewords a part, and of neighbours.
    n_jobs : int or None
        Threads, as in joblib.

    Returns
    -------
    distances : ndarray of shape (n_queries, k), float32
        Squared distances.
    ids : ndarray of shape (n_queries, k), int64
        Ids of the items.
    """
    distances, ids = nothing(n_queries, k)
    n_threads = _n_threads(segments, n_queries, M, K, n_jobs)

    def search(queries):
        tables = make_tables(queries)
        _scan_nearest(segments, tables, distances[queries], ids[queries], 0, 1)

    def search_shard(tables, shard):
        found = nothing(len(tables), k)
        _scan_nearest(segments, tables, *found, shard, n_threads)
        return found

    few = _FEW if _n_codes(segments) * M < _CACHE else _FEW_FOR_MEMORY
    if n_threads == 1 or n_queries >= few * n_threads:
        run(search, query_blocks(n_queries, M, K, k, n_threads), n_threads)
    else:
        for queries in query_blocks(n_queries, M, K, k):
            tables = make_tables(queries)
            for found in run(lambda shard, tables=tables: search_shard(tables, shard), range(n_threads), n_threads):
                merge_nearest(distances[queries], ids[queries], *found)
    return distances, ids


def within_radius(segments, make_tables, n_queries, M, K, limit, n_jobs):
    """Find all items up to a squared distance from each query, ordered by (distance, id).

    Parameters
    ----------
    segments, make_tables, n_queries, M, K, n_jobs
        As for `nearest`.
    limit : float32
        Largest squared distance.

    Returns
    -------
    counts : ndarray of shape (n_queries,), int64
        Results of each query; those of all queries follow one another.
    distances : ndarray of shape (n_results,), float32
        Squared distances.
    ids : ndarray of shape (n_results,), int64
        Ids of the items.
    """
    n_threads = _n_threads(segments, n_queries, M, K, n_jobs)

    def search(queries):
        tables = make_tables(queries)
        least = tables.min(axis=2)
        found = [scan_radius(*segment, tables, least, n_registers(K), limit) for segment in segments]
        return found[0] if len(found) == 1 else join(found, len(tables))

    found = [NONE, *run(search, query_blocks(n_queries, M, K, 1, n_threads), n_threads)]
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def _n_threads(segments, n_queries, M, K, n_jobs):
    """Return how many threads to use: one where there is little to do."""
    work = n_queries * (_n_codes(segments) * M * (1 if n_registers(K) else _SLOWER) + _QUERY)
    return effective_n_jobs(n_jobs) if work >= _WORTH_THREADS else 1


def _n_codes(segments):
    return sum(len(segment.sizes) for segment in segments)


def nothing(n_queries, k):
    """Return distances and ids, (n_queries, k), among which nothing has been found yet."""
    return np.full((n_queries, k), np.inf, dtype=np.float32), np.full((n_queries, k), np.iinfo(np.int64).max)


def _scan_nearest(segments, tables, distances, ids, shard, n_shards):
    """Scan one of `n_shards` shares of each segment."""
    n_queries, _, K = tables.shape
    registers = n_registers(K)
    together = not registers and K <= 256 and n_queries >= _ENOUGH_TOGETHER
    nearest = tables.argmin(axis=2)
    least = np.take_along_axis(tables, nearest[:, :, np.newaxis], axis=2)[:, :, 0]
    for segment in segments:
        first, last = (len(segment.blocks) * i // n_shards for i in (shard, shard + 1))
        if first == last:
            continue
        if not together:
            scan_nearest(*segment, tables, least, nearest, registers, first, last, distances, ids)
            continue
        stored = segment.blocks, segment.sizes, segment.sampled, segment.ids
        for start in range(0, n_queries, TOGETHER):
            q = slice(start, start + TOGETHER)
            scan_nearest_together(*stored, tables[q], least[q], first, last, distances[q], ids[q])


def join(found, n_queries):
    """Join the results (counts, distances, ids) of several parts of a database, ordered by (query, distance, id)."""
    query = np.concatenate([NONE[0], *(np.repeat(np.arange(n_queries), counts) for counts, _, _ in found)])
    distances, ids = (np.concatenate([NONE[i], *(result[i] for result in found)]) for i in (1, 2))
    order = np.lexsort((ids, distances, query))
    return np.bincount(query, minlength=n_queries), distances[order], ids[order]
