"""Estimators come back from files as they were, in every state; what a file cannot hold is named."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer

X, TARGETS = load_iris(return_X_y=True)
QUERIES = X[::11] + 0.05
LABELS = {
    "int64": TARGETS,
    "int8": TARGETS.astype(np.int8) - 1,
    "uint64": TARGETS.astype(np.uint64) + 2**63,
    "float": TARGETS * 2.0,
    "bool": TARGETS > 0,
    "str": np.array(["setosa", "versicolor", "virginica"])[TARGETS],
    "object": np.array(["Ä", "ß\U0001f33c", ""], dtype=object)[TARGETS],
}
SMALL = {"M": 2, "K": 4, "hidden_layer_sizes": (5,), "part_layer_sizes": (3,), "random_state": 0}


class Backbone(torch.nn.Module):
    """Has parameters, a buffer, integers, and something in half precision."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6)
        self.register_buffer("factor", torch.ones(6, dtype=torch.bfloat16))

    def forward(self, x):
        return self.norm(self.linear(x)) * self.factor


class OwnQuantizer(ProductQuantizer):
    """A user's own."""


def loaded(estimator, path, *, leave_out=(), **params):
    estimator.save(path, leave_out=leave_out)
    return skdpq.load(path, **params)


def parameters(estimator):
    return {name: repr(value) for name, value in estimator.get_params().items()}


def same_attributes(found, expected):
    """Compare all that is fitted, bit for bit."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            same_attributes(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            same_attributes(*pair)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert_array_equal(found, expected)
    elif isinstance(expected, torch.nn.Module):
        same_attributes(
            *(
                [(name, t.dtype, t.requires_grad, t.tolist()) for name, t in m.state_dict(keep_vars=True).items()]
                for m in (found, expected)
            )
        )
    elif hasattr(expected, "__dict__"):
        same_attributes(*(dict(sorted(vars(each).items())) for each in (found, expected)))
    else:
        assert found == expected or (found != found and expected != expected)


def answers(estimator):
    """Yield what an estimator answers."""
    if isinstance(estimator, DPQNeighbors):
        for symmetric in ("asymmetric", "symmetric"):
            neighbors = copy.copy(estimator).set_params(search=symmetric)
            yield from neighbors.kneighbors(QUERIES, 3)
            yield from map(np.concatenate, neighbors.radius_neighbors(QUERIES, 1.0))
        yield from estimator.kneighbors(n_neighbors=2)
        yield from (estimator.codes_, estimator.ids_)
        if hasattr(estimator, "labels_"):
            yield estimator.labels_of(estimator.ids_)
        return
    yield from (estimator.encode(QUERIES), estimator.soft(QUERIES), estimator.decode(estimator.encode(X)))
    if hasattr(estimator, "predict"):
        yield from (estimator.predict(QUERIES), estimator.predict_proba_soft(QUERIES), estimator.lutc_)


def same_estimator(found, expected):
    assert type(found) is type(expected)
    assert parameters(found) == parameters(expected)
    same_attributes(*(dict(sorted(vars(each).items())) for each in (found, expected)))
    for pair in zip(answers(found), answers(expected), strict=True):
        assert_array_equal(*pair)


QUANTIZERS = st.one_of(
    st.builds(
        lambda M, K, rotation, scale: (ProductQuantizer(M=M, K=K, rotation=rotation, random_state=0), scale),
        st.integers(1, 6),
        st.sampled_from([2, 5, 16, 300]),
        st.sampled_from([None, "opq"]),
        st.sampled_from([1, 1e-25, 1e9]),
    ),
    st.builds(
        lambda cls, learned, **params: (cls(max_iter=2, **SMALL | learned | params), 1),
        st.sampled_from([DPQClassifier, DPQTransformer]),
        st.sampled_from([{}, {"supervision": 0.5}, {"trunk_input": "posterior"}]),
        K=st.sampled_from([2, 4, 300]),
        D=st.sampled_from(["auto", 3, None]),
        early_stopping=st.booleans(),
        intra_norm=st.booleans(),
        class_weight=st.sampled_from([None, "balanced"]),
        device=st.sampled_from(["cpu", torch.device("cpu")]),
    ),
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate])
@given(QUANTIZERS, st.sampled_from(list(LABELS)), st.booleans(), st.booleans())
def test_estimators_come_back_in_every_state(tmp_path_factory, drawn, labels, frame, mmap):
    """Unfitted, fitted, as the quantizer of a database, frozen, and after additions and removals with own ids."""
    (quantizer, scale), y, path = drawn, LABELS[labels], tmp_path_factory.mktemp("files") / "estimator"
    data = pd.DataFrame(X * scale, columns=list("abcd")) if frame else X * scale
    assert parameters(loaded(quantizer, path)) == parameters(quantizer)
    with pytest.raises(NotFittedError):
        loaded(quantizer, path).encode(X)
    quantizer.fit(data, y)
    same_estimator(loaded(quantizer, path), quantizer)
    rng = np.random.default_rng(0)
    for neighbors in (
        DPQNeighbors(n_neighbors=3, quantizer=FrozenEstimator(quantizer)).fit(data, y, ids=rng.permutation(500)[:150]),
        DPQNeighbors(radius=0.5, quantizer=quantizer, search="symmetric").fit(data, y),
        DPQNeighbors(quantizer=FrozenEstimator(quantizer), n_jobs=2).fit_codes(quantizer.encode(data)),
    ):
        same_estimator(loaded(neighbors, path, mmap=mmap), neighbors)
        neighbors.add(data[:40], y[:40] if hasattr(neighbors, "labels_") else None)
        neighbors.remove(rng.permutation(neighbors.ids_)[:60])
        again = loaded(neighbors, path, mmap=mmap, verify=True)
        same_estimator(again, neighbors)
        assert (again.quantizer is again.quantizer_) == (neighbors.quantizer is neighbors.quantizer_)
        before = path.read_bytes()
        for each in (again, neighbors):
            each.add(data[:9], y[:9] if hasattr(each, "labels_") else None).remove(each.ids_[3:6])
        same_estimator(again, neighbors)
        assert path.read_bytes() == before
    same_estimator(pickle.loads(pickle.dumps(skdpq.load(path, mmap=True))), skdpq.load(path))


@pytest.mark.filterwarnings("ignore")
def test_training_goes_on_from_a_file_as_from_memory(tmp_path):
    expected = DPQClassifier(**SMALL).partial_fit(X, TARGETS, classes=[0, 1, 2])
    same_estimator(loaded(expected, tmp_path / "a").partial_fit(X, TARGETS), expected.partial_fit(X, TARGETS))
    expected = DPQTransformer(max_iter=3, warm_start=True, supervision=0.3, **SMALL).fit(X, TARGETS)
    same_estimator(loaded(expected, tmp_path / "a").fit(X, TARGETS), expected.fit(X, TARGETS))


@pytest.mark.filterwarnings("ignore")
def test_relevance_is_searched_for_from_a_file(tmp_path):
    neighbors = DPQNeighbors(quantizer=DPQClassifier(max_iter=2, **SMALL), metric="relevance").fit(X, LABELS["str"])
    for mmap in (False, True):
        again = loaded(neighbors, tmp_path / "a", mmap=mmap)
        for pair in zip(again.kneighbors(QUERIES), neighbors.kneighbors(QUERIES), strict=True):
            assert_array_equal(*pair)
        assert again.score(QUERIES, LABELS["str"][::11]) == neighbors.score(QUERIES, LABELS["str"][::11])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("freeze", [False, True])
def test_a_backbone_comes_back_into_a_module_of_the_caller(tmp_path, freeze):
    data = X.astype(np.float32)
    torch.manual_seed(0)
    backbone = Backbone()
    backbone.linear.requires_grad_(not freeze)
    quantizer = DPQTransformer(backbone=backbone, max_iter=2, **SMALL).fit(data, TARGETS)
    for expected in (quantizer, DPQNeighbors(quantizer=quantizer).fit(data, TARGETS)):
        given = Backbone()
        before = copy.deepcopy(given.state_dict())
        again = loaded(expected, tmp_path / "a", backbone=given)
        same_attributes(
            {k: v for k, v in vars(again).items() if k != "index_"},
            {k: v for k, v in vars(expected).items() if k != "index_"},
        )
        for pair in zip(answers(again), answers(expected), strict=True):
            assert_array_equal(*pair)
        assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())
    with pytest.raises(ValueError, match="Expected backbone=<a Backbone>"):
        skdpq.load(tmp_path / "a")
    with pytest.raises(ValueError, match="of the class Backbone, got Linear"):
        skdpq.load(tmp_path / "a", backbone=torch.nn.Linear(4, 6))
    other = Backbone()
    other.linear = torch.nn.Linear(4, 7)
    with pytest.raises(ValueError, match="Expected a backbone with the state"):
        skdpq.load(tmp_path / "a", backbone=other)
    with pytest.raises(ValueError, match="Expected backbone=None"):
        loaded(ProductQuantizer(), tmp_path / "b", backbone=given)


def test_what_a_file_cannot_hold_is_named_and_can_be_left_out(tmp_path):
    transformer = DPQTransformer(augment=torch.abs, random_state=np.random.RandomState(0))
    with pytest.raises(TypeError, match=r"augment=<built-in .* leave_out=\['augment'\]"):
        transformer.save(tmp_path / "a")
    with pytest.raises(TypeError, match="random_state=RandomState"):
        transformer.save(tmp_path / "a", leave_out=["augment"])
    assert not list(tmp_path.iterdir())
    again = loaded(transformer, tmp_path / "a", leave_out=["augment", "random_state"])
    assert again.augment is again.random_state is None
    nested = loaded(DPQNeighbors(quantizer=transformer), tmp_path / "a", leave_out=("augment", "random_state"))
    assert nested.quantizer.augment is None
    with pytest.raises(ValueError, match=r"Expected leave_out among .*, got \['augmentation'\]"):
        transformer.save(tmp_path / "a", leave_out=["augment", "random_state", "augmentation"])
    transformer.note = "kept by hand"
    with pytest.raises(TypeError, match=r"attributes of DPQTransformer alone, got \['note'\]"):
        transformer.save(tmp_path / "a", leave_out=["augment", "random_state"])
    for quantizer in (OwnQuantizer(), FrozenEstimator(OwnQuantizer().fit(X))):
        with pytest.raises(TypeError, match="Expected estimators of skdpq, got a OwnQuantizer"):
            DPQNeighbors(quantizer=quantizer).save(tmp_path / "a")
    quantizer = ProductQuantizer().set_callbacks(ScoringMonitor(scoring="accuracy"))
    with pytest.raises(TypeError, match="got callbacks"):
        quantizer.save(tmp_path / "a")
    assert not hasattr(loaded(quantizer, tmp_path / "a", leave_out="callbacks"), "_skl_callbacks")
    with pytest.raises(ValueError, match="The 'K' parameter"):
        ProductQuantizer(K=1).save(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")
def test_what_was_set_otherwise_comes_back(tmp_path):
    quantizer = ProductQuantizer(M=2, K=4).set_output(transform="pandas").fit(X)
    assert isinstance(loaded(quantizer, tmp_path / "a").transform(X), pd.DataFrame)
    with config_context(enable_metadata_routing=True):
        transformer = DPQTransformer(**SMALL).set_fit_request(sample_weight="weight")
        again = loaded(transformer, tmp_path / "a")
        assert again.get_metadata_routing().fit.requests == transformer.get_metadata_routing().fit.requests
    transformer = loaded(DPQTransformer(device="cuda:3", **SMALL), tmp_path / "a", device="cpu")
    assert transformer.device == "cpu"
    neighbors = loaded(DPQNeighbors(quantizer=transformer, device="cuda"), tmp_path / "a", device=torch.device("cpu"))
    assert neighbors.device == neighbors.quantizer.device == torch.device("cpu")


def test_a_quantizer_that_was_fitted_again_behind_its_database_is_not_saved(tmp_path):
    quantizer = ProductQuantizer(M=2, K=4, random_state=0).fit(X)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X)
    quantizer.fit(X * 2 + 1)
    with pytest.raises(ValueError, match="it was fitted again"):
        neighbors.save(tmp_path / "a")


def test_an_item_takes_little_more_than_its_code_and_its_id_in_a_file(tmp_path):
    rng = np.random.default_rng(0)
    quantizer = ProductQuantizer(M=8, K=256, random_state=0).fit(rng.normal(size=(400, 16)))
    codes = rng.integers(256, size=(100_000, 8))
    DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit_codes(codes).save(tmp_path / "database")
    quantizer.save(tmp_path / "quantizer")
    sizes = {name: (tmp_path / name).stat().st_size for name in ("database", "quantizer")}
    assert sizes["database"] - sizes["quantizer"] <= 13.5 * len(codes)


def test_a_database_is_loaded_without_torch_and_the_name_of_the_file_is_free(tmp_path):
    path = tmp_path / "a file without an ending"
    DPQNeighbors(quantizer=ProductQuantizer(M=2, K=4, random_state=0)).fit(X).save(str(path))
    code = f"import sys, skdpq; skdpq.load({str(path)!r}).kneighbors([[1, 2, 3, 4]]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(FileNotFoundError):
        skdpq.load(tmp_path / "nothing")
