"""Classes that training has not seen: what codes of 64 bits keep of them, beside the rivals that know no labels.

    python benchmarks/quality/unseen.py --features features.npz
    python benchmarks/quality/unseen.py --features features.npz --params hidden_layer_sizes=1024 part_layer_sizes=

The file is as for `cifar10_features.py`: features of ten classes, of which three are left out of training, three times,
for others. The base network that made the features has seen all ten, unlike that of `benchmarks/paper/table2.py`. The
test items of the classes left out are searched, 1,000 of them as queries among the others: mAP over the whole ranking,
asymmetric; and the same of the test items of the seven other classes. A file of `benchmarks/paper/features.py` also
holds features of digits and letters, which are searched by what all ten classes taught.

All have M=8 and K=256, and are otherwise as constructed by default but for `--params`. OPQ learns from the first 10,000
training items. "Target" is what a `supervision` of 0.2 preserves: exactly, and by PQ of it, which is what codes could
keep of it.
"""

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, load_features, machine, make_parser
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches

from skdpq import DPQTransformer, ProductQuantizer
from skdpq._learning.inputs import no_scaling
from skdpq._learning.projection import directions_of
from skdpq._quantizer import normalize_parts
from skdpq.metrics import mean_average_precision

M, K, N_QUERIES, BATCH = 8, 256, 1000, 200
LEFT_OUT = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
SUPERVISION = (1.0, 0.5, 0.0, 0.2)  # of the last, the target is shown
N_OPQ = 10_000
FAR = ("digits", "letters")


def score(queries, items, y):
    """Return the mAP of the first vectors as queries among the others, which are compared as they are decoded."""
    found = [
        mean_average_precision(y[batch], y[N_QUERIES:], euclidean_distances(queries[batch], items[N_QUERIES:]))
        for batch in gen_batches(N_QUERIES, BATCH)
    ]
    return np.mean(found)


def target_of(dpq):
    """Return the function that projects features to what a fitted estimator preserves, without its zeros."""
    scaling = {name: getattr(dpq, name) for name in no_scaling()}
    directions = directions_of(scaling, dpq.projection_scale_)
    there = dpq.projection_.any(axis=0)

    def target(X):
        projected = directions((X - dpq.mean_) / dpq.scale_) @ dpq.projection_ + dpq.projection_bias_
        return projected[:, there].astype(np.float32)

    return target


def by_parts(vectors):
    """Return vectors whose parts have length one."""
    return normalize_parts(vectors.reshape(len(vectors), M, -1)).reshape(len(vectors), -1)


def rankings(X, y, params, seed):
    """Yield the name of each method, and what it makes of queries and of items."""
    yield "distance", np.asarray, np.asarray
    yield "cosine", normalize, normalize
    for name, prepare in {"": np.asarray, ", normalized": normalize}.items():
        pq = ProductQuantizer(M, K, random_state=seed).fit(prepare(X))
        opq = ProductQuantizer(M, K, rotation="opq", random_state=seed).fit(prepare(X[:N_OPQ]))
        for title, quantizer in {"PQ": pq, "OPQ": opq}.items():
            yield (
                title + name,
                lambda X, p=prepare, q=quantizer: q.soft(p(X)),
                lambda X, p=prepare, q=quantizer: q.decode(q.encode(p(X))),
            )
    for supervision in SUPERVISION:
        dpq = DPQTransformer(M, K, supervision=supervision, random_state=seed, **params).fit(X, y)
        for intra_norm in (False, True):
            dpq.set_params(intra_norm=intra_norm)
            name = f"DPQ, supervision={supervision:g}{', IntraNorm' if intra_norm else ''}"
            yield name, dpq.soft, lambda X, dpq=dpq: dpq.decode(dpq.encode(X))
    target = target_of(dpq)
    pq = ProductQuantizer(M, K, random_state=seed).fit(target(X))
    for name, prepare in {"": np.asarray, ", IntraNorm": by_parts}.items():
        yield (f"target{name}", *2 * [lambda X, p=prepare: p(target(X))])
        yield (
            f"PQ of the target{name}",
            lambda X, p=prepare: p(target(X)),
            lambda X, p=prepare: p(pq.decode(pq.encode(target(X)))),
        )


def measure(X, y, targets, params, seed):
    """Return the mAP of each method by name, on all targets, pairs of samples and labels; X and y are to learn from."""
    return {
        name: [score(of_queries(X), of_items(X), y) for X, y in targets]
        for name, of_queries, of_items in rankings(X, y, params, seed)
    }


def left_out_of(data, left_out, *settings):
    """Return the mAP of each method by name, on classes that were left out and on those that were not."""
    X, y, X_test, y_test = data
    kept, seen = ~np.isin(y, left_out), ~np.isin(y_test, left_out)
    return measure(X[kept], y[kept], [(X_test[rows], y_test[rows]) for rows in (~seen, seen)], *settings)


def far_targets(path):
    """Return features and labels of a file that are of no class of its training samples, by name; in random order."""
    data, rng = np.load(path), np.random.default_rng(0)
    orders = {name: rng.permutation(len(data[f"y_{name}"])) for name in FAR if f"y_{name}" in data}
    return {
        name: (data[f"X_{name}"][order].astype(np.float32), data[f"y_{name}"][order]) for name, order in orders.items()
    }


def main():
    """Print a line of each method."""
    parser = make_parser(__doc__)
    parser.add_argument("--features", required=True, help="an .npz file")
    parser.add_argument("--params", nargs="*", default=(), help="of DPQ, as name=value; integers stand for one layer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    params = dict(param.split("=") for param in options.params)
    params = {name: ast.literal_eval(value) if value else () for name, value in params.items()}
    params = {name: (value,) if "sizes" in name and value != () else value for name, value in params.items()}
    data = load_features(options.features)
    found = [left_out_of(data, left_out, params, options.seed) for left_out in LEFT_OUT]
    print(f"{machine()}\nparams: {params}\n")
    print(head("", *(f"{sorted(left_out)} left out" for left_out in LEFT_OUT), "seen, mean"))
    for name in found[0]:
        unseen = [f"{scores[name][0]:.3f}" for scores in found]
        print(line(name, *unseen, f"{np.mean([scores[name][1] for scores in found]):.3f}"))
    far = far_targets(options.features)
    if far:
        print(f"\n{head('', *far, 'CIFAR-10, test items')}")
        for name, scores in measure(*data[:2], [*far.values(), data[2:]], params, options.seed).items():
            print(line(name, *(f"{score:.3f}" for score in scores)))


if __name__ == "__main__":
    main()
