"""BaseDPQ: the parameters, the fitting and the encoding that DPQTransformer and DPQClassifier share.

Fitting reads as check, begin, train, store, and stores arrays on the CPU. The work itself is the learning wing's.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._arrays import as_array, check_classification_targets, check_shape, validate_data
from ._atomic import changes, reads
from ._blockwise import by_blocks, learns_by_blocks
from ._codes import code_dtype
from ._device import check_device
from ._learning import auto
from ._learning.base_network import from_arrays, learn_base_network
from ._learning.batches import make_batches
from ._learning.constraints import PARAMETER_CONSTRAINTS
from ._learning.fitted import FITTED_ATTRIBUTES, check_backbone, check_fitted, check_warm_start
from ._learning.inference import infer
from ._learning.inputs import Inputs, learn_scaling, no_scaling, output_width
from ._learning.nearness import choose_beta
from ._learning.network import check_layer_sizes, draw_network, is_precise, make_architecture, restore, to_tensors
from ._learning.projection import Projection, directions_of, fit_projection, no_projection
from ._learning.samples import check_weights, classes_to_come, hold_out, to_validate, validates, weigh_all, weigh_known
from ._learning.step import Objective, make_step
from ._learning.training import Learner, generators, seeded_globally, train, train_one_pass
from ._learning.user_code import fitted_units, trains
from ._progress import FitCallbacks, printed_blocks, printed_stage
from ._quantizer import QuantizerMixin, class_posterior, compression_ratio, normalize_parts
from ._search.tables import lut_classification
from ._threads import surely
from ._typing import Codes, Device, typed


def _classifies(estimator):
    """Tell whether there is a classifier: whether labels supervise, or did."""
    if hasattr(estimator, "parameters_"):
        return "classifier.weight" in estimator.parameters_
    return estimator.supervision > 0


class BaseDPQ(CallbackSupportMixin, QuantizerMixin, BaseEstimator):
    """Base class of the estimators that learn a DPQ network; see `DPQTransformer` for the parameters."""

    classes_: NDArray[Any]
    n_iter_: int
    loss_curve_: dict[str, list[float]]
    validation_scores_: list[float] | None
    compression_ratio_: float

    _parameter_constraints: dict = PARAMETER_CONSTRAINTS

    def __init__(
        self,
        M: int = 8,
        K: int = 256,
        D: int | Literal["auto"] | None = "auto",
        *,
        hidden_layer_sizes: ArrayLike = "auto",
        part_layer_sizes: ArrayLike = (64,),
        trunk_input: Literal["auto", "features", "posterior"] = "auto",
        backbone: torch.nn.Module | None = None,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
        intra_norm: bool = False,
        dropout: float | Literal["auto"] = "auto",
        label_smoothing: float | Literal["auto"] = "auto",
        softmax_soft_weight: float = 1.0,
        softmax_hard_weight: float = 1.0,
        joint_central_weight: float = 0.5,
        supervision: float = 1.0,
        gini_batch_weight: float | Literal["auto"] = "auto",
        gini_sample_weight: float = 0.02,
        learning_rate: float | Literal["auto"] = "auto",
        weight_decay: float | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        max_iter: int | Literal["auto"] = "auto",
        tol: float = 1e-4,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        warm_start: bool = False,
        output: Literal["soft", "hard", "codes"] = "soft",
        random_state: int | np.random.RandomState | None = None,
        device: Device = "auto",
        verbose: bool | int = False,
    ) -> None:
        self.M = M
        self.K = K
        self.D = D
        self.hidden_layer_sizes = hidden_layer_sizes
        self.part_layer_sizes = part_layer_sizes
        self.trunk_input = trunk_input
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

    _fitted_attributes = dict.fromkeys(FITTED_ATTRIBUTES, False) | {"n_features_in_": True, "feature_names_in_": True}
    _make_step = staticmethod(make_step)  # a seam: benchmarks train by other steps

    @changes
    @typed(_fit_context(prefer_skip_nested_validation=True))
    @typed(with_callbacks)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight_val: ArrayLike | None = None,
    ) -> Self:
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
        resume = self.warm_start and hasattr(self, "parameters_")
        if resume:
            check_backbone(self)
        X, y, sample_weight = self._check_samples(X, y, sample_weight, reset=True)
        validate = validates(self.early_stopping, X_val, y_val, y, self.supervision)
        classes, samples = weigh_all(X, y, sample_weight, self.class_weight)
        random_state, generator = generators(self.random_state)

        if resume:
            check_warm_start(self, samples.X, classes, self._architecture(self.architecture_["n_units"]))
        else:
            self._start(samples.X, classes)
            self._learn_scaling(samples)
        held_out, kept = None, samples
        if validate:
            held_out, kept = self._hold_out(samples, X_val, y_val, sample_weight_val, random_state)
        if not resume and auto.reads_posterior(self, len(classes), len(kept.X), self._unchanged_features()):
            self._learn_base_network(kept, generator)
        network = self._start_network(samples.X, generator, resume)
        callbacks = FitCallbacks(self, network, samples, classes[samples.y] if len(classes) else None)
        # Units of what is augmented change; and once resumed, a backbone may no longer be what is to be preserved.
        varies = self.augment is not None or (resume and self._supervision(network) < 1)
        backbone = callbacks.backbone = None if varies else network.take_fixed_backbone(len(kept.X))
        learner = self._start_learner(kept, network, generator, backbone)
        if held_out is not None:
            held_out = self._with_units(held_out, backbone, network).tensors(*self._placement(network))

        settings = self._resolved().settings(len(learner.batches), learner.batches.n_batches)
        begun, seeded = callbacks.begin(settings.max_iter), self._seeded(generator, network)
        with begun, seeded, surely(learner.step.stop), learner.step:
            curve, scores = train(learner, settings, held_out, callbacks)
        if backbone is not None:
            network.backbone = backbone
        self._store(network, curve, resume, validation_scores=scores)
        return self

    @learns_by_blocks
    @changes
    @typed(_fit_context(prefer_skip_nested_validation=True))
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn from some samples in one pass, going on from where the estimator is.

        The learning rate is constant, and class_weight="balanced" is refused, as both would need to know what is to
        come. Features are standardised by what has been seen so far. With `supervision` below 1, what is preserved are
        the principal components of the first call's samples. The sizes of the network stay those of the first call.

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
        resume = hasattr(self, "parameters_")
        if resume:
            check_backbone(self)
        X, y, sample_weight = self._check_samples(X, y, sample_weight, reset=not resume)
        if self.class_weight == "balanced":
            raise ValueError('class_weight="balanced" needs all samples: expected a dict or None for partial_fit.')
        earlier = self.classes_ if resume else None
        classes = classes_to_come(classes, y, earlier, required=is_classifier(self))
        if resume:
            check_shape(X, self.input_shape_)
        else:
            auto.check_one_pass(self.trunk_input)
            self._start(X, classes)
        _, generator = generators(self.random_state)

        samples = weigh_known(X, y, sample_weight, self.classes_, self.class_weight)
        learns = samples.weight.any()  # not where all classes of these samples have weight zero
        if not learns:
            if resume:
                return self
            samples = weigh_known(X, None, sample_weight, classes, None)
        self._learn_scaling(samples, resume)
        generator.manual_seed(generator.initial_seed() + (self.n_iter_ if resume else 0))
        network = self._start_network(samples.X, generator, resume, one_pass=True)
        learner = self._start_learner(samples, network, generator, one_pass=True)
        if resume and self.optimizer_state_ is not None:
            learner.step.state = self.optimizer_state_

        with self._seeded(generator, network), surely(learner.step.stop), learner.step:
            rate = self._resolved(distills=False).learning_rate(len(samples.X))
            terms = train_one_pass(learner, rate) if learns else {"loss": None}
        curve = {name: [value] if learns else [] for name, value in terms.items()}
        self._store(network, curve, resume, optimizer_state=learner.step.state)
        return self

    @by_blocks
    @reads
    def soft(self, X: ArrayLike) -> NDArray[np.float32]:
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
        intra_norm = self._valid("intra_norm")
        soft = self._soft(X).astype(np.float32, copy=False)
        if intra_norm:
            M, _, D = self.parameters_["codebooks"].shape
            soft = normalize_parts(soft.reshape(-1, M, D)).reshape(soft.shape)
        return soft

    @by_blocks
    @reads
    def encode(self, X: ArrayLike) -> Codes:
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

    @typed(available_if(_classifies))
    @by_blocks
    @reads
    def predict_proba_soft(self, X: ArrayLike) -> NDArray[np.float32]:
        """Estimate class probabilities from the soft representation; `DPQNeighbors` searches by them.

        Available where labels supervise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float32
            Softmax of the prediction scores of soft, in the order of `classes_`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on.
        """
        return class_posterior(self._soft(X), self._classifier("weight"), self._classifier("bias"))

    @property
    @reads
    def codebooks_(self) -> NDArray[np.float32]:
        """Codebooks C_m (M, K, D) that `decode` reads, float32; their rows normalised with ``intra_norm=True``."""
        codebooks = self._codebooks().astype(np.float32, copy=False)
        return normalize_parts(codebooks) if self._valid("intra_norm") else codebooks

    @property
    @reads
    def lutc_(self) -> NDArray[np.float32]:
        """Look-up tables LUTC_m (M, K, C) that classify codes (section 3.1.2), float32; not where none supervised.

        They are of the codebooks as trained, whatever `intra_norm` is.
        """
        codebooks = self._codebooks()
        return lut_classification(codebooks, self._classifier("weight")).astype(np.float32, copy=False)

    @property
    @reads
    def class_bias_(self) -> NDArray[np.float32]:
        """Bias b (C,) of the scores that `lutc_` adds up to, float32; not where none supervised."""
        return self._classifier("bias").astype(np.float32, copy=False)

    @property
    @reads
    def class_centers_(self) -> NDArray[np.float32]:
        """Class centers o_i of the Joint Central Loss (C, M * D), float32, in the order of `classes_`."""
        return self._parameter("class_centers").astype(np.float32)

    def _check_samples(self, X, y, sample_weight, reset):
        """Return the data, checked; y is None where nothing is supervised."""
        checks = {"dtype": "numeric", "allow_nd": self.backbone is not None, "reset": reset}
        # A projection is learned from components, which one sample has not.
        checks["ensure_min_samples"] = 2 if reset and (y is None or self.supervision < 1) else 1
        X, y = as_array(X), as_array(y)
        if y is None:
            X = validate_data(self, X, y, **checks)
        else:
            X, y = validate_data(self, X, y, **checks)
            check_classification_targets(y)
        for name in ("hidden_layer_sizes", "part_layer_sizes"):
            if not isinstance(getattr(self, name), str):
                check_layer_sizes(getattr(self, name), name)
        check_device(self.device)
        return X, None if self.supervision == 0 else y, check_weights(sample_weight, X)

    def _check_queries(self, X, name="samples"):
        """Return samples, checked against those of `fit`; `name` is what an error calls them."""
        X = validate_data(self, as_array(X), dtype="numeric", allow_nd=self.backbone_ is not None, reset=False)
        check_shape(X, self.input_shape_, name)
        return X

    def _hold_out(self, samples, X_val, y_val, sample_weight_val, random_state):
        """Return samples to validate on, given or held out, and those to train on."""
        if X_val is None:
            return hold_out(samples, self.classes_, self.validation_fraction, random_state)
        X_val = self._check_queries(X_val, "X_val with samples")
        return to_validate(X_val, y_val, sample_weight_val, self.classes_), samples

    def _architecture(self, n_units):
        resolved, C = self._resolved(), len(self.classes_)
        # Codes are of the nearest codewords, too, where labels supervise in part, by fixed units.
        near = self.supervision < 1 and C > 0 and not trains(self.backbone_)
        sizes = resolved.hidden_layer_sizes, self.part_layer_sizes
        return make_architecture(n_units, C, self.M, self.K, resolved.codeword_width, *sizes, near)

    def _seeded(self, generator, network):
        """Seed torch's global generator for code of the user, which knows no other; put it back after the block."""
        enabled = self.backbone is not None or self.augment is not None
        return seeded_globally(generator, network.codebooks.device, enabled=enabled)

    def _start(self, X, classes):
        """Set what a fit decides once, and a later one that resumes keeps."""
        self.classes_ = classes
        self.input_shape_ = X.shape[1:]
        self.backbone_ = copy.deepcopy(self.backbone)
        self.base_network_ = None
        vars(self).update(no_scaling() | no_projection())
        n_units = X.shape[1] if self.backbone is None else output_width(self.backbone_, X)
        self.architecture_ = self._architecture(n_units)

    def _learn_scaling(self, samples, resume=False):
        """Learn mean and standard deviation of the features, or `resume` to refine them; not with a backbone."""
        if self.backbone is None:
            earlier = self._scaling() if resume else None
            vars(self).update(learn_scaling(samples.X, samples.sample_weight, earlier))

    def _scaling(self):
        return {name: getattr(self, name) for name in no_scaling()}

    def _unchanged_features(self):
        """Return whether training sees features as they are, and learns nothing but their labels."""
        return self.supervision == 1 and self.backbone is None and self.augment is None

    def _learn_base_network(self, samples, generator):
        """Learn the base network, whose units become the input of the trunk."""
        device = check_device(self.device)
        with printed_stage("Training the base network", self.verbose):
            network = learn_base_network(samples, len(self.classes_), self._inputs(), device, generator)
        self.base_network_ = network.arrays()
        self.architecture_ = self._architecture(network.n_classes)

    def _start_network(self, X, generator, resume, one_pass=False):
        """Return the network on its device: drawn, or `resume` as it was fitted."""
        device, resolved = check_device(self.device), self._resolved()
        dropout = resolved.dropout(self.architecture_["n_units"], len(X))
        if resume:
            return restore(self.parameters_, self.architecture_, copy.deepcopy(self.backbone_), dropout).to(device)
        precise = self.backbone is None and not one_pass and is_precise(X, resolved.batch_size(len(X)), device)
        dtype = torch.float64 if precise else torch.float32
        network = draw_network(self.architecture_, self.backbone_, dropout, dtype, generator)
        if (distilled := resolved.distilled(*network.codebooks.shape)) and distilled.fixed_centers:
            network.spread_centers(distilled.center_scale, generator)
        return network.to(device)

    def _start_learner(self, samples, network, generator, backbone=None, one_pass=False):
        """Return what learns from samples, or from units of a fixed backbone; by their posterior if they have one."""
        distills = self.base_network_ is not None and not one_pass
        samples = self._with_units(samples, backbone, network)
        projection = self._start_projection(samples, network, generator)
        resolved = self._resolved(distills)
        inputs, *placement = self._placement(network)
        if distills:
            inputs = inputs._replace(generator=generator)
        n_draws = resolved.n_draws(len(samples.X))
        batches = make_batches(samples, resolved.batch_size(n_draws * len(samples.X)), inputs, *placement, n_draws)
        # A network of a base is as wide, and its terms weigh as much, where it goes on by labels.
        weights = self._resolved().loss_weights(network.K, self._supervision(network))
        distilled = resolved.distilled(*network.codebooks.shape)
        objective = Objective(weights, resolved.label_smoothing, projection, distilled)
        by_labels = self._supervision(network) == 1
        decay = resolved.weight_decay(batches.n_batches if by_labels and not one_pass else None)
        n_most = min(resolved.batch_size(len(batches)), len(batches))
        step = self._make_step(network, objective, weight_decay=decay, batch_size=n_most, generator=generator)
        return Learner(network, batches, step, objective.loss_weights, self.augment, generator)

    def _with_units(self, samples, backbone, network):
        """Return samples with the units of a fixed backbone in the place of X; without one, as they are."""
        units = Inputs(None, None, backbone).units(samples.X, network.codebooks.device, network.n_units)
        return samples._replace(X=units)

    def _resolved(self, distills=None):
        """Return the parameters, where a posterior is learned from; by default, where there is a base network."""
        return auto.Resolved(self, len(self.classes_), self.base_network_ is not None if distills is None else distills)

    def _inputs(self):
        return Inputs(self.mean_, self.scale_, base=from_arrays(self.base_network_))

    def _placement(self, network):
        """Return how samples are converted for a network, to which dtype and device."""
        return self._inputs(), network.codebooks.dtype, network.codebooks.device

    def _start_projection(self, samples, network, generator):
        """Return what projects the samples' own features, learned at the first call; None if labels alone supervise."""
        if self._supervision(network) == 1:
            return None
        inputs, dtype, device = self._placement(network)
        # as it is before training, which stays in here
        backbone = None if network.backbone is None else copy.deepcopy(self.backbone).to(device).eval()
        if self.projection_ is None:
            M, _, D = network.codebooks.shape
            blocks = partial(inputs._replace(backbone=backbone).blocks, samples, dtype, device)
            # Beside labels, what is preserved serves the classes that they do not name.
            vars(self).update(fit_projection(blocks, self._scaling(), M, D, generator, network.classifier is not None))
        directions = directions_of(self._scaling(), self.projection_scale_)
        arrays = self.projection_, self.projection_bias_, directions
        projection = Projection.of_arrays(*arrays, backbone, dtype, device)
        if network.nearness is not None:
            network.nearness.take(projection, choose_beta(self.projection_, network.M, network.K))
        return projection

    def _supervision(self, network):
        return 0 if network.classifier is None else self.supervision

    def _store(self, network, curve, resume, validation_scores=None, optimizer_state=None):
        """Keep what was learned, as arrays on the CPU."""
        earlier = self.loss_curve_ if resume else {}
        self.loss_curve_ = {name: earlier.get(name, []) + values for name, values in curve.items()}
        self.validation_scores_ = validation_scores
        self.n_iter_ = len(self.loss_curve_["loss"])
        network.to("cpu")  # also the backbone, which is a module of the network
        self.backbone_ = network.backbone
        self.parameters_ = network.arrays()
        self.optimizer_state_ = optimizer_state
        self.compression_ratio_ = compression_ratio(math.prod(self.input_shape_), network.M, network.K)

    def _check_fitted(self, thorough):
        check_fitted(self)

    def _codebooks(self):
        return self._parameter("codebooks")

    def _parameter(self, name):
        check_is_fitted(self, "parameters_")
        return self.parameters_[name]

    def _classifier(self, name):
        """Return the weights or the bias of the classifier; AttributeError if there is none."""
        check_is_fitted(self, "parameters_")
        if not _classifies(self):
            raise AttributeError(f"This {type(self).__name__} classifies no codes, as no labels supervised it.")
        return self._parameter(f"classifier.{name}")

    def _soft(self, X):
        """Return soft as the classifier sees it: in the dtype of the parameters, never normalised."""
        M, _, D = self._codebooks().shape
        return self._compute(X, M * D, self._codebooks().dtype)

    def _compute(self, X, width, dtype):
        """Return codes of X if dtype is one of integers, else soft."""
        X = self._check_queries(X)
        device = check_device(self.device)
        parameters = {name: tensor.to(device) for name, tensor in to_tensors(self.parameters_).items()}
        backbone = fitted_units(self.backbone_, self.architecture_["n_units"], device)
        to_tensor = self._inputs().tensor
        result = np.empty((len(X), width), dtype)
        for rows in printed_blocks(len(X), self._valid("verbose")):
            if not infer(parameters, X[rows], to_tensor, result[rows], backbone):
                raise ValueError("Expected X within the range of the training data, got values too large for it.")
        return result

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self.backbone is not None
        return tags
