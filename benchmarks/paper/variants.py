"""What else was tried: weight averaging, cosine classifiers, margins, longer schedules, 64 bits; on validation data.

    python benchmarks/paper/variants.py --data cifar10.zip --cache cache --seeds 3

DPQ of 24 bits (M=4, K=64) with the defaults, on the 500 units of the base network of nine tenths of the training
images; the last tenth is what is scored. The first row has the defaults, each other one change; rows of 64 bits have
M=8 and K=256. Sharper or flatter distributions at the start are in benchmarks/quality/defaults.py, with the parameters
of the estimators.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from _common import trained_by
from images import base_network, load_split, units
from protocols import evaluate, load_results, make_parser
from torch.nn.functional import normalize

from skdpq import DPQClassifier
from skdpq._learning import losses
from skdpq._learning.step import AutogradStep, Objective

M, K = 4, 64


@dataclass
class VariantObjective:
    """The objective with a linear or cosine classifier, whose logit of the true class is lowered by a margin."""

    plain: Objective
    cosine: float = 0.0
    margin: float = 0.0

    def logits(self, classifier, x, y):
        """Return the logits of representations x (B, M * D) of classes y."""
        logits = self.cosine * normalize(x) @ normalize(classifier.weight).T if self.cosine else classifier(x)
        return logits - self.margin * torch.nn.functional.one_hot(y, logits.shape[1])

    def __call__(self, network, x, y, weight, generator=None):
        """Return the weighted sum of the terms, and the terms."""
        output = network(x, generator)
        soft, hard, smoothing = output.soft, output.hard, self.plain.label_smoothing
        terms = {
            "softmax_soft": losses.softmax_loss(self.logits(network.classifier, soft, y), y, weight, smoothing),
            "softmax_hard": losses.softmax_loss(self.logits(network.classifier, hard, y), y, weight, smoothing),
            "joint_central": losses.joint_central_loss(soft, hard, network.class_centers[y], weight),
            "preservation": weight.new_zeros(()),
            "gini_batch": losses.gini_batch(output.p, weight),
            "gini_sample": losses.gini_sample(output.p, weight),
        }
        loss = sum(self.plain.loss_weights[name] * term for name, term in terms.items())
        return loss, torch.stack(list(terms.values())).detach()


class VariantStep(AutogradStep):
    """A training step with another objective, of which the average weights are kept.

    Of a cosine classifier, the weights are left normalised and without a bias: its predictions are then those of the
    linear one that the estimator takes it for.
    """

    def __init__(self, network, objective, *, cosine=0.0, margin=0.0, decay=0.0, **params):
        super().__init__(network, VariantObjective(objective, cosine, margin), **params)
        self.network, self.cosine, self.decay = network, cosine, decay
        self.average = [p.detach().clone() for p in network.parameters()]
        self.n_steps = 0

    def __call__(self, *args):
        """Learn from a batch."""
        terms = super().__call__(*args)
        self.n_steps += 1
        decay = min(self.decay, self.n_steps / (self.n_steps + 10))  # a mean of few at first
        torch._foreach_lerp_(self.average, [p.detach() for p in self.network.parameters()], 1 - decay)
        return terms

    def __exit__(self, *_):
        with torch.no_grad():
            torch._foreach_copy_(list(self.network.parameters()), self.average)
            if self.cosine:
                self.network.classifier.weight.copy_(normalize(self.network.classifier.weight))
                self.network.classifier.bias.zero_()


VARIANTS = {
    "defaults": {},
    "average weights, decay 0.99": {"decay": 0.99},
    "average weights, decay 0.999": {"decay": 0.999},
    "cosine classifier, scale 8": {"cosine": 8.0},
    "cosine classifier, scale 16": {"cosine": 16.0},
    "cosine classifier, scale 16, margin 0.2": {"cosine": 16.0, "margin": 3.2},
    "margin 1 on logits": {"margin": 1.0},
    "margin 2 on logits": {"margin": 2.0},
}
PARAMETERS = {
    "20 epochs, as the defaults": {"max_iter": 20, "n_iter_no_change": 20},
    "40 epochs": {"max_iter": 40, "n_iter_no_change": 40},
    "80 epochs": {"max_iter": 80, "n_iter_no_change": 80},
    "supervision 0.8": {"supervision": 0.8},
    "64 bits": {"M": 8, "K": 256},
    "64 bits, weight of GiniBatch 1": {"M": 8, "K": 256, "gini_batch_weight": 1.0},
    "64 bits, supervision 0.8": {"M": 8, "K": 256, "supervision": 0.8},
}


def measure(train, test, seed, variant, params):
    """Return the results of DPQ with one change."""
    classifier = DPQClassifier if variant is None else trained_by(partial(VariantStep, **variant))
    clf = classifier(**{"M": M, "K": K, "random_state": seed} | params).fit(*train)
    return evaluate(clf, train, test) | {"accuracy": clf.score(*test)}


def main():
    """Compute what is missing for all seeds."""
    options = make_parser(__doc__).parse_args()
    options.validation = True
    train, test = load_split(options.data, validation=True)
    results = load_results("variants", options)
    network, _ = base_network(train, options.cache, 0, test)
    train, test = ((units(network, X), y) for X, y in (train, test))
    for seed in range(options.seeds):
        for name, variant in VARIANTS.items():
            results.get(f"{name} seed={seed}", partial(measure, train, test, seed, variant, {}))
        for name, params in PARAMETERS.items():
            results.get(f"{name} seed={seed}", partial(measure, train, test, seed, None, params))


if __name__ == "__main__":
    main()
