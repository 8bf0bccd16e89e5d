"""DPQNeighbors."""

from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, check_array, gen_batches
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import _num_samples, check_is_fitted, validate_data

from ._atomic import all_or_nothing
from ._codes import check_codes
from ._database import DatabaseMixin
from ._device import TorchDevice, search_device
from ._graphs import GraphMixin
from ._search.index import CodeIndex
from ._search.scan_numba import query_blocks
from .metrics import score_neighbors
from .product_quantizer import ProductQuantizer

_BLOCK = 16384  # queries represented at a time


class DPQNeighbors(DatabaseMixin, GraphMixin, BaseEstimator):
    """Neighbour search over codes, with the face of scikit-learn's NearestNeighbors.

    The database is stored as codes and searched through look-up tables (Klein & Wolf [1]_, sections 3.1.3 and 3.1.4).
    Results are exactly those of brute force over the decoded vectors, ordered by (distance, id); what is approximate
    is the representation, not the search.

    Parameters
    ----------
    n_neighbors : int, default=5
        Number of neighbours that `kneighbors` returns by default.
    radius : float, default=1.0
        Distance up to which `radius_neighbors` returns neighbours by default, boundary included.
    quantizer : estimator, default=None
        Anything with `fit(X, y)`, `codebooks_`, `soft`, `encode` and `decode`: `DPQTransformer`, `DPQClassifier`,
        `ProductQuantizer` or your own. It is cloned and fitted on the data; wrapped in scikit-learn's
        `FrozenEstimator`, it is used as it is. ``None`` takes a `DPQTransformer` if `fit` is given labels, else a
        `ProductQuantizer`, with their default parameters: neighbours then approximate Euclidean ones.
    search : {"asymmetric", "symmetric"}, default="asymmetric"
        Compare the codes of the database with the soft representation of a query, or with its code. May be changed
        on a fitted estimator.
    mode : {"distance", "connectivity"}, default="distance"
        Values of the graph that `transform` returns, as in `KNeighborsTransformer`.
    random_state : int, RandomState instance or None, default=None
        Seed of the default quantizer; one that you give has its own.
    n_jobs : int, default=None
        Number of threads that search, as in joblib.
    device : str or torch.device, default="cpu"
        Where to search: on the CPU, or by torch on ``"cuda"``, ``"cuda:1"``, ``"mps"`` and the like, with the same
        results; ``"auto"`` is a GPU if torch has one, else the CPU. Queries are represented where the quantizer
        says, and `score` ranks on the CPU. May be changed on a fitted estimator.

    Attributes
    ----------
    quantizer_ : estimator
        The fitted quantizer.
    index_ : CodeIndex
        The database.
    codes_ : ndarray of shape (n_samples_fit_, M), uint8 or uint16
        Codes of the database, in ascending order of id.
    ids_ : ndarray of shape (n_samples_fit_,), int64
        Their ids, 0, 1, ... in the order of the data unless given.
    classes_ : ndarray of shape (n_classes,)
        Labels in the database, if `fit` was given any.
    labels_ : ndarray of shape (n_samples_fit_,), int64
        Label of each item as an index into `classes_`, -1 for an item added without one; if `fit` was given any.
    n_samples_fit_ : int
        Number of items in the database.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has them.

    See Also
    --------
    DPQTransformer : Supervised codes.
    ProductQuantizer : Unsupervised codes.
    sklearn.neighbors.NearestNeighbors : Exact neighbours of the vectors themselves.

    References
    ----------
    .. [1] B. Klein and L. Wolf, "In Defense of Product Quantization", arXiv:1711.08589.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import DPQNeighbors, ProductQuantizer
    >>> X, y = load_digits(return_X_y=True)
    >>> neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=8, K=32, random_state=0)).fit(X)
    >>> distances, ids = neighbors.kneighbors(X[:2], n_neighbors=3)
    >>> ids.shape
    (2, 3)
    >>> neighbors.codes_.shape
    (1797, 8)
    """

    _parameter_constraints: dict = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "radius": [Interval(Real, 0, None, closed="both")],
        "quantizer": [HasMethods(["fit", "soft", "encode", "decode"]), None],
        "search": [StrOptions({"asymmetric", "symmetric"})],
        "mode": [StrOptions({"distance", "connectivity"})],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "device": [str, TorchDevice],
    }

    def __init__(
        self,
        n_neighbors=5,
        *,
        radius=1.0,
        quantizer=None,
        search="asymmetric",
        mode="distance",
        random_state=None,
        n_jobs=None,
        device="cpu",
    ):
        self.n_neighbors = n_neighbors
        self.radius = radius
        self.quantizer = quantizer
        self.search = search
        self.mode = mode
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, **fit_params):
        """Fit the quantizer and store the codes of the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or whatever the quantizer takes
            The database.
        y : array-like of shape (n_samples,), default=None
            Labels; passed to the quantizer, and kept for `score`.
        **fit_params : dict
            Passed to the `fit` of the quantizer; through metadata routing where that is enabled.

        Returns
        -------
        self : DPQNeighbors
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If the data or a parameter is invalid.
        """
        with all_or_nothing(self) as draft:
            draft._fit(X, y, fit_params)
        return self

    def fit_codes(self, codes, y=None):
        """Make a database of codes alone; `quantizer` must be fitted and wrapped in a FrozenEstimator.

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.
        y : array-like of shape (n_samples,), default=None
            Labels, kept for `score`.

        Returns
        -------
        self : DPQNeighbors
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If the quantizer is not frozen, or the codes do not fit its codebooks.
        """
        self._validate_params()
        search_device(self.device)
        if not isinstance(self.quantizer, FrozenEstimator):
            raise ValueError(
                "fit_codes needs a fitted quantizer: expected quantizer=FrozenEstimator(<fitted quantizer>), "
                f"got {self.quantizer!r}."
            )
        check_is_fitted(self.quantizer)
        with all_or_nothing(self) as draft:
            draft.quantizer_ = draft.quantizer
            for name in ("n_features_in_", "feature_names_in_"):
                if hasattr(draft.quantizer_, name):
                    setattr(draft, name, getattr(draft.quantizer_, name))
                else:
                    draft.__dict__.pop(name, None)
            draft._store(CodeIndex(draft.quantizer_.codebooks_).add(codes), y)
        return self

    def kneighbors(self, X=None, n_neighbors=None, return_distance=True):
        """Find the nearest items of the database.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries. Without, each item of the database is a query by its code, compared symmetrically (section
            3.1.3), and not its own neighbour.
        n_neighbors : int, default=None
            Number of neighbours; by default the parameter of that name.
        return_distance : bool, default=True
            Whether to return the distances.

        Returns
        -------
        neigh_dist : ndarray of shape (n_queries, n_neighbors), float64
            Euclidean distances, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray of shape (n_queries, n_neighbors), int64
            Ids of the neighbours, at equal distance in ascending order.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If `n_neighbors` is not an integer.
        ValueError
            If X does not match the data that it was fitted on, or `n_neighbors` is not positive or more than there
            are.
        """
        check_is_fitted(self)
        distances, neigh_ind = self._kneighbors(X, n_neighbors)
        return (distances, neigh_ind) if return_distance else neigh_ind

    def kneighbors_codes(self, codes, n_neighbors=None, return_distance=True):
        """Find the nearest items of the database to codes, symmetrically (section 3.1.3).

        Parameters
        ----------
        codes : array-like of shape (n_queries, M)
            Integers in ``range(K)``.
        n_neighbors : int, default=None
            Number of neighbours; by default the parameter of that name.
        return_distance : bool, default=True
            Whether to return the distances.

        Returns
        -------
        neigh_dist : ndarray of shape (n_queries, n_neighbors), float64
            Euclidean distances, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray of shape (n_queries, n_neighbors), int64
            Ids of the neighbours, at equal distance in ascending order.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If `n_neighbors` is not an integer.
        ValueError
            If the codes do not fit the codebooks, or `n_neighbors` is not positive or more than there are.
        """
        M, K, _ = self._fitted_index().codebooks.shape
        codes = check_codes(codes, M, K)
        k = self._check_n_neighbors(n_neighbors, len(codes))
        distances, neigh_ind = self._index().kneighbors(codes, k, symmetric=True, **self._how())
        distances = np.sqrt(distances, dtype=np.float64)
        return (distances, neigh_ind) if return_distance else neigh_ind

    def radius_neighbors(self, X=None, radius=None, return_distance=True, sort_results=False):
        """Find all items of the database within a radius, boundary included.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries; without, as in `kneighbors`.
        radius : float, default=None
            Largest distance; by default the parameter of that name.
        return_distance : bool, default=True
            Whether to return the distances.
        sort_results : bool, default=False
            Results are sorted by (distance, id) in any case.

        Returns
        -------
        neigh_dist : ndarray of shape (n_queries,) of ndarray, float64
            Euclidean distances, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray of shape (n_queries,) of ndarray, int64
            Ids of the neighbours.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not match the data that it was fitted on, or with ``sort_results=True`` and
            ``return_distance=False``, as in scikit-learn.
        """
        check_is_fitted(self)
        if sort_results and not return_distance:
            raise ValueError("return_distance must be True if sort_results is True.")
        distances, ids, indptr = self._radius_neighbors(X, radius)
        neigh_ind = _split(ids, indptr)
        return (_split(distances, indptr), neigh_ind) if return_distance else neigh_ind

    def score(self, X, y):
        """Compute the mean average precision of the queries' labels against the database's.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their labels.

        Returns
        -------
        score : float
            Mean average precision over the whole ranking, from 0 to 1; ties count with their expected value.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the database was fitted without labels, or an item was added without one.
        """
        check_is_fitted(self)
        return score_neighbors(self, X, y)

    def query_tables(self, X):
        """Compute the look-up tables of queries, block by block, as `search` says.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Yields
        ------
        start : int
            Position of the block's first query in X.
        tables : ndarray of shape (n_block, M, K), float32
            Squared distances of each part of the queries to its codewords.
        """
        check_is_fitted(self)
        self._check_samples(X)
        start, index = 0, self._index()
        for block in self._blocks(X):
            for part in query_blocks(len(block), *index.codebooks.shape[:2]):
                yield start + part.start, index.tables(block[part], self.search == "symmetric")
            start += len(block)

    def get_metadata_routing(self):
        """Route metadata of `fit` to the quantizer.

        Returns
        -------
        routing : MetadataRouter
            The routing.
        """
        quantizer = ProductQuantizer() if self.quantizer is None else self.quantizer
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(quantizer=quantizer, method_mapping=mapping)

    def _check_samples(self, X):
        """Check width and feature names; the quantizer checks the rest, block by block."""
        try:
            validate_data(self, X, skip_check_array=True, reset=False)
        except ValueError:
            check_array(X, allow_nd=True, ensure_all_finite=False)  # says better what is wrong with the shape of X
            raise

    def _blocks(self, X):
        """Represent queries block by block: by codes for a symmetric search, else by soft."""
        represent = self.quantizer_.encode if self.search == "symmetric" else self.quantizer_.soft
        n_queries = _num_samples(X)
        if n_queries <= _BLOCK:
            yield represent(X)  # which refuses an X without samples
        else:
            for block in gen_batches(n_queries, _BLOCK):
                yield represent(_safe_indexing(X, block))

    def _index(self):
        """Return the database as the quantizer's codebooks are now: `intra_norm` may change after `fit`."""
        return self.index_.with_codebooks(self.quantizer_.codebooks_)

    def _how(self):
        """Return what decides how fast the index searches."""
        return {"n_jobs": self.n_jobs, "device": search_device(self.device)}

    def _kneighbors(self, X, n_neighbors):
        index, symmetric, how = self._index(), self.search == "symmetric", self._how()
        if X is None:
            k = self._check_n_neighbors(n_neighbors, len(index), excluding=True)
            distances, ids = index.all_kneighbors(k, **how)
        else:
            self._check_samples(X)
            k = self._check_n_neighbors(n_neighbors, _num_samples(X))
            found = [index.kneighbors(block, k, symmetric=symmetric, **how) for block in self._blocks(X)]
            distances, ids = map(np.concatenate, zip(*found, strict=True))
        return np.sqrt(distances, dtype=np.float64), ids

    def _check_n_neighbors(self, n_neighbors, n_queries, excluding=False):
        """Raise what scikit-learn's NearestNeighbors raises, word for word."""
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        if k <= 0:
            raise ValueError(f"Expected n_neighbors > 0. Got {k}")
        if not isinstance(k, Integral):
            raise TypeError(f"n_neighbors does not take {type(k)} value, enter integer value")
        if k > self.n_samples_fit_ - excluding:
            raise ValueError(
                f"Expected n_neighbors {'<' if excluding else '<='} n_samples_fit, but n_neighbors = {k}, "
                f"n_samples_fit = {self.n_samples_fit_}, n_samples = {n_queries}"
            )
        return int(k)

    def _radius_neighbors(self, X, radius):
        radius = self.radius if radius is None else radius
        if not isinstance(radius, Real) or np.isnan(radius):
            raise ValueError(f"Expected radius as a real number, got {radius!r}.")
        limit = _largest_square(float(radius))
        index, symmetric, how = self._index(), self.search == "symmetric", self._how()
        if X is None:
            counts, distances, ids = index.all_radius_neighbors(limit, **how)
        else:
            self._check_samples(X)
            found = [index.radius_neighbors(block, limit, symmetric=symmetric, **how) for block in self._blocks(X)]
            counts, distances, ids = map(np.concatenate, zip(*found, strict=True))
        return np.sqrt(distances, dtype=np.float64), ids, np.concatenate(([0], np.cumsum(counts)))


def _largest_square(radius):
    """Return the largest float32 whose square root, in float64, is at most `radius`; negative if there is none."""
    if radius < 0:
        return np.float32(-1)
    square = np.float32(min(radius * radius, float(np.finfo(np.float32).max)))
    while np.sqrt(np.float64(square)) > radius:
        square = np.nextafter(square, np.float32(-1))
    while square < np.finfo(np.float32).max:
        larger = np.nextafter(square, np.float32(np.inf))
        if np.sqrt(np.float64(larger)) > radius:
            break
        square = larger
    return square


def _split(values, indptr):
    """Return the slices of `values` as an object array."""
    parts = np.empty(len(indptr) - 1, dtype=object)
    for i in range(len(parts)):
        parts[i] = values[indptr[i] : indptr[i + 1]]
    return parts
