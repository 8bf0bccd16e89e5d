"""What a file of a large database costs: bytes, seconds to write and to open it, memory, and searches from a map.

    python benchmarks/speed/files.py
    python benchmarks/speed/files.py --n 1000000 --folder /data

The codes are random, M=8, K=256, so that nearly all differ: the worst case. Each step runs in a process of its own, so
that what one leaves in memory is not counted for another. The file has just been written and is in the cache of the
system, whose disk is not measured. Opening is timed with modules imported and kernels compiled; its memory is what the
process has resident, above what it had before (Linux). 100,000,000 codes take some 10 GB of memory while they are
built, 1.8 GB while all of a file is checked, and 1.3 GB on the disk.
"""

import multiprocessing
import os
import sys
import tempfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser, measured_memory, memory, seconds, seconds_each
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQNeighbors, ProductQuantizer

M, K, N_FEATURES = 8, 256, 64
N_QUERIES, N_BESIDE, N_NEIGHBORS = 1000, 100, 10
N_CHANGED = 1000  # items that are added and removed
LOAD_SECONDS = 2  # for which opening is repeated
SPAWN = multiprocessing.get_context("spawn")


def samples(n, seed):
    """Return Gaussian samples."""
    return np.random.default_rng(seed).normal(size=(n, N_FEATURES)).astype(np.float32)


def build(path, n):
    """Write a database of n random codes; return the bytes of it without the codes, and seconds of writing."""
    quantizer = ProductQuantizer(M=M, K=K, random_state=0).fit(samples(10_000, 0))
    quantizer.save(path)
    n_bytes_of_quantizer = os.path.getsize(path)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer))
    neighbors.fit_codes(np.random.default_rng(1).integers(0, K, (n, M), dtype=np.uint8))
    return n_bytes_of_quantizer, seconds(neighbors.save, path)


def warm_up(path):
    """Import all that loading needs, and compile the kernels, by a database of some codes."""
    some = skdpq.load(path, mmap=True)
    codes = np.random.default_rng(2).integers(0, K, (10_000, M), dtype=np.uint8)
    small = DPQNeighbors(quantizer=some.quantizer).fit_codes(codes)
    for n_queries in (1, N_QUERIES):
        small.kneighbors(samples(n_queries, 3), N_NEIGHBORS)


def measure_loading(path, mmap, verify):
    """Return median seconds of opening, and bytes of memory that the opened database holds, and at most held."""
    warm_up(path)
    with measured_memory() as used:
        neighbors = skdpq.load(path, mmap=mmap, verify=verify)
    del neighbors
    return np.median(seconds_each(lambda: skdpq.load(path, mmap=mmap, verify=verify), LOAD_SECONDS)), used


def measure_searches(path, mmap):
    """Return seconds of the first query and of many, and what these found."""
    warm_up(path)
    neighbors = skdpq.load(path, mmap=mmap)
    first = seconds(neighbors.kneighbors, samples(1, 4), N_NEIGHBORS)
    found = []
    many = seconds(lambda: found.extend(neighbors.kneighbors(samples(N_QUERIES, 5), N_NEIGHBORS)))
    return first, many, found


def checksum(path):
    """Return the CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**24):
            value = zlib.crc32(chunk, value)
    return value


def measure_changes(path):
    """Return seconds of adding and of removing items of a map, and whether the file is as it was."""
    warm_up(path)
    neighbors, before = skdpq.load(path, mmap=True), checksum(path)
    n = neighbors.n_samples_fit_
    adding = seconds(neighbors.add, samples(N_CHANGED, 6))
    removing = seconds(neighbors.remove, np.arange(n - N_CHANGED, n))
    assert neighbors.n_samples_fit_ == n
    return adding, removing, checksum(path) == before


def proportional():
    """Return the memory of this process in bytes, where what it shares with others counts as a share (Linux)."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(text.split()[1]) * 1024 for text in file if text.startswith("Pss:"))


def search_beside(path, barrier, results):
    """Search a map while other processes do; report memory, above that before, once all of them have it."""
    warm_up(path)
    barrier.wait()
    before = memory("VmRSS"), proportional()
    barrier.wait()
    neighbors = skdpq.load(path, mmap=True)
    neighbors.kneighbors(samples(N_BESIDE, 7), N_NEIGHBORS)
    barrier.wait()
    results.put((memory("VmRSS") - before[0], proportional() - before[1]))
    barrier.wait()


def measure_sharing(path, n_processes):
    """Return bytes resident in each of some processes that search one map, and with shared memory counted as shares."""
    barrier, results = SPAWN.Barrier(n_processes), SPAWN.Queue()
    processes = [SPAWN.Process(target=search_beside, args=(path, barrier, results)) for _ in range(n_processes)]
    for process in processes:
        process.start()
    measured = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return np.mean(measured, axis=0)


def alone(function, *args):
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(function, *args).result()


def report(path, n):
    """Print everything of a database of n codes."""
    n_bytes_of_quantizer, saving = alone(build, path, n)
    n_bytes = os.path.getsize(path)
    print(
        f"{n} codes, M={M}, K={K}: a file of {n_bytes} bytes, {(n_bytes - n_bytes_of_quantizer) / n:.2f} an item and "
        f"{n_bytes_of_quantizer} of the quantizer; written in {saving:.1f} s\n",
        flush=True,
    )
    print(head("opened by", "seconds", "holds, MiB", "at most, MiB"))
    for name, mmap, verify in (
        ("`load(path, mmap=True)`", True, False),
        ("`load(path, mmap=True, verify=True)`", True, True),
        ("`load(path)`", False, False),
    ):
        opening, used = alone(measure_loading, path, mmap, verify)
        print(line(name, f"{opening:.3f}", f"{used.held / 2**20:.0f}", f"{used.peak / 2**20:.0f}"), flush=True)

    print(f"\n{head('searched', 'first query, s', f'{N_QUERIES} queries, s')}")
    found = {}
    for name, mmap in (("from the map", True), ("from memory", False)):
        first, many, found[name] = alone(measure_searches, path, mmap)
        print(line(name, f"{first:.2f}", f"{many:.1f}"), flush=True)
    same = all(map(np.array_equal, *found.values()))
    print(f"\nwhat they found is {'the same bit for bit' if same else 'NOT THE SAME'}")

    for n_processes in (1, 2):
        resident, share = measure_sharing(path, n_processes) / 2**20
        print(f"{n_processes} searching: {resident:.0f} MiB resident in each, {share:.0f} MiB as a share", flush=True)
    adding, removing, unchanged = alone(measure_changes, path)
    print(
        f"{N_CHANGED} added to the map in {adding:.3f} s, {N_CHANGED} removed in {removing:.1f} s, and the file is "
        f"{'as it was' if unchanged else 'CHANGED'}"
    )


def main():
    """Print everything."""
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, default=100_000_000)
    parser.add_argument("--folder", help="where the file is written; by default the system's for temporary files")
    options = parser.parse_args()
    print(f"{machine()}\n")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report(os.path.join(folder, "codes.skdpq"), options.n)


if __name__ == "__main__":
    main()
