"""What Table 1 was tuned by: weights of SUBIC's entropies, and what regularizes DPQ and SUBIC; on validation data.

    python benchmarks/paper/tuning.py --data cifar10.zip --cache cache

Codes of 24 bits (M=4, K=64), own layers alone, on the base network that nine tenths of the training images taught; the
last tenth is what is scored. Of each grid the highest mean counts: of protocols (a) and (c), asymmetric, of DPQ by
distance and by relevance. `baselines.SUBIC` and `images.REGULARIZATION` have what was found.
"""

from functools import partial
from itertools import product

from baselines import SUBIC
from images import OWN, base_network, fit_dpq, load_split, units
from protocols import evaluate, load_results, make_parser

M, K = 4, 64
ENTROPIES = (0.01, 0.03, 0.1, 0.3, 1.0)
DECAYS, SMOOTHINGS = (0.2, 0.05, 0.0), (0.1, 0.02, 0.0)


def dpq(network, train, test, seed, **params):
    """Return the results of DPQ."""
    return evaluate(fit_dpq(network, *train, M, K, seed, jointly=False, **params), train, test)


def subic(train, test, seed, **params):
    """Return the results of SUBIC, on units."""
    return evaluate(SUBIC(M, K, own=OWN, standardize=False, seed=seed, **params).fit(*train), train, test)


def grids():
    """Yield a name and the parameters of every point."""
    for decay, smoothing in product(DECAYS, SMOOTHINGS):
        yield "DPQ", {"weight_decay": decay, "label_smoothing": smoothing}
    for decay, smoothing in product(DECAYS, SMOOTHINGS):
        yield "SUBIC", {"weight_decay": decay, "label_smoothing": smoothing}
    for sample, batch in product(ENTROPIES, ENTROPIES):
        yield "SUBIC", {"sample_entropy": sample, "batch_entropy": batch}


def main():
    """Compute what is missing, and print all means."""
    options = make_parser(__doc__).parse_args()
    options.validation = True
    train, test = load_split(options.data, validation=True)
    results = load_results("tuning", options)
    network, _ = base_network(train, options.cache, 0, test)
    both = [(units(network, X), y) for X, y in (train, test)]
    measures = {"DPQ": partial(dpq, network, train, test), "SUBIC": partial(subic, *both)}
    means = {}
    for name, params in grids():
        key = f"{name} {' '.join(f'{param}={value}' for param, value in params.items())}"
        rows = [
            results.get(f"{key} seed={seed}", partial(measures[name], seed, **params)) for seed in range(options.seeds)
        ]
        scores = [value for row in rows for part, value in row.items() if part[:12] in ("a asymmetric", "c asymmetric")]
        means[key] = sum(scores) / len(scores)
    for key, mean in means.items():
        print(f"{key}: {mean:.4f}")


if __name__ == "__main__":
    main()
