"""Whether what is fitted of a network goes together, and whether a fit can go on from it.

`BaseDPQ` asks before it is saved, when a fit resumes, and when it is loaded: what a file says is believed only if it
goes together.
"""

import math
from numbers import Real

import numpy as np
import torch

from .._classes import comparable
from .base_network import HIDDEN_UNITS, BaseNetwork
from .network import DPQNetwork

FITTED_ATTRIBUTES = (
    *("architecture_", "backbone_", "base_network_", "classes_", "compression_ratio_", "input_shape_", "loss_curve_"),
    *("mean_", "n_iter_", "n_samples_seen_", "optimizer_state_", "parameters_", "projection_", "projection_bias_"),
    *("projection_scale_", "scale_", "validation_scores_", "var_"),
)
_LAYERS = ("hidden_layer_sizes", "part_layer_sizes")


def check_fitted(dpq):
    """Raise ValueError unless the fitted attributes of a BaseDPQ go together."""
    shapes = _shapes_of(dpq.architecture_)
    _check_arrays("parameters_", dpq.parameters_, shapes, (np.float32, np.float64))
    M, K, D = dpq.parameters_["codebooks"].shape
    n_classes = dpq.architecture_["n_classes"]
    _check_classes(dpq.classes_, n_classes)
    _check_inputs(dpq, n_classes)
    _check_projection(dpq, M * D)
    _check_optimizer(dpq.optimizer_state_, shapes)
    _check_curves(dpq)
    if not (isinstance(dpq.backbone_, torch.nn.Module) or dpq.backbone_ is None):
        raise ValueError(f"expected a backbone or None, got {dpq.backbone_!r:.100}.")
    ratio = 32 * math.prod(dpq.input_shape_) / (M * math.log2(K))
    if not (isinstance(dpq.compression_ratio_, float) and math.isclose(dpq.compression_ratio_, ratio)):
        raise ValueError(f"expected compression_ratio_={ratio}, got {dpq.compression_ratio_!r:.50}.")


def check_backbone(dpq):
    """Raise ValueError unless a BaseDPQ was fitted with a backbone if its parameters have one, and else without."""
    if (dpq.backbone is None) != (dpq.backbone_ is None):
        fitted = "without a backbone" if dpq.backbone_ is None else "with a backbone"
        raise ValueError(f"Expected to go on {fitted}, as was begun, got backbone={dpq.backbone!r}.")


def check_warm_start(dpq, X, classes, architecture):
    """Raise ValueError unless a warm start can go on from what is fitted of a BaseDPQ.

    Parameters
    ----------
    dpq : BaseDPQ
        What is fitted.
    X : ndarray of shape (n, ...)
        Samples to go on with.
    classes : ndarray of shape (n_classes,)
        Sorted labels of these.
    architecture : dict
        What the parameters now say, from `network.make_architecture`; whether there is a `Nearness` is as it was.
    """
    sizes = {name: value for name, value in dpq.architecture_.items() if name != "nearness"}
    architecture = {name: value for name, value in architecture.items() if name != "nearness"}
    if not np.array_equal(*comparable(classes, dpq.classes_)):
        raise ValueError(f"warm_start can only go on with the same classes: expected {dpq.classes_}, got {classes}.")
    if X.shape[1:] != dpq.input_shape_ or architecture != sizes:
        raise ValueError(
            f"warm_start can only go on with the same architecture: expected {sizes} on samples of "
            f"shape {dpq.input_shape_}, got {architecture} on {X.shape[1:]}."
        )


def _is_count(value, least=1):
    return type(value) is int and least <= value < 2**31


def _shapes_of(architecture):
    """Return the shapes of all parameters of a network, by their names."""
    sizes = ("n_units", "n_classes", "M", "K", "D", *_LAYERS)
    if not isinstance(architecture, dict) or set(architecture) - {"nearness"} != set(sizes):
        raise ValueError("expected the architecture of a network, got another.")
    for name, value in architecture.items():
        if name == "nearness":
            right = value is True
        elif name in _LAYERS:
            right = isinstance(value, tuple) and len(value) < 1000 and all(map(_is_count, value))
        else:
            right = (name == "D" and value is None) or _is_count(value, 0 if name == "n_classes" else 1)
        if not right:
            raise ValueError(f"expected counts in the architecture, got {name}={value!r:.50}.")
    if not 2 <= architecture["K"] <= 2**16:
        raise ValueError(f"expected K from 2 to 65536, got {architecture['K']}.")
    try:
        with torch.device("meta"):
            return _state_shapes(DPQNetwork(**architecture))
    except RuntimeError as error:
        raise ValueError(f"expected an architecture that memory can hold: {error}") from error


def _state_shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _check_arrays(name, arrays, shapes, dtypes):
    """Raise ValueError unless arrays have such names and shapes, are of one type, and finite."""
    if not isinstance(arrays, dict) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError(f"expected arrays in {name}, got others.")
    found = {key: array.shape for key, array in arrays.items()}
    if found != shapes:
        raise ValueError(f"expected {name} of shapes {shapes!r:.500}, got {found!r:.500}.")
    found = {array.dtype for array in arrays.values()}
    if len(found) != 1 or not found <= set(map(np.dtype, dtypes)):
        raise ValueError(f"expected {name} of one type among {dtypes}, got {found}.")
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"expected finite numbers in {key} of {name}, got others.")


def _check_vector(name, array, n, least=-math.inf):
    if not isinstance(array, np.ndarray) or array.shape != (n,) or array.dtype != np.float64:
        raise ValueError(f"expected {name} of shape ({n},), float64, got {array!r:.100}.")
    if not np.isfinite(array).all() or not (array >= least).all():
        raise ValueError(f"expected finite numbers from {least} in {name}, got others.")


def _check_classes(classes, n_classes):
    if not isinstance(classes, np.ndarray) or classes.shape != (n_classes,) or n_classes == 1:
        raise ValueError(f"expected {n_classes} classes, two at least or none, got {classes!r:.100}.")
    if len(np.unique(classes)) != n_classes or (np.sort(classes) != classes).any():
        raise ValueError(f"expected classes that differ, ascending, got {classes!r:.100}.")


def _check_inputs(dpq, n_classes):
    """Raise ValueError unless samples become what the network takes."""
    shape, n_units = dpq.input_shape_, dpq.architecture_["n_units"]
    if not (isinstance(shape, tuple) and shape and all(map(_is_count, shape))):
        raise ValueError(f"expected the shape of a sample, got {shape!r:.100}.")
    if getattr(dpq, "n_features_in_", shape[0]) != shape[0]:
        raise ValueError(f"expected n_features_in_={shape[0]}, got {dpq.n_features_in_!r:.50}.")
    if dpq.backbone_ is not None:
        learned = (dpq.mean_, dpq.scale_, dpq.var_, dpq.n_samples_seen_, dpq.base_network_)
        if any(value is not None for value in learned):
            raise ValueError("expected samples that go to the backbone as they are, got some that are scaled.")
        return
    if len(shape) != 1:
        raise ValueError(f"expected samples of one dimension without a backbone, got {shape}.")
    _check_vector("mean_", dpq.mean_, shape[0])
    _check_vector("var_", dpq.var_, shape[0], 0.0)
    _check_vector("scale_", dpq.scale_, shape[0], np.finfo(np.float64).tiny)
    if not isinstance(dpq.n_samples_seen_, Real) or not 0 < dpq.n_samples_seen_ < math.inf:
        raise ValueError(f"expected a number of samples, got {dpq.n_samples_seen_!r:.50}.")
    if dpq.base_network_ is not None:
        with torch.device("meta"):
            shapes = _state_shapes(BaseNetwork(shape[0], n_classes, _n_hidden(dpq.base_network_)))
        _check_arrays("base_network_", dpq.base_network_, shapes, (np.float32,))
    if n_units != (shape[0] if dpq.base_network_ is None else n_classes):
        raise ValueError(f"expected a network of as many units as there are inputs, got n_units={n_units}.")


def _n_hidden(arrays):
    """Return the width of a base network's hidden layer, which not all versions made equal."""
    hidden = arrays.get("hidden.bias") if isinstance(arrays, dict) else None
    return len(hidden) if isinstance(hidden, np.ndarray) and hidden.ndim == 1 and len(hidden) else HIDDEN_UNITS


def _check_projection(dpq, width):
    learned = dpq.projection_, dpq.projection_bias_, dpq.projection_scale_
    if dpq.projection_ is None:
        if any(value is not None for value in learned):
            raise ValueError("expected a projection, or nothing of one, got a part.")
        return
    if not isinstance(dpq.projection_, np.ndarray) or dpq.projection_.ndim != 2:
        raise ValueError(f"expected a projection of shape (n_units, {width}), got {dpq.projection_!r:.100}.")
    n_units = len(dpq.projection_)
    _check_vector("projection_", dpq.projection_.ravel(), n_units * width)
    _check_vector("projection_bias_", dpq.projection_bias_, width)
    if dpq.projection_scale_ is not None:
        finite = np.where(dpq.projection_scale_ == np.inf, 1.0, dpq.projection_scale_)  # infinite for constants
        _check_vector("projection_scale_", finite, n_units, np.finfo(np.float64).tiny)


def _check_optimizer(state, shapes):
    if state is None:
        return
    if (
        not isinstance(state, dict)
        or set(state) != {"step", "exp_avg", "exp_avg_sq"}
        or not _is_count(state["step"], 0)
    ):
        raise ValueError("expected the state of the optimizer, got another.")
    for name in ("exp_avg", "exp_avg_sq"):
        moments = state[name]
        own = {key: value for key, value in moments.items() if not key.startswith("backbone.")}
        _check_arrays(name, own, {key: shapes.get(key) for key in own}, (np.float32, np.float64))
        if name == "exp_avg_sq" and any((value < 0).any() for value in own.values()):
            raise ValueError("expected mean squares of the optimizer, got negative ones.")


def _check_curves(dpq):
    curve, scores = dpq.loss_curve_, dpq.validation_scores_
    lists = isinstance(curve, dict) and all(isinstance(values, list) for values in curve.values())
    if not lists or "loss" not in curve or not _is_count(dpq.n_iter_):
        raise ValueError("expected a curve of losses and a number of epochs, got others.")
    if any(len(values) != dpq.n_iter_ or not all(type(v) is float for v in values) for values in curve.values()):
        raise ValueError(f"expected {dpq.n_iter_} losses of each kind, got others.")
    if scores is not None and not (isinstance(scores, list) and all(type(score) is float for score in scores)):
        raise ValueError("expected validation scores, got others.")
