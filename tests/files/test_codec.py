"""Values become JSON and arrays, and these the same values again."""

import datetime
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from numpy.testing import assert_array_equal

from skdpq._files.codec import Decoder, Encoder

ARRAY_TYPES = scalar_dtypes().filter(lambda dtype: dtype.kind != "c" and dtype.itemsize <= 8)
TEXT = st.text(st.characters(exclude_characters="\0"), max_size=9)
LABELS = st.one_of(
    ARRAY_TYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(min_side=0, max_side=5))),
    st.lists(TEXT, min_size=1, max_size=5).map(np.array),
    st.lists(TEXT, max_size=5).map(lambda items: np.array(items, dtype=object)),
    st.lists(TEXT, max_size=5).map(lambda items: np.array(items, dtype=np.dtypes.StringDType())),
    st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=4).map(np.array),
    st.lists(st.one_of(st.integers(), st.none(), TEXT), max_size=4).map(lambda items: np.array([*items, None])[:-1]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(
    st.one_of(SCALARS, LABELS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.integers(), TEXT), inner, max_size=3),
    ),
)


class Arrays:
    """In the place of a file that is read."""

    def __init__(self, arrays):
        self.arrays = arrays

    def names(self):
        return set(self.arrays)

    def read(self, name):
        return self.arrays[name]


def again(value):
    encoder = Encoder()
    text = json.dumps(encoder.encode(value, "value"), allow_nan=False)
    decoder = Decoder(Arrays(encoder.arrays))
    decoded = decoder.decode(json.loads(text))
    assert not decoder.left
    return decoded


def same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype if expected.dtype.isnative else expected.dtype.newbyteorder("=")
        assert found.shape == expected.shape
        assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            same(*pair)
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == expected


@given(VALUES)
def test_values_come_back(value):
    same(again(value), value)


@pytest.mark.parametrize("n", [63, 64, 1000])
def test_long_lists_of_floats_come_back_and_take_little_json(n):
    values = [1 / (i + 1) for i in range(n - 1)] + [math.inf]
    same(again(values), values)
    assert len(json.dumps(Encoder().encode(values, "value"))) < 2000


def test_scalars_of_numpy_come_back():
    values = [np.int64(3), np.uint64(2**64 - 1), np.float32(0.1), np.float16(np.inf), np.bool_(True)]
    same(again(values), values)


def test_devices_and_names_that_are_no_text_come_back():
    assert again(torch.device("cuda:1")) == torch.device("cuda:1")
    same(again(np.array(["a\udcff", "b"], dtype=object)), np.array(["a\udcff", "b"], dtype=object))


@pytest.mark.parametrize(
    "value",
    [
        len,
        object(),
        np.random.RandomState(0),
        datetime.date(2000, 1, 1),
        {"a": {1, 2}},
        np.zeros(2, dtype=complex),
        np.zeros(2, dtype=[("a", int)]),
        np.array([object()]),
        np.array(["a"], dtype=np.dtypes.StringDType(na_object=None)),
    ],
)
def test_what_a_file_cannot_hold_is_named(value):
    with pytest.raises(TypeError, match="Expected what a file can hold, got value"):
        Encoder().encode(value, "value")
