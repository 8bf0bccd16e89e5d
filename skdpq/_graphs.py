"""The graph methods of DPQNeighbors."""

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from sklearn import get_config
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted


class GraphMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Graphs of neighbours, and the transformer face, on top of `_kneighbors` and `_radius_neighbors`."""

    def kneighbors_graph(self, X=None, n_neighbors=None, mode="connectivity"):
        """Compute the graph of nearest neighbours.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), default=None
            Queries; without, as in `kneighbors`.
        n_neighbors : int, default=None
            Number of neighbours; by default the parameter of that name.
        mode : {"connectivity", "distance"}, default="connectivity"
            Whether edges are one or the distance.

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
        check_is_fitted(self)
        _check_mode(mode)
        distances, ids = self._kneighbors(X, n_neighbors)
        indptr = np.arange(len(ids) + 1) * ids.shape[1]
        return self._graph(mode, distances.ravel(), ids.ravel(), indptr)

    def radius_neighbors_graph(self, X=None, radius=None, mode="connectivity", sort_results=False):
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
        check_is_fitted(self)
        _check_mode(mode)
        distances, ids, indptr = self._radius_neighbors(X, radius)
        return self._graph(mode, distances, ids, indptr)

    def transform(self, X):
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
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), mode=self.mode)

    @property
    def _n_features_out(self):
        return self.n_samples_fit_

    def _graph(self, mode, distances, ids, indptr):
        data = distances if mode == "distance" else np.ones(len(ids))
        known = self.ids_
        positions = ids if len(known) == 0 or known[-1] == len(known) - 1 else np.searchsorted(known, ids)
        # A matrix made from an array keeps its int64 indices, as scikit-learn's graphs do.
        graph = csr_array((data, positions, indptr), shape=(len(indptr) - 1, self.n_samples_fit_))
        return graph if get_config()["sparse_interface"] == "sparray" else csr_matrix(graph)


def _check_mode(mode):
    if mode not in ("connectivity", "distance"):
        raise ValueError(f'Unsupported mode, must be one of "connectivity", or "distance" but got "{mode}" instead')
