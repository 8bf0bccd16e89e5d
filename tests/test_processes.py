"""Searching from many threads, from forks and from workers; and what Numba keeps on disk."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal

import skdpq
from skdpq._search.index import CodeIndex
from skdpq._search.scan_numba import Plan

PACKAGE = Path(skdpq.__file__).parent


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    index = CodeIndex(rng.normal(size=(4, 256, 2))).add(rng.integers(256, size=(20_000, 4)))
    return index, rng.normal(size=(70, 8)).astype(np.float32)


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_calls_from_many_threads_do_not_disturb_one_another(problem, n_jobs):
    index, queries = problem
    options = {"symmetric": False, "n_jobs": n_jobs, "plan": Plan(min_lookups_of_threads=0)}
    k = [1 + i % 7 for i in range(40)]
    expected = {n: index.kneighbors(queries, n, symmetric=False) for n in set(k)}
    limit = np.float32(np.median(expected[7][0]))
    within = index.radius_neighbors(queries, limit, symmetric=False)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: index.kneighbors(queries, n, **options), k))
        near = list(pool.map(lambda _: index.radius_neighbors(queries, limit, **options), k))
    for n, result in zip(k, found, strict=True):
        assert_same(result, expected[n])
    for result in near:
        assert_same(result, within)


def test_searches_go_on_while_items_are_added(problem):
    index, queries = problem
    before = index.kneighbors(queries, 5, symmetric=False)
    far = index.codes[index.kneighbors(queries[:1], len(index), symmetric=False)[1][0, -1:]]
    versions = [index]
    more = np.repeat(far, 300, axis=0)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(lambda: [versions.append(versions[-1].add(more)) for _ in range(20)])
        while not adding.done():
            distances, _ = versions[-1].kneighbors(queries, 5, symmetric=False)
            assert (distances <= before[0]).all()  # an item more can only bring nearer ones
            assert_same(index.kneighbors(queries, 5, symmetric=False), before)
        adding.result()
    assert [len(version) for version in versions] == [20_000 + 300 * i for i in range(21)]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_of_joblib_find_the_same(problem, n_jobs):
    index, queries = problem
    expected = index.kneighbors(queries, 5, symmetric=False)
    search = delayed(CodeIndex.kneighbors)
    for found in Parallel(n_jobs=2)(search(index, queries, 5, symmetric=False, n_jobs=n_jobs) for _ in range(2)):
        assert_same(found, expected)


SEARCH = """
import os, sys
import numpy as np
import skdpq
from skdpq._search.index import CodeIndex
from skdpq._search.scan_numba import Plan
rng = np.random.default_rng(0)
index = CodeIndex(rng.normal(size=(3, 256, 2))).add(rng.integers(256, size=(3000, 3)))
queries = rng.normal(size=(5, 6)).astype(np.float32)
options = dict(symmetric=False, n_jobs=2, plan=Plan(min_lookups_of_threads=0))
found = index.kneighbors(queries, 9, **options)
"""


def run(code, **options):
    """Run code in a process of its own, and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, **options).stdout


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_started_after_a_search_on_threads_can_search(method):
    start = f"""
import multiprocessing
with multiprocessing.get_context({method!r}).Pool(1) as pool:
    again = pool.apply(CodeIndex.kneighbors, (index, queries, 9), options)
print(all(np.array_equal(one, other) for one, other in zip(found, again)))
"""
    assert run(SEARCH + start).split() == ["True"]


def test_compiled_kernels_are_kept_for_the_user_where_the_package_cannot_be_written(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "skdpq", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "skdpq" / "__pycache__").touch()  # no folder can be made here, whoever runs this
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    count = """
from numba.core.event import install_recorder
with install_recorder("numba:compile") as compiled:
""" + "".join(f"    {line}\n" for line in SEARCH.strip().splitlines())
    count += "print(skdpq.__file__, len(compiled.buffer))"
    for expected in (True, False):
        path, n_events = run(count, env=environment, cwd=tmp_path).split()
        assert Path(path).parent == tmp_path / "skdpq"
        assert (int(n_events) > 0) == expected  # the second process compiles nothing
    assert list(tmp_path.rglob("*.nbi"))
