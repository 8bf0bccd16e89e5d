"""CodeIndex: a database of codes with ids, searched exactly.

`DPQNeighbors` calls it. Exactly means: the squared distance of an item is the float32 sum of its code's entries in the
query's look-up table, added in the order of the parts, and results come in the order of (distance, id). Every way to
search returns these, bit for bit; they differ in speed alone. An index that has a classifier searches by relevance: the
distance of an item is that of `relevance`, and all else is the same.
"""

import copy
from dataclasses import replace

import numpy as np

from .._arrays import as_array
from .._codes import check_codes, code_dtype
from .._frame import frame_of_codebooks
from .._versions import VersionedMixin
from . import kernels, relevance, relevance_kernels, scan_numba, scan_numpy
from .among import restrict
from .memory import check_room
from .posteriors import check_classifier
from .results import count_others, without_self
from .segments import build, distinct_rows, keep, merge, narrow_ids
from .tables import Queries, as_float32, largest_square

MAX_ID = 2**63 - 2  # so that the id after it is an int64 too


class CodeIndex(VersionedMixin):
    """Codes and their ids; ties in distance are broken by id.

    An index never changes: `add` and `remove` return another, so whoever holds one may search it meanwhile.

    The codes are kept in segments (`segments.Segment`), of which each has more than twice the items of the next:
    additions make small ones, which are merged as they grow. So adding costs a few sorts of each item in all, and
    there are never more than some twenty segments. Indexes share the segments that they have in common.

    Parameters
    ----------
    codebooks : array-like of shape (M, K, D)
        Codebooks that the codes index.

    Attributes
    ----------
    codebooks : ndarray of shape (M, K, D), float32 or float64
        The codebooks; in float64 where float32 does not tell them apart.
    frame : Frame
        The origin and the unit of the vectors that are compared. Distances, and thresholds, are in this unit.
    segments : tuple of Segment
        The database.
    next_id : int
        The id that the next item gets by default; ids are not given again after their removal.
    classifier : CodeClassifier or None
        What classifies the codes, for a search by relevance.
    """

    def __init__(self, codebooks):
        self._take(codebooks)
        self.segments = ()
        self.next_id = 0
        self.classifier = None

    def __len__(self):
        return sum(int(segment.n_items) for segment in self.segments)

    @property
    def ids(self):
        """Ids of the items, ascending: (n,) int64."""
        ids = self._in_segments("ids")
        ids.sort()
        return ids

    @property
    def codes(self):
        """Codes of the items, in the order of `ids`: (n, M) uint8 or uint16."""
        M, K, _ = self.codebooks.shape
        none = np.empty((0, M), dtype=code_dtype(K))
        codes = np.concatenate([none, *(segment.item_codes() for segment in self.segments)])
        return codes[np.argsort(self._in_segments("ids"))]

    def _in_segments(self, name):
        return np.concatenate([np.empty(0, np.int64), *(getattr(segment, name) for segment in self.segments)])

    def with_codebooks(self, codebooks):
        """Return the same database with other codebooks, such as normalized ones.

        Parameters
        ----------
        codebooks : array-like of shape (M, K, D)
            Codebooks that the codes index.

        Returns
        -------
        index : CodeIndex
            A new index.

        Raises
        ------
        ValueError
            If the codebooks have another M or K.
        """
        if codebooks is self.codebooks:
            return self
        index = self._replace()
        index._take(codebooks)
        if index.codebooks.shape[:2] != self.codebooks.shape[:2]:
            shape = index.codebooks.shape
            raise ValueError(f"Expected codebooks of shape {self.codebooks.shape[:2]} + (D,), got {shape}.")
        return index

    def with_classifier(self, lutc, bias):
        """Return the same database, searched by relevance.

        Parameters
        ----------
        lutc : array-like of shape (M, K, C)
            Look-up tables of the classification of codes (section 3.1.2).
        bias : array-like of shape (C,)
            Bias of the classes.

        Returns
        -------
        index : CodeIndex
            A new index.

        Raises
        ------
        ValueError
            If they do not fit the codebooks or each other, or are not finite.
        """
        return self._replace(classifier=check_classifier(lutc, bias, *self.codebooks.shape[:2]))

    def add(self, codes, ids=None):
        """Return an index with codes added.

        Parameters
        ----------
        codes : array-like of shape (n_new, M)
            Integers in ``range(K)``.
        ids : array-like of shape (n_new,), default=None
            Integers not in the index; by default they continue the largest given so far.

        Returns
        -------
        index : CodeIndex
            With them; this one stays as it is.

        Raises
        ------
        ValueError
            If the codes do not fit the codebooks or the ids are not new.
        """
        M, K, _ = self.codebooks.shape
        codes = check_codes(codes, M, K)
        if ids is None:
            if self.next_id + len(codes) > MAX_ID + 1:
                raise ValueError(f"Expected ids, as none are left above the largest given, {self.next_id - 1}.")
            ids = np.arange(self.next_id, self.next_id + len(codes), dtype=np.int64)
        else:
            ids = check_new_ids(ids, len(codes))
            if ids.min(initial=self.next_id) < self.next_id:
                known = np.isin(ids, self._in_segments("ids"))
                if known.any():
                    raise ValueError(f"Expected ids that are not in the index yet, got {ids[known][:5].tolist()}.")
        if len(self) + len(codes) >= 2**32:
            raise ValueError(f"Expected fewer than 2**32 items in an index, got {len(self) + len(codes)}.")
        if len(codes) == 0:
            return self
        return self._replace(
            segments=_compact((*self.segments, build(codes, ids))), next_id=max(self.next_id, int(ids.max()) + 1)
        )

    def remove(self, ids):
        """Return an index with items removed.

        Parameters
        ----------
        ids : array-like of shape (n_removed,)
            Integers in the index.

        Returns
        -------
        index : CodeIndex
            Without them; this one stays as it is.

        Raises
        ------
        ValueError
            If an id is not in the index.
        """
        ids = _check_ids(ids)
        unknown = ~np.isin(ids, self._in_segments("ids"))
        if unknown.any():
            raise ValueError(f"Expected ids of the index, got {ids[unknown][:5].tolist()}.")
        segments = []
        for segment in self.segments:
            kept = ~np.isin(segment.ids, ids)
            segments.append(segment if kept.all() else keep(segment, kept))
        return self._replace(segments=_compact(segment for segment in segments if segment is not None))

    def renumbered(self, kept):
        """Return the same items, numbered without a gap: those that a mask of all that there were keeps, in order."""
        ranks = np.cumsum(kept, dtype=np.int64) - 1
        segments = tuple(segment._replace(ids=narrow_ids(ranks[segment.ids])) for segment in self.segments)
        return self._replace(segments=segments, next_id=len(self))

    def has(self, item_id):
        """Return whether an id, an int, is in the index."""
        return 0 <= item_id <= MAX_ID and any(bool((segment.ids == item_id).any()) for segment in self.segments)

    def codes_of(self, ids):
        """Return the codes of items, (n, M) uint8 or uint16.

        Parameters
        ----------
        ids : ndarray of shape (n,)
            Integers in the index, of which some may be the same.

        Raises
        ------
        ValueError
            If an id is not in the index.
        """
        distinct, position = np.unique(ids, return_inverse=True)
        M, K, _ = self.codebooks.shape
        codes, found = np.empty((len(distinct), M), dtype=code_dtype(K)), np.zeros(len(distinct), dtype=bool)
        for segment in self.segments:
            items = np.flatnonzero(np.isin(segment.ids, distinct))
            to = np.searchsorted(distinct, segment.ids[items])
            codes[to] = segment.codes_at(items)
            found[to] = True
        if not found.all():
            raise ValueError(f"Expected ids of the database, got {distinct[~found][:5].tolist()}.")
        return codes[position]

    def among(self, allowed, n_queries):
        """Return an index of some of the items, to be searched in one call.

        Parameters
        ----------
        allowed : array-like or None
            A boolean mask in the order of `ids`, or ids, in any order and repeated or not; None for all.
        n_queries : int
            How many queries there will be; results do not depend on it.

        Returns
        -------
        index : CodeIndex
            A new index; this one where all are allowed.

        Raises
        ------
        ValueError
            If it is neither, the mask has another length, or an id is not in the index.
        """
        if allowed is None:
            return self
        n_classes = len(self.classifier.bias) if self.classifier else 0
        return self._replace(segments=restrict(self.segments, allowed, n_queries, n_classes))

    def _take(self, codebooks):
        """Set the codebooks of a new index."""
        codebooks = _check_codebooks(codebooks)
        M, K, D = codebooks.shape
        self.frame = frame_of_codebooks(codebooks)
        if self.frame.is_plain:
            self.codebooks = self._placed = as_float32(codebooks, "codebooks")
        else:
            self.codebooks = codebooks
            placed = self.frame.place(codebooks.transpose(1, 0, 2).reshape(K, M * D))
            self._placed = np.ascontiguousarray(placed.reshape(K, M, D).transpose(1, 0, 2))

    def _replace(self, **attributes):
        """Return an index with some attributes replaced; it shares the others."""
        index = copy.copy(self)
        vars(index).update(attributes)
        return index

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
        return self._check_queries(queries, symmetric).tables(slice(None))

    def posteriors(self, queries, symmetric):
        """Compute the posteriors of a block of queries; the index has a classifier.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, M) or (n_queries, C)
            Codes if `symmetric`, else posteriors.
        symmetric : bool
            Whether the queries are codes.

        Returns
        -------
        posteriors : ndarray of shape (n_queries, C), float32
            The probability of each class.

        Raises
        ------
        ValueError
            If the queries are not of the expected shape, or codes or probabilities out of range.
        """
        return self._check_queries(queries, symmetric).posteriors(slice(None))

    def kneighbors(self, queries, k, *, symmetric, n_jobs=None, device=None, plan=None):
        """Find the k nearest items, ordered by (distance, id).

        Parameters
        ----------
        queries : ndarray of shape (n_queries, M) or (n_queries, M * D)
            Codes if `symmetric`, else soft representations; with a classifier, posteriors (n_queries, C).
        k : int
            Number of neighbors, from 1 to the number of items.
        symmetric : bool
            How to compare.
        n_jobs : int, default=None
            Threads, as in joblib.
        device : torch.device, default=None
            Where torch searches instead, to the same result; `n_jobs` does not matter then.
        plan : scan_numba.Plan, relevance.Plan or scan_torch.Plan, default=None
            How the work is shared out, to the same result.

        Returns
        -------
        distances : ndarray of shape (n_queries, k), float32
            Squared distances, ascending; with a classifier, distances.
        ids : ndarray of shape (n_queries, k), int64
            Ids of the items.

        Raises
        ------
        ValueError
            If k is out of range, or the queries are not as described.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"Expected k from 1 to {len(self)}, the number of items, got {k}.")
        queries = self._check_queries(queries, symmetric)
        if not symmetric or len(queries) < 2:
            scan, plan = self._choose_scan(queries, n_jobs, device, plan)
            return scan.nearest(self.segments, queries, k, plan)
        codes, rows = distinct_rows(queries.values)
        queries = self._queries(codes, True)
        scan, plan = self._choose_scan(queries, n_jobs, device, plan)
        distances, ids = scan.nearest(self.segments, queries, k, plan)
        return distances[rows], ids[rows]

    def radius_neighbors(self, queries, threshold, *, symmetric, n_queries=None, n_jobs=None, device=None, plan=None):
        """Find all items up to a squared distance, ordered by (distance, id).

        Parameters
        ----------
        queries : ndarray of shape (n_queries, M), (n_queries, M * D) or (n_queries, C)
            As for `kneighbors`.
        threshold : float32
            Largest squared distance to return; with a classifier, largest distance.
        symmetric : bool
            How to compare.
        n_queries : int, default=None
            Number of queries of which these are the first, all of whose results are to be held.
        n_jobs, device, plan
            As for `kneighbors`.

        Returns
        -------
        counts : ndarray of shape (n_queries,), int64
            Results of each query; those of all queries follow one another.
        distances : ndarray of shape (n_results,), float32
            Squared distances, ascending in each query.
        ids : ndarray of shape (n_results,), int64
            Ids of the items.

        Raises
        ------
        MemoryError
            If the results will not fit into memory, which a look at a few queries tells.
        """
        queries = self._check_queries(queries, symmetric)
        within_radius = self._within_radius(threshold, n_jobs, device, plan)
        n_queries = len(queries) if n_queries is None else n_queries
        check_room(lambda i: _n_within(within_radius, queries, i % len(queries)), n_queries, len(self))
        return within_radius(queries)

    def all_kneighbors(self, k, candidates=None, *, n_jobs=None, device=None, plan=None):
        """Find the k nearest other items of each item by its code, symmetrically.

        Parameters
        ----------
        k : int
            Number of neighbors, from 1 to one less than the number of candidates.
        candidates : CodeIndex, default=None
            From `among`, what may be a neighbor; by default all items.
        n_jobs, device, plan
            As for `kneighbors`.

        Returns
        -------
        distances : ndarray of shape (n, k), float32
            Squared distances, ascending; a row for each item, in the order of `ids`.
        ids : ndarray of shape (n, k), int64
            Ids of the neighbors.

        Raises
        ------
        ValueError
            If k is out of range.
        """
        candidates = self if candidates is None else candidates
        if not 1 <= k < len(candidates):
            raise ValueError(f"Expected k from 1 to {len(candidates) - 1}, the number of other items, got {k}.")
        n = len(self)
        codes, code_of_item = distinct_rows(self.codes)
        queries = self._queries(codes, True)
        scan, plan = candidates._choose_scan(queries, n_jobs, device, plan)
        distances, ids = scan.nearest(candidates.segments, queries, k + 1, plan)
        starts = np.arange(len(codes) + 1) * (k + 1)
        indptr = np.arange(n + 1) * k
        return tuple(
            found.reshape(n, k)
            for found in without_self(code_of_item, self.ids, starts, distances.ravel(), ids.ravel(), indptr)
        )

    def all_radius_neighbors(self, threshold, candidates=None, *, n_jobs=None, device=None, plan=None):
        """Find all other items up to a squared distance from each item by its code, symmetrically.

        Parameters
        ----------
        threshold : float32
            Largest squared distance to return.
        candidates : CodeIndex, default=None
            As for `all_kneighbors`.
        n_jobs, device, plan
            As for `kneighbors`.

        Returns
        -------
        counts, distances, ids : ndarray
            As from `radius_neighbors`; the items in the order of `ids` are the queries.
        """
        codes, code_of_item = distinct_rows(self.codes)
        queries = self._queries(codes, True)
        candidates = self if candidates is None else candidates
        within_radius = candidates._within_radius(threshold, n_jobs, device, plan)
        check_room(lambda i: _n_within(within_radius, queries, code_of_item[i]), len(code_of_item), len(candidates))
        counts, distances, ids = within_radius(queries)
        starts = np.concatenate(([0], np.cumsum(counts)))
        item_ids = self.ids
        # By relevance an item may be farther from itself than the threshold, so that it does not find itself.
        counts = count_others(code_of_item, item_ids, starts, ids)
        indptr = np.concatenate(([0], np.cumsum(counts)))
        return counts, *without_self(code_of_item, item_ids, starts, distances, ids, indptr)

    def distances(self, found):
        """Return distances that a search found as users see them, float64: not squared, and in the unit of the data."""
        if self.classifier:
            return found.astype(np.float64)
        distances = np.sqrt(found, dtype=np.float64)
        return np.ldexp(distances, self.frame.exponent) if self.frame.exponent else distances

    def threshold(self, radius):
        """Return the largest distance, as a search finds them, that is within a radius, as users see them."""
        if self.classifier:
            return relevance.largest_distance(radius)
        return largest_square(float(np.ldexp(radius, -self.frame.exponent)))

    def _check_queries(self, queries, symmetric):
        """Return queries, as a scan takes them, that fit the codebooks, or the classifier."""
        M, K, D = self.codebooks.shape
        if symmetric:
            queries = check_codes(queries, M, K)
        elif self.classifier:
            queries = relevance.check_posteriors(queries, len(self.classifier.bias))
        else:
            queries = np.asarray(as_array(queries))
            if queries.shape[1:] != (M * D,):
                raise ValueError(f"Expected soft representations of shape (n, {M * D}), got {queries.shape}.")
            queries = as_float32(self.frame.place(queries), "soft representations")
        return self._queries(queries, symmetric)

    def _queries(self, values, symmetric):
        if self.classifier:
            return relevance.Queries(self.classifier, values, symmetric)
        return Queries(self._placed, values, symmetric)

    def _within_radius(self, threshold, n_jobs, device, plan):
        """Return a function that finds all up to a threshold from queries."""

        def within_radius(queries):
            scan, how = self._choose_scan(queries, n_jobs, device, plan)
            return scan.within_radius(self.segments, queries, np.float32(threshold), how)

        return within_radius

    def _choose_scan(self, queries, n_jobs, device, plan):
        """Return the module that searches, torch's where a device is named, and its plan."""
        if device is not None:
            from . import scan_torch

            return scan_torch, plan._replace(device=device) if plan else scan_torch.Plan(device)
        scan, is_given = (relevance if self.classifier else scan_numba), plan is not None
        plan = plan._replace(n_jobs=n_jobs) if plan else scan.Plan(n_jobs)
        if is_given or not self._is_little(len(queries)):
            return scan, plan
        return scan_numpy, plan

    def _is_little(self, n_queries):
        """Tell whether NumPy is to search for some queries, as nothing is compiled yet."""
        n_codes, M = sum(len(segment.counts) for segment in self.segments), len(self.codebooks)
        if not self.classifier:
            return scan_numpy.is_enough(kernels.scan_nearest, n_codes, n_queries, M)
        C = len(self.classifier.bias)
        return scan_numpy.is_enough(relevance_kernels.scan_nearest, n_codes, n_queries, C, C)


def _n_within(within_radius, queries, query):
    """Return how many items a search finds within the radius of one of the queries."""
    counts, _, _ = within_radius(replace(queries, values=queries.values[query : query + 1]))
    return int(counts[0])


def _compact(segments):
    """Merge segments until each has more than twice the items of the next."""
    compacted = []
    for segment in segments:
        compacted.append(segment)
        n_merged, n_items = 1, len(segment.ids)
        while n_merged < len(compacted) and len(compacted[-n_merged - 1].ids) <= 2 * n_items:
            n_merged += 1
            n_items += len(compacted[-n_merged].ids)
        if n_merged > 1:
            compacted[-n_merged:] = [merge(compacted[-n_merged:])]
    return tuple(compacted)


def _check_codebooks(codebooks):
    codebooks = np.asarray(as_array(codebooks))
    if codebooks.dtype.kind not in "fiu":
        raise ValueError(f"Expected codebooks of real numbers, got dtype {codebooks.dtype}.")
    if codebooks.ndim != 3 or 0 in codebooks.shape or codebooks.shape[1] > 65536:
        raise ValueError(f"Expected codebooks of shape (M, K, D) with K up to 65536, got {codebooks.shape}.")
    if not np.isfinite(codebooks).all():
        raise ValueError("Expected finite codebooks, got NaN or infinity.")
    if np.abs(codebooks).max() > np.finfo(np.float32).max:
        raise ValueError("Expected codebooks that float32 can hold, got infinity (in float32).")
    return codebooks


def check_new_ids(ids, n_codes):
    """Return ids as an array; raise ValueError if they are not so many different ones in range."""
    ids = _check_ids(ids)
    if len(ids) != n_codes:
        raise ValueError(f"Expected one id for each of {n_codes} codes, got {len(ids)}.")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("Expected ids that differ, got some twice.")
    return ids


def _check_ids(ids):
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"Expected ids as a 1-D array of integers, got {ids.dtype} of shape {ids.shape}.")
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"Expected ids from 0 to 2**63 - 2, got values from {ids.min()} to {ids.max()}.")
    return ids.astype(np.int64)
