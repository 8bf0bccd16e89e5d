"""Search by torch on a device beside the scan on the CPU, and the distances alone: sums of table entries, or a product.

    python benchmarks/speed/gpu.py --device cuda

Random codes, M=8, K=256. Results are checked to be equal, bit for bit. "Sums" is what the search computes, without the
tables; "product" is one matrix product of decoded codes and queries, in float32, which rounds otherwise and would have
to be corrected. Times are the shortest of three calls after a first. With `--device cpu` both searches are the scan.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from _common import GivenCodebooks, head, line, machine, make_parser, search_index, seconds
from sklearn.utils import gen_batches
from torch.nn.functional import embedding_bag

M, K = 8, 256
DISTANCES = 2**26  # at a time: 256 MB


def shortest(call, *args, **params):
    """Return the seconds of the shortest of three calls after a first."""
    call(*args, **params)
    return min(seconds(call, *args, **params) for _ in range(3))


def distances_alone(codebooks, codes, queries, device):
    """Return the seconds that all distances of a block of queries take, as sums and as a product."""
    rows = torch.from_numpy(codes).to(device).int() + torch.arange(0, M * K, K, dtype=torch.int32, device=device)
    vectors = torch.from_numpy(GivenCodebooks(codebooks).fit().decode(codes)).to(device)
    tables = torch.rand(M * K, len(queries), device=device)
    queries = torch.from_numpy(queries).T.to(device)

    def sums(block):
        return embedding_bag(rows[block], tables, mode="sum")

    def product(block):
        return vectors[block] @ queries

    def compute(function):
        for block in gen_batches(len(codes), DISTANCES // queries.shape[1]):
            function(block)
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()

    return shortest(compute, sums), shortest(compute, product)


def main():
    """Print a line for every number of dimensions and of neighbours."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    options = parser.parse_args()
    print(machine())
    print(f"{options.n:,} codes, {options.queries:,} queries; microseconds a query\n")
    print(head("D", "k", "device", "CPU, all threads", "sums", "product", n_text=0))
    for D in (8, 64):
        rng = np.random.default_rng(0)
        codebooks, codes = rng.normal(size=(M, K, D)).astype(np.float32), rng.integers(0, K, (options.n, M), np.uint8)
        queries = rng.normal(size=(options.queries, M * D)).astype(np.float32)
        there = search_index(codebooks, codes, device=options.device)
        here = search_index(codebooks, codes, n_jobs=-1)
        some = queries[:2048]
        alone = [f"{1e6 * s / len(some):.2f}" for s in distances_alone(codebooks, codes, some, options.device)]
        for k in (1, 10, 100, 1000):
            for found, expected in zip(there.kneighbors(queries, k), here.kneighbors(queries, k), strict=True):
                np.testing.assert_array_equal(found, expected)
            times = [f"{1e6 * shortest(index.kneighbors, queries, k) / len(queries):.2f}" for index in (there, here)]
            print(line(D, k, *times, *alone), flush=True)


if __name__ == "__main__":
    main()
