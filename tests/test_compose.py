"""The estimators within scikit-learn's compositions, on digits."""

import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_digits
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_validate
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer
from skdpq.metrics import retrieval_scorer

SMALL = {"M": 4, "K": 16, "max_iter": 30, "random_state": 0}
CV = StratifiedKFold(3, shuffle=True, random_state=0)


def dpq(**params):
    return DPQTransformer(**SMALL | params)


def pipelines():
    return {
        "DPQTransformer": Pipeline([("dpq", dpq()), ("clf", LogisticRegression())]),
        "DPQTransformer, hard": Pipeline([("dpq", dpq(output="hard")), ("clf", LogisticRegression())]),
        "DPQClassifier": Pipeline([("scale", StandardScaler()), ("dpq", DPQClassifier(**SMALL))]),
        "DPQNeighbors": Pipeline([("scale", StandardScaler()), ("index", DPQNeighbors(quantizer=dpq()))]),
        "ProductQuantizer": Pipeline(
            [("pq", ProductQuantizer(M=8, K=32, random_state=0)), ("clf", LogisticRegression(max_iter=2000))]
        ),
        "graph": Pipeline(
            [
                ("index", DPQNeighbors(10, quantizer=dpq())),
                ("clf", KNeighborsClassifier(n_neighbors=10, metric="precomputed")),
            ]
        ),
    }


@pytest.fixture(scope="module")
def fitted(digits):
    X, _, y, _ = digits
    return {name: pipeline.fit(X, y) for name, pipeline in pipelines().items()}


@pytest.mark.parametrize("name", pipelines())
def test_pipelines_score_well_on_held_out_digits(fitted, digits, name):
    _, X_test, _, y_test = digits
    assert fitted[name].score(X_test, y_test) > 0.92


@pytest.mark.parametrize("name", pipelines())
def test_a_pipeline_equals_its_steps_by_hand(fitted, digits, name):
    X, X_test, y, y_test = digits
    first, last = (clone(step) for _, step in pipelines()[name].steps)
    last.fit(first.fit(X, y).transform(X), y)
    assert last.score(first.transform(X_test), y_test) == fitted[name].score(X_test, y_test)


@pytest.mark.parametrize("name", pipelines())
def test_clones_refit_to_the_same(fitted, digits, name):
    X, X_test, y, y_test = digits
    copy = clone(fitted[name])
    assert copy.get_params().keys() == fitted[name].get_params().keys()
    assert copy.fit(X, y).score(X_test, y_test) == fitted[name].score(X_test, y_test)


@pytest.mark.parametrize("name", pipelines())
@pytest.mark.parametrize("how", ["pickle", "joblib", "joblib, memory-mapped"])
def test_persistence(fitted, digits, name, how, tmp_path):
    _, X_test, _, y_test = digits
    pipeline = fitted[name]
    if how == "pickle":
        again = pickle.loads(pickle.dumps(pipeline))
    else:
        path = joblib.dump(pipeline, tmp_path / "pipeline")[0]
        again = joblib.load(path, mmap_mode="r" if "memory" in how else None)
    assert again.score(X_test, y_test) == pipeline.score(X_test, y_test)


GRIDS = {
    "DPQTransformer": [{"dpq__M": [1], "clf__C": [0.1]}, {"dpq__M": [4], "clf__C": [1.0]}],
    "DPQClassifier": [{"dpq__K": [4], "dpq__representation": ["hard"]}, {"dpq__K": [16]}],
    "DPQNeighbors": [{"index__quantizer__M": [1]}, {"index__quantizer__M": [4], "index__search": ["symmetric"]}],
    "ProductQuantizer": {"pq__rotation": [None, "opq"]},
    "graph": {"index__mode": ["distance", "connectivity"]},
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_searches_on_two_processes_find_what_one_finds(digits, name):
    X, X_test, y, y_test = digits
    X, y = X[:600], y[:600]
    searches = [
        GridSearchCV(pipelines()[name], GRIDS[name], cv=CV, n_jobs=n_jobs, error_score="raise").fit(X, y)
        for n_jobs in (1, 2)
    ]
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    assert_allclose(scores[0], scores[1], atol=1e-6)
    assert np.isfinite(scores[0]).all()
    assert searches[0].best_params_ == searches[1].best_params_
    assert searches[1].score(X_test, y_test) > 0.75


@pytest.mark.parametrize("metric", ["mean_average_precision", "precision_at_k"])
def test_a_grid_search_by_a_retrieval_metric(digits, metric):
    X, _, y, _ = digits
    scorer = retrieval_scorer(metric, **({"k": 10} if metric == "precision_at_k" else {}))
    search = GridSearchCV(
        DPQNeighbors(quantizer=dpq()),
        {"quantizer__M": [1, 4], "quantizer__joint_central_weight": [0.0, 0.1]},
        scoring=scorer,
        cv=CV,
        n_jobs=2,
        error_score="raise",
    ).fit(X[:600], y[:600])
    assert search.cv_results_["mean_test_score"].max() == pytest.approx(search.best_score_)
    assert search.best_params_["quantizer__M"] == 4
    assert search.best_score_ > 0.85


def test_cross_validation(digits):
    X, _, y, _ = digits
    clf = DPQClassifier(**SMALL)
    proba = cross_val_predict(clf, X, y, cv=CV, method="predict_proba", n_jobs=2)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert (proba.argmax(axis=1) == y).mean() > 0.92
    scores = cross_validate(clf, X, y, cv=CV, scoring=["accuracy", "neg_log_loss", "roc_auc_ovr"], n_jobs=2)
    assert (scores["test_accuracy"] > 0.92).all()
    assert (scores["test_roc_auc_ovr"] > 0.98).all()


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("output", ["soft", "hard", "codes"])
@pytest.mark.parametrize("quantizer", [DPQTransformer, DPQClassifier, ProductQuantizer])
def test_set_output(digits, quantizer, output, container):
    frame = load_digits(as_frame=True).data[:300]
    y = load_digits().target[:300]
    transformer = quantizer(M=4, K=8, random_state=0, output=output).set_output(transform=container)
    transformed = transformer.fit(frame, y).transform(frame)
    assert isinstance(transformed, pd.DataFrame if container == "pandas" else pl.DataFrame)
    assert list(transformed.columns) == list(transformer.get_feature_names_out())
    expected = transformer.encode(frame) if output == "codes" else transformer.soft(frame)
    if output == "hard":
        expected = transformer.decode(transformer.encode(frame))
    assert_array_equal(transformed.to_numpy(), expected)
    if container == "pandas":
        assert transformed.index.equals(frame.index)


def test_within_a_column_transformer(digits):
    frame = load_digits(as_frame=True).data
    y = load_digits().target
    halves = make_column_transformer(
        (dpq(output="codes"), list(frame.columns[:32])), (dpq(), list(frame.columns[32:]))
    ).set_output(transform="pandas")
    both = halves.fit(frame, y).transform(frame)
    assert both.shape[1] == 4 + halves.transformers_[1][1].soft(frame.iloc[:1, 32:]).shape[1]
    assert both.columns.is_unique


def test_after_a_feature_selection_and_before_a_classifier(digits):
    X, X_test, y, y_test = digits
    pipeline = make_pipeline(VarianceThreshold(), SelectKBest(k=30), dpq(), LogisticRegression())
    assert pipeline.fit(X, y).score(X_test, y_test) > 0.9


def test_it_stands_where_kneighborstransformer_stands(digits):
    X, X_test, y, _ = digits
    frozen = FrozenEstimator(dpq().fit(X, y))
    hard, soft_test = frozen.decode(frozen.encode(X)), frozen.soft(X_test)
    graphs = [
        DPQNeighbors(7, quantizer=frozen).fit(X).transform(X_test),
        KNeighborsTransformer(n_neighbors=7).fit(hard).transform(soft_test),
    ]
    assert graphs[0].shape == graphs[1].shape
    assert graphs[0].nnz == graphs[1].nnz  # one more than n_neighbors a row, as scikit-learn has it
    assert_allclose(graphs[0].data, graphs[1].data, atol=1e-3)


@pytest.mark.parametrize("search", [False, True])
def test_sample_weights_are_routed_through_a_pipeline(digits, search):
    X, X_test, y, _ = digits
    weight = np.where(y < 5, 1.0, 1e-3)
    with config_context(enable_metadata_routing=True):
        last = DPQClassifier(**SMALL).set_fit_request(sample_weight=True)
        last = DPQNeighbors(quantizer=last) if search else last
        scale = StandardScaler().set_fit_request(sample_weight=False)
        routed = make_pipeline(scale, last).fit(X, y, sample_weight=weight)
    scale = StandardScaler().fit(X)
    quantizer = DPQClassifier(**SMALL).fit(scale.transform(X), y, sample_weight=weight)
    found = routed[-1].quantizer_ if search else routed[-1]
    assert_array_equal(found.encode(scale.transform(X_test)), quantizer.encode(scale.transform(X_test)))


def test_sample_weights_are_routed_through_a_grid_search(digits):
    X, _, y, _ = digits
    X, y = X[:400], y[:400]
    weight = np.linspace(0.1, 2, len(y))
    with config_context(enable_metadata_routing=True):
        clf = DPQClassifier(**SMALL).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(clf, {"K": [8, 16]}, cv=CV, n_jobs=2, error_score="raise")
        search.fit(X, y, sample_weight=weight)
    train, test = next(CV.split(X, y))
    best = clone(search.best_estimator_).fit(X[train], y[train], sample_weight=weight[train])
    expected = best.score(X[test], y[test], sample_weight=weight[test])
    assert search.cv_results_["split0_test_score"][search.best_index_] == pytest.approx(expected)
