"""Table 3: classification from 64-bit codes (M=8, K=256), top-1 and top-5.

    python benchmarks/paper/table3.py --data cifar10.zip --cache cache --seeds 3
    python benchmarks/paper/table3.py --data cifar10.zip --cache cache --validation
    python benchmarks/paper/table3.py --features imagenet.npz

As table1.py, of which this takes the base networks, or on features from a file, as for table2.py. DPQ and SUBIC
classify by their own look-up tables; PQ and OPQ by a linear classifier of decoded vectors. On images, DPQ and SUBIC
start from the base network, beside its own classifier; all are also run on its 500 units alone, by the paper's ImageNet
architecture, and DPQ by its defaults, and with a share of the features themselves in what it learns.
"""

from functools import partial

import torch
from baselines import SUBIC
from images import JOINT, OWN, base_network, fit_dpq, load_split, units
from protocols import from_files, load_results, make_parser
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from table2 import SUBIC_TRAINING, TRUNK, K, M

from skdpq import DPQClassifier, ProductQuantizer


def scores(decision, y):
    """Return top-1 and top-5 accuracy."""
    return {f"top-{k}": float(top_k_accuracy_score(y, decision, k=k)) for k in (1, 5)}


def classified(clf, train, test):
    """Return the scores of a classifier."""
    return scores(clf.fit(*train).decision_function(test[0]), test[1])


def decoded(quantizer, train, test):
    """Return the scores of a linear classifier of decoded vectors."""
    quantizer.fit(train[0])
    hard, hard_test = (quantizer.decode(quantizer.encode(X)) for X in (train[0], test[0]))
    return classified(linear_classifier(), (hard, train[1]), (hard_test, test[1]))


def linear_classifier():
    """Return the classifier of uncompressed and of decoded features."""
    return LogisticRegression(C=0.01, max_iter=300)


def dpq_of_images(network, train, test, seed):
    """Return the scores of DPQ, trained on images from the base network on."""
    return scores(fit_dpq(network, *train, M, K, seed).decision_function(test[0]), test[1])


@torch.inference_mode()
def uncompressed(classifier, F, y):
    """Return the scores of the base network's own classifier."""
    return scores(classifier(torch.from_numpy(F)).numpy(), y)


def on_features(train, test, seed):
    """Return what is to be computed on features, by its name."""
    classifiers = {
        "linear classifier, not compressed": linear_classifier(),
        "DPQ": DPQClassifier(M, K, 64, random_state=seed, **TRUNK),
        "DPQ, defaults": DPQClassifier(M, K, random_state=seed),
        "DPQ, defaults, supervision=0.8": DPQClassifier(M, K, supervision=0.8, random_state=seed),
        "SUBIC": SUBIC(M, K, own=SUBIC_TRAINING, seed=seed, **TRUNK),
    }
    quantizers = {
        "PQ": ProductQuantizer(M, K, random_state=seed),
        "OPQ": ProductQuantizer(M, K, rotation="opq", random_state=seed),
    }
    computed = {name: partial(classified, clf, train, test) for name, clf in classifiers.items()}
    return computed | {name: partial(decoded, quantizer, train, test) for name, quantizer in quantizers.items()}


def main():
    """Compute what is missing for all seeds."""
    options = make_parser(__doc__, features=True).parse_args()
    results = load_results("table3", options)
    for seed in range(options.seeds):
        if options.features:
            experiment, train, targets = from_files(options.features)
            computed = on_features(train, targets["seen"], seed)
            computed = {f"{experiment}: {name}": compute for name, compute in computed.items()}
        else:
            train, test = load_split(options.data, options.validation)
            network, classifier = base_network(train, options.cache, seed, test if options.validation else None)
            train_units, test_units = ((units(network, X), y) for X, y in (train, test))
            subic = SUBIC(M, K, network, own=OWN, joint=JOINT, seed=seed)
            computed = on_features(train_units, test_units, seed) | {
                "base network, not compressed": partial(uncompressed, classifier, *test_units),
                "DPQ of images": partial(dpq_of_images, network, train, test, seed),
                "SUBIC of images": partial(classified, subic, train, test),
            }
        for name, compute in computed.items():
            results.get(f"{name} seed={seed}", compute)


if __name__ == "__main__":
    main()
