"""A folder: a database whose shards have a file each, and the manifest that names them.

`skdpq.dask` writes folders, and `files` reads them in one process. The manifest is written last and exchanged in one
step. It has a checksum of itself, and that of the header of each file, which has those of what the file holds.
"""

import json
import os
import re
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .._classes import class_indices, narrow
from .._items import Items
from .._labels import append_labels, check_stored
from .._names import names_of
from .._search.index import MAX_ID
from .._search.segments import narrow_ids
from . import estimators
from .container import FileFormatError, Reader, parse_json, write_whole

NAME = "manifest.json"
FORMAT_VERSION = 1
_MAX_BYTES = 2**26
_START = b'{"crc32":"'
_NO_CRC32 = b"00000000"
_FIELDS = {"crc32", "format", "format_version", "next_number", "named", "parameters", "shards"}
_FILE = re.compile(r"shard-[0-9]{1,9}-[0-9a-f]{1,32}\.skdpq")


@dataclass(frozen=True)
class File:
    """A file of a shard.

    Attributes
    ----------
    name : str
        Its name in the folder.
    checksum : str
        That of its header.
    n_items : int
        Number of items.
    runs : list of (int, int) or None
        Where ids are strings: of each run of items that were added at once, the number of the first and how many are
        left. Numbers are in the order in which all items of the database were added.
    """

    name: str
    checksum: str
    n_items: int
    runs: list[tuple[int, int]] | None


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes
    ----------
    next_number : int
        The id, or where ids are strings the number, that the next item gets.
    named : bool
        Whether ids are strings.
    parameters : dict of str to int or None
        Parameters of the database on a cluster.
    files : list of File
        Of the shards.
    """

    next_number: int
    named: bool
    parameters: dict[str, int | None]
    files: list[File]


def write_manifest(folder, manifest):
    """Write a manifest; OSError where that cannot be done, and then the one that was there stays."""
    shards = [
        {"file": file.name, "header_crc32": file.checksum, "n_items": file.n_items, "runs": file.runs}
        for file in manifest.files
    ]
    content = {
        "crc32": _NO_CRC32.decode(),
        "format": "skdpq folder",
        "format_version": FORMAT_VERSION,
        "next_number": manifest.next_number,
        "named": manifest.named,
        "parameters": manifest.parameters,
        "shards": shards,
    }
    text = json.dumps(content, separators=(",", ":")).encode()
    end = len(_START)
    text = text[:end] + f"{zlib.crc32(text):08x}".encode() + text[end + len(_NO_CRC32) :]
    write_whole(os.path.join(folder, NAME), [text])


def read_manifest(folder):
    """Return the manifest of a folder.

    Parameters
    ----------
    folder : str or path-like
        The folder.

    Returns
    -------
    manifest : Manifest
        Whose values go together.

    Raises
    ------
    FileFormatError
        If there is none, or it is not what it should be.
    """
    path = os.path.join(folder, NAME)
    if not os.path.isfile(path):
        raise FileFormatError(f"expected a file, or a folder with {NAME}, got a folder without.")
    with open(path, "rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES or not text.startswith(_START):
        raise FileFormatError(f"expected {NAME} as save writes it, got another.")
    end = len(_START)
    crc32 = text[end : end + len(_NO_CRC32)]
    if crc32.decode("latin-1") != f"{zlib.crc32(text[:end] + _NO_CRC32 + text[end + len(crc32) :]):08x}":
        raise FileFormatError(f"expected the checksum of {NAME}, got another.")
    return _check_manifest(parse_json(text))


def _check_manifest(content):
    if content.get("format") != "skdpq folder":
        raise FileFormatError(f"expected the format skdpq folder, got {content.get('format')!r:.50}.")
    version = content.get("format_version")
    if not _is_count(version) or version < 1:
        raise FileFormatError(f"expected the number of a version of the format, got {version!r:.50}.")
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"expected a version of the format up to {FORMAT_VERSION}, got {version}: a newer skdpq wrote it."
        )
    if content.keys() != _FIELDS:
        raise FileFormatError(f"expected {sorted(_FIELDS)}, got {sorted(content)!r:.200}.")
    next_number, named, shards = (content[name] for name in ("next_number", "named", "shards"))
    if not _is_count(next_number) or next_number > MAX_ID + 1 or not isinstance(named, bool):
        raise FileFormatError(f"expected the number of the next item, got {next_number!r:.50} and {named!r:.50}.")
    if not isinstance(shards, list) or not shards:
        raise FileFormatError(f"expected a list of shards, got {shards!r:.50}.")
    files = [_check_file(shard, named) for shard in shards]
    if len({file.name for file in files}) < len(files):
        raise FileFormatError("expected a file for each shard, got one twice.")
    runs = sorted(run for file in files for run in file.runs or ())
    ends = [first + n for first, n in runs] + [0]
    if any(end > first for end, (first, _) in zip(ends, runs[1:], strict=False)) or max(ends) > next_number:
        raise FileFormatError("expected runs of items that do not overlap, got others.")
    return Manifest(next_number, named, _check_parameters(content["parameters"]), files)


def _check_file(shard, named):
    """Return a File of what a manifest says of a shard."""
    if not isinstance(shard, dict) or shard.keys() != {"file", "header_crc32", "n_items", "runs"}:
        raise FileFormatError(f"expected file, header_crc32, n_items and runs of a shard, got {shard!r:.100}.")
    name, checksum, n_items, runs = (shard[key] for key in ("file", "header_crc32", "n_items", "runs"))
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise FileFormatError(f"expected the name of a file that save gives, got {name!r:.100}.")
    if not isinstance(checksum, str) or not re.fullmatch("[0-9a-f]{8}", checksum) or not _is_count(n_items):
        raise FileFormatError(f"expected a checksum and a number of items, got {checksum!r:.50} and {n_items!r:.50}.")
    if not named:
        if runs is not None:
            raise FileFormatError(f"expected no runs where ids are integers, got {runs!r:.100}.")
        return File(name, checksum, n_items, None)
    right = isinstance(runs, list) and all(isinstance(run, list) and len(run) == 2 for run in runs)
    if not right or not all(_is_count(first) and _is_count(n) and n for first, n in runs):
        raise FileFormatError(f"expected runs of items, got {runs!r:.100}.")
    if sum(n for _, n in runs) != n_items or any(a >= b for (a, _), (b, _) in pairwise(runs)):
        raise FileFormatError(f"expected runs of {n_items} items, ascending, got {runs!r:.100}.")
    return File(name, checksum, n_items, [tuple(run) for run in runs])


def _check_parameters(parameters):
    names = {"sample_size", "n_shards", "replicas"}
    if not isinstance(parameters, dict) or parameters.keys() != names:
        raise FileFormatError(f"expected parameters {sorted(names)}, got {parameters!r:.100}.")
    for name, value in parameters.items():
        if not (_is_count(value) and value) and not (name == "n_shards" and value is None):
            raise FileFormatError(f"expected {name} as a positive integer, got {value!r:.50}.")
    return parameters


def _is_count(value):
    return type(value) is int and 0 <= value < 2**63


def read_shard(folder, file, *, mapped, thorough, backbone=None, device=None):
    """Return the estimator of a shard's file.

    Parameters
    ----------
    folder : str or path-like
        The folder.
    file : File
        What its manifest says.
    mapped, thorough, backbone, device
        As for `estimators.restore`; what is thorough reads what is mapped, too.

    Returns
    -------
    estimator : DPQNeighbors
        Its items are those of the shard.

    Raises
    ------
    FileFormatError
        If the file is not the one that the manifest names.
    """
    try:
        with Reader(os.path.join(folder, file.name)) as reader:
            if reader.metadata["header_crc32"] != file.checksum:
                raise FileFormatError(f"expected the header of {file.name} with the checksum {file.checksum}.")
            if mapped and thorough:
                reader.verify()
            estimator = estimators.restore(reader, mapped=mapped, thorough=thorough, backbone=backbone, device=device)
    except FileNotFoundError as error:
        raise FileFormatError(f"expected the file {file.name}, which the manifest names, got none.") from error
    if type(estimator).__name__ != "DPQNeighbors" or not hasattr(estimator, "quantizer_"):
        raise FileFormatError(f"expected a fitted DPQNeighbors in {file.name}, got others.")
    items = estimator._items()
    if len(items.index) != file.n_items or (file.runs is not None) != (items.names is not None):
        raise FileFormatError(f"expected {file.n_items} items in {file.name}, with ids as the manifest says.")
    return estimator


def restore(folder, *, mapped, thorough, backbone=None, device=None):
    """Return the database of a folder, in one process; parameters and errors are those of `read_shard`."""
    manifest = read_manifest(folder)
    how = {"mapped": mapped, "thorough": thorough, "backbone": backbone, "device": device}
    found = [read_shard(folder, file, **how) for file in manifest.files]
    parts = [estimator._items() for estimator in found]
    if any(not np.array_equal(part.index.codebooks, parts[0].index.codebooks) for part in parts):
        raise FileFormatError("expected shards of one quantizer, got others.")
    try:
        items = join(parts, manifest)
        if thorough:
            ids = items.index.ids
            if len(ids) and (ids[-1] >= manifest.next_number or (ids[1:] == ids[:-1]).any()):
                raise FileFormatError(f"expected ids below {manifest.next_number} that differ, got others.")
            items.check(thorough)
    except FileFormatError:
        raise
    except (ValueError, TypeError) as error:
        raise FileFormatError(f"expected shards that go together: {error}") from error
    found[0]._keep(items)
    return found[0]


def join(parts, manifest):
    """Return the items of shards as those of one database; their segments stay where they are."""
    starts = np.cumsum([0, *(len(part.index) for part in parts)])
    numbers = [_numbers(part, file) for part, file in zip(parts, manifest.files, strict=True)]
    segments, names, next_id = [s for part in parts for s in part.index.segments], None, manifest.next_number
    if starts[-1] >= 2**32:
        raise FileFormatError(f"expected fewer than 2**32 items, got {starts[-1]}.")
    if manifest.named:
        order = np.argsort(np.concatenate(numbers))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        segments = [
            segment._replace(ids=narrow_ids(ranks[start + segment.ids.astype(np.int64)]))
            for start, part in zip(starts, parts, strict=False)
            for segment in part.index.segments
        ]
        names, next_id = names_of(np.concatenate([part.ids for part in parts])[order]), len(order)
    segments.sort(key=lambda segment: -len(segment.ids))
    index = parts[0].index._replace(segments=tuple(segments), next_id=next_id)
    return Items(index, names, *_join_labels(parts, numbers))


def _numbers(part, file):
    """Return the numbers of the items of a shard in the database, ascending."""
    if file.runs is None:
        return part.index.ids
    return np.concatenate([np.empty(0, np.int64), *(np.arange(first, first + n) for first, n in file.runs)])


def _join_labels(parts, numbers):
    """Return classes and labels of all items, in the order of numbers; None twice where there are none."""
    given = [part for part in parts if part.classes is not None]
    if not given:
        return None, None
    classes, none = given[0].classes, np.empty(0, np.int64)
    for part in given[1:]:
        classes, _ = append_labels(classes, none, part.classes, len(part.classes))
    labels = [
        np.full(len(part.index), -1)
        if part.labels is None
        else np.where(part.labels < 0, -1, class_indices(classes, part.classes)[part.labels])
        for part in parts
    ]
    joined = np.concatenate(labels)[np.argsort(np.concatenate(numbers))]
    joined = narrow(joined, len(classes))
    check_stored(classes, joined, len(joined))
    return classes, joined
