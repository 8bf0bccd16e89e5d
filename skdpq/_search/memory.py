"""How much memory is left, and whether what a radius search will find fits into it."""

import os
from pathlib import Path

import numpy as np

_RESULT_BYTES = 40  # of an item within a radius: as it is found, put together, and as a user gets it
_SMALL_BYTES = 2**28
_SAMPLED_QUERIES = 32


def memory_left():
    """Return how many bytes of memory are left, as far as the system tells; else None."""
    left = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    except (OSError, StopIteration, ValueError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            left.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    old = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"
    for most, used in (("memory.max", "memory.current"), old):
        try:  # of a container
            most, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in (most, used))
            left.append(max(most - used, 0))
        except (OSError, ValueError):  # not there, or "max"
            pass
    return min(left, default=None)


def check_room(n_within, n_queries, n_items):
    """Raise MemoryError if all within a radius of many queries would not fit into memory, by a look at some of them.

    Parameters
    ----------
    n_within : callable
        Takes the position of a query, and returns how many items are within its radius.
    n_queries : int
        Number of queries.
    n_items : int
        Number of items in the database.

    Raises
    ------
    MemoryError
        If they would not.
    """
    most_bytes = n_queries * n_items * _RESULT_BYTES
    if most_bytes <= _SMALL_BYTES:
        return  # to ask the system takes longer than a small search
    left = memory_left()
    if left is None or most_bytes <= left:
        return
    looked_at = np.unique(np.linspace(0, n_queries - 1, _SAMPLED_QUERIES).astype(np.int64)).tolist()
    n_found = sum(map(n_within, looked_at)) * n_queries // len(looked_at)
    if n_found * _RESULT_BYTES > left:
        raise MemoryError(
            f"Within the radius of {n_queries:,} queries are about {n_found:,} items, which take "
            f"{n_found * _RESULT_BYTES / 2**30:,.1f} GiB; {left / 2**30:,.1f} GiB are left. Expected fewer queries "
            "at a time, or a smaller radius."
        )
