"""What the default hyperparameters are worth: each changed alone, on data sets that differ in size and kind.

    python benchmarks/defaults.py
    python benchmarks/defaults.py --data features.npz

Small sets come with scikit-learn: digits, wine, breast_cancer, and iris cut to 30 samples; two fifths of each are held
out. With `--data`, an .npz file of `X_train`, `y_train`, `X_test` and `y_test`, of which the last tenth of the training
items is held out, and the test items are left alone. Means over seeds; mAP is of the held-out items against the others.
"""

import argparse
import datetime
import os
import platform
import time

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

import skdpq
from skdpq import DPQClassifier, DPQNeighbors

VARIANTS = [
    {},
    {"weight_decay": 0.01},
    {"weight_decay": 0.3},
    {"weight_decay": 1.5},
    {"joint_central_weight": 0.03},
    {"joint_central_weight": 0.1},
    {"joint_central_weight": 1.0},
    {"gini_batch_weight": 0.1, "gini_sample_weight": 0.1},
    {"gini_batch_weight": 1.0, "gini_sample_weight": 1.0},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-2},
    {"hidden_layer_sizes": ()},
    {"hidden_layer_sizes": (), "part_layer_sizes": (128,)},
    {"hidden_layer_sizes": (512,)},
    {"batch_size": 64},
]


def small_sets(seed):
    """Yield name, parameters, and a split of each small set."""
    for name, load in {"digits": load_digits, "wine": load_wine, "breast_cancer": load_breast_cancer}.items():
        split = train_test_split(*load(return_X_y=True), test_size=0.4, random_state=seed)
        yield name, {}, split
        yield f"{name}, M=4, K=16", {"M": 4, "K": 16}, split
    X, y = load_iris(return_X_y=True)
    toy, rest = np.arange(seed % 5, 150, 5), np.delete(np.arange(150), np.arange(seed % 5, 150, 5))
    yield "iris, 30 samples", {}, (X[toy], X[rest], y[toy], y[rest])


def large_set(path):
    """Yield name, parameters and split of the training items in a file."""
    data = np.load(path)
    X, y = data["X_train"].astype(np.float32), data["y_train"]
    cut = len(X) * 9 // 10
    yield os.path.basename(path), {"M": 4, "K": 64}, (X[:cut], X[cut:], y[:cut], y[cut:])


def measure(params, X, X_held_out, y, y_held_out):
    """Return accuracy from codes, asymmetric and symmetric mAP, seconds and epochs of fitting."""
    start = time.perf_counter()
    clf = DPQClassifier(**params).fit(X, y)
    seconds = time.perf_counter() - start
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(clf)).fit(X, y)
    asymmetric = neighbors.score(X_held_out, y_held_out)
    symmetric = neighbors.set_params(search="symmetric").score(X_held_out, y_held_out)
    return clf.score(X_held_out, y_held_out), asymmetric, symmetric, seconds, clf.n_iter_


def main():
    """Measure all variants and print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz file, instead of the small sets")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(", ".join(f"{module.__name__} {module.__version__}" for module in (skdpq, sklearn, torch, np)))

    results = {}
    for seed in range(options.seeds):
        for name, params, split in large_set(options.data) if options.data else small_sets(seed):
            for variant in VARIANTS:
                row = measure({**params, **variant, "random_state": seed}, *split)
                results.setdefault(name, {}).setdefault(str(variant or "defaults"), []).append(row)
    for name, rows in results.items():
        print(
            f"\n{name}\n\n| | accuracy | mAP asymmetric | mAP symmetric | fit, s | epochs |\n|---|---|---|---|---|---|"
        )
        for variant, values in rows.items():
            accuracy, asymmetric, symmetric, seconds, epochs = np.mean(values, axis=0)
            print(f"| {variant} | {accuracy:.4f} | {asymmetric:.4f} | {symmetric:.4f} | {seconds:.1f} | {epochs:.0f} |")


if __name__ == "__main__":
    main()
