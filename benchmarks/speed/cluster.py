"""A database on a dask cluster of this machine beside one process: fit, queries, add, save, load, and the 100,000,000.

    python benchmarks/speed/cluster.py
    python benchmarks/speed/cluster.py --n 1000000 --rounds 9
    python benchmarks/speed/cluster.py --mapped 100000000 --folder /data
    python benchmarks/speed/cluster.py --merge
    python benchmarks/speed/cluster.py --spread

The codes are random, M=8, K=256, so that nearly all differ: the worst case. The cluster has two worker processes of one
thread each. Whatever answers a query takes turns in several rounds, of which medians are printed. `--mapped` writes
such a database to shards, a file each, and searches them from maps. `--merge` measures what it takes to put the answers
of many shards together, without any cluster, and what a message to a worker takes by each way that dask has.
`--spread` spreads the same 1,000,000 codes over more and more workers and shards, on the CPUs that there are: what the
time grows by is messages and merging, of which the comparing is the same.
"""

import asyncio
import gc
import os
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dask.array as da
import distributed
import numpy as np
from _common import head, interleave, line, machine, make_parser, memory, seconds
from distributed.protocol.pickle import dumps
from sklearn.frozen import FrozenEstimator

import skdpq
import skdpq.dask
from skdpq.dask import _found

M, K, N_FEATURES, N_NEIGHBORS = 8, 256, 64, 10
N_CHANGED, ROWS_A_BLOCK = 10_000, 250_000


def samples(n, seed):
    """Return Gaussian samples."""
    return np.random.default_rng(seed).normal(size=(n, N_FEATURES)).astype(np.float32)


def quantizer():
    """Return a fitted quantizer, frozen."""
    return FrozenEstimator(skdpq.ProductQuantizer(M=M, K=K, random_state=0).fit(samples(10_000, 0)))


def block_of_codes(block_info=None):
    """Return random codes of a chunk, that are the same whenever it is computed."""
    start, stop = block_info[None]["array-location"][0]
    return np.random.default_rng(start).integers(0, K, (stop - start, M), dtype=np.uint8)


def random_codes(n):
    """Return random codes as a dask array."""
    chunks = (ROWS_A_BLOCK, (M,))
    return da.map_blocks(block_of_codes, chunks=da.core.normalize_chunks(chunks, (n, M)), dtype=np.uint8)


def start(n_workers=2):
    """Return a cluster of processes of one thread each."""
    return distributed.LocalCluster(n_workers, threads_per_worker=1, dashboard_address=":0", memory_limit=0)


def warm_up(search):
    """Compile the kernels, and open connections."""
    for n_queries in (1, 256):
        search(samples(n_queries, 3), N_NEIGHBORS)


def milliseconds(values):
    """Return the median of seconds as text."""
    return f"{np.median(values) * 1000:.1f}"


def compare(n, n_rounds):
    """Print a table of one process beside the cluster, on n codes."""
    frozen, rows = quantizer(), []
    one = skdpq.DPQNeighbors(quantizer=frozen)
    many = skdpq.dask.DPQNeighbors(quantizer=frozen)
    X = da.random.default_rng(0).normal(size=(n // 10, N_FEATURES), chunks=(ROWS_A_BLOCK, -1)).astype(np.float32)
    rows.append((f"fit on {n // 10} samples of a dask array, s", seconds(one.fit, X.compute()), seconds(many.fit, X)))
    codes = random_codes(n)
    rows.append((f"fit_codes of {n}, s", seconds(one.fit_codes, codes.compute()), seconds(many.fit_codes, codes)))
    two = one.__copy__().set_params(n_jobs=2)
    for row in rows:
        print(line(row[0], f"{row[1]:.2f}", "", f"{row[2]:.2f}"), flush=True)
    for search in (one, two, many):
        warm_up(search.kneighbors)
    for n_queries in (1, 256):
        X = samples(n_queries, 5)
        turns = {
            name: (lambda s=s, X=X: seconds(s.kneighbors, X, N_NEIGHBORS))
            for name, s in (("one", one), ("two", two), ("many", many))
        }
        took = interleave(turns, n_rounds * (10 if n_queries == 1 else 1))
        print(line(f"{n_queries} queries, ms", *map(milliseconds, took.values())), flush=True)
        same = all(map(np.array_equal, one.kneighbors(X, N_NEIGHBORS), many.kneighbors(X, N_NEIGHBORS)))
        assert same, "the answers differ"
    return one, many


def compare_changes(one, many):
    """Print what additions and files take."""
    new = samples(N_CHANGED, 6)
    print(line(f"add {N_CHANGED}, s", f"{seconds(one.add, new):.2f}", "", f"{seconds(many.add, new):.2f}"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path, shards = os.path.join(folder, "one"), os.path.join(folder, "many")
        print(line("save, s", f"{seconds(one.save, path):.2f}", "", f"{seconds(many.save, shards):.2f}"))
        copied = shutil.copytree(shards, os.path.join(folder, "copied"))  # who holds what it saved does not read it
        for mmap in (False, True):
            took = seconds(skdpq.load, path, mmap=mmap), seconds(skdpq.dask.load, copied, mmap=mmap)
            print(line(f"load, mmap={mmap}, s", f"{took[0]:.3f}", "", f"{took[1]:.3f}"), flush=True)


def write_shards(folder, n, n_shards):
    """Write shards of random codes, one after the other, so that memory holds one; return the seconds."""
    from skdpq._files.folder import File, Manifest, write_manifest
    from skdpq.dask._storage import header_checksum

    began, frozen, files = time.perf_counter(), quantizer(), []
    for i in range(n_shards):
        ids = np.arange(n * i // n_shards, n * (i + 1) // n_shards)
        name = f"shard-{i}-0.skdpq"
        if not os.path.exists(os.path.join(folder, name)):
            codes = np.random.default_rng(i).integers(0, K, (len(ids), M), dtype=np.uint8)
            skdpq.DPQNeighbors(quantizer=frozen).fit_codes(codes, ids=ids).save(os.path.join(folder, name))
            del codes
        files.append(File(name, header_checksum(os.path.join(folder, name)), len(ids), None))
        gc.collect()
    write_manifest(folder, Manifest(n, False, {"sample_size": 65536, "n_shards": n_shards, "replicas": 1}, files))
    return time.perf_counter() - began


def memory_of(name):
    """Return a field of the memory of this process, in MiB."""
    return memory(name) / 2**20


def mapped(n, n_shards, folder):
    """Print what a database of n codes in mapped shards takes."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as folder:
        print(f"{n} codes in {n_shards} files, written in {write_shards(folder, n, n_shards):.0f} s")
        n_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.skdpq"))
        print(f"{n_bytes} bytes, {n_bytes / n:.2f} an item", flush=True)
        with start() as cluster, distributed.Client(cluster) as client:
            before = client.run(memory_of, "VmRSS")
            began = time.perf_counter()
            neighbors = skdpq.dask.load(folder, mmap=True)
            print(f"opened in {time.perf_counter() - began:.2f} s")
            for n_queries in (1, 1, 256, 1000):
                took = seconds(neighbors.kneighbors, samples(n_queries, n_queries), N_NEIGHBORS)
                print(f"{n_queries} queries: {took:.3f} s", flush=True)
            for name in ("VmRSS", "RssAnon", "RssFile"):
                found = client.run(memory_of, name)
                values = ", ".join(f"{value:.0f}" for value in found.values())
                print(f"{name} of each worker: {values} MiB")
            print("before opening, VmRSS:", ", ".join(f"{value:.0f}" for value in before.values()), "MiB")
            many = neighbors.kneighbors(samples(20, 9), N_NEIGHBORS)
        one = skdpq.load(folder, mmap=True)
        same = all(map(np.array_equal, many, one.kneighbors(samples(20, 9), N_NEIGHBORS)))
        print(f"20 queries find {'the same bit for bit' if same else 'NOT THE SAME'} in one process")
        print(f"one process, 1000 queries: {seconds(one.kneighbors, samples(1000, 1000), N_NEIGHBORS):.1f} s")


def first_columns(X):
    """Return something small of what a worker is sent."""
    return X[:, :10]


async def first_columns_in_thread(X):
    """Return the same, from a thread."""
    return await asyncio.to_thread(first_columns, X)


class Columns:
    """The same, as an actor."""

    def first_columns(self, X):
        """Return something small of what a worker is sent."""
        return X[:, :10]


def ways(client, workers, X):
    """Return by name calls that send X to each worker and wait for what comes back."""
    actors = [client.submit(Columns, actor=True, workers=[w], pure=False).result() for w in workers]

    async def direct():
        message = {"function": dumps(first_columns_in_thread), "args": dumps((X,)), "kwargs": dumps({})}
        return await asyncio.gather(*(client.rpc(worker).run(**message) for worker in workers))

    return {
        "a task": lambda: client.gather([client.submit(first_columns, X, workers=[w], pure=False) for w in workers]),
        "Client.run": lambda: client.run(first_columns_in_thread, X, workers=workers),
        "an actor": lambda: [future.result() for future in [actor.first_columns(X) for actor in actors]],
        "a message to the worker": lambda: client.sync(direct),
    }


def measure_messages(n_rounds):
    """Print what it takes to ask two workers for nothing, by each way that dask has."""
    print(head("two workers are asked by", "1 query, ms", "256 queries, ms"))
    with start() as cluster, distributed.Client(cluster) as client:
        workers = sorted(client.nthreads())
        took = []
        for n_queries in (1, 256):
            calls = ways(client, workers, samples(n_queries, 0))
            for call in calls.values():
                call()
            turns = {name: (lambda call=call: seconds(call)) for name, call in calls.items()}
            took.append(interleave(turns, n_rounds * 10))
        for name in took[0]:
            print(line(name, *(milliseconds(of_size[name]) for of_size in took)), flush=True)


def measure_merging(n_rounds):
    """Print what it takes to merge the answers of shards."""
    print(f"\n{head('shards', '1 query, ms', '256 queries, ms', '256 queries, bytes of answers')}")
    random = np.random.default_rng(0)
    for n_shards in (2, 8, 64, 512):
        cells = []
        for n_queries in (1, 256):
            parts = [
                _found.Nearest(
                    np.sort(random.random((n_queries, N_NEIGHBORS), np.float32), axis=1),
                    random.integers(0, 2**40, (n_queries, N_NEIGHBORS)),
                    1,
                )
                for _ in range(n_shards)
            ]
            took = [seconds(_found.nearest, parts, N_NEIGHBORS) for _ in range(n_rounds)]
            cells.append(milliseconds(took))
        n_bytes = sum(part.distances.nbytes + part.numbers.nbytes for part in parts)
        print(line(n_shards, *cells, n_bytes), flush=True)


def measure_spread(n_rounds):
    """Print what a search takes whose codes are spread over more and more workers and shards."""
    print(head("workers", "shards", "1 query, ms", "256 queries, ms"))
    frozen, codes = quantizer(), random_codes(1_000_000).compute()
    for n_workers, n_shards in ((1, 1), (1, 8), (1, 64), (2, 2), (2, 64), (4, 4), (8, 8), (16, 16), (16, 128)):
        with start(n_workers) as cluster, distributed.Client(cluster):
            many = skdpq.dask.DPQNeighbors(quantizer=frozen, n_shards=n_shards).fit_codes(codes)
            warm_up(many.kneighbors)
            cells = []
            for n_queries in (1, 256):
                X = samples(n_queries, 5)
                took = [seconds(many.kneighbors, X, N_NEIGHBORS) for _ in range(n_rounds * 5)]
                cells.append(milliseconds(took))
        print(line(n_workers, n_shards, *cells), flush=True)


def main():
    """Print everything."""
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mapped", type=int, help="only search mapped shards of so many codes")
    parser.add_argument("--shards", type=int, default=4, help="files of those")
    parser.add_argument(
        "--folder",
        help="where files are kept, and used if they are there; by default a temporary one",
    )
    parser.add_argument("--merge", action="store_true", help="only measure messages and merging")
    parser.add_argument("--spread", action="store_true", help="only spread codes over more workers and shards")
    options = parser.parse_args()
    print(f"{machine('dask', 'distributed')}\n")
    if options.mapped:
        mapped(options.mapped, options.shards, options.folder)
    elif options.merge:
        measure_messages(options.rounds)
        measure_merging(options.rounds)
    elif options.spread:
        measure_spread(options.rounds)
    else:
        with start() as cluster, distributed.Client(cluster):
            print(head(f"{options.n} codes", "one process, 1 thread", "2 threads", "two workers of 1 thread"))
            compare_changes(*compare(options.n, options.rounds))


if __name__ == "__main__":
    main()
