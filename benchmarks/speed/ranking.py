"""Time and memory of scoring 10,000 labelled queries against 50,000 codes, over the whole ranking.

    python benchmarks/speed/ranking.py

Each case runs in a process of its own. Codes are synthetic: a class has a few codes of its own, and every part of an
item's code is replaced by a random codeword with the case's probability. Memory is the peak of the process while it
scores, above what it held just before (Linux).
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser, measured_memory, search_index

from skdpq.metrics import score_neighbors

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


class Problem:
    """Codes of labelled items, and queries near such codes; codewords are random numbers."""

    def __init__(self, M, K, n_classes, n_codes, noise):
        self.rng = np.random.default_rng(0)
        self.codebooks = self.rng.random((M, K, 1), dtype=np.float32)
        self.centers = self.rng.integers(0, K, (n_classes, n_codes, M))
        self.noise = noise

    def items(self, n):
        """Draw n items: codes and labels."""
        n_classes, n_codes, M = self.centers.shape
        labels = self.rng.integers(0, n_classes, n)
        codes = self.centers[labels, self.rng.integers(0, n_codes, n)]
        noise = self.rng.random((n, M)) < self.noise
        codes[noise] = self.rng.integers(0, self.codebooks.shape[1], noise.sum())
        return codes, labels

    def queries(self, n):
        """Draw n queries: soft representations, each a bit off the codewords of an item, and labels."""
        codes, labels = self.items(n)
        M, K, _ = self.codebooks.shape
        return self.codebooks[np.arange(M), codes, 0] + np.float32(0.3 / K), labels


def measure(case, n_items, n_queries, n_jobs):
    """Return the number of distinct codes, and for each metric its value, seconds and MiB."""
    problem = Problem(*case)
    codes, labels = problem.items(n_items)
    index = search_index(problem.codebooks, codes, labels, n_jobs=n_jobs)
    X, y = problem.queries(n_queries)
    results = []
    for name, parameters in METRICS.values():
        score_neighbors(index, X[:1], y[:1], name, **parameters)  # compiles
        with measured_memory() as memory:
            start = time.perf_counter()
            score = score_neighbors(index, X, y, name, **parameters)
            elapsed = time.perf_counter() - start
        results.append((score, elapsed, memory.peak / 2**20))
    return len(np.unique(codes, axis=0)), results


def main():
    """Print a line for every case and number of threads."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    print(machine())
    print(f"{options.queries:,} queries, {options.items:,} items; of each metric its value, seconds and MiB\n")
    print(head("M", "K", "classes", "distinct codes", "threads", *METRICS))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for case in CASES:
            for n_jobs in (1, 2):
                n_distinct, results = pool.submit(measure, case, options.items, options.queries, n_jobs).result()
                cells = (f"{score:.4f}, {elapsed:.2f} s, {mib:.0f}" for score, elapsed, mib in results)
                print(line(*case[:3], n_distinct, n_jobs, *cells), flush=True)


if __name__ == "__main__":
    main()
