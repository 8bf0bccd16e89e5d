"""The container: what is written comes back, by whom ever it is read, and a file is always whole."""

import json
import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

from skdpq import FileFormatError
from skdpq._files.container import Reader, holds, write

NUMBERS = scalar_dtypes().filter(holds)
ARRAYS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    NUMBERS.flatmap(lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0, max_side=9))),
    max_size=5,
)


def plain_read(path):
    """Read a file by docs/file_format.md and NumPy alone, without any check: strings by name, and arrays by name."""
    types = {"BOOL": "?", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
    types |= {f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    checksums = json.loads(metadata["crc32"])
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        content = data[start + begin : start + end]
        assert f"{zlib.crc32(content):08x}" == checksums[name]
        found[name] = np.frombuffer(content, types[entry["dtype"]]).reshape(entry["shape"])
    return metadata, found


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert_array_equal(found[name], array)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("container") / "file"


@given(ARRAYS, st.dictionaries(st.sampled_from(["one", "two"]), st.text()))
def test_every_reader_finds_what_was_written(path, written, metadata):
    write(path, metadata, written)
    with Reader(path) as reader:
        assert reader.names() == written.keys()
        assert reader.metadata.items() >= metadata.items()
        same({name: reader.read(name) for name in written}, written)
        mapped = {name: reader.mapped(name) for name in written}
    same(mapped, written)
    same(load_file(path), written)
    found, arrays_found = plain_read(path)
    assert found.items() >= metadata.items()
    same(arrays_found, written)


def test_arrays_of_whole_cache_lines_start_at_one(path):
    written = {
        f"{i}": np.arange(size, dtype=dtype) for i, (size, dtype) in enumerate([(3, "u1"), (128, "u1"), (16, "f4")])
    }
    write(path, {}, written)
    with Reader(path) as reader:
        for name in ("1", "2"):
            assert reader.mapped(name).ctypes.data % 64 == 0
            assert reader.read(name).ctypes.data % 64 == 0


def test_a_mapped_array_can_be_written_to_without_changing_the_file(path):
    write(path, {}, {"a": np.arange(5)})
    with Reader(path) as reader:
        array = reader.mapped("a")
    array[:] = 7
    with Reader(path) as reader:
        assert_array_equal(reader.read("a"), np.arange(5))


def test_a_file_of_safetensors_without_checksums_is_refused(path):
    save_file({"a": np.arange(3)}, path)
    with pytest.raises(FileFormatError, match="of another kind"):
        Reader(path)


def test_a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path):
    mask = os.umask(0o027)
    try:
        write(tmp_path / "file", {}, {})
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    (tmp_path / "file").chmod(0o604)
    write(tmp_path / "file", {}, {})
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o604


def test_a_symbolic_link_goes_on_to_lead_to_the_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write(tmp_path / "link", {}, {"a": np.arange(3)})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").is_file()


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_what_is_raised_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error, step):
    write(tmp_path / "file", {}, {"a": np.arange(3)})
    before = (tmp_path / "file").read_bytes()

    def raise_error(*_, **__):
        raise error

    monkeypatch.setattr(os, step, raise_error)
    with pytest.raises(type(error)):
        write(tmp_path / "file", {}, {"a": np.arange(4)})
    assert (tmp_path / "file").read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path):
    code = f"""
import resource, signal
import numpy as np
from skdpq._files.container import write
write({str(tmp_path / "file")!r}, {{}}, {{"a": np.arange(3)}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
try:
    write({str(tmp_path / "file")!r}, {{}}, {{"a": np.arange(2**20)}})
except OSError:
    print("raised")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "raised\n"
    assert os.listdir(tmp_path) == ["file"]
    same(load_file(tmp_path / "file"), {"a": np.arange(3)})


def test_a_process_that_is_killed_while_it_writes_leaves_a_file_that_is_whole(tmp_path):
    """200 times, at a random moment: the file is one of those that it had written, or was about to."""
    code = f"""
import os, random, signal, time
import numpy as np
from skdpq._files.container import Reader, write

path, rng = {str(tmp_path / "file")!r}, random.Random(0)
versions = [np.full(n, n) for n in (30_000, 60_000)]
write(path, {{}}, {{"a": versions[0]}})
seen = set()
for _ in range(200):
    child = os.fork()
    if child == 0:
        while True:
            for version in versions:
                write(path, {{}}, {{"a": version}})
    time.sleep(rng.random() * 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with Reader(path) as reader:
        found = reader.read("a")
    seen.add(len(found))
    assert (found == len(found)).all()
print(sorted(seen))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "[30000, 60000]\n", result.stderr
