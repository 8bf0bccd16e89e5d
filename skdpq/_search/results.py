"""Results of a search, and how those of several parts are put together.

Both scans and `CodeIndex` call this. There are two forms. The nearest of each query are two arrays of a row a query,
distances and ids. All within a radius are three flat arrays: how many each query has, distances and ids. Either way a
query's results ascend by (distance, id).
"""

import numpy as np

from .compiling import kernel

NO_ID = np.iinfo(np.int64).max  # of what has not been found
NONE = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)  # counts, distances, ids of no query


def nothing(n_queries, k):
    """Return distances and ids, (n_queries, k), among which nothing has been found yet."""
    return np.full((n_queries, k), np.inf, dtype=np.float32), np.full((n_queries, k), NO_ID)


@kernel
def merge_nearest(distances, ids, other_distances, other_ids):
    """Merge, in place, the nearest items of each query with others, and keep as many as there were.

    Parameters
    ----------
    distances, other_distances : ndarray of shape (n_queries, k), (n_queries, k'), float32
        Ascending; infinite where there is no item.
    ids, other_ids : ndarray of shape (n_queries, k), (n_queries, k'), int64
        The items' ids, ascending at equal distance.
    """
    k = distances.shape[1]
    merged_distances = np.empty(k, dtype=np.float32)
    merged_ids = np.empty(k, dtype=np.int64)
    for q in range(len(distances)):
        a = 0
        b = 0
        for i in range(k):
            if b == other_distances.shape[1] or (
                distances[q, a] < other_distances[q, b]
                or (distances[q, a] == other_distances[q, b] and ids[q, a] <= other_ids[q, b])
            ):
                merged_distances[i] = distances[q, a]
                merged_ids[i] = ids[q, a]
                a += 1
            else:
                merged_distances[i] = other_distances[q, b]
                merged_ids[i] = other_ids[q, b]
                b += 1
        for i in range(k):
            distances[q, i] = merged_distances[i]
            ids[q, i] = merged_ids[i]


def join(found, n_queries):
    """Return all within a radius of some queries, given those in several parts of the database, in any order."""
    query = np.concatenate([NONE[0], *(np.repeat(np.arange(n_queries), counts) for counts, _, _ in found)])
    _, distances, ids = concatenate(found)
    order = np.lexsort((ids, distances, query))
    return np.bincount(query, minlength=n_queries), distances[order], ids[order]


def concatenate(found):
    """Return all within a radius of several blocks of queries, given those of each block."""
    return tuple(map(np.concatenate, zip(NONE, *found, strict=True)))


@kernel
def count_others(query_of_item, item_ids, starts, ids):
    """Return how many results each item has without itself, (n,) int64; parameters are those of `without_self`."""
    counts = np.empty(len(item_ids), dtype=np.int64)
    for item in range(len(item_ids)):
        start, stop = starts[query_of_item[item]], starts[query_of_item[item] + 1]
        i = start
        while i < stop and ids[i] != item_ids[item]:
            i += 1
        counts[item] = stop - start - (i < stop)
    return counts


@kernel
def without_self(query_of_item, item_ids, starts, distances, ids, indptr):
    """Copy the results of queries to the items that share them, each item without itself.

    Parameters
    ----------
    query_of_item : ndarray of shape (n,), int64
        Which query each item shares.
    item_ids : ndarray of shape (n,), int64
        The items' ids.
    starts : ndarray of shape (n_queries + 1,), int64
        Where the results of each query start.
    distances, ids : ndarray of shape (n_results,), float32 and int64
        Results of the queries.
    indptr : ndarray of shape (n + 1,), int64
        Where the results of each item are to start; what does not fit is dropped.

    Returns
    -------
    distances, ids : ndarray of shape (indptr[-1],), float32 and int64
        Results of the items.
    """
    out_distances = np.empty(indptr[-1], dtype=np.float32)
    out_ids = np.empty(indptr[-1], dtype=np.int64)
    for item in range(len(item_ids)):
        to = indptr[item]
        query = query_of_item[item]
        for i in range(starts[query], starts[query + 1]):
            if ids[i] != item_ids[item] and to < indptr[item + 1]:
                out_distances[to] = distances[i]
                out_ids[to] = ids[i]
                to += 1
    return out_distances, out_ids


def split_results(values, indptr):
    """Return what belongs to each query, from indptr[i] to indptr[i + 1], as an object array of arrays."""
    parts = np.empty(len(indptr) - 1, dtype=object)
    for i in range(len(parts)):
        parts[i] = values[indptr[i] : indptr[i + 1]]
    return parts
