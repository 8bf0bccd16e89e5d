"""The base network: its posterior by NumPy, the shares of both classifiers, and fits whose trunk reads it."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from threadpoolctl import threadpool_limits
from torch import nn

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer
from skdpq._learning import auto, base_network, samples
from skdpq._learning.base_network import (
    BaseNetwork,
    calibrate,
    from_arrays,
    learn_base_network,
)
from skdpq._learning.discriminant import discriminant_analysis
from skdpq._learning.inputs import Inputs
from skdpq._learning.samples import weigh
from skdpq._learning.step import Distilled, make_step

CPU = torch.device("cpu")
N_CLASSES = 60


def draw(n, rng):
    """Return samples of overlapping Gaussian classes, and their labels."""
    means = np.random.default_rng(0).normal(size=(N_CLASSES, 12))
    y = rng.integers(N_CLASSES, size=n)
    return means[y] + 0.7 * rng.normal(size=(n, 12)), y


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return *draw(3000, rng), *draw(1000, rng)


def make_network(n_features=5, n_classes=4):
    network = BaseNetwork(n_features, n_classes)
    network.initialize(torch.Generator().manual_seed(0))
    return network


def resolved(n_classes=N_CLASSES, distills=True, **params):
    return auto.Resolved(DPQTransformer(**params), n_classes, distills)


def learn(X, y, sample_weight=None, seed=0):
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    training = weigh(X, y, weight, np.arange(N_CLASSES), np.ones(N_CLASSES))
    inputs = Inputs(X.mean(0), X.std(0))
    return learn_base_network(training, N_CLASSES, inputs, CPU, torch.Generator().manual_seed(seed)), inputs


def logits_of(arrays, X):
    hidden = np.maximum(X @ arrays["hidden.weight"].T + arrays["hidden.bias"], 0)
    return hidden @ arrays["output.weight"].T + X @ arrays["linear.weight"].T + arrays["linear.bias"]


def test_units_are_square_roots_of_the_posterior():
    network, X = make_network(), np.random.default_rng(0).normal(size=(7, 5))
    units = network.units(torch.from_numpy(X.astype(np.float32))).numpy()
    assert_allclose(units**2, softmax(logits_of(network.arrays(), X), axis=1), rtol=1e-5)


def test_what_is_mixed_in_adds_its_share_to_the_logits():
    network, X = make_network(), np.random.default_rng(0).normal(size=(7, 5))
    linear = torch.nn.Linear(5, 4)
    before = logits_of(network.arrays(), X)
    other = linear(torch.from_numpy(X.astype(np.float32))).detach().numpy()
    network.mix(linear, 0.7, 1.9)
    assert_allclose(logits_of(network.arrays(), X), 0.7 * before + 1.9 * other, rtol=1e-4, atol=1e-5)


def test_arrays_make_the_same_network():
    network, x = make_network(), torch.randn(3, 5)
    assert_array_equal(from_arrays(network.arrays()).units(x), network.units(x))
    assert from_arrays(None) is None


@settings(max_examples=10)
@given(shares=st.tuples(st.floats(0.3, 1.8), st.floats(0, 1.8)), seed=st.integers(0, 2**32 - 1))
def test_the_shares_are_those_of_the_labels(shares, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = tuple(2 * torch.randn(10_000, 5, generator=generator) for _ in range(2))
    posterior = torch.softmax(shares[0] * logits[0] + shares[1] * logits[1], dim=1)
    y = torch.multinomial(posterior, 1, generator=generator)[:, 0]
    weight = torch.ones(len(y))
    assert_allclose(calibrate(logits, y, weight), shares, rtol=0.1, atol=0.06)
    weight[: len(y) // 2] = 0
    wrong = torch.cat([torch.zeros_like(y[: len(y) // 2]), y[len(y) // 2 :]])  # which weigh nothing
    assert_allclose(calibrate(logits, wrong, weight), shares, rtol=0.15, atol=0.09)


def test_it_classifies_as_well_as_discriminant_analysis_and_is_calibrated(data):
    X, y, X_test, y_test = data
    network, inputs = learn(X, y)
    posterior = inputs._replace(base=network).tensor(X_test).numpy() ** 2
    correct = posterior.argmax(1) == y_test
    discriminant = LinearDiscriminantAnalysis().fit(X, y)  # which these samples suit best
    assert correct.mean() > discriminant.score(X_test, y_test) - 0.01
    assert posterior.max(1).mean() == pytest.approx(correct.mean(), abs=0.03)


def test_it_is_calibrated_where_few_samples_are_all_told_right():
    rng = np.random.default_rng(0)
    y, n = rng.integers(20, size=4000), 1000
    X = rng.normal(size=(len(y), 64))
    X[:, :24] += rng.normal(size=(20, 24))[y]
    training = weigh(X[:n], y[:n], np.ones(n), np.arange(20), np.ones(20))
    network = learn_base_network(training, 20, Inputs(None, None), CPU, torch.Generator().manual_seed(0))
    posterior = network.units(torch.from_numpy(X[n:]).float()).numpy() ** 2
    accuracy = (posterior.argmax(1) == y[n:]).mean()
    assert accuracy > 0.95
    assert posterior.max(1).mean() == pytest.approx(accuracy, abs=0.03)
    assert -np.log(posterior[np.arange(len(posterior)), y[n:]]).mean() < 0.15


@pytest.mark.parametrize("n", [3, 100])
def test_shares_of_samples_that_are_told_right_have_a_bound(n):
    y = torch.arange(n) % 3
    logits = nn.functional.one_hot(y, 3).float()
    shares = calibrate((logits, torch.zeros_like(logits)), y, torch.ones(n))
    posterior = torch.softmax(shares[0] * logits, dim=1)
    assert_allclose(posterior.amax(dim=1), 1 - (2 / 3) / (n + 2), rtol=1e-3)  # the label's own share after smoothing


def test_what_is_mixed_in_learns_from_all_samples(data, monkeypatch):
    X, y, *_ = data
    monkeypatch.setattr(base_network, "calibrate", lambda *_: (0.0, 1.0))
    network, inputs = learn(X, y)
    weight, bias = discriminant_analysis([((X - inputs.mean) / inputs.scale, y, np.ones(len(X)))], N_CLASSES)
    assert_allclose(network.linear.weight.detach(), weight, rtol=1e-4, atol=1e-5)
    assert_allclose(network.linear.bias.detach(), bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "n_trained_on"), [(3000, [2400, 3000]), (9000, [8000, 9000]), (10_000, [9000])])
def test_few_samples_train_the_network_again_with_those_held_out(n, n_trained_on, monkeypatch):
    trained_on = []

    def train(samples, C, *_):
        trained_on.append(len(samples.X))
        return make_network(12, C).requires_grad_(False).eval()

    monkeypatch.setattr(base_network, "_train", train)
    learn(*draw(n, np.random.default_rng(0)))
    assert trained_on == n_trained_on


@pytest.mark.parametrize(
    ("n", "n_held_out"), [(1, 1), (20, 4), (5000, 1000), (8000, 1000), (30_000, 3000), (10**6, 10_000)]
)
def test_a_tenth_is_held_out_and_more_of_few(n, n_held_out):
    assert base_network._n_held_out(n) == n_held_out


def test_the_same_seed_learns_the_same_however_many_threads(data):
    X, y, *_ = data
    learned = []
    for n_threads, seed in ((1, 0), (2, 0), (1, 1)):
        with threadpool_limits(n_threads):
            learned.append(learn(X[:500], y[:500], seed=seed)[0].arrays())
    for name in learned[0]:
        assert_array_equal(learned[0][name], learned[1][name])
    assert any((learned[0][name] != learned[2][name]).any() for name in learned[0])


def test_samples_that_are_too_many_to_hold_are_streamed(data, monkeypatch):
    X, y, X_test, y_test = data
    with monkeypatch.context() as patch:
        patch.setattr(samples, "IN_MEMORY_BYTES", 1000)
        network, inputs = learn(X, y)
    units = inputs._replace(base=network).tensor(X_test).numpy()
    in_memory = inputs._replace(base=learn(X, y)[0]).tensor(X_test).numpy()
    assert (units.argmax(1) == y_test).mean() > (in_memory.argmax(1) == y_test).mean() - 0.03


def test_where_classes_are_not_gaussian_the_network_outweighs_discriminant_analysis():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 4))
    y = (X > 0) @ (1, 2, 4, 8)
    y = y // 2 * 2 + (np.abs(X).sum(axis=1) > 3)  # with a border that is not linear
    network, inputs = learn(X[:3000], y[:3000])
    correct = inputs._replace(base=network).tensor(X[3000:]).argmax(1).numpy() == y[3000:]
    discriminant = LinearDiscriminantAnalysis().fit(X[:3000], y[:3000])
    assert correct.mean() > discriminant.score(X[3000:], y[3000:]) + 0.05


@pytest.fixture(scope="module")
def clf(data):
    X, y, *_ = data
    return DPQClassifier(M=4, K=16, random_state=0).fit(X, y)


def test_many_classes_have_their_posterior_read(data, clf):
    X, y, X_test, _ = data
    assert clf.architecture_["n_units"] == N_CLASSES
    units = Inputs(clf.mean_, clf.scale_, base=from_arrays(clf.base_network_)).tensor(X_test).numpy()
    dpq = DPQClassifier(M=4, K=16, backbone=torch.nn.Identity(), max_iter=1, random_state=0)
    dpq.fit(units, np.arange(len(units)) % N_CLASSES)
    dpq.parameters_ = clf.parameters_
    assert_array_equal(dpq.encode(units), clf.encode(X_test))
    assert_array_equal(dpq.soft(units), clf.soft(X_test))
    few = y < auto._MANY_CLASSES - 1
    fewer = clone(clf).set_params(max_iter=1).fit(X[few], y[few])
    assert fewer.base_network_ is None
    assert fewer.architecture_["n_units"] == 12
    assert fewer.set_params(trunk_input="posterior").fit(X[few], y[few]).base_network_ is not None
    assert clone(clf).set_params(max_iter=1, trunk_input="features").fit(X, y).base_network_ is None


def test_codes_of_many_classes_are_better_for_it(data, clf):
    X, y, X_test, y_test = data
    features = clone(clf).set_params(trunk_input="features").fit(X, y)
    assert clf.score(X_test, y_test) > features.score(X_test, y_test) + 0.03


@pytest.mark.parametrize(
    "params", [{"supervision": 0.5}, {"augment": torch.clone}, {"backbone": torch.nn.Identity()}, {"supervision": 0}]
)
def test_a_posterior_that_cannot_be_had_is_an_error_where_it_is_asked_for(data, params):
    X, y, *_ = data
    dpq = DPQTransformer(M=2, K=4, max_iter=1, **params)
    with pytest.raises(ValueError, match='trunk_input="posterior" needs labels'):
        dpq.set_params(trunk_input="posterior").fit(X, y)
    assert dpq.set_params(trunk_input="auto").fit(X, y).base_network_ is None


def test_one_pass_over_some_samples_cannot_learn_a_base_network(data):
    X, y, *_ = data
    dpq = DPQTransformer(M=2, K=4, trunk_input="posterior")
    with pytest.raises(ValueError, match='trunk_input="posterior" needs all samples'):
        dpq.partial_fit(X, y)
    assert dpq.set_params(trunk_input="auto").partial_fit(X, y).base_network_ is None


def test_what_goes_on_keeps_the_base_network(data, clf):
    X, y, X_test, _ = data
    before = clf.base_network_
    resumed = pickle.loads(pickle.dumps(clf)).set_params(warm_start=True, max_iter=1)
    assert_array_equal(resumed.encode(X_test), clf.encode(X_test))
    resumed.fit(X, y).partial_fit(X[:100], y[:100])
    for name in before:
        assert_array_equal(resumed.base_network_[name], before[name])
    assert (resumed.encode(X_test) != clf.encode(X_test)).any()


def test_the_base_network_has_not_seen_what_validates(data):
    X, y, X_test, y_test = data
    fit = clone(DPQClassifier(M=4, K=16, max_iter=2, random_state=0)).fit
    given = fit(X, y, X_val=X_test, y_val=y_test)
    plain = clone(given).fit(X, y)
    for name in plain.base_network_:
        assert_array_equal(given.base_network_[name], plain.base_network_[name])
    assert len(given.validation_scores_) == 2


@pytest.mark.parametrize(("trunk_input", "smoothing"), [("posterior", 0.0), ("features", 0.1)])
def test_labels_are_smoothed_and_a_posterior_is_not(data, trunk_input, smoothing):
    X, y = (array[:300] for array in data[:2])
    params = {"M": 2, "K": 4, "trunk_input": trunk_input, "max_iter": 1, "random_state": 0}
    default, same, other = (
        DPQTransformer(**params, label_smoothing=share).fit(X, y).loss_curve_["loss"]
        for share in ("auto", smoothing, 0.1 - smoothing)
    )
    assert default == same
    assert default != other


def test_the_posterior_is_learned_from_and_later_labels_are(data):
    X, y, *_ = data
    steps = []

    class Watched(DPQClassifier):
        @staticmethod
        def _make_step(network, objective, **how):
            steps.append((objective, network.dropout))
            return make_step(network, objective, **how)

    watched = Watched(M=2, K=4, max_iter=1, trunk_input="posterior", random_state=0).fit(X, y)
    watched.partial_fit(X[:300], y[:300])
    clone(watched).set_params(trunk_input="features").fit(X, y)
    assert [objective.distilled is not None for objective, _ in steps] == [True, False, False]
    assert [objective.label_smoothing for objective, _ in steps] == [0, 0.1, 0.1]
    assert [bool(dropout) for _, dropout in steps] == [False, False, True]


@pytest.mark.parametrize(
    ("trunk_input", "D", "trunk", "gini_batch_weight"), [("posterior", 32, (1024,), 8), ("features", 16, (256,), 2)]
)
def test_networks_of_a_posterior_are_wider(data, trunk_input, D, trunk, gini_batch_weight):
    X, y = (array[:300] for array in data[:2])
    params = {"M": 2, "K": 128, "trunk_input": trunk_input, "max_iter": 1, "random_state": 0}
    default = DPQTransformer(**params).fit(X, y)
    assert default.architecture_["hidden_layer_sizes"] == trunk
    assert default.architecture_["D"] == D
    own = DPQTransformer(**params, D=D, hidden_layer_sizes=trunk, gini_batch_weight=gini_batch_weight).fit(X, y)
    assert own.loss_curve_ == default.loss_curve_


@pytest.mark.parametrize(
    ("trunk_input", "batch_size", "rate"),
    [("posterior", 50, 0.01), ("posterior", 8, 0.005), ("features", 50, 0.003), ("features", 8, 0.003)],
)
def test_the_learning_rate_is_higher_for_a_posterior_but_not_for_tiny_batches(data, trunk_input, batch_size, rate):
    X, y = (array[:200] for array in data[:2])
    dpq = DPQTransformer(M=2, K=4, trunk_input=trunk_input, batch_size=batch_size, max_iter=2, random_state=0)
    default, own = (clone(dpq).set_params(learning_rate=value).fit(X, y) for value in ("auto", rate))
    assert default.loss_curve_ == own.loss_curve_
    once, own = (
        clone(dpq).set_params(learning_rate=value, trunk_input="auto").partial_fit(X, y) for value in ("auto", 0.003)
    )
    assert_array_equal(once.soft(X), own.soft(X))


@pytest.mark.parametrize(
    ("n_classes", "n_samples", "n_draws"),
    [
        *((60, 1, 38_400), (60, 1000, 38), (60, 19_200, 2), (60, 19_201, 1), (60, 10**6, 1)),
        *((10, 1000, 12), (10, 6400, 2), (10, 6401, 1)),
    ],
)
def test_posteriors_of_few_samples_are_drawn_more_than_once_where_epochs_are_not_given(n_classes, n_samples, n_draws):
    assert resolved(n_classes).n_draws(n_samples) == n_draws
    n_batches = -(-n_samples * n_draws // 256)
    assert resolved(n_classes).n_epochs(n_batches) >= 20
    assert resolved(n_classes, max_iter=5).n_draws(n_samples) == 1
    assert resolved(n_classes, distills=False).n_draws(n_samples) == 1


def test_codes_of_few_samples_are_learned_from_many_posteriors(data, monkeypatch):
    X, y, X_test, y_test = data
    clf = DPQClassifier(M=4, K=16, random_state=0)
    drawn = clone(clf).fit(X[:600], y[:600])
    monkeypatch.setattr(auto.Resolved, "n_draws", lambda *_: 1)
    assert drawn.score(X_test, y_test) > clf.fit(X[:600], y[:600]).score(X_test, y_test)
    assert len(drawn.loss_curve_["loss"]) < clf.n_iter_


@pytest.mark.parametrize(("n_batches", "rate"), [(None, 0.01), (1, 0.01), (79, 0.01), (300, 0.005), (10**6, 0.003)])
def test_the_learning_rate_for_a_posterior_is_in_proportion_to_batches_beyond_those_of_auto(n_batches, rate):
    assert resolved().learning_rate(256, n_batches) == pytest.approx(rate)
    settings = resolved(max_iter=20).settings(256 * 300, 300)
    assert settings.learning_rate == pytest.approx(0.005)
    assert resolved(distills=False).learning_rate(256, n_batches) == 0.003


@pytest.mark.parametrize(
    ("M", "K", "D", "n_classes", "expected"),
    [
        (8, 256, 32, 257, Distilled(1.5, 3.0)),
        (8, 256, 32, 256, Distilled()),
        (2, 64, 4, 64, Distilled(1.5, 3.0)),
        (2, 64, 4, 65, Distilled()),
        (8, 256, 32, 31, Distilled()),
        (8, 256, 32, 30, Distilled(4.0, 3.0, 3.0, 1 / 8)),
        (2, 16, 32, 30, Distilled(4.0, 3.0, 3.0, 1 / 8)),
        (2, 256, 4, 11, Distilled(1.5, 3.0)),
        (8, 256, 32, 11, Distilled(4.0, 3.0, 3.0, 1 / 8)),
        (8, 256, 32, 10, Distilled(4.0, 3.0, 3.0, 1.0)),
        (2, 64, 5, 10, Distilled(4.0, 3.0, 3.0, 1.0)),
        (2, 256, 4, 10, Distilled(1.5, 3.0)),
    ],
)
def test_centers_are_fixed_of_few_classes_and_crowded_of_more_than_dimensions_but_not_in_few_bits(
    M, K, D, n_classes, expected
):
    assert resolved(n_classes).distilled(M, K, D) == expected
    assert resolved(n_classes, distills=False).distilled(M, K, D) is None


@pytest.mark.parametrize(
    ("n_classes", "n_samples", "params", "reads"),
    [
        (2, 257, {}, True),
        (2, 256, {}, False),
        (10, 12_800, {}, True),
        (10, 12_801, {}, False),
        (10, 1000, {"max_iter": 100}, False),
        (10, 1000, {"trunk_input": "features"}, False),
        (10, 100, {"trunk_input": "posterior", "max_iter": 100}, True),
        (11, 100, {}, True),
        (11, 10**6, {"max_iter": 100}, True),
        (11, 100, {"trunk_input": "features"}, False),
        (0, 1000, {}, False),
    ],
)
def test_of_few_classes_a_posterior_is_read_where_samples_are_few_but_more_than_a_batch(
    n_classes, n_samples, params, reads
):
    assert auto.reads_posterior(DPQTransformer(**params), n_classes, n_samples, possible=True) is reads


@pytest.mark.parametrize(("n_classes", "squared_norm"), [(3, 2.0), (11, 0.25)])
def test_class_centers_are_spread_once_and_stay(n_classes, squared_norm):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 5)), np.arange(300) % n_classes
    dpq = DPQTransformer(M=2, K=4, random_state=0, warm_start=True).fit(X, y)
    centers = dpq.class_centers_
    assert_allclose(centers @ centers.T, squared_norm * np.eye(n_classes), atol=1e-6)
    assert_array_equal(dpq.fit(X, y).class_centers_, centers)


def test_codes_of_few_classes_and_samples_are_better_for_a_posterior():
    X, y = make_classification(2000, 20, n_informative=10, n_classes=5, flip_y=0.1, random_state=0)
    posterior = DPQClassifier(M=2, K=16, random_state=0).fit(X[:600], y[:600])
    features = clone(posterior).set_params(trunk_input="features").fit(X[:600], y[:600])
    queries, items = slice(600, 900), slice(900, None)
    assert posterior.score(X[items], y[items]) > features.score(X[items], y[items])
    for metric, gain in (("euclidean", 0.02), ("relevance", 0.05)):
        mAP, other = (
            DPQNeighbors(quantizer=FrozenEstimator(clf), metric=metric)
            .fit(X[items], y[items])
            .score(X[queries], y[queries])
            for clf in (posterior, features)
        )
        assert mAP > other + gain


def test_units_to_learn_from_are_of_features_some_of_which_are_dropped(data):
    X, y, *_ = data
    network, inputs = learn(X, y)
    inputs = inputs._replace(base=network)
    units = inputs._replace(generator=torch.Generator().manual_seed(3)).tensor(X)
    kept = torch.rand(X.shape, generator=torch.Generator().manual_seed(3)) >= 12 / (12 + 150)
    features = torch.from_numpy(((X - inputs.mean) / inputs.scale).astype(np.float32)) * kept / (150 / (12 + 150))
    assert_allclose(units.numpy() ** 2, softmax(logits_of(network.arrays(), features.numpy()), axis=1), atol=1e-5)
    dropped = base_network.drop(torch.ones(1000, 1000), torch.Generator().manual_seed(0))
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)


def test_features_are_dropped_where_a_posterior_is_learned_from_alone(data, monkeypatch):
    X, y, X_test, y_test = data
    clf = DPQClassifier(M=2, K=4, max_iter=1, random_state=0, early_stopping=True)
    n_dropped = []
    monkeypatch.setattr(base_network, "drop", lambda x, generator: n_dropped.append(len(x)) or x)
    monkeypatch.setattr(base_network, "_train", lambda samples, C, *_: make_network(12, C).requires_grad_(False).eval())
    monkeypatch.setattr(BaseNetwork, "mix", lambda *_: None)
    clf.fit(X, y, X_val=X_test, y_val=y_test)
    assert n_dropped == [len(X)]  # of the training samples once, and of those that validate never
    clf.encode(X_test)
    clf.partial_fit(X[:100], y[:100])
    assert n_dropped == [len(X)]
