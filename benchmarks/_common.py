"""What the benchmarks share: arguments, machine and versions, timing, memory, tables, and a database of given codes.

Scripts put this folder on `sys.path`, and import this before Numba and skdpq: it says where Numba keeps what it
compiles.
"""

import argparse
import datetime
import gc
import os
import platform
import sys
import time
from contextlib import contextmanager, suppress
from importlib.metadata import version
from types import SimpleNamespace

import _numba_cache
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

import skdpq  # loads what needs Numba later, when it is asked for

os.environ["NUMBA_CACHE_DIR"] = _numba_cache.FOLDER
with suppress(ImportError):  # which an earlier checkout, as `against.py` runs, does not have
    from skdpq._search import scan_numpy

    scan_numpy.stop()  # what is timed is compiled


def make_parser(description):
    """Return a parser of arguments that prints a script's docstring as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def machine(*packages):
    """Return a line of date, machine and versions: of skdpq and what it needs, and of more packages."""
    torch = sys.modules.get("torch")  # not imported for its own sake
    gpu = f"{torch.cuda.get_device_name()}, " if torch and torch.cuda.is_available() else ""
    names = ("scikit-learn", "numpy", "numba", "torch", *packages)
    return (
        f"{datetime.date.today()}, {gpu}{os.cpu_count()} CPUs, {platform.platform()}, Python "
        f"{platform.python_version()}, skdpq {skdpq.__version__}, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )


def load_features(path):
    """Return X_train, y_train, X_test and y_test of an .npz file, the samples in float32."""
    data = np.load(path)
    X, X_test = (data[name].astype(np.float32) for name in ("X_train", "X_test"))
    return X, data["y_train"].astype(np.int64), X_test, data["y_test"].astype(np.int64)


def seconds(call, *args, **params):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call(*args, **params)
    return time.perf_counter() - start


def seconds_each(call, at_least):
    """Call again and again for at least some seconds; return those of each call, without the first if there are two."""
    elapsed = []
    start = time.perf_counter()
    while not elapsed or time.perf_counter() - start < at_least:
        elapsed.append(seconds(call))
    return elapsed[1:] or elapsed


def interleave(turns, n_rounds):
    """Take turns in several rounds, every second one backwards; return what each returned, by its name."""
    results = {name: [] for name in turns}
    for i in range(n_rounds):
        for name in reversed(turns) if i % 2 else turns:
            results[name].append(turns[name]())
    return results


def memory(name):
    """Return a field of what Linux knows of the memory of this process, in bytes: VmRSS, VmHWM, RssAnon or RssFile."""
    with open("/proc/self/status") as file:
        return next(int(text.split()[1]) * 1024 for text in file if text.startswith(f"{name}:"))


@contextmanager
def measured_memory():
    """Yield what will have the bytes that the process `held` at the end, and at most (`peak`), above the start."""
    gc.collect()
    before, result = memory("VmRSS"), SimpleNamespace()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak so far is forgotten
    yield result
    result.peak = memory("VmHWM") - before
    gc.collect()
    result.held = memory("VmRSS") - before


def head(*columns, n_text=1):
    """Return the head of a Markdown table, whose columns but the first few hold numbers."""
    return f"{line(*columns)}\n|{'---|' * n_text}{'---:|' * (len(columns) - n_text)}"


def line(*cells):
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


class GivenCodebooks(BaseEstimator):
    """A quantizer of given codebooks (M, K, D), for which a query is its own soft representation."""

    def __init__(self, codebooks):
        self.codebooks = codebooks

    def fit(self, X=None, y=None):
        """Take the codebooks."""
        self.codebooks_ = np.asarray(self.codebooks, dtype=np.float32)
        return self

    def soft(self, X):
        """Return X."""
        return X

    def encode(self, X):
        """Return the nearest codeword of each part."""
        M, K, D = self.codebooks_.shape
        parts = zip(np.reshape(X, (-1, M, D)).transpose(1, 0, 2), self.codebooks_, strict=True)
        codes = [(np.square(C).sum(1) - 2 * x @ C.T).argmin(1) for x, C in parts]
        return np.stack(codes, axis=1).astype(np.uint8 if K <= 256 else np.uint16)

    def decode(self, codes):
        """Return the codewords of codes, concatenated."""
        return self.codebooks_[np.arange(len(self.codebooks_)), codes].reshape(len(codes), -1)


def search_index(codebooks, codes, y=None, **params):
    """Return a DPQNeighbors with such parameters over codes, searched by soft representations."""
    quantizer = FrozenEstimator(GivenCodebooks(codebooks).fit())
    return skdpq.DPQNeighbors(quantizer=quantizer, **params).fit_codes(codes, y)


def trained_by(make_step):
    """Return DPQClassifier with another function in the place of `skdpq._learning.step.make_step`."""
    return type("DPQClassifier", (skdpq.DPQClassifier,), {"_make_step": staticmethod(make_step)})
