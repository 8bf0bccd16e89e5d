"""CodeIndex: searches equal brute force bit for bit, and updates equal a dict."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skdpq.index import CodeIndex


def brute_force(codebooks, codes, queries, symmetric):
    """Squared distances (n_queries, n): exact in each part, rounded to float32, added in the order of the parts."""
    M, _, D = codebooks.shape
    parts = np.arange(M)
    if symmetric:
        queries = codebooks[parts, queries].reshape(len(queries), -1)
    hard = codebooks[parts, codes].reshape(len(codes), -1).astype(np.float64)
    distances = np.zeros((len(queries), len(codes)), dtype=np.float32)
    for m in range(M):
        part = np.zeros(distances.shape)
        for d in range(m * D, (m + 1) * D):
            difference = hard[:, d] - queries[:, d, None].astype(np.float64)
            part += difference * difference
        distances += part.astype(np.float32)
    return distances


def ranking(distances, exclude):
    """Positions of one query by (distance, position), without the excluded one."""
    positions = np.arange(len(distances))
    order = np.lexsort((positions, distances))
    return order[order != exclude]


def all_bits_equal(actual, expected):
    assert actual.dtype == expected.dtype
    assert_array_equal(actual, expected)


class Problem:
    """Codebooks, a database, queries for both kinds of search, and positions to leave out."""

    def __init__(self, seed, M, K, D, n, n_queries, n_distinct, kind, exclude):
        rng = np.random.default_rng(seed)
        if kind == "zero":
            codebooks = np.zeros((M, K, D))
        elif kind == "integers":  # many distances are equal
            codebooks = rng.integers(-2, 3, size=(M, K, D))
        else:
            codebooks = rng.normal(size=(M, K, D)) * kind
        self.codebooks = codebooks.astype(np.float32)
        self.codes = rng.integers(K, size=(min(n, n_distinct), M))[rng.integers(min(n, n_distinct), size=n)]
        scale = kind if isinstance(kind, float) else 1
        soft = (
            rng.integers(-2, 3, size=(n_queries, M * D)) if kind == "integers" else rng.normal(size=(n_queries, M * D))
        )
        self.queries = {True: rng.integers(K, size=(n_queries, M)), False: (soft * scale).astype(np.float32)}
        self.exclude = rng.integers(-1, n, size=n_queries) if exclude else None
        self.index = CodeIndex(self.codebooks)
        self.index.add(self.codes)

    def expected(self, symmetric):
        distances = brute_force(self.codebooks, self.codes, self.queries[symmetric], symmetric)
        exclude = np.full(len(distances), -1) if self.exclude is None else self.exclude
        return [(row, ranking(row, without)) for row, without in zip(distances, exclude, strict=True)]


problems = st.builds(
    Problem,
    seed=st.integers(0, 2**32 - 1),
    M=st.integers(1, 6),
    K=st.sampled_from([2, 3, 16, 256, 300]),
    D=st.integers(1, 4),
    n=st.integers(1, 60) | st.integers(2040, 2060) | st.integers(4000, 5000),
    n_queries=st.integers(1, 6) | st.just(20),
    n_distinct=st.sampled_from([1, 3, 50, 5000]),
    kind=st.sampled_from(["zero", "integers", 1e-15, 1e-6, 1.0, 1e6, 1e15]),
    exclude=st.booleans(),
)
searches = st.tuples(st.booleans(), st.sampled_from([1, 2]))  # symmetric, n_jobs


@given(problems, searches, st.data())
@example(Problem(0, 3, 16, 2, 5000, 5, 5000, "integers", False), (False, 2), None)
def test_kneighbors_is_brute_force_bit_for_bit(problem, search, data):
    symmetric, n_jobs = search
    n = len(problem.codes) - (problem.exclude is not None and problem.exclude.max() >= 0)
    if n == 0:
        return
    k = n if data is None else data.draw(st.integers(1, n) | st.just(n))
    distances, positions = problem.index.kneighbors(
        problem.queries[symmetric], k, symmetric=symmetric, exclude=problem.exclude, n_jobs=n_jobs
    )
    expected = problem.expected(symmetric)
    all_bits_equal(positions, np.array([order[:k] for _, order in expected]))
    all_bits_equal(distances, np.array([row[order[:k]] for row, order in expected]))


@given(problems, searches, st.sampled_from([0, 0.1, 0.5, 1, 2]))
def test_radius_neighbors_is_brute_force_bit_for_bit(problem, search, quantile):
    symmetric, n_jobs = search
    expected = problem.expected(symmetric)
    rows = np.array([row for row, _ in expected])
    # a distance that occurs, so that the boundary matters; or beyond all
    threshold = np.quantile(rows, quantile, method="lower") if quantile <= 1 else np.finfo(np.float32).max
    counts, distances, positions = problem.index.radius_neighbors(
        problem.queries[symmetric], threshold, symmetric=symmetric, exclude=problem.exclude, n_jobs=n_jobs
    )
    within = [order[row[order] <= threshold] for row, order in expected]
    all_bits_equal(counts, np.array([len(order) for order in within]))
    all_bits_equal(positions, np.concatenate(within))
    all_bits_equal(distances, np.concatenate([row[order] for (row, _), order in zip(expected, within, strict=True)]))


@settings(max_examples=25)
@given(problems, st.booleans())
def test_fewer_neighbors_are_a_prefix_of_more(problem, symmetric):
    n = len(problem.codes) - (problem.exclude is not None)
    if n == 0:
        return
    more, fewer = min(100, n), min(10, n)
    found = [
        problem.index.kneighbors(problem.queries[symmetric], k, symmetric=symmetric, exclude=problem.exclude)
        for k in (more, fewer)
    ]
    for long, short in zip(*found, strict=True):
        assert_array_equal(long[:, :fewer], short)


@pytest.mark.parametrize("symmetric", [False, True])
def test_many_queries_over_several_blocks_of_tables_equal_one_at_a_time(symmetric, monkeypatch):
    problem = Problem(0, 4, 16, 2, 3000, 40, 3000, "integers", True)
    queries = problem.queries[symmetric]
    expected = problem.index.kneighbors(queries, 7, symmetric=symmetric, exclude=problem.exclude)
    within = problem.index.radius_neighbors(queries, np.float32(9), symmetric=symmetric, exclude=problem.exclude)
    monkeypatch.setattr("skdpq.index._TABLES", 3 * 4 * 16)  # three queries a block
    for n_jobs in [None, 1, 2, -1]:
        options = {"symmetric": symmetric, "exclude": problem.exclude, "n_jobs": n_jobs}
        for actual, part in zip(problem.index.kneighbors(queries, 7, **options), expected, strict=True):
            all_bits_equal(actual, part)
        for actual, part in zip(problem.index.radius_neighbors(queries, np.float32(9), **options), within, strict=True):
            all_bits_equal(actual, part)


def test_a_table_larger_than_a_block_of_tables_is_searched(monkeypatch):
    problem = Problem(1, 4, 16, 2, 50, 3, 50, 1.0, False)
    monkeypatch.setattr("skdpq.index._TABLES", 5)
    distances, _ = problem.index.kneighbors(problem.queries[False], 50, symmetric=False)
    all_bits_equal(distances, np.array([row[order] for row, order in problem.expected(False)]))


def test_no_query_has_no_result():
    index = Problem(0, 3, 4, 2, 10, 1, 10, 1.0, False).index
    for symmetric, queries in [(True, np.empty((0, 3), np.uint8)), (False, np.empty((0, 6), np.float32))]:
        distances, positions = index.kneighbors(queries, 4, symmetric=symmetric)
        assert distances.shape == positions.shape == (0, 4)
        assert [len(part) for part in index.radius_neighbors(queries, np.float32(1), symmetric=symmetric)] == [0, 0, 0]


def test_an_empty_index_has_nothing_within_any_radius():
    index = CodeIndex(np.zeros((2, 4, 1)))
    counts, distances, positions = index.radius_neighbors(np.zeros((3, 2), np.float32), np.float32(1), symmetric=False)
    assert_array_equal(counts, [0, 0, 0])
    assert len(distances) == len(positions) == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_distances_beyond_float32_are_refused(symmetric):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1e20, False)
    queries = np.array([[0, 0], [1, 1]]) if symmetric else problem.queries[False]
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.kneighbors(queries, 1, symmetric=symmetric)
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.radius_neighbors(queries, np.float32(1), symmetric=symmetric)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_queries_that_are_not_finite_are_refused(bad):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1.0, False)
    problem.queries[False][3, 2] = bad
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.kneighbors(problem.queries[False], 1, symmetric=False)


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_out_of_range_is_refused(k):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1.0, False)
    with pytest.raises(ValueError, match="Expected k from 1 to 10"):
        problem.index.kneighbors(problem.queries[False], k, symmetric=False)
    with pytest.raises(ValueError, match="Expected k from 1 to 9"):
        problem.index.kneighbors(problem.queries[True], 10, symmetric=True, exclude=np.arange(5))
    problem.index.kneighbors(problem.queries[True], 10, symmetric=True, exclude=np.full(5, -1))


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
    index = Problem(0, 2, 4, 3, 10, 5, 10, 1.0, False).index
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
        before = index.codes, index.ids, index.next_id
        contents = index.codes.copy(), index.ids.copy()
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
            assert index.codes is before[0]
            assert index.ids is before[1]
            assert index.next_id == before[2]
        elif name == "add":
            order = index.add(codes, ids)
            new = range(next_id, next_id + n) if ids is None else ids
            assert_array_equal(np.concatenate((contents[1], new))[order], index.ids)
            model.update(zip(new, codes.tolist(), strict=True))
            next_id = max([next_id, *(i + 1 for i in new)])
        else:
            kept = index.remove(ids)
            assert_array_equal(contents[1][kept], index.ids)
            model = {i: code for i, code in model.items() if i not in ids}
        assert_array_equal(before[0], contents[0])  # arrays handed out earlier do not change
        assert_array_equal(before[1], contents[1])
        assert index.codes.dtype == np.uint16
        assert index.ids.dtype == np.int64
        assert index.codes.flags.c_contiguous
        assert index.next_id == next_id
        assert dict(zip(index.ids.tolist(), index.codes.tolist(), strict=True)) == model
        assert len(index) == len(model)
        assert index.ids.tolist() == sorted(model)


def test_ids_are_not_given_again_after_their_removal():
    index = CodeIndex(np.zeros((1, 4, 1)))
    index.add([[0], [1], [2]])
    index.remove([2])
    index.add([[3]])
    assert index.ids.tolist() == [0, 1, 3]
    index.remove(index.ids)
    index.add([[0]])
    assert index.ids.tolist() == [4]


def test_results_follow_ids_not_the_order_of_adding():
    index = CodeIndex(np.zeros((1, 4, 1)))
    index.add([[0], [1]], ids=[7, 3])
    index.add([[2]], ids=[5])
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
    index = CodeIndex(np.zeros((2, 4, 1)))
    index.add([[1, 2], [3, 0]])
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
    index = CodeIndex(np.zeros((2, 4, 1)))
    index.add([[1, 2], [3, 0]])
    with pytest.raises(ValueError, match="Expected"):
        index.remove(ids)
    assert index.ids.tolist() == [0, 1]


def test_the_largest_id_leaves_none_to_give():
    index = CodeIndex(np.zeros((2, 4, 1)))
    index.add([[1, 2]], ids=[2**63 - 2])
    index.add(np.empty((0, 2), int))
    with pytest.raises(ValueError, match="none are left"):
        index.add([[3, 0]])
    index.add([[3, 0]], ids=[0])
    assert index.ids.dtype == np.int64
    assert index.ids.tolist() == [0, 2**63 - 2]
