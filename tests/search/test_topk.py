"""Selection among candidates, against a sort of all items."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdpq._search.results import merge_nearest, nothing
from skdpq._search.segments import build
from skdpq._search.topk import (
    distance_of,
    keep_nearest,
    make_key,
    merge_found,
    position_of,
    select,
    sorted_keys,
    threshold_of_nearest,
)

seeds = st.integers(0, 2**32 - 1)


@given(st.floats(0, 2.0**127, width=32), st.integers(0, 2**32 - 1))
def test_a_key_holds_a_distance_above_a_position(distance, position):
    key = make_key(np.float32(distance), position)
    assert distance_of(np.uint64(key)) == np.float32(distance)
    assert position_of(np.uint64(key)) == position


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=300, unique=True), st.data())
def test_selecting_moves_the_smallest_to_the_front(values, data):
    k = data.draw(st.integers(1, len(values)))
    keys = np.array(values, dtype=np.uint64)
    select(keys, k)
    assert_array_equal(np.sort(keys), np.sort(np.array(values, dtype=np.uint64)))
    assert_array_equal(np.sort(keys[:k]), np.sort(np.array(values, dtype=np.uint64))[:k])
    assert keys[k - 1] == keys[:k].max()
    assert_array_equal(sorted_keys(np.array(values, dtype=np.uint64)), np.sort(np.array(values, dtype=np.uint64)))


@given(seeds, st.integers(1, 400), st.integers(1, 600), st.booleans())
def test_up_to_the_threshold_there_are_k_items(seed, n, k, ties):
    rng = np.random.default_rng(seed)
    distances = (rng.integers(0, 4, n) if ties else rng.random(n)).astype(np.float32)
    counts = rng.integers(1, 4, n).astype(np.int32)
    threshold = threshold_of_nearest(distances, counts, k)
    if counts.sum() < k:
        assert threshold == np.inf
    else:
        assert counts[distances <= threshold].sum() >= k
        assert threshold <= distances.max()


def draw_candidates(seed, n_codes, n_values, most_items):
    """Return a segment, and a distance for each of its codes; most items share a code, most codes a distance."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_codes, dtype=np.uint16), rng.integers(1, most_items + 1, n_codes))[:, None]
    segment = build(codes, rng.permutation(2 * len(codes))[: len(codes)])
    return segment, rng.integers(0, n_values, len(segment.counts)).astype(np.float32)


@given(
    st.builds(
        draw_candidates, seeds, st.integers(1, 300), st.sampled_from([1, 2, 9, 10**6]), st.sampled_from([1, 3, 300])
    ),
    st.integers(1, 400),
)
def test_the_items_found_are_the_first_by_distance_and_id(drawn, k):
    segment, distances = drawn
    keys = np.array([make_key(d, u) for u, d in enumerate(distances)], dtype=np.uint64)
    of_items = np.repeat(distances, segment.counts)
    order = np.lexsort((segment.ids, of_items))[:k]

    kept = keys.copy()
    n_kept, threshold = keep_nearest(kept, len(kept), k, segment)
    lost = np.setdiff1d(np.arange(len(keys)), [position_of(key) for key in kept[:n_kept]])
    needed = np.repeat(np.arange(len(keys)), segment.counts)[order]
    assert not np.isin(needed, lost).any()
    assert threshold == np.inf or threshold >= of_items[order].max()

    found_distances, found_ids = nothing(1, k)
    merge_found(keys[None].copy(), np.array([len(keys)]), segment, found_distances, found_ids)
    assert_array_equal(found_ids[0, : len(order)], segment.ids[order])
    assert_array_equal(found_distances[0, : len(order)], of_items[order])
    assert (found_distances[0, len(order) :] == np.inf).all()


@given(seeds, st.integers(1, 20), st.integers(1, 20))
def test_merging_rows_is_sorting_them_together(seed, k, k_other):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(100)
    rows = []
    for some in (ids[:k], ids[k : k + k_other]):
        distances = rng.integers(0, 4, len(some)).astype(np.float32)
        order = np.lexsort((some, distances))
        rows.append((distances[order], some[order]))
    distances, merged_ids = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.lexsort((merged_ids, distances))[:k]
    (first_distances, first_ids), (other_distances, other_ids) = [(d[None].copy(), i[None].copy()) for d, i in rows]
    merge_nearest(first_distances, first_ids, other_distances, other_ids)
    assert_array_equal(first_distances[0], distances[order])
    assert_array_equal(first_ids[0], merged_ids[order])
