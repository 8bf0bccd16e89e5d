"""The container: arrays by name and a few strings, in a file of the safetensors format.

`files` calls it. A file is the length of its header (eight bytes), the header (JSON), and the bytes of the arrays
without a gap. Each array has a checksum in the header, and the header has one of itself, so that no byte can change
unseen. It is written and read here rather than by the safetensors package, as that copies what it writes and reads:
these arrays are written from where they are, stand where a vector of 64 bytes crosses no cache line, and can be mapped.
"""

import contextlib
import io
import json
import mmap
import os
import secrets
import stat
import zlib
from math import prod

import numpy as np

CACHE_LINE_BYTES = 64
MAX_HEADER_BYTES = 2**22  # as JSON in Python takes some 25 times as much
_MAX_DIMENSIONS = 32
_START = b'{"__metadata__":{"header_crc32":"'
_NO_CRC32 = b"00000000"
_CHUNK_BYTES = 2**24
_TYPES = {
    "BOOL": np.dtype("?"),
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


class FileFormatError(ValueError):
    """A file is not what it should be: damaged, cut off, of another kind, or made to do harm."""


def write(path, metadata, arrays):
    """Write a file, so that at any moment there is either what was there before or all of the new one.

    Parameters
    ----------
    path : str or path-like
        Where to; a file there is replaced, and one that a symbolic link leads to stays where it is.
    metadata : dict of str to str
        Strings for the header.
    arrays : dict of str to ndarray
        Of types that `holds` names.

    Raises
    ------
    OSError
        If it cannot be written; then what was there is as it was, and nothing else is left.
    """
    arrays = {
        name: np.asarray(arrays[name], arrays[name].dtype.newbyteorder("<"), order="C") for name in _order(arrays)
    }
    write_whole(path, [_header(metadata, arrays), *map(_bytes_of, arrays.values())])


def write_whole(path, pieces):
    """Write pieces of bytes to a file, as `write` does: what was there before, or all of the new one."""
    path = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def holds(dtype):
    """Tell whether a file can hold arrays of a type."""
    return dtype.kind in "biuf" and dtype.newbyteorder("<") in _NAMES


def _order(arrays):
    """Return names so that each array starts at a multiple of its item's size, and large ones at one of a cache line.

    Headers end at a multiple of a cache line, and so do all arrays of as many bytes as some of them.
    """
    lines = {name: array.nbytes % CACHE_LINE_BYTES == 0 for name, array in arrays.items()}
    return sorted(arrays, key=lambda name: (not lines[name], -arrays[name].itemsize, name))


def _header(metadata, arrays):
    """Return the first bytes of a file, up to where its arrays begin."""
    entries, start = {}, 0
    for name, array in arrays.items():
        offsets = [start, start + array.nbytes]
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": offsets}
        start += array.nbytes
    checksums = json.dumps({name: _hex(zlib.crc32(_bytes_of(array))) for name, array in arrays.items()})
    metadata = {"header_crc32": _NO_CRC32.decode(), **metadata, "crc32": checksums}
    header = json.dumps({"__metadata__": metadata} | entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % CACHE_LINE_BYTES)
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"Expected parameters that take at most {MAX_HEADER_BYTES:,} bytes, got {len(header):,}.")
    end = len(_START)
    header = header[:end] + _hex(zlib.crc32(header)).encode() + header[end + len(_NO_CRC32) :]
    return len(header).to_bytes(8, "little") + header


def _hex(crc32):
    return f"{crc32:08x}"


def _bytes_of(array):
    """Return the memory of a contiguous array, as bytes."""
    return array.reshape(-1).view(np.uint8).data


def _sync_folder(folder):
    """Make a new name last, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class Reader:
    """A file that is read.

    Parameters
    ----------
    path : str or path-like
        The file.

    Attributes
    ----------
    metadata : dict of str to str
        The strings of the header.

    Raises
    ------
    FileFormatError
        If the header is not that of a file of `write`, whole.
    OSError
        If it cannot be opened.
    """

    def __init__(self, path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise FileFormatError("expected a file, got a folder or a device.")
        self._file = io.FileIO(path)
        self._map = None
        try:
            self.metadata, self._entries = self._read_header()
            self._checksums = _checksums(self.metadata, self._entries)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def names(self):
        """Return the names of all arrays."""
        return set(self._entries)

    def read(self, name):
        """Return a copy of an array, in whose memory no vector of 64 bytes crosses a cache line.

        Raises FileFormatError if its checksum is another.
        """
        dtype, shape, start, n_bytes = self._entries[name]
        buffer = np.empty(n_bytes + CACHE_LINE_BYTES, dtype=np.uint8)
        first = -buffer.ctypes.data % CACHE_LINE_BYTES
        content = buffer[first : first + n_bytes]
        self._file.seek(start)
        crc32 = 0
        for at in range(0, n_bytes, _CHUNK_BYTES):  # so that the checksum is of what is in the cache
            chunk = content[at : at + _CHUNK_BYTES]
            if self._file.readinto(chunk) != len(chunk):
                raise FileFormatError("expected a file that stays as it is, got one that is cut off meanwhile.")
            crc32 = zlib.crc32(chunk, crc32)
        if _hex(crc32) != self._checksums[name]:
            raise FileFormatError(f"expected the checksum {self._checksums[name]} of {name}, got {_hex(crc32)}.")
        if dtype.kind == "b" and content.max(initial=0) > 1:
            raise FileFormatError(f"expected truth values in {name}, got other bytes.")
        return content.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)

    def verify(self):
        """Raise FileFormatError if the checksum of an array is another."""
        for name in self._entries:
            self.read(name)

    def mapped(self, name):
        """Return an array in the memory of the file, whose checksum is not looked at.

        What is written to it does not come to the file.
        """
        dtype, shape, start, n_bytes = self._entries[name]
        if self._map is None:
            self._map = _map_private(self._file)
        count = n_bytes // dtype.itemsize
        array = np.frombuffer(self._map, dtype, count, start) if count else np.empty(0, dtype)
        return array.reshape(shape).astype(dtype.newbyteorder("="), copy=False)

    def _read_header(self):
        """Return metadata, and by name the type, the shape, the position and the length of each array."""
        n_file = os.fstat(self._file.fileno()).st_size
        n_header = int.from_bytes(self._file.read(8), "little")
        if n_file < 8 + len(_START) or not len(_START) + len(_NO_CRC32) <= n_header <= n_file - 8:
            raise FileFormatError("expected a file written by save, got one that is too short or of another kind.")
        if n_header > MAX_HEADER_BYTES:
            raise FileFormatError(f"expected a header of at most {MAX_HEADER_BYTES:,} bytes, got {n_header:,}.")
        header = self._file.read(n_header)
        if len(header) != n_header or not header.startswith(_START):
            raise FileFormatError("expected a file written by save, got one of another kind.")
        end = len(_START)
        crc32 = header[end : end + len(_NO_CRC32)]
        if crc32.decode("latin-1") != _hex(zlib.crc32(header[:end] + _NO_CRC32 + header[end + len(crc32) :])):
            raise FileFormatError("expected the checksum of the header, got another.")
        entries = parse_json(header)
        metadata = entries.pop("__metadata__")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise FileFormatError("expected metadata of strings, got others.")
        arrays = {name: _check_entry(name, entry, 8 + n_header) for name, entry in entries.items()}
        end = 8 + n_header
        for name, (_, _, start, n_bytes) in sorted(arrays.items(), key=lambda item: item[1][2:]):
            if start != end:
                raise FileFormatError(f"expected arrays one after the other, got {name} at {start:,} after {end:,}.")
            end += n_bytes
        if end != n_file:
            raise FileFormatError(f"expected a file of {end:,} bytes, got {n_file:,}.")
        return metadata, arrays


def _check_entry(name, entry, n_before):
    """Return the type, the shape, the position in the file and the length of an array."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(f"expected dtype, shape and data_offsets of {name}, got others.")
    dtype, shape, offsets = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise FileFormatError(f"expected a type among {', '.join(_TYPES)} of {name}, got {dtype!r:.50}.")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise FileFormatError(f"expected a shape and two offsets of {name}, got {shape!r:.50} and {offsets!r:.50}.")
    n_bytes, dtype = offsets[1] - offsets[0], _TYPES[dtype]
    if prod(size or 1 for size in shape) * dtype.itemsize >= 2**62:
        raise FileFormatError(f"expected a shape that memory can have of {name}, got {shape!r:.50}.")
    if prod(shape) * dtype.itemsize != n_bytes:
        raise FileFormatError(f"expected {prod(shape) * dtype.itemsize:,} bytes of {name}, got {n_bytes:,}.")
    if offsets[0] % dtype.itemsize:
        raise FileFormatError(f"expected {name} at a multiple of {dtype.itemsize} bytes, got {offsets[0]:,}.")
    return dtype, tuple(shape), n_before + offsets[0], n_bytes


def _are_sizes(values):
    """Tell whether values are a list of sizes that NumPy takes."""
    return isinstance(values, list) and all(type(size) is int and 0 <= size < 2**62 for size in values)


def _checksums(metadata, entries):
    checksums = parse_json(metadata.get("crc32", ""))
    if not isinstance(checksums, dict) or checksums.keys() != entries.keys():
        raise FileFormatError("expected a checksum of each array, got others.")
    return checksums


def parse_json(text):
    """Return what JSON says; FileFormatError where it is none, names something twice, or nests too deep."""

    def unique(pairs):
        values = dict(pairs)
        if len(values) < len(pairs):
            raise FileFormatError("expected each name once in the header, got one twice.")
        return values

    def refuse(name):
        raise FileFormatError(f"expected JSON in the header, got {name}.")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"expected JSON in the header, got none: {error}") from error


def _map_private(file):
    """Map a file so that arrays on it may be written to, which kernels are compiled for, without changing it."""
    if hasattr(mmap, "MAP_PRIVATE"):
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)  # a file may be larger than the memory
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
