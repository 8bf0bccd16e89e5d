"""The nearness of codewords to a sample's own features: in the logits, and in what is found of other classes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import normalize

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq._learning.nearness import choose_beta
from skdpq._learning.network import DPQNetwork
from skdpq._learning.projection import Directions, Projection

SMALL = {"M": 2, "K": 4, "D": 3, "hidden_layer_sizes": (8,), "random_state": 0, "max_iter": 2}


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


def make_pair(n_units, M, K, D, dropout=0.0):
    """Return two networks of the same parameters, the second with nearness, and what that was given."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"M": M, "K": K, "D": D, "hidden_layer_sizes": (7,), "part_layer_sizes": (5,), "dropout": dropout}
    plain, near = (DPQNetwork(n_units, 3, **sizes, nearness=nearness).double() for nearness in (False, True))
    plain.initialize(generator)
    near.load_state_dict(plain.state_dict(), strict=False)
    shapes = (n_units, M * D), (M * D,), (n_units,), (n_units,)
    weight, bias, scale, origin = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    near.nearness.take(Projection(weight, bias, Directions(scale, origin)), 1.7)
    return plain, near, (weight, bias, scale, origin)


@given(n_units=st.integers(1, 9), M=st.integers(1, 4), K=st.integers(2, 5), D=st.integers(1, 4), B=st.integers(1, 4))
def test_logits_fall_with_the_squared_distance_of_a_codeword_to_the_projection(n_units, M, K, D, B):
    plain, near, (weight, bias, scale, origin) = make_pair(n_units, M, K, D)
    x = torch.randn(B, n_units, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits, expected = near.logits(x), plain.logits(x).detach().clone()
    for b in range(B):
        direction = x[b] * scale + origin
        target = direction / direction.norm() @ weight + bias
        for m in range(M):
            t = target[m * D : (m + 1) * D]
            for k in range(K):
                expected[m, b, k] += 1.7 * (t.square().sum() - (t - plain.codebooks[m, k]).square().sum())
    torch.testing.assert_close(logits.detach(), expected)


def test_what_dropout_takes_from_the_network_is_there_for_the_nearness():
    plain, near, _ = make_pair(20, 2, 4, 3, dropout=0.5)
    x = torch.randn(5, 20, dtype=torch.float64)
    gained = near.eval().logits(x) - plain.eval().logits(x)
    trained = [network.train().logits(x, torch.Generator().manual_seed(2)) for network in (near, plain)]
    torch.testing.assert_close(trained[0] - trained[1], gained)
    assert not torch.allclose(trained[1], plain.eval().logits(x))


@pytest.mark.parametrize(("K", "width", "expected"), [(256, 4, 16.0), (256, 2, 16.0), (64, 6, 4.0), (4, 4, 2.0)])
def test_the_factor_is_one_over_what_a_codebook_leaves_of_a_variance_of_one(K, width, expected):
    weight = np.zeros((5, 3, 8))
    weight[:, :, :width] = np.random.default_rng(0).normal(size=(5, 3, width))
    assert choose_beta(weight.reshape(5, -1), 3, K) == pytest.approx(expected)
    assert choose_beta(np.zeros((5, 6)), 3, K) == 16.0


class Units(torch.nn.Module):
    """A backbone whose units are learned, or fixed."""

    def __init__(self, learned):
        super().__init__()
        self.linear = torch.nn.Linear(64, 20).requires_grad_(learned)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.parametrize(
    ("params", "near"),
    [
        ({"supervision": 0.5}, True),
        ({"supervision": 0.5, "backbone": Units(learned=False)}, True),
        ({"supervision": 0.5, "backbone": Units(learned=False), "augment": torch.clone}, True),
        ({"supervision": 0.5, "backbone": Units(learned=True)}, False),
        ({"supervision": 1.0}, False),
        ({"supervision": 0.0}, False),
    ],
)
def test_codewords_are_near_where_labels_supervise_in_part_and_units_are_fixed(digits, params, near):
    X, y = digits
    X = X.astype(np.float32)
    fitted = DPQTransformer(**SMALL, **params).fit(X, y)
    streamed = DPQTransformer(**SMALL, **params).partial_fit(X, y)
    for dpq in (fitted, streamed):
        assert dpq.architecture_.get("nearness", False) is near
        assert ("nearness.beta" in dpq.parameters_) is near
    assert "nearness" not in DPQTransformer(**SMALL, supervision=0.5).fit(X).architecture_


@pytest.mark.parametrize("backbone", [None, Units(learned=False)])
def test_what_is_near_is_what_is_preserved(digits, backbone):
    X, y = digits
    X = X.astype(np.float32)
    dpq = DPQClassifier(**SMALL, supervision=0.3, backbone=backbone).fit(X, y)
    for name, array in dpq.parameters_.items():  # leaves nothing but the nearness
        if name.startswith("parts."):
            array[...] = 0
    if backbone is None:
        scaled = X / dpq.projection_scale_
    else:
        with torch.no_grad():
            scaled = backbone(torch.from_numpy(X)).numpy()
    target = (normalize(scaled) @ dpq.projection_ + dpq.projection_bias_).reshape(len(X), 2, 3)
    distances = np.square(target[:, :, None] - dpq.codebooks_).sum(3)
    codes = dpq.encode(X)
    nearest = distances.min(2)
    assert_allclose(np.take_along_axis(distances, codes[:, :, None].astype(int), 2)[:, :, 0], nearest, atol=1e-4)
    assert (codes == distances.argmin(2)).mean() > 0.999
    p = np.exp(-dpq.parameters_["nearness.beta"] * (distances - nearest[:, :, None]))
    p /= p.sum(2, keepdims=True)
    assert_allclose(dpq.soft(X).reshape(len(X), 2, 3), np.einsum("nmk,mkd->nmd", p, dpq.codebooks_), atol=1e-3)


def test_a_warm_start_keeps_it_or_does_without_it(digits):
    X, y = digits
    dpq = DPQTransformer(**SMALL, warm_start=True, supervision=0.5).fit(X, y)
    first = {name: array for name, array in dpq.parameters_.items() if name.startswith("nearness.")}
    assert len(first) == 5
    dpq.set_params(supervision=1.0).fit(X, y)
    for name, array in first.items():
        assert_array_equal(dpq.parameters_[name], array)
    dpq = DPQTransformer(**SMALL, warm_start=True).fit(X, y).set_params(supervision=0.5).fit(X, y)
    assert "nearness.beta" not in dpq.parameters_


def test_classes_that_were_not_seen_are_found_about_as_well_as_by_product_quantization(digits):
    X, y = digits
    seen = y < 7
    dpq = DPQTransformer(M=16, K=64, supervision=0.2, random_state=0).fit(X[seen], y[seen])
    pq = ProductQuantizer(M=16, K=64, random_state=0).fit(X[seen])
    X, y = X[~seen], y[~seen]
    scores = [
        DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
        for quantizer in (dpq, pq)
    ]
    assert scores[0] > scores[1] - 0.025  # 0.05 without
