"""ProductQuantizer: PQ and OPQ, the unsupervised quantizers that the paper measures against."""

from itertools import pairwise
from numbers import Integral
from operator import itemgetter
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.cluster._kmeans import _kmeans_plusplus, _kmeans_single_lloyd
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import row_norms
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_info

from ._arrays import as_array, check_array, slices_of, validate_data
from ._atomic import changes, reads
from ._blockwise import by_blocks
from ._codes import code_dtype
from ._frame import Frame, frame_of_range
from ._quantizer import QuantizerMixin, compression_ratio
from ._threads import one_blas_thread, run
from ._typing import Codes, typed

_BLOCK_VALUES = 2**22  # values of a block: 32 MB in float64
_PARTS_BYTES = 2**28  # of the sub-vectors of all parts that are learned side by side: 256 MB, or those of one
_ROTATION_SAMPLES = 2**16  # samples that learn the rotation, as in faiss; but at least 256 a codeword
_TOL = 1e-4  # of k-means, as scikit-learn has it; and relative decrease of the error at which the alternation ends
_FLOOR = 1e-10  # smallest variance, relative to the largest, that balances parts
_ORTHONORMAL = 1e-4  # largest error of an inner product of columns: what float32 computes of a thousand is at 1e-5


class ProductQuantizer(CallbackSupportMixin, QuantizerMixin, BaseEstimator):
    """Product Quantization (PQ) and Optimized Product Quantization (OPQ), without labels.

    The features are split into M parts of consecutive features, and k-means learns K codewords for the sub-vectors of
    every part [1]_. A sample's code of a part is its nearest codeword. With ``rotation="opq"`` the samples are first
    multiplied by an orthonormal matrix, learned together with the codewords to lessen the quantization error [2]_;
    Cartesian k-means [3]_ is the same model.

    It is the unsupervised baseline of the paper's experiments (section 4), with the representations, the compression
    ratio and the look-up tables of its section 3.1: hard are the codewords of a code, and soft, as always in PQ, is the
    (rotated) sample itself, so distances between soft representations are those between samples.

    Parameters
    ----------
    M : int, default=8
        Number of parts.
    K : int, default=256
        Number of codewords a part, 2 to 65,536.
    rotation : {None, "opq"}, default=None
        ``"opq"`` learns a rotation, on a random ``256 * max(K, 256)`` samples where there are more; None is plain PQ.
    output : {"soft", "hard", "codes"}, default="soft"
        What `transform` returns.
    max_iter : int, default=25
        Largest number of iterations of a part's k-means.
    max_iter_rotation : int, default=50
        Largest number of alternations between codebooks and rotation; half of them choose between two starts (Notes).
    random_state : int, RandomState instance or None, default=None
        Draws the first codewords, and the samples that learn the rotation. An int gives the same codes at every fit,
        on any number of cores.

    Attributes
    ----------
    codebooks_ : ndarray of shape (M, K, D), float32
        The codewords; D is ``ceil(n_features / M)``. In float64, as soft and hard then are, where `origin_` is not None
        or `exponent_` not zero.
    origin_ : ndarray of shape (n_features,), float64, or None
        What is subtracted from features, in float64, before they are rounded to float32: not zero for those so far
        from zero, in units of their spread, that float32 would hardly tell their values apart. None where there are
        no such features.
    exponent_ : int
        By two to the power of this, features are divided before they are rounded; zero unless all are below 1e-30.
    rotation_ : ndarray of shape (n_features, n_features), float64, or None
        Orthonormal; ``X @ rotation_`` is what is split into parts. None, for the identity, without a rotation.
    compression_ratio_ : float
        Equation 8: how many times smaller codes are than samples in float32.
    n_codewords_ : ndarray of shape (M,)
        How many codewords of each part are distinct: the first ones, in lexicographic order. The others repeat them.
        Those of `from_codebooks` keep their order, and this counts up to the last that repeats none before it.
    n_iter_ : int
        Iterations that k-means took, the most of any part (1 where no part needed k-means, 0 after `from_codebooks`).
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in `fit`, where X has string names for all of them.

    See Also
    --------
    skdpq.DPQTransformer : Learns the codes from labels.
    skdpq.from_faiss : Takes codebooks, rotation and codes from an index of faiss.

    Notes
    -----
    No feature is dropped. Parts differ by at most one feature, the first ``n_features % M`` having one more, and the
    shorter ones are padded with a zero to D, in soft and in the codewords, which changes no distance. With fewer
    features than parts, the last parts are empty: their codewords are zero and their code is 0.

    Where the sub-vectors of a part take at most K distinct values, these are its codewords, without error, and the
    codewords that remain repeat them. Repetitions are never a code, as the lowest index wins among equals.

    The alternation of OPQ ends in a local optimum, so it has two starts, of which the better after half the iterations
    goes on: the identity, where the order of the features means something, as of pixels, and Ge et al.'s parametric
    solution (principal axes, dealt to parts of equal variance), for correlated features in any order.

    References
    ----------
    .. [1] H. Jégou, M. Douze, C. Schmid. "Product quantization for nearest neighbor search." IEEE TPAMI 33(1), 2011.
    .. [2] T. Ge, K. He, Q. Ke, J. Sun. "Optimized product quantization for approximate nearest neighbor search."
       CVPR, 2013.
    .. [3] M. Norouzi, D. J. Fleet. "Cartesian k-means." CVPR, 2013.
    .. [4] B. Klein, L. Wolf. "In defense of product quantization." arXiv:1711.08589, 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import ProductQuantizer
    >>> X, _ = load_digits(return_X_y=True)
    >>> pq = ProductQuantizer(M=4, K=16, random_state=0).fit(X)
    >>> codes = pq.encode(X)
    >>> codes.shape, codes.dtype
    ((1797, 4), dtype('uint8'))
    >>> pq.pack_codes(codes).shape  # 2 bytes instead of the 256 of 64 float32
    (1797, 2)
    >>> pq.compression_ratio_
    128.0
    >>> pq.decode(codes).shape
    (1797, 64)
    """

    codebooks_: NDArray[np.float32]
    n_codewords_: NDArray[np.integer[Any]]
    rotation_: NDArray[np.float64] | None
    n_iter_: int
    compression_ratio_: float

    _parameter_constraints: dict = {
        "M": [Interval(Integral, 1, None, closed="left")],
        "K": [Interval(Integral, 2, 65_536, closed="both")],
        "rotation": [None, StrOptions({"opq"})],
        "output": [StrOptions({"soft", "hard", "codes"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_iter_rotation": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    _fitted_attributes = {
        **dict.fromkeys(("codebooks_", "compression_ratio_", "exponent_", "n_codewords_", "n_features_in_"), False),
        **dict.fromkeys(("n_iter_", "origin_", "rotation_"), False),
        "feature_names_in_": True,
    }

    def __init__(
        self,
        M: int = 8,
        K: int = 256,
        *,
        rotation: Literal["opq"] | None = None,
        output: Literal["soft", "hard", "codes"] = "soft",
        max_iter: int | Literal["auto"] = 25,
        max_iter_rotation: int = 50,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.M = M
        self.K = K
        self.rotation = rotation
        self.output = output
        self.max_iter = max_iter
        self.max_iter_rotation = max_iter_rotation
        self.random_state = random_state

    @changes
    @typed(_fit_context(prefer_skip_nested_validation=True))
    @typed(with_callbacks)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Learn the codebooks, and the rotation, from samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples. Converted to float32 a block at a time, a part at a time; of more than 256 MB, fewer parts are
            learned side by side.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : ProductQuantizer
            The fitted estimator.

        Raises
        ------
        InvalidParameterError
            If a parameter is out of range (a ValueError).
        ValueError
            If X is not a finite real matrix, or has values, also after the rotation, beyond the range of float32.
        TypeError
            If X is sparse.
        """
        X = validate_data(self, as_array(X), dtype="numeric")
        context = self._init_callback_context().call_on_fit_task_begin(estimator=self, X=X)
        random_state = check_random_state(self.random_state)
        M, K, max_iter = int(self.M), int(self.K), int(self.max_iter)
        parts, D = _split(X.shape[1], M), -(-X.shape[1] // M)
        seeds = random_state.randint(np.iinfo(np.int32).max, size=M)
        frame = _frame_of(X)
        rotation, inits = None, ["k-means++"] * M
        # One thread a part: k-means that shares a part among threads adds up in an order, and so to codebooks, that
        # depends on their number.
        n_threads = max(1, min(M, _n_threads(), _PARTS_BYTES // (4 * len(X) * D)))
        with one_blas_thread():
            if self.rotation == "opq":
                n_train = min(len(X), max(_ROTATION_SAMPLES, 256 * K))
                train = np.sort(sample_without_replacement(len(X), n_train, random_state=random_state))
                n_iter = int(self.max_iter_rotation)
                rotation, inits = _learn_rotation(X, frame, train, parts, D, K, n_iter, seeds, n_threads)
            fitted = run(
                lambda task: _fit_part(X, frame, rotation, D, K, max_iter, *task),
                zip(parts, inits, seeds, strict=True),
                n_threads,
            )
        codebooks, n_codewords, n_iter = zip(*fitted, strict=True)
        self.rotation_ = rotation
        self.origin_, self.exponent_ = frame
        self.codebooks_ = _by_rows(self._frame(M, D).restore, np.stack(codebooks))
        self.n_codewords_ = np.array(n_codewords)
        self.n_iter_ = max(n_iter)
        self.compression_ratio_ = compression_ratio(X.shape[1], M, K)
        context.call_on_fit_task_end(estimator=self, X=X)
        return self

    @classmethod
    def from_codebooks(
        cls, codebooks: ArrayLike, rotation: ArrayLike | None = None, *, n_features: int | None = None
    ) -> Self:
        """Make a fitted quantizer of codebooks that were learned elsewhere, by nanopq for instance.

        Parameters
        ----------
        codebooks : array-like of shape (M, K, D)
            Codewords, K from 2 to 65,536. They become float32, and keep their order, so codes made elsewhere are valid.
        rotation : array-like of shape (n_features, n_features), default=None
            Orthonormal to rounding: ``X @ rotation`` is what is split into parts.
        n_features : int, default=None
            Number of features; ``M * D`` by default. With fewer the parts are as `fit` makes them (Notes above): D must
            be ``ceil(n_features / M)``.

        Returns
        -------
        quantizer : ProductQuantizer
            Fitted, with the M and K of the codebooks, and ``rotation="opq"`` where there is one. Its other parameters
            have their defaults: they would matter in another `fit` alone.

        Raises
        ------
        TypeError
            If codebooks or rotation are sparse, or `n_features` is not an integer.
        ValueError
            If the codebooks are not finite real numbers of that shape that float32 holds, `n_features` does not fit
            them, or the rotation is not orthonormal, or of another size.

        Examples
        --------
        >>> from skdpq import ProductQuantizer
        >>> pq = ProductQuantizer.from_codebooks([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 5.0], [5.0, 0.0]]])
        >>> pq
        ProductQuantizer(K=2, M=2)
        >>> pq.encode([[0.9, 0.8, 4.0, 1.0]])
        array([[1, 1]], dtype=uint8)
        """
        codebooks = _check_codebooks(codebooks)
        M, K, D = codebooks.shape
        n_features = _check_n_features(M * D if n_features is None else n_features, M, D)
        quantizer = cls(M=M, K=K, rotation=None if rotation is None else "opq")
        quantizer.rotation_ = None if rotation is None else _check_rotation(rotation, n_features)
        quantizer.origin_, quantizer.exponent_ = Frame()
        quantizer.codebooks_ = codebooks
        quantizer.n_codewords_ = np.array([_n_codewords(codebook) for codebook in codebooks])
        quantizer.n_iter_ = 0
        quantizer.n_features_in_ = n_features
        quantizer.compression_ratio_ = compression_ratio(n_features, M, K)
        return quantizer

    @by_blocks
    @reads
    def soft(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the soft representation: X itself, rotated where there is a rotation, split and padded.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        soft : ndarray of shape (n_samples, M * D), float32
            Sub-vector m in columns ``m * D`` to ``(m + 1) * D``. Of the type of `codebooks_`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on, or has values beyond the range of float32.
        """
        check_is_fitted(self)
        X = validate_data(self, as_array(X), dtype="numeric", reset=False)
        M, _, D = self.codebooks_.shape
        frame = self._frame(M, D)
        soft = np.empty((len(X), M * D), dtype=self.codebooks_.dtype)
        for rows in slices_of(len(X), _block_size(M * D)):
            soft[rows] = frame.restore(self._soft_block(X[rows]))
        return soft

    @by_blocks
    @reads
    def encode(self, X: ArrayLike) -> Codes:
        """Return the codes: of every part the nearest codeword, the lowest index among equally near ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples. Converted a block at a time, so a large or memory-mapped X is never copied whole.

        Returns
        -------
        codes : ndarray of shape (n_samples, M), uint8 or uint16
            Integers in ``range(K)``; uint16 where K is above 256.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on, or has values beyond the range of float32.
        """
        check_is_fitted(self)
        X = validate_data(self, as_array(X), dtype="numeric", reset=False)
        M, K, D = self.codebooks_.shape
        codebooks = _by_rows(self._frame(M, D).place, self.codebooks_)
        norms = np.square(codebooks, dtype=np.float64).sum(axis=2)
        codes = np.empty((len(X), M), dtype=code_dtype(K))
        for rows in slices_of(len(X), _block_size(M * D, K)):
            soft = self._soft_block(X[rows]).reshape(-1, M, D)
            for m, n_codewords in enumerate(self.n_codewords_):
                # In float64 the expanded distance is more precise than float32 sub-vectors are.
                codebook = codebooks[m, :n_codewords].astype(np.float64)
                distances = soft[:, m].astype(np.float64) @ codebook.T
                distances *= -2
                distances += norms[m, :n_codewords]
                codes[rows, m] = distances.argmin(axis=1)
        return codes

    def _check_fitted(self, thorough):
        """Raise ValueError unless the fitted attributes go together."""
        codebooks, n = self.codebooks_, self.n_features_in_
        shape = codebooks.shape if isinstance(codebooks, np.ndarray) else ()
        if len(shape) != 3 or not 2 <= shape[1] <= 2**16 or codebooks.dtype not in (np.float32, np.float64):
            raise ValueError(f"expected codebooks_ of shape (M, K, D), float32 or float64, got {codebooks!r:.100}.")
        M, K, D = shape
        if type(n) is not int or n < 1 or M < 1 or -(-n // M) != D:
            raise ValueError(f"expected n_features_in_ of {M} parts of up to {D}, got {n!r:.50}.")
        wanted = {"codebooks_": (shape, codebooks.dtype), "n_codewords_": ((M,), np.int64)}
        if self.origin_ is not None:
            wanted["origin_"] = (n,), np.float64
        if self.rotation_ is not None:
            wanted["rotation_"] = (n, n), np.float64
        for name, (shape, dtype) in wanted.items():
            array = getattr(self, name)
            right = isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype
            if not right or not np.isfinite(array).all():
                raise ValueError(f"expected {name} of shape {shape}, {dtype}, finite, got {array!r:.100}.")
        if self.rotation_ is not None:
            some = np.random.default_rng(0).standard_normal((n, 4))
            if not np.allclose(self.rotation_ @ (self.rotation_.T @ some), some, atol=1e-6):
                raise ValueError("expected a rotation that is orthonormal, got another matrix.")
        if not ((self.n_codewords_ >= 1) & (self.n_codewords_ <= K)).all():
            raise ValueError(f"expected up to {K} codewords that differ, got {self.n_codewords_.tolist()!r:.100}.")
        if type(self.exponent_) is not int or not -1100 < self.exponent_ < 1100 or type(self.n_iter_) is not int:
            raise ValueError(f"expected exponent_ and n_iter_, got {self.exponent_!r:.50} and {self.n_iter_!r:.50}.")
        if self.compression_ratio_ != compression_ratio(n, M, K):
            raise ValueError(f"expected compression_ratio_={compression_ratio(n, M, K)}, got another.")

    def _soft_block(self, X):
        """Return soft in its frame, float32."""
        M, _, D = self.codebooks_.shape
        return _pad(_project(X, Frame(self.origin_, self.exponent_), self.rotation_), M, D)

    def _frame(self, M, D):
        """Return the frame of soft, and of codewords side by side."""
        origin = self.origin_
        if origin is not None:
            origin = origin if self.rotation_ is None else origin @ self.rotation_
            origin = _pad(origin[None], M, D)[0]
        return Frame(origin, self.exponent_)


def _split(n_features, M):
    """Return the features of every part, as slices."""
    width, n_wider = divmod(n_features, M)
    stops = [width * m + min(m, n_wider) for m in range(M + 1)]
    return [slice(*pair) for pair in pairwise(stops)]


def _pad(vectors, M, D):
    """Return vectors (n, n_features) as M parts of width D, the shorter ones with a zero at the end: (n, M * D)."""
    padded = np.zeros((len(vectors), M, D), dtype=vectors.dtype)
    for m, part in enumerate(_split(vectors.shape[1], M)):
        padded[:, m, : part.stop - part.start] = vectors[:, part]
    return padded.reshape(len(vectors), M * D)


def padded_slots(n_features, M, D):
    """Return which feature is in each column of soft.

    Parameters
    ----------
    n_features, M, D : int
        Number of features, number of parts, and width of the widest part.

    Returns
    -------
    features : ndarray of shape (M * D,), int32
        -1 where parts are padded with a zero.
    """
    return _pad(np.arange(1, n_features + 1, dtype=np.int32)[None], M, D)[0] - 1


def _by_rows(function, codebooks):
    """Return what a function of rows (K, M * D) makes of codebooks (M, K, D)."""
    M, K, D = codebooks.shape
    rows = function(codebooks.transpose(1, 0, 2).reshape(K, M * D))
    return np.ascontiguousarray(rows.reshape(K, M, D).transpose(1, 0, 2))


def _check_codebooks(codebooks):
    """Return given codebooks (M, K, D) as an own array, float32."""
    codebooks = check_array(as_array(codebooks), dtype="numeric", allow_nd=True, input_name="codebooks")
    if codebooks.ndim != 3 or 0 in codebooks.shape or not 2 <= codebooks.shape[1] <= 65_536:
        raise ValueError(f"Expected codebooks of shape (M, K, D) with K from 2 to 65,536, got {codebooks.shape}.")

    def round_to_float32(rows):
        if not _frame_of(rows).is_plain:
            raise ValueError(
                "Expected codebooks that float32 tells apart, got values that are all below 1e-30, or too far from "
                "zero in units of their spread. Scale or center the data before they are learned."
            )
        return _project(rows, Frame())

    return _by_rows(round_to_float32, codebooks)


def _check_n_features(n_features, M, D):
    """Return a number of features that M parts of width D have."""
    n_features = int(check_scalar(n_features, "n_features", Integral, min_val=1))
    if -(-n_features // M) != D:
        raise ValueError(
            f"Expected n_features from {M * (D - 1) + 1} to {M * D}, as {M} parts of width {D} have, got {n_features}."
        )
    return n_features


def _check_rotation(rotation, n_features):
    """Return a given rotation as an own array, float64."""
    rotation = check_array(as_array(rotation), dtype=np.float64, copy=True, input_name="rotation")
    if rotation.shape != (n_features, n_features):
        raise ValueError(f"Expected a rotation of shape {(n_features, n_features)}, got {rotation.shape}.")
    error = np.abs(rotation.T @ rotation - np.eye(n_features)).max()
    if error > _ORTHONORMAL:
        raise ValueError(f"Expected an orthonormal rotation, got one whose R.T @ R is {error:.3g} from the identity.")
    return rotation


def _n_codewords(codebook):
    """Return how many codewords there are up to the last that repeats none before it."""
    _, first = np.unique(codebook, axis=0, return_index=True)
    return first.max() + 1


def _frame_of(X):
    """Return the frame in which to round samples to float32."""
    if np.can_cast(X.dtype, np.float32):
        return Frame()
    least, most = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for rows in slices_of(len(X), _block_size(X.shape[1])):
        np.minimum(least, X[rows].min(axis=0), out=least)
        np.maximum(most, X[rows].max(axis=0), out=most)
    return frame_of_range(least, most)


def _block_size(*widths):
    """Return how many rows of these widths to process at a time."""
    return max(1, _BLOCK_VALUES // max(widths))


def _project(X, frame, rotation=None):
    """Return X in a frame, multiplied by the rotation (in float64) where there is one, in float32."""
    X = frame.place(X)
    with np.errstate(over="ignore", invalid="ignore"):
        projected = (X if rotation is None else X.astype(np.float64) @ rotation).astype(np.float32)
    if not np.isfinite(projected).all():
        raise ValueError(
            f"Expected values that float32 can hold, at most {np.finfo(np.float32).max:.3g} in magnitude (also after "
            f"the rotation, where there is one), got {np.abs(X).max():.3g}."
        )
    return projected


def _n_threads():
    """Return how many threads OpenMP may take, which OMP_NUM_THREADS, joblib and threadpoolctl limit."""
    return max((library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"), default=1)


def _fit_part(X, frame, rotation, D, K, max_iter, part, init, seed):
    """Return the codebook (K, D) of a part, its number of distinct codewords, and the number of iterations."""
    points = np.zeros((len(X), D), dtype=np.float32)
    for rows in slices_of(len(X), _block_size(X.shape[1])):
        if rotation is None:
            block = _project(X[rows, part], frame.part(part))
        else:
            block = _project(X[rows], frame, rotation[:, part])
        points[rows, : block.shape[1]] = block
    codebook, _, n_iter = _k_means(points, K, max_iter, init, seed)
    distinct = np.unique(codebook, axis=0)
    return distinct[np.arange(K) % len(distinct)], len(distinct), n_iter


def _k_means(points, K, max_iter, init, seed):
    """Return a codebook (K, D), the points' codes, and the number of iterations."""
    if len(np.unique(points[: 2 * K], axis=0)) <= K:  # rarely, so that all points are rarely sorted
        distinct, codes = np.unique(points, axis=0, return_inverse=True)
        if len(distinct) <= K:
            return distinct[np.arange(K) % len(distinct)], codes.ravel(), 1
    exponent = _exponent(points)  # a power of two changes no code, and squares then fit float32
    points = np.ldexp(points, -exponent)
    # As KMeans.fit, but without its warning of empty clusters, which rounding can cause and which harm nothing here:
    # to silence it takes a filter of the whole process. Its checks of data change such filters, too.
    tol, mean = _TOL * np.var(points, axis=0).mean(), points.mean(axis=0)
    points -= mean
    weight = np.ones(len(points), points.dtype)
    if isinstance(init, str):
        init, _ = _kmeans_plusplus(points, K, row_norms(points, squared=True), weight, check_random_state(seed))
    else:
        init = np.ldexp(init, -exponent) - mean
    codes, _, codebook, n_iter = _kmeans_single_lloyd(points, weight, init, max_iter=max_iter, tol=tol, n_threads=1)
    return np.ldexp(codebook + mean, exponent), codes, n_iter


def _exponent(X):
    """Return the power of two that no magnitude in X exceeds."""
    return np.frexp(max(X.max(), -X.min()))[1]


def _learn_rotation(X, frame, train, parts, D, K, max_iter, seeds, n_threads):
    """Return a rotation, and codebooks for it, by the alternation of Ge et al. (their non-parametric solution)."""
    sample = np.empty((len(train), X.shape[1]), dtype=np.float32)
    for rows in slices_of(len(train), _block_size(X.shape[1])):
        sample[rows] = _project(X[train[rows]], frame)
    exponent = _exponent(sample)
    sample = np.ldexp(sample, -exponent)
    mean = sample.mean(axis=0, dtype=np.float64)
    sample -= mean.astype(np.float32)  # codewords can move, so to rotate about the mean is enough

    def step_part(rotation, max_iter, part, init, seed):
        width = part.stop - part.start
        points = np.zeros((len(sample), D), dtype=np.float32)
        points[:, :width] = sample @ rotation[:, part].astype(np.float32)
        codebook, codes, _ = _k_means(points, K, max_iter, init, seed)
        error = np.square(points - codebook[codes]).sum(dtype=np.float64)
        one_hot = csr_array((np.ones_like(codes, np.float32), codes, np.arange(len(codes) + 1)), (len(codes), K))
        return codebook, error, (one_hot.T @ sample).T @ codebook[:, :width]  # cheaper than sample.T @ hard

    def step(rotation, inits, max_iter):
        tasks = list(zip(parts, inits, seeds, strict=True))
        done = run(lambda task: step_part(rotation, max_iter, *task), tasks, n_threads)
        codebooks, errors, products = zip(*done, strict=True)
        return sum(errors), rotation, codebooks, np.hstack(products)

    def alternate(state, n_iter):
        for _ in range(n_iter):
            error, _, codebooks, product = state
            if error == 0:
                break
            left, _, right = np.linalg.svd(product.astype(np.float64))  # orthonormal Procrustes: sample to hard
            state = min(state, step(left @ right, codebooks, 1), key=itemgetter(0))
            if error - state[0] <= _TOL * error:
                break
        return state

    starts = np.eye(X.shape[1]), _balanced_pca(sample, parts)
    states = [alternate(step(start, ["k-means++"] * len(parts), 5), max_iter // 2) for start in starts]
    _, rotation, codebooks, _ = alternate(min(states, key=itemgetter(0)), max_iter - max_iter // 2)
    shifts = [np.pad((mean @ rotation)[part], (0, D - (part.stop - part.start))) for part in parts]
    with np.errstate(over="ignore"):  # where samples overflow too, and _project raises
        inits = [np.ldexp(c + shift, exponent).astype(np.float32) for c, shift in zip(codebooks, shifts, strict=True)]
    return rotation, inits


def _balanced_pca(sample, parts):
    """Return principal axes, dealt to the parts so that the products of their variances are about equal."""
    variances, axes = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    logs = np.log(np.maximum(variances / (variances[-1] or 1), _FLOOR)) - np.log(_FLOOR)
    dealt, totals = [[] for _ in parts], np.zeros(len(parts))
    for axis in reversed(range(len(logs))):  # the largest variance first
        free = [m for m, part in enumerate(parts) if len(dealt[m]) < part.stop - part.start]
        m = min(free, key=lambda m: totals[m])
        dealt[m].append(axis)
        totals[m] += logs[axis]
    return axes[:, np.concatenate(dealt).astype(int)]
