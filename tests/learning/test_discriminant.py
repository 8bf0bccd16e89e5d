"""Discriminant analysis whose class means are random: beside densities by SciPy, and beside scikit-learn's."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import eigh
from scipy.special import log_softmax, softmax
from scipy.stats import multivariate_normal
from sklearn.covariance import OAS, oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from skdpq._learning.discriminant import discriminant_analysis, shrink

N_CLASSES = 30


def draw(n, d=12, n_telling=12, seed=0):
    """Return samples of overlapping Gaussian classes, of which some dimensions tell, and their labels."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(N_CLASSES, d)) * (np.arange(d) < n_telling)
    y = np.arange(n) % N_CLASSES
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (means[y] + 0.7 * rng.normal(size=(n, d))) @ rotation + 5, y


def logits(X, y, X_test, weight=None):
    """Return the logits of tests, learned from two blocks of samples."""
    weight = np.ones(len(X)) if weight is None else weight
    blocks = [(X[rows], y[rows], weight[rows]) for rows in (slice(len(X) // 3), slice(len(X) // 3, None))]
    weight, bias = discriminant_analysis(blocks, N_CLASSES)
    return X_test @ weight.T + bias


@pytest.mark.parametrize("n_each", [2, 5, 40])
def test_logits_are_log_densities_of_new_samples_given_those_of_their_class(n_each):
    X, y = draw(n_each * N_CLASSES, d=12, n_telling=5)
    X_test, _ = draw(50, seed=1)
    means = np.array([X[y == c].mean(axis=0) for c in range(N_CLASSES)])
    residuals, mean = X - means[y], X.mean(axis=0)
    n_free = len(X) - N_CLASSES
    within = shrink(residuals.T @ residuals / n_free, n_free)
    # Of the means' covariance, what is beyond that of means of n_each samples: in directions in which it is positive.
    excess = np.cov(means.T) - within / n_each
    values, vectors = eigh(excess, within)
    between = within @ (vectors * np.maximum(values, 0)) @ vectors.T @ within
    gain = between @ np.linalg.inv(between + within / n_each)
    expected = np.transpose(
        [multivariate_normal(mean + gain @ (m - mean), within + between - gain @ between).logpdf(X_test) for m in means]
    )
    assert 0 < (values > 0).sum() < 12
    assert_allclose(log_softmax(logits(X, y, X_test), axis=1), log_softmax(expected, axis=1), rtol=1e-3, atol=1e-3)


def test_means_of_many_samples_are_those_of_scikit_learn():
    X, y = draw(30_000)
    X_test, _ = draw(500, seed=1)
    X, X_test = (samples * np.geomspace(0.1, 1, 12) for samples in (X, X_test))  # so that little is shrunk
    rival = LinearDiscriminantAnalysis().fit(X, y)
    assert_allclose(softmax(logits(X, y, X_test), axis=1), rival.predict_proba(X_test), atol=0.02)


def test_means_of_few_samples_tell_new_ones_better_than_scikit_learn():
    X, y = draw(90 + 3000, d=40, n_telling=12)
    X, X_test, y, y_test = X[:90], X[90:], y[:90], y[90:]
    rival = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=OAS()).fit(X, y)
    found = log_softmax(logits(X, y, X_test), axis=1)
    rows = np.arange(len(y_test))
    assert (found.argmax(axis=1) == y_test).mean() > rival.score(X_test, y_test) + 0.03
    assert -found[rows, y_test].mean() < -rival.predict_log_proba(X_test)[rows, y_test].mean() - 1


def test_the_mean_of_fewer_samples_is_nearer_to_that_of_all():
    rng = np.random.default_rng(0)
    y = np.r_[np.arange(5000) % 5, 5, 5]
    centers = np.array([[2, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0], [0, 0, 2], [0, 0, -2]])
    X = centers[y] + rng.normal(size=(len(y), 3))
    X[y == 5] = centers[5]  # what is observed of it is as far off as the others
    weights, _ = discriminant_analysis([(X, y, np.ones(len(y)))], 6)
    assert np.linalg.norm(weights[5]) < 0.95 * np.linalg.norm(weights[4])


def test_weights_tell_how_often_a_sample_counts():
    X, y = draw(30_000)
    X_test, _ = draw(500, seed=1)
    X, X_test = (samples * np.geomspace(0.1, 1, 12) for samples in (X, X_test))
    n_times = 1 + np.arange(len(X)) // N_CLASSES % 3
    repeated = logits(np.repeat(X, n_times, axis=0), np.repeat(y, n_times), X_test)
    for factor in (1.0, 0.001):
        found = logits(X, y, X_test, factor * n_times)
        assert_allclose(softmax(found, axis=1), softmax(repeated, axis=1), atol=0.01)


@pytest.mark.parametrize("n", [5, 1000])
def test_a_covariance_is_shrunk_as_by_scikit_learn(n):
    X = np.random.default_rng(0).normal(size=(n, 8)) * np.geomspace(0.1, 1, 8)
    assert_allclose(shrink(X.T @ X / n, n), oas(X, assume_centered=True)[0], rtol=1e-10, atol=1e-12)


def test_it_bears_what_is_constant_missing_or_wide():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 30)), np.arange(20) % 4
    X[:, 3] = 0.0
    for samples in (X, np.zeros_like(X), X[:, :1], X[:4]):
        y_, n = y[: len(samples)], len(samples)
        weight, bias = discriminant_analysis([(samples, y_, np.ones(n))], 5)
        proba = softmax(samples @ weight.T + bias, axis=1)
        assert proba[:, 4].max() < 0.1
        assert np.isfinite(proba).all()
    weight, bias = discriminant_analysis([(rng.normal(size=(20, 5000)), y, np.ones(20))], 4)
    assert not weight.any()
    assert not bias.any()
