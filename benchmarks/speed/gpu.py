"""Search by torch on a device beside the scan on the CPU, and the distances alone: sums of table entries, or a product.

    python benchmarks/speed/gpu.py --device cuda
    python benchmarks/speed/gpu.py --device cpu --n 100000 --queries 256

Random codes, M=8, K=256. Results are checked to be equal, bit for bit. "Sums" is what the search computes; "product" is
one matrix product of decoded codes and queries, in float32, which rounds otherwise and would have to be corrected.
"""

import argparse
import datetime
import platform
import time

import numpy as np
import torch
from sklearn.utils import gen_batches

from skdpq._codes import decode
from skdpq._device import check_device
from skdpq._search import scan_torch
from skdpq._search.index import CodeIndex

M, K = 8, 256


def seconds(function, device):
    """Return the shortest of three calls after a first, and what the last returned."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        result = function()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:]), result


def distances_alone(index, queries, device):
    """Return the seconds that all distances of a block of queries take, as sums and as a product."""
    codes = torch.from_numpy(index.codes).to(device)
    vectors = torch.from_numpy(decode(index.codes, index.codebooks)).to(device)
    there, parts = torch.tensor(index.codebooks, device=device), torch.from_numpy(queries).T.to(device)
    tables = scan_torch._make_tables(index.codebooks, there, queries)

    def sums():
        for block in gen_batches(len(codes), scan_torch._DISTANCES // len(queries)):
            scan_torch._distances(codes[block], tables)

    def product():
        for block in gen_batches(len(codes), scan_torch._DISTANCES // len(queries)):
            vectors[block] @ parts

    return seconds(sums, device)[0], seconds(product, device)[0]


def main():
    """Print a line for every number of dimensions and of neighbours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    arguments = parser.parse_args()
    device = check_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device
    print(f"{datetime.date.today()}, {name}, {platform.machine()}, torch {torch.__version__}")
    print(f"{arguments.n} codes, {arguments.queries} queries; microseconds a query\n")
    print(f"{'D':>3} {'k':>5} {'device':>9} {'CPU, all threads':>17} {'sums':>9} {'product':>9}")
    for D in (8, 64):
        rng = np.random.default_rng(0)
        index = CodeIndex(rng.normal(size=(M, K, D)))
        index.add(rng.integers(0, K, (arguments.n, M), dtype=np.uint8))
        queries = rng.normal(size=(arguments.queries, M * D)).astype(np.float32)
        some = queries[:2048]
        alone = [1e6 * s / len(some) for s in distances_alone(index, some, device)]
        for k in (1, 10, 100, 1000):
            search = {
                "device": lambda: index.kneighbors(queries, k, symmetric=False, device=device),  # noqa: B023
                "CPU": lambda: index.kneighbors(queries, k, symmetric=False, n_jobs=-1),  # noqa: B023
            }
            (ours, found), (cpu, expected) = (seconds(function, device) for function in search.values())
            for actual, part in zip(found, expected, strict=True):
                np.testing.assert_array_equal(actual, part)
            times = [1e6 * s / len(queries) for s in (ours, cpu)]
            print(f"{D:3} {k:5} {times[0]:9.2f} {times[1]:17.2f} {alone[0]:9.2f} {alone[1]:9.2f}", flush=True)


if __name__ == "__main__":
    main()
