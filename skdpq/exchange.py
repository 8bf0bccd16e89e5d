"""Exchange with faiss: what is indexed here is searched there, and the other way round."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from ._arrays import slices_of
from ._atomic import snapshot
from ._codes import code_dtype
from ._search.index import CodeIndex
from .neighbors import DPQNeighbors
from .product_quantizer import ProductQuantizer, padded_slots

if TYPE_CHECKING:
    import faiss

__all__ = ["from_faiss", "to_faiss"]

_BLOCK = 2**16  # items whose codes are packed at a time


def to_faiss(estimator: Any) -> "faiss.Index":
    """Return a faiss index of the codes of a database, or a trained one without items of a quantizer alone.

    Its search returns squared distances, and neighbours of equal distance in any order. Apart from that, it finds what
    `DPQNeighbors` finds, with distances that differ by rounding. Labels do not travel. Needs ``skdpq[faiss]``.

    Parameters
    ----------
    estimator : DPQNeighbors or quantizer
        Fitted. Its codebooks are taken as they are now: normalised where `intra_norm` is on.

    Returns
    -------
    index : faiss.IndexPQ, faiss.IndexIDMap or faiss.IndexPreTransform
        An IndexPQ, in an IndexIDMap where the ids are not 0, 1, ..., in an IndexPreTransform where a `ProductQuantizer`
        has a rotation, or parts of unequal width. It takes what such a quantizer takes: samples. That of any other
        quantizer takes soft vectors, as faiss cannot run its network: ``index.search(quantizer.soft(X), k)``. Codes of
        new items come by `encode` there, and not by the index's ``add``, whose nearest codeword may be another.

    Raises
    ------
    ImportError
        If faiss is not installed.
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is neither a DPQNeighbors nor a quantizer.
    ValueError
        If it searches by relevance or symmetrically, or float32 does not tell its codewords apart (all below 1e-9, or
        too far from zero in units of their spread).

    See Also
    --------
    from_faiss : The way back.

    Notes
    -----
    A code of faiss takes a whole number of bits a part. Where K is no power of two, codewords are repeated up to the
    next one, and to 8 where they have two dimensions, which faiss needs; codes stay the same.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import DPQNeighbors, ProductQuantizer, to_faiss
    >>> X, _ = load_digits(return_X_y=True)
    >>> neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=8, K=64, random_state=0)).fit(X)
    >>> index = to_faiss(neighbors)
    >>> type(index).__name__, index.ntotal
    ('IndexPQ', 1797)
    >>> squared_distances, ids = index.search(X[:5], 3)
    >>> bool(abs(squared_distances**0.5 - neighbors.kneighbors(X[:5], 3)[0]).max() < 1e-3)
    True
    """
    faiss = _import_faiss()
    estimator = snapshot(estimator)
    quantizer, database = _database_of(estimator)
    if not database.frame.is_plain:
        raise ValueError(
            "Expected codewords that float32 tells apart, which is all that faiss has, got some that are all below "
            "1e-9, or too far from zero in units of their spread. Scale or center the data before they are learned."
        )
    index = _index_pq(faiss, database)
    transforms = _transforms_of(faiss, quantizer, *database.codebooks.shape)
    if not transforms:
        return index
    index = faiss.IndexPreTransform(index)
    for transform in reversed(transforms):
        index.prepend_transform(transform)
    return index


def from_faiss(index: "faiss.Index") -> DPQNeighbors:
    """Return a database of the codes of a faiss index, with its codebooks, its rotation and its ids.

    Its search finds what that of the index finds, with distances that differ by rounding, and are not squared. Needs
    ``skdpq[faiss]``.

    Parameters
    ----------
    index : faiss.IndexPQ, faiss.IndexIDMap, faiss.IndexIDMap2 or faiss.IndexPreTransform
        A trained IndexPQ of squared Euclidean distances, alone or in any nesting of the others. What transforms
        vectors must rotate them (an OPQMatrix, RandomRotationMatrix or any square orthonormal LinearTransform), or pad
        parts of unequal width as `to_faiss` does. It is copied.

    Returns
    -------
    neighbors : DPQNeighbors
        Fitted, without labels; without items if the index has none. Its `quantizer_` is the fitted `ProductQuantizer`,
        in a `FrozenEstimator`. Their parameters have their defaults, but for M, K and the rotation.

    Raises
    ------
    ImportError
        If faiss is not installed.
    TypeError
        If it is no faiss index.
    ValueError
        If the index is of another kind, is not trained, or does not compare vectors with codes by squared Euclidean
        distance; if K is beyond 65,536, or ids are negative or not distinct.

    See Also
    --------
    to_faiss : The way back.
    ProductQuantizer.from_codebooks : For codebooks from anywhere else.

    Examples
    --------
    >>> import faiss
    >>> from sklearn.datasets import load_digits
    >>> from skdpq import from_faiss
    >>> X, _ = load_digits(return_X_y=True)
    >>> index = faiss.index_factory(64, "RR,PQ8x6np")
    >>> index.train(X)
    >>> index.add(X)
    >>> neighbors = from_faiss(index)
    >>> neighbors.quantizer_.estimator
    ProductQuantizer(K=64, rotation='opq')
    >>> distances, ids = neighbors.kneighbors(X[:5], 3)
    >>> bool(abs(index.search(X[:5], 3)[0] ** 0.5 - distances).max() < 1e-3)
    True
    """
    faiss = _import_faiss()
    if not isinstance(index, faiss.Index):
        raise TypeError(f"Expected a faiss.Index, got {type(index).__name__}.")
    # What is inside of an index lives as long as it: `index` stays bound to it.
    inner, transforms, ids = _unwrapped(faiss, index)
    _check_index(faiss, inner, transforms)
    pq = inner.pq
    rotation, n_features = _rotation_of(faiss, transforms, pq)
    codebooks = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    quantizer = ProductQuantizer.from_codebooks(codebooks, rotation, n_features=n_features)
    return DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit_codes(_codes_of(faiss, inner), ids=ids)


def _import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError("to_faiss and from_faiss need faiss: pip install skdpq[faiss]") from error
    return faiss


def _database_of(estimator):
    """Return the quantizer, and the database as it is searched now; for a quantizer alone, one without items."""
    check_is_fitted(estimator)
    if not isinstance(estimator, DPQNeighbors):
        if not hasattr(estimator, "codebooks_"):
            raise TypeError(f"Expected a DPQNeighbors or a quantizer with codebooks_, got {estimator!r}.")
        return estimator, CodeIndex(estimator.codebooks_)
    database = estimator._index()
    if database.classifier or estimator._symmetric():
        raise ValueError(
            'Expected metric="euclidean" and search="asymmetric", as an IndexPQ searches, got '
            f"metric={estimator.metric!r} and search={estimator.search!r}. set_params changes them."
        )
    return estimator.quantizer_, database


def _index_pq(faiss, database):
    """Return an IndexPQ of a database, in an IndexIDMap where it has ids of its own."""
    M, K, D = database.codebooks.shape
    # faiss's look-up tables for two dimensions are made of eight codewords at a time.
    n_bits = max((K - 1).bit_length(), 3 if D == 2 else 1)
    index = faiss.IndexPQ(M * D, M, n_bits)
    repeated = database.codebooks[:, np.arange(2**n_bits) % K]
    faiss.copy_array_to_vector(repeated.ravel(), index.pq.centroids)
    index.is_trained = True
    codes, ids = database.codes, database.ids
    if np.array_equal(ids, np.arange(len(ids))):
        ids = None
    else:
        index = faiss.IndexIDMap(index)
    for rows in slices_of(len(codes), _BLOCK):
        packed = faiss.pack_bitstrings(codes[rows].astype(np.int32), n_bits)
        index.add_sa_codes(packed, None if ids is None else ids[rows])
    return index


def _codes_of(faiss, index):
    """Return the codes of an IndexPQ, (n, M)."""
    pq = index.pq
    packed = faiss.vector_to_array(index.codes).reshape(index.ntotal, pq.code_size)
    codes = np.empty((index.ntotal, pq.M), dtype=code_dtype(pq.ksub))
    for rows in slices_of(len(codes), _BLOCK):
        codes[rows] = faiss.unpack_bitstrings(packed[rows], pq.M, pq.nbits)
    return codes


def _transforms_of(faiss, quantizer, M, K, D):
    """Return what makes soft vectors of samples, where faiss can: the transforms of a ProductQuantizer."""
    while isinstance(quantizer, FrozenEstimator):
        quantizer = quantizer.estimator
    transforms = []
    if not isinstance(quantizer, ProductQuantizer):
        return transforms
    n_features = quantizer.n_features_in_
    if quantizer.rotation_ is not None:
        rotation = faiss.LinearTransform(n_features, n_features, False)
        faiss.copy_array_to_vector(quantizer.rotation_.T.astype(np.float32).ravel(), rotation.A)
        rotation.is_trained = True
        rotation.set_is_orthonormal()  # so that faiss can decode to samples
        transforms.append(rotation)
    if n_features != M * D:
        padding = faiss.RemapDimensionsTransform(n_features, M * D, False)
        faiss.copy_array_to_vector(padded_slots(n_features, M, D), padding.map)
        transforms.append(padding)
    return transforms


def _unwrapped(faiss, index):
    """Return what is innermost in an index, the transforms around it, the first one first, and the ids, if any."""
    transforms = []
    ids = None
    while True:
        index = faiss.downcast_index(index)
        if isinstance(index, faiss.IndexPreTransform):
            chain = (index.chain.at(i) for i in range(index.chain.size()))
            transforms += map(faiss.downcast_VectorTransform, chain)
        elif isinstance(index, faiss.IndexIDMap) and ids is None:
            ids = faiss.vector_to_array(index.id_map)
        else:
            return index, transforms, ids
        index = index.index


def _check_index(faiss, index, transforms):
    """Raise ValueError unless an index is a trained IndexPQ that searches as we do."""
    if not isinstance(index, faiss.IndexPQ):
        raise ValueError(
            "Expected an IndexPQ, which may be in an IndexPreTransform and an IndexIDMap, got one in which there is "
            f"{type(index).__name__}."
        )
    if index.metric_type != faiss.METRIC_L2 or index.search_type != faiss.IndexPQ.ST_PQ:
        raise ValueError(
            "Expected an index with metric_type METRIC_L2 and search_type ST_PQ, got "
            f"{index.metric_type} and {index.search_type}."
        )
    if not all(part.is_trained for part in (index, *transforms)):
        raise ValueError("Expected a trained index, got one that is not. Train it first.")


def _rotation_of(faiss, transforms, pq):
    """Return what transforms in front of faiss's quantizer amount to: a rotation or None, and a number of features."""
    rotation, n_features = None, pq.M * pq.dsub
    if transforms and isinstance(transforms[-1], faiss.RemapDimensionsTransform):
        *transforms, padding = transforms
        n_features = padding.d_in
        if not np.array_equal(faiss.vector_to_array(padding.map), padded_slots(n_features, pq.M, pq.dsub)):
            raise ValueError(
                "Expected a RemapDimensionsTransform that pads parts whose widths differ by at most one, as to_faiss "
                "makes it, got another."
            )
    for transform in transforms:
        matrix = _matrix_of(faiss, transform)
        rotation = matrix if rotation is None else rotation @ matrix
    return rotation, n_features


def _matrix_of(faiss, transform):
    """Return the square matrix by which a transform multiplies rows; `from_codebooks` looks whether it rotates."""
    known = isinstance(transform, faiss.LinearTransform) and transform.d_in == transform.d_out
    if not known or (transform.have_bias and faiss.vector_to_array(transform.b).any()):
        raise ValueError(
            "Expected transforms that rotate, square and without a bias, such as a RandomRotationMatrix or an "
            f"OPQMatrix, got a {type(transform).__name__} of {transform.d_in} to {transform.d_out} dimensions."
        )
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    return matrix.T.astype(np.float64)
