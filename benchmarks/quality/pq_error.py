"""Quantization error and fit time of ProductQuantizer, side by side with faiss's PQ and OPQ on the same data.

    python benchmarks/quality/pq_error.py
    python benchmarks/quality/pq_error.py --data features.npz --samples 20000

The data is scikit-learn's digits and a synthetic correlated set, or the array `X_train` of an .npz file. Four fifths of
the samples fit both libraries, each at its default settings (25 iterations of k-means and 50 alternations of OPQ in
both); the other fifth gives the held-out error. The error is the mean, over samples, of the squared distance to
the decoded codes. faiss takes only a multiple of M features, so it gets the features split and padded as ours.
Times mean something on an idle machine only: faiss's threads spin while they wait for a busy core.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faiss
import numpy as np
from _common import head, line, machine, make_parser, seconds
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skdpq import ProductQuantizer

CASES = [(4, 64), (8, 16), (8, 256)]  # M, K


def correlated(n=20_000, n_features=96, seed=0):
    """Return Gaussian samples whose principal variances fall off exponentially, in a random orientation."""
    rng = np.random.default_rng(seed)
    scales = np.exp(-np.arange(n_features) / 12)[:, np.newaxis]
    return (rng.standard_normal((n, n_features)) @ (rng.standard_normal((n_features, n_features)) * scales)).astype(
        "f4"
    )


def fit_faiss(X, M, K, rotation):
    """Fit faiss's; return what rotates a sample, and what decodes the codes of a rotated one."""

    def product_quantizer():
        quantizer = faiss.ProductQuantizer(X.shape[1], M, int(np.log2(K)))
        quantizer.cp.min_points_per_centroid = 1  # silences a warning; changes nothing else
        return quantizer

    rotate = np.asarray
    if rotation:
        matrix, inner = faiss.OPQMatrix(X.shape[1], M), product_quantizer()
        matrix.pq = inner
        matrix.train(X)
        rotate = matrix.apply
    quantizer = product_quantizer()
    quantizer.train(rotate(X))
    return rotate, lambda rotated: quantizer.decode(quantizer.compute_codes(rotated))


def mean_squared(soft, hard):
    """Return the mean squared distance between rows."""
    return np.square(soft - hard, dtype=np.float64).sum(axis=1).mean()


def measure(X_train, X_test, M, K, rotation):
    """Return seconds, training error and held-out error, of ours and of faiss."""
    quantizer = ProductQuantizer(M, K, rotation=rotation, random_state=0)
    fit_time = seconds(quantizer.fit, X_train)
    ours = [mean_squared(quantizer.soft(X), quantizer.decode(quantizer.encode(X))) for X in (X_train, X_test)]

    split = ProductQuantizer(M, 2, max_iter=1).fit(X_train).soft
    start = time.perf_counter()
    rotate, code_and_decode = fit_faiss(split(X_train), M, K, rotation)
    faiss_seconds = time.perf_counter() - start
    theirs = [mean_squared(rotate(split(X)), code_and_decode(rotate(split(X)))) for X in (X_train, X_test)]
    return (fit_time, *ours), (faiss_seconds, *theirs)


def main():
    """Print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", help=".npz file with an array X_train (n_samples, n_features)")
    parser.add_argument("--samples", type=int, help="use that many samples, drawn at random")
    args = parser.parse_args()
    if args.data:
        data = {os.path.basename(args.data): np.load(args.data)["X_train"]}
    else:
        data = {"digits": load_digits().data, "correlated": correlated()}
    print(f"{machine('faiss-cpu')}\n")
    columns = ("", "error", "faiss", "ratio", "held out", "faiss", "ratio", "fit, s", "faiss")
    print(head("data", "n", "features", "M", "K", *columns))
    for name, X in data.items():
        n = min(args.samples or len(X), len(X))
        X = X[np.random.default_rng(0).permutation(len(X))[:n]].astype(np.float32)
        X_train, X_test = train_test_split(X, test_size=0.2, random_state=0)
        for M, K in CASES:
            for rotation in (None, "opq"):
                (s, e, h), (fs, fe, fh) = measure(X_train, X_test, M, K, rotation)
                method = "OPQ" if rotation else "PQ"
                cells = f"{e:.4g}", f"{fe:.4g}", f"{e / fe:.3f}", f"{h:.4g}", f"{fh:.4g}", f"{h / fh:.3f}"
                cells = method, *cells, f"{s:.1f}", f"{fs:.1f}"
                print(line(name, len(X_train), X.shape[1], M, K, *cells), flush=True)


if __name__ == "__main__":
    main()
