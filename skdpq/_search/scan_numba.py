"""The scan on the CPU: a search shared out over blocks of queries, segments, and threads.

`CodeIndex` calls it; `scan_torch` does the same on a device, bit for bit. With many queries each thread takes blocks
of them; with few, threads share out the blocks of codes, and what they find is merged. `n_jobs` is joblib's, the
threads are not: joblib starts some for every call and looks after them every 10 ms, a hundred times what a search
takes.
"""

from typing import NamedTuple

from joblib import effective_n_jobs

from .._arrays import slices_of
from .._threads import run
from .kernels import TOGETHER_QUERIES, scan_nearest, scan_nearest_together, scan_radius
from .results import concatenate, join, merge_nearest, nothing
from .simd import BLOCK_CODES, HAS_SIMD, VECTOR_BYTES, n_registers
from .topk import merge_found


class Plan(NamedTuple):
    """How the work of a search is shared out; its results do not depend on it.

    Attributes
    ----------
    n_jobs : int, default=None
        Threads, as in joblib.
    simd : bool
        Whether to look up in registers; without, float32 entries are summed, or 8-bit ones of many queries at once.
    block_table_entries : int
        Table entries at a time in each thread: 16 MB.
    block_u8_entries : int
        8-bit entries at a time in each thread: half of a common L2 cache.
    block_keys : int
        Candidates at a time in each thread: 16 MB.
    chunk_bytes : int
        Codes that all queries of a block see in turn, while these stay in the L2 cache.
    min_queries_per_thread : int
        For fewer, which may be too uneven to share out, threads share out the codes.
    min_queries_per_thread_of_memory : int
        The same where codes come from memory, whose speed the threads share.
    cache_bytes : int
        Codes that may stay in the last cache.
    min_queries_together : int
        For fewer, float32 sums one by one are faster than 64 of 8 bits at once.
    min_lookups_of_threads : int
        8-bit look-ups; fewer take less than a quarter of a millisecond, and threads do not pay.
    lookups_of_query : int
        What a query costs besides, in 8-bit look-ups.
    lookups_of_float : int
        What a look-up in float32 costs, in those of 8 bits.
    """

    n_jobs: int | None = None
    simd: bool = HAS_SIMD
    block_table_entries: int = 2**22
    block_u8_entries: int = 2**19
    block_keys: int = 2**21
    chunk_bytes: int = 2**18
    min_queries_per_thread: int = 4
    min_queries_per_thread_of_memory: int = 32
    cache_bytes: int = 2**24
    min_queries_together: int = 8
    min_lookups_of_threads: int = 2**24
    lookups_of_query: int = 2**18
    lookups_of_float: int = 16

    def n_registers(self, K):
        """Return how many registers a part's table takes; 0 to look up in memory."""
        return n_registers(K) if self.simd else 0

    def n_threads(self, segments, queries):
        """Return how many threads to use: one where there is little to do."""
        M, K, _ = queries.codebooks.shape
        cost = 1 if self.n_registers(K) else self.lookups_of_float
        work = len(queries) * (_n_codes(segments) * M * cost + self.lookups_of_query)
        return effective_n_jobs(self.n_jobs) if work >= self.min_lookups_of_threads else 1

    def shares_queries(self, segments, queries, n_threads):
        """Tell whether threads take queries each, rather than codes."""
        in_cache = _n_codes(segments) * len(queries.codebooks) < self.cache_bytes
        n_least = self.min_queries_per_thread if in_cache else self.min_queries_per_thread_of_memory
        return n_threads == 1 or len(queries) >= n_least * n_threads


_DEFAULT = Plan()


def query_blocks(n_queries, M, K, k=1, n_threads=1, plan=_DEFAULT):
    """Return slices of the queries that are searched for at a time.

    Parameters
    ----------
    n_queries : int
        Number of queries.
    M, K : int
        Number of parts and of codewords a part.
    k : int, default=1
        Number of neighbors.
    n_threads : int, default=1
        Number of threads among which to share out the queries.
    plan : Plan
        How much there may be at a time.

    Returns
    -------
    blocks : list of slice
        Consecutive slices.
    """
    size = min(plan.block_table_entries // (M * K), plan.block_keys // (2 * k + BLOCK_CODES))
    if plan.n_registers(K):
        size = min(size, plan.block_u8_entries // (M * VECTOR_BYTES * plan.n_registers(K)))
    n_blocks = -(-n_queries // max(1, size))
    n_blocks = -(-n_blocks // n_threads) * n_threads  # as many for each thread
    size = max(1, -(-n_queries // max(1, n_blocks)))
    return slices_of(n_queries, size)


def nearest(segments, queries, k, plan):
    """Find the k nearest items of each query, ordered by (distance, id).

    Parameters
    ----------
    segments : sequence of Segment
        The database.
    queries : Queries
        The queries.
    k : int
        Number of neighbors.
    plan : Plan
        How to share out the work.

    Returns
    -------
    distances : ndarray of shape (n_queries, k), float32
        Squared distances.
    ids : ndarray of shape (n_queries, k), int64
        Ids of the items.
    """
    M, K, _ = queries.codebooks.shape
    distances, ids = nothing(len(queries), k)
    n_threads = plan.n_threads(segments, queries)

    def search(block):
        _scan_nearest(segments, queries.tables(block), (distances[block], ids[block]), 0, 1, plan)

    def search_shard(tables, shard):
        found = nothing(len(tables), k)
        _scan_nearest(segments, tables, found, shard, n_threads, plan)
        return found

    if plan.shares_queries(segments, queries, n_threads):
        run(search, query_blocks(len(queries), M, K, k, n_threads, plan), n_threads)
    else:
        for block in query_blocks(len(queries), M, K, k, plan=plan):
            tables = queries.tables(block)
            for found in run(lambda shard, tables=tables: search_shard(tables, shard), range(n_threads), n_threads):
                merge_nearest(distances[block], ids[block], *found)
    return distances, ids


def within_radius(segments, queries, threshold, plan):
    """Find all items up to a squared distance from each query, ordered by (distance, id).

    Parameters
    ----------
    segments, queries, plan
        As for `nearest`.
    threshold : float32
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
    M, K, _ = queries.codebooks.shape
    n_threads = plan.n_threads(segments, queries)

    def search(block):
        tables = queries.tables(block)
        nearest = tables.argmin(axis=2)
        found = [scan_radius(segment, tables, nearest, plan.n_registers(K), threshold) for segment in segments]
        return found[0] if len(found) == 1 else join(found, len(tables))

    return concatenate(run(search, query_blocks(len(queries), M, K, 1, n_threads, plan), n_threads))


def _n_codes(segments):
    return sum(len(segment.counts) for segment in segments)


def _scan_nearest(segments, tables, found, shard, n_shards, plan):
    """Merge what one of `n_shards` shares of each segment holds into what was found, distances and ids."""
    n_queries, _, K = tables.shape
    registers = plan.n_registers(K)
    together = not registers and K <= 256 and n_queries >= plan.min_queries_together
    nearest = tables.argmin(axis=2)
    for segment in segments:
        first, last = (len(segment.blocks) * i // n_shards for i in (shard, shard + 1))
        if first == last:
            continue
        if not together:
            chunk_blocks = max(1, plan.chunk_bytes // segment.blocks[0].nbytes)
            candidates = scan_nearest(segment, tables, nearest, registers, chunk_blocks, first, last, found[0])
            merge_found(*candidates, segment, *found)
            continue
        for start in range(0, n_queries, TOGETHER_QUERIES):
            q = slice(start, start + TOGETHER_QUERIES)
            candidates = scan_nearest_together(segment, tables[q], nearest[q], first, last, found[0][q])
            merge_found(*candidates, segment, *(array[q] for array in found))
