"""Threads: a pool that runs a function over arguments, locks, and limits on what a thread shares out in turn.

The scan, the encoder, training and the states of estimators call this. The pool's threads sleep between calls, a
call's results do not depend on how many of them there are, and no limit outlives its block, also where blocks overlap
or are interrupted.
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, lru_cache
from weakref import WeakValueDictionary

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
        What the calls returned, in the order of the arguments. No thread is at work when this returns, or raises.
    """
    arguments = list(arguments)
    n_others = min(n_threads, len(arguments)) - 1
    if n_others < 1:
        return [function(argument) for argument in arguments]
    results = [None] * len(arguments)
    left = iter(range(len(arguments)))  # shared by the threads
    at_work = []  # locks of the other threads, which each holds until it is done

    def work():
        for i in left:
            results[i] = function(arguments[i])

    def work_beside():
        lock = threading.RLock()
        with lock:
            at_work.append(lock)
            work()

    def wait():
        for _ in left:  # where something was raised, no thread takes more
            pass
        for lock in at_work:
            lock.acquire()  # never to be released: nobody else will want it, and to take it again is no wait

    # An interruption may come before their futures are known here, so they are waited for by their locks.
    others = []
    with surely(wait):
        for _ in range(n_others):
            others.append(_pool().submit(work_beside))
        work()
    for other in others:
        other.result()  # raises what it raised
    return results


@cache
def _pool():
    """Return threads that sleep until they are needed: to start them takes longer than a search may take."""
    return ThreadPoolExecutor(thread_name_prefix="skdpq")


def lock_of(key):
    """Return the lock of something; it may be taken again by the thread that holds it.

    Parameters
    ----------
    key : hashable
        What is locked: the id of an object, or a name.

    Returns
    -------
    lock : RLock
        The same for everybody as long as somebody holds it. It is nowhere else, so what it locks is copied, pickled and
        forked without it.
    """
    with _registry_lock:
        lock = _locks.get(key)
        if lock is None:
            lock = _locks[key] = threading.RLock()
        return lock


def _begin_process():
    """Begin without locks, and without limits that are held: a fork has none of the threads that hold them."""
    global _registry_lock, _locks, _blas_holders
    _registry_lock, _locks, _blas_holders = threading.RLock(), WeakValueDictionary(), set()
    _pool.cache_clear()


_begin_process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_process)


@contextmanager
def surely(clean_up):
    """Call a function after a block; where an interruption comes while it is called, call it again.

    Parameters
    ----------
    clean_up : callable
        Takes nothing, and may be called twice.
    """
    try:
        try:
            yield
        finally:
            clean_up()
    finally:
        clean_up()


@contextmanager
def limited_threads(n):
    """Limit what the calling thread shares out by OpenMP, such as torch's products, to n threads."""
    before = [(library, library.num_threads) for library in _libraries("openmp")]
    with surely(lambda: _set_threads(before)):
        _set_threads((library, n) for library, _ in before)
        yield


_blas_threads: list[tuple] = []  # what libraries of BLAS had before the first call that is in `one_blas_thread`


@contextmanager
def one_blas_thread():
    """Limit BLAS to one thread. It knows no threads of a process but all, so calls that overlap share the limit."""
    holder = object()
    with surely(lambda: _release_blas(holder)):
        with lock_of("BLAS"):
            _blas_holders.add(holder)
            if not _blas_threads:
                _blas_threads.extend((library, library.num_threads) for library in _libraries("blas"))
            _set_threads((library, 1) for library, _ in _blas_threads)
        yield


def _release_blas(holder):
    with lock_of("BLAS"):
        _blas_holders.discard(holder)
        if not _blas_holders:
            _set_threads(_blas_threads)
            _blas_threads.clear()


def _set_threads(limits):
    for library, n in limits:
        library.set_num_threads(n)


def _libraries(user_api):
    """Return the libraries of a kind that are loaded, those of modules that were imported since the last call too."""
    return _libraries_of(user_api, len(sys.modules))


@lru_cache(maxsize=4)
def _libraries_of(user_api, n_modules):
    return ThreadpoolController().select(user_api=user_api).lib_controllers  # looks through all, for milliseconds
