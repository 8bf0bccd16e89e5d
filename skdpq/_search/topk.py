"""Numba selection among the codes that a scan lets through: which of their items are the nearest, by (distance, id).

A candidate is a key, the bits of its distance above its position in the segment, so that keys sort like distances. A
code stands for as many items as share it; ids are looked at only where distances tie.
"""

import numpy as np
from numba import njit

from .simd import bits_float, float_bits

SAMPLED = 64  # codes from one stored sum of sizes to the next
_FEW = 128  # keys that are sorted by counting
_BISECTIONS = 12  # leave 1/4096 of the largest distance


@njit(nogil=True, cache=True)
def first_item(sizes, sampled, u):
    """Return the position of code u's first item among the items of a segment."""
    start = sampled[u // SAMPLED]
    for v in range(u // SAMPLED * SAMPLED, u):
        start += sizes[v]
    return start


@njit(nogil=True, cache=True)
def make_key(distance, position):
    """Return the key of a distance, float32 and not negative, and a position."""
    return (np.uint64(float_bits(distance)) << np.uint64(32)) | np.uint64(position)


@njit(nogil=True, cache=True)
def _distance_of(key):
    return bits_float(np.uint32(key >> np.uint64(32)))


@njit(nogil=True, cache=True)
def position_of(key):
    """Return the position in a key."""
    return np.int64(key & np.uint64(0xFFFFFFFF))


@njit(nogil=True, cache=True)
def _select(keys, k):
    """Move the k smallest keys to the front, the largest of them to k - 1 (Hoare)."""
    low = 0
    high = len(keys) - 1
    while low < high:
        pivot = max(min(keys[low], keys[high]), min(max(keys[low], keys[high]), keys[(low + high) // 2]))
        i = low
        j = high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@njit(nogil=True, cache=True)
def sorted_keys(keys):
    """Return keys, of which no two are equal, in ascending order."""
    n = len(keys)
    if n > _FEW:
        return np.sort(keys)
    # A few are faster counted than sorted: their ranks are vector comparisons without a branch.
    ascending = np.empty(n, dtype=np.uint64)
    for i in range(n):
        rank = np.int64(0)
        for j in range(n):
            rank += keys[j] < keys[i]
        ascending[rank] = keys[i]
    return ascending


@njit(nogil=True, cache=True)
def limit_of_nearest(distances, counts, k):
    """Return a distance up to which there are k items, and few more if it can be had; infinite if there are fewer.

    It is sought by bisection, whose steps are vector instructions without a branch.

    Parameters
    ----------
    distances : ndarray of shape (n,), float32
        Distances of codes.
    counts : ndarray of shape (n,), int32
        How many items each code has.
    k : int
        Number of items.

    Returns
    -------
    limit : float32
        The distance.
    """
    low, high = np.float32(0), np.float32(0)
    n_items = np.int64(0)
    for i in range(len(distances)):
        high = max(high, distances[i])
        n_items += counts[i]
    if n_items < k:
        return np.float32(np.inf)
    for _ in range(_BISECTIONS):
        if n_items <= k + k // 8:
            break
        middle = low + (high - low) * np.float32(0.5)
        n_there = np.int64(0)
        for i in range(len(distances)):
            n_there += counts[i] if distances[i] <= middle else np.int32(0)
        if n_there >= k:
            high, n_items = middle, n_there
        else:
            low = middle
    return high


@njit(nogil=True, cache=True)
def room(k, sizes, ids):
    """Return how many keys `keep_nearest` keeps at most, and how many more are worth to be collected between calls."""
    k = min(k, len(sizes))
    return k + k // 8 + 1, max(64, min(k, 2 * k * len(sizes) // len(ids)))


@njit(nogil=True, cache=True)
def keep_nearest(keys, size, k, sizes, sampled, ids):
    """Move codes that hold the k nearest items to the front.

    Returns how many they are, and the largest distance that an item of interest may have.
    """
    distances = np.empty(size, dtype=np.float32)
    counts = np.ones(size, dtype=np.int32)
    for i in range(size):
        distances[i] = _distance_of(keys[i])
    if len(ids) > len(sizes):
        for i in range(size):
            counts[i] = sizes[position_of(keys[i])]
    limit = limit_of_nearest(distances, counts, k)
    n_kept = 0
    for i in range(size):
        n_kept += distances[i] <= limit
    if n_kept <= room(k, sizes, ids)[0]:
        n_kept = 0
        for i in range(size):
            keys[n_kept] = keys[i]
            n_kept += distances[i] <= limit
        return n_kept, limit
    # Many are equally far.
    _select(keys[:size], k)
    limit = _distance_of(keys[k - 1])
    _keep_lowest_ids(keys[:size], k, limit, sizes, sampled, ids)
    return k, limit


@njit(nogil=True, cache=True)
def _keep_lowest_ids(keys, k, limit, sizes, sampled, ids):
    """Of the codes at distance `limit`, of which not all fit among the first k, take those whose ids are lowest."""
    n_less = 0
    for i in range(k):
        if _distance_of(keys[i]) < limit:
            keys[n_less], keys[i] = keys[i], keys[n_less]
            n_less += 1
    n_tied = n_less
    for i in range(n_less, len(keys)):
        if _distance_of(keys[i]) == limit:
            keys[n_tied], keys[i] = keys[i], keys[n_tied]
            n_tied += 1
    first = np.empty(n_tied - n_less, dtype=np.uint64)  # as all that is sorted here: a sort takes long to compile
    for i in range(len(first)):
        first[i] = ids[first_item(sizes, sampled, position_of(keys[n_less + i]))]
    highest = np.sort(first)[k - n_less - 1]
    n_kept = n_less
    for i in range(len(first)):
        if first[i] <= highest:
            keys[n_kept] = keys[n_less + i]
            n_kept += 1


@njit(nogil=True, cache=True)
def _lowest_ids(keys, most, sizes, sampled, ids):
    """Return the lowest ids among the items of some codes, ascending and at most so many."""
    n = np.int64(0)
    for key in keys:
        n += min(sizes[position_of(key)], most)
    lowest = np.empty(n, dtype=np.uint64)
    n = np.int64(0)
    in_order = True
    for key in keys:
        start = first_item(sizes, sampled, position_of(key))
        if n >= most and np.uint64(ids[start]) > lowest[most - 1]:
            continue  # so do all but the first of a code that is stored more than once
        in_order &= n == 0 or np.uint64(ids[start]) > lowest[n - 1]
        for item in range(start, start + min(sizes[position_of(key)], most)):
            lowest[n] = ids[item]
            n += 1
        if n > most or (n == most and not in_order):
            _select(lowest[:n], most)
            n = most
            in_order = False
    return lowest[:n] if in_order else np.sort(lowest[:n])


@njit(nogil=True, cache=True)
def expand(keys, sizes, sampled, ids, most, out_distances, out_ids):
    """Write the items of codes whose keys are sorted, by (distance, id), at most so many; return how many there are."""
    n = np.int64(0)
    i = 0
    while i < len(keys) and n < most:
        end = i + 1
        while end < len(keys) and keys[end] >> np.uint64(32) == keys[i] >> np.uint64(32):
            end += 1
        distance = _distance_of(keys[i])
        if end == i + 1:  # no tie, so the ids are in order as they are stored
            u = position_of(keys[i])
            start = first_item(sizes, sampled, u)
            n_items = min(np.int64(sizes[u]), most - n)
            for j in range(n_items):
                out_distances[n + j] = distance
                out_ids[n + j] = ids[start + j]
            n += n_items
        else:
            for item in _lowest_ids(keys[i:end], most - n, sizes, sampled, ids):
                out_distances[n] = distance
                out_ids[n] = item
                n += 1
        i = end
    return n


@njit(nogil=True, cache=True)
def merge_nearest(distances, ids, other_distances, other_ids):
    """Merge, in place, rows of (distance, id) in ascending order with others, and keep as many as there were.

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


@njit(nogil=True, cache=True)
def merge_found(keys, size, sizes, sampled, ids, distances, out_ids):
    """Merge the nearest items of each query's codes with what was found before.

    Parameters
    ----------
    keys : ndarray of shape (n_queries, n_keys), uint64
        Each (distance, position of a code) in one word; overwritten.
    size : ndarray of shape (n_queries,), int64
        How many keys each query has.
    sizes, sampled, ids : ndarray
        Arrays of the segment.
    distances, out_ids : ndarray of shape (n_queries, k)
        As for `scan_nearest`.
    """
    k = distances.shape[1]
    found_distances = np.empty((1, k), dtype=np.float32)
    found_ids = np.empty((1, k), dtype=np.int64)
    for q in range(len(keys)):
        n, _ = keep_nearest(keys[q], size[q], k, sizes, sampled, ids)
        nearest = sorted_keys(keys[q, :n])
        if distances[q, 0] == np.inf:
            expand(nearest, sizes, sampled, ids, k, distances[q], out_ids[q])
            continue
        n = expand(nearest, sizes, sampled, ids, k, found_distances[0], found_ids[0])
        merge_nearest(distances[q : q + 1], out_ids[q : q + 1], found_distances[:, :n], found_ids[:, :n])


@njit(nogil=True, cache=True)
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
