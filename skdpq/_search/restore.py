"""An index of arrays that a file had: none of them is trusted.

`_files` calls it. Where codes and ids stay in the file, those arrays that tell a scan where to read are copied and
checked, and what is left can make an answer wrong, but no scan read beyond an array: codes are below K, whether they
take all values of their type or are looked through once, and the kernels take no position of an id beyond the last.
"""

import numpy as np

from .._codes import code_dtype
from .index import MAX_ID, CodeIndex
from .segments import OFFSET_CODES, Segment, check_order
from .simd import BLOCK_CODES

_STORED = tuple(name for name in Segment._fields if name != "n_items")
_IN_FILE = ("blocks", "counts", "ids")
_DTYPES = {"prefix_lengths": (np.uint8,), "run_ends": (np.uint32,), "counts": (np.uint8,), "offsets": (np.int64,)}
_CHUNK_BLOCKS = 2**12


def index_of(codebooks, segments, next_id, take, mapped, thorough):
    """Return the index of stored segments.

    Parameters
    ----------
    codebooks : ndarray of shape (M, K, D)
        What the codes index.
    segments : list of dict of str to str
        Names of the arrays of each segment.
    next_id : int
        The id that the next item gets by default.
    take : callable
        Returns an array by its name; with ``mapped=True``, as it is in the file.
    mapped : bool
        Whether codes, counts and ids stay in the file.
    thorough : bool
        Whether to check all of them.

    Returns
    -------
    index : CodeIndex
        The index.

    Raises
    ------
    ValueError
        If they are none of an index.
    """
    index = CodeIndex(codebooks)
    M, K, _ = index.codebooks.shape
    made = []
    for names in segments:
        if sorted(names) != sorted(_STORED):
            raise ValueError(f"expected the arrays of a segment, got {sorted(names)!r:.200}.")
        arrays = {name: take(names[name], mapped=mapped and name in _IN_FILE) for name in _STORED}
        segment = Segment(**arrays, n_items=np.int64(len(arrays["ids"])))
        _check_bounds(segment, M, K)
        if thorough:
            _check_counts(segment)
            check_order(segment)
        made.append(segment)
    n = sum(len(segment.ids) for segment in made)
    if type(next_id) is not int or not 0 <= next_id <= MAX_ID + 1 or n >= 2**32:
        raise ValueError(f"expected an id from 0 to 2**63 - 1 and fewer than 2**32 items, got {next_id!r:.50} and {n}.")
    if thorough and n:
        _check_ids(np.concatenate([segment.ids for segment in made]), next_id)
    return index._replace(segments=tuple(made), next_id=next_id)


def _check_bounds(segment, M, K):
    """Raise ValueError where a scan could read beyond an array."""
    blocks, n_codes, n_items = segment.blocks, len(segment.counts), len(segment.ids)
    B = -(-n_codes // BLOCK_CODES)
    dtypes = _DTYPES | {"blocks": (code_dtype(K),), "ids": (np.uint32, np.int64)}
    sizes = {"prefix_lengths": B, "run_ends": B, "offsets": -(-n_codes // OFFSET_CODES)}
    for name, array in segment.stored().items():
        shape = (B, M, BLOCK_CODES) if name == "blocks" else (sizes.get(name, len(array)),)
        if array.dtype not in dtypes.get(name, ()) or array.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {array.dtype} of shape {array.shape}.")
    if not 1 <= n_codes <= n_items < 2**32:
        raise ValueError(f"expected an item of each code at least, got {n_items} of {n_codes}.")
    if (segment.prefix_lengths > M).any():
        raise ValueError(f"expected up to {M} parts that blocks share, got {segment.prefix_lengths.max()}.")
    if (segment.run_ends <= np.arange(B)).any() or (segment.run_ends > B).any():
        raise ValueError("expected runs of blocks that end after they begin, got others.")
    steps = np.diff(segment.offsets, append=n_items)
    if segment.offsets[0] != 0 or (steps < 1).any() or (steps > OFFSET_CODES * 255).any():
        raise ValueError("expected positions of items that ascend, got others.")
    if np.iinfo(blocks.dtype).max >= K:
        for start in range(0, B, _CHUNK_BLOCKS):
            largest = blocks[start : start + _CHUNK_BLOCKS].max()
            if largest >= K:
                raise ValueError(f"expected codes below K={K}, got {largest}.")


def _check_counts(segment):
    """Raise ValueError unless all items are counted, and each code has one."""
    n = segment.counts.sum(dtype=np.int64)
    if segment.counts.min() < 1 or n != len(segment.ids):
        raise ValueError(f"expected as many items as are counted, {n}, got {len(segment.ids)}.")


def _check_ids(ids, next_id):
    """Raise ValueError where an id is beyond the next one or there twice; the array is sorted."""
    ids.sort()
    if ids[0] < 0 or ids[-1] >= next_id:
        raise ValueError(f"expected ids from 0 to {next_id - 1}, got values from {ids[0]} to {ids[-1]}.")
    if (ids[1:] == ids[:-1]).any():
        raise ValueError("expected ids that differ, got some twice.")
