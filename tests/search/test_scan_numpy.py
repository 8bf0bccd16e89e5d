"""The scan by NumPy finds what the compiled ones find, bit for bit, and saves a process from compiling them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import test_index
import test_relevance
from hypothesis import given, settings
from hypothesis import strategies as st
from test_index import all_bits_equal

from skdpq._search import kernels, ranking, relevance, relevance_kernels, scan_numba, scan_numpy
from skdpq._search.posteriors import CodeClassifier

by_tables = test_index.problems.map(lambda problem: (problem, scan_numba))
by_posteriors = test_relevance.problems.map(lambda problem: (problem, relevance))


def searched(problem, symmetric, allowed):
    """Return segments of all items, or views or copies of some, and queries."""
    index = problem.index
    if allowed is not None:
        mask = np.random.default_rng(0).random(len(index)) < allowed
        mask[0] = True
        index = index.among(mask, 1000)
    return index.segments, index._check_queries(problem.queries[symmetric], symmetric)


@settings(max_examples=300)
@given(by_tables | by_posteriors, st.booleans(), st.sampled_from([None, 0.02, 0.9]), st.integers(1, 60))
def test_the_nearest_are_those_of_the_compiled_scan(case, symmetric, allowed, k):
    problem, scan = case
    segments, queries = searched(problem, symmetric, allowed)
    k = min(k, sum(int(segment.n_items) for segment in segments))
    expected = scan.nearest(segments, queries, k, scan.Plan())
    for actual, wanted in zip(scan_numpy.nearest(segments, queries, k, None), expected, strict=True):
        all_bits_equal(actual, wanted)


@settings(max_examples=200)
@given(by_tables | by_posteriors, st.booleans(), st.sampled_from([None, 0.02, 0.9]), st.sampled_from([0, 0.1, 0.5, 1]))
def test_what_is_within_a_radius_is_that_of_the_compiled_scan(case, symmetric, allowed, quantile):
    problem, scan = case
    segments, queries = searched(problem, symmetric, allowed)
    k = sum(int(segment.n_items) for segment in segments)
    threshold = np.quantile(scan.nearest(segments, queries, k, scan.Plan())[0], quantile, method="nearest")
    expected = scan.within_radius(segments, queries, threshold, scan.Plan())
    for actual, wanted in zip(scan_numpy.within_radius(segments, queries, threshold, None), expected, strict=True):
        all_bits_equal(actual, wanted)


def test_many_queries_are_compared_in_blocks(monkeypatch):
    problem = test_index.Problem(0, 4, 256, 2, 5000, 70, 5000, 1.0, 7)
    segments, queries = searched(problem, False, None)
    whole = scan_numpy.nearest(segments, queries, 9, None)
    monkeypatch.setattr(scan_numpy, "_BLOCK_DISTANCES", 3 * 5000)
    monkeypatch.setattr(scan_numpy, "_CHUNK_CODES", 512)
    for actual, wanted in zip(scan_numpy.nearest(segments, queries, 9, None), whole, strict=True):
        all_bits_equal(actual, wanted)


def test_rankings_by_relevance_are_those_of_the_kernels(monkeypatch):
    rng = np.random.default_rng(0)
    classifier = CodeClassifier(rng.normal(size=(3, 16, 7)).astype(np.float32), rng.normal(size=7).astype(np.float32))
    codes, labels = rng.integers(16, size=(1000, 3)).astype(np.uint8), rng.integers(7, size=1000)
    posteriors, classes = rng.dirichlet(np.ones(7), 40).astype(np.float32), rng.integers(7, size=40)
    measured = np.empty((2, 40))
    for out, little in zip(measured, (True, False), strict=True):
        monkeypatch.setattr(ranking, "is_enough", lambda *_, little=little: little)
        groups = ranking.CodeGroups(codes, labels, 7, classifier)
        groups.measure(posteriors, classes, ranking.average_precision, 1000, out)
    all_bits_equal(*measured)
    assert np.ptp(measured[0]) > 0


@pytest.fixture
def fresh(monkeypatch):
    """As in a process that has compiled and searched nothing."""
    monkeypatch.setattr(scan_numpy, "_n_lookups", 0)
    monkeypatch.setattr(scan_numpy, "is_compiled", lambda kernel: False)


@pytest.mark.usefixtures("fresh")
def test_a_process_that_searches_much_has_its_kernels_compiled(monkeypatch):
    monkeypatch.setattr(scan_numpy, "_MOST_LOOKUPS", 10_000)
    assert scan_numpy.is_enough(kernels.scan_nearest, 100, 10, 8)
    assert not scan_numpy.is_enough(kernels.scan_nearest, 100, 10, 8)  # 16,000
    assert not scan_numpy.is_enough(kernels.scan_nearest, 1, 1, 8)  # nor any later one, however small


@pytest.mark.usefixtures("fresh")
def test_a_large_search_does_not_wait_for_numpy():
    assert not scan_numpy.is_enough(kernels.scan_nearest, 10**6, 10**4, 8)


@pytest.mark.usefixtures("fresh")
def test_posteriors_of_all_codes_count_too():
    assert scan_numpy.is_enough(relevance_kernels.scan_nearest, 10**5, 1, 10, 10)
    assert not scan_numpy.is_enough(relevance_kernels.scan_nearest, 10**5, 1, 10, 1000)


FIRST = """
import sys
from numba.core.event import install_recorder
from sklearn.datasets import load_digits
from skdpq import DPQNeighbors, ProductQuantizer
from skdpq._search import compiling, kernels
X, y = load_digits(return_X_y=True)
with install_recorder("numba:compile") as compiled:
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=8, K=16, random_state=0)).fit(X, y)
    print(compiling.is_compiled(kernels.all_distances))
    neighbors.kneighbors(X[:9])
    neighbors.kneighbors()
    neighbors.radius_neighbors(X[:5], 20.0)
    neighbors.radius_neighbors_graph(radius=10.0)
    neighbors.kneighbors(X[:5], among=neighbors.ids_ > 900)
    neighbors.score(X[:5], y[:5])
    neighbors.set_params(search="symmetric").kneighbors(X[:5])
names = {event.data["dispatcher"].py_func.__name__ for _, event in compiled.buffer}
print(sorted(names & {"scan_nearest", "scan_nearest_together", "scan_radius", "_write_nearest"}), len(names) > 0)
"""


def test_first_searches_do_not_wait_for_the_compiler(tmp_path):
    def answer():
        run = [sys.executable, "-c", FIRST]
        return subprocess.check_output(run, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, text=True).split("\n")

    assert answer()[:2] == ["False", "[] True"]
    assert answer()[:2] == ["True", "[] False"]  # what the first has compiled is on disk
