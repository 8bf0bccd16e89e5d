"""DPQClassifier."""

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils._param_validation import Interval, StrOptions

from ._atomic import reads
from ._base import BaseDPQ
from ._blockwise import by_blocks
from ._codes import check_codes
from ._search.tables import lut_classification
from ._typing import Device, Floats


class DPQClassifier(ClassifierMixin, BaseDPQ):
    """Classification from codes of M * log2(K) bits by Deep Product Quantization.

    The network and its training are those of `DPQTransformer`; this class adds predictions (Klein & Wolf [1]_, section
    3.1.2): M additions of table rows a sample, from the codes alone. It also encodes and transforms, so one fitted
    object serves classification and search.

    Parameters
    ----------
    M : int, default=8
        Number of parts.
    K : int, default=256
        Number of codewords a part, 2 to 65,536. A code takes M * log2(K) bits.
    D : int, "auto" or None, default="auto"
        Width of a codeword; more takes longer, and is seldom better. ``"auto"`` is 16, and 32 where the trunk reads a
        posterior. ``None`` takes the width of a sub-vector s_m: the units that enter the part networks divided by M, as
        in the paper's CIFAR-10 experiments.
    hidden_layer_sizes : array-like of int or "auto", default="auto"
        Widths of the ReLU layers of the trunk, the MLP before the split into parts; ``()`` for none. Of its last
        layer's units, those that do not divide by M are dropped, as in section 4; with fewer units than M every part
        reads them all. ``"auto"`` is ``(256,)``, and ``(1024,)`` where the trunk reads a posterior.
    part_layer_sizes : array-like of int, default=(64,)
        Widths of the ReLU layers of each part network; ``()`` goes straight from sub-vector to K logits.
    trunk_input : {"auto", "features", "posterior"}, default="auto"
        What the trunk reads. ``"posterior"`` first trains a base network, a classifier; the trunk then reads the square
        roots of the class posterior that it gives a sample, and that posterior takes the place of the label in what is
        learned. ``"auto"`` does so from 11 classes on, and of fewer classes where `max_iter` is "auto", too, and there
        are 257 to 12,800 samples; not with a `backbone`, an `augment` or a `supervision` below 1. Codes of many
        classes, and of few samples, are far better for it. `partial_fit` begins with features.
    backbone : torch.nn.Module, default=None
        Learned jointly, in front of the trunk. X may then have any shape that it takes, (n_samples, ...); it must
        return (n_samples, n_units) in float32. Training starts from a copy of it, which becomes `backbone_`: the module
        itself is never changed. One none of whose parameters requires a gradient is only evaluated, once for each
        sample where there is no `augment` and the units fit into 256 MB.
    augment : callable, default=None
        Applied to each batch of X in training, a tensor (batch, ...), and returns another of finite numbers of the same
        dtype and shape; with a backbone, only its length must be the same.
    intra_norm : bool, default=False
        L2-normalise every part of soft and of the codewords (section 4), for retrieval across domains. It needs no
        retraining: it may be changed on a fitted estimator with `set_params`. Predictions do not depend on it.
    dropout : float or "auto", default="auto"
        Share of the features, or units of the backbone, that are dropped in training, others for each sample. Of n,
        ``"auto"`` drops n / (n + 750), at most half: then it has about the same effect on a sum of few features as on
        one of many. It drops none where all samples fit into a batch, or the trunk reads the posterior.
    label_smoothing : float or "auto", default="auto"
        Share of each label that the softmax losses spread evenly over all classes. ``"auto"`` is 0.1, and 0 where
        a posterior takes their place.
    softmax_soft_weight : float, default=1.0
        Weight of the softmax loss on soft.
    softmax_hard_weight : float, default=1.0
        Weight of the softmax loss on hard; three times as much where `class_centers_` are not learned.
    joint_central_weight : float, default=0.5
        Weight of the Joint Central Loss (equation 5): half squared distances to the class center, summed over the
        M * D dimensions, of soft and of hard.
    supervision : float, default=1.0
        As in `DPQTransformer`, but above 0: without labels there is nothing to predict.
    gini_batch_weight : float or "auto", default="auto"
        Weight of GiniBatch (equation 6), a mean over the parts. ``"auto"`` is 1 up to K=64, and K / 64 beyond: an even
        use of the codewords has a GiniBatch of 1 / K, and its gradient shrinks like that. It is four times as much
        where a posterior takes the place of labels.
    gini_sample_weight : float, default=0.02
        Weight of GiniSample (equation 7), a mean over the parts.
    learning_rate : float or "auto", default="auto"
        Highest learning rate of AdamW. It warms up over a twentieth of the epochs (a tenth, where a posterior takes
        the place of labels), stays constant, and falls linearly to zero over the second half of the epochs, or from
        the plateau that `tol` and `n_iter_no_change` define, over as many epochs as came before it. ``"auto"`` is
        0.003; where a posterior takes the place of labels it is 0.01, and less, but not below 0.003, with batches of
        fewer than 32 samples, or with more of them than `max_iter="auto"` makes at least.
    weight_decay : float or "auto", default="auto"
        Decoupled weight decay of the layers' weights; codebooks, class centers and biases are left alone. ``"auto"`` is
        0.2 for as many batches, in all epochs, as `max_iter="auto"` makes at least, and as much less as there are more
        of them, so that weights shrink about alike. Whatever the number, it is 0.2 in `partial_fit`,
        without labels, and with a `supervision` below 1.
    batch_size : int or "auto", default="auto"
        Largest number of samples in a batch. ``"auto"`` is 256, or less where `max_iter` is a number: then as few, but
        at least 4, as make 1,000 batches, since small data learn little from a few epochs of large batches.
    max_iter : int or "auto", default="auto"
        Largest number of epochs. ``"auto"`` takes as many as make 1,000 batches, or 3,000 where a posterior of 11
        classes or more takes the place of labels; at least 20. Epochs of a posterior visit each of few samples more
        than once, with another posterior each time: they have up to 12,800 visits, or 38,400 from 11 classes on.
    tol : float, default=1e-4
        Least improvement of the loss (of the validation score with `early_stopping`) that is no plateau.
    early_stopping : bool or "auto", default="auto"
        Score accuracy from hard codes on validation data after each epoch, and keep the weights that scored best. The
        data are `X_val` of `fit` or else `validation_fraction` of the samples, stratified. ``"auto"`` does so where
        `X_val` is given. Training does not stop at a plateau of the score: it starts the decay of the learning rate.
    validation_fraction : float, default=0.1
        Share of the samples held out with `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without an improvement by `tol` that make a plateau, after the learning rate has risen.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as in scikit-learn's classifiers.
    warm_start : bool, default=False
        Go on from the weights of the last `fit`; `max_iter` then counts further epochs. Classes, architecture and
        standardisation stay as they were.
    representation : {"hard", "soft"}, default="hard"
        Predict from the codes, or from the soft representation before it is quantized. May be changed on a fitted
        estimator.
    output : {"soft", "hard", "codes"}, default="soft"
        What `transform` returns; may be changed on a fitted estimator.
    random_state : int, RandomState instance or None, default=None
        Seed of initialisation, batches and validation split.
    device : str or torch.device, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", "mps"; "auto" takes an accelerator if there is one. What is fitted
        stays on the CPU.
    verbose : bool or int, default=False
        Print a line with every loss term after each epoch, and up to ten while more than 16,384 samples are encoded.

    Attributes
    ----------
    class_vectors_ : ndarray of shape (n_classes, M * D), float32
        Weights W of the classifier that soft and hard share, transposed; its bias b is `class_bias_`.
    codebooks_ : ndarray of shape (M, K, D), float32
        Codewords that `decode` reads, normalised with ``intra_norm=True``.
    classes_ : ndarray of shape (n_classes,)
        Class labels; none where none supervised.
    class_centers_ : ndarray of shape (n_classes, M * D), float32
        Centers o_i of the Joint Central Loss; orthogonal, and not learned, where a posterior takes the place of labels,
        of at most 30 classes and no more than M * D.
    lutc_ : ndarray of shape (M, K, n_classes), float32
        Look-up tables of the classification of codes (section 3.1.2): the scores of a code are `class_bias_` plus
        one row of each part. They do not depend on `intra_norm`, and are not there where no labels supervised.
    class_bias_ : ndarray of shape (n_classes,), float32
        Bias of the scores; there where `lutc_` is.
    base_network_ : dict of str to ndarray, or None
        Parameters of the base network, where the trunk reads the posterior.
    n_iter_ : int
        Epochs that were run.
    loss_curve_ : dict of str to list of float
        Mean over each epoch of the objective ("loss") and of its terms "softmax_soft", "softmax_hard",
        "joint_central", "preservation", "gini_batch" and "gini_sample" (before their weights; 0 for those that
        `supervision` leaves out).
    validation_scores_ : list of float or None
        Validation accuracy after each epoch with validation data.
    compression_ratio_ : float
        Equation 8.
    parameters_ : dict of str to ndarray
        All parameters of the network but the backbone's.
    architecture_ : dict
        Sizes of the network, and whether it has a nearness (docs/paper.md).
    backbone_ : torch.nn.Module or None
        Trained copy of the backbone, on the CPU.
    mean_ : ndarray of shape (n_features,) or None
        Mean that is subtracted from the features; None with a backbone.
    scale_ : ndarray of shape (n_features,) or None
        Standard deviation that they are then divided by; None with a backbone.
    projection_ : ndarray of shape (n_units, M * D) or None
        What is preserved of a sample with `supervision` below 1: X, or the units of the backbone, divided by
        `projection_scale_`, then by its length, times `projection_`, plus `projection_bias_`.
    projection_bias_ : ndarray of shape (M * D,) or None
        The last of these.
    projection_scale_ : ndarray of shape (n_features,) or None
        One number where all features seem to have the same unit, that is, where no standard deviation is above ten
        times the median one; else the standard deviations. Infinite for constant features; None with a backbone.
    var_ : ndarray of shape (n_features,) or None
        Variance of the features, which `partial_fit` refines; None with a backbone.
    n_samples_seen_ : int or None
        Number of samples that mean and variance are of; None with a backbone.
    optimizer_state_ : dict or None
        State of AdamW after `partial_fit`, as arrays.
    input_shape_ : tuple of int
        Shape of a sample.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has them.

    See Also
    --------
    DPQTransformer : The same network, without predictions.

    References
    ----------
    .. [1] B. Klein and L. Wolf, "In Defense of Product Quantization", arXiv:1711.08589.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import DPQClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = DPQClassifier(M=4, K=16, random_state=0).fit(X[:1200], y[:1200])
    >>> clf.score(X[1200:], y[1200:]) > 0.9
    True
    >>> codes = clf.encode(X[1200:])  # 16 bits a sample
    >>> bool((clf.predict_codes(codes) == clf.predict(X[1200:])).all())
    True
    """

    _parameter_constraints: dict = {
        **BaseDPQ._parameter_constraints,
        "supervision": [Interval(Real, 0, 1, closed="right")],
        "representation": [StrOptions({"hard", "soft"})],
    }

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
        representation: Literal["hard", "soft"] = "hard",
        output: Literal["soft", "hard", "codes"] = "soft",
        random_state: int | np.random.RandomState | None = None,
        device: Device = "auto",
        verbose: bool | int = False,
    ) -> None:
        super().__init__(
            M=M,
            K=K,
            D=D,
            hidden_layer_sizes=hidden_layer_sizes,
            part_layer_sizes=part_layer_sizes,
            trunk_input=trunk_input,
            backbone=backbone,
            augment=augment,
            intra_norm=intra_norm,
            dropout=dropout,
            label_smoothing=label_smoothing,
            softmax_soft_weight=softmax_soft_weight,
            softmax_hard_weight=softmax_hard_weight,
            joint_central_weight=joint_central_weight,
            supervision=supervision,
            gini_batch_weight=gini_batch_weight,
            gini_sample_weight=gini_sample_weight,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_iter=max_iter,
            tol=tol,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            class_weight=class_weight,
            warm_start=warm_start,
            output=output,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.representation = representation

    @property
    @reads
    def class_vectors_(self) -> NDArray[np.float32]:
        """Weights W of the classifier that soft and hard share, transposed: a row w_c for each class, float32.

        They weigh the M * D dimensions of soft and hard, and no features. So their name is not `coef_`, of which
        scikit-learn's feature selection expects an entry for each feature.
        """
        return self._classifier("weight").astype(np.float32, copy=False)

    @by_blocks
    @reads
    def decision_function(self, X: ArrayLike) -> Floats:
        """Compute prediction scores (section 3.1.2).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            Scores before the softmax; for two classes, that of ``classes_[1]`` less that of ``classes_[0]``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on.
        """
        return self._binary(self._scores(X))

    @reads
    def decision_function_codes(self, codes: ArrayLike) -> Floats:
        """Compute prediction scores from codes through LUTC (section 3.1.2).

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.

        Returns
        -------
        scores : ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            As in `decision_function`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the codes have another width than M, or are out of range.
        """
        return self._binary(self._scores_codes(codes))

    @by_blocks
    @reads
    def predict_proba(self, X: ArrayLike) -> Floats:
        """Estimate class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Softmax of the prediction scores, in the order of `classes_`.
        """
        return softmax(self._scores(X), axis=1)

    @reads
    def predict_proba_codes(self, codes: ArrayLike) -> Floats:
        """Estimate class probabilities from codes.

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Softmax of the prediction scores, in the order of `classes_`.
        """
        return softmax(self._scores_codes(codes), axis=1)

    @by_blocks
    @reads
    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Estimate the logarithm of the class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            Log-softmax of the prediction scores, finite also where `predict_proba` underflows.
        """
        return log_softmax(self._scores(X), axis=1)

    @by_blocks
    @reads
    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict class labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or (n_samples, ...) with a backbone
            Samples.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The class of highest score.
        """
        scores = self._scores(X)
        return self.classes_[scores.argmax(axis=1)]

    @reads
    def predict_codes(self, codes: ArrayLike) -> NDArray[Any]:
        """Predict class labels from codes.

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The class of highest score.
        """
        scores = self._scores_codes(codes)
        return self.classes_[scores.argmax(axis=1)]

    def _scores(self, X):
        if self._valid("representation") == "soft":
            return self._soft(X) @ self._parameter("classifier.weight").T + self._parameter("classifier.bias")
        return self._scores_codes(self.encode(X))

    def _scores_codes(self, codes):
        codebooks = self._codebooks()  # as trained: the classifier has never seen normalised ones
        M, K, D = codebooks.shape
        codes = check_codes(codes, M, K)
        weight = self._parameter("classifier.weight")
        scores = np.tile(self._parameter("classifier.bias"), (len(codes), 1))
        if len(codes) < K:  # the rows of LUTC that they read, as to compute all of them takes longer
            for m, of_part in enumerate(weight.reshape(-1, M, D).transpose(1, 2, 0)):
                scores += codebooks[m, codes[:, m]] @ of_part
            return scores
        lutc = lut_classification(codebooks, weight)
        for m in range(M):
            scores += lutc[m, codes[:, m]]
        return scores

    @staticmethod
    def _binary(scores):
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores
