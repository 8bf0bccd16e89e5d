"""Settings that must hold before NumPy, SciPy, Numba and torch are imported."""

import os
import runpy
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
