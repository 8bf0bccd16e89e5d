"""Search by relevance: items are ranked by the probability that they have the query's label.

`CodeIndex` calls it where it has a classifier; `scan_torch` does the same on a device, bit for bit. With p_q and p_d
the posteriors of a query and of a code, the distance is 1 - p_q . p_d, the probability that the two labels differ. The
paper has the posteriors (section 3.1.2) and not this search.

How posteriors and distances are computed, down to each rounding, stands in `posteriors` and `relevance_kernels`.
`prepare` finds out what the scan needs to know of a segment's codes. That stays as long as the segment does, so the
databases that share a segment share it too, and none is pickled with it.
"""

import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from joblib import effective_n_jobs

from .._arrays import slices_of
from .._threads import run
from .posteriors import KEPT_POSTERIORS, CodeClassifier, code_posteriors
from .relevance_kernels import Leading, Prepared, fill_maxima, fill_posteriors, scan_nearest, scan_radius, summarize
from .results import concatenate, join, nothing
from .simd import BLOCK_CODES
from .tables import as_float32
from .topk import merge_found

_prepared: dict = {}  # by segment


class Plan(NamedTuple):
    """How the work of a search is shared out; its results do not depend on it.

    Attributes
    ----------
    n_jobs : int, default=None
        Threads, as in joblib.
    kept_posteriors : int
        Entries of the posteriors that are kept of a segment, at most: 256 MB. Of the segments of a database, each has
        more than twice the items of the next, so all keep less than twice that.
    leading_classes : int
        Most probable classes of a query that bound its distances one by one.
    least_share : float
        Classes less probable than this times the most probable do not.
    block_posteriors : int
        Entries of the posteriors of queries at a time in each thread: 16 MB.
    block_bounds : int
        Bounds of blocks at a time in each thread: 16 MB.
    block_keys : int
        Candidates at a time in each thread: 16 MB.
    block_within : int
        Distances at a time in each thread that may all be within a radius: keys of 128 MB.
    chunk_bytes : int
        Posteriors that all queries of a block see in turn, while these stay in the L2 cache.
    min_products_of_threads : int
        Products of a posterior; fewer take less than about a quarter of a millisecond, and threads do not pay.
    """

    n_jobs: int | None = None
    kept_posteriors: int = KEPT_POSTERIORS
    leading_classes: int = 16
    least_share: float = 2.0**-10
    block_posteriors: int = 2**22
    block_bounds: int = 2**22
    block_keys: int = 2**21
    block_within: int = 2**24
    chunk_bytes: int = 2**18
    min_products_of_threads: int = 2**22

    def n_threads(self, n_codes, n_queries, C):
        """Return how many threads to use: one where there is little to do, and no more than queries."""
        n_threads = effective_n_jobs(self.n_jobs) if n_codes * n_queries * C >= self.min_products_of_threads else 1
        return min(n_threads, max(1, n_queries))

    def blocks(self, segments, n_queries, C, n_threads, entries):
        """Return slices of the queries that are searched for at a time, at most `entries` of some array."""
        n_blocks = max((len(segment.blocks) for segment in segments), default=1)
        size = min(self.block_posteriors // C, self.block_bounds // n_blocks, entries)
        size = max(1, min(size, -(-n_queries // n_threads)))
        return slices_of(n_queries, size)


@dataclass(frozen=True)
class Queries:
    """The queries of a search by relevance: a scan asks for the posteriors of a block of them when it comes to it.

    Parameters
    ----------
    classifier : CodeClassifier
        The classifier of the database's codes.
    values : ndarray of shape (n_queries, M) or (n_queries, C)
        Valid codes if `symmetric`, else posteriors.
    symmetric : bool
        Whether the queries are codes.
    """

    classifier: CodeClassifier
    values: np.ndarray
    symmetric: bool

    def __len__(self):
        return len(self.values)

    def posteriors(self, block):
        """Return the posteriors of a slice of the queries, (n, C) float32."""
        return code_posteriors(self.values[block], self.classifier) if self.symmetric else self.values[block]


def check_posteriors(posteriors, C):
    """Return posteriors as a search takes them.

    Parameters
    ----------
    posteriors : array-like of shape (n, C)
        Probabilities.
    C : int
        Number of classes.

    Returns
    -------
    posteriors : ndarray of shape (n, C), float32
        The same, contiguous.

    Raises
    ------
    ValueError
        If the shape is another, or a value is not between 0 and 1.
    """
    posteriors = as_float32(posteriors, "class probabilities")
    if posteriors.shape[1:] != (C,):
        raise ValueError(f"Expected class probabilities of shape (n, {C}), got {posteriors.shape}.")
    if not (posteriors.min(initial=0) >= 0 and posteriors.max(initial=0) <= 1):
        raise ValueError("Expected class probabilities from 0 to 1, got others.")
    return posteriors


def nearest(segments, queries, k, plan):
    """Find the k most relevant items of each query, ordered by (distance, id).

    Parameters
    ----------
    segments : sequence of Segment
        The database.
    queries : Queries
        The queries.
    k : int
        Number of neighbors.
    plan : Plan
        How to share out the work.

    Returns
    -------
    distances : ndarray of shape (n_queries, k), float32
        Distances.
    ids : ndarray of shape (n_queries, k), int64
        Ids of the items.
    """
    C = len(queries.classifier.bias)
    distances, ids = nothing(len(queries), k)
    known = prepare(segments, queries.classifier, plan)
    n_threads = plan.n_threads(_n_codes(segments), len(queries), C)

    def search(block):
        leading = _leading(queries.posteriors(block), plan)
        for segment, prepared in zip(segments, known, strict=True):
            chunk_blocks = max(1, plan.chunk_bytes // prepared.posteriors[0].nbytes) if len(prepared.posteriors) else 1
            candidates = scan_nearest(segment, prepared, leading, chunk_blocks, distances[block])
            merge_found(*candidates, segment, distances[block], ids[block])

    run(search, plan.blocks(segments, len(queries), C, n_threads, plan.block_keys // (2 * k + BLOCK_CODES)), n_threads)
    return distances, ids


def within_radius(segments, queries, threshold, plan):
    """Find all items up to a distance from each query, ordered by (distance, id).

    Parameters
    ----------
    segments, queries, plan
        As for `nearest`.
    threshold : float32
        Largest distance.

    Returns
    -------
    counts : ndarray of shape (n_queries,), int64
        Results of each query; those of all queries follow one another.
    distances : ndarray of shape (n_results,), float32
        Distances.
    ids : ndarray of shape (n_results,), int64
        Ids of the items.
    """
    C, n_codes = len(queries.classifier.bias), _n_codes(segments)
    known = prepare(segments, queries.classifier, plan)
    n_threads = plan.n_threads(n_codes, len(queries), C)

    def search(block):
        leading = _leading(queries.posteriors(block), plan)
        found = [scan_radius(*pair, leading, threshold) for pair in zip(segments, known, strict=True)]
        return join(found, len(leading.posteriors))

    blocks = plan.blocks(segments, len(queries), C, n_threads, plan.block_within // max(1, n_codes))
    return concatenate(run(search, blocks, n_threads))


def prepare(segments, classifier, plan):
    """Return what is known of the codes of segments for a classifier; it is computed at the first search.

    Parameters
    ----------
    segments : sequence of Segment
        The database.
    classifier : CodeClassifier
        What classifies the codes.
    plan : Plan
        How to share out the work, and how much to keep.

    Returns
    -------
    prepared : list of Prepared
        One for each segment.
    """
    known = []
    for segment in segments:
        key = id(segment.blocks)
        found = _prepared.get(key)
        if found and found.classifier.same_as(classifier):
            classifier = found.classifier  # that of the other segments too, which is then recognized at once
        else:
            if not found:
                weakref.finalize(segment.blocks, _prepared.pop, key, None)
            found = _prepared[key] = _prepare(segment, classifier, plan)
        known.append(found)
    return known


def _prepare(segment, classifier, plan):
    """Compute what is known of a segment's codes."""
    (B, M, _), n_codes, C = segment.blocks.shape, len(segment.counts), len(classifier.bias)
    n_threads = plan.n_threads(1, n_codes, C)
    tops, doubts = np.empty(n_codes, dtype=np.uint32), np.empty(n_codes, dtype=np.float32)
    scales = np.zeros((2, B * BLOCK_CODES))

    def look(part):
        summarize(segment.blocks, part.start, classifier, tops[part], doubts[part], scales[:, part])

    run(look, _parts(n_codes, n_threads), n_threads)
    # The order of relevance. No probability is negative, so the bits of one are in its order.
    order = np.argsort(tops.astype(np.uint64) << np.uint64(32) | doubts.view(np.uint32), kind="stable")
    rows = np.concatenate((order, np.full(B * BLOCK_CODES - n_codes, order[-1])))
    blocks = np.ascontiguousarray(segment.codes()[rows].reshape(B, BLOCK_CODES, M).transpose(0, 2, 1))
    keeps = plan.kept_posteriors >= B * C * BLOCK_CODES
    posteriors = np.empty((B if keeps else 0, C, BLOCK_CODES), dtype=np.float32)
    maxima = np.empty((B, C), dtype=np.float32)
    if not keeps:
        scales = np.ascontiguousarray(scales[:, rows].reshape(2, B, BLOCK_CODES).transpose(1, 0, 2))

    def fill(part):
        if keeps:
            fill_posteriors(blocks, n_codes, part.start, part.stop, classifier, posteriors, maxima)
        else:
            fill_maxima(blocks, scales, part.start, part.stop, classifier, maxima)

    run(fill, _parts(B, n_threads), n_threads)
    lut_of_class = np.ascontiguousarray(classifier.lutc.transpose(2, 0, 1))
    if keeps:  # then scans read nothing else
        lut_of_class = np.empty((0, *classifier.lutc.shape[:2]), dtype=np.float32)
        blocks, scales = np.empty((0, M, BLOCK_CODES), dtype=blocks.dtype), np.empty((0, 2, BLOCK_CODES))
    maxima = np.ascontiguousarray(maxima.T)
    return Prepared(classifier, lut_of_class, order.astype(np.uint32), maxima, posteriors, blocks, scales)


def _parts(n, n_threads):
    """Return slices that share n out among threads."""
    return [slice(n * i // n_threads, n * (i + 1) // n_threads) for i in range(n_threads)]


def _leading(posteriors, plan):
    """Return queries with their most probable classes."""
    n_queries, C = posteriors.shape
    n_most = min(C, plan.leading_classes)
    # The one after the most probable is the largest of the others.
    n_sorted = min(C, n_most + 1)
    columns = np.tile(np.arange(C), (n_queries, 1))
    if n_sorted < C:
        columns = np.argpartition(posteriors, C - n_sorted, axis=1)[:, C - n_sorted :]
    order = np.argsort(-np.take_along_axis(posteriors, columns, axis=1), axis=1)
    classes = np.take_along_axis(columns, order, axis=1)
    shares = np.take_along_axis(posteriors, classes, axis=1)
    n_classes = (shares[:, :n_most] >= shares[:, :1] * np.float32(plan.least_share)).sum(axis=1)
    others = np.column_stack((shares, np.zeros(n_queries, dtype=np.float32)))
    return Leading(posteriors, classes, n_classes, others[np.arange(n_queries), n_classes])


def _n_codes(segments):
    return sum(len(segment.counts) for segment in segments)


def largest_distance(radius):
    """Return the largest distance, a float32 of one at most, that is within `radius`; negative if there is none."""
    if radius < 0:
        return np.float32(-1)
    largest = np.float32(min(radius, 1.0))
    return np.nextafter(largest, np.float32(-1)) if np.float64(largest) > radius else largest
