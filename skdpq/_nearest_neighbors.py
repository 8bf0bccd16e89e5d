"""What scikit-learn's NearestNeighbors says and returns, word for word: the checks of its arguments, and its graphs.

`DPQNeighbors` calls it.
"""

from numbers import Integral, Real

import numpy as np
from scipy.sparse import csr_array, csr_matrix
from sklearn import get_config


def check_n_neighbors(k, n_items, n_queries, excluding=False):
    """Return how many neighbours to find, an int; raise what scikit-learn raises.

    Parameters
    ----------
    k : object
        What the user wants.
    n_items, n_queries : int
        Of how many items, and for how many queries.
    excluding : bool, default=False
        Whether the queries are items, and not their own neighbours.

    Returns
    -------
    k : int
        As it was given.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is not positive, or more than there are.
    """
    if k <= 0:
        raise ValueError(f"Expected n_neighbors > 0. Got {k}")
    if not isinstance(k, Integral):
        raise TypeError(f"n_neighbors does not take {type(k)} value, enter integer value")
    if k > n_items - excluding:
        raise ValueError(
            f"Expected n_neighbors {'<' if excluding else '<='} n_samples_fit, but n_neighbors = {k}, "
            f"n_samples_fit = {n_items}, n_samples = {n_queries}"
        )
    return int(k)


def check_radius(radius):
    """Return a radius as a float; raise ValueError if it is none."""
    if not isinstance(radius, Real) or np.isnan(radius):
        raise ValueError(f"Expected radius as a real number, got {radius!r}.")
    return float(radius)


def check_mode(mode):
    """Raise ValueError unless `mode` is one of a graph."""
    if mode not in ("connectivity", "distance"):
        raise ValueError(f'Unsupported mode, must be one of "connectivity", or "distance" but got "{mode}" instead')


def make_graph(mode, distances, columns, indptr, n_items):
    """Return the graph of neighbours.

    Parameters
    ----------
    mode : {"connectivity", "distance"}
        Whether edges are one or the distance.
    distances, columns : ndarray of shape (n_edges,), float64 and int64
        Of the neighbours of each query, one query after the other.
    indptr : ndarray of shape (n_queries + 1,), int64
        Where those of each query start.
    n_items : int
        Number of columns.

    Returns
    -------
    graph : sparse matrix or array of shape (n_queries, n_items), CSR, float64
        Which of the two, scikit-learn's configuration says.
    """
    data = distances if mode == "distance" else np.ones(len(columns))
    # A matrix made from an array keeps its int64 indices, as scikit-learn's graphs do.
    graph = csr_array((data, columns, indptr), shape=(len(indptr) - 1, n_items))
    return graph if get_config()["sparse_interface"] == "sparray" else csr_matrix(graph)
