"""Table 1: retrieval of CIFAR-10 images by codes of 12, 24, 36 and 48 bits, end to end.

    python benchmarks/paper/table1.py --data cifar10.zip --cache cache --seeds 3
    python benchmarks/paper/table1.py --data cifar10.zip --cache cache --validation

`--data` has `train/<class>/*` and `test/<class>/*`, images of 32 x 32 pixels, in a folder or a zip file. The base
network is trained with the softmax loss alone, and kept in `--cache`; DPQ and SUBIC start from it, learn their own
layers, and then train it on jointly with these; the unsupervised methods, and the label codes, take its 500 units. With
`--validation` the last tenth of the training images stands for the test images, which are then not looked at: so all
settings were chosen. Networks train on a GPU where torch sees one. Results are added to `results/table1.json`; what is
there is not computed again.
"""

import warnings
from functools import partial

import numpy as np
from baselines import ITQ, SUBIC, LabelCodes, lsq
from images import JOINT, OWN, accuracy, base_network, fit_dpq, load_split, posterior, units
from protocols import (
    evaluate,
    evaluate_decoded,
    evaluate_uncompressed,
    load_results,
    make_parser,
    of_length_one,
    probability_that_labels_differ,
    squared_distances,
)
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import ProductQuantizer

PARTS, K, N_BITS = (2, 4, 6, 8), 64, 6
MORE = {"weight_decay": 0.2, "label_smoothing": 0.1}  # regularized as features are, instead of `images.REGULARIZATION`
# The terms of the objective as they stand in the paper, alike, and nothing beside them.
PLAIN = {
    "D": None,
    "label_smoothing": 0.0,
    "dropout": 0.0,
    "weight_decay": 0.0,
    "joint_central_weight": 1.0,
    "gini_batch_weight": 1.0,
    "gini_sample_weight": 1.0,
}


def base(network, classifier, test):
    """Return the accuracy of the base network's own classifier."""
    return {"accuracy": accuracy(classifier, units(network, test[0]), test[1])}


def dpq(network, train, test, M, seed, jointly=True, **params):
    """Return the results of DPQ, trained on images from the base network on; of soft, the ceiling of its codes."""
    clf = fit_dpq(network, *train, M, K, seed, jointly, **params)
    soft = [(clf.predict_proba_soft(X), y) for X, y in (train, test)]
    ceiling = evaluate_uncompressed(*soft, probability_that_labels_differ)
    return (
        evaluate(clf, train, test)
        | {f"{name} soft": value for name, value in ceiling.items()}
        | {"accuracy": clf.score(*test), "accuracy of soft": float((soft[1][0].argmax(1) == test[1]).mean())}
    )


def subic(network, train, test, M, seed):
    """Return the results of SUBIC, trained on images from the base network on."""
    clf = SUBIC(M, K, network, own=OWN, joint=JOINT, seed=seed).fit(*train)
    return evaluate(clf, train, test) | {
        "accuracy": float(np.mean(clf.decision_function(test[0]).argmax(1) == test[1]))
    }


def quantized(quantizer, train, test):
    """Return the results of a quantizer of vectors."""
    return evaluate(quantizer.fit(*train), train, test)


def decoded(train, test, M, seed):
    """Return the results of LSQ on vectors."""
    return evaluate_decoded(test[0], lsq(train[0], [train[0], test[0]], M, N_BITS, seed=seed), train[1], test[1])


def posteriors(network, classifier, units_of_both, seed):
    """Yield names, and the posteriors of training and test items, of classifiers of the units."""
    yield "base network", [posterior(classifier, F) for F, _ in units_of_both]
    mlp = MLPClassifier((512,), max_iter=30, early_stopping=True, random_state=seed)
    for name, clf in (
        ("MLP", make_pipeline(StandardScaler(), mlp)),
        ("discriminant analysis", LinearDiscriminantAnalysis()),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            clf.fit(*units_of_both[0])
        yield name, [np.float32(clf.predict_proba(F)) for F, _ in units_of_both]


def run(results, train, test, cache, seed, validation):
    """Compute what is missing for one seed."""
    make_base = partial(base_network, train, cache, seed, test if validation else None)
    results.get(f"base seed={seed}", lambda: base(*make_base(), test))
    network, classifier = make_base()
    both = [(units(network, X), y) for X, y in (train, test)]
    normalized = [of_length_one(samples) for samples in both]
    for name, pair in {"distance": both, "cosine": normalized}.items():
        results.get(f"uncompressed, {name} seed={seed}", partial(evaluate_uncompressed, *pair, squared_distances))
    vectors = {"": both, ", rows of length one": normalized}  # what the unsupervised methods take, by a suffix
    of_posteriors = {}  # what PQ alone takes
    for name, pair in posteriors(network, classifier, both, seed):
        pair = [(p, y) for p, (_, y) in zip(pair, both, strict=True)]
        differ = partial(evaluate_uncompressed, *pair, probability_that_labels_differ)
        results.get(f"uncompressed, posterior of {name} seed={seed}", differ)
        of_posteriors[f"{name}, PQ of roots"] = [(np.sqrt(p), y) for p, y in pair]
        # at a temperature of 1/4
        of_posteriors[f"{name}, PQ of sharpened roots"] = [of_length_one((np.square(p), y)) for p, y in pair]
    results.get(f"labels seed={seed}", partial(quantized, LabelCodes(), *both))
    for M in PARTS:
        key = f"M={M} seed={seed}"
        results.get(f"DPQ {key}", partial(dpq, network, train, test, M, seed))
        results.get(f"DPQ, regularized more {key}", partial(dpq, network, train, test, M, seed, **MORE))
        kept = partial(dpq, network, train, test, M, seed, jointly=False, **MORE)
        results.get(f"DPQ, regularized more, base network kept {key}", kept)
        results.get(f"DPQ, the paper's objective {key}", partial(dpq, network, train, test, M, seed, **PLAIN))
        results.get(f"SUBIC {key}", partial(subic, network, train, test, M, seed))
        for name, pair in of_posteriors.items():
            results.get(f"{name} {key}", partial(quantized, ProductQuantizer(M, K, random_state=seed), *pair))
        for suffix, pair in vectors.items():
            quantizers = {
                "PQ": ProductQuantizer(M, K, random_state=seed),
                "OPQ": ProductQuantizer(M, K, rotation="opq", random_state=seed),
                "ITQ": ITQ(N_BITS * M, seed),
            }
            results.get(f"LSQ{suffix} {key}", partial(decoded, *pair, M, seed))
            for name, quantizer in quantizers.items():
                results.get(f"{name}{suffix} {key}", partial(quantized, quantizer, *pair))


def main():
    """Compute what is missing for all seeds."""
    options = make_parser(__doc__).parse_args()
    train, test = load_split(options.data, options.validation)
    results = load_results("table1", options)
    for seed in range(options.seeds):
        run(results, train, test, options.cache, seed, options.validation)


if __name__ == "__main__":
    main()
