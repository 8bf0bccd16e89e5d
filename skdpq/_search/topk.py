"""Selection among the codes that a scan lets through: which of their items are the nearest, by (distance, id).

The kernels call it, and `scan_torch` for what its device has found. A candidate is a key, the bits of its distance
above its position in the segment, so that keys sort like distances. A code stands for as many items as share it; ids
are looked at only where distances tie.
"""

from typing import NamedTuple

import numpy as np

from .compiling import kernel, subroutine
from .results import NO_ID, merge_nearest
from .segments import OFFSET_CODES
from .simd import BLOCK_CODES, bits_float, float_bits

_SORT_KEYS = 128  # at most so many are sorted by counting
_SORT_INSERTED, _SORT_DEPTH = 16, 64  # keys of a part that is left to insertion, and parts that may wait
_NO_RANK = np.int64(2**63 - 1)  # of a key that is not among the nearest
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


@subroutine
def first_item(segment, u):
    """Return the position of code u's first item among the items of a segment."""
    if len(segment.offsets) == 0:
        return u
    start = segment.offsets[u // OFFSET_CODES]
    for v in range(u // OFFSET_CODES * OFFSET_CODES, u):
        start += segment.counts[v]
    return start


@subroutine
def id_at(segment, position):
    """Return the id of an item by its position, which counts that a file has may put beyond the last one."""
    return segment.ids[min(position, len(segment.ids) - 1)]


@subroutine
def make_key(distance, position):
    """Return the key of a distance, float32 and not negative, and a position."""
    return (np.uint64(float_bits(distance)) << np.uint64(32)) | np.uint64(position)


@subroutine
def distance_of(key):
    """Return the distance in a key."""
    return bits_float(np.uint32(key >> np.uint64(32)))


@subroutine
def position_of(key):
    """Return the position in a key."""
    return np.int64(key & np.uint64(0xFFFFFFFF))


@subroutine
def _partition(keys, low, high):
    """Move keys up to a pivot before those from it on, between two positions (Hoare); return where each kind begins.

    All up to the second position returned are at most the pivot, all from the first on at least.
    """
    a, b, c = keys[low], keys[(low + high) // 2], keys[high]
    if a > c:
        a, c = c, a
    pivot = a if b < a else c if b > c else b
    while low <= high:
        while keys[low] < pivot:
            low += 1
        while keys[high] > pivot:
            high -= 1
        if low <= high:
            keys[low], keys[high] = keys[high], keys[low]
            low += 1
            high -= 1
    return low, high


@subroutine
def select(keys, start, stop, k):
    """Move the k smallest keys from `start` up to `stop` there to the front, the largest of them last (Hoare)."""
    low, high, last = start, stop - 1, start + k - 1
    while low < high:
        i, j = _partition(keys, low, high)
        if last <= j:
            high = j
        elif last >= i:
            low = i
        else:
            return


@subroutine
def sort(keys, n):
    """Sort the first n keys in place (quicksort, and insertion for what it leaves): np.sort takes long to compile."""
    waiting = np.empty(2 * _SORT_DEPTH, dtype=np.int64)  # the bounds of parts that are still to be sorted
    depth = np.int64(0)
    low, high = np.int64(0), n - 1
    while True:
        while high - low > _SORT_INSERTED:
            i, j = _partition(keys, low, high)
            if j - low < high - i:  # the larger part waits, so that there are never more than log2(n) of them
                waiting[depth], waiting[depth + 1] = i, high
                high = j
            else:
                waiting[depth], waiting[depth + 1] = low, j
                low = i
            depth += 2
        if depth == 0:
            break
        depth -= 2
        low, high = waiting[depth], waiting[depth + 1]
    for i in range(1, n):
        key, j = keys[i], i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


@subroutine
def sorted_keys(keys, start, stop):
    """Return the keys from `start` up to `stop`, of which no two are equal, in ascending order."""
    n = stop - start
    ascending = np.empty(n, dtype=np.uint64)
    if n > _SORT_KEYS:
        for i in range(n):
            ascending[i] = keys[start + i]
        sort(ascending, n)
        return ascending
    # A few are faster counted than sorted: their ranks are vector comparisons without a branch.
    for i in range(n):
        rank = np.int64(0)
        for j in range(n):
            rank += keys[start + j] < keys[start + i]
        ascending[rank] = keys[start + i]
    return ascending


@subroutine
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


@subroutine
def max_kept(k, n_codes):
    """Return how many of a segment's codes `keep_nearest` keeps at most."""
    k = min(k, n_codes)
    return k + k // 8 + 1


@subroutine
def n_worth_collecting(k, n_codes, n_items):
    """Return how many keys more than these are worth collecting before `keep_nearest` is called again."""
    k = min(k, n_codes)
    return max(64, min(k, 2 * k * n_codes // n_items))


@subroutine
def keep_nearest(keys, n_keys, k, segment):
    """Move codes that hold the k nearest items to the front.

    Returns how many codes these are, and the largest distance that one of the k items may have.
    """
    distances = np.empty(n_keys, dtype=np.float32)
    counts = np.empty(n_keys, dtype=np.int32)
    for i in range(n_keys):
        distances[i] = distance_of(keys[i])
        counts[i] = 1
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
    # Many are equally far: of those at the threshold, of which not all fit among k, take those whose ids are lowest.
    select(keys, np.int64(0), n_keys, k)
    threshold = distance_of(keys[k - 1])
    ranks = np.empty(2 * n_keys, dtype=np.uint64)  # twice: as the keys stand, and with the lowest in front
    for i in range(n_keys):
        distance = distance_of(keys[i])
        rank = np.int64(0) if distance < threshold else _NO_RANK
        if distance == threshold:
            rank = 1 + np.int64(id_at(segment, first_item(segment, position_of(keys[i]))))
        ranks[i] = ranks[n_keys + i] = rank
    select(ranks, n_keys, 2 * n_keys, k)
    n_kept = 0
    for i in range(n_keys):
        keys[n_kept] = keys[i]
        n_kept += ranks[i] <= ranks[n_keys + k - 1]
    return n_kept, threshold


@subroutine
def _lowest_ids(keys, start, stop, n_most, segment):
    """Return the lowest ids among the items of codes, ascending, at most `n_most`, and how many they are."""
    n = np.int64(0)
    for i in range(start, stop):
        n += min(np.int64(segment.counts[position_of(keys[i])]), n_most)
    lowest = np.empty(n, dtype=np.uint64)
    n = np.int64(0)
    in_order = True
    for i in range(start, stop):
        u = position_of(keys[i])
        first = first_item(segment, u)
        if n >= n_most and np.uint64(id_at(segment, first)) > lowest[n_most - 1]:
            continue  # so do all but the first of a code that is stored more than once
        in_order &= n == 0 or np.uint64(id_at(segment, first)) > lowest[n - 1]
        for item in range(first, first + min(np.int64(segment.counts[u]), n_most)):
            lowest[n] = id_at(segment, item)
            n += 1
        if n > n_most or (n == n_most and not in_order):
            select(lowest, np.int64(0), n, n_most)
            n = n_most
            in_order = False
    if not in_order:
        sort(lowest, n)
    return lowest, n


@subroutine
def expand(keys, segment, n_most, out_distances, out_ids, at):
    """Write the items of codes whose keys are sorted, by (distance, id), at most `n_most`; return how many.

    They are written from the position `at` on.
    """
    n = np.int64(0)
    i = np.int64(0)
    while i < len(keys) and n < n_most:
        end = i + 1
        while end < len(keys) and keys[end] >> np.uint64(32) == keys[i] >> np.uint64(32):
            end += 1
        distance = distance_of(keys[i])
        if end == i + 1:  # no tie, so the ids are in order as they are stored
            u = position_of(keys[i])
            first = first_item(segment, u)
            n_items = min(np.int64(segment.counts[u]), n_most - n)
            for j in range(n_items):
                out_distances[at + n + j] = distance
                out_ids[at + n + j] = id_at(segment, first + j)
        else:
            lowest, n_items = _lowest_ids(keys, i, end, n_most - n, segment)
            for j in range(n_items):
                out_distances[at + n + j] = distance
                out_ids[at + n + j] = lowest[j]
        n += n_items
        i = end
    return n


@subroutine
def expand_each(keys, ends, segment):
    """Write the items of each query's codes by (distance, id): how many each has, their distances and their ids.

    `keys` are those of the queries, one after the other, `ends` where each query's end.
    """
    n_queries = len(ends)
    counts = np.empty(n_queries, dtype=np.int64)
    total, start = np.int64(0), np.int64(0)
    for q in range(n_queries):
        counts[q] = 0
        for i in range(start, ends[q]):
            counts[q] += segment.counts[position_of(keys[i])]
        total += counts[q]
        start = ends[q]
    distances = np.empty(total, dtype=np.float32)
    ids = np.empty(total, dtype=np.int64)
    total, start = np.int64(0), np.int64(0)
    for q in range(n_queries):
        expand(sorted_keys(keys, start, ends[q]), segment, counts[q], distances, ids, total)
        total += counts[q]
        start = ends[q]
    return counts, distances, ids


@subroutine(inline="always")
def no_candidates(segment, distances):
    """Return candidates for what may come before the nearest items found in other segments."""
    n_queries, k = distances.shape
    n_codes = len(segment.counts)
    n_spare = n_worth_collecting(k, n_codes, segment.n_items)
    keys = np.empty((n_queries, max_kept(k, n_codes) + n_spare + BLOCK_CODES + 1), dtype=np.uint64)
    n_keys, n_full = np.empty(n_queries, dtype=np.int64), np.empty(n_queries, dtype=np.int64)
    thresholds = np.empty(n_queries, dtype=np.float32)
    for q in range(n_queries):
        n_keys[q], n_full[q], thresholds[q] = 0, n_spare, distances[q, k - 1]
    return Candidates(k, keys, n_keys, n_full, n_spare, thresholds)


@subroutine(inline="always")
def drop_far(candidates, q, segment):
    """Drop all but the nearest candidates of a query; tell whether its threshold falls."""
    n_kept, threshold = keep_nearest(candidates.keys[q], candidates.n_keys[q], candidates.k, segment)
    candidates.n_keys[q] = n_kept
    candidates.n_full[q] = n_kept + candidates.n_spare
    falls = threshold < candidates.thresholds[q]
    if falls:
        candidates.thresholds[q] = threshold
    return falls


def merge_found(keys, n_keys, segment, distances, ids):
    """Merge the nearest items of each query's candidates with what was found before.

    Parameters
    ----------
    keys : ndarray of shape (n_queries, n), uint64
        The candidates' keys.
    n_keys : ndarray of shape (n_queries,), int64
        How many keys each query has.
    segment : Segment
        Where the candidates stand.
    distances, ids : ndarray of shape (n_queries, k)
        The nearest items found before, as `results.merge_nearest` takes them; overwritten.
    """
    if distances[0, 0] == np.inf:  # a segment has an item for each query, so there is none before the first
        _write_nearest(keys, n_keys, segment, distances, ids)
        return
    found = np.empty_like(distances), np.empty_like(ids)
    _write_nearest(keys, n_keys, segment, *found)
    merge_nearest(distances, ids, *found)


@kernel
def _write_nearest(keys, n_keys, segment, distances, ids):
    """Write the nearest items of each query's candidates; what is left of the k is infinite."""
    k = distances.shape[1]
    for q in range(len(keys)):
        n = expand(sorted_keys(keys[q], np.int64(0), n_keys[q]), segment, k, distances[q], ids[q], np.int64(0))
        for i in range(n, k):
            distances[q, i] = np.inf
            ids[q, i] = NO_ID
