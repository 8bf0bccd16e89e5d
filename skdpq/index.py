"""CodeIndex: a database of codes with ids, searched exactly."""

import copy
import math

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from sklearn.utils import gen_batches

from .codes import check_codes, code_dtype
from .kernels import scan_nearest, scan_radius
from .tables import lut_asymmetric, lut_symmetric

_TABLES = 2**22  # table entries at a time in each thread: 16 MB
_MAX_ID = 2**63 - 2  # so that the id after it is an int64 too


class CodeIndex:
    """Codes and their ids, in ascending order of id; ties in distance are broken by that order.

    Parameters
    ----------
    codebooks : array-like of shape (M, K, D)
        Codebooks that the codes index.

    Attributes
    ----------
    codebooks : ndarray of shape (M, K, D), float32
        The codebooks.
    codes : ndarray of shape (n, M), uint8 or uint16
        The database.
    ids : ndarray of shape (n,), int64
        The id of each code, ascending, none twice.
    next_id : int
        The id that `add` gives next; ids are not given again after their removal.
    """

    def __init__(self, codebooks):
        self.codebooks = _check_codebooks(codebooks)
        M, K, _ = self.codebooks.shape
        self.codes = np.empty((0, M), dtype=code_dtype(K))
        self.ids = np.empty(0, dtype=np.int64)
        self.next_id = 0

    def __len__(self):
        return len(self.codes)

    def through(self, codebooks):
        """Return the same database read through other codebooks, such as normalised ones.

        Parameters
        ----------
        codebooks : array-like of shape (M, K, D)
            Codebooks that the codes index.

        Returns
        -------
        view : CodeIndex
            Shares codes and ids; for searching alone.

        Raises
        ------
        ValueError
            If the codebooks have another M or K.
        """
        codebooks = _check_codebooks(codebooks)
        if codebooks.shape[:2] != self.codebooks.shape[:2]:
            raise ValueError(f"Expected codebooks of shape {self.codebooks.shape[:2]} + (D,), got {codebooks.shape}.")
        view = copy.copy(self)
        view.codebooks = codebooks
        return view

    def add(self, codes, ids=None):
        """Add codes.

        Parameters
        ----------
        codes : array-like of shape (n_new, M)
            Integers in ``range(K)``.
        ids : array-like of shape (n_new,), default=None
            Integers not in the index; by default they continue the largest given so far.

        Returns
        -------
        order : ndarray of shape (n + n_new,), int64
            Where each item of the index now comes from, in the old ones followed by the new ones.

        Raises
        ------
        ValueError
            If the codes do not fit the codebooks or the ids are not new; the index is then as it was.
        """
        M, K, _ = self.codebooks.shape
        codes = check_codes(codes, M, K)
        if ids is None:
            if self.next_id + len(codes) > _MAX_ID + 1:
                raise ValueError(f"Expected ids, as none are left above the largest given, {self.next_id - 1}.")
            ids = np.arange(self.next_id, self.next_id + len(codes), dtype=np.int64)
        else:
            ids = _check_ids(ids)
            if len(ids) != len(codes):
                raise ValueError(f"Expected one id for each of {len(codes)} codes, got {len(ids)}.")
            if len(np.unique(ids)) != len(ids):
                raise ValueError("Expected ids that differ, got some twice.")
            known = np.isin(ids, self.ids)
            if known.any():
                raise ValueError(f"Expected ids that are not in the index yet, got {ids[known][:5].tolist()}.")
        all_ids = np.concatenate((self.ids, ids))
        order = np.argsort(all_ids, kind="stable")
        self.codes, self.ids = np.concatenate((self.codes, codes))[order], all_ids[order]
        self.next_id = max(self.next_id, int(ids.max(initial=-1)) + 1)
        return order

    def remove(self, ids):
        """Remove codes by their ids.

        Parameters
        ----------
        ids : array-like of shape (n_removed,)
            Integers in the index.

        Returns
        -------
        kept : ndarray of shape (n,), bool
            Which of the old items are still there.

        Raises
        ------
        ValueError
            If an id is not in the index; it is then as it was.
        """
        ids = _check_ids(ids)
        unknown = ~np.isin(ids, self.ids)
        if unknown.any():
            raise ValueError(f"Expected ids of the index, got {ids[unknown][:5].tolist()}.")
        kept = ~np.isin(self.ids, ids)
        self.codes, self.ids = self.codes[kept], self.ids[kept]
        return kept

    def tables(self, queries, symmetric):
        """Compute the look-up tables of a block of queries.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, M) or (n_queries, M * D)
            Codes if `symmetric`, else soft representations.
        symmetric : bool
            Whether to compare symmetrically (section 3.1.3) or asymmetrically (3.1.4).

        Returns
        -------
        tables : ndarray of shape (n_queries, M, K), float32
            Squared distances of each part of the queries to its codewords.

        Raises
        ------
        ValueError
            If the queries are not of the expected shape, codes out of range, or distances beyond float32.
        """
        M, K, D = self.codebooks.shape
        if symmetric:
            queries = check_codes(queries, M, K)
        elif np.shape(queries)[1:] != (M * D,):
            raise ValueError(f"Expected soft representations of shape (n, {M * D}), got {np.shape(queries)}.")
        tables = (lut_symmetric if symmetric else lut_asymmetric)(self.codebooks, queries)
        if tables.size and not tables.max() < np.finfo(np.float32).max / len(self.codebooks):
            raise ValueError("Expected queries and codebooks whose squared distances fit float32, got larger ones.")
        return tables

    def table_blocks(self, n_queries, n_jobs=1):
        """Return slices of the queries whose tables are made at a time, at least one a thread.

        Parameters
        ----------
        n_queries : int
            Number of queries.
        n_jobs : int, default=1
            Number of threads.

        Returns
        -------
        blocks : iterator of slice
            Consecutive slices.
        """
        if n_queries == 0:
            return iter(())
        M, K, _ = self.codebooks.shape
        return gen_batches(n_queries, max(1, min(math.ceil(n_queries / n_jobs), _TABLES // (M * K))))

    def kneighbors(self, queries, k, *, symmetric, exclude=None, n_jobs=None):
        """Find the k nearest codes, ordered by (distance, position).

        Parameters
        ----------
        queries : ndarray of shape (n_queries, M) or (n_queries, M * D)
            Codes if `symmetric`, else soft representations.
        k : int
            Number of neighbours, at most as many as a query may return.
        symmetric : bool
            How to compare.
        exclude : ndarray of shape (n_queries,), default=None
            A position that the query may not return, or -1.
        n_jobs : int, default=None
            Threads, as in joblib.

        Returns
        -------
        distances : ndarray of shape (n_queries, k), float32
            Squared distances, ascending.
        positions : ndarray of shape (n_queries, k), int64
            Positions in `codes`.

        Raises
        ------
        ValueError
            If k is out of range, or the queries are not as described.
        """
        n = len(self) - (exclude is not None and bool(np.any(np.asarray(exclude) >= 0)))
        if not 1 <= k <= n:
            raise ValueError(f"Expected k from 1 to {n}, the number of codes that a query may return, got {k}.")
        distances = np.empty((len(queries), k), dtype=np.float32)
        positions = np.empty((len(queries), k), dtype=np.int64)

        def scan(block, tables, exclude):
            scan_nearest(tables, self.codes, exclude, distances[block], positions[block])

        self._over_blocks(scan, queries, symmetric, exclude, n_jobs)
        return distances, positions

    def radius_neighbors(self, queries, threshold, *, symmetric, exclude=None, n_jobs=None):
        """Find all codes up to a squared distance, ordered by (distance, position).

        Parameters
        ----------
        queries : ndarray of shape (n_queries, M) or (n_queries, M * D)
            Codes if `symmetric`, else soft representations.
        threshold : float32
            Largest squared distance to return.
        symmetric : bool
            How to compare.
        exclude : ndarray of shape (n_queries,), default=None
            A position that the query may not return, or -1.
        n_jobs : int, default=None
            Threads, as in joblib.

        Returns
        -------
        counts : ndarray of shape (n_queries,), int64
            Results of each query; those of all queries follow one another.
        distances : ndarray of shape (n_results,), float32
            Squared distances, ascending in each query.
        positions : ndarray of shape (n_results,), int64
            Positions in `codes`.
        """

        def scan(block, tables, exclude):
            return scan_radius(tables, self.codes, exclude, threshold)

        none = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)  # there may be no query
        found = [none, *self._over_blocks(scan, queries, symmetric, exclude, n_jobs)]
        return tuple(map(np.concatenate, zip(*found, strict=True)))

    def _over_blocks(self, scan, queries, symmetric, exclude, n_jobs):
        if exclude is None:
            exclude = np.full(len(queries), -1)

        def run(block):
            return scan(block, self.tables(queries[block], symmetric), exclude[block])

        blocks = self.table_blocks(len(queries), effective_n_jobs(n_jobs))
        return Parallel(n_jobs=n_jobs, require="sharedmem")(delayed(run)(block) for block in blocks)


def _check_codebooks(codebooks):
    codebooks = np.ascontiguousarray(codebooks, dtype=np.float32)
    if codebooks.ndim != 3 or 0 in codebooks.shape or codebooks.shape[1] > 65536:
        raise ValueError(f"Expected codebooks of shape (M, K, D) with K up to 65536, got {codebooks.shape}.")
    if not np.isfinite(codebooks).all():
        raise ValueError("Expected finite codebooks, got NaN or infinity (in float32).")
    return codebooks


def _check_ids(ids):
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"Expected ids as a 1-D array of integers, got {ids.dtype} of shape {ids.shape}.")
    if ids.size and (ids.min() < 0 or ids.max() > _MAX_ID):
        raise ValueError(f"Expected ids from 0 to 2**63 - 2, got values from {ids.min()} to {ids.max()}.")
    return ids.astype(np.int64)
