"""BaseDPQ: the parameters, the fitting and the encoding that DPQTransformer and DPQClassifier share."""

import copy
import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, compute_class_weight, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ._atomic import all_or_nothing
from ._environment import check_device, seeded_globally, threads_for
from .codes import code_dtype
from .network import DPQNetwork, concatenate_parts
from .quantizer import QuantizerMixin, compression_ratio
from .training import TERMS, train

_AUTO_STEPS, _AUTO_EPOCHS = 500, 15  # what max_iter="auto" runs at least
_BLOCK = 2**24  # entries of p (M, B, K) computed at a time outside training: 64 MB in float32


class BaseDPQ(QuantizerMixin, BaseEstimator):
    """Base class of the estimators that learn a DPQ network; see `DPQTransformer` for the parameters."""

    _parameter_constraints: dict = {
        "M": [Interval(Integral, 1, None, closed="left")],
        "K": [Interval(Integral, 2, 65536, closed="both")],
        "D": [Interval(Integral, 1, None, closed="left"), None],
        "hidden_layer_sizes": ["array-like"],
        "part_layer_sizes": ["array-like"],
        "backbone": [torch.nn.Module, None],
        "augment": [callable, None],
        "intra_norm": ["boolean"],
        "softmax_soft_weight": [Interval(Real, 0, None, closed="left")],
        "softmax_hard_weight": [Interval(Real, 0, None, closed="left")],
        "joint_central_weight": [Interval(Real, 0, None, closed="left")],
        "gini_batch_weight": [Interval(Real, 0, None, closed="left")],
        "gini_sample_weight": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "output": [StrOptions({"soft", "hard", "codes"})],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        M=8,
        K=256,
        D=None,
        *,
        hidden_layer_sizes=(256,),
        part_layer_sizes=(),
        backbone=None,
        augment=None,
        intra_norm=False,
        softmax_soft_weight=1.0,
        softmax_hard_weight=1.0,
        joint_central_weight=0.3,
        gini_batch_weight=0.3,
        gini_sample_weight=0.3,
        learning_rate=3e-3,
        weight_decay=0.7,
        batch_size=256,
        max_iter="auto",
        tol=1e-4,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        class_weight=None,
        output="soft",
        random_state=None,
        device="auto",
        verbose=False,
    ):
        self.M = M
        self.K = K
        self.D = D
        self.hidden_layer_sizes = hidden_layer_sizes
        self.part_layer_sizes = part_layer_sizes
        self.backbone = backbone
        self.augment = augment
        self.intra_norm = intra_norm
        self.softmax_soft_weight = softmax_soft_weight
        self.softmax_hard_weight = softmax_hard_weight
        self.joint_central_weight = joint_central_weight
        self.gini_batch_weight = gini_batch_weight
        self.gini_sample_weight = gini_sample_weight
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.output = output
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Learn the network on samples and their labels (section 3).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Training data.
        y : array-like of shape (n_samples,)
            Class labels, at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; each term of the objective is the weighted mean over a batch.

        Returns
        -------
        self : object
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If X or y are not as described, a parameter is invalid, or training diverges.
        """
        with all_or_nothing(self) as draft:
            draft._fit(X, y, sample_weight)
        return self

    def _fit(self, X, y, sample_weight):
        X, y = validate_data(self, X, y, dtype="numeric", allow_nd=self.backbone is not None)
        check_classification_targets(y)
        hidden_layer_sizes = _check_layer_sizes(self.hidden_layer_sizes, "hidden_layer_sizes")
        part_layer_sizes = _check_layer_sizes(self.part_layer_sizes, "part_layer_sizes")
        device = check_device(self.device)
        sample_weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=False
        )
        self.classes_, y = np.unique(y, return_inverse=True)
        class_weight = compute_class_weight(
            self.class_weight, classes=self.classes_, y=self.classes_[y], sample_weight=sample_weight
        )
        weight = sample_weight * class_weight[y]
        if not weight.all():  # a sample of weight zero is a sample that is not there
            kept = weight > 0
            X, y, weight, sample_weight = X[kept], y[kept], weight[kept], sample_weight[kept]
        if len(np.unique(y)) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes with positive weight; "
                f"the data contain only one class: {self.classes_[y[0]]!r}."
            )
        random_state = check_random_state(self.random_state)
        generator = torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))

        self.input_shape_ = X.shape[1:]
        self.backbone_ = copy.deepcopy(self.backbone)
        self.mean_, self.scale_ = (None, None) if self.backbone is not None else _standardisation(X, sample_weight)
        # A problem of one batch costs as little in float64, and is then reproducible to rounding whatever the order
        # or multiplicity of its samples.
        single_batch = len(X) <= self.batch_size and X.dtype not in (np.float16, np.float32)
        dtype = torch.float64 if single_batch and self.backbone is None and device.type != "mps" else torch.float32
        self.architecture_ = {
            "n_units": X.shape[1] if self.backbone is None else _output_width(self.backbone_, X),
            "n_classes": len(self.classes_),
            "M": self.M,
            "K": self.K,
            "D": self.D,
            "hidden_layer_sizes": hidden_layer_sizes,
            "part_layer_sizes": part_layer_sizes,
        }
        network = DPQNetwork(**self.architecture_, backbone=self.backbone_).to(dtype)
        network.initialise(generator)
        network.to(device)

        data = [self._to_tensor(X, dtype), torch.from_numpy(y), torch.from_numpy(weight).to(dtype)]
        data = [tensor.to(device) for tensor in data]
        validation = None
        if self.early_stopping:
            kept, held_out = train_test_split(
                np.arange(len(y)), test_size=self.validation_fraction, stratify=y, random_state=random_state
            )
            validation = [tensor[torch.from_numpy(held_out).to(device)] for tensor in data]
            data = [tensor[torch.from_numpy(kept).to(device)] for tensor in data]
        seeded = seeded_globally(generator, device, enabled=self.backbone is not None or self.augment is not None)
        with seeded, threads_for(network, min(self.batch_size, len(X))):
            history = train(
                network,
                *data,
                validation=validation,
                loss_weights={name: getattr(self, f"{name}_weight") for name in TERMS},
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                batch_size=self.batch_size,
                max_iter=self._n_epochs(len(data[0])),
                tol=self.tol,
                n_iter_no_change=self.n_iter_no_change,
                augment=self.augment,
                generator=generator,
                verbose=bool(self.verbose),
            )

        network.to("cpu")  # also the backbone, which is a module of the network
        self.parameters_ = {
            name: tensor.numpy() for name, tensor in network.state_dict().items() if not name.startswith("backbone.")
        }
        self.loss_curve_, self.validation_scores_ = history
        self.n_iter_ = len(self.loss_curve_["loss"])
        self.compression_ratio_ = compression_ratio(math.prod(self.input_shape_), self.M, self.K)

    def soft(self, X):
        """Compute the soft representation (equations 1 and 3), intra-normalised with ``intra_norm=True``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        soft : ndarray of shape (n_samples, M * D), float32
            Convex combinations of the codewords of each part, concatenated.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on.
        """
        soft = self._soft(X).astype(np.float32, copy=False)
        if self.intra_norm:
            M, _, D = self.parameters_["codebooks"].shape
            soft = _normalise(soft.reshape(-1, M, D)).reshape(soft.shape)
        return soft

    def encode(self, X):
        """Compute the codes z, the most probable codeword of each part (section 3.1.1), counted from zero.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        codes : ndarray of shape (n_samples, M), uint8 or uint16
            ``uint8`` up to K = 256.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on.
        """
        M, K, _ = self._codebooks().shape
        codes = self._in_blocks(X, lambda network, p: p.argmax(dim=-1).T)
        return codes.astype(code_dtype(K)).reshape(-1, M)

    @property
    def codebooks_(self):
        """Codebooks C_m (M, K, D) that `decode` reads, float32; their rows normalised with ``intra_norm=True``."""
        codebooks = self._codebooks().astype(np.float32, copy=False)
        return _normalise(codebooks) if self.intra_norm else codebooks

    @property
    def class_centers_(self):
        """Class centers o_i of the Joint Central Loss (C, M * D), float32, in the order of `classes_`."""
        return self._parameter("class_centers").astype(np.float32)

    def _codebooks(self):
        return self._parameter("codebooks")

    def _parameter(self, name):
        check_is_fitted(self, "parameters_")
        return self.parameters_[name]

    def _soft(self, X):
        """Return soft as the classifier sees it: in the dtype of the parameters, never normalised."""
        return self._in_blocks(X, lambda network, p: concatenate_parts(torch.bmm(p, network.codebooks)))

    def _in_blocks(self, X, compute):
        """Validate X, and concatenate ``compute(network, p)`` over blocks of it."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="numeric", allow_nd=self.backbone_ is not None, reset=False)
        if X.shape[1:] != self.input_shape_:
            raise ValueError(f"Expected samples of shape {self.input_shape_}, got {X.shape[1:]}.")
        device = check_device(self.device)
        network = self._network(device)
        M, K, _ = network.codebooks.shape
        results = []
        with torch.inference_mode():
            for block in gen_batches(len(X), max(1, min(8192, _BLOCK // (M * K)))):
                p = network.distributions(self._to_tensor(X[block], network.codebooks.dtype).to(device))
                if not torch.isfinite(p).all():
                    raise ValueError("Expected X within the range of the training data, got values too large for it.")
                results.append(compute(network, p).cpu().numpy())
        return np.concatenate(results)

    def _network(self, device):
        """Build the module from the fitted arrays, whose memory it shares on the CPU."""
        network = DPQNetwork(**self.architecture_)
        # joblib hands large arrays to its workers as read-only memory maps, which torch warns about
        state = {
            name: torch.from_numpy(np.require(value, requirements="W")) for name, value in self.parameters_.items()
        }
        network.load_state_dict(state, assign=True)
        network.backbone = self.backbone_ if device.type == "cpu" else copy.deepcopy(self.backbone_)
        return network.to(device).eval()

    def _to_tensor(self, X, dtype):
        """Convert samples to a tensor that shares no memory with X, block by block, standardised without a backbone."""
        precise = np.float32 if X.dtype in (np.float16, np.float32) else np.float64
        tensor = torch.empty(X.shape, dtype=dtype)
        for block in gen_batches(len(X), 8192):
            values = X[block].astype(precise, copy=False)
            if self.mean_ is not None:
                values = (values - self.mean_.astype(precise)) / self.scale_.astype(precise)
            tensor[block] = torch.from_numpy(np.require(values, requirements="W"))
        return tensor

    def _n_epochs(self, n_samples):
        if self.max_iter != "auto":
            return self.max_iter
        return max(_AUTO_EPOCHS, math.ceil(_AUTO_STEPS / math.ceil(n_samples / self.batch_size)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.three_d_array = self.backbone is not None
        return tags


def _check_layer_sizes(sizes, name):
    sizes = tuple(np.asarray(sizes).ravel().tolist())
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(f"{name} must hold positive integers, got {sizes}.")
    return sizes


def _standardisation(X, sample_weight):
    """Return the weighted mean and standard deviation of the features, computed block by block."""
    scaler = StandardScaler()
    for block in gen_batches(len(X), 8192):
        scaler.partial_fit(X[block], sample_weight=sample_weight[block])
    if not np.isfinite(scaler.scale_).all():
        raise ValueError("Expected X of finite variance, got values too large for it.")
    return scaler.mean_, scaler.scale_


def _output_width(backbone, X):
    """Return the number of units that the backbone gives for a sample."""
    backbone.to("cpu").eval()
    with torch.no_grad():
        output = backbone(torch.from_numpy(X[:2].astype(np.float32)))
    if output.ndim != 2 or len(output) != len(X[:2]):
        raise ValueError(f"Expected a backbone that returns (n_samples, n_units), got {tuple(output.shape)}.")
    return output.shape[1]


def _normalise(vectors):
    """L2-normalise the last axis, leaving zero vectors as they are (section 4)."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)
