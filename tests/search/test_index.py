"""CodeIndex: searches equal brute force bit for bit, and updates equal a dict."""

import copy
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skdpq._search.index import CodeIndex
from skdpq._search.scan_numba import Plan
from skdpq._search.simd import HAS_SIMD


def brute_force(codebooks, codes, queries, symmetric):
    """Squared distances (n_queries, n): exact in each part, rounded to float32, added in the order of the parts."""
    M, _, D = codebooks.shape
    parts = np.arange(M)
    if symmetric:
        queries = codebooks[parts, queries].reshape(len(queries), -1)
    hard = codebooks[parts, codes].reshape(len(codes), M * D).astype(np.float64)
    distances = np.zeros((len(queries), len(codes)), dtype=np.float32)
    for m in range(M):
        part = np.zeros(distances.shape)
        for d in range(m * D, (m + 1) * D):
            difference = hard[:, d] - queries[:, d, None].astype(np.float64)
            part += difference * difference
        distances += part.astype(np.float32)
    return distances


def ranking(distances, ids):
    """Positions of all items for one query by (distance, id)."""
    return np.lexsort((ids, distances))


def all_bits_equal(actual, expected):
    assert actual.dtype == expected.dtype
    assert_array_equal(actual, expected)


class Problem:
    """Codebooks, a database added in portions and thinned out, and queries for both kinds of search."""

    def __init__(self, seed, M, K, D, n, n_queries, n_distinct, kind, n_portions=1):
        rng = np.random.default_rng(seed)
        if kind == "zero":
            codebooks = np.zeros((M, K, D))
        elif kind == "integers":  # many distances are equal
            codebooks = rng.integers(-2, 3, size=(M, K, D))
        else:
            codebooks = rng.normal(size=(M, K, D)) * kind
        self.codebooks = codebooks.astype(np.float32)
        codes = rng.integers(K, size=(min(n, n_distinct), M))[rng.integers(min(n, n_distinct), size=n)]
        scale = kind if isinstance(kind, float) else 1
        soft = (
            rng.integers(-2, 3, size=(n_queries, M * D)) if kind == "integers" else rng.normal(size=(n_queries, M * D))
        )
        self.queries = {True: rng.integers(K, size=(n_queries, M)), False: (soft * scale).astype(np.float32)}
        self.index = CodeIndex(self.codebooks.copy())
        # Distances are in the unit of the index, a power of two.
        self.unit = np.float32(2.0**self.index.frame.exponent)
        self.codebooks /= self.unit
        if n_portions == 1:
            self.index = self.index.add(codes)
            self.ids, self.codes = np.arange(n), codes
            return
        ids = rng.permutation(2 * n)[:n]
        for portion in np.array_split(np.arange(n), n_portions):
            self.index = self.index.add(codes[portion], ids[portion])
        kept = rng.random(n) < 0.7
        self.index = self.index.remove(ids[~kept])
        order = np.argsort(ids[kept])
        self.ids, self.codes = ids[kept][order], codes[kept][order]

    def expected(self, symmetric):
        queries = self.queries[symmetric] if symmetric else self.queries[symmetric] / self.unit
        distances = brute_force(self.codebooks, self.codes, queries, symmetric)
        return [(row, ranking(row, self.ids)) for row in distances]


def make_problems(n):
    """Return a strategy of problems with n items before some are removed, perhaps all."""
    return st.builds(
        Problem,
        seed=st.integers(0, 2**32 - 1),
        M=st.integers(1, 6) | st.sampled_from([8, 9, 17]),
        K=st.sampled_from([2, 3, 16, 64, 65, 128, 129, 256, 257, 300]),
        D=st.integers(1, 4),
        n=n,
        n_queries=st.integers(1, 6) | st.sampled_from([20, 70]),
        n_distinct=st.sampled_from([1, 3, 50, 5000]),
        kind=st.sampled_from(["zero", "integers", 1e-20, 1e-15, 1e-6, 1.0, 1e6, 1e15]),
        n_portions=st.sampled_from([1, 1, 2, 7]),
    )


problems_or_empty = make_problems(st.integers(1, 60) | st.integers(250, 260) | st.integers(4000, 5000))
problems = problems_or_empty.filter(lambda problem: len(problem.codes) > 0)
pairs = make_problems(st.integers(2, 60) | st.integers(250, 260)).filter(lambda problem: len(problem.codes) > 1)


class Search(NamedTuple):
    """One way to search, which no result may depend on."""

    symmetric: bool
    n_threads: int
    simd: bool  # where the machine has it
    few: int  # queries below which threads share out the database, and queries are not summed together
    chunk_bytes: int  # of codes that all queries see in turn

    def options(self):
        """Search this way, however small the problem is."""
        return {
            "symmetric": self.symmetric,
            "n_jobs": self.n_threads,
            "plan": Plan(
                simd=self.simd and HAS_SIMD,
                min_lookups_of_threads=0,
                min_queries_per_thread=self.few,
                min_queries_per_thread_of_memory=self.few,
                min_queries_together=self.few,
                chunk_bytes=self.chunk_bytes,
            ),
        }


searches = st.builds(
    Search,
    st.booleans(),
    n_threads=st.sampled_from([1, 2, 3]),
    simd=st.booleans(),
    few=st.sampled_from([1, 1000]),
    chunk_bytes=st.sampled_from([1, 5000, 2**18]),
)


@given(problems, searches, st.data())
@example(Problem(0, 3, 16, 2, 5000, 5, 5000, "integers"), Search(False, 2, True, 1, 2**16), None)
@example(Problem(1, 64, 256, 1, 3000, 9, 3000, 1.0, 2), Search(False, 1, True, 1, 2**16), None)
@example(Problem(2, 64, 256, 1, 3000, 9, 3000, 1.0, 2), Search(True, 1, False, 1, 2**16), None)
@example(Problem(3, 2, 65536, 1, 3000, 9, 3000, 1.0, 2), Search(False, 2, True, 1, 2**16), None)
@example(Problem(4, 64, 65536, 1, 300, 3, 3000, 1.0), Search(True, 1, True, 1, 2**16), None)
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
    beyond = quantile > 1 or rows.size == 0
    limit = np.finfo(np.float32).max if beyond else np.quantile(rows, quantile, method="lower")
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
    rows = brute_force(problem.codebooks, problem.codes, problem.codes, True)
    orders = [ranking(row, problem.ids) for row in rows]
    orders = [order[order != item] for item, order in enumerate(orders)]
    options = search.options()
    del options["symmetric"]
    distances, ids = problem.index.all_kneighbors(k, **options)
    limit = np.quantile(rows, 0.2, method="lower")
    counts, near_distances, near_ids = problem.index.all_radius_neighbors(limit, **options)
    assert not problem.index.all_radius_neighbors(np.float32(-1), **options)[0].any()
    all_bits_equal(ids, np.array([problem.ids[order[:k]] for order in orders]))
    all_bits_equal(distances, np.array([row[order[:k]] for row, order in zip(rows, orders, strict=True)]))
    within = [order[row[order] <= limit] for row, order in zip(rows, orders, strict=True)]
    all_bits_equal(counts, np.array([len(order) for order in within]))
    all_bits_equal(near_ids, problem.ids[np.concatenate(within)])
    all_bits_equal(near_distances, np.concatenate([row[order] for row, order in zip(rows, within, strict=True)]))


@pytest.mark.parametrize("n_distinct", [40, 30_000, 10**9])
@pytest.mark.parametrize("kind", ["integers", 1.0])
@pytest.mark.parametrize("K", [64, 256, 300])
@pytest.mark.parametrize("simd", [True, False])
@pytest.mark.parametrize("few", [1, 1000])
def test_a_database_of_many_chunks_of_blocks(K, kind, n_distinct, simd, few):
    problem = Problem(3, 4, K, 2, 60_000, 3, n_distinct, kind, n_portions=3)
    for symmetric in (False, True):
        expected = problem.expected(symmetric)
        for k in (1, 10, 1000):
            options = Search(symmetric, 1, simd, few, 2**16).options()
            distances, ids = problem.index.kneighbors(problem.queries[symmetric], k, **options)
            all_bits_equal(ids, np.array([problem.ids[order[:k]] for _, order in expected]))
            all_bits_equal(distances, np.array([row[order[:k]] for row, order in expected]))


@settings(max_examples=25)
@given(problems, st.booleans())
def test_fewer_neighbors_are_a_prefix_of_more(problem, symmetric):
    n = len(problem.codes)
    more, fewer = min(100, n), min(10, n)
    found = [problem.index.kneighbors(problem.queries[symmetric], k, symmetric=symmetric) for k in (more, fewer)]
    for long, short in zip(*found, strict=True):
        assert_array_equal(long[:, :fewer], short)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["block_table_entries", "block_keys", "block_u8_entries"])
def test_many_queries_over_several_blocks_of_queries_equal_one_at_a_time(symmetric, name):
    problem = Problem(0, 4, 16, 2, 3000, 40, 3000, "integers")
    queries = problem.queries[symmetric]
    expected = problem.index.kneighbors(queries, 7, symmetric=symmetric)
    within = problem.index.radius_neighbors(queries, np.float32(9), symmetric=symmetric)
    plan = Plan(min_lookups_of_threads=0)._replace(**{name: 3 * 4 * 64})  # few queries a block
    for n_jobs in [None, 1, 2, -1]:
        options = {"symmetric": symmetric, "n_jobs": n_jobs, "plan": plan}
        for actual, part in zip(problem.index.kneighbors(queries, 7, **options), expected, strict=True):
            all_bits_equal(actual, part)
        for actual, part in zip(problem.index.radius_neighbors(queries, np.float32(9), **options), within, strict=True):
            all_bits_equal(actual, part)


def test_a_table_larger_than_a_block_of_tables_is_searched():
    problem = Problem(1, 4, 16, 2, 50, 3, 50, 1.0)
    plan = Plan(block_table_entries=5)
    distances, _ = problem.index.kneighbors(problem.queries[False], 50, symmetric=False, plan=plan)
    all_bits_equal(distances, np.array([row[order] for row, order in problem.expected(False)]))


def test_no_query_has_no_result():
    index = Problem(0, 3, 4, 2, 10, 1, 10, 1.0).index
    for symmetric, queries in [(True, np.empty((0, 3), np.uint8)), (False, np.empty((0, 6), np.float32))]:
        distances, ids = index.kneighbors(queries, 4, symmetric=symmetric)
        assert distances.shape == ids.shape == (0, 4)
        assert [len(part) for part in index.radius_neighbors(queries, np.float32(1), symmetric=symmetric)] == [0, 0, 0]


def test_an_empty_index_has_nothing_within_any_radius():
    index = CodeIndex(np.zeros((2, 4, 1)))
    counts, distances, ids = index.radius_neighbors(np.zeros((3, 2), np.float32), np.float32(1), symmetric=False)
    assert_array_equal(counts, [0, 0, 0])
    assert len(distances) == len(ids) == 0
    assert [len(part) for part in index.all_radius_neighbors(np.float32(1))] == [0, 0, 0]


@pytest.mark.parametrize("symmetric", [False, True])
def test_distances_beyond_float32_are_refused(symmetric):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1e20)
    queries = np.array([[0, 0], [1, 1]]) if symmetric else problem.queries[False]
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.kneighbors(queries, 1, symmetric=symmetric)
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.radius_neighbors(queries, np.float32(1), symmetric=symmetric)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_queries_that_are_not_finite_are_refused(bad):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1.0)
    problem.queries[False][3, 2] = bad
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.kneighbors(problem.queries[False], 1, symmetric=False)


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_out_of_range_is_refused(k):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1.0)
    with pytest.raises(ValueError, match="Expected k from 1 to 10"):
        problem.index.kneighbors(problem.queries[False], k, symmetric=False)
    with pytest.raises(ValueError, match="Expected k from 1 to 9"):
        problem.index.all_kneighbors(10)


@pytest.mark.parametrize(
    ("symmetric", "queries"),
    [
        (False, np.zeros((2, 5), np.float32)),
        (False, np.zeros(6, np.float32)),
        (True, np.zeros((2, 3), int)),
        (True, np.full((2, 2), 4)),
        (True, np.zeros((2, 2))),
    ],
)
def test_queries_that_do_not_fit_the_codebooks_are_refused(symmetric, queries):
    index = Problem(0, 2, 4, 3, 10, 5, 10, 1.0).index
    with pytest.raises(ValueError, match="Expected"):
        index.kneighbors(queries, 1, symmetric=symmetric)


@pytest.mark.parametrize(
    "codebooks",
    [
        np.zeros((2, 3)),
        np.zeros((0, 3, 2)),
        np.zeros((2, 3, 0)),
        np.full((2, 3, 1), np.nan),
        np.full((2, 3, 1), -np.inf),
    ],
)
def test_codebooks_that_are_none_are_refused(codebooks):
    with pytest.raises(ValueError, match=r"Expected .*codebooks"):
        CodeIndex(codebooks)


# Updates

ids_or_none = st.none() | st.lists(st.integers(0, 40), max_size=6)
operations = st.lists(
    st.tuples(st.just("add"), st.integers(0, 6), ids_or_none)
    | st.tuples(st.just("remove"), st.just(0), st.lists(st.integers(0, 40), max_size=6))
    | st.tuples(st.just("remove some"), st.integers(0, 6), st.none()),
    max_size=12,
)


@given(operations, st.integers(0, 2**32 - 1))
def test_any_sequence_of_updates_equals_a_dict(sequence, seed):
    rng = np.random.default_rng(seed)
    index, model, next_id = CodeIndex(np.zeros((2, 300, 1))), {}, 0
    for name, size, ids in sequence:
        before, contents = index, copy.deepcopy(index)
        if name == "add":
            n = size if ids is None else len(ids)
            codes = rng.integers(300, size=(n, 2))
            valid = ids is None or (len(set(ids)) == n and not set(ids) & set(model))
        else:
            if ids is None:
                ids = list(model)[:size]
            valid = set(ids) <= set(model)
        if not valid:
            with pytest.raises(ValueError, match="Expected ids"):
                index.add(codes, ids) if name == "add" else index.remove(ids)
        elif name == "add":
            new = range(next_id, next_id + n) if ids is None else ids
            index = index.add(codes, ids)
            model.update(zip(new, codes.tolist(), strict=True))
            next_id = max([next_id, *(i + 1 for i in new)])
        else:
            index = index.remove(ids)
            model = {i: code for i, code in model.items() if i not in ids}
        assert before.next_id == contents.next_id
        for segment, copied in zip(before.segments, contents.segments, strict=True):  # searches under way read these
            for array, copied_array in zip(segment, copied, strict=True):
                assert_array_equal(array, copied_array)
        assert index.codes.dtype == np.uint16
        assert index.ids.dtype == np.int64
        assert index.codes.flags.c_contiguous
        assert index.next_id == next_id
        assert dict(zip(index.ids.tolist(), index.codes.tolist(), strict=True)) == model
        assert len(index) == len(model)
        assert index.ids.tolist() == sorted(model)


def test_ids_are_not_given_again_after_their_removal():
    index = CodeIndex(np.zeros((1, 4, 1))).add([[0], [1], [2]]).remove([2]).add([[3]])
    assert index.ids.tolist() == [0, 1, 3]
    index = index.remove(index.ids).add([[0]])
    assert index.ids.tolist() == [4]


@given(sizes=st.lists(st.integers(1, 40), max_size=12))
def test_each_segment_has_more_than_twice_the_items_of_the_next(sizes):
    index, codebooks = CodeIndex(np.zeros((2, 4, 1))), np.arange(8).reshape(2, 4, 1)
    for i, size in enumerate(sizes):
        index = index.add(np.full((size, 2), i % 4))
    lengths = [len(segment.ids) for segment in index.segments]
    assert sum(lengths) == sum(sizes)
    assert all(length > 2 * following for length, following in pairwise(lengths))
    assert {array.dtype for array in (index.codebooks, index.with_codebooks(codebooks).codebooks)} == {np.dtype("f4")}


def test_a_large_segment_is_shared_by_the_index_that_a_small_addition_makes():
    index = CodeIndex(np.zeros((2, 4, 1))).add(np.zeros((40, 2), int))
    added = index.add(np.ones((9, 2), int))
    assert added.segments[0] is index.segments[0]
    assert [len(segment.ids) for segment in added.add(np.ones((12, 2), int)).segments] == [61]


def test_results_follow_ids_not_the_order_of_adding():
    index = CodeIndex(np.zeros((1, 4, 1))).add([[0], [1]], ids=[7, 3]).add([[2]], ids=[5])
    assert index.ids.tolist() == [3, 5, 7]
    assert index.codes.ravel().tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("codes", "ids"),
    [
        ([[0, 1]], [-1]),
        ([[0, 1]], [0]),
        ([[0, 1]], [0.5]),
        ([[0, 1]], [2.0]),
        ([[0, 1]], ["2"]),
        ([[0, 1]], [True]),
        ([[0, 1]], [[2]]),
        ([[0, 1]], 2),
        ([[0, 1]], [2, 3]),
        ([[0, 1]], []),
        ([[0, 1]], [2**63 - 1]),
        ([[0, 1]], [2**64 - 1]),
        ([[0, 1]], [2**70]),
        ([[0, 1], [1, 1]], [5, 5]),
        ([[0, 4]], None),
        ([[0]], None),
        ([[0.0, 1.0]], None),
    ],
)
def test_a_failing_add_leaves_the_index_as_it_was(codes, ids):
    index = CodeIndex(np.zeros((2, 4, 1))).add([[1, 2], [3, 0]])
    with pytest.raises(ValueError, match="Expected"):
        index.add(codes, ids)
    assert index.ids.tolist() == [0, 1]
    assert index.codes.tolist() == [[1, 2], [3, 0]]
    assert index.next_id == 2


def test_sparse_codes_are_a_type_error():
    index = CodeIndex(np.zeros((2, 4, 1)))
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        index.add(csr_array(np.array([[1, 2]])))
    assert len(index) == 0


@pytest.mark.parametrize("ids", [[2], [-1], [0.0], [0, 9], ["0"], 0, [[0]]])
def test_a_failing_remove_leaves_the_index_as_it_was(ids):
    index = CodeIndex(np.zeros((2, 4, 1))).add([[1, 2], [3, 0]])
    with pytest.raises(ValueError, match="Expected"):
        index.remove(ids)
    assert index.ids.tolist() == [0, 1]


def test_the_largest_id_leaves_none_to_give():
    index = CodeIndex(np.zeros((2, 4, 1))).add([[1, 2]], ids=[2**63 - 2]).add(np.empty((0, 2), int))
    with pytest.raises(ValueError, match="none are left"):
        index.add([[3, 0]])
    index = index.add([[3, 0]], ids=[0])
    assert index.ids.dtype == np.int64
    assert index.ids.tolist() == [0, 2**63 - 2]
