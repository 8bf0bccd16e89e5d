"""Numba scans over codes: the k nearest, and all within a radius.

The distance of a code is the float32 sum of its table entries in the order of the parts. Results are ordered by
(distance, position). Kernels hold no lock (nogil) and run on one thread; callers run them side by side.
"""

import numba
import numpy as np

_BLOCK = 2048  # distances computed at a time; they stay in the L1 cache


@numba.njit(nogil=True, cache=True)
def _distances(table, codes, start, out):
    for i in range(len(out)):
        total = table[0, codes[start + i, 0]]
        for m in range(1, codes.shape[1]):
            total += table[m, codes[start + i, m]]
        out[i] = total


@numba.njit(nogil=True, cache=True)
def _sift_down(distances, positions, size):
    """Restore the max-heap over (distance, position) after its root was replaced."""
    i = 0
    while True:
        largest = 2 * i + 1
        if largest >= size:
            return
        right = largest + 1
        if right < size and (
            distances[right] > distances[largest]
            or (distances[right] == distances[largest] and positions[right] > positions[largest])
        ):
            largest = right
        if distances[i] > distances[largest] or (
            distances[i] == distances[largest] and positions[i] > positions[largest]
        ):
            return
        distances[i], distances[largest] = distances[largest], distances[i]
        positions[i], positions[largest] = positions[largest], positions[i]
        i = largest


@numba.njit(nogil=True, cache=True)
def scan_nearest(tables, codes, exclude, distances, positions):
    """Find the k nearest codes of each query.

    Parameters
    ----------
    tables : ndarray of shape (n_queries, M, K), float32
        Look-up tables.
    codes : ndarray of shape (n, M)
        The database.
    exclude : ndarray of shape (n_queries,), int64
        A position that the query may not return; -1 for none.
    distances : ndarray of shape (n_queries, k), float32
        Receives squared distances, ascending; k is at most the number of codes that a query may return.
    positions : ndarray of shape (n_queries, k), int64
        Receives positions in `codes`.
    """
    n, k = len(codes), distances.shape[1]
    buffer = np.empty(_BLOCK, dtype=np.float32)
    for q in range(len(tables)):
        heap, where = distances[q], positions[q]
        heap[:] = np.inf
        where[:] = n  # behind every real position, also among infinite distances
        for start in range(0, n, _BLOCK):
            block = buffer[: min(_BLOCK, n - start)]
            _distances(tables[q], codes, start, block)
            for i in range(len(block)):
                # Positions ascend, so one that ties with the root of a full heap comes behind it.
                if (block[i] < heap[0] or where[0] == n) and start + i != exclude[q]:
                    heap[0], where[0] = block[i], start + i
                    _sift_down(heap, where, k)
        for size in range(k - 1, 0, -1):
            heap[0], heap[size] = heap[size], heap[0]
            where[0], where[size] = where[size], where[0]
            _sift_down(heap, where, size)


@numba.njit(nogil=True, cache=True)
def scan_radius(tables, codes, exclude, threshold):
    """Find all codes of each query up to a squared distance.

    Parameters
    ----------
    tables : ndarray of shape (n_queries, M, K), float32
        Look-up tables.
    codes : ndarray of shape (n, M)
        The database.
    exclude : ndarray of shape (n_queries,), int64
        A position that the query may not return; -1 for none.
    threshold : float32
        Largest squared distance to return.

    Returns
    -------
    counts : ndarray of shape (n_queries,), int64
        Results of each query; those of all queries follow one another.
    distances : ndarray of shape (n_results,), float32
        Squared distances, ascending in each query.
    positions : ndarray of shape (n_results,), int64
        Positions in `codes`.
    """
    n = len(codes)
    counts = np.empty(len(tables), dtype=np.int64)
    distances = np.empty(1024, dtype=np.float32)
    positions = np.empty(1024, dtype=np.int64)
    buffer = np.empty(_BLOCK, dtype=np.float32)
    end = 0
    for q in range(len(tables)):
        first = end
        for start in range(0, n, _BLOCK):
            block = buffer[: min(_BLOCK, n - start)]
            _distances(tables[q], codes, start, block)
            if end + _BLOCK > len(distances):
                distances = np.concatenate((distances, np.empty(len(distances) + _BLOCK, dtype=np.float32)))
                positions = np.concatenate((positions, np.empty(len(positions) + _BLOCK, dtype=np.int64)))
            for i in range(len(block)):
                if block[i] <= threshold and start + i != exclude[q]:
                    distances[end] = block[i]
                    positions[end] = start + i
                    end += 1
        counts[q] = end - first
        order = np.argsort(distances[first:end], kind="mergesort")  # stable: ties stay in order of position
        distances[first:end] = distances[first:end][order]
        positions[first:end] = positions[first:end][order]
    return counts, distances[:end].copy(), positions[:end].copy()
