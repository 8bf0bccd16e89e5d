"""DPQ, PQ and OPQ codes of CIFAR-10 features at 24 bits: retrieval over the whole ranking, and accuracy from codes.

    python benchmarks/quality/cifar10_features.py features.npz

The file holds `X_train`, `y_train`, `X_test` and `y_test`: here the U = 500 units of the paper's base network (section
4), trained on the 50,000 training images. All training items are the database, all test items the queries; in the
column "among queries", 100 test items of each class query the other test items. Estimators have M=4 and K=64 and are
otherwise as constructed by default.
"""

import argparse
import datetime
import os
import platform
import time

import joblib
import numpy as np
import sklearn
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

import skdpq
from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer

M, K = 4, 64


def among_queries(quantizer, X, y):
    """Return the asymmetric mAP of 100 items of each class against the other items."""
    queries = np.concatenate([np.flatnonzero(y == label)[:100] for label in np.unique(y)])
    others = np.setdiff1d(np.arange(len(y)), queries)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X[others], y[others])
    return neighbors.score(X[queries], y[queries])


def main():
    """Fit, measure and print one line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="an .npz file")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to average over")
    options = parser.parse_args()
    data = np.load(options.data)
    X, X_query = data["X_train"].astype(np.float32), data["X_test"].astype(np.float32)
    y, y_query = data["y_train"].astype(np.int64), data["y_test"].astype(np.int64)
    print(f"{datetime.date.today()}, {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    versions = {module.__name__: module.__version__ for module in (skdpq, sklearn, torch, np, joblib)}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"{len(X)} database items, {len(X_query)} queries, M={M}, K={K}: {int(M * np.log2(K))} bits\n")

    rows = {}
    for seed in range(options.seeds):
        for name, quantizer in {
            "DPQ": DPQClassifier(M=M, K=K, random_state=seed),
            "PQ": ProductQuantizer(M=M, K=K, random_state=seed),
            "OPQ": ProductQuantizer(M=M, K=K, rotation="opq", random_state=seed),
        }.items():
            start = time.perf_counter()
            quantizer.fit(X, y)
            fit_time = time.perf_counter() - start
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
            rows.setdefault(name, []).append((asymmetric, symmetric, accuracy, among, distinct, fit_time, score_time))

    print(
        "| | mAP asymmetric | symmetric | accuracy from codes | mAP among queries | distinct codes | fit, s | mAP, s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, values in rows.items():
        *scores, distinct, fit_time, score_time = np.mean(values, axis=0)
        cells = " | ".join(f"{score:.4f}" for score in scores)
        print(f"| {name} | {cells} | {distinct:.0f} | {fit_time:.0f} | {score_time:.1f} |")


if __name__ == "__main__":
    main()
