"""Threads: a pool that runs a function over arguments, and limits on what a thread shares out in turn.

The scan, the encoder and the fast training step call this. The pool's threads sleep between calls, a call's results do
not depend on how many of them there are, and no limit outlives its block.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController


def run(function, arguments, n_threads):
    """Call a function with each argument, on this thread and others of the pool.

    Parameters
    ----------
    function : callable
        Called with one argument; from several threads at once.
    arguments : iterable
        The arguments. Each thread takes the next when it is done with one.
    n_threads : int
        Threads at most, with the calling one.

    Returns
    -------
    results : list
        What the calls returned, in the order of the arguments.
    """
    arguments = list(arguments)
    results = [None] * len(arguments)
    left = iter(range(len(arguments)))  # shared by the threads

    def work():
        for i in left:
            results[i] = function(arguments[i])

    others = [_pool().submit(work) for _ in range(min(n_threads, len(arguments)) - 1)]
    try:
        work()
    finally:
        for other in others:
            other.result()
    return results


@cache
def _pool():
    """Return threads that sleep until they are needed: to start them takes longer than a search may take."""
    return ThreadPoolExecutor(thread_name_prefix="skdpq")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of the threads


def limited_threads(n):
    """Limit what the calling thread shares out by OpenMP, such as torch's products, to n threads; a context manager."""
    return _controller().limit(limits=n, user_api="openmp")


@cache
def _controller():
    return ThreadpoolController()  # it looks through all libraries, which takes milliseconds
