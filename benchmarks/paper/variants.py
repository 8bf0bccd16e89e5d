"""What else was tried: weight averaging, cosine classifiers, margins, longer schedules, 64 bits; on validation data.

    python benchmarks/paper/variants.py --data cifar10.zip --cache cache --seeds 3

DPQ of 24 bits (M=4, K=64) with the defaults, on the 500 units of the base network of nine tenths of the training
images; the last tenth is what is scored. The first row has the defaults, each other one change; rows of 64 bits have
M=8 and K=256. Sharper or flatter distributions at the start are in benchmarks/quality/defaults.py, with the parameters
of the estimators.
"""

from functools import partial
from unittest import mock

import torch
from images import base_network, load_split, units
from protocols import evaluate, load_results, make_parser
from torch.nn.functional import normalize

from skdpq import DPQClassifier, losses
from skdpq._learning.step import AutogradStep

M, K = 4, 64


class Classifier(torch.nn.Module):
    """A linear or cosine classifier whose logit of the true class is lowered by a margin in training.

    Of a cosine classifier, the weights are left normalised and without a bias: its predictions are then those of the
    linear one that the estimator takes it for.
    """

    def __init__(self, linear, cosine, margin):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.cosine, self.margin = cosine, margin

    def forward(self, x, y):
        """Return the logits of representations x (B, M * D) of classes y."""
        if self.cosine:
            logits = self.cosine * normalize(x) @ normalize(self.weight).T
        else:
            logits = torch.nn.functional.linear(x, self.weight, self.bias)
        return logits - self.margin * torch.nn.functional.one_hot(y, logits.shape[1])


class VariantStep(AutogradStep):
    """A training step with another classifier, or whose average weights are kept."""

    def __init__(self, *args, cosine=0.0, margin=0.0, decay=0.0):
        super().__init__(*args)
        self.classifier = Classifier(self._network.classifier, cosine, margin)
        self.decay = decay
        self.average = [p.detach().clone() for p in self._network.parameters()]
        self.n_steps = 0

    def __call__(self, X, y, weight, batch, learning_rate):
        """Learn from a batch."""
        network, weights = self._network, self._loss_weights
        x, y = X[batch], y[batch]
        weight = weight[batch] / weight[batch].sum()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        output = network(x, self._generator)
        terms = {
            "softmax_soft": losses.softmax_loss(self.classifier(output.soft, y), y, weight, self._smoothing),
            "softmax_hard": losses.softmax_loss(self.classifier(output.hard, y), y, weight, self._smoothing),
            "joint_central": losses.joint_central_loss(output.soft, output.hard, network.class_centers[y], weight),
            "preservation": weight.new_zeros(()),
            "gini_batch": losses.gini_batch(output.p, weight),
            "gini_sample": losses.gini_sample(output.p, weight),
        }
        self._optimizer.zero_grad(set_to_none=True)
        sum(weights[name] * term for name, term in terms.items()).backward()
        self._optimizer.step()
        self.n_steps += 1
        decay = min(self.decay, self.n_steps / (self.n_steps + 10))  # a mean of few at first
        torch._foreach_lerp_(self.average, [p.detach() for p in network.parameters()], 1 - decay)
        return torch.stack(list(terms.values())).detach()

    def __exit__(self, *_):
        with torch.no_grad():
            torch._foreach_copy_(list(self._network.parameters()), self.average)
            if self.classifier.cosine:
                self._network.classifier.weight.copy_(normalize(self._network.classifier.weight))
                self._network.classifier.bias.zero_()


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

    def make_step(network, loss_weights, label_smoothing, weight_decay, batch_size, generator, projection):
        return VariantStep(network, loss_weights, label_smoothing, weight_decay, generator, **variant)

    clf = DPQClassifier(**{"M": M, "K": K, "random_state": seed} | params)
    if variant is None:
        clf.fit(*train)
    else:
        with mock.patch("skdpq._fitting.make_step", make_step):
            clf.fit(*train)
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
