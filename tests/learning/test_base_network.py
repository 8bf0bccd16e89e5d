"""The base network: its posterior by NumPy, its temperature, and fits whose trunk reads it."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_limits

from skdpq import DPQClassifier, DPQTransformer
from skdpq._learning import auto, batches, samples
from skdpq._learning.base_network import BaseNetwork, _calibrate, from_arrays, learn_base_network
from skdpq._learning.batches import InMemory, draw_labels, make_batches
from skdpq._learning.inputs import Inputs
from skdpq._learning.samples import weigh

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


def make_network(n_features=5, n_classes=4, temperature=1.0):
    network = BaseNetwork(n_features, n_classes)
    network.initialize(torch.Generator().manual_seed(0))
    network.temperature.fill_(temperature)
    return network


def learn(X, y, sample_weight=None, seed=0):
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    training = weigh(X, y, weight, np.arange(N_CLASSES), np.ones(N_CLASSES))
    inputs = Inputs(X.mean(0), X.std(0))
    return learn_base_network(training, N_CLASSES, inputs, CPU, torch.Generator().manual_seed(seed)), inputs


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_units_are_square_roots_of_the_posterior(temperature):
    network, X = make_network(temperature=temperature), np.random.default_rng(0).normal(size=(7, 5))
    a = network.arrays()
    hidden = np.maximum(X @ a["hidden.weight"].T + a["hidden.bias"], 0)
    logits = hidden @ a["output.weight"].T + X @ a["linear.weight"].T + a["linear.bias"]
    units = network.units(torch.from_numpy(X.astype(np.float32))).numpy()
    assert_allclose(units**2, softmax(logits / temperature, axis=1), rtol=1e-5)


def test_arrays_make_the_same_network():
    network, x = make_network(temperature=0.7), torch.randn(3, 5)
    assert_array_equal(from_arrays(network.arrays()).units(x), network.units(x))
    assert from_arrays(None) is None


@given(temperature=st.floats(0.3, 1.8), seed=st.integers(0, 2**32 - 1))
def test_the_temperature_is_that_of_the_labels(temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(20_000, 5, generator=generator)
    y = draw_labels(torch.softmax(logits / temperature, dim=1).sqrt(), generator)
    weight = torch.ones(len(y))
    assert _calibrate(logits, y, weight) == pytest.approx(temperature, rel=0.08)
    weight[: len(y) // 2] = 0
    wrong = torch.cat([torch.zeros_like(y[: len(y) // 2]), y[len(y) // 2 :]])  # which weigh nothing
    assert _calibrate(logits, wrong, weight) == pytest.approx(temperature, rel=0.12)


def test_it_classifies_as_well_as_discriminant_analysis_and_is_calibrated(data):
    X, y, X_test, y_test = data
    network, inputs = learn(X, y)
    posterior = inputs._replace(base=network).tensor(X_test).numpy() ** 2
    correct = posterior.argmax(1) == y_test
    discriminant = LinearDiscriminantAnalysis().fit(X, y)  # which these samples suit best
    assert correct.mean() > discriminant.score(X_test, y_test) - 0.03
    assert posterior.max(1).mean() == pytest.approx(correct.mean(), abs=0.03)


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


def test_labels_are_drawn_from_the_posterior(monkeypatch):
    monkeypatch.setattr(batches, "_DRAWN_ROWS", 1000)
    posterior = torch.tensor([[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]).repeat_interleave(20_000, 0)
    y = draw_labels(posterior.sqrt(), torch.Generator().manual_seed(0))
    frequencies = [np.bincount(half, minlength=3) / len(half) for half in y.reshape(2, -1)]
    assert_allclose(frequencies, [[0.1, 0.2, 0.7], [0, 1, 0]], atol=0.01)


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_epoch_draws_labels_anew(data, monkeypatch, in_memory):
    monkeypatch.setattr(samples, "IN_MEMORY_BYTES", 2**28 if in_memory else 1000)
    X, y, *_ = data
    network, inputs = learn(X[:300], y[:300])
    inputs = inputs._replace(base=network)
    training = weigh(X, np.zeros_like(y), np.ones(len(X)), np.arange(N_CLASSES), np.ones(N_CLASSES))
    source, generator = make_batches(training, 100, inputs, torch.float32, CPU, draws_labels=True), torch.Generator()
    assert isinstance(source, InMemory) == in_memory
    assert source.epoch(generator).__next__()[0].shape[1] == N_CLASSES
    drawn = []
    for _ in range(2):
        labels = {}
        for units, y_drawn, _, batch in source.epoch(generator):
            for unit, label in zip(units[batch].numpy(), y_drawn[batch].tolist(), strict=True):
                labels[unit.tobytes()] = label
                assert unit[label] > 0
        drawn.append(labels)
    assert drawn[0].keys() == drawn[1].keys()
    changed = np.mean([drawn[0][key] != drawn[1][key] for key in drawn[0]])
    posterior = inputs.tensor(X).numpy() ** 2
    assert changed == pytest.approx(1 - (posterior**2).sum(1).mean(), abs=0.05)


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
    few = y < auto._POSTERIOR_CLASSES - 1
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
def test_labels_are_smoothed_unless_they_are_drawn(data, trunk_input, smoothing):
    X, y = (array[:300] for array in data[:2])
    params = {"M": 2, "K": 4, "trunk_input": trunk_input, "max_iter": 1, "random_state": 0}
    default, same, other = (
        DPQTransformer(**params, label_smoothing=share).fit(X, y).loss_curve_["loss"]
        for share in ("auto", smoothing, 0.1 - smoothing)
    )
    assert default == same
    assert default != other
