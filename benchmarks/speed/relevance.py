"""Search by relevance beside Euclidean search: the same codes, queries and process, one thread unless said.

    python benchmarks/speed/relevance.py

Codes are like those of a trained DPQ: samples of Gaussian classes in a space of as many dimensions as soft has, whose
parts are encoded by codebooks of k-means; queries are further samples. The classifier is that of the Gaussian classes,
so that most posteriors are concentrated on one class, and some are shared by a few; label smoothing leaves a tenth of
them to all classes alike. Queries are their own soft representation, so that no time of a network is counted. Time of
relevance includes the products that make LUTC, and the posteriors of the queries.

Results are compared with brute force. Searches take turns; figures are medians. "Preparing" is the first search less
a later one: the posteriors of all codes, which stay until the database or the classifier changes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import GivenCodebooks, head, interleave, line, machine, make_parser, measured_memory, seconds, seconds_each
from sklearn.cluster import MiniBatchKMeans
from sklearn.frozen import FrozenEstimator
from sklearn.utils import gen_batches

from skdpq import DPQNeighbors
from skdpq._search.posteriors import CodeClassifier, code_posteriors
from skdpq._search.relevance import _prepared

CASES = [  # M, K, classes, items
    (4, 64, 10, 50_000),
    (8, 256, 10, 50_000),
    (4, 64, 10, 1_000_000),
    (8, 256, 10, 1_000_000),
    (8, 256, 100, 1_000_000),
    (8, 256, 1000, 50_000),
    (8, 256, 1000, 1_000_000),
]
D = 16
COUNTS = (1, 256)  # queries a call
SMOOTHING = 0.1
SEPARATION = 1.6  # of class means, in standard deviations of a class, in each dimension of a few


class Classifying(GivenCodebooks):
    """Codebooks and a linear classifier of what they encode."""

    def __init__(self, codebooks, weight, bias):
        super().__init__(codebooks)
        self.weight, self.bias = weight, bias

    @property
    def lutc_(self):
        """Return the tables of the classification of codes."""
        M, _, width = self.codebooks_.shape
        return self.codebooks_ @ self.weight.reshape(M, width, -1)

    @property
    def class_bias_(self):
        """Return the bias."""
        return self.bias

    def predict_proba_soft(self, X):
        """Return the posteriors of X."""
        scores = X @ self.weight + self.bias
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        return scores / scores.sum(axis=1, keepdims=True)


class Problem:
    """A quantizer, the codes of items, and queries."""

    def __init__(self, M, K, n_classes, n, n_queries=1024):
        rng = np.random.default_rng(0)
        width = M * D
        means = rng.normal(size=(n_classes, width)).astype(np.float32)
        means *= self.scale(n_classes, width)
        draw = lambda n: means[rng.integers(n_classes, size=n)] + rng.normal(size=(n, width)).astype(np.float32)  # noqa: E731
        self.queries = draw(n_queries)
        sample = draw(max(20_000, 4 * K))
        codebooks = [
            MiniBatchKMeans(K, n_init=1, max_iter=20, random_state=0).fit(part).cluster_centers_
            for part in np.split(sample, M, axis=1)
        ]
        # The likelihood of unit Gaussians is linear in x; the factor keeps from certainty, as label smoothing does.
        weight = means.T.copy()
        bias = -np.square(means).sum(axis=1) / 2
        self.quantizer = Classifying(np.array(codebooks), *self.smoothed(weight, bias, sample)).fit()
        self.codes = np.concatenate([self.quantizer.encode(draw(part.stop - part.start)) for part in gen_batches(n, 2**14)])

    @staticmethod
    def scale(n_classes, width):
        """Return a scale of class means at which most samples are nearer to their own than to any other."""
        return SEPARATION * np.sqrt(2 * np.log(max(n_classes, 10)) / width)

    @staticmethod
    def smoothed(weight, bias, sample):
        """Scale scores so that the mean posterior leaves as much to other classes as label smoothing does."""
        low, high = 0.01, 10.0
        for _ in range(20):
            factor = (low * high) ** 0.5
            scores = (sample[:2000] @ weight + bias) * factor
            largest = 1 / np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)
            low, high = (factor, high) if largest.mean() < 1 - SMOOTHING else (low, factor)
        return (weight * factor).astype(np.float32), (bias * factor).astype(np.float32)


def check(index, quantizer, queries, k):
    """Compare results with brute force."""
    classifier = CodeClassifier(quantizer.lutc_, quantizer.class_bias_)
    of_queries = np.asarray(quantizer.predict_proba_soft(queries), dtype=np.float32)
    nearest = np.empty((len(queries), 0))
    for part in gen_batches(index.n_samples_fit_, 2**14):
        of_codes = code_posteriors(index.codes_[part], classifier).astype(np.float64)
        total = np.zeros((len(queries), len(of_codes)))
        for c in range(of_codes.shape[1]):
            total += of_queries[:, c, None].astype(np.float64) * of_codes[:, c]
        nearest = np.sort(np.hstack((nearest, np.maximum(0, 1 - total).astype(np.float32))), axis=1)[:, :k]
    np.testing.assert_array_equal(index.kneighbors(queries, k)[0], nearest)


def measure(case, k, options):
    """Print the line of a case for each number of queries a call."""
    problem = Problem(*case)
    frozen = FrozenEstimator(problem.quantizer)
    searches = {
        metric: DPQNeighbors(quantizer=frozen, metric=metric, n_jobs=options.threads).fit_codes(problem.codes)
        for metric in ("euclidean", "relevance")
    }
    for search in searches.values():
        search.kneighbors(problem.queries[:1], k)  # compiles
    _prepared.clear()
    with measured_memory() as memory:
        first = seconds(searches["relevance"].kneighbors, problem.queries[:1], k)
    check(searches["relevance"], problem.quantizer, problem.queries[:4], k)
    n_distinct = len(np.unique(problem.codes.astype(np.uint8).view(f"V{case[0]}")))
    for count in COUNTS:
        batches = {name: iter(lambda: None, 1) for name in searches}

        def turn(name, count=count):
            starts = iter(range(10**9))
            search = searches[name]

            def call():
                start = next(starts) * count % (len(problem.queries) - count + 1)
                search.kneighbors(problem.queries[start : start + count], k)

            return np.median(seconds_each(call, options.seconds))

        times = interleave({name: lambda name=name: turn(name) for name in searches}, options.rounds)
        euclidean, relevance = (1e6 * np.median(times[name]) / count for name in searches)
        prepared = f"{first - np.median(times['relevance']) / count:.2f} s, {memory.held / 2**20:.0f} MiB"
        print(line(*case[:3], f"{case[3]:,}", f"{n_distinct:,}", count, f"{euclidean:.1f}", f"{relevance:.1f}", f"{relevance / euclidean:.2f}", prepared), flush=True)


def main():
    """Print a line for every case."""
    parser = make_parser(__doc__)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    options = parser.parse_args()
    print(machine())
    print(f"k={options.k}, {options.threads} threads; microseconds a query\n")
    print(head("M", "K", "classes", "items", "distinct codes", "queries a call", "Euclidean", "relevance", "ratio", "preparing"))
    for case in options.cases:
        measure(CASES[case], options.k, options)


if __name__ == "__main__":
    main()
