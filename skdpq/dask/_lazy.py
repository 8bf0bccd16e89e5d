"""Answers as dask arrays: graphs over the shards, which are computed when somebody wants them.

`_neighbors` calls it. An array holds the shards that it is of, so it is of the state that the estimator had.
"""

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask import delayed

from .._codes import code_dtype
from .._search.results import split_results
from . import _found
from ._asking import FAN_OUT, answer_of
from ._rows import blocks_of, represent_block
from ._shard import Shard


def all_of(shards, what, order, shape=None):
    """Return something of all items as a dask array.

    Parameters
    ----------
    shards : Shards
        The database.
    what : {"codes", "ids", "labels"}
        What; labels are indices into the classes of all shards.
    order : list of int or ndarray
        Shards in the order of ids, or where they interleave all items' positions in their order.
    shape : (int, int), default=None
        M and K, for codes.

    Returns
    -------
    values : dask array of shape (n,) or (n, M)
        In the order of ids; a chunk for each shard where these do not interleave.
    """
    dtype: Any = np.int64
    if what == "ids" and shards.named:
        dtype = object
    if what == "codes":
        dtype = code_dtype(shape[1])
    classes = shards.classes if what == "labels" else None
    interleave = not isinstance(order, list)
    chunks = []
    for i in range(len(shards.futures)) if interleave or not order else order:
        about = shards.abouts[i]
        part = delayed(_part)(shards.futures[i][0], about.content, what, classes)
        chunks.append(da.from_delayed(part, (about.n, *(shape or ())[:1]), dtype))
    values = da.concatenate(chunks)
    return values[order] if interleave else values


def _part(shard, content, what, classes):
    """Return something of all items of a shard, labels as indices into given classes."""
    values = answer_of(shard, content, (), Shard.all_of, (what,))
    if what != "labels" or shard.items.classes is None:
        return values
    return np.where(values < 0, -1, np.searchsorted(classes, shard.items.classes)[values])


def kneighbors(X, quantizer, method, asked, k):
    """Return distances and ids of the nearest items of queries, dask arrays of shape (n_queries, k).

    Parameters
    ----------
    X : dask array or data frame of shape (n_queries, n_features)
        Queries.
    quantizer : estimator
        What represents them.
    method : str
        By its method of this name.
    asked : Asked
        Who answers.
    k : int
        How many items.
    """
    merge = partial(_found.nearest, k=k)
    blocks = [
        _finish(_ask(block, asked, Shard.kneighbors, merge, k), asked, "nearest")
        for block in _represented(X, quantizer, method)
    ]
    dtypes = np.float64, object if asked.shards.named else np.int64
    return tuple(
        da.concatenate(
            [da.from_delayed(block[i], (n, k), dtypes[i]) for block, n in zip(blocks, _lengths(X, blocks), strict=True)]
        )
        for i in range(2)
    )


def radius_neighbors(X, quantizer, method, asked, radius):
    """Return distances and ids of all items within a radius, dask arrays (n_queries,) of arrays; as `kneighbors`."""
    blocks = [
        _finish(_ask(block, asked, Shard.radius_neighbors, _found.within, radius), asked, "within")
        for block in _represented(X, quantizer, method)
    ]
    return tuple(
        da.concatenate(
            [da.from_delayed(block[i], (n,), object) for block, n in zip(blocks, _lengths(X, blocks), strict=True)]
        )
        for i in range(2)
    )


def _represented(X, quantizer, method):
    shared = delayed(quantizer, traverse=False)
    return [delayed(represent_block)(shared, method, block) for block in blocks_of(X)]


def _lengths(X, blocks):
    """Return the number of rows of each block of queries, NaN where it is not known."""
    return X.chunks[0] if isinstance(X, da.Array) else (np.nan,) * len(blocks)


def _ask(queries, asked, function, merge, limit):
    """Return the merged answers of all shards to a block of queries, k or a radius."""
    shards, parts = asked.shards, []
    for i, (futures, about) in enumerate(zip(shards.futures, shards.abouts, strict=True)):
        args = asked.args if asked.own is None else asked.own[i]
        parts.append(delayed(_answer)(futures[0], about.content, function, asked.search, queries, limit, *args))
    while len(parts) > 1:
        parts = [delayed(merge)(parts[i : i + FAN_OUT]) for i in range(0, len(parts), FAN_OUT)]
    return parts[0] if len(shards.futures) > 1 else delayed(merge)(parts)


def _answer(shard, content, function, *args):
    return answer_of(shard, content, (), function, args)


def _finish(found, asked, kind):
    """Return distances and ids as users see them, a pair of Delayed."""
    names = []
    if asked.shards.named:
        names = [delayed(Shard.name)(futures[0], found.numbers.ravel()) for futures in asked.shards.futures]
    pair = delayed(_seen, nout=2)(found, names, asked.index._replace(segments=()), kind)
    return pair


def _seen(found, names, index, kind):
    """Return distances and ids of a block as users see them."""
    numbers = found.numbers
    if names:
        ids = np.empty(numbers.size, dtype=object)
        for (positions, of_shard), *_ in names:
            ids[positions] = of_shard
        numbers = ids.reshape(numbers.shape)
    distances = index.distances(found.distances)
    if kind == "nearest":
        return distances, numbers
    indptr = np.concatenate(([0], np.cumsum(found.counts)))
    return split_results(distances, indptr), split_results(numbers, indptr)
