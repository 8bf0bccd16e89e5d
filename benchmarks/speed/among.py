"""Search among some items beside search among all: the same codes and queries, in one process and one run.

    python benchmarks/speed/among.py
    python benchmarks/speed/among.py --n 100000 --shares 0.01 0.5
    python benchmarks/speed/among.py --classes 10

Codes are random, M=8, K=256. What is allowed is drawn anew for every share, and given as a mask, or as ids in no order.
"All" is the search among all items, "reading" copies the mask into the order in which the codes are stored, and
"marking" makes the mask of ids. The ratio is the time of a call among some to that of all and reading together, and of
marking where ids are given: one says that what is not allowed costs nothing but finding out what that is. "First" is
the first call among some of a database, less a later one: it finds out where each item stands. With `--classes`, both
searches are by relevance, for a random classifier of so many, without faiss, which has none.

Beside ours, faiss's IndexIVFPQ with a single list, of our codebooks and our codes, and an IDSelectorBitmap or an
IDSelectorBatch, which are made in the call, as ours reads its mask in the call. Its IndexPQ takes no selector. A batch
of many ids is timed for one query alone, as it takes half a minute for 256.

Before anything is timed, our results are compared with those among all, from which the others are dropped, and faiss's
distances with ours to rounding. Methods take turns in several rounds; figures are medians of calls, and the ratios
medians of those within each round, which tell more where the machine has other work.

Times mean something on an idle machine only.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faiss
import numpy as np
from _common import GivenCodebooks, head, interleave, line, machine, make_parser, search_index, seconds
from sklearn.frozen import FrozenEstimator

from skdpq import DPQNeighbors
from skdpq._quantizer import class_posterior
from skdpq._search import among
from skdpq._search.tables import lut_classification

M, K, D = 8, 256, 8
COUNTS = (1, 256)  # queries a call
SHARES = (0.001, 0.01, 0.1, 0.5, 1.0)  # of the items that are allowed
N_CHECKED = 4  # queries
MOST_BATCH = 10**5  # ids of an IDSelectorBatch that is timed for many queries
LARGEST_ERROR = 1e-3  # relative, of faiss's squared distances


class Classifying(GivenCodebooks):
    """Given codebooks, and a random linear classifier of what is decoded."""

    def __init__(self, codebooks, n_classes):
        super().__init__(codebooks)
        self.n_classes = n_classes

    def fit(self, X=None, y=None):
        """Draw the classifier."""
        self.weight_ = np.random.default_rng(1).standard_normal((self.n_classes, M * D), dtype=np.float32) / 4
        self.class_bias_ = np.zeros(self.n_classes, dtype=np.float32)
        self.lutc_ = lut_classification(self.codebooks, self.weight_).astype(np.float32)
        return super().fit()

    def predict_proba_soft(self, X):
        """Return the posteriors of vectors."""
        return class_posterior(X, self.weight_, self.class_bias_)


class Problem:
    """A database of ours and one of faiss, and queries; ours searches by relevance where there are classes."""

    def __init__(self, n, n_classes):
        rng = np.random.default_rng(0)
        codebooks = rng.standard_normal((M, K, D), dtype=np.float32)
        codes = rng.integers(0, K, (n, M), dtype=np.uint8)
        self.queries = rng.standard_normal((max(COUNTS), M * D), dtype=np.float32)
        self.faiss = None
        if n_classes:
            quantizer = FrozenEstimator(Classifying(codebooks, n_classes).fit())
            self.ours = DPQNeighbors(quantizer=quantizer, metric="relevance", n_jobs=1).fit_codes(codes)
            return
        self.ours = search_index(codebooks, codes, n_jobs=1)
        coarse = faiss.IndexFlatL2(M * D)
        coarse.add(np.zeros((1, M * D), dtype=np.float32))
        self.faiss = faiss.IndexIVFPQ(coarse, M * D, 1, M, int(np.log2(K)))
        self.faiss.by_residual = False
        faiss.copy_array_to_vector(codebooks.ravel(), self.faiss.pq.centroids)
        self.faiss.is_trained = True
        self.faiss.add_sa_codes(codes)

    def search_faiss(self, queries, k, selector):
        """Return what faiss finds among what a new selector selects."""
        return self.faiss.search(queries, k, params=faiss.SearchParametersIVF(sel=selector(), nprobe=1))

    def check(self, allowed, k):
        """Compare ours with a search among all, and faiss's with ours."""
        queries, ids = self.queries[:N_CHECKED], np.flatnonzero(allowed)
        distances, found = self.ours.kneighbors(queries, len(allowed))
        kept = allowed[found]
        expected = [part[kept].reshape(N_CHECKED, -1)[:, :k] for part in (distances, found)]
        for given in (allowed, ids[::-1]):
            for actual, part in zip(self.ours.kneighbors(queries, k, among=given), expected, strict=True):
                np.testing.assert_array_equal(actual, part)
        if self.faiss is None:
            return
        theirs, _ = self.search_faiss(queries, k, lambda: faiss.IDSelectorBatch(ids))
        np.testing.assert_allclose(theirs, np.square(expected[0]), rtol=LARGEST_ERROR)


def measure(problem, share, options):
    """Print a line of a share for every number of queries a call."""
    n = problem.ours.n_samples_fit_
    ids = np.random.default_rng(1).permutation(n)[: max(options.k, round(share * n))]
    mask = np.zeros(n, dtype=bool)
    mask[ids] = True
    problem.check(mask, options.k)
    stored_ids = problem.ours.index_.segments[0].ids

    def mark():
        """Make the mask of the ids."""
        marked = np.zeros(n, dtype=bool)
        marked[ids] = True

    for count in COUNTS:
        queries = problem.queries[:count]
        search = partial(problem.ours.kneighbors, queries, options.k)
        theirs = partial(problem.search_faiss, queries, options.k)
        calls = {
            "all": search,
            "reading": partial(np.take, mask, stored_ids),
            "marking": mark,
            "mask": partial(search, among=mask),
            "ids": partial(search, among=ids),
        }
        if problem.faiss is not None:
            calls["bitmap"] = partial(theirs, lambda: faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")))
            if count == 1 or len(ids) <= MOST_BATCH:
                calls["batch"] = partial(theirs, lambda: faiss.IDSelectorBatch(ids))
        rounds = interleave({name: partial(seconds, call) for name, call in calls.items()}, options.rounds)
        rounds = {name: np.array(elapsed) for name, elapsed in rounds.items()}
        cells = [f"{1e3 * np.median(elapsed):.2f}" for elapsed in rounds.values()]
        least = rounds["all"] + rounds["reading"]
        ratios = [rounds["mask"] / least, rounds["ids"] / (least + rounds["marking"])]
        ratios = [f"{np.median(ratio):.2f}" for ratio in ratios]
        cells += ["-"] * (7 - len(cells))
        print(line(f"{100 * share:g} %", count, *cells[:5], *ratios, *cells[5:]), flush=True)


def main():
    """Print the lines of every share."""
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, default=1_000_000, help="items")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the items that are allowed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--classes", type=int, default=0, help="search by relevance for so many classes")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print(machine("faiss-cpu"))
    problem = Problem(options.n, options.classes)
    search = partial(problem.ours.kneighbors, problem.queries[:1], options.k, among=[*range(options.k)])
    search()  # compiles
    among._orders.clear()
    first, later = (seconds(search) for _ in range(2))
    print(f"{options.n:,} items, k={options.k}, one thread, {options.rounds} rounds; milliseconds a call")
    print(f"first call among some: {1e3 * (first - later):.1f} ms more\n")
    columns = ("allowed", "queries", "all", "reading", "marking", "mask", "ids", "mask ratio", "ids ratio")
    print(head(*columns, "faiss, bitmap", "faiss, batch"))
    for share in options.shares:
        measure(problem, share, options)


if __name__ == "__main__":
    main()
