"""The scan by torch, on a GPU for instance: what `scan_numba` does on the CPU, bit for bit.

`CodeIndex` calls it where a device is named. The device adds the same float32 table entries in the same order as the
CPU, so equal distances are equal there too. It keeps the k codes of each query that are first by (distance, lowest
id): each has an item that comes before all items of any further code, so theirs include the k nearest, which the CPU
then picks as it does for its own scan. Blocks of queries times blocks of codes bound the memory.

A search by relevance has posteriors of codes in the place of codes. They come from the CPU, as a device's exponential
function rounds otherwise. Their products with those of the queries are added in float64, class by class.
"""

import weakref
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from .posteriors import KEPT_POSTERIORS, CodeClassifier, code_posteriors
from .relevance import Queries as RelevanceQueries
from .results import concatenate, join, merge_nearest, nothing
from .segments import count_up
from .tables import check_range, lut_asymmetric
from .topk import merge_found

_POSITION = 2**32 - 1  # the lower half of a key
_NO_KEY = 2**63 - 1  # larger than any

_uploaded: dict = {}  # by blocks of codes and device
_stored: dict = {}  # by counts of codes and device: a view has the blocks of another segment, and counts of its own
_stored_posteriors: dict = {}  # by blocks of codes and device


class Plan(NamedTuple):
    """Where to search, and how much at a time; results do not depend on it.

    Attributes
    ----------
    device : torch.device, default=None
        Where to search; None for torch's default.
    block_table_entries : int
        Table entries at a time: 16 MB, which the caches of a large GPU hold.
    block_distances : int
        Distances at a time: 256 MB.
    block_candidates : int
        Codes to sort at a time: 16 MB.
    block_within : int
        Distances at a time that may all be within a radius: positions of 256 MB.
    first_codes : int
        Codes to begin with, all of which are sorted.
    kept_posteriors : int
        Entries of the posteriors of a segment's codes that stay on the device, at most: 256 MB.
    """

    device: torch.device | None = None
    block_table_entries: int = 2**22
    block_distances: int = 2**26
    block_candidates: int = 2**21
    block_within: int = 2**24
    first_codes: int = 2**11
    kept_posteriors: int = KEPT_POSTERIORS


def nearest(segments, queries, k, plan):
    """Find the k nearest items of each query, ordered by (distance, id).

    Parameters
    ----------
    segments : sequence of Segment
        The database.
    queries : tables.Queries or relevance.Queries
        The queries.
    k : int
        Number of neighbors.
    plan : Plan
        Where to search, and how much at a time.

    Returns
    -------
    distances : ndarray of shape (n_queries, k), float32
        Squared distances, or those of relevance.
    ids : ndarray of shape (n_queries, k), int64
        Ids of the items.
    """
    distances, ids = nothing(len(queries), k)
    for block, comparison in _blocks_of_queries(queries, k, plan):
        for segment in segments:
            stored = _on_device(segment, comparison.device)
            keys = _nearest_codes(segment, comparison, min(k, len(stored.codes)), plan)
            lowest_ids = stored.lowest_ids[keys & _POSITION].cpu().numpy()
            found = _items(segment, stored.order, keys.cpu().numpy(), lowest_ids, k)
            merge_nearest(distances[block], ids[block], *found)
    return distances, ids


def within_radius(segments, queries, threshold, plan):
    """Find all items up to a squared distance from each query, ordered by (distance, id).

    Parameters
    ----------
    segments, queries, plan
        As for `nearest`.
    threshold : float32
        Largest of these distances.

    Returns
    -------
    counts : ndarray of shape (n_queries,), int64
        Results of each query; those of all queries follow one another.
    distances : ndarray of shape (n_results,), float32
        The distances.
    ids : ndarray of shape (n_results,), int64
        Ids of the items.
    """
    found = []
    for block, comparison in _blocks_of_queries(queries, 1, plan):
        parts = [part for segment in segments for part in _within(segment, comparison, float(threshold), plan)]
        found.append(join(parts, block.stop - block.start))
    return concatenate(found)


def _blocks_of_queries(queries, k, plan):
    """Yield slices of the queries, and what compares them with codes on the device."""
    device = torch.empty(0, device=plan.device).device  # "cuda" is the current one of several
    by = _by_posteriors if isinstance(queries, RelevanceQueries) else _by_tables
    compare, n_entries = by(queries, device, plan)
    size = max(1, min(plan.block_table_entries // n_entries, plan.block_candidates // k))
    for start in range(0, len(queries), size):
        block = slice(start, min(start + size, len(queries)))
        yield block, compare(block)


def _by_tables(queries, device, plan):
    """Return a function from a slice of the queries to `_ByTables`, and how many entries a query's tables have."""
    M, K, _ = queries.codebooks.shape
    make_tables = _make_tables if _has_float64(device) else _upload_tables
    codebooks = torch.tensor(queries.codebooks, device=device)

    def compare(block):
        tables = make_tables(queries.codebooks, codebooks, queries.vectors(block))
        check_range(tables.max().item(), M)
        return _ByTables(tables)

    return compare, M * K


def _by_posteriors(queries, device, plan):
    """Return a function from a slice of the queries to `_ByPosteriors`, and how many entries a posterior has."""
    if not _has_float64(device):
        raise ValueError(
            f'metric="relevance" adds in float64: expected a device that does, or device="cpu", got {str(device)!r}.'
        )

    def compare(block):
        posteriors = torch.tensor(queries.posteriors(block), device=device).T.contiguous()
        return _ByPosteriors(posteriors, queries.classifier, plan.kept_posteriors)

    return compare, len(queries.classifier.bias)


class _ByTables(NamedTuple):
    """Compares codes with look-up tables of queries on the device.

    Attributes
    ----------
    tables : tensor of shape (M * K, n_queries), float32
        Squared distances; a codeword of a part is a row.
    """

    tables: torch.Tensor

    @property
    def device(self):
        """Where the tables are."""
        return self.tables.device

    @property
    def n_queries(self):
        """Number of queries."""
        return self.tables.shape[1]

    def entries_of_code(self, segment):
        """Return how many entries a code takes while it is compared."""
        return max(self.n_queries, segment.blocks.shape[1])

    def distances(self, segment, start, stop):
        """Return the distances of codes in the order of `_on_device`, (n_codes, n_queries)."""
        return _distances(_on_device(segment, self.device).codes[start:stop], self.tables)


class _ByPosteriors(NamedTuple):
    """Compares posteriors of codes with those of queries on the device.

    Attributes
    ----------
    posteriors : tensor of shape (C, n_queries), float32
        Posteriors of the queries.
    classifier : CodeClassifier
        What classifies the codes.
    kept : int
        Entries of the posteriors of a segment's codes that stay on the device, at most.
    """

    posteriors: torch.Tensor
    classifier: CodeClassifier
    kept: int

    @property
    def device(self):
        """Where the posteriors are."""
        return self.posteriors.device

    @property
    def n_queries(self):
        """Number of queries."""
        return self.posteriors.shape[1]

    def entries_of_code(self, segment):
        """Return how many entries a code takes while it is compared: two numbers in float64, and one in float32."""
        return max(5 * self.n_queries, len(self.posteriors))

    def distances(self, segment, start, stop):
        """Return the distances of codes in the order of `_on_device`, (n_codes, n_queries)."""
        of_codes = self._posteriors_of(segment, start, stop)
        total = torch.zeros((len(of_codes), self.n_queries), dtype=torch.float64, device=self.device)
        for c in range(len(self.posteriors)):  # in this order, as on the CPU
            total += of_codes[:, c, None].double() * self.posteriors[c].double()
        return total.neg_().add_(1).clamp_(min=0).float()

    def _posteriors_of(self, segment, start, stop):
        """Return posteriors of codes, which the first search copies to the device, or each one if they are too many."""
        key, stored = (id(segment.blocks), self.device), _on_device(segment, self.device)
        uploaded = _uploaded[key].order
        if len(uploaded) * len(self.posteriors) > self.kept:
            return self._upload(segment.codes()[stored.order[start:stop]])
        classifier, posteriors = _stored_posteriors.get(key, (None, None))
        if classifier is None or not classifier.same_as(self.classifier):
            if classifier is None:
                weakref.finalize(segment.blocks, _stored_posteriors.pop, key, None)
            posteriors = self._upload(segment.codes()[uploaded])
            _stored_posteriors[key] = self.classifier, posteriors
        return posteriors[start:stop] if stored.rows is None else posteriors[stored.rows[start:stop]]

    def _upload(self, codes):
        return torch.from_numpy(code_posteriors(codes, self.classifier)).to(self.device)


def _has_float64(device):
    return device.type != "mps"


def _upload_tables(codebooks, on_device, vectors):
    """Do as `_make_tables` for a device without float64."""
    tables = torch.from_numpy(lut_asymmetric(codebooks, vectors)).to(on_device.device)
    return tables.reshape(len(vectors), -1).T.contiguous()


def _make_tables(codebooks, on_device, vectors):
    """Compute the look-up tables that `tables.lut_asymmetric` does, bit for bit.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D), float32
        The codebooks.
    on_device : tensor
        The same on the device.
    vectors : ndarray of shape (n_queries, M * D)
        Vectors of the queries, at least one.

    Returns
    -------
    tables : tensor of shape (M * K, n_queries), float32
        Squared distances; a codeword of a part is a row.
    """
    M, K, D = codebooks.shape
    vectors = torch.tensor(np.ascontiguousarray(vectors), device=on_device.device).T.reshape(M, 1, D, -1)
    total = torch.zeros((M, K, vectors.shape[-1]), dtype=torch.float64, device=on_device.device)
    for d in range(D):  # product and sum are rounded apart, as on the CPU, which a fused addcmul would not do
        difference = on_device[:, :, d, None].double() - vectors[:, :, d].double()
        total += difference * difference
    return total.float().reshape(M * K, -1)


class _Uploaded(NamedTuple):
    """All codes of a segment on the device.

    Attributes
    ----------
    codes : tensor of shape (n_codes, M), uint8 or int16
        The codes, of uint16 the same bits.
    order : ndarray of shape (n_codes,), of integers
        Their positions in the segment.
    """

    codes: torch.Tensor
    order: np.ndarray


class _Stored(NamedTuple):
    """A segment's codes that have items on the device, in the order of their lowest ids.

    Attributes
    ----------
    codes : tensor of shape (n, M), uint8 or int16
        The codes.
    lowest_ids : tensor of shape (n,), int64
        The lowest id of each one's items, ascending.
    order : ndarray of shape (n,), uint32
        Positions in the segment.
    rows : tensor of shape (n,), int64, or None
        Positions among the codes that were uploaded; None where these are the same.
    """

    codes: torch.Tensor
    lowest_ids: torch.Tensor
    order: np.ndarray
    rows: torch.Tensor | None


def _on_device(segment, device):
    """Return a segment's codes on the device, to which the first search copies them.

    As a segment never changes, they stay until the segment is dropped. They are no part of it, so never pickled.
    """
    key = id(segment.counts), device
    if key not in _stored:
        with_items = np.flatnonzero(segment.counts)
        lowest_ids = segment.ids[segment.first_items()[with_items]].astype(np.int64)  # torch knows little of uint32
        by_id = np.argsort(lowest_ids)
        order = with_items[by_id].astype(np.uint32)
        uploaded = _upload_codes(segment, order, device)
        codes, rows = uploaded.codes, None
        if uploaded.order is not order:
            row_of_code = np.empty(len(segment.counts), dtype=np.int64)
            row_of_code[uploaded.order] = np.arange(len(row_of_code))
            rows = torch.from_numpy(row_of_code[order]).to(device)
            codes = codes[rows]
        _stored[key] = _Stored(codes, torch.from_numpy(lowest_ids[by_id]).to(device), order, rows)
        weakref.finalize(segment.counts, _stored.pop, key, None)
    return _stored[key]


def _upload_codes(segment, order, device):
    """Return all codes of a segment on the device; the first search copies them, in its order if that has all."""
    key = id(segment.blocks), device
    if key not in _uploaded:
        order = order if len(order) == len(segment.counts) else np.arange(len(segment.counts))
        codes = segment.codes()[order]
        codes = codes.view(np.int16) if codes.itemsize == 2 else codes  # of uint16, torch knows little
        # What another thread has uploaded meanwhile may be in another order, which posteriors may be in by now.
        _uploaded.setdefault(key, _Uploaded(torch.from_numpy(codes).to(device), order))
        weakref.finalize(segment.blocks, _uploaded.pop, key, None)
    return _uploaded[key]


def _distances(codes, tables):
    """Add up the table entries of each code in the order of the parts, (n_codes, n_queries)."""
    M = codes.shape[1]
    K = len(tables) // M
    rows = codes.int()
    rows &= 0xFFFF  # of uint16, the bits came as int16
    rows += torch.arange(0, M * K, K, dtype=torch.int32, device=codes.device)
    return embedding_bag(rows, tables, mode="sum")


def _blocks_of_codes(n_codes, n_first, n_most):
    """Yield where each block of codes starts and stops: `n_first` codes, then as many as came before, within bounds."""
    start = 0
    while start < n_codes:
        stop = min(start + max(1, min(max(start, n_first), n_most)), n_codes)
        yield start, stop
        start = stop


def _nearest_codes(segment, comparison, k, plan):
    """Find the k nearest codes of each query; of those at equal distance, the ones that come first.

    Parameters
    ----------
    segment : Segment
        The codes, at least k.
    comparison : _ByTables or _ByPosteriors
        What compares them with the queries.
    k : int
        Number of codes.
    plan : Plan
        How much there may be at a time.

    Returns
    -------
    keys : tensor of shape (n_queries, k), int64
        (distance, position) in one word, ascending: no distance is negative, so the bits of one are in its order.
    """
    n_queries = comparison.n_queries
    n_most = max(plan.block_candidates, n_queries * k)
    keys = torch.full((n_queries, k), _NO_KEY, dtype=torch.int64, device=comparison.device)
    # Of as many codes as came before, about k are nearer than the k nearest of those.
    n_first = min(max(plan.first_codes, k), n_most // n_queries)
    n_block = plan.block_distances // comparison.entries_of_code(segment)
    for start, stop in _blocks_of_codes(len(_on_device(segment, comparison.device).order), n_first, n_block):
        keys = _keep_nearest(keys, comparison.distances(segment, start, stop).view(torch.int32), start, n_most)
    return keys


def _keep_nearest(keys, bits, start, n_most):
    """Merge codes from position `start` on into the keys; sort at most `n_most` at a time.

    `bits` are those of their distances, (n_codes, n_queries).
    """
    # Which codes are nearer than the k-th so far; halve them until there are few enough to sort.
    n_queries, k = keys.shape
    near = bits < (keys[:, -1] >> 32).int()  # one at equal distance comes later than the k that there are
    n_near = near.sum(dim=0)
    width = int(n_near.max())
    if width * n_queries > n_most and len(bits) > 1:
        half = len(bits) // 2
        keys = _keep_nearest(keys, bits[:half], start, n_most)
        return _keep_nearest(keys, bits[half:], start + half, n_most)
    if width == 0:
        return keys
    # A row a query, filled up with keys that come last.
    query, code = near.T.nonzero(as_tuple=True)
    column = torch.arange(len(query), device=keys.device) - (n_near.cumsum(0) - n_near)[query]
    nearer = torch.full((n_queries, width), _NO_KEY, dtype=torch.int64, device=keys.device)
    nearer[query, column] = bits[code, query].long() << 32 | code + start
    return torch.cat((keys, nearer), dim=1).sort(dim=1).values[:, :k]


def _items(segment, order, keys, lowest_ids, k):
    """Return the distances and ids, (n_queries, k), of the first items of codes.

    `keys` and `lowest_ids` are those of the codes, (n_queries, n_codes).
    """
    n_queries, n_codes = keys.shape
    codes = order[keys & _POSITION]
    distances, ids = nothing(n_queries, k)
    single = (segment.counts[codes] == 1).all(axis=1)  # then their lowest ids are all that they have
    distances[single, :n_codes] = (keys[single] >> 32).astype(np.uint32).view(np.float32)
    ids[single, :n_codes] = lowest_ids[single]
    if not single.all():
        keys = (keys & ~_POSITION | codes)[~single].view(np.uint64)
        found = nothing(len(keys), k)
        merge_found(keys, np.full(len(keys), n_codes), segment, *found)
        distances[~single], ids[~single] = found
    return distances, ids


def _within(segment, comparison, threshold, plan):
    """Yield how many items each query finds in each block of codes up to a threshold, their distances and their ids."""
    order, n_queries = _on_device(segment, comparison.device).order, comparison.n_queries
    first_items = segment.first_items()
    n_block = plan.block_within // comparison.entries_of_code(segment)
    for start, stop in _blocks_of_codes(len(order), len(order), n_block):
        distances = comparison.distances(segment, start, stop)
        query, code = (distances <= threshold).T.nonzero(as_tuple=True)
        distances = distances[code, query].cpu().numpy()
        query, code = query.cpu().numpy(), order[code.cpu().numpy() + start]
        counts = segment.counts[code].astype(np.int64)
        ids = segment.ids[np.repeat(first_items[code], counts) + count_up(counts)]
        yield np.bincount(np.repeat(query, counts), minlength=n_queries), np.repeat(distances, counts), ids
