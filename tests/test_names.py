"""Names of items, beside a plain list of strings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skdpq._names import as_names, names_of

LISTS = st.lists(st.text(max_size=4), unique=True, max_size=12)


def array(names):
    return np.array([*names, None], dtype=object)[:-1]


@given(LISTS, LISTS, st.randoms(use_true_random=False))
def test_names_are_found_after_additions_and_removals(first, more, random):
    more = [name for name in more if name not in first]
    names, model = names_of(array(first)).append(array(more)), first + more
    for _ in range(2):
        names.check(len(model), thorough=True)
        assert names.at(np.arange(len(model))).tolist() == model
        wanted = array([*model, "no such name", "", "\U0010ffff"])
        assert names.find(wanted).tolist() == [model.index(n) if n in model else -1 for n in wanted]
        kept = np.array([random.random() < 0.6 for _ in model], dtype=bool)
        names, model = names.keep(kept), [name for name, keeps in zip(model, kept, strict=True) if keeps]


def test_the_same_name_twice_is_refused():
    with pytest.raises(ValueError, match="Expected ids that differ, got 'b' twice"):
        names_of(array("abcb"))
    with pytest.raises(ValueError, match=r"not in the database yet, got \['c'\]"):
        names_of(array("abc")).append(array("dc"))


def test_names_that_are_no_text_and_of_any_shape():
    names = names_of(array(["a\udcff", "b"]))
    assert names.at(np.array([[1, 0]])).tolist() == [["b", "a\udcff"]]
    assert names.find(array(["a\udcff", "b", "b", "c"]).reshape(2, 2)).tolist() == [[0, 1], [1, -1]]


@pytest.mark.parametrize("dtype", ["U", object, np.dtypes.StringDType()])
def test_strings_of_any_type_are_names(dtype):
    names = as_names(np.array([["a", "bc"]], dtype=dtype))
    assert names.tolist() == [["a", "bc"]]
    assert names.dtype == object


def test_what_is_no_string_is_no_name():
    for ids in ([1, 2], [], np.array([1, 2], dtype=object), [b"a"], [1.5]):
        assert as_names(ids) is None
    with pytest.raises(ValueError, match="all strings or all integers, got both"):
        as_names(["a", 1])


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("order", [1, 0, 2], "in order"),
        ("order", [0, 0, 2], "each position of a name once"),
        ("ends", [1, 0, 3], "one after the other"),
        ("ends", [1, 2, 4], "one after the other"),
        ("utf8", [97, 255, 99], "UTF-8|utf-8|in order"),
        ("utf8", [97, 97, 99], "in order"),
    ],
)
def test_names_that_do_not_fit_are_refused(field, value, match):
    names = names_of(array("abc"))
    changed = names._replace(**{field: np.array(value, dtype=getattr(names, field).dtype)})
    with pytest.raises(ValueError, match=match):
        changed.check(3, thorough=True)
    with pytest.raises(ValueError, match="expected ends of shape"):
        names.check(4, thorough=False)
