"""The objective as the weighted sum of its terms, and which parameters decay in both training steps."""

import math

import pytest
import torch
from torch import nn

from skdpq._learning import losses
from skdpq._learning.fast_step import FastStep
from skdpq._learning.losses import TERMS
from skdpq._learning.network import DPQNetwork
from skdpq._learning.projection import Directions, Projection
from skdpq._learning.step import AutogradStep, Distilled, Objective

B, N_UNITS, C = 9, 12, 3
SIZES = {"M": 2, "K": 4, "D": 3, "hidden_layer_sizes": (8,), "part_layer_sizes": (5,)}


def make_problem(**params):
    """Return a network in float64, and a batch for it."""
    generator = torch.Generator().manual_seed(0)
    network = DPQNetwork(**{"n_units": N_UNITS, "n_classes": C} | SIZES | params).double()
    network.initialize(generator)
    with torch.no_grad():
        network.class_centers.normal_(generator=generator)
    x = torch.randn(B, N_UNITS, dtype=torch.float64, generator=generator)
    weight = torch.rand(B, dtype=torch.float64, generator=generator) + 0.1
    return network, x, torch.randint(C, (B,), generator=generator), weight / weight.sum()


def make_projection():
    weight = torch.randn(N_UNITS + 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Projection(weight[:-1], weight[-1], Directions(weight[:-1, 1], weight[:-1, 0]))


def step_once(step_class, network, x, y, weight):
    """Take a step of the decay alone, by a twentieth; return the step."""
    objective, generator = Objective(dict.fromkeys(TERMS, 0.0)), torch.Generator()
    with step_class(network, objective, weight_decay=0.5, batch_size=B, generator=generator) as step:
        step(x, y, weight, torch.arange(B), 0.1)
    return step


def test_the_objective_is_the_weighted_sum_of_its_terms():
    network, x, y, weight = make_problem()
    projection, smoothing = make_projection(), 0.2
    output = network(x)
    soft, hard, centers = output.soft, output.hard, network.class_centers[y]
    expected = {
        "softmax_soft": losses.softmax_loss(network.classifier(soft), y, weight, smoothing),
        "softmax_hard": losses.softmax_loss(network.classifier(hard), y, weight, smoothing),
        "joint_central": losses.joint_central_loss(soft, hard, centers, weight),
        "preservation": losses.joint_central_loss(soft, hard, projection(x), weight),
        "gini_batch": losses.gini_batch(output.p, weight),
        "gini_sample": losses.gini_sample(output.p, weight),
    }
    loss_weights = {name: 0.1 + 0.3 * i for i, name in enumerate(TERMS)}
    loss, terms = Objective(loss_weights, smoothing, projection)(network, x, y, weight)
    torch.testing.assert_close(terms, torch.stack([expected[name] for name in TERMS]).detach())
    assert not terms.requires_grad
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    weighted = torch.autograd.grad(sum(loss_weights[name] * term for name, term in expected.items()), parameters)
    for ours, reference in zip(gradients, weighted, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("step_class", [None, FastStep])
@pytest.mark.parametrize("distilled", [Distilled(), Distilled(1.5, 3.0), Distilled(4.0, 1.0, 2.0, center_scale=1.0)])
def test_a_posterior_takes_the_place_of_labels(step_class, distilled):
    network, x, y, weight = make_problem(n_classes=N_UNITS)
    roots, smoothing = x.softmax(1).sqrt(), 0.2
    objective = Objective(dict.fromkeys(TERMS, 1.0), smoothing, distilled=distilled)
    output = network(roots)
    expected = torch.zeros(3, dtype=torch.float64)
    power, soft_factor, hard_factor, _ = distilled
    for representation, term, factors in ((output.soft, 0, (1.0, soft_factor)), (output.hard, 1, (hard_factor, 1.0))):
        log_p = network.classifier(representation).log_softmax(1)
        for b in range(B):
            for c in range(N_UNITS):
                target = (1 - smoothing) * roots[b, c] ** 2 + smoothing / N_UNITS
                expected[term] -= (weight[b] * factors[0] * target * log_p[b, c]).detach()
            length = roots[b].pow(2 * power).sum().sqrt() if distilled.fixed_centers else 1.0
            center = sum(roots[b, c] ** power / length * network.class_centers[c] for c in range(N_UNITS))
            expected[2] += (weight[b] * factors[1] * (representation[b] - center).square().sum() / 2).detach()
    if step_class is None:
        terms = objective(network, roots, y, weight)[1]
    else:
        with step_class(network, objective, weight_decay=0.0, batch_size=B, generator=torch.Generator()) as step:
            terms = step(roots, y, weight, torch.arange(B), 0.1)
    torch.testing.assert_close(terms[:3], expected)


@pytest.mark.parametrize("step_class", [FastStep, AutogradStep])
def test_centers_that_are_fixed_stay(step_class):
    network, x, y, weight = make_problem(n_classes=N_UNITS)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    objective = Objective(dict.fromkeys(TERMS, 1.0), distilled=Distilled(center_scale=0.5))
    with step_class(network, objective, weight_decay=0.1, batch_size=B, generator=torch.Generator()) as step:
        step(x.softmax(1).sqrt(), y, weight, torch.arange(B), 0.1)
    stay = [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
    assert stay == ["class_centers"]


@pytest.mark.parametrize("name", TERMS)
def test_each_term_counts_by_its_own_weight(name):
    network, x, y, weight = make_problem()
    only = Objective({term: 2.5 * (term == name) for term in TERMS}, projection=make_projection())
    loss, terms = only(network, x, y, weight)
    assert math.isclose(loss.detach(), 2.5 * terms[TERMS.index(name)], rel_tol=1e-12)
    assert terms[TERMS.index(name)] != 0


def test_what_is_not_there_has_terms_of_zero():
    network, x, y, weight = make_problem()
    _, terms = Objective(dict.fromkeys(TERMS, 1.0))(network, x, y, weight)
    assert [name for name, term in zip(TERMS, terms, strict=True) if term == 0] == ["preservation"]
    network.classifier = None
    _, terms = Objective(dict.fromkeys(TERMS, 1.0))(network, x, y, weight)
    assert [name for name, term in zip(TERMS, terms, strict=True) if term != 0] == ["gini_batch", "gini_sample"]


@pytest.mark.parametrize("step_class", [FastStep, AutogradStep])
def test_weight_decay_shrinks_the_weights_of_layers_alone(step_class):
    network, *batch = make_problem()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    step_once(step_class, network, *batch)
    shrunk = {"trunk.0.weight", "parts.0.weight", "parts.1.weight", "classifier.weight"}
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if name in shrunk else 1.0))


def test_of_a_backbone_matrices_are_shrunk_and_what_is_fixed_stays():
    backbone = nn.Sequential(nn.Linear(N_UNITS, N_UNITS), nn.BatchNorm1d(N_UNITS), nn.Linear(N_UNITS, N_UNITS))
    backbone[2].requires_grad_(False)
    network, *batch = make_problem(backbone=backbone)
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    step = step_once(AutogradStep, network, *batch)
    for name, p in backbone.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if name == "0.weight" else 1.0))
    assert not any("backbone.2" in name for name in step.state["exp_avg"])
