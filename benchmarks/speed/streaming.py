"""Memory and score of fitting on a memory map that is larger than what fitting may hold.

    python benchmarks/speed/streaming.py
    python benchmarks/speed/streaming.py --n 500000

The samples, 128 features each, are Gaussian around the 100 centers of their classes, and written to a temporary folder
sorted by class, the worst order for a stream. Memory is polled during `fit`, above what the process held before: what
it allocated (anonymous pages), and what it had of the file in memory, which the system takes back when it needs to
(Linux). Beside it, the same fit on the same samples in memory, by an estimator that may hold them all.
"""

import argparse
import datetime
import os
import platform
import tempfile
import threading
import time

import numpy as np
import sklearn
import torch

import skdpq
from skdpq import DPQClassifier
from skdpq._learning import batches as _batches

N_FEATURES, N_CLASSES = 128, 100


def resident():
    """Return bytes that the process allocated, and bytes of files that it has in memory."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return np.array([int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")])


class Peak:
    """Polls what the process holds, above what it held at the start."""

    def __enter__(self):
        self.start = self.most = resident()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.poll)
        self.thread.start()
        return self

    def poll(self):
        """Keep the largest of each kind."""
        while not self.done.wait(0.02):
            self.most = np.maximum(self.most, resident())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.mib = (self.most - self.start) / 2**20


def write(path, n, centers):
    """Write n samples to a .npy file, a class after the other; return their labels."""
    rng = np.random.default_rng(1)
    y = np.sort(rng.integers(0, N_CLASSES, n))
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n, N_FEATURES))
    for start in range(0, n, 100_000):
        labels = y[start : start + 100_000]
        X[start : start + 100_000] = centers[labels] + rng.standard_normal((len(labels), N_FEATURES), dtype=np.float32)
    X.flush()
    return y


def main():
    """Fit streamed and in memory, and print what each held and scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5_000_000)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    print(", ".join(f"{module.__name__} {module.__version__}" for module in (skdpq, sklearn, torch, np)))
    rng = np.random.default_rng(0)
    centers = 0.35 * rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)
    y_test = rng.integers(0, N_CLASSES, 20_000)
    X_test = centers[y_test] + rng.standard_normal((len(y_test), N_FEATURES), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "X.npy")
        y = write(path, options.n, centers)
        print(f"{options.n} x {N_FEATURES} samples, {os.path.getsize(path) / 2**20:.0f} MiB; {options.epochs} epochs\n")
        print("| | accuracy from codes | allocated, MiB | of the file, MiB | fit, s |\n|---|---|---|---|---|")
        for name, in_memory in (("streamed", _batches.IN_MEMORY), ("in memory", np.inf)):
            _batches.IN_MEMORY = in_memory
            X = np.load(path, mmap_mode="r")
            clf = DPQClassifier(M=4, K=64, max_iter=options.epochs, random_state=0)
            start = time.perf_counter()
            with Peak() as peak:
                clf.fit(X, y)
            seconds = time.perf_counter() - start
            score = clf.score(X_test, y_test)
            print(f"| {name} | {score:.4f} | {peak.mib[0]:.0f} | {peak.mib[1]:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
