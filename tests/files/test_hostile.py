"""Files that are damaged, cut off, of another kind, or made to do harm are refused, and old ones stay readable."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from _mutations import X, make_files, rewrite, try_file, try_many
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQNeighbors, FileFormatError, ProductQuantizer
from skdpq._files import container

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def files():
    return make_files()


@pytest.fixture
def refused(tmp_path):
    def check(data, match, **params):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(FileFormatError, match=match) as caught:
            skdpq.load(tmp_path / "file", **params)
        assert str(tmp_path / "file") in str(caught.value)

    return check


@pytest.mark.parametrize("first", range(0, 10_000, 2500))
def test_files_with_something_changed_are_refused_or_answer(tmp_path, first):
    """10,000 here; `_mutations.py` tries as many as it is told to."""
    refused, kinds = try_many(2500, tmp_path / "file", first)
    assert refused > 1800
    assert len(kinds) > 80


@pytest.mark.parametrize("name", sorted(os.listdir(HERE / "corpus")))
def test_files_of_the_corpus_are_refused(name):
    assert try_file(HERE / "corpus" / name, mmap=False)
    try_file(HERE / "corpus" / name, mmap=True)


@pytest.mark.parametrize("name", ["opq", "network", "posterior", "partial", "database"])
@pytest.mark.parametrize("mmap", [False, True])
def test_files_of_the_first_version_of_the_format_stay_readable(name, mmap):
    estimator = skdpq.load(HERE / "version_1" / f"{name}.skdpq", mmap=mmap)
    queries, expected = X[::10], np.load(HERE / "version_1" / f"{name}.npz")
    if name == "database":
        distances, ids = estimator.kneighbors(queries)
        assert_array_equal(ids, expected["ids"])
        assert_array_equal(distances, expected["distances"])
    else:
        assert_allclose(estimator.soft(queries), expected["soft"], rtol=1e-4, atol=1e-6)
        assert (estimator.encode(queries) == expected["codes"]).mean() > 0.95  # products round otherwise elsewhere


def test_a_newer_version_of_the_format_is_refused_by_name(files, refused):
    def change(header, _):
        header["__metadata__"]["format_version"] = "2"

    refused(rewrite(files["opq"], change), "up to 1, got 2: a newer skdpq wrote it")


def test_things_that_are_no_file_of_ours_are_refused(files, refused, tmp_path):
    refused(b"", "too short")
    refused(b"\0" * 1000, "too short or of another kind")
    refused(pickle.dumps(ProductQuantizer()), "of another kind")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a", "b" * 1000)
    refused((tmp_path / "zip").read_bytes(), "of another kind")
    refused(files["opq"] + b"\0", "expected a file of")
    with pytest.raises(FileFormatError, match="a folder with manifest"):
        skdpq.load(tmp_path)
    if hasattr(os, "mkfifo"):  # to open one waits until somebody writes
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FileFormatError, match="got a folder or a device"):
            skdpq.load(tmp_path / "pipe")


@pytest.mark.parametrize(
    "bomb",
    [
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 1_000_000,
        '"' + "a" * 1_000_000,
        "1" * 1_000_000,
        "[" + "{}," * 1_000_000 + "{}]",
        '{"a":1,"a":2}',
        "NaN",
        "-1e999999",
    ],
    ids=["deep objects", "deep lists", "no end", "digits", "wide", "twice", "NaN", "infinite"],
)
def test_json_that_is_made_to_do_harm_is_refused(files, refused, bomb):
    for place in ("estimators", "format_version"):

        def change(header, _, place=place):
            header["__metadata__"][place] = bomb

        refused(rewrite(files["opq"], change), "expected")


def test_a_header_that_is_too_long_is_not_read(refused):
    refused((2**40).to_bytes(8, "little") + b"{" * 1000, "too short or of another kind")
    n = container.MAX_HEADER_BYTES + 1
    refused(n.to_bytes(8, "little") + b" " * (n + 100), "expected a header of at most")


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ([2**62, 2**62], "expected a shape"),
        ([2**61], "that memory can have|bytes of"),
        ([0, 2**61], "that memory can have"),
        ([1] * 40, "expected a shape"),
        ([-1], "expected a shape"),
        ([2.0], "expected a shape"),
        (["2"], "expected a shape"),
    ],
)
def test_absurd_shapes_are_refused_before_anything_is_allocated(files, refused, shape, match):
    def change(header, _):
        header["0.codebooks_"]["shape"] = shape

    refused(rewrite(files["opq"], change), match)


def test_a_network_says_that_it_has_a_nearness_or_nothing(files, refused):
    def change(header, _):
        estimators = json.loads(header["__metadata__"]["estimators"])
        pairs = estimators[0]["fitted"]["architecture_"]["dict"]
        pairs[pairs.index(["nearness", True])][1] = 2
        header["__metadata__"]["estimators"] = json.dumps(estimators)

    refused(rewrite(files["network"], change), "expected counts in the architecture, got nearness=2")


def test_hostile_files_take_little_memory(files, tmp_path):
    """A process with 300 MB above what importing takes refuses them, and does not run out of memory."""

    def change_sizes(header, _):
        estimators = json.loads(header["__metadata__"]["estimators"])
        for pair in estimators[0]["fitted"]["architecture_"]["dict"]:
            if pair[0] in ("n_units", "D"):
                pair[1] = 2**30
            if pair[0].endswith("sizes"):
                pair[1] = {"tuple": [2**30] * 900}
        header["__metadata__"]["estimators"] = json.dumps(estimators)

    def change_text(header, _):
        estimators = json.loads(header["__metadata__"]["estimators"])
        estimators[0]["fitted"]["classes_"]["text"][2] = "<U500000000"
        header["__metadata__"]["estimators"] = json.dumps(estimators)

    def change_wide(header, _):
        header["__metadata__"]["estimators"] = "[" + "{}," * 1_000_000 + "{}]"

    for i, change in enumerate((change_sizes, change_text, change_wide)):
        (tmp_path / f"{i}").write_bytes(rewrite(files["network"], change))
    code = f"""
import resource, torch, skdpq, skdpq.classifier
from skdpq._files import estimators
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
for i in range(3):
    try:
        skdpq.load({str(tmp_path)!r} + f"/{{i}}")
    except skdpq.FileFormatError:
        print("refused")
"""
    if Path("/proc/self/statm").exists():
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.stdout == "refused\n" * 3, result.stderr


def database():
    """Return a database of several segments, of which a code has more than 255 items."""
    quantizer = ProductQuantizer(M=3, K=5, random_state=0).fit(X)
    codes = np.random.default_rng(0).integers(5, size=(3000, 3)) // [1, 2, 4]
    neighbors = DPQNeighbors(n_neighbors=4, quantizer=FrozenEstimator(quantizer)).fit_codes(
        codes, ids=np.arange(3000) * 2
    )
    return neighbors.add_codes(codes[:900]).add_codes(codes[:100])


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("blocks", 5, "expected codes below K=5, got 5"),
        ("blocks", 4, "that ascend"),
        ("counts", 0, "as many items as are counted"),
        ("counts", 7, "as many items as are counted"),
        ("ids", 6998, "got some twice"),
        ("ids", -1, "that ascend|ids from 0"),
        ("ids", 2**31, "expected ids from 0 to"),
        ("prefix_lengths", 4, "up to 3 parts"),
        ("prefix_lengths", 2, "prefix_lengths of codes in order"),
        ("run_ends", 2**31, "runs of blocks"),
        ("run_ends", 0, "runs of blocks"),
        ("offsets", -1, "positions of items"),
        ("offsets", 2**40, "positions of items"),
        ("offsets", 1, "positions of items"),
    ],
)
def test_arrays_of_a_segment_that_do_not_fit_are_refused(tmp_path, monkeypatch, name, value, match):
    """Whoever wrote them with right checksums."""
    neighbors = database()
    segment = neighbors.index_.segments[0]
    array = getattr(segment, name).copy()
    array = array.astype(np.int64) if name == "ids" else array
    array.flat[-1 if name == "ids" else 0] = value
    segments = (segment._replace(**{name: array}), *neighbors.index_.segments[1:])
    neighbors.index_ = neighbors.index_._replace(segments=segments)
    neighbors.save(tmp_path / "file")
    with pytest.raises(FileFormatError, match=match):
        skdpq.load(tmp_path / "file")
    with pytest.raises(FileFormatError, match=match):
        skdpq.load(tmp_path / "file", mmap=True, verify=True)


def test_a_mapped_file_whose_counts_lie_is_searched_without_a_read_beyond_it(tmp_path):
    """Nor does anything else of it that is not looked at harm more than the answer."""
    neighbors, rng = database(), np.random.default_rng(0)
    for _ in range(30):
        segments = []
        for segment in neighbors.index_.segments:
            counts, ids = rng.integers(256, size=len(segment.counts)).astype(np.uint8), segment.ids.copy()
            ids[rng.random(len(ids)) < 0.3] = 2**32 - 1
            blocks = rng.integers(5, size=segment.blocks.shape).astype(np.uint8)
            segments.append(segment._replace(counts=counts, ids=ids, blocks=blocks))
        hostile = neighbors.__copy__()
        hostile.index_ = neighbors.index_._replace(segments=tuple(segments))
        hostile.save(tmp_path / "file")
        with pytest.raises(FileFormatError):
            skdpq.load(tmp_path / "file")
        mapped = skdpq.load(tmp_path / "file", mmap=True)
        distances, ids = mapped.kneighbors(X, 300)
        assert distances.shape == ids.shape == (150, 300)
        mapped.radius_neighbors(X, 2.0)
        with pytest.raises(FileFormatError):
            skdpq.load(tmp_path / "file", mmap=True, verify=True)


def test_a_mapped_file_with_flipped_bytes_is_seen_by_verify(files, tmp_path):
    data = bytearray(files["database"])
    with container.Reader(HERE / "version_1" / "database.skdpq") as reader:
        data[reader._entries["0.index_.0.ids"][2]] ^= 1
    (tmp_path / "file").write_bytes(data)
    skdpq.load(tmp_path / "file", mmap=True)
    with pytest.raises(FileFormatError, match="expected the checksum"):
        skdpq.load(tmp_path / "file", mmap=True, verify=True)


def test_a_mapped_database_takes_no_memory_of_its_own(tmp_path):
    quantizer = ProductQuantizer(M=8, K=256, random_state=0).fit(np.random.default_rng(0).normal(size=(300, 8)))
    codes = np.random.default_rng(1).integers(256, size=(2_000_000, 8), dtype=np.uint8)
    DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit_codes(codes).save(tmp_path / "file")
    code = f"""
import resource, skdpq
small = skdpq.load({str(HERE / "version_1" / "database.skdpq")!r}, mmap=True)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
neighbors = skdpq.load({str(tmp_path / "file")!r}, mmap=True)
assert len(neighbors.index_) == 2_000_000
assert resident() - before < 4 * 2**20, resident() - before
"""
    if Path("/proc/self/statm").exists():
        subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("parameters", [5, None, {}, {"estimator": 5}, {"estimator": {"estimator": 1}}, {"M": 2}])
def test_a_frozen_estimator_that_is_none_is_refused(files, refused, parameters):
    def change(header, _):
        estimators = json.loads(header["__metadata__"]["estimators"])
        (frozen,) = (each for each in estimators if each["class"] == "FrozenEstimator")
        frozen["parameters"] = parameters
        header["__metadata__"]["estimators"] = json.dumps(estimators)

    refused(rewrite(files["frozen"], change), "expected an estimator that is frozen|do not hold themselves")
