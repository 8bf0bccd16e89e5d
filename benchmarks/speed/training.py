"""Speed of training and of encoding, beside skorch, a plain DataLoader loop and MLPClassifier: one process, one run.

    python benchmarks/speed/training.py
    python benchmarks/speed/training.py --rounds 5 --full
    python benchmarks/speed/training.py --profile

Architectures: the paper's for CIFAR-10 (500 features, no trunk, M=4, K=64, parts of 128 units) and for ImageNet (128
features, a trunk of 2048, M=8, K=256, D=64, 1,000 classes), and the defaults on a small table of 30 features. The
samples are of Gaussian classes, float32; batches have 256 samples. Methods:

- skdpq: DPQTransformer.fit, on the CPU, without dropout and label smoothing;
- skorch: a NeuralNet around the same network, with the same objective, its default data loader, and no validation;
- DataLoader: a plain loop over a shuffled TensorDataset, with the same network and objective;
- MLPClassifier: scikit-learn's, with one hidden layer as wide as gives it as many parameters as the network.

All but the last train with torch's fused AdamW, the last with Adam. A turn is a fit of one epoch and one of more, at
most about a second longer; their difference is what the epochs take, without the set-up. A method whose single epoch
takes longer than LONG seconds has no further turn, and its set-up counts. Otherwise methods take turns, and figures are
medians of all rounds. Every method is timed on one thread and on two, each a row of its own: where threads wait for
each other, one is faster. The summary compares with the better of the two, and tells how many times as fast ours is on
two threads as on one: the median of the ratios within each round. Threads are limited by threadpoolctl:
torch.set_num_threads would leave a setting of MKL's behind that later limits do not reach.

Products count as the algorithm needs them, in multiply-adds a sample, of 2 FLOP each:

    3 (trunk + parts + codebooks) + 6 classifier - first layer

where each name stands for the number of its weights. A layer has one product forward and two backward, but the first
has no gradient of its input. So has soft = p C, where one, gradient C^T, serves soft and hard together; hard itself is
a gather. The classifier is applied twice. All else (softmax, losses, optimiser) counts as nothing. MLPClassifier's two
layers count alike: 2 first + 3 second. Encoding needs trunk + parts, and for soft the codebooks. Rates are also given
as a share of that of torch.mm, 1024 x 1024 x 1024 in float32, with as many threads, best of all rounds.

`--profile` prints instead, by torch.profiler, what the operations of training and of encoding take on one thread.

Times mean something on an idle machine only.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import skorch
import torch
from _architectures import DEFAULTS, encoding_case, training_cases
from _common import head, interleave, line, machine, make_parser, seconds
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader, TensorDataset

from skdpq import DPQTransformer

THREADS = (1, 2)
BATCH = 256
TURN, LONG = 1.0, 4.0  # seconds: of the epochs that are timed, about; of an epoch that is timed once
SIDE = 1024  # of the matrices whose product is the yardstick
OURS, ENCODED = "skdpq", ("encode", "transform")


def objective(network, output, y):
    """Compute what DPQTransformer minimises, without sample weights, as plain PyTorch would have it."""
    p, soft, hard, centers = output.p, output.soft, output.hard, network.class_centers[y]
    terms = {
        "softmax_soft": cross_entropy(network.classifier(soft), y),
        "softmax_hard": cross_entropy(network.classifier(hard), y),
        "joint_central": 0.5 * ((soft - centers).square().sum(1) + (hard - centers).square().sum(1)).mean(),
        "gini_batch": p.mean(1).square().sum(1).mean(),
        "gini_sample": -p.square().sum(2).mean(),
    }
    return sum(DEFAULTS[f"{name}_weight"] * term for name, term in terms.items())


def fit_ours(case, X, y, n_epochs, **params):
    """Fit a DPQTransformer."""
    params = {"max_iter": n_epochs, "n_iter_no_change": n_epochs, "device": "cpu", "random_state": 0} | params
    params |= {"dropout": 0.0, "label_smoothing": 0.0, "gini_batch_weight": DEFAULTS["gini_batch_weight"]}
    DPQTransformer(**case.params, batch_size=BATCH, **params).fit(X, y)


class SkorchDPQ(skorch.NeuralNet):
    """Trains a DPQNetwork."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return the objective; y_pred is all that the network returned."""
        return objective(self.module_, y_pred, y_true)


def fit_skorch(case, X, y, n_epochs):
    """Fit the network through skorch."""
    SkorchDPQ(
        case.network(),
        criterion=torch.nn.CrossEntropyLoss,  # is asked for, and not used
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=DEFAULTS["weight_decay"],
        optimizer__fused=True,
        lr=DEFAULTS["learning_rate"],
        batch_size=BATCH,
        iterator_train__shuffle=True,
        max_epochs=n_epochs,
        train_split=None,
        verbose=0,
    ).fit(X, y)


def fit_loop(case, X, y, n_epochs):
    """Fit the network in a plain loop over a DataLoader."""
    network = case.network()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=DEFAULTS["learning_rate"], weight_decay=DEFAULTS["weight_decay"], fused=True
    )
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True)
    for _ in range(n_epochs):
        for x_batch, y_batch in loader:
            optimizer.zero_grad()
            objective(network, network(x_batch), y_batch).backward()
            optimizer.step()


def hidden_width(case):
    """Return the width with which an MLPClassifier has as many parameters as the network."""
    n_parameters = sum(parameter.numel() for parameter in case.network().parameters())
    return round((n_parameters - case.n_classes) / (case.n_features + 1 + case.n_classes))


def fit_mlp(case, X, y, n_epochs):
    """Fit scikit-learn's MLPClassifier."""
    mlp = MLPClassifier((hidden_width(case),), batch_size=BATCH, max_iter=n_epochs, n_iter_no_change=n_epochs)
    mlp.fit(X, y)


METHODS = {OURS: fit_ours, "skorch": fit_skorch, "DataLoader": fit_loop, "MLPClassifier": fit_mlp}


def training_products(case, name):
    """Return the multiply-adds of a method's step, a sample."""
    if name == "MLPClassifier":
        return hidden_width(case) * (2 * case.n_features + 3 * case.n_classes)
    network = case.network()
    layers = [layer.weight.numel() for layer in [*network.trunk, *network.parts]]
    return 3 * (sum(layers) + network.codebooks.numel()) + 6 * network.classifier.weight.numel() - layers[0]


def measure_products(threads, repeats=5):
    """Return FLOP/s of the yardstick, best of some repeats."""
    a, b = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    with threadpool_limits(threads):
        return 2 * SIDE**3 / min(seconds(torch.mm, a, b) for _ in range(repeats))


def measure_epoch(fit, case, X, y):
    """Return the seconds of an epoch."""
    first = seconds(fit, case, X, y, 1)
    if first > LONG:
        return first
    n_more = max(1, int(TURN / first))
    return (seconds(fit, case, X, y, 1 + n_more) - first) / n_more


def measure_training(case, n_rounds, peaks):
    """Return the seconds of an epoch in each round by method and threads; add to the rates of the yardstick."""
    X, y = case.samples()
    for fit in METHODS.values():
        fit(case, X[:BATCH], y[:BATCH] % 2, 1)  # a first call takes longer
    times = {(name, threads): [] for threads in THREADS for name in METHODS}

    def take_turn(name, threads):
        peaks[threads].append(measure_products(threads))
        if max(times[name, threads], default=0) < LONG:
            with threadpool_limits(threads):
                times[name, threads].append(measure_epoch(METHODS[name], case, X, y))

    interleave({turn: partial(take_turn, *turn) for turn in times}, n_rounds)
    return times


def encoding_products(case):
    """Return the multiply-adds of a row, by what it is encoded to."""
    network = case.network()
    encode = sum(layer.weight.numel() for layer in [*network.trunk, *network.parts])
    return {"encode": encode, "transform": encode + network.codebooks.numel()}


def fit_encoder(case):
    """Return a fitted transformer, and samples."""
    X, y = case.samples()
    return DPQTransformer(**case.params, max_iter=1, device="cpu", random_state=0).fit(X[:2000], y[:2000]), X


def measure_encoding(case, n_rounds, peaks):
    """Return the seconds in each round by method and threads; add to the rates of the yardstick."""
    transformer, X = fit_encoder(case)

    def take_turn(name, threads):
        peaks[threads].append(measure_products(threads))
        with threadpool_limits(threads):
            return seconds(getattr(transformer, name), X)

    turns = {(name, threads): partial(take_turn, name, threads) for threads in THREADS for name in ENCODED}
    return interleave(turns, n_rounds)


def cells(n, elapsed, products, threads, peaks):
    """Return the cells that all tables have: threads, samples a second, GFLOP/s, share of the yardstick."""
    speed = n / np.median(elapsed)
    flops = 2 * products * speed
    return threads, f"{speed:,.0f}", f"{flops / 1e9:.1f}", f"{flops / max(peaks[threads]):.2f}"


def over(one, other):
    """Return how many times as long one took as the other: the median of the ratios within each round."""
    return f"{np.median([a / b for a, b in zip(one, other, strict=False)]):.2f}"


def training_table(case, times, peaks):
    """Yield the lines of an architecture."""
    sizes = f"{case.n:,} samples, {case.n_features} features, {case.n_classes:,} classes"
    yield f"\n## Training, {case.name}\n\n{sizes}; MLPClassifier has {hidden_width(case):,} hidden units.\n"
    yield head("method", "threads", "samples/s", "GFLOP/s", "share of torch.mm")
    for (name, threads), elapsed in times.items():
        yield line(name, *cells(case.n, elapsed, training_products(case, name), threads, peaks))


def encoding_table(case, times, peaks):
    """Yield the lines of encoding."""
    yield f"\n## Encoding\n\n{case.n:,} rows of 128 features, a trunk of 512, M=8, K=256, D=64.\n"
    yield head("method", "threads", "rows/s", "GFLOP/s", "share of torch.mm")
    products = encoding_products(case)
    for (name, threads), elapsed in times.items():
        yield line(name, *cells(case.n, elapsed, products[name], threads, peaks))


def summary(trained, encoded):
    """Yield the lines that compare with the better of a method's two rows, and two threads with one."""
    baselines = [name for name in METHODS if name != OURS]
    yield "\n## Training, speed of skdpq over the better of a method's two rows\n"
    yield head("", "threads of skdpq", *baselines)
    for case, times in trained:
        medians = {turn: np.median(elapsed) for turn, elapsed in times.items()}
        for threads in THREADS:
            best = (min(medians[name, n] for n in THREADS) for name in baselines)
            yield line(case.name, threads, *(f"{other / medians[OURS, threads]:.2f}" for other in best))
    yield "\n## Speed of skdpq on two threads over one\n"
    yield head("", "ratio")
    for case, times in trained:
        yield line(f"training, {case.name}", over(times[OURS, 1], times[OURS, 2]))
    for name in ENCODED:
        yield line(name, over(encoded[name, 1], encoded[name, 2]))


def report(options):
    """Measure, and yield the lines of the report."""
    yield f"{machine('skorch', 'threadpoolctl')}\nMedians of {options.rounds} rounds."
    peaks = {threads: [] for threads in THREADS}
    trained = [(case, measure_training(case, options.rounds, peaks)) for case in training_cases(options.full)]
    encoding = encoding_case(options.rows)
    encoded = measure_encoding(encoding, options.rounds, peaks)

    yield "\n" + head("threads", "torch.mm, GFLOP/s, best", "median", n_text=0)
    for threads, rates in peaks.items():
        yield line(threads, f"{max(rates) / 1e9:.1f}", f"{np.median(rates) / 1e9:.1f}")
    for case, times in trained:
        yield from training_table(case, times, peaks)
    yield from encoding_table(encoding, encoded, peaks)
    yield from summary(trained, encoded)


def operations(call):
    """Return the seconds that a call takes under the profiler, and those in each operation of torch."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        total = seconds(call)
    spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    return total, spent


def profile_table(title, total, spent, multiply_adds):
    """Yield the lines of a profile: the share of each operation; all else is Python, and writing to new memory."""
    products = [name for name in spent if name in ("mm", "addmm", "bmm", "baddbmm")]
    in_products = sum(spent[name] for name in products)
    rate = 2 * multiply_adds / in_products
    yield f"\n## {title}\n\nProducts take {in_products / total:.0%}, at {rate / 1e9:.0f} GFLOP/s.\n"
    yield head("operations", "share")
    yield line(f"products: {', '.join(products)}", f"{in_products / total:.1%}")
    rest = {name: elapsed for name, elapsed in spent.items() if name not in products}
    rest["all else"] = total - sum(spent.values())
    for name in sorted(rest, key=rest.get, reverse=True):
        if rest[name] > 0.002 * total:
            yield line(name, f"{rest[name] / total:.1%}")


def profile_training(case):
    """Yield the profile of an epoch, from fits of two lengths."""
    X, y = case.samples()
    n_more = max(1, int(TURN / measure_epoch(fit_ours, case, X, y)))
    first, first_spent = operations(partial(fit_ours, case, X, y, 1))
    total, spent = operations(partial(fit_ours, case, X, y, 1 + n_more))
    spent = {name: elapsed - first_spent.get(name, 0) for name, elapsed in spent.items()}
    title = f"{case.name}, {1e3 * (total - first) / (n_more * case.n / BATCH):.2f} ms a batch of {BATCH}"
    yield from profile_table(title, total - first, spent, training_products(case, OURS) * case.n * n_more)


def report_profiles(options):
    """Yield the profiles of training on each architecture, and of encoding."""
    with threadpool_limits(1):
        yield machine()
        yield f"torch.mm, one thread: {measure_products(1, 20) / 1e9:.0f} GFLOP/s"
        for case in training_cases(options.full):
            yield from profile_training(case)
        case = encoding_case(options.rows)
        transformer, X = fit_encoder(case)
        for name, products in encoding_products(case).items():
            yield from profile_table(name, *operations(partial(getattr(transformer, name), X)), products * case.n)


def main():
    """Print the report."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--full", action="store_true", help="train on all of 50,000 samples")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to encode")
    parser.add_argument("--profile", action="store_true", help="print what operations take instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is reached, as it should be
    for text in (report_profiles if options.profile else report)(options):
        print(text, flush=True)


if __name__ == "__main__":
    main()
