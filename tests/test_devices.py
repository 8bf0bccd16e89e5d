"""Tensors are made where the network is, and results do not depend on where that was."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skdpq import DPQClassifier
from skdpq._learning.batches import InMemory, Streamed
from skdpq._learning.losses import TERMS
from skdpq._learning.network import DPQNetwork
from skdpq._learning.step import Objective, make_step

DEVICES = ["cpu"]
DEVICES += ["cuda"] if torch.cuda.is_available() else []
DEVICES += ["mps"] if torch.backends.mps.is_available() else []
META = torch.device("meta")  # computes shapes only, and is a device like others: mixing it with the CPU is an error


class Guard(TorchDispatchMode):
    """Records tensors elsewhere than on the meta device; numbers, of no dimensions, may be anywhere."""

    def __init__(self):
        super().__init__()
        self.elsewhere, self.n_calls = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.n_calls += 1
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.device != META:
                self.elsewhere.append((function, leaf.shape, leaf.device))
        return result


def test_the_guard_sees_what_is_made_elsewhere():
    with Guard() as guard:
        torch.zeros(3)
        torch.zeros(3, device=META)
    assert len(guard.elsewhere) == 1


@pytest.mark.parametrize("backbone", [None, torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.ReLU())])
@pytest.mark.parametrize("source", [InMemory, Streamed])
@pytest.mark.parametrize("nearness", [False, True])
def test_all_tensors_of_a_batch_are_on_the_device_of_the_network(source, backbone, nearness):
    sizes = {"M": 3, "K": 5, "D": 2, "hidden_layer_sizes": (9,), "part_layer_sizes": (4,)}
    network = DPQNetwork(12, 3, backbone=backbone, nearness=nearness, **sizes).to(META)
    data = torch.zeros(20, 12), torch.zeros(20, dtype=torch.int64), torch.ones(20)
    if source is InMemory:
        batches = InMemory(*(tensor.to(META) for tensor in data), 7)
    else:
        batches = Streamed(*(tensor.numpy() for tensor in data), data[0][0].numel(), 7, torch.from_numpy, META)
    objective = Objective(dict.fromkeys(TERMS, 1.0), label_smoothing=0.1)
    step = make_step(network, objective, weight_decay=0.1, batch_size=7, generator=torch.Generator())
    n_batches = 0
    with step:
        for batch in batches.epoch(torch.Generator()):
            with Guard() as guard:
                terms = step(*batch, 0.1)
            assert guard.elsewhere == []
            assert guard.n_calls > 20
            assert terms.device == META
            n_batches += 1
    assert n_batches == 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"backbone": torch.nn.Linear(64, 40)}, {"supervision": 0.8}])
def test_what_is_fitted_on_a_device_is_used_on_the_cpu(digits, device, params):
    X, X_test, y, y_test = (a.astype(np.float32) if a.ndim > 1 else a for a in digits)
    DPQClassifier(M=4, K=16, max_iter=1, random_state=0, device=device, **params).fit(X, y)  # cuBLAS keeps a workspace
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    clf = DPQClassifier(M=4, K=16, random_state=0, device=device, **params).fit(X, y)
    soft, codes = clf.soft(X_test), clf.encode(X_test)
    assert clf.score(X_test, y_test) > 0.93
    assert all(parameter.device.type == "cpu" for parameter in getattr(clf.backbone_, "parameters", list)())
    on_cpu = pickle.loads(pickle.dumps(clf)).set_params(device="cpu")
    assert_allclose(on_cpu.soft(X_test), soft, rtol=1e-3, atol=1e-4)
    assert (on_cpu.encode(X_test) == codes).mean() > 0.999
    assert held == (torch.cuda.memory_allocated() if device == "cuda" else 0)


@pytest.mark.parametrize("device", DEVICES)
def test_partial_fit_goes_on_on_another_device(digits, device):
    X, X_test, y, y_test = digits
    clf = DPQClassifier(M=4, K=16, random_state=0, device=device)
    for _ in range(4):
        clf.partial_fit(X, y, classes=np.unique(y))
    clf = pickle.loads(pickle.dumps(clf)).set_params(device="cpu")
    before = clf.score(X_test, y_test)
    for _ in range(8):
        clf.partial_fit(X, y)
    assert clf.score(X_test, y_test) > max(before, 0.9)
