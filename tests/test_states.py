"""States of estimators: interrupted anywhere, read beside writers, written by several, copied, and forked."""

import copy
import dis
import itertools
import linecache
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from threadpoolctl import ThreadpoolController, threadpool_limits

import skdpq
from skdpq import DPQClassifier, DPQNeighbors, DPQTransformer, ProductQuantizer, _threads
from skdpq._learning.fast_step import FastStep
from skdpq._learning.fast_step.step import Plan
from skdpq._threads import limited_threads, lock_of, one_blas_thread
from skdpq.metrics import score_neighbors

PACKAGE = str(Path(skdpq.__file__).parent)
ESTIMATORS = [DPQTransformer, DPQClassifier, ProductQuantizer, DPQNeighbors]

X, Y = load_iris(return_X_y=True)
X, Y = X[::3], np.array(["setosa", "versicolor", "virginica"])[Y[::3]]
MORE, Y_MORE = X[::5] + 0.1, np.where(Y[::5] == "setosa", "alba", Y[::5])
PQ = ProductQuantizer(M=2, K=8, random_state=0).fit(X)
DPQ = DPQClassifier(M=2, K=4, max_iter=2, random_state=0)


# What changes an estimator


def test_every_public_method_reads_one_state_or_changes_in_one_step():
    apart = {
        "get_params",
        "set_params",
        "set_output",
        "set_callbacks",
        "get_metadata_routing",
        "save",
        "score",
    }  # or reads once
    apart |= {"codes_", "ids_", "n_samples_fit_"}
    writers = {"fit", "partial_fit", "fit_transform", "fit_codes", "add", "add_codes", "remove"}
    seen = set()
    for cls in ESTIMATORS:
        for name in set(dir(cls)) - apart:
            member = next(vars(c)[name] for c in cls.__mro__ if name in vars(c))
            member = getattr(member, "fget", None) or getattr(member, "fn", None) or member
            if name.startswith("_") or not hasattr(member, "__code__") or "_request" in name:
                continue
            if member.__code__.co_name in ("partial_fit", "of_samples"):
                member = member.__wrapped__  # what takes arrays; for those of dask, see tests/cluster/test_encoding.py
            kind = "changed_in_one_step" if name in writers else "read_of_one_state"
            assert member.__code__.co_name == kind, f"{cls.__name__}.{name}"
            seen.add(name)
    assert writers < seen
    assert len(seen) > 30


# Interruptions


class Interruption:
    """Raises an error at the n-th line of the package that this thread comes to; counts the lines if n is None.

    A lock is released by a single instruction, before which CPython delivers no signal: that is no line here.
    """

    def __init__(self, n=None, error=KeyboardInterrupt):
        self.n, self.error, self.lines = n, error, []

    def __enter__(self):
        self._others = sys.gettrace()
        sys.settrace(self._enter_frame)

    def __exit__(self, *_):
        sys.settrace(self._others)

    def _enter_frame(self, frame, event, arg):
        return self._step if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _step(self, frame, event, arg):
        if event == "line" and not self._releases_a_lock(frame):
            self.lines.append((frame.f_code, frame.f_lineno))
            if len(self.lines) - 1 == self.n:
                raise self.error
        return self._step

    @staticmethod
    def _releases_a_lock(frame):
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if "with lock_of(" not in line and "with _registry_lock" not in line:
            return False
        return dis.opname[frame.f_code.co_code[frame.f_lasti]] not in ("LOAD_GLOBAL", "PUSH_NULL")


class Surroundings:
    """What a call must leave behind as it was in the process."""

    def __init__(self):
        self._controller = ThreadpoolController()
        self.before = self.now()

    def now(self):
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith(("skdpq", "ThreadPool"))]
        libraries = [(library.filepath, library.num_threads) for library in self._controller.lib_controllers]
        state = torch.is_inference_mode_enabled(), torch.get_rng_state().numpy().tobytes(), list(warnings.filters)
        return len(threads), libraries, state

    def check(self):
        assert self.now() == self.before


def interrupted_everywhere(start, change, states=(), errors=(KeyboardInterrupt,), every=None):
    """Interrupt a change of an estimator at each line; afterwards it is as before, as after, or `states` says so.

    `every`: of the first times that a line is come to, every so many-th; by default each time.
    Returns the number of interruptions.
    """
    change(copy.copy(start))  # what is compiled, and cached, is no longer in the way
    after = copy.copy(start)
    count = Interruption()
    with count:
        change(after)
    before, after = joblib.hash(vars(copy.copy(start))), joblib.hash(vars(after))
    assert before != after
    firsts = sorted({line: i for i, line in reversed(list(enumerate(count.lines)))}.values())
    places = firsts[::every] if every else range(len(count.lines))
    surroundings, tried = Surroundings(), 0
    for error, n in itertools.product(errors, places):
        estimator = copy.copy(start)
        interruption = Interruption(n, error)
        try:
            with interruption:
                change(estimator)
        except error:
            tried += 1
        assert surroundings.now() == surroundings.before, interruption.lines[-1]
        found = joblib.hash(vars(estimator))
        assert found in (before, after) or any(state(estimator) for state in states), interruption.lines[-1]
        assert not any(lock_of(key)._is_owned() for key in (id(estimator), "states", "BLAS", "global generator"))
    assert joblib.hash(vars(copy.copy(start))) == before
    return tried


def databases():
    for labelled in (False, True):
        for own_ids in (False, True):
            neighbors = DPQNeighbors(quantizer=FrozenEstimator(PQ))
            ids = np.arange(len(X))[::-1] * 3 if own_ids else None
            yield neighbors.fit(X, Y if labelled else None, ids=ids), labelled, own_ids


CODES = PQ.encode(MORE)
NEIGHBORS_CHANGES = {
    "fit": lambda e, y, ids: e.fit(MORE, y, ids=ids),
    "fit_transform": lambda e, y, ids: e.fit_transform(MORE, y),
    "fit_codes": lambda e, y, ids: e.fit_codes(CODES, y, ids=ids),
    "add": lambda e, y, ids: e.add(MORE, y, ids=ids),
    "add_codes": lambda e, y, ids: e.add_codes(CODES, y, ids=ids),
    "remove": lambda e, y, ids: e.remove([3, 0, 9]),
    "set_params": lambda e, y, ids: e.set_params(search="symmetric", mode="connectivity", n_neighbors=3),
}


EVERY = {"fit": 1, "fit_transform": 4, "fit_codes": 1}  # which share lines with one another


@pytest.mark.parametrize("name", NEIGHBORS_CHANGES)
def test_an_interrupted_change_of_a_database_is_made_in_full_or_not_at_all(name):
    for neighbors, labelled, own_ids in databases():
        y, ids = Y_MORE if labelled else None, np.arange(len(MORE)) * 3 + 1 if own_ids else None

        def change(estimator, y=y, ids=ids):
            NEIGHBORS_CHANGES[name](estimator, y, ids)

        errors = (KeyboardInterrupt, MemoryError) if name == "add_codes" else (KeyboardInterrupt,)
        assert interrupted_everywhere(neighbors, change, errors=errors, every=EVERY.get(name)) > 10


@pytest.mark.parametrize("method", ["fit", "set_params"])
def test_an_interrupted_product_quantizer_is_as_before_or_after(method):
    fresh = ProductQuantizer(M=2, K=4, rotation="opq", max_iter=2, max_iter_rotation=2, random_state=0)

    def change(quantizer):
        getattr(quantizer, method)(**{"M": 1, "K": 2} if method == "set_params" else {"X": X[:30]})

    with threadpool_limits(2):
        for start in (fresh, clone(fresh).fit(X[:20])):
            assert interrupted_everywhere(start, change, every=1) > 10


def complete(reference):
    """Say that an estimator has all that a reference has, and works: training that is interrupted ends early."""

    def is_complete(estimator):
        same = vars(estimator).keys() == vars(reference).keys()
        return same and np.isfinite(estimator.decision_function(X)).all() and len(estimator.encode(X)) == len(X)

    return is_complete


class OnTwoThreads(DPQClassifier):
    """A network whose training always has a thread beside the calling one."""

    @staticmethod
    def _make_step(network, objective, **kwargs):
        return FastStep(network, objective, plan=Plan(split_products=0, n_trials=0), **kwargs)


class Dropping(torch.nn.Module):
    """A backbone that draws from torch's global generator, as dropout does, and knows no other."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 6)

    def forward(self, x):
        return torch.nn.functional.dropout(self.linear(x), 0.5, self.training)


def with_backbone(**params):
    torch.manual_seed(0)
    return DPQTransformer(M=2, K=4, max_iter=1, random_state=0, backbone=Dropping(), **params)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "set_params"])
def test_an_interrupted_network_is_as_before_or_after_or_as_far_as_it_got(method):
    fresh = OnTwoThreads(M=2, K=4, max_iter=1, batch_size=8, random_state=0, device="cpu")
    few, y_few = X[::5], Y[::5]

    def change(classifier):
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            if method == "set_params":
                classifier.set_params(intra_norm=True, output="codes")
            else:
                getattr(classifier, method)(few, y_few)

    with threadpool_limits(2):
        start = fresh.fit(X[::2], Y[::2]) if method == "fit" else fresh.partial_fit(X, Y, classes=np.unique(Y))
        assert (
            interrupted_everywhere(start, change, states=[complete(start)], every=3 if method == "partial_fit" else 1)
            > 10
        )


def test_an_interrupted_fit_with_a_backbone_leaves_the_global_generator_as_it_was():
    start = with_backbone(augment=torch.Tensor.clone).fit(X[::2], Y[::2])

    def change(dpq):
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            dpq.fit(X[::5], Y[::5])

    whole = [lambda dpq: len(dpq.encode(X)) == len(X)]
    assert interrupted_everywhere(start, change, states=whole, every=4) > 10


def test_memory_that_is_not_there_changes_nothing():
    code = """
import copy, ctypes, gc, resource, sys
import joblib, numpy as np
from sklearn.frozen import FrozenEstimator
from skdpq import DPQNeighbors, ProductQuantizer

rng = np.random.default_rng(0)
quantizer = ProductQuantizer(M=4, K=16, random_state=0).fit(rng.normal(size=(200, 8)))
codes, y = rng.integers(16, size=(2, 100_000, 4), dtype=np.uint8), rng.integers(1000, size=(2, 100_000))
ids = rng.permutation(200_000).reshape(2, 100_000)
start = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit_codes(codes[0], y[0], ids=ids[0])
changes = {
    "add": lambda e: e.add_codes(codes[1], y[1], ids=ids[1]),
    "remove": lambda e: e.remove(ids[0, ::2]),
    "fit": lambda e: e.fit_codes(codes[1], y[1], ids=ids[1]),
}
before = joblib.hash(vars(copy.copy(start)))
_, hard = resource.getrlimit(resource.RLIMIT_AS)
for name, change in changes.items():
    change(copy.copy(start))  # compiled
    failed = 0
    for more in range(400):
        estimator = copy.copy(start)
        gc.collect()  # or garbage of the turn before, collected during the change, is the memory that it needs
        ctypes.CDLL(None).malloc_trim(0)  # what is free is given back
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + more * 2**18, hard))
        try:
            change(estimator)
        except MemoryError:
            failed += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        assert joblib.hash(vars(estimator)) == before, (name, more)
    assert failed > 3, (name, failed)
    print(name, failed)
"""
    if sys.platform == "linux":  # where the memory of a process can be limited, and allocations then fail
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # none is kept back
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=environment)


# Readers beside writers


@contextmanager
def switching_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def answer(value):
    """Return what two equal answers have in common, and no others."""
    if hasattr(value, "indptr"):
        value = value.indptr, value.indices, value.data, value.shape
    return joblib.hash(value if isinstance(value, tuple | str) else list(value) if hasattr(value, "send") else value)


def read_beside(estimator, steps, reads, n_rounds, n_readers=16):
    """Let threads read an estimator while another takes it through steps; each answer must be that of one state.

    Returns the number of answers.
    """
    allowed = {name: set() for name in reads}
    for _ in range(2):  # the second round begins where the first has ended, as all others do
        for step in steps:
            step(estimator)
            for name, read in reads.items():
                allowed[name].add(answer(read(estimator)))
    done, torn, counts = threading.Event(), [], []

    def keep_reading(i):
        names = itertools.cycle(list(reads)[i % len(reads) :] + list(reads)[: i % len(reads)])
        n = 0
        while not done.is_set() or n < len(reads):
            name = next(names)
            n += 1
            try:
                found = answer(reads[name](estimator))
            except Exception as error:
                found = repr(error)
            if found not in allowed[name]:
                torn.append((name, found))
        counts.append(n)

    readers = [threading.Thread(target=keep_reading, args=(i,)) for i in range(n_readers)]
    with switching_often():
        for reader in readers:
            reader.start()
        try:
            for _ in range(n_rounds):
                for step in steps:
                    step(estimator)
        finally:
            done.set()
            for reader in readers:
                reader.join()
    assert torn == []
    return sum(counts)


QUERIES = X[::7]
DATABASE_READS = {
    "kneighbors": lambda e: e.kneighbors(QUERIES),
    "kneighbors of all": lambda e: e.kneighbors(),
    "kneighbors_codes": lambda e: e.kneighbors_codes(CODES % 4),
    "radius_neighbors": lambda e: tuple(np.concatenate(found) for found in e.radius_neighbors(QUERIES, 0.7)),
    "kneighbors_graph": lambda e: e.kneighbors_graph(QUERIES),
    "radius_neighbors_graph": lambda e: e.radius_neighbors_graph(QUERIES, 0.7),
    "transform": lambda e: e.transform(QUERIES),
    "score": lambda e: e.score(QUERIES, Y[::7]),
    "precision": lambda e: score_neighbors(e, QUERIES, Y[::7], "precision_at_k", k=3),
    "query_tables": lambda e: tuple(tables for _, tables in e.query_tables(QUERIES)),
    "labels_of": lambda e: e.labels_of(e.kneighbors(QUERIES[:2])[1] * 0),
    "get_feature_names_out": lambda e: e.get_feature_names_out(),
    "copy": lambda e: (lambda c: (c.codes_, c.ids_, c.labels_of(c.ids_), c.kneighbors(QUERIES)))(copy.copy(e)),
    "pickle": lambda e: (lambda c: (c.codes_, c.ids_, c.labels_of(c.ids_)))(pickle.loads(pickle.dumps(e))),
}


def test_answers_beside_additions_and_removals_are_of_one_state():
    neighbors = DPQNeighbors(3, quantizer=FrozenEstimator(PQ)).fit(X, Y, ids=np.arange(0, 2 * len(X), 2))
    steps = [
        lambda e: e.add(MORE, Y_MORE, ids=np.arange(1, 2 * len(MORE), 2)),
        lambda e: e.remove(np.arange(1, 2 * len(MORE), 2)),
        lambda e: e.add(MORE[::-1] + 0.4, Y_MORE, ids=np.arange(1, 2 * len(MORE), 2)),  # as many, and other ones
        lambda e: e.remove(np.arange(1, 2 * len(MORE), 2)),
    ]
    assert read_beside(neighbors, steps, DATABASE_READS, n_rounds=12) > 300


def test_answers_beside_fits_of_databases_of_equal_size_are_of_one_state():
    neighbors = DPQNeighbors(3, quantizer=ProductQuantizer(M=2, K=8, random_state=0))
    steps = [
        lambda e: e.fit(X, Y),
        lambda e: e.fit(X[::-1] * 2, Y),
        lambda e: e.set_params(search="symmetric", n_neighbors=2),
        lambda e: e.fit(X[:, ::-1], Y[::-1]),
        lambda e: e.set_params(search="asymmetric", mode="connectivity", n_neighbors=3),
        lambda e: e.set_params(mode="distance"),
    ]
    assert read_beside(neighbors, steps, DATABASE_READS, n_rounds=6) > 300


def test_answers_beside_changes_of_the_quantizer_are_of_one_state():
    classifier = clone(DPQ).fit(X, Y)
    neighbors = DPQNeighbors(3, quantizer=FrozenEstimator(classifier), metric="euclidean").fit(X, Y)
    steps = [
        lambda e: classifier.set_params(intra_norm=True),
        lambda e: e.set_params(metric="relevance", search="symmetric"),
        lambda e: classifier.set_params(intra_norm=False),
        lambda e: e.set_params(metric="euclidean", search="asymmetric"),
    ]
    reads = {name: read for name, read in DATABASE_READS.items() if name not in ("copy", "pickle")}
    read_beside(neighbors, steps, reads, n_rounds=8)


@pytest.mark.parametrize("cls", [DPQClassifier, ProductQuantizer])
def test_answers_of_quantizers_beside_fits_and_parameters_are_of_one_state(cls):
    quantizer = cls(M=2, K=4, random_state=0).set_output(transform="pandas")
    fits = {"max_iter": 2} if cls is DPQClassifier else {}
    quantizer.set_params(**fits)
    steps = [
        lambda e: e.fit(X, Y),
        lambda e: e.set_params(output="codes"),
        lambda e: e.set_params(M=1, K=8).fit(X[::-1] * 2 + 1, Y),
        lambda e: e.set_params(output="hard"),
        lambda e: e.set_params(M=2, K=4).fit(X[:, ::-1], Y[::-1]),
        lambda e: e.set_params(output="soft"),
    ]
    reads = {
        "transform": lambda e: (*map(str, (frame := e.transform(QUERIES)).columns), frame.to_numpy()),
        "encode": lambda e: e.encode(QUERIES),
        "soft": lambda e: e.soft(QUERIES),
        "get_feature_names_out": lambda e: e.get_feature_names_out(),
        "codebooks_": lambda e: e.codebooks_,
        "copy": lambda e: (lambda c: (c.decode(c.encode(QUERIES)), c.pack_codes(c.encode(QUERIES))))(copy.copy(e)),
    }
    if cls is DPQClassifier:
        steps += [
            lambda e: e.set_params(representation="soft", intra_norm=True),
            lambda e: e.set_params(representation="hard", intra_norm=False),
        ]
        reads |= {
            name: lambda e, name=name: getattr(e, name)(QUERIES)
            for name in ("predict", "predict_proba", "decision_function", "predict_proba_soft")
        }
        reads["score"] = lambda e: e.score(QUERIES, Y[::7])
        reads["lutc_"] = lambda e: (lambda c: (c.lutc_, c.class_bias_))(copy.copy(e))
    read_beside(quantizer, steps, reads, n_rounds=4)


# Several writers


def test_four_writers_lose_nothing_and_give_no_id_twice():
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(PQ)).fit(X, Y, ids=np.arange(len(X)) + 1000)
    n_calls, started = 40, threading.Barrier(4)

    def write(writer):
        started.wait()
        for i in range(n_calls):
            neighbors.add_codes(np.full((5, 2), writer), [f"writer {writer}"] * 5)
            neighbors.add_codes([[7, 7]], ["passing"], ids=[writer * n_calls + i])
            neighbors.remove([writer * n_calls + i])

    with switching_often(), ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    labels = neighbors.labels_of(neighbors.ids_)
    assert len(labels) == neighbors.n_samples_fit_ == len(X) + 4 * 5 * n_calls
    assert len(np.unique(neighbors.ids_)) == len(labels)
    assert "passing" not in labels
    for writer in range(4):
        mine = labels == f"writer {writer}"
        assert mine.sum() == 5 * n_calls
        assert (neighbors.codes_[mine] == writer).all()


def test_parameters_that_several_threads_set_are_all_set():
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(PQ)).fit(X, Y)
    values = [{"n_neighbors": 2}, {"radius": 0.5}, {"mode": "connectivity"}, {"search": "symmetric"}]

    def write(writer):
        for i in range(30):
            neighbors.set_params(**values[writer])
            if writer == 3:
                neighbors.add_codes(CODES, Y_MORE)
            assert neighbors.get_params()[next(iter(values[writer]))] == next(iter(values[writer].values())), i

    with switching_often(), ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert {name: getattr(neighbors, name) for value in values for name in value} == {
        k: v for d in values for k, v in d.items()
    }


class Busy(ProductQuantizer):
    """A quantizer that calls a function while it is fitted, as a callback could."""

    meanwhile = None

    def fit(self, X, y=None):
        type(self).meanwhile()
        return super().fit(X, y)


def test_what_is_done_while_a_fit_goes_on_outlasts_it(monkeypatch):
    neighbors = DPQNeighbors(3, quantizer=Busy(M=2, K=8, random_state=0))
    pool = ThreadPoolExecutor(1)
    added = []

    def meanwhile():
        neighbors.set_params(n_neighbors=4, search="symmetric")
        assert not hasattr(neighbors, "index_") or neighbors.n_samples_fit_ == len(X)
        added.append(pool.submit(neighbors.add, MORE, Y_MORE))  # waits

    monkeypatch.setattr(Busy, "meanwhile", staticmethod(lambda: None))
    neighbors.fit(X, Y)
    monkeypatch.setattr(Busy, "meanwhile", staticmethod(meanwhile))
    neighbors.fit(X[::-1], Y[::-1])
    added[0].result()
    assert (neighbors.n_neighbors, neighbors.search) == (4, "symmetric")
    expected = (
        DPQNeighbors(quantizer=ProductQuantizer(M=2, K=8, random_state=0)).fit(X[::-1], Y[::-1]).add(MORE, Y_MORE)
    )
    assert_array_equal(neighbors.codes_, expected.codes_)
    assert_array_equal(neighbors.labels_of(neighbors.ids_), expected.labels_of(expected.ids_))


def test_a_fit_that_changes_its_own_estimator_is_refused(monkeypatch):
    neighbors = DPQNeighbors(3, quantizer=Busy(M=2, K=8, random_state=0))
    monkeypatch.setattr(Busy, "meanwhile", staticmethod(lambda: None))
    neighbors.fit(X, Y)
    monkeypatch.setattr(Busy, "meanwhile", staticmethod(lambda: neighbors.add(MORE, Y_MORE)))
    with pytest.raises(RuntimeError, match="by a callback of its own fit"):
        neighbors.fit(X[::-1], Y)
    assert neighbors.n_samples_fit_ == len(X) + len(MORE)


# Copies, pickles and forks


def copies(estimator):
    return copy.copy(estimator), copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator)), clone(estimator)


def test_copies_are_independent_also_those_made_while_a_fit_goes_on(monkeypatch):
    neighbors = DPQNeighbors(3, quantizer=Busy(M=2, K=8, random_state=0))
    made = []
    monkeypatch.setattr(Busy, "meanwhile", staticmethod(lambda: None))
    neighbors.fit(X, Y)
    before = joblib.hash(vars(neighbors))
    monkeypatch.setattr(Busy, "meanwhile", staticmethod(lambda: made.extend(copies(neighbors))))
    copy.copy(neighbors).fit(X, Y)
    monkeypatch.setattr(Busy, "meanwhile", staticmethod(lambda: None))
    for other in made:
        if hasattr(other, "index_"):
            other.add(MORE, Y_MORE).remove([0])
            other.quantizer_.set_params(output="codes")
        other.set_params(n_neighbors=1).fit(MORE, Y_MORE)
        assert joblib.hash(vars(neighbors)) == before
    assert len(made) == 4


def test_a_fork_while_a_fit_goes_on_can_change_the_estimator():
    code = """
import os, sys, threading
import numpy as np
from skdpq import DPQNeighbors, ProductQuantizer

class Busy(ProductQuantizer):
    def fit(self, X, y=None):
        started.set()
        forked.wait()
        return super().fit(X, y)

started, forked = threading.Event(), threading.Event()
forked.set()
X = np.random.default_rng(0).normal(size=(60, 4))
neighbors = DPQNeighbors(quantizer=Busy(M=2, K=4, random_state=0)).fit(X)
forked.clear()
started.clear()
other = threading.Thread(target=neighbors.fit, args=(X[:50],))
other.start()
started.wait()
child = os.fork()
if child == 0:
    neighbors.add(X[:7]).set_params(n_neighbors=2).kneighbors(X)
    os._exit(neighbors.n_samples_fit_)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
forked.set()
other.join()
assert status == 67, status
assert neighbors.n_samples_fit_ == 50
"""
    if hasattr(os, "fork"):
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)


# The process around


def test_calls_that_overlap_leave_blas_its_threads():
    controller = ThreadpoolController().select(user_api="blas")

    def threads():
        return [library.num_threads for library in controller.lib_controllers]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        assert set(threads()) == {1}
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before
        assert set(before) == {2}


def test_a_library_that_is_loaded_after_the_first_call_is_limited_too():
    code = """
import numpy, scipy.linalg
from threadpoolctl import ThreadpoolController, threadpool_limits
from skdpq._threads import one_blas_thread
def threads():
    return [library.num_threads for library in ThreadpoolController().select(user_api="blas").lib_controllers]
with one_blas_thread():
    before = threads()
import faiss  # has one of its own
with threadpool_limits(2, user_api="blas"):
    with one_blas_thread():
        during = threads()
    after = threads()
print(len(during) > len(before), set(during), set(after))
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    assert found.stdout.split() == ["True", "{1}", "{2}"]


def test_fits_of_product_quantizers_that_overlap_leave_the_process_as_it_was():
    quantizers = [ProductQuantizer(M=2, K=16, random_state=i % 2) for i in range(8)]
    expected = [clone(quantizer).fit(X).codebooks_ for quantizer in quantizers[:2]]
    with threadpool_limits(2):
        surroundings = Surroundings()
        with switching_often(), ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda quantizer: quantizer.fit(X), quantizers))
        surroundings.check()
    for i, quantizer in enumerate(quantizers):
        assert_array_equal(quantizer.codebooks_, expected[i % 2])


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_filters_of_warnings_change_in_one_thread_at_a_time(cls, monkeypatch):
    """Each check of scikit-learn changes them for a moment, and Python brings back the wrong ones if two overlap."""
    enter, places = warnings.catch_warnings.__enter__, {True: [], False: []}

    def watched(self):
        places[lock_of("warning filters")._is_owned()].append(traceback.format_stack(limit=12))
        return enter(self)

    estimator = cls(**({} if cls is DPQNeighbors else {"M": 2, "K": 4, "random_state": 0}))
    estimator.set_params(**({"max_iter": 2} if hasattr(estimator, "max_iter") else {}))
    monkeypatch.setattr(warnings.catch_warnings, "__enter__", watched)
    estimator.fit(X, Y)
    if hasattr(estimator, "partial_fit"):
        estimator.fit(X, Y, sample_weight=np.arange(len(X)) % 3, X_val=X[::2], y_val=Y[::2])
        clone(estimator).set_params(supervision=0.5, early_stopping=True).fit(X, Y)
        clone(estimator).partial_fit(X, Y, classes=np.unique(Y)).partial_fit(X, Y)
    if cls is DPQNeighbors:
        estimator.add(MORE, Y_MORE).remove(estimator.ids_[:3])
        estimator.score(QUERIES, Y[::7])
        estimator.kneighbors(QUERIES)
        DPQNeighbors(quantizer=FrozenEstimator(PQ)).fit_codes(PQ.encode(X), Y)
    else:
        estimator.decode(estimator.encode(X))
        estimator.transform(X)
    assert places[True]
    assert places[False] == []


def test_fits_with_backbones_that_overlap_are_reproducible_and_leave_the_global_generator():
    expected = with_backbone().fit(X, Y).parameters_["codebooks"]
    fits = [with_backbone() for _ in range(4)]
    surroundings = Surroundings()
    with switching_often(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda dpq: dpq.fit(X, Y), fits))
    surroundings.check()
    for dpq in fits:
        assert_array_equal(dpq.parameters_["codebooks"], expected)


def test_no_thread_is_at_work_after_an_interruption_while_they_are_asked(monkeypatch):
    begun, at_work = threading.Event(), []

    def function(_):
        at_work.append(None)
        begun.set()
        time.sleep(0.05)
        at_work.pop()

    class Pool(ThreadPoolExecutor):
        def submit(self, *args):
            super().submit(*args)
            begun.wait()
            raise KeyboardInterrupt  # the caller is never given the future

    with Pool(1) as pool:
        monkeypatch.setattr(_threads, "_pool", lambda: pool)
        with pytest.raises(KeyboardInterrupt):
            _threads.run(function, range(3), 2)
        assert at_work == []


def test_a_limit_on_threads_ends_with_its_block_wherever_that_is_interrupted():
    def change():
        with limited_threads(1):
            pass
        with one_blas_thread():
            pass

    with threadpool_limits(2):
        change()  # finds the libraries, once a process
        surroundings, count = Surroundings(), Interruption()
        with count:
            change()
        for n in range(len(count.lines)):
            with pytest.raises(KeyboardInterrupt), Interruption(n):
                change()
            surroundings.check()


# A quantizer that changes behind its database


@pytest.mark.parametrize("quantizer", [PQ, DPQ], ids=["ProductQuantizer", "DPQClassifier"])
def test_a_quantizer_that_is_fitted_again_behind_its_database_is_noticed(quantizer):
    quantizer = clone(quantizer).fit(X, Y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X, Y)
    kept, before = copy.copy(neighbors), neighbors.kneighbors(QUERIES)
    quantizer.fit(X, Y)  # to the same
    assert_array_equal(neighbors.kneighbors(QUERIES), before)
    quantizer.fit(X[::-1] * 2 + 1, Y)
    again = pickle.loads(pickle.dumps(neighbors))
    for call in (
        lambda e: e.kneighbors(QUERIES),
        lambda e: e.kneighbors(),
        lambda e: e.radius_neighbors(QUERIES),
        lambda e: e.kneighbors_codes(CODES % 4),
        lambda e: e.transform(QUERIES),
        lambda e: e.score(QUERIES, Y[::7]),
        lambda e: e.add(MORE, Y_MORE),
        lambda e: e.add_codes(CODES % 4, Y_MORE),
        lambda e: list(e.query_tables(QUERIES)),
    ):
        for estimator in (neighbors, again):
            with pytest.raises(ValueError, match="it was fitted again"):
                call(estimator)
    assert_array_equal(kept.kneighbors(QUERIES), before)  # a copy has the quantizer as it was
    neighbors.fit(X, Y).kneighbors(QUERIES)


def test_what_a_quantizer_may_change_behind_its_database_goes_on_to_work():
    quantizer = clone(DPQ).fit(X, Y)
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X, Y)
    for params in ({"intra_norm": True}, {"output": "codes"}, {"intra_norm": False}, {"M": 7, "device": "cpu"}):
        quantizer.set_params(**params)
        expected = DPQNeighbors(quantizer=FrozenEstimator(quantizer)).fit(X, Y)
        assert_array_equal(neighbors.kneighbors(QUERIES), expected.kneighbors(QUERIES))
        neighbors.add(MORE, Y_MORE).remove(neighbors.ids_[-len(MORE) :])
    fitted = DPQNeighbors(quantizer=clone(DPQ)).fit(X, Y)
    fitted.quantizer_.set_params(intra_norm=True)
    assert fitted.kneighbors(QUERIES)[0].max() <= 2 * np.sqrt(2)


# Parameters that may be changed after a fit


@pytest.mark.parametrize(
    ("name", "bad", "calls"),
    [
        ("search", "symetric", ["kneighbors", "radius_neighbors", "query_tables"]),
        ("metric", "relevant", ["kneighbors", "kneighbors_codes", "query_tables"]),
        ("mode", "distances", ["transform"]),
        ("n_neighbors", 0, ["transform"]),
        ("radius", -1.0, ["radius_neighbors"]),
        ("n_jobs", 1.5, ["kneighbors"]),
        ("device", 3, ["kneighbors"]),
        ("output", "code", ["transform", "get_feature_names_out"]),
        ("intra_norm", "no", ["soft", "decode", "transform"]),
        ("representation", "Soft", ["predict", "predict_proba", "decision_function"]),
        ("verbose", "much", ["encode"]),
    ],
)
def test_a_typo_in_a_parameter_that_is_set_after_the_fit_is_refused_where_it_is_read(name, bad, calls):
    for estimator in (DPQNeighbors(quantizer=FrozenEstimator(PQ)), clone(PQ), clone(DPQ)):
        if name in estimator.get_params():
            estimator.fit(X, Y).set_params(**{name: bad})
            for call in calls:
                if not hasattr(estimator, call):
                    continue
                arguments = {"get_feature_names_out": (), "decode": (CODES % 4,)}.get(call, (QUERIES,))
                arguments = (CODES,) if call == "kneighbors_codes" else arguments
                with pytest.raises((ValueError, TypeError), match=name):
                    list(getattr(estimator, call)(*arguments))


def test_a_name_that_is_no_parameter_sets_none():
    neighbors = DPQNeighbors()
    with pytest.raises(ValueError, match="Invalid parameter 'k'"):
        neighbors.set_params(n_neighbors=3, k=3)
    assert neighbors.n_neighbors == 5


# Ids and labels


def test_labels_of_ids_of_any_shape():
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(PQ)).fit(X, Y, ids=np.arange(len(X))[::-1] * 2)
    neighbors.remove([0, 6]).add(MORE, Y_MORE, ids=np.arange(len(MORE)) * 2 + 1)
    label_of = dict(zip(range(2 * len(X) - 2, -1, -2), Y, strict=True)) | dict(
        zip(range(1, 99, 2), Y_MORE, strict=False)
    )
    _, ids = neighbors.kneighbors(QUERIES)
    for some in (ids, ids[0], ids[0, 0], ids[:0], ids.tolist(), [[ids]], ids.astype(np.uint64)):
        labels = neighbors.labels_of(some)
        assert labels.shape == np.shape(some)
        assert labels.ravel().tolist() == [label_of[i] for i in np.ravel(some).tolist()]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 2], r"ids of the database, got \[0\]"),
        ([10**6], "ids of the database"),
        ([-1], "ids of the database"),
        (np.array([2**64 - 2], np.uint64), "ids of the database"),
        ([2.0], "integers, got float64"),
        (["2"], "integers"),
        ([7], r"with labels, got \[7\]"),
    ],
)
def test_labels_that_there_are_not(ids, message):
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(PQ)).fit(X, Y, ids=np.arange(len(X)) * 2)
    neighbors.remove([0]).add_codes(CODES[:1], ids=[7])
    with pytest.raises(ValueError, match=message):
        neighbors.labels_of(ids)
    with pytest.raises(ValueError, match="made without y"):
        DPQNeighbors(quantizer=FrozenEstimator(PQ)).fit(X).labels_of([0])


@pytest.mark.parametrize("how", ["fit", "fit_codes", "add", "add_codes"])
def test_ids_of_ones_own_and_labels_go_together(how):
    ids = np.random.default_rng(0).permutation(1000)[: len(X)]
    neighbors = DPQNeighbors(quantizer=FrozenEstimator(PQ))
    if "add" in how:
        neighbors.fit_codes(np.empty((0, 2), np.uint8), ids=[])
    data = PQ.encode(X) if "codes" in how else X
    with pytest.raises(TypeError, match="positional"):
        getattr(neighbors, how)(data, Y, ids)
    getattr(neighbors, how)(data, Y, ids=ids)
    assert_array_equal(neighbors.ids_, np.sort(ids))
    assert_array_equal(neighbors.labels_of(ids), Y)
    assert_array_equal(neighbors.codes_[np.searchsorted(neighbors.ids_, ids)], PQ.encode(X))


def test_ids_and_metadata_of_the_quantizer_are_routed_side_by_side():
    weight = np.linspace(0.1, 1, len(X))
    expected = clone(DPQ).fit(X, Y, sample_weight=weight).encode(X)
    ids = np.arange(len(X)) + 5
    with config_context(enable_metadata_routing=True):
        quantizer = clone(DPQ).set_fit_request(sample_weight=True)
        routed = DPQNeighbors(quantizer=quantizer).set_fit_request(ids=True)
        made = [
            clone(routed).fit(X, Y, sample_weight=weight, ids=ids),
            make_pipeline("passthrough", clone(routed)).fit(X, Y, sample_weight=weight, ids=ids)[-1],
        ]
    made.append(DPQNeighbors(quantizer=clone(DPQ)).fit(X, Y, sample_weight=weight, ids=ids))
    for neighbors in made:
        assert_array_equal(neighbors.codes_, expected)
        assert_array_equal(neighbors.ids_, ids)
