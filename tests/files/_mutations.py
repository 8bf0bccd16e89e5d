"""Files with something changed: cut off, bits flipped, or rewritten with right checksums around something wrong.

    python tests/files/_mutations.py 1000000

tries so many: each has to be refused by a FileFormatError, or to give an estimator that answers. With ``--keep folder``
one file of each kind of refusal is kept there.
"""

import argparse
import json
import random
import re
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer
from skdpq._files import container
from skdpq._search import scan_numpy

X, Y = load_iris(return_X_y=True)
Y = np.array(["setosa", "versicolor", "virginica"])[Y]
NAMES = [str(i) for i in range(len(X))]
SMALL = {"M": 2, "K": 4, "D": 2, "hidden_layer_sizes": (3,), "part_layer_sizes": (2,), "random_state": 0}
VALUES = [None, True, 0, 1, -1, 2, 3, 255, 256, 2**31, 2**63, 10**30, 1e308, 0.5, "", "a", [], [0], {}]
VALUES += [
    {"array": "x"},
    {"float": "nan"},
    {"estimator": 0},
    {"tuple": []},
    {"dict": [[1, 2]]},
    {"text": ["a", "b", "U"]},
]
N_KINDS = 6


def make_files():
    """Return the bytes of some small files, by what they hold."""
    warnings.simplefilter("ignore")
    estimators = {
        "opq": ProductQuantizer(M=2, K=4, rotation="opq", random_state=0).fit(X),
        "network": DPQClassifier(max_iter=2, supervision=0.5, early_stopping=True, **SMALL).fit(X, Y),
        "posterior": DPQClassifier(max_iter=2, trunk_input="posterior", **SMALL).fit(X, Y),
        "partial": DPQClassifier(**SMALL).partial_fit(X, Y, classes=np.unique(Y)),
        "database": DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0))
        .fit(X, Y, ids=NAMES)
        .add(X[:3], ids=["a", "b", "c"])
        .remove(["4"]),
    }
    estimators["frozen"] = DPQNeighbors(quantizer=FrozenEstimator(estimators["opq"])).fit(X[:30])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "estimator.skdpq")
        files = {}
        for name, estimator in estimators.items():
            estimator.save(path)
            files[name] = path.read_bytes()
    return files


def rewrite(data, change):
    """Return a file with its header and its arrays changed, and checksums that fit again."""
    n = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n]), bytearray(data[8 + n :])
    change(header, body)
    metadata = {name: value for name, value in header.pop("__metadata__").items() if name != "header_crc32"}
    checksums = {}
    for name, entry in header.items():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        right = isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)
        checksums[name] = f"{zlib.crc32(bytes(body[slice(*offsets)] if right else b'')):08x}"
    metadata["crc32"] = json.dumps(checksums)
    header = {"__metadata__": {"header_crc32": "00000000", **metadata}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    at = len(container._START)
    text = text[:at] + f"{zlib.crc32(text):08x}".encode() + text[at + 8 :]
    return len(text).to_bytes(8, "little") + text + bytes(body)


def paths_of(value, path=()):
    """Yield the way to each value in JSON."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths_of(value[key], (*path, key))


def change_json(value, rng):
    """Replace, remove, rename, copy, or add something somewhere in JSON."""
    paths = [path for path in paths_of(value) if path]
    if not paths:
        return
    *way, key = rng.choice(paths)
    holder = value
    for step in way:
        holder = holder[step]
    kind = rng.randrange(5)
    if kind == 0:
        holder[key] = rng.choice(VALUES)
    elif kind == 1:
        del holder[key]
    elif kind == 2:
        other = value
        for step in rng.choice(paths):
            other = other[step]
        holder[key] = json.loads(json.dumps(other))
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice(["other", "M", "0.codebooks_", "ids"])] = holder.pop(key)
    elif type(holder[key]) in (int, float):
        holder[key] += rng.choice([1, -1, 0.5, 2**32])
    elif isinstance(holder, list):
        holder.append(rng.choice(VALUES))


def mutate(data, kind, rng):
    """Return a file with something changed."""

    def change_bytes(_, body):
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.choice([0, 1, 2, 127, 128, 255, rng.randrange(256)])

    def change_estimators(header, _):
        estimators = json.loads(header["__metadata__"]["estimators"])
        for _ in range(rng.randrange(1, 3)):
            change_json(estimators, rng)
        header["__metadata__"]["estimators"] = json.dumps(estimators)

    def change_arrays(header, _):
        names = [name for name in header if name != "__metadata__"]
        name, other = rng.choice(names), rng.choice(names)
        kind = rng.randrange(3)
        if kind == 0:
            header[name]["dtype"] = rng.choice(list(container._TYPES))
        elif kind == 1:
            rng.shuffle(header[name]["shape"])
        else:
            header[name], header[other] = header[other], header[name]

    def change_header(header, _):
        metadata = header.pop("__metadata__")
        change_json(header, rng)
        header["__metadata__"] = metadata

    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    return rewrite(data, (change_bytes, change_estimators, change_arrays, change_header)[kind - 2])


def try_file(path, mmap):
    """Return why a file is refused; None if it gives an estimator that answers."""
    try:
        estimator = skdpq.load(path, mmap=mmap)
    except skdpq.FileFormatError as error:
        return str(error).split("cannot be loaded: ")[1]
    queries = X[::20]
    try:
        estimator.kneighbors(queries) if hasattr(estimator, "kneighbors") else estimator.encode(queries)
    except ValueError as error:  # values beyond float32 for these queries, or a parameter that makes no sense here
        if not any(
            words in str(error)
            for words in ("verify=True", "float32", "too large", "n_samples_fit", "a device that torch")
        ):
            raise
    return None


def try_many(count, path, first=0):
    """Try so many files; return how many were refused, and one of each kind of refusal."""
    files, refused, kinds = make_files(), 0, {}
    names = sorted(files)
    for seed in range(first, first + count):
        rng = random.Random(seed)
        name, kind = rng.choice(names), rng.randrange(N_KINDS)
        data = mutate(files[name], kind, rng)
        if data == files[name]:
            continue
        path.write_bytes(data)
        mmap = rng.random() < 0.3
        try:
            why = try_file(path, mmap)
        except Exception as error:
            raise AssertionError(f"file {seed}, {name}, changed by kind {kind}") from error
        assert why or mmap or kind > 1, f"file {seed}: a byte that changed was not seen"
        refused += why is not None
        kinds.setdefault(" ".join(re.sub(r"[^a-z ]|got.*", "", why or "").split()[:5]), data)
    return refused, kinds


def main():
    """Try files until so many are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    scan_numpy.stop()  # the compiled kernels must not read beyond an array
    with tempfile.TemporaryDirectory() as folder:
        refused, kinds = try_many(options.count, Path(folder, "mutant.skdpq"), options.first)
    print(f"{refused:,} of {options.count:,} files were refused, in {len(kinds)} ways")
    for number, (why, data) in enumerate(sorted(kinds.items())):
        if options.keep and why:
            (options.keep / f"{number:02d}.skdpq").write_bytes(data)


if __name__ == "__main__":
    main()
