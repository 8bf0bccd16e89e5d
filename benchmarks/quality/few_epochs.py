"""Codes after few epochs beside ProductQuantizer of the same bits, on the data sets of scikit-learn that have labels.

    python benchmarks/quality/few_epochs.py

A halving search over `max_iter` begins with few epochs, and is misled if they are worth nothing. Two fifths of the
samples query the others, whose codes are in the database; DPQ has learned from these. mAP, means of some seeds, of
which each splits otherwise. The rivals see features that are standardized, as DPQ does inside.
"""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdpq import DPQNeighbors, DPQTransformer, ProductQuantizer

SETS = {"digits": load_digits, "wine": load_wine, "breast_cancer": load_breast_cancer, "iris": load_iris}


def measure(X, y, epochs, seed):
    """Yield names of quantizers and the mAP of their codes."""
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=seed)
    M, K = min(8, X.shape[1]), min(64, len(X))
    for max_iter in epochs:
        dpq = DPQTransformer(M=M, K=K, max_iter=max_iter, random_state=seed)
        yield f"DPQ, max_iter={max_iter}", DPQNeighbors(quantizer=dpq).fit(X, y).score(X_test, y_test)
    pq = DPQNeighbors(quantizer=ProductQuantizer(M=M, K=K, random_state=seed))
    yield "PQ", pq.fit(X, y).score(X_test, y_test)
    yield "PQ of standardized features", make_pipeline(StandardScaler(), pq).fit(X, y).score(X_test, y_test)


def main():
    """Print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--epochs", nargs="+", default=[3, 10, 30, "auto"], help="values of max_iter")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    epochs = [value if value == "auto" else int(value) for value in options.epochs]
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(f"{machine()}\n{options.seeds} seeds\n")
    rows = {}
    for load in SETS.values():
        of_set = {}
        for seed in range(options.seeds):
            for name, score in measure(*load(return_X_y=True), epochs, seed):
                of_set.setdefault(name, []).append(score)
        for name, scores in of_set.items():
            rows.setdefault(name, []).append(f"{np.mean(scores):.3f}")
    print(head("", *SETS))
    for name, cells in rows.items():
        print(line(name, *cells))


if __name__ == "__main__":
    main()
