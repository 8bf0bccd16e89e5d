"""Searching from many threads, from forks and from workers; and what Numba keeps on disk."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQNeighbors, ProductQuantizer
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


COUNT = """
import errno, os, tempfile
if "READ_ONLY" in os.environ:
    make = tempfile.TemporaryFile
    def refuse(*args, dir=None, **kwargs):
        if str(dir).startswith(os.environ["READ_ONLY"]):
            raise OSError(errno.EROFS, "Read-only file system", dir)
        return make(*args, dir=dir, **kwargs)
    tempfile.TemporaryFile = refuse  # by which Numba tries whether it can write
import numpy as np
import skdpq.metrics, skdpq.neighbors  # which have all kernels
from numba.core.event import install_recorder
from skdpq._search.tables import lut_asymmetric  # of which one is soon compiled
with install_recorder("numba:compile") as compiled:
    lut_asymmetric(np.ones((2, 3, 2), np.float32), np.ones((1, 4), np.float32))
print(skdpq.__file__, len(compiled.buffer))
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A copy of the package, and a function that searches by it in a process, and returns whether that compiled."""
    package = tmp_path / "image" / "skdpq"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": str(package.parent), "HOME": str(home), "LOCALAPPDATA": str(home)}
    environment |= {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        environment.pop(name, None)

    def compiles(**more):
        path, n_events = run(COUNT, env=environment | more, cwd=tmp_path).split()
        assert Path(path).parent == package
        return int(n_events) > 0

    return SimpleNamespace(package=package, home=home, temporary=temporary, compiles=compiles)


def test_compiled_kernels_are_kept_for_the_user_where_the_package_cannot_be_written(elsewhere):
    (elsewhere.package / "_search" / "__pycache__").touch()  # no folder can be made here, whoever runs this
    elsewhere.home.mkdir()
    assert elsewhere.compiles()
    assert not elsewhere.compiles()
    assert list(elsewhere.home.rglob("*.nbi"))


def test_compiled_kernels_are_kept_in_the_temporary_folder_where_there_is_no_home(elsewhere):
    (elsewhere.package / "_search" / "__pycache__").touch()
    elsewhere.home.touch()
    assert elsewhere.compiles()
    assert not elsewhere.compiles()
    (folder,) = elsewhere.temporary.iterdir()
    assert list(folder.rglob("*.nbi"))
    assert folder.stat().st_mode & 0o777 == 0o700  # what is found there is run, so nobody else may write it


def test_kernels_are_compiled_in_memory_where_no_folder_is_safe(elsewhere):
    (elsewhere.package / "_search" / "__pycache__").touch()
    elsewhere.home.touch()
    folder = elsewhere.temporary / f"skdpq-numba-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert elsewhere.compiles()
    assert not list(folder.iterdir())
    assert not list(elsewhere.home.parent.rglob("*.nbi"))


def test_what_an_image_was_built_with_is_not_compiled_again(elsewhere):
    elsewhere.home.touch()
    assert elsewhere.compiles()  # beside the source
    assert not elsewhere.compiles(READ_ONLY=str(elsewhere.package))
    given = elsewhere.package.parent / "given"
    shutil.rmtree(elsewhere.package / "_search" / "__pycache__")
    assert elsewhere.compiles(NUMBA_CACHE_DIR=str(given))
    shutil.rmtree(elsewhere.temporary)
    elsewhere.temporary.mkdir()
    assert not elsewhere.compiles(NUMBA_CACHE_DIR=str(given), READ_ONLY=str(elsewhere.package.parent))


COMPILE = """
import gc, runpy, sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from skdpq import load
sys.argv = ["skdpq.compile", "database.skdpq"]
runpy.run_module("skdpq.compile", run_name="__main__", alter_sys=True)
def signatures():
    kernels = [kernel for kernel in gc.get_objects() if isinstance(kernel, Dispatcher)]
    named = {(kernel.py_func.__module__, kernel.py_func.__name__): kernel.signatures for kernel in kernels}
    return {name: sorted(map(str, of_kernel)) for name, of_kernel in named.items() if name[0].startswith("skdpq")}
before = signatures()
neighbors = load("database.skdpq")
codes = neighbors.codes_
neighbors.kneighbors_codes(codes[:1])
neighbors.kneighbors_codes(codes[:40])
neighbors.radius_neighbors()
neighbors.kneighbors(among=neighbors.ids_ > np.median(neighbors.ids_))
neighbors.kneighbors_codes(codes[:1], n_neighbors=1, among=neighbors.ids_[::20])
after = signatures()
print([name for name in after if after[name] != before[name]], any(before.values()))
"""


@pytest.mark.parametrize(("K", "first_id"), [(16, 0), (300, 2**40)])
def test_what_searches_of_a_database_run_is_compiled_ahead_of_them(tmp_path, K, first_id):
    rng = np.random.default_rng(0)
    quantizer = ProductQuantizer.from_codebooks(rng.normal(size=(4, K, 2)))
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer))
    neighbors.fit_codes(rng.integers(K, size=(100, 4)), ids=first_id + np.arange(100)).save(tmp_path / "database.skdpq")
    assert run(COMPILE, cwd=tmp_path).split() == ["[]", "True"]
