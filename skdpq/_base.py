"""BaseDPQ: the parameters, the fitting and the encoding that DPQTransformer and DPQClassifier share."""

import copy
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ._atomic import all_or_nothing
from ._codes import code_dtype
from ._device import check_device
from ._fitting import FittingMixin
from ._learning.inference import infer
from ._progress import announced
from ._quantizer import QuantizerMixin


class BaseDPQ(FittingMixin, QuantizerMixin, BaseEstimator):
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
        "dropout": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "softmax_soft_weight": [Interval(Real, 0, None, closed="left")],
        "softmax_hard_weight": [Interval(Real, 0, None, closed="left")],
        "joint_central_weight": [Interval(Real, 0, None, closed="left")],
        "supervision": [Interval(Real, 0, 1, closed="both")],
        "gini_batch_weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "gini_sample_weight": [Interval(Real, 0, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "warm_start": ["boolean"],
        "output": [StrOptions({"soft", "hard", "codes"})],
        "random_state": ["random_state"],
        "device": [str, torch.device],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        M=8,
        K=256,
        D=16,
        *,
        hidden_layer_sizes=(256,),
        part_layer_sizes=(64,),
        backbone=None,
        augment=None,
        intra_norm=False,
        dropout="auto",
        label_smoothing=0.1,
        softmax_soft_weight=1.0,
        softmax_hard_weight=1.0,
        joint_central_weight=0.5,
        supervision=1.0,
        gini_batch_weight="auto",
        gini_sample_weight=0.02,
        learning_rate=3e-3,
        weight_decay=0.2,
        batch_size=256,
        max_iter="auto",
        tol=1e-4,
        early_stopping="auto",
        validation_fraction=0.1,
        n_iter_no_change=10,
        class_weight=None,
        warm_start=False,
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
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.softmax_soft_weight = softmax_soft_weight
        self.softmax_hard_weight = softmax_hard_weight
        self.joint_central_weight = joint_central_weight
        self.supervision = supervision
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
        self.warm_start = warm_start
        self.output = output
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None, *, X_val=None, y_val=None, sample_weight_val=None):
        """Learn the network on samples and, where there are any, their labels (section 3).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Training data. Beyond 256 MB in float32 it is converted a part at a time in each epoch, so it may be a
            memory map that does not fit into memory.
        y : array-like of shape (n_samples,), default=None
            Class labels, at least two classes. Without, a transformer learns as with ``supervision=0``; a classifier
            requires them.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; each term of the objective is the weighted mean over a batch.
        X_val : array-like like X, default=None
            Data to validate on, instead of a part of X; see `early_stopping`.
        y_val : array-like of shape (n_validation_samples,), default=None
            Their labels, all of which are in y.
        sample_weight_val : array-like of shape (n_validation_samples,), default=None
            Their weights in the score.

        Returns
        -------
        self : object
            Fitted estimator. If anything is raised, the estimator is as it was. If training is interrupted
            (KeyboardInterrupt) after an epoch or more, it is fitted as far as it got, with a warning.

        Raises
        ------
        ValueError
            If X or y are not as described, a parameter is invalid, or training diverges.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` is a number, and was reached while the loss, or validation score, still improved.
        """
        validation = X_val, y_val, sample_weight_val
        with all_or_nothing(self) as draft:
            draft._fit(X, y, sample_weight, validation)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, classes=None, sample_weight=None):
        """Learn from some samples in one pass, going on from where the estimator is.

        The learning rate is constant, and class_weight="balanced" is refused, as both would need to know what is to
        come. Features are standardised by what has been seen so far. With `supervision` below 1, what is preserved are
        the principal components of the first call's samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Training data; one sample or more, at the first call two or more with `supervision` below 1.
        y : array-like of shape (n_samples,), default=None
            Class labels, at each call or at none; as in `fit`.
        classes : array-like of shape (n_classes,), default=None
            All labels that may come; the same or None at later calls. At the first call a classifier requires them, as
            scikit-learn's do; a transformer takes those in y.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        self : object
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        ValueError
            If the data are invalid or have labels that are not in `classes`, or a classifier is first called without.
        """
        with all_or_nothing(self) as draft:
            draft._partial_fit(X, y, classes, sample_weight)
        return self

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
        return self._compute(X, M, code_dtype(K))

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
        M, _, D = self._codebooks().shape
        return self._compute(X, M * D, self._codebooks().dtype)

    def _compute(self, X, width, dtype):
        """Return codes of X if dtype is one of integers, else soft."""
        X = validate_data(self, X, dtype="numeric", allow_nd=self.backbone_ is not None, reset=False)
        if X.shape[1:] != self.input_shape_:
            raise ValueError(f"Expected samples of shape {self.input_shape_}, got {X.shape[1:]}.")
        device = check_device(self.device)
        parameters = {name: tensor.to(device) for name, tensor in self._tensors_of_parameters().items()}
        backbone = self.backbone_ if device.type == "cpu" else copy.deepcopy(self.backbone_)
        if backbone is not None:
            backbone.to(device).eval()
        result = np.empty((len(X), width), dtype)
        for rows in announced(len(X), self.verbose):
            if not infer(parameters, X[rows], self._convert, result[rows], backbone):
                raise ValueError("Expected X within the range of the training data, got values too large for it.")
        return result

    def _tensors_of_parameters(self):
        # joblib hands large arrays to its workers as read-only memory maps, which torch warns about
        return {name: torch.from_numpy(np.require(value, requirements="W")) for name, value in self.parameters_.items()}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self.backbone is not None
        return tags


def _normalise(vectors):
    """L2-normalise the last axis, leaving zero vectors as they are (section 4)."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)
