"""Queries a second, and how long each takes, of examples/serve.py with 8 clients at once.

    python benchmarks/speed/serving.py
    python benchmarks/speed/serving.py --n 1000000 --rounds 10

The server is started with one process and with two, on the loopback address and a map of a file of random codes (M=8,
K=256, so that nearly all differ: the worst case). Eight clients, each a process that keeps its connection, ask for the
10 nearest of one query, or of 100, again and again for some seconds. A latency is the time from sending the request to
having read all of the answer, which the client does not parse. The servers take turns in several rounds, of which the
median rate is printed, and the percentiles of all latencies. The clients run on the cores of the server.
"""

import http.client
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, interleave, line, machine, make_parser
from sklearn.frozen import FrozenEstimator

from skdpq import DPQNeighbors, ProductQuantizer

SERVE = Path(__file__).parents[2] / "examples/serve.py"
M, K, N_FEATURES = 8, 256, 64
N_CLIENTS, N_NEIGHBORS = 8, 10
N_BODIES = 100  # different requests of each client
FORK = multiprocessing.get_context("fork")  # clients, which are many and start at once
SPAWN = multiprocessing.get_context("spawn")  # what builds, as threads survive no fork


def build(path, n):
    """Write a database of n random codes."""
    samples = np.random.default_rng(0).normal(size=(10_000, N_FEATURES))
    quantizer = FrozenEstimator(ProductQuantizer(M=M, K=K, random_state=0).fit(samples))
    codes = np.random.default_rng(1).integers(0, K, (n, M), dtype=np.uint8)
    DPQNeighbors(quantizer=quantizer).fit_codes(codes).save(path)


@contextmanager
def served(path, n_processes):
    """Serve a file meanwhile; yield the address."""
    command = [sys.executable, SERVE, path, "--port", "0", "--processes", str(n_processes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split("//")[1].strip()
            for _ in range(n_processes):  # each says when it answers
                server.stdout.readline()
            yield address
        finally:
            server.send_signal(signal.SIGTERM)


def ask(number, address, n_queries, n_seconds, barrier, results):
    """Ask again and again; put the seconds that each answer took, and those of all."""
    queries = np.random.default_rng(number).normal(size=(N_BODIES, n_queries, N_FEATURES)).round(6)
    bodies = [json.dumps({"queries": rows.tolist(), "n_neighbors": N_NEIGHBORS}) for rows in queries]
    connection = http.client.HTTPConnection(address)
    connection.connect()
    barrier.wait()
    begin, latencies = time.perf_counter(), []
    while time.perf_counter() - begin < n_seconds:
        start = time.perf_counter()
        connection.request("POST", "/kneighbors", bodies[len(latencies) % N_BODIES])
        response = connection.getresponse()
        response.read()
        latencies.append(time.perf_counter() - start)
        assert response.status == 200
    results.put((latencies, time.perf_counter() - begin))


def measure(address, n_queries, n_seconds):
    """Return requests a second of all clients, and all latencies."""
    barrier, results = FORK.Barrier(N_CLIENTS), FORK.Queue()
    clients = [
        FORK.Process(target=ask, args=(number, address, n_queries, n_seconds, barrier, results))
        for number in range(N_CLIENTS)
    ]
    for client in clients:
        client.start()
    found = [results.get() for _ in clients]
    for client in clients:
        client.join()
    latencies = np.concatenate([latencies for latencies, _ in found])
    return len(latencies) / max(elapsed for _, elapsed in found), latencies


def report(path, n, n_seconds, n_rounds):
    """Print the rows of one database."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        pool.submit(build, path, n).result()
    with ExitStack() as stack:
        addresses = {n_processes: stack.enter_context(served(path, n_processes)) for n_processes in (1, 2)}
        turns = {
            (n_queries, n_processes): partial(measure, address, n_queries, n_seconds)
            for n_queries in (1, 100)
            for n_processes, address in addresses.items()
        }
        for (n_queries, n_processes), found in interleave(turns, n_rounds).items():
            rates, latencies = zip(*found, strict=True)
            queries = np.median(rates) * n_queries
            median, late = 1e3 * np.percentile(np.concatenate(latencies), (50, 99))
            print(line(n, n_queries, n_processes, f"{queries:.0f}", f"{median:.1f}", f"{late:.1f}"), flush=True)


def main():
    """Print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=5, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}\n{N_CLIENTS} clients, {N_NEIGHBORS} neighbors\n")
    columns = ("queries a request", "processes", "queries a second", "median, ms", "99th percentile, ms")
    print(head("codes", *columns, n_text=0))
    with tempfile.TemporaryDirectory() as folder:
        for n in options.n:
            report(os.path.join(folder, f"{n}.skdpq"), n, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
