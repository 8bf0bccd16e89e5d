"""The fast training step against autograd, for any architecture, and however it is shared out."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits

from skdpq import DPQClassifier, DPQTransformer
from skdpq._learning.fast_step import FastStep, Plan, has_fused_adamw
from skdpq._learning.fast_step.threads import Faster
from skdpq._learning.losses import TERMS
from skdpq._learning.network import DPQNetwork
from skdpq._learning.projection import Directions, Projection
from skdpq._learning.step import AutogradStep, Distilled, Objective, make_step

N, C = 23, 3
PLAIN = Directions(torch.ones(()), torch.zeros(()))
ONE_EACH = Objective(dict.fromkeys(TERMS, 1.0))
TWO_THREADS = Plan(split_products=0, n_trials=0)


def make_problem(n_units, seed=0, n_classes=C, **sizes):
    """Return a network in float64 and data for it."""
    generator = torch.Generator().manual_seed(seed)
    network = DPQNetwork(n_units, n_classes, **sizes).double()
    network.initialize(generator)
    with torch.no_grad():
        network.class_centers.normal_(generator=generator)
    if network.nearness is not None:
        network.nearness.take(random_projection(network, n_units), 0.7)
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
        "nearness": st.booleans(),
    }
)
weights = st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 1.7])] * len(TERMS))


def start(step_class, network, objective=ONE_EACH, batch_size=8, seed=0, **plan):
    """Return a step of the network, with a weight decay of 0.1."""
    generator = torch.Generator().manual_seed(seed)
    return step_class(network, objective, weight_decay=0.1, batch_size=batch_size, generator=generator, **plan)


def random_projection(network, n_units):
    """Return one to some dimensions of each part, and zeros after them."""
    M, _, D = network.codebooks.shape
    generator = torch.Generator().manual_seed(1)
    weight, bias, scale, origin = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((n_units, M, D), (M, D), (n_units,), (n_units,))
    )
    width = 1 + M % D
    weight[:, :, width:], bias[:, width:] = 0, 0
    return Projection(weight.flatten(1), bias.flatten(), Directions(scale, origin))


@pytest.mark.parametrize("split_products", [0, 2**62])
@given(
    sizes=sizes,
    weights=weights,
    smoothing=st.sampled_from([0.0, 0.2]),
    B=st.integers(1, 9),
    kind=st.sampled_from(["labels", "both", "features", "posterior"]),
    distilled=st.builds(Distilled, *[st.sampled_from([1.0, 1.5, 3.0])] * 3, st.sampled_from([None, 0.5])),
)
def test_steps_are_those_of_autograd(split_products, sizes, weights, smoothing, B, kind, distilled):
    weights = dict(zip(TERMS, weights, strict=True))
    results = []
    for step_class, plan in ((FastStep, {"plan": Plan(split_products)}), (AutogradStep, {})):
        n_classes = {"features": 0, "posterior": sizes["n_units"]}.get(kind, C)
        network, X, y, weight = make_problem(**sizes, n_classes=n_classes)
        if kind == "posterior":
            X = X.softmax(1).sqrt()
        projection = random_projection(network, X.shape[1]) if kind in ("both", "features") else None
        objective = Objective(weights, smoothing, projection, distilled if kind == "posterior" else None)
        step = start(step_class, network, objective, B, **plan)
        drawn = torch.Generator().manual_seed(1)
        batches = [torch.randperm(N, generator=drawn)[:size] for size in (B, max(1, B - 1), B)]
        with step:
            terms = [step(X, y, weight, batch, 0.01) for batch in batches]
        results.append((torch.stack(terms), step.state, network.state_dict()))
    (terms, state, parameters), (expected_terms, expected_state, expected) = results
    torch.testing.assert_close(terms, expected_terms)
    assert state["step"] == expected_state["step"] == 3
    for name, expected_moment in expected_state["exp_avg"].items():
        assert_allclose(state["exp_avg"][name], expected_moment, rtol=1e-6, atol=1e-12, err_msg=name)
    for name in expected:
        torch.testing.assert_close(parameters[name], expected[name], rtol=1e-5, atol=1e-8)


def test_codes_are_of_the_logits_where_the_softmax_rounds_two_to_one():
    terms = []
    for step_class in (FastStep, AutogradStep):
        network, X, y, weight = make_problem(7, M=1, K=2, D=3, hidden_layer_sizes=(), part_layer_sizes=())
        with torch.no_grad():
            network.parts[0].weight.zero_()
            network.parts[0].bias.copy_(torch.tensor([0.0, 1e-20]))
            hard = network.codebooks[0, 1].expand(3, 3)
            expected = torch.nn.functional.cross_entropy(network.classifier(hard), y[:3])
        with start(step_class, network) as step:
            terms.append(step(X, y, torch.ones_like(weight), torch.arange(3), 0.01))
    torch.testing.assert_close(terms[0], terms[1])
    torch.testing.assert_close(terms[0][TERMS.index("softmax_hard")], expected)


def test_a_step_goes_on_from_the_state_of_another():
    sizes = {"M": 2, "K": 4, "D": None, "hidden_layer_sizes": (6,), "part_layer_sizes": ()}
    batches = torch.arange(20).split(5)

    def run(kinds):
        network, X, y, weight = make_problem(7, **sizes)
        state = None
        for kind, batch in zip(kinds, batches, strict=True):
            step = start(kind, network, Objective(dict.fromkeys(TERMS, 0.5)))
            if state is not None:
                step.state = state
            with step:
                step(X, y, weight, batch, 0.01)
            state = step.state
        return torch.cat([p.detach().reshape(-1) for p in network.parameters()])

    expected = run([AutogradStep] * 4)
    torch.testing.assert_close(run([FastStep] * 4), expected)
    torch.testing.assert_close(run([FastStep, AutogradStep, FastStep, AutogradStep]), expected)


@pytest.mark.parametrize("params", [{}, {"supervision": 0.5, "label_smoothing": 0}, {"supervision": 0}])
def test_without_the_fast_step_an_estimator_learns_the_same(digits, params):
    class Slow(DPQTransformer):
        _make_step = staticmethod(AutogradStep)

    X, _, y, _ = digits
    X, y = X[:200], y[:200]  # one batch, in float64
    params |= {"M": 4, "K": 16, "max_iter": 5, "batch_size": 200, "random_state": 0, "learning_rate": 0.01}
    fast, slow = DPQTransformer(**params).fit(X, y), Slow(**params).fit(X, y)
    for name, curve in slow.loss_curve_.items():
        assert_allclose(fast.loss_curve_[name], curve, rtol=1e-9, atol=1e-12, err_msg=name)
    for name, value in slow.parameters_.items():
        assert_allclose(fast.parameters_[name], value, rtol=1e-6, atol=1e-8, err_msg=name)
    assert_array_equal(fast.encode(X), slow.encode(X))


def missing(*_, **__):
    raise AttributeError


def with_other_parameters(params, grads, state_steps, *, lr):
    raise AssertionError("unreachable")


def with_another_result(params, *_, **__):
    params[0].zero_()


@pytest.mark.parametrize("function", [None, missing, with_other_parameters, with_another_result])
def test_where_torchs_private_function_is_another_autograd_takes_over(function, monkeypatch):
    network, *_ = make_problem(7, M=2, K=4, D=2, hidden_layer_sizes=(), part_layer_sizes=())
    assert isinstance(start(make_step, network), FastStep)
    has_fused_adamw.cache_clear()
    if function is None:
        monkeypatch.delattr(torch, "_fused_adamw_")
    else:
        monkeypatch.setattr(torch, "_fused_adamw_", function)
    try:
        assert isinstance(start(make_step, network), AutogradStep)
    finally:
        has_fused_adamw.cache_clear()


@pytest.mark.parametrize("params", [{}, {"dropout": 0.3}, {"hidden_layer_sizes": (), "part_layer_sizes": (32,)}])
def test_the_number_of_threads_does_not_change_a_bit(digits, params):
    X, _, y, _ = digits
    before = threading.active_count()
    fitted = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="openmp"):
            fitted.append(
                DPQClassifier(max_iter=2, random_state=0, device="cpu", **params).fit(X.astype(np.float32), y)
            )
            assert torch.get_num_threads() == n_threads
    assert threading.active_count() <= before + 1  # there is a pool, but no worker
    for name, value in fitted[0].parameters_.items():
        assert_array_equal(value, fitted[1].parameters_[name], err_msg=name)


def test_neither_does_it_how_steps_are_shared_out():
    results = []
    for n_threads, n_trials in ((1, 8), (2, 0), (2, 2)):
        network, X, y, weight = make_problem(9, M=2, K=4, D=3, hidden_layer_sizes=(8,), part_layer_sizes=(5,))
        step = start(FastStep, network, plan=Plan(split_products=0, n_trials=n_trials))
        with threadpool_limits(n_threads, user_api="openmp"), step:
            for i in range(40):  # with two trials, one thread from the 35th on
                step(X, y, weight, torch.arange(i % 3, 8), 0.01)
        results.append(torch.cat([p.detach().reshape(-1) for p in network.parameters()]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_either_thread_ends_both(failing, monkeypatch):
    network, X, y, weight = make_problem(7, M=2, K=4, D=None, hidden_layer_sizes=(), part_layer_sizes=())
    step = start(FastStep, network, plan=TWO_THREADS)

    def fail(*_):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(step._micro_batches[failing], "forward", fail)
    before = threading.active_count()
    with threadpool_limits(2, user_api="openmp"):
        with step:
            assert threading.active_count() == before + 1
            with pytest.raises(RuntimeError, match="out of memory, say"):
                step(X, y, weight, torch.arange(8), 0.01)
            assert threading.active_count() == before
        assert torch.get_num_threads() == 2


class Clock:
    """A clock that stands still but while one of two ways is taken, and a record of which were."""

    def __init__(self, *seconds):
        self.seconds, self.now, self.taken = seconds, 0.0, []

    def ways(self):
        return tuple(lambda i, way=way: self.take(way, i) for way in (0, 1))

    def take(self, way, i):
        self.taken.append(way)
        self.now += self.seconds[way](i)


@pytest.mark.parametrize(("seconds", "fastest"), [((1.0, 2.0), 0), ((2.0, 1.0), 1), ((1.0, 1.04), 1), ((1.0, 1.06), 0)])
def test_the_faster_way_is_taken_once_both_are_timed(seconds, fastest):
    slow_at_first = lambda i: 50 if i < 32 or i in (35, 48, 60) else 1  # noqa: E731
    clock = Clock(*(lambda i, each=each: each * slow_at_first(i) for each in seconds))
    step = Faster(clock.ways(), 16, clock=lambda: clock.now)
    for i in range(100):
        step(i)
    assert clock.taken[:65] == [1] * 48 + [0] * 17  # of which the last 16 of each are timed
    assert set(clock.taken[65:]) == {fastest}


def test_which_way_is_faster_may_change():
    clock = Clock(lambda i: 1.0 + (i > 1000), lambda i: 1.5)
    step = Faster(clock.ways(), 16, clock=lambda: clock.now)
    for i in range(4000):
        step(i)
    assert set(clock.taken[65:2048]) == {0}
    assert set(clock.taken[2113:]) == {1}


def test_without_trials_two_threads_are_taken():
    clock = Clock(lambda i: 1.0, lambda i: 2.0)
    step = Faster(clock.ways(), 0, clock=lambda: clock.now)
    for i in range(9):
        step(i)
    assert clock.taken == [1] * 9


@pytest.mark.parametrize("dropout", [0.1, 0.4, 0.75, 0.9999999])
def test_dropout_drops_its_share_independently_and_keeps_the_mean(dropout):
    n = 400
    network = DPQNetwork(n, C, M=2, K=4, D=2, hidden_layer_sizes=(), part_layer_sizes=(), dropout=dropout)
    network.initialize(torch.Generator().manual_seed(0))
    step = start(FastStep, network, batch_size=100)
    X = torch.ones(100, n)
    with step:
        seen = []
        for _ in range(2):
            step(X, torch.arange(100) % C, torch.ones(100), torch.arange(100), 0.0)
            seen.append(torch.cat([micro_batch._buffers.x for micro_batch in step._micro_batches]))
    first, second = seen
    allowed = 5 / first.numel() ** 0.5
    assert abs((first == 0).double().mean() - dropout) < allowed
    assert abs(((first == 0) & (second == 0)).double().mean() - dropout**2) < allowed
    assert abs(((first == 0)[:, 1:] & (first == 0)[:, :-1]).double().mean() - dropout**2) < allowed
    assert abs(first.mean() - 1) < allowed / (1 - min(dropout, 0.99))


@pytest.mark.parametrize("make", [FastStep, AutogradStep])
def test_what_is_preserved_is_of_the_features_before_dropout(make):
    network, X, y, weight = make_problem(
        8, M=2, K=3, D=2, hidden_layer_sizes=(), part_layer_sizes=(), n_classes=0, dropout=0.9
    )
    with torch.no_grad():  # all codewords are one: soft and hard are the same for any sample, whatever is dropped
        network.codebooks.fill_(0.5)
    projection = Projection(torch.randn(8, 4, dtype=X.dtype), torch.zeros(4, dtype=X.dtype), PLAIN)
    objective = Objective(dict.fromkeys(TERMS, 0.0), 0.0, projection)
    step = make(network, objective, weight_decay=0.0, batch_size=9, generator=torch.Generator().manual_seed(0))
    batch = torch.arange(9)
    with step:
        terms = step(X, y, weight, batch, 0.0)
    share = weight[batch] / weight[batch].sum()
    expected = (projection(X[batch]) - 0.5).square().sum(1) @ share  # half of soft's and half of hard's
    torch.testing.assert_close(terms[TERMS.index("preservation")], expected)
