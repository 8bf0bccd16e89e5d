"""Search by relevance beside Euclidean search: the same codes and queries, in one process and one run.

    python benchmarks/speed/relevance.py

Codes, codebooks and classifier are those of a DPQTransformer, trained here on samples of Gaussian classes that overlap;
further samples are the items and the queries. What the network computes of the queries is given, so its time is not
counted. Before anything is timed, distances are compared with brute force. Then both searches take turns; figures are
medians of the calls of all turns. "Preparing" is the first search by relevance less a later one: it computes what is
known of the codes until the database or the classifier changes, and takes so much memory.

Times mean something on an idle machine only.
"""

import itertools
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import GivenCodebooks, head, interleave, line, machine, make_parser, seconds, seconds_each
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils import gen_batches

from skdpq import DPQNeighbors, DPQTransformer
from skdpq._search import relevance
from skdpq._search.posteriors import CodeClassifier, code_posteriors

CASES = [  # M, K, classes, items
    (4, 64, 10, 50_000),
    (8, 256, 10, 50_000),
    (4, 64, 10, 1_000_000),
    (8, 256, 10, 1_000_000),
    (8, 256, 1000, 50_000),
    (8, 256, 1000, 1_000_000),
]
N_FEATURES = 64
SPREAD = {10: 0.5, 1000: 1.0}  # of the class means by the number of classes, in standard deviations of a class
N_QUERIES, N_CHECKED = 2048, 4
COUNTS = (1, 256)  # queries a call
BLOCK = 2**14  # codes whose posteriors are computed at a time


class Given(GivenCodebooks):
    """A quantizer whose results are given: a sample is its row number in them."""

    def __init__(self, dpq, queries):
        super().__init__(dpq.codebooks_)
        self.lutc_, self.class_bias_ = dpq.lutc_, dpq.class_bias_
        self.of_soft, self.of_posteriors = dpq.soft(queries), dpq.predict_proba_soft(queries)

    def soft(self, X):
        """Return the soft representation of the rows."""
        return self.of_soft[X[:, 0]]

    def predict_proba_soft(self, X):
        """Return the posteriors of the rows."""
        return self.of_posteriors[X[:, 0]]


def prepare(M, K, n_classes, n_items):
    """Return a quantizer of queries, and the codes of items."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(n_classes, N_FEATURES)).astype(np.float32) * SPREAD[n_classes]

    def draw(n):
        y = rng.integers(n_classes, size=n)
        return means[y] + rng.normal(size=(n, N_FEATURES)).astype(np.float32), y

    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
        dpq = DPQTransformer(M, K, random_state=0).fit(*draw(max(20_000, 50 * n_classes)))
    codes = [dpq.encode(draw(part.stop - part.start)[0]) for part in gen_batches(n_items, BLOCK)]
    return Given(dpq, draw(N_QUERIES)[0]).fit(), np.concatenate(codes)


def check(neighbors, rows, k):
    """Compare distances with brute force."""
    quantizer = neighbors.quantizer_
    queries, found = quantizer.predict_proba_soft(rows).astype(np.float64), np.empty((len(rows), 0))
    classifier = CodeClassifier(quantizer.lutc_, quantizer.class_bias_)
    for part in gen_batches(neighbors.n_samples_fit_, BLOCK):
        of_codes = code_posteriors(neighbors.codes_[part], classifier).astype(np.float64)
        total = np.zeros((len(rows), len(of_codes)))
        for c in range(of_codes.shape[1]):
            total += queries[:, c, None] * of_codes[:, c]
        found = np.sort(np.hstack((found, np.maximum(0, 1 - total).astype(np.float32))), axis=1)[:, :k]
    np.testing.assert_array_equal(neighbors.kneighbors(rows, k)[0], found)


def times_of(neighbors, rows, count, options):
    """Return the seconds of calls with one batch of queries after another."""
    batches = itertools.cycle(gen_batches(len(rows), count))
    return seconds_each(lambda: neighbors.kneighbors(rows[next(batches)], options.k), options.seconds)


def measure(case, options):
    """Print a line of a case for every number of queries a call."""
    quantizer, codes = prepare(*case)
    neighbors = {
        metric: DPQNeighbors(quantizer=FrozenEstimator(quantizer), metric=metric, n_jobs=options.threads)
        for metric in ("euclidean", "relevance")
    }
    rows = np.arange(N_QUERIES)[:, None]
    for search in neighbors.values():
        search.fit_codes(codes)
        for count in COUNTS:
            search.kneighbors(rows[:count], options.k)  # compiles
    relevance._prepared.clear()
    first = seconds(neighbors["relevance"].kneighbors, rows[:1], options.k)
    n_bytes = sum(array.nbytes for prepared in relevance._prepared.values() for array in prepared[1:])
    check(neighbors["relevance"], rows[:N_CHECKED], options.k)
    n_codes = sum(len(segment.counts) for segment in neighbors["relevance"].index_.segments)
    for count in COUNTS:
        turns = {name: lambda n=n, count=count: times_of(n, rows, count, options) for name, n in neighbors.items()}
        times = {name: np.median(np.concatenate(t)) for name, t in interleave(turns, options.rounds).items()}
        cells = [f"{1e6 * time / count:.1f}" for time in times.values()]
        cells.append(f"{times['relevance'] / times['euclidean']:.2f}")
        if count == 1:
            cells += [f"{first - times['relevance']:.3f}", f"{n_bytes / 2**20:.0f}"]
        print(line(*case[:3], f"{case[3]:,}", f"{n_codes:,}", count, *cells), flush=True)


def main():
    """Print the lines of every case."""
    parser = make_parser(__doc__)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="positions in CASES")
    options = parser.parse_args()
    print(machine())
    print(f"k={options.k}, {options.threads} threads; microseconds a query, seconds and MiB of preparing\n")
    columns = ("M", "K", "classes", "items", "codes", "queries a call", "Euclidean", "relevance", "ratio")
    print(head(*columns, "preparing, s", "MiB"))
    for case in options.cases:
        measure(CASES[case], options)


if __name__ == "__main__":
    main()
