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
from ._codes import check_codes
from ._search.tables import lut_classification
from ._typing import Device, Floats


class DPQClassifier(ClassifierMixin, BaseDPQ):
    """Classification from codes of M * log2(K) bits by Deep Product Quantization.

    The network, its training and its other parameters are those of `DPQTransformer`; this class adds predictions
    (Klein & Wolf [1]_, section 3.1.2): M additions of table rows a sample, from the codes alone. It also encodes and
    transforms, so one fitted object serves classification and search.

    Parameters
    ----------
    M, K : int
        Number of parts (default 8) and of codewords a part (default 256).
    D, hidden_layer_sizes, part_layer_sizes, trunk_input, backbone, augment, intra_norm, dropout, label_smoothing, \
softmax_soft_weight, softmax_hard_weight, joint_central_weight, gini_batch_weight, gini_sample_weight, learning_rate, \
weight_decay, batch_size, max_iter, tol, early_stopping, validation_fraction, n_iter_no_change, class_weight, \
warm_start, output, random_state, device, verbose
        See `DPQTransformer`.
    supervision : float, default=1.0
        As in `DPQTransformer`, but above 0: without labels there is nothing to predict.
    representation : {"hard", "soft"}, default="hard"
        Predict from the codes, or from the soft representation before it is quantized. May be changed on a fitted
        estimator.

    Attributes
    ----------
    class_vectors_ : ndarray of shape (n_classes, M * D), float32
        Weights W of the classifier that soft and hard share, transposed; its bias b is `class_bias_`.
    codebooks_, classes_, class_centers_, lutc_, class_bias_, n_iter_, loss_curve_, validation_scores_, \
compression_ratio_, parameters_, architecture_, backbone_, base_network_, mean_, scale_, projection_, \
projection_bias_, projection_scale_, var_, n_samples_seen_, optimizer_state_, input_shape_, n_features_in_, \
feature_names_in_
        See `DPQTransformer`.

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
        learning_rate: float = 3e-3,
        weight_decay: float = 0.2,
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
