"""Pickles say which version made them, and loading those of another warns."""

import copy
import pickle
import warnings

import joblib
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skdpq
from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq._search.index import CodeIndex

X, Y = load_iris(return_X_y=True)
SMALL = {"M": 2, "K": 4, "random_state": 0}


def fitted():
    dpq = DPQTransformer(**SMALL, max_iter=1).fit(X, Y)
    return {
        "DPQTransformer": dpq,
        "DPQClassifier": DPQClassifier(**SMALL, max_iter=1).fit(X, Y),
        "ProductQuantizer": ProductQuantizer(**SMALL).fit(X),
        "DPQNeighbors": DPQNeighbors(quantizer=FrozenEstimator(dpq)).fit(X, Y),
        "CodeIndex": CodeIndex(dpq.codebooks_).add(dpq.encode(X)),
        "unfitted": DPQClassifier(),
        "Pipeline": make_pipeline(StandardScaler(), ProductQuantizer(**SMALL)).fit(X),
    }


FITTED = fitted()


def of_another_version(estimator, monkeypatch, version="0.0.1"):
    with monkeypatch.context() as patch:
        patch.setattr("skdpq._versions.__version__", version)
        return pickle.dumps(estimator)


@pytest.mark.parametrize("name", FITTED)
def test_a_pickle_of_another_version_warns_and_loads(name, monkeypatch):
    pickled = of_another_version(FITTED[name], monkeypatch)
    with pytest.warns(InconsistentVersionWarning) as caught:
        restored = pickle.loads(pickled)
    names = {warning.message.estimator_name for warning in caught}
    known = {"unfitted": "DPQClassifier", "Pipeline": "ProductQuantizer"}.get(name, name)
    assert known in names
    assert names <= {"DPQNeighbors", "CodeIndex", "DPQTransformer"} if name == "DPQNeighbors" else names == {known}
    message = str(caught[-1].message)
    assert f"skdpq 0.0.1 with skdpq {skdpq.__version__}" in message
    assert "scikit-learn" not in message
    if name == "CodeIndex":
        assert_array_equal(restored.codes, FITTED[name].codes)
    elif name == "DPQNeighbors":
        assert_array_equal(restored.kneighbors(X)[1], FITTED[name].kneighbors(X)[1])
    elif name != "unfitted":
        assert_array_equal(restored.transform(X), FITTED[name].transform(X))


@pytest.mark.parametrize("name", FITTED)
def test_a_pickle_of_this_version_and_a_copy_do_not_warn_and_carry_nothing_more(name, tmp_path):
    estimator = FITTED[name]
    joblib.dump(estimator, tmp_path / "file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restored = pickle.loads(pickle.dumps(estimator))
        copies = [restored, copy.copy(estimator), copy.deepcopy(estimator), joblib.load(tmp_path / "file")]
    for one in copies:
        assert set(vars(one)) == set(vars(estimator))
    assert pickle.dumps(restored) == pickle.dumps(pickle.loads(pickle.dumps(restored)))


def test_a_pickle_without_a_version_warns():
    pq = FITTED["ProductQuantizer"]
    restored = ProductQuantizer.__new__(ProductQuantizer)
    with pytest.warns(InconsistentVersionWarning, match="ProductQuantizer of skdpq .*no stamp"):
        restored.__setstate__(dict(vars(pq)))
    assert_array_equal(restored.encode(X), pq.encode(X))


def test_a_subclass_is_stamped_too(monkeypatch):
    class Mine(ProductQuantizer):
        pass

    state = Mine(**SMALL).fit(X).__getstate__()
    stamps = [name for name, value in state.items() if value is skdpq.__version__]
    assert len(stamps) == 1
    state[stamps[0]] = "9.9"
    with pytest.warns(InconsistentVersionWarning, match="Mine of skdpq 9.9"):
        Mine().__setstate__(state)
