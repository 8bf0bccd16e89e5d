"""Segments hold every item once, in the order of (code, id), and what a scan reads besides follows from the codes."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search.segments import (
    OFFSET_CODES,
    Segment,
    build,
    check_order,
    count_up,
    distinct_rows,
    keep,
    merge,
    take,
    view,
)
from skdpq._search.simd import BLOCK_CODES


def make_items(seed, n, M, K, n_distinct):
    """Return codes, of which many may be equal, and ids in no order."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(K, size=(n_distinct, M))[rng.integers(n_distinct, size=n)]
    return codes.astype(np.uint8 if K <= 256 else np.uint16), rng.permutation(3 * n)[:n]


def in_order(codes, ids):
    """Return items by (code, id)."""
    order = np.lexsort((ids, *codes.T[::-1]))
    return codes[order], ids[order]


items = st.builds(
    make_items,
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40) | st.integers(250, 260) | st.integers(1500, 2500),
    M=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 17, 300]),
    K=st.sampled_from([2, 3, 256, 257, 65536]),
    n_distinct=st.sampled_from([1, 2, 7, 300, 5000]),
)


def assert_valid(segment):
    """Check everything that follows from a segment's codes and counts."""
    codes, (B, M, _) = segment.codes(), segment.blocks.shape
    n_codes = len(codes)
    assert 0 <= B * BLOCK_CODES - n_codes < BLOCK_CODES
    assert segment.blocks.ctypes.data % 64 == 0
    assert segment.counts.dtype == np.uint8
    assert segment.counts.min() >= 1
    assert segment.counts.sum(dtype=np.int64) == len(segment.ids)
    filled = segment.blocks.transpose(0, 2, 1).reshape(-1, M)
    assert_array_equal(filled[n_codes:], np.repeat(codes[-1:], len(filled) - n_codes, axis=0))
    first_items = np.cumsum(segment.counts, dtype=np.int64) - segment.counts
    assert_array_equal(segment.first_items(), first_items)
    assert_array_equal(segment.offsets, first_items[::OFFSET_CODES])
    lengths = [next((m for m in range(M) if len(set(block[m])) > 1), M) for block in segment.blocks]
    assert_array_equal(segment.prefix_lengths, np.minimum(lengths, 255))
    prefixes = [tuple(block[:length, 0]) for block, length in zip(segment.blocks, segment.prefix_lengths, strict=True)]
    ends = [next((e for e in range(b + 1, B) if prefixes[e] != prefixes[b]), B) for b in range(B)]
    assert_array_equal(segment.run_ends, ends)


@given(items)
def test_a_segment_has_all_items_in_the_order_of_code_and_id(items):
    segment = build(*items)
    codes, ids = in_order(*items)
    assert_valid(segment)
    assert segment.blocks.dtype == codes.dtype
    assert_array_equal(segment.item_codes(), codes)
    assert_array_equal(segment.ids, ids)
    distinct, counts = np.unique(codes, axis=0, return_counts=True)
    assert_array_equal(np.unique(segment.codes(), axis=0), distinct)
    assert len(segment.codes()) == (-(-counts // 255)).sum()


@pytest.mark.parametrize(("n", "counts"), [(255, [255]), (256, [255, 1]), (510, [255, 255]), (600, [255, 255, 90])])
def test_a_code_with_more_than_255_items_is_stored_again(n, counts):
    codes = np.concatenate([np.full((n, 2), 7), np.full((3, 2), 9)]).astype(np.uint8)
    segment = build(codes, np.arange(n + 3)[::-1].copy())
    assert_valid(segment)
    assert segment.counts.tolist() == [*counts, 3]
    assert segment.ids.tolist() == [*range(3, n + 3), *range(3)]
    assert segment.codes().tolist() == [[7, 7]] * len(counts) + [[9, 9]]


def test_codes_that_begin_alike_make_runs():
    codes = np.array([[0, 0, k // 256, k % 256] for k in range(600)] + [[0, 1, 0, k] for k in range(424)])
    segment = build(codes[:1024].astype(np.uint16), np.arange(1024))
    assert_valid(segment)
    assert segment.prefix_lengths.tolist() == [3, 3, 1, 3]
    assert segment.run_ends.tolist() == [1, 2, 3, 4]
    same = build(np.array([[5, k // 256, k % 256] for k in range(2048)]).astype(np.uint16), np.arange(2048))
    assert same.prefix_lengths.tolist() == [2] * 8
    far = build(np.random.default_rng(0).permutation(2**16)[:2048, None] % [7, 2**16], np.arange(2048))
    assert_valid(far)
    assert (far.run_ends > np.arange(1, 9)).any()


def changed(segment, name, rng):
    """Return a segment of which one value is another; with one item less of a code, another code has one more."""
    array = getattr(segment, name).copy()
    position = tuple(rng.integers(length) for length in array.shape)
    if name == "counts":
        other = rng.integers(len(array))
        if array[position] > 1 and array[other] < 255:
            array[position] -= 1
            array[other] += 1
    elif rng.random() < 0.5:
        array[position] ^= 1
    else:
        array[position] = array[tuple(rng.integers(length) for length in array.shape)]
    return segment._replace(**{name: array})


@given(items, st.sampled_from([256, 512, 2**20]), st.sampled_from([*Segment._fields[:-1]]), st.integers(0, 2**32 - 1))
def test_what_is_not_as_it_was_built_is_refused(items, chunk_codes, name, seed):
    segment = build(*items)
    check_order(segment, chunk_codes)
    other = changed(segment, name, np.random.default_rng(seed))
    if len(np.unique(other.ids)) < len(other.ids):
        return  # build takes no id twice, and who loads a file looks for these
    rebuilt = build(other.item_codes(), other.ids)
    if all(np.array_equal(getattr(other, n), getattr(rebuilt, n)) for n in Segment._fields):
        check_order(other, chunk_codes)
    else:
        with pytest.raises(ValueError, match=r"in order|that ascend"):
            check_order(other, chunk_codes)


@pytest.mark.parametrize("part", ["last of the first", "first of the last"])
def test_neighbors_in_two_chunks_are_compared(part):
    segment = build(np.arange(512, dtype=np.uint16)[:, None], np.arange(512))
    check_order(segment, 256)
    blocks = segment.blocks.copy()
    if part == "last of the first":
        blocks[0, 0, 255] = 256  # as the next one, in the next chunk
    else:
        blocks[1, 0, 0] = 254
    with pytest.raises(ValueError, match="that ascend"):
        check_order(segment._replace(blocks=blocks), 256)


@given(items, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_what_is_kept_stays_in_order(items, share, seed):
    segment = build(*items)
    before = copy.deepcopy(segment)
    kept = np.random.default_rng(seed).random(len(segment.ids)) < share
    found = keep(segment, kept)
    if kept.any():
        assert_valid(found)
        check_order(found)  # no code is stored more often than it has to be
        assert_array_equal(found.item_codes(), segment.item_codes()[kept])
        assert_array_equal(found.ids, segment.ids[kept])
    else:
        assert found is None
    assert_same(segment, before)


@given(items, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_what_is_taken_for_a_search_stays_in_order(items, share, seed):
    segment = build(*items)
    before = copy.deepcopy(segment)
    taken = np.random.default_rng(seed).random(len(segment.ids)) < share
    found = take(segment, np.flatnonzero(taken))
    if taken.any():
        assert_valid(found)
        assert_array_equal(found.item_codes(), segment.item_codes()[taken])
        assert_array_equal(found.ids, segment.ids[taken])
    else:
        assert found is None
    assert_same(segment, before)


@given(items, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_view_has_the_codes_of_its_segment_and_some_of_the_items(items, share, seed):
    segment, rng = build(*items), np.random.default_rng(seed)
    before, taken, ranks = copy.deepcopy(segment), rng.random(len(segment.ids)) < share, rng.permutation(len(items[1]))
    mask = np.empty_like(taken)
    mask[ranks] = taken
    found = view(segment, mask, ranks + 5, 5)
    if taken.any():
        assert found.blocks is segment.blocks
        assert_array_equal(found.counts, np.add.reduceat(taken.astype(int), segment.first_items()))
        firsts = found.first_items()
        assert len(found.offsets) == 0 or found.offsets.tolist() == firsts[::OFFSET_CODES].tolist()
        places = np.repeat(firsts, found.counts) + count_up(found.counts.astype(int))
        assert_array_equal(found.ids[places], segment.ids[taken])
        assert [array.dtype for array in found] == [array.dtype for array in segment]  # the kernels are compiled
    else:
        assert found is None
    assert_same(segment, before)


@pytest.mark.parametrize("largest", [2**32 - 1, 2**32])
def test_what_is_taken_keeps_the_type_of_its_ids_for_which_kernels_are_compiled(largest):
    segment = build(np.arange(3, dtype=np.uint8)[:, None], np.array([5, largest, 7]))
    assert take(segment, np.array([0])).ids.dtype == segment.ids.dtype


@given(items, st.integers(1, 5))
def test_merged_segments_are_the_segment_of_all_items(items, n_segments):
    codes, ids = items
    portions = [rows for rows in np.array_split(np.arange(len(ids)), n_segments) if len(rows)]
    merged = merge([build(codes[rows], ids[rows]) for rows in portions])
    assert_same(merged, build(codes, ids))


@given(items)
def test_copies_and_pickles_are_aligned_too(items):
    segment = build(*items)
    for again in (copy.deepcopy(segment), pickle.loads(pickle.dumps(segment))):
        assert_same(again, segment)
        assert again.blocks.ctypes.data % 64 == 0


def assert_same(segment, other):
    for array, other_array in zip(segment, other, strict=True):
        assert array.dtype == other_array.dtype
        assert_array_equal(array, other_array)


@given(items)
def test_distinct_rows_are_sorted_and_every_row_finds_its_own(items):
    codes, _ = items
    distinct, position = distinct_rows(codes)
    assert_array_equal(distinct, np.unique(codes, axis=0))
    assert distinct.dtype == codes.dtype
    assert_array_equal(distinct[position], codes)


@given(st.lists(st.integers(0, 5)))
def test_count_up_is_a_range_of_each_count(counts):
    assert count_up(np.array(counts, dtype=np.int64)).tolist() == [i for n in counts for i in range(n)]
