"""Settings that must hold before NumPy, SciPy, Numba and torch are imported."""

import os
import runpy
from contextlib import contextmanager
from pathlib import Path

os.environ["SCIPY_ARRAY_API"] = "1"  # without it scikit-learn skips its array API checks
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and small products gain nothing from threads
os.environ["MPLBACKEND"] = "agg"  # draws without a screen, also where there is one
os.environ["NUMBA_CACHE_DIR"] = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/_numba_cache.py"))["FOLDER"]

import pytest
from hypothesis import settings
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdpq._search import scan_numpy

scan_numpy.stop()  # all tests but those of this scan are of the compiled ones

settings.register_profile("skdpq", deadline=None, derandomize=True)
settings.load_profile("skdpq")


@pytest.fixture(scope="session")
def digits():
    """X_train, X_test, y_train, y_test of scikit-learn's digits."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=500, random_state=0, stratify=y)


@contextmanager
def cluster_of(n_workers):
    """Yield the client of a cluster of worker processes of one thread each, on this machine."""
    import distributed  # takes a second, which few tests need

    local = distributed.LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
    )
    with local, distributed.Client(local, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="session")
def one_worker():
    """The client of a cluster of one worker."""
    with cluster_of(1) as client:
        yield client


@pytest.fixture(scope="session")
def two_workers():
    """The client of a cluster of two workers."""
    with cluster_of(2) as client:
        yield client


@pytest.fixture
def client(two_workers):
    """The current client: of two workers."""
    with two_workers.as_current():
        yield two_workers
