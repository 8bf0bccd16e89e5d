"""Questions to shards: one message to each worker, which asks its shards, and answers that are merged on their way.

`_neighbors` asks. A message goes straight to a worker, beside its tasks and past the scheduler, which takes a tenth of
the time of a task (benchmarks/speed/cluster.py). Many workers are asked in a tree: some of them ask others. Where a
worker does not answer, or no longer has its shard, another that has it is asked; where none is left, dask makes the
shard again and answers by tasks. So an answer is late at worst.
"""

import asyncio
from collections import Counter
from typing import NamedTuple
from weakref import WeakKeyDictionary

from distributed.protocol.pickle import dumps, loads

from ._cluster import results, submit, workers_of

FAN_OUT = 8  # workers that the caller, or a worker, asks at most
_CHECK_SECONDS = 1.0  # how often a wait for a worker asks whether it is still there

_places: WeakKeyDictionary = WeakKeyDictionary()  # by the Shards, where their replicas were last


class Task(NamedTuple):
    """What one shard is asked: its key, its checksum, and arguments that are its own."""

    key: str
    content: str
    own: tuple


class Visit(NamedTuple):
    """A worker and what its shards are asked."""

    address: str
    tasks: list[Task]


class _Raised(NamedTuple):
    error: Exception


class _Lost(NamedTuple):
    addresses: set[str]


def ask(client, shards, function, merge, args=(), own=None):
    """Ask shards, all of them or some.

    Parameters
    ----------
    client : Client
        Of the cluster.
    shards : Shards
        What is asked.
    function : callable
        ``function(shard, *own, *args)``; a function of a module.
    merge : callable
        Puts a list of what it returns, or of what this returns, together; of a module, or a `functools.partial`.
    args : tuple, default=()
        Arguments that are the same for all.
    own : list of tuple or None, default=None
        Arguments for each shard; None in it for one that is not asked.

    Returns
    -------
    answer : object
        The shards' answers, merged.

    Raises
    ------
    RuntimeError
        If there are no workers, or a shard that was made again is another.
    Exception
        What `function` raises.
    """
    own = [()] * len(shards.futures) if own is None else own
    asked = [i for i, given in enumerate(own) if given is not None]
    payload, missing = dumps((function, merge, args)), set()
    while True:
        visits = _plan(client, shards, asked, own, missing)
        if visits is None:
            return _ask_by_tasks(client, shards, asked, own, payload, merge)
        answer = client.sync(_collect, client.rpc, client.scheduler, visits, payload, merge)
        if missing or isinstance(answer, _Lost):
            _places.pop(shards, None)  # the scheduler may not have noticed yet
        if not isinstance(answer, _Lost):
            return _value(answer)
        missing |= answer.addresses


def _value(answer):
    if isinstance(answer, _Raised):
        raise answer.error
    return answer


def _plan(client, shards, asked, own, missing):
    """Return who is asked what, so that each worker has as little to do as can be; None if a shard is nowhere."""
    places = _places.get(shards)
    if places is None:
        places = _places[shards] = client.who_has([future for made in shards.futures for future in made])
    tasks: dict[str, list[Task]] = {}
    load: Counter[str] = Counter()
    for i in asked:
        holders = {a: f.key for f in shards.futures[i] for a in places.get(f.key, ()) if a not in missing}
        if not holders:
            _places.pop(shards, None)
            return None
        address = min(holders, key=lambda a: load[a])
        load[address] += 1
        tasks.setdefault(address, []).append(Task(holders[address], shards.abouts[i].content, own[i]))
    return [Visit(*visit) for visit in tasks.items()]


async def _collect(rpc, scheduler, visits, payload, merge):
    """Ask workers, at most FAN_OUT of them, each with those that it asks in turn; return their merged answer."""
    groups = [visits[i::FAN_OUT] for i in range(min(FAN_OUT, len(visits)))]
    return _merged(await asyncio.gather(*(_ask_worker(rpc, scheduler, group, payload) for group in groups)), merge)


async def _ask_worker(rpc, scheduler, visits, payload):
    """Ask the first worker, and by it the others; return what it answers, or _Lost."""
    address = visits[0].address
    message = {"function": dumps(_answer), "args": dumps((visits, payload)), "kwargs": dumps({})}
    call = asyncio.ensure_future(rpc(address).run(**message))
    try:
        # A worker whose connection just hangs is given up once the scheduler has done so.
        while not (await asyncio.wait({call}, timeout=_CHECK_SECONDS))[0]:
            if address not in await scheduler.ncores():
                return _Lost({address})
        response = call.result()
    except (TimeoutError, OSError):
        return _Lost({address})
    finally:
        call.cancel()
    if response["status"] == "OK":
        return response["result"]
    return _Raised(response["exception"])


async def _answer(visits, payload, dask_worker):
    """Answer on a worker: for its shards, and for those of the workers that it asks."""
    function, merge, args = loads(payload)
    tasks = visits[0].tasks
    shards = [dask_worker.data.get(task.key) for task in tasks]
    if any(shard is None for shard in shards):
        return _Lost({visits[0].address})
    waits = [asyncio.to_thread(_answers, shards, tasks, function, merge, args)]
    if visits[1:]:
        waits.append(_collect(dask_worker.rpc, dask_worker.scheduler, visits[1:], payload, merge))
    return _merged(await asyncio.gather(*waits), merge)


def _answers(shards, tasks, function, merge, args):
    """Return the merged answers of shards on a worker, one after the other."""
    try:
        return merge([answer_of(s, t.content, t.own, function, args) for s, t in zip(shards, tasks, strict=True)])
    except Exception as error:  # which the caller raises
        return _Raised(error)


def answer_of(shard, content, own, function, args):
    """Return what a shard answers; RuntimeError if it is not what it was."""
    if shard.content != content:
        raise RuntimeError(
            "Expected a lost shard to be made again of the same data, got other data: the file, or what the dask "
            "array reads or draws at random, is not as it was. Fit or load again."
        )
    return function(shard, *own, *args)


def _merged(answers, merge):
    lost = [answer for answer in answers if isinstance(answer, _Lost)]
    if lost:
        return _Lost(set().union(*(answer.addresses for answer in lost)))
    raised = [answer for answer in answers if isinstance(answer, _Raised)]
    if raised:
        return raised[0]
    return merge(answers)


def tree(client, parts, merge):
    """Return the future of merged parts, futures: on the workers, some at a time."""
    while len(parts) > 1:
        groups = [parts[i : i + FAN_OUT] for i in range(0, len(parts), FAN_OUT)]
        parts = [submit(client, merge, group) for group in groups]
    return parts[0]


def _ask_by_tasks(client, shards, asked, own, payload, merge):
    """Ask by tasks of dask, which makes what is lost again."""
    workers_of(client)  # raises where there are none
    parts = [submit(client, _by_task, shards.futures[i][0], shards.abouts[i].content, own[i], payload) for i in asked]
    return results(client, [tree(client, parts, merge)])[0]


def _by_task(shard, content, own, payload):
    function, merge, args = loads(payload)
    return merge([answer_of(shard, content, own, function, args)])
