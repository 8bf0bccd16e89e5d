"""Table 2: retrieval across domains, by codes of 64 bits that were learned from other classes.

    python benchmarks/paper/table2.py --data cifar10.zip --cache cache
    python benchmarks/paper/table2.py --data cifar10.zip --cache cache --target caltech101
    python benchmarks/paper/table2.py --features imagenet.npz voc2007.npz caltech101.npz

The first leaves three of the ten classes out, of base network and codes, and searches for them; three times, for
others, and with a base network of its own for each seed. The second learns from all classes, and searches in the images
`<class>/*` of another folder, resized. The third takes features in the place of a base network's, as the paper does
(VGG-128): of the first file X_train, y_train, X_test and y_test, of the others X and y. 1,000 random items are queries,
and the rest the database. DPQ and SUBIC have the paper's ImageNet architecture; DPQ is run at several weights of
`supervision`. Those that know no labels take units as they are, or of length one.
"""

from functools import partial
from pathlib import Path

import numpy as np
from baselines import SUBIC, lsq
from images import base_network, from_classes, load_folder, load_split, units
from protocols import (
    evaluate_on,
    evaluate_vectors_on,
    from_files,
    joined,
    load_results,
    make_parser,
    of_length_one,
)

from skdpq import DPQTransformer, ProductQuantizer

M, K, N_BITS = 8, 256, 8
TRUNK = {"hidden_layer_sizes": (2048,), "part_layer_sizes": ()}
SUPERVISION = (1.0, 0.5, 0.2, 0.0)
SUBIC_TRAINING = {"max_iter": 20, "learning_rate": 3e-3}


def from_folder(train, test, folder, cache, seed):
    """Return the experiment that searches in another folder."""
    network, _ = base_network(train, cache, seed)
    target = load_folder(Path(folder), np.random.default_rng(0), train[0].shape[:1:-1])
    train, test, target = ((units(network, X), y) for X, y in (train, test, target))
    name = Path(folder).name
    return f"all classes, {name}", train, {"seen": test, name: target}


def quantized(quantizer, source, targets):
    """Return the results of a quantizer."""
    quantizer.fit(*source)
    return joined({name: evaluate_on(quantizer, *data) for name, data in targets.items()})


def decoded(source, targets, seed):
    """Return the results of LSQ."""
    hard = lsq(source[0], [X for X, _ in targets.values()], M, N_BITS, seed=seed)
    return joined({name: evaluate_vectors_on(X, h, y) for (name, (X, y)), h in zip(targets.items(), hard, strict=True)})


def uncompressed(targets):
    """Return the results of the features themselves."""
    return joined({name: evaluate_vectors_on(X, X, y) for name, (X, y) in targets.items()})


def main():
    """Compute what is missing for all seeds."""
    parser = make_parser(__doc__, features=True)
    parser.add_argument("--target", help="search also in the images of this folder, <class>/*")
    options = parser.parse_args()
    results = load_results("table2", options)
    for seed in range(options.seeds):
        if options.features:
            experiments = [from_files(options.features)]
        else:
            sides = load_split(options.data, options.validation)
            if options.target:
                experiments = [from_folder(*sides, options.target, options.cache, seed)]
            else:
                experiments = from_classes(*sides, options.cache, seed)
        for experiment, source, targets in experiments:
            networks = {
                f"DPQ supervision={weight}": DPQTransformer(M, K, 64, supervision=weight, random_state=seed, **TRUNK)
                for weight in SUPERVISION
            } | {"SUBIC": SUBIC(M, K, own=SUBIC_TRAINING, seed=seed, **TRUNK)}
            computed = {name: partial(quantized, network, source, targets) for name, network in networks.items()}
            normalized = of_length_one(source), {name: of_length_one(data) for name, data in targets.items()}
            for suffix, of_both in {"": (source, targets), ", rows of length one": normalized}.items():
                pq = ProductQuantizer(M, K, random_state=seed)
                opq = ProductQuantizer(M, K, rotation="opq", random_state=seed)
                computed |= {
                    f"uncompressed{suffix}": partial(uncompressed, of_both[1]),
                    f"PQ{suffix}": partial(quantized, pq, *of_both),
                    f"OPQ{suffix}": partial(quantized, opq, *of_both),
                    f"LSQ{suffix}": partial(decoded, *of_both, seed),
                }
            for name, compute in computed.items():
                results.get(f"{experiment}: {name} seed={seed}", compute)


if __name__ == "__main__":
    main()
