"""Searches by relevance equal brute force over the posteriors, bit for bit, however they are shared out."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from test_index import all_bits_equal, ranking

from skdpq._search import relevance
from skdpq._search.index import CodeIndex
from skdpq._search.posteriors import CodeClassifier, code_posteriors
from skdpq._search.ranking import CodeGroups, tie_groups
from skdpq._search.relevance import Plan
from skdpq._search.segments import build


def brute_force(of_queries, of_codes):
    """Distances (n_queries, n): one less the sum over the classes, in their order, in float64; rounded once."""
    total = np.zeros((len(of_queries), len(of_codes)))
    for q, d in zip(of_queries.T.astype(np.float64), of_codes.T.astype(np.float64), strict=True):
        total += q[:, None] * d
    return np.maximum(0, 1 - total).astype(np.float32)


class Problem:
    """A classifier, a database added in portions and thinned out, and queries for both kinds of search.

    `scale` is that of the tables: at 0 all codes have one posterior, at 1e4 nearly all are certain, some wholly. So are
    queries with a small `spread`, which have classes without any probability.
    """

    def __init__(self, seed, M, K, C, n, n_queries, n_distinct, scale, spread, n_portions=1):
        rng = np.random.default_rng(seed)
        lutc = rng.integers(-2, 3, size=(M, K, C)) if scale == "integers" else rng.normal(size=(M, K, C)) * scale
        self.lutc, self.bias = lutc.astype(np.float32), rng.normal(size=C).astype(np.float32)
        codes = rng.integers(K, size=(min(n, n_distinct), M))[rng.integers(min(n, n_distinct), size=n)]
        soft = np.nan_to_num(rng.dirichlet(np.full(C, spread), n_queries)).clip(0, 1).astype(np.float32)
        self.queries = {True: rng.integers(K, size=(n_queries, M)), False: soft}
        self.index = CodeIndex(np.zeros((M, K, 1))).with_classifier(self.lutc, self.bias)
        self.ids, self.codes = np.arange(n), codes
        if n_portions == 1:
            self.index = self.index.add(codes)
            return
        ids = rng.permutation(2 * n)[:n]
        for portion in np.array_split(np.arange(n), n_portions):
            self.index = self.index.add(codes[portion], ids[portion])
        kept = rng.random(n) < 0.7
        self.index = self.index.remove(ids[~kept])
        order = np.argsort(ids[kept])
        self.ids, self.codes = ids[kept][order], codes[kept][order]

    def posteriors(self, codes):
        return code_posteriors(codes, CodeClassifier(self.lutc, self.bias))

    def expected(self, symmetric):
        queries = self.posteriors(self.queries[True]) if symmetric else self.queries[False]
        return [(row, ranking(row, self.ids)) for row in brute_force(queries, self.posteriors(self.codes))]


def make_problems(n):
    """Return a strategy of problems with n items before some are removed, perhaps all."""
    return st.builds(
        Problem,
        seed=st.integers(0, 2**32 - 1),
        M=st.integers(1, 6) | st.just(9),
        K=st.sampled_from([2, 3, 16, 256, 300]),
        C=st.integers(1, 12) | st.sampled_from([16, 17, 100]),
        n=n,
        n_queries=st.integers(1, 6) | st.just(40),
        n_distinct=st.sampled_from([1, 3, 50, 5000]),
        scale=st.sampled_from(["integers", 0, 0.1, 1.0, 4.0, 100.0, 1e4, 1e30]),
        spread=st.sampled_from([0.01, 0.1, 1.0]),
        n_portions=st.sampled_from([1, 1, 2, 7]),
    )


problems_or_empty = make_problems(st.integers(1, 60) | st.integers(250, 260) | st.integers(2000, 3000))
problems = problems_or_empty.filter(lambda problem: len(problem.codes) > 0)
pairs = make_problems(st.integers(2, 60) | st.integers(250, 260)).filter(lambda problem: len(problem.codes) > 1)


class Search(NamedTuple):
    """One way to search, which no result may depend on."""

    symmetric: bool
    n_threads: int
    keeps: bool  # posteriors of codes
    leading_classes: int
    chunk_bytes: int
    block: int  # of what is bounded by the memory

    def options(self):
        """Search this way, however small the problem is, from nothing prepared."""
        relevance._prepared.clear()
        return {
            "symmetric": self.symmetric,
            "n_jobs": self.n_threads,
            "plan": Plan(
                kept_posteriors=2**26 if self.keeps else 0,
                leading_classes=self.leading_classes,
                least_share=0.0 if self.leading_classes == 3 else 2.0**-10,
                chunk_bytes=self.chunk_bytes,
                block_posteriors=self.block,
                block_bounds=self.block,
                block_keys=self.block,
                block_within=self.block,
                min_products_of_threads=0,
            ),
        }


searches = st.builds(
    Search,
    st.booleans(),
    n_threads=st.sampled_from([1, 2, 3]),
    keeps=st.booleans(),
    leading_classes=st.sampled_from([1, 3, 16]),
    chunk_bytes=st.sampled_from([1, 2**16]),
    block=st.sampled_from([1, 5000, 2**21]),
)
KEPT, NOT_KEPT = (Search(False, 1, keeps, 16, 2**18, 2**21) for keeps in (True, False))


@given(problems, searches, st.data())
@example(Problem(0, 3, 16, 10, 5000, 5, 5000, 4.0, 0.1), KEPT, None)
@example(Problem(1, 3, 16, 10, 5000, 5, 5000, 4.0, 0.1), NOT_KEPT, None)
@example(Problem(2, 2, 65536, 3, 3000, 9, 3000, 4.0, 0.1, 2), KEPT, None)
@example(Problem(3, 8, 256, 300, 3000, 3, 3000, 1.0, 0.1), NOT_KEPT, None)
def test_kneighbors_is_brute_force_bit_for_bit(problem, search, data):
    n = len(problem.codes)
    k = n if data is None else data.draw(st.integers(1, n) | st.integers(1, min(n, 12)) | st.just(n))
    distances, ids = problem.index.kneighbors(problem.queries[search.symmetric], k, **search.options())
    expected = problem.expected(search.symmetric)
    all_bits_equal(ids, np.array([problem.ids[order[:k]] for _, order in expected]))
    all_bits_equal(distances, np.array([row[order[:k]] for row, order in expected]))


@given(problems_or_empty, searches, st.sampled_from([0, 0.1, 0.5, 1, 2]))
def test_radius_neighbors_is_brute_force_bit_for_bit(problem, search, quantile):
    expected = problem.expected(search.symmetric)
    rows = np.array([row for row, _ in expected])
    # a distance that occurs, so that the boundary matters; or beyond all
    limit = np.float32(1) if quantile > 1 or rows.size == 0 else np.quantile(rows, quantile, method="lower")
    queries = problem.queries[search.symmetric]
    counts, distances, ids = problem.index.radius_neighbors(queries, limit, **search.options())
    within = [order[row[order] <= limit] for row, order in expected]
    all_bits_equal(counts, np.array([len(order) for order in within]))
    all_bits_equal(ids, problem.ids[np.concatenate(within)])
    all_bits_equal(distances, np.concatenate([row[order] for (row, _), order in zip(expected, within, strict=True)]))


@settings(max_examples=50)
@given(pairs, searches, st.data())
def test_all_pairs_are_brute_force_without_oneself(problem, search, data):
    n = len(problem.codes)
    k = data.draw(st.integers(1, n - 1))
    rows = brute_force(*2 * [problem.posteriors(problem.codes)])
    orders = [ranking(row, problem.ids) for row in rows]
    orders = [order[order != item] for item, order in enumerate(orders)]
    options = search.options()
    del options["symmetric"]
    distances, ids = problem.index.all_kneighbors(k, **options)
    all_bits_equal(ids, np.array([problem.ids[order[:k]] for order in orders]))
    all_bits_equal(distances, np.array([row[order[:k]] for row, order in zip(rows, orders, strict=True)]))


@settings(max_examples=50)
@given(pairs, searches, st.sampled_from([0, 0.2, 0.9]))
def test_all_pairs_within_a_radius_are_brute_force_without_oneself(problem, search, quantile):
    # As relevance is no distance to itself of zero, an item may be beyond the radius of itself.
    rows = brute_force(*2 * [problem.posteriors(problem.codes)])
    limit = np.quantile(rows, quantile, method="lower")
    options = search.options()
    del options["symmetric"]
    counts, distances, ids = problem.index.all_radius_neighbors(limit, **options)
    within = [ranking(row, problem.ids) for row in rows]
    within = [
        order[(row[order] <= limit) & (order != i)] for i, (row, order) in enumerate(zip(rows, within, strict=True))
    ]
    all_bits_equal(counts, np.array([len(order) for order in within]))
    all_bits_equal(ids, problem.ids[np.concatenate(within)])
    all_bits_equal(distances, np.concatenate([row[order] for row, order in zip(rows, within, strict=True)]))


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("C", "scale"), [(10, 4.0), (10, 0.1), (200, 2.0)])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_a_database_of_many_blocks(C, scale, keeps, k):
    problem = Problem(3, 4, 64, C, 20_000, 5, 20_000, scale, 0.1, n_portions=3)
    for symmetric in (False, True):
        options = (KEPT if keeps else NOT_KEPT)._replace(symmetric=symmetric).options()
        distances, ids = problem.index.kneighbors(problem.queries[symmetric], k, **options)
        expected = problem.expected(symmetric)
        all_bits_equal(ids, np.array([problem.ids[order[:k]] for _, order in expected]))
        all_bits_equal(distances, np.array([row[order[:k]] for row, order in expected]))


@pytest.mark.parametrize("keeps", [True, False])
def test_the_lowest_ids_come_first_where_all_distances_are_equal(keeps):
    rng = np.random.default_rng(0)
    ids = rng.permutation(10_000)[:3000]
    index = CodeIndex(np.zeros((2, 300, 1))).with_classifier(np.zeros((2, 300, 4)), np.zeros(4))
    index = index.add(rng.integers(300, size=(3000, 2)), ids)
    for k in (1, 7, 64, 65, 2999, 3000):
        found = index.kneighbors(np.full((4, 4), 0.25), k, **(KEPT if keeps else NOT_KEPT).options())[1]
        assert_array_equal(found, np.tile(np.sort(ids)[:k], (4, 1)))


def test_no_query_and_no_item_have_no_result():
    problem = Problem(0, 3, 4, 2, 10, 1, 10, 1.0, 1.0)
    empty = problem.index.remove(problem.ids)
    for symmetric in (True, False):
        queries = problem.queries[symmetric]
        distances, ids = problem.index.kneighbors(queries[:0], 4, symmetric=symmetric)
        assert distances.shape == ids.shape == (0, 4)
        found = problem.index.radius_neighbors(queries[:0], np.float32(1), symmetric=symmetric)
        assert [len(part) for part in found] == [0, 0, 0]
        found = empty.radius_neighbors(queries, np.float32(1), symmetric=symmetric)
        assert [len(part) for part in found] == [1, 0, 0]
    assert [len(part) for part in empty.all_radius_neighbors(np.float32(1))] == [0, 0, 0]


@pytest.mark.parametrize(
    "queries",
    [np.zeros((2, 3)), np.zeros(4), np.full((1, 4), np.nan), np.full((1, 4), -0.1), np.full((1, 4), 1.1)],
)
def test_queries_that_are_no_posteriors_are_refused(queries):
    index = Problem(0, 2, 4, 4, 10, 5, 10, 1.0, 1.0).index
    with pytest.raises(ValueError, match="Expected class probabilities"):
        index.kneighbors(queries, 1, symmetric=False)
    with pytest.raises(ValueError, match="Expected class probabilities"):
        index.posteriors(queries, False)


def test_queries_may_be_of_any_layout_and_precision():
    problem = Problem(0, 3, 16, 5, 500, 6, 400, 1.0, 1.0)
    queries = problem.queries[False]
    expected = problem.index.kneighbors(queries, 9, symmetric=False)
    read_only = queries.copy()
    read_only.setflags(write=False)
    for same in (queries.astype(np.float64), read_only, np.asfortranarray(queries), queries[::-1][::-1]):
        for actual, part in zip(problem.index.kneighbors(same, 9, symmetric=False), expected, strict=True):
            all_bits_equal(actual, part)


# What is prepared


def n_prepared():
    gc.collect()
    return len(relevance._prepared)


def test_segments_are_prepared_once_and_forgotten_with_the_database():
    problem = Problem(0, 3, 16, 5, 3000, 6, 3000, 1.0, 1.0)
    index, queries, before = problem.index, problem.queries[False], n_prepared()

    def search(index):
        return index.kneighbors(queries, 5, symmetric=False)

    found = search(index)
    of_index = relevance._prepared[id(index.segments[0].blocks)]
    search(index.with_classifier(problem.lutc.copy(), problem.bias.copy()))
    assert n_prepared() == before + 1
    added = index.add(problem.codes[:100])
    search(added)
    assert n_prepared() == before + 2  # of the 3000, none again
    assert relevance._prepared[id(index.segments[0].blocks)] is of_index
    changed = index.with_classifier(problem.lutc, problem.bias[::-1])
    assert not np.array_equal(search(changed)[0], found[0])
    assert n_prepared() == before + 2
    for actual, expected in zip(search(index), found, strict=True):
        all_bits_equal(actual, expected)
    del index, added, changed, problem, of_index
    assert n_prepared() == before


def test_a_search_leaves_nothing_in_a_pickle_or_a_copy():
    problem = Problem(0, 3, 16, 5, 3000, 6, 3000, 1.0, 1.0)
    index, queries = problem.index, problem.queries[False]
    before = pickle.dumps(index)
    found = index.kneighbors(queries, 5, symmetric=False)
    assert pickle.dumps(index) == before
    for again in (pickle.loads(before), copy.deepcopy(index), copy.copy(index)):
        for actual, expected in zip(again.kneighbors(queries, 5, symmetric=False), found, strict=True):
            all_bits_equal(actual, expected)


def test_many_threads_may_search_at_once():
    problem = Problem(0, 3, 16, 5, 3000, 60, 3000, 1.0, 1.0)
    queries = problem.queries[False]
    expected = problem.index.kneighbors(queries, 5, symmetric=False)
    relevance._prepared.clear()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: problem.index.kneighbors(queries, 5, symmetric=False, n_jobs=2), range(8)):
            for actual, part in zip(found, expected, strict=True):
                all_bits_equal(actual, part)


# Whole rankings


@given(problems, st.booleans(), st.integers(0, 2**32 - 1))
def test_rankings_of_codes_are_those_of_their_items(problem, keeps, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=len(problem.codes))
    posteriors = problem.queries[False]
    codes = problem.index.codes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skdpq._search.ranking.KEPT_POSTERIORS", 2**26 if keeps else 0)
        patch.setattr("skdpq._search.ranking._BLOCK_DISTANCES", 2 * len(codes))
        groups = CodeGroups(codes, labels, 3, problem.index.classifier)
        classes, out = rng.integers(-1, 3, size=len(posteriors)), np.empty(len(posteriors))
        groups.measure(posteriors, classes, lambda n, r, _: float(r @ np.arange(1, len(n) + 1)), 0, out)
    segment = build(codes, np.arange(len(codes)))
    rows = brute_force(posteriors, problem.posteriors(segment.codes()))
    for row, c, value in zip(rows, classes, out, strict=True):
        n, r = tie_groups(row, segment.counts, groups.relevant(c)) if c >= 0 else (np.zeros(0), np.zeros(0))
        assert value == r @ np.arange(1, len(n) + 1)
