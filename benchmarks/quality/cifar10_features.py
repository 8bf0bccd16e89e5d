"""DPQ, PQ and OPQ codes of CIFAR-10 features at 24 bits: retrieval over the whole ranking, and accuracy from codes.

    python benchmarks/quality/cifar10_features.py features.npz

The file holds `X_train`, `y_train`, `X_test` and `y_test`: here the U = 500 units of the paper's base network (section
4), trained on the 50,000 training images. All training items are the database, all test items the queries; in the
column "among queries", 100 test items of each class query the other test items. Estimators have M=4 and K=64 and are
otherwise as constructed by default.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, load_features, machine, make_parser, seconds
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer

M, K = 4, 64


def among_queries(quantizer, X, y):
    """Return the asymmetric mAP of 100 items of each class against the other items."""
    queries = np.concatenate([np.flatnonzero(y == label)[:100] for label in np.unique(y)])
    others = np.setdiff1d(np.arange(len(y)), queries)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X[others], y[others])
    return neighbors.score(X[queries], y[queries])


def measure(quantizer, X, y, X_query, y_query):
    """Fit, and return both mAP, accuracy, mAP among queries, distinct codes, and seconds of fitting and of ranking."""
    fit_time = seconds(quantizer.fit, X, y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer), n_jobs=os.cpu_count()).fit(X, y)
    start = time.perf_counter()
    asymmetric = neighbors.score(X_query, y_query)
    score_time = time.perf_counter() - start
    symmetric = neighbors.set_params(search="symmetric").score(X_query, y_query)
    if isinstance(quantizer, DPQClassifier):
        accuracy = quantizer.score(X_query, y_query)
    else:
        hard, hard_query = quantizer.decode(neighbors.codes_), quantizer.decode(quantizer.encode(X_query))
        accuracy = LogisticRegression(max_iter=300, C=0.01).fit(hard, y).score(hard_query, y_query)
    distinct = len(np.unique(neighbors.codes_, axis=0))
    among = among_queries(quantizer, X_query, y_query)
    return asymmetric, symmetric, accuracy, among, distinct, fit_time, score_time


def main():
    """Print one line a method."""
    parser = make_parser(__doc__)
    parser.add_argument("data", help="an .npz file")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to average over")
    options = parser.parse_args()
    X, y, X_query, y_query = load_features(options.data)
    print(machine())
    print(f"{len(X)} database items, {len(X_query)} queries, M={M}, K={K}: {int(M * np.log2(K))} bits\n")

    values = {}
    for seed in range(options.seeds):
        for name, quantizer in {
            "DPQ": DPQClassifier(M=M, K=K, random_state=seed),
            "PQ": ProductQuantizer(M=M, K=K, random_state=seed),
            "OPQ": ProductQuantizer(M=M, K=K, rotation="opq", random_state=seed),
        }.items():
            values.setdefault(name, []).append(measure(quantizer, X, y, X_query, y_query))

    columns = ("mAP asymmetric", "symmetric", "accuracy from codes", "mAP among queries", "distinct codes")
    print(head("", *columns, "fit, s", "mAP, s"))
    for name, of_seeds in values.items():
        *scores, distinct, fit_time, score_time = np.mean(of_seeds, axis=0)
        cells = (f"{score:.4f}" for score in scores)
        print(line(name, *cells, f"{distinct:.0f}", f"{fit_time:.0f}", f"{score_time:.1f}"))


if __name__ == "__main__":
    main()
