"""Retrieval protocols of the paper's section 4, and results that are kept as they come."""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import faiss
import numpy as np
import sklearn
import torch
from images import load_split
from sklearn.frozen import FrozenEstimator

import skdpq
from skdpq import DPQNeighbors
from skdpq.metrics import mean_average_precision

RESULTS = Path(__file__).parent / "results"
PROTOCOLS = {
    "a": "a tenth of the test items of each class query the others",
    "b": "all test items query the test items",
    "c": "all test items query the training items",
}


def sides(protocol, y_test):
    """Return which test items are the queries, and which the database (None for the training items)."""
    everything = np.arange(len(y_test))
    if protocol == "c":
        return everything, None
    if protocol == "b":
        return everything, everything
    queries = [np.flatnonzero(y_test == label) for label in np.unique(y_test)]
    queries = np.concatenate([items[: len(items) // 10] for items in queries])
    return queries, np.setdiff1d(everything, queries)


def evaluate(quantizer, train, test):
    """Return the mAP over the whole ranking by (protocol, search) of a fitted quantizer.

    `train` and `test` are pairs of samples and labels. `DPQNeighbors` takes whatever has `encode`, `soft`, `decode` and
    `codebooks_`, and its score is tie-aware.
    """
    codes = quantizer.encode(test[0])
    scores = {}
    for protocol in PROTOCOLS:
        queries, database = sides(protocol, test[1])
        neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer), n_jobs=-1)
        if database is None:
            neighbors.fit(*train)
        else:
            neighbors.fit_codes(codes[database], test[1][database])
        for search in ("symmetric", "asymmetric"):
            neighbors.set_params(search=search)
            scores[f"{protocol} {search}"] = neighbors.score(test[0][queries], test[1][queries])
    return scores


def evaluate_decoded(soft, hard, y_train, y_test):
    """Return the same for vectors: `soft` of the test items, and `hard` of training and test items."""
    hard_train, hard_test = hard
    scores = {}
    for protocol in PROTOCOLS:
        queries, database = sides(protocol, y_test)
        items, labels = (hard_train, y_train) if database is None else (hard_test[database], y_test[database])
        for search, vectors in (("symmetric", hard_test), ("asymmetric", soft)):
            scores[f"{protocol} {search}"] = map_of_vectors(vectors[queries], y_test[queries], items, labels)
    return scores


def map_of_vectors(queries, y, items, labels):
    """Return the mAP of ranking vectors by their Euclidean distances, some queries at a time."""
    norms = np.square(items).sum(1)
    total = 0.0
    for start in range(0, len(queries), 500):
        block = slice(start, start + 500)
        # What is added for a query does not change its ranking; equal vectors stay equal, so ties do.
        distances = norms - 2 * (queries[block] @ items.T)
        total += mean_average_precision(y[block], labels, distances) * len(y[block])
    return total / len(queries)


def begin(description, name):
    """Return the command line's options, training and test images with their labels, and the results so far."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="images, in a folder or a zip file")
    parser.add_argument("--cache", required=True, help="a folder for trained base networks")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--validation", action="store_true", help="do not look at the test images")
    options = parser.parse_args()
    results = Results(RESULTS / f"{name}{'-validation' * options.validation}.json")
    return options, *load_split(options.data, options.validation), results


class Results:
    """Results in a JSON file, each under a key; what is there is not computed again."""

    def __init__(self, path):
        self.path = Path(path)
        self.rows = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key, compute):
        """Return what is under a key, computing it if it is not there."""
        if key not in self.rows:
            start = time.perf_counter()
            row = {name: round(value, 5) for name, value in compute().items()}
            row["seconds"] = round(time.perf_counter() - start, 1)
            self.rows[key] = row | {"on": machine()}
            self.path.parent.mkdir(exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.rows, indent=1) + "\n")
            temporary.replace(self.path)
        row = self.rows[key]
        print(key, {name: value for name, value in row.items() if name != "on"}, flush=True)
        return row


def machine():
    """Return date, machine and versions."""
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (skdpq, sklearn, torch, np, faiss))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} x {platform.machine()}"
    return f"{time.strftime('%Y-%m-%d')}, {device}, Python {platform.python_version()}, {versions}"
