"""Ids of items: strings, membership, and what the items are, beside a plain list of strings."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

import skdpq
from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer

X, Y = load_iris(return_X_y=True)
Y = np.array(["setosa", "versicolor", "virginica"])[Y]
NAMES = np.array([f"flowers/{i * 7 % 150}.png" for i in range(150)], dtype=object)
QUANTIZER = FrozenEstimator(ProductQuantizer(M=2, K=8, random_state=0).fit(X))


def numbered():
    """Return a database with the same items, whose ids are numbers."""
    return DPQNeighbors(quantizer=QUANTIZER).fit(X, Y)


def named():
    return DPQNeighbors(quantizer=QUANTIZER).fit(X, Y, ids=NAMES)


@pytest.fixture(scope="module")
def neighbors():
    return named()


def test_neighbors_are_found_by_their_names(neighbors):
    assert neighbors.ids_.tolist() == NAMES.tolist()
    for search in (
        lambda e: e.kneighbors(X[::5], 7),
        lambda e: e.kneighbors(n_neighbors=3),
        lambda e: e.kneighbors_codes(e.codes_[::9]),
        lambda e: e.radius_neighbors(X[::5], 0.5),
        lambda e: e.radius_neighbors(radius=0.5),
    ):
        distances, ids = search(neighbors)
        expected, numbers = search(numbered())
        for found, wanted in ((distances, expected), (ids, [NAMES[row.astype(int)] for row in numbers])):
            for row, wanted_row in zip(found, wanted, strict=True):
                assert_array_equal(row, wanted_row)
    assert isinstance(neighbors.kneighbors(X[:1], 1, return_distance=False)[0, 0], str)


def test_graphs_and_scores_do_not_depend_on_names(neighbors):
    for call in (
        lambda e: e.kneighbors_graph(X[::5], 4, mode="distance").toarray(),
        lambda e: e.radius_neighbors_graph(X[::5], 0.5).toarray(),
        lambda e: e.transform(X[::5]).toarray(),
        lambda e: e.score(X[::5], Y[::5]),
        lambda e: e.codes_,
    ):
        assert_array_equal(call(neighbors), call(numbered()))


def test_labels_and_codes_of_names(neighbors):
    ids = neighbors.kneighbors(X[::5], 7, return_distance=False)
    assert_array_equal(neighbors.labels_of(ids), Y[[[NAMES.tolist().index(i) for i in row] for row in ids]])
    hard = QUANTIZER.decode(QUANTIZER.encode(X))
    assert_array_equal(neighbors.reconstruct(NAMES[[[3, 5], [5, 140]]]), hard[[[3, 5], [5, 140]]])
    assert_array_equal(numbered().reconstruct([3, 3, 5]), hard[[3, 3, 5]])
    assert numbered().reconstruct(7).shape == (4,)
    for unknown in (["nothing"], [0]):
        for method in (neighbors.labels_of, neighbors.reconstruct, neighbors.remove):
            with pytest.raises(ValueError, match="Expected ids of the database"):
                method(unknown)
    with pytest.raises(ValueError, match="which are integers, got \\['3'\\]"):
        numbered().labels_of(["3"])


def test_length_and_membership(neighbors):
    assert len(neighbors) == len(numbered()) == 150
    assert "flowers/3.png" in neighbors
    assert "3" not in neighbors
    assert 3 not in neighbors
    database = numbered().remove([3])
    assert 3 not in database
    assert np.int64(4) in database
    assert "4" not in database
    assert 4.5 not in database
    assert None not in database
    assert -1 not in database
    assert 2**70 not in database
    assert DPQNeighbors()  # as an object is
    assert numbered().remove(range(150))
    for call in (len, lambda e: 3 in e, lambda e: e.reconstruct([3])):
        with pytest.raises(NotFittedError):
            call(DPQNeighbors())


OPERATIONS = st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.randoms(use_true_random=False)), max_size=5)


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])
@given(OPERATIONS, st.booleans(), st.booleans())
def test_additions_and_removals_by_name(tmp_path_factory, operations, labelled, mmap):
    """Saved and loaded after each, ties in the order of addition."""
    path, free = tmp_path_factory.mktemp("ids") / "file", [f"Ä{i}" for i in range(60)]
    items = [(name, i % 150) for i, name in enumerate(NAMES[:20])]

    def rows():
        return [row for _, row in items]

    database = DPQNeighbors(quantizer=QUANTIZER).fit(X[:20], Y[:20] if labelled else None, ids=NAMES[:20])
    for adds, n, random in operations:
        if adds:
            new = [(free.pop(), random.randrange(150)) for _ in range(n)]
            added = [row for _, row in new]
            database.add(X[added], Y[added] if labelled else None, ids=[name for name, _ in new])
            items += new
        else:
            gone = random.sample(items, min(n, len(items) - 1))
            database.remove([name for name, _ in gone])
            items = [item for item in items if item not in gone]
        expected = DPQNeighbors(quantizer=QUANTIZER).fit(X[rows()])
        database.save(path)
        for each in (database, skdpq.load(path, mmap=mmap), pickle.loads(pickle.dumps(database)), copy.copy(database)):
            assert each.ids_.tolist() == [name for name, _ in items]
            k = min(5, len(items))
            distances, ids = each.kneighbors(X[::40], k)
            wanted, positions = expected.kneighbors(X[::40], k)
            assert_array_equal(distances, wanted)
            assert ids.tolist() == [[items[i][0] for i in row] for row in positions]
            if labelled:
                assert each.labels_of(each.ids_).tolist() == Y[rows()].tolist()


def test_ids_of_two_kinds_do_not_mix():
    for call, match in (
        (lambda: named().add(X[:1], Y[:1]), "Expected ids, as those of the database are strings, got None"),
        (lambda: named().add(X[:1], Y[:1], ids=[3]), "Expected ids that are strings, as in the database"),
        (lambda: numbered().add(X[:1], Y[:1], ids=["a"]), "Expected ids that are integers, as in the database"),
        (lambda: named().add(X[:1], Y[:1], ids=["a", "b"]), "Expected one id for each of 1 "),
        (lambda: named().add(X[:2], Y[:2], ids=["a", "a"]), "Expected ids that differ, got 'a' twice"),
        (lambda: named().add(X[:1], Y[:1], ids=NAMES[:1]), "Expected ids that are not in the database yet"),
        (lambda: named().add(X[:2], Y[:2], ids=[["a", "b"]]), "1-D"),
        (lambda: numbered().fit(X, ids=["a", 1]), "all strings or all integers"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_wrong_names_are_refused_before_anything_is_learned():
    quantizer = DPQClassifier(max_iter=10**6)
    for ids in (["a"] * 150, NAMES[:3]):
        with pytest.raises(ValueError, match=r"got 'a' twice|one id for each of 150"):
            DPQNeighbors(quantizer=quantizer).fit(X, Y, ids=ids)


def test_names_of_pandas_and_of_numpy_are_taken():
    for ids in (pd.Series(NAMES), pd.Series(NAMES, dtype="str"), NAMES.astype("U"), NAMES.tolist(), pd.Index(NAMES)):
        assert DPQNeighbors(quantizer=QUANTIZER).fit(X, ids=ids).ids_.tolist() == NAMES.tolist()
    frame = pd.DataFrame({"label": Y}, index=NAMES)
    ids = make_pipeline(named())[-1].kneighbors(X[:2], 3, return_distance=False)
    assert frame.loc[ids.ravel(), "label"].tolist() == named().labels_of(ids).ravel().tolist()


def test_a_fit_without_names_forgets_them():
    database = named()
    assert database.fit(X).ids_.tolist() == list(range(150))
    assert database.fit_codes(QUANTIZER.encode(X), ids=NAMES).ids_.tolist() == NAMES.tolist()


def test_a_search_among_some_takes_names(neighbors):
    some = NAMES[10:60]
    for among in (some, some.astype("U").tolist(), np.isin(neighbors.ids_, some)):
        distances, ids = neighbors.kneighbors(X[::9], 4, among=among)
        expected, numbers = numbered().kneighbors(X[::9], 4, among=np.arange(10, 60))
        assert_array_equal(distances, expected)
        assert_array_equal(ids, NAMES[numbers])
        found = neighbors.radius_neighbors(X[:1], 0.5, return_distance=False, among=among)[0]
        assert set(found) <= set(some)
    for among, match in (([3], "which are strings"), (["none"], r"Expected ids of the database, got \['none'\]")):
        with pytest.raises(ValueError, match=match):
            neighbors.kneighbors(X[:1], 1, among=among)
    with pytest.raises(ValueError, match="which are integers"):
        numbered().kneighbors(X[:1], 1, among=["3"])


def test_a_search_among_some_takes_tensors():
    some = torch.arange(10, 60)
    expected = numbered().kneighbors(X[::9], 4, among=some.numpy())[1]
    for among in (some, torch.isin(torch.arange(150), some)):
        assert_array_equal(numbered().kneighbors(X[::9], 4, among=among)[1], expected)
