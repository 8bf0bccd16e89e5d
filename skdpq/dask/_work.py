"""Work on shards: tasks that make new ones of others, on the workers that hold these.

`_neighbors` and `_storage` call it. What is done to several shards is done to all of them or to none: the shards that
there were stay as they are until all new ones are made, and the caller puts these in their places in one step.
"""

import numpy as np

from .._names import as_names
from .._quantizer import classifier_of, trained_codebooks
from .._search.index import CodeIndex
from ._cluster import put, results, submit, workers_of
from ._rows import join_pieces, on_workers
from ._shard import Shard, new_shard
from ._shards import Shards


def new_shards(client, quantizer, n_shards, replicas, ids):
    """Return shards without items.

    Parameters
    ----------
    client : Client
        Of the cluster.
    quantizer : estimator
        The fitted quantizer.
    n_shards : int or None
        How many; None for as many as workers.
    replicas : int
        How many workers hold each.
    ids : array-like or None
        Ids that items will have, which may be strings.

    Returns
    -------
    shards : Shards
        On the workers.

    Raises
    ------
    ValueError
        If there are fewer workers than replicas.
    """
    named = ids is not None and as_names(ids) is not None
    index, classifier = CodeIndex(trained_codebooks(quantizer)), classifier_or_none(quantizer)
    tables = put(client, (index.codebooks, classifier))
    homes = choose_homes(client, n_shards, replicas)
    made = [[submit(client, _new, tables, named, home=home) for home in of_shard] for of_shard in homes]
    return shards_of(client, made, Shards((), (), 0, named, index, classifier))


def classifier_or_none(quantizer):
    """Return what classifies the codes of a quantizer, arrays; None where it does not."""
    try:
        return tuple(np.asarray(array) for array in classifier_of(quantizer))
    except ValueError:
        return None


def choose_homes(client, n_shards, replicas):
    """Return the addresses of the workers that are to hold each shard, a list of lists."""
    workers = workers_of(client)
    if replicas > len(workers):
        raise ValueError(f"Expected replicas up to {len(workers)}, the number of workers, got {replicas}.")
    n_shards = len(workers) if n_shards is None else n_shards
    return [[workers[(i + j) % len(workers)] for j in range(replicas)] for i in range(n_shards)]


def shards_of(client, made, shards):
    """Return Shards of futures of shards, a list for each with its replicas, once all are made.

    Parameters
    ----------
    client : Client
        Of the cluster.
    made : list of list of Future
        The futures.
    shards : Shards
        Without any; what it says of all of them is taken.

    Returns
    -------
    shards : Shards
        With them.
    """
    abouts = _abouts(client, made)
    empty = tuple(() for _ in made)
    changed = {i: (tuple(futures), about) for i, (futures, about) in enumerate(zip(made, abouts, strict=True))}
    return shards.resized(empty).with_shards(changed)


def _abouts(client, made):
    """Return what is known of new shards, each a list of futures, once all their replicas are made."""
    replicas = [future for futures in made for future in futures]
    known = dict(
        zip([f.key for f in replicas], results(client, [submit(client, _about, f) for f in replicas]), strict=True)
    )
    abouts = [[known[future.key] for future in futures] for futures in made]
    if any(about.content != of_shard[0].content for of_shard in abouts for about in of_shard):
        raise RuntimeError(
            "Expected replicas that are the same, got others: the data are not the same at each reading."
        )
    return [of_shard[0] for of_shard in abouts]


def _replace(client, shards, made, **counts):
    """Return shards with new ones, lists of futures by position, in the places of some."""
    abouts = _abouts(client, list(made.values()))
    changed = {i: (tuple(futures), about) for (i, futures), about in zip(made.items(), abouts, strict=True)}
    return shards.with_shards(changed, **counts)


def add_items(client, shards, codes, labels, ids):
    """Return shards with items added, the smallest filled up first.

    Parameters
    ----------
    client : Client
        Of the cluster.
    shards : Shards
        They stay as they are.
    codes : Rows
        Of the new items.
    labels : Rows or None
        Their labels.
    ids : ndarray or None
        Their ids, as `Shards.check_new_ids` returns them.

    Returns
    -------
    shards : Shards
        With them.
    """
    made, start = {}, 0
    codes, labels = on_workers(client, codes), None if labels is None else on_workers(client, labels)
    for i, n in enumerate(shards.room_for(codes.n)):
        if n:
            stop = start + n
            parts = [None if rows is None else rows.pieces(start, stop) for rows in (codes, labels)]
            mine = None if ids is None else ids[start:stop]
            args = (*parts, mine, shards.next_number + start, n)
            made[i] = [submit(client, _add, future, *args, home=home) for future, home in _homes_of(client, shards, i)]
            start = stop
    if not made:
        return shards
    if ids is None or shards.named:
        return _replace(client, shards, made, n_new=codes.n)
    return _replace(client, shards, made, next_number=max(shards.next_number, int(ids.max()) + 1))


def remove_items(client, shards, ids):
    """Return shards without the items of some ids, all of which are there."""
    made = {
        i: [submit(client, _remove, future, ids, home=home) for future, home in _homes_of(client, shards, i)]
        for i in range(len(shards.futures))
    }
    return _replace(client, shards, made)


def _homes_of(client, shards, i):
    """Return the replicas of a shard, each with a worker that holds it, None where none does now."""
    held = client.who_has(shards.futures[i])
    return [(future, next(iter(held.get(future.key, ())), None)) for future in shards.futures[i]]


def _about(shard):
    return shard.about()


def _new(tables, named):
    return new_shard(*tables, named)


def _add(shard, codes, labels, ids, first, n):
    """Return a shard with items added, whose codes and labels come in pieces."""
    codes = join_pieces(codes)
    if len(codes) != n:
        raise RuntimeError(f"Expected {n} rows, got {len(codes)}: X does not give the same number at each reading.")
    return shard.add(codes, join_pieces(labels), ids, first)


def _remove(shard: Shard, ids):
    """Return a shard without those of some ids that it has; itself where it has none."""
    _, found = shard.find(ids)
    return shard.remove(np.unique(found)) if len(found) else shard
