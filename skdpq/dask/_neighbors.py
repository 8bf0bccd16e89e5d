"""DPQNeighbors on a cluster: the face of `skdpq.DPQNeighbors` over shards that workers hold."""

from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal, Self

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _num_samples, check_is_fitted

from .. import neighbors as single
from .._arrays import as_array, is_lazy, validate_data
from .._atomic import StateMixin, changes, reads, snapshot
from .._codes import check_codes
from .._database_quantizer import check_frozen, check_metric, choose_quantizer, take_quantizer
from .._device import TorchDevice, search_device
from .._nearest_neighbors import check_mode, check_radius, make_graph
from .._progress import printed_stage
from .._quantizer import check_same, classifier_of, query_method, represent_blocks, trained_codebooks
from .._search.results import split_results
from .._typing import Device, typed
from .._versions import VersionedMixin
from . import _items, _lazy, _storage
from ._cluster import get_client
from ._rows import draw, encode, rows_of, take
from ._searching import Asked
from ._shard import Search
from ._shards import Shards
from ._work import add_items, new_shards, remove_items


class DPQNeighbors(StateMixin, VersionedMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Neighbour search over codes that are spread over the workers of a dask cluster.

    Each worker holds shards of the database and searches them; what they find is put together by (distance, id). Every
    answer is bit for bit that of one `skdpq.DPQNeighbors` over the same data with the same quantizer, whatever the
    number of shards and workers. It uses the client that is current (`dask.distributed.Client`).

    Parameters
    ----------
    n_neighbors : int, default=5
        As in `skdpq.DPQNeighbors`, like all up to `random_state`.
    radius : float, default=1.0
        Distance up to which `radius_neighbors` returns neighbours by default, boundary included.
    quantizer : estimator, default=None
        As in `skdpq.DPQNeighbors`. It is cloned and fitted on a sample of the data; wrapped in scikit-learn's
        `FrozenEstimator`, it is used as it is.
    metric : {"euclidean", "relevance"}, default="euclidean"
        What distances are. May be changed on a fitted estimator.
    search : {"asymmetric", "symmetric"}, default="asymmetric"
        How to compare. May be changed on a fitted estimator.
    mode : {"distance", "connectivity"}, default="distance"
        Values of the graph that `transform` returns.
    random_state : int, RandomState instance or None, default=None
        Seed of the sample, and of the default quantizer.
    sample_size : int, default=65536
        How many samples, drawn at random, the quantizer is fitted on; all where there are no more.
    n_shards : int, default=None
        Number of shards; by default one for each worker that there is at `fit`.
    replicas : int, default=1
        How many workers hold each shard. With two, searches go on at once when a worker is lost; with one they wait
        until the shard is made again of what it was made of.
    n_jobs : int, default=None
        Number of threads that search on each worker, as in joblib.
    device : str or torch.device, default="cpu"
        Where workers search.
    verbose : bool or int, default=False
        Print a line as each stage of `fit` begins and one as it ends.

    Attributes
    ----------
    quantizer_ : estimator
        The fitted quantizer.
    codes_ : dask array of shape (n_samples_fit_, M), uint8 or uint16
        Codes of the database, in the order of `ids_`.
    ids_ : dask array of shape (n_samples_fit_,), int64 or object
        Ids of the items, as in `skdpq.DPQNeighbors`.
    classes_ : ndarray of shape (n_classes,)
        Labels in the database, if `fit` was given any.
    labels_ : dask array of shape (n_samples_fit_,), of integers
        Label of each item as an index into `classes_`, -1 for none; if `fit` was given any.
    shards_ : Shards
        The shards; whoever holds it keeps them on the workers.
    n_samples_fit_ : int
        Number of items in the database.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has them.

    See Also
    --------
    skdpq.DPQNeighbors : The same in one process.
    skdpq.dask.load : What `save` wrote.

    Examples
    --------
    >>> import dask.array as da
    >>> from dask.distributed import Client
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import ProductQuantizer
    >>> from skdpq.dask import DPQNeighbors
    >>> client = Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0")
    >>> X = da.from_array(load_digits().data, chunks=(500, -1))
    >>> neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=8, K=32, random_state=0)).fit(X)
    >>> distances, ids = neighbors.kneighbors(X[:2].compute(), n_neighbors=3)
    >>> ids.shape
    (2, 3)
    >>> neighbors.codes_
    dask.array<concatenate, shape=(1797, 8), dtype=uint8, chunksize=(899, 8), chunktype=numpy.ndarray>
    >>> client.close()
    """

    quantizer_: Any
    shards_: Shards

    _parameter_constraints: dict = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "radius": [Interval(Real, 0, None, closed="both")],
        "quantizer": [HasMethods(["fit", "soft", "encode", "decode"]), None],
        "metric": [StrOptions({"euclidean", "relevance"})],
        "search": [StrOptions({"asymmetric", "symmetric"})],
        "mode": [StrOptions({"distance", "connectivity"})],
        "random_state": ["random_state"],
        "sample_size": [Interval(Integral, 1, None, closed="left")],
        "n_shards": [Interval(Integral, 1, None, closed="left"), None],
        "replicas": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "device": [str, TorchDevice],
        "verbose": ["verbose"],
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
        sample_size: int = 65536,
        n_shards: int | None = None,
        replicas: int = 1,
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
        self.sample_size = sample_size
        self.n_shards = n_shards
        self.replicas = replicas
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    @changes
    @typed(_fit_context(prefer_skip_nested_validation=False))
    def fit(self, X: Any, y: Any = None, *, ids: ArrayLike | None = None) -> Self:
        """Fit the quantizer on a sample, and spread the codes of the data over the workers.

        Parameters
        ----------
        X : dask array or data frame of shape (n_samples, n_features), or whatever `skdpq.DPQNeighbors` takes
            The database. Rows that dask has are encoded where they lie, and read twice if the quantizer is to be
            fitted: persist them where that is dear.
        y : dask array or series, or array-like, of shape (n_samples,), default=None
            Labels.
        ids : array-like of shape (n_samples,), default=None
            Ids of the items: non-negative integers, or strings, that differ; 0, 1, ... by default. Those of dask are
            brought here, to be compared.

        Returns
        -------
        self : DPQNeighbors
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If the data, the ids or a parameter is invalid, there is no cluster or none of so many workers as
            `replicas`, or ``metric="relevance"`` has no quantizer that classifies codes.
        RuntimeError
            If the cluster has no workers.
        """
        client = get_client()
        search_device(self.device)
        check_metric(self, y)
        rows = rows_of(client, X)
        labels = None if y is None else rows_of(client, y)
        if not rows.n:
            raise ValueError("Expected at least one sample, got none.")
        if labels is not None and labels.n != rows.n:
            raise ValueError(f"Expected one label for each of {rows.n} samples, got {labels.n}.")
        self._check_samples(X, reset=True)
        with printed_stage("Fitting the quantizer", self.verbose):
            self.quantizer_ = self._fitted_quantizer(client, rows, labels)
        quantizer = snapshot(self.quantizer_)
        with printed_stage("Encoding and indexing", self.verbose):
            self._store(client, quantizer, encode(client, quantizer, rows), labels, ids)
        return self

    @changes
    def fit_codes(self, codes: Any, y: Any = None, *, ids: ArrayLike | None = None) -> Self:
        """Make a database of codes alone; `quantizer` must be fitted and wrapped in a FrozenEstimator.

        Parameters
        ----------
        codes : dask array or array-like of shape (n_samples, M)
            Integers in ``range(K)``.
        y : dask array or series, or array-like, of shape (n_samples,), default=None
            Labels.
        ids : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self : DPQNeighbors
            Fitted estimator. If anything is raised, the estimator is as it was.

        Raises
        ------
        ValueError
            If the quantizer is not frozen, or as `fit`.
        RuntimeError
            If the cluster has no workers.
        """
        self._validate_params()
        search_device(self.device)
        check_frozen(self.quantizer)
        take_quantizer(self, self.quantizer)
        client = get_client()
        labels = None if y is None else rows_of(client, y)
        self._store(client, snapshot(self.quantizer_), rows_of(client, codes), labels, ids)
        return self

    @changes
    def add(self, X: Any, y: Any = None, *, ids: ArrayLike | None = None) -> Self:
        """Add samples to the database, the smallest shards first.

        Parameters
        ----------
        X : dask array or data frame of shape (n_new, n_features), or whatever `skdpq.DPQNeighbors` takes
            Samples; encoded by the quantizer, which is not fitted again.
        y : dask array or series, or array-like, of shape (n_new,), default=None
            Labels.
        ids : array-like of shape (n_new,), default=None
            As in `skdpq.DPQNeighbors.add`.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was, and so are all shards.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X, y or ids are invalid, or the quantizer was fitted again.
        RuntimeError
            If the cluster has no workers.
        """
        check_is_fitted(self)
        client = self.shards_.client
        self._check_samples(X)
        rows = rows_of(client, X)
        ids = self.shards_.check_new_ids(ids, rows.n)
        self._add(client, encode(client, self._quantizer(), rows), y, ids)
        return self

    @changes
    def add_codes(self, codes: Any, y: Any = None, *, ids: ArrayLike | None = None) -> Self:
        """Add codes to the database.

        Parameters
        ----------
        codes : dask array or array-like of shape (n_new, M)
            Integers in ``range(K)``.
        y : dask array or series, or array-like, of shape (n_new,), default=None
            Labels.
        ids : array-like of shape (n_new,), default=None
            As in `add`.

        Returns
        -------
        self : DPQNeighbors
            The estimator. If anything is raised, it is as it was.

        Raises
        ------
        NotFittedError, ValueError, RuntimeError
            As `add`.
        """
        check_is_fitted(self)
        self._quantizer()
        client = self.shards_.client
        rows = rows_of(client, codes)
        self._add(client, rows, y, self.shards_.check_new_ids(ids, rows.n))
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
            The estimator. If anything is raised, it is as it was, and so are all shards.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If an id is not in the database.
        RuntimeError
            If the cluster has no workers.
        """
        check_is_fitted(self)
        ids = self.shards_.check_kind(ids)
        if ids.ndim != 1:
            raise ValueError(f"Expected ids as a 1-D array, got shape {ids.shape}.")
        _items.look_up(self.shards_, ids, "numbers")  # raises where one is unknown
        self.shards_ = remove_items(self.shards_.client, self.shards_, ids)
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
        RuntimeError
            If the cluster has no workers.
        """
        check_is_fitted(self)
        ids, known = self.shards_.check_kind(ids), self.shards_.classes
        if known is None:
            raise ValueError("Expected a database with labels, got one made without y. Give y to fit.")
        labels = np.empty(ids.size, dtype=known.dtype)
        for positions, indices, classes in _items.look_up(self.shards_, ids.ravel(), "labels"):
            missing = positions[indices < 0]
            if len(missing):
                raise ValueError(f"Expected ids of items with labels, got {ids.ravel()[missing[:5]].tolist()} without.")
            if len(positions):
                labels[positions] = classes[indices]
        return labels.reshape(ids.shape)

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
        RuntimeError
            If the cluster has no workers.
        """
        check_is_fitted(self)
        ids = self.shards_.check_kind(ids)
        quantizer = self._quantizer()
        codes = np.zeros((ids.size, len(quantizer.codebooks_)), dtype=self.codes_.dtype)
        for positions, found, _ in _items.look_up(self.shards_, ids.ravel(), "codes"):
            codes[positions] = found
        hard = quantizer.decode(codes)
        return hard.reshape(*ids.shape, hard.shape[1])

    def __len__(self) -> int:
        return self.n_samples_fit_

    def __bool__(self) -> bool:
        return True  # an estimator without items, or not fitted, is one, too

    def __contains__(self, item_id: object) -> bool:
        check_is_fitted(self)
        if not isinstance(item_id, str if self.shards_.named else Integral):
            return False
        ids = self.shards_.check_kind([item_id])
        return any(len(positions) for positions, *_ in _items.parts_of(self.shards_, ids, "numbers"))

    @reads
    def kneighbors(
        self,
        X: Any = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        among: ArrayLike | None = None,
    ) -> Any:
        """Find the nearest items of the database.

        Parameters
        ----------
        X : array-like, dask array or data frame of shape (n_queries, n_features), default=None
            Queries. Those of dask are answered by dask arrays, block by block when these are computed. Without, each
            item of the database is a query by its code, compared symmetrically (section 3.1.3), and not its own
            neighbour; all codes are brought here for it.
        n_neighbors : int, default=None
            Number of neighbours; by default the parameter of that name.
        return_distance : bool, default=True
            Whether to return the distances.
        among : array-like, default=None
            Search among some of the items: a boolean mask of shape (n_samples_fit_,), in the order of `ids_`, or ids,
            in any order. By default all items are searched.

        Returns
        -------
        neigh_dist : ndarray or dask array of shape (n_queries, n_neighbors), float64
            Distances as `metric` says, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray or dask array of shape (n_queries, n_neighbors), int64 or object
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
        RuntimeError
            If the cluster has no workers, or a lost shard cannot be made as it was.
        """
        check_is_fitted(self)
        if is_lazy(X):
            return self._lazy_kneighbors(X, n_neighbors, return_distance, among)
        distances, numbers = self._kneighbors(X, n_neighbors, among)
        neigh_ind = _items.named(self.shards_, numbers)
        return (distances, neigh_ind) if return_distance else neigh_ind

    @reads
    def kneighbors_codes(
        self,
        codes: ArrayLike,
        n_neighbors: int | None = None,
        return_distance: bool = True,
        *,
        among: ArrayLike | None = None,
    ) -> Any:
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
        neigh_ind : ndarray of shape (n_queries, n_neighbors), int64 or object
            Ids of the neighbours, at equal distance in ascending order.

        Raises
        ------
        NotFittedError, TypeError, ValueError, RuntimeError
            As `kneighbors`, and if the codes do not fit the codebooks.
        """
        check_is_fitted(self)
        asked = self._asked()
        codes = check_codes(codes, *asked.index.codebooks.shape[:2])
        asked = asked.among(among)
        k = asked.check_n_neighbors(self.n_neighbors if n_neighbors is None else n_neighbors, len(codes))
        found = asked.by_codes().nearest(codes, k)
        distances, neigh_ind = asked.index.distances(found.distances), _items.named(self.shards_, found.numbers)
        return (distances, neigh_ind) if return_distance else neigh_ind

    @reads
    def radius_neighbors(
        self,
        X: Any = None,
        radius: float | None = None,
        return_distance: bool = True,
        sort_results: bool = False,
        *,
        among: ArrayLike | None = None,
    ) -> Any:
        """Find all items of the database within a radius, boundary included.

        Parameters
        ----------
        X : array-like, dask array or data frame of shape (n_queries, n_features), default=None
            Queries, as in `kneighbors`.
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
        neigh_dist : ndarray or dask array of shape (n_queries,) of ndarray, float64
            Distances as `metric` says, ascending. Only with ``return_distance=True``.
        neigh_ind : ndarray or dask array of shape (n_queries,) of ndarray, int64 or object
            Ids of the neighbours.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        MemoryError
            If what a shard finds will not fit into the memory of its worker, or what all find into that of the client.
        ValueError
            If X does not match the data that it was fitted on, for another `among`, or with ``sort_results=True`` and
            ``return_distance=False``, as in scikit-learn.
        RuntimeError
            As `kneighbors`.
        """
        check_is_fitted(self)
        if sort_results and not return_distance:
            raise ValueError("return_distance must be True if sort_results is True.")
        if is_lazy(X):
            return self._lazy_radius_neighbors(X, radius, return_distance, among)
        distances, numbers, indptr = self._radius_neighbors(X, radius, among)
        neigh_ind = split_results(_items.named(self.shards_, numbers), indptr)
        return (split_results(distances, indptr), neigh_ind) if return_distance else neigh_ind

    @reads
    def kneighbors_graph(
        self,
        X: ArrayLike | None = None,
        n_neighbors: int | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
        *,
        among: ArrayLike | None = None,
    ) -> csr_array | csr_matrix:
        """Compute the graph of nearest neighbours.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries, in memory, as the graph is; without, as in `kneighbors`.
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
        NotFittedError, TypeError, ValueError, RuntimeError
            As `kneighbors`; ValueError also for another `mode`, TypeError for queries of dask.
        """
        check_is_fitted(self)
        check_mode(mode)
        distances, numbers = self._kneighbors(_in_memory(X), n_neighbors, among)
        indptr = np.arange(len(numbers) + 1) * numbers.shape[1]
        return self._graph(mode, distances.ravel(), numbers.ravel(), indptr)

    @reads
    def radius_neighbors_graph(
        self,
        X: ArrayLike | None = None,
        radius: float | None = None,
        mode: Literal["connectivity", "distance"] = "connectivity",
        sort_results: bool = False,
        *,
        among: ArrayLike | None = None,
    ) -> csr_array | csr_matrix:
        """Compute the graph of neighbours within a radius.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries, as for `kneighbors_graph`.
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
        NotFittedError, TypeError, ValueError, RuntimeError
            As `radius_neighbors` and `kneighbors_graph`.
        """
        check_is_fitted(self)
        check_mode(mode)
        return self._graph(mode, *self._radius_neighbors(_in_memory(X), radius, among))

    def transform(self, X: ArrayLike) -> csr_array | csr_matrix:
        """Compute the graph of nearest neighbours as scikit-learn's KNeighborsTransformer does.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Queries.

        Returns
        -------
        graph : sparse matrix or array of shape (n_queries, n_samples_fit_), CSR, float64
            As of `skdpq.DPQNeighbors.transform`.

        Raises
        ------
        NotFittedError, TypeError, ValueError, RuntimeError
            As `kneighbors_graph`.
        """
        check_is_fitted(self)
        mode = self._valid("mode")
        return self.kneighbors_graph(X, int(self._valid("n_neighbors")) + (mode == "distance"), mode=mode)

    @reads
    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Compute the mean average precision of the queries' labels against the database's.

        A ranking of all items is no sum of rankings of shards: codes and labels, M + 1 bytes an item or so, are
        brought here and ranked by `skdpq.DPQNeighbors.score`.

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
        RuntimeError
            If the cluster has no workers.
        """
        check_is_fitted(self)
        return self._gathered().score(_in_memory(X), y)

    @changes
    def save(self, folder: str | PathLike[str]) -> None:  # type: ignore[override]
        """Write this database to a folder: a file for each shard, by the workers, and a manifest last.

        Workers write to `folder` as they see it, so they have to share it. `skdpq.dask.load` reads it, and
        `skdpq.load` does in one process. A shard that is lost later is made again from its file. At any moment the
        manifest names files that are whole: those before or the new ones. Files that neither the manifest nor the one
        before it names are deleted.

        Parameters
        ----------
        folder : str or path-like
            Where to; made if it is not there.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If a file cannot hold the quantizer.
        OSError
            If it cannot be written; what was there stays.
        RuntimeError
            If the cluster has no workers.
        """
        check_is_fitted(self)
        self._validate_params()
        self.shards_ = _storage.save(self.shards_.client, self, folder)

    @property
    def codes_(self) -> da.Array:
        """Codes of the database."""
        check_is_fitted(self, "shards_")
        codebooks = trained_codebooks(self.quantizer_)
        return _lazy.all_of(self.shards_, "codes", _items.order(self.shards_), codebooks.shape[:2])

    @property
    def ids_(self) -> da.Array:
        """Ids of the database, ascending."""
        check_is_fitted(self, "shards_")
        return _lazy.all_of(self.shards_, "ids", _items.order(self.shards_))

    @property
    def labels_(self) -> da.Array:
        """Indices into `classes_`."""
        check_is_fitted(self, "shards_")
        if self.shards_.classes is None:
            raise AttributeError("Expected a database with labels, got one made without y.")
        return _lazy.all_of(self.shards_, "labels", _items.order(self.shards_))

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels in the database."""
        check_is_fitted(self, "shards_")
        if self.shards_.classes is None:
            raise AttributeError("Expected a database with labels, got one made without y.")
        return self.shards_.classes

    @property
    def n_samples_fit_(self) -> int:
        """Number of items in the database."""
        check_is_fitted(self, "shards_")
        return len(self.shards_)

    get_feature_names_out = reads(ClassNamePrefixFeaturesOutMixin.get_feature_names_out)

    @property
    def _n_features_out(self):
        return self.n_samples_fit_

    def __sklearn_is_fitted__(self):
        return "shards_" in vars(self)

    def _fitted_quantizer(self, client, rows, labels):
        """Return the quantizer, fitted on a sample."""
        quantizer = clone(choose_quantizer(self, labels))
        if isinstance(quantizer, FrozenEstimator):
            check_is_fitted(quantizer)
            return quantizer
        positions = draw(rows.n, self.sample_size, check_random_state(self.random_state))
        sample = take(client, rows, positions)
        return quantizer.fit(sample, None if labels is None else take(client, labels, positions))

    def _store(self, client, quantizer, codes, labels, ids):
        """Make a database of codes, rows of them."""
        if self.metric == "relevance":
            classifier_of(quantizer)  # raises where it does not classify
        empty = new_shards(client, quantizer, self.n_shards, self.replicas, ids)
        self.shards_ = add_items(client, empty, codes, labels, empty.check_new_ids(ids, codes.n))

    def _add(self, client, codes, y, ids):
        """Add codes, rows of them, with labels, and with ids that have been checked but for those that are there."""
        labels = None if y is None else rows_of(client, y)
        if labels is not None and labels.n != codes.n:
            raise ValueError(f"Expected one label for each of {codes.n} samples, got {labels.n}.")
        if ids is not None and codes.n and (self.shards_.named or ids.min() < self.shards_.next_number):
            known = [ids[positions] for positions, *_ in _items.parts_of(self.shards_, ids, "numbers")]
            known = np.concatenate(known)
            if len(known):
                where = "database" if self.shards_.named else "index"
                raise ValueError(f"Expected ids that are not in the {where} yet, got {known[:5].tolist()}.")
        self.shards_ = add_items(client, self.shards_, codes, labels, ids)

    def _check_samples(self, X, reset=False):
        """Check width and feature names; the quantizer checks the rest."""
        if isinstance(X, da.Array):
            X = np.broadcast_to(np.zeros(1), (1, *X.shape[1:]))
        elif is_lazy(X):
            X = X._meta
        validate_data(self, X, skip_check_array=True, reset=reset)

    def _quantizer(self):
        """Return the quantizer as it is now; raise ValueError if it no longer is the one that the codes are of."""
        quantizer = snapshot(self.quantizer_)
        check_same(quantizer, self.shards_.index.codebooks)
        return quantizer

    def _asked(self):
        """Return who is asked, and how, among all items."""
        quantizer = self._quantizer()
        relevance, symmetric = self._valid("metric") == "relevance", self._valid("search") == "symmetric"
        index, codebooks = self.shards_.index, None
        if relevance:
            classifier_of(quantizer)  # raises where it does not classify
            index = index.with_classifier(*self.shards_.classifier)
        elif not np.array_equal(as_array(quantizer.codebooks_), index.codebooks):  # intra_norm
            codebooks = np.asarray(as_array(quantizer.codebooks_))
            index = index.with_codebooks(codebooks)
        search = Search(symmetric, relevance, codebooks, self._valid("n_jobs"), self._valid("device"))
        return Asked(self.shards_, index, search, None, (None,), len(self.shards_))

    def _blocks(self, X, symmetric):
        """Represent queries in memory block by block."""
        return represent_blocks(self.quantizer_, query_method(self.metric, symmetric), X, self)

    def _kneighbors(self, X, n_neighbors, among):
        """Return distances and numbers, (n_queries, k)."""
        asked, k = self._asked(), self.n_neighbors if n_neighbors is None else n_neighbors
        if X is None:
            asked = asked.among(among)
            return asked.all_nearest(asked.check_n_neighbors(k, len(self.shards_), excluding=True))
        self._check_samples(X)
        asked = asked.among(among)
        k = asked.check_n_neighbors(k, _num_samples(X))
        found = [asked.nearest(queries, k) for queries in self._blocks(X, asked.search.symmetric)]
        distances, numbers = (np.concatenate([part[i] for part in found]) for i in range(2))
        return asked.index.distances(distances), numbers

    def _radius_neighbors(self, X, radius, among):
        """Return distances and numbers of all queries, one after the other, and where those of each start."""
        radius = check_radius(self._valid("radius") if radius is None else radius)
        asked = self._asked()
        if X is None:
            return asked.among(among).all_within(radius)
        self._check_samples(X)
        asked = asked.among(among)
        found = []
        for queries in self._blocks(X, asked.search.symmetric):
            if not found:
                asked.check_room(queries, radius, range(_num_samples(X)))
            found.append(asked.within(queries, radius))
        counts, distances, numbers = (np.concatenate([part[i] for part in found]) for i in range(3))
        return asked.index.distances(distances), numbers, np.concatenate(([0], np.cumsum(counts)))

    def _graph(self, mode, distances, numbers, indptr):
        """Return a graph, whose columns are in the order of `ids_`."""
        return make_graph(mode, distances, _items.ranks(self.shards_, numbers), indptr, len(self.shards_))

    def _lazy_kneighbors(self, X, n_neighbors, return_distance, among):
        """Return the answers to queries of dask."""
        asked, k = self._asked_lazily(X, among), self.n_neighbors if n_neighbors is None else n_neighbors
        k = asked.check_n_neighbors(k, 0 if np.isnan(_length(X)) else len(X))
        method = query_method(self.metric, asked.search.symmetric)
        found = _lazy.kneighbors(X, self.quantizer_, method, asked, k)
        return found if return_distance else found[1]

    def _lazy_radius_neighbors(self, X, radius, return_distance, among):
        """Return the answers to queries of dask."""
        radius = check_radius(self._valid("radius") if radius is None else radius)
        asked = self._asked_lazily(X, among)
        method = query_method(self.metric, asked.search.symmetric)
        found = _lazy.radius_neighbors(X, self.quantizer_, method, asked, radius)
        return found if return_distance else found[1]

    def _asked_lazily(self, X, among):
        """Return what is asked for queries of dask, which nobody will check later."""
        asked = self._asked()
        self._check_samples(X)
        asked = asked.among(among)
        asked.check_known()
        return asked

    def _gathered(self):
        """Return a database with the same codes and labels in this process, whose ids are others."""
        classes, codes = self.shards_.classes, np.concatenate(_items.all_of(self.shards_, "codes"))
        params = {name: getattr(self, name) for name in ("metric", "search", "n_jobs", "device")}
        local = single.DPQNeighbors(quantizer=FrozenEstimator(self.quantizer_), **params)
        if classes is None:
            return local.fit_codes(codes)
        labels = _items.labels_of_all(self.shards_)
        has_label = labels >= 0
        return local.fit_codes(codes[has_label], classes[labels[has_label]]).add_codes(codes[~has_label])


# As the outermost, so that what is transformed is what was fitted.
DPQNeighbors.transform = reads(DPQNeighbors.transform)  # type: ignore[method-assign]
DPQNeighbors.fit_transform = changes(DPQNeighbors.fit_transform)  # type: ignore[method-assign]


def _in_memory(X):
    """Return queries as they are; raise TypeError where they are of dask."""
    if is_lazy(X):
        raise TypeError(f"Expected queries in memory, as the answer is there too, got a {type(X).__name__} of dask.")
    return X


def _length(X):
    """Return the number of rows of a dask collection, NaN where it is not known."""
    return X.shape[0] if isinstance(X, da.Array) else np.nan
