"""Files of shards: what workers write and read, and databases that are made of it.

`DPQNeighbors.save` and `load` call it. This process reads and writes nothing: the paths are those of the workers.
"""

import contextlib
import copy
import os
import secrets
from weakref import WeakValueDictionary

import numpy as np
from sklearn.frozen import FrozenEstimator

from .. import neighbors as single
from .._files import folder as folders
from .._files.folder import File, Manifest
from .._items import Items
from .._names import names_of
from .._search.index import CodeIndex
from ..files import load
from ._asking import answer_of
from ._cluster import put, results, submit
from ._shard import NO_RUNS, Runs, Shard, checksum
from ._shards import Shards
from ._work import _homes_of, choose_homes, classifier_or_none, shards_of

SHARED = ("n_neighbors", "radius", "metric", "search", "mode", "random_state", "n_jobs", "device", "verbose")
OWN = ("sample_size", "n_shards", "replicas")

_saved: WeakValueDictionary = WeakValueDictionary()  # shards that this worker holds and has saved, by their paths


def save(client, neighbors, folder):
    """Write the shards of a database to a folder.

    Parameters
    ----------
    client : Client
        Of the cluster.
    neighbors : DPQNeighbors
        The database.
    folder : str or path-like
        Where to.

    Returns
    -------
    shards : Shards
        The same, which are made again of their files where they are lost.
    """
    folder, shards = os.path.abspath(os.fspath(folder)), neighbors.shards_
    shell, token = put(client, _shell(neighbors)), secrets.token_hex(8)
    names = [f"shard-{i}-{token}.skdpq" for i in range(len(shards.futures))]
    homes = [_homes_of(client, shards, i) for i in range(len(names))]
    written = [
        submit(client, _write, of_shard[0][0], about.content, shell, folder, name, home=of_shard[0][1])
        for of_shard, about, name in zip(homes, shards.abouts, names, strict=True)
    ]
    try:
        files = results(
            client, [submit(client, _describe, future, name) for future, name in zip(written, names, strict=True)]
        )
        parameters = {name: getattr(neighbors, name) for name in OWN}
        manifest = Manifest(shards.next_number, shards.named, parameters, files)
        results(client, [submit(client, _publish, folder, manifest)])
    except BaseException:
        submit(client, _delete, folder, names).cancelled()
        raise
    tables = put(client, (shards.index.codebooks, shards.classifier))
    made = [
        [submit(client, open_shard, folder, file, tables, False, False, home=home) for _, home in of_shard]
        for of_shard, file in zip(homes, files, strict=True)
    ]
    return shards_of(client, made, shards)


def _shell(neighbors):
    """Return a DPQNeighbors of one process with the parameters and the quantizer, and without items."""
    quantizer = neighbors.quantizer_
    frozen = quantizer if isinstance(quantizer, FrozenEstimator) else FrozenEstimator(quantizer)
    shell = single.DPQNeighbors(quantizer=frozen, **{name: getattr(neighbors, name) for name in SHARED})
    shell.fit_codes(np.empty((0, len(neighbors.shards_.index.codebooks)), dtype=np.uint8))
    shell.quantizer, shell.quantizer_ = neighbors.quantizer, quantizer
    return shell


def _write(shard, content, shell, folder, name):
    """Write a shard to its file; return it as it will be when it is read."""
    answer_of(shard, content, (), len, ())
    neighbors = copy.copy(shell)
    neighbors._keep(shard.items)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    neighbors.save(path)
    saved = Shard(shard.items, shard.classifier, shard.runs, content=header_checksum(path))
    _saved[path] = saved
    return saved


def header_checksum(path):
    """Return the checksum of the header of a file."""
    with folders.Reader(path) as reader:
        return reader.metadata["header_crc32"]


def _describe(shard, name):
    """Return the File of a shard that was written."""
    runs = None
    if shard.runs is not None:
        firsts, counts = shard.runs.firsts.tolist(), np.diff(shard.runs.ends, prepend=0).tolist()
        runs = list(zip(firsts, counts, strict=True))
    return File(name, shard.content, len(shard), runs)


def _publish(folder, manifest):
    """Write the manifest, and delete files that neither it nor the one before names."""
    kept = {file.name for file in manifest.files}
    if os.path.exists(os.path.join(folder, folders.NAME)):
        kept |= {file.name for file in folders.read_manifest(folder).files}
    folders.write_manifest(folder, manifest)
    _delete(folder, [name for name in os.listdir(folder) if folders._FILE.fullmatch(name) and name not in kept])


def _delete(folder, names):
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))


def open_shard(folder, file, tables, mmap, verify):
    """Return the shard of a file: the one that this worker has saved there, or what it reads.

    Parameters
    ----------
    folder : str
        The folder.
    file : File
        What the manifest says of it.
    tables : tuple
        The codebooks that it is to have, and what classifies codes.
    mmap, verify : bool
        As for `skdpq.load`.

    Returns
    -------
    shard : Shard
        With its items; one that is mapped is sent to another worker as the name of its file.
    """
    path = os.path.join(folder, file.name)
    saved = _saved.get(path)
    if saved is not None and saved.content == file.checksum:
        return saved
    neighbors = folders.read_shard(folder, file, mapped=mmap, thorough=verify or not mmap)
    items, (codebooks, classifier) = neighbors._items(), tables
    if not np.array_equal(items.index.codebooks, codebooks):
        raise folders.FileFormatError(f"expected codes of the same quantizer in {file.name}, got others.")
    runs = None
    if file.runs is not None:
        firsts, counts = np.array(file.runs, dtype=np.int64).reshape(-1, 2).T
        runs = Runs(firsts, np.cumsum(counts))
    made_of = (folder, file, tables, mmap, verify) if mmap else None
    return Shard(items, classifier, runs, made_of, file.checksum)


def part_of(path, content, bounds, mmap_tables):
    """Return a shard of some items of a file of one database.

    Parameters
    ----------
    path : str
        The file.
    content : str
        The checksum of its header.
    bounds : (int, int)
        Which items, in the order of ids.
    mmap_tables : tuple
        As for `open_shard`.

    Returns
    -------
    shard : Shard
        In memory.
    """
    if header_checksum(path) != content:
        raise RuntimeError(f"Expected {path!r} as it was when it was loaded, got another file. Load it again.")
    items, (start, stop) = load(path, mmap=True)._items(), bounds
    codes, ids = items.index.codes[start:stop], items.index.ids[start:stop]
    index = CodeIndex(items.index.codebooks).add(codes, None if items.names is not None else ids)
    names = None if items.names is None else names_of(items.names.at(ids))
    labels = None if items.labels is None else np.array(items.labels[start:stop])
    part = Items(index, names, items.classes, labels)
    runs = None if names is None else NO_RUNS.append(start, len(codes))
    return Shard(part, mmap_tables[1], runs, content=checksum(part))


def look_into(path, verify):
    """Return on a worker what a path leads to: the manifest of a folder or None, the estimator without items, and more.

    Returns
    -------
    manifest : Manifest or None
        None for a file.
    shell : DPQNeighbors
        Without items.
    about : tuple
        Of a file, the number of its items, the next number, whether they have names, and the checksum of its header.
    """
    if os.path.isdir(path):
        manifest = folders.read_manifest(path)
        shell, about = folders.read_shard(path, manifest.files[0], mapped=True, thorough=False), ()
    else:
        manifest, content = None, header_checksum(path)
        shell = load(path, mmap=True, verify=verify)
        if type(shell) is not single.DPQNeighbors or not hasattr(shell, "quantizer_"):
            raise ValueError(f"Expected a file with a fitted DPQNeighbors, got a {type(shell).__name__}.")
        items = shell._items()
        about = (len(items.index), items.index.next_id, items.names is not None, content)
    shell._keep(Items(CodeIndex(shell._items().index.codebooks)))
    return manifest, shell, about


def open_folder(client, folder, manifest, shell, replicas, mmap, verify):
    """Return the Shards of a folder, a task for each."""
    index, classifier = shell._items().index, classifier_or_none(shell.quantizer_)
    shared = put(client, (index.codebooks, classifier))
    made = [
        [submit(client, open_shard, folder, file, shared, mmap, verify, home=home) for home in homes]
        for file, homes in zip(manifest.files, choose_homes(client, len(manifest.files), replicas), strict=True)
    ]
    return shards_of(client, made, Shards((), (), manifest.next_number, manifest.named, index, classifier))


def spread(client, path, shell, about, n_shards, replicas):
    """Return the Shards of a file of one database: each worker reads its share."""
    n, next_number, named, content = about
    index, classifier = shell._items().index, classifier_or_none(shell.quantizer_)
    shared, homes = put(client, (index.codebooks, classifier)), choose_homes(client, n_shards, replicas)
    ends = [n * i // len(homes) for i in range(len(homes) + 1)]
    made = [
        [submit(client, part_of, path, content, (ends[i], ends[i + 1]), shared, home=home) for home in of_shard]
        for i, of_shard in enumerate(homes)
    ]
    return shards_of(client, made, Shards((), (), next_number, named, index, classifier))
