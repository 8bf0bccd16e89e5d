"""Time and memory of scoring 10,000 labelled queries against 50,000 codes, over the whole ranking.

    python benchmarks/speed/ranking.py

Each case runs in a process of its own. Codes are synthetic: a class has a few codes of its own, and every part of an
item's code is replaced by a random codeword with the case's probability. Memory is the peak of the process while it
scores, above what it held just before (Linux).
"""

import datetime
import multiprocessing
import os
import platform
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import joblib
import numba
import numpy as np
import sklearn
from sklearn.base import BaseEstimator

from skdpq.metrics import score_neighbors

N_QUERIES, N_ITEMS = 10_000, 50_000
METRICS = {
    "mAP": ("mean_average_precision", {}),
    "21-point": ("interpolated_mean_average_precision", {}),
    "P@100": ("precision_at_k", {"k": 100}),
}
CASES = [  # M, K, classes, codes a class, probability of a random codeword
    (4, 64, 10, 30, 0.005),
    (4, 64, 10, 30, 0.1),
    (4, 64, 1000, 3, 0.2),
    (8, 256, 10, 30, 0.5),
    (8, 256, 1000, 3, 0.5),
]


class SyntheticIndex(BaseEstimator):
    """As much of a fitted DPQNeighbors as the metrics read; a query's table is its distance to random codewords."""

    def __init__(self, M, K, n_classes, n_codes, noise, n_jobs):
        self.n_jobs = n_jobs
        self.rng = np.random.default_rng(0)
        self.codebooks_ = self.rng.random((M, K, 1), dtype=np.float32)
        self.centers = self.rng.integers(0, K, (n_classes, n_codes, M))
        self.noise = noise
        self.classes_ = np.arange(n_classes)
        self.codes_, self.labels_ = self.sample(N_ITEMS)

    def sample(self, n):
        """Draw n items: codes and labels."""
        n_classes, n_codes, M = self.centers.shape
        labels = self.rng.integers(0, n_classes, n)
        codes = self.centers[labels, self.rng.integers(0, n_codes, n)]
        noise = self.rng.random((n, M)) < self.noise
        codes[noise] = self.rng.integers(0, self.codebooks_.shape[1], noise.sum())
        return codes.astype(np.uint8), labels

    def fit(self, X, y=None):
        """Be recognised as an estimator."""

    def query_tables(self, X):
        """Yield the first query of a block, and the block's tables."""
        M, K, _ = self.codebooks_.shape
        for start in range(0, len(X), 512):
            soft = self.codebooks_[np.arange(M), X[start : start + 512]] + np.float32(0.3 / K)
            yield start, np.square(soft - self.codebooks_[:, :, 0])


def peak():
    """Return the process's peak memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(case, n_jobs):
    """Return the distinct codes, and for each metric its value, seconds and MiB."""
    index = SyntheticIndex(*case, n_jobs)
    X, y = index.sample(N_QUERIES)
    results = []
    for name, parameters in METRICS.values():
        score_neighbors(index, X[:1], y[:1], name, **parameters)  # compile
        before, start = peak(), time.perf_counter()
        score = score_neighbors(index, X, y, name, **parameters)
        results.append((score, time.perf_counter() - start, peak() - before))
    return len(np.unique(index.codes_, axis=0)), results


def main():
    """Print a line for every case and number of threads."""
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}, "
        f"Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}, "
        f"scikit-learn {sklearn.__version__}, joblib {joblib.__version__}"
    )
    print(f"{N_QUERIES} queries x {N_ITEMS} items\n")
    print(f"{'M':>2} {'K':>4} {'classes':>8} {'codes':>7} {'n_jobs':>7} " + " ".join(f"{name:>26}" for name in METRICS))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for case in CASES:
            for n_jobs in (1, 2):
                n_distinct, results = pool.submit(measure, case, n_jobs).result()
                cells = " ".join(
                    f"{score:.4f} {seconds:6.2f} s {mib:5.0f} MiB".rjust(26) for score, seconds, mib in results
                )
                print(f"{case[0]:2} {case[1]:4} {case[2]:8} {n_distinct:7} {n_jobs:7} {cells}", flush=True)


if __name__ == "__main__":
    main()
