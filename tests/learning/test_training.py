"""The loop: schedule, plateau, best weights, class centers, divergence, random state."""

import re
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

from skdpq import DPQClassifier, DPQTransformer
from skdpq._learning.batches import InMemory
from skdpq._learning.losses import SUPERVISED, TERMS
from skdpq._learning.network import DPQNetwork
from skdpq._learning.step import make_step
from skdpq._learning.training import Learner, Plateau, Schedule, Settings, accuracy, train, train_one_pass

WEIGHTED = [name for name in TERMS if name != "preservation"]
SMALL = {"M": 2, "K": 8, "hidden_layer_sizes": (16,), "random_state": 0}


@pytest.mark.parametrize("warm_up", [0.1, 0.3])
def test_schedule_rises_stays_and_falls_to_zero(warm_up):
    schedule = Schedule(20, warm_up)
    factors = [schedule.factor(t) for t in np.linspace(0, 20, 201)]
    assert factors[0] == 0
    assert max(factors) == 1
    assert factors[int(50 * warm_up)] == pytest.approx(0.5)  # the constant phase is ten epochs
    assert factors[int(100 * warm_up)] == pytest.approx(1)
    assert schedule.warms_up(10 * warm_up - 0.1)
    assert not schedule.warms_up(10 * warm_up + 0.1)
    assert factors[100] == 1
    assert_allclose(factors[150], 0.5)
    assert factors[-1] == pytest.approx(0)
    assert np.all(np.diff(factors[:101]) >= 0)
    assert np.all(np.diff(factors[100:]) <= 0)


def test_a_plateau_starts_a_decay_as_long_as_what_came_before_it():
    schedule = Schedule(100)
    schedule.start_decay(7)
    assert schedule.n_iter == 14
    assert schedule.factor(7) == 1
    assert schedule.factor(10.5) == pytest.approx(0.5)
    schedule.start_decay(9)  # it has begun already
    assert schedule.n_iter == 14


def test_a_plateau_is_epochs_in_a_row_without_an_improvement_by_tol():
    plateau = Plateau(tol=0.5, n_iter_no_change=3)
    seen = []
    for progress in (1.0, 1.4, 1.4, 2.0, 2.4, 2.1, 3.0, 1.0, 1.0, 1.0, 9.0):
        seen.append((plateau.update(progress), plateau.reached))
    assert [best for best, _ in seen] == [True, True, False, True, True, False, True, False, False, False, True]
    assert [reached for _, reached in seen] == [False] * 9 + [True] * 2


class Step:
    """A training step that learns nothing; a loss for each epoch is given. It also takes the callbacks' calls."""

    def __init__(self, losses):
        self.losses, self.learning_rates, self.n_epochs = losses, [], 0

    def __call__(self, X, y, weight, batch, learning_rate):
        self.learning_rates.append(learning_rate)
        return torch.tensor([self.losses[self.n_epochs], *[0.0] * (len(TERMS) - 1)])

    def begin_epoch(self):
        pass

    def end_epoch(self):
        self.n_epochs += 1


def make_learner(step, n=50, batch_size=7):
    network = DPQNetwork(4, 3, M=2, K=4, D=2, hidden_layer_sizes=(), part_layer_sizes=())
    network.initialize(torch.Generator().manual_seed(0))
    batches = InMemory(torch.zeros(n, 4), torch.zeros(n, dtype=torch.int64), torch.ones(n), batch_size)
    return Learner(network, batches, step, dict.fromkeys(TERMS, 1.0), None, torch.Generator().manual_seed(0))


def test_a_plateau_of_the_loss_starts_the_fall_of_the_learning_rate():
    losses = [5.0, 4.0, 3.0, 2.95, 2.91, 2.9, 2.9, *[1.0] * 9]  # the fourth to seventh do not improve by 0.1
    step = Step(losses)
    history = train(make_learner(step), Settings(2.0, 100, 0.1, 0.1, 3), None, step)
    assert history.loss_curve["loss"] == pytest.approx(losses[:14])
    times = np.add.outer(np.arange(14), np.arange(1, 9) / 9).ravel()  # eight batches an epoch
    # It rises over a tenth of 50 epochs, of which the fourth does not count.
    expected = np.where(times < 7, np.minimum(1, times / 5), 2 - times / 7)
    assert_allclose(step.learning_rates, 2 * expected)


def test_a_pass_has_one_learning_rate():
    step = Step([3.0])
    terms = train_one_pass(make_learner(step), 0.3)
    assert terms == pytest.approx(dict.fromkeys(TERMS, 0) | {"loss": 3, TERMS[0]: 3})
    assert step.learning_rates == [0.3] * 8


def test_terms_are_means_over_the_samples_and_the_loss_is_their_weighted_sum():
    def step(X, y, weight, batch, learning_rate):
        return len(batch) * torch.arange(1.0, 1 + len(TERMS))

    learner = make_learner(step, n=10, batch_size=4)  # batches of 4, 3 and 3 samples
    terms = learner._replace(loss_weights={name: 10.0**i for i, name in enumerate(TERMS)}).learn(lambda time: 0.1)
    means = {name: (i + 1) * (4 * 4 + 3 * 3 + 3 * 3) / 10 for i, name in enumerate(TERMS)}
    assert terms == pytest.approx({"loss": sum(10**i * mean for i, mean in enumerate(means.values()))} | means)


def test_accuracy_is_the_share_of_the_weight_that_is_predicted_correctly():
    generator = torch.Generator().manual_seed(0)
    network = DPQNetwork(4, 3, M=2, K=4, D=2, hidden_layer_sizes=(), part_layer_sizes=(), dropout=0.9)
    network.initialize(generator)
    X, y = torch.randn(23, 4, generator=generator), torch.randint(3, (23,), generator=generator)
    weight = torch.rand(23, generator=generator)
    score = accuracy(network.train(), X, y, weight, batch_size=5)
    assert not network.training
    right = [bool(network.classifier(network(x[None]).hard).argmax() == label) for x, label in zip(X, y, strict=True)]
    assert 0 < sum(right) < 23
    assert score == pytest.approx(float(weight[right].sum() / weight.sum()))
    assert score != pytest.approx(sum(right) / 23)


def test_training_stops_early_on_a_plateau_and_not_before():
    X, y = make_blobs(60, centers=3, random_state=0)
    patient = DPQTransformer(**SMALL, max_iter=60, tol=0.0, n_iter_no_change=60).fit(X, y)
    assert patient.n_iter_ == 60
    hasty = DPQTransformer(**SMALL, max_iter=60, tol=1e3, n_iter_no_change=5).fit(X, y)
    # The rate rises for two epochs, in which there is no plateau; then five do not improve, and the decay is as long.
    assert hasty.n_iter_ == 14


def test_loss_curve_names_every_term_of_the_objective():
    X, y = make_blobs(60, centers=3, random_state=0)
    weights = {f"{name}_weight": 0.1 * (i + 1) for i, name in enumerate(WEIGHTED)}
    dpq = DPQTransformer(**SMALL, max_iter=7, supervision=0.7, **weights).fit(X, y)
    assert set(dpq.loss_curve_) == {"loss", *TERMS}
    assert all(len(values) == dpq.n_iter_ == 7 for values in dpq.loss_curve_.values())
    factors = dict.fromkeys(SUPERVISED, 0.7) | {"gini_batch": 1, "gini_sample": 1}
    weighted = sum(factors[name] * weights[f"{name}_weight"] * np.array(dpq.loss_curve_[name]) for name in WEIGHTED)
    assert_allclose(dpq.loss_curve_["loss"], weighted + 0.3 * np.array(dpq.loss_curve_["preservation"]))
    assert dpq.loss_curve_["loss"][-1] < dpq.loss_curve_["loss"][0]


@pytest.mark.parametrize("name", TERMS)
def test_each_term_alone_is_lowered_by_training(name):
    X, y = make_blobs(120, centers=3, random_state=0)
    weights = {f"{other}_weight": float(other == name) for other in WEIGHTED}
    dpq = DPQTransformer(**SMALL, max_iter=40, supervision=float(name != "preservation"), **weights).fit(X, y)
    assert dpq.loss_curve_["loss"] == dpq.loss_curve_[name]
    least = {"gini_batch": 1 / 8, "gini_sample": -1.0}.get(name, 0.0)
    assert dpq.loss_curve_[name][-1] - least < 0.9 * (dpq.loss_curve_[name][0] - least)


def test_early_stopping_keeps_the_weights_that_scored_best(digits):
    X, _, y, _ = digits
    clf = DPQClassifier(M=4, K=16, random_state=0, early_stopping=True, max_iter=12, learning_rate=0.02).fit(X, y)
    assert len(clf.validation_scores_) == clf.n_iter_
    # The same draws as in fit: a seed for the generator, then the split.
    random_state = np.random.RandomState(0)
    random_state.randint(2**31 - 1)
    held_out = train_test_split(np.arange(len(y)), test_size=0.1, stratify=y, random_state=random_state)[1]
    assert accuracy_score(y[held_out], clf.predict(X[held_out])) == pytest.approx(max(clf.validation_scores_))
    assert DPQClassifier(M=4, K=16, max_iter=1).fit(X, y).validation_scores_ is None


def test_class_centers_lie_between_the_means_of_soft_and_hard():
    X, y = make_blobs(90, centers=3, random_state=0)
    dpq = DPQTransformer(**SMALL, max_iter=300).fit(X, y)
    codes = dpq.encode(X)
    for c, center in enumerate(dpq.class_centers_):
        mean = 0.5 * (dpq.soft(X[y == c]) + dpq.decode(codes[y == c])).mean(0)
        assert np.linalg.norm(center - mean) < 0.15 * np.linalg.norm(mean)


def test_divergence_is_an_error_and_leaves_the_estimator_as_it_was():
    X, y = make_blobs(60, centers=3, random_state=0)
    dpq = DPQTransformer(**SMALL, max_iter=5).fit(X, y)
    before = dict(vars(dpq))
    dpq.set_params(learning_rate=1e30)
    with pytest.raises(ValueError, match="loss became"):
        dpq.fit(X.astype(np.float32), y)
    dpq.set_params(learning_rate=before["learning_rate"])
    assert vars(dpq) == before


def test_random_state_decides_everything_and_global_generators_are_left_alone(digits):
    X, X_test, y, _ = digits
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (DPQTransformer(M=4, K=16, max_iter=2, random_state=s).fit(X, y) for s in (1, 1, 2))
    assert_array_equal(first.encode(X_test), second.encode(X_test))
    assert_array_equal(first.soft(X_test), second.soft(X_test))
    assert (first.encode(X_test) != other.encode(X_test)).any()
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_verbose_prints_every_term_once_an_epoch(capsys):
    X, y = make_blobs(60, centers=3, random_state=0)
    DPQTransformer(**SMALL, max_iter=3, verbose=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for epoch, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"Epoch {epoch}/3  loss \S+" + "".join(rf"  {name} \S+" for name in TERMS), line)
    DPQTransformer(**SMALL, max_iter=3).fit(X, y)
    assert capsys.readouterr().out == ""


def test_the_scale_of_the_weights_does_not_matter_and_their_ratios_do(digits):
    X, _, y, _ = digits
    ratios = np.random.default_rng(0).uniform(0.1, 2.0, len(y))
    plain, scaled, ones, sevens = (
        DPQTransformer(M=2, K=8, max_iter=2, batch_size=256, random_state=0).fit(X, y, w)
        for w in (ratios, 7 * ratios, np.ones(len(y)), np.full(len(y), 7.0))
    )
    for one, other in ((plain, scaled), (ones, sevens)):
        for name in TERMS:  # AdamW hides a scale of the loss, but its curve does not
            assert_allclose(one.loss_curve_[name], other.loss_curve_[name], rtol=1e-4, atol=1e-6)
        assert_allclose(one.soft(X[:9]), other.soft(X[:9]), rtol=1e-3, atol=1e-4)
    assert abs(plain.loss_curve_["loss"][0] - ones.loss_curve_["loss"][0]) > 1e-3


def test_fit_emits_no_warning(digits):
    X, _, y, _ = digits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DPQTransformer(M=3, K=5).fit(X[:99], y[:99]).transform(X)


class RecordingTransformer(DPQTransformer):
    """A DPQTransformer that keeps the learning rates its steps were given."""

    def _make_step(self, *args, **kwargs):
        step, rates = make_step(*args, **kwargs), self.rates

        class Recording:
            def __enter__(self):
                step.__enter__()
                return self

            def __exit__(self, *exception):
                return step.__exit__(*exception)

            def stop(self):
                step.stop()

            def __call__(self, *batch):
                rates.append(batch[-1])
                return step(*batch)

        return Recording()


@pytest.mark.parametrize(("trunk_input", "warm_up"), [("features", 0.1), ("posterior", 0.2)])
def test_the_schedule_is_followed_within_each_epoch(trunk_input, warm_up):
    X, y = make_blobs(60, centers=3, random_state=0)
    dpq = RecordingTransformer(**SMALL, batch_size=10, max_iter=10, learning_rate=0.01, trunk_input=trunk_input)
    dpq.rates = []
    dpq.fit(X, y)
    schedule = Schedule(10, warm_up)
    times = [epoch + (i + 1) / 7 for epoch in range(10) for i in range(6)]  # 6 batches an epoch
    assert_allclose(dpq.rates, [0.01 * schedule.factor(time) for time in times])
    assert len(np.unique(dpq.rates[-12:])) == 12
