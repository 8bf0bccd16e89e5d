"""Every term against its equation, written out with loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skdpq._learning import losses

shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31 - 1))


def draw(M, B, K, seed):
    """Return p (M, B, K) and weights that sum to one."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 3.0, B)
    return torch.from_numpy(rng.dirichlet(np.ones(K), (M, B))), torch.from_numpy(weight / weight.sum())


@given(shapes)
def test_gini_batch_is_equation_6_averaged_over_parts(shape):
    p, weight = draw(*shape)
    M, B, K = p.shape
    expected = sum(sum(sum(float(weight[i] * p[m, i, k]) for i in range(B)) ** 2 for k in range(K)) for m in range(M))
    assert math.isclose(float(losses.gini_batch(p, weight)), expected / M, rel_tol=1e-12)


@given(shapes)
def test_gini_sample_is_equation_7_averaged_over_batch_and_parts(shape):
    p, weight = draw(*shape)
    M, B, K = p.shape
    expected = sum(
        float(weight[i]) * -sum(float(p[m, i, k]) ** 2 for k in range(K)) for i in range(B) for m in range(M)
    )
    assert math.isclose(float(losses.gini_sample(p, weight)), expected / M, rel_tol=1e-12)


@pytest.mark.parametrize("K", [2, 7])
def test_gini_terms_take_the_extremes_that_the_paper_states(K):
    B = 3 * K
    weight = torch.full((B,), 1 / B, dtype=torch.float64)
    one_codeword = torch.zeros(2, B, K, dtype=torch.float64)
    one_codeword[:, :, 0] = 1
    spread = torch.eye(K, dtype=torch.float64).repeat(3, 1).expand(2, B, K)
    uniform = torch.full((2, B, K), 1 / K, dtype=torch.float64)
    for p, batch, sample in [(one_codeword, 1, -1), (spread, 1 / K, -1), (uniform, 1 / K, -1 / K)]:
        assert math.isclose(float(losses.gini_batch(p, weight)), batch)
        assert math.isclose(float(losses.gini_sample(p, weight)), sample)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_joint_central_loss_is_equation_5_on_soft_and_on_hard(B, V, seed):
    rng = np.random.default_rng(seed)
    soft, hard, centers = torch.from_numpy(rng.normal(size=(3, B, V)))
    weight = torch.from_numpy(rng.dirichlet(np.ones(B)))
    expected = sum(
        float(weight[i])
        * (0.5 * float(((soft[i] - centers[i]) ** 2).sum()) + 0.5 * float(((hard[i] - centers[i]) ** 2).sum()))
        for i in range(B)
    )
    assert math.isclose(float(losses.joint_central_loss(soft, hard, centers, weight)), expected, rel_tol=1e-12)


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31 - 1))
def test_softmax_loss_is_the_negative_log_probability_of_the_label(B, C, seed):
    rng = np.random.default_rng(seed)
    logits, weight = torch.from_numpy(rng.normal(size=(B, C))), torch.from_numpy(rng.dirichlet(np.ones(B)))
    y = rng.integers(0, C, B)
    expected = 0.0
    for i in range(B):
        z = logits[i].numpy()
        expected -= float(weight[i]) * math.log(math.exp(z[y[i]]) / sum(math.exp(v) for v in z))
    loss = float(losses.softmax_loss(logits, torch.from_numpy(y), weight))
    assert math.isclose(loss, expected, rel_tol=1e-10, abs_tol=1e-12)


@given(st.integers(1, 6), st.integers(2, 5), st.floats(0, 0.9), st.integers(0, 2**31 - 1))
def test_label_smoothing_spreads_its_share_evenly_over_all_classes(B, C, smoothing, seed):
    rng = np.random.default_rng(seed)
    logits, weight = torch.from_numpy(rng.normal(size=(B, C))), torch.from_numpy(rng.dirichlet(np.ones(B)))
    y = torch.from_numpy(rng.integers(0, C, B))
    of_each_class = [losses.softmax_loss(logits, torch.full((B,), c), weight) for c in range(C)]
    expected = (1 - smoothing) * losses.softmax_loss(logits, y, weight) + smoothing * sum(of_each_class) / C
    assert math.isclose(losses.softmax_loss(logits, y, weight, smoothing), expected, rel_tol=1e-10)
