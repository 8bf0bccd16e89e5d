"""Retrieval protocols of the paper's section 4, and results that are kept as they come."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import _common
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import normalize

from skdpq import DPQClassifier, DPQNeighbors, metrics

RESULTS = Path(__file__).parent / "results"
METRICS = {"": "mean_average_precision", ", 21 points": "interpolated_mean_average_precision"}
PROTOCOLS = {
    "a": "a tenth of the test items of each class query the others",
    "b": "all test items query the test items",
    "c": "all test items query the training items",
}


def sides(protocol, y_test):
    """Return which test items are the queries, and which the database (None for the training items)."""
    everything = np.arange(len(y_test))
    if protocol == "c":
        return everything, None
    if protocol == "b":
        return everything, everything
    queries = [np.flatnonzero(y_test == label) for label in np.unique(y_test)]
    queries = np.concatenate([items[: len(items) // 10] for items in queries])
    return queries, np.setdiff1d(everything, queries)


def evaluate(quantizer, train, test):
    """Return the mAP over the whole ranking by (protocol, search) of a fitted quantizer; of DPQ also by relevance.

    `train` and `test` are pairs of samples and labels. `DPQNeighbors` takes whatever has `encode`, `soft`, `decode` and
    `codebooks_`, and its score is tie-aware.
    """
    codes = quantizer.encode(test[0])
    rankings = {"": "euclidean"} | ({" relevance": "relevance"} if isinstance(quantizer, DPQClassifier) else {})
    scores = {}
    for protocol in PROTOCOLS:
        queries, database = sides(protocol, test[1])
        neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer), n_jobs=-1)
        if database is None:
            neighbors.fit(*train)
        else:
            neighbors.fit_codes(codes[database], test[1][database])
        for suffix, metric in rankings.items():
            for search in ("symmetric", "asymmetric"):
                neighbors.set_params(search=search, metric=metric)
                scores[f"{protocol} {search}{suffix}"] = neighbors.score(test[0][queries], test[1][queries])
    return scores


def evaluate_uncompressed(train, test, distances):
    """Return the mAP by protocol of vectors that are not compressed, by the `distances` of queries and items."""
    scores = {}
    for protocol in PROTOCOLS:
        queries, database = sides(protocol, test[1])
        items, labels = train if database is None else (test[0][database], test[1][database])
        scores[f"{protocol} asymmetric"] = map_of_vectors(test[0][queries], test[1][queries], items, labels, distances)
    return scores


def evaluate_decoded(soft, hard, y_train, y_test):
    """Return the same for vectors: `soft` of the test items, and `hard` of training and test items."""
    hard_train, hard_test = hard
    scores = {}
    for protocol in PROTOCOLS:
        queries, database = sides(protocol, y_test)
        items, labels = (hard_train, y_train) if database is None else (hard_test[database], y_test[database])
        for search, vectors in (("symmetric", hard_test), ("asymmetric", soft)):
            scores[f"{protocol} {search}"] = map_of_vectors(vectors[queries], y_test[queries], items, labels)
    return scores


def evaluate_on(quantizer, X, y):
    """Return plain and interpolated mAP of a fitted quantizer on one set, of which some query the others."""
    queries, rest = divide(len(X))
    scores = {}
    for intra_norm in (False, True) if hasattr(quantizer, "intra_norm") else (None,):
        if intra_norm is not None:
            quantizer.set_params(intra_norm=intra_norm)
        neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer), n_jobs=-1).fit(X[rest], y[rest])
        for search in ("symmetric", "asymmetric"):
            neighbors.set_params(search=search)
            for suffix, metric in METRICS.items():
                name = f"{search}{' IntraNorm' if intra_norm else ''}{suffix}"
                scores[name] = metrics.score_neighbors(neighbors, X[queries], y[queries], metric)
    return scores


def evaluate_vectors_on(soft, hard, y):
    """Return the same of vectors."""
    queries, rest = divide(len(y))
    scores = {}
    for search, vectors in (("symmetric", hard), ("asymmetric", soft)):
        distances = squared_distances(vectors[queries], hard[rest])
        for suffix, metric in METRICS.items():
            scores[f"{search}{suffix}"] = getattr(metrics, metric)(y[queries], y[rest], distances)
    return scores


def joined(rows):
    """Return rows by the names of targets as one row."""
    return {f"{target} {name}": value for target, row in rows.items() for name, value in row.items()}


def divide(n, n_queries=1000):
    """Return which of n items are queries, and which are the database."""
    order = np.random.default_rng(0).permutation(n)
    return order[:n_queries], order[n_queries:]


def squared_distances(queries, items):
    """Return squared distances, less what is the same for all items; those of equal items are equal."""
    return np.square(items).sum(1) - 2 * (queries @ items.T)


def probability_that_labels_differ(p_q, p_d):
    """Return 1 - p_q . p_d of posteriors."""
    return 1 - p_q @ p_d.T


def of_length_one(samples):
    """Return a pair of vectors and labels, the vectors divided by their length."""
    return normalize(samples[0]), samples[1]


def map_of_vectors(queries, y, items, labels, distances=squared_distances):
    """Return the mAP of ranking vectors by their Euclidean distances, or others, some queries at a time."""
    total = 0.0
    for start in range(0, len(queries), 500):
        block = slice(start, start + 500)
        ranked = metrics.mean_average_precision(y[block], labels, distances(queries[block], items))
        total += ranked * len(y[block])
    return total / len(queries)


def make_parser(description, features=False):
    """Return a parser of the options that all experiments have, and of features in the place of images if they may."""
    parser = _common.make_parser(description)
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--data", help="images, in a folder or a zip file")
    if features:
        samples.add_argument(
            "--features",
            nargs="+",
            help="files (.npz) of features: the first with X_train, y_train, X_test and y_test; others, to search in "
            "as well, with X and y",
        )
    parser.add_argument("--cache", default="cache", help="a folder for trained base networks")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--validation", action="store_true", help="do not look at the test images")
    return parser


def from_files(paths):
    """Return the experiment on features: its name, what is learned from, and what is searched."""
    source, *others = (np.load(path) for path in paths)
    targets = {Path(path).stem: (data["X"], data["y"]) for path, data in zip(paths[1:], others, strict=True)}
    seen = {"seen": (source["X_test"], source["y_test"])}
    # results are kept by the name, which therefore has all files
    return ", ".join(Path(path).stem for path in paths), (source["X_train"], source["y_train"]), seen | targets


def load_results(name, options):
    """Return the results of an experiment so far."""
    return Results(RESULTS / f"{name}{'-validation' * options.validation}.json")


class Results:
    """Results in a JSON file, each under a key; what is there is not computed again."""

    def __init__(self, path):
        self.path = Path(path)
        self.rows = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key, compute):
        """Return what is under a key, computing it if it is not there."""
        if key not in self.rows:
            start = time.perf_counter()
            row = {name: round(value, 5) for name, value in compute().items()}
            row["seconds"] = round(time.perf_counter() - start, 1)
            self.rows[key] = row | {"on": _common.machine("faiss-cpu")}
            self.path.parent.mkdir(exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.rows, indent=1) + "\n")
            temporary.replace(self.path)
        row = self.rows[key]
        print(key, {name: value for name, value in row.items() if name != "on"}, flush=True)
        return row
