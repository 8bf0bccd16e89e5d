"""Searches by torch equal brute force bit for bit, as on the CPU, in bounded memory, and keep nothing stale."""

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from test_index import Problem, all_bits_equal, brute_force, pairs, problems, problems_or_empty, ranking
from test_relevance import Problem as Relevance
from test_relevance import pairs as relevance_pairs
from test_relevance import problems_or_empty as relevance_problems
from torch.utils._python_dispatch import TorchDispatchMode

from skdpq import DPQNeighbors, ProductQuantizer, _device
from skdpq._search import scan_torch
from skdpq._search.index import CodeIndex
from skdpq._search.scan_torch import Plan

AVAILABLE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
DEVICES = [torch.device(name) for name, available in AVAILABLE.items() if available]

GENEROUS = Plan()
ONE_AT_A_TIME = Plan(None, 1, 1, 1, 1, 1)
TIGHT = [GENEROUS, Plan(None, 2000, 3000, 64, 500, 8), ONE_AT_A_TIME, Plan(None, 10**6, 10**6, 1, 40, 100)]


def with_plans(problems):
    """Return a strategy of problems and plans; with one distance at a time, only where these are few."""

    def few(drawn):
        problem, plan = drawn
        return plan != ONE_AT_A_TIME or len(problem.codes) * len(problem.queries[True]) < 2000

    return st.tuples(problems, st.sampled_from(TIGHT)).filter(few)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(max_examples=200)
@given(with_plans(problems), st.booleans(), st.data())
@example((Problem(0, 2, 65536, 1, 3000, 9, 3000, 1.0, 2), GENEROUS), False, None)
@example((Problem(1, 64, 256, 1, 3000, 9, 3000, 1.0, 2), GENEROUS), True, None)
def test_kneighbors_is_brute_force_bit_for_bit(device, drawn, symmetric, data):
    problem, plan = drawn
    n = len(problem.codes)
    k = n if data is None else data.draw(st.integers(1, n) | st.integers(1, min(n, 12)) | st.just(n))
    options = {"symmetric": symmetric, "device": device, "plan": plan}
    distances, ids = problem.index.kneighbors(problem.queries[symmetric], k, **options)
    expected = problem.expected(symmetric)
    all_bits_equal(ids, np.array([problem.ids[order[:k]] for _, order in expected]))
    all_bits_equal(distances, np.array([row[order[:k]] for row, order in expected]))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@given(with_plans(problems_or_empty), st.booleans(), st.sampled_from([0, 0.1, 0.5, 1, 2]))
def test_radius_neighbors_is_brute_force_bit_for_bit(device, drawn, symmetric, quantile):
    problem, plan = drawn
    expected = problem.expected(symmetric)
    rows = np.array([row for row, _ in expected])
    beyond = quantile > 1 or rows.size == 0
    limit = np.finfo(np.float32).max if beyond else np.quantile(rows, quantile, method="lower")
    options = {"symmetric": symmetric, "device": device, "plan": plan}
    counts, distances, ids = problem.index.radius_neighbors(problem.queries[symmetric], limit, **options)
    within = [order[row[order] <= limit] for row, order in expected]
    all_bits_equal(counts, np.array([len(order) for order in within]))
    all_bits_equal(ids, problem.ids[np.concatenate(within)])
    all_bits_equal(distances, np.concatenate([row[order] for (row, _), order in zip(expected, within, strict=True)]))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(max_examples=50)
@given(pairs, st.data())
def test_no_item_is_its_own_neighbor(device, problem, data):
    n = len(problem.codes)
    k = data.draw(st.integers(1, n - 1))
    rows = brute_force(problem.codebooks, problem.codes, problem.codes, True)
    orders = [ranking(row, problem.ids) for row in rows]
    orders = [order[order != item] for item, order in enumerate(orders)]
    distances, ids = problem.index.all_kneighbors(k, device=device)
    all_bits_equal(ids, np.array([problem.ids[order[:k]] for order in orders]))
    all_bits_equal(distances, np.array([row[order[:k]] for row, order in zip(rows, orders, strict=True)]))
    limit = np.quantile(rows, 0.2, method="lower")
    found = problem.index.all_radius_neighbors(limit, device=device)
    for actual, expected in zip(found, problem.index.all_radius_neighbors(limit), strict=True):
        all_bits_equal(actual, expected)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_device_without_float64_finds_the_same(device, monkeypatch):
    monkeypatch.setattr(scan_torch, "_has_float64", lambda device: False)
    problem = Problem(0, 3, 300, 2, 3000, 70, 2000, 1.0, 2)
    for symmetric in (False, True):
        found, expected = (
            problem.index.kneighbors(problem.queries[symmetric], 9, symmetric=symmetric, device=where)
            for where in (device, None)
        )
        for actual, part in zip(found, expected, strict=True):
            all_bits_equal(actual, part)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@given(with_plans(relevance_problems), st.booleans(), st.sampled_from([0, 10**9]), st.data())
def test_relevance_is_that_of_the_cpu_bit_for_bit(device, drawn, symmetric, kept, data):
    problem, plan = drawn
    queries = problem.queries[symmetric]
    options = {"symmetric": symmetric, "device": device, "plan": plan._replace(kept_posteriors=kept)}
    limit = np.float32(data.draw(st.sampled_from([-1, 0.1, 0.9, 1])))
    calls = [lambda **how: problem.index.radius_neighbors(queries, limit, **how)]
    if len(problem.codes):
        k = data.draw(st.integers(1, len(problem.codes)))
        calls.append(lambda **how: problem.index.kneighbors(queries, k, **how))
    for call in calls:
        for actual, expected in zip(call(**options), call(symmetric=symmetric), strict=True):
            all_bits_equal(actual, expected)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@settings(max_examples=25)
@given(relevance_pairs, st.data())
def test_no_item_is_its_own_neighbor_by_relevance(device, problem, data):
    k, limit = data.draw(st.integers(1, len(problem.codes) - 1)), np.float32(data.draw(st.floats(0, 1)))
    for name, argument in (("all_kneighbors", k), ("all_radius_neighbors", limit)):
        search = getattr(problem.index, name)
        for actual, expected in zip(search(argument, device=device), search(argument), strict=True):
            all_bits_equal(actual, expected)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_device_without_float64_refuses_relevance(device, monkeypatch):
    monkeypatch.setattr(scan_torch, "_has_float64", lambda device: False)
    problem = Relevance(0, 3, 16, 5, 300, 7, 200, 1.0, 1.0)
    for symmetric in (False, True):
        with pytest.raises(ValueError, match="float64"):
            problem.index.kneighbors(problem.queries[symmetric], 9, symmetric=symmetric, device=device)
        with pytest.raises(ValueError, match="float64"):
            problem.index.radius_neighbors(
                problem.queries[symmetric], np.float32(1), symmetric=symmetric, device=device
            )


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("kept", [0, 10**9])
def test_memory_is_bounded_by_relevance(device, kept):
    problem = Relevance(0, 4, 16, 50, 20_000, 300, 20_000, 1.0, 1.0)
    queries = problem.queries[False]
    options = {"symmetric": False, "device": device, "plan": Plan(None, 4096, 2**15, 2**12, 2**15, 2**8, kept)}
    problem.index.kneighbors(queries[:1], 1, **options)  # leaves on the device what stays there
    for k in (1, 40):
        with Largest() as largest:
            problem.index.kneighbors(queries, k, **options)
        assert largest.n_bytes <= 4 * 2**15  # of 24 MB that all distances are
    for limit in (0.5, 1):
        with Largest() as largest:
            problem.index.radius_neighbors(queries[:40], np.float32(limit), **options)
        assert largest.n_bytes <= 16 * 2**15


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_posteriors_are_uploaded_once_and_dropped_with_the_database(device):
    gc.collect()
    before = len(scan_torch._stored_posteriors)
    problem = Relevance(0, 3, 16, 5, 3000, 6, 3000, 1.0, 1.0)
    index, queries = problem.index, problem.queries[False]

    def search(index):
        distances, ids = index.kneighbors(queries, 5, symmetric=False, device=device)
        for actual, expected in zip((distances, ids), index.kneighbors(queries, 5, symmetric=False), strict=True):
            all_bits_equal(actual, expected)

    search(index)
    key = id(index.segments[0].blocks), torch.empty(0, device=device).device  # "cuda" has a number there
    (_, uploaded) = scan_torch._stored_posteriors[key]
    search(index.with_classifier(problem.lutc.copy(), problem.bias.copy()))
    assert scan_torch._stored_posteriors[key][1] is uploaded
    search(index.with_classifier(problem.lutc[:, ::-1], problem.bias))
    search(index)
    assert len(scan_torch._stored_posteriors) == before + 1
    del index, problem
    gc.collect()
    assert len(scan_torch._stored_posteriors) == before


@pytest.mark.parametrize("make_tables", [scan_torch._make_tables, scan_torch._upload_tables])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_tables_and_distances_are_where_the_codes_are(make_tables, dtype):
    codebooks, soft = np.zeros((3, 16, 2), np.float32), np.zeros((5, 6), np.float32)
    tables = make_tables(codebooks, torch.tensor(codebooks, device="meta"), soft)
    assert (tables.shape, tables.device.type) == ((48, 5), "meta")
    distances = scan_torch._distances(torch.zeros((7, 3), dtype=dtype, device="meta"), tables)
    assert (distances.shape, distances.device.type) == ((7, 5), "meta")


class Largest(TorchDispatchMode):
    """Notes the largest tensors that operations return: of any type in bytes, and of positions and keys in elements."""

    def __init__(self):
        super().__init__()
        self.n_bytes = self.n_int64 = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.n_bytes = max(self.n_bytes, tensor.nbytes)
                self.n_int64 = max(self.n_int64, tensor.numel() * (tensor.dtype == torch.int64))
        return out


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("nearest_last", [False, True])
def test_the_order_of_adding_changes_no_result_and_little_memory(device, nearest_last):
    codebooks = np.arange(1024, dtype=np.float32).reshape(1, 1024, 1)
    codes = np.arange(1024)[:, None]
    index = CodeIndex(codebooks).add(codes[::-1] if nearest_last else codes)
    queries = np.zeros((5, 1), dtype=np.float32)
    index.kneighbors(queries[:1], 1, symmetric=False, device=device)  # leaves the codes on the device
    plan = Plan(None, 10**6, 10**6, 100, 10**6, 100)
    with Largest() as largest:
        distances, ids = index.kneighbors(queries, 20, symmetric=False, device=device, plan=plan)
    assert largest.n_int64 <= 100 + 5 * 20
    assert_array_equal(distances, np.tile(np.arange(20.0) ** 2, (5, 1)))
    assert_array_equal(ids, np.tile(np.arange(1023, 1003, -1) if nearest_last else np.arange(20), (5, 1)))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("plan", TIGHT[:2], ids=["generous", "tight"])
def test_the_lowest_ids_come_first_where_all_distances_are_equal(device, plan):
    rng = np.random.default_rng(0)
    ids = rng.permutation(10_000)[:3000]
    index = CodeIndex(np.zeros((2, 300, 1))).add(rng.integers(300, size=(3000, 2)), ids)
    for k in (1, 7, 64, 65, 2999, 3000):
        found = index.kneighbors(np.zeros((4, 2), np.float32), k, symmetric=False, device=device, plan=plan)[1]
        assert_array_equal(found, np.tile(np.sort(ids)[:k], (4, 1)))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("kind", ["zero", "integers", 1.0])
def test_memory_is_bounded(device, kind):
    problem = Problem(0, 4, 16, 2, 20_000, 300, 20_000, kind)
    queries = problem.queries[False]
    problem.index.kneighbors(queries[:1], 1, symmetric=False, device=device)  # leaves the codes on the device
    options = {"symmetric": False, "device": device, "plan": Plan(None, 4096, 2**15, 2**12, 2**14, 2**8)}
    for k in (1, 40):
        with Largest() as largest:
            problem.index.kneighbors(queries, k, **options)
        assert largest.n_bytes <= 4 * 2**15  # of 24 MB that all distances are
    for limit in (0.5, np.inf):
        with Largest() as largest:
            problem.index.radius_neighbors(queries[:40], limit, **options)
        assert largest.n_bytes <= 16 * 2**14


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_tensors_are_made_on_the_device_whatever_the_default_is(device):
    problem = Problem(0, 3, 300, 2, 500, 5, 400, 1.0)
    queries = problem.queries[False]
    expected = problem.index.kneighbors(queries, 9, symmetric=False)
    within = problem.index.radius_neighbors(queries, np.float32(5), symmetric=False)
    with torch.device("meta"):
        found = problem.index.kneighbors(queries, 9, symmetric=False, device=device)
        near = problem.index.radius_neighbors(queries, np.float32(5), symmetric=False, device=device)
    for actual, part in zip((*found, *near), (*expected, *within), strict=True):
        all_bits_equal(actual, part)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_no_query_has_no_result(device, symmetric):
    problem = Problem(0, 3, 4, 2, 10, 1, 10, 1.0)
    queries, options = problem.queries[symmetric][:0], {"symmetric": symmetric, "device": device}
    distances, ids = problem.index.kneighbors(queries, 4, **options)
    assert distances.shape == ids.shape == (0, 4)
    assert [len(part) for part in problem.index.radius_neighbors(queries, np.float32(1), **options)] == [0, 0, 0]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_an_empty_index_has_nothing_within_any_radius(device):
    index = CodeIndex(np.zeros((2, 4, 1)))
    found = index.radius_neighbors(np.zeros((3, 2), np.float32), np.float32(1), symmetric=False, device=device)
    assert_array_equal(found[0], [0, 0, 0])
    assert [len(part) for part in found[1:]] == [0, 0]
    assert [len(part) for part in index.all_radius_neighbors(np.float32(1), device=device)] == [0, 0, 0]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_distances_beyond_float32_are_refused(device, symmetric):
    problem = Problem(0, 2, 4, 3, 10, 5, 10, 1e20)
    queries, options = problem.queries[symmetric], {"symmetric": symmetric, "device": device}
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.kneighbors(queries, 1, **options)
    with pytest.raises(ValueError, match="squared distances fit float32"):
        problem.index.radius_neighbors(queries, np.float32(1), **options)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    ("symmetric", "queries"),
    [
        (False, np.zeros((2, 5), np.float32)),
        (False, np.full((2, 6), np.nan, np.float32)),
        (True, np.zeros((2, 3), int)),
        (True, np.full((1, 2), 4)),
        (True, np.zeros((1, 2))),
    ],
)
def test_queries_that_do_not_fit_the_codebooks_are_refused(device, symmetric, queries):
    index = Problem(0, 2, 4, 3, 10, 5, 10, 1.0).index
    with pytest.raises(ValueError, match="Expected"):
        index.kneighbors(queries, 1, symmetric=symmetric, device=device)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_queries_may_be_read_only_of_any_layout_and_precision(device):
    problem = Problem(0, 3, 16, 2, 500, 6, 400, 1.0)
    queries = problem.queries[False].astype(np.float64)
    queries += 1e-9
    read_only = queries.copy()
    read_only.setflags(write=False)
    for same in (queries, read_only, np.asfortranarray(queries), queries[::-1][::-1]):
        expected = problem.index.kneighbors(queries, 9, symmetric=False)
        for actual, part in zip(
            problem.index.kneighbors(same, 9, symmetric=False, device=device), expected, strict=True
        ):
            all_bits_equal(actual, part)


# What stays on the device


def n_stored():
    gc.collect()
    return len(scan_torch._stored)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_codes_are_uploaded_once_and_dropped_with_the_database(device):
    before = n_stored()
    problem = Problem(0, 3, 16, 2, 3000, 6, 3000, 1.0)
    index, queries = problem.index, problem.queries[False]

    def search(index):
        distances, ids = index.kneighbors(queries, 5, symmetric=False, device=device)
        for actual, expected in zip((distances, ids), index.kneighbors(queries, 5, symmetric=False), strict=True):
            all_bits_equal(actual, expected)
        return ids

    search(index)
    (uploaded,) = [stored for key, stored in scan_torch._stored.items() if key[0] == id(index.segments[0].counts)]
    search(index)
    search(index.with_codebooks(problem.codebooks * 2))
    index.radius_neighbors(queries, np.float32(1), symmetric=False, device=device)
    assert n_stored() == before + 1
    index = index.add(problem.codes[:100])
    search(index)
    assert n_stored() == before + 2  # of the 3000, none again
    assert any(stored is uploaded for stored in scan_torch._stored.values())
    old = index
    old_ids = search(old)
    index = index.remove(old_ids[:, 0])
    assert not np.isin(search(index), old_ids[:, 0]).any()
    assert_array_equal(search(old), old_ids)
    index = index.add(problem.codes)  # merges everything into one
    assert len(index.segments) == 1
    search(index)
    del index, problem, old
    assert n_stored() == before


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_search_leaves_nothing_of_torch_in_a_pickle_or_a_copy(device):
    problem = Problem(0, 3, 16, 2, 3000, 6, 3000, 1.0, 2)
    index, queries = problem.index, problem.queries[False]
    before = pickle.dumps(index)
    found = index.kneighbors(queries, 5, symmetric=False, device=device)
    assert pickle.dumps(index) == before
    assert b"torch" not in before
    for again in (pickle.loads(before), copy.deepcopy(index), copy.copy(index)):
        for actual, expected in zip(again.kneighbors(queries, 5, symmetric=False, device=device), found, strict=True):
            all_bits_equal(actual, expected)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_many_threads_may_search_at_once(device):
    problem = Problem(0, 3, 16, 2, 3000, 60, 3000, 1.0, 2)
    queries = problem.queries[False]
    expected = problem.index.kneighbors(queries, 5, symmetric=False)
    with ThreadPoolExecutor(4) as pool:
        search = lambda _: problem.index.kneighbors(queries, 5, symmetric=False, device=device)  # noqa: E731
        for found in pool.map(search, range(8)):
            for actual, part in zip(found, expected, strict=True):
                all_bits_equal(actual, part)


# DPQNeighbors


@pytest.fixture(params=DEVICES, ids=str)
def gpu(request, monkeypatch):
    """Have a device named "gpu"."""
    real = _device.search_device
    for module in ("neighbors",):
        monkeypatch.setattr(
            f"skdpq.{module}.search_device", lambda name: request.param if name == "gpu" else real(name)
        )


@pytest.mark.parametrize("search", ["asymmetric", "symmetric"])
def test_an_estimator_finds_the_same_wherever_it_searches(gpu, digits, search, monkeypatch):
    X, Q, y, y_queries = digits
    quantizer = FrozenEstimator(ProductQuantizer(M=4, K=16, random_state=0).fit(X))
    on_cpu = DPQNeighbors(quantizer=quantizer, search=search, radius=25.0).fit(X, y)
    on_gpu = clone(on_cpu).set_params(device="gpu", n_jobs=2).fit(X, y)
    by_torch = []
    for name in ("nearest", "within_radius"):
        function = getattr(scan_torch, name)
        monkeypatch.setattr(scan_torch, name, lambda *a, function=function: by_torch.append(function) or function(*a))
    for change in (lambda e: e, lambda e: e.remove(np.arange(0, 900, 3)), lambda e: e.add(X[:50], y=y[:50])):
        change(on_cpu)
        change(on_gpu)
        before = pickle.dumps(on_gpu)
        for call in (
            lambda e: e.kneighbors(Q),
            lambda e: e.kneighbors(Q[:9], e.n_samples_fit_),
            lambda e: e.kneighbors(),
            lambda e: e.kneighbors_codes(e.codes_[:40], 7),
            lambda e: e.radius_neighbors(Q),
            lambda e: e.radius_neighbors(),
            lambda e: [e.transform(Q).toarray()],
            lambda e: [e.radius_neighbors_graph(Q, mode="distance").toarray()],
        ):
            for actual, expected in zip(call(on_gpu), call(on_cpu), strict=True):
                assert actual.dtype == expected.dtype
                for row, expected_row in zip(actual, expected, strict=True):
                    assert_array_equal(row, expected_row)
        assert len(by_torch) == 8
        by_torch.clear()
        assert pickle.dumps(on_gpu) == before
        assert on_gpu.score(Q, y_queries) == on_cpu.score(Q, y_queries)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "meta", torch.device("meta")])
def test_a_device_that_is_not_there_is_refused_before_anything_is_done(digits, device):
    X, Q, _, _ = digits
    ours = DPQNeighbors(quantizer=FrozenEstimator(ProductQuantizer(M=4, K=16).fit(X))).fit(X)
    elsewhere = pickle.loads(pickle.dumps(ours)).set_params(device=device)
    before = pickle.dumps(elsewhere)
    for call in (
        lambda e: e.fit(X),
        lambda e: e.fit_codes(e.codes_),
        lambda e: e.kneighbors(Q),
        lambda e: e.radius_neighbors(),
        lambda e: e.kneighbors_codes(e.codes_),
    ):
        with pytest.raises(ValueError, match=f"Expected a device that torch can use here, got device='{device}'"):
            call(elsewhere)
        assert pickle.dumps(elsewhere) == before
    assert_array_equal(elsewhere.set_params(device="cpu").kneighbors(Q)[1], ours.kneighbors(Q)[1])


@pytest.mark.parametrize("device", ["auto", "cpu:0", torch.device("cpu")])
def test_any_name_of_the_cpu_and_auto_are_accepted(digits, device):
    X, Q, _, _ = digits
    ours = DPQNeighbors(quantizer=ProductQuantizer(M=4, K=16, random_state=0), device=device).fit(X)
    expected = clone(ours).set_params(device="cpu").fit(X).kneighbors(Q)
    for actual, part in zip(ours.kneighbors(Q), expected, strict=True):
        assert_array_equal(actual, part)


@pytest.mark.parametrize("device", [None, 0, np.float32])
def test_a_device_is_a_name_or_of_torch(digits, device):
    with pytest.raises(ValueError, match=r"'device' parameter .* 'str' or an instance of 'torch.device'"):
        DPQNeighbors(device=device).fit(digits[0])
