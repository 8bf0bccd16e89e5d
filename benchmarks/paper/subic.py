"""The weights of SUBIC's two entropies: searched for on validation data, as those of DPQ's terms were.

    python benchmarks/paper/subic.py --data cifar10.zip --cache cache

Codes of 24 bits (M=4, K=64) of the units of a base network that nine tenths of the training images taught; the last
tenth is what is scored. The defaults of `baselines.SUBIC` are the weights of the highest mean of protocols (a) and (c),
asymmetric.
"""

from functools import partial
from itertools import product

from baselines import SUBIC
from images import OWN, base_network, load_split, units
from protocols import evaluate, load_results, make_parser

M, K = 4, 64
WEIGHTS = (0.03, 0.1, 0.3, 1.0)


def measure(train, test, seed, **weights):
    """Return the results of SUBIC on units."""
    return evaluate(SUBIC(M, K, own=OWN, standardize=False, seed=seed, **weights).fit(*train), train, test)


def main():
    """Compute what is missing, and print the weights from the best on."""
    options = make_parser(__doc__).parse_args()
    train, test = load_split(options.data, validation=True)
    options.validation = True
    results = load_results("subic", options)
    network, _ = base_network(train, options.cache, 0, test)
    train, test = ((units(network, X), y) for X, y in (train, test))
    means = {}
    for sample_entropy, batch_entropy in product(WEIGHTS, WEIGHTS):
        key = f"sample {sample_entropy} batch {batch_entropy}"
        weights = {"sample_entropy": sample_entropy, "batch_entropy": batch_entropy}
        rows = [
            results.get(f"{key} seed={seed}", partial(measure, train, test, seed, **weights))
            for seed in range(options.seeds)
        ]
        means[key] = sum(row[f"{protocol} asymmetric"] for row in rows for protocol in "ac") / (2 * len(rows))
    for key in sorted(means, key=means.get, reverse=True):
        print(f"{key}: {means[key]:.4f}")


if __name__ == "__main__":
    main()
