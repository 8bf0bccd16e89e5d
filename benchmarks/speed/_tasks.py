"""The tasks that `against.py` gives to the skdpq of a checkout, and the process that does them, one a checkout.

Tasks use the public interface alone, so that any two commits can be compared. Each is prepared for a number of items
and of threads by a function that returns two others. `turn(at_least)` returns the seconds of what is timed; what can be
repeated is repeated for at least so many seconds, and they are the median. `results()` returns arrays to compare.
"""

import copy
import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _architectures import Case, encoding_case, training_cases
from _common import GivenCodebooks, search_index, seconds, seconds_each
from threadpoolctl import threadpool_limits

import skdpq

D = 8  # values of a codeword
N_APPENDS, N_REMOVALS = 1000, 10


@dataclass
class Task:
    """What is timed, and how it is shown."""

    prepare: Callable  # of the number of items and of threads; returns turn and results
    exact: bool = False  # results must be the same, bit for bit
    threaded: bool = True  # the number of threads matters
    rate: bool = False  # the seconds are those of a sample


def repeated(call, results):
    """Return turn and results of a call that can be made again and again."""
    return lambda at_least: np.median(seconds_each(call, at_least)), results


def random_codes(n, M, K):
    """Return Gaussian codebooks, uniformly random codes, and Gaussian queries."""
    rng = np.random.default_rng(0)
    codebooks = rng.standard_normal((M, K, D), dtype=np.float32)
    return codebooks, rng.integers(0, K, (n, M)), rng.standard_normal((256, M * D), dtype=np.float32)


def clustered_codes(n, M=8, K=256, n_centers=1000, n_variants=20):
    """Return codebooks, codes of n items that are a few parts off some centers, many items a code, and near queries."""
    codebooks, _, noise = random_codes(0, M, K)
    rng = np.random.default_rng(1)
    variants = np.repeat(rng.integers(0, K, (n_centers, M)), n_variants, axis=0)
    changed = rng.random(variants.shape) < 0.15
    variants[changed] = rng.integers(0, K, changed.sum())
    codes = variants[(len(variants) * rng.random(n) ** 2).astype(int)]
    queries = GivenCodebooks(codebooks).fit().decode(codes[rng.integers(0, n, len(noise))]) + 0.3 * noise
    return codebooks, codes, queries


def find_nearest(make, n_queries, k, n, threads):
    """Search for the k nearest."""
    codebooks, codes, queries = make(n)
    index = search_index(codebooks, codes, n_jobs=threads)
    search = partial(index.kneighbors, queries[:n_queries], k)
    return repeated(search, search)


def find_within_radius(n_queries, n, threads):
    """Search within a radius that holds about a hundred items of a query."""
    codebooks, codes, queries = random_codes(n, 8, 256)
    index = search_index(codebooks, codes, n_jobs=threads)
    radius = float(np.median(index.kneighbors(queries[:16], 100)[0][:, -1]))

    search = partial(index.radius_neighbors, queries[:n_queries], radius)

    def results():
        distances, ids = search()
        return np.concatenate(distances), np.concatenate(ids), np.array([len(each) for each in ids])

    return repeated(search, results)


def state(index, queries):
    """Return what tells whether two databases are the same."""
    return index.codes_, index.ids_, *index.kneighbors(queries, 10)


def build(n, threads):
    """Make a database."""
    codebooks, codes, queries = random_codes(n, 8, 256)
    make = partial(search_index, codebooks, codes)
    return repeated(make, lambda: state(make(), queries))


def append(n, threads):
    """Add codes in a thousand parts."""
    codebooks, codes, queries = random_codes(n, 8, 256)
    made = []

    def turn(at_least):
        made[:] = [search_index(codebooks, codes[:0])]
        return sum(seconds(made[0].add_codes, part) for part in np.array_split(codes, N_APPENDS))

    return turn, lambda: state(made[0], queries)


def remove(n, threads):
    """Remove a hundredth of the items in ten parts."""
    codebooks, codes, queries = random_codes(n, 8, 256)
    whole = search_index(codebooks, codes)
    ids = np.array_split(np.random.default_rng(0).permutation(n)[: n // 100], N_REMOVALS)
    made = []

    def turn(at_least):
        made[:] = [copy.deepcopy(whole)]
        return sum(seconds(made[0].remove, part) for part in ids)

    return turn, lambda: state(made[0], queries)


def encode(method, case, n, threads):
    """Encode samples, by a network that both checkouts learn alike: what is far from zero takes as long for both."""
    X, y = case.samples()
    transformer = skdpq.DPQTransformer(**case.params, max_iter=1, batch_size=256, device="cpu", random_state=0)
    call = partial(getattr(transformer.fit(X[:2000], y[:2000]), method), X)
    return repeated(call, lambda: (call(),))


def train(case, n_epochs, n, threads):
    """Fit for one epoch, and for more: the difference is theirs, without the set-up."""
    X, y = case.samples()
    transformer = skdpq.DPQTransformer(**case.params, batch_size=256, device="cpu", random_state=0)

    def fit(max_iter):
        transformer.set_params(max_iter=max_iter, n_iter_no_change=max_iter).fit(X, y)

    def turn(at_least):
        first = seconds(fit, 1)
        return (seconds(fit, 1 + n_epochs) - first) / (n_epochs * len(X))

    return turn, lambda: (transformer.codebooks_, transformer.soft(X[:1000]), transformer.encode(X[:1000]))


def score(n, threads):
    """Compute the mean average precision over the whole ranking of a twentieth of the items."""
    codebooks, codes, queries = clustered_codes(n // 20)
    labels = codes[:, 0] % 10
    index = search_index(codebooks, codes, labels, n_jobs=threads)
    call = partial(index.score, np.tile(queries, (8, 1)), np.tile(labels[: len(queries)], 8))
    return repeated(call, lambda: (np.array(call()),))


def make_tasks():
    """Return all tasks by name."""
    codes = {
        "64 bits": lambda n: random_codes(n, 8, 256),
        "48 bits": lambda n: random_codes(n, 8, 64),
        "K=300": lambda n: random_codes(n, 8, 300),
        "clustered": clustered_codes,
    }
    tasks = {
        f"search, {name}, queries={n_queries}, k={k}": Task(partial(find_nearest, make, n_queries, k), exact=True)
        for name, make in codes.items()
        for n_queries in (1, 256)
        for k in (10, 100)
    }
    for n_queries in (1, 256):
        tasks[f"search, radius, queries={n_queries}"] = Task(partial(find_within_radius, n_queries), exact=True)
    for name, prepare in {"build": build, "1,000 appends": append, "10 removals": remove}.items():
        tasks[f"index, {name}"] = Task(prepare, exact=True, threaded=False)
    for name, case in {"defaults": Case("", 50_000, 30, 3), "trunk of 512": encoding_case(50_000)}.items():
        for method in ("encode", "transform"):
            tasks[f"encoding, {name}, {method}"] = Task(partial(encode, method, case))
    # two or three seconds: about as many batches as max_iter="auto" makes, as threads are tried during the first
    n_epochs = {"CIFAR-10": 12, "ImageNet": 4, "defaults": 100}
    for case in training_cases():
        tasks[f"training, {case.name}"] = Task(partial(train, case, n_epochs[case.name]), rate=True)
    return tasks | {"score, mAP": Task(score)}


class Bench:
    """Does what `against.py` asks for, a method a request."""

    def __init__(self):
        self.tasks = make_tasks()

    def where(self):
        """Return where the skdpq is that is measured."""
        return skdpq.__file__

    def prepare(self, name, n, threads):
        """Prepare a task, and return a digest of its results."""
        self.threads = threads
        with threadpool_limits(threads):
            self.turn, results = self.tasks[name].prepare(n, threads)
            self.turn(0)  # compiles, too
            self.arrays = results()
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def results(self):
        """Return the results."""
        return self.arrays

    def take_turn(self, at_least):
        """Return the seconds of a turn."""
        with threadpool_limits(self.threads):
            return self.turn(at_least)


def main():
    """Answer requests until there are no more."""
    warnings.simplefilter("ignore")  # max_iter is reached, as it should be
    bench, connection = Bench(), Connection(int(sys.argv[1]))
    while True:
        try:
            method, *args = connection.recv()
        except EOFError:
            return
        connection.send(getattr(bench, method)(*args))


if __name__ == "__main__":
    main()
