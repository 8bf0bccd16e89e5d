"""A database fitted on all of its items, and on a sample of them: seconds, and what is found.

    python benchmarks/speed/sample.py

198,000 items of 384 values in 15 Gaussian classes that overlap, as embeddings of sentences are wide; 1,000 queries are
new. The quantizer is `DPQTransformer()` but for the seed. Fitted on a sample it is frozen, and encodes all items.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, machine, make_parser, seconds
from sklearn.frozen import FrozenEstimator

from skdpq import DPQNeighbors, DPQTransformer
from skdpq.metrics import retrieval_scorer

N_ITEMS, N_FEATURES, N_CLASSES, N_QUERIES = 198_000, 384, 15, 1000
SPREAD = 0.2  # of the classes' means, where samples have a standard deviation of one


def draw(n, rng):
    """Return n samples of the classes, in float32, and their labels."""
    means = SPREAD * np.random.default_rng(0).normal(size=(N_CLASSES, N_FEATURES))
    y = rng.integers(N_CLASSES, size=n)
    return (means[y] + rng.normal(size=(n, N_FEATURES))).astype(np.float32), y


def main():
    """Print a line of all items, and of each size of sample."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000])
    sizes = parser.parse_args().sizes
    rng = np.random.default_rng(1)
    (X, y), queries = draw(N_ITEMS, rng), draw(N_QUERIES, rng)
    print(f"{machine()}\n\n{head('fitted on', 'seconds', 'mAP', 'P@10')}")
    scorers = retrieval_scorer(), retrieval_scorer("precision_at_k", k=10)
    for size in [*sizes, N_ITEMS]:
        dpq = DPQTransformer(random_state=0)
        neighbors = DPQNeighbors(quantizer=dpq if size == N_ITEMS else FrozenEstimator(dpq))

        def build(size=size, dpq=dpq, neighbors=neighbors):
            if size < N_ITEMS:
                dpq.fit(X[:size], y[:size])
            neighbors.fit(X, y)

        elapsed = seconds(build)
        scores = [f"{scorer(neighbors, *queries):.3f}" for scorer in scorers]
        print(line(f"{size:,}", f"{elapsed:.0f}", *scores), flush=True)


if __name__ == "__main__":
    main()
