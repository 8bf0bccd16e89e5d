"""Seconds that a fresh process takes for its first answers, where nothing is compiled yet, and where all is.

And how long the compiler takes, for which the first does not wait.

python benchmarks/speed/cold.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser

SCRIPT = """
import time
start = time.perf_counter()
from sklearn.datasets import load_digits
from skdpq import DPQNeighbors, ProductQuantizer
X, y = load_digits(return_X_y=True)
imported = time.perf_counter()
neighbors = DPQNeighbors(quantizer=ProductQuantizer(M=8, K=32, random_state=0)).fit(X, y)
neighbors.kneighbors(X[:5])
first = time.perf_counter()
neighbors.kneighbors()
neighbors.radius_neighbors(X[:5], 3.0)
neighbors.radius_neighbors(radius=1.0)
neighbors.score(X[:5], y[:5])
neighbors.set_params(search="symmetric").kneighbors(X[:5])
neighbors.remove([1]).kneighbors(X[:5])
print(imported - start, first - imported, time.perf_counter() - imported)
"""


def run(folder):
    """Return the seconds of the import, of fit and first answer, and of all kinds of search by Euclidean distance."""
    env = os.environ | {"NUMBA_CACHE_DIR": folder}
    return [float(t) for t in subprocess.check_output([sys.executable, "-c", SCRIPT], env=env, text=True).split()]


def compile_ahead(folder):
    """Return the seconds that compiling takes."""
    start = time.perf_counter()
    subprocess.check_call([sys.executable, "-m", "skdpq.compile"], env=os.environ | {"NUMBA_CACHE_DIR": folder})
    return time.perf_counter() - start


def main():
    """Print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cold, compiling, warm = [], [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(run(folder))
            compiling.append(compile_ahead(folder))
            warm.append(run(folder))
    print(f"{machine()}\nmedians of {options.rounds} rounds\n")
    print(head("seconds", "import", "fit and first answer", "all kinds of search"))
    for name, times in (("nothing compiled", cold), ("all compiled", warm)):
        print(line(name, *(f"{t:.1f}" for t in np.median(times, axis=0))))
    print(f"\npython -m skdpq.compile: {np.median(compiling):.1f} s")


if __name__ == "__main__":
    main()
