"""
Search time against the size of the database
============================================

Ten nearest neighbours of 64 queries: exact search over codes of 64 bits, and scikit-learn's brute force over the 64
float32 values that they stand for, 32 times as large. Both use one thread. Times are of the machine that has built this
page; what carries over is how they grow, and about how far apart they are.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from skdpq import DPQNeighbors, ProductQuantizer

rng = np.random.default_rng(0)
pq = ProductQuantizer(M=8, K=256, random_state=0).fit(rng.normal(size=(2000, 64)).astype(np.float32))
queries = rng.normal(size=(64, 64)).astype(np.float32)

# %%
# Codes need not come from vectors: `fit_codes` makes a database of them.


def best_time(search):
    """Return the seconds of the fastest of nine calls, after one that warms up."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        search()
        times.append(time.perf_counter() - start)
    return min(times[1:])


sizes = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
seconds = {"codes of 64 bits (skdpq)": [], "vectors of 2,048 bits (scikit-learn, brute force)": []}
for size in sizes:
    codes = rng.integers(0, 256, (size, 8), dtype=np.uint8)
    ours = DPQNeighbors(10, quantizer=FrozenEstimator(pq), n_jobs=1).fit_codes(codes)
    seconds["codes of 64 bits (skdpq)"].append(best_time(lambda: ours.kneighbors(queries)))  # noqa: B023
    if size <= 100_000:
        exact = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(pq.decode(codes))
        with threadpool_limits(1):
            search = best_time(lambda: exact.kneighbors(queries))  # noqa: B023
        seconds["vectors of 2,048 bits (scikit-learn, brute force)"].append(search)

# %%
# Few codes take as long as it takes to call: to check queries and to make their look-up tables.

fig, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
for (name, values), style in zip(seconds.items(), ["o-", "s--"], strict=True):
    ax.loglog(sizes[: len(values)], 1e3 * np.array(values), style, label=name)
    print(f"{name:50}" + "".join(f"{1e3 * value:9.2f}" for value in values) + " ms")
ax.set(xlabel="Items in the database", ylabel="Milliseconds for 64 queries", title="Ten nearest neighbours, one thread")
ax.grid(alpha=0.3)
ax.legend()
plt.show()
