"""Searches among some items equal brute force among all, less the others: bit for bit, however they are done."""

import gc
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_index import Problem, Search, all_bits_equal
from test_index import pairs as euclidean_pairs
from test_index import problems_or_empty as euclidean_problems
from test_index import searches as euclidean_searches
from test_relevance import KEPT, NOT_KEPT
from test_relevance import Problem as Relevance
from test_relevance import pairs as relevance_pairs
from test_relevance import problems_or_empty as relevance_problems
from test_relevance import searches as relevance_searches
from test_scan_torch import GENEROUS, TIGHT

from skdpq._search import among, scan_torch
from skdpq._search.index import CodeIndex


class Torch(NamedTuple):
    """A search by torch."""

    symmetric: bool
    plan: scan_torch.Plan

    def options(self):
        return {"symmetric": self.symmetric, "device": torch.device("cpu"), "plan": self.plan}


class Allowed(NamedTuple):
    """Some items of a problem, as a mask or as ids, and whether they are taken out or seen through a view."""

    seed: int
    share: float
    as_ids: bool
    few: bool

    def mask(self, problem):
        return np.random.default_rng(self.seed).random(len(problem.codes)) < self.share

    def among(self, problem):
        """Return the index to search."""
        allowed = self.mask(problem)
        if self.as_ids:
            ids = problem.ids[allowed]
            allowed = np.random.default_rng(self.seed).permutation(np.concatenate((ids, ids[::2])))
        with mock.patch.object(among, "_are_few", return_value=self.few):
            return problem.index.among(allowed, 1)


torch_searches = st.builds(Torch, st.booleans(), st.sampled_from([TIGHT[1], GENEROUS]))
allowed_items = st.builds(
    Allowed,
    st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.02, 0.3, 0.7, 0.99, 1.0]),
    as_ids=st.booleans(),
    few=st.booleans(),
)
problems_and_searches = st.tuples(euclidean_problems, euclidean_searches | torch_searches) | st.tuples(
    relevance_problems, relevance_searches | torch_searches
)
pairs_and_searches = st.tuples(euclidean_pairs, euclidean_searches | torch_searches) | st.tuples(
    relevance_pairs, relevance_searches | torch_searches
)


def one_a_code(problem):
    """Return a problem with the first item of each code alone."""
    kept = np.sort(np.unique(problem.codes, axis=0, return_index=True)[1])
    problem.index = problem.index.remove(np.delete(problem.ids, kept))
    problem.codes, problem.ids = problem.codes[kept], problem.ids[kept]
    return problem


ONE_A_CODE = one_a_code(Problem(0, 9, 256, 2, 3000, 9, 3000, "integers"))
RELEVANCE = one_a_code(Relevance(0, 9, 256, 10, 3000, 9, 3000, 4.0, 0.1))
MANY_A_CODE = Problem(0, 3, 4, 2, 5000, 9, 40, "integers", 3)
ALONE, TOGETHER = (Search(False, 1, False, few, 2**18) for few in (1000, 1))


def expected_among(problem, rows, mask):
    """Return for each row of brute force its distances and the ids, in order, of what is allowed."""
    return [(row[order[mask[order]]], problem.ids[order[mask[order]]]) for row, order in rows]


def assert_nearest(found, expected, k):
    all_bits_equal(found[0], np.array([distances[:k] for distances, _ in expected]))
    all_bits_equal(found[1], np.array([ids[:k] for _, ids in expected]))


def assert_within(found, expected, limit):
    within = [np.count_nonzero(distances <= limit) for distances, _ in expected]
    all_bits_equal(found[0], np.array(within))
    all_bits_equal(found[1], np.concatenate([d[:n] for (d, _), n in zip(expected, within, strict=True)]))
    all_bits_equal(found[2], np.concatenate([ids[:n] for (_, ids), n in zip(expected, within, strict=True)]))


@settings(max_examples=200)
@given(problems_and_searches, allowed_items, st.data())
@example((MANY_A_CODE, Torch(False, GENEROUS)), Allowed(0, 0.3, False, False), None)
@example((MANY_A_CODE, Torch(True, GENEROUS)), Allowed(0, 0.02, True, True), None)
@example((MANY_A_CODE, ALONE), Allowed(0, 0.02, True, False), None)
@example((ONE_A_CODE, ALONE), Allowed(0, 0.3, False, False), None)
@example((ONE_A_CODE, TOGETHER), Allowed(0, 0.3, False, False), None)
@example((ONE_A_CODE, Torch(False, GENEROUS)), Allowed(0, 0.3, False, False), None)
@example((RELEVANCE, KEPT), Allowed(0, 0.3, False, False), None)
@example((RELEVANCE, NOT_KEPT), Allowed(0, 0.02, False, False), None)
def test_kneighbors_is_brute_force_less_what_is_not_allowed(case, allowed, data):
    problem, search = case
    mask, index = allowed.mask(problem), allowed.among(problem)
    n = int(mask.sum())
    assert len(index) == n
    if n == 0:
        return
    k = min(n, 30) if data is None else data.draw(st.integers(1, n) | st.integers(1, min(n, 12)) | st.just(n))
    found = index.kneighbors(problem.queries[search.symmetric], k, **search.options())
    assert_nearest(found, expected_among(problem, problem.expected(search.symmetric), mask), k)


@given(problems_and_searches, allowed_items, st.sampled_from([0, 0.1, 0.5, 1]))
def test_radius_neighbors_is_brute_force_less_what_is_not_allowed(case, allowed, quantile):
    problem, search = case
    mask, rows = allowed.mask(problem), problem.expected(search.symmetric)
    expected = expected_among(problem, rows, mask)
    distances = np.concatenate([row for row, _ in expected])
    limit = np.quantile(distances, quantile, method="lower") if len(distances) else np.float32(1)  # one that occurs
    found = allowed.among(problem).radius_neighbors(problem.queries[search.symmetric], limit, **search.options())
    assert_within(found, expected, limit)


@settings(max_examples=60)
@given(pairs_and_searches, allowed_items, st.data())
def test_all_pairs_are_brute_force_without_oneself_and_what_is_not_allowed(case, allowed, data):
    problem, search = case
    mask, candidates, options = allowed.mask(problem), allowed.among(problem), search.options()
    del options["symmetric"]
    problem.queries[True] = problem.codes
    expected = [
        (distances[ids != item], ids[ids != item])
        for item, (distances, ids) in zip(
            problem.ids, expected_among(problem, problem.expected(True), mask), strict=True
        )
    ]
    limit = np.quantile(np.concatenate([d for d, _ in expected]), 0.3, method="lower") if mask.sum() > 1 else 1
    assert_within(problem.index.all_radius_neighbors(limit, candidates, **options), expected, limit)
    n = int(mask.sum())
    if n > 1:
        k = data.draw(st.integers(1, n - 1))
        assert_nearest(problem.index.all_kneighbors(k, candidates, **options), expected, k)
    with pytest.raises(ValueError, match=f"Expected k from 1 to {n - 1}"):
        problem.index.all_kneighbors(max(n, 1), candidates, **options)


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("n_queries", [1, 1000])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.6, 1])
@pytest.mark.parametrize("problem", [Problem(3, 4, 64, 2, 20_000, 70, 20_000, 1.0, 3), MANY_A_CODE])
def test_the_way_that_is_chosen_finds_the_same(problem, share, n_queries, as_ids):
    mask = np.arange(len(problem.codes)) < share * len(problem.codes)
    index = problem.index.among(problem.ids[mask] if as_ids else mask, n_queries)
    same = [one is other for one, other in zip(index.segments, problem.index.segments, strict=False)]
    assert all(same) == (share == 1)
    k = min(5, len(index))
    found = index.kneighbors(problem.queries[False], k, symmetric=False)
    assert_nearest(found, expected_among(problem, problem.expected(False), mask), k)


@pytest.mark.parametrize("few", [False, True])
def test_ids_beyond_32_bits_are_searched_by_the_same_kernels(few):
    ids = np.array([3, 2**32, 2**40, 7])
    index = CodeIndex(np.arange(4.0)[None, :, None]).add(np.arange(4)[:, None], ids)
    with mock.patch.object(among, "_are_few", return_value=few):
        index = index.among([7, 3], 1)
    assert index.segments[0].ids.dtype == np.int64
    assert index.kneighbors(np.zeros((1, 1)), 2, symmetric=False)[1].tolist() == [[3, 7]]


@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int32, np.uint64, np.int64], ids=lambda dtype: np.dtype(dtype).name
)
def test_ids_may_be_integers_of_any_kind(first, dtype):
    index = CodeIndex(np.zeros((1, 4, 1))).add(np.arange(4)[:, None], np.arange(first, first + 4))
    for gaps in (index, index.remove([first + 1])):
        found = gaps.among(np.array([first + 2, first], dtype), 1)
        assert found.kneighbors(np.zeros((1, 1)), 2, symmetric=False)[1].tolist() == [[first, first + 2]]
        for unknown in (0, first + 4, np.iinfo(dtype).min, np.iinfo(dtype).max):
            if unknown not in index.ids:
                with pytest.raises(ValueError, match=rf"Expected ids of the database in among, got \[{unknown}\]"):
                    gaps.among(np.array([first, unknown], dtype), 1)


def test_an_id_that_was_removed_is_unknown():
    index = CodeIndex(np.zeros((1, 4, 1))).add(np.arange(4)[:, None])
    assert len(index.among([1, 2], 1)) == 2
    with pytest.raises(ValueError, match=r"Expected ids of the database in among, got \[1\]"):
        index.remove([1]).among([1, 2], 1)
    with pytest.raises(ValueError, match=r"Expected ids of the database in among, got \[1\]"):
        index.remove(range(4)).among([1], 1)


@pytest.mark.parametrize(
    ("allowed", "got"),
    [
        (np.ones(3, bool), r"bool of shape \(3,\)"),
        (np.ones(5, bool), r"bool of shape \(5,\)"),
        (np.ones(0, bool), r"bool of shape \(0,\)"),
        (np.ones((4, 1), bool), r"bool of shape \(4, 1\)"),
        (np.ones((2, 2), int), r"int64 of shape \(2, 2\)"),
        (np.ones(4), r"float64 of shape \(4,\)"),
        (np.array([True, False, True, None]), r"object of shape \(4,\)"),
        (["a", "b"], r"<U1 of shape \(2,\)"),
        ({1, 2}, r"object of shape \(\)"),
        (1, r"int64 of shape \(\)"),
    ],
)
def test_what_is_neither_a_mask_nor_ids_is_refused(allowed, got):
    index = CodeIndex(np.zeros((1, 4, 1))).add(np.arange(4)[:, None])
    with pytest.raises(ValueError, match=rf"boolean mask of shape \(4,\).*1-D array of ids.*got {got}"):
        index.among(allowed, 1)


@pytest.mark.parametrize(
    "allowed",
    [[], np.zeros(4, bool), np.empty(0, int), (), torch.zeros(4, dtype=torch.bool)],
)
def test_of_nothing_there_is_nothing(allowed):
    index = CodeIndex(np.zeros((1, 4, 1))).add(np.arange(4)[:, None]).among(allowed, 1)
    assert len(index) == 0
    counts, distances, ids = index.radius_neighbors(np.zeros((2, 1)), np.float32(1), symmetric=False)
    assert counts.tolist() == [0, 0]
    assert len(distances) == len(ids) == 0
    with pytest.raises(ValueError, match="Expected k from 1 to 0"):
        index.kneighbors(np.zeros((2, 1)), 1, symmetric=False)


# What is kept from one search to the next


def n_kept():
    gc.collect()
    return len(among._orders), len(scan_torch._stored), len(scan_torch._uploaded), len(scan_torch._stored_posteriors)


@pytest.mark.parametrize("among_first", [False, True])
@pytest.mark.parametrize("make", [Problem, Relevance])
def test_a_view_is_searched_on_a_device_by_what_is_there(make, among_first):
    before = n_kept()
    search_in_turns(make(0, 3, 16, 2, 3000, 6, 300, 1.0, 1.0), among_first)
    assert n_kept() == before


def search_in_turns(problem, among_first):
    """Search among some and among all by torch, and check what stays on the device."""
    mask = np.arange(3000) % 16 == 0
    expected = problem.expected(False)
    before, options = n_kept(), {"symmetric": False, "device": torch.device("cpu")}

    def search_among():
        with mock.patch.object(among, "_are_few", return_value=False):
            found = problem.index.among(mask, 1).kneighbors(problem.queries[False], 9, **options)
        assert_nearest(found, expected_among(problem, expected, mask), 9)

    def search_all():
        found = problem.index.kneighbors(problem.queries[False], 9, **options)
        assert_nearest(found, expected_among(problem, expected, mask | True), 9)

    for search in (search_among, search_all, search_among) if among_first else (search_all, search_among, search_all):
        search()
        uploaded = scan_torch._uploaded[id(problem.index.segments[0].blocks), torch.device("cpu")]
    search_among()
    assert scan_torch._uploaded[id(problem.index.segments[0].blocks), torch.device("cpu")] is uploaded
    relevant = isinstance(problem, Relevance)
    assert n_kept() == (before[0] + 1, before[1] + 1, before[2] + 1, before[3] + relevant)


def test_where_items_stand_is_found_out_once_and_forgotten_with_the_database():
    index, before = Problem(0, 3, 16, 2, 3000, 6, 300, 1.0, 3).index, n_kept()
    index.among(index.ids[:5], 1)
    with mock.patch.object(among, "_make_order", side_effect=AssertionError):
        assert len(index.among(index.ids[:5], 1)) == 5
        assert len(index.with_codebooks(index.codebooks * 2).among(index.ids > 5, 1)) < len(index)
    added = index.add(np.zeros((1, 3), int))
    assert len(added.among([added.next_id - 1], 1)) == 1
    assert n_kept()[0] == before[0] + 2
    del index, added
    assert n_kept() == before
