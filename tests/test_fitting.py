"""Fitting in parts, on data that are streamed, with validation data, interrupted, resumed, and watched."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import coo_matrix, csr_array
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq._learning import auto
from skdpq._learning.base_network import BaseNetwork
from skdpq._learning.batches import InMemory, Streamed, make_batches
from skdpq._learning.inputs import Inputs
from skdpq._learning.samples import Samples
from skdpq._progress import printed_blocks


@pytest.fixture(scope="module")
def digits():
    return train_test_split(*load_digits(return_X_y=True), test_size=500, random_state=0)


# Batches


def gathered(batches):
    """Return X, y and weight of each batch."""
    return [[tensor[batch] for tensor in tensors] for *tensors, batch in batches]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_an_epoch_of_streamed_batches_visits_each_sample_with_weight_once(batch_size, monkeypatch):
    monkeypatch.setattr("skdpq._learning.batches._CHUNK_BYTES", 4 * 3 * 10)  # ten samples
    monkeypatch.setattr("skdpq._learning.batches._MIXED_CHUNKS", 4)
    rng = np.random.default_rng(0)
    X, y, weight = np.arange(300.0).reshape(100, 3), np.arange(100), rng.integers(0, 3, 100).astype(float)
    streamed = Streamed(X, y, weight, X[0].size, batch_size, torch.from_numpy, torch.device("cpu"))
    kept = np.flatnonzero(weight)
    assert len(streamed) == len(kept)
    orders = []
    for seed in range(2):
        batches = gathered(streamed.epoch(torch.Generator().manual_seed(seed)))
        assert all(1 <= len(batch[1]) <= batch_size for batch in batches)
        order = np.concatenate([batch[1].numpy() for batch in batches])
        assert_array_equal(np.sort(order), kept)
        assert_array_equal(np.concatenate([batch[0].numpy() for batch in batches]), X[order])
        assert_array_equal(np.concatenate([batch[2].numpy() for batch in batches]), weight[order])
        orders.append(order)
    assert not np.array_equal(*orders)


def test_an_epoch_in_memory_visits_each_sample_once():
    y = torch.arange(100)
    batches = gathered(InMemory(y[:, None] * 2.0, y, y + 1.0, 7).epoch(torch.Generator()))
    order = torch.cat([batch[1] for batch in batches])
    assert_array_equal(np.sort(order), y)
    assert max(len(batch[1]) for batch in batches) <= 7
    assert_array_equal(torch.cat([batch[0] for batch in batches])[:, 0], order * 2)


def test_an_epoch_of_several_draws_visits_each_sample_as_often_with_other_features_dropped():
    X = np.random.default_rng(0).normal(size=(100, 200)).astype(np.float32)  # of which 30 % are dropped
    base = BaseNetwork(200, 5)
    base.initialize(torch.Generator().manual_seed(0))
    drawing, again = (torch.Generator().manual_seed(0) for _ in range(2))
    inputs = Inputs(None, None, base=base.requires_grad_(False), generator=drawing)
    samples = Samples(X, np.arange(100), np.ones(100), 1.0 + np.arange(100))
    batches = make_batches(samples, 7, inputs, torch.float32, torch.device("cpu"), n_draws=3)
    assert len(batches) == 300
    seen, y, weight = (torch.cat(t) for t in zip(*gathered(batches.epoch(torch.Generator())), strict=True))
    assert_array_equal(np.bincount(y), np.full(100, 3))
    assert_array_equal(weight, 1.0 + y)
    expected = torch.stack([base.units(torch.from_numpy(X), again) for _ in range(3)], dim=1)
    for label in range(100):
        draws = np.unique(expected[label], axis=0)
        assert len(draws) == 3
        assert_array_equal(np.unique(seen[y == label], axis=0), draws)


def test_each_epoch_in_memory_has_an_order_of_its_own():
    y, generator = torch.arange(100), torch.Generator()
    batches = InMemory(y[:, None] * 2.0, y, y + 1.0, 7)
    orders = [torch.cat([batch[1] for batch in gathered(batches.epoch(generator))]) for _ in range(2)]
    for first, second in [orders, (orders[0], y), (orders[1], y)]:
        assert not torch.equal(first, second)


@pytest.mark.parametrize("n_mixed", [2, 100])
def test_streamed_batches_mix_samples_of_chunks_from_all_over(n_mixed, monkeypatch):
    monkeypatch.setattr("skdpq._learning.batches._MIXED_CHUNKS", n_mixed)
    X = np.broadcast_to(np.arange(64.0)[:, None], (64, 1024))  # a chunk is four such rows
    streamed = Streamed(X, np.arange(64), np.ones(64), X[0].size, 8, torch.from_numpy, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    orders = [np.concatenate([batch[1] for batch in gathered(streamed.epoch(generator))]) for _ in range(2)]
    assert not np.array_equal(*orders)
    for order in orders:
        assert_array_equal(np.sort(order), np.arange(64))
        assert (np.diff(order) == 1).sum() < 16  # of the 48 of neighbours within chunks
        chunks = (order // 4).reshape(-1, 8)  # of each batch
        assert (np.ptp(chunks, axis=1) > 1).mean() > 0.5  # chunks that do not follow each other


@pytest.mark.parametrize("n_mixed", [1, 4])
def test_chunks_without_weight_are_never_read(n_mixed, monkeypatch):
    monkeypatch.setattr("skdpq._learning.batches._CHUNK_BYTES", 4 * 3 * 10)  # ten samples
    monkeypatch.setattr("skdpq._learning.batches._MIXED_CHUNKS", n_mixed)
    X, weight, read = np.arange(300.0).reshape(100, 3), np.zeros(100), []
    weight[[0, 31, 35, 99]] = 1  # of the first chunk, of the fourth, and of the last

    def convert(rows):
        read.extend(rows[:, 0] / 3)
        return torch.from_numpy(rows)

    streamed = Streamed(X, np.arange(100), weight, 3, 2, convert, torch.device("cpu"))
    batches = gathered(streamed.epoch(torch.Generator().manual_seed(0)))
    assert len(streamed) == 4
    assert sorted(np.concatenate([batch[1] for batch in batches])) == [0, 31, 35, 99]
    assert sorted(read) == [*range(10), *range(30, 40), *range(90, 100)]


class Record:
    """An augmentation that changes nothing, and keeps what it sees."""

    def __init__(self):
        self.batches = []

    def __call__(self, x):
        self.batches.append(x.clone())
        return x


def in_any_order(rows):
    return np.sort(np.asarray(rows, dtype=np.float64).sum(1))


@pytest.mark.parametrize("weighted", [False, True])
def test_all_of_many_samples_are_standardised_and_learned_from(weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 3)) + np.arange(20_000)[:, None] / 1000  # the last differ from the first
    weight = rng.integers(1, 4, 20_000) if weighted else np.ones(20_000)
    augment = Record()
    dpq = DPQTransformer(M=1, K=2, D=1, hidden_layer_sizes=(), part_layer_sizes=(), batch_size=5000, max_iter=1)
    dpq.set_params(augment=augment).fit(X, np.arange(20_000) % 2, sample_weight=weight if weighted else None)
    mean = np.average(X, axis=0, weights=weight)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    assert_allclose(dpq.mean_, mean, rtol=1e-10)
    assert_allclose(dpq.scale_, scale, rtol=1e-10)
    assert_allclose(in_any_order(torch.cat(augment.batches)), in_any_order((X - mean) / scale), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streaming_a_memory_map_is_as_good_as_memory(digits, dtype, tmp_path, monkeypatch):
    X, X_test, y, y_test = digits
    order = np.argsort(y, kind="stable")  # the worst order on disk
    X, y = X[order].astype(dtype), y[order]
    np.save(tmp_path / "X.npy", X)
    clf = DPQClassifier(M=4, K=16, max_iter=40, random_state=0)
    in_memory = clone(clf).fit(X, y).score(X_test, y_test)
    monkeypatch.setattr("skdpq._learning.samples.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("skdpq._learning.batches._CHUNK_BYTES", 4 * 64 * 16)
    streamed = clf.fit(np.load(tmp_path / "X.npy", mmap_mode="r"), y)
    assert streamed.parameters_["codebooks"].dtype == np.float32
    assert streamed.score(X_test, y_test) > in_memory - 0.02


# Validation


def test_given_validation_data_choose_the_weights(digits):
    X, X_val, y, y_val = digits
    clf = DPQClassifier(M=2, K=4, max_iter=12, random_state=0).fit(X, y, X_val=X_val, y_val=y_val)
    assert len(clf.validation_scores_) == clf.n_iter_
    assert clf.score(X_val, y_val) == pytest.approx(max(clf.validation_scores_))
    assert DPQClassifier(M=2, K=4, max_iter=2, random_state=0).fit(X, y).validation_scores_ is None


def test_weights_of_validation_samples_count(digits):
    X, X_val, y, y_val = digits
    weight = (y_val < 5).astype(float)
    clf = DPQClassifier(M=2, K=4, max_iter=5, random_state=0)
    clf.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=weight)
    assert clf.score(X_val, y_val, sample_weight=weight) == pytest.approx(max(clf.validation_scores_))


def held_out_of(y, fraction):
    """Return what is held out with random_state=0, which draws a seed before the split."""
    random_state = np.random.RandomState(0)
    random_state.randint(2**31 - 1)
    split = train_test_split(np.arange(len(y)), test_size=fraction, stratify=y, random_state=random_state)
    return split[1]


@pytest.mark.parametrize("params", [{}, {"backbone": torch.nn.Identity()}, {"batch_size": 2000}])
def test_nothing_is_learned_from_held_out_samples(digits, params):
    X, _, y, _ = digits
    held_out = held_out_of(y, 0.1)
    swapped = X.copy()
    swapped[held_out] = X[held_out[::-1]]  # which moves no mean, no variance and no label
    params = {"M": 2, "K": 4, "early_stopping": True, "random_state": 0} | params
    curves, soft = [], []
    for samples in (X, swapped):
        curves.append(DPQClassifier(**params, max_iter=4).fit(samples, y).loss_curve_)
        soft.append(DPQClassifier(**params, max_iter=1).fit(samples, y).soft(X))
    for name, curve in curves[0].items():
        assert_allclose(curve, curves[1][name], rtol=1e-4, atol=1e-7)
    assert_allclose(*soft, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.1, 0.4])
@pytest.mark.parametrize("weighted", [False, True])
def test_held_out_samples_score_by_their_weights(digits, fraction, weighted):
    X, _, y, _ = digits
    weight = np.where(y < 5, 4.0, 1.0) if weighted else None
    clf = DPQClassifier(M=2, K=4, max_iter=6, early_stopping=True, validation_fraction=fraction, random_state=0)
    clf.fit(X, y, sample_weight=weight)
    held_out = held_out_of(y, fraction)
    weight = weight[held_out] if weighted else None
    score = accuracy_score(y[held_out], clf.predict(X[held_out]), sample_weight=weight)
    assert score == pytest.approx(max(clf.validation_scores_))
    assert len(set(clf.validation_scores_)) > 1


@pytest.mark.parametrize(
    ("params", "fit", "message"),
    [
        ({}, {"X_val": np.ones((3, 64))}, "y_val was not provided"),
        ({}, {"y_val": [0, 1, 2]}, "X_val was not provided"),
        ({}, {"X_val": np.ones((3, 64)), "y_val": [0, 1, 99]}, r"y_val to hold labels .*got \[99\]"),
        ({}, {"X_val": np.ones((3, 63)), "y_val": [0, 1, 2]}, "64 features"),
        ({}, {"X_val": np.full((3, 64), np.nan), "y_val": [0, 1, 2]}, "NaN"),
        ({}, {"X_val": np.ones((3, 64)), "y_val": [0, 1]}, "inconsistent"),
        ({}, {"X_val": np.ones((3, 64)), "y_val": [0, 1, 2], "sample_weight_val": [1, 1, -1]}, "[Nn]egative"),
        ({}, {"X_val": np.ones((3, 64)), "y_val": [0, 1, 2], "sample_weight_val": [0, 0, 0]}, "zero"),
        ({}, {"X_val": np.ones((3, 64)), "y_val": [0, 1, 2], "sample_weight_val": [1, 1]}, "shape|inconsistent"),
        ({"early_stopping": False}, {"X_val": np.ones((3, 64)), "y_val": [0, 1, 2]}, "early_stopping"),
    ],
)
def test_bad_validation_data_are_refused(digits, params, fit, message):
    X, _, y, _ = digits
    clf = DPQClassifier(M=2, K=4, **params)
    with pytest.raises(ValueError, match=message):
        clf.fit(X, y, **fit)
    assert not hasattr(clf, "classes_")


# Stopping, and going on


def test_reaching_max_iter_without_a_plateau_warns(digits):
    X, _, y, _ = digits
    with pytest.warns(ConvergenceWarning, match="max_iter=2 epochs"):
        DPQTransformer(M=2, K=4, max_iter=2).fit(X, y)


@pytest.mark.parametrize(
    ("params", "explicit"),
    [
        ({"K": 16}, {"gini_batch_weight": 1.0}),
        ({"K": 64}, {"gini_batch_weight": 1.0}),
        ({"K": 96}, {"gini_batch_weight": 1.5}),
        ({"K": 256}, {"gini_batch_weight": 4.0}),
        ({"batch_size": 100}, {"dropout": 64 / 814}),
        ({"batch_size": 1297}, {"dropout": 0.0}),
    ],
)
def test_auto_is_what_its_documentation_says(digits, params, explicit):
    X, _, y, _ = digits
    params = {"M": 2, "K": 16, "max_iter": 2, "random_state": 0} | params
    ((name, value),) = explicit.items()
    default, same, other = (
        DPQTransformer(**params).set_params(**{name: value}).fit(X, y).soft(X) for value in ("auto", value, value + 0.3)
    )
    assert_array_equal(default, same)
    assert not np.array_equal(default, other)


def test_auto_drops_half_of_many_features_at_most():
    X = np.random.default_rng(0).normal(size=(90, 900)).astype(np.float32)
    params = {"M": 2, "K": 4, "hidden_layer_sizes": (8,), "batch_size": 50, "max_iter": 2, "random_state": 0}
    default, half, other = (DPQTransformer(**params, dropout=d).fit(X, np.arange(90) % 3) for d in ("auto", 0.5, 0.55))
    assert_array_equal(default.soft(X), half.soft(X))
    assert not np.array_equal(default.soft(X), other.soft(X))


@pytest.mark.parametrize(
    ("batch_size", "max_iter", "n_classes", "trunk_input", "decay"),
    [
        (325, 40, 3, "features", 0.2),  # 2 batches an epoch, 80 in all
        (325, 500, 3, "features", 0.2),  # 1,000
        (325, 600, 3, "features", 0.2 / 1.2),  # 1,200
        (13, "auto", 3, "features", 0.2),  # 50 an epoch, 20 epochs
        (5, "auto", 3, "features", 0.2 * 8 / 20),  # 130 an epoch, of which 8 epochs make 1,000
        (5, 40, 3, "features", 0.2 * 8 / 40),
        (13, 40, 3, "posterior", 0.2 * 20 / 40),
        (13, 80, 25, "posterior", 0.2 * 60 / 80),  # of 25 classes: 3,000
    ],
)
def test_auto_weight_decay_falls_with_the_batches_beyond_a_thousand(
    batch_size, max_iter, n_classes, trunk_input, decay
):
    X = np.random.default_rng(0).normal(size=(650, 6)).astype(np.float32)
    y = np.arange(len(X)) % n_classes
    sizes = {"M": 2, "K": 4, "D": 2, "hidden_layer_sizes": (4,), "part_layer_sizes": (), "n_iter_no_change": 10_000}
    schedule = {"batch_size": batch_size, "max_iter": max_iter, "early_stopping": False, "random_state": 0}
    dpq = DPQTransformer(**sizes, **schedule, trunk_input=trunk_input)
    default, same, other = (
        clone(dpq).set_params(weight_decay=value).fit(X, y).soft(X) for value in ("auto", decay, 1.5 * decay)
    )
    assert_array_equal(default, same)
    assert not np.array_equal(default, other)


def test_auto_weight_decay_of_a_pass_or_beside_labels_does_not_depend_on_the_samples(digits):
    X, _, y, _ = digits
    sizes = {"M": 2, "K": 4, "hidden_layer_sizes": (4,), "random_state": 0}
    both = "auto", 0.2
    default, same = (DPQTransformer(**sizes, batch_size=1, weight_decay=d).partial_fit(X, y).soft(X) for d in both)
    assert_array_equal(default, same)
    sizes |= {"batch_size": 10, "max_iter": 9}  # 130 batches an epoch
    for supervision, labels in ((0.5, y), (1.0, None)):
        default, same = (
            DPQTransformer(**sizes, supervision=supervision, weight_decay=d).fit(X, labels).soft(X) for d in both
        )
        assert_array_equal(default, same)


def test_auto_epochs_are_a_thousand_batches_at_least_twenty(digits):
    X, _, y, _ = digits
    for batch_size, n_epochs in ((650, 500), (13, 20)):
        schedule = {"batch_size": batch_size, "tol": 0, "n_iter_no_change": 1000}
        dpq = DPQTransformer(M=2, K=4, **schedule, hidden_layer_sizes=(4,), trunk_input="features")
        assert dpq.fit(X, y).n_iter_ == n_epochs


@pytest.mark.parametrize(
    ("n_samples", "max_iter", "batch_size"), [(1000, "auto", 256), (1000, 10, 10), (100, 10, 4), (50_000, 10, 256)]
)
def test_auto_batches_of_given_epochs_are_a_thousand_and_of_4_to_256_samples(n_samples, max_iter, batch_size):
    assert auto.Resolved(DPQTransformer(max_iter=max_iter), 2, distills=False).batch_size(n_samples) == batch_size
    y = np.arange(n_samples) % 2
    dpq = DPQTransformer(M=1, K=2, D=1, hidden_layer_sizes=(), part_layer_sizes=(), max_iter=1, random_state=0)
    X = np.random.default_rng(0).normal(size=(n_samples, 2)).astype(np.float32)
    same, other = (
        clone(dpq).set_params(batch_size=size).fit(X, y).soft(X[:9]) for size in (max(4, n_samples // 1000), 999)
    )
    assert_array_equal(clone(dpq).fit(X, y).soft(X[:9]), same)
    assert not np.array_equal(same, other)


@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer, load_iris])
def test_ten_epochs_are_enough_for_better_codes_than_without_labels(load):
    X, X_test, y, y_test = train_test_split(*load(return_X_y=True), test_size=0.4, random_state=0)
    K = min(256, len(X))
    supervised = DPQNeighbors(quantizer=DPQTransformer(K=K, max_iter=10, random_state=0)).fit(X, y)
    pq = DPQNeighbors(quantizer=ProductQuantizer(M=min(8, X.shape[1]), K=K, random_state=0)).fit(X, y)
    assert supervised.score(X_test, y_test) > pq.score(X_test, y_test)


@pytest.mark.parametrize("seed", range(3))
def test_no_plateau_ends_the_fit_of_small_data_while_the_learning_rate_rises(seed):
    X, y = load_iris(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=seed)
    neighbors = DPQNeighbors(quantizer=DPQTransformer(M=4, K=64, random_state=seed)).fit(X, y)
    assert neighbors.score(X_test, y_test) > 0.95  # PQ has 0.89


class Interrupt:
    """A callback that raises or stops after some epochs."""

    def __init__(self, n, exception=None):
        self.n, self.exception, self.n_begun = n, exception, 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.torn_down = True

    def on_fit_task_begin(self, estimator, context):
        self.n_begun += context.task_name == "epoch"
        if self.exception and self.n_begun > self.n:
            raise self.exception

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and self.n_begun >= self.n and self.exception is None


@pytest.mark.parametrize("validate", [False, True])
def test_an_interruption_keeps_what_was_learned(digits, validate):
    X, X_val, y, y_val = digits
    clf = DPQClassifier(M=2, K=4, max_iter=9, random_state=0)
    clf.set_callbacks(Interrupt(3, KeyboardInterrupt()))
    with pytest.warns(ConvergenceWarning, match="interrupted after 3 epochs"):
        clf.fit(X, y, **({"X_val": X_val, "y_val": y_val} if validate else {}))
    assert clf.n_iter_ == 3
    if validate:
        assert clf.score(X_val, y_val) == pytest.approx(max(clf.validation_scores_))


def test_an_interruption_before_anything_was_learned_is_raised(digits):
    X, _, y, _ = digits
    clf = DPQClassifier(M=2, K=4).set_callbacks(Interrupt(0, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    assert not hasattr(clf, "classes_")


def test_a_warm_start_goes_on(digits):
    X, X_test, y, y_test = digits
    clf = DPQClassifier(M=4, K=16, max_iter=3, warm_start=True, random_state=0).fit(X, y)
    first, curve = clf.score(X_test, y_test), clf.loss_curve_["loss"]
    for _ in range(4):
        clf.fit(X, y)
    assert clf.n_iter_ == 15
    assert clf.loss_curve_["loss"][:3] == curve
    assert clf.score(X_test, y_test) > first
    cold = clone(clf).set_params(warm_start=False).fit(X, y)
    assert cold.n_iter_ == 3
    with pytest.raises(ValueError, match="same classes"):
        clf.fit(X[y < 5], y[y < 5])
    with pytest.raises(ValueError, match="same architecture"):
        clf.fit(X[:, :60], y)
    with pytest.raises(ValueError, match="same architecture"):
        clf.set_params(K=32).fit(X, y)
    assert clf.n_iter_ == 15
    assert clf.n_features_in_ == 64


def test_a_warm_start_standardises_as_before(digits):
    X, _, y, _ = digits
    clf = DPQClassifier(M=2, K=4, max_iter=2, warm_start=True, random_state=0).fit(X, y)
    mean, scale = clf.mean_.copy(), clf.scale_.copy()
    assert len(clf.fit(X * 3 + 5, y).loss_curve_["gini_batch"]) == 4
    assert_array_equal(clf.mean_, mean)
    assert_array_equal(clf.scale_, scale)
    clf.set_params(warm_start=False).fit(X * 3 + 5, y)
    assert_allclose(clf.mean_, mean * 3 + 5)


# partial_fit


def test_partial_fits_learn(digits):
    X, X_test, y, y_test = digits
    clf = DPQClassifier(M=4, K=16, random_state=0)
    rng = np.random.default_rng(0)
    for epoch in range(12):
        for rows in np.array_split(rng.permutation(len(X)), 3):
            clf.partial_fit(X[rows], y[rows], classes=np.arange(10) if epoch == 0 else None)
    assert clf.n_iter_ == 36
    assert clf.score(X_test, y_test) > 0.9
    scaler = StandardScaler().fit(np.tile(X, (12, 1)))
    assert_allclose(clf.mean_, scaler.mean_, rtol=1e-10)
    assert_allclose(clf.scale_, scaler.scale_, rtol=1e-10)


def test_partial_fit_goes_on_after_a_pickle_as_without(digits):
    X, X_test, y, _ = digits
    clf = DPQTransformer(M=2, K=4, random_state=0).partial_fit(X, y, classes=range(10))
    other = pickle.loads(pickle.dumps(clf))
    assert_array_equal(clf.partial_fit(X, y).soft(X_test), other.partial_fit(X, y).soft(X_test))


def test_partial_fit_counts_on_and_draws_anew(digits):
    X, _, y, _ = digits
    augment = Record()
    clf = DPQClassifier(M=2, K=4, batch_size=100, augment=augment, random_state=0)
    for n in range(1, 4):
        clf.partial_fit(X, y, classes=range(10))
        assert clf.n_iter_ == len(clf.loss_curve_["loss"]) == n
        assert clf.optimizer_state_["step"] == 13 * n  # batches, since the first call
        assert len(augment.batches) == 13 * n
    orders = [torch.cat(augment.batches[13 * i : 13 * (i + 1)]) for i in range(3)]
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.equal(orders[first], orders[second])
        assert_allclose(in_any_order(orders[first]), in_any_order(orders[second]), atol=1e-4)
    assert clf.fit(X[:200], y[:200]).optimizer_state_ is None


def test_partial_fits_with_weights_standardise_by_all_that_was_seen():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(90, 4)) * [1, 2, 3, 4], rng.uniform(0.1, 5, 90)
    X[45:] += 7
    dpq = DPQTransformer(M=2, K=4, random_state=0)
    for rows in (slice(45), slice(45, 90)):
        dpq.partial_fit(X[rows], np.arange(45) % 3, sample_weight=weight[rows])
    mean = np.average(X, axis=0, weights=weight)
    assert_allclose(dpq.mean_, mean)
    assert_allclose(dpq.var_, np.average((X - mean) ** 2, axis=0, weights=weight))
    assert_allclose(dpq.scale_, np.sqrt(dpq.var_))


def test_bad_partial_fits_are_refused_and_change_nothing(digits):
    X, X_test, y, _ = digits
    clf = DPQTransformer(M=2, K=4, random_state=0)
    with pytest.raises(ValueError, match="classes must be passed"):
        DPQClassifier(M=2, K=4).partial_fit(X, y)
    with pytest.raises(ValueError, match="only one class"):
        clf.partial_fit(X[y == 1], y[y == 1], classes=[1])
    with pytest.raises(ValueError, match="needs all samples"):
        clone(clf).set_params(class_weight="balanced").partial_fit(X, y, classes=range(10))
    clf.partial_fit(X[:50], y[:50], classes=range(10))
    soft = clf.soft(X_test)
    for X_bad, y_bad, classes in [
        (X, y, range(9)),
        (X[:3], [0, 1, 10], None),
        (X[:3, :5], y[:3], None),
        (X[:3], y[:2], None),
        (np.full((3, 64), np.inf), y[:3], None),
    ]:
        with pytest.raises(ValueError, match=r"Expected|features|inconsistent|infinity"):
            clf.partial_fit(X_bad, y_bad, classes=classes)
    assert_array_equal(clf.soft(X_test), soft)


# Callbacks


def test_a_callback_stops_training(digits):
    X, _, y, _ = digits
    callback = Interrupt(2)
    clf = DPQClassifier(M=2, K=4, max_iter=9).set_callbacks(callback).fit(X, y)
    assert clf.n_iter_ == 2
    assert callback.torn_down


def test_scores_are_monitored_after_each_epoch(digits):
    X, _, y, _ = digits
    monitor = ScoringMonitor(scoring="accuracy")
    clf = DPQClassifier(M=2, K=8, max_iter=4, random_state=0).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs().data_as_pandas
    epochs = log[log["task_name"] == "epoch"]["accuracy"]
    assert len(epochs) == 4
    assert epochs.iloc[-1] == pytest.approx(clf.score(X, y))


def test_progress_is_shown_in_a_grid_search_of_a_pipeline(digits, capsys):
    X, _, y, _ = digits
    pipeline = Pipeline([("scale", StandardScaler()), ("dpq", DPQClassifier(K=4, max_iter=2, random_state=0))])
    search = GridSearchCV(pipeline, {"dpq__M": [1, 2]}, cv=2).set_callbacks(ProgressBar(max_propagation_depth=None))
    search.fit(X[:300], y[:300])
    shown = capsys.readouterr().out
    assert "GridSearchCV" in shown
    assert "DPQClassifier" in shown


@pytest.mark.parametrize("quantizer", [DPQTransformer(M=2, K=4, max_iter=2), ProductQuantizer(M=2, K=4), None])
def test_progress_is_shown_for_an_index_and_its_quantizer(digits, capsys, quantizer):
    X, _, y, _ = digits
    neighbors = DPQNeighbors(quantizer=quantizer, random_state=0).set_callbacks(ProgressBar())
    neighbors.fit(X[:200], y[:200])
    assert neighbors.n_samples_fit_ == 200
    shown = capsys.readouterr().out
    assert "DPQNeighbors" in shown
    assert type(neighbors.quantizer_).__name__ in shown


def test_a_frozen_or_foreign_quantizer_needs_no_callbacks(digits, capsys):
    X, _, y, _ = digits
    frozen = FrozenEstimator(ProductQuantizer(M=2, K=4, random_state=0).fit(X))
    DPQNeighbors(quantizer=frozen).set_callbacks(ProgressBar()).fit(X, y)
    assert "DPQNeighbors" in capsys.readouterr().out


class Recorder(Interrupt):
    """A callback that keeps what DPQNeighbors tells it."""

    def __init__(self):
        self.events = []

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.max_subtasks))

    def on_fit_task_end(self, estimator, context):
        self.events.append(("end", context.task_name, context.max_subtasks))


def told(encode, index):
    """Return what a Recorder keeps of a fit."""
    fit, quantizer, encode = ("fit", 3), ("fit quantizer", 0), ("encode", encode)
    blocks = [(when, "block", 0) for _ in range(encode[1]) for when in ("begin", "end")]
    steps = [("begin", *quantizer), ("end", *quantizer), ("begin", *encode), *blocks, ("end", *encode)]
    return [("begin", *fit), *steps, ("begin", "index", index), ("end", "index", index), ("end", *fit)]


@pytest.fixture
def sizes(monkeypatch):
    """Numbers of samples that a ProductQuantizer was asked to encode."""
    sizes, encode = [], ProductQuantizer.encode
    monkeypatch.setattr(ProductQuantizer, "encode", lambda self, X: sizes.append(len(X)) or encode(self, X))
    return sizes


def test_encoding_many_samples_tells_of_each_block(digits, monkeypatch, sizes):
    X = digits[0][:220]
    unwatched = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0))
    watched, recorder = clone(unwatched), Recorder()
    watched.set_callbacks(recorder).fit(X)
    assert recorder.events == told(encode=0, index=0)
    monkeypatch.setattr("skdpq._quantizer._BLOCK_SAMPLES", 50)
    recorder.events.clear()
    watched.fit(X)
    unwatched.fit(X)
    assert recorder.events == told(encode=5, index=None)
    assert recorder.torn_down
    assert sizes == [220, 50, 50, 50, 50, 20, 220]
    assert_array_equal(watched.codes_, unwatched.codes_)
    assert len(watched.index_.segments) == 1
    watched.set_callbacks().fit(X)
    assert sizes[-1] == 220


def as_it_is(X, path):
    return X


def as_images(X, path):
    return X.reshape(-1, 8, 8)


def as_lists(X, path):
    return X.tolist()


def as_frame(X, path):
    return pd.DataFrame(X).add_prefix("pixel")


def as_memory_map(X, path):
    np.save(path / "X.npy", X)
    return np.load(path / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("make", [as_it_is, as_images, as_lists, as_frame, as_memory_map])
@pytest.mark.parametrize("freeze", [False, True])
def test_watching_changes_no_code(digits, make, freeze, tmp_path, monkeypatch):
    monkeypatch.setattr("skdpq._quantizer._BLOCK_SAMPLES", 64)
    X, y = make(digits[0][:200], tmp_path), digits[2][:200]
    backbone = torch.nn.Flatten() if make is as_images else None
    dpq = DPQTransformer(M=3, K=8, backbone=backbone, max_iter=2, random_state=0)
    neighbors, recorder = DPQNeighbors(quantizer=FrozenEstimator(dpq.fit(X, y)) if freeze else dpq), Recorder()
    codes = clone(neighbors).fit(X, y).codes_
    assert_array_equal(neighbors.set_callbacks(recorder).fit(X, y).codes_, codes)
    assert ("begin", "encode", 4) in recorder.events
    assert_array_equal(neighbors.classes_[neighbors.labels_], y)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X: np.where(np.arange(len(X))[:, None] == 199, np.nan, X), "contains NaN"),
        (lambda X: X[:, :9], "expecting 64 features"),
        (csr_array, "Sparse data"),
        (coo_matrix, "Sparse data"),
    ],
)
def test_bad_samples_are_refused_alike_when_watched(digits, spoil, message, monkeypatch):
    monkeypatch.setattr("skdpq._quantizer._BLOCK_SAMPLES", 64)
    X = digits[0][:200]
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(ProductQuantizer(M=2, K=4).fit(X)))
    recorder = Recorder()
    for one in (neighbors, clone(neighbors).set_callbacks(recorder)):
        with pytest.raises((TypeError, ValueError), match=message):
            one.fit(spoil(X))
        assert not hasattr(one, "index_")
    assert recorder.torn_down


def test_progress_shows_the_blocks(digits, capsys, monkeypatch):
    monkeypatch.setattr("skdpq._quantizer._BLOCK_SAMPLES", 50)
    neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4)).set_callbacks(ProgressBar())
    neighbors.fit(digits[0][:200])
    shown = capsys.readouterr().out
    assert "DPQNeighbors - encode" in shown
    assert "DPQNeighbors - index" in shown


# Verbose encoding


@pytest.mark.parametrize("n_samples", [16385, 30000, 163840, 163841, 10**6, 10**9 + 1])
def test_lines_of_encoding_are_few_and_evenly_spaced(n_samples, capsys):
    pieces = list(printed_blocks(n_samples, verbose=True))
    assert [0, *(piece.stop for piece in pieces)] == [*(piece.start for piece in pieces), n_samples]
    assert 2 <= len(pieces) <= 10
    assert len({piece.stop - piece.start for piece in pieces[:-1]}) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Encoded {piece.stop:,} of {n_samples:,} samples" for piece in pieces]
    assert list(printed_blocks(n_samples, verbose=False)) == [slice(0, n_samples)]
    assert list(printed_blocks(16384, verbose=True)) == [slice(0, 16384)]
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def trained(digits):
    return DPQClassifier(M=2, K=4, max_iter=1, random_state=0).fit(digits[0], digits[2])


@pytest.mark.parametrize("method", ["encode", "soft", "transform", "predict"])
def test_verbose_tells_of_encoding_many_samples(digits, trained, method, capsys):
    X = np.resize(digits[0].astype(np.float32), (40000, 64))
    dpq = copy.copy(trained).set_params(verbose=True)
    expected = getattr(trained, method)(X)
    assert capsys.readouterr().out == ""  # nothing by default
    assert_array_equal(getattr(dpq, method)(X), expected)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 10
    assert lines[-1] == "Encoded 40,000 of 40,000 samples"
    getattr(dpq, method)(X[:16384])
    assert capsys.readouterr().out == ""


def test_encoding_is_told_of_once(digits, trained, capsys):
    X = np.resize(digits[0].astype(np.float32), (40000, 64))
    dpq = copy.copy(trained).set_params(verbose=True)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X)
    assert "of 40,000 samples" in capsys.readouterr().out
    neighbors.set_callbacks(Recorder()).fit(X)  # the callback is told
    neighbors.kneighbors(X[:17000], n_neighbors=1)
    assert capsys.readouterr().out == ""


STAGES = ["Fitting the quantizer", "Encoding", "Indexing"]


@pytest.mark.parametrize("quantizer", [None, ProductQuantizer(M=2, K=4)])
def test_a_verbose_index_tells_of_the_stages_of_its_fit(digits, quantizer, capsys):
    X, _, y, _ = digits
    X, y = X[:60].astype(np.float32), y[:60]
    neighbors = DPQNeighbors(quantizer=quantizer, random_state=0, verbose=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    stages = [line for line in lines if not line.startswith("Epoch ")]
    assert [line for line in stages if line.endswith(" ...")] == [f"{stage} ..." for stage in STAGES]
    assert re.fullmatch(
        "".join(rf"{stage} \.\.\.\n{stage} took \d+\.\d s\n" for stage in STAGES), "\n".join([*stages, ""])
    )
    epochs = [line for line in lines if line.startswith("Epoch ")]
    assert len(epochs) == (getattr(neighbors.quantizer_, "n_iter_", 0) if quantizer is None else 0)
    neighbors.kneighbors(X)
    if quantizer is not None:
        neighbors.set_params(verbose=False).fit(X, y)
    assert capsys.readouterr().out == ""


def test_training_the_base_network_is_told_of(digits, capsys):
    X, _, y, _ = digits
    DPQClassifier(M=2, K=4, max_iter=1, trunk_input="posterior", verbose=True).fit(X[:200], y[:200])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Training the base network ..."
    assert re.fullmatch(r"Training the base network took \d+\.\d s", lines[1])
    assert lines[2].startswith("Epoch 1/1 ")
