"""DPQNeighbors: neighbour search over codes, with the face of scikit-learn's NearestNeighbors."""

from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import _num_samples, check_is_fitted

from ._arrays import as_array, check_array, validate_data
from ._atomic import StateMixin, changes, reads, snapshot
from ._codes import check_codes
from ._database_quantizer import (
    blocks_to_tell,
    check_frozen,
    check_metric,
    choose_quantizer,
    encode_blocks,
    fit_quantizer,
    take_quantizer,
)
from ._device import TorchDevice, search_device
from ._doc_links import DocLinksMixin
from ._items import Items, check_ids
from ._names import Names
from ._nearest_neighbors import check_mode, check_n_neighbors, check_radius, make_graph
from ._progress import fit_task, printed_stage
from ._quantizer import check_same, classifier_of, query_method, represent, represent_blocks, trained_codebooks
from ._search.index import CodeIndex
from ._search.results import split_results
from ._search.scan_numba import query_blocks
from ._typing import Among, Codes, Device, Found, FoundWithin, Ids, Queries, typed
from ._versions import VersionedMixin
from .metrics import score_neighbors
from .product_quantizer import ProductQuantizer


class DPQNeighbors(
    StateMixin,
    VersionedMixin,
    DocLinksMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Neighbour search over codes, with the face of scikit-learn's NearestNeighbors.

    The database is stored as codes and searched through look-up tables (Klein & Wolf [1]_, sections 3.1.3 and 3.1.4).
    Results are exactly those of brute force over the decoded vectors, ordered by (distance, id); what is approximate
    is the representation, not the search.

    With ``metric="relevance"``, which is not in the paper, items are ranked by the probability that they have the
    query's label instead. It needs a quantizer that classifies codes.

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
    metric : {"euclidean", "relevance"}, default="euclidean"
        What distances are. ``"relevance"``: the probability that item and query have different labels, 1 - p_q . p_d,
        from 0 to 1, where p_d are the class probabilities of the item's code, and p_q those of the query's soft
        representation or code, as `search` says. It needs a quantizer that classifies codes: `DPQTransformer` or
        `DPQClassifier`, fitted with labels; their `intra_norm` does not matter. May be changed on a fitted estimator.
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
    verbose : bool or int, default=False
        Print a line as each stage of `fit` begins and one as it ends, with the time that it took: fitting the
        quantizer, encoding, indexing. The default quantizer for labels prints what its own `verbose` says, too.

    Attributes
    ----------
    quantizer_ : estimator
        The fitted quantizer.
    codes_ : ndarray of shape (n_samples_fit_, M), uint8 or uint16
        Codes of the database, in the order of `ids_`.
    ids_ : ndarray of shape (n_samples_fit_,), int64 or str
        Ids of the items, ascending: 0, 1, ... in the order of the data unless given. Strings are in the order in which
        they were added, which is also that of items that are equally far.
    classes_ : ndarray of shape (n_classes,)
        Labels in the database, if `fit` was given any.
    labels_ : ndarray of shape (n_samples_fit_,), of the smallest integer type that will do
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

    By relevance, the distance is the probability that the item is another digit:

    >>> from skdpq import DPQTransformer
    >>> dpq = DPQTransformer(M=4, K=16, random_state=0)
    >>> neighbors = DPQNeighbors(quantizer=dpq, metric="relevance").fit(X[:1500], y[:1500])
    >>> distances, ids = neighbors.kneighbors(X[1500:])
    >>> bool((0 <= distances).all() and (distances <= 1).all())
    True
    >>> neighbors.score(X[1500:], y[1500:]) > 0.9
    True
    """

    quantizer_: Any
    index_: CodeIndex
    classes_: NDArray[Any]
    labels_: NDArray[np.integer[Any]]
    names_: Names | None

    _parameter_constraints: dict = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "radius": [Interval(Real, 0, None, closed="both")],
        "quantizer": [HasMethods(["fit", "soft", "encode", "decode"]), None],
        "metric": [StrOptions({"euclidean", "relevance"})],
        "search": [StrOptions({"asymmetric", "symmetric"})],
        "mode": [StrOptions({"distance", "connectivity"})],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "device": [str, TorchDevice],
        "verbose": ["verbose"],
    }

    _fitted_attributes = {
        **{"index_": False, "names_": False, "quantizer_": False},
        **dict.fromkeys(("classes_", "labels_", "n_features_in_", "feature_names_in_"), True),
    }

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        radius: float = 1.0,
        quantizer: Any = None,
        metric: Literal["euclidean", "relevance"] = "euclidean",
        search: Literal["asymmetric", "symmetric"] = "asymmetric",
        mode: Literal["distance", "connectivity"] = "distance",
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        device: Device = "cpu",
        verbose: bool | int = False,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.radius = radius
        self.quantizer = quantizer
        self.metric = metric
        self.search = search
        self.mode = mode
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    @changes
    @typed(_fit_context(prefer_skip_nested_validation=False))
    @typed(with_callbacks)
    def fit(self, X: ArrayLike, y: ArrayLike | None = None, *, ids: ArrayLike | None = None, **fit_params: Any) -> Self:
        """Fit the quantizer and store the codes of the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or whatever the quantizer takes
            The database.
        y : array-like of shape (n_samples,), default=None
            Labels; passed to the quantizer, and kept for `labels_of` and `score`.
        ids : array-like of shape (n_samples,), default=None
            Ids of the items: non-negative integers, or strings, that differ; 0, 1, ... by default.
        **fit_params : dict
            Passed to the `fit` of the quantizer; through metadata routing where that is enabled.

        Returns
        -------
        self : DPQNeighbors
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If the data, the ids or a parameter is invalid, or ``metric="relevance"`` has no quantizer that classifies
            codes.
        """
        data = {"estimator": self, "X": X, "y": y}
        context = self._init_callback_context(max_subtasks=3).call_on_fit_task_begin(**data)
        search_device(self.device)  # raises before the quantizer is fitted rather than at the first search
        check_metric(self, y)  # so does this, as far as can be told before
        validate_data(self, X, skip_check_array=True)
        if ids is not None:
            check_ids(ids, _num_samples(X))
        self.quantizer_ = clone(choose_quantizer(self, y))
        with printed_stage("Fitting the quantizer", self.verbose), fit_task(context, "fit quantizer", **data) as task:
            fit_quantizer(self, X, y, fit_params, task)
        quantizer = snapshot(self.quantizer_)  # a frozen one can be changed meanwhile
        self._index_of(CodeIndex(quantizer.codebooks_), quantizer)  # raises where it does not classify
        blocks = blocks_to_tell(self, X)
        encoding = fit_task(context, "encode", max_subtasks=len(blocks), **data)
        with printed_stage("Encoding", self.verbose), encoding as task:
            codes = encode_blocks(quantizer, X, blocks, task, data)
        # All codes at once, as adding them in blocks would sort them again and again, and leave several segments to
        # search. None: how long that takes is not known, which ProgressBar shows too.
        indexing = fit_task(context, "index", max_subtasks=None if blocks else 0, **data)
        with printed_stage("Indexing", self.verbose), indexing:
            self._keep(Items(CodeIndex(trained_codebooks(quantizer))).add(codes, y, ids))
        context.call_on_fit_task_end(**data)
        return self

    @changes
    def fit_codes(self, codes: ArrayLike, y: ArrayLike | None = None, *, ids: ArrayLike | None = None) -> Self:
        """Make a database of codes alone; `quantizer` must be fitted and wrapped in a FrozenEstimator.

        Parameters
        ----------
        codes : array-like of shape (n_samples, M)
            Integers in ``range(K)``.
        y : array-like of shape (n_samples,), default=None
            Labels, kept for `labels_of` and `score`.
        ids : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self : DPQNeighbors
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If the quantizer is not frozen, the codes do not fit its codebooks, the ids are invalid, or with
            ``metric="relevance"`` it does not classify codes.
        """
        self._validate_params()
        search_device(self.device)
        check_frozen(self.quantizer)
        take_quantizer(self, self.quantizer)
        quantizer = snapshot(self.quantizer_)
        self._index_of(CodeIndex(quantizer.codebooks_), quantizer)  # raises where it has to classify and does not
        self._keep(Items(CodeIndex(trained_codebooks(quantizer))).add(codes, y, ids))
        return self

    @changes
    def add(self, X: ArrayLike, y: ArrayLike | None = None, *, ids: ArrayLike | None = None) -> Self:
        """Add samples to the database.

        Parameters
        ----------
        X : array-like of shape (n_new, n_features), or whatever the quantizer takes
            Samples; encoded by the quantizer, which is not fitted again.
        y : array-like of shape (n_new,), default=None
            Labels. `score` needs one for each item of the database.
        ids : array-like of shape (n_new,), default=None
            Non-negative integers that are not in the database, or strings where its ids are. Integers by default
            continue the largest that was given.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X, y or ids are invalid, or the quantizer was fitted again.
        """
        items = self._items()
        self._check_samples(X)
        if ids is not None:
            check_ids(ids, _num_samples(X))
        quantizer = self._quantizer()
        self._keep(items.add(represent(quantizer, "encode", X, self), y, ids))
        return self

    @changes
    def add_codes(self, codes: ArrayLike, y: ArrayLike | None = None, *, ids: ArrayLike | None = None) -> Self:
        """Add codes to the database.

        Parameters
        ----------
        codes : array-like of shape (n_new, M)
            Integers in ``range(K)``.
        y : array-like of shape (n_new,), default=None
            As in `add`.
        ids : array-like of shape (n_new,), default=None
            As in `add`.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If codes, y or ids are invalid, or the quantizer was fitted again.
        """
        items = self._items()
        self._quantizer()
        self._keep(items.add(codes, y, ids))
        return self

    @changes
    def remove(self, ids: ArrayLike) -> Self:
        """Remove items from the database.

        Parameters
        ----------
        ids : array-like of shape (n_removed,)
            Ids of the database. The other items keep theirs.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an id is not in the database.
        """
        self._keep(self._items().remove(ids))
        return self

    @reads
    def labels_of(self, ids: ArrayLike) -> NDArray[Any]:
        """Return the labels of items, such as the neighbours that `kneighbors` finds.

        Parameters
        ----------
        ids : array-like of any shape
            Ids of the database.

        Returns
        -------
        y : ndarray of the shape of ids
            The label of each, an entry of `classes_`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an id is not in the database, or its item has no label.

        Examples
        --------
        >>> from skdpq import DPQNeighbors, ProductQuantizer
        >>> X, y = [[0.0], [1.0], [8.0], [9.0]], ["low", "low", "high", "high"]
        >>> neighbors = DPQNeighbors(2, quantizer=ProductQuantizer(M=1, K=4)).fit(X, y, ids=[10, 11, 12, 13])
        >>> ids = neighbors.remove([11]).kneighbors([[0.2], [8.8]], return_distance=False)
        >>> ids
        array([[10, 12],
               [13, 12]])
        >>> neighbors.labels_of(ids)
        array([['low', 'high'],
               ['high', 'high']], dtype='<U4')
        """
        return self._items().labels_of(ids)

    @reads
    def reconstruct(self, ids: ArrayLike) -> NDArray[Any]:
        """Return what the codes of items stand for: their hard representation (equations 2 and 4).

        Parameters
        ----------
        ids : array-like of any shape
            Ids of the database.

        Returns
        -------
        hard : ndarray of the shape of ids and (M * D,)
            `decode` of the code of each.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an id is not in the database.

        Examples
        --------
        >>> from skdpq import DPQNeighbors, ProductQuantizer
        >>> X = [[0.0], [1.0], [8.0], [9.0]]
        >>> neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=1, K=4)).fit(X, ids=["a", "b", "c", "d"])
        >>> neighbors.reconstruct(["d", "a"])
        array([[9.],
               [0.]], dtype=float32)
        """
        codes = self._items().codes_of(ids)
        hard = self._quantizer().decode(codes.reshape(-1, codes.shape[-1]))
        return hard.reshape(*codes.shape[:-1], hard.shape[1])

    def __len__(self) -> int:
        return self.n_samples_fit_

    def __bool__(self) -> bool:
        return True  # an estimator without items, or not fitted, is one, too

    def __contains__(self, item_id: object) -> bool:
        return self._items().has(item_id)

    @overload
    def kneighbors(
        self,
        X: Queries = ...,
        n_neighbors: int | None = ...,
        return_distance: Literal[True] = ...,
        *,
        among: Among = ...,
    ) -> Found: ...
    @overload
    def kneighbors(
        self, X: Queries = ..., n_neighbors: int | None = ..., *, return_distance: Literal[False], among: Among = ...
    ) -> Ids: ...
    @reads
    def kneighbors(
        self,
        X: Queries = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        among: Among = None,
    ) -> Found | Ids:
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
        among : array-like, default=None
            Search among some of the items: a boolean mask of shape (n_samples_fit_,), in the order of `ids_`, or ids,
            in any order. By default all items are searched.

        Returns
        -------
        neigh_dist : ndarray of shape (n_queries, n_neighbors), float64
            Distances as `metric` says, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray of shape (n_queries, n_neighbors), int64
            Ids of the neighbours, at equal distance in ascending order.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If `n_neighbors` is not an integer.
        ValueError
            If X does not match the data that it was fitted on, `n_neighbors` is not positive or more than there are
            among those to be searched, or `among` is no mask of the items and has no ids of the database alone.

        Examples
        --------
        >>> from skdpq import DPQNeighbors, ProductQuantizer
        >>> X = [[0.0], [1.0], [8.0], [9.0]]
        >>> neighbors = DPQNeighbors(2, quantizer=ProductQuantizer(M=1, K=4)).fit(X)
        >>> neighbors.kneighbors([[0.2]], return_distance=False)
        array([[0, 1]])
        >>> neighbors.kneighbors([[0.2]], return_distance=False, among=[3, 1])
        array([[1, 3]])
        >>> neighbors.kneighbors([[0.2]], return_distance=False, among=neighbors.ids_ > 1)
        array([[2, 3]])
        """
        items = self._items()
        distances, numbers = self._kneighbors(items, X, n_neighbors, among)
        neigh_ind = items.named(numbers)
        return (distances, neigh_ind) if return_distance else neigh_ind

    @overload
    def kneighbors_codes(
        self,
        codes: ArrayLike,
        n_neighbors: int | None = ...,
        return_distance: Literal[True] = ...,
        *,
        among: Among = ...,
    ) -> Found: ...
    @overload
    def kneighbors_codes(
        self, codes: ArrayLike, n_neighbors: int | None = ..., *, return_distance: Literal[False], among: Among = ...
    ) -> Ids: ...
    @reads
    def kneighbors_codes(
        self,
        codes: ArrayLike,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        among: Among = None,
    ) -> Found | Ids:
        """Find the nearest items of the database to codes, symmetrically (section 3.1.3).

        Parameters
        ----------
        codes : array-like of shape (n_queries, M)
            Integers in ``range(K)``.
        n_neighbors : int, default=None
            Number of neighbours; by default the parameter of that name.
        return_distance : bool, default=True
            Whether to return the distances.
        among : array-like, default=None
            As for `kneighbors`.

        Returns
        -------
        neigh_dist : ndarray of shape (n_queries, n_neighbors), float64
            Distances as `metric` says, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray of shape (n_queries, n_neighbors), int64
            Ids of the neighbours, at equal distance in ascending order.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If `n_neighbors` is not an integer.
        ValueError
            If the codes do not fit the codebooks, or as `kneighbors`.
        """
        items = self._items()
        codes = check_codes(codes, *items.index.codebooks.shape[:2])
        index = self._index().among(items.allowed(among), len(codes))
        k = self._check_n_neighbors(n_neighbors, len(index), len(codes))
        found, numbers = index.kneighbors(codes, k, symmetric=True, **self._how())
        distances, neigh_ind = index.distances(found), items.named(numbers)
        return (distances, neigh_ind) if return_distance else neigh_ind

    @overload
    def radius_neighbors(
        self,
        X: Queries = ...,
        radius: float | None = ...,
        return_distance: Literal[True] = ...,
        sort_results: bool = ...,
        *,
        among: Among = ...,
    ) -> FoundWithin: ...
    @overload
    def radius_neighbors(
        self,
        X: Queries = ...,
        radius: float | None = ...,
        *,
        return_distance: Literal[False],
        sort_results: bool = ...,
        among: Among = ...,
    ) -> NDArray[np.object_]: ...
    @reads
    def radius_neighbors(
        self,
        X: Queries = None,
        radius: float | None = None,
        return_distance: bool = True,
        sort_results: bool = False,
        *,
        among: Among = None,
    ) -> FoundWithin | NDArray[np.object_]:
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
        among : array-like, default=None
            As for `kneighbors`.

        Returns
        -------
        neigh_dist : ndarray of shape (n_queries,) of ndarray, float64
            Distances as `metric` says, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray of shape (n_queries,) of ndarray, int64
            Ids of the neighbours.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        MemoryError
            If what is within the radius will not fit into memory; a look at a few queries tells, and the message how
            much it would take.
        ValueError
            If X does not match the data that it was fitted on, for another `among`, or with ``sort_results=True`` and
            ``return_distance=False``, as in scikit-learn.
        """
        items = self._items()
        if sort_results and not return_distance:
            raise ValueError("return_distance must be True if sort_results is True.")
        distances, numbers, indptr = self._radius_neighbors(items, X, radius, among)
        neigh_ind = split_results(items.named(numbers), indptr)
        return (split_results(distances, indptr), neigh_ind) if return_distance else neigh_ind

    @reads
    def kneighbors_graph(
        self,
        X: Queries = None,
        n_neighbors: int | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
        *,
        among: Among = None,
    ) -> csr_array | csr_matrix:
        """Compute the graph of nearest neighbours.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries; without, as in `kneighbors`.
        n_neighbors : int, default=None
            Number of neighbours; by default the parameter of that name.
        mode : {"connectivity", "distance"}, default="connectivity"
            Whether edges are one or the distance.
        among : array-like, default=None
            As for `kneighbors`.

        Returns
        -------
        graph : sparse matrix or array of shape (n_queries, n_samples_fit_), CSR, float64
            Column j is the item ``ids_[j]``; the entries of a row are in ascending order of distance.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            As `kneighbors`, and for another `mode`.
        """
        items = self._items()
        check_mode(mode)
        distances, numbers = self._kneighbors(items, X, n_neighbors, among)
        indptr = np.arange(len(numbers) + 1) * numbers.shape[1]
        return make_graph(mode, distances.ravel(), items.columns_of(numbers.ravel()), indptr, len(items.index))

    @reads
    def radius_neighbors_graph(
        self,
        X: Queries = None,
        radius: float | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
        sort_results: bool = False,
        *,
        among: Among = None,
    ) -> csr_array | csr_matrix:
        """Compute the graph of neighbours within a radius.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries; without, as in `kneighbors`.
        radius : float, default=None
            Largest distance; by default the parameter of that name.
        mode : {"connectivity", "distance"}, default="connectivity"
            Whether edges are one or the distance.
        sort_results : bool, default=False
            The entries of a row are in ascending order of distance in any case.
        among : array-like, default=None
            As for `kneighbors`.

        Returns
        -------
        graph : sparse matrix or array of shape (n_queries, n_samples_fit_), CSR, float64
            Column j is the item ``ids_[j]``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            As `radius_neighbors`, and for another `mode`.
        """
        items = self._items()
        check_mode(mode)
        distances, numbers, indptr = self._radius_neighbors(items, X, radius, among)
        return make_graph(mode, distances, items.columns_of(numbers), indptr, len(items.index))

    def transform(self, X: ArrayLike) -> csr_array | csr_matrix:
        """Compute the graph of nearest neighbours as scikit-learn's KNeighborsTransformer does.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        graph : sparse matrix or array of shape (n_queries, n_samples_fit_), CSR, float64
            `kneighbors_graph`, with one neighbour more for ``mode="distance"``, since a sample of the database is
            usually among its own neighbours.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            As `kneighbors`.
        """
        check_is_fitted(self)
        mode = self._valid("mode")
        return self.kneighbors_graph(X, int(self._valid("n_neighbors")) + (mode == "distance"), mode=mode)

    @reads
    def score(self, X: ArrayLike, y: ArrayLike) -> float:
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

    @reads
    def query_tables(self, X: ArrayLike) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Compute what codes are compared with, block by block, as `metric` and `search` say.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Yields
        ------
        start : int
            Position of the block's first query in X.
        tables : ndarray of shape (n_block, M, K) or (n_block, n_classes), float32
            Look-up tables, the squared distances of each part of the queries to its codewords; with
            ``metric="relevance"``, class probabilities of the queries.
        """
        check_is_fitted(self)
        self._check_samples(X)
        start, index, symmetric = 0, self._index(), self._symmetric()
        for block in self._blocks(X):
            if index.classifier:
                yield start, index.posteriors(block, symmetric)
            else:
                for part in query_blocks(len(block), *index.codebooks.shape[:2]):
                    yield start + part.start, index.tables(block[part], symmetric)
            start += len(block)

    @property
    def codes_(self) -> Codes:
        """Codes of the database."""
        return self._items().index.codes

    @property
    def ids_(self) -> Ids:
        """Ids of the database, ascending."""
        return self._items().ids

    @property
    def n_samples_fit_(self) -> int:
        """Number of items in the database."""
        return len(self._items().index)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, also those of the quantizer.

        Parameters
        ----------
        **params : dict
            Values by name; ``quantizer__M`` is the parameter M of the quantizer, which must have been given.

        Returns
        -------
        self : DPQNeighbors
            The estimator.

        Raises
        ------
        ValueError
            If there is no such parameter, or no quantizer to have it.
        """
        nested = [name for name in params if name.startswith("quantizer__")]
        if nested and params.get("quantizer", self.quantizer) is None:
            raise ValueError(
                f"{nested[0]} is a parameter of the quantizer: expected one, as in DPQNeighbors(quantizer="
                "DPQTransformer()), got quantizer=None, whose default is chosen in fit."
            )
        return super().set_params(**params)

    def get_metadata_routing(self) -> MetadataRouter:
        """Route metadata of `fit` to the quantizer; `ids` are the estimator's own.

        Returns
        -------
        routing : MetadataRouter
            The routing.
        """
        quantizer = ProductQuantizer() if self.quantizer is None else self.quantizer
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add_self_request(self).add(quantizer=quantizer, method_mapping=mapping)

    get_feature_names_out = reads(ClassNamePrefixFeaturesOutMixin.get_feature_names_out)

    @property
    def _n_features_out(self):
        return self.n_samples_fit_

    def _items(self):
        check_is_fitted(self, "index_")
        return Items(self.index_, self.names_, getattr(self, "classes_", None), getattr(self, "labels_", None))

    def _keep(self, items):
        """Make items the database."""
        self.index_, self.names_ = items.index, items.names
        for name, value in (("classes_", items.classes), ("labels_", items.labels)):
            self.__dict__.pop(name, None)
            if value is not None:
                setattr(self, name, value)

    def _check_samples(self, X):
        """Check width and feature names; the quantizer checks the rest, block by block."""
        width = getattr(self, "n_features_in_", None)
        nothing_to_check = isinstance(X, np.ndarray) and (width is None or X.shape[1:] == (width,))
        if nothing_to_check and not hasattr(self, "feature_names_in_"):
            return  # to look for names takes longer than a small search
        try:
            validate_data(self, X, skip_check_array=True, reset=False)
        except ValueError:
            # says better what is wrong with the shape of X
            check_array(as_array(X), allow_nd=True, ensure_all_finite=False)
            raise

    def _blocks(self, X):
        """Represent queries block by block, as they are compared now."""
        return represent_blocks(self.quantizer_, query_method(self.metric, self._symmetric()), X, self)

    def _index(self):
        """Return the database as the quantizer's tables are now: `intra_norm` may change after `fit`."""
        quantizer = self._quantizer()
        return self._index_of(self.index_.with_codebooks(quantizer.codebooks_), quantizer)

    def _index_of(self, index, quantizer):
        """Return a database as `metric` searches it; raise ValueError where the quantizer does not allow it."""
        return index if self._valid("metric") == "euclidean" else index.with_classifier(*classifier_of(quantizer))

    def _quantizer(self):
        """Return the quantizer as it is now; raise ValueError if it no longer is the one that the codes are of."""
        quantizer = snapshot(self.quantizer_)
        check_same(quantizer, self.index_.codebooks)
        return quantizer

    def _stored_codebooks(self):
        """Return the codebooks that the codes of the database are of."""
        return trained_codebooks(self.quantizer_)

    def _check_fitted(self, thorough):
        """Raise ValueError unless the fitted attributes go together."""
        self._quantizer()
        own, its = (getattr(estimator, "n_features_in_", None) for estimator in (self, self.quantizer_))
        if own != its:
            raise ValueError(f"expected n_features_in_ of the quantizer, {its}, got {own!r:.50}.")
        self._items().check(thorough)

    def _symmetric(self):
        return self._valid("search") == "symmetric"

    @property
    def _classifier(self):
        """What classifies the codes where they are searched by relevance, else None; `score_neighbors` ranks by it."""
        return self._index().classifier

    def _how(self):
        """Return what decides how fast the index searches."""
        return {"n_jobs": self._valid("n_jobs"), "device": search_device(self.device)}

    def _check_n_neighbors(self, n_neighbors, n_items, n_queries, excluding=False):
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        return check_n_neighbors(k, n_items, n_queries, excluding)

    def _kneighbors(self, items, X, n_neighbors, among):
        index, symmetric, how = self._index(), self._symmetric(), self._how()
        if X is None:
            candidates = index.among(items.allowed(among), len(index))
            k = self._check_n_neighbors(n_neighbors, len(candidates), len(index), excluding=True)
            found, numbers = index.all_kneighbors(k, candidates, **how)
        else:
            self._check_samples(X)
            index = index.among(items.allowed(among), _num_samples(X))
            k = self._check_n_neighbors(n_neighbors, len(index), _num_samples(X))
            blocks = [index.kneighbors(block, k, symmetric=symmetric, **how) for block in self._blocks(X)]
            found, numbers = map(np.concatenate, zip(*blocks, strict=True))
        return index.distances(found), numbers

    def _radius_neighbors(self, items, X, radius, among):
        radius = check_radius(self._valid("radius") if radius is None else radius)
        index, symmetric, how = self._index(), self._symmetric(), self._how()
        threshold = index.threshold(radius)
        if X is None:
            candidates = index.among(items.allowed(among), len(index))
            counts, found, numbers = index.all_radius_neighbors(threshold, candidates, **how)
        else:
            self._check_samples(X)
            index = index.among(items.allowed(among), _num_samples(X))
            how |= {"symmetric": symmetric, "n_queries": _num_samples(X)}
            blocks = [index.radius_neighbors(block, threshold, **how) for block in self._blocks(X)]
            counts, found, numbers = map(np.concatenate, zip(*blocks, strict=True))
        return index.distances(found), numbers, np.concatenate(([0], np.cumsum(counts)))


# As the outermost, so that what is transformed is what was fitted.
DPQNeighbors.transform = reads(DPQNeighbors.transform)  # type: ignore[method-assign]
DPQNeighbors.fit_transform = changes(DPQNeighbors.fit_transform)  # type: ignore[method-assign]
