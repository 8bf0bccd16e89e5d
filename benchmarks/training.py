"""Speed of training and of encoding, beside skorch, a plain DataLoader loop and MLPClassifier: one process, one run.

    python benchmarks/training.py
    python benchmarks/training.py --rounds 5 --full
    python benchmarks/training.py --profile

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
medians of all rounds. Every method is timed with the default threads and, in a row of its own, with one thread, which
is faster where threads wait for each other; the last table compares with the better of the two. Threads are limited by
threadpoolctl: torch.set_num_threads would leave a setting of MKL's behind that later limits do not reach.

Products count as the algorithm needs them, in multiply-adds a sample, of 2 FLOP each:

    3 (trunk + parts + codebooks) + 6 classifier - first layer

where each name stands for the number of its weights. A layer has one product forward and two backward, but the first
has no gradient of its input. So has soft = p C, where one, gradient C^T, serves soft and hard together; hard itself is
a gather. The classifier is applied twice. All else (softmax, losses, optimiser) counts as nothing. MLPClassifier's two
layers count alike: 2 first + 3 second. Encoding needs trunk + parts, and for soft the codebooks. Rates are also given
as a share of that of torch.mm, 1024 x 1024 x 1024 in float32, with as many threads, best of all rounds.

`--profile` prints instead what the calls of a step, and of a block in encoding, take on one thread.

Times mean something on an idle machine only.
"""

import argparse
import datetime
import itertools
import os
import platform
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import sklearn
import skorch
import threadpoolctl
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import skdpq
from skdpq import DPQTransformer
from skdpq._learning import inference as _encoding
from skdpq._learning.fast_step.step import RecordedStep
from skdpq._learning.losses import TERMS
from skdpq._learning.network import DPQNetwork

BATCH = 256
TURN, LONG = 1.0, 4.0  # seconds: of the epochs that are timed, about; of an epoch that is timed once
SIDE = 1024  # of the matrices whose product is the yardstick
DEFAULTS = DPQTransformer(gini_batch_weight=1.0).get_params()  # one weight whatever K, for all that are compared
OURS = "skdpq"


@dataclass
class Case:
    """Samples, and the network for them."""

    name: str
    n: int
    n_features: int
    n_classes: int
    params: dict = field(default_factory=dict)

    def samples(self):
        """Return samples of Gaussian classes and their labels."""
        rng = np.random.default_rng(0)
        centers = rng.standard_normal((self.n_classes, self.n_features), dtype=np.float32)
        y = np.arange(self.n) % self.n_classes
        return centers[y] + rng.standard_normal((self.n, self.n_features), dtype=np.float32), y

    def network(self):
        """Return the network that DPQTransformer makes."""
        names = ("M", "K", "D", "hidden_layer_sizes", "part_layer_sizes")
        params = DEFAULTS | self.params
        network = DPQNetwork(self.n_features, self.n_classes, **{name: params[name] for name in names})
        network.initialize(torch.Generator().manual_seed(0))
        return network

    def hidden_width(self):
        """Return the width with which an MLPClassifier has as many parameters as the network."""
        n_parameters = sum(parameter.numel() for parameter in self.network().parameters())
        return round((n_parameters - self.n_classes) / (self.n_features + 1 + self.n_classes))


def cases(full):
    """Return the architectures to train."""
    cifar10 = {"M": 4, "K": 64, "D": None, "hidden_layer_sizes": (), "part_layer_sizes": (128,)}
    imagenet = {"M": 8, "K": 256, "D": 64, "hidden_layer_sizes": (2048,), "part_layer_sizes": ()}
    return [
        Case("CIFAR-10", 50_000 if full else 20_000, 500, 10, cifar10),
        Case("ImageNet", 10_000, 128, 1000, imagenet),
        Case("small table", 2000, 30, 3),
    ]


def encoding_case(n):
    """Return the architecture to encode with."""
    return Case("encoding", n, 128, 10, {"D": 64, "hidden_layer_sizes": (512,), "part_layer_sizes": ()})


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


def fit_mlp(case, X, y, n_epochs):
    """Fit scikit-learn's MLPClassifier."""
    mlp = MLPClassifier((case.hidden_width(),), batch_size=BATCH, max_iter=n_epochs, n_iter_no_change=n_epochs)
    mlp.fit(X, y)


METHODS = {OURS: fit_ours, "skorch": fit_skorch, "DataLoader": fit_loop, "MLPClassifier": fit_mlp}


def training_products(case, name):
    """Return the multiply-adds of a method's step, a sample."""
    if name == "MLPClassifier":
        return case.hidden_width() * (2 * case.n_features + 3 * case.n_classes)
    network = case.network()
    layers = [layer.weight.numel() for layer in [*network.trunk, *network.parts]]
    return 3 * (sum(layers) + network.codebooks.numel()) + 6 * network.classifier.weight.numel() - layers[0]


def limited(threads):
    """Limit torch and NumPy to some threads; None for what they take by default."""
    return nullcontext() if threads is None else threadpool_limits(threads)


def seconds(function, *args):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def measure_products(threads, repeats=5):
    """Return FLOP/s of the yardstick, best of some repeats."""
    a, b = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    with limited(threads):
        return 2 * SIDE**3 / min(seconds(torch.mm, a, b) for _ in range(repeats))


def measure_epoch(fit, case, X, y):
    """Return the seconds of an epoch."""
    first = seconds(fit, case, X, y, 1)
    if first > LONG:
        return first
    n_more = max(1, int(TURN / first))
    return (seconds(fit, case, X, y, 1 + n_more) - first) / n_more


def measure_training(case, options, peaks):
    """Return samples a second by method and threads; add to the rates of the yardstick."""
    X, y = case.samples()
    turns = [(name, threads) for threads in peaks for name in METHODS]
    for fit in METHODS.values():
        fit(case, X[:BATCH], y[:BATCH] % 2, 1)  # a first call takes longer
    times = {turn: [] for turn in turns}
    for _ in range(options.rounds):
        for name, threads in turns:
            peaks[threads].append(measure_products(threads))
            if max(times[name, threads], default=0) < LONG:
                with limited(threads):
                    times[name, threads].append(measure_epoch(METHODS[name], case, X, y))
    return {turn: case.n / np.median(values) for turn, values in times.items()}


def measure_encoding(n, options, peaks):
    """Return rows a second by method and threads, and multiply-adds a row by method."""
    case = encoding_case(n)
    X, y = case.samples()
    transformer = DPQTransformer(**case.params, max_iter=1, device="cpu", random_state=0).fit(X[:2000], y[:2000])
    network = case.network()
    encode = sum(layer.weight.numel() for layer in [*network.trunk, *network.parts])
    products = {"encode": encode, "transform": encode + network.codebooks.numel()}
    times = {(name, threads): [] for threads in peaks for name in products}
    for _ in range(options.rounds):
        for name, threads in times:
            peaks[threads].append(measure_products(threads))
            with limited(threads):
                times[name, threads].append(seconds(getattr(transformer, name), X))
    return {turn: n / np.median(values) for turn, values in times.items()}, products


def cells(speed, products, threads, peaks):
    """Return the cells that all tables have: threads, samples a second, GFLOP/s, share of the yardstick."""
    flops = 2 * products * speed
    share = flops / max(peaks[threads])
    return f"{threads or torch.get_num_threads()} | {speed:,.0f} | {flops / 1e9:.1f} | {share:.2f}"


def training_table(case, speeds, peaks):
    """Yield the lines of an architecture."""
    sizes = f"{case.n:,} samples, {case.n_features} features, {case.n_classes:,} classes"
    yield f"\n## Training, {case.name}\n\n{sizes}; MLPClassifier has {case.hidden_width():,} hidden units.\n"
    yield "| method | threads | samples/s | GFLOP/s | share of torch.mm | speed of skdpq over it |"
    yield "|---|" + "---:|" * 5
    ours = speeds[OURS, None]
    for (name, threads), speed in speeds.items():
        values = cells(speed, training_products(case, name), threads, peaks)
        yield f"| {name} | {values} | {ours / speed:.2f} |"


def summary(trained):
    """Yield the lines that compare with the better of a method's two rows."""
    baselines = [name for name in METHODS if name != OURS]
    yield "\n## Training, speed of skdpq over the better of a method's two rows\n"
    yield f"| | threads of skdpq | {' | '.join(baselines)} |"
    yield "|---|" + "---:|" * (1 + len(baselines))
    for case, speeds in trained:
        best = [max(speeds[name, threads] for threads in (None, 1)) for name in baselines]
        for (name, threads), speed in speeds.items():
            if name == OURS:
                ratios = " | ".join(f"{speed / other:.2f}" for other in best)
                yield f"| {case.name} | {threads or torch.get_num_threads()} | {ratios} |"


def report(options):
    """Measure, and yield the lines of the report."""
    modules = (skdpq, sklearn, np, torch, skorch, threadpoolctl)
    yield f"{datetime.date.today()}, {platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    yield ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    yield f"{torch.get_num_threads()} threads by default; medians of {options.rounds} rounds"

    peaks = {None: [], 1: []}  # by threads
    trained = [(case, measure_training(case, options, peaks)) for case in cases(options.full)]
    n = 1_000_000
    encoded, products = measure_encoding(n, options, peaks)

    yield "\n| threads | torch.mm, GFLOP/s, best | median |\n|---:|---:|---:|"
    for threads, rates in peaks.items():
        yield f"| {threads or torch.get_num_threads()} | {max(rates) / 1e9:.1f} | {np.median(rates) / 1e9:.1f} |"
    for case, speeds in trained:
        yield from training_table(case, speeds, peaks)
    yield from summary(trained)
    yield f"\n## Encoding\n\n{n:,} rows of 128 features, a trunk of 512, M=8, K=256, D=64.\n"
    yield "| method | threads | rows/s | GFLOP/s | share of torch.mm |\n|---|" + "---:|" * 4
    for (name, threads), speed in encoded.items():
        yield f"| {name} | {cells(speed, products[name], threads, peaks)} |"


def timed(call, times):
    """Return the call, which then adds the seconds that it takes."""

    def run():
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)

    return run


def profile(tapes, run, n, multiply_adds, title):
    """Yield what each kind of the calls on some tapes takes while `run` makes them n times, on one thread."""
    kinds: dict = {}
    for tape in tapes:
        for i, call in enumerate(tape._calls):
            kind = getattr(call.func, "__name__", str(call.func))
            tape._calls[i] = timed(call, kinds.setdefault(kind, []))
    total = seconds(lambda: [run() for _ in range(n)])
    products = [name for name in kinds if name in ("mm", "addmm", "bmm", "baddbmm")]
    spent = {name: sum(times) / total for name, times in kinds.items()}
    spent["all else"] = 1 - sum(spent.values())
    in_products = sum(spent[name] for name in products)
    rate = 2 * multiply_adds * n / (in_products * total)
    yield f"\n## {title}: {1e3 * total / n:.2f} ms\n"
    yield f"Products take {in_products:.0%}, at {rate / 1e9:.0f} GFLOP/s.\n"
    yield "| calls | share |\n|---|---:|"
    yield f"| products: {', '.join(products)} | {in_products:.1%} |"
    for name in sorted(set(spent) - set(products), key=spent.get, reverse=True):
        yield f"| {name} | {spent[name]:.1%} |"


def profile_training(case):
    """Yield the profile of a step; all else is the optimiser, the gathering of rows, and Python."""
    X, y = (torch.from_numpy(array) for array in case.samples())
    loss_weights = {name: DEFAULTS.get(f"{name}_weight", 0.0) for name in TERMS}  # without preservation
    generator = torch.Generator().manual_seed(0)
    step = RecordedStep(case.network(), loss_weights, 0.0, DEFAULTS["weight_decay"], BATCH, generator)
    batches = itertools.cycle(torch.randperm(len(X) // BATCH * BATCH).split(BATCH))
    weight = torch.ones(len(X))
    with limited(1), step:
        step(X, y, weight, next(batches), 1e-3)
        tapes = [tape for shard in step._shards for tape in (shard._now.forward, shard._now.backward)]
        multiply_adds = training_products(case, OURS) * BATCH
        title = f"{case.name}, a batch of {BATCH}"
        yield from profile(tapes, lambda: step(X, y, weight, next(batches), 1e-3), 100, multiply_adds, title)


def profile_encoding():
    """Yield the profiles of a block in `encode` and in `transform`; all else is writing to new memory."""
    case = encoding_case(1)
    network = case.network()
    parameters = dict(network.named_parameters())
    encode = sum(layer.weight.numel() for layer in [*network.trunk, *network.parts])
    for name, soft, multiply_adds in (
        ("encode", False, encode),
        ("transform", True, encode + network.codebooks.numel()),
    ):
        size = _encoding._BLOCK // (network.M * network.K * (1 + soft))
        with limited(1), torch.inference_mode():
            block = _encoding._Recorded(parameters, (size, case.n_features), soft)
            block.x.normal_()
            results = []

            def run(block=block, results=results):
                block.tape.run()
                results.append(block.result.copy())

            yield from profile([block.tape], run, 500, multiply_adds * size, f"{name}, a block of {size}")


def report_profiles(options):
    """Yield the profile of each architecture."""
    yield f"torch.mm, one thread: {measure_products(1, 20) / 1e9:.0f} GFLOP/s"
    for case in cases(options.full):
        yield from profile_training(case)
    yield from profile_encoding()


def main():
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--full", action="store_true", help="train on all of 50,000 samples")
    parser.add_argument("--profile", action="store_true", help="print what the calls of a step take instead")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is reached, as it should be
    for line in (report_profiles if options.profile else report)(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
