"""Figure 2: mAP against the weight of the Joint Central Loss, in and across domains; what each other term is worth.

    python benchmarks/paper/figure2.py --data cifar10.zip --cache cache --seeds 3
    python benchmarks/paper/figure2.py --data cifar10.zip --cache cache --validation
    python benchmarks/paper/figure2.py --features imagenet.npz voc2007.npz caltech101.npz

DPQ of 24 bits (M=4, K=64) on the 500 units of the base networks of table1.py, and for retrieval across domains of those
of table2.py, that have seen seven classes. Rows of the ablation set one weight to zero, or keep the gradient of hard
from p, which the straight-through estimator sends there. Perplexity is the mean over the parts of how many codewords
are in use (the exponential of the entropy); the gap is the squared distance of soft and hard relative to the squared
norm of hard. With features from files, as for table2.py, the architecture is the paper's for ImageNet, and there is no
ablation.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from _common import trained_by
from images import base_network, from_classes, load_split, units
from protocols import evaluate, evaluate_on, from_files, joined, load_results, make_parser
from table2 import TRUNK

from skdpq import DPQClassifier
from skdpq._learning.network import concatenate_parts
from skdpq._learning.step import AutogradStep

M, K = 4, 64
CENTRAL_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
ABLATIONS = {
    "without the loss of hard": {"softmax_hard_weight": 0.0},
    "without the loss of soft": {"softmax_soft_weight": 0.0},
    "without GiniBatch": {"gini_batch_weight": 0.0},
    "without GiniSample": {"gini_sample_weight": 0.0},
}


def hard_is_gathered(network, x, generator=None):
    """Compute what the network does, but with a hard of which only the codewords have a gradient."""
    output = type(network).forward(network, x, generator)
    parts = torch.arange(network.M, device=output.codes.device)[:, None]
    soft = concatenate_parts(torch.bmm(output.p, network.codebooks))
    return output._replace(soft=soft, hard=concatenate_parts(network.codebooks[parts, output.codes]))


def no_straight_through(network, objective, **params):
    """Make a training step that keeps the gradient of hard from p."""
    network.forward = partial(hard_is_gathered, network)
    return AutogradStep(network, objective, **params)


def measure(train, test, params, classifier=DPQClassifier):
    """Return the results of DPQ, with and without intra-normalisation, and what became of its codes."""
    clf = classifier(M, K, **params).fit(*train)
    codes, soft, hard = clf.encode(test[0]), clf.soft(test[0]), clf.decode(clf.encode(test[0]))
    usage = np.stack([np.bincount(part, minlength=K) for part in codes.T]) / len(codes)
    row = evaluate(clf, train, test)
    normalised = evaluate(clf.set_params(intra_norm=True), train, test)
    return (
        row
        | {f"{name} IntraNorm": value for name, value in normalised.items()}
        | {
            "accuracy": clf.score(*test),
            "perplexity": float(np.exp(-(usage * np.log(usage + 1e-12)).sum(1)).mean()),
            "gap": float((np.square(soft - hard).sum(1) / np.square(hard).sum(1)).mean()),
        }
    )


def measure_across(source, targets, params):
    """Return the results of DPQ on classes that it was trained on, and on others."""
    clf = DPQClassifier(**params).fit(*source)
    return joined({name: evaluate_on(clf, *data) for name, data in targets.items()})


def ablate(results, train, test, seed):
    """Compute what is missing for one base network of all classes."""
    rows = {f"central {weight}": {"joint_central_weight": weight} for weight in CENTRAL_WEIGHTS} | ABLATIONS
    for name, params in rows.items():
        results.get(f"{name} seed={seed}", partial(measure, train, test, params | {"random_state": seed}))
    constant = partial(measure, train, test, {"random_state": seed}, trained_by(no_straight_through))
    results.get(f"without straight-through gradient seed={seed}", constant)


def main():
    """Compute what is missing for all seeds."""
    options = make_parser(__doc__, features=True).parse_args()
    results = load_results("figure2", options)
    for seed in range(options.seeds):
        if options.features:
            experiments = [from_files(options.features)]
            sizes = {"M": 8, "K": 256, "D": 64, **TRUNK}
        else:
            train, test = load_split(options.data, options.validation)
            network, _ = base_network(train, options.cache, seed, test if options.validation else None)
            ablate(results, *((units(network, X), y) for X, y in (train, test)), seed)
            experiments, sizes = from_classes(train, test, options.cache, seed), {"M": M, "K": K}
        for experiment, source, targets in experiments:
            for weight in CENTRAL_WEIGHTS:
                params = sizes | {"joint_central_weight": weight, "random_state": seed}
                key = f"{experiment} central {weight} seed={seed}"
                results.get(key, partial(measure_across, source, targets, params))


if __name__ == "__main__":
    main()
