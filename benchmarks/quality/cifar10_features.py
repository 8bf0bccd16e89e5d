"""Codes of CIFAR-10 features at 24 bits, DPQ's and others': retrieval over the whole ranking, and accuracy from codes.

    python benchmarks/quality/cifar10_features.py features.npz

The file holds `X_train`, `y_train`, `X_test` and `y_test`: here the U = 500 units of the paper's base network (section
4), trained on the 50,000 training images. All training items are the database, all test items the queries; in the
column "among queries", 100 test items of each class query the other test items. Estimators have M=4 and K=64 and are
otherwise as constructed by default. Rivals that know labels take the posterior of scikit-learn's MLP, whose square
roots go to ProductQuantizer, or the directions of discriminant analysis do. "Normalized" features have rows of length
one. Last come rankings without codes, of the test items alone.
"""

import os
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, load_features, machine, make_parser, seconds
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler, normalize

from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer
from skdpq.metrics import mean_average_precision

M, K = 4, 64


def among(y):
    """Return the positions of 100 items of each class, which are queries, and those of the others."""
    queries = np.concatenate([np.flatnonzero(y == label)[:100] for label in np.unique(y)])
    return queries, np.setdiff1d(np.arange(len(y)), queries)


def measure(quantizer, metric, X, y, X_query, y_query):
    """Return both mAP, accuracy, mAP among queries, distinct codes, and seconds of ranking, of a fitted quantizer."""
    params = {"quantizer": FrozenEstimator(quantizer), "metric": metric, "n_jobs": os.cpu_count()}
    neighbors = DPQNeighbors(**params).fit(X, y)
    start = time.perf_counter()
    asymmetric = neighbors.score(X_query, y_query)
    score_time = time.perf_counter() - start
    symmetric = neighbors.set_params(search="symmetric").score(X_query, y_query)
    if isinstance(quantizer, DPQClassifier):
        accuracy = quantizer.score(X_query, y_query)
    else:
        hard, hard_query = quantizer.decode(neighbors.codes_), quantizer.decode(quantizer.encode(X_query))
        accuracy = LogisticRegression(max_iter=300, C=0.01).fit(hard, y).score(hard_query, y_query)
    queries, others = among(y_query)
    unseen = DPQNeighbors(**params).fit(X_query[others], y_query[others]).score(X_query[queries], y_query[queries])
    return asymmetric, symmetric, accuracy, unseen, len(np.unique(neighbors.codes_, axis=0)), score_time


def methods(seed):
    """Yield name, what represents the features, and the quantizer of what it returns, all of them unfitted."""
    pq = {"M": M, "K": K, "random_state": seed}
    mlp = make_pipeline(StandardScaler(), MLPClassifier((512,), max_iter=30, early_stopping=True, random_state=seed))
    yield "DPQ", None, DPQClassifier(**pq)
    yield "MLP, PQ of roots of its posterior", mlp, ProductQuantizer(**pq)
    yield "discriminant analysis, PQ", LinearDiscriminantAnalysis(), ProductQuantizer(**pq)
    for name, represent in {"": None, ", normalized": FunctionTransformer(normalize)}.items():
        yield f"PQ{name}", represent, ProductQuantizer(**pq)
        yield f"OPQ{name}", represent, ProductQuantizer(rotation="opq", **pq)


def represented(represent, X, y, X_query):
    """Fit what represents the features; return both representations."""
    if represent is None:
        return X, X_query
    represent.fit(X, y)
    if hasattr(represent, "transform"):
        return represent.transform(X), represent.transform(X_query)
    return np.sqrt(represent.predict_proba(X)), np.sqrt(represent.predict_proba(X_query))


def uncompressed(name, X, y):
    """Print the mAP of the queries among the test items by exact distance, cosine, or the product of posteriors."""
    queries, others = among(y)
    X = X.astype(np.float32)
    distances = -X[queries] @ X[others].T
    if name == "Euclid":
        distances = 2 * distances + np.square(X[others]).sum(axis=1)
    print(line(f"no codes: {name}", *[""] * 3, f"{mean_average_precision(y[queries], y[others], distances):.4f}"))


def main():
    """Print one line a method."""
    parser = make_parser(__doc__)
    parser.add_argument("data", help="an .npz file")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to average over")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, X_query, y_query = load_features(options.data)
    print(machine())
    print(f"{len(X)} database items, {len(X_query)} queries, M={M}, K={K}: {int(M * np.log2(K))} bits\n")

    values, posteriors = {}, {}
    for seed in range(options.seeds):
        for name, represent, quantizer in methods(seed):
            start = time.perf_counter()
            data = represented(represent, X, y, X_query)
            fit_time = time.perf_counter() - start + seconds(quantizer.fit, data[0], y)
            for metric in ("euclidean", "relevance") if name == "DPQ" else ("euclidean",):
                scores = measure(quantizer, metric, data[0], y, data[1], y_query)
                label = f"{name}, by relevance" if metric == "relevance" else name
                values.setdefault(label, []).append((*scores[:-1], fit_time, scores[-1]))
            if name == "DPQ":
                posteriors["posterior of DPQ's soft"] = quantizer.predict_proba_soft(X_query)
            elif name.startswith("MLP"):
                posteriors["posterior of the MLP"] = np.square(data[1])

    columns = ("mAP asymmetric", "symmetric", "accuracy from codes", "mAP among queries", "distinct codes")
    print(head("", *columns, "fit, s", "mAP, s"))
    for name, of_seeds in values.items():
        *scores, distinct, fit_time, score_time = np.mean(of_seeds, axis=0)
        cells = (f"{score:.4f}" for score in scores)
        print(line(name, *cells, f"{distinct:.0f}", f"{fit_time:.0f}", f"{score_time:.1f}"))
    for name, representation in {"Euclid": X_query, "cosine": normalize(X_query), **posteriors}.items():
        uncompressed(name, representation, y_query)


if __name__ == "__main__":
    main()
