"""Folders of shards: what is written, who reads it, what is refused, and files that are spread over a cluster."""

import json
import os
import zlib
from random import Random

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator

import skdpq
import skdpq.dask
from skdpq._files import folder as folders

X, Y = load_iris(return_X_y=True)
QUANTIZER = FrozenEstimator(skdpq.ProductQuantizer(M=2, K=8, random_state=0).fit(X))
NAMES = [f"flowers/{i * 7 % 150}.png" for i in range(150)]


def make(cls, named, **params):
    """Return a database with a history: items were added and removed, and some have no label."""
    neighbors = cls(quantizer=QUANTIZER, n_neighbors=4, **params)
    neighbors.fit(X[:100], Y[:100], ids=NAMES[:100] if named else None)
    neighbors.add(X[100:], ids=NAMES[100:] if named else np.arange(300, 350))
    return neighbors.remove(np.asarray(neighbors.ids_)[::7])


def assert_same(one, other):
    for array, expected in zip(one.kneighbors(X[::9]), other.kneighbors(X[::9]), strict=True):
        assert_array_equal(array, expected)
    for name in ("ids_", "codes_", "labels_", "classes_"):
        assert_array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)))
    more = [
        estimator.__copy__().add(X[:3], ids=["a", "b", "c"] if one.ids_.dtype == object else None)
        for estimator in (one, other)
    ]
    assert_array_equal(*(np.asarray(estimator.ids_) for estimator in more))


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_is_read_by_a_cluster_and_by_one_process(client, tmp_path, named):
    one, many = make(skdpq.DPQNeighbors, named), make(skdpq.dask.DPQNeighbors, named, n_shards=3)
    many.save(tmp_path / "folder")
    assert sorted(name.split("-")[0] for name in os.listdir(tmp_path / "folder")) == ["manifest.json"] + 3 * ["shard"]
    for mmap in (False, True):
        assert_same(skdpq.load(tmp_path / "folder", mmap=mmap), one)
        assert_same(skdpq.dask.load(tmp_path / "folder", mmap=mmap, verify=True), one)
    assert_same(many, one)
    again = skdpq.dask.load(tmp_path / "folder", replicas=2)
    assert (again.n_neighbors, again.n_shards, again.replicas) == (4, 3, 2)
    assert_same(again, one)


@pytest.mark.parametrize("named", [False, True])
def test_a_file_of_one_process_is_spread(client, tmp_path, named):
    one = make(skdpq.DPQNeighbors, named)
    one.save(tmp_path / "file")
    many = skdpq.dask.load(tmp_path / "file", n_shards=3)
    assert [about.n for about in many.shards_.abouts] == [42, 43, 43]
    assert_same(many, one)
    with pytest.raises(ValueError, match="mmap=False for a file"):
        skdpq.dask.load(tmp_path / "file", mmap=True)


def test_files_that_no_manifest_names_are_deleted_one_save_later(client, tmp_path):
    many = make(skdpq.dask.DPQNeighbors, False)
    generations = []
    for _ in range(3):
        many.save(tmp_path)
        generations.append({file.name for file in folders.read_manifest(tmp_path).files})
    assert set(os.listdir(tmp_path)) == generations[1] | generations[2] | {"manifest.json"}


def test_a_save_that_fails_leaves_what_was_there(client, tmp_path):
    many = make(skdpq.dask.DPQNeighbors, False)
    many.save(tmp_path)
    before = set(os.listdir(tmp_path))
    with pytest.raises(TypeError, match="got callbacks"):
        skdpq.dask.DPQNeighbors(quantizer=FrozenEstimator(with_callback())).fit(X).save(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"exists|directory"):
        many.save(tmp_path / "file")
    assert set(os.listdir(tmp_path)) - {"file"} == before
    assert_same(skdpq.dask.load(tmp_path), many)


def with_callback():
    quantizer = skdpq.ProductQuantizer(M=2, K=8, random_state=0).fit(X)
    quantizer._skl_callbacks = [len]
    return quantizer


@pytest.fixture(scope="module")
def written(two_workers, tmp_path_factory):
    """Folders of named and of numbered items, and their manifests."""
    found = {}
    with two_workers.as_current():
        for named in (False, True):
            path = tmp_path_factory.mktemp("written")
            make(skdpq.dask.DPQNeighbors, named, n_shards=2).save(path)
            found[named] = path, json.loads((path / "manifest.json").read_text())
    return found


def write(path, manifest):
    """Write a manifest with the checksum that belongs to it."""
    text = json.dumps(manifest | {"crc32": "00000000"}, separators=(",", ":")).encode()
    (path / "manifest.json").write_bytes(text.replace(b"00000000", f"{zlib.crc32(text):08x}".encode(), 1))


def test_what_the_test_writes_is_read(written):
    for path, manifest in written.values():
        write(path, manifest)
        assert len(skdpq.load(path)) == 128


VALUES = [
    None, True, 0, 1, -1, 7, 2**63, 2**64, 0.5, "", "x", "../manifest.json", [], [[]], [None], [[0, 2**62], [1, 1]],
    [[0, 1]], {}, {"file": 1}, "00000000",
]  # fmt: skip


def places(value, path=()):
    """Yield the way to each value in JSON."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def change(manifest, random):
    """Return a manifest in which something is another value, or left out."""
    changed = json.loads(json.dumps(manifest))
    *way, last = random.choice(list(places(changed)))
    inside = changed
    for key in way:
        inside = inside[key]
    if random.random() < 0.8:
        inside[last] = random.choice(VALUES)
    else:
        del inside[last]
    return changed


@pytest.mark.parametrize("named", [False, True])
def test_manifests_with_something_changed_are_refused_or_read(written, named):
    (path, manifest), random, n_refused = written[named], Random(0), 0
    for _ in range(100):
        write(path, change(manifest, random))
        try:
            skdpq.load(path).kneighbors(X[:2])
        except skdpq.FileFormatError:
            n_refused += 1
    write(path, manifest)
    assert n_refused > 50


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda text: text[:-1], r"checksum of manifest\.json"),
        (lambda text: text.replace(b"named", b"nomed"), r"checksum of manifest\.json"),
        (lambda text: b"", "as save writes it"),
        (lambda text: b"[" * 10**6, "as save writes it"),
    ],
)
def test_a_damaged_manifest_is_refused_by_both(written, client, tmp_path, damage, match):
    (tmp_path / "manifest.json").write_bytes(damage((written[False][0] / "manifest.json").read_bytes()))
    for load in (skdpq.load, skdpq.dask.load):
        with pytest.raises(skdpq.FileFormatError, match=match):
            load(tmp_path)


def test_a_folder_without_a_manifest_or_a_file_is_refused(written, client, tmp_path):
    for load in (skdpq.load, skdpq.dask.load):
        with pytest.raises(skdpq.FileFormatError, match=r"a folder with manifest\.json"):
            load(tmp_path)
    write(tmp_path, written[False][1])
    for load in (skdpq.load, skdpq.dask.load):
        with pytest.raises(skdpq.FileFormatError, match="which the manifest names, got none"):
            load(tmp_path)


def test_a_shard_of_another_save_is_refused(written, client, tmp_path):
    path, manifest = written[False]
    manifest = json.loads(json.dumps(manifest))
    for shard in manifest["shards"]:
        (tmp_path / shard["file"]).write_bytes((path / shard["file"]).read_bytes())
    manifest["shards"][1]["header_crc32"] = "0" * 8
    write(tmp_path, manifest)
    for load in (skdpq.load, skdpq.dask.load):
        with pytest.raises(skdpq.FileFormatError, match="with the checksum 00000000"):
            load(tmp_path)
