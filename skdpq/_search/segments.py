"""A segment: some items of a database, sorted by code, equal codes stored once, laid out for the kernels.

`CodeIndex` builds and compacts segments, the scans read them; none ever changes.

Codes stand in blocks of 256, one row a part, (B, M, 256). Being in lexicographic order, neighboring codes begin
alike: blocks whose codes all share their first parts form runs, which a scan can pass over by one comparison. A code
has up to 255 items, of which one byte holds the number; a code with more is stored again. So a segment takes M bytes
(2 M above 256 codewords) a distinct code, at most 1.2 bytes more, and 4 bytes an item for its id, 8 where an id has
more than 32 bits.
"""

import math
from typing import NamedTuple

import numpy as np

from .compiling import kernel
from .simd import BLOCK_CODES

OFFSET_CODES = 64  # codes from one stored offset to the next
_MAX_ITEMS = 255  # of one stored code
_CHECKED_CODES = 2**20  # that `check_order` looks at together


class Segment(NamedTuple):
    """The arrays of a segment; kernels take it as it is.

    Attributes
    ----------
    blocks : ndarray of shape (B, M, 256), uint8 or uint16
        Codes in lexicographic order; the last one fills up the last block.
    prefix_lengths : ndarray of shape (B,), uint8
        How many parts, from the first, are equal in all codes of the block (at most 255).
    run_ends : ndarray of shape (B,), uint32
        The block after the run of blocks that have those parts in common.
    counts : ndarray of shape (n_codes,), uint8
        How many items each code has.
    offsets : ndarray of shape (ceil(n_codes / 64),), int64
        How many items come before code 0, 64, 128, ... Empty in a view of one item a code: if any, code u has item u.
    ids : ndarray of shape (n_items,), uint32 or int64
        Ids of the items, in the order of their codes, ascending for each. Not the smallest type that holds them: Numba
        compiles the kernels for each.
    n_items : int64
        How many items the segment has. Fewer than ids only in a view, where codes may be without items.
    """

    blocks: np.ndarray
    prefix_lengths: np.ndarray
    run_ends: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    n_items: np.int64

    def __reduce__(self):
        return _restore, tuple(self)

    def codes(self, start=0, stop=None):
        """Return the stored codes, or those from one position to another, (n_codes, M)."""
        start, stop, _ = slice(start, stop).indices(len(self.counts))
        first = start // BLOCK_CODES
        blocks = self.blocks[first : -(-stop // BLOCK_CODES)]
        codes = np.ascontiguousarray(blocks.transpose(0, 2, 1)).reshape(len(blocks) * BLOCK_CODES, -1)
        return codes[start - first * BLOCK_CODES : stop - first * BLOCK_CODES]

    def codes_at(self, items):
        """Return the codes of items by their positions, (n, M)."""
        stored = np.searchsorted(np.cumsum(self.counts, dtype=np.int64), items, side="right")
        return self.blocks[stored // BLOCK_CODES, :, stored % BLOCK_CODES]

    def item_codes(self):
        """Return the code of each item, (n_items, M), in the order of `ids`."""
        return np.repeat(self.codes(), self.counts, axis=0)

    def stored(self):
        """Return the arrays of a segment that is no view, by name: what a file has to hold."""
        arrays = self._asdict()
        del arrays["n_items"]
        return arrays

    def first_items(self):
        """Return the position of each code's first item, (n_codes,) int64."""
        if len(self.offsets) == 0:
            return np.arange(len(self.counts))
        return np.cumsum(self.counts, dtype=np.int64) - self.counts


def build(codes, ids):
    """Return the segment of some items.

    Parameters
    ----------
    codes : ndarray of shape (n, M), uint8 or uint16
        Their codes, n from 1 to 2**32 - 1.
    ids : ndarray of shape (n,), uint32 or int64
        Their ids, no two equal.

    Returns
    -------
    segment : Segment
        A new segment.
    """
    words = _sort_words(codes)
    order = _sort(words)
    new = _new_codes(words, order)
    if not _ascending(ids, order, new):
        order = np.lexsort((ids, *words[::-1]))
    return _from_sorted(codes, ids[order], order, new)


def merge(segments):
    """Return one segment with all items of several."""
    codes = np.concatenate([segment.item_codes() for segment in segments])
    return build(codes, np.concatenate([segment.ids for segment in segments]))


def keep(segment, kept):
    """Return a segment with some items of another; None if there are none.

    Parameters
    ----------
    segment : Segment
        The segment; it stays as it is.
    kept : ndarray of shape (n_items,), bool
        Which items to keep.

    Returns
    -------
    segment : Segment or None
        A new segment.
    """
    if not kept.any():
        return None
    codes, stored = segment.codes(), np.repeat(np.arange(len(segment.counts)), segment.counts)[kept]
    # Without a full count each code is stored once, and to compare their numbers is faster than to compare codes.
    new = _first_of_codes(codes, stored) if segment.counts.max() == _MAX_ITEMS else _first_of_runs(stored)
    return _from_sorted(codes, segment.ids[kept], stored, new)


def check_order(segment, chunk_codes=_CHECKED_CODES):
    """Raise ValueError unless a segment is as `build` makes it.

    Parameters
    ----------
    segment : Segment
        What to check: as many items as are counted, at least one of each code.
    chunk_codes : int
        Codes that are looked at together; a multiple of those of a block.
    """
    n_codes, item = len(segment.counts), np.int64(0)
    for start in range(0, n_codes, chunk_codes):
        first = max(start - 1, 0)  # the code before the chunk, whose first item is `item`
        codes, counts = segment.codes(first, start + chunk_codes), segment.counts[first : start + chunk_codes]
        ends = item + np.cumsum(counts, dtype=np.int64)
        ascends, equal = _compare_neighbors(codes)
        ids = segment.ids[item : ends[-1]]
        begins = np.zeros(len(ids), dtype=bool)
        begins[ends[:-1][~equal] - item] = True
        # Equal codes follow one another where the one before has as many items as it may have.
        if not (ascends | equal & (counts[:-1] == _MAX_ITEMS)).all() or not (begins[1:] | (ids[1:] > ids[:-1])).all():
            raise ValueError("expected codes, and ids of each, that ascend, got others.")
        starts = (ends - counts)[start - first :: OFFSET_CODES]
        if not np.array_equal(segment.offsets[start // OFFSET_CODES :][: len(starts)], starts):
            raise ValueError("expected offsets of codes in order, got others.")
        item = ends[-1] - counts[-1]
    rest = segment.blocks[-1, :, (n_codes - 1) % BLOCK_CODES :]
    prefix_lengths, run_ends = _runs(segment.blocks)
    for name, is_so in {
        "blocks": (rest == rest[:, :1]).all(),
        "prefix_lengths": np.array_equal(segment.prefix_lengths, prefix_lengths),
        "run_ends": np.array_equal(segment.run_ends, run_ends),
    }.items():
        if not is_so:
            raise ValueError(f"expected {name} of codes in order, got others.")


def take(segment, items):
    """Return a segment with some items of another, for a search; None if there are none.

    Takes as long as there are items to take, however many there are in the segment. A code may be stored more often
    than it has to be, and ids keep their type, for which the kernels are compiled.

    Parameters
    ----------
    segment : Segment
        The segment; it stays as it is.
    items : ndarray of shape (n,), of integers
        Positions of the items in it, ascending.

    Returns
    -------
    segment : Segment or None
        A new segment.
    """
    if len(items) == 0:
        return None
    code = items
    if len(segment.ids) > len(segment.counts):
        groups = np.searchsorted(segment.offsets, items, side="right") - 1
        code = _codes_of_items(segment.counts, segment.offsets, groups, items)
    starts = np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1])))
    B, M = -(-len(starts) // BLOCK_CODES), segment.blocks.shape[1]
    blocks = _aligned_empty((B, M, BLOCK_CODES), segment.blocks.dtype)
    _copy_codes(segment.blocks, code[starts], blocks)
    counts = _lengths(starts, len(items)).astype(np.uint8)
    offsets = np.ascontiguousarray(starts[::OFFSET_CODES], dtype=np.int64)
    return Segment(blocks, *_runs(blocks), counts, offsets, segment.ids[items], np.int64(len(items)))


def view(segment, mask, ranks, first):
    """Return a segment that shares the codes of another and has some of its items; None if there are none.

    Takes little longer than to read the mask. Codes without items stay where they are, with a count of zero; where a
    code has one item, so do the ids, those of items that are not taken among them.

    Parameters
    ----------
    segment : Segment
        The segment; it stays as it is.
    mask : ndarray of bool
        Which items to take.
    ranks : ndarray of shape (n_items,), of integers
        Where the mask tells of each item, less `first`.
    first : int
        What is subtracted from the ranks.

    Returns
    -------
    segment : Segment or None
        A new segment, with the blocks of the other.
    """
    taken = np.empty(len(ranks), dtype=np.uint8)
    n_items = np.int64(_read_mask(mask, ranks, first, taken))
    if n_items == 0:
        return None
    if len(segment.ids) == len(segment.counts):
        return segment._replace(counts=taken, offsets=np.empty(0, dtype=np.int64), n_items=n_items)
    whole = segment.counts, segment.offsets, segment.ids
    counts, offsets, ids = (np.zeros(len(array), array.dtype) for array in whole)
    _take_items(segment.counts, segment.ids, taken, counts, offsets, ids)
    return segment._replace(counts=counts, offsets=offsets, ids=ids, n_items=n_items)


def distinct_rows(codes):
    """Return the distinct rows in lexicographic order, and for every row the position of its like among them."""
    words = _sort_words(codes)
    order = _sort(words)
    new = _new_codes(words, order)
    position = np.empty(len(codes), dtype=np.int64)
    position[order] = np.cumsum(new) - 1
    return codes[order[new]], position


def count_up(counts):
    """Return ``range(n)`` of each of some counts n, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


@kernel
def _codes_of_items(counts, offsets, groups, items):
    """Return the code of each item, given the 64 codes that it is among; whatever a file counts, there is one."""
    codes = np.empty(len(items), dtype=np.int64)
    for i in range(len(items)):
        u, end = groups[i] * OFFSET_CODES, offsets[groups[i]]
        while end + counts[u] <= items[i] and u + 1 < len(counts):
            end += counts[u]
            u += 1
        codes[i] = u
    return codes


@kernel
def _copy_codes(blocks, codes, out):
    """Copy codes by their positions into other blocks; the last one fills up the last block."""
    for i in range(len(out) * BLOCK_CODES):
        u = codes[min(i, len(codes) - 1)]
        for m in range(blocks.shape[1]):
            out[i // BLOCK_CODES, m, i % BLOCK_CODES] = blocks[u // BLOCK_CODES, m, u % BLOCK_CODES]


@kernel
def _read_mask(mask, ranks, first, taken):
    """Write what a mask tells of each item, and return how many are taken."""
    n = np.int64(0)
    for i in range(len(ranks)):
        taken[i] = mask[np.uint64(np.int64(ranks[i]) - first)]  # an index without a sign needs no second look
        n += taken[i]
    return n


@kernel
def _take_items(counts, ids, taken, out_counts, out_offsets, out_ids):
    """Write how many items of each code are taken, how many come before each 64 codes, and their ids."""
    item, n = np.int64(0), np.int64(0)
    for u in range(len(counts)):
        if u % OFFSET_CODES == 0:
            out_offsets[u // OFFSET_CODES] = n
        for _ in range(min(np.int64(counts[u]), len(ids) - item)):  # a file may count more than there are
            if taken[item]:
                out_ids[n] = ids[item]
                out_counts[u] += np.uint8(1)
                n += 1
            item += 1


def _sort(words):
    """Return the stable order of rows."""
    return np.argsort(words[0], kind="stable") if len(words) == 1 else np.lexsort(words[::-1])


def _sort_words(codes):
    """Return codes as 64-bit words, of which the first differing decides the order: (n_words, n), uint64."""
    n, M = codes.shape
    width = M * codes.itemsize
    as_bytes = np.zeros((n, -(-width // 8) * 8), dtype=np.uint8)
    as_bytes[:, :width] = codes.astype(codes.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(n, width)
    return np.ascontiguousarray(as_bytes.view(">u8").T).astype(np.uint64)


def _from_sorted(codes, ids, order, new):
    """Make a segment of items whose codes are the rows `order` of `codes`, a code beginning wherever `new` says."""
    starts = new.nonzero()[0]
    counts = _lengths(starts, len(order))
    if counts.max() > _MAX_ITEMS:  # store the code once for each 255 items
        n_times = -(-counts // _MAX_ITEMS)
        starts = np.repeat(starts, n_times) + count_up(n_times) * _MAX_ITEMS
        counts = _lengths(starts, len(order))
    n_codes, M = len(starts), codes.shape[1]
    B = -(-n_codes // BLOCK_CODES)
    rows = np.full(B * BLOCK_CODES, order[starts[-1]])
    rows[:n_codes] = order[starts]
    blocks = _aligned(codes[rows].reshape(B, BLOCK_CODES, M).transpose(0, 2, 1))
    offsets = np.ascontiguousarray(starts[::OFFSET_CODES], dtype=np.int64)
    return Segment(blocks, *_runs(blocks), counts.astype(np.uint8), offsets, narrow_ids(ids), np.int64(len(ids)))


def narrow_ids(ids):
    """Return ids in 32 bits where these hold them."""
    return ids.astype(np.uint32 if ids.max() < 2**32 else np.int64, copy=False)


def _aligned(array):
    """Copy an array to where no vector of 64 bytes crosses a cache line."""
    copied = _aligned_empty(array.shape, array.dtype)
    copied[...] = array
    return copied


def _aligned_empty(shape, dtype):
    """Allocate an array where no vector of 64 bytes crosses a cache line."""
    n_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(n_bytes + 64, dtype=np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)


def _restore(blocks, *others):
    """Make a segment of what was pickled or copied."""
    return Segment(_aligned(blocks), *others)


def _compare_neighbors(codes):
    """Tell of each code but the first whether it comes after the one before, and whether it is equal."""
    ascends, equal = np.zeros(len(codes) - 1, dtype=bool), np.ones(len(codes) - 1, dtype=bool)
    for word in _sort_words(codes):
        ascends |= equal & (word[:-1] < word[1:])
        equal &= word[:-1] == word[1:]
    return ascends, equal


def _first_of_codes(codes, stored):
    """Tell which items are the first of their code, where `stored` are the rows of `codes` that they have, in order."""
    return _first_of_runs(np.cumsum(np.concatenate(([False], (codes[1:] != codes[:-1]).any(axis=1))))[stored])


def _first_of_runs(numbers):
    """Tell which of some numbers differ from the one before; the first does."""
    return np.concatenate(([True], numbers[1:] != numbers[:-1]))


def _new_codes(words, order):
    """Tell which of the ordered rows differ from the one before."""
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for word in words:
        ordered = word[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    return new


def _ascending(ids, order, new):
    """Tell whether the ids of each code ascend."""
    ordered = ids[order]
    return bool((new[1:] | (ordered[1:] > ordered[:-1])).all())


def _runs(blocks):
    """Return the prefix length of each block, and where its run ends."""
    first = blocks[:, :255, 0]
    prefix_lengths = _n_leading(first == blocks[:, :255, BLOCK_CODES - 1])
    goes_on = prefix_lengths[1:] == prefix_lengths[:-1]
    goes_on &= _n_leading(first[1:] == first[:-1]) >= prefix_lengths[1:]
    new = np.ones(len(blocks), dtype=bool)
    np.logical_not(goes_on, out=new[1:])
    starts = new.nonzero()[0]
    lengths = _lengths(starts, len(blocks))
    return prefix_lengths.astype(np.uint8), np.repeat(starts + lengths, lengths).astype(np.uint32)


def _lengths(starts, end):
    """Return how long each of consecutive runs is; np.diff takes several times as long for a few."""
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = end - starts[-1]
    return lengths


def _n_leading(equal):
    """Return how many entries of each row are true before the first that is not."""
    return np.logical_and.accumulate(equal, axis=1).sum(axis=1)
