"""The recorded training step against autograd, for any architecture, and however it is shared out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_limits

from skdpq import DPQClassifier
from skdpq._learning.fast_step import step as _step
from skdpq._learning.fast_step.step import RecordedStep
from skdpq._learning.losses import TERMS
from skdpq._learning.network import DPQNetwork
from skdpq._learning.projection import Projection
from skdpq._learning.step import AutogradStep

N, C = 23, 3


def make_problem(n_units, seed=0, n_classes=C, **sizes):
    """Return a network in float64 and data for it."""
    generator = torch.Generator().manual_seed(seed)
    network = DPQNetwork(n_units, n_classes, **sizes).double()
    network.initialize(generator)
    with torch.no_grad():
        network.class_centers.normal_(generator=generator)
    X = torch.randn(N, n_units, dtype=torch.float64, generator=generator)
    weight = torch.rand(N, dtype=torch.float64, generator=generator) + 0.1
    return network, X, torch.randint(C, (N,), generator=generator), weight


sizes = st.fixed_dictionaries(
    {
        "n_units": st.integers(1, 13),
        "M": st.integers(1, 5),
        "K": st.integers(2, 6),
        "D": st.one_of(st.none(), st.integers(1, 4)),
        "hidden_layer_sizes": st.lists(st.integers(1, 9), max_size=2),
        "part_layer_sizes": st.lists(st.integers(1, 7), max_size=2),
    }
)
weights = st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 1.7])] * len(TERMS))


@pytest.mark.parametrize("worth_splitting", [0, 2**62])
@given(
    sizes=sizes,
    weights=weights,
    smoothing=st.sampled_from([0.0, 0.2]),
    B=st.integers(1, 9),
    kind=st.sampled_from(["labels", "both", "features"]),
)
def test_steps_are_those_of_autograd(worth_splitting, sizes, weights, smoothing, B, kind):
    weights = dict(zip(TERMS, weights, strict=True))
    results = []
    for step_class in (RecordedStep, AutogradStep):
        network, X, y, weight = make_problem(**sizes, n_classes=0 if kind == "features" else C)
        generator = torch.Generator().manual_seed(1)
        projection = None
        if kind != "labels":
            M, _, D = network.codebooks.shape
            weight_and_bias = torch.randn(X.shape[1] + 1, M * D, dtype=X.dtype, generator=generator)
            projection = Projection(weight_and_bias[:-1], weight_and_bias[-1])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_step, "_WORTH_SPLITTING", worth_splitting)
            batch_size = (B,) if step_class is RecordedStep else ()
            step = step_class(network, weights, smoothing, 0.1, *batch_size, generator, projection)
        drawn = torch.Generator().manual_seed(1)
        batches = [torch.randperm(N, generator=drawn)[:size] for size in (B, max(1, B - 1), B)]
        with step:
            terms = [step(X, y, weight, batch, 0.01) for batch in batches]
        results.append((torch.stack(terms), step.state, network.state_dict()))
    (terms, state, parameters), (expected_terms, expected_state, expected) = results
    torch.testing.assert_close(terms, expected_terms)
    assert state["step"] == expected_state["step"] == 3
    for name, expected_moment in expected_state["exp_avg"].items():
        np.testing.assert_allclose(state["exp_avg"][name], expected_moment, rtol=1e-6, atol=1e-12, err_msg=name)
    for name in expected:
        torch.testing.assert_close(parameters[name], expected[name], rtol=1e-5, atol=1e-8)


def test_codes_are_of_the_logits_where_the_softmax_rounds_two_to_one():
    terms = []
    for step_class in (RecordedStep, AutogradStep):
        network, X, y, weight = make_problem(7, M=1, K=2, D=3, hidden_layer_sizes=(), part_layer_sizes=())
        with torch.no_grad():
            network.parts[0].weight.zero_()
            network.parts[0].bias.copy_(torch.tensor([0.0, 1e-20]))
            hard = network.codebooks[0, 1].expand(3, 3)
            expected = torch.nn.functional.cross_entropy(network.classifier(hard), y[:3])
        batch_size = (3,) if step_class is RecordedStep else ()
        step = step_class(network, dict.fromkeys(TERMS, 1.0), 0.0, 0.1, *batch_size, torch.Generator())
        with step:
            terms.append(step(X, y, torch.ones_like(weight), torch.arange(3), 0.01))
    torch.testing.assert_close(terms[0], terms[1])
    torch.testing.assert_close(terms[0][TERMS.index("softmax_hard")], expected)


def test_a_step_goes_on_from_the_state_of_another():
    sizes = {"M": 2, "K": 4, "D": None, "hidden_layer_sizes": (6,), "part_layer_sizes": ()}
    weights = dict.fromkeys(TERMS, 0.5)
    batches = torch.arange(20).split(5)

    def run(kinds):
        network, X, y, weight = make_problem(7, **sizes)
        state = None
        for kind, batch in zip(kinds, batches, strict=True):
            generator = torch.Generator().manual_seed(0)
            step = kind(network, weights, 0.0, 0.1, *((5,) if kind is RecordedStep else ()), generator)
            if state is not None:
                step.state = state
            with step:
                step(X, y, weight, batch, 0.01)
            state = step.state
        return torch.cat([p.detach().reshape(-1) for p in network.parameters()])

    expected = run([AutogradStep] * 4)
    torch.testing.assert_close(run([RecordedStep] * 4), expected)
    torch.testing.assert_close(run([RecordedStep, AutogradStep, RecordedStep, AutogradStep]), expected)


@pytest.mark.parametrize("params", [{}, {"dropout": 0.3}, {"hidden_layer_sizes": (), "part_layer_sizes": (32,)}])
def test_the_number_of_threads_does_not_change_a_bit(digits, params):
    X, _, y, _ = digits
    fitted = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="openmp"):
            fitted.append(DPQClassifier(max_iter=2, random_state=0, **params).fit(X.astype(np.float32), y))
            assert torch.get_num_threads() == n_threads
    for name, value in fitted[0].parameters_.items():
        assert_array_equal(value, fitted[1].parameters_[name], err_msg=name)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_either_thread_ends_both(failing, monkeypatch):
    network, X, y, weight = make_problem(7, M=2, K=4, D=None, hidden_layer_sizes=(), part_layer_sizes=())
    monkeypatch.setattr(_step, "_WORTH_SPLITTING", 0)
    step = RecordedStep(network, dict.fromkeys(TERMS, 1.0), 0.0, 0.1, 8, torch.Generator())

    def fail(*_):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(step._shards[failing], "forward", fail)
    with threadpool_limits(2, user_api="openmp"):
        with step:
            worker = step._worker
            with pytest.raises(RuntimeError, match="out of memory, say"):
                step(X, y, weight, torch.arange(8), 0.01)
            assert not worker._thread.is_alive()
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("dropout", [0.1, 0.4, 0.75, 0.9999999])
def test_dropout_drops_its_share_independently_and_keeps_the_mean(dropout):
    n = 400
    network = DPQNetwork(n, C, M=2, K=4, D=2, hidden_layer_sizes=(), part_layer_sizes=(), dropout=dropout)
    network.initialize(torch.Generator().manual_seed(0))
    step = RecordedStep(network, dict.fromkeys(TERMS, 1.0), 0.0, 0.1, 100, torch.Generator().manual_seed(0))
    X = torch.ones(100, n)
    with step:
        seen = []
        for _ in range(2):
            step(X, torch.arange(100) % C, torch.ones(100), torch.arange(100), 0.0)
            seen.append(torch.cat([shard._now.x for shard in step._shards]))
    first, second = seen
    allowed = 5 / first.numel() ** 0.5
    assert abs((first == 0).double().mean() - dropout) < allowed
    assert abs(((first == 0) & (second == 0)).double().mean() - dropout**2) < allowed
    assert abs(((first == 0)[:, 1:] & (first == 0)[:, :-1]).double().mean() - dropout**2) < allowed
    assert abs(first.mean() - 1) < allowed / (1 - min(dropout, 0.99))
