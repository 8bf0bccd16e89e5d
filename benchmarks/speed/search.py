"""Exact search over codes, beside faiss and nanopq: one process, one run, the same codes and codebooks.

    python benchmarks/speed/search.py
    python benchmarks/speed/search.py --data features.npz --plot search.png --output search.md
    python benchmarks/speed/search.py --n 50000

Data sets: random codes of 8 x 8 and of 8 x 6 bits; DPQ codes of samples of 1,000 Gaussian classes, nearly all of which
differ; and with `--data`, an .npz file of `X_train`, `y_train`, `X_test` and `y_test`, the DPQ codes (M=4, K=64) of its
training items, once as they are, and once repeated up to the size of the others. There the queries are the test items.

Beside ours, which is exact:

- faiss's IndexPQ, exact: has our codebooks and our codes;
- faiss's IndexPQFastScan, approximate: 4-bit codes of as many bits in all, with codebooks of its own, trained on the
  decoded vectors. Its codes are others, so its recall is against its own exact answer, that of an IndexPQ of its codes;
- faiss's IndexIVFPQ on the 1,000 classes, approximate, as it skips most of the codes: has our codebooks and our codes,
  without residuals, in 1,024 lists; its recall is against the exact answer;
- nanopq, exact: has our codebooks and our codes, and takes one query at a time.

Recall counts items no farther than the true k-th, so it does not depend on the order of ties. Before anything is timed,
our results in every case are compared with brute force, bit for bit, and the distances of IndexPQ and nanopq with it to
rounding. Ours is DPQNeighbors, which validates queries as scikit-learn does, and returns Euclidean distances; those of
the others are squared.

Methods take turns: in each of several rounds, each is called with one batch of queries after another for a while, and
the first call of a turn is not counted if there is another. Figures are medians of the calls of all rounds. Threads are
limited by `faiss.omp_set_num_threads` and threadpoolctl (all OpenMP and BLAS libraries in the process), and by `n_jobs`
for ours. Baselines whose cost per query is constant are not timed on the largest batches, where they take long: their
time per query on the largest batch that was timed stands there, marked with an asterisk.

Times mean something on an idle machine only.
"""

import itertools
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faiss
import nanopq
import numpy as np
from _common import (
    GivenCodebooks,
    head,
    interleave,
    line,
    load_features,
    machine,
    make_parser,
    search_index,
    seconds_each,
)
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from skdpq import DPQTransformer, to_faiss

COUNTS = (1, 16, 256, 4096)  # queries a call
KS = (1, 10, 100)
THREADS = (1, 2)
D = 8  # width of the random codewords
N_CLASSES, N_FEATURES, SPREAD = 1000, 64, 1.5  # SPREAD: of the class centers, in standard deviations of a class
N_LISTS, N_PROBES = 1024, (1, 4, 16)
N_TRAIN = 2**16  # decoded vectors that faiss trains on
N_CHECKED, N_RECALL = 8, 128  # queries
MOST_PAIRS = 5 * 10**8  # (query, code) pairs in a timed call of IndexPQ and IndexPQFastScan
BLOCK = 2**16  # codes decoded at a time

RANDOM, RANDOM_48, CLASSES = "random codes, 64 bits", "random codes, 48 bits", "1,000 classes"
FEATURES, REPEATED = "features", "features, repeated"
OURS, NANOPQ = "skdpq", "nanopq"
PQ, FAST_SCAN, IVF = "faiss IndexPQ", "faiss IndexPQFastScan", "faiss IndexIVFPQ"
MUST_SHOW = [  # data set, queries (None: all), k, baseline, the least speed-up over it on one thread
    (RANDOM, 256, 10, PQ, 20),
    (RANDOM, 256, 10, FAST_SCAN, 1.5),
    (RANDOM, 256, 100, PQ, 12),
    (RANDOM, 1, 10, PQ, 3),
    (CLASSES, 1, 10, PQ, 4),
    (REPEATED, 1, 10, PQ, 50),
    (FEATURES, None, 100, PQ, 30),
    (RANDOM_48, 256, 10, PQ, 40),
]
LEAST_THREAD_SPEED_UP = 1.7


@dataclass
class DataSet:
    """Codes, what they index, and soft representations to search with."""

    name: str
    codebooks: np.ndarray
    codes: np.ndarray
    queries: np.ndarray

    def counts(self):
        """Return the numbers of queries to time; beyond the largest of COUNTS, all there are."""
        return [count for count in COUNTS if count < len(self.queries)] + [len(self.queries)]

    def decoded(self, d):
        """Yield the decoded vectors in blocks, padded with zeros to d features."""
        for start in range(0, len(self.codes), BLOCK):
            yield pad(GivenCodebooks(self.codebooks).fit().decode(self.codes[start : start + BLOCK]), d)

    def training_set(self, d):
        """Return some decoded vectors, padded with zeros to d features."""
        rows = np.random.default_rng(0).permutation(len(self.codes))[:N_TRAIN]
        return pad(GivenCodebooks(self.codebooks).fit().decode(self.codes[rows]), d)


@dataclass
class Method:
    """Something that searches."""

    search: Callable  # of queries, k and the number of threads; returns distances and ids
    queries: np.ndarray
    most: float = np.inf  # queries in a call that is timed
    threads: tuple[int, ...] = THREADS
    exact: faiss.IndexPQ | None = None  # what recall is against; None for exact methods


@dataclass
class Results:
    """Seconds a query by (method, threads, queries, k); which of them were carried over; recall by (method, k)."""

    counts: list[int]
    n: int
    seconds: dict
    carried: set
    recall: dict

    def speed_up(self, method, over, threads, count, k):
        """Return how many times as fast a method is as another."""
        return self.seconds[over, threads, count, k] / self.seconds[method, threads, count, k]


def random_set(name, n, M, K):
    """Return uniformly random codes, and Gaussian codebooks and queries."""
    rng = np.random.default_rng(0)
    codebooks = rng.standard_normal((M, K, D), dtype=np.float32)
    codes = rng.integers(0, K, (n, M), dtype=np.uint8)
    return DataSet(name, codebooks, codes, rng.standard_normal((COUNTS[-1], M * D), dtype=np.float32))


def fit_and_encode(transformer, X_train, y_train, X, X_query):
    """Return codebooks, codes of X and soft representations of X_query."""
    transformer.fit(X_train, y_train)
    return {"codebooks": transformer.codebooks_, "codes": transformer.encode(X), "queries": transformer.soft(X_query)}


def encode_classes(n):
    """Return the DPQ codes of n samples of Gaussian classes, after a short fit, and fresh samples as queries."""
    rng = np.random.default_rng(0)
    centers = SPREAD * rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)

    def sample(n):
        y = rng.integers(0, N_CLASSES, n)
        return centers[y] + rng.standard_normal((n, N_FEATURES), dtype=np.float32), y

    transformer = DPQTransformer(M=8, K=256, gini_batch_weight=1.0, max_iter=3, random_state=0)
    return fit_and_encode(transformer, *sample(100_000), sample(n)[0], sample(COUNTS[-1])[0])


def encode_features(path):
    """Return the DPQ codes of a file's training items, with its test items as queries."""
    X_train, y_train, X_test, _ = load_features(path)
    return fit_and_encode(DPQTransformer(M=4, K=64, random_state=0), X_train, y_train, X_train, X_test)


def cached(directory, name, make):
    """Return the arrays that make returns, from a file in the directory if it is there."""
    if directory is None:
        return make()
    path = directory / f"{name}.npz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())
    return dict(np.load(path))


def data_sets(options):
    """Yield all data sets."""
    n = options.n
    yield random_set(RANDOM, n, 8, 256)
    yield random_set(RANDOM_48, n, 8, 64)
    if options.data:
        arrays = cached(options.cache, f"features_{options.data.stem}", lambda: encode_features(options.data))
        arrays["codes"] = arrays["codes"][:n]
        yield DataSet(FEATURES, **arrays)
        arrays["codes"] = np.tile(arrays["codes"], (n // len(arrays["codes"]), 1))
        yield DataSet(REPEATED, arrays["codebooks"], arrays["codes"], arrays["queries"][: COUNTS[-1]])
    yield DataSet(CLASSES, **cached(options.cache, f"classes_{n}", lambda: encode_classes(n)))


def pad(X, d):
    """Append zeros to have d features."""
    return np.pad(X, ((0, 0), (0, d - X.shape[1])))


def index_4_bits(data):
    """Return an IndexPQ of 4-bit codes that are as long in all, with codebooks of their own."""
    M, K, D = data.codebooks.shape
    n_parts = M * int(np.log2(K)) // 4
    d = -(-M * D // n_parts) * n_parts
    index = faiss.IndexPQ(d, n_parts, 4)
    index.train(data.training_set(d))
    for X in data.decoded(d):
        index.add(X)
    return index


def index_ivf(data, exact):
    """Return an IndexIVFPQ of the codebooks and codes of an IndexPQ."""
    M, K, D = data.codebooks.shape
    coarse = faiss.Kmeans(M * D, N_LISTS, niter=10, seed=0, min_points_per_centroid=1)
    coarse.train(data.training_set(M * D))
    index = faiss.IndexIVFPQ(coarse.index, M * D, N_LISTS, M, int(np.log2(K)))
    index.by_residual = False
    index.pq.centroids = exact.pq.centroids
    index.is_trained = True
    lists = np.concatenate([coarse.index.search(X, 1)[1] for X in data.decoded(M * D)])
    lists = lists.astype("<u2").view(np.uint8)  # as many bytes as add_sa_codes expects for N_LISTS
    packed = faiss.vector_to_array(exact.codes).reshape(exact.ntotal, -1)
    index.add_sa_codes(np.hstack([lists, packed]))
    return index


def search_faiss(index, **parameters):
    """Return the search of a faiss index, whose threads are limited from outside."""

    def search(queries, k, threads):
        return index.search(queries, k, **parameters)

    return search


def search_nanopq(data):
    """Return the search of nanopq, which leaves the selection of the nearest to us."""
    M, K, D = data.codebooks.shape
    pq = nanopq.PQ(M, K, verbose=False)
    pq.codewords, pq.Ds = data.codebooks, D

    def search_one(query, k):
        distances = pq.dtable(query).adist(data.codes)
        ids = np.argpartition(distances, k - 1)[:k]
        ids = ids[np.argsort(distances[ids])]
        return distances[ids], ids

    def search(queries, k, threads):
        return tuple(map(np.array, zip(*[search_one(query, k) for query in queries], strict=True)))

    return search


def search_ours(data):
    """Return our search."""
    index = search_index(data.codebooks, data.codes)

    def search(queries, k, threads):
        return index.set_params(n_jobs=threads).kneighbors(queries, k)

    return search


def make_methods(data):
    """Return all methods by name."""
    queries, most = data.queries, MOST_PAIRS // len(data.codes)
    exact, exact_4_bits = to_faiss(search_index(data.codebooks, data.codes)), index_4_bits(data)
    fast_scan = faiss.IndexPQFastScan(exact_4_bits)
    methods = {
        OURS: Method(search_ours(data), queries),
        PQ: Method(search_faiss(exact), queries, most),
        FAST_SCAN: Method(search_faiss(fast_scan), pad(queries, exact_4_bits.d), most, exact=exact_4_bits),
        NANOPQ: Method(search_nanopq(data), queries, 1, (1,)),
    }
    if data.name == CLASSES:
        ivf = index_ivf(data, exact)
        for n_probes in N_PROBES:
            search = search_faiss(ivf, params=faiss.SearchParametersIVF(nprobe=n_probes))
            methods[f"{IVF}, nprobe={n_probes}"] = Method(search, queries, exact=exact)
    return methods


def brute_force(data, queries, k):
    """Return the k nearest, ordered by (distance, id): squared distances as sums of float32 in the order of the parts.

    The summands, squared distances of a part to a codeword, are computed in float64 and rounded once.
    """
    M, _, D = data.codebooks.shape
    distances, ids = np.empty((len(queries), k), dtype=np.float32), np.empty((len(queries), k), dtype=np.int64)
    for q, query in enumerate(queries.reshape(-1, M, 1, D).astype(np.float64)):
        table = np.square(query - data.codebooks).sum(axis=2).astype(np.float32)
        total = np.zeros(len(data.codes), dtype=np.float32)
        for m in range(M):
            total += table[m][data.codes[:, m]]
        ids[q] = np.argsort(total, kind="stable")[:k]
        distances[q] = total[ids[q]]
    return distances, ids


def check(data, methods):
    """Raise unless ours is brute force's answer, and the distances of the other exact methods are it to rounding."""
    queries = data.queries[:N_CHECKED]
    distances, ids = brute_force(data, queries, KS[-1])
    euclidean = np.sqrt(distances, dtype=np.float64)
    for threads, k, count in itertools.product(THREADS, KS, data.counts()):
        for start in range(0, N_CHECKED, count):
            found_distances, found_ids = methods[OURS].search(data.queries[start : start + count], k, threads)
            rows = slice(start, min(start + count, N_CHECKED))
            n = rows.stop - start
            if not (
                np.array_equal(found_distances[:n], euclidean[rows, :k])
                and np.array_equal(found_ids[:n], ids[rows, :k])
            ):
                raise RuntimeError(
                    f"{data.name}: {OURS} differs from brute force ({threads} threads, {count} queries, k={k})."
                )
    atol = 1e-6 * np.square(queries).sum(axis=1).max()  # faiss's tables may come of the difference of larger terms
    for name in (PQ, NANOPQ):
        np.testing.assert_allclose(methods[name].search(queries, KS[-1], 1)[0], distances, 1e-4, atol, err_msg=name)


def measure_recall(method):
    """Return recall by k: the share of items no farther than the k-th that is exact."""
    queries = method.queries[:N_RECALL]

    def squared_distances(ids):
        vectors = method.exact.reconstruct_batch(np.maximum(ids, 0).ravel()).reshape(*ids.shape, -1)
        distances = np.square(vectors - queries[:, np.newaxis], dtype=np.float64).sum(axis=2)
        return np.where(ids < 0, np.inf, distances)  # faiss pads with -1

    exact = squared_distances(method.exact.search(queries, KS[-1])[1])
    recall = {}
    for k in KS:
        found = squared_distances(method.search(queries, k, 1)[1])
        recall[k] = (found <= exact[:, :k].max(axis=1, keepdims=True)).mean()
    return recall


@contextmanager
def limited(threads):
    """Limit faiss, and all OpenMP and BLAS libraries in the process."""
    faiss.omp_set_num_threads(threads)
    with threadpool_limits(threads):
        yield


def turn(method, threads, count, k, at_least):
    """Return a function that searches for one batch of queries after another, and returns the seconds of each."""
    n_batches, n_features = len(method.queries) // count, method.queries.shape[1]
    batches = itertools.cycle(method.queries[: n_batches * count].reshape(n_batches, count, n_features))
    return lambda: seconds_each(lambda: method.search(next(batches), k, threads), at_least)


def measure_case(methods, threads, count, k, options):
    """Return the median seconds a query of each method."""
    turns = {name: turn(method, threads, count, k, options.seconds) for name, method in methods.items()}
    return {
        name: np.median(np.concatenate(elapsed)) / count for name, elapsed in interleave(turns, options.rounds).items()
    }


def measure(data, methods, options):
    """Measure all methods on a data set."""
    counts = data.counts()
    recall = {
        (name, k): value
        for name, method in methods.items()
        if method.exact
        for k, value in measure_recall(method).items()
    }
    results = Results(counts, len(data.codes), {}, set(), recall)
    for threads, k, count in itertools.product(THREADS, KS, counts):
        able = {name: method for name, method in methods.items() if threads in method.threads}
        timed = {name: method for name, method in able.items() if count <= method.most}
        with limited(threads):
            for name, seconds in measure_case(timed, threads, count, k, options).items():
                results.seconds[name, threads, count, k] = seconds
        for name in able.keys() - timed.keys():
            smaller = counts[counts.index(count) - 1]
            results.seconds[name, threads, count, k] = results.seconds[name, threads, smaller, k]
            results.carried.add((name, threads, count, k))
    return results


def table(results, methods):
    """Yield the lines of a data set's table."""
    columns = ("threads", "queries", "k", "µs a query", "ns a (query, code)")
    yield head("method", *columns, "speed-up over IndexPQ", "speed-up of ours", "recall")
    for threads, k, count, name in itertools.product(THREADS, KS, results.counts, methods):
        case = name, threads, count, k
        if case not in results.seconds:
            continue
        seconds = results.seconds[case]
        recall = f"{results.recall[name, k]:.3f}" if (name, k) in results.recall else "exact"
        yield line(
            name,
            threads,
            f"{count:,}",
            k,
            f"{1e6 * seconds:,.2f}{'*' if case in results.carried else ''}",
            f"{1e9 * seconds / results.n:.4f}",
            f"{results.speed_up(name, PQ, threads, count, k):.2f}",
            f"{results.speed_up(OURS, *case):.2f}",
            f"{recall}{' of its own' if name == FAST_SCAN else ''}",
        )


def must_show(all_results):
    """Yield the lines of what our search must reach."""
    yield "\n## Must show\n\nOn one thread:\n"
    yield head("data set", "codes", "queries", "k", "over", "speed-up", "at least")
    for name, count, k, baseline, least in MUST_SHOW:
        if name not in all_results:
            continue
        results = all_results[name]
        count = results.counts[-1] if count is None else count
        speed_up = results.speed_up(OURS, baseline, 1, count, k)
        yield line(name, f"{results.n:,}", f"{count:,}", k, baseline, f"{speed_up:.2f}", least)
    yield f"\nOurs on two threads over ours on one, at least {LEAST_THREAD_SPEED_UP}:\n"
    yield head("data set", "codes", "queries", *(f"k={k}" for k in KS))
    for name, results in all_results.items():
        for count in results.counts:
            seconds = [[results.seconds[OURS, threads, count, k] for k in KS] for threads in THREADS]
            cells = (f"{one / two:.2f}" for one, two in zip(*seconds, strict=True))
            yield line(name, f"{results.n:,}", f"{count:,}", *cells)


def plot(all_results, path):
    """Draw time per query against the number of queries, for k=10 on one thread."""
    figure = Figure(figsize=(4 * len(all_results), 4.5), layout="constrained")
    axes = figure.subplots(1, len(all_results), sharey=True, squeeze=False)
    names = list(dict.fromkeys(case[0] for results in all_results.values() for case in results.seconds))
    for ax, (data_name, results) in zip(axes[0], all_results.items(), strict=True):
        for i, name in enumerate(names):
            cases = [(name, 1, count, 10) for count in results.counts]
            if cases[0] in results.seconds:
                ax.loglog(
                    results.counts, [1e6 * results.seconds[case] for case in cases], "o-", color=f"C{i}", label=name
                )
        ax.set(title=f"{data_name}\n{results.n:,} codes", xlabel="queries a call")
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("µs a query, k=10, one thread")
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=100)


def header(options):
    """Yield date, machine and versions, and what the figures are."""
    yield f"{machine('faiss-cpu', 'nanopq')} ({faiss.get_compile_options().strip()})"
    yield (
        f"\nMedians of the calls of {options.rounds} rounds, {options.seconds} s a turn. *: not timed with that many "
        "queries; the time per query is that of the largest number that was. Speed-up of ours: over the method of the "
        "row. IndexPQFastScan has codes of its own, and its recall is against its own exact answer. Threads are "
        "limited by faiss.omp_set_num_threads and threadpoolctl, and by n_jobs for skdpq."
    )


def report(options):
    """Measure, and yield the lines of the report."""
    yield from header(options)
    all_results = {}
    for data in data_sets(options):
        M, K, _ = data.codebooks.shape
        bits = int(np.log2(K))
        yield f"\n## {data.name[0].upper()}{data.name[1:]}\n"
        yield (
            f"{len(data.codes):,} codes of {M} x {bits} bits, of which {len(np.unique(data.codes, axis=0)):,} are "
            f"distinct; {data.queries.shape[1]} dimensions; FastScan {M * bits // 4}x4.\n"
        )
        with limited(max(THREADS)):
            methods = make_methods(data)
            check(data, methods)
        results = all_results[data.name] = measure(data, methods, options)
        yield from table(results, methods)
    yield from must_show(all_results)
    if options.plot:
        plot(all_results, options.plot)


def main():
    """Print the report."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, help=".npz file with X_train, y_train, X_test and y_test")
    parser.add_argument("--n", type=int, default=1_000_000, help="number of codes; fewer for a quick try")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--seconds", type=float, default=0.1, help="least length of a turn")
    parser.add_argument("--cache", type=Path, help="keep fitted codes in that directory; empty it to fit again")
    parser.add_argument("--plot", help="draw time per query to that file")
    parser.add_argument("--output", type=Path, help="write the report to that file, too")
    options = parser.parse_args()
    if options.output:
        options.output.write_text("")
    for text in report(options):
        print(text, flush=True)
        if options.output:
            with options.output.open("a") as file:
                file.write(f"{text}\n")


if __name__ == "__main__":
    main()
