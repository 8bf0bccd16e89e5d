"""A backbone learned jointly: images in, codes out."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch import nn

from skdpq import DPQClassifier, DPQNeighbors


def make_backbone(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(8 * 16, 32),
    )


@pytest.fixture(scope="module")
def images(digits):
    X, X_test, y, y_test = digits
    return [(x.reshape(-1, 1, 8, 8) / 16).astype(np.float32) for x in (X, X_test)] + [y, y_test]


def make_classifier(**params):
    backbone = make_backbone(params.pop("dropout", 0.0))
    return DPQClassifier(M=4, K=16, hidden_layer_sizes=(), backbone=backbone, max_iter=6, random_state=0).set_params(
        **params
    )


@pytest.fixture(scope="module")
def clf(images):
    X, _, y, _ = images
    return make_classifier(max_iter=40).fit(X, y)


def test_it_learns_from_images_and_searches_them(clf, images):
    X, X_test, y, y_test = images
    assert clf.score(X_test, y_test) > 0.9
    assert clf.input_shape_ == (1, 8, 8)
    assert clf.compression_ratio_ == 32 * 64 / 16
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(clf)).fit(X, y)
    assert neighbors.score(X_test, y_test) > 0.9
    assert neighbors.kneighbors(X_test[:3])[1].shape == (3, 5)
    assert DPQNeighbors(quantizer=make_classifier(max_iter=1)).fit(X, y).codes_.shape == (len(X), 4)


def test_the_users_module_is_never_modified(images):
    X, _, y, _ = images
    clf = make_classifier(max_iter=1)
    module = clf.backbone
    before, training = copy.deepcopy(module.state_dict()), module.training
    clf.fit(X, y).predict(X)
    assert clf.backbone is module
    assert module.training == training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not torch.equal(clf.backbone_[0].weight, module[0].weight)


def test_clone_pickle_and_refit_agree(clf, images):
    X, X_test, y, _ = images
    assert_array_equal(pickle.loads(pickle.dumps(clf)).soft(X_test), clf.soft(X_test))
    assert_array_equal(clone(clf).fit(X, y).encode(X_test), clf.encode(X_test))
    before = pickle.dumps(clf)
    clf.predict(X_test)
    assert pickle.dumps(clf) == before


def test_dropout_and_augmentation_follow_random_state_and_leave_torch_alone(images):
    X, X_test, y, _ = images

    def shift(x):
        return torch.roll(x, int(torch.randint(-1, 2, ())), dims=-1)

    state = torch.random.get_rng_state()
    fits = [make_classifier(dropout=0.3, augment=shift, max_iter=2, random_state=seed) for seed in (0, 0, 1)]
    torch.random.set_rng_state(state)
    codes = [fit.fit(X, y).encode(X_test) for fit in fits]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_array_equal(codes[0], codes[1])
    assert (codes[0] != codes[2]).any()


def test_augmentation_sees_training_batches_only(images):
    X, X_test, y, _ = images
    seen = []

    def record(x):
        seen.append(tuple(x.shape))
        return x

    clf = make_classifier(augment=record, max_iter=2, batch_size=500, early_stopping=True).fit(X, y)
    assert sum(shape[0] for shape in seen) == 2 * (len(X) - 130)  # a tenth is held out
    assert all(shape[1:] == (1, 8, 8) for shape in seen)
    n_seen = len(seen)
    clf.predict(X_test)
    assert len(seen) == n_seen


def test_grid_search(images):
    X, X_test, y, y_test = images
    search = GridSearchCV(make_classifier(max_iter=2), {"M": [2, 4]}, cv=StratifiedKFold(2), n_jobs=2)
    search.fit(X[:400], y[:400])
    assert set(search.cv_results_["param_M"]) == {2, 4}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X_test).shape == y_test.shape


def test_wrong_shapes_are_errors(clf, images):
    X, _, y, _ = images
    with pytest.raises(ValueError, match=r"Expected samples of shape \(1, 8, 8\)"):
        clf.encode(X[:, :, :4])
    with pytest.raises(ValueError, match=r"Expected X_val with samples of shape \(1, 8, 8\), got \(1, 4, 4\)"):
        clone(clf).fit(X, y, X_val=X[:, :, :4, :4], y_val=y)
    with pytest.raises(ValueError, match="only go on with the same architecture"):
        copy.deepcopy(clf).set_params(warm_start=True).fit(X[:, :, 1:], y)
    with pytest.raises(ValueError, match=r"Expected samples of shape \(1, 8, 8\), got \(1, 7, 8\)"):
        copy.deepcopy(clf).partial_fit(X[:, :, 1:], y)
    with pytest.raises(ValueError, match="Found array with dim 4"):
        DPQClassifier().fit(X, y)
    with pytest.raises(ValueError, match=r"Expected a backbone that returns \(n_samples, n_units\)"):
        make_classifier(backbone=nn.Conv2d(1, 2, 3)).fit(X, y)


def count_samples(module, seen):
    """Add to `seen` the sizes of what a module is given, and whether in training mode."""
    module.register_forward_pre_hook(lambda module, args: seen.append((len(args[0]), module.training)))
    return module


def test_units_of_a_frozen_backbone_are_computed_once(images):
    X, X_test, y, y_test = images
    seen = []
    backbone = count_samples(make_backbone(dropout=0.5).requires_grad_(False), seen)
    clf = make_classifier(backbone=backbone).fit(X, y)
    assert sum(size for size, _ in seen) == len(X) + 2  # two tell the number of units
    with torch.no_grad():
        units, units_test = (backbone.eval()(torch.from_numpy(x)).numpy() for x in (X, X_test))
    head = make_classifier(backbone=nn.Identity()).fit(units, y)
    assert_array_equal(head.encode(units_test), clf.encode(X_test))
    seen.clear()
    clf.fit(X, y, X_val=X_test, y_val=y_test)
    assert sum(size for size, _ in seen) == len(X) + len(X_test) + 2
    assert not any(training for _, training in seen)
    assert max(clf.validation_scores_) == pytest.approx(clf.score(X_test, y_test))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_it_does_not_matter_when_the_units_of_a_frozen_backbone_are_computed(images, early_stopping):
    X, X_test, y, _ = images
    backbone = make_backbone(dropout=0.5).requires_grad_(False)
    clf = make_classifier(backbone=backbone, early_stopping=early_stopping, batch_size=2000).set_params(dropout=0)
    at_once = clone(clf).fit(X, y)
    seen = []
    backbone = count_samples(make_backbone(dropout=0.5).requires_grad_(False), seen)
    clf.set_params(backbone=backbone, augment=torch.clone).fit(X, y)  # which might have changed the samples
    assert sum(size for size, _ in seen) > 6 * 0.9 * len(X)
    assert not any(training for _, training in seen)
    np.testing.assert_allclose(clf.loss_curve_["loss"], at_once.loss_curve_["loss"], rtol=1e-3)
    assert (clf.encode(X_test) == at_once.encode(X_test)).mean() > 0.99


def test_callbacks_see_a_frozen_backbone(images):
    X, _, y, _ = images
    monitor = ScoringMonitor(scoring="accuracy")
    clf = make_classifier(backbone=make_backbone().requires_grad_(False), max_iter=3).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs().data_as_pandas
    epochs = log[log["task_name"] == "epoch"]["accuracy"]
    assert len(epochs) == 3
    assert epochs.iloc[-1] == pytest.approx(clf.score(X, y))


def test_a_frozen_backbone_stays_as_it_is_until_a_warm_start_trains_it_too(images):
    X, _, y, _ = images
    backbone = make_backbone().requires_grad_(False)
    clf = make_classifier(max_iter=2, backbone=backbone).fit(X, y)
    for name, parameter in clf.backbone_.named_parameters():
        assert torch.equal(parameter, backbone.get_parameter(name))
    clf.backbone_.requires_grad_(True)
    clf.set_params(warm_start=True).fit(X, y)
    assert clf.n_iter_ == 4
    for name, parameter in clf.backbone_.named_parameters():
        assert not torch.equal(parameter, backbone.get_parameter(name))


def test_images_may_be_of_any_numbers(images):
    X, _, y, _ = images
    pixels = (X * 16).astype(np.uint8)
    codes = [
        make_classifier(max_iter=1).fit(a, y).encode(a[:9]) for a in (pixels, pixels * 1.0, pixels * np.float32(1))
    ]
    assert_array_equal(codes[0], codes[2])
    assert_array_equal(codes[1], codes[2])


def test_the_mode_of_the_users_module_decides_nothing(images):
    X, _, y, _ = images
    fits = []
    for training in (True, False):
        backbone = make_backbone(dropout=0.5).train(training)
        clf = make_classifier(backbone=backbone, supervision=0.5, max_iter=1, warm_start=True)
        for learn in (clf.fit, clf.fit, clf.partial_fit):
            learn(X, y)
            assert not any(module.training for module in clf.backbone_.modules())
        fits.append(clf)
    assert fits[0].loss_curve_ == fits[1].loss_curve_
