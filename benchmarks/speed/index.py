"""What an index costs besides searching: building, adding, removing, memory, compilation; and its kernel alone.

    python benchmarks/speed/index.py
    python benchmarks/speed/index.py --n 1000000

Memory is measured in a process of its own, as what it holds, or held at most, above what it held before (Linux). The
codes are random, M=8, K=256, so that nearly all differ: the worst case. Codes are added and removed with and without
labels, and with strings as ids. Cold is a process with an empty cache of compiled kernels, warm one that finds them
there.
"""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import machine, make_parser, measured_memory, search_index, seconds
from numba import njit

from skdpq._search.segments import build  # for the kernel alone
from skdpq._search.simd import BLOCK_CODES, HAS_SIMD, VECTOR_BYTES, mark_block, n_registers

M, K, D = 8, 256, 8
FIRST_ANSWER = f"""
import sys
import time
start = time.perf_counter()
from skdpq import DPQNeighbors
imported = time.perf_counter()
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import numpy as np
from _common import search_index
rng = np.random.default_rng(0)
codebooks, codes = rng.normal(size=(8, 256, 8)), rng.integers(256, size=(10_000, 8))
queries = rng.normal(size=(10, 64)).astype(np.float32)
start_search = time.perf_counter()
neighbors = search_index(codebooks, codes)
neighbors.kneighbors(queries, 10)
answered = time.perf_counter()
neighbors.radius_neighbors(queries, 40**0.5)
neighbors.kneighbors(n_neighbors=5)
neighbors.radius_neighbors(radius=1.0)
print(imported - start, answered - start_search, time.perf_counter() - answered)
"""


def random_codes(n):
    """Return codes, and codebooks for them."""
    rng = np.random.default_rng(0)
    return rng.integers(0, K, (n, M), dtype=np.uint8), rng.normal(size=(M, K, D)).astype(np.float32)


@njit
def mark_all(n_registers, blocks, table_u8, masks):
    """Compare all blocks a hundred times with one query's 8-bit table, whose sums all exceed the largest."""
    M = blocks.shape[1]
    for _ in range(100):
        for b in range(len(blocks)):
            codes = blocks.ctypes.data + np.uintp(b * M * BLOCK_CODES)
            mark_block(n_registers, codes, table_u8.ctypes.data, M, np.uint8(0), masks.ctypes.data)


def measure_kernel(K):
    """Return ns a code of in-register look-up tables, on codes that stay in the L1 cache."""
    codes = np.random.default_rng(0).integers(0, K, (12 * BLOCK_CODES, M), dtype=np.uint8)
    blocks = build(codes, np.arange(len(codes))).blocks
    n_bytes = M * VECTOR_BYTES * n_registers(K)
    buffer = np.ones(n_bytes + VECTOR_BYTES, dtype=np.uint8)
    table_u8 = buffer[-buffer.ctypes.data % VECTOR_BYTES :][:n_bytes]
    masks = np.empty(4, dtype=np.uint64)
    mark_all(n_registers(K), blocks, table_u8, masks)  # compiles
    elapsed = [seconds(mark_all, n_registers(K), blocks, table_u8, masks) for _ in range(200)]
    return np.median(elapsed) / (100 * len(codes)) * 1e9


def measure_memory(n):
    """Return bytes an item of the pickled database, and memory of building it; then memory and ms of searches.

    Searches are on one thread and on two: the memory of 256 queries, and the ms of one.
    """
    queries = np.random.default_rng(1).normal(size=(256, M * D)).astype(np.float32)
    codes, codebooks = random_codes(5000)
    search_index(codebooks, codes).kneighbors(queries, 100)  # compiles
    codes, codebooks = random_codes(n)
    with measured_memory() as building:
        index = search_index(codebooks, codes)
    searches, times = [], []
    for n_jobs in (1, 2):
        index.set_params(n_jobs=n_jobs)
        with measured_memory() as searching:
            index.kneighbors(queries, 100)
        searches.append(searching.peak)
        times.append(1e3 * np.median([seconds(index.kneighbors, query, 10) for query in queries[:, np.newaxis]]))
    return len(pickle.dumps(index)) / n, building.held / n, building.peak / n, searches, times


def measure_updates(n, labelled, named):
    """Return seconds of one build, of 1,000 appends, and of 10 removals of a thousandth, of n codes in all."""
    codes, codebooks = random_codes(n)
    given = {"y": np.arange(n) % 1000 if labelled else None, "ids": np.array([f"{i:032x}" for i in range(n)])}
    if not named:
        given["ids"] = None

    def some(part):
        return {name: None if values is None else values[part] for name, values in given.items()}

    index = search_index(codebooks, codes[:5000])  # compiles
    building = seconds(index.fit_codes, codes, **given)
    index.fit_codes(codes[:0], **some(slice(0)))
    parts = [slice(n * i // 1000, n * (i + 1) // 1000) for i in range(1000)]
    appending = sum(seconds(index.add_codes, codes[part], **some(part)) for part in parts)
    ids = np.random.default_rng(0).permutation(n)[: n // 100]
    ids = ids if given["ids"] is None else given["ids"][ids]
    removing = sum(seconds(index.remove, some_ids) for some_ids in np.array_split(ids, 10))
    return building, appending, removing


def first_answers():
    """Return seconds of the import, of the first answer, and of the other searches, in a cold and a warm process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        for name in ("cold", "warm"):
            run = subprocess.run([sys.executable, "-c", FIRST_ANSWER], env=environment, check=True, capture_output=True)
            yield name, *map(float, run.stdout.split())


def main():
    """Print everything."""
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, default=10_000_000, help="items whose memory is measured")
    options = parser.parse_args()
    print(f"{machine()}\n")
    for name, imported, answer, others in first_answers():
        print(f"{name}: import {imported:.2f} s, first answer {answer:.2f} s, all other searches {others:.2f} s")

    n = min(1_000_000, options.n)
    print(f"\n{n} codes, M={M}, K={K}")
    for name, has in {"no labels": (False, False), "labels": (True, False), "strings as ids": (False, True)}.items():
        building, appending, removing = measure_updates(n, *has)
        print(
            f"{name}: build {building:.2f} s, 1,000 appends {appending:.2f} s ({appending / building:.1f} builds), "
            f"10 removals of {n // 1000} {removing:.2f} s"
        )

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pickled, held, peak, searches, times = pool.submit(measure_memory, options.n).result()
    over = pickled / (M + 8) - 1
    print(
        f"\n{options.n} codes: {pickled:.2f} bytes an item in a pickle, {over:.1%} over {M + 8} bytes of code and id; "
        f"in memory {held:.2f}; at most {peak:.1f} while building"
    )
    print(f"256 queries, k=100: {searches[0] / 2**20:.0f} MiB on one thread, {searches[1] / 2**20:.0f} MiB on two")
    print(f"one query, k=10: {times[0]:.2f} ms on one thread, {times[1]:.2f} ms on two")
    if HAS_SIMD:
        kernels = ", ".join(f"K={K}: {measure_kernel(K):.3f} ns a code" for K in (64, 128, 256))
        print(f"\nthe kernel alone, M={M}, one thread: {kernels}")


if __name__ == "__main__":
    main()
