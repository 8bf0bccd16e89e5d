"""Grids of pipelines with our estimators, by joblib on a cluster."""

import joblib
import pytest
import threadpoolctl
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skdpq

X, Y = load_iris(return_X_y=True)


@pytest.mark.parametrize("search", [GridSearchCV, HalvingGridSearchCV])
@pytest.mark.filterwarnings("ignore:Training ended after max_iter")
def test_a_grid_on_a_cluster_finds_what_it_finds_here(client, search):
    pipeline = make_pipeline(StandardScaler(), skdpq.DPQClassifier(M=2, K=4, max_iter=3, random_state=0))
    params = {"dpqclassifier__K": [4, 8], "dpqclassifier__learning_rate": [0.01, 0.1]}
    how = {"random_state": 0} if search is HalvingGridSearchCV else {}
    here = search(pipeline, params, cv=StratifiedKFold(2), **how).fit(X, Y)
    with joblib.parallel_config("dask"):
        there = search(pipeline, params, cv=StratifiedKFold(2), **how).fit(X, Y)
    assert there.best_params_ == here.best_params_
    assert_array_equal(there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])


def threads_of_a_fit():
    """Return the largest number of threads that a library has for a fit on this worker, and what it found."""
    import torch

    classifier = skdpq.DPQClassifier(M=2, K=4, max_iter=2, random_state=0).fit(X, Y)
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return max(torch.get_num_threads(), *pools), classifier.encode(X)


def test_threads_on_a_worker_do_not_multiply(client):
    with joblib.parallel_config("dask"):
        found = joblib.Parallel()(joblib.delayed(threads_of_a_fit)() for _ in range(4))
    assert {n for n, _ in found} == {1}
    for _, codes in found:
        assert_array_equal(codes, found[0][1])
