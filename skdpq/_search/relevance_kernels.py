"""The loops of a search by relevance: the k most relevant, all up to a threshold, and all distances.

`relevance` calls them, and `ranking` the last. The distance of a code is 1 - p_q . p_d, p_q being the query's posterior
and p_d the code's: the sum of float64 products in the order of the classes, rounded once to float32. A product of two
float32 numbers is exact in float64, so no machine can round it otherwise.

What makes them fast only decides which codes need not be looked at. Codes are put in the order of their most probable
class, and of how certain it is. So a block of 256 codes holds codes of like posteriors, and what is known of it, the
largest probability of each class, tells much. The posteriors of a block have no more than that of a class, and no more
than one of all. Their largest possible product with the query's goes through the query's classes, the most probable
first, and gives each as much as the block may have, until one is used up. A block whose distance is so bounded beyond
the k-th found so far is passed over.

Where the posteriors of a segment are too many to be kept, single codes are bounded in the same way, by their own
posteriors at the query's most probable classes, before those of all classes are computed.
"""

import math
from typing import NamedTuple

import numpy as np

from .compiling import kernel, subroutine
from .posteriors import ROW_CODES, CodeClassifier, block_posteriors, code_posterior, code_scores, code_summary, exp
from .simd import BLOCK_CODES, bits_float
from .topk import drop_far, expand_each, make_key, no_candidates, position_of, threshold_of_nearest

_ROUNDING = 2.0**-22  # more than twice the relative error of a float32 number
_MANY = 16  # codes of a block that are let through; for more, their posteriors are computed for the whole block


class Prepared(NamedTuple):
    """What is known of a segment's codes for a classifier, in blocks of 256 in the order of relevance.

    Attributes
    ----------
    classifier : CodeClassifier
        The classifier.
    lut_of_class : ndarray of shape (C, M, K), float32
        LUTC, a class after the other; (0, M, K) if posteriors are kept.
    positions : ndarray of shape (n_codes,), uint32
        Position of each code in the segment.
    maxima : ndarray of shape (C, B), float32
        The largest posterior of each class in each block, or a little more.
    posteriors : ndarray of shape (B, C, 256), float32
        The posteriors, zero after the last code; (0, C, 256) if they are too many to be kept.
    blocks : ndarray of shape (B, M, 256), uint8 or uint16
        The codes; (0, M, 256) if posteriors are kept.
    scales : ndarray of shape (B, 2, 256), float64
        The largest score and the normalizer of each code; (0, 2, 256) if posteriors are kept.
    """

    classifier: CodeClassifier
    lut_of_class: np.ndarray
    positions: np.ndarray
    maxima: np.ndarray
    posteriors: np.ndarray
    blocks: np.ndarray
    scales: np.ndarray


class Leading(NamedTuple):
    """The queries of a scan, and which classes they are most probably of.

    Attributes
    ----------
    posteriors : ndarray of shape (n_queries, C), float32
        Posteriors of the queries.
    classes : ndarray of shape (n_queries, L), int64
        Their most probable classes, in descending order.
    n_classes : ndarray of shape (n_queries,), int64
        How many of these to take one by one.
    rest : ndarray of shape (n_queries,), float32
        The largest probability of any other class.
    """

    posteriors: np.ndarray
    classes: np.ndarray
    n_classes: np.ndarray
    rest: np.ndarray


class _Scratch(NamedTuple):
    """What a scan works in.

    Attributes
    ----------
    total, left, scores : ndarray of shape (256,), float64
        For each code of a block: a sum, what is left of one, and a score.
    distances : ndarray of shape (256,), float32
        Distances of the codes of a block.
    near : ndarray of shape (256,), int64
        Which codes are let through.
    posteriors : ndarray of shape (C, 256), float32
        Posteriors of the block that `block` names; (0, 256) if posteriors are kept.
    block : ndarray of shape (1,), int64
        The block whose posteriors these are, -1 for none.
    rows : ndarray of shape (16, C), float32
        Posteriors of a few codes.
    class_scores : ndarray of shape (C,), float64
        Scores of one code.
    """

    total: np.ndarray
    left: np.ndarray
    scores: np.ndarray
    distances: np.ndarray
    near: np.ndarray
    posteriors: np.ndarray
    block: np.ndarray
    rows: np.ndarray
    class_scores: np.ndarray


@subroutine(forceinline=True)
def _distance(product):
    """Return the distance of a code whose posterior has this product with the query's."""
    return np.float32(max(0.0, 1.0 - product))


@subroutine(forceinline=True)
def _bounded_distance(product, C):
    """Return a distance that is not larger than any whose product is at most this one, to rounding of C additions."""
    return _distance(product + (C + 64) * 2.0**-50)


# Preparation


@kernel
def summarize(blocks, first, classifier, tops, doubts, scales):
    """Find the most probable class of codes, and the probability of all others.

    Parameters
    ----------
    blocks : ndarray of shape (B, M, 256)
        The codes of a segment.
    first : int
        The position of the first code to look at.
    classifier : CodeClassifier
        What classifies them.
    tops, doubts : ndarray of shape (n,), uint32 and float32
        Receive these for n codes.
    scales : ndarray of shape (2, n), float64
        Receives their largest scores and normalizers.
    """
    scores = np.empty(len(classifier.bias))
    for i in range(len(tops)):
        u = first + i
        code = blocks[u // BLOCK_CODES, :, u % BLOCK_CODES]
        tops[i], doubts[i], scales[0, i], scales[1, i] = code_summary(code, classifier, scores)


@kernel
def fill_posteriors(blocks, n_codes, first, last, classifier, posteriors, maxima):
    """Compute all posteriors in some blocks, and the largest of each class.

    Parameters
    ----------
    blocks : ndarray of shape (B, M, 256)
        Codes.
    n_codes : int
        How many there are.
    first, last : int
        The blocks to look at.
    classifier : CodeClassifier
        What classifies them.
    posteriors : ndarray of shape (B, C, 256), float32
        Receives them.
    maxima : ndarray of shape (B, C), float32
        Receives the largest.
    """
    C = len(classifier.bias)
    rows, scores = np.empty((ROW_CODES, C), dtype=np.float32), np.empty(C)
    for b in range(first, last):
        block_posteriors(
            blocks[b], min(BLOCK_CODES, n_codes - b * BLOCK_CODES), classifier, rows, scores, posteriors[b]
        )
        bits = posteriors[b].view(np.uint32)  # whose order is that of numbers that are not negative
        for c in range(C):
            largest = np.uint32(0)
            for i in range(BLOCK_CODES):  # vectorizes, as a maximum of floats does not
                largest = max(largest, bits[c, i])
            maxima[b, c] = bits_float(largest)


@kernel
def fill_maxima(blocks, scales, first, last, classifier, maxima):
    """Bound the posteriors of each class in some blocks, by one exponential of a class and block.

    Parameters
    ----------
    blocks : ndarray of shape (B, M, 256)
        Codes, the last one up to the end of its block.
    scales : ndarray of shape (B, 2, 256), float64
        Their largest scores and normalizers.
    first, last : int
        The blocks to look at.
    classifier : CodeClassifier
        What classifies them.
    maxima : ndarray of shape (B, C), float32
        Receives the bounds.
    """
    C = len(classifier.bias)
    scores, largest = np.empty(C), np.empty(C)
    for b in range(first, last):
        largest[:] = -np.inf
        for i in range(BLOCK_CODES):
            code_scores(blocks[b, :, i], classifier, scores)
            highest, log_normalizer = scales[b, 0, i], math.log(scales[b, 1, i])
            for c in range(C):
                largest[c] = max(largest[c], scores[c] - highest + log_normalizer)
        for c in range(C):
            maxima[b, c] = np.float32(exp(min(largest[c], 0.0)) * (1.0 + _ROUNDING))


# Bounds


@subroutine
def _bound_blocks(prepared, queries, q, total, left, least):
    """Write the least distance that a code of each block may have from a query; `total` and `left` are to work in."""
    posterior, C = queries.posteriors[q], queries.posteriors.shape[1]
    for b in range(len(least)):
        total[b] = 0.0
        left[b] = 1.0 + _ROUNDING
    for j in range(queries.n_classes[q]):
        c = queries.classes[q, j]
        weight = np.float64(posterior[c])
        largest = prepared.maxima[c]
        for b in range(len(least)):
            share = min(np.float64(largest[b]), left[b])
            total[b] += weight * share
            left[b] -= share
    rest = np.float64(queries.rest[q])
    for b in range(len(least)):
        least[b] = _bounded_distance(total[b] + rest * left[b], C)


@subroutine
def _mark_near(prepared, queries, q, block, threshold, scratch):
    """Write which codes of a block may be up to a threshold from a query, and return how many; posteriors are not kept.

    After each of the query's most probable classes, what is left of a code's posterior is bounded by the next.
    """
    total, left, scores, near = scratch.total, scratch.left, scratch.scores, scratch.near
    posterior, C = queries.posteriors[q], queries.posteriors.shape[1]
    codes, scales = prepared.blocks[block], prepared.scales[block]
    n_classes = queries.n_classes[q]
    total[:] = 0.0
    left[:] = 1.0 + _ROUNDING
    for j in range(n_classes):
        c = queries.classes[q, j]
        scores[:] = np.float64(prepared.classifier.bias[c])
        for m in range(len(codes)):
            table, z = prepared.lut_of_class[c, m], codes[m]
            for i in range(BLOCK_CODES):
                scores[i] += np.float64(table[z[i]])
        weight = np.float64(posterior[c])
        following = np.float64(posterior[queries.classes[q, j + 1]] if j + 1 < n_classes else queries.rest[q])
        n_near = 0
        for i in range(BLOCK_CODES):
            share = min(exp(scores[i] - scales[0, i]) * scales[1, i] * (1.0 + _ROUNDING), left[i])
            total[i] += weight * share
            left[i] -= share
            n_near += _bounded_distance(total[i] + following * left[i], C) <= threshold
        if n_near == 0:
            return 0
    rest = np.float64(queries.rest[q])
    n_near = 0
    for i in range(min(BLOCK_CODES, len(prepared.positions) - block * BLOCK_CODES)):
        near[n_near] = i
        n_near += _bounded_distance(total[i] + rest * left[i], C) <= threshold
    return n_near


@subroutine
def _threshold_in_block(segment, prepared, queries, q, block, k, scratch):
    """Return a distance up to which a block has k items, by a query's most probable classes alone; posteriors not kept.

    It is infinite if the block has fewer.
    """
    _mark_near(prepared, queries, q, block, np.float32(np.inf), scratch)
    n = min(BLOCK_CODES, len(prepared.positions) - block * BLOCK_CODES)
    counts = np.empty(n, dtype=np.int32)
    for i in range(n):
        # Products with more classes are no smaller, but for what the total was rounded up.
        scratch.distances[i] = _distance(scratch.total[i] * (1.0 - 2.0 * _ROUNDING))
        counts[i] = segment.counts[prepared.positions[block * BLOCK_CODES + i]]
    return threshold_of_nearest(scratch.distances[:n], counts, k)


# Distances


@subroutine
def _block_distances(posterior, posteriors, total, distances):
    """Compute the distances of a block of codes with posteriors (C, 256) from a query; `total` is to work in."""
    C = len(posterior)
    total[:] = 0.0
    for c in range(0, C - 3, 4):  # four classes at a time: a quarter of the loads and stores of one at a time
        p0, p1 = np.float64(posterior[c]), np.float64(posterior[c + 1])
        p2, p3 = np.float64(posterior[c + 2]), np.float64(posterior[c + 3])
        r0, r1, r2, r3 = posteriors[c], posteriors[c + 1], posteriors[c + 2], posteriors[c + 3]
        for i in range(BLOCK_CODES):
            total[i] = (
                total[i] + p0 * np.float64(r0[i]) + p1 * np.float64(r1[i]) + p2 * np.float64(r2[i])
            ) + p3 * np.float64(r3[i])
    for c in range(C // 4 * 4, C):
        p, row = np.float64(posterior[c]), posteriors[c]
        for i in range(BLOCK_CODES):
            total[i] += p * np.float64(row[i])
    for i in range(BLOCK_CODES):
        distances[i] = _distance(total[i])


@subroutine
def _code_distance(posterior, code_posterior):
    """Compute the distance of one code with a posterior (C,) from a query."""
    total = 0.0
    for c in range(len(posterior)):
        total += np.float64(posterior[c]) * np.float64(code_posterior[c])
    return _distance(total)


@subroutine
def _posteriors_of(prepared, block, scratch):
    """Return the posteriors of a block, (C, 256), which are computed unless they are kept or were the last."""
    if len(prepared.posteriors):
        return prepared.posteriors[block]
    if scratch.block[0] != block:
        n = min(BLOCK_CODES, len(prepared.positions) - block * BLOCK_CODES)
        codes, classifier = prepared.blocks[block], prepared.classifier
        block_posteriors(codes, n, classifier, scratch.rows, scratch.class_scores, scratch.posteriors)
        scratch.block[0] = block
    return scratch.posteriors


@subroutine
def _no_scratch(prepared):
    C = len(prepared.maxima)
    n_rows = 0 if len(prepared.posteriors) else C
    return _Scratch(
        np.empty(BLOCK_CODES),
        np.empty(BLOCK_CODES),
        np.empty(BLOCK_CODES),
        np.empty(BLOCK_CODES, dtype=np.float32),
        np.empty(BLOCK_CODES + 1, dtype=np.int64),
        np.empty((n_rows, BLOCK_CODES), dtype=np.float32),
        np.full(1, -1),
        np.empty((ROW_CODES, C), dtype=np.float32),
        np.empty(C),
    )


# Scans


@subroutine
def _collect(prepared, queries, q, block, threshold, scratch, keys, n_keys):
    """Append the keys of all codes of a block that are up to a threshold from a query; return how many keys there are.

    `keys` has room for a block.
    """
    first = block * BLOCK_CODES
    posterior = queries.posteriors[q]
    if len(prepared.posteriors) == 0:
        n_near = _mark_near(prepared, queries, q, block, threshold, scratch)
        if n_near <= _MANY:
            for j in range(n_near):
                i = scratch.near[j]
                row, code = scratch.rows[0], prepared.blocks[block, :, i]
                code_posterior(code, prepared.classifier, scratch.class_scores, row)
                distance = _code_distance(posterior, row)
                if distance <= threshold:
                    keys[n_keys] = make_key(distance, prepared.positions[first + i])
                    n_keys += 1
            return n_keys
    distances = scratch.distances
    _block_distances(posterior, _posteriors_of(prepared, block, scratch), scratch.total, distances)
    for i in range(min(BLOCK_CODES, len(prepared.positions) - first)):
        keys[n_keys] = make_key(distances[i], prepared.positions[first + i])
        n_keys += distances[i] <= threshold
    return n_keys


@kernel
def scan_nearest(segment, prepared, queries, chunk_blocks, distances):
    """Collect the codes of the k most relevant items of a segment for each query; `topk.merge_found` takes them.

    Parameters
    ----------
    segment : Segment
        Where to search.
    prepared : Prepared
        What is known of its codes.
    queries : Leading
        The queries.
    chunk_blocks : int
        How many blocks all queries see in turn.
    distances : ndarray of shape (n_queries, k), float32
        Distances found before, ascending, infinite where there are none.

    Returns
    -------
    keys, n_keys : ndarray
        As from `kernels.scan_nearest`.
    """
    n_queries, B = len(queries.posteriors), prepared.maxima.shape[1]
    candidates = no_candidates(segment, distances)
    scratch = _no_scratch(prepared)
    total, left = np.empty(B), np.empty(B)
    least = np.empty((n_queries, B), dtype=np.float32)
    # First each query's own blocks, the most relevant by their bounds, so that its threshold is soon a close one: where
    # the codes of a class begin, a block may have but a few of them. In a view, a block may have but a few items.
    n_own = min(B, candidates.k * B // max(1, min(segment.n_items, B * BLOCK_CODES)) + 2)
    own = np.empty(n_queries, dtype=np.int64)
    for q in range(n_queries):
        _bound_blocks(prepared, queries, q, total, left, least[q])
        own[q] = min(np.argmin(least[q]), B - n_own)
        if len(prepared.posteriors) == 0:
            for block in range(own[q], own[q] + n_own):
                threshold = _threshold_in_block(segment, prepared, queries, q, block, candidates.k, scratch)
                candidates.thresholds[q] = min(candidates.thresholds[q], threshold)
        for block in range(own[q], own[q] + n_own):
            if least[q, block] <= candidates.thresholds[q]:
                _visit(segment, prepared, queries, q, block, candidates, scratch)
        if segment.n_items < len(segment.ids):  # in a view, the room for candidates may take many blocks to fill
            drop_far(candidates, q, segment)
    # Then everything else, chunk by chunk: what one query has brought into the cache, the others find there.
    for start in range(0, B, chunk_blocks):
        for q in range(n_queries):
            for block in range(start, min(start + chunk_blocks, B)):
                is_own = own[q] <= block < own[q] + n_own
                if least[q, block] <= candidates.thresholds[q] and not is_own:
                    _visit(segment, prepared, queries, q, block, candidates, scratch)
    return candidates.keys, candidates.n_keys


@subroutine
def _visit(segment, prepared, queries, q, block, candidates, scratch):
    """Collect the candidates of a query in a block; in a view, those with items."""
    is_view = segment.n_items < len(segment.ids)
    if is_view and not _has_items(segment.counts, prepared.positions, block):
        return
    threshold, n_before = candidates.thresholds[q], candidates.n_keys[q]
    n_keys = _collect(prepared, queries, q, block, threshold, scratch, candidates.keys[q], n_before)
    if is_view:
        n_keys = _drop_without_items(segment.counts, candidates.keys[q], n_before, n_keys)
    candidates.n_keys[q] = n_keys
    if n_keys > candidates.n_full[q]:
        drop_far(candidates, q, segment)


@subroutine
def _has_items(counts, positions, block):
    """Tell whether a code of a block has items."""
    i, stop = block * BLOCK_CODES, min((block + 1) * BLOCK_CODES, len(positions))
    while i < stop and counts[positions[i]] == 0:
        i += 1
    return i < stop


@subroutine
def _drop_without_items(counts, keys, first, last):
    """Drop the keys of codes without items, from `first` up to `last`; return how many keys there are then."""
    n_keys = first
    for i in range(first, last):
        keys[n_keys] = keys[i]
        n_keys += counts[position_of(keys[i])] > 0
    return n_keys


@kernel
def scan_radius(segment, prepared, queries, threshold):
    """Find all items of a segment up to a distance.

    Parameters
    ----------
    segment, prepared, queries
        As for `scan_nearest`.
    threshold : float32
        Largest distance to return.

    Returns
    -------
    counts : ndarray of shape (n_queries,), int64
        Results of each query; those of all queries follow one another.
    distances : ndarray of shape (n_results,), float32
        Distances, ascending in each query.
    ids : ndarray of shape (n_results,), int64
        The items' ids, ascending at equal distance.
    """
    return expand_each(*_collect_all(prepared, queries, threshold), segment)


@subroutine
def _collect_all(prepared, queries, threshold):
    """Return the keys of all codes up to a threshold from each query, one query after the other, and where each ends.

    All queries see a block in turn, so that its posteriors need to be computed only once.
    """
    n_queries, B = len(queries.posteriors), prepared.maxima.shape[1]
    scratch = _no_scratch(prepared)
    total, left = np.empty(B), np.empty(B)
    least = np.empty((n_queries, B), dtype=np.float32)
    for q in range(n_queries):
        _bound_blocks(prepared, queries, q, total, left, least[q])
    keys = np.empty(4 * BLOCK_CODES, dtype=np.uint64)
    owners = np.empty(len(keys), dtype=np.int32)
    n_of_query = np.zeros(n_queries, dtype=np.int64)
    n_keys = np.int64(0)
    for block in range(B):
        for q in range(n_queries):
            if least[q, block] > threshold:
                continue
            if n_keys + BLOCK_CODES + 1 > len(keys):
                keys = np.concatenate((keys, np.empty(len(keys), dtype=np.uint64)))
                owners = np.concatenate((owners, np.empty(len(owners), dtype=np.int32)))
            n_before, n_keys = n_keys, _collect(prepared, queries, q, block, threshold, scratch, keys, n_keys)
            owners[n_before:n_keys] = q
            n_of_query[q] += n_keys - n_before
    ends = np.cumsum(n_of_query)
    by_owner = np.empty(n_keys, dtype=np.uint64)
    to = ends - n_of_query
    for i in range(n_keys):
        by_owner[to[owners[i]]] = keys[i]
        to[owners[i]] += 1
    return by_owner, ends


@kernel
def all_distances(queries, blocks, classifier, posteriors, out):
    """Compute the distances of all codes of a segment from some queries.

    Parameters
    ----------
    queries : ndarray of shape (n_queries, C), float32
        Posteriors of the queries.
    blocks : ndarray of shape (B, M, 256), uint8 or uint16
        The codes of the segment.
    classifier : CodeClassifier
        What classifies them.
    posteriors : ndarray of shape (B, C, 256), float32
        Their posteriors; (0, C, 256) if these are not kept.
    out : ndarray of shape (n_queries, n_codes), float32
        Receives the distances.
    """
    C, n_codes = queries.shape[1], out.shape[1]
    rows, scores, total = np.empty((ROW_CODES, C), dtype=np.float32), np.empty(C), np.empty(BLOCK_CODES)
    scratch, distances = np.empty((C, BLOCK_CODES), dtype=np.float32), np.empty(BLOCK_CODES, dtype=np.float32)
    for b in range(len(blocks)):
        first = b * BLOCK_CODES
        n = min(BLOCK_CODES, n_codes - first)
        of_codes = posteriors[b] if len(posteriors) else scratch
        if len(posteriors) == 0:
            block_posteriors(blocks[b], n, classifier, rows, scores, of_codes)
        for q in range(len(queries)):
            _block_distances(queries[q], of_codes, total, distances)
            out[q, first : first + n] = distances[:n]
