"""Segments: what goes in comes out, in order, and runs of blocks are those that share their first parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search.segments import build, distinct_rows, keep, merge

BLOCK = 256  # codes


def items(seed, n, M, K, n_distinct):
    """Return codes of n items and their ids, in no order."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if K <= 256 else np.uint16
    codes = rng.integers(K, size=(n_distinct, M))[rng.integers(n_distinct, size=n)].astype(dtype)
    return codes, rng.permutation(3 * n)[:n].astype(np.int64)


drawn = st.builds(
    items,
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 50) | st.integers(500, 3000),
    M=st.integers(1, 10),
    K=st.sampled_from([2, 16, 256, 300, 65536]),
    n_distinct=st.sampled_from([1, 2, 40, 5000]),
)


def assert_holds(segment, codes, ids):
    """Assert that a segment holds these items, in its order: by code, and by id among equal codes."""
    order = np.lexsort((ids, *codes.T[::-1]))
    assert_array_equal(segment.ids, ids[order])
    assert_array_equal(segment.item_codes(), codes[order])


@given(drawn)
def test_a_segment_holds_its_items_in_order(data):
    codes, ids = data
    segment = build(codes, ids)
    assert_holds(segment, codes, ids)
    assert segment.counts.min() >= 1
    assert segment.counts.sum() == len(ids)
    starts = np.cumsum(segment.counts, dtype=np.int64) - segment.counts
    assert_array_equal(segment.offsets, starts[::64])
    assert segment.blocks.shape == (-(-len(segment.counts) // BLOCK), codes.shape[1], BLOCK)
    assert segment.blocks.ctypes.data % 64 == 0


@pytest.mark.parametrize("n", [254, 255, 256, 510, 511, 1000])
def test_a_code_of_more_than_255_items_is_stored_again(n):
    codes, ids = np.full((n, 3), 7, np.uint8), np.random.default_rng(0).permutation(n)
    segment = build(codes, ids)
    assert len(segment.counts) == -(-n // 255)
    assert_holds(segment, codes, ids)


@given(drawn)
def test_runs_are_the_blocks_that_share_their_first_parts(data):
    codes, ids = data
    segment = build(codes, ids)
    rows = segment.blocks.transpose(0, 2, 1)
    same = (rows == rows[:, :1]).all(axis=1)
    lengths = [int(np.argmin([*row, False])) for row in same]
    assert_array_equal(segment.prefix_lengths, lengths)
    prefixes = [tuple(block[0, :length]) for block, length in zip(rows, lengths, strict=True)]
    for b, prefix in enumerate(prefixes):
        end = b + 1
        while end < len(prefixes) and prefixes[end] == prefix:
            end += 1
        assert segment.run_ends[b] == end


@given(drawn, st.integers(1, 4))
def test_merging_portions_is_building_at_once(data, n_portions):
    codes, ids = data
    portions = [rows for rows in np.array_split(np.arange(len(ids)), n_portions) if len(rows)]
    merged = merge([build(codes[rows], ids[rows]) for rows in portions])
    for actual, expected in zip(merged, build(codes, ids), strict=True):
        assert_array_equal(actual, expected)


@given(drawn, st.integers(0, 2**32 - 1))
def test_keeping_some_is_building_with_those(data, seed):
    codes, ids = data
    segment = build(codes, ids)
    kept = np.random.default_rng(seed).random(len(ids)) < 0.5
    thinned = keep(segment, kept)
    if not kept.any():
        assert thinned is None
        return
    present = np.isin(ids, segment.ids[kept])
    assert_holds(thinned, codes[present], ids[present])


@given(drawn)
def test_distinct_rows_are_sorted_and_lead_back(data):
    codes, _ = data
    distinct, position = distinct_rows(codes)
    assert_array_equal(distinct, np.unique(codes, axis=0))
    assert_array_equal(distinct[position], codes)
