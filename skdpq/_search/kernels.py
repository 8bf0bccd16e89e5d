"""Numba scans over codes: the k nearest, all within a radius, and all distances.

The distance of a code is the float32 sum of its table entries in the order of the parts; every scan returns exactly
those, ordered by (distance, id). What makes a scan fast only decides which codes need not be looked at: entries are
rounded down to 8 bits so that their sum bounds the distance from below, a block of codes is compared at a time
(`_lookup`), and codes that begin alike are passed over together.

Kernels take the arrays of a `_segments.Segment`, hold no lock (nogil) and run on one thread; callers run them side by
side.
"""

import numpy as np
from numba import njit

from .simd import BLOCK, mark_block, mark_queries, trailing_zeros
from .topk import expand, keep_nearest, limit_of_nearest, make_key, merge_found, position_of, room

TOGETHER = 64  # queries whose sums are formed side by side where registers are not looked up in
_CHUNK = 64  # blocks that all queries see in turn: 128 KB at M = 8, which stay in the L2 cache
_TARGET = 254  # largest 8-bit sum that is not excluded
_ROUNDING = 2.0**-23  # twice the relative error of a float32 operation


@njit(nogil=True, cache=True)
def quantise(table, least, limit, bounds):
    """Round the entries of a table down to 8 bits, for distances up to a limit.

    Parameters
    ----------
    table : ndarray of shape (M, K), float32
        A query's look-up table.
    least : ndarray of shape (M,), float32
        The least entry of each part.
    limit : float32
        Largest distance of interest; may be infinite.
    bounds : ndarray of shape (M, W), uint8, W >= K
        Receives the rounded entries.

    Returns
    -------
    bound : int
        If the saturating sum of a code's rounded entries is larger, its distance is larger than the limit; -1 if all
        distances are.
    """
    M, K = table.shape
    rest = 0.0
    for m in range(M):
        rest += least[m]
    # Float32 sums of M entries that are not negative are off by less than M roundings.
    slack = np.float64(limit) * (1 + M * _ROUNDING) - rest * (1 - _ROUNDING)
    if slack < 0:
        return -1
    # Scaled entries that are too small by a few roundings are bounds all the same.
    scale = np.float32(min(_TARGET / max(slack, 1e-300) * (1 - 8 * _ROUNDING), 1e38))
    for m in range(M):
        for k in range(K):
            scaled = (table[m, k] - least[m]) * scale
            bounds[m, k] = np.uint8(np.int32(min(scaled, np.float32(255))))
    return _TARGET


@njit(nogil=True, cache=True)
def _aligned_bounds(shape):
    """Allocate rounded tables where no vector of 64 bytes crosses a cache line."""
    n = shape[0] * shape[1] * shape[2]
    buffer = np.zeros(n + 64, dtype=np.uint8)
    start = 64 - buffer.ctypes.data % 64
    return buffer[start : start + n].reshape(shape)


@njit(nogil=True, cache=True)
def _block_distances(table, blocks, b, out):
    """Compute the distances of a block of codes."""
    M = blocks.shape[1]
    for i in range(BLOCK):
        out[i] = np.float32(0)
    for m in range(0, M - 3, 4):  # four parts at a time: half the loads and stores of one at a time
        z0, z1, z2, z3 = blocks[b, m], blocks[b, m + 1], blocks[b, m + 2], blocks[b, m + 3]
        t0, t1, t2, t3 = table[m], table[m + 1], table[m + 2], table[m + 3]
        for i in range(BLOCK):
            out[i] = out[i] + t0[z0[i]] + t1[z1[i]] + t2[z2[i]] + t3[z3[i]]
    for m in range(M // 4 * 4, M):
        z, t = blocks[b, m], table[m]
        for i in range(BLOCK):
            out[i] += t[z[i]]


@njit(nogil=True, cache=True)
def _code_distance(table, blocks, block, i):
    """Compute the distance of one code."""
    distance = np.float32(0)
    for m in range(blocks.shape[1]):
        distance += table[m, blocks[block, m, i]]
    return distance


@njit(nogil=True, cache=True)
def _mark_by_distance(distances, limit, masks):
    """Set bit i of the masks where a distance is at most the limit, and return their union."""
    union = np.uint64(0)
    for w in range(BLOCK // 64):
        mask = np.uint64(0)
        for i in range(64):
            mask |= np.uint64(distances[w * 64 + i] <= limit) << np.uint64(i)
        masks[w] = mask
        union |= mask
    return union


@njit(nogil=True, cache=True)
def _advance(
    blocks, shared, until, n_codes, table, bounds, n_registers, bound, limit,
    block, last, keys, size, full, scratch, masks,
):  # fmt: skip
    """Append the keys of all codes up to the limit, block by block, until more than `full` are there.

    A key is (distance, position) in one 64-bit word. Returns the next block, and how many keys there are.
    """
    M = blocks.shape[1]
    width = bounds.shape[1]
    bounded = n_registers > 0 and limit < np.inf
    while block < last:
        end = min(np.int64(until[block]), last)
        n_shared = np.int64(0)
        left = np.int64(bound)
        if bounded:
            n_shared = np.int64(shared[block])
            for m in range(n_shared):
                left -= bounds[m, blocks[block, m, 0]]
            if left < 0:
                block = end
                continue
        while block < end:
            if bounded:
                found = mark_block(
                    n_registers,
                    blocks.ctypes.data + np.uintp((block * M + n_shared) * BLOCK),
                    bounds.ctypes.data + np.uintp(n_shared * width),
                    M - n_shared,
                    np.uint8(left),
                    masks.ctypes.data,
                )
            else:
                _block_distances(table, blocks, block, scratch)
                found = _mark_by_distance(scratch, limit, masks)
            if found:
                for w in range(BLOCK // 64):
                    mask = masks[w]
                    while mask:
                        i = 64 * w + np.int64(trailing_zeros(mask))
                        mask &= mask - np.uint64(1)
                        distance = _code_distance(table, blocks, block, i) if bounded else scratch[i]
                        u = block * BLOCK + i
                        if distance <= limit and u < n_codes:
                            keys[size] = make_key(distance, u)
                            size += 1
            block += 1
            if size > full:
                return block, size
    return block, size


@njit(nogil=True, cache=True)
def _block_of(blocks, code):
    """Return the first block whose last code does not come before `code`; the last block if all do."""
    M = blocks.shape[1]
    low = 0
    high = len(blocks) - 1
    while low < high:
        middle = (low + high) // 2
        m = 0
        while m < M - 1 and blocks[middle, m, BLOCK - 1] == code[m]:
            m += 1
        if blocks[middle, m, BLOCK - 1] < code[m]:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def _limit_in_block(table, blocks, sizes, block, k, distances, counts):
    """Return a distance up to which a block has k items; infinite if it has fewer."""
    _block_distances(table, blocks, block, distances)
    n = min(BLOCK, len(sizes) - block * BLOCK)
    for i in range(n):
        counts[i] = sizes[block * BLOCK + i]
    return limit_of_nearest(distances[:n], counts[:n], k)


@njit(nogil=True, cache=True)
def scan_nearest(
    blocks, shared, until, sizes, sampled, ids, tables, least, nearest, n_registers, first, last, distances, out_ids
):
    """Find the k nearest items of each query in some blocks of a segment, and merge them with what was found before.

    Parameters
    ----------
    blocks, shared, until, sizes, sampled, ids : ndarray
        Arrays of a segment.
    tables : ndarray of shape (n_queries, M, K), float32
        Look-up tables.
    least : ndarray of shape (n_queries, M), float32
        The least entry of each part.
    nearest : ndarray of shape (n_queries, M), int64
        The nearest codeword of each part.
    n_registers : int
        From `_lookup.n_registers`; 0 sums in float32 instead.
    first, last : int
        The blocks to scan.
    distances : ndarray of shape (n_queries, k), float32
        Squared distances found before, ascending, infinite where there are none; overwritten.
    out_ids : ndarray of shape (n_queries, k), int64
        Their ids, ascending at equal distance; overwritten.
    """
    n_queries, M, _ = tables.shape
    k = distances.shape[1]
    most, more = room(k, sizes, ids)
    keys = np.empty((n_queries, most + more + BLOCK + 1), dtype=np.uint64)
    size = np.zeros(n_queries, dtype=np.int64)
    full = np.full(n_queries, more)
    limit = distances[:, k - 1].copy()
    bounds = _aligned_bounds((n_queries if n_registers else 1, M, 64 * max(n_registers, 1)))
    bound = np.zeros(n_queries, dtype=np.int64)
    scratch = np.empty(BLOCK, dtype=np.float32)
    masks = np.empty(BLOCK // 64, dtype=np.uint64)
    counts = np.empty(BLOCK, dtype=np.int32)
    # Each query begins where its own code would stand, so that its limit is soon a close one.
    begin = np.empty(n_queries, dtype=np.int64)
    for q in range(n_queries):
        block = max(first, min(_block_of(blocks, nearest[q]), last - 1))
        limit[q] = min(limit[q], _limit_in_block(tables[q], blocks, sizes, block, k, scratch, counts))
        begin[q] = max(first, min(block, last - _CHUNK))
        if n_registers:
            bound[q] = quantise(tables[q], least[q], limit[q], bounds[q])
    for chunk in range(first - _CHUNK, last, _CHUNK):
        for q in range(n_queries):
            if chunk < first:
                block, stop = begin[q], min(begin[q] + _CHUNK, last)
            else:
                block, stop = chunk, min(chunk + _CHUNK, last)
                if begin[q] <= block < begin[q] + _CHUNK:
                    block = begin[q] + _CHUNK
            q_bounds = bounds[q if n_registers else 0]
            while block < stop:
                until_there = begin[q] if chunk >= first and block < begin[q] < stop else stop
                block, size[q] = _advance(
                    blocks, shared, until, len(sizes), tables[q], q_bounds, n_registers, bound[q], limit[q],
                    block, until_there, keys[q], size[q], full[q], scratch, masks,
                )  # fmt: skip
                if size[q] > full[q]:
                    size[q], nearer = keep_nearest(keys[q], size[q], k, sizes, sampled, ids)
                    full[q] = size[q] + more
                    if nearer < limit[q]:
                        limit[q] = nearer
                        if n_registers:
                            bound[q] = quantise(tables[q], least[q], nearer, q_bounds)
                if block == begin[q] and chunk >= first:
                    block += _CHUNK
    merge_found(keys, size, sizes, sampled, ids, distances, out_ids)


@njit(nogil=True, cache=True)
def scan_nearest_together(blocks, sizes, sampled, ids, tables, least, first, last, distances, out_ids):
    """Do as `scan_nearest` for up to 64 queries at a time, without look-ups in registers.

    The rounded tables of all queries lie side by side, so that the entries of one codeword are one load, and the
    vectors that any machine has add them up. Codes that begin like the one before share its first sums.

    Parameters
    ----------
    blocks, sizes, sampled, ids, tables, least, first, last, distances, out_ids
        As for `scan_nearest`; K is at most 256.
    """
    n_queries, M, K = tables.shape
    k = distances.shape[1]
    most, more = room(k, sizes, ids)
    keys = np.empty((n_queries, most + more + 1), dtype=np.uint64)
    size = np.zeros(n_queries, dtype=np.int64)
    full = np.full(n_queries, more)
    limit = distances[:, k - 1].copy()
    bounds = _aligned_bounds((M, K, TOGETHER))
    bounds[0] = 255
    column = np.empty((M, K), dtype=np.uint8)
    for q in range(n_queries):
        _set_column(bounds, q, quantise(tables[q], least[q], limit[q], column), column)
    n_leading = min(2, M)
    nothing = np.zeros(TOGETHER, dtype=np.uint8)
    leading = np.empty(TOGETHER, dtype=np.uint8)
    total = np.empty(TOGETHER, dtype=np.uint8)
    rest_of_bounds = bounds.ctypes.data + np.uintp(n_leading * K * TOGETHER)
    for block in range(first, last):
        stale = True  # the sums over the leading parts
        for i in range(min(BLOCK, len(sizes) - block * BLOCK)):
            code = blocks.ctypes.data + np.uintp(block * M * BLOCK + i)
            for m in range(n_leading):
                stale |= i == 0 or blocks[block, m, i] != blocks[block, m, i - 1]
            if stale:
                mark_queries(code, bounds.ctypes.data, K, n_leading, nothing.ctypes.data, leading.ctypes.data)
                stale = False
            mask = mark_queries(
                code + np.uintp(n_leading * BLOCK),
                rest_of_bounds,
                K,
                M - n_leading,
                leading.ctypes.data,
                total.ctypes.data,
            )
            while mask:
                q = np.int64(trailing_zeros(mask))
                mask &= mask - np.uint64(1)
                distance = _code_distance(tables[q], blocks, block, i)
                if distance <= limit[q]:
                    keys[q, size[q]] = make_key(distance, block * BLOCK + i)
                    size[q] += 1
                    if size[q] > full[q]:
                        size[q], nearer = keep_nearest(keys[q], size[q], k, sizes, sampled, ids)
                        full[q] = size[q] + more
                        if nearer < limit[q]:
                            limit[q] = nearer
                            _set_column(bounds, q, quantise(tables[q], least[q], nearer, column), column)
                            stale = True
    merge_found(keys, size, sizes, sampled, ids, distances, out_ids)


@njit(nogil=True, cache=True)
def _set_column(bounds, q, bound, column):
    """Set the rounded table of query q, among tables that lie side by side; exclude all with a negative bound."""
    for m in range(bounds.shape[0]):
        for z in range(bounds.shape[1]):
            bounds[m, z, q] = column[m, z] if bound >= 0 else np.uint8(255)


@njit(nogil=True, cache=True)
def scan_radius(blocks, shared, until, sizes, sampled, ids, tables, least, n_registers, limit):
    """Find all items of a segment up to a squared distance.

    Parameters
    ----------
    blocks, shared, until, sizes, sampled, ids, tables, least, n_registers
        As for `scan_nearest`.
    limit : float32
        Largest squared distance to return.

    Returns
    -------
    counts : ndarray of shape (n_queries,), int64
        Results of each query; those of all queries follow one another.
    distances : ndarray of shape (n_results,), float32
        Squared distances, ascending in each query.
    ids : ndarray of shape (n_results,), int64
        The items' ids, ascending at equal distance.
    """
    n_queries, M, _ = tables.shape
    counts = np.empty(n_queries, dtype=np.int64)
    distances = np.empty(0, dtype=np.float32)
    found = np.empty(0, dtype=np.int64)
    keys = np.empty(4 * BLOCK, dtype=np.uint64)
    bounds = _aligned_bounds((1, M, 64 * max(n_registers, 1)))[0]
    bound = 0
    scratch = np.empty(BLOCK, dtype=np.float32)
    masks = np.empty(BLOCK // 64, dtype=np.uint64)
    end = 0
    for q in range(n_queries):
        if n_registers:
            bound = quantise(tables[q], least[q], limit, bounds)
        block, size = np.int64(0), np.int64(0)  # a literal would compile what is called a second time
        while block < len(blocks):
            block, size = _advance(
                blocks, shared, until, len(sizes), tables[q], bounds, n_registers, bound, limit,
                block, len(blocks), keys, size, len(keys) - BLOCK - 1, scratch, masks,
            )  # fmt: skip
            if size > len(keys) - BLOCK - 1:
                keys = np.concatenate((keys, np.empty(len(keys), dtype=np.uint64)))
        n_items = np.int64(0)
        for i in range(size):
            n_items += sizes[position_of(keys[i])]
        if end + n_items > len(found):
            more = len(found) + n_items
            distances = np.concatenate((distances, np.empty(more, dtype=np.float32)))
            found = np.concatenate((found, np.empty(more, dtype=np.int64)))
        counts[q] = expand(np.sort(keys[:size]), sizes, sampled, ids, n_items, distances[end:], found[end:])
        end += counts[q]
    return counts, distances[:end].copy(), found[:end].copy()


@njit(nogil=True, cache=True)
def all_distances(table, blocks, out):
    """Compute the distances of all codes of a segment to one query.

    Parameters
    ----------
    table : ndarray of shape (M, K), float32
        The query's look-up table.
    blocks : ndarray of shape (B, M, 256), uint8 or uint16
        The codes of the segment.
    out : ndarray of shape (n_codes,), float32
        Receives the squared distances.
    """
    scratch = np.empty(BLOCK, dtype=np.float32)
    for b in range(len(blocks)):
        _block_distances(table, blocks, np.int64(b), scratch)
        for i in range(min(BLOCK, len(out) - b * BLOCK)):
            out[b * BLOCK + i] = scratch[i]
