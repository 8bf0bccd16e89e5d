"""Workers that are killed: answers are right, only later; and what cannot be answered is said."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.frozen import FrozenEstimator

import skdpq
import skdpq.dask

X, Y = load_iris(return_X_y=True)
QUANTIZER = FrozenEstimator(skdpq.ProductQuantizer(M=2, K=8, random_state=0).fit(X))
ONE = skdpq.DPQNeighbors(quantizer=QUANTIZER).fit(X, Y)
HANGS = 120  # seconds, after which something hangs


@pytest.fixture
def cluster():
    """A cluster of two workers of its own, which is current."""
    local = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
    )
    with local, distributed.Client(local):
        yield local


def kill(client, *which):
    """Kill worker processes, by their positions in the order of addresses."""
    processes = client.run(os.getpid)
    for i in which:
        os.kill(processes[sorted(processes)[i]], signal.SIGKILL)


def assert_right(neighbors, expected=ONE):
    for found, wanted in zip(neighbors.kneighbors(X[::7], 9), expected.kneighbors(X[::7], 9), strict=True):
        assert_array_equal(found, wanted)


def slow(block):
    time.sleep(0.2)
    return block


def test_workers_are_killed_between_searches_during_them_and_during_a_fit(cluster):
    client = distributed.get_client()
    params = {"quantizer": QUANTIZER, "n_shards": 3}
    X_dask = da.from_array(X, chunks=(20, -1))
    databases = [
        skdpq.dask.DPQNeighbors(**params).fit(X, Y),
        skdpq.dask.DPQNeighbors(**params).fit(X_dask[:100], Y[:100]).add(X_dask[100:], Y[100:]),
        skdpq.dask.DPQNeighbors(**params, replicas=2).fit(X_dask, Y),
    ]
    for neighbors in databases:
        assert_right(neighbors)
    lazy = databases[0].kneighbors(X_dask, 3)
    kill(client, 0)
    for neighbors in databases:
        assert_right(neighbors)
    for found, wanted in zip(dask.compute(*lazy), ONE.kneighbors(X, 3), strict=True):
        assert_array_equal(found, wanted)
    client.wait_for_workers(2, timeout=HANGS)

    stop = threading.Event()

    def search(neighbors):
        n = 0
        while not stop.is_set():
            assert_right(neighbors)
            n += 1
        return n

    with ThreadPoolExecutor(len(databases) + 1) as pool:
        searches = [pool.submit(search, neighbors) for neighbors in databases]
        fit = pool.submit(skdpq.dask.DPQNeighbors(**params).fit, X_dask.map_blocks(slow), Y)
        time.sleep(0.5)
        kill(client, 1)
        assert_right(fit.result(timeout=HANGS))
        stop.set()
        assert min(done.result(timeout=HANGS) for done in searches) > 0


def test_a_saved_shard_is_made_again_of_its_file_and_else_of_the_same_data_or_not_at_all(cluster, tmp_path):
    client = distributed.get_client()
    np.save(tmp_path / "X.npy", X)
    path = str(tmp_path / "X.npy")
    X_dask = da.map_blocks(lambda: np.load(path), chunks=((150,), (4,)), dtype=float)
    saved = skdpq.dask.DPQNeighbors(quantizer=QUANTIZER).fit(X_dask, Y)
    saved.save(tmp_path / "folder")
    mapped = skdpq.dask.load(tmp_path / "folder", mmap=True)
    other = skdpq.dask.DPQNeighbors(quantizer=QUANTIZER).fit(X_dask, Y)
    np.save(path, X[::-1])
    kill(client, 0, 1)
    assert_right(saved)
    assert_right(mapped)
    with pytest.raises(RuntimeError, match="made again of the same data, got other data"):
        other.kneighbors(X[:1])


def test_a_cluster_without_workers_is_said_and_used_when_they_are_back(cluster):
    client = distributed.get_client()
    neighbors = skdpq.dask.DPQNeighbors(quantizer=QUANTIZER).fit(X, Y)
    shards = neighbors.shards_
    cluster.scale(0)
    while client.nthreads():
        time.sleep(0.05)
    with dask.config.set({"skdpq.patience": "500ms"}):
        for call in (
            lambda: neighbors.kneighbors(X[:1]),
            lambda: neighbors.add(X[:2], Y[:2]),
            lambda: neighbors.remove([3]),
            lambda: neighbors.labels_of([3]),
            lambda: skdpq.dask.DPQNeighbors(quantizer=QUANTIZER).fit(X),
        ):
            with pytest.raises(RuntimeError, match=r"with workers, got none for 0\.5 s"):
                call()
    assert neighbors.shards_ is shards
    cluster.scale(2)
    assert_right(neighbors)
    assert_right(neighbors.add(X[:2], Y[:2]), skdpq.DPQNeighbors(quantizer=QUANTIZER).fit(X, Y).add(X[:2], Y[:2]))
