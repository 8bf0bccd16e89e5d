"""Selection among the codes that a scan lets through: which of their items are the nearest, by (distance, id).

The kernels call it, and `scan_torch` for what its device has found. A candidate is a key, the bits of its distance
above its position in the segment, so that keys sort like distances. A code stands for as many items as share it; ids
are looked at only where distances tie.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from .results import merge_nearest
from .segments import OFFSET_CODES
from .simd import BLOCK_CODES, bits_float, float_bits

_SORT_KEYS = 128  # at most so many are sorted by counting
_BISECTIONS = 12  # leave 1/4096 of the largest distance


class Candidates(NamedTuple):
    """The codes found so far for each query of a scan; its arrays change as the scan goes on.

    Attributes
    ----------
    k : int
        Number of neighbors.
    keys : ndarray of shape (n_queries, n), uint64
        Keys of the codes (`topk.make_key`).
    n_keys : ndarray of shape (n_queries,), int64
        How many keys each query has.
    n_full : ndarray of shape (n_queries,), int64
        How many keys each query may have until `drop_far` is called.
    n_spare : int
        How many keys are collected from one such call to the next.
    thresholds : ndarray of shape (n_queries,), float32
        The largest distance that one of the k nearest items may have.
    """

    k: int
    keys: np.ndarray
    n_keys: np.ndarray
    n_full: np.ndarray
    n_spare: int
    thresholds: np.ndarray


@njit(nogil=True, cache=True)
def first_item(segment, u):
    """Return the position of code u's first item among the items of a segment."""
    start = segment.offsets[u // OFFSET_CODES]
    for v in range(u // OFFSET_CODES * OFFSET_CODES, u):
        start += segment.counts[v]
    return start


@njit(nogil=True, cache=True)
def make_key(distance, position):
    """Return the key of a distance, float32 and not negative, and a position."""
    return (np.uint64(float_bits(distance)) << np.uint64(32)) | np.uint64(position)


@njit(nogil=True, cache=True)
def distance_of(key):
    """Return the distance in a key."""
    return bits_float(np.uint32(key >> np.uint64(32)))


@njit(nogil=True, cache=True)
def position_of(key):
    """Return the position in a key."""
    return np.int64(key & np.uint64(0xFFFFFFFF))


@njit(nogil=True, cache=True)
def select(keys, k):
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
    if n > _SORT_KEYS:
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
def threshold_of_nearest(distances, counts, k):
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
    threshold : float32
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
def max_kept(k, n_codes):
    """Return how many of a segment's codes `keep_nearest` keeps at most."""
    k = min(k, n_codes)
    return k + k // 8 + 1


@njit(nogil=True, cache=True)
def n_worth_collecting(k, n_codes, n_items):
    """Return how many keys more than these are worth collecting before `keep_nearest` is called again."""
    k = min(k, n_codes)
    return max(64, min(k, 2 * k * n_codes // n_items))


@njit(nogil=True, cache=True)
def keep_nearest(keys, n_keys, k, segment):
    """Move codes that hold the k nearest items to the front.

    Returns how many codes these are, and the largest distance that one of the k items may have.
    """
    distances = np.empty(n_keys, dtype=np.float32)
    counts = np.ones(n_keys, dtype=np.int32)
    for i in range(n_keys):
        distances[i] = distance_of(keys[i])
    if len(segment.ids) > len(segment.counts):
        for i in range(n_keys):
            counts[i] = segment.counts[position_of(keys[i])]
    threshold = threshold_of_nearest(distances, counts, k)
    n_kept = 0
    for i in range(n_keys):
        n_kept += distances[i] <= threshold
    if n_kept <= max_kept(k, len(segment.counts)):
        n_kept = 0
        for i in range(n_keys):
            keys[n_kept] = keys[i]
            n_kept += distances[i] <= threshold
        return n_kept, threshold
    # Many are equally far.
    select(keys[:n_keys], k)
    threshold = distance_of(keys[k - 1])
    _keep_lowest_ids(keys[:n_keys], k, threshold, segment)
    return k, threshold


@njit(nogil=True, cache=True)
def _keep_lowest_ids(keys, k, threshold, segment):
    """Of the codes at the threshold, of which not all fit among the first k, take those whose ids are lowest."""
    n_less = 0
    for i in range(k):
        if distance_of(keys[i]) < threshold:
            keys[n_less], keys[i] = keys[i], keys[n_less]
            n_less += 1
    n_tied = n_less
    for i in range(n_less, len(keys)):
        if distance_of(keys[i]) == threshold:
            keys[n_tied], keys[i] = keys[i], keys[n_tied]
            n_tied += 1
    first = np.empty(n_tied - n_less, dtype=np.uint64)  # as all that is sorted here: a sort takes long to compile
    for i in range(len(first)):
        first[i] = segment.ids[first_item(segment, position_of(keys[n_less + i]))]
    highest = np.sort(first)[k - n_less - 1]
    n_kept = n_less
    for i in range(len(first)):
        if first[i] <= highest:
            keys[n_kept] = keys[n_less + i]
            n_kept += 1


@njit(nogil=True, cache=True)
def _lowest_ids(keys, n_most, segment):
    """Return the lowest ids among the items of some codes, ascending, at most `n_most`."""
    n = np.int64(0)
    for key in keys:
        n += min(segment.counts[position_of(key)], n_most)
    lowest = np.empty(n, dtype=np.uint64)
    n = np.int64(0)
    in_order = True
    for key in keys:
        start = first_item(segment, position_of(key))
        if n >= n_most and np.uint64(segment.ids[start]) > lowest[n_most - 1]:
            continue  # so do all but the first of a code that is stored more than once
        in_order &= n == 0 or np.uint64(segment.ids[start]) > lowest[n - 1]
        for item in range(start, start + min(segment.counts[position_of(key)], n_most)):
            lowest[n] = segment.ids[item]
            n += 1
        if n > n_most or (n == n_most and not in_order):
            select(lowest[:n], n_most)
            n = n_most
            in_order = False
    return lowest[:n] if in_order else np.sort(lowest[:n])


@njit(nogil=True, cache=True)
def expand(keys, segment, n_most, out_distances, out_ids):
    """Write the items of codes whose keys are sorted, by (distance, id), at most `n_most`; return how many."""
    n = np.int64(0)
    i = 0
    while i < len(keys) and n < n_most:
        end = i + 1
        while end < len(keys) and keys[end] >> np.uint64(32) == keys[i] >> np.uint64(32):
            end += 1
        distance = distance_of(keys[i])
        if end == i + 1:  # no tie, so the ids are in order as they are stored
            u = position_of(keys[i])
            start = first_item(segment, u)
            n_items = min(np.int64(segment.counts[u]), n_most - n)
            for j in range(n_items):
                out_distances[n + j] = distance
                out_ids[n + j] = segment.ids[start + j]
            n += n_items
        else:
            for item in _lowest_ids(keys[i:end], n_most - n, segment):
                out_distances[n] = distance
                out_ids[n] = item
                n += 1
        i = end
    return n


@njit(nogil=True, cache=True, inline="always")
def no_candidates(segment, distances):
    """Return candidates for what may come before the nearest items found in other segments."""
    n_queries, k = distances.shape
    n_codes = len(segment.counts)
    n_spare = n_worth_collecting(k, n_codes, len(segment.ids))
    keys = np.empty((n_queries, max_kept(k, n_codes) + n_spare + BLOCK_CODES + 1), dtype=np.uint64)
    n_keys = np.zeros(n_queries, dtype=np.int64)
    n_full = np.full(n_queries, n_spare)
    return Candidates(k, keys, n_keys, n_full, n_spare, distances[:, k - 1].copy())


@njit(nogil=True, cache=True, inline="always")
def drop_far(candidates, q, segment):
    """Drop all but the nearest candidates of a query; tell whether its threshold falls."""
    n_kept, threshold = keep_nearest(candidates.keys[q], candidates.n_keys[q], candidates.k, segment)
    candidates.n_keys[q] = n_kept
    candidates.n_full[q] = n_kept + candidates.n_spare
    falls = threshold < candidates.thresholds[q]
    if falls:
        candidates.thresholds[q] = threshold
    return falls


@njit(nogil=True, cache=True)
def merge_found(keys, n_keys, segment, distances, ids):
    """Merge the nearest items of each query's candidates with what was found before.

    Parameters
    ----------
    keys : ndarray of shape (n_queries, n), uint64
        The candidates' keys; overwritten.
    n_keys : ndarray of shape (n_queries,), int64
        How many keys each query has.
    segment : Segment
        Where the candidates stand.
    distances, ids : ndarray of shape (n_queries, k)
        The nearest items found before, as `results.merge_nearest` takes them; overwritten.
    """
    k = distances.shape[1]
    found_distances = np.empty((1, k), dtype=np.float32)
    found_ids = np.empty((1, k), dtype=np.int64)
    for q in range(len(keys)):
        n, _ = keep_nearest(keys[q], n_keys[q], k, segment)
        nearest = sorted_keys(keys[q, :n])
        if distances[q, 0] == np.inf:
            expand(nearest, segment, k, distances[q], ids[q])
            continue
        n = expand(nearest, segment, k, found_distances[0], found_ids[0])
        merge_nearest(distances[q : q + 1], ids[q : q + 1], found_distances[:, :n], found_ids[:, :n])
