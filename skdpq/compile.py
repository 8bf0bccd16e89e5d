"""Compilation ahead of time, as while the image of a container is built: what searches run is kept on disk.

``python -m skdpq.compile`` does it for codes of one byte and Euclidean distances, which is what most have;
``python -m skdpq.compile database.skdpq`` for what a saved database takes. Without it, a process compiles when it has
searched for half a second.
"""

import sys

import numpy as np
from sklearn.frozen import FrozenEstimator

from ._search import scan_numpy
from .files import load
from .neighbors import DPQNeighbors
from .product_quantizer import ProductQuantizer

__all__ = ["compile_searches"]

_N_ITEMS = 300  # more than a block of codes
_N_QUERIES = 64  # many have another kernel than one where the CPU has no AVX-512


def compile_searches(neighbors: DPQNeighbors) -> None:
    """Compile what searches of a database run, and keep it on disk.

    It depends on whether codes have one byte or two and ids have 32 bits or more, and on the metric. What is on disk
    already is read instead. docs/search.md says where it is kept.

    Parameters
    ----------
    neighbors : DPQNeighbors
        The database, which may be a small one of the same kind.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from skdpq import DPQNeighbors
    >>> from skdpq.compile import compile_searches
    >>> compile_searches(DPQNeighbors().fit(np.random.rand(300, 8)))
    """
    scan_numpy.stop()
    M, K, _ = neighbors.quantizer_.codebooks_.shape
    codes = (np.arange(_N_ITEMS)[:, None] + np.arange(M)) % K  # all differ up to K: equal queries are one
    ids = np.arange(_N_ITEMS)
    if neighbors._items().index.next_id > 2**32:
        ids += 2**32
    small = DPQNeighbors(1, quantizer=FrozenEstimator(neighbors.quantizer_), metric=neighbors.metric)
    small.fit_codes(codes, ids=ids)
    for queries in (codes[:1], codes[:_N_QUERIES]):
        small.kneighbors_codes(queries)
    small.kneighbors()
    small.radius_neighbors(radius=0.0)
    small.kneighbors_codes(codes[:1], among=ids > ids[9])
    small.kneighbors_codes(codes[:1], among=ids[:9])


def _main(paths):
    if not paths:
        quantizer = ProductQuantizer.from_codebooks(np.arange(256.0).reshape(1, 256, 1))
        compile_searches(DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit_codes([[0]]))
    for path in paths:
        compile_searches(load(path, mmap=True))


if __name__ == "__main__":
    _main(sys.argv[1:])
