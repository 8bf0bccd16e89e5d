"""Rows of what users give: blocks that follow one another, which dask has, or that are in memory.

`_neighbors` takes samples, labels and codes as these. Blocks of dask stay where they are: only tasks see them. Rows
that are in memory are one block.
"""

from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from scipy.sparse import issparse, vstack
from sklearn.utils import _safe_indexing
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import _num_samples

from .._arrays import is_lazy
from .._codes import code_dtype
from .._quantizer import represent
from ._cluster import put, results


class Rows(NamedTuple):
    """Rows in blocks.

    Attributes
    ----------
    blocks : list
        Arrays, frames, or what dask will make one.
    lengths : list of int
        How many rows each has.
    """

    blocks: list[Any]
    lengths: list[int]

    @property
    def n(self):
        """Number of rows."""
        return sum(self.lengths)

    def pieces(self, start, stop):
        """Return the rows from `start` to `stop` as a list of (block, first, end), of blocks that have some of them."""
        pieces, begin = [], 0
        for block, length in zip(self.blocks, self.lengths, strict=True):
            first, end = max(start - begin, 0), min(stop - begin, length)
            if first < end:
                pieces.append((block, first, end))
            begin += length
        return pieces


def rows_of(client, X):
    """Return the rows of an array, a frame or a series, of dask or in memory.

    Parameters
    ----------
    client : Client
        Of the cluster, which counts the rows of blocks whose lengths dask does not know.
    X : object
        The rows.

    Returns
    -------
    rows : Rows
        Nothing of what dask has is brought to this process.
    """
    if not is_lazy(X):
        return Rows([X], [_num_samples(X)])
    blocks = blocks_of(X)
    lengths = X.chunks[0] if isinstance(X, da.Array) else (np.nan,)
    if np.isnan(lengths).any():
        lengths = results(client, client.compute([dask.delayed(len)(block) for block in blocks]))
    return Rows(blocks, [int(length) for length in lengths])


def blocks_of(X):
    """Return the blocks of rows of a dask collection, each a Delayed."""
    if isinstance(X, da.Array):
        return X.rechunk(dict.fromkeys(range(1, X.ndim), -1)).to_delayed().ravel().tolist()
    return X.to_delayed()


def on_workers(client, rows):
    """Return rows whose blocks are being computed by workers where dask has them, each once."""
    if not dask.is_dask_collection(rows.blocks[0]):
        return rows
    return Rows(client.compute(rows.blocks), rows.lengths)


def take(client, rows, positions):
    """Return the rows at ascending positions, in memory."""
    begins = np.cumsum([0, *rows.lengths])
    bounds = np.searchsorted(positions, begins)
    taken = [
        dask.delayed(_safe_indexing)(block, positions[bounds[i] : bounds[i + 1]] - begins[i])
        for i, block in enumerate(rows.blocks)
        if bounds[i] < bounds[i + 1]
    ]
    if not dask.is_dask_collection(rows.blocks[0]):
        return _safe_indexing(rows.blocks[0], positions)
    return concatenate(results(client, client.compute(taken)))


def draw(n, size, random_state):
    """Return ascending positions of `size` of n rows drawn at random, or of all where there are no more."""
    if size >= n:
        return np.arange(n)
    return np.sort(sample_without_replacement(n, size, random_state=random_state))


def concatenate(blocks):
    """Return blocks one after the other: arrays, sparse ones, or frames."""
    if issparse(blocks[0]):
        return vstack(blocks, format="csr")
    if hasattr(blocks[0], "iloc"):
        import pandas as pd

        return pd.concat(blocks)
    return np.concatenate(blocks)


def join_pieces(pieces):
    """Return the rows of pieces, one after the other: an ndarray; None for None."""
    if pieces is None:
        return None
    return np.concatenate([np.asarray(block)[first:end] for block, first, end in pieces])


def represent_block(quantizer, method, block):
    """Return what a method of a quantizer makes of a block, which may be without rows.

    Parameters
    ----------
    quantizer : estimator
        A fitted quantizer.
    method : {"encode", "soft", "predict_proba_soft"}
        Name of the method.
    block : array-like of shape (n_samples, ...)
        Samples.

    Returns
    -------
    rows : ndarray of shape (n_samples, ...)
        One for each.
    """
    if _num_samples(block):
        return represent(quantizer, method, block)
    M, K, D = quantizer.codebooks_.shape
    if method == "encode":
        return np.empty((0, M), code_dtype(K))
    width = M * D if method == "soft" else len(quantizer.class_bias_)
    return np.empty((0, width), np.float32)


def encode(client, quantizer, rows):
    """Return the codes of rows of samples, as rows: of those of dask where they are, of those in memory here."""
    if not dask.is_dask_collection(rows.blocks[0]):
        return Rows([represent(quantizer, "encode", rows.blocks[0])], rows.lengths)
    shared = put(client, quantizer)
    codes = client.compute([dask.delayed(represent_block)(shared, "encode", block) for block in rows.blocks])
    return Rows(codes, rows.lengths)
