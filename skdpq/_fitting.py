"""How BaseDPQ is fitted: data to batches, network, validation, training, and back to arrays."""

import copy
import math
from numbers import Integral

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, compute_class_weight, gen_batches
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, column_or_1d, validate_data

from ._device import check_device
from ._learning import batches as _batches
from ._learning.inputs import AT_ONCE, SamplesMixin, output_width
from ._learning.losses import SUPERVISED
from ._learning.network import DPQNetwork
from ._learning.projection import Projection, learn_projection
from ._learning.step import make_step
from ._learning.training import seeded_globally, train, train_one_pass
from ._progress import Watch
from ._quantizer import compression_ratio

_NO_CLASSES = np.array([], dtype=np.int64)
_AUTO_STEPS, _AUTO_EPOCHS = 1000, 20  # what max_iter="auto" runs at least
_K_AT_ONE = 64  # up to which gini_batch_weight="auto" is 1; GiniBatch of codewords in even use is 1 / K
# dropout="auto": dropping a share r of n units adds noise of variance r / (1 - r) / n to their mean, here 1 / _NOISE
_NOISE, _MOST_DROPPED = 750, 0.5


class FittingMixin(SamplesMixin, CallbackSupportMixin):
    """Fits the estimators that learn a DPQ network, from the parameters that BaseDPQ names."""

    @with_callbacks
    def _fit(self, X, y, sample_weight, validation):
        X, y, sample_weight, device = self._check_training_data(X, y, sample_weight)
        validated = self._check_validation_choice(validation, y)
        classes, y, weight = self._check_classes(X, y, sample_weight)
        if not weight.all() and X.nbytes <= _batches.IN_MEMORY:  # a sample of weight zero is a sample that is not there
            kept = weight > 0
            X, y, weight, sample_weight = X[kept], y[kept], weight[kept], sample_weight[kept]
        random_state = check_random_state(self.random_state)
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))

        again = self.warm_start and hasattr(self, "parameters_")
        if again:
            self._check_same(X, classes)
        else:
            self.classes_ = classes
            self.input_shape_ = X.shape[1:]
            self.backbone_ = copy.deepcopy(self.backbone)
            self._standardise(X, sample_weight)
        network = self._start_network(X, generator, again).to(device)
        held_out = self._hold_out(X, y, weight, validation, random_state) if validated else None
        fixed = self._detach_fixed_backbone(X, network, again)
        samples = self._units(X, fixed, network)
        projection = self._start_projection(samples, weight, network, generator, again)
        if held_out is not None:
            (X_val, *labels), weight = held_out
            tensors = self._tensors(self._units(X_val, fixed, network), *labels, network)
            held_out = [tensor.to(device) for tensor in tensors]
        batches = self._make_batches(samples, y, weight, network, device)
        n_epochs = self._n_epochs(len(batches))
        context = self._init_callback_context(max_subtasks=n_epochs)
        watch = Watch(self, network, fixed, context, X, classes[y] if len(classes) else None, sample_weight)
        seeded = seeded_globally(generator, device, enabled=self.backbone is not None or self.augment is not None)
        with watch, seeded, self._step(network, batches, generator, projection) as step:
            curve, scores = train(
                network,
                batches,
                step,
                validation=held_out,
                loss_weights=self._loss_weights(network),
                learning_rate=self.learning_rate,
                max_iter=n_epochs,
                tol=self.tol,
                n_iter_no_change=self.n_iter_no_change,
                augment=self.augment,
                generator=generator,
                verbose=bool(self.verbose),
                warn=self.max_iter != "auto",
                watch=watch,
            )
        self.loss_curve_ = _extended(self.loss_curve_, curve) if again else curve
        self.validation_scores_ = scores
        self.n_iter_ = len(self.loss_curve_["loss"])
        if fixed is not None:
            network.backbone = fixed
        self._finish(network)

    def _partial_fit(self, X, y, classes, sample_weight):
        first = not hasattr(self, "parameters_")
        X, y, sample_weight, device = self._check_training_data(X, y, sample_weight, reset=first)
        if self.class_weight == "balanced":
            raise ValueError('class_weight="balanced" needs all samples: expected a dict or None for partial_fit.')
        if y is None:
            classes = _NO_CLASSES
        elif classes is not None:
            classes = np.unique(column_or_1d(classes))
        elif first:
            if is_classifier(self):
                raise ValueError("classes must be passed on the first call to partial_fit.")
            classes = np.unique(y)
        if not first and classes is not None and not np.array_equal(classes, self.classes_):
            raise ValueError(f"Expected the classes of the first call, {self.classes_}, got {classes}.")
        if first:
            if len(classes) == 1:
                raise ValueError(f"{type(self).__name__} needs at least 2 classes, got only one class: {classes}.")
            self.classes_ = classes
            self.input_shape_ = X.shape[1:]
            self.backbone_ = copy.deepcopy(self.backbone)
        elif X.shape[1:] != self.input_shape_:
            raise ValueError(f"Expected samples of shape {self.input_shape_}, got {X.shape[1:]}.")
        weight = sample_weight
        if y is None:
            y = np.zeros(len(X), dtype=np.int64)
        else:
            y = self._encode_labels(y, "y")
            weight = weight * compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)[y]
        self._standardise(X, sample_weight, first)
        random_state = check_random_state(self.random_state)
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
        generator.manual_seed(generator.initial_seed() + (0 if first else self.n_iter_))
        network = self._start_network(X, generator, not first, dtype=torch.float32).to(device)
        projection = self._start_projection(X, weight, network, generator, not first)
        batches = self._make_batches(X, y, weight, network, device)
        step = self._step(network, batches, generator, projection)
        if not first and self.optimizer_state_ is not None:
            step.state = self.optimizer_state_
        seeded = seeded_globally(generator, device, enabled=self.backbone is not None or self.augment is not None)
        with seeded, step:
            curve = train_one_pass(
                network, batches, step, self._loss_weights(network), self.learning_rate, self.augment, generator
            )
        curve = {name: [value] for name, value in curve.items()}
        self.loss_curve_ = curve if first else _extended(self.loss_curve_, curve)
        self.validation_scores_ = None
        self.n_iter_ = len(self.loss_curve_["loss"])
        self._finish(network, step.state)

    def _check_training_data(self, X, y, sample_weight, reset=True):
        """Return the data, checked; y is None where nothing is supervised."""
        learns_projection = reset and (y is None or self.supervision < 1)  # to components, which one sample has not
        checks = {
            "dtype": "numeric",
            "allow_nd": self.backbone is not None,
            "reset": reset,
            "ensure_min_samples": 2 if learns_projection else 1,
        }
        if y is None:
            X = validate_data(self, X, y, **checks)
        else:
            X, y = validate_data(self, X, y, **checks)
            check_classification_targets(y)
        _check_layer_sizes(self.hidden_layer_sizes, "hidden_layer_sizes")
        _check_layer_sizes(self.part_layer_sizes, "part_layer_sizes")
        device = check_device(self.device)
        sample_weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=False
        )
        return X, None if self.supervision == 0 else y, sample_weight, device

    def _check_classes(self, X, y, sample_weight):
        """Return the classes, their indices for each sample, and the samples' weights."""
        if y is None:
            return _NO_CLASSES, np.zeros(len(X), dtype=np.int64), sample_weight
        classes, y = np.unique(y, return_inverse=True)
        class_weight = compute_class_weight(
            self.class_weight, classes=classes, y=classes[y], sample_weight=sample_weight
        )
        weight = sample_weight * class_weight[y]
        if len(np.unique(y[weight > 0])) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes with positive weight; "
                f"the data contain only one class: {classes[y[weight > 0][0]]!r}."
            )
        return classes, y, weight

    def _check_validation_choice(self, validation, y):
        """Return whether to validate, by the parameter and by what `fit` was given."""
        X_val, y_val, _ = validation
        if (X_val is None) != (y_val is None):
            given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
            raise ValueError(f"{given} is provided, but {missing} was not provided.")
        if X_val is not None and self.early_stopping is False:
            raise ValueError('Expected early_stopping="auto" or True with X_val and y_val, got early_stopping=False.')
        validated = X_val is not None if self.early_stopping == "auto" else self.early_stopping
        if validated and y is None:
            raise ValueError(
                "Validation scores the accuracy of predicted labels: expected y and a supervision above 0 with "
                f"early_stopping=True or X_val, got {'y=None' if self.supervision else 'supervision=0'}."
            )
        return validated

    def _hold_out(self, X, y, weight, validation, random_state):
        """Return data to validate on, and the training weights without it."""
        X_val, y_val, weight_val = validation
        if X_val is None:
            present = np.flatnonzero(weight)
            _, held_out = train_test_split(
                present, test_size=self.validation_fraction, stratify=y[present], random_state=random_state
            )
            kept = weight.copy()
            kept[held_out] = 0
            return (X[held_out], y[held_out], weight[held_out]), kept
        X_val = validate_data(self, X_val, dtype="numeric", allow_nd=self.backbone is not None, reset=False)
        if X_val.shape[1:] != self.input_shape_:
            raise ValueError(f"Expected X_val with samples of shape {self.input_shape_}, got {X_val.shape[1:]}.")
        y_val = self._encode_labels(column_or_1d(y_val), "y_val")
        check_consistent_length(X_val, y_val)
        weight_val = _check_sample_weight(
            weight_val, X_val, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=False
        )
        return (X_val, y_val, weight_val), weight

    def _encode_labels(self, y, name):
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(f"Expected {name} to hold labels of {self.classes_}, got {np.unique(y[~known])[:5]}.")
        return np.searchsorted(self.classes_, y)

    def _check_same(self, X, classes):
        """Raise ValueError unless a warm start can go on from what is fitted."""
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start can only go on with the same classes: expected {self.classes_}, got {classes}."
            )
        architecture = self._architecture(self.architecture_["n_units"])
        if X.shape[1:] != self.input_shape_ or architecture != self.architecture_:
            raise ValueError(
                f"warm_start can only go on with the same architecture: expected {self.architecture_} on samples of "
                f"shape {self.input_shape_}, got {architecture} on {X.shape[1:]}."
            )

    def _architecture(self, n_units):
        return {
            "n_units": n_units,
            "n_classes": len(self.classes_),
            "M": self.M,
            "K": self.K,
            "D": self.D,
            "hidden_layer_sizes": _check_layer_sizes(self.hidden_layer_sizes, "hidden_layer_sizes"),
            "part_layer_sizes": _check_layer_sizes(self.part_layer_sizes, "part_layer_sizes"),
        }

    def _start_network(self, X, generator, again, dtype=None):
        """Return the network on the CPU: initialized, or `again` as it was fitted."""
        if again:
            network = DPQNetwork(**self.architecture_, dropout=self._dropout(X))
            network.load_state_dict(
                {name: torch.from_numpy(a.copy()) for name, a in self.parameters_.items()}, assign=True
            )
            network.backbone = copy.deepcopy(self.backbone_)
            return network
        n_units = X.shape[1] if self.backbone is None else output_width(self.backbone_, X)
        self.architecture_ = self._architecture(n_units)
        if dtype is None:
            # A problem of one batch costs as little in float64, and is then reproducible to rounding whatever the
            # order or multiplicity of its samples.
            single = self.backbone is None and len(X) <= self.batch_size and X.dtype not in (np.float16, np.float32)
            dtype = torch.float64 if single and check_device(self.device).type != "mps" else torch.float32
        network = DPQNetwork(**self.architecture_, backbone=self.backbone_, dropout=self._dropout(X)).to(dtype)
        network.initialize(generator)
        return network

    def _detach_fixed_backbone(self, X, network, again):
        """Take the backbone off the network, and return it, if its units can be computed once; else return None."""
        if (
            network.backbone is None
            or any(p.requires_grad for p in network.backbone.parameters())
            or self.augment is not None
            or 4 * len(X) * network.n_units > _batches.IN_MEMORY
            or (again and self._supervision(network) < 1)  # it may no longer be what is to be preserved
        ):
            return None
        fixed, network.backbone = network.backbone, None
        return fixed

    def _dropout(self, X):
        """Return the share of units to drop."""
        if self.dropout != "auto":
            return self.dropout
        if len(X) <= self.batch_size:
            return 0.0
        n_units = self.architecture_["n_units"]
        return min(_MOST_DROPPED, n_units / (n_units + _NOISE))

    def _start_projection(self, X, weight, network, generator, again):
        """Return what projects the samples' own features, learned or `again`; None if labels alone supervise."""
        if not again:
            self.projection_ = self.projection_bias_ = None
        if self._supervision(network) == 1:
            return None
        device, dtype = network.codebooks.device, network.codebooks.dtype
        # as it is before training, which stays in here
        backbone = None if network.backbone is None else copy.deepcopy(self.backbone).to(device).eval()
        if self.projection_ is None:
            M, _, D = network.codebooks.shape
            if backbone is None:
                units = (self._to_tensor(X[rows], dtype).numpy() for rows in gen_batches(len(X), AT_ONCE))
            else:
                units = (self._units(X[rows], backbone, network) for rows in gen_batches(len(X), AT_ONCE))
            weights = (weight[rows] for rows in gen_batches(len(X), AT_ONCE))
            self.projection_, self.projection_bias_ = learn_projection(
                zip(units, weights, strict=True), M, D, generator
            )
        arrays = self.projection_, self.projection_bias_
        return Projection(*(torch.from_numpy(a).to(dtype).to(device) for a in arrays), backbone)

    def _step(self, network, batches, generator, projection):
        return make_step(
            network,
            self._loss_weights(network),
            self.label_smoothing,
            self.weight_decay,
            min(self.batch_size, len(batches)),
            generator,
            projection,
        )

    def _supervision(self, network):
        return 0 if network.classifier is None else self.supervision

    def _loss_weights(self, network):
        share = self._supervision(network)
        weights = {name: getattr(self, f"{name}_weight") for name in (*SUPERVISED, "gini_batch", "gini_sample")}
        if self.gini_batch_weight == "auto":
            weights["gini_batch"] = max(1.0, self.K / _K_AT_ONE)
        return weights | {name: share * weights[name] for name in SUPERVISED} | {"preservation": 1 - share}

    def _n_epochs(self, n_samples):
        if self.max_iter != "auto":
            return self.max_iter
        return max(_AUTO_EPOCHS, math.ceil(_AUTO_STEPS / math.ceil(n_samples / self.batch_size)))

    def _finish(self, network, optimizer_state=None):
        """Keep what was learned, as arrays on the CPU."""
        network.to("cpu")  # also the backbone, which is a module of the network
        self.backbone_ = network.backbone
        self.parameters_ = network.arrays()
        self.optimizer_state_ = optimizer_state
        self.compression_ratio_ = compression_ratio(math.prod(self.input_shape_), self.M, self.K)


def _extended(curve, more):
    return {name: values + more[name] for name, values in curve.items()}


def _check_layer_sizes(sizes, name):
    sizes = tuple(np.asarray(sizes).ravel().tolist())
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"{name} must hold positive integers, got {sizes}.")
    return sizes
