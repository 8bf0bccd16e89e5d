"""What the tools that a user would pick instead find, in how much memory and time: items of the query's label.

    OMP_NUM_THREADS=1 python benchmarks/quality/tools.py features.npz

The file is that of `cifar10_features.py`. All training items are the database, and the first 1,000 test items the
queries. Measured is the share of the first 100 items that have the query's label, which is the recall of same-label
items, up to one factor that all methods share. Bytes are those of the file of an index, with codebooks and networks,
divided by the number of items; of brute force, those of the vectors. Every search is on one thread; methods take
turns, and times are medians, relative to DPQ's search. "Over DPQ's codes" is what faiss finds in the index that
`to_faiss` makes. DPQ and the MLP know the labels.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faiss
import numpy as np
from _common import head, interleave, line, load_features, machine, make_parser, seconds
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from skdpq import DPQNeighbors, DPQTransformer, ProductQuantizer, to_faiss

K_NEIGHBORS, N_QUERIES, N_ROUNDS = 100, 1000, 5


def of_faiss(factory, X, **params):
    """Return a faiss index of vectors by its factory string, trained and filled, with such attributes."""
    index = faiss.index_factory(X.shape[1], factory)
    index.train(X)
    index.add(X)
    for name, value in params.items():
        part = index.hnsw if name == "efSearch" else index
        setattr(part, name, value)
    return index


def bytes_of(searcher, n_items):
    """Return the bytes that a searcher keeps of an item."""
    if isinstance(searcher, faiss.Index):
        return len(faiss.serialize_index(searcher)) / n_items
    if isinstance(searcher, NearestNeighbors):
        return searcher._fit_X.nbytes / n_items
    with tempfile.NamedTemporaryFile() as file:
        searcher.save(file.name)
        return Path(file.name).stat().st_size / n_items


def search(searcher, queries):
    """Return the row numbers of what a searcher finds."""
    if isinstance(searcher, faiss.Index):
        return searcher.search(queries, K_NEIGHBORS)[1]
    return searcher.kneighbors(queries, K_NEIGHBORS, return_distance=False)


def searchers(X, y, queries):
    """Yield a name, a searcher, and the queries as it takes them."""
    dpq = DPQNeighbors(quantizer=DPQTransformer(M=8, K=256, random_state=0), n_jobs=1).fit(X, y)
    yield "DPQ, M=8, K=256", dpq, queries
    relevance = DPQNeighbors(quantizer=dpq.quantizer, metric="relevance", n_jobs=1)
    yield "DPQ, by relevance", relevance.fit(X, y), queries
    yield "faiss IndexPQ over DPQ's codes", to_faiss(dpq), dpq.quantizer_.soft(queries)
    mlp = MLPClassifier((256,), early_stopping=True, random_state=0).fit(X, y)
    roots, query_roots = (np.sqrt(mlp.predict_proba(rows)).astype(np.float32) for rows in (X, queries))
    quantizer = ProductQuantizer(M=8, K=256, random_state=0)
    yield "PQ of an MLP's posterior", DPQNeighbors(quantizer=quantizer, n_jobs=1).fit(roots, y), query_roots
    yield "scikit-learn, brute force", NearestNeighbors(algorithm="brute").fit(X), queries
    for factory, params in [
        ("PQ10", {}),
        ("PQ20x4fs", {}),
        ("IVF256,PQ10", {"nprobe": 16}),
        ("HNSW32", {"efSearch": 128}),
    ]:
        yield (
            f"faiss {factory}" + "".join(f", {n}={v}" for n, v in params.items()),
            of_faiss(factory, X, **params),
            queries,
        )


def main(arguments=None):
    """Print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("features", help="an .npz file")
    args = parser.parse_args(arguments)
    X, y, X_test, y_test = load_features(args.features)
    queries, labels = X_test[:N_QUERIES], y_test[:N_QUERIES]
    faiss.omp_set_num_threads(1)

    found = {name: (searcher, of_queries) for name, searcher, of_queries in searchers(X, y, queries)}
    with threadpool_limits(1):
        shares = {name: (y[search(*pair)] == labels[:, None]).mean() for name, pair in found.items()}
        turns = {name: lambda pair=pair: seconds(search, *pair) for name, pair in found.items()}
        times = {name: np.median(values) for name, values in interleave(turns, N_ROUNDS).items()}
    first = next(iter(times.values()))
    print(f"{machine('faiss-cpu')}\n\n{len(X):,} items of {X.shape[1]} values, {N_QUERIES:,} queries a call, k=100.\n")
    print(head("", "share of the query's label", "bytes an item", "time, relative"))
    for name, (searcher, _) in found.items():
        print(line(name, f"{shares[name]:.3f}", f"{bytes_of(searcher, len(X)):,.0f}", f"{times[name] / first:.2f}"))


if __name__ == "__main__":
    main()
