"""Tie groups of a ranking, and what is measured on them.

`skdpq.metrics` calls it. A query's ranking is a list of groups of database items at equal distance, in ascending
distance: group g has n[g] items, of which r[g] are relevant. A measure is the expected value over a random order within
the groups, so the two counts are all that it needs.
"""

from functools import cached_property

import numpy as np

from .._arrays import slices_of
from .._threads import lock_of
from . import relevance_kernels
from .compiling import kernel, subroutine
from .kernels import all_distances
from .posteriors import KEPT_POSTERIORS, code_posteriors
from .scan_numpy import compare_posteriors, is_enough
from .segments import build
from .simd import BLOCK_CODES, float_bits

_BLOCK_DISTANCES = 2**24  # of queries that are compared by posteriors at a time: 64 MB
_DIGIT_BITS = 11  # three passes over 32 bits; as fast as or faster than 8 and 16 from 1,500 to 50,000 codes
_SHIFTS = (0, 11, 22)


class CodeGroups:
    """A labeled database whose items of equal code are one.

    Parameters
    ----------
    codes : ndarray of shape (n, M), uint8 or uint16
        The items' codes, n at least 1.
    labels : ndarray of shape (n,), int64
        The items' classes, in ``range(n_classes)``.
    n_classes : int
        Number of classes.
    classifier : CodeClassifier, default=None
        What classifies the codes, if they are ranked by relevance.

    Attributes
    ----------
    counts : ndarray of shape (U,), uint8
        How many items each stored code has.
    """

    def __init__(self, codes, labels, n_classes, classifier=None):
        segment = build(codes, np.arange(len(codes)))
        self._blocks, self.counts = segment.blocks, segment.counts
        group = np.repeat(np.arange(len(self.counts)), self.counts)
        labels = labels[segment.ids]
        # The codes of class c's items are one slice, so counts by (code, class) need never exist for all classes.
        self._by_class = group[np.argsort(labels, kind="stable")]
        self._ends = np.cumsum(np.bincount(labels, minlength=n_classes))
        self._segment, self._classifier = segment, classifier

    @cached_property
    def _posteriors(self):
        """Posteriors of all codes in blocks, (B, C, 256); (0, C, 256) where these are too many to be kept."""
        shape = (len(self._blocks), len(self._classifier.bias), BLOCK_CODES)
        posteriors = np.empty(shape if np.prod(shape) <= KEPT_POSTERIORS else (0, *shape[1:]), np.float32)
        if len(posteriors):
            maxima, n_codes = np.empty(shape[:2], np.float32), len(self.counts)
            relevance_kernels.fill_posteriors(self._blocks, n_codes, 0, shape[0], self._classifier, posteriors, maxima)
        return posteriors

    @cached_property
    def _code_posteriors(self):
        """The same by code, (U, C)."""
        return code_posteriors(self._segment.codes(), self._classifier)

    def relevant(self, c):
        """Return how many items of class c have each code, an (U,) int64 array."""
        start = self._ends[c - 1] if c else 0
        return np.bincount(self._by_class[start : self._ends[c]], minlength=len(self.counts))

    def measure(self, tables, classes, kernel, parameter, out):
        """Measure the rankings of some queries.

        Parameters
        ----------
        tables : ndarray of shape (q, M, K) or (q, C), float32
            The queries' look-up tables, or with a classifier their posteriors.
        classes : ndarray of shape (q,), int64
            Their classes, -1 for one that no item has: the value is then 0.
        kernel : callable
            ``kernel(n, r, parameter)`` returns the value of a ranking, `n` and `r` being those of `tie_groups`.
        parameter : int or ndarray
            The third argument of `kernel`.
        out : ndarray of shape (q,) or (q, ...), float64
            Receives the values, or arrays where the kernel returns arrays.
        """
        order = np.argsort(classes, kind="stable")
        c, relevant = -1, None
        for i, distances in zip(order, self._distances_in_turn(tables, order), strict=True):
            if classes[i] != c:
                c = classes[i]
                relevant = self.relevant(c)
            out[i] = 0 if c < 0 else kernel(*tie_groups(distances, self.counts, relevant), parameter)

    def rank(self, table, relevant):
        """Return the tie groups of one query's table (M, K), or posterior (C,), as `tie_groups` does."""
        (distances,) = self._distances_in_turn(table[None], np.zeros(1, dtype=np.int64))
        return tie_groups(distances, self.counts, relevant)

    def _distances_in_turn(self, tables, order):
        """Yield the distances of all codes from each query, (U,) float32, in such an order."""
        if self._classifier is None:
            for i in order:
                distances = np.empty(len(self.counts), dtype=np.float32)
                all_distances(tables[i], self._blocks, distances)
                yield distances
            return
        # Posteriors that are too many to be kept are computed for as many queries as the memory allows.
        for rows in slices_of(len(order), max(1, _BLOCK_DISTANCES // len(self.counts))):
            yield from self._distances_of_posteriors(tables[order[rows]])

    def _distances_of_posteriors(self, tables):
        """Return the distances of all codes from the posteriors of some queries, (q, U) float32."""
        n_queries, n_codes, C = len(tables), len(self.counts), len(self._classifier.bias)
        is_little = is_enough(relevance_kernels.all_distances, n_codes, n_queries, C, C)
        with lock_of(id(self)):  # one thread computes them for all
            posteriors = self._code_posteriors if is_little else self._posteriors
        if is_little:
            return compare_posteriors(tables, posteriors)
        distances = np.empty((n_queries, n_codes), dtype=np.float32)
        relevance_kernels.all_distances(tables, self._blocks, self._classifier, posteriors, distances)
        return distances


@kernel
def tie_groups(distances, counts, relevant):
    """Rank distinct codes by their distance to one query, and merge equal distances.

    Parameters
    ----------
    distances : ndarray of shape (U,), float32
        The codes' distances, U at least 1, none negative.
    counts : ndarray of shape (U,), uint8
        How many items have each code.
    relevant : ndarray of shape (U,), int64
        How many of them are relevant.

    Returns
    -------
    n, r : ndarray of shape (G,), int64
        Items and relevant items of every group, in ascending distance.
    """
    U = len(distances)
    digits = np.empty((len(_SHIFTS), 1 << _DIGIT_BITS), dtype=np.int64)
    digits[:] = 0
    source, target = np.empty(U, dtype=np.uint64), np.empty(U, dtype=np.uint64)
    for u in range(U):
        key = float_bits(distances[u])
        source[u] = (np.uint64(key) << np.uint64(32)) | np.uint64(u)
        for p, shift in enumerate(_SHIFTS):
            digits[p, (key >> np.uint32(shift)) & np.uint32((1 << _DIGIT_BITS) - 1)] += 1
    keyed = _radix_sort(source, target, digits)

    n = np.empty(U, dtype=np.int64)
    r = np.empty(U, dtype=np.int64)
    g = -1
    last = np.uint64(0)
    for i in range(U):
        key = keyed[i] >> np.uint64(32)
        u = keyed[i] & np.uint64(0xFFFFFFFF)
        if i == 0 or key != last:
            g += 1
            n[g] = 0
            r[g] = 0
            last = key
        n[g] += counts[u]
        r[g] += relevant[u]
    return n[: g + 1], r[: g + 1]


@subroutine(inline="always")
def _radix_sort(source, target, digits):
    """Sort (key << 32 | payload) by key; `digits` holds how often each digit occurs in each pass. Overwrites all."""
    for p, shift in enumerate(_SHIFTS):
        ends = digits[p]
        shift = np.uint64(32 + shift)
        mask = np.uint64((1 << _DIGIT_BITS) - 1)
        if ends[(source[0] >> shift) & mask] == len(source):
            continue  # all have the same digit
        start = 0
        for digit in range(len(ends)):
            count = ends[digit]
            ends[digit] = start
            start += count
        for item in source:
            digit = (item >> shift) & mask
            target[ends[digit]] = item
            ends[digit] += 1
        source, target = target, source
    return source


def tie_groups_from_distances(distances, relevant):
    """Rank items by any distances, and merge equal ones.

    Parameters
    ----------
    distances : ndarray of shape (n,)
        Distances of the items to one query, n at least 1. Infinite ones are equal to one another.
    relevant : ndarray of shape (n,), bool
        Which items are relevant.

    Returns
    -------
    n, r : ndarray of shape (G,), int64
        Items and relevant items of every group, in ascending distance.

    Raises
    ------
    ValueError
        If a distance is NaN.
    """
    order = np.argsort(distances)
    distances = distances[order]
    if np.isnan(distances[-1]):  # NaN sorts last
        raise ValueError("Expected distances that can be ranked, got NaN.")
    starts = np.flatnonzero(np.concatenate([[True], distances[1:] != distances[:-1]]))
    n = np.diff(starts, append=len(distances))
    r = np.add.reduceat(relevant[order], starts, dtype=np.int64)
    return n, r


@subroutine(inline="always")
def _total(counts):
    """Return the sum of counts, (G,) int64; np.sum takes long to compile."""
    total = np.int64(0)
    for count in counts:
        total += count
    return total


@kernel
def average_precision(n, r, k):
    """Return expected AP@k; see `skdpq.metrics.mean_average_precision`."""
    before = 0  # items, and relevant ones, before the group
    found = 0
    total = 0.0
    for g in range(len(n)):
        if before >= k:
            break
        if r[g]:
            # Given that position i is relevant, each of the i - 1 positions before it is with odds (r - 1) / (n - 1).
            odds = (r[g] - 1) / max(n[g] - 1, 1)
            group = 0.0
            for i in range(min(n[g], k - before)):
                group += (found + 1 + i * odds) / (before + i + 1)
            total += group * (r[g] / n[g])
        before += n[g]
        found += r[g]
    n_relevant = _total(r)
    return total / min(n_relevant, k) if n_relevant else 0.0


@kernel
def interpolated_average_precision(n, r, n_points):
    """Return interpolated AP; see `skdpq.metrics.interpolated_mean_average_precision`."""
    n_relevant = _total(r)
    if n_relevant == 0:
        return 0.0
    steps = n_points - 1
    before = _total(n)
    found = n_relevant
    best = 0.0  # the largest precision at the end of this group or a later one; groups go from the last to the first
    total = 0.0
    level = steps
    for g in range(len(n) - 1, -1, -1):
        before -= n[g]
        found -= r[g]
        if r[g] == 0:
            continue  # precision falls and recall stands still: nothing a level would choose
        slope = r[g] / n[g]
        best = max(best, (found + r[g]) / (before + n[g]))
        # Levels that are reached within this group. Along it precision only rises or only falls, so the first position
        # that reaches the level and the last one of the group hold its maximum. Exact in integers.
        while level > 0 and level * n_relevant > found * steps:
            needed = level * n_relevant - found * steps
            i = -(-needed * n[g] // (r[g] * steps))
            total += max(best, (found + i * slope) / (before + i))
            level -= 1
    return (total + best) / n_points  # level 0 takes the whole curve, whose maximum is at the end of a group


@kernel
def precision(n, r, k):
    """Return expected precision at k; see `skdpq.metrics.precision_at_k`."""
    return _expected_found(n, r, k) / k


@kernel
def recall(n, r, k):
    """Return expected recall at k; see `skdpq.metrics.recall_at_k`."""
    n_relevant = _total(r)
    return _expected_found(n, r, k) / n_relevant if n_relevant else 0.0


def precision_and_recall(n, r, ranks):
    """Return expected precision and recall at many ranks, (2, len(ranks)) float64, as `precision` and `recall` do."""
    n_relevant = r.sum()
    # Within a group the expected count of relevant items grows evenly from position to position.
    found = np.interp(ranks, np.concatenate([[0], np.cumsum(n)]), np.concatenate([[0], np.cumsum(r)]))
    return np.stack([found / ranks, found / n_relevant if n_relevant else np.zeros(len(ranks))])


@subroutine
def _expected_found(n, r, k):
    """Return the expected number of relevant items among the first k."""
    before = 0
    found = 0
    for g in range(len(n)):
        if before + n[g] >= k:
            return found + (k - before) * (r[g] / n[g])
        before += n[g]
        found += r[g]
    return float(found)  # for k beyond the last item
