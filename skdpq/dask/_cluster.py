"""The cluster: its client, tasks on workers of one's choice, and waiting for them for as long as there are workers.

All of `skdpq.dask` that submits tasks does it here. A task is made again by dask where its worker is lost, from what it
was made of: so is a shard.
"""

import time
from concurrent.futures import TimeoutError as FutureTimeoutError

import dask
import distributed

_CHECK_SECONDS = 1  # how often a wait looks whether there are workers
_PATIENCE_SECONDS = 10  # for which a cluster may be without workers, as while they are started again


def get_client():
    """Return the client of the cluster that is used now.

    Raises
    ------
    ValueError
        If there is none.
    TypeError
        If it is asynchronous.
    """
    try:
        client = distributed.get_client()
    except ValueError as error:
        raise ValueError("Expected a cluster: make a dask.distributed.Client first, got none.") from error
    if client.asynchronous:
        raise TypeError("Expected a client with asynchronous=False, got one whose calls have to be awaited.")
    return client


def workers_of(client):
    """Return the addresses of all workers, in an order that stays; wait for some as long as `result` does."""
    began = time.monotonic()
    while not (workers := sorted(client.nthreads())):
        _check_patience(began)
        time.sleep(_CHECK_SECONDS / 10)
    return workers


def submit(client, function, *args, home=None):
    """Return the future of a task.

    Parameters
    ----------
    client : Client
        Of the cluster.
    function : callable
        A function of a module.
    *args : object
        Its arguments, with futures in the place of what is on workers.
    home : str, default=None
        The address of the worker that does it if it is there.

    Returns
    -------
    future : Future
        Of what the function returns.
    """
    place = {} if home is None else {"workers": [home], "allow_other_workers": True}
    # Arrays in arguments stay with the scheduler for as long as it may have to make the result again.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        return client.submit(function, *args, pure=False, **place)


def put(client, value):
    """Return the future of a value, which tasks that need it get from the workers."""
    return submit(client, _same, value)


def _same(value):
    return value


def results(client, futures):
    """Return the results of futures.

    Parameters
    ----------
    client : Client
        Of the cluster.
    futures : list of Future
        They are waited for.

    Returns
    -------
    results : list
        In their order.

    Raises
    ------
    RuntimeError
        If the cluster has no workers for ten seconds, or for ``dask.config.get("skdpq.patience")``.
    Exception
        What a task raised.
    """
    began = time.monotonic()
    while True:
        try:
            distributed.wait(futures, timeout=_CHECK_SECONDS)
            break
        except (TimeoutError, FutureTimeoutError):
            if client.nthreads():
                began = time.monotonic()
            else:
                _check_patience(began)
    return client.gather(futures)


def _check_patience(began):
    """Raise RuntimeError if there have been no workers for too long."""
    patience = dask.utils.parse_timedelta(dask.config.get("skdpq.patience", _PATIENCE_SECONDS))
    if time.monotonic() - began > patience:
        raise RuntimeError(
            f"Expected a cluster with workers, got none for {patience:g} s. Call again when they are back: nothing has "
            "changed."
        )
