"""DPQ beside all that makes codes of the same bits, and beside rankings without codes, from 12 to 64 bits.

    python benchmarks/quality/rivals.py --sets digits letters overlapping-100 --seeds 5 --results rivals.jsonl
    python benchmarks/quality/rivals.py --sets cifar10 --features features.npz --jobs 1 --results rivals.jsonl
    python benchmarks/quality/rivals.py --show --results rivals.jsonl

Estimators are as constructed by default but for M, K and the seed. Each row is a mean average precision over the whole
ranking of items that have the query's label. Results are appended to a file as they come; what is there already is not
measured again, and `--show` prints the tables of it.

Sets. `digits` are scikit-learn's; `letters` are capital letters drawn in 16 fonts, turned, scaled, moved and noisy,
of which `letters-C` are the first C, with 3,000 samples to train on in the place of 10,000.
`overlapping-C`, `nested-C` and `unequal-C` are C Gaussian classes, of which 24 of 64 dimensions tell, in a random
rotation: with means drawn alike, in tens around some coarse means, and of unequal size; 20,000 samples, 100,000 from
1,000 classes on; `overlapping-CxN` has N samples a class. Queries and items are new to training in all of these.
`cifar10` are features of a file, as for `cifar10_features.py`: (a) 100 test items of each class query the other test
items, (c) all of them query the training items.

Rivals. The posterior of a classifier, of discriminant analysis (which Gaussian classes suit best) or of scikit-learn's
MLP, whose square roots go to ProductQuantizer, as they are and "sharpened", at a temperature of 1/4, which is what DPQ
learns from where classes are few; the directions of discriminant analysis, which is also tried with
Ledoit-Wolf shrinkage where a set has N samples a class; and the features, as they are or with rows of length one, by PQ
and OPQ. Without codes: distance and cosine of features, and p_q . p_d of posteriors: of the classes' densities, of each
classifier, and of DPQ's soft representation, which is the ceiling of its codes. Where classes are many, DPQ has trained
a base network first: its posterior is ranked, and goes to PQ, too, which tells what the rest of DPQ is worth.
"""

import fcntl
import json
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from _common import head, line, load_features, machine, make_parser, seconds
from joblib import Parallel, cpu_count, delayed, parallel_config
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils import gen_batches

from skdpq import DPQClassifier, DPQNeighbors, ProductQuantizer
from skdpq.metrics import mean_average_precision

CODES = {12: (2, 64), 24: (4, 64), 36: (6, 64), 48: (8, 64), 64: (8, 256)}  # M and K by bits
N_FEATURES, N_TELLING, N_QUERIES, N_ITEMS = 64, 24, 1000, 5000
SEARCHES = ("asymmetric", "symmetric")
THREADS = cpu_count()
N_DRAWN, SIZE = 13_000, 16  # letters, and their height and width in pixels


class Search(NamedTuple):
    """Who asks, and what is searched: rows of the new samples and their labels; `items` None are all of training."""

    queries: np.ndarray
    items: np.ndarray | None


class DataSet(NamedTuple):
    """Training and new samples, with labels; searches by name; the posterior of the new ones where it is known."""

    X: np.ndarray
    y: np.ndarray
    X_new: np.ndarray
    y_new: np.ndarray
    searches: dict
    posterior: np.ndarray | None = None


def split(X, y, n_train, n_queries, seed):
    """Return a data set of samples in random order."""
    order = np.random.default_rng(seed).permutation(len(X))
    rows, new = order[:n_train], order[n_train:]
    positions = np.arange(len(new))
    return DataSet(X[rows], y[rows], X[new], y[new], {"": Search(positions[:n_queries], positions[n_queries:])})


def draw_letters(seed):
    """Return images of capital letters as rows, and labels."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    names = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"]
    names += ["DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol"]
    names += ["STIXGeneralItalic", "STIXGeneralBolIta", "cmb10", "cmr10", "cmss10", "cmtt10"]
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 40) for name in names]
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 26, N_DRAWN)
    X = np.empty((N_DRAWN, SIZE * SIZE), dtype=np.float32)
    for i, label in enumerate(y):
        image = Image.new("L", (64, 64))
        font = fonts[rng.integers(len(fonts))]
        ImageDraw.Draw(image).text(tuple(32 + rng.uniform(-5, 5, 2)), chr(65 + label), 255, font, anchor="mm")
        image = image.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR)
        margin = rng.uniform(4, 14)
        box = (margin, margin, 64 - margin, 64 - margin)
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX, box)
        X[i] = np.asarray(image, dtype=np.float32).ravel() / 255
    return X + 0.1 * rng.normal(size=X.shape).astype(np.float32), y


def draw_gaussian(kind, n_classes, seed, n_samples=None):
    """Return a data set of Gaussian classes."""
    if n_samples is None:
        n_samples = 100_000 if n_classes >= 1000 else 20_000
    rng = np.random.default_rng(seed)
    means = 0.98 * rng.normal(size=(n_classes, N_TELLING))
    if kind == "nested":
        coarse = rng.normal(size=(-(-n_classes // 10), N_TELLING))
        means = np.repeat(coarse, 10, axis=0)[:n_classes] + 0.7 * means
    share = 1 / np.arange(1, n_classes + 1) ** 0.7 if kind == "unequal" else np.ones(n_classes)
    share /= share.sum()
    rotation = np.linalg.qr(rng.normal(size=(N_FEATURES, N_FEATURES)))[0]
    y = rng.choice(n_classes, size=n_samples + N_QUERIES + N_ITEMS, p=share)
    X = rng.normal(size=(len(y), N_FEATURES))
    X[:, :N_TELLING] += means[y]
    new = X[n_samples:, :N_TELLING]
    log_density = new @ means.T - 0.5 * np.square(means).sum(axis=1) + np.log(share)
    posterior = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    X = (X @ rotation).astype(np.float32)
    positions = np.arange(len(posterior))
    searches = {"": Search(positions[:N_QUERIES], positions[N_QUERIES:])}
    posterior /= posterior.sum(axis=1, keepdims=True)
    return DataSet(X[:n_samples], y[:n_samples], X[n_samples:], y[n_samples:], searches, posterior)


def make_set(name, seed, features):
    """Return a data set by its name."""
    if name == "digits":
        return split(*load_digits(return_X_y=True), 1000, 200, seed)
    if name == "letters":
        return split(*draw_letters(seed), 10_000, 500, seed)
    if name.startswith("letters-"):
        X, y = draw_letters(seed)
        first = y < int(name.removeprefix("letters-"))
        return split(X[first], y[first], 3_000, 500, seed)
    if name == "cifar10":
        X, y, X_new, y_new = load_features(features)
        first = np.concatenate([np.flatnonzero(y_new == label)[:100] for label in np.unique(y_new)])
        rows = np.arange(len(y_new))
        searches = {" (a)": Search(first, np.setdiff1d(rows, first)), " (c)": Search(rows, None)}
        return DataSet(X, y, X_new, y_new, searches)
    kind, sizes = name.split("-")
    n_classes, *n_each = map(int, sizes.split("x"))
    return draw_gaussian(kind, n_classes, seed, n_classes * n_each[0] if n_each else None)


class Recorder:
    """Appends results of a set and a seed to a file."""

    def __init__(self, path, name, seed, bits=None):
        self.path, self.key = path, {"set": name, "seed": seed, "bits": bits}

    def __call__(self, method, measure, value, search=""):
        result = self.key | {"method": method, "measure": measure, "value": float(value), "search": search}
        with open(self.path, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(result) + "\n")


def record_rankings(record, method, data, of_pair, new, train):
    """Record the mAP of rankings without codes; `of_pair` gives distances of two sets of representations."""
    for name, search in data.searches.items():
        items, y = (train(), data.y) if search.items is None else (new[search.items], data.y_new[search.items])
        precisions = [
            mean_average_precision(data.y_new[rows], y, of_pair(new[rows], items)) * len(rows)
            for block in gen_batches(len(search.queries), 1000)
            for rows in [search.queries[block]]
        ]
        record(method, "uncompressed", sum(precisions) / len(search.queries), name)


def distances_of_posteriors(p_q, p_d):
    """Return the probability that the labels of two samples differ."""
    return 1 - p_q @ p_d.T


def squared_distances(x, z):
    """Return squared Euclidean distances, but for what all items have in common."""
    return np.square(z).sum(axis=1) - 2 * x @ z.T


def record_codes(record, method, data, quantizer, new, train, **params):
    """Record the mAP of asymmetric and symmetric search of a fitted quantizer's codes."""
    for name, search in data.searches.items():
        items, y = (train, data.y) if search.items is None else (new[search.items], data.y_new[search.items])
        n_jobs = int(os.environ.get("OMP_NUM_THREADS", THREADS))  # joblib sets it in its processes
        neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer), n_jobs=n_jobs, **params).fit(items, y)
        for how in SEARCHES:
            neighbors.set_params(search=how)
            record(method, how, neighbors.score(new[search.queries], data.y_new[search.queries]), name)


def measure_rivals(path, name, seed, bits, features):
    """Record all rivals of a set."""
    data = make_set(name, seed, features)
    record = Recorder(path, name, seed)
    X, X_new = data.X, data.X_new
    record_rankings(record, "features, distance", data, squared_distances, X_new, lambda: X)
    unit, unit_new = normalize(X), normalize(X_new)
    record_rankings(record, "features, cosine", data, squared_distances, unit_new, lambda: unit)
    represented = {"PQ": (X, X_new), "PQ, rows of length one": (unit, unit_new)}
    if data.posterior is not None:
        record_rankings(record, "densities of the classes", data, distances_of_posteriors, data.posterior, None)
        record("densities of the classes", "accuracy", (data.posterior.argmax(axis=1) == data.y_new).mean())
    mlp = MLPClassifier((512,), max_iter=30, early_stopping=True, random_state=seed)
    classifiers = {"discriminant analysis": LinearDiscriminantAnalysis(), "MLP": make_pipeline(StandardScaler(), mlp)}
    if "x" in name:
        shrunk = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto")
        classifiers["shrunk discriminant analysis"] = shrunk
    for title, classifier in classifiers.items():
        record(title, "seconds", seconds(classifier.fit, X, data.y))
        p, p_new = classifier.predict_proba(X), classifier.predict_proba(X_new)
        record(title, "accuracy", (classifier.classes_[p_new.argmax(axis=1)] == data.y_new).mean())
        record_rankings(record, title, data, distances_of_posteriors, p_new, lambda p=p: p)
        represented[f"{title}, PQ of roots"] = np.sqrt(p), np.sqrt(p_new)
        sharpened = normalize(np.square(p)), normalize(np.square(p_new))
        represented[f"{title}, PQ of sharpened roots"] = sharpened
        if title.endswith("discriminant analysis"):
            represented[f"{title}, PQ of directions"] = classifier.transform(X), classifier.transform(X_new)
    for n_bits in bits:
        M, K = CODES[n_bits]
        record = Recorder(path, name, seed, n_bits)
        for title, (train, new) in represented.items():
            if train.shape[1] < M:
                continue
            quantizer = ProductQuantizer(M=M, K=K, random_state=seed).fit(train)
            record_codes(record, title, data, quantizer, new, train)
        quantizer = ProductQuantizer(M=M, K=K, rotation="opq", random_state=seed).fit(unit)
        record_codes(record, "OPQ, rows of length one", data, quantizer, unit_new, unit)
    Recorder(path, name, seed)("rivals", "done", 1)


def measure_dpq(path, name, seed, n_bits, features, device):
    """Record DPQ by distance and by relevance."""
    data = make_set(name, seed, features)
    record = Recorder(path, name, seed, n_bits)
    M, K = CODES[n_bits]
    dpq = DPQClassifier(M=M, K=K, device=device, random_state=seed)
    record("DPQ", "seconds", seconds(dpq.fit, data.X, data.y))
    dpq.set_params(device="cpu")
    record("DPQ", "accuracy", dpq.score(data.X_new, data.y_new))
    soft = dpq.predict_proba_soft(data.X_new)
    record("DPQ's soft", "accuracy", (dpq.classes_[soft.argmax(axis=1)] == data.y_new).mean())
    ranked = "DPQ's soft", data, distances_of_posteriors, soft, lambda: dpq.predict_proba_soft(data.X)
    record_rankings(record, *ranked)
    for title, metric in {"DPQ": "euclidean", "DPQ, relevance": "relevance"}.items():
        record_codes(record, title, data, dpq, data.X_new, data.X, metric=metric)
    if dpq.base_network_ is not None:
        measure_base_network(path, name, seed, n_bits, data, dpq._inputs())
    record("DPQ", "done", 1)


def measure_base_network(path, name, seed, n_bits, data, inputs):
    """Record the posterior that DPQ has learned from, without codes and with those of PQ."""
    roots, new = inputs.tensor(data.X).numpy(), inputs.tensor(data.X_new).numpy()
    record = Recorder(path, name, seed)
    record("DPQ's base network", "accuracy", (np.unique(data.y)[new.argmax(axis=1)] == data.y_new).mean())
    ranked = distances_of_posteriors, np.square(new), lambda: np.square(roots)
    record_rankings(record, "DPQ's base network", data, *ranked)
    M, K = CODES[n_bits]
    quantizer = ProductQuantizer(M=M, K=K, random_state=seed).fit(roots)
    record_codes(Recorder(path, name, seed, n_bits), "DPQ's base network, PQ of roots", data, quantizer, new, roots)


def quietly(function, *args):
    """Call a function without warnings that fits ended by their number of epochs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        function(*args)


def read(path):
    """Return the results of a file; what a run that was cut off began, and another measured again, only once."""
    results = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    return list({tuple(r[key] for key in r if key != "value"): r for r in results}.values())


def show(results):
    """Print a table of each set and search."""
    names = dict.fromkeys((r["set"], r["search"]) for r in results if r["measure"] in ("uncompressed", *SEARCHES))
    for name, search in names:
        here = [r for r in results if r["set"] == name and r["search"] in ("", search)]
        bits = sorted({r["bits"] for r in here} - {None})
        seeds = sorted({r["seed"] for r in here})
        n_seeds = f"means of {len(seeds)} seeds or fewer" if len(seeds) > 1 else "one seed"
        print(f"\n## {name}{search}, {n_seeds}\n")
        print(head("mAP", "without codes", *(f"{n} bits" for n in bits), "accuracy"))
        cells = {}
        for r in here:
            cells.setdefault((r["method"], r["measure"], r["bits"]), []).append(r["value"])
        mean = {key: f"{np.mean(values):.3f}" for key, values in cells.items()}
        for method in dict.fromkeys(r["method"] for r in here):
            columns = [mean.get((method, "uncompressed", None), "")]
            for n in bits:
                pair = [mean.get((method, how, n), "") for how in SEARCHES]
                ceiling = mean.get((method, "uncompressed", n), "")
                columns.append(f"{pair[0]} ({pair[1]})" if pair[0] else ceiling)
            accuracy = [mean[method, "accuracy", n] for n in (None, *bits) if (method, "accuracy", n) in mean]
            if any(columns):
                print(line(method, *columns, " ".join(accuracy)))


def main():
    """Measure what is not in the file yet, or show it."""
    parser = make_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=["digits", "letters", "overlapping-100"])
    parser.add_argument("--bits", type=int, nargs="+", default=list(CODES), choices=list(CODES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes, which share the threads of the machine")
    parser.add_argument("--device", default="cpu", help="where DPQ is trained")
    parser.add_argument("--features", help="for cifar10")
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if options.show:
        show(read(options.results))
        return
    print(machine())
    done = {(r["set"], r["seed"], r["bits"], r["method"]) for r in read(options.results) if r["measure"] == "done"}
    tasks = []
    for seed in range(options.seeds):
        for name in options.sets:
            for n_bits in options.bits:
                if (name, seed, n_bits, "DPQ") not in done:
                    arguments = options.results, name, seed, n_bits, options.features, options.device
                    tasks.append(delayed(quietly)(measure_dpq, *arguments))
            if (name, seed, None, "rivals") not in done:
                arguments = options.results, name, seed, options.bits, options.features
                tasks.append(delayed(quietly)(measure_rivals, *arguments))
    with parallel_config("loky", inner_max_num_threads=THREADS // options.jobs):
        Parallel(options.jobs, batch_size=1, pre_dispatch="all")(tasks)
    show(read(options.results))


if __name__ == "__main__":
    main()
