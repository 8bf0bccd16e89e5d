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

from functools import partial

import numpy as np
from baselines import ITQ, SUBIC, LabelCodes, lsq
from images import JOINT, OWN, accuracy, base_network, fit_dpq, load_split, units
from protocols import evaluate, evaluate_decoded, load_results, make_parser

from skdpq import ProductQuantizer

PARTS, K, N_BITS = (2, 4, 6, 8), 64, 6


def base(network, classifier, test):
    """Return the accuracy of the base network's own classifier."""
    return {"accuracy": accuracy(classifier, units(network, test[0]), test[1])}


def dpq(network, train, test, M, seed, jointly):
    """Return the results of DPQ, trained on images from the base network on."""
    clf = fit_dpq(network, *train, M, K, seed, jointly)
    return evaluate(clf, train, test) | {"accuracy": clf.score(*test)}


def subic(network, train, test, M, seed):
    """Return the results of SUBIC, trained on images from the base network on."""
    clf = SUBIC(M, K, network, own=OWN, joint=JOINT, seed=seed).fit(*train)
    return evaluate(clf, train, test) | {
        "accuracy": float(np.mean(clf.decision_function(test[0]).argmax(1) == test[1]))
    }


def quantized(quantizer, train, test):
    """Return the results of a quantizer of units."""
    return evaluate(quantizer.fit(*train), train, test)


def decoded(train, test, M, seed):
    """Return the results of LSQ on units."""
    return evaluate_decoded(test[0], lsq(train[0], [train[0], test[0]], M, N_BITS, seed=seed), train[1], test[1])


def run(results, train, test, cache, seed, validation):
    """Compute what is missing for one seed."""
    make_base = partial(base_network, train, cache, seed, test if validation else None)
    results.get(f"base seed={seed}", lambda: base(*make_base(), test))
    network, _ = make_base()
    train_units, test_units = ((units(network, X), y) for X, y in (train, test))
    results.get(f"labels seed={seed}", partial(quantized, LabelCodes(), train_units, test_units))
    for M in PARTS:
        quantizers = {
            "PQ": ProductQuantizer(M, K, random_state=seed),
            "OPQ": ProductQuantizer(M, K, rotation="opq", random_state=seed),
            "ITQ": ITQ(N_BITS * M, seed),
        }
        key = f"M={M} seed={seed}"
        results.get(f"DPQ {key}", partial(dpq, network, train, test, M, seed, True))
        results.get(f"DPQ, base network kept {key}", partial(dpq, network, train, test, M, seed, False))
        results.get(f"SUBIC {key}", partial(subic, network, train, test, M, seed))
        results.get(f"LSQ {key}", partial(decoded, train_units, test_units, M, seed))
        for name, quantizer in quantizers.items():
            results.get(f"{name} {key}", partial(quantized, quantizer, train_units, test_units))


def main():
    """Compute what is missing for all seeds."""
    options = make_parser(__doc__).parse_args()
    train, test = load_split(options.data, options.validation)
    results = load_results("table1", options)
    for seed in range(options.seeds):
        run(results, train, test, options.cache, seed, options.validation)


if __name__ == "__main__":
    main()
