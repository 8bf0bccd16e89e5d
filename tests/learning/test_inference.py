"""The encoder against the network's own forward pass, however the work is shared out."""

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits

from skdpq import DPQTransformer
from skdpq._learning import inference
from skdpq._learning.inference import infer
from skdpq._learning.network import DPQNetwork

N_UNITS = 12


def make_network(n_units=N_UNITS, *, dtype=torch.float64, **sizes):
    sizes = {"M": 4, "K": 5, "D": 2, "hidden_layer_sizes": (), "part_layer_sizes": ()} | sizes
    network = DPQNetwork(n_units, 3, **sizes).to(dtype)
    generator = torch.Generator().manual_seed(0)
    network.initialize(generator)
    for buffer in network.buffers():  # of a nearness
        buffer.normal_(generator=generator)
    if network.nearness is not None and network.codebooks.shape[2] > 1:  # to fewer dimensions than codewords have
        network.nearness.weight.unflatten(1, (network.M, -1))[:, :, -1] = 0
        network.nearness.bias.unflatten(0, (network.M, -1))[1:, -1] = 0
    return network.eval()


def to_tensor(rows, dtype, out):
    tensor = torch.from_numpy(rows).to(dtype, copy=True)
    return tensor if out is None else out.copy_(tensor)


def codes_and_soft(network, X, backbone=None):
    """Return what `infer` writes, and whether it found all finite."""
    M, _, D = network.codebooks.shape
    parameters = network.state_dict()
    codes, soft = np.empty((len(X), M), np.uint16), np.empty((len(X), M * D), network.arrays()["codebooks"].dtype)
    finite = [infer(parameters, X, to_tensor, result, backbone) for result in (codes, soft)]
    return codes, soft, finite


@given(
    n=st.integers(1, 9),
    n_units=st.integers(1, 11),
    M=st.integers(1, 6),
    K=st.integers(2, 5),
    D=st.one_of(st.none(), st.integers(1, 3)),
    trunk=st.lists(st.integers(1, 9), max_size=2),
    part=st.lists(st.integers(1, 4), max_size=2),
    nearness=st.booleans(),
    block_rows=st.integers(1, 9),
)
def test_it_is_the_forward_pass_for_any_architecture_in_blocks_of_any_size(
    n, n_units, M, K, D, trunk, part, nearness, block_rows
):
    sizes = {"M": M, "K": K, "D": D, "hidden_layer_sizes": trunk, "part_layer_sizes": part}
    network = make_network(n_units, **sizes, nearness=nearness)
    X = np.random.default_rng(0).normal(size=(n, n_units))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "_CPU_BLOCK_ROWS", block_rows)
        codes, soft, finite = codes_and_soft(network, X)
    expected = network(torch.from_numpy(X))
    assert_array_equal(codes, expected.codes.T)
    assert_allclose(soft, expected.soft.detach(), rtol=1e-12, atol=1e-14)
    assert finite == [True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_backbone_that_does_nothing_changes_nothing(dtype):
    network = make_network(M=8, K=256, D=16, hidden_layer_sizes=(64,), part_layer_sizes=(32,), dtype=dtype)
    X = np.random.default_rng(0).normal(size=(700, N_UNITS))  # three blocks
    codes, soft, _ = codes_and_soft(network, X)
    codes_of_units, soft_of_units, _ = codes_and_soft(network, X, torch.nn.Identity())
    assert_array_equal(codes_of_units, codes)
    assert_array_equal(soft_of_units, soft)


def test_an_estimator_encodes_as_one_with_a_backbone_that_does_nothing(digits):
    X, X_test, y, _ = digits
    dpq = DPQTransformer(M=4, K=16, max_iter=2, random_state=0).fit(X, y)
    backboned = copy.deepcopy(dpq)
    backboned.backbone_ = torch.nn.Identity()
    backboned.mean_ = backboned.scale_ = None
    standardized = (X_test - dpq.mean_) / dpq.scale_
    for method in ("encode", "soft"):
        assert_array_equal(getattr(backboned, method)(standardized), getattr(dpq, method)(X_test))


def test_the_number_of_threads_does_not_change_a_bit():
    network = make_network(M=8, K=256, D=16, hidden_layer_sizes=(128,), part_layer_sizes=(32,), dtype=torch.float32)
    X = np.random.default_rng(0).normal(size=(2000, N_UNITS))
    threads = set()

    def convert_and_watch(rows, dtype, out):
        threads.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        return to_tensor(rows, dtype, out)

    parameters = dict(network.named_parameters())
    results = []
    for n_threads in (1, 3):
        with threadpool_limits(n_threads, user_api="openmp"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(inference, "_WORTH_THREADS_PRODUCTS", 0)
            for result in (np.empty((len(X), 8), np.uint8), np.empty((len(X), 128), np.float32)):
                infer(parameters, X, convert_and_watch, result)
                results.append(result)
            assert torch.get_num_threads() == n_threads
    assert len(threads) > 1
    assert_array_equal(results[0], results[2])
    assert_array_equal(results[1], results[3])


def test_threads_beside_others_share_nothing_out_in_turn():
    code = """
import numpy as np, torch
from skdpq._learning.inference import infer
from skdpq._learning.network import DPQNetwork

network = DPQNetwork(12, 3, M=8, K=256, D=2, hidden_layer_sizes=(512,), part_layer_sizes=())
network.initialize(torch.Generator())
seen = set()
torch.set_num_threads(2)  # which torch then sets in each new thread at its first call there
def to_tensor(rows, dtype, out):
    x = torch.from_numpy(rows).to(dtype)
    torch.mm(x, x.T)
    seen.add(torch.get_num_threads())
    return x
infer(dict(network.named_parameters()), np.ones((9000, 12)), to_tensor, np.empty((9000, 8), np.uint8))
assert seen == {1}, seen
assert torch.get_num_threads() == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_users_backbone_is_called_from_one_thread_alone():
    network = make_network(dtype=torch.float32)
    called = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            called.append((threading.get_ident(), torch.get_num_threads(), len(x)))
            return x

    X = np.random.default_rng(0).normal(size=(5000, N_UNITS))
    with threadpool_limits(2, user_api="openmp"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "_WORTH_THREADS_PRODUCTS", 0)
        infer(dict(network.named_parameters()), X, to_tensor, np.empty((len(X), 4), np.uint8), Watched())
    assert {call[:2] for call in called} == {(threading.get_ident(), 2)}
    assert len(called) > 1
    assert sum(n for *_, n in called) == len(X)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
@pytest.mark.parametrize("row", [0, 350, 699])
def test_logits_that_are_not_finite_are_told(value, row):
    network = make_network(M=8, K=256, D=2, dtype=torch.float32)
    X = np.random.default_rng(0).normal(size=(700, N_UNITS))
    assert codes_and_soft(network, X)[2] == [True, True]
    X[row, 3] = value
    assert codes_and_soft(network, X)[2] == [False, False]


def test_values_out_of_the_range_of_the_training_data_are_an_error(digits):
    X, X_test, y, _ = digits
    X_test = X_test.astype(np.float32)
    dpq = DPQTransformer(M=4, K=16, max_iter=1, random_state=0).fit(X.astype(np.float32), y)
    dpq.parameters_["parts.0.weight"] *= 1e20
    dpq.encode(X_test)
    X_test[77, 20] = 1e30
    for method in (dpq.encode, dpq.soft):
        with pytest.raises(ValueError, match="got values too large for it"):
            method(X_test)


def test_codes_are_of_the_logits_where_the_softmax_rounds_two_to_one():
    network = make_network(M=2, K=3, dtype=torch.float32)
    with torch.no_grad():
        network.parts[0].weight.zero_()
        network.parts[0].bias.copy_(torch.tensor([[[0.0, 1e-9, -1.0]], [[-1.0, 0.0, 1e-9]]]))
    x = torch.zeros(1, N_UNITS)
    p = torch.softmax(network.logits(x), -1)
    assert p[0, 0, 0] == p[0, 0, 1]
    assert network(x).codes.T.tolist() == [[1, 2]]
    assert codes_and_soft(network, x.numpy())[0].tolist() == [[1, 2]]
