"""Values as JSON and arrays, and back: what parameters and fitted attributes are made of, and nothing that runs.

`estimators` calls it. What JSON has stands for itself; all else is an object of one entry, whose name says what it is.
"""

import math
import operator

import numpy as np

from .container import FileFormatError, holds

_LONG = 64  # a list of so many numbers becomes an array
_TEXT_ERRORS = "surrogatepass"  # names of files may hold what is no text
_TEXT = "StringDType()"  # how a file names the type of text of any length


class Encoder:
    """Turns values into JSON, and collects their arrays.

    Attributes
    ----------
    arrays : dict of str to ndarray
        By their names.
    """

    def __init__(self):
        self.arrays = {}

    def encode(self, value, name):
        """Return JSON of a value.

        Parameters
        ----------
        value : object
            The value.
        name : str
            What to call it, and its arrays.

        Returns
        -------
        json : object
            What JSON holds.

        Raises
        ------
        TypeError
            If a file cannot hold it.
        """
        if isinstance(value, np.generic) and value.dtype.kind in "biuf" and holds(value.dtype):
            return {"scalar": [value.dtype.name, self.encode(value.item(), name)]}
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, np.ndarray):
            return self._encode_array(value, name)
        if isinstance(value, list | tuple):
            return self._encode_sequence(value, name)
        if isinstance(value, dict):
            pairs = value.items()
            return {"dict": [[self.encode(key, name), self.encode(v, f"{name}.{key}")] for key, v in pairs]}
        if (type(value).__module__, type(value).__qualname__) == ("torch", "device"):
            return {"device": str(value)}
        raise TypeError(f"Expected what a file can hold, got {name}={value!r:.200}.")

    def add(self, array, name):
        """Have an array written by a name; return the name."""
        self.arrays[name] = array
        return name

    def _encode_sequence(self, value, name):
        floats = isinstance(value, list) and len(value) >= _LONG and all(type(item) is float for item in value)
        if floats:
            return {"floats": self.add(np.array(value), name)}
        items = [self.encode(item, f"{name}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}

    def _encode_array(self, array, name):
        kind = array.dtype.kind
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        is_text = kind == "U" or array.dtype == np.dtypes.StringDType()
        if is_text or (kind == "O" and all(isinstance(item, str) for item in array.flat)):
            return self._encode_text(array, name)
        if kind == "O":
            items = [self.encode(item, f"{name}.{i}") for i, item in enumerate(array.ravel().tolist())]
            return {"objects": [list(array.shape), items]}
        if holds(array.dtype):
            return {"array": self.add(array, name)}
        if kind in "mM":
            return {"times": [self.add(array.view(np.int64), name), array.dtype.str]}
        if kind == "S" and array.dtype.itemsize:
            as_bytes = np.ascontiguousarray(array).view(np.uint8).reshape(*array.shape, array.dtype.itemsize)
            return {"bytes": self.add(as_bytes, name)}
        raise TypeError(f"Expected what a file can hold, got {name} of type {array.dtype}.")

    def _encode_text(self, array, name):
        """Encode an array of strings as their UTF-8, one after the other, and where each ends."""
        items = [str(item).encode(errors=_TEXT_ERRORS) for item in array.flat]
        ends = np.cumsum([len(item) for item in items], dtype=np.int64).reshape(array.shape)
        utf8 = np.frombuffer(b"".join(items), dtype=np.uint8)
        dtype = _TEXT if array.dtype.kind == "T" else array.dtype.str  # which is another with every NumPy
        return {"text": [self.add(utf8, f"{name}.utf8"), self.add(ends, f"{name}.ends"), dtype]}


class Decoder:
    """Turns JSON of `Encoder` into values.

    Parameters
    ----------
    reader : container.Reader
        Has the arrays.
    """

    def __init__(self, reader):
        self._reader = reader
        self.left = reader.names()

    def decode(self, json):
        """Return the value of JSON.

        Parameters
        ----------
        json : object
            From `Encoder.encode`.

        Returns
        -------
        value : object
            The value.

        Raises
        ------
        FileFormatError
            If it is no JSON of `Encoder.encode`.
        """
        if json is None or isinstance(json, bool | int | float | str):
            return json
        if isinstance(json, list):
            return [self.decode(item) for item in json]
        if len(json) != 1:
            raise FileFormatError(f"expected one name of what a value is, got {list(json)!r:.100}.")
        ((tag, content),) = json.items()
        if tag not in _TAGS:
            raise FileFormatError(f"expected a value among {', '.join(_TAGS)}, got {tag!r:.50}.")
        if not isinstance(content, _TAGS[tag]):
            raise FileFormatError(f"expected the parts of {tag}, got {content!r:.50}.")
        return self.array(content) if tag == "array" else getattr(self, f"_decode_{tag}")(content)

    def array(self, name, mapped=False):
        """Return an array by its name; a copy of it, or `mapped` as it is in the file."""
        if not isinstance(name, str) or name not in self.left:
            raise FileFormatError(f"expected the name of an array that is there once, got {name!r:.100}.")
        self.left.discard(name)
        return self._reader.mapped(name) if mapped else self._reader.read(name)

    def _decode_float(self, text):
        if text not in ("nan", "inf", "-inf"):
            raise FileFormatError(f"expected nan, inf or -inf, got {text!r:.50}.")
        return float(text)

    def _decode_scalar(self, content):
        if len(content) != 2 or not isinstance(content[0], str):
            raise FileFormatError(f"expected a type and a number, got {content!r:.100}.")
        dtype, value = _dtype(content[0], "biuf"), self.decode(content[1])
        try:
            return dtype.type({"b": bool, "f": float}.get(dtype.kind, operator.index)(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(f"expected a number of the type {dtype}, got {value!r:.50}.") from error

    def _decode_tuple(self, items):
        return tuple(self.decode(items))

    def _decode_floats(self, name):
        array = self.array(name)
        if array.dtype != np.float64 or array.ndim != 1:
            raise FileFormatError(f"expected a list of float64, got {array.dtype} of shape {array.shape}.")
        return array.tolist()

    def _decode_dict(self, pairs):
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise FileFormatError("expected pairs of a key and a value, got others.")
        keys, values = ([self.decode(pair[i]) for pair in pairs] for i in (0, 1))
        if not all(isinstance(key, bool | int | float | str) for key in keys) or len(set(keys)) < len(keys):
            raise FileFormatError("expected keys that differ, got others.")
        return dict(zip(keys, values, strict=True))

    def _decode_device(self, name):
        import torch

        try:
            return torch.device(name)
        except RuntimeError as error:
            raise FileFormatError(f"expected a device, got {name!r:.50}: {error}") from error

    def _decode_objects(self, content):
        shape, items = content if len(content) == 2 else (None, None)
        if not isinstance(shape, list) or not isinstance(items, list) or not all(type(n) is int for n in shape):
            raise FileFormatError("expected a shape and items of an array of objects, got others.")
        if min(shape, default=1) < 0 or math.prod(shape) != len(items) or max(shape, default=0) > len(items):
            raise FileFormatError(f"expected {shape!r:.50} items, got {len(items)}.")
        values = np.empty(len(items), dtype=object)
        for i, item in enumerate(items):
            values[i] = self.decode(item)
        return values.reshape(shape)

    def _decode_times(self, content):
        name, dtype = self._names(content, 2)
        array = self.array(name)
        if array.dtype != np.int64:
            raise FileFormatError(f"expected times as int64, got {array.dtype}.")
        return array.view(_dtype(dtype, "mM").newbyteorder("="))

    def _decode_bytes(self, name):
        array = self.array(name)
        if array.dtype != np.uint8 or array.ndim < 1 or not array.shape[-1]:
            raise FileFormatError(f"expected bytes, got {array.dtype} of shape {array.shape}.")
        return array.view(f"S{array.shape[-1]}").reshape(array.shape[:-1])

    def _decode_text(self, content):
        utf8, ends, dtype = self._names(content, 3)
        utf8, ends, dtype = self.array(utf8), self.array(ends), _dtype(dtype, "UTO")
        lengths = np.diff(ends.ravel(), prepend=0)
        if utf8.dtype != np.uint8 or ends.dtype != np.int64 or utf8.shape != (lengths.sum(),) or (lengths < 0).any():
            raise FileFormatError("expected UTF-8 and where each string of it ends, got others.")
        text, starts = utf8.tobytes(), (ends.ravel() - lengths).tolist()
        try:
            items = [text[a:b].decode(errors=_TEXT_ERRORS) for a, b in zip(starts, ends.ravel().tolist(), strict=True)]
        except UnicodeDecodeError as error:
            raise FileFormatError(f"expected UTF-8, got other bytes: {error}") from error
        if dtype.kind == "U" and max(map(len, items), default=0) * 4 > dtype.itemsize:
            raise FileFormatError(f"expected strings that {dtype} holds, got longer ones.")
        if dtype.itemsize * len(items) > _MOST_PADDING * (len(text) + 64 * len(items) + 64):
            raise FileFormatError(f"expected strings as long as {dtype} holds, got far shorter ones.")
        return np.array(items, dtype=dtype).reshape(ends.shape)

    @staticmethod
    def _names(content, n):
        if len(content) != n or not all(isinstance(item, str) for item in content):
            raise FileFormatError(f"expected {n} names, got {content!r:.100}.")
        return content


_TAGS = {
    **dict.fromkeys(("array", "bytes", "device", "float", "floats"), str),
    **dict.fromkeys(("dict", "objects", "scalar", "text", "times", "tuple"), list),
}
_MOST_PADDING = 256  # times the bytes of the text itself


def _dtype(text, kinds):
    """Return a type by its name, if it is of one of some kinds."""
    try:
        dtype = np.dtypes.StringDType() if text == _TEXT else np.dtype(text)
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"expected a type, got {text!r:.50}.") from error
    if dtype.kind not in kinds or dtype.fields or dtype.subdtype:
        raise FileFormatError(f"expected a type of the kinds {kinds}, got {text!r:.50}.")
    return dtype
