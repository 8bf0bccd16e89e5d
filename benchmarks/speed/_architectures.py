"""The architectures that training is measured on: the paper's for CIFAR-10 and for ImageNet, and the defaults."""

from dataclasses import dataclass, field

import numpy as np
import torch

from skdpq import DPQTransformer

PARAMS = DPQTransformer().get_params()
# The network itself is measured, without a base network before it; older checkouts have none.
FEATURES = {"trunk_input": "features"} if "trunk_input" in PARAMS else {}
# Numbers in the place of "auto", and one weight whatever K, for all that are compared.
NUMBERS = {"label_smoothing": 0.1, "weight_decay": 0.2, "learning_rate": 3e-3, "gini_batch_weight": 1.0}
DEFAULTS = PARAMS | {"D": 16, "hidden_layer_sizes": (256,)} | NUMBERS | FEATURES


@dataclass
class Case:
    """Samples, and the parameters of an architecture."""

    name: str
    n: int
    n_features: int
    n_classes: int
    params: dict = field(default_factory=dict)

    def samples(self):
        """Return samples of Gaussian classes and their labels."""
        rng = np.random.default_rng(0)
        centers = rng.standard_normal((self.n_classes, self.n_features), dtype=np.float32)
        y = np.arange(self.n) % self.n_classes
        return centers[y] + rng.standard_normal((self.n, self.n_features), dtype=np.float32), y

    def network(self):
        """Return the network that DPQTransformer makes."""
        from skdpq._learning.network import DPQNetwork  # not where only samples and parameters are asked for

        names = ("M", "K", "D", "hidden_layer_sizes", "part_layer_sizes")
        params = DEFAULTS | self.params
        network = DPQNetwork(self.n_features, self.n_classes, **{name: params[name] for name in names})
        network.initialize(torch.Generator().manual_seed(0))
        return network


def training_cases(full=False):
    """Return what to train on; `full` is all of CIFAR-10's 50,000 training images."""
    cifar10 = {"M": 4, "K": 64, "D": None, "hidden_layer_sizes": (), "part_layer_sizes": (128,)}
    imagenet = {"M": 8, "K": 256, "D": 64, "hidden_layer_sizes": (2048,), "part_layer_sizes": ()} | FEATURES
    return [
        Case("CIFAR-10", 50_000 if full else 20_000, 500, 10, cifar10),
        Case("ImageNet", 10_000, 128, 1000, imagenet),
        Case("defaults", 2000, 30, 3),
    ]


def encoding_case(n):
    """Return what to encode."""
    return Case("encoding", n, 128, 10, {"D": 64, "hidden_layer_sizes": (512,), "part_layer_sizes": ()})
