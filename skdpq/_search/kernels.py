"""The loops over a segment's codes: the k nearest, all up to a threshold, and all distances.

`scan_numba` calls them, and `ranking` the last. The distance of a code is the float32 sum of its table entries in the
order of the parts; every loop returns exactly those, by (distance, id). Kernels hold no lock (nogil) and run on one
thread; callers run them side by side.

What makes them fast only decides which codes need not be looked at. Table entries are rounded down to 8 bits, so that
their sum bounds the distance from below (Quick ADC). The sums of a block of codes are compared at a time (`simd`).
Codes that begin alike are passed over together. And each query begins where its own code would stand, so that its
threshold, the largest distance that one of its k nearest may have, is soon a close one.

Functions that are called once in a few blocks are inlined: Numba counts the references to all arrays that it passes to
a function, which takes as long as the scan of a few blocks.
"""

from typing import NamedTuple

import numpy as np

from .compiling import kernel, subroutine
from .simd import BLOCK_CODES, VECTOR_BYTES, mark_block, mark_queries, trailing_zeros
from .topk import drop_far, expand_each, make_key, no_candidates, threshold_of_nearest

TOGETHER_QUERIES = VECTOR_BYTES  # whose 8-bit sums are formed side by side where there is no SIMD look-up
_MAX_SUM = 254  # largest 8-bit sum that is not excluded
_CHANGED, _WITHOUT_ITEMS = np.uint8(1), np.uint8(2)  # flags of a code
_LEADING_PARTS = 2  # whose sums codes that begin alike have in common
_ROUNDING = 2.0**-23  # twice the relative error of a float32 operation


class _Filter(NamedTuple):
    """What decides whether a query lets a code through: a distance up to the threshold.

    Attributes
    ----------
    table : ndarray of shape (M, K), float32
        The query's look-up table.
    table_u8 : ndarray of shape (M, 64 * n_registers), uint8
        Its entries rounded down by `quantize`; not read if `n_registers` is 0.
    n_registers : int
        From `simd.n_registers`; 0 sums in float32 instead.
    max_sum : int
        From `quantize`.
    threshold : float32
        The largest distance of interest; may be infinite.
    """

    table: np.ndarray
    table_u8: np.ndarray
    n_registers: int
    max_sum: int
    threshold: float


class _Queries(NamedTuple):
    """What the queries of a scan compare codes with; the quantized tables change as the scan goes on.

    Attributes
    ----------
    tables : ndarray of shape (n_queries, M, K), float32
        As for `scan_nearest`.
    nearest : ndarray of shape (n_queries, M), int64
        As for `scan_nearest`.
    n_registers : int
        As for `scan_nearest`.
    tables_u8 : ndarray of shape (n_queries, M, 64 * n_registers), uint8
        The tables rounded down by `quantize`; only one, which is not read, if `n_registers` is 0.
    max_sums : ndarray of shape (n_queries,), int64
        From `quantize`.
    """

    tables: np.ndarray
    nearest: np.ndarray
    n_registers: int
    tables_u8: np.ndarray
    max_sums: np.ndarray


@subroutine
def quantize(table, nearest, threshold, table_u8):
    """Round the entries of a table down to 8 bits, for distances up to a threshold.

    Parameters
    ----------
    table : ndarray of shape (M, K), float32
        A query's look-up table.
    nearest : ndarray of shape (M,), int64
        The nearest codeword of each part, whose entry is the least.
    threshold : float32
        Largest distance of interest; may be infinite.
    table_u8 : ndarray of shape (M, W), uint8, W >= K
        Receives the rounded entries.

    Returns
    -------
    max_sum : int
        If the saturating sum of a code's rounded entries is larger, its distance is beyond the threshold; -1 if all
        distances are.
    """
    M, K = table.shape
    rest = 0.0
    for m in range(M):
        rest += table[m, nearest[m]]
    # Float32 sums of M entries that are not negative are off by less than M roundings.
    slack = np.float64(threshold) * (1 + M * _ROUNDING) - rest * (1 - _ROUNDING)
    if slack < 0:
        return -1
    # Scaled entries that are too small by a few roundings still bound the distance from below.
    scale = np.float32(min(_MAX_SUM / max(slack, 1e-300) * (1 - 8 * _ROUNDING), 1e38))
    for m in range(M):
        least = table[m, nearest[m]]
        for k in range(K):
            scaled = (table[m, k] - least) * scale
            table_u8[m, k] = np.uint8(np.int32(min(scaled, np.float32(255))))
    return _MAX_SUM


@subroutine(inline="always")
def _aligned_tables(n_tables, n_rows, width):
    """Allocate 8-bit tables, of zeros, where no vector crosses a cache line."""
    n = n_tables * n_rows * width
    buffer = np.empty(n + VECTOR_BYTES, dtype=np.uint8)
    buffer[:] = 0
    start = VECTOR_BYTES - buffer.ctypes.data % VECTOR_BYTES
    return buffer[start : start + n].reshape((n_tables, n_rows, width))


@subroutine(forceinline=True)
def _block_distances(table, blocks, b, out):
    """Compute the distances of a block of codes."""
    M = blocks.shape[1]
    for i in range(BLOCK_CODES):
        out[i] = np.float32(0)
    for m in range(0, M - 3, 4):  # four parts at a time: half the loads and stores of one at a time
        z0, z1, z2, z3 = blocks[b, m], blocks[b, m + 1], blocks[b, m + 2], blocks[b, m + 3]
        t0, t1, t2, t3 = table[m], table[m + 1], table[m + 2], table[m + 3]
        for i in range(BLOCK_CODES):
            out[i] = out[i] + t0[z0[i]] + t1[z1[i]] + t2[z2[i]] + t3[z3[i]]
    for m in range(M // 4 * 4, M):
        z, t = blocks[b, m], table[m]
        for i in range(BLOCK_CODES):
            out[i] += t[z[i]]


@subroutine
def _code_distance(table, blocks, block, i):
    """Compute the distance of one code."""
    distance = np.float32(0)
    for m in range(blocks.shape[1]):
        distance += table[m, blocks[block, m, i]]
    return distance


@subroutine(inline="always")
def _mark_by_distance(distances, threshold, masks):
    """Set bit i of the masks where a distance is at most the threshold, and return their union."""
    union = np.uint64(0)
    for w in range(BLOCK_CODES // 64):
        mask = np.uint64(0)
        for i in range(64):
            mask |= np.uint64(distances[w * 64 + i] <= threshold) << np.uint64(i)
        masks[w] = mask
        union |= mask
    return union


@subroutine
def _collect(segment, query, block, stop, keys, n_keys, n_full, scratch, masks):
    """Append the keys of all codes that a query's filter lets through, block by block, until more than `n_full` are.

    Returns the next block, and how many keys there are. `scratch` and `masks` hold 256 float32 and four words.
    """
    blocks = segment.blocks
    n_codes = len(segment.counts)
    M = blocks.shape[1]
    table, table_u8, n_registers, max_sum, threshold = query
    by_sums = n_registers > 0 and threshold < np.inf
    while block < stop and n_keys <= n_full:
        # The parts that a run of blocks has in common are summed once, and may exclude all of them.
        end = min(np.int64(segment.run_ends[block]), stop)
        n_common = np.int64(0)
        rest = np.int64(max_sum)
        if by_sums:
            n_common = np.int64(segment.prefix_lengths[block])
            for m in range(n_common):
                rest -= table_u8[m, blocks[block, m, 0]]
            if rest < 0:
                block = end
                continue
        while block < end and n_keys <= n_full:
            if by_sums:
                found = mark_block(
                    n_registers,
                    blocks.ctypes.data + np.uintp((block * M + n_common) * BLOCK_CODES),
                    table_u8.ctypes.data + np.uintp(n_common * table_u8.shape[1]),
                    M - n_common,
                    np.uint8(rest),
                    masks.ctypes.data,
                )
            else:
                _block_distances(table, blocks, block, scratch)
                found = _mark_by_distance(scratch, threshold, masks)
            # A code that is marked may be beyond the threshold all the same, or fill up the last block.
            if found:
                for w in range(BLOCK_CODES // 64):
                    mask = masks[w]
                    while mask:
                        i = 64 * w + np.int64(trailing_zeros(mask))
                        mask &= mask - np.uint64(1)
                        distance = _code_distance(table, blocks, block, i) if by_sums else scratch[i]
                        u = block * BLOCK_CODES + i
                        if distance <= threshold and u < n_codes and segment.counts[u]:
                            keys[n_keys] = make_key(distance, u)
                            n_keys += 1
            block += 1
    return block, n_keys


@subroutine(inline="always")
def _block_of(blocks, code):
    """Return the first block whose last code does not come before `code`; the last block if all do."""
    M = blocks.shape[1]
    low = 0
    high = len(blocks) - 1
    while low < high:
        middle = (low + high) // 2
        m = 0
        while m < M - 1 and blocks[middle, m, BLOCK_CODES - 1] == code[m]:
            m += 1
        if blocks[middle, m, BLOCK_CODES - 1] < code[m]:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def scan_nearest(segment, tables, nearest, n_registers, chunk_blocks, first, last, distances):
    """Collect the codes of the k nearest items of each query in some blocks of a segment.

    `topk.merge_found` takes them; it is called from Python, as it takes long to compile, and once will do.

    Parameters
    ----------
    segment : Segment
        Where to search.
    tables : ndarray of shape (n_queries, M, K), float32
        Look-up tables.
    nearest : ndarray of shape (n_queries, M), int64
        The nearest codeword of each part.
    n_registers : int
        From `simd.n_registers`; 0 sums in float32 instead.
    chunk_blocks : int
        How many blocks all queries see in turn.
    first, last : int
        The blocks to scan.
    distances : ndarray of shape (n_queries, k), float32
        Squared distances found before, ascending, infinite where there are none.

    Returns
    -------
    keys : ndarray of shape (n_queries, n), uint64
        Keys of codes that may be among the k nearest, all that are among them.
    n_keys : ndarray of shape (n_queries,), int64
        How many keys each query has.
    """
    n_queries, M, _ = tables.shape
    candidates = no_candidates(segment, distances)
    thresholds = candidates.thresholds
    tables_u8 = _aligned_tables(n_queries if n_registers else np.int64(1), M, VECTOR_BYTES * max(n_registers, 1))
    max_sums = np.empty(n_queries, dtype=np.int64)
    scratch = np.empty(BLOCK_CODES, dtype=np.float32)
    own = np.empty(n_queries, dtype=np.int64)  # the chunk that begins where each query's own code would stand
    for q in range(n_queries):
        block = max(first, min(_block_of(segment.blocks, nearest[q]), last - 1))
        own[q] = max(first, min(block, last - chunk_blocks))
        thresholds[q] = min(thresholds[q], _threshold_in_block(segment, tables[q], block, candidates.k, scratch))
        max_sums[q] = quantize(tables[q], nearest[q], thresholds[q], tables_u8[q]) if n_registers else 0

    queries = _Queries(tables, nearest, n_registers, tables_u8, max_sums)
    masks = np.empty(BLOCK_CODES // 64, dtype=np.uint64)

    starts, stops = np.empty(n_queries, dtype=np.int64), np.empty(n_queries, dtype=np.int64)
    # First each query's own chunk, so that its threshold is soon a close one. Then everything else, chunk by chunk:
    # what one query has brought into the cache, the others find there.
    for chunk in range(first - chunk_blocks, last, chunk_blocks):
        for q in range(n_queries):
            own_stop = min(own[q] + chunk_blocks, last)
            if chunk < first:
                starts[q], stops[q] = own[q], own_stop
            elif chunk < own[q]:
                starts[q], stops[q] = chunk, min(chunk + chunk_blocks, own[q])
            else:
                starts[q], stops[q] = max(chunk, own_stop), min(chunk + chunk_blocks, last)
        _visit(segment, queries, candidates, starts, stops, scratch, masks)
    return candidates.keys, candidates.n_keys


@subroutine(inline="always")
def _visit(segment, queries, candidates, starts, stops, scratch, masks):
    """Collect the candidates of each query between two blocks of its own."""
    tables, nearest, n_registers, tables_u8, max_sums = queries
    for q in range(len(tables)):
        block = starts[q]
        if block >= stops[q]:  # before any array is touched: each costs a count of its references
            continue
        table_u8 = tables_u8[q if n_registers else 0]
        while block < stops[q]:
            query = _Filter(tables[q], table_u8, n_registers, max_sums[q], candidates.thresholds[q])
            keys, n_keys, n_full = candidates.keys[q], candidates.n_keys[q], candidates.n_full[q]
            block, n_keys = _collect(segment, query, block, stops[q], keys, n_keys, n_full, scratch, masks)
            candidates.n_keys[q] = n_keys
            if n_keys > n_full and drop_far(candidates, q, segment) and n_registers:
                max_sums[q] = quantize(tables[q], nearest[q], candidates.thresholds[q], table_u8)


@kernel
def scan_nearest_together(segment, tables, nearest, first, last, distances):
    """Do as `scan_nearest` for up to 64 queries at a time, without SIMD look-ups.

    The 8-bit tables of all queries lie side by side, so that the entries of one codeword are one load, and the
    vectors that any machine has add them up. Codes that begin like the one before share its first sums.

    Parameters
    ----------
    segment, tables, nearest, first, last, distances
        As for `scan_nearest`; K is at most 256.

    Returns
    -------
    keys, n_keys : ndarray
        As from `scan_nearest`.
    """
    n_queries, M, K = tables.shape
    blocks = segment.blocks
    candidates = no_candidates(segment, distances)
    _, keys, n_keys, n_full, _, thresholds = candidates
    tables_u8 = _aligned_tables(M, K, np.int64(TOGETHER_QUERIES))
    tables_u8[0] = 255  # where there is no query, nothing is let through
    column = np.empty((M, K), dtype=np.uint8)
    scratch = np.empty(BLOCK_CODES, dtype=np.float32)
    for q in range(n_queries):
        own = max(first, min(_block_of(blocks, nearest[q]), last - 1))
        thresholds[q] = min(thresholds[q], _threshold_in_block(segment, tables[q], own, candidates.k, scratch))
        _quantize_column(tables[q], nearest[q], thresholds[q], column, tables_u8, q)
    n_leading = min(_LEADING_PARTS, M)
    zero = np.empty(TOGETHER_QUERIES, dtype=np.uint8)
    zero[:] = 0
    leading = np.empty(TOGETHER_QUERIES, dtype=np.uint8)
    total = np.empty(TOGETHER_QUERIES, dtype=np.uint8)
    address = tables_u8.ctypes.data
    rest_address = address + np.uintp(n_leading * K * TOGETHER_QUERIES)

    is_view = segment.n_items < len(segment.ids)  # in which codes may be without items
    stale = True  # the sums over the leading parts
    flags = np.empty(BLOCK_CODES, dtype=np.uint8)
    for block in range(first, last):
        counts = segment.counts[block * BLOCK_CODES : (block + 1) * BLOCK_CODES]
        _flag_changes(blocks[block, :n_leading], flags)
        if is_view:
            for i in range(len(counts)):
                flags[i] |= _WITHOUT_ITEMS * np.uint8(counts[i] == 0)
        for i in range(len(counts)):
            code = blocks.ctypes.data + np.uintp(block * M * BLOCK_CODES + i)
            stale |= flags[i] & _CHANGED != 0
            if flags[i] & _WITHOUT_ITEMS:
                continue
            if stale:
                mark_queries(code, address, K, n_leading, zero.ctypes.data, leading.ctypes.data)
                stale = False
            code += np.uintp(n_leading * BLOCK_CODES)
            mask = mark_queries(code, rest_address, K, M - n_leading, leading.ctypes.data, total.ctypes.data)
            # The queries whose 8-bit sums let the code through look at its distance.
            while mask:
                q = np.int64(trailing_zeros(mask))
                mask &= mask - np.uint64(1)
                distance = _code_distance(tables[q], blocks, block, i)
                if distance <= thresholds[q]:
                    keys[q, n_keys[q]] = make_key(distance, block * BLOCK_CODES + i)
                    n_keys[q] += 1
                    if n_keys[q] > n_full[q] and drop_far(candidates, q, segment):
                        _quantize_column(tables[q], nearest[q], thresholds[q], column, tables_u8, q)
                        stale = True
    return keys, n_keys


@subroutine
def _flag_changes(leading_parts, flags):
    """Flag the codes of a block whose leading parts (n, 256) are not those of the code before."""
    flags[:] = 0
    flags[0] = _CHANGED
    for m in range(len(leading_parts)):
        for i in range(1, BLOCK_CODES):
            flags[i] |= _CHANGED * np.uint8(leading_parts[m, i] != leading_parts[m, i - 1])


@subroutine(inline="always")
def _threshold_in_block(segment, table, block, k, scratch):
    """Return a distance up to which a block has k items; infinite if it has fewer. `scratch` holds 256 float32."""
    _block_distances(table, segment.blocks, block, scratch)
    counts = segment.counts[block * BLOCK_CODES : (block + 1) * BLOCK_CODES]
    return threshold_of_nearest(scratch[: len(counts)], counts, k)


@subroutine
def _quantize_column(table, nearest, threshold, column, tables_u8, q):
    """Quantize the table of query q, among tables that lie side by side; exclude all where nothing is within."""
    max_sum = quantize(table, nearest, threshold, column)
    for m in range(column.shape[0]):
        for z in range(column.shape[1]):
            tables_u8[m, z, q] = column[m, z] if max_sum >= 0 else np.uint8(255)


@kernel
def scan_radius(segment, tables, nearest, n_registers, threshold):
    """Find all items of a segment up to a squared distance.

    Parameters
    ----------
    segment, tables, nearest, n_registers
        As for `scan_nearest`.
    threshold : float32
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
    scratch = np.empty(BLOCK_CODES, dtype=np.float32)
    masks = np.empty(BLOCK_CODES // 64, dtype=np.uint64)
    keys = np.empty(4 * BLOCK_CODES, dtype=np.uint64)  # of all queries, one after the other
    ends = np.empty(n_queries, dtype=np.int64)
    table_u8 = _aligned_tables(np.int64(1), M, VECTOR_BYTES * max(n_registers, 1))[0]
    last = len(segment.blocks)
    n_keys = np.int64(0)  # a literal would compile what is called a second time
    for q in range(n_queries):
        max_sum = quantize(tables[q], nearest[q], threshold, table_u8) if n_registers else 0
        query = _Filter(tables[q], table_u8, n_registers, max_sum, threshold)
        block = np.int64(0)
        while block < last:
            n_full = len(keys) - BLOCK_CODES - 1
            block, n_keys = _collect(segment, query, block, last, keys, n_keys, n_full, scratch, masks)
            if n_keys > n_full:
                keys = np.concatenate((keys, np.empty(len(keys), dtype=np.uint64)))
        ends[q] = n_keys
    return expand_each(keys, ends, segment)


@kernel
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
    scratch = np.empty(BLOCK_CODES, dtype=np.float32)
    for b in range(len(blocks)):
        _block_distances(table, blocks, np.int64(b), scratch)
        for i in range(min(BLOCK_CODES, len(out) - b * BLOCK_CODES)):
            out[b * BLOCK_CODES + i] = scratch[i]
