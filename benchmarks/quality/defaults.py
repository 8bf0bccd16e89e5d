"""What the default hyperparameters are worth: each changed alone, on data sets that differ in size and kind.

    python benchmarks/quality/defaults.py
    python benchmarks/quality/defaults.py --data features.npz
    python benchmarks/quality/defaults.py --many-classes
    python benchmarks/quality/defaults.py --only gini_batch_weight
    python benchmarks/quality/defaults.py --trunk-input features

Small sets come with scikit-learn: digits, wine, breast_cancer, iris cut to 30 samples, and two that it generates, of
2,000 samples with 20 features and of 10,000 with 200; two fifths of each are held out. With `--data`, an .npz file of
`X_train`, `y_train`, `X_test` and `y_test`, of which the last tenth of the training items is held out; the second half
of the test items is left alone. With `--many-classes`, the Gaussian classes of `rivals.py`, 100 and 300 of each kind.
Means over seeds; mAP is of the held-out items against those of training, and of "unseen items" of up to 500 of the
held-out, or test, items, a third at most, against the others of these. Rows "initial ..." change what no parameter
does: how the network starts.
"""

import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from _common import head, line, load_features, machine, make_parser, seconds, trained_by
from rivals import draw_gaussian
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skdpq import DPQClassifier, DPQNeighbors
from skdpq._learning.step import make_step

VARIANTS = [
    {},
    {"dropout": 0.0},
    {"dropout": 0.4},
    {"label_smoothing": 0.0},
    {"label_smoothing": 0.2},
    {"weight_decay": 0.01},
    {"weight_decay": 0.2},
    {"weight_decay": 0.7},
    {"softmax_soft_weight": 0.3},
    {"softmax_hard_weight": 0.3},
    {"softmax_hard_weight": 2.0},
    {"joint_central_weight": 0.0},
    {"joint_central_weight": 1.0},
    {"gini_batch_weight": 0.0},
    {"gini_batch_weight": 0.3},
    {"gini_batch_weight": 1.0},
    {"gini_sample_weight": 0.0},
    {"gini_sample_weight": 0.3},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-2},
    {"max_iter": 10},
    {"max_iter": 40},
    {"batch_size": 64},
    {"batch_size": 1024},
    {"hidden_layer_sizes": ()},
    {"part_layer_sizes": ()},
    {"trunk_input": "features"},
    {"trunk_input": "posterior"},
    {"D": 8},
    {"D": 64},
    {"D": None},
    {"D": None, "initial codewords": "sub-vectors"},
    {"initial codewords": 4.0},
    {"initial logits": 4.0},
]


@torch.no_grad()
def change_start(network, generator, X, logits=1.0, codewords=1.0):
    """Change what the network starts with: the scale of the logits (a temperature) or of the codewords, or draw these.

    Drawn are sub-vectors s_m of random samples, centered and of an expected squared norm of one.
    """
    network.parts[-1].weight *= logits
    if codewords != "sub-vectors":
        network.codebooks *= codewords
        return
    X = torch.from_numpy(StandardScaler().fit_transform(X).astype(np.float32))
    M, K, D = network.codebooks.shape
    s = X[torch.randint(len(X), (K,), generator=generator)].to(network.codebooks.dtype)
    for layer in network.trunk:
        s = torch.relu(layer(s))
    s = s[:, : M * D].reshape(K, M, D).transpose(0, 1)
    s = s - s.mean(dim=1, keepdim=True)
    network.codebooks.copy_(s / s.square().sum(2).mean(1).sqrt()[:, None, None])


def classifier(params, X):
    """Return the classifier with some parameters and, where these have "initial ...", another start of the network."""
    initial = {name.removeprefix("initial "): params[name] for name in params if name.startswith("initial ")}

    def make_changed(network, objective, *, generator, **kwargs):
        change_start(network, generator, X, **initial)
        return make_step(network, objective, generator=generator, **kwargs)

    own = {name: params[name] for name in params if not name.startswith("initial ")}
    return (trained_by(make_changed) if initial else DPQClassifier)(**own)


def small_sets(seed):
    """Yield name, parameters, and a split of each small set; what is held out is also searched by itself."""
    for name, parameters, split in _small_splits(seed):
        yield name, parameters, (*split, *split[1::2])


def _small_splits(seed):
    for name, load in {"digits": load_digits, "wine": load_wine, "breast_cancer": load_breast_cancer}.items():
        yield name, {}, train_test_split(*load(return_X_y=True), test_size=0.4, random_state=seed)
    X, y = load_iris(return_X_y=True)
    toy = np.arange(seed % 5, 150, 5)
    rest = np.random.default_rng(seed).permutation(np.delete(np.arange(150), toy))
    yield "iris, 30 samples", {}, (X[toy], X[rest], y[toy], y[rest])
    for n, n_features in ((2000, 20), (10_000, 200)):
        X, y = make_classification(
            n, n_features, n_informative=n_features // 2, n_classes=8, flip_y=0.05, random_state=seed
        )
        split = train_test_split(X, y, test_size=0.4, random_state=seed)
        yield f"synthetic, {n:,} x {n_features}", {"M": 4, "K": 64}, split


def many_classes(seed):
    """Yield name, parameters and split of each set of many classes; what is held out is also searched by itself."""
    for n_classes in (100, 300):
        for kind in ("overlapping", "nested", "unequal"):
            data = draw_gaussian(kind, n_classes, seed)
            new = data.X_new, data.y_new
            yield f"{kind}-{n_classes}", {"M": 8, "K": 64}, (data.X, data.X_new, data.y, data.y_new, *new)


def large_set(path):
    """Yield name, parameters and split of the training items in a file, and half of its test items."""
    X, y, X_test, y_test = load_features(path)
    cut, half = len(X) * 9 // 10, len(X_test) // 2
    unseen = X_test[:half], y_test[:half]
    yield os.path.basename(path), {"M": 4, "K": 64}, (X[:cut], X[cut:], y[:cut], y[cut:], *unseen)


def measure(params, X, X_held_out, y, y_held_out, X_unseen, y_unseen):
    """Return accuracy from codes, mAP (asymmetric, symmetric, by relevance, two of unseen items), seconds to fit."""
    clf = classifier(params, X)
    fit_time = seconds(clf.fit, X, y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(clf)).fit(X, y)
    asymmetric = neighbors.score(X_held_out, y_held_out)
    symmetric = neighbors.set_params(search="symmetric").score(X_held_out, y_held_out)
    relevance = neighbors.set_params(search="asymmetric", metric="relevance").score(X_held_out, y_held_out)
    cut = min(len(X_unseen) // 3, 500)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(clf)).fit(X_unseen[cut:], y_unseen[cut:])
    unseen = [neighbors.set_params(metric=m).score(X_unseen[:cut], y_unseen[:cut]) for m in ("euclidean", "relevance")]
    return clf.score(X_held_out, y_held_out), asymmetric, symmetric, relevance, *unseen, fit_time


def table(rows, seeds):
    """Yield a table of variants: of each figure the mean, and how far it is above that of the defaults."""
    standard = np.mean(rows["defaults"], axis=0)
    kinds = " asymmetric", " symmetric", " by relevance", ", unseen items", " by relevance, unseen items"
    yield head("", "accuracy", *(f"mAP{kind}" for kind in kinds), "fit, s")
    for variant, values in rows.items():
        *scores, fit_time = np.mean(values, axis=0)
        cells = [f"{score:.4f}" for score in scores]
        if variant != "defaults":
            differences = np.subtract(scores, standard[:-1])
            cells = [f"{cell} ({difference:+.4f})" for cell, difference in zip(cells, differences, strict=True)]
        yield line(variant, *cells, f"{fit_time:.1f}")
    if seeds > 1:
        spread = np.std(rows["defaults"], axis=0, ddof=1)[:-1]
        yield f"\nStandard deviation over seeds, of the defaults: {', '.join(f'{s:.4f}' for s in spread)}."


def main():
    """Measure all variants and print a table for each set."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", help="an .npz file, instead of the small sets")
    parser.add_argument("--many-classes", action="store_true", help="instead of the small sets")
    names = sorted({name for variant in VARIANTS for name in variant})
    parser.add_argument("--only", choices=names, metavar="NAME", help="a parameter; the others are left as they are")
    sources = ["auto", "features", "posterior"]
    parser.add_argument("--trunk-input", choices=sources, default="auto", help="of all variants that do not change it")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is among the variants
    print(machine())
    print(f"{options.seeds} seeds")

    variants = [variant for variant in VARIANTS if not variant or options.only in (None, *variant)]
    results = {}
    sets_of = many_classes if options.many_classes else small_sets
    for seed in range(options.seeds):
        for name, params, split in large_set(options.data) if options.data else sets_of(seed):
            for variant in variants:
                common = {**params, "trunk_input": options.trunk_input, "random_state": seed}
                values = measure(common | variant, *split)
                results.setdefault(name, {}).setdefault(str(variant or "defaults").strip("{}"), []).append(values)
    if not options.data:
        sets = list(results.values())
        means = {variant: np.mean([rows[variant] for rows in sets], axis=0) for variant in sets[0]}
        results["all of these, the mean"] = means
    for name, rows in results.items():
        print(f"\n## {name}\n")
        print("\n".join(table(rows, options.seeds)))


if __name__ == "__main__":
    main()
