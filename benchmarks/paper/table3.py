"""Table 3: classification from 64-bit codes (M=8, K=256), top-1 and top-5.

    python benchmarks/paper/table3.py --data cifar10.zip --cache cache --seeds 3
    python benchmarks/paper/table3.py --data cifar10.zip --cache cache --validation

As table1.py, of which this takes the base networks. DPQ and SUBIC classify by their own look-up tables; PQ and OPQ by a
linear classifier that is trained on decoded vectors. Beside them, the base network's own classifier of 500 units, and
DPQ of the units alone, by the paper's ImageNet architecture and by the defaults.
"""

from functools import partial

import torch
from baselines import SUBIC
from images import JOINT, OWN, augment, base_network, fit_dpq, load_split, units
from protocols import load_results, make_parser
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score

from skdpq import DPQClassifier, ProductQuantizer

M, K = 8, 256


def scores(decision, y):
    """Return top-1 and top-5 accuracy."""
    return {f"top-{k}": float(top_k_accuracy_score(y, decision, k=k)) for k in (1, 5)}


def dpq(network, train, test, seed):
    """Return the scores of DPQ, trained on images from the base network on."""
    return scores(fit_dpq(network, *train, M, K, seed).decision_function(test[0]), test[1])


def subic(network, train, test, seed):
    """Return the scores of SUBIC, trained on images from the base network on."""
    clf = SUBIC(M, K, network, augment=augment, own=OWN, joint=JOINT, seed=seed).fit(*train)
    return scores(clf.decision_function(test[0]), test[1])


def classified(clf, train, test):
    """Return the scores of a classifier of units."""
    return scores(clf.fit(*train).decision_function(test[0]), test[1])


def decoded(quantizer, train, test):
    """Return the scores of a linear classifier of decoded vectors."""
    quantizer.fit(train[0])
    hard, hard_test = (quantizer.decode(quantizer.encode(X)) for X in (train[0], test[0]))
    return classified(LogisticRegression(C=0.01, max_iter=300), (hard, train[1]), (hard_test, test[1]))


@torch.inference_mode()
def uncompressed(classifier, F, y):
    """Return the scores of the base network's own classifier."""
    return scores(classifier(torch.from_numpy(F)).numpy(), y)


def main():
    """Compute what is missing for all seeds."""
    options = make_parser(__doc__).parse_args()
    train, test = load_split(options.data, options.validation)
    results = load_results("table3", options)
    for seed in range(options.seeds):
        network, classifier = base_network(train, options.cache, seed, test if options.validation else None)
        train_units, test_units = ((units(network, X), y) for X, y in (train, test))
        imagenet = {"D": 64, "hidden_layer_sizes": (2048,), "part_layer_sizes": ()}
        computed = {
            "uncompressed": partial(uncompressed, classifier, *test_units),
            "DPQ": partial(dpq, network, train, test, seed),
            "DPQ, units": partial(classified, DPQClassifier(M, K, random_state=seed), train_units, test_units),
            "DPQ, units, ImageNet architecture": partial(
                classified, DPQClassifier(M, K, random_state=seed, **imagenet), train_units, test_units
            ),
            "SUBIC": partial(subic, network, train, test, seed),
            "PQ": partial(decoded, ProductQuantizer(M, K, random_state=seed), train_units, test_units),
            "OPQ": partial(decoded, ProductQuantizer(M, K, rotation="opq", random_state=seed), train_units, test_units),
        }
        for name, compute in computed.items():
            results.get(f"{name} seed={seed}", compute)


if __name__ == "__main__":
    main()
