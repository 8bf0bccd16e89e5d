"""Memory and score of fitting on a memory map that is larger than what fitting may hold.

    python benchmarks/speed/streaming.py
    python benchmarks/speed/streaming.py --n 500000

The samples, 128 features each, are Gaussian around the 100 centers of their classes, and written to a temporary folder
sorted by class, the worst order for a stream. Memory is polled during `fit`, above what the process held before: what
it allocated (anonymous pages), and what it had of the file in memory, which the system takes back when it needs to
(Linux). Beside it, the same fit on the same samples in memory, by an estimator that may hold them all.
"""

import os
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser, memory, seconds

from skdpq import DPQClassifier
from skdpq._learning import samples  # what fits into memory is no parameter

N_FEATURES, N_CLASSES = 128, 100


def resident():
    """Return bytes that the process allocated, and bytes of files that it has in memory."""
    return np.array([memory(name) for name in ("RssAnon", "RssFile")])


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
    parser = make_parser(__doc__)
    parser.add_argument("--n", type=int, default=5_000_000)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    print(machine())
    rng = np.random.default_rng(0)
    centers = 0.35 * rng.standard_normal((N_CLASSES, N_FEATURES), dtype=np.float32)
    y_test = rng.integers(0, N_CLASSES, 20_000)
    X_test = centers[y_test] + rng.standard_normal((len(y_test), N_FEATURES), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "X.npy")
        y = write(path, options.n, centers)
        print(f"{options.n} x {N_FEATURES} samples, {os.path.getsize(path) / 2**20:.0f} MiB; {options.epochs} epochs\n")
        print(head("", "accuracy from codes", "allocated, MiB", "of the file, MiB", "fit, s"))
        for name, in_memory in (("streamed", samples.IN_MEMORY_BYTES), ("in memory", np.inf)):
            samples.IN_MEMORY_BYTES = in_memory
            X = np.load(path, mmap_mode="r")
            clf = DPQClassifier(M=4, K=64, max_iter=options.epochs, random_state=0)
            with Peak() as peak:
                fit_time = seconds(clf.fit, X, y)
            allocated, of_file = peak.mib
            score = clf.score(X_test, y_test)
            print(line(name, f"{score:.4f}", f"{allocated:.0f}", f"{of_file:.0f}", f"{fit_time:.0f}"), flush=True)


if __name__ == "__main__":
    main()
