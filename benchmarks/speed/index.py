"""What an index costs besides searching: building, adding, removing, memory, compilation; and its kernel alone.

    python benchmarks/speed/index.py
    python benchmarks/speed/index.py --n 1000000

Memory is measured in a process of its own, as what it holds, or held at most, above what it held before (Linux). The
codes are random, M=8, K=256, so that nearly all differ: the worst case. Adding is timed on the index and on a labelled
DPQNeighbors. Cold is a process with an empty cache of compiled kernels, warm one that finds them there.
"""

import argparse
import datetime
import gc
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import numba
import numpy as np
from numba import njit
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQNeighbors, ProductQuantizer
from skdpq._search.index import CodeIndex
from skdpq._search.simd import BLOCK, HAS_SHUFFLES, mark_block, n_registers

M, K, D = 8, 256, 8
FIRST_ANSWER = """
import time
start = time.perf_counter()
import numpy as np
from skdpq._search.index import CodeIndex
imported = time.perf_counter()
rng = np.random.default_rng(0)
index = CodeIndex(rng.normal(size=(8, 256, 8)))
index.add(rng.integers(256, size=(10_000, 8)))
queries = rng.normal(size=(10, 64)).astype(np.float32)
index.kneighbors(queries, 10, symmetric=False)
answered = time.perf_counter()
index.radius_neighbors(queries, np.float32(40), symmetric=False)
index.all_kneighbors(5)
index.all_radius_neighbors(np.float32(1))
print(imported - start, answered - imported, time.perf_counter() - answered)
"""


def random_codes(n):
    """Return codes, and codebooks for them."""
    rng = np.random.default_rng(0)
    return rng.integers(0, K, (n, M), dtype=np.uint8), rng.normal(size=(M, K, D)).astype(np.float32)


def held():
    """Return what the process holds now, in bytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak():
    """Return what the process has held at most since `restart_peak`, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def restart_peak():
    """Forget what the process has held so far."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


@njit
def mark_all(blocks, bounds, registers, masks):
    """Compare all blocks a hundred times with one query's bounds, which none of them meets."""
    M = blocks.shape[1]
    for _ in range(100):
        for b in range(len(blocks)):
            start = blocks.ctypes.data + np.uintp(b * M * BLOCK)
            mark_block(registers, start, bounds.ctypes.data, M, np.uint8(0), masks.ctypes.data)


def measure_kernel(K):
    """Return ns a code of the look-ups in registers, on codes that stay in the L1 cache."""
    rng = np.random.default_rng(0)
    index = CodeIndex(np.zeros((M, K, 1)))
    index.add(rng.integers(0, K, (12 * BLOCK, M)))
    blocks = index.segments[0].blocks
    registers = n_registers(K)
    buffer = np.ones(M * 64 * registers + 64, dtype=np.uint8)
    bounds = buffer[-buffer.ctypes.data % 64 :][: M * 64 * registers]
    masks = np.empty(4, dtype=np.uint64)
    mark_all(blocks, bounds, registers, masks)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        mark_all(blocks, bounds, registers, masks)
        times.append(time.perf_counter() - start)
    return np.median(times) / (100 * len(blocks) * BLOCK) * 1e9


def measure_memory(n):
    """Return bytes an item: of the index, of building it at most; bytes of searching at most; ms of one query."""
    warm_up = CodeIndex(random_codes(1)[1])
    warm_up.add(random_codes(5000)[0])
    queries = np.random.default_rng(1).normal(size=(256, M * D)).astype(np.float32)
    warm_up.kneighbors(queries, 100, symmetric=False)
    codes, codebooks = random_codes(n)
    before = held()
    restart_peak()
    index = CodeIndex(codebooks)
    index.add(codes)
    build = peak() - before
    index_size = held() - before
    searches, times = [], []
    for n_jobs in (1, 2):
        before = held()
        restart_peak()
        index.kneighbors(queries, 100, symmetric=False, n_jobs=n_jobs)
        searches.append(peak() - before)
        calls = []
        for query in queries[:50]:
            start = time.perf_counter()
            index.kneighbors(query[np.newaxis], 10, symmetric=False, n_jobs=n_jobs)
            calls.append(time.perf_counter() - start)
        times.append(np.median(calls) * 1e3)
    arrays = sum(array.nbytes for segment in index.segments for array in segment)
    return arrays / n, index_size / n, build / n, searches, times


def measure_updates(n):
    """Return seconds of one build, of appending, and of removing, of the index and of a labelled estimator."""
    codes, codebooks = random_codes(n)
    quantizer = ProductQuantizer(M=M, K=K, random_state=0).fit(np.random.default_rng(0).normal(size=(2000, M * D)))
    quantizer.codebooks_ = codebooks
    labels = np.arange(n) % 1000

    class Estimator:
        """A DPQNeighbors with the methods of an index."""

        def __init__(self, _):
            self.neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit_codes(codes[:0], labels[:0])
            self.n = 0

        def add(self, codes):
            self.neighbors.add_codes(codes, y=labels[self.n : self.n + len(codes)])
            self.n += len(codes)

        def remove(self, ids):
            self.neighbors.remove(ids)

    for kind in (CodeIndex, Estimator):
        start = time.perf_counter()
        kind(codebooks).add(codes)
        build = time.perf_counter() - start
        index = kind(codebooks)
        start = time.perf_counter()
        for part in np.array_split(codes, 1000):
            index.add(part)
        appends = time.perf_counter() - start
        ids = np.random.default_rng(0).permutation(n)[: n // 100]
        start = time.perf_counter()
        for part in np.array_split(ids, 10):
            index.remove(part)
        yield kind.__name__, build, appends, time.perf_counter() - start


def first_answers():
    """Return seconds of the import, of the first answer, and of the other searches, in a cold and a warm process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        for name in ("cold", "warm"):
            run = subprocess.run([sys.executable, "-c", FIRST_ANSWER], env=environment, check=True, capture_output=True)
            yield name, *map(float, run.stdout.split())


def main():
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000_000, help="items whose memory is measured")
    options = parser.parse_args()
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}, "
        f"Python {platform.python_version()}, skdpq {skdpq.__version__}, numpy {np.__version__}, "
        f"numba {numba.__version__}\n"
    )
    for name, imported, answer, others in first_answers():
        print(f"{name}: import {imported:.2f} s, first answer {answer:.2f} s, all other searches {others:.2f} s")

    n = 1_000_000
    print(f"\n{n} codes, M={M}, K={K}")
    for name, build, appends, removals in measure_updates(n):
        print(
            f"{name}: build {build:.2f} s, 1,000 appends {appends:.2f} s ({appends / build:.1f} builds), "
            f"10 removals of {n // 1000} {removals:.2f} s"
        )

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        arrays, index_size, build, searches, times = pool.submit(measure_memory, options.n).result()
    over = arrays / (M + 8) - 1
    print(
        f"\n{options.n} codes: index of {arrays:.2f} bytes an item, {over:.1%} over {M + 8} bytes of code and id "
        f"(resident {index_size:.2f}); at most {build:.1f} while building"
    )
    print(f"256 queries, k=100: {searches[0] / 2**20:.0f} MiB on one thread, {searches[1] / 2**20:.0f} MiB on two")
    print(f"one query, k=10: {times[0]:.2f} ms on one thread, {times[1]:.2f} ms on two")
    if HAS_SHUFFLES:
        kernels = ", ".join(f"K={K}: {measure_kernel(K):.3f} ns a code" for K in (64, 128, 256))
        print(f"\nthe kernel alone, M={M}, one thread: {kernels}")


if __name__ == "__main__":
    main()
