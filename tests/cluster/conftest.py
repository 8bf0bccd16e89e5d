"""Clusters on this machine: worker processes of one thread each, shared by the tests of a session."""

import contextlib

import distributed
import pytest


@contextlib.contextmanager
def cluster_of(n_workers):
    """Yield the client of a cluster of worker processes."""
    local = distributed.LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
    )
    with local, distributed.Client(local, set_as_default=False) as client:
        yield client


@pytest.fixture(scope="session")
def one_worker():
    with cluster_of(1) as client:
        yield client


@pytest.fixture(scope="session")
def two_workers():
    with cluster_of(2) as client:
        yield client


@pytest.fixture
def client(two_workers):
    """The current client: of two workers."""
    with two_workers.as_current():
        yield two_workers
