"""What the shards of a database know of its items: by id, of all of them, and which ones a search may find.

`_neighbors` asks. Functions take the `Shards` that they ask, and keep nothing. Numbers are ids as shards keep them: the
ids themselves, or what stands for them where these are strings.
"""

import numpy as np

from .._arrays import as_array
from .._search.segments import distinct_rows
from . import _found
from ._asking import ask
from ._found import joined
from ._shard import Shard


def parts_of(shards, ids, what):
    """Return what each shard that has some of the ids, (n,), knows of them: their positions, and `what`."""
    return ask(shards.client, shards, Shard.look_up, joined, (ids, what))


def look_up(shards, ids, what):
    """Return what shards know of ids, (n,), as `parts_of` does; raise ValueError where one is not of the database."""
    parts = parts_of(shards, ids, what)
    unknown = _unknown(ids, parts)
    if len(unknown):
        raise ValueError(f"Expected ids of the database, got {unknown[:5].tolist()}.")
    return parts


def check_known(shards, args):
    """Raise ValueError if `among`, as `allowed` returned it in args, has ids that are not in the database."""
    if args and args[0] is not None:
        unknown = _unknown(args[0], parts_of(shards, args[0], "numbers"))
        if len(unknown):
            raise ValueError(f"Expected ids of the database in among, got {unknown[:5].tolist()}.")


def _unknown(ids, parts):
    """Return the ids that are in no part."""
    unknown = np.ones(len(ids), dtype=bool)
    for positions, *_ in parts:
        unknown[positions] = False
    return ids[unknown]


def allowed(shards, among):
    """Return what each shard is told of `among`, what all are, and how many items are allowed."""
    among = as_array(among)
    if among is None:
        return None, (None,), len(shards)
    among = np.asarray(among)
    n = len(shards)
    if among.dtype == bool and among.shape == (n,):
        return _split(shards, among), (), int(among.sum())
    if among.ndim != 1 or among.dtype == bool or (among.size and among.dtype.kind not in "iuOUT"):
        raise ValueError(
            f"Expected among as a boolean mask of shape ({n},), in the order of ids_, or as a 1-D array of ids, "
            f"integers; got {among.dtype} of shape {among.shape}."
        )
    ids = np.unique(shards.check_kind(among)) if among.size else np.empty(0, np.int64)
    return None, (ids,), len(ids)


def _split(shards, values):
    """Return for each shard those of values, one for each item in the order of `ids_`, that are its items'."""
    shares = order(shards)
    if isinstance(shares, list):
        ends = np.cumsum([shards.abouts[i].n for i in shares])
        own = [(values[:0],)] * len(shards.futures)
        for i, end in zip(shares, ends, strict=True):
            own[i] = (np.ascontiguousarray(values[end - shards.abouts[i].n : end]),)
        return own
    placed = np.empty_like(values)
    placed[shares] = values
    return [(part,) for part in np.split(placed, np.cumsum([about.n for about in shards.abouts])[:-1])]


def order(shards):
    """Return shards in the order of `ids_`: a list; or where they interleave, all items' positions, an array."""
    in_order = shards.in_order()
    return np.argsort(np.concatenate(all_of(shards, "numbers"))) if in_order is None else in_order


def all_of(shards, what):
    """Return something of all items, a list of an array for each shard."""
    own = [(i,) for i in range(len(shards.futures))]
    parts = ask(shards.client, shards, Shard.one_of, joined, (what,), own)
    return [part for _, part in sorted(parts, key=lambda pair: pair[0])]


def distinct_codes(shards):
    """Return distinct codes of the database, which of them each item has, and the items' numbers, ascending."""
    numbers, codes = (np.concatenate(all_of(shards, what)) for what in ("numbers", "codes"))
    ascending = np.argsort(numbers)
    return *distinct_rows(codes[ascending]), numbers[ascending]


def named(shards, numbers):
    """Return ids of items, of any shape, as users see them."""
    if not shards.named:
        return numbers
    distinct, places = np.unique(numbers, return_inverse=True)
    names = np.empty(len(distinct), dtype=object)
    for positions, found in ask(shards.client, shards, Shard.name, joined, (distinct,)):
        names[positions] = found
    return names[places].reshape(numbers.shape)


def ranks(shards, numbers):
    """Return the positions in `ids_` of items, of any shape."""
    if not shards.has_gaps:
        return numbers
    distinct, places = np.unique(numbers, return_inverse=True)
    return ask(shards.client, shards, Shard.ranks, _found.total, (distinct,))[places]


def labels_of_all(shards):
    """Return the labels of all items, shard by shard, as indices into the classes of the database; -1 is none."""
    parts = []
    for own, about in zip(all_of(shards, "labels"), shards.abouts, strict=True):
        if about.classes is not None and len(about.classes):
            own = np.where(own < 0, own, np.searchsorted(shards.classes, about.classes)[own])
        parts.append(own)
    return np.concatenate(parts)
