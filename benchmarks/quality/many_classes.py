"""DPQ's codes of many classes beside what else knows labels, at the same bits; by distance and by relevance.

    python benchmarks/quality/many_classes.py
    python benchmarks/quality/many_classes.py --classes 300 --samples 20000 --seeds 5

Classes are Gaussian and overlap: 24 of 64 dimensions tell them apart, in a random rotation. Other sets have classes
that are nested (ten to each of some coarse means) or unequal in size. 1,000 new samples query 5,000 others. The rivals
take the posterior of a classifier, of discriminant analysis (which these sets suit best) or an MLP, and its square
roots go to ProductQuantizer of the same M and K; or the discriminant directions do. "Uncompressed" is the ranking by
p_q . p_d of a posterior itself: of the classes' densities, of each classifier, and of DPQ's soft representation.
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser, seconds
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier

from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer
from skdpq.metrics import mean_average_precision

N_FEATURES, N_TELLING, N_QUERIES, N_ITEMS = 64, 24, 1000, 5000


def make_set(kind, n_classes, n_samples, seed):
    """Return training and new samples with labels, and the posterior of the new ones by the classes' densities."""
    rng = np.random.default_rng(seed)
    means = 0.98 * rng.normal(size=(n_classes, N_TELLING))
    if kind == "nested":
        coarse = rng.normal(size=(-(-n_classes // 10), N_TELLING))
        means = np.repeat(coarse, 10, axis=0)[:n_classes] + 0.7 * means
    share = 1 / np.arange(1, n_classes + 1) ** 0.7 if kind == "unequal" else np.ones(n_classes)
    share /= share.sum()
    rotation = np.linalg.qr(rng.normal(size=(N_FEATURES, N_FEATURES)))[0]
    y = rng.choice(n_classes, size=n_samples + N_QUERIES + N_ITEMS, p=share)
    X = rng.normal(size=(len(y), N_FEATURES))
    X[:, :N_TELLING] += means[y]
    new = X[n_samples:, :N_TELLING]
    log_density = new @ means.T - 0.5 * np.square(means).sum(axis=1) + np.log(share)
    posterior = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    X = (X @ rotation).astype(np.float32)
    return X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:], posterior / posterior.sum(axis=1, keepdims=True)


def uncompressed(posterior, y):
    """Return the mAP of the ranking by p_q . p_d, without codes."""
    distances = 1 - posterior[:N_QUERIES] @ posterior[N_QUERIES:].T
    return mean_average_precision(y[:N_QUERIES], y[N_QUERIES:], distances)


def of_index(neighbors, X, y):
    """Return asymmetric and symmetric mAP."""
    return [neighbors.set_params(search=s).score(X[:N_QUERIES], y[:N_QUERIES]) for s in ("asymmetric", "symmetric")]


def measure(M, K, seed, trunk_input, X, y, X_new, y_new, posterior):
    """Yield name, uncompressed mAP, asymmetric and symmetric mAP, accuracy, and seconds of fitting."""
    nothing = np.nan, np.nan
    yield "densities", uncompressed(posterior, y_new), *nothing, (posterior.argmax(1) == y_new).mean(), np.nan
    for name, classifier in {
        "discriminant analysis": LinearDiscriminantAnalysis(),
        "MLP": MLPClassifier((512,), max_iter=30, random_state=seed),
    }.items():
        time = seconds(classifier.fit, X, y)
        roots, roots_new = (np.sqrt(classifier.predict_proba(a)) for a in (X, X_new))
        yield f"{name}, PQ of roots", *of_pq(M, K, seed, roots, roots_new, y_new), classifier.score(X_new, y_new), time
        if name == "discriminant analysis":
            directions = (classifier.transform(a)[:, :N_TELLING] for a in (X, X_new))
            yield f"{name}, PQ of directions", np.nan, *of_pq(M, K, seed, *directions, y_new)[1:], np.nan, time
    dpq = DPQClassifier(M=M, K=K, trunk_input=trunk_input, random_state=seed)
    time = seconds(dpq.fit, X, y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X_new[N_QUERIES:], y_new[N_QUERIES:])
    yield "DPQ, Euclid", np.nan, *of_index(neighbors, X_new, y_new), dpq.score(X_new, y_new), time
    soft = dpq.predict_proba_soft(X_new)
    neighbors.set_params(metric="relevance")
    accuracy = (soft.argmax(1) == y_new).mean()
    scores = uncompressed(soft, y_new), *of_index(neighbors, X_new, y_new)
    yield "DPQ, relevance (accuracy of soft)", *scores, accuracy, time


def of_pq(M, K, seed, X, X_new, y_new):
    """Return the mAP of square roots of a posterior, and those of their codes."""
    quantizer = ProductQuantizer(M=M, K=K, random_state=seed).fit(X)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X_new[N_QUERIES:], y_new[N_QUERIES:])
    return uncompressed(np.square(X_new), y_new), *of_index(neighbors, X_new, y_new)


def main():
    """Print a table for each set."""
    parser = make_parser(__doc__)
    parser.add_argument("--kind", nargs="+", default=["overlapping"], choices=["overlapping", "nested", "unequal"])
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--K", type=int, default=64, help="codewords of each of the 8 parts")
    parser.add_argument("--trunk-input", default="auto", help="of DPQ")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(machine())
    print(f"{options.seeds} seeds")
    for kind in options.kind:
        for n_classes in options.classes:
            rows = {}
            for seed in range(options.seeds):
                data = make_set(kind, n_classes, options.samples, seed)
                for name, *values in measure(8, options.K, seed, options.trunk_input, *data):
                    rows.setdefault(name, []).append(values)
            bits = int(8 * np.log2(options.K))
            print(
                f"\n## {kind}: {n_classes} classes, {options.samples:,} samples, {bits} bits, {options.seeds} seeds\n"
            )
            print(head("", "uncompressed", "asymmetric", "symmetric", "accuracy", "fit, s"))
            for name, values in rows.items():
                *scores, time = np.mean(values, axis=0)
                cells = ["" if np.isnan(score) else f"{score:.3f}" for score in scores]
                print(line(name, *cells, "" if np.isnan(time) else f"{time:.0f}"), flush=True)


if __name__ == "__main__":
    main()
