"""Measures on rankings: against every order of the tied items, against textbooks, and by codes against by distances."""

import pickle
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq._search.ranking import CodeGroups, tie_groups_from_distances
from skdpq.metrics import (
    interpolated_mean_average_precision,
    mean_average_precision,
    precision_at_k,
    recall_at_k,
    retrieval_scorer,
    score_neighbors,
)

quick = settings(max_examples=60, deadline=None)


# Textbook definitions, on the relevance of the items of one ranking without ties.


def average_precision(relevance, k=None):
    k = len(relevance) if k is None else k
    hits = [sum(relevance[: i + 1]) / (i + 1) for i in range(k) if relevance[i]]
    return sum(hits) / min(sum(relevance), k) if any(relevance) else 0.0


def interpolated_precision(counts, n_points):
    """`counts`: (expected) relevant items among the first i, for every i from 1, as exact fractions."""
    total = counts[-1]
    if total == 0:
        return 0.0
    curve = [(count / total, count / (i + 1)) for i, count in enumerate(counts)]
    levels = [Fraction(j, n_points - 1) for j in range(n_points)]
    return float(sum(max(p for r, p in curve if r >= t) for t in levels) / n_points)


def precision(relevance, k):
    return sum(relevance[:k]) / k


def recall(relevance, k):
    return sum(relevance[:k]) / sum(relevance) if any(relevance) else 0.0


def tied_groups(distances):
    return [[i for i, d in enumerate(distances) if d == value] for value in sorted(set(distances))]


def expected(measure, distances, relevant):
    """Mean of a measure over every order of the tied items."""
    orders = product(*(permutations(group) for group in tied_groups(distances)))
    return np.mean([measure([relevant[i] for group in order for i in group]) for order in orders])


def expected_counts(distances, relevant):
    counts = [Fraction(0)]
    for group in tied_groups(distances):
        share = Fraction(sum(relevant[i] for i in group), len(group))
        counts += [counts[-1] + share * (i + 1) for i in range(len(group))]
    return counts[1:]


@st.composite
def rankings(draw, max_items=7):
    n = draw(st.integers(1, max_items))
    distances = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, np.inf]), min_size=n, max_size=n))
    relevant = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    return distances, relevant, draw(st.integers(1, n))


@st.composite
def untied_rankings(draw):
    n = draw(st.integers(1, 40))
    order = draw(st.permutations(range(n)))
    relevant = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    return order, relevant, draw(st.integers(1, n))


@quick
@given(rankings())
def test_ties_contribute_their_expected_value(ranking):
    distances, relevant, k = ranking
    query = ([1], relevant, [distances])
    for measured, measure in [
        (mean_average_precision(*query), average_precision),
        (mean_average_precision(*query, k=k), lambda r: average_precision(r, k)),
        (precision_at_k(*query, k), lambda r: precision(r, k)),
        (recall_at_k(*query, k), lambda r: recall(r, k)),
    ]:
        assert measured == pytest.approx(expected(measure, distances, relevant), abs=1e-12)


@quick
@given(rankings(max_items=30), st.integers(2, 25))
def test_interpolation_reads_the_curve_of_expected_counts(ranking, n_points):
    distances, relevant, _ = ranking
    measured = interpolated_mean_average_precision([1], relevant, [distances], n_points=n_points)
    assert measured == pytest.approx(interpolated_precision(expected_counts(distances, relevant), n_points), abs=1e-12)


@quick
@given(untied_rankings())
def test_without_ties_the_textbook(ranking):
    distances, relevant, k = ranking
    in_order = [relevant[i] for i in np.argsort(distances)]
    query = ([1], relevant, [distances])
    assert mean_average_precision(*query) == pytest.approx(average_precision(in_order), abs=1e-12)
    assert mean_average_precision(*query, k=k) == pytest.approx(average_precision(in_order, k), abs=1e-12)
    assert precision_at_k(*query, k) == precision(in_order, k)
    assert recall_at_k(*query, k) == recall(in_order, k)
    counts = [Fraction(sum(in_order[: i + 1])) for i in range(len(in_order))]
    assert interpolated_mean_average_precision(*query) == pytest.approx(interpolated_precision(counts, 21), abs=1e-12)


def test_average_precision_is_scikit_learns_without_ties():
    rng = np.random.default_rng(0)
    distances = rng.random((20, 300))
    y, y_database = rng.integers(0, 4, 20), rng.integers(0, 4, 300)
    theirs = [average_precision_score(y_database == label, -row) for label, row in zip(y, distances, strict=True)]
    assert mean_average_precision(y, y_database, distances) == pytest.approx(np.mean(theirs), abs=1e-12)


def test_a_group_larger_than_any_enumeration():
    # One group only: position i is relevant with probability r/n and finds 1 + (i-1)(r-1)/(n-1) there.
    n, r = 1000, 10
    i = np.arange(1, n + 1)
    by_hand = np.mean((1 + (i - 1) * (r - 1) / (n - 1)) / i)
    assert mean_average_precision([1], np.arange(n) < r, np.ones((1, n))) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("k", [1000, 2500, 3000])
def test_long_rankings_are_read_to_their_end(k):
    rng = np.random.default_rng(0)
    codes, tables = np.arange(3000)[:, None], rng.permutation(3000).astype(np.float32)[None, None]
    relevant = rng.random(3000) < np.where(tables[0, 0] < 1000, 0.01, 0.3)  # most come late
    in_order = [int(r) for r in relevant[np.argsort(tables[0, 0])]]
    counts = [Fraction(int(count)) for count in np.cumsum(in_order)]
    index = FixedIndex(codes.astype(np.uint16), relevant, tables)
    for name, parameters, textbook in [
        ("mean_average_precision", {}, average_precision(in_order)),
        ("mean_average_precision", {"k": k}, average_precision(in_order, k)),
        ("interpolated_mean_average_precision", {}, interpolated_precision(counts, 21)),
        ("precision_at_k", {"k": k}, precision(in_order, k)),
        ("recall_at_k", {"k": k}, recall(in_order, k)),
    ]:
        measured = FUNCTIONS[name]([1], relevant, tables[0], **parameters)
        assert measured == pytest.approx(textbook, abs=1e-12)
        assert score_neighbors(index, [[0]], [1], name, **parameters) == measured


def test_a_query_without_relevant_items_scores_zero_and_counts():
    arguments = ([0, 5], [0, 1], [[1, 2], [1, 2]])
    assert mean_average_precision(*arguments) == 0.5
    assert interpolated_mean_average_precision(*arguments) == 0.5
    assert precision_at_k(*arguments, k=1) == 0.5
    assert recall_at_k(*arguments, k=1) == 0.5


METRICS = [
    ("mean_average_precision", {}),
    ("mean_average_precision", {"k": 3}),
    ("interpolated_mean_average_precision", {}),
    ("interpolated_mean_average_precision", {"n_points": 11}),
    ("precision_at_k", {"k": 2}),
    ("recall_at_k", {"k": 2}),
]
FUNCTIONS = {
    f.__name__: f for f in (mean_average_precision, interpolated_mean_average_precision, precision_at_k, recall_at_k)
}


class FixedIndex(BaseEstimator):
    """What the metrics rely on of a fitted DPQNeighbors, with tables given instead of computed."""

    def __init__(self, codes, y, tables, n_jobs=None, block=3):
        self.codes_, self.tables, self.n_jobs, self.block = codes, tables, n_jobs, block
        self.classes_, self.labels_ = np.unique(y, return_inverse=True)

    def fit(self, X, y=None):
        """Be recognised as an estimator."""

    def query_tables(self, X):
        for start in range(0, len(X), self.block):
            yield start, self.tables[start : start + self.block]

    def distances(self):
        """Float32 sums, in the order of the parts."""
        total = np.zeros((len(self.tables), len(self.codes_)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for m, column in enumerate(self.codes_.T):
                total += self.tables[:, m, column]
        return total


@st.composite
def indexes(draw):
    """An index and its queries' labels: few or many ties, any scale, shared or zero tables."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, M, K = draw(st.integers(3, 60)), draw(st.integers(1, 9)), draw(st.sampled_from([2, 5, 256, 300]))
    codes = rng.integers(0, draw(st.sampled_from([2, K])), (n, M)).astype(np.uint8 if K <= 256 else np.uint16)
    values = draw(st.sampled_from([1, 2, 3, 2**20]))
    tables = rng.integers(0, values, (5, M, K)).astype(np.float32)
    if draw(st.booleans()):
        tables[:] = tables[:1, :1]
    with np.errstate(over="ignore"):  # up to infinity, down to subnormal numbers
        tables *= np.float32(draw(st.sampled_from([0, 1e-42, 1e-30, 0.1, 1, 1e32, 1e38])))
        tables += np.float32(draw(st.sampled_from([0, 1, 1e30])))
    y_database, y = rng.integers(0, 3, n), rng.integers(0, 4, 5)
    return FixedIndex(codes, y_database, tables), y_database, y


@quick
@given(indexes())
def test_ranking_by_codes_is_ranking_by_distances(drawn):
    index, y_database, y = drawn
    distances = index.distances()
    groups = CodeGroups(index.codes_, index.labels_, len(index.classes_))
    for c in range(len(index.classes_)):
        for table, row in zip(index.tables, distances, strict=True):
            by_codes = groups.rank(table, groups.relevant(c))
            by_distances = tie_groups_from_distances(row, index.labels_ == c)
            np.testing.assert_array_equal(by_codes, by_distances)
    for name, parameters in METRICS:
        by_codes = score_neighbors(index, y, y, name, **parameters)
        assert by_codes == FUNCTIONS[name](y, y_database, distances, **parameters)


@quick
@given(indexes(), st.randoms(use_true_random=False))
def test_shuffling_the_database_changes_nothing(drawn, random):
    index, y_database, y = drawn
    distances = index.distances()
    order = random.sample(range(len(y_database)), len(y_database))
    shuffled = FixedIndex(index.codes_[order], y_database[order], index.tables)
    for name, parameters in METRICS:
        measure = FUNCTIONS[name]
        score = measure(y, y_database, distances, **parameters)
        assert measure(y, y_database[order], distances[:, order], **parameters) == score
        assert score_neighbors(shuffled, y, y, name, **parameters) == score


def test_every_digit_of_the_radix_sort_on_many_codes():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (5000, 4)).astype(np.uint8)
    tables = (rng.random((2, 4, 256)) * np.exp(rng.normal(0, 20, (2, 4, 256)))).astype(np.float32)
    y = rng.integers(0, 2, 5000)
    index = FixedIndex(codes, y, tables)
    groups = CodeGroups(codes, y, 2)
    for table, row in zip(tables, index.distances(), strict=True):
        by_codes = groups.rank(table, groups.relevant(1))
        np.testing.assert_array_equal(by_codes, tie_groups_from_distances(row, y == 1))


def test_threads_and_blocks_change_nothing():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8, (400, 2)).astype(np.uint8)
    y_database, y = rng.integers(0, 30, 400), rng.integers(0, 33, 700)
    tables = rng.random((700, 2, 8)).astype(np.float32)
    scores = {
        score_neighbors(FixedIndex(codes, y_database, tables, n_jobs, block), y, y)
        for n_jobs in (None, 1, 2)
        for block in (50, 300, 700)
    }
    assert len(scores) == 1


@pytest.mark.parametrize("dtype", ["str", "object", "int8", "float64", "bool"])
def test_labels_of_any_kind(dtype):
    y, y_database = np.array([1, 0, 1]).astype(dtype), np.array([0, 1, 0, 1]).astype(dtype)
    distances = [[3, 0, 2, 1], [0, 1, 0, 1], [1, 0, 2, 0]]
    assert mean_average_precision(y, y_database, distances) == 1.0
    assert mean_average_precision(y.tolist(), y_database.tolist(), distances) == 1.0
    codes = np.array([[0], [1], [0], [1]], dtype=np.uint8)
    tables = np.array([[[1, 0]], [[0, 1]], [[2, 1]]], dtype=np.float32)
    assert score_neighbors(FixedIndex(codes, y_database, tables), distances, y) == 1.0


def test_strings_never_match_numbers():
    index = FixedIndex(np.array([[0], [1]], dtype=np.uint8), [1, 2], np.zeros((1, 1, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="strings never equal numbers"):
        mean_average_precision(["1"], [1, 2], [[0, 1]])
    with pytest.raises(ValueError, match="strings never equal numbers"):
        score_neighbors(index, [[0]], ["1"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([1], [1, 0], [[0, 1], [0, 1]]), r"\(1, 2\), got \(2, 2\)"),
        (([1], [1, 0], [[0, 1, 2]]), r"\(1, 2\), got \(1, 3\)"),
        (([1], [1, 0], [0, 1]), "2D"),
        (([1], [1, 0], [[0, np.nan]]), "NaN"),
        (([1], [1, 0], [[0, 1j]]), "[Cc]omplex"),
        (([1.0], [1, np.nan], [[0, 1]]), "y_database contains NaN"),
        (([[1, 0]], [1, 0], [[0, 1]]), "1d|1D"),
        (([], [1, 0], np.empty((0, 2))), "0 sample"),
        (([1], [], np.empty((1, 0))), "0 feature"),
    ],
)
@pytest.mark.parametrize(("name", "parameters"), [METRICS[0], *METRICS[3:]])
def test_bad_rankings_are_refused(name, parameters, arguments, match):
    with pytest.raises(ValueError, match=match):
        FUNCTIONS[name](*arguments, **parameters)


def test_sparse_distances_are_refused():
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        mean_average_precision([1], [1, 0], csr_array([[0, 1]]))


@pytest.mark.parametrize(
    ("name", "parameters", "error"),
    [
        ("mean_average_precision", {"k": 0}, ValueError),
        ("mean_average_precision", {"k": 2.0}, TypeError),
        ("interpolated_mean_average_precision", {"n_points": 1}, ValueError),
        ("interpolated_mean_average_precision", {"n_points": None}, TypeError),
        ("precision_at_k", {"k": -1}, ValueError),
        ("precision_at_k", {"k": None}, TypeError),
        ("recall_at_k", {"k": "2"}, TypeError),
    ],
)
def test_bad_parameters_are_refused(name, parameters, error):
    (parameter,) = parameters
    with pytest.raises(error, match=f"^{parameter} "):
        FUNCTIONS[name]([1], [1, 0], [[0, 1]], **parameters)
    with pytest.raises(error, match=f"^{parameter} "):
        retrieval_scorer(name, **parameters)


@pytest.mark.parametrize("name", ["mean_average_precision", "precision_at_k", "recall_at_k"])
def test_k_beyond_the_database_is_refused(name):
    index = FixedIndex(np.array([[0], [1]], dtype=np.uint8), [1, 2], np.zeros((1, 1, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="got k = 3, n_database = 2"):
        FUNCTIONS[name]([1], [1, 0], [[0, 1]], k=3)
    with pytest.raises(ValueError, match="got k = 3, n_database = 2"):
        retrieval_scorer(name, k=3)(index, [[0]], [1])
    assert retrieval_scorer(name, k=np.int32(2))(index, [[0]], [1]) > 0


def test_scorers_refuse_what_no_metric_has():
    with pytest.raises(ValueError, match="'map'"):
        retrieval_scorer("map")
    with pytest.raises(TypeError, match=r"\['n'\]"):
        retrieval_scorer(n=3)
    with pytest.raises(TypeError, match="k must be"):
        retrieval_scorer("recall_at_k")


class GridIndex(BaseEstimator):
    """A quantizer of every feature to steps, searched asymmetrically: an index that can be fitted."""

    def __init__(self, step=1.0, n_jobs=None):
        self.step, self.n_jobs = step, n_jobs

    def fit(self, X, y=None):
        self.grid_ = np.arange(np.floor(X.min()), np.ceil(X.max()) + self.step, self.step)
        self.codes_ = np.abs(X[:, :, None] - self.grid_).argmin(axis=2).astype(np.uint8)
        if y is not None:
            self.classes_, self.labels_ = np.unique(y, return_inverse=True)
        return self

    def query_tables(self, X):
        yield 0, ((X[:, :, None] - self.grid_) ** 2).astype(np.float32)


X, y = load_iris(return_X_y=True)
names = load_iris().target_names[y]


def test_scorers_in_model_selection():
    scoring = {"mAP": retrieval_scorer(), "R@9": pickle.loads(pickle.dumps(retrieval_scorer("recall_at_k", k=9)))}
    cv = StratifiedKFold()
    search = GridSearchCV(GridIndex(), {"step": [0.25, 4.0]}, scoring=scoring, refit="mAP", cv=cv, error_score="raise")
    search.fit(X, names)
    assert search.best_params_ == {"step": 0.25}
    assert search.best_score_ > 0.8
    assert 0 < search.cv_results_["mean_test_R@9"].max() <= 9 / 40
    with config_context(enable_metadata_routing=True):
        scores = cross_validate(GridIndex(0.25), X, names, scoring=retrieval_scorer(), cv=cv, error_score="raise")
    assert scores["test_score"].mean() == pytest.approx(search.best_score_)


def test_a_pipeline_is_scored_by_its_last_step():
    scorer = retrieval_scorer()
    scaler = StandardScaler().fit(X)
    alone = scorer(GridIndex(0.5).fit(scaler.transform(X), y), scaler.transform(X), y)
    pipeline = make_pipeline(StandardScaler(), "passthrough", GridIndex(0.5)).fit(X, y)
    assert scorer(pipeline, X, y) == alone
    assert scorer(make_pipeline(StandardScaler(), make_pipeline(GridIndex(0.5))).fit(X, y), X, y) == alone
    assert scorer(make_pipeline(GridIndex(0.5)).fit(X, y), X, y) != alone


def test_unlabelled_queries_and_items():
    index = GridIndex().fit(X, names)
    assert score_neighbors(index, X, np.full(len(X), "unseen")) == 0
    with pytest.raises(ValueError, match="Give y to fit"):
        score_neighbors(GridIndex().fit(X), X, y)
    with pytest.raises(ValueError, match="inconsistent"):
        score_neighbors(index, X, names[:-1])
    with pytest.raises(ValueError, match="at least one label in y"):
        score_neighbors(index, X[:0], names[:0])
    index.labels_[[3, 5]] = -1
    with pytest.raises(ValueError, match="2 of 150 without"):
        score_neighbors(index, X, names)
    index.codes_, index.labels_ = index.codes_[:0], index.labels_[:0]
    with pytest.raises(ValueError, match="empty"):
        score_neighbors(index, X, names)


def test_only_a_fitted_index_is_scored():
    with pytest.raises(NotFittedError):
        score_neighbors(GridIndex(), X, y)
    with pytest.raises(TypeError, match="StandardScaler"):
        score_neighbors(make_pipeline(GridIndex(), StandardScaler()), X, y)
