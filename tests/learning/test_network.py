"""The network against the equations of section 3, written out one sample and one part at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skdpq._learning.network import DPQNetwork, SoftAndHard, concatenate_parts


def make_network(n_units=12, n_classes=3, *, seed=0, dtype=torch.float64, **sizes):
    sizes = {"M": 4, "K": 5, "D": 2, "hidden_layer_sizes": (), "part_layer_sizes": ()} | sizes
    network = DPQNetwork(n_units, n_classes, **sizes).to(dtype)
    network.initialize(torch.Generator().manual_seed(seed))
    return network


def forward_by_hand(network, x):
    """Equations 1 to 4, one sample and one part at a time."""
    M, N = network.M, network.N
    soft, hard, codes = [], [], []
    for units in x:
        for layer in network.trunk:
            units = torch.relu(layer.weight @ units + layer.bias)
        for m in range(M):
            s = units if len(units) < M else units[m * N : (m + 1) * N]
            for i, layer in enumerate(network.parts):
                s = s @ layer.weight[m] + layer.bias[m, 0]
                if i < len(network.parts) - 1:
                    s = torch.relu(s)
            p = torch.exp(s - s.max())
            p = p / p.sum()
            soft.append(sum(p[k] * network.codebooks[m, k] for k in range(len(p))))
            codes.append(int(p.argmax()))
            hard.append(network.codebooks[m, codes[-1]])
    shape = (len(x), -1)
    return torch.stack(soft).reshape(shape), torch.stack(hard).reshape(shape), torch.tensor(codes).reshape(shape)


@given(
    n_units=st.integers(1, 11),
    M=st.integers(1, 6),
    K=st.integers(2, 5),
    D=st.one_of(st.none(), st.integers(1, 3)),
    trunk=st.lists(st.integers(1, 9), max_size=2),
    part=st.lists(st.integers(1, 4), max_size=2),
    B=st.integers(1, 4),
)
def test_forward_is_equations_1_to_4_for_any_architecture(n_units, M, K, D, trunk, part, B):
    network = make_network(n_units, M=M, K=K, D=D, hidden_layer_sizes=trunk, part_layer_sizes=part)
    x = torch.randn(B, n_units, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = network(x)
    soft, hard, codes = forward_by_hand(network, x)
    torch.testing.assert_close(output.soft, soft)
    torch.testing.assert_close(output.hard, hard)
    assert torch.equal(output.codes.T, codes)
    assert output.p.shape == (M, B, K)
    torch.testing.assert_close(output.p.sum(-1), torch.ones(M, B, dtype=torch.float64))


@pytest.mark.parametrize("M", [2, 4, 6, 8])
def test_cifar10_architecture_of_the_paper(M):
    network = make_network(500, 10, M=M, K=64, D=None, part_layer_sizes=(128,), dtype=torch.float32)
    assert len(network.trunk) == 0
    assert [tuple(layer.weight.shape) for layer in network.parts] == [(M, 500 // M, 128), (M, 128, 64)]
    assert network.codebooks.shape == (M, 64, 500 // M)
    x = torch.randn(3, 500)
    output = network(x)
    assert output.soft.shape == output.hard.shape == (3, M * (500 // M))
    x[:, M * (500 // M) :] += 1.0  # units that do not divide are dropped
    assert torch.equal(network(x).soft, output.soft)


def test_imagenet_architecture_of_the_paper():
    network = make_network(128, 1000, M=8, K=256, D=64, hidden_layer_sizes=(2048,), dtype=torch.float32)
    assert [tuple(layer.weight.shape) for layer in network.trunk] == [(2048, 128)]
    assert [tuple(layer.weight.shape) for layer in network.parts] == [(8, 256, 256)]
    assert network.codebooks.shape == (8, 256, 64)
    assert network.classifier.weight.shape == (1000, 512)
    assert network(torch.randn(2, 128)).hard.shape == (2, 512)


def test_with_fewer_units_than_parts_every_part_reads_all_units():
    network = make_network(2, M=5)
    x = torch.randn(1, 2, dtype=torch.float64)
    for unit in range(2):
        moved = x.clone()
        moved[0, unit] += 1.0
        assert ((network(moved).p - network(x).p).abs().amax((1, 2)) > 0).all()


def test_gradients_are_those_of_the_one_hot_straight_through_formulation():
    M, B, K, D = 3, 7, 5, 4
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(M, B, K, dtype=torch.float64, generator=generator, requires_grad=True)
    codebooks = torch.randn(M, K, D, dtype=torch.float64, generator=generator, requires_grad=True)
    upstream = torch.randn(2, B, M * D, dtype=torch.float64, generator=generator)

    p = torch.softmax(logits, -1)
    soft, hard = SoftAndHard.apply(p, p.argmax(-1), codebooks)
    gathered = torch.autograd.grad((soft * upstream[0] + hard * upstream[1]).sum(), [p, logits, codebooks])

    p = torch.softmax(logits, -1)
    one_hot = torch.nn.functional.one_hot(p.argmax(-1), K).to(p.dtype)
    soft_one_hot = concatenate_parts(p @ codebooks)
    hard_one_hot = concatenate_parts((one_hot + p - p.detach()) @ codebooks)
    loss = (soft_one_hot * upstream[0] + hard_one_hot * upstream[1]).sum()
    one_hot_gradients = torch.autograd.grad(loss, [p, logits, codebooks])

    torch.testing.assert_close(soft, soft_one_hot)
    torch.testing.assert_close(hard, hard_one_hot)
    for ours, reference in zip(gathered, one_hot_gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-13, atol=1e-13)


def test_the_hard_loss_reaches_the_part_networks_and_the_trunk():
    network = make_network(hidden_layer_sizes=(16,), part_layer_sizes=(6,))
    x = torch.randn(9, 12, dtype=torch.float64)
    torch.nn.functional.cross_entropy(network.classifier(network(x).hard), torch.arange(9) % 3).backward()
    for layer in [*network.trunk, *network.parts]:
        assert layer.weight.grad.abs().max() > 0
    assert network.codebooks.grad.abs().max() > 0


def test_initialization_is_the_generators_alone():
    before = torch.random.get_rng_state()
    first, second = make_network(seed=3), make_network(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = dict(make_network(seed=4).named_parameters())
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        assert (a == other[name]).all() == (name == "class_centers")


@pytest.mark.parametrize("D", [1, 16, 400])
def test_codewords_start_with_an_expected_squared_norm_of_one(D):
    network = make_network(M=8, K=256, D=D)
    squared = network.codebooks.detach().square().sum(-1).numpy()
    standard_error = math.sqrt(2 / D / squared.size)
    assert abs(np.mean(squared) - 1) < 5 * standard_error


def test_layers_start_uniform_by_their_fan_in():
    network = make_network(900, 400, M=2, K=3, D=50, hidden_layer_sizes=(16,), part_layer_sizes=(40,))
    fan_ins = {"trunk.0": 900, "parts.0": 8, "parts.1": 40, "classifier": 100}
    parameters = dict(network.named_parameters())
    for name, fan_in in fan_ins.items():
        weight = parameters[f"{name}.weight"].detach()
        assert 0.9 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5, name
        assert abs(weight.std() - (3 * fan_in) ** -0.5) < 0.1 * fan_in**-0.5, name
        assert parameters[f"{name}.bias"].abs().max() <= fan_in**-0.5, name


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(dropout):
    n = 300
    network = DPQNetwork(n, 0, M=1, K=n, D=1, hidden_layer_sizes=(), part_layer_sizes=(), dropout=dropout)
    with torch.no_grad():  # logits are the units that were not dropped
        network.parts[0].weight.copy_(torch.eye(n))
        network.parts[0].bias.zero_()
    x = torch.ones(200, n)
    kept = network.train().logits(x, torch.Generator().manual_seed(0))[0]
    tolerance = 5 / kept.numel() ** 0.5
    assert abs((kept == 0).double().mean() - dropout) < tolerance
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / (1 - dropout)))
    assert torch.equal(network.eval().logits(x)[0], x)
